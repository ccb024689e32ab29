//! An OTLP peer in the test's own process: it keeps what it is sent, and answers as it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{locked, now, until};

mod arrived;

pub(crate) use arrived::{Arrived, ArrivedMetric, ArrivedRecord, Received, text};

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
    /// This many items are rejected.
    Partial(i64),
    /// None is taken.
    Fail(Status),
}

#[derive(Debug, Default)]
struct SinkState {
    traces: Taken<ExportTraceServiceRequest>,
    metrics: Taken<ExportMetricsServiceRequest>,
    logs: Taken<ExportLogsServiceRequest>,
}

/// What came of one signal, and what is said to it.
#[derive(Debug)]
struct Taken<R> {
    received: Vec<Received<R>>,
    answers: VecDeque<Answer>,
}

impl<R> Default for Taken<R> {
    fn default() -> Self {
        Self { received: Vec::new(), answers: VecDeque::new() }
    }
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
        let traces = TraceServiceServer::new(Service(Arc::clone(&state)))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let metrics = MetricsServiceServer::new(Service(Arc::clone(&state)))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let logs = LogsServiceServer::new(Service(Arc::clone(&state)))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            // A broken listener shows in the test as spans that do not come.
            let server = Server::builder().add_service(traces).add_service(metrics).add_service(logs);
            let _ = server.serve_with_incoming(incoming).await;
        });
        Ok(Self { address, state, _server: server })
    }

    /// A peer for `http/protobuf` on a free port.
    pub(crate) async fn http() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen for OTLP")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(SinkState::default()));
        let router = axum::Router::new()
            .route("/v1/traces", axum::routing::post(take_http::<ExportTraceServiceRequest>))
            .route("/v1/metrics", axum::routing::post(take_http::<ExportMetricsServiceRequest>))
            .route("/v1/logs", axum::routing::post(take_http::<ExportLogsServiceRequest>))
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

    /// What is said to the next requests with spans, one answer each; after them all is taken.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        locked(&self.state).traces.answers.extend(answers);
    }

    /// All requests with spans so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        locked(&self.state).traces.received.clone()
    }

    /// All requests with metrics so far.
    pub(crate) fn received_metrics(&self) -> Vec<Received<ExportMetricsServiceRequest>> {
        locked(&self.state).metrics.received.clone()
    }

    /// All requests with log records so far.
    pub(crate) fn received_records(&self) -> Vec<Received<ExportLogsServiceRequest>> {
        locked(&self.state).logs.received.clone()
    }

    /// The metrics of all requests that were taken, as they came: one collection after the other.
    pub(crate) fn metrics(&self) -> Vec<ArrivedMetric> {
        let received = self.received_metrics();
        received.iter().filter(|received| received.taken).flat_map(Received::metrics).collect()
    }

    /// The log records of all requests that were taken.
    pub(crate) fn records(&self) -> Vec<ArrivedRecord> {
        let received = self.received_records();
        received.iter().filter(|received| received.taken).flat_map(Received::records).collect()
    }

    /// All that came of one metric of one worker, once anything has.
    ///
    /// # Errors
    ///
    /// When nothing comes within `limit`.
    pub(crate) async fn metric_of(&self, worker: &str, name: &str, limit: Duration) -> Result<Vec<Metric>> {
        let found = until("a metric at the sink", limit, async || {
            let all = self.metrics().into_iter();
            let metrics = all.filter(|arrived| arrived.worker == worker && arrived.metric.name == name);
            let metrics: Vec<_> = metrics.map(|arrived| arrived.metric).collect();
            Ok((!metrics.is_empty()).then_some(metrics))
        })
        .await;
        found.with_context(|| {
            let came: Vec<_> =
                self.metrics().into_iter().map(|arrived| (arrived.worker, arrived.metric.name)).collect();
            format!("no {name} of {worker} among {came:?}")
        })
    }

    /// The log records of one worker, once there are so many.
    ///
    /// # Errors
    ///
    /// When they do not come within `limit`.
    pub(crate) async fn records_of(
        &self,
        worker: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<LogRecord>> {
        let mut seen = 0;
        let found = until("log records at the sink", limit, async || {
            let all = self.records().into_iter().filter(|arrived| arrived.worker == worker);
            let records: Vec<_> = all.map(|arrived| arrived.record).collect();
            seen = records.len();
            Ok((seen >= count).then_some(records))
        })
        .await;
        found.with_context(|| format!("{seen} log records of {worker} came, {count} should"))
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

/// What the three requests have in common.
trait Export: Message + Default + Clone + 'static {
    /// Where those of its kind are kept.
    fn of(state: &mut SinkState) -> &mut Taken<Self>;
    /// An encoded answer that rejects so many of its items.
    fn response(rejected: i64) -> Vec<u8>;
}

impl Export for ExportTraceServiceRequest {
    fn of(state: &mut SinkState) -> &mut Taken<Self> {
        &mut state.traces
    }

    fn response(rejected: i64) -> Vec<u8> {
        traces_response(rejected).encode_to_vec()
    }
}

impl Export for ExportMetricsServiceRequest {
    fn of(state: &mut SinkState) -> &mut Taken<Self> {
        &mut state.metrics
    }

    fn response(rejected: i64) -> Vec<u8> {
        metrics_response(rejected).encode_to_vec()
    }
}

impl Export for ExportLogsServiceRequest {
    fn of(state: &mut SinkState) -> &mut Taken<Self> {
        &mut state.logs
    }

    fn response(rejected: i64) -> Vec<u8> {
        logs_response(rejected).encode_to_vec()
    }
}

impl SinkState {
    /// Keeps a request; answers how many of its items are rejected.
    fn take<R: Export>(&mut self, headers: HeaderMap, request: R) -> Result<i64, Status> {
        let kind = R::of(self);
        let answer = kind.answers.pop_front();
        let taken = !matches!(answer, Some(Answer::Fail(_)));
        kind.received.push(Received { at: now(), headers, request, taken });
        match answer {
            None => Ok(0),
            Some(Answer::Partial(rejected)) => Ok(rejected),
            Some(Answer::Fail(status)) => Err(status),
        }
    }
}

/// What a peer says of what it does not take.
const TOO_OLD: &str = "too old";

fn traces_response(rejected_spans: i64) -> ExportTraceServiceResponse {
    let partial = ExportTracePartialSuccess { rejected_spans, error_message: TOO_OLD.to_owned() };
    ExportTraceServiceResponse { partial_success: (rejected_spans > 0).then_some(partial) }
}

fn metrics_response(rejected_data_points: i64) -> ExportMetricsServiceResponse {
    let partial = ExportMetricsPartialSuccess { rejected_data_points, error_message: TOO_OLD.to_owned() };
    ExportMetricsServiceResponse { partial_success: (rejected_data_points > 0).then_some(partial) }
}

fn logs_response(rejected_log_records: i64) -> ExportLogsServiceResponse {
    let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: TOO_OLD.to_owned() };
    ExportLogsServiceResponse { partial_success: (rejected_log_records > 0).then_some(partial) }
}

struct Service(Arc<Mutex<SinkState>>);

impl Service {
    fn take<R: Export>(&self, request: Request<R>) -> Result<i64, Status> {
        let headers = request.metadata().clone().into_headers();
        locked(&self.0).take(headers, request.into_inner())
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(traces_response(self.take(request)?)))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(metrics_response(self.take(request)?)))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        Ok(Response::new(logs_response(self.take(request)?)))
    }
}

async fn take_http<R: Export>(
    State(state): State<Arc<Mutex<SinkState>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let is_gzip = headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let body = if is_gzip { unzipped(&body) } else { body.to_vec() };
    let Ok(request) = R::decode(&*body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    match locked(&state).take(headers, request) {
        Ok(rejected) => (StatusCode::OK, R::response(rejected)),
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
