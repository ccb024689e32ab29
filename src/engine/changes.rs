//! Which rows of a table differ from what was written of them.
//!
//! Keys ascend as rows come, so what is new needs no list: it is everything from `written_until` on. Only rows that were
//! written are listed when they change or go, so neither list is ever longer than what was written. A table that was never
//! written notes nothing.

use std::collections::BTreeSet;
use std::ops::Range;

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

    /// Written rows of the range that changed. All are before what is new of it.
    pub(crate) fn changed(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        self.changed.range(range).copied()
    }

    /// The part of the range that was never written.
    pub(crate) fn new_of(&self, range: Range<u64>) -> Range<u64> {
        let start = range.start.max(self.written_until);
        start..range.end.max(start)
    }

    /// Written rows that are gone, since this was asked last.
    pub(crate) fn take_removed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.removed)
    }

    /// Everything in the range is written now.
    pub(crate) fn written(&mut self, range: Range<u64>) {
        debug_assert!(range.start <= self.written_until, "what is new is written in order");
        while let Some(key) = self.changed.range(range.clone()).next().copied() {
            self.changed.remove(&key);
        }
        self.written_until = self.written_until.max(range.end);
    }

    /// Nothing is written any more.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}
