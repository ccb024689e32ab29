//! The limits that the documentation names.

use super::*;
use crate::admin::server::MAX_CONNECTIONS;
use crate::config::metrics::{MAX_BOUNDARIES, MAX_CONDITIONS, MAX_DESCRIPTION_CHARS, MAX_METRIC_RULES};
use crate::control::glob::MAX_PATTERN_CHARS;
use crate::control::policies::MAX_PATTERNS;
use crate::diagnostics::lines::MAX_WAITING_LINES;
use crate::engine::metrics::mapping::MAX_MEASUREMENTS;
use crate::engine::metrics::mapping::point_keys::{MAX_POINT_KEYS, MAX_POINT_VALUE_BYTES};
use crate::engine::metrics::settings::MetricSettings;
use crate::engine::settings::{MAX_KEY_BYTES, MAX_NAME_CHARS};
use crate::exporter::queue::QueueSettings;
use crate::exporter::{batch, retry};
use crate::receiver::arrivals::ARRIVAL_LINES;
use crate::receiver::credentials::MAX_CREDENTIAL_BYTES;
use crate::receiver::identity::MAX_IDENTITY_CHARS;
use crate::receiver::listen::{HANDSHAKE_LIMIT, MAX_HANDSHAKES, PREFACE_LIMIT};
use crate::receiver::{self, registry};

