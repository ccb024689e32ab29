//! Peers that answer as they are told, and remember what they were sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Status};

/// The next answer of a gRPC peer.
pub(crate) enum Answer {
    Status(Status),
    Partial(i64, String),
    Never,
}

/// A gRPC peer; ends with its value.
pub(crate) struct GrpcPeer {
    pub(crate) endpoint: String,
    log: Arc<Log>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Log {
    answers: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
    accepted: Mutex<Vec<String>>,
    headers: Mutex<Vec<HeaderMap>>,
}

impl GrpcPeer {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = listen(address);
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Log::default());
        let service = TraceServiceServer::from_arc(Arc::clone(&log))
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let mut server = JoinSet::new();
        server.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        // Lets the server begin.
        tokio::task::yield_now().await;
        Self { endpoint, log, _server: server }
    }

    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.log.answers.lock().unwrap().extend(answers);
    }

    /// Names of the spans that it took.
    pub(crate) fn received(&self) -> Vec<String> {
        self.log.accepted.lock().unwrap().clone()
    }

    pub(crate) fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.log.requests.lock().unwrap().clone()
    }

    pub(crate) fn headers(&self) -> Vec<HeaderMap> {
        self.log.headers.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl TraceService for Log {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        self.headers.lock().unwrap().push(request.metadata().clone().into_headers());
        let request = request.into_inner();
        self.requests.lock().unwrap().push(request.clone());
        let answer = self.answers.lock().unwrap().pop_front();
        let partial_success = match answer {
            None => None,
            Some(Answer::Partial(rejected_spans, error_message)) => {
                Some(ExportTracePartialSuccess { rejected_spans, error_message })
            }
            Some(Answer::Status(status)) => return Err(status),
            Some(Answer::Never) => {
                tokio::time::sleep(Duration::MAX).await;
                None
            }
        };
        self.accepted.lock().unwrap().extend(names(&request));
        Ok(tonic::Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

/// The span names of a request.
pub(crate) fn names(request: &ExportTraceServiceRequest) -> Vec<String> {
    let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| &scope.spans).map(|span| span.name.clone()).collect()
}

/// What an HTTP peer was sent.
#[derive(Debug, Clone)]
pub(crate) struct HttpRequest {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An HTTP peer; answers 200 once its script is over. Ends with its value.
pub(crate) struct HttpPeer {
    pub(crate) endpoint: String,
    script: Arc<Mutex<VecDeque<Response>>>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
    _server: JoinSet<()>,
}

impl HttpPeer {
    pub(crate) async fn start() -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap());
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let script: Arc<Mutex<VecDeque<Response>>> = Arc::default();
        let requests: Arc<Mutex<Vec<HttpRequest>>> = Arc::default();
        let (answers, log) = (Arc::clone(&script), Arc::clone(&requests));
        let router =
            axum::Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| async move {
                log.lock().unwrap().push(HttpRequest { uri, headers, body });
                answers.lock().unwrap().pop_front().unwrap_or_else(|| answer(StatusCode::OK, &[], ""))
            });
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        tokio::task::yield_now().await;
        Self { endpoint, script, requests, _server: server }
    }

    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Response>) {
        self.script.lock().unwrap().extend(answers);
    }

    pub(crate) fn requests(&self) -> Vec<HttpRequest> {
        self.requests.lock().unwrap().clone()
    }
}

/// An HTTP answer.
pub(crate) fn answer(
    status: StatusCode,
    headers: &[(&str, &str)],
    body: impl Into<axum::body::Body>,
) -> Response {
    let builder = Response::builder().status(status);
    let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(body.into()).unwrap()
}

/// A peer that ends every connection without an answer. Returns where it listens.
pub(crate) fn hang_up_on_everybody(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = listen("127.0.0.1:0".parse().unwrap());
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The request must be on its way.
            stream.readable().await.unwrap();
            drop(stream);
        }
    });
    address
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    listen("127.0.0.1:0".parse().unwrap()).local_addr().unwrap()
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(64).unwrap()
}
