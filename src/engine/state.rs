//! The whole state of one worker, and how its streams come and go.
//!
//! What becomes of starts and ends is in [`super::pairing`], of finished spans in [`super::nesting`], of spans that end
//! without their end in [`super::closing`], of standalone events in [`super::standalone`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::control::policy::Policy;
use crate::drops::DropReason;
use crate::engine::clock::WorkerClock;
use crate::engine::constants::ConstantIds;
use crate::engine::half::{self, Half};
use crate::engine::ids;
use crate::engine::intervals::{IntervalKey, Intervals};
use crate::engine::ledger::EventLedger;
use crate::engine::measuring::Metrics;
use crate::engine::memory::{ClosedSpans, Fingerprints, Ordinals, TokenTable};
use crate::engine::metadata::Reader;
use crate::engine::metrics::aggregation::InstanceId;
use crate::engine::metrics::mapping::Fate;
use crate::engine::metrics::measured::Weight;
use crate::engine::naming::{Naming, Phase};
use crate::engine::nesting::{HeldSpans, Relative};
use crate::engine::observed::Observation;
use crate::engine::open::OpenSpans;
use crate::engine::report::Occupancy;
use crate::engine::roots::RootCache;
use crate::engine::settings::Settings;
use crate::engine::standalone::PendingEvents;
use crate::engine::tolerance::Tolerance;
use crate::engine::waiting::WaitingEnds;
use crate::engine::{Output, StreamId};
use crate::event::Event;
use crate::time::{Monotonic, Now, UnixNanos};
use crate::worker::{Identity, Source, WorkerKey};

/// What all workers of a shard share while one input is handled.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) reader: &'a Reader,
    /// By the limits of log records; absent where none are made.
    pub(crate) record_reader: Option<&'a Reader>,
    pub(crate) naming: &'a mut Naming,
    pub(crate) roots: &'a mut RootCache,
    pub(crate) constants: &'a mut ConstantIds,
    pub(crate) metrics: Option<&'a mut Metrics>,
    pub(crate) next_source: &'a mut u64,
    pub(crate) outputs: &'a mut VecDeque<Output>,
    pub(crate) now: Now,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub(crate) key: WorkerKey,
    pub(crate) identity: Arc<Identity>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) streams: SmallVec<[StreamId; 2]>,
    /// Streams since it was first heard of, or last lost.
    pub(crate) streams_seen: u64,
    pub(crate) presence: Presence,
    /// Another incarnation has connected: no grace for this one.
    pub(crate) is_superseded: bool,
    pub(crate) shown: Shown,
    /// Where its measurements go, since the first.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) clock: WorkerClock,
    pub(crate) tolerance: Tolerance,
    /// Whether it keeps to the share that its policy asks for.
    pub(crate) observation: Observation,
    pub(crate) ledger: EventLedger,
    /// Ascends with every half and every closed span.
    pub(crate) next_seq: u64,
    /// The beginning of every derived id.
    pub(crate) id_prefix: Vec<u8>,
    pub(crate) runs_one_at_a_time: bool,
    pub(crate) open: OpenSpans,
    pub(crate) waiting: WaitingEnds,
    pub(crate) held: HeldSpans,
    pub(crate) intervals: Intervals<Relative>,
    /// Intervals of exported spans, with the base of their ids, until they cannot be anybody's parent.
    pub(crate) leaving: VecDeque<(Monotonic, Option<IntervalKey>, Option<u64>)>,
    pub(crate) pending_events: PendingEvents,
    pub(crate) fingerprints: Fingerprints,
    pub(crate) tokens: TokenTable,
    pub(crate) ordinals: Ordinals,
    pub(crate) closed: ClosedSpans,
    /// Something happened since its row was written.
    pub(crate) is_touched: bool,
    /// A checkpoint has its row.
    pub(crate) is_written: bool,
}

/// Whether a worker has a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Presence {
    /// At least one.
    Connected,
    /// None, since `at`; it may be back until `until`.
    Away { at: Monotonic, until: Monotonic },
    /// It did not come back; only memory is left.
    Lost,
}

/// A worker as exports show it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) worker_id: Arc<str>,
    pub(crate) pool: Option<Arc<str>>,
    pub(crate) pid: Option<u32>,
    /// How often metadata changed the id or the pool.
    changes: u8,
    /// Made with the first exported span; nothing changes after.
    pub(crate) source: Option<Arc<Source>>,
}

