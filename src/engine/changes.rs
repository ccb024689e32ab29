//! Which rows of a table differ from what the last checkpoint wrote.
//!
//! Keys ascend as rows come, so what is new needs no list: it is everything from `written_until` on. Only rows that were
//! written are listed when they change or go, so neither list is ever longer than what is on disk. A table that was never
//! written notes nothing.

use std::collections::BTreeSet;

/// What became of the written rows of one table.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Rows from here on were never written.
    written_until: u64,
    changed: BTreeSet<u64>,
    removed: Vec<u64>,
}

impl Changes {
    /// A row that is in the table changes.
    pub(crate) fn change(&mut self, key: u64) {
        if key < self.written_until {
            self.changed.insert(key);
        }
    }

    /// A row leaves the table.
    pub(crate) fn remove(&mut self, key: u64) {
        if key < self.written_until {
            self.changed.remove(&key);
            self.removed.push(key);
        }
    }

    /// The first key that was never written.
    pub(crate) fn written_until(&self) -> u64 {
        self.written_until
    }

    /// Written rows that changed.
    pub(crate) fn changed(&self) -> impl Iterator<Item = u64> {
        self.changed.iter().copied()
    }

    /// Written rows that are gone.
    pub(crate) fn removed(&self) -> &[u64] {
        &self.removed
    }

    /// Everything before `next` is written now.
    pub(crate) fn written(&mut self, next: u64) {
        *self = Self { written_until: next, ..Self::default() };
    }
}
