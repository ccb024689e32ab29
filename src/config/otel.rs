//! The `OTEL_*` variables that decide about the export of traces.
//!
//! Each value says who decided it; a signal's variable beats the generic one, option by option. What is junk is warned of
//! and counts as unset, as the specification demands; only an endpoint that leads nowhere, and a protocol that is not
//! built, stop the start: falling back to `localhost` would hide them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::env::{
    EnvSource, MASKED, Origin, Setting, Variables, Warning, parse_attributes, parse_choice, parse_millis,
    parse_number,
};
use crate::config::otel::endpoint::{default_endpoint, read_endpoint};
use crate::exporter::batch::{
    BatchSettings, DEFAULT_MAX_BATCH_BYTES, DEFAULT_MAX_BATCH_SPANS, DEFAULT_SCHEDULE_DELAY,
};
use crate::exporter::queue::QueueSettings;
use crate::exporter::resource::{DEFAULT_SERVICE_NAME, ResourceSettings};
use crate::exporter::settings::{
    ClientFiles, Compression, DEFAULT_REQUEST_TIMEOUT, Destination, ExporterSettings, OtlpSettings, Protocol,
    SecretHeaders, TlsFiles,
};
use crate::exporter::signal::Signal;

mod endpoint;

const SDK_DISABLED: &str = "OTEL_SDK_DISABLED";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const INSECURE: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const COMPRESSION: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const TIMEOUT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const SCHEDULE_DELAY: &str = "OTEL_BSP_SCHEDULE_DELAY";
const EXPORT_TIMEOUT: &str = "OTEL_BSP_EXPORT_TIMEOUT";
const MAX_QUEUE_SIZE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
const MAX_EXPORT_BATCH_SIZE: &str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";

/// The specification's default of `OTEL_BSP_EXPORT_TIMEOUT`.
const DEFAULT_EXPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Stands for a time-out of 0, which means none.
const NO_TIMEOUT: Duration = Duration::from_secs(3600);
/// A shorter time-out was most likely meant in seconds, as Python reads the variable.
const SUSPICIOUS_TIMEOUT: Duration = Duration::from_millis(100);

/// Where finished traces go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracesExporter {
    /// To an OTLP peer.
    Otlp,
    /// To standard output.
    Console,
    /// Nowhere.
    None,
}

/// What the `OTEL_*` variables say.
#[derive(Debug, Clone)]
pub struct OtelSettings {
    /// `OTEL_SDK_DISABLED`.
    pub sdk_disabled: Setting<bool>,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Setting<Option<String>>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource_attributes: Setting<Vec<(String, String)>>,
    /// `OTEL_TRACES_EXPORTER`.
    pub traces_exporter: Setting<TracesExporter>,
    /// `OTEL_EXPORTER_OTLP_*`, for traces.
    pub otlp: OtlpVariables,
    /// `OTEL_BSP_*`.
    pub batches: BatchVariables,
    /// What is wrong with the variables.
    pub warnings: Vec<Warning>,
}

/// `OTEL_EXPORTER_OTLP_*`, for traces.
#[derive(Debug, Clone)]
pub struct OtlpVariables {
    /// The protocol.
    pub protocol: Setting<Protocol>,
    /// With what the specification appends.
    pub endpoint: Setting<String>,
    /// Their values are secrets.
    pub headers: Setting<SecretHeaders>,
    /// Of requests.
    pub compression: Setting<Compression>,
    /// The limit of one request.
    pub timeout: Setting<Duration>,
    /// Of `https` endpoints.
    pub tls: TlsFiles,
}

/// `OTEL_BSP_*`.
#[derive(Debug, Clone)]
pub struct BatchVariables {
    /// The longest that a span waits for others.
    pub schedule_delay: Setting<Duration>,
    /// The limit of one export.
    pub export_timeout: Setting<Duration>,
    /// Spans that may wait. The specification's default, 2048, is meant for one process; where nobody sets it, the
    /// bytes alone are bounded.
    pub max_queue_size: Setting<Option<u64>>,
    /// Spans a request.
    pub max_export_batch_size: Setting<u64>,
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
    /// The variable, generic where there are two.
    pub variable: &'static str,
    /// What counts, if anything.
    pub value: Option<String>,
    /// Who decided it.
    pub origin: Origin,
}

