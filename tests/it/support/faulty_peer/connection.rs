//! Serving connections, and ending them in ways that a proper server would not.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::answer::{Body, Dialect, grpc_error, http_error};
use super::{OnConnect, Payload, Play, Received, Shared, Transport};
use crate::support::{locked, now};

/// What is being sent has left after this time. If it has not, the fault is an earlier reset.
const LEAVING: Duration = Duration::from_millis(50);

/// What is known of one connection.
struct Connection {
    number: usize,
    shared: Arc<Shared>,
    ends: Arc<Ends>,
}

/// How a connection is told to end.
#[derive(Default)]
struct Ends {
    resets: AtomicBool,
    reset: Notify,
    reset_soon: Notify,
    go_away: Notify,
}

/// Accepts until it is dropped, and its connections with it.
pub(super) fn serve(listener: TcpListener, shared: Arc<Shared>) -> JoinSet<()> {
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        // A listener that breaks shows in the test as spans that do not come.
        while let Ok((stream, _)) = listener.accept().await {
            let (number, on_connect) = {
                let mut state = locked(&shared.state);
                state.connections += 1;
                (state.connections - 1, state.on_connect.pop_front())
            };
            let connection = Connection { number, shared: Arc::clone(&shared), ends: Arc::default() };
            connections.spawn(connection.run(stream, on_connect));
        }
    });
    server
}