impl WorkerState {
    pub(crate) fn new(
        key: WorkerKey,
        identity: Arc<Identity>,
        policy: Arc<Policy>,
        runs_one_at_a_time: bool,
        has_one_timeout: bool,
    ) -> Self {
        let shown = Shown {
            worker_id: Arc::clone(&key.id),
            pool: identity.pool.clone(),
            pid: key.pid,
            changes: 0,
            source: None,
        };
        Self {
            id_prefix: ids::worker_prefix(&key),
            key,
            identity,
            policy,
            streams: SmallVec::new(),
            streams_seen: 0,
            presence: Presence::Connected,
            is_superseded: false,
            shown,
            instance: None,
            clock: WorkerClock::default(),
            tolerance: Tolerance::default(),
            observation: Observation::default(),
            ledger: EventLedger::default(),
            next_seq: 1,
            runs_one_at_a_time,
            open: OpenSpans::new(has_one_timeout),
            waiting: WaitingEnds::default(),
            held: HeldSpans::default(),
            intervals: Intervals::default(),
            leaving: VecDeque::new(),
            pending_events: PendingEvents::default(),
            fingerprints: Fingerprints::default(),
            tokens: TokenTable::default(),
            ordinals: Ordinals::default(),
            closed: ClosedSpans::default(),
            is_touched: false,
            is_written: false,
        }
    }

    pub(crate) fn stream_opened(
        &mut self,
        cx: &mut Shared<'_>,
        stream: StreamId,
        identity: Arc<Identity>,
        policy: Arc<Policy>,
    ) {
        // Without a process id, who comes back may be another process.
        let may_be_new = self.streams_seen == 0 || (self.streams.is_empty() && self.key.pid.is_none());
        if !self.streams.contains(&stream) {
            self.streams.push(stream);
        }
        self.streams_seen += 1;
        self.presence = Presence::Connected;
        self.is_superseded = false;
        if (&self.identity.host, self.identity.same_host) != (&identity.host, identity.same_host) {
            self.detach(cx);
        }
        self.identity = identity;
        self.join_again(cx);
        if *self.policy != *policy {
            self.observation = Observation::beginning(cx.now.wall);
        } else if may_be_new {
            self.observation.told_again(cx.now.wall);
        }
        self.policy = policy;
    }

    /// For how many each measurement of an event of this dotted name stands that was emitted at this time.
    pub(crate) fn weight(&self, emitted: &str, time: UnixNanos, window: Duration) -> Weight {
        if self.observation.is_thinned(time, window) {
            Weight::of_share(self.policy.share_of(emitted))
        } else {
            Weight::ONE
        }
    }

    /// An end of this dotted name has found its start, or will not.
    pub(crate) fn observe_end(&mut self, emitted: &str, is_alone: bool) {
        if self.policy.enabled && !self.identity.capabilities.consistent_sampling {
            self.observation.end(is_alone, self.policy.share_of(emitted));
        }
    }

    pub(crate) fn stream_closed(&mut self, cx: &mut Shared<'_>, stream: StreamId) {
        self.streams.retain(|open| *open != stream);
        if !self.streams.is_empty() || self.presence != Presence::Connected {
            return;
        }
        let at = cx.now.mono;
        self.presence = Presence::Away { at, until: at.after(cx.settings.reconnect_grace) };
        if self.is_superseded {
            self.lose(cx);
        }
    }

    pub(crate) fn superseded(&mut self, cx: &mut Shared<'_>) {
        self.is_superseded = true;
        if matches!(self.presence, Presence::Away { .. }) {
            self.lose(cx);
        }
    }

    pub(crate) fn unreadable(&mut self, reason: DropReason) {
        self.ledger.received += 1;
        self.drop_event(reason);
    }

    pub(crate) fn drop_event(&mut self, reason: DropReason) {
        self.ledger.dropped[reason.index()] += 1;
    }

    pub(crate) fn event(&mut self, cx: &mut Shared<'_>, event: &Event<'_>) {
        self.ledger.received += 1;
        let Some(name) = cx.naming.resolve(&event.parts) else {
            self.drop_event(DropReason::EmptyName);
            return;
        };
        self.clock.observe(UnixNanos(event.timestamp_ns), cx.now);
        if self.identity.capabilities.consistent_sampling {
            self.observation.take_at_its_word(self.policy.sampling_rate.value());
        }
        self.fill_in(cx, event, &name.emitted);
        let refusal = if !self.policy.enabled {
            Some(DropReason::Disabled)
        } else if self.policy.allows(&name.emitted) {
            None
        } else {
            Some(DropReason::Filtered)
        };
        match (name.phase, refusal) {
            (Some(Phase::Start) | None, Some(reason)) => {
                cx.note_fate(&name, name.phase.is_some(), Fate::Refused(reason));
                self.drop_event(reason);
            }
            (Some(Phase::Start), None) => {
                let half = self.half(cx, event, name, false);
                self.start(cx, event, half);
            }
            (Some(Phase::Stop | Phase::Exception), refusal) => {
                let half = self.half(cx, event, name, true);
                self.end(cx, event, half, refusal);
            }
            (None, None) => self.standalone(cx, event, &name),
        }
        self.enforce_bytes(cx);
    }

