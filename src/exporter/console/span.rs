//! A span for people.

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde::Serialize;
use serde_json::Map;

use super::{attributes, hex, timestamp, written};

#[derive(Serialize)]
struct Line<'a> {
    start: String,
    duration_ms: f64,
    name: &'a str,
    worker: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    kind: &'a str,
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    attributes: Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<String>,
}

#[derive(Serialize)]
struct EventLine<'a> {
    name: &'a str,
    time: String,
    attributes: Map<String, serde_json::Value>,
}

pub(super) fn line(span: &Span, worker: &str) -> String {
    let status = span.status.as_ref();
    let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    let line = Line {
        start: timestamp(span.start_time_unix_nano),
        // Whole microseconds: more digits only hide the first.
        duration_ms: (nanos / 1_000) as f64 / 1e3,
        name: &span.name,
        worker,
        status: match status.map_or(StatusCode::Unset, |status| status.code()) {
            StatusCode::Unset => "unset",
            StatusCode::Ok => "ok",
            StatusCode::Error => "error",
        },
        message: status.map_or("", |status| &status.message),
        kind: span.kind().as_str_name().trim_start_matches("SPAN_KIND_"),
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
        attributes: attributes(&span.attributes),
        events: span
            .events
            .iter()
            .map(|event| EventLine {
                name: &event.name,
                time: timestamp(event.time_unix_nano),
                attributes: attributes(&event.attributes),
            })
            .collect(),
        links: span
            .links
            .iter()
            .map(|link| format!("{}:{}", hex(&link.trace_id), hex(&link.span_id)))
            .collect(),
    };
    written(&line)
}
