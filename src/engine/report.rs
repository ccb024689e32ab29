//! What the engine tells about its state, for the admin API.

use std::sync::Arc;

use crate::engine::attributes::Attributes;
use crate::engine::ledger::EventLedger;
use crate::engine::span::{SpanId, TraceId};
use crate::time::UnixNanos;
use crate::worker::{Identity, WorkerKey};

/// A worker, connected or within its grace period.
#[derive(Debug, Clone)]
pub struct WorkerReport {
    /// Its key.
    pub key: WorkerKey,
    /// What its headers said.
    pub identity: Arc<Identity>,
    /// As shown: by header, else by metadata.
    pub shown_worker_id: Arc<str>,
    /// As shown.
    pub shown_pool: Option<Arc<str>>,
    /// As shown.
    pub shown_pid: Option<u32>,
    /// Open streams.
    pub streams: usize,
    /// Its own sums.
    pub ledger: EventLedger,
    /// Starts without an end.
    pub open_spans: usize,
    /// The worker's clock minus the bridge's, in nanoseconds; unknown until a credible event came.
    pub clock_offset_ns: Option<i64>,
}

/// A span in flight.
#[derive(Debug, Clone)]
pub struct OpenSpanReport {
    /// Whose, as shown.
    pub worker_id: Arc<str>,
    /// The prefixed operation.
    pub name: Arc<str>,
    /// Empty where there is none.
    pub correlation_id: Arc<str>,
    /// As it stands now: a parent found later may change it.
    pub trace_id: TraceId,
    /// Final.
    pub span_id: SpanId,
    /// As far as it is known.
    pub parent_span_id: Option<SpanId>,
    /// On the worker's clock.
    pub start: UnixNanos,
    /// Since the start arrived, on the bridge's clock.
    pub age_ns: u64,
    /// Its end may have been sampled away in the worker.
    pub uncertain: bool,
    /// What the start said.
    pub attributes: Attributes,
}

/// Which open spans are asked for.
#[derive(Debug, Clone, Default)]
pub struct OpenSpanQuery {
    /// Exactly this worker id.
    pub worker: Option<String>,
    /// Exactly this operation, with or without the prefix.
    pub operation: Option<String>,
    /// At least this old.
    pub min_age_ns: u64,
    /// At most this many.
    pub limit: usize,
}

/// How full a shard is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Open spans.
    pub open_spans: usize,
    /// What they cost.
    pub open_bytes: usize,
    /// The worker with most open spans, and how many.
    pub fullest: Option<(WorkerKey, usize)>,
}
