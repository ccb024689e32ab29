//! Makes an engine of what its checkpoints wrote.
//!
//! | what cannot be read | what becomes of it |
//! |---|---|
//! | the head, or one of another version | an error: nothing is known of the rows |
//! | an open span's row | its start is dropped as `malformed`; its end, if it comes, makes a span alone |
//! | a closed span's row | forgotten early |
//! | a worker's row | its spans' rows are of no use; its sums go on among those of departed workers, and what had no fate yet is dropped as `malformed`; finished spans that it held are counted as lost |
//! | a row of metrics | the series, or all of its instrument or its worker, begin anew |
//! | watched correlation ids | forgotten: a warning may come twice |
//!
//! So the sums go on in every case, and add up. Rows of spans that belong to no worker row count among these.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use crate::engine::constants::WatchedPart;
use crate::engine::intervals::OPEN_END;
use crate::engine::ledger::EventLedger;
use crate::engine::memory::{ClosedHalf, ClosedSpan, TokenHolder};
use crate::engine::metrics::aggregation::AggregationRows;
use crate::engine::naming::Name;
use crate::engine::nesting::{Relative, Standing};
use crate::engine::open::OpenSpan;
use crate::engine::rows::{self, Head, ReadClosed, ReadLeaving, ReadOpen, ReadWorker, Row, VERSION};
use crate::engine::settings::Settings;
use crate::engine::state::{Presence, Shared, WorkerState};
use crate::engine::{Engine, measuring};
use crate::store::RowKey;
use crate::time::{Monotonic, Now};
use crate::worker::{Identity, WorkerKey};

/// How long a worker of before a restart may take to come back.
pub const RESTORED_GRACE: Duration = Duration::from_secs(60);

/// Why no engine can be made of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Another version of the bridge wrote it.
    #[error("the checkpoint has format {found}, and this bridge reads {VERSION}")]
    Version {
        /// The version.
        found: u8,
    },
    /// The head is not what was written.
    #[error("the head of the checkpoint is damaged")]
    Head,
}

/// An engine as it was.
#[derive(Debug)]
pub struct Restored {
    /// The engine.
    pub engine: Engine,
    /// What could not be read.
    pub damage: Damage,
}

/// What of a checkpoint could not be read, and what that cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// Rows that are not what was written, and rows of spans without their worker's.
    pub rows: u64,
    /// Workers that are forgotten, as far as that shows: a worker without spans leaves no trace.
    pub workers: u64,
    /// Events that had no fate yet, and are dropped as `malformed` now.
    pub events: u64,
    /// Finished spans that were held for their parent, and will not be exported. They count as made.
    pub held_spans: u64,
}

/// A worker that the engine knows and has not given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWorker {
    /// Its key.
    pub key: WorkerKey,
    /// What its last stream's headers said.
    pub identity: Arc<Identity>,
    /// Its streams since it was first heard of, or last forgotten.
    pub streams: u64,
}

/// The rows of one worker.
#[derive(Debug, Default)]
struct Rows {
    worker: Option<Box<ReadWorker>>,
    open: BTreeMap<u64, ReadOpen>,
    closed: BTreeMap<u64, ReadClosed>,
}

/// Names, so that spans share them again.
#[derive(Debug, Default)]
struct Names {
    emitted: HashMap<Box<str>, Arc<Name>>,
    titles: HashSet<Arc<str>>,
}

