//! Everything that is decided about an event: naming, pairing, nesting, ids.
//!
//! The engine is a state machine without sockets, clocks, threads or OTLP. It is fed with `(input, now)` and returns
//! outputs; the same inputs in the same order give the same outputs, ids included. One engine owns the whole state of
//! the workers of one shard; workers share nothing.

pub mod attributes;
mod b3;
mod changes;
mod checkpoint;
mod clock;
mod closing;
mod compose;
mod constants;
mod emission;
mod half;
mod ids;
mod intervals;
mod io;
pub mod ledger;
mod matching;
mod measuring;
mod memory;
mod metadata;
pub mod metrics;
mod naming;
mod nesting;
pub mod observed;
mod open;
mod pairing;
pub mod record;
pub mod report;
mod restore;
mod roots;
mod rows;
pub mod sampler;
pub mod settings;
mod short;
pub mod span;
mod standalone;
mod state;
#[doc(hidden)]
pub mod steps;
mod tolerance;
mod trace_state;
mod unfinished;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::control::glob::Glob;
use crate::control::policy::Policy;
use crate::drops::DropReason;
use crate::engine::checkpoint::Preparation;
use crate::engine::constants::ConstantIds;
use crate::engine::measuring::Metrics;
use crate::engine::metadata::Reader;
use crate::engine::metrics::MetricFigures;
use crate::engine::metrics::aggregation::{Notice, OverflowLimit};
use crate::engine::metrics::point::Metric;
use crate::engine::naming::Naming;
use crate::engine::report::{
    EventAnswer, EventQuery, Occupancy, OpenSpanQuery, OpenSpanReport, WorkerReport,
};
use crate::engine::roots::RootCache;
use crate::engine::state::{Presence, Shared, WorkerState};
use crate::time::{Monotonic, Now, UnixNanos};
use crate::worker::{Identity, WorkerKey};

pub use io::{COLLECT_POINTS, Input, MAX_AHEAD_NS, Output, StreamId, Warning};
pub use ledger::EventLedger;
pub use restore::{Damage, KnownWorker, RESTORED_GRACE, RestoreError, Restored};
pub use settings::Settings;
pub use span::Span;

/// The state of the workers of one shard.
#[derive(Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    reader: Reader,
    /// By the limits of log records; absent where none are made.
    record_reader: Option<Reader>,
    one_at_a_time: Vec<Glob>,
    naming: Naming,
    metrics: Option<Metrics>,
    roots: RootCache,
    constants: ConstantIds,
    next_source: u64,
    next_stream: u64,
    outputs: VecDeque<Output>,
    /// By a number that ascends with arrival.
    workers: BTreeMap<u64, WorkerState>,
    /// Of all workers.
    occupancy: Occupancy,
    numbers: BTreeMap<WorkerKey, u64>,
    next_number: u64,
    streams: HashMap<StreamId, u64>,
    /// When a worker wants to be called, at the earliest; `alarms` says the same by time.
    deadlines: HashMap<u64, Monotonic>,
    alarms: BTreeSet<(Monotonic, u64)>,
    /// Of workers that are forgotten, and of what belongs to none: some messages, all points.
    departed: EventLedger,
    /// A checkpoint was written since the engine was made, or is being prepared.
    is_written: bool,
    /// Workers to which something happened since they were written, once there is a checkpoint.
    touched: BTreeSet<u64>,
    /// Of the next checkpoint.
    preparation: Preparation,
}

/// Lost workers that are remembered for the ends that may still come.
const MAX_REMEMBERED_WORKERS: usize = 10_000;

