//! `OTEL_TRACES_EXPORTER=console`: one line of JSON a span, on standard output.
//!
//! The lines are for reading and for piping into `jq`; their shape is not OTLP/JSON. What a worker may have put into
//! its texts to move a cursor is escaped.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::{DecodeError, Message};
use serde::Serialize;
use serde_json::Map;

use crate::diagnostics::escaped_json;

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

/// The spans of one request.
///
/// # Errors
/// If the bytes are no request, which only bytes from elsewhere can be.
pub(crate) fn lines(body: &[u8]) -> Result<String, DecodeError> {
    let request = ExportTraceServiceRequest::decode(body)?;
    let mut lines = String::new();
    for resource_spans in &request.resource_spans {
        let worker = worker(resource_spans.resource.as_ref());
        for span in resource_spans.scope_spans.iter().flat_map(|scope| &scope.spans) {
            lines.push_str(&line(span, worker));
            lines.push('\n');
        }
    }
    Ok(lines)
}

fn line(span: &Span, worker: &str) -> String {
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
    escaped_json(
        serde_json::to_string(&line).expect("strings, numbers and maps with string keys become JSON"),
    )
}

fn worker(resource: Option<&Resource>) -> &str {
    let id = resource
        .into_iter()
        .flat_map(|resource| &resource.attributes)
        .find(|attribute| attribute.key == "service.instance.id")
        .and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
    match id {
        Some(Value::StringValue(id)) => id,
        _ => "",
    }
}

fn attributes(attributes: &[KeyValue]) -> Map<String, serde_json::Value> {
    attributes
        .iter()
        .filter_map(|attribute| {
            let value = match attribute.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => text.as_str().into(),
                Value::BoolValue(boolean) => (*boolean).into(),
                Value::IntValue(int) => (*int).into(),
                // JSON has no word for what is not finite.
                Value::DoubleValue(float) if float.is_finite() => (*float).into(),
                Value::DoubleValue(float) => float.to_string().into(),
                Value::ArrayValue(_)
                | Value::KvlistValue(_)
                | Value::BytesValue(_)
                | Value::StringValueStrindex(_) => return None,
            };
            Some((attribute.key.clone(), value))
        })
        .collect()
}

fn timestamp(unix_nanos: u64) -> String {
    // Every count of 64 bits lies within the years that jiff knows.
    jiff::Timestamp::from_nanosecond(i128::from(unix_nanos)).map(|time| time.to_string()).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::attributes::AttributeValue;
    use crate::engine::span::{SpanId, Status};
    use crate::exporter::batch::{BatchSettings, Batcher, Provenance};
    use crate::exporter::encode::write_span;
    use crate::exporter::resource::ResourceSettings;
    use crate::exporter::testing::span;
    use crate::time::{Monotonic, UnixNanos};

    #[test]
    fn a_span_is_a_line_of_json() {
        let mut span = span("snakepit.python.tool\u{1b}[31m\n\u{9b}");
        span.start = UnixNanos(1_700_000_000_123_456_789);
        span.end = span.start.saturating_add(1_234_567);
        span.parent_span_id = Some(SpanId([3; 8]));
        span.status = Status::Error("boom".into());
        span.attributes.set("n", AttributeValue::Int(1));
        span.attributes.set("f", AttributeValue::Float(f64::NAN));
        let mut encoded = Vec::new();
        write_span(&mut encoded, &span);
        let settings = BatchSettings { delay: Duration::ZERO, ..BatchSettings::default() };
        let mut batcher = Batcher::new(settings, ResourceSettings::default());
        batcher.push(&span.source, &encoded, 1, Provenance::default(), Monotonic(0)).unwrap();

        assert_eq!(
            lines(&batcher.flush().unwrap().body).unwrap(),
            concat!(
                r#"{"start":"2023-11-14T22:13:20.123456789Z","duration_ms":1.234,"#,
                r#""name":"snakepit.python.tool\u001b[31m\n\u009b","worker":"worker_1@node_a","status":"error","#,
                r#""message":"boom","kind":"INTERNAL","trace_id":"01010101010101010101010101010101","#,
                r#""span_id":"0202020202020202","parent_span_id":"0303030303030303","#,
                r#""attributes":{"f":"NaN","n":1}}"#,
                "\n"
            )
        );
    }
}