    fn half<'e>(
        &mut self,
        cx: &Shared<'_>,
        event: &Event<'e>,
        name: Arc<crate::engine::naming::Name>,
        is_end: bool,
    ) -> Half<'e> {
        let mut half = Half::read(event, name, is_end, cx.settings.propagators);
        self.ledger.notes.malformed_identity += u64::from(half.malformed_identity);
        if half.group.is_none() && self.runs_one_at_a_time {
            half.group = Some(half::ONE_AT_A_TIME_GROUP);
        }
        half
    }

    /// Metadata fill what the headers left empty, until something was exported.
    fn fill_in(&mut self, cx: &mut Shared<'_>, event: &Event<'_>, emitted: &str) {
        if self.shown.source.is_some() {
            return;
        }
        let mut is_changed = false;
        for (key, value) in &event.metadata {
            // Rules cost more than names, and a worker that is only measured is asked with each event.
            let is_about_it = matches!(*key, "worker_id" | "pool_name" | "python_pid" | "pid");
            if !is_about_it || value.is_empty() || cx.reader.redacts(key) {
                continue;
            }
            let value = crate::engine::metadata::truncated(value, MAX_SHOWN_BYTES);
            match *key {
                "worker_id" if !self.identity.id_by_header && *self.shown.worker_id != *value => {
                    self.shown.worker_id = Arc::from(value);
                    is_changed = true;
                }
                "pool_name" if self.identity.pool.is_none() && self.shown.pool.as_deref() != Some(value) => {
                    self.shown.pool = Some(Arc::from(value));
                    is_changed = true;
                }
                "python_pid" if self.key.pid.is_none() => {
                    self.shown.pid = value.parse().ok().or(self.shown.pid);
                }
                "pid" if self.key.pid.is_none() && emitted == "worker.ready" => {
                    self.shown.pid = value.parse().ok().or(self.shown.pid);
                }
                _ => {}
            }
        }
        if is_changed && cx.metrics.is_some() {
            self.detach(cx);
            self.shown.changes += 1;
            if self.shown.changes >= MAX_SHOWN_CHANGES {
                self.source(cx.next_source);
            }
        }
    }

    /// The source that exports carry; frozen by the first call.
    pub(crate) fn source(&mut self, next_source: &mut u64) -> Arc<Source> {
        let source = self.shown.source.get_or_insert_with(|| {
            let serial = *next_source;
            *next_source += 1;
            Arc::new(Source {
                serial,
                worker_id: Arc::clone(&self.shown.worker_id),
                node: Arc::clone(&self.key.node),
                pool: self.shown.pool.clone(),
                pid: self.shown.pid,
                host: self.identity.host.clone(),
                same_host: self.identity.same_host,
            })
        });
        Arc::clone(source)
    }

    pub(crate) fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// What the worker's clock shows now while a stream is up, else what it showed when the last one ended.
    pub(crate) fn closing_time(&self, now: Now) -> UnixNanos {
        let at = match self.presence {
            Presence::Connected | Presence::Lost => now.mono,
            Presence::Away { at, .. } => at,
        };
        self.clock.now(at).unwrap_or(now.wall)
    }

    /// Its own sums.
    pub(crate) fn ledger(&self) -> EventLedger {
        let pending = self.open.len() + self.waiting.len() + self.pending_events.without_fate();
        EventLedger { pending: pending as u64, ..self.ledger }
    }

    /// Entries of every table.
    pub(crate) fn residue(&self) -> usize {
        self.open.len()
            + self.waiting.len()
            + self.held.len()
            + self.intervals.len()
            + self.leaving.len()
            + self.pending_events.len()
            + self.fingerprints.len()
            + self.tokens.len()
            + self.ordinals.len()
            + self.closed.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.open.bytes() + self.waiting.bytes() + self.held.bytes() + self.pending_events.bytes()
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        Occupancy { open_spans: self.open.len(), open_bytes: self.bytes() }
    }

    /// Nothing is left that an event to come could refer to.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.presence == Presence::Lost
            && self.closed.len() == 0
            && self.held.len() == 0
            && self.pending_events.len() == 0
            && self.leaving.is_empty()
            && self.fingerprints.next_expiry().is_none()
            && self.tokens.next_expiry().is_none()
    }

    /// When [`WorkerState::handle_timeout`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Monotonic> {
        let grace = match self.presence {
            Presence::Away { until, .. } => Some(until),
            Presence::Connected | Presence::Lost => None,
        };
        let leaving = self.leaving.front().map(|(until, _, _)| *until);
        let decisions = earlier(self.waiting.next_deadline(), self.pending_events.next_deadline());
        let spans = earlier(self.held.next_deadline(), self.open.next_deadline());
        let memory = earlier(self.fingerprints.next_expiry(), self.tokens.next_expiry());
        let memory = earlier(memory, self.closed.next_expiry());
        earlier(earlier(earlier(grace, leaving), memory), earlier(decisions, spans))
    }

    /// Does what is due: decisions first, then judgements that rest on them, then closing, then forgetting.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Shared<'_>) {
        let now = cx.now.mono;
        while let Some(seq) = self.waiting.due(now) {
            self.decide(cx, seq);
        }
        self.judge_due(cx);
        while let Some(seq) = self.pending_events.due(now) {
            self.settle_event(cx, seq);
        }
        if let Presence::Away { until, .. } = self.presence
            && until <= now
        {
            self.lose(cx);
        }
        while let Some(seq) = self.open.due(now) {
            self.close(cx, seq, crate::engine::closing::Reason::Timeout);
        }
        self.forget_due(now);
    }

    fn forget_due(&mut self, now: Monotonic) {
        while self.leaving.front().is_some_and(|(until, _, _)| *until <= now) {
            if let Some((_, interval, base)) = self.leaving.pop_front() {
                self.forget_span(interval, base);
            }
        }
        if self.leaving.is_empty() {
            self.leaving.shrink_to_fit();
        }
        self.fingerprints.expire(now);
        self.tokens.expire(now);
        while let Some(number) = self.closed.due(now) {
            self.forget_closed(number);
        }
    }

    /// Forgets at `until` where a span stood and what its id was derived from.
    pub(crate) fn leave(&mut self, until: Monotonic, interval: Option<IntervalKey>, base: Option<u64>) {
        let until = self.leaving.back().map_or(until, |(last, _, _)| until.max(*last));
        self.leaving.push_back((until, interval, base));
    }

    pub(crate) fn forget_span(&mut self, interval: Option<IntervalKey>, base: Option<u64>) {
        if let Some(interval) = interval {
            self.intervals.remove(&interval);
        }
        if let Some(base) = base {
            self.ordinals.release(base);
        }
    }

    /// Keeps the worker's bytes within its limit: what waits goes first, because it loses least.
    pub(crate) fn enforce_bytes(&mut self, cx: &mut Shared<'_>) {
        while self.bytes() > cx.settings.limits.max_open_bytes_per_worker && self.shed_one(cx) {}
    }

    /// Gives something up; false if there is nothing.
    pub(crate) fn shed_one(&mut self, cx: &mut Shared<'_>) -> bool {
        if self.held.len() > 0 {
            self.judge_oldest_early(cx);
        } else if let Some(seq) = self.waiting.oldest() {
            self.ledger.notes.judged_early += 1;
            self.decide(cx, seq);
        } else if let Some(seq) = self.pending_events.oldest() {
            self.settle_event(cx, seq);
        } else {
            return self.evict_one(cx);
        }
        true
    }

    /// Closes the oldest open span; false if there is none.
    pub(crate) fn evict_one(&mut self, cx: &mut Shared<'_>) -> bool {
        let oldest = self.open.oldest();
        oldest.into_iter().for_each(|seq| self.close(cx, seq, crate::engine::closing::Reason::Evicted));
        oldest.is_some()
    }
}

/// The earlier of two instants, as far as there are any.
fn earlier(one: Option<Monotonic>, other: Option<Monotonic>) -> Option<Monotonic> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// How often metadata may change how a worker is shown while it is measured: each change makes another instance.
const MAX_SHOWN_CHANGES: u8 = 16;

/// What metadata may put into a resource attribute, in bytes.
const MAX_SHOWN_BYTES: usize = 255;
