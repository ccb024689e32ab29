//! Workers' connections.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use bytes::{Buf as _, Bytes};
use snakepit_otel_bridge::codec::RawCodec;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

/// How events are laid into HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As many messages a DATA frame as fit: what a sender does that has many at hand.
    Coalesced,
    /// A DATA frame and a write to the socket for each message: what a sender does that has one now and then.
    EachAlone,
}

/// Sends everything on one stream as fast as it is taken, and answers the server's last message when the stream is over.
///
/// # Errors
///
/// When the server ends the stream with an error.
pub(crate) fn saturate<E>(endpoint: &str, framing: Framing, events: E) -> Result<Option<Bytes>>
where
    E: Iterator<Item = Bytes> + Send + Unpin + 'static,
{
    let messages = Greedy { events, framing, yields_next: false };
    runtime()?.block_on(stream(endpoint.to_owned(), "worker_1".to_owned(), messages))
}

/// Workers, each with a connection and a stream of its own, that send what they are given when they are given it.
#[derive(Debug)]
pub(crate) struct Workers {
    senders: Vec<mpsc::UnboundedSender<Bytes>>,
    thread: JoinHandle<Result<Vec<Option<Bytes>>>>,
}

impl Workers {
    /// Connects them.
    ///
    /// # Errors
    ///
    /// When there is no runtime to be had.
    pub(crate) fn connect(endpoint: &str, count: usize) -> Result<Self> {
        let runtime = runtime()?;
        let mut streams = JoinSet::new();
        let mut senders = Vec::with_capacity(count);
        for worker in 1..=count {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.push(sender);
            let messages = UnboundedReceiverStream::new(receiver);
            streams.spawn_on(
                stream(endpoint.to_owned(), format!("worker_{worker}"), messages),
                runtime.handle(),
            );
        }
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut answers = Vec::with_capacity(count);
                while let Some(ended) = streams.join_next().await {
                    answers.push(ended??);
                }
                Ok(answers)
            })
        });
        Ok(Self { senders, thread })
    }

    /// Sends one event on this worker's stream.
    ///
    /// # Errors
    ///
    /// When the stream is over already.
    pub(crate) fn send(&self, worker: usize, event: Bytes) -> Result<()> {
        self.senders[worker].send(event).map_err(|_| anyhow!("the stream of worker {worker} ended early"))
    }

    /// Ends every stream, and waits until the server has answered so; answers its last messages.
    ///
    /// # Errors
    ///
    /// When a stream ended with an error.
    pub(crate) fn finish(self) -> Result<Vec<Option<Bytes>>> {
        drop(self.senders);
        self.thread.join().map_err(|_| anyhow!("the workers' thread panicked"))?
    }
}

/// One worker's stream from its connection to the server's end of it.
async fn stream<M>(endpoint: String, worker: String, messages: M) -> Result<Option<Bytes>>
where
    M: Stream<Item = Bytes> + Send + 'static,
{
    let channel = Endpoint::from_shared(endpoint)?.connect().await.context("failed to connect")?;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let mut request = tonic::Request::new(messages);
    request.metadata_mut().insert("x-snakepit-worker-id", worker.parse()?);
    request.metadata_mut().insert("x-snakepit-node", "bench".parse()?);
    let path = PathAndQuery::from_static("/SnakepitBridge/StreamTelemetry");
    let mut answers = client.streaming(request, path, RawCodec).await?.into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await? {
        last = Some(answer);
    }
    Ok(last)
}

/// One thread: what one task writes, the connection's task sends before the first writes more.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to build a runtime")
}

/// A stream that always has more, and steps aside after each message where each shall be written alone.
struct Greedy<E> {
    events: E,
    framing: Framing,
    yields_next: bool,
}

impl<E: Iterator<Item = Bytes> + Unpin> Stream for Greedy<E> {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.framing == Framing::EachAlone {
            self.yields_next = !self.yields_next;
            if !self.yields_next {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(self.events.next())
    }
}

/// The number in a message of eight bytes.
pub(crate) fn number(message: Option<Bytes>) -> Result<u64> {
    let mut message = message.context("the server said nothing")?;
    message.try_get_u64().context("the server's message is no number")
}
