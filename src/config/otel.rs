//! What the standard OpenTelemetry configuration says: the `OTEL_*` variables, or the file that one of them names.
//!
//! Each value says who decided it; a signal's variable beats the generic one, option by option. What is junk in a
//! variable is warned of and counts as unset, as the specification demands; only an endpoint that leads nowhere, and files
//! of TLS that cannot be used, stop the start: falling back to `localhost` would hide them. Of a signal that is not made,
//! neither does. With `OTEL_CONFIG_FILE` the file alone counts, and anything wrong in it stops the start.
//!
//! Metrics and log records are not made yet; what is said about them is read and checked like the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::env::{EnvSource, Origin, Setting, Variables, Warning, parse_attributes};
use crate::config::provenance::{Problem, Source};
use crate::diagnostics::LogLevel;
use crate::engine::sampler::{Exceptions, Ratio, Sampler, SamplerSettings};
use crate::engine::settings::{ExceptionSignal, Propagators};
use crate::exporter::batch::{BatchSettings, DEFAULT_MAX_BATCH_BYTES};
use crate::exporter::queue::QueueSettings;
use crate::exporter::resource::{DEFAULT_SERVICE_NAME, ResourceSettings};
use crate::exporter::settings::{Destination, ExporterSettings};
use crate::exporter::signal::Signal;
use crate::exporter::tls::{PeerTls, TlsError};

mod declarative;
mod endpoint;
mod general;
mod headers;
mod hints;
mod idle;
mod names;
mod signal;
pub mod table;

pub use general::{LimitVariables, MetricVariables, Temporality};
pub use signal::{BatchVariables, Exporter, OtlpVariables, SignalSettings};

const CONFIG_FILE: &str = "OTEL_CONFIG_FILE";
const OLD_CONFIG_FILE: &str = "OTEL_EXPERIMENTAL_CONFIG_FILE";
const SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// Stands for a time-out of 0, which means none.
const NO_TIMEOUT: Duration = Duration::from_secs(3600);

/// What the standard configuration says.
#[derive(Debug, Clone)]
pub struct OtelSettings {
    /// The file that says all of it, if any: `OTEL_CONFIG_FILE`.
    pub config_file: Setting<Option<String>>,
    /// `OTEL_SDK_DISABLED`.
    pub sdk_disabled: Setting<bool>,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Setting<Option<String>>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource_attributes: Setting<Vec<(String, String)>>,
    /// `OTEL_LOG_LEVEL`.
    pub log_level: Setting<LogLevel>,
    /// `OTEL_PROPAGATORS`.
    pub propagators: Setting<Propagators>,
    /// `OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`.
    pub exception_signal: Setting<ExceptionSignal>,
    /// `OTEL_TRACES_SAMPLER`.
    pub sampler: Setting<SamplerSettings>,
    /// `OTEL_TRACES_SAMPLER_ARG`.
    pub sampler_ratio: Setting<Ratio>,
    /// `OTEL_*_LIMIT`.
    pub limits: LimitVariables,
    /// Spans.
    pub traces: SignalSettings,
    /// Metrics.
    pub metrics: SignalSettings,
    /// Log records.
    pub logs: SignalSettings,
    /// How metrics are made.
    pub metric_options: MetricVariables,
    /// What is wrong, or has no effect.
    pub warnings: Vec<Warning>,
}

/// A variable that stops the start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?}: {reason}")]
pub struct OtelError {
    /// The variable.
    pub variable: &'static str,
    /// Its value, a password in it masked.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One line of `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveValue {
    /// The variable; the signal's where there are two.
    pub variable: &'static str,
    /// What counts, if anything.
    pub value: Option<String>,
    /// Who decided it.
    pub origin: Origin,
}

// === impl OtelSettings ===

impl Default for OtelSettings {
    /// What counts where nothing is set.
    fn default() -> Self {
        Self::from_env(&BTreeMap::new(), &[]).expect("defaults lead somewhere")
    }
}

