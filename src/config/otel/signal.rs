//! What the variables say about the export of one signal: the exporter, the OTLP peer, the batches.
//!
//! A signal's variable beats the generic one, option by option; nothing is merged.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::env::{EnvSource, Origin, Setting, Variables, parse_choice, parse_millis, parse_number};
use crate::config::otel::endpoint::{self, default_endpoint};
use crate::config::otel::headers::read_headers;
use crate::config::otel::names::{Names, names};
use crate::config::otel::{EffectiveValue, OtelError, Wrong, effective};
use crate::exporter::batch::{DEFAULT_MAX_BATCH_ITEMS, DEFAULT_SCHEDULE_DELAY};
use crate::exporter::settings::{
    ClientFiles, Compression, DEFAULT_REQUEST_TIMEOUT, FileTarget, OtlpSettings, Protocol, SecretHeaders,
    TlsFiles,
};
use crate::exporter::signal::Signal;

/// The specification's default of `OTEL_BLRP_SCHEDULE_DELAY`.
const DEFAULT_LOGS_DELAY: Duration = Duration::from_secs(1);
/// The specification's default of `OTEL_METRIC_EXPORT_INTERVAL`.
const DEFAULT_METRICS_INTERVAL: Duration = Duration::from_secs(60);
/// Of metrics on a console, by the specification.
const CONSOLE_METRICS_INTERVAL: Duration = Duration::from_secs(10);
/// The specification's default of `OTEL_BSP_EXPORT_TIMEOUT` and its like.
const DEFAULT_EXPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// A shorter time-out was most likely meant in seconds, as Python reads the variable.
const SUSPICIOUS_TIMEOUT: Duration = Duration::from_millis(100);

/// An export of metrics is given this long, however short the interval is: they go out one after the other, in their order, and
/// in a few milliseconds nothing is answered.
const MIN_METRICS_TIMEOUT_LIMIT: Duration = Duration::from_secs(1);

/// Where a signal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exporter {
    /// To an OTLP peer.
    Otlp,
    /// To standard output, for people.
    Console,
    /// As OTLP/JSON lines (`otlp/stdout`).
    File(FileTarget),
    /// Nowhere.
    None,
}

/// What is said about one signal.
#[derive(Debug, Clone)]
pub struct SignalSettings {
    /// Which one.
    pub signal: Signal,
    /// `OTEL_…_EXPORTER`.
    pub exporter: Setting<Exporter>,
    /// `OTEL_EXPORTER_OTLP_*`.
    pub otlp: OtlpVariables,
    /// `OTEL_BSP_*`, `OTEL_METRIC_EXPORT_*`, `OTEL_BLRP_*`.
    pub batches: BatchVariables,
}

/// `OTEL_EXPORTER_OTLP_*`, for one signal.
#[derive(Debug, Clone)]
pub struct OtlpVariables {
    /// The protocol.
    pub protocol: Setting<Protocol>,
    /// With what the specification appends.
    pub endpoint: Setting<String>,
    /// No TLS where the endpoint does not say.
    pub insecure: Setting<bool>,
    /// Whom to trust.
    pub certificate: Setting<Option<PathBuf>>,
    /// The client's key.
    pub client_key: Setting<Option<PathBuf>>,
    /// The client's chain.
    pub client_certificate: Setting<Option<PathBuf>>,
    /// Their values are secrets.
    pub headers: Setting<SecretHeaders>,
    /// Of requests.
    pub compression: Setting<Compression>,
    /// The limit of one request.
    pub timeout: Setting<Duration>,
}

/// When items are sent.
#[derive(Debug, Clone)]
pub struct BatchVariables {
    /// The longest that an item waits for others; of metrics, from one collection to the next.
    pub schedule_delay: Setting<Duration>,
    /// The limit of one export.
    pub export_timeout: Setting<Duration>,
    /// Items that may wait. The specification's default, 2048, is meant for one process; where nobody sets it, the
    /// bytes alone are bounded.
    pub max_queue_size: Setting<Option<u64>>,
    /// Items a request.
    pub max_export_batch_size: Setting<u64>,
}

impl fmt::Display for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Otlp => f.write_str("otlp"),
            Self::Console => f.write_str("console"),
            Self::File(FileTarget::Stdout) => f.write_str("otlp/stdout"),
            Self::File(FileTarget::Path(path)) => write!(f, "otlp_file {}", path.display()),
            Self::None => f.write_str("none"),
        }
    }
}

