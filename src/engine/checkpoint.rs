//! Writes what an engine must keep across a restart.
//!
//! A checkpoint is what changed since the one before: rows that are new or changed, and the keys of rows that are gone.
//! Applied in order, checkpoints amount to the engine's whole state, and [`Engine::restore`] makes of it an engine that
//! says exactly what this one would say to the same inputs. A worker that nothing happened to writes nothing; an open span
//! that nothing happened to writes nothing either. What is written is in [`super::rows`]; where to, and when, is the
//! caller's business.
//!
//! Where much has changed, most of it can be written before, a part at a time between inputs
//! ([`Engine::prepare_checkpoint`]): what changes again after that is written again, behind, and the last put of a row holds.
//! So a checkpoint is always the engine as it stands when it is taken. Nothing of this is seen in what the engine says.

pub(crate) mod draft;
mod worker;

use draft::Draft;
use worker::Visit;

use crate::engine::rows::{self, Head, Row, VERSION};
use crate::engine::{Engine, StreamId};
use crate::store::{Ordinals, ShardCheckpoint};

/// What a row takes in memory, as a rule.
const ROW_BYTES: usize = 512;

/// How often all that has changed is gone through before the checkpoint, at most: where rows change as fast as they can be
/// written, more passes bring it no nearer.
const MAX_PASSES: u32 = 3;

/// No row is written a second time before the checkpoint once so much is written. The first pass is not bounded by this: what
/// it writes would be written with the checkpoint anyway, at once, and take as much memory then.
const MAX_PREPARED_BYTES: usize = 64 << 20;

/// What of the next checkpoint is written already, and how that goes on.
#[derive(Debug, Default)]
pub(crate) struct Preparation {
    draft: Draft,
    /// It stands in place of all before. The first pass goes through everything then, and not only what has changed.
    is_whole: bool,
    pass: Option<Pass>,
    /// Passes that are over.
    passes: u32,
}

/// Goes through the workers, by number, and then through what is measured. What comes meanwhile is left to the next one.
#[derive(Debug)]
struct Pass {
    next: u64,
    until: u64,
    /// Of the next worker, if it has begun.
    visit: Option<Visit>,
}

impl Preparation {
    fn is_first_of_whole(&self) -> bool {
        self.is_whole && self.passes == 0
    }

    /// Whether everything is to be written and the first pass has not come to this worker: what is said to be written of it is
    /// what checkpoints before had.
    pub(crate) fn is_ahead(&self, number: u64) -> bool {
        let is_before = |pass: &Pass| number < pass.next || (number == pass.next && pass.visit.is_some());
        self.is_first_of_whole() && !self.pass.as_ref().is_some_and(is_before)
    }

    pub(crate) fn draft(&mut self) -> &mut Draft {
        &mut self.draft
    }
}

impl Engine {
    /// What changed since the last checkpoint; everything, for the first of a new or a restored engine, and where that was
    /// asked for.
    ///
    /// Outputs that were not taken are in none, so they are to be taken first. Whoever could not store a checkpoint asks for
    /// [`Engine::checkpoint_all`] next. `next` is for the caller to fill in.
    pub fn checkpoint(&mut self) -> ShardCheckpoint {
        if !self.is_written {
            self.next_is_whole();
        }
        self.write()
    }

    /// Everything, in place of all checkpoints before.
    pub fn checkpoint_all(&mut self) -> ShardCheckpoint {
        self.next_is_whole();
        self.write()
    }

    /// The next checkpoint is to have everything, in place of all before. What is prepared of one that is to have it is kept.
    pub fn next_is_whole(&mut self) {
        if self.preparation.is_whole {
            return;
        }
        self.is_written = true;
        self.preparation = Preparation { is_whole: true, ..Preparation::default() };
        if let Some(metrics) = &mut self.metrics {
            metrics.aggregation.write_all();
        }
    }

