//! What the rows of a checkpoint hold, and how they are told apart.
//!
//! A worker has one row with everything that is small or lives for a window or two, a row for each open span, and one for
//! each closed span that it remembers. Metrics have rows of their own. What follows from these is not written: intervals, fingerprints, the users of
//! ordinals, every index. Values are postcard with a checksum behind; whatever changes them raises [`VERSION`].

use std::collections::{BTreeMap, VecDeque};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::control::policy::Policy;
use crate::engine::StreamId;
use crate::engine::clock::WorkerClock;
use crate::engine::ids::SpanContext;
use crate::engine::intervals::IntervalKey;
use crate::engine::ledger::EventLedger;
use crate::engine::memory::ClosedSpan;
use crate::engine::metrics::aggregation::{AggregationHead, InstanceId, MetricRow};
use crate::engine::nesting::Held;
use crate::engine::observed::Observation;
use crate::engine::open::OpenSpan;
use crate::engine::standalone::Pending;
use crate::engine::state::{Presence, Shown};
use crate::engine::tolerance::Tolerance;
use crate::engine::waiting::End;
use crate::store::RowKey;
use crate::time::Monotonic;
use crate::worker::{Identity, WorkerKey};

/// The version of everything here; the first byte of the head.
pub(crate) const VERSION: u8 = 2;

/// A checksum's length in bytes.
const SUM_BYTES: usize = 4;

/// Which row of an engine. Workers go by their number, spans by their sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// A part of the correlation ids that are watched.
    Watched(u8),
    Worker(u64),
    Open(u64, u64),
    Closed(u64, u64),
    /// Of what is measured.
    Metric(MetricRow),
}

impl Row {
    /// The rows of one worker stand together.
    pub(crate) fn key(self) -> RowKey {
        let (kind, worker, seq) = match self {
            Self::Watched(part) => return RowKey::from_slice(&[0, part]),
            Self::Metric(row) => return row.key(),
            Self::Worker(worker) => (0, worker, None),
            Self::Open(worker, seq) => (1, worker, Some(seq)),
            Self::Closed(worker, seq) => (2, worker, Some(seq)),
        };
        let mut key = RowKey::from_slice(&[1]);
        key.extend_from_slice(&worker.to_be_bytes());
        key.push(kind);
        if let Some(seq) = seq {
            key.extend_from_slice(&seq.to_be_bytes());
        }
        key
    }

    /// The row of a key, if it is one.
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        if *kind == 0 {
            let [part] = rest.try_into().ok()?;
            return Some(Self::Watched(part));
        }
        if let Some(row) = MetricRow::of(key) {
            return Some(Self::Metric(row));
        }
        let (worker, rest) = rest.split_first_chunk()?;
        let (kind, seq) = rest.split_first()?;
        let worker = u64::from_be_bytes(*worker);
        let seq = || Some(u64::from_be_bytes(seq.try_into().ok()?));
        match kind {
            0 => Some(Self::Worker(worker)),
            1 => Some(Self::Open(worker, seq()?)),
            2 => Some(Self::Closed(worker, seq()?)),
            _ => None,
        }
    }
}

/// The bytes of a row's value.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    sealed(Vec::with_capacity(384), value)
}

/// `bytes`, then the value, then a checksum of both.
pub(crate) fn sealed(bytes: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    let encoded = postcard::to_extend(value, bytes);
    let mut bytes = encoded.expect("none of these types refuses to be written, and memory is no device");
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

/// The value of a row; `None` if it is not what was written.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    unsealed(bytes, 0)
}

/// The value behind `skipped` bytes.
pub(crate) fn unsealed<T: DeserializeOwned>(bytes: &[u8], skipped: usize) -> Option<T> {
    let (bytes, sum) = bytes.split_last_chunk::<SUM_BYTES>()?;
    if *sum != checksum(bytes) {
        return None;
    }
    postcard::from_bytes(bytes.get(skipped..)?).ok()
}

fn checksum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let [a, b, c, d, ..] = xxh3_64(bytes).to_le_bytes();
    [a, b, c, d]
}

