//! What a measurement is, by its name and its event's. The first line that matches counts:
//!
//! | measurement | instrument | unit |
//! |---|---|---|
//! | `…_per_…` | histogram | none: a rate |
//! | `batch_size`, `*_batch_size` | histogram | `{item}` |
//! | `queue_size`, `pool_size`, `*_queue_size`, `*_pool_size` | gauge | `{item}` |
//! | `*_ns`, `*_us`, `*_ms`, `*_s`, `*_seconds`, and written out | histogram | `s` |
//! | `duration`, `lifetime`, `uptime`, `downtime`, `*_duration`, `*_time`: nanoseconds | histogram | `s` |
//! | `bytes`, `*_bytes`, `*_size`, `memory_allocated`, `memory_reserved` | histogram | `By` |
//! | `*_kb`, `*_mb`, `*_gb`, `*_tb`: multiples of 2^10 | histogram | `By` |
//! | `percent`, `*_percent` | gauge | `%` |
//! | `utilization`, `*_utilization` | gauge | `1` |
//! | `depth`, `*_depth`; `workers`, `*_workers` | gauge | `{item}`; `{worker}` |
//! | `count`; `hits`, `errors`, `executions`; `first_seen` | counter | of the event's last part; `{hit}`, …; `{event}` |
//! | `tokens`, `*_tokens`, `token_count`, `*_token_count` | histogram | `{token}` |
//! | `rows`, `*_rows`; `*_count` | histogram | `{row}`; of what is counted |
//! | anything else | histogram | none |
//!
//! Of the events `*.sampled`, `*.state` and `pool.status` everything is a gauge, in the same unit. What is before the last dot of
//! a measurement's name plays no part.

use std::borrow::Cow;

use super::names::annotation;

/// The measurement of an event that has none: it is counted.
pub(super) const COUNT: &str = "count";

/// Never a metric: times of the event itself, and what tells one thing from another.
const NEVER: [(&str, &str); 8] = [
    ("system_time", TIME),
    ("monotonic_time", TIME),
    ("timestamp", TIME),
    ("pid", IDENTIFIER),
    ("port", IDENTIFIER),
    ("sequence_number", IDENTIFIER),
    ("python_pid", IDENTIFIER),
    ("python_port", IDENTIFIER),
];
const TIME: &str = "never a metric: the time of the event";
const IDENTIFIER: &str = "never a metric: an identifier";
const BYTES: &str = "a number of bytes";
const HAPPENED: &str = "a count of what happened";
const COUNTED: &str = "a count of what happened: the one that is sent, or 1 for an event without a number";

/// At the end of a name: the unit that it stands for, the one that is made of it, and whether it leaves the name although
/// nothing was converted, because Prometheus would put the unit behind it a second time.
const SUFFIXES: [(&str, &str, &str, bool, &str); 15] = [
    ("_nanoseconds", "ns", "s", true, "a time in nanoseconds"),
    ("_microseconds", "us", "s", true, "a time in microseconds"),
    ("_milliseconds", "ms", "s", true, "a time in milliseconds"),
    ("_seconds", "s", "s", false, "a time in seconds"),
    ("_ns", "ns", "s", true, "a time in nanoseconds"),
    ("_us", "us", "s", true, "a time in microseconds"),
    ("_ms", "ms", "s", true, "a time in milliseconds"),
    ("_s", "s", "s", true, "a time in seconds"),
    ("_duration", "ns", "s", false, "a time in nanoseconds"),
    ("_time", "ns", "s", false, "a time in nanoseconds"),
    ("_bytes", "By", "By", false, BYTES),
    ("_kb", "KiBy", "By", true, "a number of KiB, 2^10 bytes each"),
    ("_mb", "MiBy", "By", true, "a number of MiB, 2^20 bytes each"),
    ("_gb", "GiBy", "By", true, "a number of GiB, 2^30 bytes each"),
    ("_tb", "TiBy", "By", true, "a number of TiB, 2^40 bytes each"),
];

/// What is made of measurements without a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A monotonic sum.
    Counter,
    /// The last value.
    Gauge,
    /// A distribution.
    Histogram,
}

/// What a measurement is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape<'k> {
    pub(super) form: Form,
    /// The unit in which it is sent, where its name says so.
    pub(super) sent: Option<&'static str>,
    /// The unit of the instrument.
    pub(super) unit: Cow<'static, str>,
    /// The name without its unit word.
    pub(super) stem: &'k str,
    /// The unit word leaves the name even where nothing is converted.
    pub(super) word_leaves: bool,
    pub(super) because: &'static str,
}

