//! Every variable of the OpenTelemetry specification, and what it means here. The documentation's table is made of this
//! one, `check` shows values in its order, and a test walks it.

/// A variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: &'static str,
    /// What counts where it is not set.
    pub default: &'static str,
    /// Whether it does anything.
    pub status: Status,
    /// What it does.
    pub effect: &'static str,
}

/// Whether a variable does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does what it says.
    Honoured,
    /// It has no effect, for this reason.
    NotApplicable(&'static str),
}

const fn honoured(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    effect: &'static str,
) -> Variable {
    Variable { name, kind, default, status: Status::Honoured, effect }
}

const fn without_effect(
    name: &'static str,
    kind: &'static str,
    default: &'static str,
    why: &'static str,
) -> Variable {
    Variable { name, kind, default, status: Status::NotApplicable(why), effect: "" }
}

/// Every variable, in the order in which they are shown.
#[rustfmt::skip]
pub const VARIABLES: &[Variable] = &[
    honoured("OTEL_CONFIG_FILE", "path", "none", "a declarative configuration; all other variables here are then ignored"),
    honoured("OTEL_EXPERIMENTAL_CONFIG_FILE", "path", "none", "the old name of `OTEL_CONFIG_FILE`"),
    honoured("OTEL_SDK_DISABLED", "boolean", "false", "nothing is exported; workers may connect, and their events are dropped as `disabled`"),
    honoured("OTEL_SERVICE_NAME", "text", "snakepit-python", "`service.name` of every worker"),
    honoured("OTEL_RESOURCE_ATTRIBUTES", "attributes", "none", "said of every worker, but for what describes the bridge's own process or place"),
    without_effect("OTEL_ENTITIES", "entities", "none", "an entity is the bridge's own, and what is exported is the workers'"),
    honoured("OTEL_LOG_LEVEL", "choice", "info", "the bridge's own log: `trace`, `debug`, `info`, `warn`, `error`, `fatal`, `none`, `off`; `RUST_LOG` beats it"),
    honoured("OTEL_PROPAGATORS", "list", "tracecontext,baggage", "which metadata of an event count as its parent: `traceparent` for `tracecontext`, `b3` and `x-b3-*` for `b3` and `b3multi`"),
    honoured("OTEL_TRACES_EXPORTER", "list", "otlp", "`otlp`, `console`, `otlp/stdout`, `none`; the first that is known counts"),
    honoured("OTEL_METRICS_EXPORTER", "list", "otlp", "`otlp`, `console`, `otlp/stdout`, `none`; the first that is known counts"),
    honoured("OTEL_LOGS_EXPORTER", "list", "otlp", "`otlp`, `console`, `otlp/stdout`, `none`; the first that is known counts"),
    honoured("OTEL_EXPORTER_OTLP_PROTOCOL", "choice", "http/protobuf", "`grpc`, `http/protobuf`, `http/json`"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "choice", "`OTEL_EXPORTER_OTLP_PROTOCOL`", "`grpc`, `http/protobuf`, `http/json`"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "choice", "`OTEL_EXPORTER_OTLP_PROTOCOL`", "`grpc`, `http/protobuf`, `http/json`"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "choice", "`OTEL_EXPORTER_OTLP_PROTOCOL`", "`grpc`, `http/protobuf`, `http/json`"),
    honoured("OTEL_EXPORTER_OTLP_ENDPOINT", "URL", "http://localhost:4318, for gRPC http://localhost:4317", "where to; for HTTP a base, to which `v1/traces` is added (`v1/metrics`, `v1/logs`)"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "URL", "`OTEL_EXPORTER_OTLP_ENDPOINT`", "where to; for HTTP used as it is"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "URL", "`OTEL_EXPORTER_OTLP_ENDPOINT`", "where to; for HTTP used as it is"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "URL", "`OTEL_EXPORTER_OTLP_ENDPOINT`", "where to; for HTTP used as it is"),
    honoured("OTEL_EXPORTER_OTLP_INSECURE", "boolean", "false", "no TLS for a gRPC endpoint without a scheme"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "boolean", "`OTEL_EXPORTER_OTLP_INSECURE`", "no TLS for a gRPC endpoint without a scheme"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "boolean", "`OTEL_EXPORTER_OTLP_INSECURE`", "no TLS for a gRPC endpoint without a scheme"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "boolean", "`OTEL_EXPORTER_OTLP_INSECURE`", "no TLS for a gRPC endpoint without a scheme"),
    honoured("OTEL_EXPORTER_OTLP_CERTIFICATE", "path", "the system's roots", "PEM: whom to trust, instead of the system's roots"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "path", "`OTEL_EXPORTER_OTLP_CERTIFICATE`", "PEM: whom to trust, instead of the system's roots"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "path", "`OTEL_EXPORTER_OTLP_CERTIFICATE`", "PEM: whom to trust, instead of the system's roots"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "path", "`OTEL_EXPORTER_OTLP_CERTIFICATE`", "PEM: whom to trust, instead of the system's roots"),
    honoured("OTEL_EXPORTER_OTLP_CLIENT_KEY", "path", "none", "PEM: the private key of the client certificate"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "path", "`OTEL_EXPORTER_OTLP_CLIENT_KEY`", "PEM: the private key of the client certificate"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "path", "`OTEL_EXPORTER_OTLP_CLIENT_KEY`", "PEM: the private key of the client certificate"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "path", "`OTEL_EXPORTER_OTLP_CLIENT_KEY`", "PEM: the private key of the client certificate"),
    honoured("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "path", "none", "PEM: the client certificate with its chain"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "path", "`OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`", "PEM: the client certificate with its chain"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "path", "`OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`", "PEM: the client certificate with its chain"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", "path", "`OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`", "PEM: the client certificate with its chain"),
    honoured("OTEL_EXPORTER_OTLP_HEADERS", "list", "none", "sent along; values are percent-decoded, and never shown"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "list", "`OTEL_EXPORTER_OTLP_HEADERS`", "sent along; values are percent-decoded, and never shown"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "list", "`OTEL_EXPORTER_OTLP_HEADERS`", "sent along; values are percent-decoded, and never shown"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "list", "`OTEL_EXPORTER_OTLP_HEADERS`", "sent along; values are percent-decoded, and never shown"),
    honoured("OTEL_EXPORTER_OTLP_COMPRESSION", "choice", "none", "`gzip`, `none`; also `zstd`, which not every peer takes"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "choice", "`OTEL_EXPORTER_OTLP_COMPRESSION`", "`gzip`, `none`; also `zstd`, which not every peer takes"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "choice", "`OTEL_EXPORTER_OTLP_COMPRESSION`", "`gzip`, `none`; also `zstd`, which not every peer takes"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "choice", "`OTEL_EXPORTER_OTLP_COMPRESSION`", "`gzip`, `none`; also `zstd`, which not every peer takes"),
    honoured("OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds", "10000", "the limit of one request; 0 is none"),
    honoured("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "milliseconds", "`OTEL_EXPORTER_OTLP_TIMEOUT`", "the limit of one request; 0 is none"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "milliseconds", "`OTEL_EXPORTER_OTLP_TIMEOUT`", "the limit of one request; 0 is none"),
    honoured("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "milliseconds", "`OTEL_EXPORTER_OTLP_TIMEOUT`", "the limit of one request; 0 is none"),
    without_effect("OTEL_EXPORTER_OTLP_SPAN_INSECURE", "boolean", "false", "an obsolete spelling of `OTEL_EXPORTER_OTLP_TRACES_INSECURE`"),
    without_effect("OTEL_EXPORTER_OTLP_METRIC_INSECURE", "boolean", "false", "an obsolete spelling of `OTEL_EXPORTER_OTLP_METRICS_INSECURE`"),
    honoured("OTEL_BSP_SCHEDULE_DELAY", "milliseconds", "5000", "how long a span waits for others; 0 with the exporter `console`"),
    honoured("OTEL_BSP_EXPORT_TIMEOUT", "milliseconds", "30000", "the limit of one export; 0 is none. The smaller of it and the request's counts"),
    honoured("OTEL_BSP_MAX_QUEUE_SIZE", "number", "bounded by bytes", "spans that may wait; more are refused as `queue_full`"),
    honoured("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "number", "512", "spans a request"),
    honoured("OTEL_BLRP_SCHEDULE_DELAY", "milliseconds", "1000", "how long a record waits for others; 0 with the exporter `console`"),
    honoured("OTEL_BLRP_EXPORT_TIMEOUT", "milliseconds", "30000", "the limit of one export; 0 is none. The smaller of it and the request's counts"),
    honoured("OTEL_BLRP_MAX_QUEUE_SIZE", "number", "bounded by bytes", "records that may wait; more are refused as `queue_full`"),
    honoured("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "number", "512", "records a request"),
    honoured("OTEL_METRIC_EXPORT_INTERVAL", "milliseconds", "60000, for `console` 10000", "from one collection to the next; a request has as many points as there are"),
    honoured("OTEL_METRIC_EXPORT_TIMEOUT", "milliseconds", "30000", "the limit of one export, at most the interval or, if that is shorter, 1000; 0 is none. The smaller of it and the request's counts"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "choice", "cumulative", "`cumulative`, `delta`, `lowmemory`; with the last two, points of counters and histograms are differences to the ones before"),
    honoured("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "choice", "explicit_bucket_histogram", "`explicit_bucket_histogram`, `base2_exponential_bucket_histogram`: what a histogram is where no rule gives it bounds"),
    honoured("OTEL_METRICS_EXEMPLAR_FILTER", "choice", "trace_based", "`always_on`, `always_off`, `trace_based`: which measurements may become exemplars; they name traces that are kept, and no others"),
    honoured("OTEL_TRACES_SAMPLER", "choice", "parentbased_always_on", "`always_on`, `always_off`, `traceidratio`, and `parentbased_` with each of them"),
    honoured("OTEL_TRACES_SAMPLER_ARG", "ratio", "1", "of `traceidratio` and `parentbased_traceidratio`"),
    honoured("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "number", "none, but 16 KiB", "characters (code points) of a text"),
    honoured("OTEL_ATTRIBUTE_COUNT_LIMIT", "number", "128", "attributes of a span, and of a span's event"),
    honoured("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "number", "`OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`", "characters of a text of a span, its events and its links"),
    honoured("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "number", "`OTEL_ATTRIBUTE_COUNT_LIMIT`", "attributes of a span; what came first stays"),
    honoured("OTEL_SPAN_EVENT_COUNT_LIMIT", "number", "128", "events of a span"),
    honoured("OTEL_SPAN_LINK_COUNT_LIMIT", "number", "128", "links of a span"),
    honoured("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "number", "`OTEL_ATTRIBUTE_COUNT_LIMIT`", "attributes of a span's event"),
    without_effect("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "number", "`OTEL_ATTRIBUTE_COUNT_LIMIT`", "the links that are made here have no attributes"),
    honoured("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "number", "`OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`", "characters of a text among a log record's attributes"),
    honoured("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "number", "`OTEL_ATTRIBUTE_COUNT_LIMIT`", "attributes of a log record; what came first stays"),
    honoured("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "list", "none", "`logs`: exceptions are log records instead of events of their spans; `logs/dup`: they are both"),
    without_effect("OTEL_EXPORTER_PROMETHEUS_HOST", "text", "localhost", "the bridge's own metrics are on the admin port (`--admin-listen`), at `/metrics`"),
    without_effect("OTEL_EXPORTER_PROMETHEUS_PORT", "number", "9464", "the bridge's own metrics are on the admin port (`--admin-listen`), at `/metrics`"),
    without_effect("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "URL", "none", "Zipkin's exporter is leaving the specification; a Collector speaks Zipkin"),
    without_effect("OTEL_EXPORTER_ZIPKIN_TIMEOUT", "milliseconds", "none", "Zipkin's exporter is leaving the specification; a Collector speaks Zipkin"),
    without_effect("OTEL_EXPORTER_ZIPKIN_PROTOCOL", "choice", "none", "Zipkin's exporter is leaving the specification; a Collector speaks Zipkin"),
    without_effect("TRACEPARENT", "text", "none", "a context for a process is no worker's: spans have the contexts that their events bring"),
    without_effect("TRACESTATE", "text", "none", "a context for a process is no worker's: spans have the contexts that their events bring"),
    without_effect("BAGGAGE", "text", "none", "a context for a process is no worker's: spans have the contexts that their events bring"),
    without_effect("OTEL_SEMCONV_STABILITY_OPT_IN", "list", "none", "it is for instrumentations, and the bridge instruments no HTTP or database calls"),
    without_effect("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "list", "none", "it is for instrumentations, and the bridge instruments no HTTP or database calls"),
];

/// The place of a variable in [`VARIABLES`].
pub(super) fn position(name: &str) -> usize {
    VARIABLES.iter().position(|variable| variable.name == name).unwrap_or(VARIABLES.len())
}

/// The table as the documentation has it.
#[must_use]
pub fn as_markdown() -> String {
    let mut lines =
        vec!["| variable | value | default | what it does here |".to_owned(), "|---|---|---|---|".to_owned()];
    for Variable { name, kind, default, status, effect } in VARIABLES {
        let effect = match status {
            Status::Honoured => (*effect).to_owned(),
            Status::NotApplicable(why) => format!("nothing: {why}"),
        };
        let default = if default.contains('`') || default.contains(' ') || *default == "none" {
            (*default).to_owned()
        } else {
            format!("`{default}`")
        };
        lines.push(format!("| `{name}` | {kind} | {default} | {effect} |"));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_variable_has_one_row() {
        let names: BTreeSet<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(names.len(), VARIABLES.len());
    }

    /// `UPDATE_DOCS=1 cargo test` writes it anew.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "whoever runs the test says so, and no configuration")]
    fn the_documentation_has_this_table() {
        const BEGIN: &str = "<!-- begin of the variables: `UPDATE_DOCS=1 cargo test the_documentation_has_this_table` -->\n\n";
        const END: &str = "\n<!-- end of the variables -->";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the table's beginning");
        let (table, after) = rest.split_once(END).expect("the table's end");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, [before, BEGIN, &as_markdown(), END, after].concat()).unwrap();
        } else {
            assert!(table == as_markdown(), "docs/configuration.md is out of date");
        }
    }
}
