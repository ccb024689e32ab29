//! Everything that is decided between a finished span and its request: admission, batching, order, retry, the ledger.
//!
//! This part does no input or output. It is told of spans, of answers and of the time; it says which request to send
//! next. [`exporter`](crate::exporter) holds it under a lock and does the waiting.
//!
//! Law: `made = exported + queued + sum(refused)` after every call.

use std::collections::BTreeMap;

use rand::rngs::StdRng;

use crate::exporter::answer::start_of;
use crate::exporter::batch::{Batch, BatchSettings, Batcher};
use crate::exporter::queue::{BatchId, Queue, QueueSettings};
use crate::exporter::refusal::Refusal;
use crate::exporter::resource::ResourceSettings;
use crate::exporter::retry::{MAX_SERVER_DELAY, Outcome, Peer, RetrySettings, backoff};
use crate::time::Monotonic;
use crate::worker::Source;

/// Requests in flight at a time, so that a distant peer does not bound the rate: four of 512 spans with 100 ms there and
/// back make 20,000 spans a second, and one that is stuck leaves three ways.
pub const DEFAULT_MAX_IN_FLIGHT: usize = 4;

/// Bytes of the last error that are kept; peers may answer at length.
const MAX_ERROR_BYTES: usize = 1024;

/// The exporter's ledger and state at one instant.
///
/// Law: `made = exported + queued_spans + sum(refused)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportSnapshot {
    /// Spans that the exporter was given.
    pub made: u64,
    /// Spans that the peer took.
    pub exported: u64,
    /// Spans that were not delivered and never will be, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Spans being collected, waiting, or on their way.
    pub queued_spans: u64,
    /// What they take, encoded.
    pub queued_bytes: u64,
    /// The bound of `queued_bytes`.
    pub queue_capacity_bytes: u64,
    /// The bound of `queued_spans`, where there is one.
    pub queue_capacity_spans: Option<u64>,
    /// Requests begun.
    pub requests_sent: u64,
    /// Requests that failed, for now or for good.
    pub requests_failed: u64,
    /// Requests in flight.
    pub requests_in_flight: u64,
    /// Requests begun for a batch that had failed before.
    pub retries: u64,
    /// The peer failed twice in a row or more, with no success since.
    pub peer_is_down: bool,
    /// What the last failed request came to.
    pub last_error: Option<String>,
}

impl ExportSnapshot {
    /// All spans that were refused.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether the sums add up.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.made == self.exported + self.queued_spans + self.refused_total()
    }
}

/// The settings of the pipeline's parts.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// Traces are exported at all.
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

/// What changed that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The peer took the request, but rejected some of its spans, or had a hint.
    PartialSuccess {
        /// Spans rejected.
        rejected_spans: u64,
        /// In the peer's words.
        message: String,
    },
    /// A request failed and will be sent again.
    WillRetry {
        /// What happened.
        error: String,
    },
    /// The peer refused a request for good.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Spans in it.
        spans: u64,
        /// What happened.
        error: String,
    },
    /// The peer answers again.
    Recovered,
}

/// The state of an exporter.
#[derive(Debug)]
pub struct Pipeline {
    settings: PipelineSettings,
    batcher: Batcher,
    queue: Queue,
    peer: Peer,
    rng: StdRng,
    /// Set once no more spans are taken: when to give up.
    deadline: Option<Monotonic>,
    closed: bool,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    made: u64,
    exported: u64,
    refused: BTreeMap<Refusal, u64>,
    requests_sent: u64,
    requests_failed: u64,
    retries: u64,
    last_error: Option<String>,
}

// === impl Pipeline ===

impl Pipeline {
    /// An empty pipeline. `rng` makes the backoff's jitter.
    #[must_use]
    pub fn new(settings: PipelineSettings, rng: StdRng) -> Self {
        Self {
            batcher: Batcher::new(settings.batch.clone(), settings.resource.clone()),
            queue: Queue::new(settings.queue.clone()),
            settings,
            peer: Peer::default(),
            rng,
            deadline: None,
            closed: false,
            counts: Counts::default(),
        }
    }

