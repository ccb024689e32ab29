//! The rows of one worker: its own, and those of its spans that differ from what was written.

use crate::engine::intervals::IntervalKey;
use crate::engine::memory::TokenHolder;
use crate::engine::rows::{self, FixedRow, Leaving, Row, SpanRow, WorkerRow};
use crate::engine::state::WorkerState;
use crate::store::RowKey;
use crate::time::Monotonic;

impl WorkerState {
    /// The next checkpoint is to hold everything of this worker.
    pub(super) fn write_all(&mut self) {
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

    pub(super) fn write(
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
        (until, interval, base): &(Monotonic, Option<IntervalKey>, Option<u64>),
    ) -> Leaving<'_> {
        let interval = interval.and_then(|key| {
            let (end, relative) = self.intervals.entry(&key)?;
            Some((key, end, relative.context.as_deref()))
        });
        (*until, interval, *base)
    }
}
