//! A signal's provider: of its processors or readers, and their exporters, the first that can be done counts.

use std::time::Duration;

use crate::config::env::{Origin, Setting};
use crate::config::file::{Node, Value};
use crate::config::otel::declarative::reader::{Plugin, Reader, Section, join};
use crate::config::otel::endpoint::{grpc_endpoint, http_endpoint, without_secrets};
use crate::config::otel::general::{EXEMPLAR_FILTERS, HISTOGRAMS, MetricVariables, Temporality};
use crate::config::otel::headers::{header, parse_headers};
use crate::config::otel::signal::{BatchVariables, Exporter, OtlpVariables, SignalSettings};
use crate::exporter::settings::{Compression, FileTarget, Protocol, SecretHeaders};
use crate::exporter::signal::Signal;

/// The file spells one of them otherwise than the variable.
const TEMPORALITIES: [(&str, Temporality); 3] = [
    ("cumulative", Temporality::Cumulative),
    ("delta", Temporality::Delta),
    ("low_memory", Temporality::LowMemory),
];
const COMPRESSIONS: [(&str, Compression); 3] =
    [("gzip", Compression::Gzip), ("zstd", Compression::Zstd), ("none", Compression::None)];
/// What only exporters of metrics say.
const METRIC_KEYS: [&str; 2] = ["temporality_preference", "default_histogram_aggregation"];

/// A signal for which there is no provider: nothing is done.
pub(super) fn nothing(signal: Signal) -> SignalSettings {
    SignalSettings { exporter: Setting::default(Exporter::None), ..SignalSettings::defaults(signal) }
}

impl Reader {
    /// The processors of a provider of spans or records.
    pub(super) fn processors(&mut self, provider: &Section<'_>, signal: Signal) -> SignalSettings {
        let key = "processors";
        if self.list(provider, key).is_empty() {
            self.problem(provider.line, &join(&provider.at, key), "at least one is needed".to_owned());
        }
        self.first_of(provider, key, signal, |reader, plugin| match plugin.name {
            "batch" => {
                let known = [
                    "schedule_delay",
                    "export_timeout",
                    "max_queue_size",
                    "max_export_batch_size",
                    "exporter",
                ];
                let section = reader.section(plugin.node, &plugin.at, &known);
                let mut settings = reader.exporter(&section, signal, None)?;
                reader.batch(&section, &mut settings.batches);
                Some(settings)
            }
            "simple" => {
                let section = reader.section(plugin.node, &plugin.at, &["exporter"]);
                let mut settings = reader.exporter(&section, signal, None)?;
                settings.batches.schedule_delay =
                    Setting { value: Duration::ZERO, origin: Origin::File(plugin.line) };
                Some(settings)
            }
            _ => {
                reader.unknown_plugin(plugin, &["batch", "simple"]);
                None
            }
        })
    }

    /// The readers of a provider of metrics.
    pub(super) fn readers(
        &mut self,
        provider: &Section<'_>,
        options: &mut MetricVariables,
    ) -> SignalSettings {
        let key = "readers";
        if self.list(provider, key).is_empty() {
            self.problem(provider.line, &join(&provider.at, key), "at least one is needed".to_owned());
        }
        let mut is_first = true;
        self.first_of(provider, key, Signal::Metrics, |reader, plugin| match plugin.name {
            "periodic" => {
                let known = [
                    "interval",
                    "timeout",
                    "exporter",
                    "producers",
                    "cardinality_limits",
                    "max_export_batch_size/development",
                ];
                let section = reader.section(plugin.node, &plugin.at, &known);
                let mut own = options.clone();
                let mut settings = reader.exporter(&section, Signal::Metrics, Some(&mut own))?;
                // A later reader is read for its mistakes alone.
                if std::mem::take(&mut is_first) {
                    *options = own;
                }
                let batches = &mut settings.batches;
                set(&mut batches.schedule_delay, reader.millis(&section, "interval"));
                set(&mut batches.export_timeout, reader.millis(&section, "timeout"));
                for key in ["producers", "cardinality_limits", "max_export_batch_size/development"] {
                    reader.without_effect(&section, key);
                }
                Some(settings)
            }
            "pull" => {
                reader.warn(
                    plugin.line,
                    &plugin.at,
                    "not supported: /metrics of the admin port can be scraped",
                );
                None
            }
            _ => {
                reader.unknown_plugin(plugin, &["periodic", "pull"]);
                None
            }
        })
    }

