//! `OTEL_TRACES_EXPORTER=console` and its like: one line of JSON a span, a point or a log record, on standard output.
//!
//! The lines are for reading and for piping into `jq`; their shape is not OTLP/JSON. What a worker may have put into
//! its texts to move a cursor is escaped.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::{DecodeError, Message};
use serde::Serialize;
use serde_json::Map;

use crate::diagnostics::escaped_json;
use crate::exporter::signal::Signal;

mod point;
mod record;
mod span;
#[cfg(test)]
mod tests;

/// What is in one request.
///
/// # Errors
/// If the bytes are no request, which only bytes from elsewhere can be.
pub(crate) fn lines(signal: Signal, body: &[u8]) -> Result<String, DecodeError> {
    let mut lines = String::new();
    let mut add = |line: String| {
        lines.push_str(&line);
        lines.push('\n');
    };
    match signal {
        Signal::Traces => {
            for resource in &ExportTraceServiceRequest::decode(body)?.resource_spans {
                let worker = worker(resource.resource.as_ref());
                let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
                spans.for_each(|span| add(span::line(span, worker)));
            }
        }
        Signal::Metrics => {
            for resource in &ExportMetricsServiceRequest::decode(body)?.resource_metrics {
                let worker = worker(resource.resource.as_ref());
                let metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
                metrics.for_each(|metric| point::lines(metric, worker, &mut add));
            }
        }
        Signal::Logs => {
            for resource in &ExportLogsServiceRequest::decode(body)?.resource_logs {
                let worker = worker(resource.resource.as_ref());
                let records = resource.scope_logs.iter().flat_map(|scope| &scope.log_records);
                records.for_each(|record| add(record::line(record, worker)));
            }
        }
    }
    Ok(lines)
}

fn written(line: &impl Serialize) -> String {
    escaped_json(serde_json::to_string(line).expect("strings, numbers and maps with string keys become JSON"))
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
                Value::DoubleValue(float) => double(*float),
                Value::ArrayValue(_)
                | Value::KvlistValue(_)
                | Value::BytesValue(_)
                | Value::StringValueStrindex(_) => return None,
            };
            Some((attribute.key.clone(), value))
        })
        .collect()
}

/// JSON has no word for what is not finite.
fn double(float: f64) -> serde_json::Value {
    if float.is_finite() { float.into() } else { float.to_string().into() }
}

fn timestamp(unix_nanos: u64) -> String {
    // Every count of 64 bits lies within the years that jiff knows.
    jiff::Timestamp::from_nanosecond(i128::from(unix_nanos)).map(|time| time.to_string()).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