// === impl OtelSettings ===

impl Default for OtelSettings {
    /// What counts where no variable is set.
    fn default() -> Self {
        Self::from_env(&BTreeMap::new()).expect("defaults lead somewhere")
    }
}

impl OtelSettings {
    /// Reads the variables.
    ///
    /// # Errors
    /// If spans are to go to an OTLP peer, and the endpoint leads nowhere or the protocol is not built: both, where both
    /// are so.
    pub fn from_env(env: &(impl EnvSource + ?Sized)) -> Result<Self, Vec<OtelError>> {
        let mut variables = Variables::new(env);
        let sdk_disabled = variables.boolean(&[SDK_DISABLED]);
        let service_name = variables.first_or(&[SERVICE_NAME], None, |text| Ok(Some(text.to_owned())));
        let resource_attributes = variables.first_or(&[RESOURCE_ATTRIBUTES], Vec::new(), parse_attributes);
        let traces_exporter = read_traces_exporter(&mut variables);
        let sends = traces_exporter.value == TracesExporter::Otlp && !sdk_disabled.value;
        let otlp = OtlpVariables::read(&mut variables, sends)?;
        let batches = BatchVariables::read(&mut variables);
        Ok(Self {
            sdk_disabled,
            service_name,
            resource_attributes,
            traces_exporter,
            otlp,
            batches,
            warnings: variables.warnings,
        })
    }

    /// What the exporter is told. `same_host` is `workers.same_host`; `seed` makes the backoff's jitter.
    #[must_use]
    pub fn exporter_settings(&self, same_host: bool, seed: u64) -> ExporterSettings {
        let exporter =
            if self.sdk_disabled.value { TracesExporter::None } else { self.traces_exporter.value };
        let destination = match exporter {
            TracesExporter::Otlp => Destination::Otlp(self.otlp.settings()),
            TracesExporter::Console => Destination::Console,
            TracesExporter::None => Destination::None,
        };
        let delay = match (exporter, self.batches.schedule_delay.origin) {
            // By the specification a console goes with a processor that does not batch.
            (TracesExporter::Console, Origin::Default) => Duration::ZERO,
            _ => self.batches.schedule_delay.value,
        };
        let limit = |timeout: Duration| if timeout.is_zero() { NO_TIMEOUT } else { timeout };
        ExporterSettings {
            batch: BatchSettings {
                max_spans: self.batches.max_export_batch_size.value,
                max_bytes: DEFAULT_MAX_BATCH_BYTES,
                delay,
            },
            queue: QueueSettings { max_spans: self.batches.max_queue_size.value, ..QueueSettings::default() },
            request_timeout: limit(self.otlp.timeout.value).min(limit(self.batches.export_timeout.value)),
            resource: ResourceSettings {
                service_name: self.service_name.value.clone(),
                attributes: self.resource_attributes.value.clone(),
                same_host,
            },
            seed,
            ..ExporterSettings::new(destination)
        }
    }

    /// Every value that counts, with who decided it. Secrets are masked.
    #[must_use]
    pub fn effective(&self) -> Vec<EffectiveValue> {
        let attributes: Vec<_> =
            self.resource_attributes.value.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let millis = |wait: Duration| format!("{} ms", wait.as_millis());
        let (otlp, batches) = (&self.otlp, &self.batches);
        let service_name = self.service_name.value.as_deref().unwrap_or(DEFAULT_SERVICE_NAME);
        let queue_size =
            batches.max_queue_size.value.map_or("bounded by bytes".to_owned(), |size| size.to_string());
        vec![
            effective(SDK_DISABLED, &self.sdk_disabled, |value| value.to_string()),
            effective(SERVICE_NAME, &self.service_name, |_| service_name.to_owned()),
            effective(RESOURCE_ATTRIBUTES, &self.resource_attributes, |_| attributes.join(",")),
            effective(TRACES_EXPORTER, &self.traces_exporter, ToString::to_string),
            effective(PROTOCOL[1], &otlp.protocol, ToString::to_string),
            effective(ENDPOINT, &otlp.endpoint, Clone::clone),
            effective(HEADERS[1], &otlp.headers, ToString::to_string),
            effective(COMPRESSION[1], &otlp.compression, ToString::to_string),
            effective(TIMEOUT[1], &otlp.timeout, |value| millis(*value)),
            effective(SCHEDULE_DELAY, &batches.schedule_delay, |value| millis(*value)),
            effective(EXPORT_TIMEOUT, &batches.export_timeout, |value| millis(*value)),
            effective(MAX_QUEUE_SIZE, &batches.max_queue_size, |_| queue_size.clone()),
            effective(MAX_EXPORT_BATCH_SIZE, &batches.max_export_batch_size, ToString::to_string),
        ]
    }
}

