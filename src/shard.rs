//! The task that owns the state of the workers of one shard.
//!
//! Streams send what they read; the task decodes it, feeds the engine, and passes on what the engine makes. A full
//! channel makes a stream stop reading, which is the back-pressure that a worker sees.

mod capacity;
pub mod journal;
pub mod made;
pub mod recover;
pub mod replay;
mod task;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::policy::Policy;
use crate::engine::metrics::MetricFigures;
use crate::engine::report::{EventAnswer, EventQuery, OpenSpanQuery, OpenSpanReport, WorkerReport};
use crate::engine::{EventLedger, StreamId};
use crate::store::{Commit, ShardCheckpoint};
use crate::time::UnixNanos;
use crate::worker::{Identity, WorkerKey};

pub use capacity::Capacity;
pub use made::Made;
pub use task::{ShardTask, Tap};

/// Messages that a shard's channel holds: enough that a stream need not wait for the task at every turn, few enough
/// that a slow shard stops the reading within a megabyte or so.
pub const SHARD_CHANNEL_CAPACITY: usize = 256;

/// The message that stands in a stream for one that was too large, and was skipped before it was buffered. It is not a
/// `TelemetryEvent` (field number 0, wire type 7), so no worker can mean it as one.
pub const OVERSIZED_MARKER: &[u8] = b"\x07snakepit-bridge-oversized";

/// What a shard is told.
#[derive(Debug)]
pub enum ShardMessage {
    /// A worker opened a stream.
    Opened {
        /// The stream.
        stream: StreamId,
        /// Its worker.
        worker: WorkerKey,
        /// What its headers say.
        identity: Arc<Identity>,
        /// What is enforced.
        policy: Arc<Policy>,
    },
    /// Messages arrived, in this order. [`OVERSIZED_MARKER`] stands for one that was skipped.
    Messages {
        /// On this stream.
        stream: StreamId,
        /// As they stood on the wire.
        messages: Vec<Bytes>,
    },
    /// The stream is over.
    Closed {
        /// The stream.
        stream: StreamId,
    },
    /// Another incarnation of this worker's id has connected.
    Superseded {
        /// The old incarnation.
        worker: WorkerKey,
    },
    /// The admin API asks.
    Ledger(oneshot::Sender<EventLedger>),
    /// The admin API asks.
    Workers(oneshot::Sender<Vec<WorkerReport>>),
    /// The admin API asks.
    OpenSpans(OpenSpanQuery, oneshot::Sender<(Vec<OpenSpanReport>, u64)>),
    /// The admin API asks.
    Metrics(oneshot::Sender<MetricFigures>),
    /// Make all points, a part at a time between other messages. Answered once the exporter has the last of them; not at all
    /// if that is under way already, for an earlier time.
    Collect {
        /// The time of the points: the same for all shards, and later than ever before.
        at: UnixNanos,
        /// Hears of the end.
        answer: oneshot::Sender<()>,
    },
    /// The admin API asks.
    Events(EventQuery, oneshot::Sender<EventAnswer>),
    /// The admin API asks how long the oldest open span has been open, in nanoseconds; 0 if there is none.
    OldestOpenAge(oneshot::Sender<u64>),
    /// Write down how things stand, where there is somewhere to write: most of it a part at a time between other messages,
    /// and the rest when that is done. Answers then, with the commit that will hold it, and with none if nothing has happened
    /// since the last one; not at all if somebody else asks for the same, or for [`ShardMessage::PrepareWhole`], before.
    Checkpoint(oneshot::Sender<Option<Commit>>),
    /// Write down how everything stands, and not only what changed, but for what [`ShardMessage::WriteWhole`] adds. A part at a
    /// time between other messages, and answered when that is done.
    PrepareWhole(oneshot::Sender<()>),
    /// Say how everything stands, and let nothing happen until it is handed over. That takes long if it is not prepared.
    WriteWhole {
        /// Who hands it over.
        state: oneshot::Sender<ShardCheckpoint>,
        /// Hears of the commit that will hold it.
        written: watch::Receiver<Option<Commit>>,
    },
    /// Take what is in the channel and no more, then answer and end. Where there is somewhere to write, what is open is
    /// written down; else everything open is closed, and everything held is judged.
    Shutdown {
        /// The time of a last collection; none where there are no points.
        collect: Option<UnixNanos>,
        /// Hears the last sums.
        answer: oneshot::Sender<EventLedger>,
    },
}

/// The shard of a worker among so many.
///
/// Workers of a node whose ids are no more than their connections' share one, because their metadata may show the same
/// worker id for several connections: then they share metrics, which live in one shard.
#[must_use]
pub fn shard_of(worker: &WorkerKey, shards: u16) -> u16 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(worker.node.as_bytes());
    hasher.update(&[0]);
    if !worker.is_of_connection() {
        hasher.update(worker.id.as_bytes());
    }
    u16::try_from(hasher.digest() % u64::from(shards)).expect("less than the count of shards")
}

/// The way to every shard.
#[derive(Debug, Clone)]
pub struct Shards {
    senders: Arc<[mpsc::Sender<ShardMessage>]>,
}

impl Shards {
    /// The way to these shards. There is at least one.
    #[must_use]
    pub fn new(senders: Vec<mpsc::Sender<ShardMessage>>) -> Self {
        assert!(!senders.is_empty(), "a bridge has at least one shard");
        Self { senders: senders.into() }
    }

    /// The shard of a worker: all incarnations of an id on a node share one.
    #[must_use]
    pub fn of(&self, worker: &WorkerKey) -> &mpsc::Sender<ShardMessage> {
        let shards = u16::try_from(self.senders.len()).expect("shards are few");
        &self.senders[usize::from(shard_of(worker, shards))]
    }

    /// Asks every shard the same. Answers come in the shards' order; one that has ended gives none.
    pub async fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> ShardMessage) -> Vec<Option<T>> {
        // All are asked before the first answers, so that they work at the same time.
        let mut answers = Vec::with_capacity(self.senders.len());
        for shard in self.all() {
            let (sender, answer) = oneshot::channel();
            let asked = shard.send(question(sender)).await.is_ok();
            answers.push(asked.then_some(answer));
        }
        let mut answered = Vec::with_capacity(answers.len());
        for answer in answers {
            answered.push(match answer {
                Some(answer) => answer.await.ok(),
                None => None,
            });
        }
        answered
    }

    /// Every shard.
    pub fn all(&self) -> impl Iterator<Item = &mpsc::Sender<ShardMessage>> {
        self.senders.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_may_be_one_worker_share_a_shard() {
        let shard = |id: &str| shard_of(&WorkerKey { node: "host".into(), id: id.into(), pid: None }, 64);
        let first = shard("127.0.0.1:40000/1");
        for id in ["127.0.0.1:40000/2", "127.0.0.1:50123/77", "[::1]:9/3"] {
            assert_eq!(shard(id), first, "{id}");
        }
        let named: std::collections::BTreeSet<_> =
            (0..200).map(|number| shard(&format!("worker_{number}"))).collect();
        assert!(named.len() > 32, "{named:?}");
    }
}
