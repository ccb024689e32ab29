//! Everything that is decided between a finished item and its request: admission, batching, order, retry, what goes to
//! disk, the ledger. One pipeline a signal, so that no signal waits for another.
//!
//! This part does no input or output. It is told of items, of answers, of the disk and of the time; it says which request
//! to send next, what to write and what to read. [`exporter`](crate::exporter) holds it under a lock and does the waiting.
//!
//! With a store, whoever calls takes [`take_ops`](Pipeline::take_ops) after every call, writes them as one, and says
//! [`pushed`](Pipeline::pushed), all under the same lock: what is written keeps the order of what was decided.
//!
//! Laws: `made = exported + sampled_out + queued + spooled + sum(refused)` after every call. What was written as
//! `Op::Spool` and not as `Op::Settled` is delivered by this run or the next.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;

use crate::distribution::{BATCH_BYTES, BATCH_ITEMS, Distribution, REQUEST_DURATION_NS};
use crate::exporter::batch::{BatchSettings, Batcher, ItemTooLarge, Provenance};
use crate::exporter::queue::{BatchId, Entry, Queue, QueueSettings};
use crate::exporter::refusal::Refusal;
use crate::exporter::resource::ResourceSettings;
use crate::exporter::retry::{Peer, RetrySettings};
use crate::exporter::signal::Signal;
use crate::store::Origin;
use crate::time::{Monotonic, Now};
use crate::worker::Source;

mod answers;
mod disk;
mod outbox;
mod peer_limit;
mod reconcile;
mod snapshot;
pub mod split;
#[cfg(test)]
mod tests;

pub use outbox::{SAMPLED_OUT, SpoolNames};
pub use peer_limit::{MIN_LEARNED_BYTES, REGROW_AFTER};
pub use reconcile::Engines;
pub use snapshot::{ExportSnapshot, Notice};

use outbox::Outbox;
use peer_limit::PeerLimit;

/// Requests in flight at a time, so that a distant peer does not bound the rate: four of 512 spans with 100 ms there and
/// back make 20,000 spans a second, and one that is stuck leaves three ways.
pub const DEFAULT_MAX_IN_FLIGHT: usize = 4;

/// A request with one item of this size or less is not refused for its size, unless the peer says so: some answer the same
/// when they are short of memory.
pub const SMALL_ITEM_BYTES: usize = 64 << 10;

/// How long after a read that came to nothing the next is tried.
pub const RELOAD_AFTER: Duration = Duration::from_secs(1);

/// Bytes of the last error that are kept; peers may answer at length.
const MAX_ERROR_BYTES: usize = 1024;

/// The settings of the pipeline's parts.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// What is exported.
    pub signal: Signal,
    /// It is exported at all.
    pub enabled: bool,
    /// When a batch is full.
    pub batch: BatchSettings,
    /// What may be kept.
    pub queue: QueueSettings,
    /// What is sent again.
    pub retry: RetrySettings,
    /// Requests at a time. At least 1.
    pub max_in_flight: usize,
    /// What is said of every worker.
    pub resource: ResourceSettings,
}

/// A request to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRequest {
    /// Which batch it is.
    pub id: BatchId,
    /// Encoded.
    pub body: Bytes,
    /// Items in it.
    pub items: u64,
}

/// The state of an exporter for one signal.
#[derive(Debug)]
pub struct Pipeline {
    settings: PipelineSettings,
    batcher: Batcher,
    queue: Queue,
    peer: Peer,
    limit: PeerLimit,
    outbox: Outbox,
    rng: StdRng,
    /// Set once a drain has begun: when to give up.
    deadline: Option<Monotonic>,
    closed: bool,
    counts: Counts,
    notices: Vec<Notice>,
}