/// Law: the documented limits are those that hold.
#[test]
fn the_documentation_names_every_limit_at_its_value() {
    let engine = engine::Settings::default();
    let limits = &engine.limits;
    let metrics = MetricSettings::default();
    let queue = QueueSettings::default().max_bytes;
    let value = |count: usize| {
        let digits = count.to_string();
        let groups: Vec<_> =
            digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap()).collect();
        groups.join(",")
    };
    let wait = |wait: Duration| humantime::format_duration(wait).to_string();
    let streams = usize::try_from(registry::MAX_STREAMS_PER_WORKER).unwrap();
    let batch_spans = usize::try_from(batch::DEFAULT_MAX_BATCH_SPANS).unwrap();
    let file_bytes = usize::try_from(file::MAX_FILE_BYTES).unwrap();
    let arrival_lines = usize::try_from(ARRIVAL_LINES).unwrap();
    let credential_bytes = usize::try_from(MAX_CREDENTIAL_BYTES).unwrap();
    let message_bytes = usize::try_from(receiver::DEFAULT_MAX_MESSAGE_BYTES).unwrap();
    let rows = [
        (
            "workers connected or within their grace period",
            value(receiver::DEFAULT_MAX_WORKERS),
            "limits.max_workers",
        ),
        ("streams of one worker", value(streams), ""),
        (
            "connections to the worker port",
            value(receiver::DEFAULT_MAX_CONNECTIONS),
            "limits.max_connections",
        ),
        ("TLS handshakes under way on the worker port", value(MAX_HANDSHAKES), ""),
        ("how long a TLS handshake may take", wait(HANDSHAKE_LIMIT), ""),
        ("how long a connection may take until it speaks HTTP/2", wait(PREFACE_LIMIT), ""),
        ("bytes of a message", value(message_bytes), "limits.max_message_bytes"),
        ("bytes of batches that wait on disk", value(DEFAULT_MAX_SPOOL_BYTES), "limits.max_spool_bytes"),
        ("open spans", value(DEFAULT_MAX_OPEN_SPANS), "limits.max_open_spans"),
        ("bytes of open spans", value(DEFAULT_MAX_OPEN_BYTES), "limits.max_open_bytes"),
        (
            "open spans of one worker",
            value(limits.max_open_spans_per_worker),
            "limits.max_open_spans_per_worker",
        ),
        (
            "bytes of open spans of one worker, at most all bytes of open spans",
            value(limits.max_open_bytes_per_worker),
            "",
        ),
        (
            "open spans of one worker whose starts and ends are sampled each on its own",
            value(limits.max_uncertain_per_worker),
            "",
        ),
        (
            "ends and standalone events of one worker that wait for their span",
            value(limits.max_waiting_per_worker),
            "",
        ),
        ("finished spans of one worker that wait for their parent", value(limits.max_held_per_worker), ""),
        ("events of one worker remembered against duplicates", value(limits.max_duplicates_per_worker), ""),
        ("incomplete spans of one worker remembered for a late end", value(limits.max_closed_per_worker), ""),
        ("how long those are remembered", wait(limits.closed_memory), ""),
        ("how long a correlation id may stay in use without a warning", wait(engine.trace_idle), ""),
        ("characters of an event's name", value(MAX_NAME_CHARS), ""),
        ("characters of a worker's id, pool or node", value(MAX_IDENTITY_CHARS), ""),
        ("bytes of an attribute's key", value(MAX_KEY_BYTES), ""),
        (
            "bytes of an attribute's value, where no number of characters is set",
            value(limits.max_attribute_value_bytes),
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        ),
        ("attributes of a span", value(limits.max_attributes), "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ("events of a span", value(limits.max_span_events), "OTEL_SPAN_EVENT_COUNT_LIMIT"),
        (
            "attributes of a span's event",
            value(limits.max_event_attributes),
            "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
        ),
        ("links of a span", value(limits.max_span_links), "OTEL_SPAN_LINK_COUNT_LIMIT"),
        ("series of one instrument of one worker", value(metrics.max_series), "metrics.max_series"),
        ("series of one worker", value(metrics.max_series_per_worker), "metrics.max_series_per_worker"),
        ("instruments of one worker", value(metrics.max_instruments_per_worker), ""),
        ("how long a series stays without a measurement", wait(metrics.series_idle), "metrics.series_idle"),
        ("measurements of one event that become metrics", value(MAX_MEASUREMENTS), ""),
        ("bytes of a point attribute's value", value(MAX_POINT_VALUE_BYTES), ""),
        ("keys in a list of point attributes", value(MAX_POINT_KEYS), ""),
        ("rules for metrics", value(MAX_METRIC_RULES), ""),
        ("boundaries of a histogram", value(MAX_BOUNDARIES), ""),
        ("conditions of one rule, `keep` and `drop` each", value(MAX_CONDITIONS), ""),
        ("characters of a metric's description", value(MAX_DESCRIPTION_CHARS), ""),
        ("event patterns in one list", value(MAX_PATTERNS), ""),
        ("characters of a glob", value(MAX_PATTERN_CHARS), ""),
        ("spans in an export request", value(batch_spans), "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        ("bytes of an export request", value(batch::DEFAULT_MAX_BATCH_BYTES), ""),
        ("bytes of spans that wait for the Collector", value(queue), ""),
        ("how long a refused export is tried again", wait(retry::DEFAULT_MAX_ELAPSED), ""),
        ("connections to the admin port", value(MAX_CONNECTIONS), ""),
        ("bytes of the configuration file", value(file_bytes), ""),
        ("lines of the log that wait to be read", value(MAX_WAITING_LINES), ""),
        ("lines of the log a minute about workers that come and go", value(arrival_lines), ""),
        ("bytes of a file with a certificate, key or worker token", value(credential_bytes), ""),
    ];

    let written =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).unwrap();
    let expected: Vec<String> = rows
        .iter()
        .map(|(limit, value, setting)| match *setting {
            "" => format!("| {limit} | {value} | |"),
            setting => format!("| {limit} | {value} | `{setting}` |"),
        })
        .collect();
    let table: Vec<&str> = written
        .lines()
        .skip_while(|line| *line != "| limit | value | setting |")
        .skip(2)
        .take_while(|line| !line.is_empty())
        .collect();
    assert_eq!(table, expected);
    let settable: BTreeSet<String> = rows
        .iter()
        .map(|(_, _, setting)| (*setting).to_owned())
        .filter(|setting| setting.starts_with("limits."))
        .collect();
    let known = schema::leaf_paths().into_iter().filter(|path| path.starts_with("limits.")).collect();
    assert_eq!(settable, known, "every key of `limits` is in the table");
}