impl SignalSettings {
    /// What counts where nothing is said.
    pub(super) fn defaults(signal: Signal) -> Self {
        Self {
            signal,
            exporter: Setting::default(Exporter::Otlp),
            otlp: OtlpVariables::defaults(signal, Protocol::HttpProtobuf),
            batches: BatchVariables::defaults(signal, &Exporter::Otlp),
        }
    }

    /// Reads the variables. `disabled` is `OTEL_SDK_DISABLED`: then nothing is sent, and nothing stops the start.
    pub(super) fn read<E: EnvSource + ?Sized>(
        variables: &mut Variables<'_, E>,
        signal: Signal,
        disabled: bool,
        errors: &mut Vec<Wrong>,
    ) -> Self {
        let names = names(signal);
        let exporter = read_exporter(variables, names);
        let mut wrong = Vec::new();
        let otlp = OtlpVariables::read(variables, signal, names, &mut wrong);
        // Where nothing is sent, all of this has no effect, and that is said elsewhere.
        if exporter.value == Exporter::Otlp && !disabled {
            let protocol = otlp.protocol.value;
            errors.extend(wrong.into_iter().map(|error| Wrong { error, signal, protocol }));
        }
        let batches = BatchVariables::read(variables, signal, names, &exporter.value);
        Self { signal, exporter, otlp, batches }
    }

    pub(super) fn effective(&self) -> Vec<EffectiveValue> {
        let names = names(self.signal);
        let millis = |wait: &Duration| format!("{} ms", wait.as_millis());
        let path =
            |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let (otlp, batches) = (&self.otlp, &self.batches);
        let mut values = vec![
            effective(names.exporter, &self.exporter, ToString::to_string),
            effective(names.protocol[0], &otlp.protocol, ToString::to_string),
            effective(names.endpoint[0], &otlp.endpoint, Clone::clone),
            effective(names.insecure[0], &otlp.insecure, ToString::to_string),
            effective(names.certificate[0], &otlp.certificate, path),
            effective(names.client_key[0], &otlp.client_key, path),
            effective(names.client_certificate[0], &otlp.client_certificate, path),
            effective(names.headers[0], &otlp.headers, ToString::to_string),
            effective(names.compression[0], &otlp.compression, ToString::to_string),
            effective(names.timeout[0], &otlp.timeout, millis),
            effective(names.delay, &batches.schedule_delay, millis),
            effective(names.export_timeout, &batches.export_timeout, millis),
        ];
        if let Some([queue, batch]) = names.sizes {
            values.push(effective(queue, &batches.max_queue_size, |size| {
                size.map_or("bounded by bytes".to_owned(), |size| size.to_string())
            }));
            values.push(effective(batch, &batches.max_export_batch_size, ToString::to_string));
        }
        values
    }
}

impl OtlpVariables {
    pub(super) fn defaults(signal: Signal, protocol: Protocol) -> Self {
        Self {
            protocol: Setting::default(protocol),
            endpoint: Setting::default(default_endpoint(protocol, signal)),
            insecure: Setting::default(false),
            certificate: Setting::default(None),
            client_key: Setting::default(None),
            client_certificate: Setting::default(None),
            headers: Setting::default(SecretHeaders::default()),
            compression: Setting::default(Compression::None),
            timeout: Setting::default(DEFAULT_REQUEST_TIMEOUT),
        }
    }

    fn read<E: EnvSource + ?Sized>(
        variables: &mut Variables<'_, E>,
        signal: Signal,
        names: &Names,
        errors: &mut Vec<OtelError>,
    ) -> Self {
        const PROTOCOLS: [(&str, Protocol); 3] = [
            ("grpc", Protocol::Grpc),
            ("http/protobuf", Protocol::HttpProtobuf),
            ("http/json", Protocol::HttpJson),
        ];
        const COMPRESSIONS: [(&str, Compression); 3] =
            [("gzip", Compression::Gzip), ("zstd", Compression::Zstd), ("none", Compression::None)];
        let protocol = variables
            .first_or(&names.protocol, Protocol::HttpProtobuf, |text| parse_choice(text, &PROTOCOLS));
        let insecure = variables.boolean(&names.insecure);
        let endpoint = endpoint::read(variables, signal, names, protocol.value, insecure.value)
            .unwrap_or_else(|error| {
                errors.push(error);
                Setting::default(default_endpoint(protocol.value, signal))
            });
        let file = |text: &str| Ok(Some(PathBuf::from(text)));
        let otlp = Self {
            protocol,
            endpoint,
            insecure,
            certificate: variables.first_or(&names.certificate, None, file),
            client_key: variables.first_or(&names.client_key, None, file),
            client_certificate: variables.first_or(&names.client_certificate, None, file),
            headers: read_headers(variables, &names.headers),
            compression: variables
                .first_or(&names.compression, Compression::None, |text| parse_choice(text, &COMPRESSIONS)),
            timeout: read_timeout(variables, names),
        };
        otlp.check_files(variables, names, errors);
        otlp
    }

