//! A log record for people.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde::Serialize;
use serde_json::Map;

use super::{attributes, hex, timestamp, written};

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    severity: &'a str,
    name: &'a str,
    worker: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    attributes: Map<String, serde_json::Value>,
}

pub(super) fn line(record: &LogRecord, worker: &str) -> String {
    let id = |id: &[u8]| (!id.is_empty()).then(|| hex(id));
    written(&Line {
        time: timestamp(record.time_unix_nano),
        severity: record.severity_number().as_str_name().trim_start_matches("SEVERITY_NUMBER_"),
        name: &record.event_name,
        worker,
        body: match record.body.as_ref().and_then(|body| body.value.as_ref()) {
            Some(Value::StringValue(text)) => text,
            // The bridge writes nothing else.
            _ => "",
        },
        trace_id: id(&record.trace_id),
        span_id: id(&record.span_id),
        attributes: attributes(&record.attributes),
    })
}
