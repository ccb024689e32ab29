//! One open stream: reads it to its end, and passes what it reads to the worker's shard.
//!
//! - What is ready is gathered into one message to the shard, within bounds; a shard that is slow makes the session wait,
//!   and so the worker's flow control stops the worker. Nothing else slows a stream down.
//! - A stream is read to its end, also when the worker has gone: what it had sent still counts. The session ends the
//!   response when the worker has half-closed, when framing is broken, and when the bridge drains; never otherwise.
//! - A shard that is gone takes nothing more; the stream is read on all the same, and the loss is counted.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::arrivals::Arrivals;
use super::budget::{Budget, LARGE_MESSAGE_BYTES};
use super::registry::{Granted, Registry};
use super::stats::ReceiverStats;
use crate::control::policy::Policy;
use crate::engine::StreamId;
use crate::shard::{OVERSIZED_MARKER, ShardMessage};
use crate::worker::{Identity, WorkerKey};

/// Messages that one turn gathers: enough to spread the cost of waking the shard.
const MAX_MESSAGES_PER_TURN: usize = 256;

/// Bytes that one turn gathers, unless its last message goes beyond. With the shard's channel full of such turns, a slow
/// shard holds 16 MiB.
const MAX_BYTES_PER_TURN: usize = LARGE_MESSAGE_BYTES;

/// While draining, how long nothing may come before what was on the wire counts as read.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// What the worker of a response reads: encoded controls.
pub(super) type Controls = mpsc::Sender<Result<Bytes, Status>>;

/// One open stream.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) incoming: Streaming<Bytes>,
    /// Nobody else has one: the response is open as long as it is.
    pub(super) controls: Controls,
    pub(super) arrivals: Arc<Arrivals>,
    pub(super) opened: OpenStream,
    pub(super) identity: Arc<Identity>,
    pub(super) policy: Arc<Policy>,
    pub(super) superseded: Option<WorkerKey>,
    pub(super) shard: mpsc::Sender<ShardMessage>,
    pub(super) budget: Budget,
    /// This session's own, so that sessions do not meet at one lock at every turn.
    pub(super) draining: CancellationToken,
    /// A worker that goes on sending while the bridge drains has been read for long enough.
    pub(super) enough: CancellationToken,
}

/// A granted claim, and the open stream in the counters; both end with it.
#[derive(Debug)]
pub(super) struct OpenStream {
    pub(super) stream: StreamId,
    pub(super) worker: WorkerKey,
    registry: Arc<Registry>,
    stats: Arc<ReceiverStats>,
}

impl OpenStream {
    pub(super) fn new(
        stream: StreamId,
        granted: &Granted,
        registry: Arc<Registry>,
        stats: Arc<ReceiverStats>,
    ) -> Self {
        stats.opened();
        Self { stream, worker: granted.worker.clone(), registry, stats }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.registry.release(&self.worker);
        self.stats.closed();
    }
}

/// What one look at the stream found.
#[derive(Debug, Default)]
struct Turn {
    messages: Vec<Bytes>,
    bytes: usize,
    end: Option<End>,
}

/// How a stream ended.
#[derive(Debug)]
enum End {
    /// Half-closed, or cancelled: the two look the same.
    Finished,
    /// The connection or the framing broke.
    Broken(Status),
    /// The bridge drains.
    Drained,
}

impl Session {
    /// Reads the stream to its end.
    pub(super) async fn run(mut self) {
        let (dialect, pool) = (self.identity.dialect.as_str(), self.identity.pool.as_deref());
        if self.arrivals.opened() {
            tracing::info!(dialect, pool, "worker connected");
        } else {
            tracing::debug!(dialect, pool, "worker connected");
        }
        let mut reached = self.announce().await;
        let end = match self.read(&mut reached).await {
            Some(end) => end,
            None => self.drain(&mut reached).await,
        };
        self.finish(end).await;
    }

    /// Tells the shard of the stream; returns whether it is there to hear.
    async fn announce(&mut self) -> bool {
        if let Some(worker) = self.superseded.take() {
            tracing::info!(superseded = %worker, "a new incarnation of a worker takes over");
            if self.shard.send(ShardMessage::Superseded { worker }).await.is_err() {
                return self.shard_is_gone();
            }
        }
        let opened = ShardMessage::Opened {
            stream: self.opened.stream,
            worker: self.opened.worker.clone(),
            identity: Arc::clone(&self.identity),
            policy: Arc::clone(&self.policy),
        };
        self.shard.send(opened).await.is_ok() || self.shard_is_gone()
    }