impl Engine {
    /// The engine that wrote these rows, of all of its checkpoints.
    ///
    /// # Errors
    /// When the head cannot be read.
    pub fn restore(
        settings: Arc<Settings>,
        shard: u16,
        head: &[u8],
        rows: impl Iterator<Item = (RowKey, Vec<u8>)>,
    ) -> Result<Restored, RestoreError> {
        match head.first() {
            Some(&VERSION) => {}
            Some(&found) => return Err(RestoreError::Version { found }),
            None => return Err(RestoreError::Head),
        }
        let head: Head = rows::unsealed(head, 1).ok_or(RestoreError::Head)?;
        let mut engine = Self::new(settings, shard);
        let mut damage = Damage::default();
        let mut measured = AggregationRows::default();
        let workers = engine.gather(rows, &mut measured, &mut damage);
        // Where metrics were not made before, or are not any more, their rows are nobody's.
        if let (Some(metrics), Some(of_metrics), Some(settings)) =
            (&mut engine.metrics, head.metrics, &engine.settings.metrics)
        {
            let window = engine.settings.reorder_window;
            let (aggregation, lost) = measured.restore(settings, window, of_metrics);
            metrics.aggregation = aggregation;
            damage.rows += lost;
        }
        let mut names = Names::default();
        let mut known = head.departed;
        let mut held = 0;
        for (number, rows) in workers {
            let spans = rows.open.len() + rows.closed.len();
            let Some(worker) = rows.worker else {
                damage.rows += spans as u64;
                damage.workers += 1;
                continue;
            };
            known.add(&worker.fixed.ledger);
            held += worker.held.len() as u64;
            let alarm = worker.fixed.alarm;
            let (mut state, lost) = engine.worker(*worker, rows.open, rows.closed, &mut names);
            damage.events += lost;
            if let (Some(instance), Some(metrics)) = (state.instance, &mut engine.metrics) {
                state.instance = metrics.aggregation.rejoin(instance).then_some(instance);
            }
            engine.put_in(number, state, alarm);
        }
        let mut unknown = head.total.beyond(&known);
        damage.events += unknown.pending;
        damage.held_spans = head.held.saturating_sub(held);
        unknown.lose_pending(unknown.pending);
        engine.departed = head.departed;
        engine.departed.add(&unknown);
        engine.next_source = head.next_source;
        engine.next_number = head.next_number;
        engine.next_stream = head.next_stream;
        Ok(Restored { engine, damage })
    }

    /// Divides the workers of other engines anew, where the number of shards has changed. `shard_of` says where a worker
    /// belongs, and where what was measured of workers that are gone does. Sums and serials go on; which correlation ids are
    /// watched is forgotten, and a collection that was on its way is over.
    #[must_use]
    pub fn regrouped(
        settings: &Arc<Settings>,
        others: Vec<Self>,
        shards: u16,
        shard_of: impl Fn(&WorkerKey) -> u16,
    ) -> Vec<Self> {
        // No engine gives a serial that any has given before: each goes on behind all of them.
        let low = |serial: u64| serial & ((1 << SHARD_SHIFT) - 1);
        let serials = others.iter().map(|engine| low(engine.next_source)).max().unwrap_or_default();
        let next_stream = others.iter().map(|engine| engine.next_stream).max();
        let mut engines: Vec<Self> = (0..shards)
            .map(|shard| {
                let mut engine = Self::new(Arc::clone(settings), shard);
                engine.next_source |= serials;
                engine.measure_after(&others);
                engine.next_stream = next_stream.unwrap_or(engine.next_stream);
                engine
            })
            .collect();
        for mut other in others {
            debug_assert!(other.outputs.is_empty(), "outputs are taken before their engine is");
            let place =
                |key: &WorkerKey| usize::from(shard_of(key)).min(usize::from(shards.saturating_sub(1)));
            let workers = std::mem::take(&mut other.workers);
            let moved = measuring::divide(&mut other, workers.values(), &mut engines, place);
            for (number, mut state) in workers {
                if let Some(engine) = engines.get_mut(place(&state.key)) {
                    state.measure_as(&moved[place(&state.key)], engine.metrics.as_mut());
                    let own = engine.next_number;
                    engine.next_number += 1;
                    engine.put_in(own, state, other.deadlines.get(&number).copied());
                }
            }
            if let Some(first) = engines.first_mut() {
                first.departed.add(&other.departed);
            }
        }
        engines
    }

    /// To be called once after recovery, with [`RESTORED_GRACE`]: no stream has outlived the restart, so every worker that
    /// had one is away, and may take `grace` to come back; so may those that were away before. What a worker does not
    /// come back for ends at its latest event. This is an input as others are: it makes outputs.
    pub fn streams_lost(&mut self, now: Now, grace: Duration) {
        self.streams.clear();
        let numbers: Vec<u64> = self.workers.keys().copied().collect();
        for number in numbers {
            self.with(number, now, |state, cx| state.streams_lost(cx, grace));
        }
    }

    /// Every worker that may still come back, or is there: those of which it was not said that they may be forgotten.
    #[must_use]
    pub fn known_workers(&self) -> Vec<KnownWorker> {
        let known = self.workers.values().filter(|state| state.presence != Presence::Lost);
        known
            .map(|state| KnownWorker {
                key: state.key.clone(),
                identity: Arc::clone(&state.identity),
                streams: state.streams_seen,
            })
            .collect()
    }

