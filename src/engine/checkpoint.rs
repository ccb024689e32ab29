//! Writes what an engine must keep across a restart.
//!
//! A checkpoint is what changed since the one before: rows that are new or changed, and the keys of rows that are gone.
//! Applied in order, checkpoints amount to the engine's whole state, and [`Engine::restore`] makes of it an engine that
//! says exactly what this one would say to the same inputs. A worker that nothing happened to writes nothing; an open span
//! that nothing happened to writes nothing either. What is written is in [`super::rows`]; where to, and when, is the
//! caller's business.

use crate::engine::memory::TokenHolder;
use crate::engine::rows::{self, FixedRow, Head, Leaving, Row, SpanRow, VERSION, WorkerRow};
use crate::engine::state::WorkerState;
use crate::engine::{Engine, StreamId};
use crate::store::{Ordinals, RowKey, ShardCheckpoint};
use crate::time::Monotonic;

impl Engine {
    /// What changed since the last checkpoint; everything, for the first of a new or a restored engine.
    ///
    /// Outputs that were not taken are in none, so they are to be taken first. Whoever could not store a checkpoint asks for
    /// [`Engine::checkpoint_all`] next. `next` is for the caller to fill in.
    pub fn checkpoint(&mut self) -> ShardCheckpoint {
        if !self.is_written {
            return self.checkpoint_all();
        }
        self.write(false)
    }

    /// Everything, in place of all checkpoints before.
    pub fn checkpoint_all(&mut self) -> ShardCheckpoint {
        self.is_written = true;
        self.gone.clear();
        self.touched.clear();
        for (number, state) in &mut self.workers {
            self.touched.insert(*number);
            state.write_all();
        }
        self.write(true)
    }

    /// A number that no stream has had yet: one more than the largest ever.
    #[must_use]
    pub fn next_stream(&self) -> StreamId {
        StreamId(self.next_stream)
    }

    /// Finished spans that wait for their parent: they count as made, and were not passed on.
    #[must_use]
    pub fn held_spans(&self) -> u64 {
        self.workers.values().map(|state| state.held.len() as u64).sum()
    }

    fn write(&mut self, replaces_all: bool) -> ShardCheckpoint {
        debug_assert!(self.outputs.is_empty(), "outputs are taken before their engine is written");
        let mut puts = Vec::new();
        let mut deletes = std::mem::take(&mut self.gone);
        for number in std::mem::take(&mut self.touched) {
            if let Some(state) = self.workers.get_mut(&number) {
                state.write(number, self.deadlines.get(&number).copied(), &mut puts, &mut deletes);
            }
        }
        let watched = self.constants.take_changed(replaces_all);
        puts.extend(watched.map(|(part, watched)| (Row::Watched(part).key(), rows::encode(&watched))));
        let metrics = self.metrics.as_mut();
        let metrics = metrics.map(|metrics| metrics.aggregation.write(replaces_all, &mut puts, &mut deletes));
        let head = Head {
            next_source: self.next_source,
            next_number: self.next_number,
            next_stream: self.next_stream,
            departed: self.departed,
            total: self.ledger(),
            held: self.held_spans(),
            metrics,
        };
        let head = rows::sealed(vec![VERSION], &head);
        ShardCheckpoint { next: Ordinals::default(), head, replaces_all, puts, deletes }
    }
}

impl WorkerState {
    /// The next checkpoint is to hold everything of this worker.
    fn write_all(&mut self) {
        self.is_written = false;
        self.open.changes().written(0);
        self.closed.changes().written(0);
    }

    /// Notes that spans have lost a pairing token to another: their rows say which they have.
    pub(crate) fn note_robbed(&mut self) {
        for holder in self.tokens.take_robbed() {
            match holder {
                TokenHolder::Open(seq) => self.open.touch(seq),
                TokenHolder::Closed(number) => self.closed.touch(number),
                TokenHolder::Waiting(_) | TokenHolder::Held(..) | TokenHolder::Spent { .. } => {}
            }
        }
    }