    /// Reads until the stream ends; `None` when the bridge begins to drain.
    async fn read(&mut self, reached: &mut bool) -> Option<End> {
        let draining = self.draining.clone();
        let mut draining = pin!(draining.cancelled());
        loop {
            let turn = tokio::select! {
                turn = next_turn(&mut self.incoming) => turn,
                () = &mut draining => return None,
            };
            if let Some(end) = self.deliver(turn, reached).await {
                return Some(end);
            }
        }
    }

    /// Reads what is on the wire already, and no more than enough.
    async fn drain(&mut self, reached: &mut bool) -> End {
        let enough = self.enough.clone();
        let mut enough = pin!(enough.cancelled());
        loop {
            let turn = tokio::select! {
                turn = next_turn(&mut self.incoming) => turn,
                () = tokio::time::sleep(DRAIN_QUIET) => return End::Drained,
                () = &mut enough => return End::Drained,
            };
            if let Some(end) = self.deliver(turn, reached).await {
                return end;
            }
        }
    }

    /// Passes one turn's messages on; waits where the shard is behind.
    async fn deliver(&self, turn: Turn, reached: &mut bool) -> Option<End> {
        let Turn { mut messages, bytes, end } = turn;
        if !messages.is_empty() {
            let oversized = messages.iter().filter(|message| **message == OVERSIZED_MARKER).count();
            let stats = &self.opened.stats;
            stats.received(messages.len(), bytes - oversized * OVERSIZED_MARKER.len(), oversized);
            let count = messages.len();
            if *reached {
                // Only the last message of a turn can be large: it filled the turn.
                if let Some(last) = messages.last_mut() {
                    *last = self.budget.charge(std::mem::take(last)).await;
                }
                let messages = ShardMessage::Messages { stream: self.opened.stream, messages };
                *reached = self.shard.send(messages).await.is_ok() || self.shard_is_gone();
            }
            if !*reached {
                stats.undelivered(count);
            }
        }
        end
    }

    /// Ends the response, then tells the shard.
    async fn finish(self, end: End) {
        let Self { controls, opened, shard, arrivals, .. } = self;
        match end {
            End::Finished if arrivals.ended() => tracing::info!("worker disconnected"),
            End::Finished => tracing::debug!("worker disconnected"),
            End::Drained => tracing::debug!("stream ended by the bridge"),
            End::Broken(status) => {
                opened.stats.broken();
                if arrivals.ended() {
                    tracing::info!(%status, "connection to the worker broke");
                } else {
                    tracing::debug!(%status, "connection to the worker broke");
                }
                if is_the_workers_fault(status.code()) {
                    // Best effort: a worker that has not yet read its controls hears OK instead.
                    let _ = controls.try_send(Err(status));
                }
            }
        }
        // Ends the response before the wait for the shard below: the worker waits for its answer.
        drop(controls);
        let stream = opened.stream;
        drop(opened);
        // A shard that is gone has been complained about.
        let _ = shard.send(ShardMessage::Closed { stream }).await;
    }

    /// Complains, and says that the shard is not reached.
    #[expect(clippy::unused_self, reason = "it is about this session")]
    fn shard_is_gone(&self) -> bool {
        tracing::error!("the task that handles this worker's events is gone; they are lost");
        false
    }
}

/// Whether the worker is still there to hear why its stream ended.
const fn is_the_workers_fault(code: Code) -> bool {
    matches!(code, Code::Internal | Code::OutOfRange | Code::ResourceExhausted | Code::Unimplemented)
}

/// Waits until something has come, then takes all that is there, within the bounds of a turn.
async fn next_turn(incoming: &mut Streaming<Bytes>) -> Turn {
    std::future::poll_fn(|cx| poll_turn(Pin::new(incoming), cx)).await
}

/// Keeps nothing across `Pending`, so that whoever waits for it may stop waiting.
fn poll_turn(
    mut incoming: Pin<&mut impl Stream<Item = Result<Bytes, Status>>>,
    cx: &mut Context<'_>,
) -> Poll<Turn> {
    let mut turn = Turn::default();
    while turn.messages.len() < MAX_MESSAGES_PER_TURN && turn.bytes < MAX_BYTES_PER_TURN {
        match incoming.as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => {
                turn.bytes += message.len();
                turn.messages.push(message);
            }
            Poll::Ready(Some(Err(status))) => {
                turn.end = Some(End::Broken(status));
                break;
            }
            Poll::Ready(None) => {
                turn.end = Some(End::Finished);
                break;
            }
            Poll::Pending if turn.messages.is_empty() => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(turn)
}