    /// Refuses `spans` new spans unless some may be taken: whether they are worth being encoded.
    pub fn refuse_all(&mut self, spans: u64) -> bool {
        let Some(refusal) = self.refuses_all() else { return false };
        self.counts.made += spans;
        self.count_refused(spans, refusal);
        true
    }

    /// Takes one encoded span, or says why not; either way it is counted.
    ///
    /// # Errors
    /// If there is no room for it, or none anywhere.
    pub fn admit(&mut self, source: &Source, span: &[u8], now: Monotonic) -> Result<(), Refusal> {
        self.counts.made += 1;
        let admitted = self.try_admit(source, span, now);
        if let Err(refusal) = admitted {
            self.count_refused(1, refusal);
        }
        admitted
    }

    /// The next request to send now, if any. Call until there is none.
    pub fn next_request(&mut self, now: Monotonic) -> Option<(BatchId, Batch)> {
        if self.closed {
            return None;
        }
        if let Some(batch) = self.batcher.handle_timeout(now) {
            self.queue.push(batch, now);
        }
        while let Some(spans) = self.queue.drop_older_than(self.settings.retry.max_elapsed, now) {
            self.count_refused(spans, Refusal::RetryExpired);
        }
        let may_fly = if self.peer.is_failing() { 1 } else { self.settings.max_in_flight.max(1) };
        if self.queue.in_flight() >= may_fly || self.peer.ready_at() > now {
            return None;
        }
        let (id, batch) = self.queue.begin(now)?;
        self.counts.requests_sent += 1;
        if self.queue.has_failed(id) {
            self.counts.retries += 1;
        }
        Some((id, batch))
    }

    /// Notes what came of a request.
    pub fn settle(&mut self, id: BatchId, outcome: Outcome, now: Monotonic) -> Vec<Notice> {
        match outcome {
            Outcome::Accepted { rejected_spans, message } => {
                self.settle_accepted(id, rejected_spans, message)
            }
            Outcome::Retry { delay, error } => {
                self.note_error(&error);
                let begun = self.queue.begun_at(id).unwrap_or(now);
                self.peer.note_failure(begun, delay, now, &self.settings.retry, &mut self.rng);
                let (retry, rng) = (&self.settings.retry, &mut self.rng);
                self.queue.put_back(id, now, |failures| {
                    backoff(retry, failures, rng).max(delay.unwrap_or_default().min(MAX_SERVER_DELAY))
                });
                vec![Notice::WillRetry { error }]
            }
            Outcome::Refused { refusal, error } => {
                self.note_error(&error);
                let mut notices = self.note_answer();
                if let Some(queued) = self.queue.finish(id) {
                    self.count_refused(queued.batch.spans, refusal);
                    notices.push(Notice::Refused { refusal, spans: queued.batch.spans, error });
                }
                notices
            }
        }
    }