    /// A key is of no use without its certificate, and neither is without TLS.
    fn check_files<E: EnvSource + ?Sized>(
        &self,
        variables: &mut Variables<'_, E>,
        names: &Names,
        errors: &mut Vec<OtelError>,
    ) {
        let halves = [
            (&self.client_key, &self.client_certificate, names.client_key, names.client_certificate),
            (&self.client_certificate, &self.client_key, names.client_certificate, names.client_key),
        ];
        for (given, other, [_, generic], missing) in halves {
            if let (Origin::Variable(variable), Some(path), None) = (given.origin, &given.value, &other.value)
            {
                // What is said of all signals is mended for all of them.
                let missing = missing[usize::from(variable == generic)];
                errors.push(OtelError {
                    variable,
                    value: path.display().to_string(),
                    reason: format!("a client has a certificate and its key: {missing} is not set"),
                });
            }
        }
        if self.is_tls() {
            return;
        }
        for file in [&self.certificate, &self.client_key, &self.client_certificate] {
            if let (Origin::Variable(variable), Some(path)) = (file.origin, &file.value) {
                let problem = format!("no effect: {} is without TLS", self.endpoint.value);
                variables.warn(variable, &path.display().to_string(), &problem);
            }
        }
    }

    fn is_tls(&self) -> bool {
        self.endpoint.value.starts_with("https:")
    }

    /// As the exporter is told.
    pub(super) fn settings(&self, signal: Signal) -> OtlpSettings {
        let client = match (&self.client_certificate.value, &self.client_key.value) {
            (Some(certificate), Some(key)) => {
                Some(ClientFiles { certificate: certificate.clone(), key: key.clone() })
            }
            (None | Some(_), None) | (None, Some(_)) => None,
        };
        OtlpSettings {
            signal,
            tls: TlsFiles { ca: self.certificate.value.clone(), client },
            protocol: self.protocol.value,
            endpoint: self.endpoint.value.clone(),
            endpoint_origin: match self.endpoint.origin {
                Origin::Default => format!("the default; {} changes it", names(signal).endpoint[1]),
                Origin::Variable(name) => format!("by {name}"),
                Origin::File(line) => format!("by line {line} of OTEL_CONFIG_FILE"),
            },
            headers: self.headers.value.clone(),
            compression: self.compression.value,
        }
    }
}

fn read_timeout<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>, names: &Names) -> Setting<Duration> {
    let timeout = variables.first_or(&names.timeout, DEFAULT_REQUEST_TIMEOUT, parse_millis);
    suspect_seconds(variables, &timeout);
    timeout
}

/// Warns of a time-out that is too short to be meant.
fn suspect_seconds<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>, timeout: &Setting<Duration>) {
    if let Origin::Variable(name) = timeout.origin
        && !timeout.value.is_zero()
        && timeout.value < SUSPICIOUS_TIMEOUT
    {
        let millis = timeout.value.as_millis();
        variables.warn(name, &millis.to_string(), "this is milliseconds; were seconds meant?");
    }
}

impl BatchVariables {
    pub(super) fn defaults(signal: Signal, exporter: &Exporter) -> Self {
        let delay = match (signal, exporter) {
            // By the specification a console goes with a processor that does not batch.
            (Signal::Traces | Signal::Logs, Exporter::Console) => Duration::ZERO,
            (Signal::Traces, _) => DEFAULT_SCHEDULE_DELAY,
            (Signal::Logs, _) => DEFAULT_LOGS_DELAY,
            (Signal::Metrics, Exporter::Console) => CONSOLE_METRICS_INTERVAL,
            (Signal::Metrics, _) => DEFAULT_METRICS_INTERVAL,
        };
        Self {
            schedule_delay: Setting::default(delay),
            export_timeout: Setting::default(DEFAULT_EXPORT_TIMEOUT),
            max_queue_size: Setting::default(None),
            max_export_batch_size: Setting::default(DEFAULT_MAX_BATCH_ITEMS),
        }
    }

