//! What the admin port shows of parts that it does not ask over a channel.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::readiness::Readiness;
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

/// What became of the spans that the exporter was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportFigures {
    /// The peer took them.
    pub exported: u64,
    /// The sampler left them out.
    pub sampled_out: u64,
    /// They wait on disk.
    pub spooled: u64,
    /// Not delivered, and never will be, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// What waits in memory, encoded.
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
    /// The peer fails again and again.
    pub peer_is_down: bool,
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