    /// Writes so many bytes of the next checkpoint now, as they are in memory, and two rows more at most. Whether no more than
    /// about as much is left for the checkpoint itself; or more, where rows change as fast as they are written, and of workers
    /// whose own row is larger than that.
    pub fn prepare_checkpoint(&mut self, bytes: usize) -> bool {
        if !self.is_written {
            self.next_is_whole();
        }
        self.preparation.draft.make_room(Some(bytes));
        while !self.is_prepared(bytes) {
            if !self.go_on(bytes) {
                return false;
            }
        }
        true
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

    fn is_prepared(&self, slice: usize) -> bool {
        let Preparation { draft, pass, passes, .. } = &self.preparation;
        match (pass, passes) {
            (_, 1..) if draft.bytes() >= MAX_PREPARED_BYTES => true,
            (Some(_), _) => false,
            (None, 0) => !self.preparation.is_whole && self.has_no_more_than(slice),
            (None, passes) => *passes >= MAX_PASSES || self.has_no_more_than(slice),
        }
    }

    /// Whether what is to be written will take no more than this, as far as that can be told without writing it.
    fn has_no_more_than(&self, slice: usize) -> bool {
        let series = self.metrics.as_ref().map_or(0, |metrics| metrics.aggregation.unwritten());
        let mut left = slice.checked_sub(series * ROW_BYTES);
        for state in self.touched.iter().filter_map(|number| self.workers.get(number)) {
            let Some(most) = left else { return false };
            // Rows that are larger are left to the checkpoint anyhow.
            let row = Some(state.row_bytes()).filter(|row| *row <= slice).unwrap_or_default();
            left = most.checked_sub(ROW_BYTES + row + state.unwritten_bytes(most));
        }
        left.is_some()
    }

    /// Goes on with a pass until the draft is full, or begins one. Whether it is over. Workers' own rows that are
    /// larger than a slice are left to the checkpoint: they are others after each event.
    fn go_on(&mut self, slice: usize) -> bool {
        let is_whole = self.preparation.is_first_of_whole();
        let mut pass = self.preparation.pass.take().unwrap_or_else(|| {
            if let Some(metrics) = &mut self.metrics {
                metrics.aggregation.begin_pass();
            }
            Pass { next: 0, until: self.next_number, visit: None }
        });
        let is_over = self.write_workers(&mut pass, slice, is_whole)
            && self
                .metrics
                .as_mut()
                .is_none_or(|metrics| metrics.aggregation.go_on_with_pass(&mut self.preparation.draft));
        if is_over {
            self.preparation.passes += 1;
        } else {
            self.preparation.pass = Some(pass);
        }
        is_over
    }

    fn write_workers(&mut self, pass: &mut Pass, slice: usize, is_whole: bool) -> bool {
        let draft = &mut self.preparation.draft;
        loop {
            let rest = pass.next..pass.until;
            let next = match is_whole {
                true => self.workers.range(rest).next().map(|(number, _)| *number),
                false => self.touched.range(rest).next().copied(),
            };
            let Some(number) = next else {
                pass.next = pass.until;
                return true;
            };
            if draft.is_full() {
                return false;
            }
            let state = self.workers.get_mut(&number).expect("who is forgotten is not touched any more");
            // The one that it had begun with may be forgotten.
            let begun = pass.visit.take().filter(|_| number == pass.next);
            let mut visit = begun.unwrap_or_else(|| {
                if is_whole {
                    state.forget_written();
                }
                state.visit()
            });
            pass.next = number;
            if !state.write_spans(number, &mut visit, draft) {
                pass.visit = Some(visit);
                return false;
            }
            pass.next = number + 1;
            // Behind the visit spans may have changed, or come.
            if state.row_bytes() > slice || state.unwritten_bytes(0) > 0 {
                state.is_touched = true;
                self.touched.insert(number);
            } else {
                state.write_row(number, self.deadlines.get(&number).copied(), draft);
                self.touched.remove(&number);
            }
        }
    }

    fn write(&mut self) -> ShardCheckpoint {
        debug_assert!(self.outputs.is_empty(), "outputs are taken before their engine is written");
        self.preparation.draft.make_room(None);
        if self.preparation.is_first_of_whole() {
            self.go_on(usize::MAX);
        }
        let Preparation { mut draft, is_whole, .. } = std::mem::take(&mut self.preparation);
        for number in std::mem::take(&mut self.touched) {
            if let Some(state) = self.workers.get_mut(&number) {
                state.write_spans(number, &mut state.visit(), &mut draft);
                state.write_row(number, self.deadlines.get(&number).copied(), &mut draft);
            }
        }
        for (part, watched) in self.constants.take_changed(is_whole) {
            draft.put(Row::Watched(part).key(), &watched);
        }
        let metrics = self.metrics.as_mut().map(|metrics| metrics.aggregation.write(&mut draft));
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
        let (puts, deletes) = draft.into_rows();
        ShardCheckpoint { next: Ordinals::default(), head, replaces_all: is_whole, puts, deletes }
    }
}
