//! What a peer was sent, item by item.

use std::time::Instant;

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;

/// One request, whatever the peer answered.
#[derive(Debug, Clone)]
pub(crate) struct Received<R = ExportTraceServiceRequest> {
    pub(crate) at: Instant,
    pub(crate) headers: HeaderMap,
    pub(crate) request: R,
    pub(crate) taken: bool,
}

/// A span, with the worker that its resource names.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) worker: String,
    pub(crate) span: Span,
}

/// A metric, with the worker that its resource names, and what else that says.
#[derive(Debug, Clone)]
pub(crate) struct ArrivedMetric {
    pub(crate) worker: String,
    pub(crate) resource: Vec<KeyValue>,
    pub(crate) metric: Metric,
}

/// A log record, with the worker that its resource names.
#[derive(Debug, Clone)]
pub(crate) struct ArrivedRecord {
    pub(crate) worker: String,
    pub(crate) record: LogRecord,
}

impl Received {
    /// Its spans, in order.
    pub(crate) fn spans(&self) -> Vec<Arrived> {
        let mut spans = Vec::new();
        for resource in &self.request.resource_spans {
            let worker = worker(resource.resource.as_ref());
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Arrived { worker: worker.clone(), span: span.clone() });
            }
        }
        spans
    }
}

impl Received<ExportMetricsServiceRequest> {
    /// Its metrics, in order.
    pub(crate) fn metrics(&self) -> Vec<ArrivedMetric> {
        let mut metrics = Vec::new();
        for resource in &self.request.resource_metrics {
            let worker = worker(resource.resource.as_ref());
            let attributes = resource.resource.clone().unwrap_or_default().attributes;
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                metrics.push(ArrivedMetric {
                    worker: worker.clone(),
                    resource: attributes.clone(),
                    metric: metric.clone(),
                });
            }
        }
        metrics
    }
}

impl Received<ExportLogsServiceRequest> {
    /// Its log records, in order.
    pub(crate) fn records(&self) -> Vec<ArrivedRecord> {
        let mut records = Vec::new();
        for resource in &self.request.resource_logs {
            let worker = worker(resource.resource.as_ref());
            for record in resource.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                records.push(ArrivedRecord { worker: worker.clone(), record: record.clone() });
            }
        }
        records
    }
}

fn worker(resource: Option<&Resource>) -> String {
    let attributes = resource.into_iter().flat_map(|resource| &resource.attributes);
    text(attributes, "snakepit.worker.id").unwrap_or_default().to_owned()
}

/// The attribute's value, if it is a string.
pub(crate) fn text<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>, key: &str) -> Option<&'a str> {
    let found = attributes.into_iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()? {
        AnyValue { value: Some(Value::StringValue(text)) } => Some(text),
        AnyValue { .. } => None,
    }
}