fn effective<T>(variable: &'static str, setting: &Setting<T>, show: impl Fn(&T) -> String) -> EffectiveValue {
    let value = Some(show(&setting.value)).filter(|value| !value.is_empty());
    EffectiveValue { variable, value, origin: setting.origin }
}

impl OtlpVariables {
    fn read<E: EnvSource + ?Sized>(
        variables: &mut Variables<'_, E>,
        sends: bool,
    ) -> Result<Self, Vec<OtelError>> {
        let mut errors = Vec::new();
        let protocol = match read_protocol(variables) {
            Ok(protocol) => protocol,
            Err(error) => {
                if sends {
                    errors.push(error);
                } else {
                    variables.warn(error.variable, &error.value, &format!("{}; ignored", error.reason));
                }
                Setting::default(Protocol::HttpProtobuf)
            }
        };
        let endpoint = match read_endpoint(variables, protocol.value) {
            Ok(endpoint) => endpoint,
            Err(error) if sends => {
                errors.push(error);
                Setting::default(default_endpoint(protocol.value).to_owned())
            }
            Err(error) => {
                variables.warn(error.variable, &error.value, &format!("{}; ignored", error.reason));
                Setting::default(default_endpoint(protocol.value).to_owned())
            }
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let timeout = variables.first_or(&TIMEOUT, DEFAULT_REQUEST_TIMEOUT, parse_millis);
        if let Origin::Variable(name) = timeout.origin
            && !timeout.value.is_zero()
            && timeout.value < SUSPICIOUS_TIMEOUT
        {
            let millis = timeout.value.as_millis();
            variables.warn(name, &millis.to_string(), "this is milliseconds; were seconds meant?");
        }
        Ok(Self {
            protocol,
            endpoint,
            headers: read_headers(variables),
            compression: variables.first_or(&COMPRESSION, Compression::None, |text| {
                parse_choice(
                    text,
                    &[("gzip", Compression::Gzip), ("none", Compression::None), ("zstd", Compression::Zstd)],
                )
            }),
            timeout,
            tls: read_tls(variables),
        })
    }

    fn settings(&self) -> OtlpSettings {
        OtlpSettings {
            signal: Signal::Traces,
            tls: self.tls.clone(),
            protocol: self.protocol.value,
            endpoint: self.endpoint.value.clone(),
            endpoint_origin: match self.endpoint.origin {
                Origin::Default => format!("the default; {ENDPOINT} changes it"),
                Origin::Variable(name) => format!("by {name}"),
            },
            headers: self.headers.value.clone(),
            compression: self.compression.value,
        }
    }
}

impl BatchVariables {
    fn read<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) -> Self {
        let at_least_one = |text: &str| parse_number(text, 1).map(u64::from);
        let max_queue_size = variables.first_or(&[MAX_QUEUE_SIZE], None, |text| at_least_one(text).map(Some));
        let mut max_export_batch_size =
            variables.first_or(&[MAX_EXPORT_BATCH_SIZE], DEFAULT_MAX_BATCH_SPANS, at_least_one);
        if let Some(queue) = max_queue_size.value
            && max_export_batch_size.value > queue
        {
            variables.warn(
                MAX_EXPORT_BATCH_SIZE,
                &max_export_batch_size.value.to_string(),
                &format!("larger than {MAX_QUEUE_SIZE}, {queue}; lowered to it"),
            );
            max_export_batch_size.value = queue;
        }
        Self {
            schedule_delay: variables.first_or(&[SCHEDULE_DELAY], DEFAULT_SCHEDULE_DELAY, parse_millis),
            export_timeout: variables.first_or(&[EXPORT_TIMEOUT], DEFAULT_EXPORT_TIMEOUT, parse_millis),
            max_queue_size,
            max_export_batch_size,
        }
    }
}

impl fmt::Display for TracesExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Otlp => "otlp",
            Self::Console => "console",
            Self::None => "none",
        })
    }
}