    /// The first entry of a list that can be done; the others are read all the same, and warned of.
    fn first_of(
        &mut self,
        provider: &Section<'_>,
        key: &str,
        signal: Signal,
        mut read: impl FnMut(&mut Self, &Plugin<'_>) -> Option<SignalSettings>,
    ) -> SignalSettings {
        let mut first: Option<SignalSettings> = None;
        for (index, node) in self.list(provider, key).iter().enumerate() {
            let at = format!("{}[{index}]", join(&provider.at, key));
            let Some(plugin) = self.plugin(node, &at) else { continue };
            let Some(settings) = read(self, &plugin) else { continue };
            if first.is_none() {
                first = Some(settings);
            } else {
                self.warn(
                    plugin.line,
                    &plugin.at,
                    "no effect: one of them is supported, and the first counts",
                );
            }
        }
        first.unwrap_or_else(|| nothing(signal))
    }

    fn batch(&mut self, section: &Section<'_>, batches: &mut BatchVariables) {
        set(&mut batches.schedule_delay, self.millis(section, "schedule_delay"));
        set(&mut batches.export_timeout, self.millis(section, "export_timeout"));
        if let Some(size) = self.number(section, "max_queue_size", 1) {
            batches.max_queue_size = Setting { value: Some(size.value as u64), origin: size.origin };
        }
        if let Some(size) = self.number(section, "max_export_batch_size", 1) {
            batches.max_export_batch_size = Setting { value: size.value as u64, origin: size.origin };
        }
        let batch = batches.max_export_batch_size.value;
        if let Some(queue) = batches.max_queue_size.value.filter(|queue| batch > *queue) {
            self.warn(section.line, &join(&section.at, "max_export_batch_size"), "lowered to max_queue_size");
            batches.max_export_batch_size.value = queue;
        }
    }

    fn exporter(
        &mut self,
        section: &Section<'_>,
        signal: Signal,
        metrics: Option<&mut MetricVariables>,
    ) -> Option<SignalSettings> {
        let at = join(&section.at, "exporter");
        let Some(node) = section.node("exporter") else {
            self.problem(section.line, &at, "one is needed".to_owned());
            return None;
        };
        let plugin = self.plugin(node, &at)?;
        let origin = Origin::File(plugin.line);
        let mut settings = SignalSettings::defaults(signal);
        let own: &[&str] = if metrics.is_some() { &METRIC_KEYS } else { &[] };
        let known = |keys: &[&'static str]| [keys, own].concat();
        let (section, exporter) = match plugin.name {
            "otlp_http" => {
                let keys = known(&[
                    "endpoint",
                    "tls",
                    "headers",
                    "headers_list",
                    "compression",
                    "timeout",
                    "encoding",
                    "max_request_size",
                    "max_response_size",
                ]);
                let section = self.section(plugin.node, &plugin.at, &keys);
                let encodings = [("protobuf", Protocol::HttpProtobuf), ("json", Protocol::HttpJson)];
                let encoding = self.choice(&section, "encoding", &encodings);
                let protocol = encoding.map_or(Protocol::HttpProtobuf, |encoding| encoding.value);
                settings.otlp = self.otlp(&section, signal, Setting { value: protocol, origin });
                for key in ["max_request_size", "max_response_size"] {
                    self.without_effect(&section, key);
                }
                (section, Exporter::Otlp)
            }
            "otlp_grpc" => {
                let keys = known(&["endpoint", "tls", "headers", "headers_list", "compression", "timeout"]);
                let section = self.section(plugin.node, &plugin.at, &keys);
                settings.otlp = self.otlp(&section, signal, Setting { value: Protocol::Grpc, origin });
                (section, Exporter::Otlp)
            }
            "otlp_file/development" => {
                let section = self.section(plugin.node, &plugin.at, &known(&["output_stream"]));
                let target = self.output_stream(&section);
                (section, Exporter::File(target))
            }
            "console" => (self.section(plugin.node, &plugin.at, &known(&[])), Exporter::Console),
            _ => {
                let known = ["otlp_http", "otlp_grpc", "otlp_file/development", "console"];
                self.unknown_plugin(&plugin, &known);
                return None;
            }
        };
        if let Some(options) = metrics {
            set(&mut options.temporality, self.choice(&section, METRIC_KEYS[0], &TEMPORALITIES));
            set(&mut options.histogram, self.choice(&section, METRIC_KEYS[1], &HISTOGRAMS));
        }
        settings.batches = match (signal, &exporter) {
            // The default of a reader, whatever its exporter.
            (Signal::Metrics, _) => BatchVariables::defaults(signal, &Exporter::Otlp),
            (Signal::Traces | Signal::Logs, Exporter::Console) => {
                BatchVariables::defaults(signal, &Exporter::Otlp)
            }
            (Signal::Traces | Signal::Logs, _) => BatchVariables::defaults(signal, &exporter),
        };
        settings.exporter = Setting { value: exporter, origin };
        Some(settings)
    }

    fn output_stream(&mut self, section: &Section<'_>) -> FileTarget {
        let Some(Setting { value, origin }) = self.text(section, "output_stream") else {
            return FileTarget::Stdout;
        };
        match value.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => FileTarget::Path(path.into()),
            None if value == "stdout" => FileTarget::Stdout,
            Some(_) | None => {
                let message = format!("`{}` is neither `stdout` nor `file:///…`", value.escape_debug());
                self.problem(line(origin), &join(&section.at, "output_stream"), message);
                FileTarget::Stdout
            }
        }
    }

    fn otlp(&mut self, section: &Section<'_>, signal: Signal, protocol: Setting<Protocol>) -> OtlpVariables {
        let is_grpc = protocol.value == Protocol::Grpc;
        let mut otlp = OtlpVariables::defaults(signal, protocol.value);
        otlp.protocol = protocol;
        let files = ["ca_file", "key_file", "cert_file"];
        let keys = if is_grpc { [&files[..], &["insecure"]].concat() } else { files.to_vec() };
        let tls = self.subsection(section, "tls", &keys);
        set(&mut otlp.certificate, self.file(&tls, "ca_file"));
        set(&mut otlp.client_key, self.file(&tls, "key_file"));
        set(&mut otlp.client_certificate, self.file(&tls, "cert_file"));
        if otlp.client_key.value.is_some() != otlp.client_certificate.value.is_some() {
            let message = "a client has a certificate and its key: `key_file` and `cert_file`".to_owned();
            self.problem(tls.line, &tls.at, message);
        }
        if is_grpc {
            set(&mut otlp.insecure, self.boolean(&tls, "insecure"));
        }
        set(&mut otlp.compression, self.choice(section, "compression", &COMPRESSIONS));
        set(&mut otlp.timeout, self.millis(section, "timeout"));
        if let Some(Setting { value, origin }) = self.text(section, "endpoint") {
            let read = if is_grpc {
                grpc_endpoint(&value, otlp.insecure.value)
            } else {
                http_endpoint(&value, signal)
            };
            let at = join(&section.at, "endpoint");
            match read {
                Ok((endpoint, hints)) => {
                    hints.iter().for_each(|hint| self.warn(line(origin), &at, hint));
                    otlp.endpoint = Setting { value: endpoint, origin };
                }
                Err(reason) => {
                    let shown = without_secrets(&value);
                    self.problem(line(origin), &at, format!("`{}`: {reason}", shown.escape_debug()));
                }
            }
        }
        otlp.headers = self.headers(section);
        otlp
    }

    /// The list of pairs beats the text. Values are secrets.
    fn headers(&mut self, section: &Section<'_>) -> Setting<SecretHeaders> {
        let mut headers = Setting::default(SecretHeaders::default());
        if let Some(Setting { value, origin }) = self.text(section, "headers_list") {
            let (list, problems) = parse_headers(&value);
            for problem in problems {
                self.warn(line(origin), &join(&section.at, "headers_list"), &format!("{problem}; left out"));
            }
            headers = Setting { value: list, origin };
        }
        for (index, node) in self.list(section, "headers").iter().enumerate() {
            let at = format!("{}[{index}]", join(&section.at, "headers"));
            let pair = self.section(node, &at, &["name", "value"]);
            let name = self.text(&pair, "name");
            // Null is an empty value, and no header.
            let Some(name) = name else {
                self.problem(node.line, &at, "a header has a name".to_owned());
                continue;
            };
            if !matches!(pair.node("value").map(|node| &node.value), None | Some(Value::Text(_))) {
                self.problem(node.line, &at, "a header's value is text; put it in quotes".to_owned());
                continue;
            }
            let Some(value) = self.text(&pair, "value") else { continue };
            match header(&name.value, &value.value) {
                Ok((name, value)) => {
                    headers.value.insert(name, value);
                    headers.origin = Origin::File(node.line);
                }
                Err(problem) => self.problem(node.line, &at, format!("it {problem}")),
            }
        }
        headers
    }

    /// Accepted, and of no consequence.
    pub(super) fn without_effect(&mut self, section: &Section<'_>, key: &str) {
        if let Some(Node { line, .. }) = section.node(key) {
            self.warn(*line, &join(&section.at, key), "no effect here");
        }
    }

    /// `exemplar_filter` of the provider of metrics.
    pub(super) fn exemplar_filter(&mut self, provider: &Section<'_>, options: &mut MetricVariables) {
        set(&mut options.exemplar_filter, self.choice(provider, "exemplar_filter", &EXEMPLAR_FILTERS));
    }
}

/// Takes what was said, if anything was.
pub(super) fn set<T>(setting: &mut Setting<T>, said: Option<Setting<T>>) {
    if let Some(said) = said {
        *setting = said;
    }
}

/// Of a value of this file.
pub(super) const fn line(origin: Origin) -> u64 {
    match origin {
        Origin::File(line) => line,
        Origin::Default | Origin::Variable(_) => 0,
    }
}
