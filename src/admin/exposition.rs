//! The two text formats in which Prometheus reads metrics, and which of them a request asks for.
//!
//! They differ in four points only: the content type, the name in the head of a counter (OpenMetrics leaves `_total` to
//! the sample), the unit, which the old format does not know, and the last line.

use std::fmt::Write as _;

use axum::http::{HeaderMap, header};

use crate::distribution::Distribution;

/// Units, by the last part of a metric's name.
const UNITS: [&str; 2] = ["bytes", "seconds"];

/// Digits after the point of seconds that are counted in nanoseconds.
const NANO_DIGITS: usize = 9;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// The old one, which everything reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// What a family of metrics is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Metrics of one name.
#[derive(Debug, Clone)]
pub(super) struct Family {
    /// With the prefix, and for counters without `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) samples: Vec<Sample>,
}

/// A value with its labels.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) value: Value,
}

/// What is measured.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Of counters and gauges.
    Number(u64),
    /// Of gauges in seconds.
    Nanos(u64),
    /// Of histograms, in the unit of their name.
    Sizes(Distribution),
    /// Of histograms in seconds.
    NanoSizes(Distribution),
}

impl Family {
    /// The unit that its name ends with.
    pub(super) fn unit(&self) -> Option<&'static str> {
        let last = self.name.rsplit('_').next().unwrap_or_default();
        UNITS.into_iter().find(|unit| *unit == last)
    }
}

impl Format {
    /// What `Accept` prefers; the old format where it does not care.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        let accepted: Vec<&str> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        let best = |wanted: fn(&str) -> bool| {
            accepted.iter().filter_map(|range| weight(range, wanted)).fold(0.0, f64::max)
        };
        let open = best(|media| media == "application/openmetrics-text");
        let old = best(|media| ["text/plain", "text/*", "*/*"].contains(&media));
        if open > 0.0 && open >= old { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    pub(super) fn write(self, families: &[Family]) -> String {
        let mut text = String::with_capacity(8 << 10);
        for family in families {
            self.write_family(family, &mut text).expect("a String takes everything");
        }
        match self {
            Self::Prometheus => {}
            Self::OpenMetrics => text.push_str("# EOF\n"),
        }
        text
    }

    fn write_family(self, family: &Family, text: &mut String) -> std::fmt::Result {
        let Family { name, kind, help, samples } = family;
        let sample_suffix = match kind {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
        };
        let head_suffix = match self {
            Self::Prometheus => sample_suffix,
            Self::OpenMetrics => "",
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(text, "# HELP {name}{head_suffix} {}", escape_help(help))?;
        writeln!(text, "# TYPE {name}{head_suffix} {kind}")?;
        if let (Self::OpenMetrics, Some(unit)) = (self, family.unit()) {
            writeln!(text, "# UNIT {name}{head_suffix} {unit}")?;
        }
        for Sample { labels, value } in samples {
            match value {
                Value::Number(number) => {
                    writeln!(text, "{name}{sample_suffix}{} {number}", Labels(labels, None))?;
                }
                Value::Nanos(nanos) => {
                    writeln!(text, "{name}{sample_suffix}{} {}", Labels(labels, None), seconds(*nanos))?;
                }
                Value::Sizes(sizes) => write_sizes(text, name, labels, sizes, |size| size.to_string())?,
                Value::NanoSizes(sizes) => write_sizes(text, name, labels, sizes, seconds)?,
            }
        }
        Ok(())
    }
}

fn write_sizes(
    text: &mut String,
    name: &str,
    labels: &[(&'static str, String)],
    sizes: &Distribution,
    show: impl Fn(u64) -> String,
) -> std::fmt::Result {
    for (bound, count) in sizes.cumulative() {
        // OpenMetrics wants a point in every bound.
        let bound = show(bound);
        let bound = if bound.contains('.') { bound } else { format!("{bound}.0") };
        writeln!(text, "{name}_bucket{} {count}", Labels(labels, Some(&bound)))?;
    }
    writeln!(text, "{name}_bucket{} {}", Labels(labels, Some("+Inf")), sizes.count())?;
    writeln!(text, "{name}_count{} {}", Labels(labels, None), sizes.count())?;
    writeln!(text, "{name}_sum{} {}", Labels(labels, None), show(sizes.sum()))
}

/// Exactly, without zeros that say nothing.
fn seconds(nanos: u64) -> String {
    let digits = format!("{nanos:0width$}", width = NANO_DIGITS + 1);
    let (whole, fraction) = digits.split_at(digits.len() - NANO_DIGITS);
    let fraction = fraction.trim_end_matches('0');
    format!("{whole}.{}", if fraction.is_empty() { "0" } else { fraction })
}

/// Labels in braces, the bound of a bucket last; nothing if there are none.
struct Labels<'a>(&'a [(&'static str, String)], Option<&'a str>);

impl std::fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(labels, bound) = self;
        let bound = bound.map(|bound| ("le", bound.to_owned()));
        let mut before = '{';
        for (key, value) in labels.iter().chain(&bound) {
            write!(f, "{before}{key}=\"{}\"", escape_label(value))?;
            before = ',';
        }
        if before == ',' { f.write_str("}") } else { Ok(()) }
    }
}

/// The weight of a media range, if it is wanted. A version that we do not speak is not.
fn weight(range: &str, wanted: fn(&str) -> bool) -> Option<f64> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let mut weight = 1.0;
    for parameter in parts {
        match parameter.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            Some(("q", value)) => weight = value.parse().unwrap_or(0.0),
            Some(("version", version)) if media == "application/openmetrics-text" => {
                if !["1.0.0", "0.0.1"].contains(&version) {
                    return None;
                }
            }
            Some(_) | None => {}
        }
    }
    wanted(&media).then_some(weight)
}