/// Why measurements of this name never are a metric, if so.
pub(super) fn never(key: &str) -> Option<&'static str> {
    NEVER.iter().find(|(name, _)| *name == key).map(|(_, because)| *because)
}

/// Why everything that an event of this name measures is a gauge, if so.
pub(super) fn event_shape(emitted: &str) -> Option<&'static str> {
    if emitted.ends_with(".sampled") {
        Some("the event's name ends in `.sampled`")
    } else if emitted.ends_with(".state") {
        Some("the event's name ends in `.state`")
    } else if emitted == "pool.status" || emitted.ends_with(".pool.status") {
        Some("the event is `pool.status`")
    } else {
        None
    }
}

/// The shape of a measurement. `counted` is the unit of what a bare `count` counts.
pub(super) fn shape<'k>(key: &'k str, counted: &str) -> Shape<'k> {
    let word = key.rsplit('.').next().unwrap_or(key);
    let is = |name: &str| word == name;
    let ends = |suffix: &str| word.len() > suffix.len() && word.ends_with(suffix);
    let plain = |form, unit: Cow<'static, str>, because| Shape {
        form,
        sent: None,
        unit,
        stem: key,
        word_leaves: false,
        because,
    };
    let of_unit = |form, unit: &'static str, because| Shape {
        sent: Some(unit),
        ..plain(form, Cow::Borrowed(unit), because)
    };
    if word.contains("_per_") {
        return plain(Form::Histogram, "".into(), "a rate: its unit is not known");
    }
    if is("batch_size") || ends("_batch_size") {
        return plain(Form::Histogram, "{item}".into(), "the size of a batch: how many");
    }
    if ["queue_size", "pool_size"].into_iter().any(is) || ends("_queue_size") || ends("_pool_size") {
        return plain(Form::Gauge, "{item}".into(), "the size of a queue or pool: how many there are");
    }
    if let Some((suffix, sent, unit, leaves, because)) = SUFFIXES.into_iter().find(|row| ends(row.0)) {
        let stem = match suffix {
            // These say what is measured, and not in which unit.
            "_duration" | "_time" => key,
            suffix => &key[..key.len() - suffix.len()],
        };
        let shape = plain(Form::Histogram, unit.into(), because);
        return Shape { sent: Some(sent), stem, word_leaves: leaves, ..shape };
    }
    if ["duration", "lifetime", "uptime", "downtime"].into_iter().any(is) {
        let shape = plain(Form::Histogram, "s".into(), "a time in nanoseconds");
        return Shape { sent: Some("ns"), ..shape };
    }
    if ["bytes", "memory_allocated", "memory_reserved"].into_iter().any(is) || ends("_size") {
        return of_unit(Form::Histogram, "By", BYTES);
    }
    if is("percent") || ends("_percent") {
        let stem = key.strip_suffix("_percent").unwrap_or(key);
        return Shape { stem, ..of_unit(Form::Gauge, "%", "a percentage") };
    }
    if is("utilization") || ends("_utilization") {
        return of_unit(Form::Gauge, "1", "a utilization: a fraction of 1");
    }
    if is("depth") || ends("_depth") {
        return plain(Form::Gauge, "{item}".into(), "a depth: how many there are");
    }
    if is("workers") || ends("_workers") {
        return plain(Form::Gauge, "{worker}".into(), "workers: how many there are");
    }
    if is("tokens") || ends("_tokens") || is("token_count") || ends("_token_count") {
        return plain(Form::Histogram, "{token}".into(), "a number of tokens");
    }
    match word {
        COUNT => plain(Form::Counter, counted.to_owned().into(), COUNTED),
        "hits" => plain(Form::Counter, "{hit}".into(), HAPPENED),
        "errors" => plain(Form::Counter, "{error}".into(), HAPPENED),
        "executions" => plain(Form::Counter, "{execution}".into(), HAPPENED),
        "first_seen" => plain(Form::Counter, "{event}".into(), HAPPENED),
        _ if is("rows") || ends("_rows") => plain(Form::Histogram, "{row}".into(), "a number of rows"),
        _ => match word.strip_suffix("_count").filter(|counted| !counted.is_empty()) {
            Some(counted) => {
                let counted = counted.rsplit('_').next().unwrap_or(counted);
                plain(Form::Histogram, annotation(counted).into(), "a number of things")
            }
            None => plain(Form::Histogram, "".into(), "a number of which its name says nothing"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Form, unit, and the unit in which it is sent.
    #[track_caller]
    fn is(key: &str, form: Form, unit: &str, sent: Option<&str>) {
        let shape = shape(key, "{hit}");
        assert_eq!((shape.form, &*shape.unit, shape.sent), (form, unit, sent), "{key}");
    }

    #[test]
    fn times_are_histograms_in_seconds() {
        for key in
            ["duration", "queue_time", "affinity_duration", "lifetime", "uptime", "wait_ns", "a.duration"]
        {
            is(key, Form::Histogram, "s", Some("ns"));
        }
        is("duration_us", Form::Histogram, "s", Some("us"));
        is("latency_ms", Form::Histogram, "s", Some("ms"));
        is("wait_milliseconds", Form::Histogram, "s", Some("ms"));
        is("uptime_seconds", Form::Histogram, "s", Some("s"));
        is("wait_s", Form::Histogram, "s", Some("s"));
    }

    #[test]
    fn sizes_are_histograms_in_bytes() {
        for key in ["bytes", "rss_bytes", "request_size", "memory_allocated"] {
            is(key, Form::Histogram, "By", Some("By"));
        }
        is("cache_kb", Form::Histogram, "By", Some("KiBy"));
        is("rss_mb", Form::Histogram, "By", Some("MiBy"));
        is("free_gb", Form::Histogram, "By", Some("GiBy"));
    }

    #[test]
    fn fractions_and_levels_are_gauges() {
        is("cpu_percent", Form::Gauge, "%", Some("%"));
        is("percent", Form::Gauge, "%", Some("%"));
        is("utilization", Form::Gauge, "1", Some("1"));
        is("queue_depth", Form::Gauge, "{item}", None);
        is("busy_workers", Form::Gauge, "{worker}", None);
        is("queue_size", Form::Gauge, "{item}", None);
    }

    #[test]
    fn counts_of_what_happened_are_counters() {
        is("count", Form::Counter, "{hit}", None);
        is("hits", Form::Counter, "{hit}", None);
        is("errors", Form::Counter, "{error}", None);
        is("executions", Form::Counter, "{execution}", None);
        is("first_seen", Form::Counter, "{event}", None);
    }

    #[test]
    fn tokens_numbers_of_things_and_the_unknown_are_histograms() {
        for key in ["tokens", "prompt_tokens", "token_count"] {
            is(key, Form::Histogram, "{token}", None);
        }
        is("message_count", Form::Histogram, "{message}", None);
        is("rows", Form::Histogram, "{row}", None);
        is("batch_size", Form::Histogram, "{item}", None);
        for key in
            ["loss", "value", "size", "ms", "_ms", "_count", "tokens_per_s", "bytes_per_second", "", "."]
        {
            is(key, Form::Histogram, "", None);
        }
    }

    #[test]
    fn a_unit_word_is_known_as_one() {
        for (key, stem, leaves) in [
            ("latency_ms", "latency", true),
            ("rss_mb", "rss", true),
            ("wait_s", "wait", true),
            ("gpu.rss_mb", "gpu.rss", true),
            ("rss_bytes", "rss", false),
            ("cpu_percent", "cpu", false),
            ("uptime_seconds", "uptime", false),
            ("queue_time", "queue_time", false),
            ("bytes", "bytes", false),
        ] {
            let shape = shape(key, "");
            assert_eq!((shape.stem, shape.word_leaves), (stem, leaves), "{key}");
        }
    }

    #[test]
    fn samples_and_states_are_known_by_their_event() {
        for name in
            ["memory.sampled", "gpu.memory.sampled", "breaker.state", "pool.status", "python.pool.status"]
        {
            assert!(event_shape(name).is_some(), "{name}");
        }
        for name in ["sampled", "resampled", "memory.sampled.x", "carpool.status", "worker.status"] {
            assert_eq!(event_shape(name), None, "{name}");
        }
    }

    #[test]
    fn times_of_the_event_and_identifiers_are_never_metrics() {
        for (key, because) in NEVER {
            assert_eq!(never(key), Some(because));
        }
        assert_eq!(never("queue_time"), None);
    }
}
