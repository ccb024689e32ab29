//! `check --connect`: what each OTLP endpoint says to a request with nothing in it.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::start_clock;
use crate::config::otel::OtelSettings;
use crate::exporter::Destination;
use crate::exporter::settings::OtlpSettings;
use crate::exporter::trial::{Answer, Trial};

/// What came of all endpoints.
pub(super) struct Trials(Vec<(OtlpSettings, Trial)>);

impl Trials {
    /// Tries every endpoint, one after the other.
    ///
    /// # Errors
    /// If the machine does not let the program start a runtime.
    pub(super) fn run(otel: &OtelSettings) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let trials = runtime.block_on(async {
            let clock = start_clock();
            let mut trials = Vec::new();
            for (_, destination) in otel.destinations() {
                let Destination::Otlp(settings) = destination else { continue };
                let trial = Trial::run(&settings, &clock).await;
                trials.push((settings, trial));
            }
            trials
        });
        // A name server that does not answer holds nothing up.
        runtime.shutdown_background();
        Ok(Self(trials))
    }

    /// Whether everything would arrive.
    pub(super) fn are_well(&self) -> bool {
        self.0.iter().all(|(_, trial)| trial.is_well())
    }

    /// A paragraph for each endpoint.
    pub(super) fn as_text(&self) -> String {
        if self.0.is_empty() {
            return "no signal goes to an OTLP endpoint: there is nothing to try".to_owned();
        }
        let paragraphs: Vec<String> =
            self.0.iter().map(|(settings, trial)| paragraph(settings, trial)).collect();
        paragraphs.join("\n\n")
    }

    /// An object for each endpoint.
    pub(super) fn as_json(&self) -> Value {
        self.0.iter().map(|(settings, trial)| object(settings, trial)).collect()
    }
}

fn paragraph(settings: &OtlpSettings, trial: &Trial) -> String {
    let OtlpSettings { signal, endpoint, protocol, endpoint_origin, .. } = settings;
    let mut text = format!("{signal} to {endpoint} ({protocol}, {endpoint_origin})");
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {name:9}  {value}");
    };
    if !trial.addresses.is_empty() {
        let addresses: Vec<_> = trial.addresses.iter().map(|address| address.ip().to_string()).collect();
        line("DNS", &addresses.join(", "));
    }
    if let Some((address, took)) = &trial.connected {
        line("TCP", &format!("{address} in {}", millis(*took)));
    }
    if let Some(tls) = &trial.tls {
        line("TLS", &format!("{}, trusting {}", tls.version, tls.trusts));
        line("peer", &format!("{}, issued by {}, valid until {}", tls.subject, tls.issuer, tls.expires));
    }
    if let Some(trouble) = &trial.trouble {
        line(trouble.step.as_str(), &format!("failed: {}", trouble.error));
    }
    match &trial.answer {
        Some((Answer::Taken(remark), took)) if remark.is_empty() => {
            line("answer", &format!("taken in {}", millis(*took)));
        }
        Some((Answer::Taken(remark), took)) => {
            line("answer", &format!("taken in {}: {remark}", millis(*took)));
        }
        Some((Answer::Failed(error), _)) => line("answer", &format!("failed: {error}")),
        None => {}
    }
    for hint in &trial.hints {
        line("hint", hint);
    }
    text
}

fn object(settings: &OtlpSettings, trial: &Trial) -> Value {
    let answer = trial.answer.as_ref().map(|(answer, took)| {
        let (is_taken, message) = match answer {
            Answer::Taken(remark) => (true, remark),
            Answer::Failed(error) => (false, error),
        };
        json!({"taken": is_taken, "message": message, "duration_ns": nanos(*took)})
    });
    json!({
        "signal": settings.signal.as_str(),
        "endpoint": settings.endpoint,
        "protocol": settings.protocol.as_str(),
        "source": settings.endpoint_origin,
        "ok": trial.is_well(),
        "addresses": trial.addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>(),
        "connected": trial.connected.map(|(address, took)| {
            json!({"address": address.to_string(), "duration_ns": nanos(took)})
        }),
        "tls": trial.tls.as_ref().map(|tls| {
            json!({
                "version": tls.version,
                "trusts": tls.trusts,
                "subject": tls.subject,
                "issuer": tls.issuer,
                "expires": tls.expires,
            })
        }),
        "trouble": trial.trouble.as_ref().map(|trouble| {
            json!({"step": trouble.step.as_str(), "error": trouble.error})
        }),
        "answer": answer,
        "hints": trial.hints,
    })
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