impl OtelSettings {
    /// Reads the file that a variable names, else the variables. `own` are the signals that the bridge makes of itself.
    ///
    /// # Errors
    /// All that stops the start.
    pub fn load(env: &(impl EnvSource + ?Sized), own: &[Signal]) -> Result<Self, Vec<Problem>> {
        let mut variables = Variables::new(env);
        let path = |text: &str| Ok(Some(text.to_owned()));
        let file = variables.first_or(&[CONFIG_FILE, OLD_CONFIG_FILE], None, path);
        if let (Some(path), Origin::Variable(variable)) = (&file.value, file.origin) {
            if variable == OLD_CONFIG_FILE {
                variables.warn(variable, path, &format!("the old name of {CONFIG_FILE}"));
            }
            let warnings = variables.warnings;
            return declarative::load(path, variable, env).map(|settings| Self {
                warnings: [warnings, settings.warnings].concat(),
                config_file: file,
                ..settings
            });
        }
        Self::from_env(env, own).map_err(|errors| {
            let problem = |error: OtelError| Problem {
                source: Source::Variable(error.variable),
                key: None,
                message: format!("`{}`: {}", error.value.escape_debug(), error.reason),
            };
            errors.into_iter().map(problem).collect()
        })
    }

    /// Reads the variables. `own` are the signals that the bridge makes of itself.
    ///
    /// # Errors
    /// If something that is made is to go to an OTLP peer, and its endpoint leads nowhere, or a client certificate lacks its other half.
    pub fn from_env(env: &(impl EnvSource + ?Sized), own: &[Signal]) -> Result<Self, Vec<OtelError>> {
        let mut variables = Variables::new(env);
        let mut errors = Vec::new();
        let sdk_disabled = variables.boolean(&[SDK_DISABLED]);
        let (sampler, sampler_ratio) = general::read_sampler(&mut variables);
        let disabled = sdk_disabled.value;
        // Of workers' signals only traces are made.
        let is_made = |signal: Signal| signal == Signal::Traces || own.contains(&signal);
        let mut signal = |variables: &mut Variables<'_, _>, signal| {
            SignalSettings::read(variables, signal, disabled, is_made(signal), &mut errors)
        };
        let settings = Self {
            config_file: Setting::default(None),
            sdk_disabled,
            service_name: variables.first_or(&[SERVICE_NAME], None, |text| Ok(Some(text.to_owned()))),
            resource_attributes: variables.first_or(&[RESOURCE_ATTRIBUTES], Vec::new(), parse_attributes),
            log_level: general::read_log_level(&mut variables),
            propagators: general::read_propagators(&mut variables),
            exception_signal: general::read_exception_signal(&mut variables),
            sampler,
            sampler_ratio,
            limits: LimitVariables::read(&mut variables),
            traces: signal(&mut variables, Signal::Traces),
            metrics: signal(&mut variables, Signal::Metrics),
            logs: signal(&mut variables, Signal::Logs),
            metric_options: MetricVariables::read(&mut variables),
            warnings: Vec::new(),
        };
        // A generic variable is wrong for every signal, and is named once.
        let mut distinct: Vec<OtelError> = Vec::new();
        for error in errors {
            if !distinct.contains(&error) {
                distinct.push(error);
            }
        }
        if !distinct.is_empty() {
            return Err(distinct);
        }
        idle::log_level(&mut variables);
        if disabled {
            idle::under_disabled(&mut variables);
        } else {
            let made: Vec<_> = Signal::ALL
                .into_iter()
                .filter(|signal| is_made(*signal))
                .map(|one| settings.signal(one))
                .collect();
            idle::beside_exporters(&mut variables, &made);
        }
        hints::about_effects(env, &mut variables, disabled, is_made);
        Ok(Self { warnings: variables.warnings, ..settings })
    }

    /// What is said about a signal.
    #[must_use]
    pub const fn signal(&self, signal: Signal) -> &SignalSettings {
        match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        }
    }

    /// Where each signal goes.
    #[must_use]
    pub fn destinations(&self) -> Vec<(Signal, Destination)> {
        Signal::ALL.into_iter().map(|signal| (signal, self.destination(signal))).collect()
    }

    fn destination(&self, signal: Signal) -> Destination {
        let settings = self.signal(signal);
        if self.sdk_disabled.value {
            return Destination::None;
        }
        match &settings.exporter.value {
            Exporter::Otlp => Destination::Otlp(settings.otlp.settings(signal)),
            Exporter::Console => Destination::Console,
            Exporter::File(target) => Destination::File(target.clone()),
            Exporter::None => Destination::None,
        }
    }

    /// What makes the files of TLS towards the peer of traces useless, if anything, and who named them.
    #[must_use]
    pub fn broken_tls(&self) -> Option<(Origin, TlsError)> {
        let Destination::Otlp(peer) = self.destination(Signal::Traces) else { return None };
        if !peer.endpoint.starts_with("https:") {
            return None;
        }
        let error = PeerTls::new(&peer.tls, &[]).err()?;
        let otlp = &self.traces.otlp;
        let files = [&otlp.certificate, &otlp.client_certificate, &otlp.client_key];
        // Where the machine's roots are missing, nobody named a file; the endpoint asks for them.
        let named = error.path().and_then(|path| {
            files.into_iter().find(|file| file.value.as_deref() == Some(path)).map(|file| file.origin)
        });
        Some((named.unwrap_or(otlp.endpoint.origin), error))
    }

    /// What the exporter of a signal is told. `same_host` is `workers.same_host`; `seed` makes the backoff's jitter.
    #[must_use]
    pub fn exporter_settings(&self, signal: Signal, same_host: bool, seed: u64) -> ExporterSettings {
        let SignalSettings { otlp, batches, .. } = self.signal(signal);
        let limit = |timeout: Duration| if timeout.is_zero() { NO_TIMEOUT } else { timeout };
        ExporterSettings {
            batch: BatchSettings {
                max_spans: batches.max_export_batch_size.value,
                max_bytes: DEFAULT_MAX_BATCH_BYTES,
                delay: batches.schedule_delay.value,
            },
            queue: QueueSettings { max_spans: batches.max_queue_size.value, ..QueueSettings::default() },
            request_timeout: limit(otlp.timeout.value).min(limit(batches.export_timeout.value)),
            resource: ResourceSettings {
                service_name: self.service_name.value.clone(),
                attributes: self.resource_attributes.value.clone(),
                same_host,
            },
            seed,
            ..ExporterSettings::new(self.destination(signal))
        }
    }

    /// What decides which finished spans are kept.
    #[must_use]
    pub fn sampler(&self, exceptions: Exceptions) -> Sampler {
        Sampler::new(self.sampler.value.clone(), exceptions).with_max_attributes(self.limits.span_count.value)
    }

    /// Every value that counts, with who decided it, in the order of the table. Secrets are masked.
    #[must_use]
    pub fn effective(&self) -> Vec<EffectiveValue> {
        let attributes = |attributes: &Vec<(String, String)>| {
            let pairs: Vec<_> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            pairs.join(",")
        };
        let mut values = vec![
            effective(CONFIG_FILE, &self.config_file, |path| path.clone().unwrap_or_default()),
            effective(SDK_DISABLED, &self.sdk_disabled, ToString::to_string),
            effective(SERVICE_NAME, &self.service_name, |name| {
                name.as_deref().unwrap_or(DEFAULT_SERVICE_NAME).to_owned()
            }),
            effective(RESOURCE_ATTRIBUTES, &self.resource_attributes, attributes),
            effective(general::LOG_LEVEL, &self.log_level, |level| level.as_str().to_owned()),
            effective(general::PROPAGATORS, &self.propagators, general::shown_propagators),
            effective(general::SAMPLER, &self.sampler, general::shown_sampler),
            effective(general::SAMPLER_ARG, &self.sampler_ratio, |ratio| ratio.value().to_string()),
            effective(general::EXCEPTION_SIGNAL, &self.exception_signal, general::shown_exception_signal),
        ];
        values.extend(self.limits.effective());
        for signal in Signal::ALL {
            values.extend(self.signal(signal).effective());
        }
        values.extend(self.metric_options.effective());
        values.sort_by_key(|value| table::position(value.variable));
        values
    }
}

fn effective<T>(variable: &'static str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> EffectiveValue {
    let value = Some(show(&setting.value)).filter(|value| !value.is_empty());
    EffectiveValue { variable, value, origin: setting.origin }
}

#[cfg(test)]
mod tests;
