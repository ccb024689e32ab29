//! What a shard writes down of what happens to its engine, so that a restart can let it happen again.
//!
//! The engine is deterministic: the same inputs with the same `now` make the same outputs, ids included. So the inputs
//! since the last checkpoint are kept, and nothing of what the engine made of them. Outputs are known by their
//! *ordinal*: the first span that the shard ever made has 0, as have its first metric and its first record, and the counts go
//! on across restarts.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::control::policy::Policy;
use crate::engine::{Settings, StreamId};
use crate::exporter::signal::Signal;
use crate::store::{Commit, Op, Ordinals, ShardCheckpoint, Store};
use crate::time::{Now, UnixNanos};
use crate::worker::{Identity, WorkerKey};

/// What a record takes, apart from its messages, at first.
const USUAL_RECORDS_BYTES: usize = 4 << 10;

/// One input of an engine, and when it was handled.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<'a> {
    /// The clocks as the engine was told them.
    pub now: Now,
    /// What happened.
    pub happened: Happened<'a>,
}

/// What can happen to an engine.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Happened<'a> {
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
    /// Messages arrived, as they stood on the wire.
    Messages {
        /// On this stream.
        stream: StreamId,
        /// In this order.
        messages: Cow<'a, [Bytes]>,
    },
    /// A stream is over.
    Closed {
        /// The stream.
        stream: StreamId,
    },
    /// Another incarnation has connected.
    Superseded {
        /// The old one.
        worker: WorkerKey,
    },
    /// The bridge's own limit was reached.
    Evict {
        /// How many spans were to go.
        spans: u64,
    },
    /// Something was due.
    Due,
    /// The bridge was to end, and its state to be kept.
    Paused,
    /// A collection of all metrics began.
    Collect {
        /// Of this time.
        at: UnixNanos,
    },
    /// It went on for one turn.
    CollectMore,
}

/// What a shard says of itself beside the state of its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHead {
    /// When the checkpoint was made: the clock goes on from here.
    pub now: Now,
    /// Of what, beside its inputs, decides what the engine makes: [`fingerprint`].
    pub fingerprint: u64,
}

/// Stands for the program's version and the engine's settings: with others, the same inputs may make something else.
#[must_use]
pub fn fingerprint(settings: &Settings) -> u64 {
    let said = format!("{} {settings:?}", env!("CARGO_PKG_VERSION"));
    xxhash_rust::xxh3::xxh3_64(said.as_bytes())
}

/// The journal of one shard.
#[derive(Debug)]
pub struct Journal {
    shard: u16,
    store: Store,
    fingerprint: u64,
    /// What happened in this turn.
    records: Vec<u8>,
    next: Ordinals,
    /// What was pushed is in this commit or in one before.
    pushed: Commit,
    /// Something was pushed since the last checkpoint.
    is_behind: bool,
}

impl Journal {
    /// A journal that goes on at `next`.
    #[must_use]
    pub fn new(shard: u16, store: Store, fingerprint: u64, next: Ordinals) -> Self {
        Self {
            shard,
            store,
            fingerprint,
            records: Vec::new(),
            next,
            pushed: Commit::default(),
            is_behind: true,
        }
    }

    /// Notes what the engine is about to be told.
    pub fn note(&mut self, now: Now, happened: Happened<'_>) {
        if self.records.capacity() == 0 {
            self.records.reserve(USUAL_RECORDS_BYTES);
        }
        write(&mut self.records, &Record { now, happened });
    }

    /// Takes numbers for so many outputs, and hands over what was noted. Returns the first numbers, and the commit without
    /// which the outputs must not leave the bridge: else a restart would not know that it had made them.
    pub fn push(&mut self, outputs: Ordinals) -> (Ordinals, Commit) {
        if !self.records.is_empty() {
            let records = Bytes::from(std::mem::take(&mut self.records));
            self.pushed = self.store.push(vec![Op::Journal { shard: self.shard, records }]);
            self.is_behind = true;
        }
        let first = self.next;
        for signal in Signal::ALL {
            self.next[signal] += outputs[signal];
        }
        (first, self.pushed)
    }

    /// Whether a checkpoint would say anything new.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// A checkpoint that somebody else hands over, and then says how by [`Journal::written`].
    #[must_use]
    pub fn whole(&self, now: Now, state: ShardCheckpoint) -> ShardCheckpoint {
        debug_assert!(self.records.is_empty(), "what was noted is pushed before");
        let head = ShardHead { now, fingerprint: self.fingerprint };
        whole_state(head, state, self.next)
    }