impl Ends {
    /// Waits until the connection is to be reset.
    async fn reset(&self) {
        tokio::select! {
            () = self.reset.notified() => {}
            () = self.reset_soon.notified() => tokio::time::sleep(LEAVING).await,
        }
        self.resets.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    async fn run(self, mut stream: TcpStream, on_connect: Option<OnConnect>) {
        let pace = match on_connect {
            None => None,
            Some(OnConnect::ReadSlowly(bytes, period)) => Some((bytes, period)),
            Some(OnConnect::NeverRead) => return pending().await,
            Some(OnConnect::Reset) => {
                // If it cannot be reset, it is closed.
                let _ = stream.set_zero_linger();
                return;
            }
            Some(OnConnect::Babble) => {
                let mut bytes = [0; 1024];
                while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                    if stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await.is_err() {
                        break;
                    }
                }
                return;
            }
        };
        let ends = Arc::clone(&self.ends);
        let wire = TokioIo::new(Wire { stream, ends: Arc::clone(&ends), pace, pause: None });
        let transport = self.shared.transport;
        let connection = Arc::new(self);
        let service = hyper::service::service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let reset = ends.reset();
        // A connection that breaks is the client's to open again.
        match transport {
            Transport::Grpc => {
                let mut served = pin!(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .timer(TokioTimer::new())
                        .serve_connection(wire, service)
                );
                let goes = async {
                    tokio::select! {
                        _ = &mut served => return,
                        () = ends.go_away.notified() => {}
                    }
                    served.as_mut().graceful_shutdown();
                    let _ = served.await;
                };
                tokio::select! { () = goes => {} () = reset => {} }
            }
            Transport::Http => {
                let served = hyper::server::conn::http1::Builder::new().serve_connection(wire, service);
                tokio::select! { _ = served => {} () = reset => {} }
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let scripted = locked(&self.shared.state).script.pop_front();
        let (head, mut body) = request.into_parts();
        let mut received = Received {
            at: now(),
            connection: self.number,
            path: head.uri.path().to_owned(),
            headers: head.headers,
            wire_bytes: 0,
            bytes: 0,
            payload: None,
            play: Play::Take,
            rejected: 0,
        };
        if matches!(scripted, Some(Play::CutRequest)) {
            // Some of it is read, if there is any.
            if let Some(Ok(frame)) = body.frame().await {
                received.wire_bytes = frame.data_ref().map_or(0, Bytes::len);
            }
            received.play = Play::CutRequest;
            locked(&self.shared.state).received.push(received);
            return self.reset().await;
        }
        let Ok(body) = body.collect().await else { return pending().await };
        let body = body.to_bytes();
        let transport = self.shared.transport;
        received.at = now();
        received.wire_bytes = body.len();
        let read = Payload::read(transport, &received.path, &received.headers, &body);
        let dialect = Dialect {
            transport,
            is_json: received.headers.get("content-type").is_some_and(|value| value == "application/json"),
            rejected_field: match &read {
                Ok((Payload::Metrics(_), _)) => "rejectedDataPoints",
                Ok((Payload::Logs(_), _)) => "rejectedLogRecords",
                Ok((Payload::Traces(_), _)) | Err(_) => "rejectedSpans",
            },
        };
        match read {
            Ok((payload, size)) => {
                received.payload = Some(payload);
                received.bytes = size;
            }
            Err(error) => {
                let refusal = match transport {
                    Transport::Grpc => Play::Grpc(tonic::Status::invalid_argument(format!("{error:#}"))),
                    Transport::Http => Play::http(400),
                };
                received.play = refusal.clone();
                locked(&self.shared.state).received.push(received);
                return self.perform(refusal, dialect).await;
            }
        }
        let play = {
            let mut state = locked(&self.shared.state);
            let ruled = || state.rule.as_mut().and_then(|rule| rule(&received));
            let play = scripted.or_else(ruled).unwrap_or(Play::Take);
            received.rejected = play.rejects(received.spans().len());
            received.play = play.clone();
            state.received.push(received);
            play
        };
        self.perform(play, dialect).await
    }

    async fn perform(&self, mut play: Play, dialect: Dialect) -> Response<Body> {
        let mut goes_away = false;
        loop {
            play = match play {
                Play::After(delay, next) => {
                    tokio::time::sleep(delay).await;
                    *next
                }
                Play::GoAway(next) => {
                    goes_away = true;
                    *next
                }
                Play::Take
                | Play::Partial { .. }
                | Play::Grpc(_)
                | Play::Http { .. }
                | Play::Garbage
                | Play::Huge
                | Play::Endless
                | Play::Drip
                | Play::Silent
                | Play::LoseAnswer
                | Play::CutAnswer
                | Play::CutRequest => break,
            };
        }
        let mut response = match play {
            Play::Take => dialect.success(0, ""),
            Play::Partial { rejected, message } => dialect.success(rejected, message),
            Play::Grpc(status) => grpc_error(status),
            Play::Http { status, retry_after, body } => http_error(status, retry_after.as_deref(), body),
            Play::Garbage => dialect.garbage(),
            Play::Huge => dialect.huge(),
            Play::Endless => dialect.endless(),
            Play::Drip => dialect.drip(),
            Play::CutAnswer => {
                self.ends.reset_soon.notify_one();
                dialect.beginning()
            }
            Play::LoseAnswer | Play::CutRequest => self.reset().await,
            Play::Silent => pending().await,
            Play::After(..) | Play::GoAway(_) => unreachable!("unwrapped above"),
        };
        if goes_away {
            match dialect.transport {
                Transport::Grpc => self.ends.go_away.notify_one(),
                Transport::Http => {
                    response.headers_mut().insert("connection", HeaderValue::from_static("close"));
                }
            }
        }
        response
    }

    /// Resets the connection; this future is gone with it.
    async fn reset<T>(&self) -> T {
        self.ends.reset.notify_one();
        pending().await
    }
}

/// A socket that is read as slowly as it is told, and reset when it is dropped if it is told so.
struct Wire {
    stream: TcpStream,
    ends: Arc<Ends>,
    /// Bytes in a period.
    pace: Option<(usize, Duration)>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.ends.resets.load(Ordering::Relaxed) {
            // If it cannot be reset, it is closed, which is another fault.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some((bytes, period)) = self.pace else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let mut little = vec![0; bytes.min(buffer.remaining())];
        let mut few = ReadBuf::new(&mut little);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut few))?;
        buffer.put_slice(few.filled());
        self.pause = Some(Box::pin(tokio::time::sleep(period)));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
