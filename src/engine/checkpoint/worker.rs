//! The rows of one worker: its own, and those of its spans that differ from what was written.

use crate::engine::checkpoint::ROW_BYTES;
use crate::engine::checkpoint::draft::Draft;
use crate::engine::intervals::IntervalKey;
use crate::engine::memory::TokenHolder;
use crate::engine::rows::{FixedRow, Leaving, Row, SpanRow, WorkerRow};
use crate::engine::state::WorkerState;
use crate::time::Monotonic;

/// What a worker's own row takes for each thing that it remembers of what is over.
const ENTRY_BYTES: usize = 32;

/// How far the spans of a worker are written, by their sequence numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    open: u64,
    closed: u64,
    until: u64,
}

impl WorkerState {
    /// Nothing of this worker is written any more.
    pub(super) fn forget_written(&mut self) {
        self.is_written = false;
        self.open.changes().forget();
        self.closed.changes().forget();
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

    /// Deletes every row that was written of this worker and is not deleted yet.
    pub(crate) fn delete_written(&mut self, number: u64, draft: &mut Draft) {
        if self.is_written {
            draft.delete(Row::Worker(number).key());
        }
        let until = self.open.changes().written_until();
        let open = self.open.iter().map(|(seq, _)| seq).take_while(|seq| *seq < until);
        open.for_each(|seq| draft.delete(Row::Open(number, seq).key()));
        let until = self.closed.changes().written_until();
        let closed = self.closed.iter().map(|(seq, _)| seq).take_while(|seq| *seq < until);
        closed.for_each(|seq| draft.delete(Row::Closed(number, seq).key()));
        self.delete_removed(number, draft);
    }

    fn delete_removed(&mut self, number: u64, draft: &mut Draft) {
        let open = self.open.changes().take_removed().into_iter().map(|seq| Row::Open(number, seq));
        let closed = self.closed.changes().take_removed().into_iter().map(|seq| Row::Closed(number, seq));
        open.chain(closed).for_each(|row| draft.delete(row.key()));
    }

    /// What its own row takes, roughly.
    pub(super) fn row_bytes(&self) -> usize {
        let entries = self.leaving.len() + self.fingerprints.expiry().len() + self.tokens.expiry().len();
        self.waiting.bytes() + self.held.bytes() + self.pending_events.bytes() + entries * ENTRY_BYTES
    }

    /// What the rows of its spans will take that are to be written, roughly, or more than `most`.
    pub(super) fn unwritten_bytes(&self, most: usize) -> usize {
        let each = (self.open.bytes() / self.open.len().max(1)).max(ROW_BYTES);
        let open = self.open.unwritten(0..self.next_seq).take(most / each + 1).count() * each;
        let closed = self.closed.unwritten(0..self.next_seq).take(most / ROW_BYTES + 1).count() * ROW_BYTES;
        open + closed
    }

    /// A visit that writes all spans there are, and none that comes meanwhile.
    pub(super) fn visit(&self) -> Visit {
        Visit { open: 0, closed: 0, until: self.next_seq }
    }

    /// Goes on with a visit until the draft is full. Whether it is over.
    pub(super) fn write_spans(&mut self, number: u64, visit: &mut Visit, draft: &mut Draft) -> bool {
        let (open, closed) = (visit.open, visit.closed);
        let mut is_over = true;
        for (seq, span) in self.open.unwritten(open..visit.until) {
            if draft.is_full() {
                is_over = false;
                break;
            }
            let row: SpanRow<'_, _> = (self.tokens.owned(span.tokens, TokenHolder::Open(seq)), span);
            draft.put(Row::Open(number, seq).key(), &row);
            visit.open = seq + 1;
        }
        if is_over {
            visit.open = visit.until;
            for (seq, span) in self.closed.unwritten(closed..visit.until) {
                if draft.is_full() {
                    is_over = false;
                    break;
                }
                let row: SpanRow<'_, _> = (self.tokens.owned(span.tokens, TokenHolder::Closed(seq)), span);
                draft.put(Row::Closed(number, seq).key(), &row);
                visit.closed = seq + 1;
            }
        }
        if is_over {
            visit.closed = visit.until;
        }
        self.open.changes().written(open..visit.open);
        self.closed.changes().written(closed..visit.closed);
        self.delete_removed(number, draft);
        is_over
    }

    pub(super) fn write_row(&mut self, number: u64, alarm: Option<Monotonic>, draft: &mut Draft) {
        draft.put(Row::Worker(number).key(), &self.row(alarm));
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
