//! An OTLP peer in the test's own process: it keeps what it is sent, and answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{locked, now, until};

/// A request larger than this is refused: the Collector's own limit.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// A running peer. It ends with this.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<SinkState>>,
    _server: JoinSet<()>,
}

/// What the peer says to one request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// This many spans are rejected.
    Partial(i64),
    /// None is taken.
    Fail(Status),
}

#[derive(Debug, Default)]
struct SinkState {
    received: Vec<Received>,
    answers: VecDeque<Answer>,
}

/// One request, whatever the peer answered.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    pub(crate) headers: HeaderMap,
    pub(crate) request: ExportTraceServiceRequest,
    pub(crate) taken: bool,
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

    /// A peer for `http/protobuf` on a free port.
    pub(crate) async fn http() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen for OTLP")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(SinkState::default()));
        let router = axum::Router::new()
            .route("/v1/traces", axum::routing::post(take_http))
            .with_state(Arc::clone(&state));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let _ = axum_server(listener, router).await;
        });
        Ok(Self { address, state, _server: server })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is said to the next requests, one answer each; after them all is taken.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        locked(&self.state).answers.extend(answers);
    }

    /// All requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        locked(&self.state).received.clone()
    }

    /// The spans of all requests that were taken.
    pub(crate) fn spans(&self) -> Vec<Arrived> {
        let received = self.received();
        received.iter().filter(|received| received.taken).flat_map(Received::spans).collect()
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

impl SinkState {
    /// Keeps a request; answers how many of its spans are rejected.
    fn take(&mut self, headers: HeaderMap, request: ExportTraceServiceRequest) -> Result<i64, Status> {
        let answer = self.answers.pop_front();
        let taken = !matches!(answer, Some(Answer::Fail(_)));
        self.received.push(Received { at: now(), headers, request, taken });
        match answer {
            None => Ok(0),
            Some(Answer::Partial(rejected)) => Ok(rejected),
            Some(Answer::Fail(status)) => Err(status),
        }
    }
}

fn response(rejected_spans: i64) -> ExportTraceServiceResponse {
    let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too old".to_owned() };
    ExportTraceServiceResponse { partial_success: (rejected_spans > 0).then_some(partial) }
}

struct Service(Arc<Mutex<SinkState>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let rejected = locked(&self.0).take(headers, request.into_inner())?;
        Ok(Response::new(response(rejected)))
    }
}

async fn take_http(
    State(state): State<Arc<Mutex<SinkState>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let is_gzip = headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let body = if is_gzip { unzipped(&body) } else { body.to_vec() };
    let Ok(request) = ExportTraceServiceRequest::decode(&*body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    match locked(&state).take(headers, request) {
        Ok(rejected) => (StatusCode::OK, response(rejected).encode_to_vec()),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Vec::new()),
    }
}

fn unzipped(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What is no gzip is no request either.
    let _ = std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body), &mut bytes);
    bytes
}

/// axum's own `serve` is not among the features that the bridge needs.
pub(crate) async fn axum_server(listener: TcpListener, router: axum::Router) -> Result<()> {
    use hyper_util::rt::TokioIo;
    use tower::ServiceExt as _;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let router = router.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request: http::Request<_>| {
                router.clone().oneshot(request.map(axum::body::Body::new))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A connection that breaks is the client's to open again.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