fn escape_help(help: &str) -> String {
    help.replace('\\', "\\\\").replace('\n', "\\n")
}

fn escape_label(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &str) -> Format {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Format::negotiate(&headers)
    }

    #[test]
    fn open_metrics_is_given_to_those_who_prefer_it() {
        assert_eq!(Format::negotiate(&HeaderMap::new()), Format::Prometheus);
        for accept in [
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=2.0.0,text/plain;q=0.5",
            "application/openmetrics-text;q=0.4,text/plain;version=0.0.4;q=0.5",
        ] {
            assert_eq!(accepting(accept), Format::Prometheus, "{accept}");
        }
        for accept in [
            "application/openmetrics-text",
            // Prometheus 2 and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.3,*/*;q=0.2",
        ] {
            assert_eq!(accepting(accept), Format::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn the_formats_differ_in_the_heads_of_counters_in_units_and_in_the_end() {
        let families = [
            Family {
                name: "x_drops",
                kind: Kind::Counter,
                help: "Says \\ and\nmore.",
                samples: vec![Sample {
                    labels: vec![("reason", "a\"b\\c\nd".to_owned()), ("by", "x".to_owned())],
                    value: Value::Number(3),
                }],
            },
            Family {
                name: "x_open_bytes",
                kind: Kind::Gauge,
                help: "Open.",
                samples: vec![Sample { labels: vec![], value: Value::Number(0) }],
            },
        ];
        assert_eq!(
            Format::Prometheus.write(&families),
            "# HELP x_drops_total Says \\\\ and\\nmore.\n# TYPE x_drops_total counter\n\
             x_drops_total{reason=\"a\\\"b\\\\c\\nd\",by=\"x\"} 3\n# HELP x_open_bytes Open.\n\
             # TYPE x_open_bytes gauge\nx_open_bytes 0\n"
        );
        assert_eq!(
            Format::OpenMetrics.write(&families),
            "# HELP x_drops Says \\\\ and\\nmore.\n# TYPE x_drops counter\n\
             x_drops_total{reason=\"a\\\"b\\\\c\\nd\",by=\"x\"} 3\n# HELP x_open_bytes Open.\n\
             # TYPE x_open_bytes gauge\n# UNIT x_open_bytes bytes\nx_open_bytes 0\n# EOF\n"
        );
    }

    #[test]
    fn histograms_are_cumulative_and_their_sums_exact() {
        let mut waits = Distribution::new(&[2_500_000, 1_000_000_000]);
        for nanos in [1, 2_500_000, 3_000_000_000] {
            waits.record(nanos);
        }
        let mut items = Distribution::new(&[8]);
        items.record(9);
        let families = [
            Family {
                name: "x_wait_seconds",
                kind: Kind::Histogram,
                help: "Waits.",
                samples: vec![Sample {
                    labels: vec![("signal", "traces".to_owned())],
                    value: Value::NanoSizes(waits),
                }],
            },
            Family {
                name: "x_items",
                kind: Kind::Histogram,
                help: "Items.",
                samples: vec![Sample { labels: vec![], value: Value::Sizes(items) }],
            },
        ];
        assert_eq!(
            Format::OpenMetrics.write(&families),
            "# HELP x_wait_seconds Waits.\n# TYPE x_wait_seconds histogram\n# UNIT x_wait_seconds seconds\n\
             x_wait_seconds_bucket{signal=\"traces\",le=\"0.0025\"} 2\n\
             x_wait_seconds_bucket{signal=\"traces\",le=\"1.0\"} 2\n\
             x_wait_seconds_bucket{signal=\"traces\",le=\"+Inf\"} 3\n\
             x_wait_seconds_count{signal=\"traces\"} 3\nx_wait_seconds_sum{signal=\"traces\"} 3.002500001\n\
             # HELP x_items Items.\n# TYPE x_items histogram\nx_items_bucket{le=\"8.0\"} 0\n\
             x_items_bucket{le=\"+Inf\"} 1\nx_items_count 1\nx_items_sum 9\n# EOF\n"
        );
    }
}
