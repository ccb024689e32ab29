//! An OTLP peer in the test's own process that keeps what it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{locked, until};

/// A request larger than this is refused: the Collector's own limit.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// A running peer. It ends with this.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<SinkState>>,
    _server: JoinSet<()>,
}

#[derive(Debug, Default)]
struct SinkState {
    received: Vec<Received>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) request: ExportTraceServiceRequest,
}

/// A span, with the worker that its resource names.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) worker: String,
    pub(crate) span: Span,
}

impl Sink {
    /// A peer for gRPC on a free port.
    pub(crate) async fn grpc() -> Result<Self> {
        Self::grpc_at("127.0.0.1:0").await
    }

    /// A peer for gRPC at this address.
    ///
    /// # Errors
    ///
    /// When the address cannot be had.
    pub(crate) async fn grpc_at(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).await.context("failed to listen for OTLP")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(SinkState::default()));
        let service = TraceServiceServer::new(Service(Arc::clone(&state)))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            // A broken listener shows in the test as spans that do not come.
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { address, state, _server: server })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        locked(&self.state).received.clone()
    }

    /// The spans of all requests.
    pub(crate) fn spans(&self) -> Vec<Arrived> {
        self.received().iter().flat_map(Received::spans).collect()
    }

    /// The spans of one worker, once there are so many.
    ///
    /// # Errors
    ///
    /// When they do not come within `limit`.
    pub(crate) async fn spans_of(&self, worker: &str, count: usize, limit: Duration) -> Result<Vec<Span>> {
        let mut seen = 0;
        let found = until("spans at the sink", limit, async || {
            let spans: Vec<Span> = self
                .spans()
                .into_iter()
                .filter(|arrived| arrived.worker == worker)
                .map(|arrived| arrived.span)
                .collect();
            seen = spans.len();
            Ok((seen >= count).then_some(spans))
        })
        .await;
        found.with_context(|| format!("{seen} spans of {worker} came, {count} should"))
    }
}

impl Received {
    /// Its spans, in order.
    pub(crate) fn spans(&self) -> Vec<Arrived> {
        let mut spans = Vec::new();
        for resource in &self.request.resource_spans {
            let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
            let worker = text(attributes, "snakepit.worker.id").unwrap_or_default();
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Arrived { worker: worker.to_owned(), span: span.clone() });
            }
        }
        spans
    }
}

/// The attribute's value, if it is a string.
pub(crate) fn text<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>, key: &str) -> Option<&'a str> {
    let found = attributes.into_iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()? {
        AnyValue { value: Some(Value::StringValue(text)) } => Some(text),
        AnyValue { .. } => None,
    }
}

struct Service(Arc<Mutex<SinkState>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        locked(&self.0).received.push(Received { request: request.into_inner() });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