    /// What [`Journal::whole`] made is in this commit.
    pub fn written(&mut self, commit: Commit) {
        self.is_behind = false;
        self.pushed = commit;
    }

    /// Makes a checkpoint of what the engine says of itself, with everything that was noted in it. `push` hands it over.
    pub fn checkpoint(
        &mut self,
        now: Now,
        state: ShardCheckpoint,
        push: impl FnOnce(&Store, Op) -> Commit,
    ) -> Commit {
        let state = self.whole(now, state);
        let commit = push(&self.store, Op::Checkpoint { shard: self.shard, state });
        self.written(commit);
        commit
    }
}

/// A shard's checkpoint: its engine's, with the shard's own part before the engine's head.
pub fn whole_state(head: ShardHead, mut engine: ShardCheckpoint, next: Ordinals) -> ShardCheckpoint {
    let mut whole = Vec::with_capacity(engine.head.len() + size_of::<ShardHead>());
    write(&mut whole, &head);
    whole.append(&mut engine.head);
    ShardCheckpoint { next, head: whole, ..engine }
}

fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    let taken = std::mem::take(out);
    *out = postcard::to_extend(value, taken).expect("a vector grows, and every field can be written");
}

/// Takes the records of a journal apart, in order, and ends at the first that cannot be read.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'static>, postcard::Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        match postcard::take_from_bytes(bytes) {
            Ok((record, rest)) => {
                bytes = rest;
                Some(Ok(record))
            }
            Err(error) => {
                bytes = &[];
                Some(Err(error))
            }
        }
    })
}

/// Takes a checkpoint's head apart: the shard's own part, and the engine's.
///
/// # Errors
/// When it is not one.
pub fn split_head(head: &[u8]) -> Result<(ShardHead, &[u8]), postcard::Error> {
    postcard::take_from_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Monotonic;

    fn now(nanos: u64) -> Now {
        Now { mono: Monotonic(nanos), wall: UnixNanos(-1) }
    }

    fn worker() -> WorkerKey {
        WorkerKey { node: Arc::from("n"), id: Arc::from("w"), pid: Some(7) }
    }

    fn one_of_each() -> Vec<Record<'static>> {
        let messages = vec![Bytes::from_static(b"\x0a\x00"), Bytes::new(), Bytes::from(vec![255; 300])];
        let policy = Policy { blocked_events: vec!["debug.*".to_owned()], ..Policy::default() };
        [
            Happened::Opened {
                stream: StreamId(u64::MAX),
                worker: worker(),
                identity: Arc::new(Identity { pool: Some(Arc::from("p")), ..Identity::default() }),
                policy: Arc::new(policy),
            },
            Happened::Messages { stream: StreamId(1), messages: messages.into() },
            Happened::Closed { stream: StreamId(1) },
            Happened::Superseded { worker: worker() },
            Happened::Evict { spans: 3 },
            Happened::Due,
            Happened::Paused,
            Happened::Collect { at: UnixNanos(i64::MAX) },
            Happened::CollectMore,
        ]
        .into_iter()
        .zip(1..)
        .map(|(happened, nanos)| Record { now: now(nanos), happened })
        .collect()
    }

    #[test]
    fn what_is_written_is_read_in_order() {
        let mut written = Vec::new();
        for record in one_of_each() {
            write(&mut written, &record);
        }
        let read: Vec<_> = records(&written).map(Result::unwrap).collect();
        assert_eq!(read, one_of_each());
    }

    #[test]
    fn what_was_torn_ends_the_journal_and_costs_nothing_before() {
        let mut written = Vec::new();
        let mut ends = Vec::new();
        for record in one_of_each() {
            write(&mut written, &record);
            ends.push(written.len());
        }
        for cut in 0..written.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let is_torn = cut != 0 && !ends.contains(&cut);
            let read: Vec<_> = records(&written[..cut]).collect();
            assert_eq!(read.iter().filter(|record| record.is_ok()).count(), whole, "{cut}");
            assert_eq!(read.len(), whole + usize::from(is_torn), "{cut}");
        }
    }

    #[test]
    fn a_head_is_told_from_the_engine_s_part() {
        let head = ShardHead { now: now(5), fingerprint: 7 };
        let mut written = Vec::new();
        write(&mut written, &head);
        written.extend_from_slice(b"engine");
        assert_eq!(split_head(&written).unwrap(), (head, &b"engine"[..]));
        assert!(split_head(&written[..1]).is_err());
    }
}