    /// When [`next_request`](Self::next_request) may have something new though nothing happens. Ask it first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        if self.closed {
            return None;
        }
        let retry = self.queue.poll_timeout().map(|at| at.max(self.peer.ready_at()));
        // With every way taken, an answer is what happens next.
        let may_fly = if self.peer.is_failing() { 1 } else { self.settings.max_in_flight.max(1) };
        let retry = retry.filter(|_| self.queue.in_flight() < may_fly);
        [self.batcher.poll_timeout(), retry, self.deadline].into_iter().flatten().min()
    }

    /// Takes no more spans, and sends what there is until `deadline`.
    pub fn drain(&mut self, deadline: Monotonic, now: Monotonic) {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        if let Some(batch) = self.batcher.flush() {
            self.queue.push(batch, now);
        }
        self.queue.release();
        self.peer.forget_backoff();
    }

    /// Whether a drain has come to its end: nothing is left, or the time is up.
    #[must_use]
    pub fn is_drained(&self, now: Monotonic) -> bool {
        self.closed || self.deadline.is_some_and(|deadline| self.queue.batches() == 0 || deadline <= now)
    }

    /// Gives up whatever is left.
    pub fn close(&mut self) -> u64 {
        self.closed = true;
        let open = self.batcher.flush().map_or(0, |batch| batch.spans);
        let left = open + self.queue.clear();
        self.count_refused(left, Refusal::Shutdown);
        left
    }

    /// The ledger.
    #[must_use]
    pub fn snapshot(&self) -> ExportSnapshot {
        let counts = &self.counts;
        let snapshot = ExportSnapshot {
            made: counts.made,
            exported: counts.exported,
            refused: counts.refused.iter().map(|(refusal, spans)| (refusal.as_str(), *spans)).collect(),
            queued_spans: self.batcher.spans() + self.queue.spans(),
            queued_bytes: (self.batcher.size_bytes() + self.queue.size_bytes()) as u64,
            queue_capacity_bytes: self.queue.capacity_bytes() as u64,
            queue_capacity_spans: self.queue.capacity_spans(),
            requests_sent: counts.requests_sent,
            requests_failed: counts.requests_failed,
            requests_in_flight: self.queue.in_flight() as u64,
            retries: counts.retries,
            peer_is_down: self.peer.is_down(),
            last_error: counts.last_error.clone(),
        };
        debug_assert!(snapshot.adds_up(), "{snapshot:?}");
        snapshot
    }

    fn refuses_all(&self) -> Option<Refusal> {
        if !self.settings.enabled {
            Some(Refusal::SignalDisabled)
        } else if self.closed || self.deadline.is_some() {
            Some(Refusal::Shutdown)
        } else {
            None
        }
    }

    fn try_admit(&mut self, source: &Source, span: &[u8], now: Monotonic) -> Result<(), Refusal> {
        // A drain may have begun since the caller asked.
        if let Some(refusal) = self.refuses_all() {
            return Err(refusal);
        }
        while !self.queue.has_room(self.batcher.spans(), self.batcher.size_bytes(), span.len()) {
            let gave_way = self.queue.drop_older_than(self.settings.retry.gives_way_after, now);
            self.count_refused(gave_way.ok_or(Refusal::QueueFull)?, Refusal::GaveWay);
        }
        let full = self.batcher.push(source, span, now).map_err(|_| Refusal::SpanTooLarge)?;
        for batch in full.into_iter().flatten() {
            self.queue.push(batch, now);
        }
        Ok(())
    }

    fn settle_accepted(&mut self, id: BatchId, rejected_spans: u64, message: String) -> Vec<Notice> {
        let mut notices = self.note_answer();
        let Some(queued) = self.queue.finish(id) else { return notices };
        let rejected_spans = rejected_spans.min(queued.batch.spans);
        self.counts.exported += queued.batch.spans - rejected_spans;
        self.count_refused(rejected_spans, Refusal::PartialSuccess);
        if rejected_spans > 0 || !message.is_empty() {
            notices.push(Notice::PartialSuccess { rejected_spans, message });
        }
        notices
    }

    /// A peer that answers, be it with a refusal, is there.
    fn note_answer(&mut self) -> Vec<Notice> {
        if !self.peer.note_answer() {
            return Vec::new();
        }
        self.queue.release();
        vec![Notice::Recovered]
    }

    fn note_error(&mut self, error: &str) {
        self.counts.requests_failed += 1;
        self.counts.last_error = Some(start_of(error, MAX_ERROR_BYTES).to_owned());
    }

    fn count_refused(&mut self, spans: u64, refusal: Refusal) {
        if spans > 0 {
            *self.counts.refused.entry(refusal).or_default() += spans;
        }
    }
}

#[cfg(test)]
mod tests;