/// What is small, of the whole engine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) next_source: u64,
    pub(crate) next_number: u64,
    pub(crate) next_stream: u64,
    pub(crate) departed: EventLedger,
    /// Of all, those without fate included: what a worker had whose row cannot be read.
    pub(crate) total: EventLedger,
    /// Finished spans that were held.
    pub(crate) held: u64,
    /// Where metrics are made.
    pub(crate) metrics: Option<AggregationHead>,
}

/// A worker as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerRow<'a> {
    pub(crate) fixed: FixedRow<'a>,
    /// With the pairing tokens that each has, as [`crate::engine::memory::TokenTable::owned`] says.
    pub(crate) waiting: &'a BTreeMap<u64, (Monotonic, Box<End>)>,
    pub(crate) waiting_owned: Vec<u8>,
    pub(crate) held: &'a BTreeMap<(Monotonic, u64), Box<Held>>,
    pub(crate) held_owned: Vec<u8>,
    pub(crate) leaving: Vec<Leaving<'a>>,
    pub(crate) pending_events: &'a BTreeMap<u64, (Monotonic, Box<Pending>)>,
    pub(crate) fingerprints: &'a VecDeque<(Monotonic, u64)>,
    pub(crate) spent_tokens: Vec<(Monotonic, u64, bool)>,
    pub(crate) odd_ordinals: Vec<(u64, u32)>,
}

/// A worker's part that does not grow.
#[derive(Debug, Serialize)]
pub(crate) struct FixedRow<'a> {
    pub(crate) key: &'a WorkerKey,
    pub(crate) identity: &'a Identity,
    pub(crate) policy: &'a Policy,
    pub(crate) streams: &'a [StreamId],
    pub(crate) streams_seen: u64,
    pub(crate) presence: Presence,
    pub(crate) is_superseded: bool,
    pub(crate) shown: &'a Shown,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) clock: WorkerClock,
    pub(crate) tolerance: &'a Tolerance,
    pub(crate) observation: Observation,
    /// With the number of those without fate.
    pub(crate) ledger: EventLedger,
    pub(crate) next_seq: u64,
    pub(crate) alarm: Option<Monotonic>,
}

/// An exported span that may still be somebody's parent: where it stood, until when, and the base of its id.
pub(crate) type Leaving<'a> = (Monotonic, Option<(IntervalKey, i64, Option<&'a SpanContext>)>, Option<u64>);

/// [`WorkerRow`] as it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadWorker {
    pub(crate) fixed: ReadFixed,
    pub(crate) waiting: BTreeMap<u64, (Monotonic, Box<End>)>,
    pub(crate) waiting_owned: Vec<u8>,
    pub(crate) held: BTreeMap<(Monotonic, u64), Box<Held>>,
    pub(crate) held_owned: Vec<u8>,
    pub(crate) leaving: Vec<ReadLeaving>,
    pub(crate) pending_events: BTreeMap<u64, (Monotonic, Box<Pending>)>,
    pub(crate) fingerprints: VecDeque<(Monotonic, u64)>,
    pub(crate) spent_tokens: Vec<(Monotonic, u64, bool)>,
    pub(crate) odd_ordinals: Vec<(u64, u32)>,
}

/// [`FixedRow`] as it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadFixed {
    pub(crate) key: WorkerKey,
    pub(crate) identity: Identity,
    pub(crate) policy: Policy,
    pub(crate) streams: Vec<StreamId>,
    pub(crate) streams_seen: u64,
    pub(crate) presence: Presence,
    pub(crate) is_superseded: bool,
    pub(crate) shown: Shown,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) clock: WorkerClock,
    pub(crate) tolerance: Tolerance,
    pub(crate) observation: Observation,
    pub(crate) ledger: EventLedger,
    pub(crate) next_seq: u64,
    pub(crate) alarm: Option<Monotonic>,
}

/// [`Leaving`] as it is read.
pub(crate) type ReadLeaving = (Monotonic, Option<(IntervalKey, i64, Option<Box<SpanContext>>)>, Option<u64>);

/// A span's row: the pairing tokens that it has, and the span.
pub(crate) type SpanRow<'a, S> = (u8, &'a S);

/// An open span as it is read.
pub(crate) type ReadOpen = (u8, OpenSpan);

/// A closed span as it is read.
pub(crate) type ReadClosed = (u8, ClosedSpan);