impl Engine {
    /// An engine without workers.
    ///
    /// `shard` makes the serials of its sources unique.
    #[must_use]
    pub fn new(settings: Arc<Settings>, shard: u16) -> Self {
        Self {
            reader: Reader::new(&settings),
            record_reader: settings.records.then(|| Reader::new(&settings.of_records())),
            one_at_a_time: settings.one_at_a_time.iter().map(|glob| Glob::new(glob)).collect(),
            naming: Naming::new(&settings.prefix),
            metrics: settings.metrics.as_ref().map(|metrics| Metrics::new(metrics, &settings)),
            roots: RootCache::default(),
            constants: ConstantIds::default(),
            next_source: u64::from(shard) << restore::SHARD_SHIFT,
            next_stream: 0,
            outputs: VecDeque::new(),
            workers: BTreeMap::new(),
            occupancy: Occupancy::default(),
            numbers: BTreeMap::new(),
            next_number: 0,
            streams: HashMap::new(),
            deadlines: HashMap::new(),
            alarms: BTreeSet::new(),
            departed: EventLedger::default(),
            is_written: false,
            touched: BTreeSet::new(),
            preparation: Preparation::default(),
            settings,
        }
    }

    /// Takes one input, after what is due for its worker. Work is bounded.
    pub fn handle(&mut self, input: Input<'_, '_>, now: Now) {
        match input {
            Input::StreamOpened { stream, worker, identity, policy } => {
                let number = self.number_of(worker, &identity, &policy);
                self.streams.insert(stream, number);
                self.next_stream = self.next_stream.max(stream.0.saturating_add(1));
                self.with(number, now, |state, cx| state.stream_opened(cx, stream, identity, policy));
            }
            Input::Event { stream, event } => match self.streams.get(&stream) {
                Some(number) => self.with(*number, now, |state, cx| state.event(cx, event)),
                None => self.count_homeless(DropReason::Overload),
            },
            Input::Unreadable { stream, reason } => match self.streams.get(&stream) {
                Some(number) => self.with(*number, now, |state, _| state.unreadable(reason)),
                None => self.count_homeless(reason),
            },
            Input::StreamClosed { stream } => {
                if let Some(number) = self.streams.remove(&stream) {
                    self.with(number, now, |state, cx| state.stream_closed(cx, stream));
                }
            }
            Input::Superseded { worker } => self.with_key(&worker, now, WorkerState::superseded),
            Input::Evict { spans } => self.evict(spans, now),
            Input::Collect { at } => {
                if let Some(metrics) = &mut self.metrics {
                    metrics.aggregation.begin(at, now);
                }
            }
            Input::CollectMore => self.collect_more(),
            Input::Shutdown => self.with_all(now, WorkerState::shut_down),
            Input::Pause => self.with_all(now, WorkerState::pause),
        }
    }

    /// Whether a collection has begun and is not complete.
    #[must_use]
    pub fn is_collecting(&self) -> bool {
        self.metrics.as_ref().is_some_and(|metrics| metrics.aggregation.is_collecting())
    }

    /// How things are with metrics; nothing where none are made.
    #[must_use]
    pub fn metric_figures(&self) -> MetricFigures {
        self.metrics.as_ref().map(|metrics| metrics.aggregation.figures()).unwrap_or_default()
    }

    /// What the events seen lately became, and why, by name; nothing where no metrics are made. Reports are made of those that
    /// are asked for, and of no others.
    #[must_use]
    pub fn events(&self, query: &EventQuery) -> EventAnswer {
        self.metrics.as_ref().map(|metrics| metrics.mapping.explain(query)).unwrap_or_default()
    }

    /// The time of the last collection that began; that of the next one is to be as [`Input::Collect`] says.
    #[must_use]
    pub fn last_collection(&self) -> Option<UnixNanos> {
        self.metrics.as_ref().and_then(|metrics| metrics.aggregation.last_collection())
    }

