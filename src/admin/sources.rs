//! What the admin port shows of parts that it does not ask over a channel.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::readiness::Readiness;
use crate::distribution::{BATCH_BYTES, BATCH_ITEMS, Distribution, REQUEST_DURATION_NS};
use crate::exporter::signal::Signal;
use crate::shard::{Capacity, Shards};

/// Everything that the admin port shows.
#[derive(Clone)]
pub struct AdminState {
    /// Where the engines are.
    pub shards: Shards,
    /// Where the bridge is in its life.
    pub readiness: Readiness,
    /// What the engines hold.
    pub capacity: Capacity,
    /// The exporter's figures, now.
    pub export: Arc<dyn Fn() -> ExportFigures + Send + Sync>,
    /// What is told of collections; nothing where no metrics are made.
    pub collections: Arc<dyn Fn() -> Option<CollectionFigures> + Send + Sync>,
    /// The receiver's figures, now.
    pub receiver: Arc<dyn Fn() -> ReceiverFigures + Send + Sync>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState")
            .field("shards", &self.shards)
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

/// What became of what the exporters were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportFigures {
    /// Of spans.
    pub traces: SignalFigures,
    /// Of data points.
    pub metrics: SignalFigures,
    /// Of log records.
    pub logs: SignalFigures,
    /// What waits in memory, encoded; this and the following of all signals.
    pub queued_bytes: u64,
    /// The bound of `queued_bytes`.
    pub queue_capacity_bytes: u64,
    /// Requests begun.
    pub requests_sent: u64,
    /// Requests that failed, for now or for good.
    pub requests_failed: u64,
    /// Requests in flight.
    pub requests_in_flight: u64,
    /// Requests begun for a batch that had failed before.
    pub retries: u64,
    /// A peer fails again and again.
    pub peer_is_down: bool,
    /// What is kept on disk; `None` without a state directory.
    pub store: Option<StoreFigures>,
}

impl ExportFigures {
    /// Of each signal.
    #[must_use]
    pub fn signals(&self) -> [(Signal, &SignalFigures); 3] {
        [(Signal::Traces, &self.traces), (Signal::Metrics, &self.metrics), (Signal::Logs, &self.logs)]
    }
}

/// The export of one signal. An item is a span, a data point or a log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalFigures {
    /// Items that the exporter took in.
    pub accepted: u64,
    /// Of these, those that an earlier run had made of events that then happened again.
    pub made_again: u64,
    /// Of these, those of earlier runs that no engine counts any more.
    pub inherited: u64,
    /// Items not delivered, and never to be, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Items that the peer took.
    pub sent: u64,
    /// Items that the sampler left out.
    pub sampled_out: u64,
    /// Items that wait on disk, and are not in memory.
    pub spooled: u64,
    /// Items in requests that failed, for now or for good; counted at every attempt.
    pub send_failed: u64,
    /// Items that wait in memory, or are on their way.
    pub queue_items: u64,
    /// The bound of `queue_items`, where there is one.
    pub queue_limit_items: Option<u64>,
    /// What they take, encoded.
    pub queue_bytes: u64,
    /// The bound of `queue_bytes`.
    pub queue_limit_bytes: u64,
    /// Requests begun for a batch that had failed before.
    pub retries: u64,
    /// From the beginning of a request to its answer, in nanoseconds.
    pub request_duration_ns: Distribution,
    /// Items of a request.
    pub batch_items: Distribution,
    /// Bytes of a request, before compression.
    pub batch_bytes: Distribution,
    /// The peer fails again and again.
    pub peer_is_down: bool,
    /// What waits on disk; `None` without a state directory.
    pub spool: Option<SpoolFigures>,
}

impl Default for SignalFigures {
    fn default() -> Self {
        Self {
            accepted: 0,
            made_again: 0,
            inherited: 0,
            refused: BTreeMap::new(),
            sent: 0,
            sampled_out: 0,
            spooled: 0,
            send_failed: 0,
            queue_items: 0,
            queue_limit_items: None,
            queue_bytes: 0,
            queue_limit_bytes: 0,
            retries: 0,
            request_duration_ns: Distribution::new(REQUEST_DURATION_NS),
            batch_items: Distribution::new(BATCH_ITEMS),
            batch_bytes: Distribution::new(BATCH_BYTES),
            peer_is_down: false,
            spool: None,
        }
    }
}

/// Batches of one signal that wait on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolFigures {
    /// How many.
    pub batches: u64,
    /// Their items.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bound of `bytes`: the signal's share of the whole.
    pub limit_bytes: u64,
    /// How long the oldest has waited, in nanoseconds; 0 where none waits.
    pub oldest_age_ns: u64,
}

/// The store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// What it was given last is, or will be, on disk. Not so while the disk is in trouble.
    pub is_working: bool,
    /// Commits so far.
    pub commits: u64,
    /// Commits that failed.
    pub commits_failed: u64,
    /// Its size on disk.
    pub bytes: u64,
    /// The bound of what all spools hold; each has its share, which no other may take.
    pub spool_limit_bytes: u64,
}

/// The collections of all metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectionFigures {
    /// How many are complete.
    pub complete: u64,
    /// How many were left out, because the one before was still under way.
    pub skipped: u64,
    /// What the last one took, over all shards, in nanoseconds.
    pub last_duration_ns: u64,
}

/// What the receiver counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiverFigures {
    /// Streams that are open.
    pub streams_open: u64,
    /// Streams so far.
    pub streams_opened: u64,
    /// Streams that ended by broken framing or a broken connection.
    pub streams_broken: u64,
    /// Messages so far, skipped ones included.
    pub messages: u64,
    /// Their bytes, skipped ones left out.
    pub message_bytes: u64,
    /// Messages that no engine took, because its shard was gone.
    pub messages_undelivered: u64,
    /// Streams that were refused, by reason.
    pub streams_refused: BTreeMap<&'static str, u64>,
    /// Connections that are open.
    pub connections_open: u64,
    /// The bound of `connections_open`.
    pub max_connections: u64,
    /// Connections that were closed before they could ask for anything, by reason.
    pub connections_refused: BTreeMap<&'static str, u64>,
    /// Requests without valid credentials, by what was wrong with them.
    pub requests_unauthenticated: BTreeMap<&'static str, u64>,
    /// Workers connected or within their grace period.
    pub workers: u64,
    /// The bound of `workers`.
    pub max_workers: u64,
}
