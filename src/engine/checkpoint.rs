//! Writes what an engine must keep across a restart.
//!
//! A checkpoint is what changed since the one before: rows that are new or changed, and the keys of rows that are gone.
//! Applied in order, checkpoints amount to the engine's whole state, and [`Engine::restore`] makes of it an engine that
//! says exactly what this one would say to the same inputs. A worker that nothing happened to writes nothing; an open span
//! that nothing happened to writes nothing either. What is written is in [`super::rows`]; where to, and when, is the
//! caller's business.

mod worker;

use crate::engine::rows::{self, Head, Row, VERSION};
use crate::engine::{Engine, StreamId};
use crate::store::{Ordinals, ShardCheckpoint};

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