    fn read<E: EnvSource + ?Sized>(
        variables: &mut Variables<'_, E>,
        signal: Signal,
        names: &Names,
        exporter: &Exporter,
    ) -> Self {
        let at_least_one = |text: &str| parse_number(text, 1).map(u64::from);
        let mut batches = Self::defaults(signal, exporter);
        if let Some([queue_size, batch_size]) = names.sizes {
            batches.max_queue_size =
                variables.first_or(&[queue_size], None, |text| at_least_one(text).map(Some));
            batches.max_export_batch_size =
                variables.first_or(&[batch_size], DEFAULT_MAX_BATCH_ITEMS, at_least_one);
            let (queue, batch) = (batches.max_queue_size.value, batches.max_export_batch_size.value);
            if let Some(queue) = queue.filter(|queue| batch > *queue) {
                let problem = format!("larger than {queue_size}, {queue}; lowered to it");
                variables.warn(batch_size, &batch.to_string(), &problem);
                batches.max_export_batch_size.value = queue;
            }
        }
        let delay = |text: &str| match parse_millis(text)? {
            Duration::ZERO if signal == Signal::Metrics => Err("collecting without a pause".to_owned()),
            delay => Ok(delay),
        };
        batches.schedule_delay = variables.first_or(&[names.delay], batches.schedule_delay.value, delay);
        batches.export_timeout =
            variables.first_or(&[names.export_timeout], DEFAULT_EXPORT_TIMEOUT, parse_millis);
        suspect_seconds(variables, &batches.export_timeout);
        let (interval, timeout) = (batches.schedule_delay.value, batches.export_timeout.value);
        let limit = interval.max(MIN_METRICS_TIMEOUT_LIMIT);
        if signal == Signal::Metrics && timeout > limit {
            if let Origin::Variable(name) = batches.export_timeout.origin {
                let (interval, limit) = (interval.as_millis(), limit.as_millis());
                let problem = format!("longer than {}, {interval} ms; lowered to {limit} ms", names.delay);
                variables.warn(name, &timeout.as_millis().to_string(), &problem);
            }
            batches.export_timeout.value = limit;
        }
        batches
    }
}

/// The specification allows a list here. One exporter is built for a signal: the first that is known counts.
fn read_exporter<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
    names: &Names,
) -> Setting<Exporter> {
    #[derive(Clone, Copy, PartialEq)]
    enum Choice {
        Otlp,
        Console,
        Stdout,
        None,
    }
    const CHOICES: [(&str, Choice); 4] = [
        ("otlp", Choice::Otlp),
        ("console", Choice::Console),
        ("otlp/stdout", Choice::Stdout),
        ("none", Choice::None),
    ];
    let default = Setting::default(Exporter::Otlp);
    let variable = names.exporter;
    let Some(text) = variables.text(variable) else { return default };
    let mut known = Vec::new();
    for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        match parse_choice(element, &CHOICES) {
            Ok(choice) => known.push(choice),
            Err(problem) if element == text => {
                variables.warn(variable, &text, &format!("{problem}; ignored"));
            }
            Err(problem) => variables.warn(variable, &text, &format!("{element}: {problem}; ignored")),
        }
    }
    if known.len() > 1 && known.contains(&Choice::None) && known.iter().any(|choice| *choice != Choice::None)
    {
        variables.warn(variable, &text, "`none` beside others is ignored");
        known.retain(|choice| *choice != Choice::None);
    }
    known.dedup();
    let Some(first) = known.first() else { return default };
    let exporter = match first {
        Choice::Otlp => Exporter::Otlp,
        Choice::Console => Exporter::Console,
        Choice::Stdout => Exporter::File(FileTarget::Stdout),
        Choice::None => Exporter::None,
    };
    if known.len() > 1 {
        variables.warn(variable, &text, &format!("one exporter is supported; {exporter} is used"));
    }
    Setting { value: exporter, origin: Origin::Variable(variable) }
}