    /// The keys of every row that was written of this worker and is not deleted yet.
    pub(crate) fn written_rows(&mut self, number: u64) -> Vec<RowKey> {
        if !self.is_written {
            return Vec::new();
        }
        let mut keys = vec![Row::Worker(number).key()];
        let until = self.open.changes().written_until();
        let open = self.open.iter().map(|(seq, _)| seq).take_while(|seq| *seq < until);
        keys.extend(open.map(|seq| Row::Open(number, seq).key()));
        let until = self.closed.changes().written_until();
        let closed = self.closed.iter().map(|(seq, _)| seq).take_while(|seq| *seq < until);
        keys.extend(closed.map(|seq| Row::Closed(number, seq).key()));
        self.removed_rows(number, &mut keys);
        keys
    }

    fn removed_rows(&mut self, number: u64, keys: &mut Vec<RowKey>) {
        keys.extend(self.open.changes().removed().iter().map(|seq| Row::Open(number, *seq).key()));
        keys.extend(self.closed.changes().removed().iter().map(|seq| Row::Closed(number, *seq).key()));
    }

    fn write(
        &mut self,
        number: u64,
        alarm: Option<Monotonic>,
        puts: &mut Vec<(RowKey, Vec<u8>)>,
        deletes: &mut Vec<RowKey>,
    ) {
        puts.push((Row::Worker(number).key(), rows::encode(&self.row(alarm))));
        for (seq, span) in self.open.unwritten() {
            let row: SpanRow<'_, _> = (self.tokens.owned(span.tokens, TokenHolder::Open(seq)), span);
            puts.push((Row::Open(number, seq).key(), rows::encode(&row)));
        }
        for (seq, span) in self.closed.unwritten() {
            let row: SpanRow<'_, _> = (self.tokens.owned(span.tokens, TokenHolder::Closed(seq)), span);
            puts.push((Row::Closed(number, seq).key(), rows::encode(&row)));
        }
        self.removed_rows(number, deletes);
        self.open.changes().written(self.next_seq);
        self.closed.changes().written(self.next_seq);
        self.is_touched = false;
        self.is_written = true;
    }

    fn row(&self, alarm: Option<Monotonic>) -> WorkerRow<'_> {
        let fixed = FixedRow {
            key: &self.key,
            identity: &self.identity,
            policy: &self.policy,
            streams: &self.streams,
            streams_seen: self.streams_seen,
            presence: self.presence,
            is_superseded: self.is_superseded,
            shown: &self.shown,
            instance: self.instance,
            clock: self.clock,
            tolerance: &self.tolerance,
            observation: self.observation,
            ledger: self.ledger(),
            next_seq: self.next_seq,
            alarm,
        };
        let waiting = self.waiting.entries();
        let held = self.held.entries();
        WorkerRow {
            fixed,
            waiting_owned: waiting
                .iter()
                .map(|(seq, (_, end))| self.tokens.owned(end.tokens, TokenHolder::Waiting(*seq)))
                .collect(),
            waiting,
            held_owned: held
                .iter()
                .map(|((due, seq), held)| self.tokens.owned(held.place.tokens, TokenHolder::Held(*due, *seq)))
                .collect(),
            held,
            leaving: self.leaving.iter().map(|leaving| self.leaving_row(leaving)).collect(),
            pending_events: self.pending_events.entries(),
            fingerprints: self.fingerprints.expiry(),
            spent_tokens: self.tokens.expiry().collect(),
            odd_ordinals: self.ordinals.odd(),
        }
    }

    fn leaving_row(
        &self,
        (until, interval, base): &(Monotonic, Option<crate::engine::intervals::IntervalKey>, Option<u64>),
    ) -> Leaving<'_> {
        let interval = interval.and_then(|key| {
            let (end, relative) = self.intervals.entry(&key)?;
            Some((key, end, relative.context.as_deref()))
        });
        (*until, interval, *base)
    }
}
