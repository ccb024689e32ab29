//! What the outside sees of a pipeline: its ledger and state, and what changed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::distribution::Distribution;
use crate::exporter::refusal::Refusal;
use crate::exporter::signal::Signal;

/// A signal's ledger and state at one instant.
///
/// Law: `made = exported + sampled_out + queued_items + spooled + sum(refused)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSnapshot {
    /// Of which items.
    pub signal: Signal,
    /// Items that the exporter was given.
    pub made: u64,
    /// Of these, those that an earlier run had made of events which happened once more after it: a start with other settings
    /// after a crash makes anew what the crash left, without knowing what of it was sent.
    pub made_again: u64,
    /// Of these, those of earlier runs that no engine counts: their sums are lost, or such items are not made any more.
    pub inherited: u64,
    /// Items that the peer took.
    pub exported: u64,
    /// Items that the sampler left out.
    pub sampled_out: u64,
    /// Items that were not delivered and never will be, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Items in memory: being collected, waiting, or on their way.
    pub queued_items: u64,
    /// What they take, encoded.
    pub queued_bytes: u64,
    /// The bound of `queued_bytes`.
    pub queue_capacity_bytes: u64,
    /// The bound of `queued_items`, where there is one.
    pub queue_capacity_items: Option<u64>,
    /// Items that are only on disk.
    pub spooled: u64,
    /// What is on disk, copies of what is in memory included.
    pub spooled_bytes: u64,
    /// The bound of `spooled_bytes`; 0 without a disk.
    pub spool_capacity_bytes: u64,
    /// How old the oldest batch is.
    pub oldest_age: Option<Duration>,
    /// Requests begun.
    pub requests_sent: u64,
    /// Requests that failed, for now or for good.
    pub requests_failed: u64,
    /// Requests in flight.
    pub requests_in_flight: u64,
    /// Requests begun for a batch that had failed before.
    pub retries: u64,
    /// Items in requests that failed, for now or for good; counted at every attempt.
    pub send_failed: u64,
    /// Batches on disk, copies of what is in memory included.
    pub spooled_batches: u64,
    /// From the beginning of a request to its answer, in nanoseconds.
    pub request_duration_ns: Distribution,
    /// Items of a request.
    pub batch_items: Distribution,
    /// Bytes of a request, before compression.
    pub batch_bytes: Distribution,
    /// Requests that were cut because the peer found them, or one before them, too large.
    pub requests_split: u64,
    /// The largest request that is sent, by what the peer was seen to refuse.
    pub max_request_bytes: u64,
    /// Two batches in a row failed or more, with no success since.
    pub peer_is_down: bool,
    /// What the last failed request came to.
    pub last_error: Option<String>,
}

impl ExportSnapshot {
    /// All items that were refused.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether the sums add up.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let places = self.exported + self.sampled_out + self.queued_items + self.spooled;
        self.made == places + self.refused_total()
    }
}

/// What changed that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The peer took the request, but rejected some of its items, or had a hint.
    PartialSuccess {
        /// Items rejected.
        rejected_items: u64,
        /// In the peer's words.
        message: String,
    },
    /// A request failed and will be sent again.
    WillRetry {
        /// What happened.
        error: String,
    },
    /// The peer found a request too large, or seems to; it was cut.
    Split {
        /// Its size.
        size_bytes: usize,
        /// How many requests it is now.
        pieces: usize,
        /// What happened.
        error: String,
    },
    /// The peer refused a request for good.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Items in it.
        items: u64,
        /// What happened.
        error: String,
    },
    /// The peer does not take this item, which is a request by itself.
    ItemTooLarge {
        /// What it calls itself.
        name: Option<String>,
        /// The request's size.
        size_bytes: usize,
        /// What happened.
        error: String,
    },
    /// What was on disk could not be read back whole.
    SpoolDamaged {
        /// Items in it.
        items: u64,
    },
    /// Batches are older than they are kept.
    Expired {
        /// Items in them.
        items: u64,
    },
    /// Old batches gave their room to new ones.
    GaveWay {
        /// Items in them.
        items: u64,
    },
    /// The peer took what it had not taken before, though it was never down.
    Retried {
        /// Items in it.
        items: u64,
    },
    /// The peer answers again.
    Recovered,
}
