//! An OTLP peer on a thread of this process: counts the spans that come, or takes the times of their arrival.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use snakepit_otel_bridge::codec::RawCodec;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::clock::unix_nanos;

/// Larger than any request that a sender under test may make.
const LARGEST_REQUEST_BYTES: usize = 64 << 20;

/// What the sink does with spans beside counting them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Nothing: they are not even decoded.
    Count,
    /// Notes how long after its end each arrived.
    Latency,
}

/// An address that nobody listens on yet.
///
/// # Errors
///
/// When there is none.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A running sink. It ends with the scenario.
#[derive(Debug)]
pub(crate) struct Sink {
    /// Where OTLP over gRPC is taken.
    pub(crate) endpoint: String,
    /// `host:port` of it.
    pub(crate) address: String,
    received: Arc<Mutex<Received>>,
    _stop: oneshot::Sender<()>,
}

/// What has arrived.
#[derive(Debug, Default, Clone)]
pub(crate) struct Received {
    pub(crate) requests: u64,
    pub(crate) spans: u64,
    /// Nanoseconds from a span's end to its arrival, of spans without a correlation id.
    pub(crate) plain: Vec<i64>,
    /// The same of spans with one: they wait for their parent.
    pub(crate) correlated: Vec<i64>,
}

impl Sink {
    /// Listens on a free port.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn start(reading: Reading) -> Result<Self> {
        Self::start_at(reading, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Listens on this address.
    ///
    /// # Errors
    ///
    /// When it cannot be had.
    pub(crate) fn start_at(reading: Reading, address: SocketAddr) -> Result<Self> {
        let received = Arc::<Mutex<Received>>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = TraceService { reading, received: Arc::clone(&received) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let incoming = {
            let _context = runtime.enter();
            TcpIncoming::bind(address)?.with_nodelay(Some(true))
        };
        let address = incoming.local_addr().context("failed to find the sink's address")?;
        std::thread::spawn(move || {
            let serve =
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
            runtime.block_on(async {
                tokio::select! {
                    ended = serve => ended.expect("a sink on loopback serves"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            endpoint: format!("http://{address}"),
            address: address.to_string(),
            received,
            _stop: stop,
        })
    }

    /// What has arrived so far.
    pub(crate) fn received(&self) -> Received {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// # Errors
    ///
    /// When any other number of spans has arrived.
    pub(crate) fn ensure_received(&self, spans: u64) -> Result<()> {
        let arrived = self.received().spans;
        anyhow::ensure!(arrived == spans, "{spans} spans were to arrive at the sink, {arrived} have");
        Ok(())
    }
}

/// `opentelemetry.proto.collector.trace.v1.TraceService` over raw bytes: decoding is dear, counting is not.
#[derive(Debug, Clone)]
struct TraceService {
    reading: Reading,
    received: Arc<Mutex<Received>>,
}

impl TraceService {
    fn take(&self, request: Bytes) -> Result<(), Status> {
        let now = unix_nanos();
        let malformed = || Status::invalid_argument("not an ExportTraceServiceRequest");
        match self.reading {
            Reading::Count => {
                let spans = count_spans(&request).ok_or_else(malformed)?;
                let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
                received.requests += 1;
                received.spans += spans;
            }
            Reading::Latency => {
                let request = ExportTraceServiceRequest::decode(request).map_err(|_| malformed())?;
                let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
                received.requests += 1;
                let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
                for span in scopes.flat_map(|scope| &scope.spans) {
                    received.spans += 1;
                    let latency = now - span.end_time_unix_nano.cast_signed();
                    let mut keys = span.attributes.iter().map(|attribute| attribute.key.as_str());
                    if keys.any(|key| key == "snakepit.correlation_id") {
                        received.correlated.push(latency);
                    } else {
                        received.plain.push(latency);
                    }
                }
            }
        }
        Ok(())
    }
}

impl NamedService for TraceService {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl tower::Service<http::Request<Body>> for TraceService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(LARGEST_REQUEST_BYTES);
            Ok(grpc.unary(service, request).await)
        })
    }
}

impl UnaryService<Bytes> for TraceService {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        // An empty message says that everything was accepted.
        std::future::ready(self.take(request.into_inner()).map(|()| Response::new(Bytes::new())))
    }
}

/// The spans in an `ExportTraceServiceRequest`; `None` where the bytes are none.
fn count_spans(request: &[u8]) -> Option<u64> {
    let mut spans = 0;
    each(request, 1, &mut |resource_spans| {
        each(resource_spans, 2, &mut |scope_spans| {
            each(scope_spans, 2, &mut |_| {
                spans += 1;
                Some(())
            })
        })
    })?;
    Some(spans)
}

/// Calls back with each embedded message of this field number.
fn each(mut message: &[u8], number: u64, found: &mut dyn FnMut(&[u8]) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = message.split_at_checked(skipped)?;
        if tag == number << 3 | 2 {
            found(field)?;
        }
        message = rest;
    }
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = message.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
