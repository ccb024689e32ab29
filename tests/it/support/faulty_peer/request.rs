//! Reading what a client sends.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};
use http::HeaderMap;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde::de::DeserializeOwned;

use super::Transport;
use crate::support::points::Points;
use crate::support::sink::text;

/// A request, decoded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Payload {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

/// A span, with what its resource says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arrived {
    pub(crate) worker: String,
    pub(crate) resource: Vec<KeyValue>,
    pub(crate) span: Span,
}

impl Arrived {
    /// An attribute of the span, if it is a string.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        text(&self.span.attributes, key)
    }
}

/// A log record, with the worker that its resource names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ArrivedRecord {
    pub(crate) worker: String,
    pub(crate) record: LogRecord,
}

impl Payload {
    /// Decodes a body as it came; answers its size uncompressed, too.
    ///
    /// # Errors
    ///
    /// When it is no OTLP.
    pub(super) fn read(
        transport: Transport,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(Self, usize)> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (body, is_json) = match transport {
            Transport::Grpc => {
                let (head, body) = body.split_at_checked(5).context("no gRPC message")?;
                let length = u32::from_be_bytes(head[1..].try_into()?);
                ensure!(length as usize == body.len(), "a message of {length} in {} bytes", body.len());
                let encoding = if head[0] == 1 { header("grpc-encoding") } else { "identity" };
                (uncompressed(encoding, body)?, false)
            }
            Transport::Http => (
                uncompressed(header("content-encoding"), body)?,
                header("content-type") == "application/json",
            ),
        };
        let size = body.len();
        let payload = match path {
            "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                Self::Traces(decode(&body, is_json)?)
            }
            "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                Self::Metrics(decode(&body, is_json)?)
            }
            "/v1/logs" | "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => {
                Self::Logs(decode(&body, is_json)?)
            }
            _ => bail!("no OTLP is sent to {path}"),
        };
        Ok((payload, size))
    }

    /// Adds its points.
    pub(super) fn add_to(&self, points: &mut Points) {
        let Self::Metrics(request) = self else { return };
        for resource in &request.resource_metrics {
            let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
            let worker = text(attributes, "snakepit.worker.id").unwrap_or_default();
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                points.add(worker, metric);
            }
        }
    }

    /// Its log records, in order.
    pub(super) fn records(&self) -> Vec<ArrivedRecord> {
        let Self::Logs(request) = self else { return Vec::new() };
        let mut records = Vec::new();
        for resource in &request.resource_logs {
            let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
            let worker = text(attributes, "snakepit.worker.id").unwrap_or_default();
            for record in resource.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                records.push(ArrivedRecord { worker: worker.to_owned(), record: record.clone() });
            }
        }
        records
    }

    /// Its spans, in order.
    pub(super) fn spans(&self) -> Vec<Arrived> {
        let Self::Traces(request) = self else { return Vec::new() };
        let mut spans = Vec::new();
        for resource in &request.resource_spans {
            let attributes = resource.resource.clone().unwrap_or_default().attributes;
            let worker = text(&attributes, "snakepit.worker.id").unwrap_or_default();
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Arrived {
                    worker: worker.to_owned(),
                    resource: attributes.clone(),
                    span: span.clone(),
                });
            }
        }
        spans
    }
}

fn decode<T: Message + Default + DeserializeOwned>(body: &[u8], is_json: bool) -> Result<T> {
    if is_json { Ok(serde_json::from_slice(body)?) } else { Ok(T::decode(body)?) }
}

fn uncompressed(encoding: &str, body: &[u8]) -> Result<Vec<u8>> {
    match encoding {
        "" | "identity" => Ok(body.to_vec()),
        "gzip" => {
            let mut bytes = Vec::new();
            flate2::read::GzDecoder::new(body).read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        "zstd" => Ok(zstd::stream::decode_all(body)?),
        _ => bail!("the encoding {encoding} is unknown here"),
    }
}
