//! The names of the variables that each signal has of its own, the signal's before the generic one.

use crate::exporter::signal::Signal;

/// The variables of one signal.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) exporter: &'static str,
    pub(super) protocol: [&'static str; 2],
    pub(super) endpoint: [&'static str; 2],
    pub(super) insecure: [&'static str; 2],
    pub(super) certificate: [&'static str; 2],
    pub(super) client_key: [&'static str; 2],
    pub(super) client_certificate: [&'static str; 2],
    pub(super) headers: [&'static str; 2],
    pub(super) compression: [&'static str; 2],
    pub(super) timeout: [&'static str; 2],
    /// The longest wait between two exports.
    pub(super) delay: &'static str,
    /// The limit of one export.
    pub(super) export_timeout: &'static str,
    /// Items that may wait, and items a request; metrics have neither.
    pub(super) sizes: Option<[&'static str; 2]>,
    /// What says how items are made, and nothing else.
    pub(super) making: &'static [&'static str],
}

/// `concat!` makes static text, which no function does.
macro_rules! names {
    ($signal:literal, $exporter:literal, $delay:literal, $export_timeout:literal, $sizes:expr, $making:expr) => {
        Names {
            exporter: $exporter,
            protocol: names!(option $signal, "PROTOCOL"),
            endpoint: names!(option $signal, "ENDPOINT"),
            insecure: names!(option $signal, "INSECURE"),
            certificate: names!(option $signal, "CERTIFICATE"),
            client_key: names!(option $signal, "CLIENT_KEY"),
            client_certificate: names!(option $signal, "CLIENT_CERTIFICATE"),
            headers: names!(option $signal, "HEADERS"),
            compression: names!(option $signal, "COMPRESSION"),
            timeout: names!(option $signal, "TIMEOUT"),
            delay: $delay,
            export_timeout: $export_timeout,
            sizes: $sizes,
            making: $making,
        }
    };
    (option $signal:literal, $option:literal) => {
        [
            concat!("OTEL_EXPORTER_OTLP_", $signal, "_", $option),
            concat!("OTEL_EXPORTER_OTLP_", $option),
        ]
    };
}

/// The generic variables.
pub(super) const GENERIC_OTLP: [&str; 9] = [
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];

impl Names {
    /// What is said about a peer, in the order of [`GENERIC_OTLP`].
    pub(super) const fn otlp(&self) -> [[&'static str; 2]; 9] {
        [
            self.protocol,
            self.endpoint,
            self.insecure,
            self.certificate,
            self.client_key,
            self.client_certificate,
            self.headers,
            self.compression,
            self.timeout,
        ]
    }

    /// What is said about batches.
    pub(super) fn batches(&self) -> impl Iterator<Item = &'static str> {
        [self.delay, self.export_timeout].into_iter().chain(self.sizes.into_iter().flatten())
    }
}

static TRACES: Names = names!(
    "TRACES",
    "OTEL_TRACES_EXPORTER",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    Some(["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"]),
    &[]
);
static METRICS: Names = names!(
    "METRICS",
    "OTEL_METRICS_EXPORTER",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    None,
    &[
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "OTEL_METRICS_EXEMPLAR_FILTER",
    ]
);
static LOGS: Names = names!(
    "LOGS",
    "OTEL_LOGS_EXPORTER",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    Some(["OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"]),
    &["OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT"]
);

/// The variables of `signal`.
pub(super) const fn names(signal: Signal) -> &'static Names {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_the_same_generic_names() {
        for signal in Signal::ALL {
            assert_eq!(names(signal).otlp().map(|[_, generic]| generic), GENERIC_OTLP);
        }
    }
}