    /// When [`Engine::handle_timeout`] wants to be called next, at the earliest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Does what is due at `now`. Idempotent at one instant.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((_, number)) = self.alarms.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.with(number, now, |_, _| {});
        }
    }

    /// The next thing that the engine wants done.
    pub fn next_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() && self.outputs.capacity() > 4096 {
            self.outputs = VecDeque::new();
        }
        output
    }

    /// The sums of all events so far; the identity holds in every answer.
    #[must_use]
    pub fn ledger(&self) -> EventLedger {
        let mut sum = self.departed;
        for state in self.workers.values() {
            sum.add(&state.ledger());
        }
        sum
    }

    /// Every worker that is connected or within its grace period.
    #[must_use]
    pub fn workers(&self, _now: Now) -> Vec<WorkerReport> {
        let present = self.workers.values().filter(|state| state.presence != Presence::Lost);
        present.map(report::worker).collect()
    }

    /// Open spans that match, oldest first within each worker, and how many match in all.
    #[must_use]
    pub fn open_spans(&self, query: &OpenSpanQuery, now: Now) -> (Vec<OpenSpanReport>, u64) {
        let mut found = Vec::new();
        let mut total = 0;
        for state in self.workers.values() {
            report::open_spans(state, query, now, &mut found, &mut total);
        }
        (found, total)
    }

    /// How long the oldest open span has been open; 0 if there is none.
    #[must_use]
    pub fn oldest_open_age_ns(&self, now: Now) -> u64 {
        self.workers.values().map(|state| report::oldest_open_age_ns(state, now)).max().unwrap_or(0)
    }

    /// Open spans of this shard, and the bytes of all that waits for something.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        self.occupancy
    }

    /// Entries in the tables of all workers, and alarms: none once everything is decided and forgotten. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn residue(&self) -> usize {
        self.alarms.len()
            + self.deadlines.len()
            + self.workers.values().map(WorkerState::residue).sum::<usize>()
    }

    /// Lets the worker that holds most give up its oldest spans.
    fn evict(&mut self, spans: usize, now: Now) {
        let holds_most = |(_, state): &(&u64, &WorkerState)| (state.open.bytes(), state.bytes());
        let Some((number, _)) = self.workers.iter().max_by_key(holds_most) else { return };
        self.with(*number, now, |state, cx| {
            for _ in 0..spans {
                if !state.evict_one(cx) && !state.shed_one(cx) {
                    break;
                }
            }
        });
    }

    fn number_of(&mut self, worker: WorkerKey, identity: &Arc<Identity>, policy: &Arc<Policy>) -> u64 {
        if let Some(number) = self.numbers.get(&worker) {
            return *number;
        }
        if self.workers.len() >= MAX_REMEMBERED_WORKERS {
            self.forget_one_lost();
        }
        let number = self.next_number;
        self.next_number += 1;
        let one_at_a_time = self.one_at_a_time.iter().any(|glob| glob.matches(&worker.id));
        self.numbers.insert(worker.clone(), number);
        let one_timeout = self.settings.span_timeouts.is_empty();
        let (identity, policy) = (Arc::clone(identity), Arc::clone(policy));
        let state = WorkerState::new(worker, identity, policy, one_at_a_time, one_timeout);
        self.workers.insert(number, state);
        number
    }

    /// Makes room among the lost workers, longest known first; the connected ones are the receiver's to limit.
    fn forget_one_lost(&mut self) {
        let lost = self.workers.iter().find(|(_, state)| {
            state.presence == Presence::Lost && state.held.len() == 0 && state.pending_events.len() == 0
        });
        if let Some(number) = lost.map(|(number, _)| *number) {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(mut state) = self.workers.remove(&number) {
            if !self.preparation.is_ahead(number) {
                state.delete_written(number, self.preparation.draft());
            }
            self.touched.remove(&number);
            let occupancy = state.occupancy();
            self.occupancy.open_spans -= occupancy.open_spans;
            self.occupancy.open_bytes -= occupancy.open_bytes;
            self.departed.add(&state.ledger());
            self.numbers.remove(&state.key);
        }
        if let Some(at) = self.deadlines.remove(&number) {
            self.alarms.remove(&(at, number));
        }
    }

    /// Counts what came on a stream that nobody opened.
    fn count_homeless(&mut self, reason: DropReason) {
        self.departed.received += 1;
        self.departed.dropped[reason.index()] += 1;
    }

    fn with_all(&mut self, now: Now, act: impl Fn(&mut WorkerState, &mut Shared<'_>)) {
        let numbers: Vec<u64> = self.workers.keys().copied().collect();
        for number in numbers {
            self.with(number, now, &act);
        }
    }

    fn with_key(
        &mut self,
        worker: &WorkerKey,
        now: Now,
        act: impl FnOnce(&mut WorkerState, &mut Shared<'_>),
    ) {
        if let Some(number) = self.numbers.get(worker) {
            self.with(*number, now, act);
        }
    }

    /// Lets a worker do what is due, then `act`, then sets its alarm.
    fn with(&mut self, number: u64, now: Now, act: impl FnOnce(&mut WorkerState, &mut Shared<'_>)) {
        let Some(state) = self.workers.get_mut(&number) else { return };
        let before = state.occupancy();
        let mut shared = Shared {
            settings: &self.settings,
            reader: &self.reader,
            record_reader: self.record_reader.as_ref(),
            naming: &mut self.naming,
            metrics: self.metrics.as_mut(),
            roots: &mut self.roots,
            constants: &mut self.constants,
            next_source: &mut self.next_source,
            outputs: &mut self.outputs,
            now,
        };
        let alarm = self.deadlines.get(&number).copied();
        let is_due = alarm.is_some_and(|at| at <= now.mono);
        if is_due {
            state.handle_timeout(&mut shared);
        }
        act(state, &mut shared);
        if let Some(metrics) = self.metrics.as_mut().filter(|metrics| metrics.aggregation.has_notices()) {
            self.outputs.extend(
                metrics.aggregation.take_notices().into_iter().map(|notice| Output::Warning(warning(notice))),
            );
        }
        state.note_robbed();
        if self.is_written && !state.is_touched {
            state.is_touched = true;
            self.touched.insert(number);
        }
        let after = state.occupancy();
        self.occupancy.open_spans = self.occupancy.open_spans + after.open_spans - before.open_spans;
        self.occupancy.open_bytes = self.occupancy.open_bytes + after.open_bytes - before.open_bytes;
        if state.is_forgettable() {
            return self.forget(number);
        }
        let next = state.next_timeout();
        // An alarm may be early, never late: it is moved only when it is due, or when something is due before it.
        if is_due || next.is_some_and(|next| alarm.is_none_or(|alarm| next < alarm)) {
            self.set_alarm(number, alarm, next);
        }
    }

    fn collect_more(&mut self) {
        let Some(metrics) = &mut self.metrics else { return };
        let (outputs, points) = (&mut self.outputs, &mut self.departed.points_made);
        metrics.aggregation.collect(COLLECT_POINTS, &mut |metric: Metric| {
            *points += metric.len() as u64;
            outputs.push_back(Output::Metric(metric));
        });
    }

    fn set_alarm(&mut self, number: u64, old: Option<Monotonic>, new: Option<Monotonic>) {
        if let Some(old) = old {
            self.alarms.remove(&(old, number));
        }
        match new {
            Some(new) => {
                self.alarms.insert((new, number));
                self.deadlines.insert(number, new);
            }
            None => {
                self.deadlines.remove(&number);
            }
        }
    }
}

fn warning(notice: Notice) -> Warning {
    match notice {
        Notice::Conflict { source, kept, refused } => Warning::InstrumentConflict {
            instance: source.instance_id(),
            name: Arc::clone(&kept.name),
            kept: kept.form(),
            refused: if refused.name == kept.name {
                refused.form()
            } else {
                format!("{} named {}", refused.form(), refused.name)
            },
        },
        Notice::Overflow { source, instrument, limit } => Warning::SeriesOverflow {
            instance: source.instance_id(),
            name: Arc::clone(&instrument.name),
            is_of_worker: limit == OverflowLimit::Worker,
        },
        Notice::NoRoom { source, instrument } => {
            Warning::TooManyInstruments { instance: source.instance_id(), name: Arc::clone(&instrument.name) }
        }
    }
}
