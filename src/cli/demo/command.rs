//! The `demo` command: starts a bridge, plays on it, shuts it down.

use std::error::Error as _;
use std::ffi::OsString;
use std::io::stdout;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, RunError};
use crate::cli::demo::setup::{prepare, style};
use crate::cli::demo::{Bridge, Clock, DemoOptions, SCHEDULE_DELAY, Style, perform};
use crate::cli::{Console, DemoArgs, Exit};
use crate::config::env::{EnvSource, non_empty};
use crate::config::otel::Exporter;
use crate::config::{Config, misspelt_variables};
use crate::diagnostics;
use crate::exporter::settings::FileTarget;

/// Turns of a shard whose spans, metrics and log records may wait to be shown.
const TAP_CAPACITY: usize = 256;

/// The environment, with what suits a demo where it says nothing.
struct DemoEnv<'a, E> {
    env: &'a E,
}

impl<E: EnvSource> EnvSource for DemoEnv<'_, E> {
    fn value(&self, name: &str) -> Option<OsString> {
        let is_said = |name: &str| non_empty(self.env, name).is_some();
        let is_sent = |own: &str| is_said("OTEL_EXPORTER_OTLP_ENDPOINT") || is_said(own);
        // Most who try a demo have no Collector.
        let unless_sent = |own: &str| {
            (!is_said(name) && !is_sent(own)).then(|| OsString::from("none")).or_else(|| self.env.value(name))
        };
        match name {
            "OTEL_TRACES_EXPORTER" => unless_sent("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
            "OTEL_METRICS_EXPORTER" => unless_sent("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
            "OTEL_LOGS_EXPORTER" => unless_sent("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
            "OTEL_BSP_SCHEDULE_DELAY"
                if !is_said(name)
                    && self.value("OTEL_TRACES_EXPORTER").is_none_or(|value| value != "none") =>
            {
                Some(OsString::from(SCHEDULE_DELAY.as_millis().to_string()))
            }
            // On a terminal the log would lie between the traces.
            "OTEL_LOG_LEVEL" if !is_said(name) => Some(OsString::from("warn")),
            _ => self.env.value(name),
        }
    }

    fn names(&self) -> Vec<String> {
        self.env.names()
    }
}

/// Runs the demo to its end.
pub(in crate::cli) fn run(
    args: &DemoArgs,
    env: &impl EnvSource,
    own_variables: &[String],
    console: &mut Console<'_>,
) -> Exit {
    let env = DemoEnv { env };
    let mut config = match Config::load(&args.flags, &env, console.terminal) {
        Ok(config) => config,
        Err(error) => return console.refuse(&error),
    };
    prepare(&mut config);
    let _diagnostics = match diagnostics::start(config.log_format, config.otel.log_level.value, &env, None) {
        Ok(diagnostics) => diagnostics,
        Err(error) => {
            console.complain(format_args!("error: failed to {error}"));
            return Exit::Internal;
        }
    };
    for warning in config.warnings.iter().chain(&misspelt_variables(own_variables)) {
        tracing::warn!("{warning}");
    }
    let length = (!args.forever).then(|| Duration::from_secs(args.seconds));
    let runtime = match app::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            console.complain(format_args!("error: {error}"));
            return Exit::from(&error);
        }
    };
    let ended = runtime.block_on(demonstrate(config, length, style(&env)));
    runtime.shutdown_background();
    match ended {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            console.complain(format_args!("error: {error}{cause}"));
            Exit::from(&error)
        }
    }
}

async fn demonstrate(config: Config, length: Option<Duration>, style: Style) -> Result<(), RunError> {
    let broken = |error: std::io::Error| RunError::Internal(format!("failed to listen to signals: {error}"));
    let terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let exports_to = exports_to(&config);
    let (tap, made) = mpsc::channel(TAP_CAPACITY);
    let mut app = App::start(config, Some(tap)).await?;
    app::announce(&app)?;

    let bridge = Bridge { grpc: app.grpc_addr, admin: app.admin_addr };
    let clock: Clock = Arc::new(app::start_clock());
    let stop = CancellationToken::new();
    let options = DemoOptions { length, exports_to, style, clock, stop: stop.clone() };
    let mut out = stdout();
    let played = tokio::select! {
        played = perform(bridge, made, options, &mut out) => {
            played.map_err(|error| RunError::Internal(format!("{error:#}")))
        }
        broken = app.broken() => Err(RunError::Internal(format!("{broken}, which it should not"))),
        () = stopped(terminate, interrupt, stop) => {
            Err(RunError::Internal("a second signal ended the demo".to_owned()))
        }
    };
    let ledger = app.shutdown().await;
    tracing::info!(ledger = %ledger.to_json(), "the bridge has shut down");
    played
}

/// Ends the play at the first signal, and returns at the second.
async fn stopped(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    for _ in 0..2 {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.is_cancelled() {
            return;
        }
        stop.cancel();
    }
}

/// Where spans are exported to, in words.
fn exports_to(config: &Config) -> Option<String> {
    let otel = &config.otel;
    match &otel.traces.exporter.value {
        Exporter::None => None,
        Exporter::Otlp | Exporter::Console | Exporter::File(_) if otel.sdk_disabled.value => None,
        Exporter::Otlp => Some(otel.traces.otlp.endpoint.value.clone()),
        Exporter::Console | Exporter::File(FileTarget::Stdout) => Some("standard output".to_owned()),
        Exporter::File(FileTarget::Path(path)) => Some(path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::flags::Flags;

    fn config(variables: &[(&str, &str)]) -> Config {
        let env: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(&Flags::default(), &DemoEnv { env: &env }, false).unwrap()
    }

    #[test]
    fn a_demo_exports_only_where_it_is_told_to() {
        assert_eq!(exports_to(&config(&[])), None);
        let generic = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")]);
        assert_eq!(exports_to(&generic).as_deref(), Some("http://collector:4318/v1/traces"));
        let asked = config(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(exports_to(&asked).as_deref(), Some("http://localhost:4318/v1/traces"));
        let console = config(&[("OTEL_TRACES_EXPORTER", "console")]);
        assert_eq!(exports_to(&console).as_deref(), Some("standard output"));
        let off = [("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")];
        assert_eq!(exports_to(&config(&off)), None);
    }

    #[test]
    fn a_demos_batches_leave_early_unless_somebody_says_otherwise() {
        let exported = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")]);
        assert_eq!(exported.otel.traces.batches.schedule_delay.value, SCHEDULE_DELAY);
        let slow = config(&[("OTEL_BSP_SCHEDULE_DELAY", "5000")]);
        assert_eq!(slow.otel.traces.batches.schedule_delay.value, Duration::from_secs(5));
    }
}