#[derive(Debug)]
struct Counts {
    made: u64,
    /// Of `made`; see [`ExportSnapshot`].
    made_again: u64,
    inherited: u64,
    exported: u64,
    sampled_out: u64,
    refused: BTreeMap<Refusal, u64>,
    requests_sent: u64,
    requests_failed: u64,
    requests_split: u64,
    send_failed: u64,
    retries: u64,
    last_error: Option<String>,
    request_duration_ns: Distribution,
    batch_items: Distribution,
    batch_bytes: Distribution,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            made: 0,
            made_again: 0,
            inherited: 0,
            exported: 0,
            sampled_out: 0,
            refused: BTreeMap::new(),
            requests_sent: 0,
            requests_failed: 0,
            requests_split: 0,
            send_failed: 0,
            retries: 0,
            last_error: None,
            request_duration_ns: Distribution::new(REQUEST_DURATION_NS),
            batch_items: Distribution::new(BATCH_ITEMS),
            batch_bytes: Distribution::new(BATCH_BYTES),
        }
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// An empty pipeline without a store. `rng` makes the backoff's jitter.
    #[must_use]
    pub fn new(settings: PipelineSettings, rng: StdRng) -> Self {
        Self {
            batcher: Batcher::new(settings.batch.clone(), settings.resource.clone()),
            queue: Queue::new(settings.queue.clone()),
            limit: PeerLimit::new(settings.batch.max_bytes),
            outbox: Outbox::new(settings.signal),
            settings,
            peer: Peer::default(),
            rng,
            deadline: None,
            closed: false,
            counts: Counts::default(),
            notices: Vec::new(),
        }
    }

    // === What comes in ===

    /// Refuses `items` new items unless some may be taken: whether they are worth being encoded. `origin`: all of them.
    pub fn refuse_all(&mut self, items: u64, origin: Option<Origin>) -> bool {
        let Some(refusal) = self.refuses_all() else { return false };
        self.counts.made += items;
        self.count_refused(items, refusal);
        // Whoever comes too late for the end of the program is made again by the next start.
        if !self.closed {
            self.outbox.many(refusal.as_str(), items, origin);
        }
        true
    }

    /// Takes an encoded element of its scope that counts `items`, or says why not; either way they are counted.
    ///
    /// # Errors
    /// If there is no room for it, or none anywhere.
    pub fn admit(
        &mut self,
        source: &Source,
        element: &[u8],
        items: u64,
        provenance: Provenance,
        now: Now,
    ) -> Result<(), Refusal> {
        self.counts.made += items;
        let taken = self.take(source, element, items, provenance, now);
        if let Err(refusal) = taken {
            self.count_refused(items, refusal);
            self.outbox.one(refusal.as_str(), items, provenance.origin);
        }
        taken
    }

    /// Counts an item that the sampler left out.
    pub fn sampled_out(&mut self, origin: Option<(u16, u64)>) {
        self.counts.made += 1;
        self.counts.sampled_out += 1;
        self.outbox.one(SAMPLED_OUT, 1, origin);
    }

    // === What goes out ===

    /// The next request to send now, if any. Call until there is none.
    pub fn next_request(&mut self, now: Now) -> Option<ExportRequest> {
        if self.closed || !self.settings.enabled {
            return None;
        }
        self.advance(now);
        while self.peer.ready_at() <= now.mono {
            let ways = self.peer.ways(self.settings.max_in_flight);
            let (id, entry) = self.queue.begin(ways, self.reserves(), now.mono)?;
            let body = entry.body.clone()?;
            let (items, failures) = (entry.items, entry.failures);
            if body.len() > self.limit.bytes() && items > 1 && self.split(id, self.limit.bytes(), now) > 1 {
                continue;
            }
            self.counts.requests_sent += 1;
            self.counts.retries += u64::from(failures > 0);
            self.counts.batch_items.record(items);
            self.counts.batch_bytes.record(body.len() as u64);
            return Some(ExportRequest { id, body, items });
        }
        None
    }

    /// When [`next_request`](Self::next_request) may have something new though nothing happens. Ask it first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        if self.closed {
            return None;
        }
        let ways = self.peer.ways(self.settings.max_in_flight);
        let retry = self.queue.poll_timeout(ways, self.reserves());
        let retry = retry.map(|at| at.max(self.peer.ready_at()));
        if self.reads() && self.queue.awaits_disk() {
            // It came to be due after what is to be read was asked for.
            return Some(Monotonic::default());
        }
        [self.batcher.poll_timeout(), retry, self.deadline].into_iter().flatten().min()
    }

    /// What is worth being said since this was last called.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    // === The end ===

    /// Sends what there is until `deadline`. Without a store nothing new is taken.
    pub fn drain(&mut self, deadline: Monotonic, now: Now) {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self.flush(now);
        self.queue.release(now.mono);
        self.peer.forget_backoff();
    }

    /// Whether a drain has come to its end: nothing is left in memory, or the time is up. Where a store keeps what is
    /// left, a peer that is down is not waited for, nor is what only the next run will read.
    #[must_use]
    pub fn is_drained(&self, now: Monotonic) -> bool {
        let Some(deadline) = self.deadline else { return self.closed };
        let is_empty = self.queue.items() == 0 && self.batcher.items() == 0;
        let is_kept = self.queue.has_disk() && (self.peer.is_down() || self.queue.awaits_disk());
        self.closed || is_empty || deadline <= now || is_kept
    }

    /// Ends. What is left is written where there is a store, and refused otherwise. Returns how many items were.
    pub fn close(&mut self, now: Now) -> u64 {
        self.closed = true;
        if self.queue.has_disk() {
            self.persist_all(false, now);
        } else {
            self.forget_doubtful_copies();
        }
        self.flush(now);
        let mut refused = 0;
        for entry in self.queue.clear_uncopied() {
            refused += entry.items;
            self.settle_refused(&entry, Refusal::Shutdown);
        }
        self.queue.abandon_memory();
        refused
    }

    /// The ledger.
    #[must_use]
    pub fn snapshot(&self, now: Monotonic) -> ExportSnapshot {
        let counts = &self.counts;
        let bounds = self.queue.settings();
        let snapshot = ExportSnapshot {
            signal: self.settings.signal,
            made: counts.made,
            made_again: counts.made_again,
            inherited: counts.inherited,
            exported: counts.exported,
            sampled_out: counts.sampled_out,
            refused: counts.refused.iter().map(|(refusal, items)| (refusal.as_str(), *items)).collect(),
            queued_items: self.batcher.items() + self.queue.items(),
            queued_bytes: (self.batcher.size_bytes() + self.queue.size_bytes()) as u64,
            queue_capacity_bytes: bounds.max_bytes as u64,
            queue_capacity_items: bounds.max_items,
            spooled: self.queue.spooled_items(),
            spooled_bytes: self.queue.spooled_bytes(),
            spool_capacity_bytes: if self.queue.has_disk() { bounds.max_spool_bytes } else { 0 },
            oldest_age: self.queue.oldest_age(now),
            requests_sent: counts.requests_sent,
            requests_failed: counts.requests_failed,
            requests_in_flight: self.queue.in_flight() as u64,
            retries: counts.retries,
            send_failed: counts.send_failed,
            spooled_batches: self.queue.spooled_batches(),
            request_duration_ns: counts.request_duration_ns.clone(),
            batch_items: counts.batch_items.clone(),
            batch_bytes: counts.batch_bytes.clone(),
            requests_split: counts.requests_split,
            max_request_bytes: self.limit.bytes() as u64,
            peer_is_down: self.peer.is_down(),
            last_error: counts.last_error.clone(),
        };
        debug_assert!(snapshot.adds_up(), "{snapshot:?}");
        snapshot
    }

    // === Admission ===

    fn refuses_all(&self) -> Option<Refusal> {
        if !self.settings.enabled {
            Some(Refusal::SignalDisabled)
        } else if self.closed || self.deadline.is_some() && !self.queue.has_disk() {
            Some(Refusal::Shutdown)
        } else {
            None
        }
    }

    fn take(
        &mut self,
        source: &Source,
        element: &[u8],
        items: u64,
        provenance: Provenance,
        now: Now,
    ) -> Result<(), Refusal> {
        // A drain may have begun since the caller asked.
        if let Some(refusal) = self.refuses_all() {
            return Err(refusal);
        }
        let cost = self.batcher.cost(source, element.len());
        self.find_room(items, cost, now)?;
        let full = self.batcher.push(source, element, items, provenance, now.mono);
        for batch in full.map_err(|ItemTooLarge { .. }| Refusal::ItemTooLarge)?.into_iter().flatten() {
            self.queue.push(batch, now);
        }
        Ok(())
    }

    fn find_room(&mut self, items: u64, cost: usize, now: Now) -> Result<(), Refusal> {
        self.spill(now.mono);
        while !self.queue.has_room(self.batcher.items(), self.batcher.size_bytes(), items, cost) {
            if self.queue.has_disk() {
                return Err(Refusal::QueueFull);
            }
            // Without one, or while it takes nothing, the old gives way; but not what is on disk, which takes no room here.
            let oldest = self.queue.drop_resident_older_than(self.settings.retry.gives_way_after, now.mono);
            self.note_gave_way(oldest.as_ref().ok_or(Refusal::QueueFull)?);
        }
        Ok(())
    }

    fn note_gave_way(&mut self, entry: &Entry) {
        self.settle_refused(entry, Refusal::GaveWay);
        if let Some(Notice::GaveWay { items }) = self.notices.last_mut() {
            *items += entry.items;
        } else {
            self.notices.push(Notice::GaveWay { items: entry.items });
        }
    }

    // === Sending ===

    /// Does what is due.
    fn advance(&mut self, now: Now) {
        let collected = if self.deadline.is_some() {
            self.batcher.flush()
        } else {
            self.batcher.handle_timeout(now.mono)
        };
        if let Some(batch) = collected {
            self.queue.push(batch, now);
        }
        self.limit.advance(now.mono);
        self.batcher.set_max_bytes(self.limit.bytes());
        self.queue.advance(now.mono);
        let mut expired = 0;
        while let Some(entry) = self.queue.drop_expired(self.settings.retry.max_elapsed, now.mono) {
            expired += entry.items;
            self.settle_refused(&entry, Refusal::RetryExpired);
        }
        if expired > 0 {
            self.notices.push(Notice::Expired { items: expired });
        }
    }

    /// Whether what is on disk is read: it may stay there where the program ends, or sends nothing.
    fn reads(&self) -> bool {
        !self.closed && self.deadline.is_none() && self.settings.enabled
    }

    /// Whether a way is kept for what is filled next.
    fn reserves(&self) -> bool {
        self.deadline.is_none()
    }

    fn flush(&mut self, now: Now) {
        if let Some(batch) = self.batcher.flush() {
            self.queue.push(batch, now);
        }
    }

    /// The fate of a batch that is taken out and not delivered.
    fn settle_refused(&mut self, entry: &Entry, refusal: Refusal) {
        self.count_refused(entry.items, refusal);
        self.outbox.settled(entry, 0, Some((refusal, entry.items)));
    }

    fn count_refused(&mut self, items: u64, refusal: Refusal) {
        if items > 0 {
            *self.counts.refused.entry(refusal).or_default() += items;
        }
    }
}
