//! What can be written, as one whole.

use std::ops::{Index, IndexMut, Range};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::exporter::signal::Signal;
use crate::time::UnixNanos;

/// Names one write; a later one is larger. What it holds is durable once the store says that this commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Commit(pub u64);

/// Names a batch on disk; an older one is smaller. Never used twice in one state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

/// An ordinal for each signal: a shard counts its spans, its metrics and its records apart, so that each signal's batches
/// hold ranges without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ordinals {
    /// Of spans.
    pub spans: u64,
    /// Of metrics: one message with some points.
    pub metrics: u64,
    /// Of log records.
    pub records: u64,
}

impl Ordinals {
    /// The larger of the two, for each signal.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let Self { spans, metrics, records } = other;
        Self {
            spans: self.spans.max(spans),
            metrics: self.metrics.max(metrics),
            records: self.records.max(records),
        }
    }
}

impl Index<Signal> for Ordinals {
    type Output = u64;

    fn index(&self, signal: Signal) -> &u64 {
        match signal {
            Signal::Traces => &self.spans,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.records,
        }
    }
}

impl IndexMut<Signal> for Ordinals {
    fn index_mut(&mut self, signal: Signal) -> &mut u64 {
        match signal {
            Signal::Traces => &mut self.spans,
            Signal::Metrics => &mut self.metrics,
            Signal::Logs => &mut self.records,
        }
    }
}

/// Outputs of one shard's engine, all of one signal, by their ordinal: the first of the signal ever has 0, and numbers go on
/// across restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The shard.
    pub shard: u16,
    /// Its outputs.
    pub ordinals: Range<u64>,
}

/// Where the items of a batch come from: one range a shard, as a rule. A range may span ordinals whose outputs had
/// another fate; that was pushed before.
pub type Origins = SmallVec<[Origin; 2]>;

/// The key of a row of an engine's checkpoint; means nothing to the store, and sorts as bytes do.
pub type RowKey = SmallVec<[u8; 24]>;

/// One thing to be written. What is pushed together is written together, whole or not at all, in this order.
#[derive(Debug, Clone)]
pub enum Op {
    /// Inputs of a shard's engine, to be replayed on top of the shard's last checkpoint.
    Journal {
        /// The shard.
        shard: u16,
        /// Means nothing to the store.
        records: Bytes,
    },
    /// A batch that must survive until it is settled.
    Spool {
        /// Its name.
        id: SpoolId,
        /// What is in it.
        signal: Signal,
        /// How many items.
        items: u64,
        /// The encoded request.
        body: Bytes,
        /// When it was filled.
        filled_at: UnixNanos,
        /// Whose outputs.
        origins: Origins,
    },
    /// The fate of some items is known. Takes the batch off the disk, if it is there.
    Settled {
        /// What they are.
        signal: Signal,
        /// The batch that they are, if it was spooled.
        spool: Option<SpoolId>,
        /// Whose outputs; empty for those of before the last checkpoint.
        origins: Origins,
        /// Items that the peer took.
        exported: u64,
        /// Items that were not delivered and never will be, by reason.
        refused: SmallVec<[(&'static str, u64); 1]>,
    },
    /// A shard's engine as it stands. What was journalled of this shard before is not needed any more, nor are the
    /// origins before `next`.
    Checkpoint {
        /// The shard.
        shard: u16,
        /// The state.
        state: ShardCheckpoint,
    },
    /// Forgets every shard: journal, rows, heads and settled origins. Batches and sums stay.
    ForgetShards,
}

/// What changed in a shard since its last checkpoint.
#[derive(Debug, Clone, Default)]
pub struct ShardCheckpoint {
    /// The ordinals of the next outputs.
    pub next: Ordinals,
    /// Everything that is small, replaced each time.
    pub head: Vec<u8>,
    /// Forget every row of the shard first.
    pub replaces_all: bool,
    /// Rows that are new or changed. Where one is there twice, the last holds.
    pub puts: Vec<(RowKey, Vec<u8>)>,
    /// Rows that are gone, of the puts too.
    pub deletes: Vec<RowKey>,
}
