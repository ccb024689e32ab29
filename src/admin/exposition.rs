//! The two text formats in which Prometheus reads metrics, and which of them a request asks for.
//!
//! They differ in three points only: the content type, the name in the head of a counter (OpenMetrics leaves `_total` to
//! the sample), and the last line.

use std::fmt::Write as _;

use axum::http::{HeaderMap, header};

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
}

/// Metrics of one name.
#[derive(Debug)]
pub(super) struct Family {
    /// With the prefix, and for counters without `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) samples: Vec<Sample>,
}

/// A value with its label, if it has one.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) label: Option<(&'static str, String)>,
    pub(super) value: u64,
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
            Kind::Gauge => "",
        };
        let head_suffix = match self {
            Self::Prometheus => sample_suffix,
            Self::OpenMetrics => "",
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        writeln!(text, "# HELP {name}{head_suffix} {}", escape_help(help))?;
        writeln!(text, "# TYPE {name}{head_suffix} {kind}")?;
        for Sample { label, value } in samples {
            match label {
                None => writeln!(text, "{name}{sample_suffix} {value}")?,
                Some((key, label)) => {
                    writeln!(text, "{name}{sample_suffix}{{{key}=\"{}\"}} {value}", escape_label(label))?;
                }
            }
        }
        Ok(())
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
    fn the_formats_differ_in_the_heads_of_counters_and_in_the_end() {
        let families = [
            Family {
                name: "x_drops",
                kind: Kind::Counter,
                help: "Says \\ and\nmore.",
                samples: vec![Sample { label: Some(("reason", "a\"b\\c\nd".to_owned())), value: 3 }],
            },
            Family {
                name: "x_open",
                kind: Kind::Gauge,
                help: "Open.",
                samples: vec![Sample { label: None, value: 0 }],
            },
        ];
        assert_eq!(
            Format::Prometheus.write(&families),
            "# HELP x_drops_total Says \\\\ and\\nmore.\n# TYPE x_drops_total counter\n\
             x_drops_total{reason=\"a\\\"b\\\\c\\nd\"} 3\n# HELP x_open Open.\n# TYPE x_open gauge\nx_open 0\n"
        );
        assert_eq!(
            Format::OpenMetrics.write(&families),
            "# HELP x_drops Says \\\\ and\\nmore.\n# TYPE x_drops counter\n\
             x_drops_total{reason=\"a\\\"b\\\\c\\nd\"} 3\n# HELP x_open Open.\n# TYPE x_open gauge\nx_open 0\n# EOF\n"
        );
    }
}