    fn gather(
        &mut self,
        rows: impl Iterator<Item = (RowKey, Vec<u8>)>,
        measured: &mut AggregationRows,
        damage: &mut Damage,
    ) -> BTreeMap<u64, Rows> {
        let mut workers: BTreeMap<u64, Rows> = BTreeMap::new();
        for (key, value) in rows {
            let row = Row::of(&key);
            let read = row.and_then(|row| match row {
                Row::Watched(part) => {
                    rows::decode::<WatchedPart>(&value).map(|watched| self.constants.restore(part, watched))
                }
                Row::Metric(row) => measured.put(row, &value).then_some(()),
                Row::Worker(number) => rows::decode(&value).map(|worker| {
                    workers.entry(number).or_default().worker = Some(worker);
                }),
                Row::Open(number, seq) => rows::decode(&value).map(|span| {
                    workers.entry(number).or_default().open.insert(seq, span);
                }),
                Row::Closed(number, seq) => rows::decode(&value).map(|span| {
                    workers.entry(number).or_default().closed.insert(seq, span);
                }),
            });
            damage.rows += u64::from(read.is_none());
            if let (None, Some(Row::Worker(number))) = (read, row) {
                // It counts as a worker without its row.
                workers.entry(number).or_default();
            }
        }
        workers
    }

    /// A worker of its rows, and how many of its events without fate are lost.
    fn worker(
        &self,
        mut row: ReadWorker,
        mut open: BTreeMap<u64, ReadOpen>,
        closed: BTreeMap<u64, ReadClosed>,
        names: &mut Names,
    ) -> (WorkerState, u64) {
        let fixed = row.fixed;
        let (timeout, window) = (self.settings.span_timeout, self.settings.reorder_window);
        // Deadlines ascend with arrival only if these settings made all of them.
        let has_one_timeout = self.settings.span_timeouts.is_empty()
            && open.values().all(|(_, span)| span.deadline == span.arrived.after(timeout));
        let one_at_a_time = self.one_at_a_time.iter().any(|glob| glob.matches(&fixed.key.id));
        let (identity, policy) = (Arc::new(fixed.identity), Arc::new(fixed.policy));
        let mut state = WorkerState::new(fixed.key, identity, policy, one_at_a_time, has_one_timeout);
        state.streams = fixed.streams.into();
        state.streams_seen = fixed.streams_seen;
        state.presence = fixed.presence;
        state.is_superseded = fixed.is_superseded;
        state.shown = fixed.shown;
        state.instance = fixed.instance.filter(|_| self.metrics.is_some());
        state.clock = fixed.clock;
        state.tolerance = fixed.tolerance;
        state.observation = fixed.observation;
        state.next_seq = fixed.next_seq;
        for (seq, (owned, span)) in &mut open {
            names.share(&mut span.name);
            state.tokens.restore_owned(span.tokens, TokenHolder::Open(*seq), *owned);
        }
        state.restore_open(open);
        for (number, (owned, mut span)) in closed {
            if let ClosedHalf::Incomplete(incomplete) = &mut span.half {
                names.share_title(&mut incomplete.operation);
            }
            state.restore_closed(number, owned, span);
        }
        for ((seq, (deadline, mut end)), owned) in row.waiting.into_iter().zip(row.waiting_owned) {
            names.share(&mut end.name);
            // The reorder window may have become shorter, and deadlines ascend with arrival.
            let deadline = deadline.min(end.arrived.after(window));
            state.tokens.restore_owned(end.tokens, TokenHolder::Waiting(seq), owned);
            state.fingerprints.hold(end.fingerprint);
            end.residual.into_iter().for_each(|residual| state.tolerance.restore_waiting(residual));
            if let Some(interval) = end.interval {
                let relative = Relative { context: None, standing: Standing::Undecided { until: deadline } };
                state.intervals.insert(interval, end.time, relative);
            }
            state.waiting.insert(seq, deadline, *end);
        }
        for (((due, seq), mut held), owned) in row.held.into_iter().zip(row.held_owned) {
            names.share(&mut held.finished.name);
            state.tokens.restore_owned(held.place.tokens, TokenHolder::Held(due, seq), owned);
            if let Some(interval) = held.place.interval {
                let context = Some(Box::new(held.finished.context.clone()));
                let relative = Relative { context, standing: Standing::Held { due } };
                state.intervals.insert(interval, held.place.end, relative);
            }
            held.place.base.into_iter().for_each(|base| state.take_ordinal(base));
            state.held.insert((due, seq), held);
        }
        row.pending_events.values_mut().for_each(|(_, pending)| names.share(&mut pending.name));
        row.leaving.into_iter().for_each(|leaving| state.restore_leaving(leaving));
        state.pending_events.restore(row.pending_events);
        state.fingerprints.restore(row.fingerprints);
        state.tokens.restore_expiry(row.spent_tokens);
        state.ordinals.restore_odd(row.odd_ordinals);
        let lost = fixed.ledger.pending.saturating_sub(state.ledger().pending);
        let mut ledger = fixed.ledger;
        ledger.lose_pending(lost);
        state.ledger = EventLedger { pending: 0, ..ledger };
        (state, lost)
    }

