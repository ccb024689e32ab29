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
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::exporter::encode::write_span;
    use crate::exporter::refusal::GrpcRefusal;
    use crate::exporter::testing::{source, span_of};

    const SECOND: u64 = 1_000_000_000;

    fn settings() -> PipelineSettings {
        PipelineSettings {
            enabled: true,
            batch: BatchSettings { max_spans: 1, ..BatchSettings::default() },
            queue: QueueSettings::default(),
            retry: RetrySettings::default(),
            max_in_flight: 2,
            resource: ResourceSettings::default(),
        }
    }

    fn pipeline(settings: PipelineSettings) -> Pipeline {
        Pipeline::new(settings, StdRng::seed_from_u64(7))
    }

    fn admit(pipeline: &mut Pipeline, now: u64) -> Result<(), Refusal> {
        let source = source(1);
        let mut span = Vec::new();
        write_span(&mut span, &span_of(&source, "a"));
        let admitted = pipeline.admit(&source, &span, Monotonic(now));
        assert!(pipeline.snapshot().adds_up());
        admitted
    }

    fn begin(pipeline: &mut Pipeline, now: u64) -> Option<BatchId> {
        pipeline.next_request(Monotonic(now)).map(|(id, _)| id)
    }

    fn settle(pipeline: &mut Pipeline, id: BatchId, outcome: Outcome, now: u64) -> Vec<Notice> {
        let notices = pipeline.settle(id, outcome, Monotonic(now));
        assert!(pipeline.snapshot().adds_up());
        notices
    }

    fn accepted() -> Outcome {
        Outcome::Accepted { rejected_spans: 0, message: String::new() }
    }

    fn retry(delay: Option<u64>) -> Outcome {
        Outcome::Retry { delay: delay.map(Duration::from_secs), error: "away".to_owned() }
    }

    fn refused() -> Outcome {
        Outcome::Refused { refusal: Refusal::Grpc(GrpcRefusal::InvalidArgument), error: "no".to_owned() }
    }

    #[test]
    fn as_many_requests_fly_as_are_allowed() {
        let mut pipeline = pipeline(settings());
        (0..3).for_each(|_| admit(&mut pipeline, 0).unwrap());
        let first = begin(&mut pipeline, 0).unwrap();
        let second = begin(&mut pipeline, 0).unwrap();
        assert_eq!(begin(&mut pipeline, 0), None);
        assert_eq!(pipeline.poll_timeout(), None, "an answer comes next");
        assert_eq!(settle(&mut pipeline, second, accepted(), 1), []);
        assert!(begin(&mut pipeline, 1).is_some_and(|third| third > second));
        settle(&mut pipeline, first, accepted(), 2);
        assert_eq!(pipeline.snapshot().exported, 2);
    }

    #[test]
    fn a_poisoned_batch_holds_no_other_up() {
        let mut pipeline = pipeline(settings());
        (0..20).for_each(|_| admit(&mut pipeline, 0).unwrap());
        let poisoned = begin(&mut pipeline, 0).unwrap();
        settle(&mut pipeline, poisoned, retry(None), 1);
        for now in 2..21 {
            let id = begin(&mut pipeline, now).unwrap();
            assert_ne!(id, poisoned);
            settle(&mut pipeline, id, accepted(), now);
        }
        assert_eq!(pipeline.snapshot().exported, 19);
        let again = pipeline.poll_timeout().unwrap();
        assert!((SECOND / 2..=2 * SECOND).contains(&again.0));
        assert_eq!(begin(&mut pipeline, again.0), Some(poisoned));
    }

    #[test]
    fn a_peer_that_is_down_is_probed_and_takes_everything_when_it_is_back() {
        let mut pipeline = pipeline(settings());
        (0..10).for_each(|_| admit(&mut pipeline, 0).unwrap());
        let mut now = 0;
        let mut probes = 0;
        while now < 300 * SECOND {
            while let Some(id) = begin(&mut pipeline, now) {
                if pipeline.snapshot().peer_is_down {
                    assert_eq!(begin(&mut pipeline, now), None, "probes go one at a time");
                }
                assert_eq!(settle(&mut pipeline, id, retry(None), now).len(), 1);
                probes += 1;
            }
            now = pipeline.poll_timeout().unwrap().0;
        }
        assert!((10..40).contains(&probes), "{probes} probes in five minutes");
        assert!(pipeline.snapshot().peer_is_down);
        let id = begin(&mut pipeline, now).unwrap();
        assert_eq!(settle(&mut pipeline, id, accepted(), now), [Notice::Recovered]);
        while let Some(id) = begin(&mut pipeline, now) {
            assert_eq!(settle(&mut pipeline, id, accepted(), now), []);
        }
        let snapshot = pipeline.snapshot();
        assert_eq!((snapshot.exported, snapshot.queued_spans, snapshot.peer_is_down), (10, 0, false));
    }

    #[test]
    fn a_peer_that_asks_for_time_gets_it_from_every_batch() {
        let mut pipeline = pipeline(settings());
        (0..2).for_each(|_| admit(&mut pipeline, 0).unwrap());
        let id = begin(&mut pipeline, 0).unwrap();
        settle(&mut pipeline, id, retry(Some(45)), 0);
        assert_eq!(begin(&mut pipeline, 45 * SECOND - 1), None);
        assert_eq!(pipeline.poll_timeout(), Some(Monotonic(45 * SECOND)));
        assert_eq!(begin(&mut pipeline, 45 * SECOND), Some(id));
    }

    #[test]
    fn a_refused_batch_is_counted_by_reason_and_never_sent_again() {
        let mut pipeline = pipeline(settings());
        admit(&mut pipeline, 0).unwrap();
        let id = begin(&mut pipeline, 0).unwrap();
        assert_eq!(settle(&mut pipeline, id, refused(), 0).len(), 1);
        assert_eq!(begin(&mut pipeline, u64::MAX), None);
        let snapshot = pipeline.snapshot();
        assert_eq!(snapshot.refused, BTreeMap::from([("rejected:invalid_argument", 1)]));
        assert_eq!((snapshot.requests_failed, snapshot.last_error.as_deref()), (1, Some("no")));
    }

    #[test]
    fn a_partial_success_counts_at_most_what_was_sent() {
        let mut pipeline = pipeline(PipelineSettings {
            batch: BatchSettings { max_spans: 3, ..BatchSettings::default() },
            ..settings()
        });
        (0..6).for_each(|_| admit(&mut pipeline, 0).unwrap());
        for (rejected_spans, message) in [(2, "two"), (99, "many")] {
            let id = begin(&mut pipeline, 0).unwrap();
            let outcome = Outcome::Accepted { rejected_spans, message: message.to_owned() };
            assert_eq!(settle(&mut pipeline, id, outcome, 0).len(), 1);
        }
        let snapshot = pipeline.snapshot();
        assert_eq!(snapshot.exported, 1);
        assert_eq!(snapshot.refused, BTreeMap::from([("partial_success", 5)]));
    }

    #[test]
    fn a_full_queue_refuses_new_spans_until_the_old_may_give_way() {
        let mut pipeline = pipeline(PipelineSettings {
            queue: QueueSettings { max_spans: Some(2), ..QueueSettings::default() },
            ..settings()
        });
        admit(&mut pipeline, 0).unwrap();
        admit(&mut pipeline, 1).unwrap();
        assert_eq!(admit(&mut pipeline, 2), Err(Refusal::QueueFull));
        assert_eq!(admit(&mut pipeline, 600 * SECOND), Ok(()));
        assert_eq!(admit(&mut pipeline, 600 * SECOND), Err(Refusal::QueueFull));
        let snapshot = pipeline.snapshot();
        assert_eq!(snapshot.queued_spans, 2);
        assert_eq!(snapshot.refused, BTreeMap::from([("queue_full", 2), ("gave_way", 1)]));
    }

    #[test]
    fn a_batch_is_given_up_in_the_end() {
        let mut pipeline = pipeline(settings());
        admit(&mut pipeline, 0).unwrap();
        assert_eq!(begin(&mut pipeline, 3600 * SECOND), None);
        assert_eq!(pipeline.snapshot().refused, BTreeMap::from([("retry_expired", 1)]));
    }

    #[test]
    fn draining_sends_what_was_being_collected_and_takes_nothing_new() {
        let mut pipeline = pipeline(PipelineSettings { batch: BatchSettings::default(), ..settings() });
        admit(&mut pipeline, 0).unwrap();
        assert_eq!(begin(&mut pipeline, 0), None);
        pipeline.drain(Monotonic(10), Monotonic(0));
        assert_eq!(admit(&mut pipeline, 0), Err(Refusal::Shutdown));
        assert!(pipeline.refuse_all(3));
        assert!(!pipeline.is_drained(Monotonic(0)));
        let id = begin(&mut pipeline, 0).unwrap();
        settle(&mut pipeline, id, accepted(), 1);
        assert!(pipeline.is_drained(Monotonic(1)));
        assert_eq!(pipeline.close(), 0);
    }

    #[test]
    fn what_is_left_at_the_deadline_is_refused() {
        let mut pipeline = pipeline(settings());
        (0..2).for_each(|_| admit(&mut pipeline, 0).unwrap());
        let id = begin(&mut pipeline, 0).unwrap();
        pipeline.drain(Monotonic(10), Monotonic(0));
        assert_eq!(pipeline.poll_timeout(), Some(Monotonic(0)), "the second batch may go");
        assert!(pipeline.is_drained(Monotonic(10)));
        assert_eq!(pipeline.close(), 2);
        assert_eq!(settle(&mut pipeline, id, accepted(), 11), [], "an answer after the end changes nothing");
        assert_eq!(pipeline.snapshot().refused, BTreeMap::from([("shutdown", 2)]));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Admit,
        Begin,
        Settle(usize, Outcome),
        Wait(u64),
        Drain,
        Close,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let outcome = prop_oneof![
            3 => (0_u64..3).prop_map(|rejected_spans| Outcome::Accepted { rejected_spans, message: String::new() }),
            3 => proptest::option::of(0_u64..100).prop_map(retry),
            1 => Just(refused()),
        ];
        prop_oneof![
            40 => Just(Op::Admit),
            30 => Just(Op::Begin),
            30 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Op::Settle(which, outcome)),
            20 => (0..2000 * SECOND).prop_map(Op::Wait),
            1 => Just(Op::Drain),
            1 => Just(Op::Close),
        ]
    }

    proptest! {
        /// Whatever happens, in whatever order, the sums add up and the bounds hold.
        #[test]
        fn the_sums_always_add_up(ops in vec(any_op(), 0..200)) {
            let mut pipeline = pipeline(PipelineSettings {
                batch: BatchSettings { max_spans: 2, ..BatchSettings::default() },
                queue: QueueSettings { max_spans: Some(12), ..QueueSettings::default() },
                ..settings()
            });
            let mut now = 0;
            let mut flying = Vec::new();
            for op in ops {
                match op {
                    Op::Admit => drop(admit(&mut pipeline, now)),
                    Op::Begin => flying.extend(begin(&mut pipeline, now)),
                    Op::Settle(which, outcome) if !flying.is_empty() => {
                        let id = flying.swap_remove(which % flying.len());
                        settle(&mut pipeline, id, outcome, now);
                    }
                    Op::Settle(..) => {}
                    Op::Wait(nanos) => now += nanos,
                    Op::Drain => pipeline.drain(Monotonic(now + SECOND), Monotonic(now)),
                    Op::Close => drop(pipeline.close()),
                }
                let snapshot = pipeline.snapshot();
                prop_assert!(snapshot.adds_up(), "{:?}", snapshot);
                prop_assert!(snapshot.queued_spans <= 12);
                prop_assert!(snapshot.requests_in_flight <= 2);
            }
        }
    }
}