// === One variable each ===

fn read_tls<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) -> TlsFiles {
    let mut path = |signal: &'static str, generic: &'static str| {
        variables.first_or(&[signal, generic], None, |text| Ok(Some(PathBuf::from(text)))).value
    };
    let ca = path("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE");
    let certificate =
        path("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE");
    let key = path("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY");
    let client = certificate.zip(key).map(|(certificate, key)| ClientFiles { certificate, key });
    TlsFiles { ca, client }
}

/// The specification allows a list here. One exporter is built at a time: the first that is known counts.
fn read_traces_exporter<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) -> Setting<TracesExporter> {
    const CHOICES: [(&str, TracesExporter); 3] = [
        ("otlp", TracesExporter::Otlp),
        ("console", TracesExporter::Console),
        ("none", TracesExporter::None),
    ];
    let default = Setting::default(TracesExporter::Otlp);
    let Some(text) = variables.text(TRACES_EXPORTER) else { return default };
    let mut known = Vec::new();
    for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        match parse_choice(element, &CHOICES) {
            Ok(exporter) => known.push(exporter),
            Err(problem) if element == text => {
                variables.warn(TRACES_EXPORTER, &text, &format!("{problem}; ignored"));
            }
            Err(problem) => variables.warn(TRACES_EXPORTER, &text, &format!("{element}: {problem}; ignored")),
        }
    }
    if known.len() > 1 && known.contains(&TracesExporter::None) {
        variables.warn(TRACES_EXPORTER, &text, "`none` beside others is ignored");
        known.retain(|exporter| *exporter != TracesExporter::None);
    }
    known.dedup();
    let Some(first) = known.first().copied() else { return default };
    if known.len() > 1 {
        variables.warn(TRACES_EXPORTER, &text, &format!("one exporter is supported; {first} is used"));
    }
    Setting { value: first, origin: Origin::Variable(TRACES_EXPORTER) }
}

fn read_protocol<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
) -> Result<Setting<Protocol>, OtelError> {
    const CHOICES: [(&str, Option<Protocol>); 3] = [
        ("grpc", Some(Protocol::Grpc)),
        ("http/protobuf", Some(Protocol::HttpProtobuf)),
        ("http/json", Some(Protocol::HttpJson)),
    ];
    let choice = variables.first(&PROTOCOL, |text| parse_choice(text, &CHOICES));
    let Some(Setting { value, origin }) = choice else {
        return Ok(Setting::default(Protocol::HttpProtobuf));
    };
    match (value, origin) {
        (Some(value), origin) => Ok(Setting { value, origin }),
        (None, Origin::Variable(variable)) => Err(OtelError {
            variable,
            value: "http/json".to_owned(),
            reason: "this protocol is not supported; grpc and http/protobuf are".to_owned(),
        }),
        (None, Origin::Default) => Ok(Setting::default(Protocol::HttpProtobuf)),
    }
}

/// A comma separated list of `name=value`. Only values are percent-decoded; a value may hold `=` and blanks. What is no
/// header, or would replace what the exporter itself must say, is left out.
fn read_headers<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) -> Setting<SecretHeaders> {
    let mut headers = SecretHeaders::default();
    let set = HEADERS.iter().find_map(|name| Some((*name, variables.text(name)?)));
    let Some((variable, text)) = set else { return Setting::default(headers) };
    for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        match parse_header(element) {
            Ok((name, value)) => headers.insert(name, value),
            Err(problem) => variables.warn(variable, MASKED, &format!("{problem}; left out")),
        }
    }
    Setting { value: headers, origin: Origin::Variable(variable) }
}

fn parse_header(element: &str) -> Result<(HeaderName, HeaderValue), String> {
    const RESERVED: [&str; 11] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    ];
    // An element without `=` may be a secret that lost its name, so it is not repeated.
    let (name, value) = element.split_once('=').ok_or("an element is not name=value")?;
    let name = name.trim();
    let header =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?;
    if RESERVED.contains(&header.as_str()) || header.as_str().starts_with("grpc-") {
        return Err(format!("{header} is the exporter's own"));
    }
    let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
    let value = HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| format!("the value of {header} holds characters that no header may"))?;
    Ok((header, value))
}

#[cfg(test)]
mod tests;