    /// Takes a worker in that another engine had.
    fn put_in(&mut self, number: u64, state: WorkerState, alarm: Option<Monotonic>) {
        let occupancy = state.occupancy();
        self.occupancy.open_spans += occupancy.open_spans;
        self.occupancy.open_bytes += occupancy.open_bytes;
        self.numbers.insert(state.key.clone(), number);
        self.streams.extend(state.streams.iter().map(|stream| (*stream, number)));
        self.workers.insert(number, state);
        self.set_alarm(number, None, alarm);
    }
}

/// Where the shard's number begins in a source's serial.
pub(crate) const SHARD_SHIFT: u32 = 48;

impl WorkerState {
    fn streams_lost(&mut self, cx: &mut Shared<'_>, grace: Duration) {
        let now = cx.now.mono;
        self.streams.clear();
        let (at, until) = match self.presence {
            Presence::Connected => (self.clock.latest().unwrap_or(now), now),
            Presence::Away { at, until } => (at, until),
            Presence::Lost => return,
        };
        self.presence = Presence::Away { at, until: until.max(now.after(grace)) };
        if self.is_superseded {
            self.lose(cx);
        }
    }

    fn restore_open(&mut self, spans: BTreeMap<u64, (u8, OpenSpan)>) {
        for (seq, (_, span)) in spans {
            self.fingerprints.hold(span.fingerprint);
            if let Some(interval) = span.interval(seq) {
                let relative = Relative { context: None, standing: Standing::Open };
                self.intervals.insert(interval, OPEN_END, relative);
            }
            span.base.into_iter().for_each(|base| self.take_ordinal(base.get()));
            self.open.insert(seq, span);
        }
    }

    fn restore_closed(&mut self, number: u64, owned: u8, span: ClosedSpan) {
        self.tokens.restore_owned(span.tokens, TokenHolder::Closed(number), owned);
        self.fingerprints.hold(span.fingerprint);
        if let ClosedHalf::Incomplete(incomplete) = &span.half
            && let Some(interval) = incomplete.interval
        {
            let context = Some(Box::new(incomplete.context.clone()));
            self.intervals.insert(interval, OPEN_END, Relative { context, standing: Standing::Closed });
        }
        span.bases.into_iter().flatten().for_each(|base| self.take_ordinal(base));
        self.closed.insert(number, span);
    }

    fn restore_leaving(&mut self, (until, interval, base): ReadLeaving) {
        let key = interval.map(|(key, end, context)| {
            self.intervals.insert(key, end, Relative { context, standing: Standing::Exported });
            key
        });
        base.into_iter().for_each(|base| self.take_ordinal(base));
        self.leaving.push_back((until, key, base));
    }

    /// Counts a span that uses an ordinal of this base.
    fn take_ordinal(&mut self, base: u64) {
        self.ordinals.take(base);
    }
}

impl Names {
    /// Makes equal names one.
    fn share(&mut self, name: &mut Arc<Name>) {
        match self.emitted.get(&name.emitted) {
            Some(known) if known == name => *name = Arc::clone(known),
            Some(_) => {}
            None => {
                self.emitted.insert(name.emitted.clone(), Arc::clone(name));
            }
        }
    }

    /// The same for the titles that closed spans keep.
    fn share_title(&mut self, title: &mut Arc<str>) {
        *title = Arc::clone(self.titles.get_or_insert_with(title, Arc::clone));
    }
}
