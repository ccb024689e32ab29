//! What goes to disk, and comes back.
//!
//! Every batch that is written goes through [`Pipeline::spool`], which makes room for it first: whoever writes, for want of
//! memory, for a checkpoint or in pieces, the oldest give way until what is on disk is within its bound. What a checkpoint
//! writes cannot stay in memory alone, for the engine will not make it again; so where all that waits is more than the bound,
//! the oldest of it gives way without having been written.
//!
//! Law: after every call the copies on disk take [`max_spool_bytes`](super::QueueSettings::max_spool_bytes) at most, or, where
//! the requests on their way alone take more, what these take: a request that may have arrived already does not give way.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::outbox::{INHERITED, MADE_AGAIN};
use super::{Pipeline, RELOAD_AFTER, SAMPLED_OUT, SpoolNames};
use crate::exporter::pipeline::Notice;
use crate::exporter::queue::BatchId;
use crate::exporter::refusal::Refusal;
use crate::store::{Commit, Op, SignalSums, SpoolEntry, SpoolId};
use crate::time::{Monotonic, Now};

/// Batches that the bound of the disk holds at least, as far as their items let it: the oldest gives way as a whole, and one
/// that has no room by itself is lost at the next checkpoint.
const MIN_SPOOLED_BATCHES: u64 = 8;

impl Pipeline {
    /// From now on there is a store. `names` gives out names in it.
    pub fn set_store(&mut self, names: SpoolNames) {
        let fills_at = self.queue.settings().max_spool_bytes / MIN_SPOOLED_BATCHES;
        self.batcher.set_fills_at(usize::try_from(fills_at).unwrap_or(usize::MAX));
        self.outbox.set_names(names);
    }

    /// Takes over what earlier runs left. Before anything else comes in.
    pub fn recover(&mut self, mut left: Vec<SpoolEntry>, sums: &SignalSums, now: Now) {
        self.counts.exported += sums.exported;
        self.counts.made += sums.exported;
        for (reason, items) in &sums.refused {
            match &**reason {
                MADE_AGAIN => self.counts.made_again += items,
                INHERITED => self.counts.inherited += items,
                fate => {
                    self.counts.made += items;
                    if fate == SAMPLED_OUT {
                        self.counts.sampled_out += items;
                    } else {
                        self.count_refused(*items, Refusal::parse(fate));
                    }
                }
            }
        }
        left.retain(|entry| entry.signal == self.settings.signal);
        left.sort_by_key(|entry| (entry.filled_at, entry.id));
        for entry in &left {
            self.counts.made += entry.items;
            self.queue.recover(entry, now);
        }
        // The bound may have been another.
        self.make_disk_room(&mut BTreeSet::new());
    }

    /// What is to be written, in this order and as one. Say [`pushed`](Self::pushed) before the next call.
    pub fn take_ops(&mut self) -> Vec<Op> {
        self.outbox.take()
    }

    /// Notes that everything taken so far is written with `commit`.
    pub fn pushed(&mut self, commit: Commit, now: Monotonic) {
        self.queue.pushed(commit, now);
    }

    /// Notes what is durable. `works`: whether the store keeps what it is given; if not, `durable` means nothing, nobody
    /// waits for it, and what is new stays in memory.
    pub fn note_store(&mut self, durable: Commit, works: bool, now: Monotonic) {
        // Copies that are not durable yet are so as soon as the store works again, unless it drops them: it says so then, by
        // asking for everything afresh.
        self.queue.note_store(durable, works, now);
    }

    /// Writes everything that is not on disk, the batch being filled and what is in flight included, as far as the bound of
    /// the disk goes; beyond it the oldest give way. `afresh`: the store has dropped what was not durable.
    pub fn persist_all(&mut self, afresh: bool, now: Now) {
        if afresh {
            self.forget_doubtful_copies();
        }
        self.flush(now);
        self.spool(self.queue.uncopied().collect(), false, now.mono);
    }

    /// What is to be read next. Answer each with [`loaded`](Self::loaded).
    pub fn next_loads(&mut self) -> Vec<SpoolId> {
        if self.reads() { self.queue.next_loads(self.batcher.items()) } else { Vec::new() }
    }

    /// Takes what was read, or nothing if it is damaged.
    pub fn loaded(&mut self, name: SpoolId, body: Option<Bytes>, now: Monotonic) {
        if let Some(lost) = self.queue.loaded(name, body, now) {
            self.notices.push(Notice::SpoolDamaged { items: lost.items });
            self.settle_refused(&lost, Refusal::SpoolDamaged);
        }
        // What comes back takes room that what is new will want.
        self.spill(now);
    }

    /// Notes that nothing came of reading `name`, unless something did. `at_once`: there was no room for it; else it is
    /// read again in [`RELOAD_AFTER`].
    pub fn not_loaded(&mut self, name: SpoolId, at_once: bool, now: Monotonic) {
        let not_before = if at_once { now } else { now.after(RELOAD_AFTER) };
        self.queue.not_loaded(name, not_before, now);
    }

    /// Lets the oldest batches leave memory while it is nearly full.
    pub(super) fn spill(&mut self, now: Monotonic) {
        if !self.queue.has_disk() {
            return;
        }
        while self.queue.is_memory_low(self.batcher.items(), self.batcher.size_bytes()) {
            let Some((id, entry)) = self.queue.next_to_leave() else { return };
            // What the peer is about to take need not go to disk, from where it would come back last.
            let is_about_to_go = entry.is_live(now) && !self.peer.is_down();
            if is_about_to_go && !self.queue.is_memory_scarce(self.batcher.items(), self.batcher.size_bytes())
            {
                return;
            }
            if entry.copy.is_none() {
                self.spool(BTreeSet::from([id]), false, now);
            }
            self.queue.leave(id);
        }
    }

    /// Writes batches that are only in memory, but for those that give way. `first`: they are not sent before.
    pub(super) fn spool(&mut self, mut ids: BTreeSet<BatchId>, first: bool, now: Monotonic) {
        self.make_disk_room(&mut ids);
        for id in ids {
            let Some(name) = self.outbox.name() else { return };
            if let Some(entry) = self.queue.copy(id, name, first, now) {
                self.outbox.spool(name, entry);
            }
        }
    }

    /// Lets the oldest give way until the disk has room for `coming`, which are not on it. Those of them that give way
    /// themselves leave `coming`.
    pub(super) fn make_disk_room(&mut self, coming: &mut BTreeSet<BatchId>) {
        if !self.outbox.has_store() {
            return;
        }
        // One that has no room by itself must not cost all the others theirs.
        for id in coming.clone() {
            if let Some(entry) = self.queue.drop_larger_than_disk(id) {
                coming.remove(&id);
                self.note_gave_way(&entry);
            }
        }
        let mut bytes: u64 = coming.iter().map(|id| self.queue.batch_bytes(*id)).sum();
        while !self.queue.has_disk_room(coming.len(), bytes) {
            // The rest is on its way to the peer.
            let Some((id, oldest)) = self.queue.drop_oldest_on_disk(coming) else { return };
            if coming.remove(&id) {
                bytes -= oldest.size_bytes as u64;
            }
            self.note_gave_way(&oldest);
        }
    }

    pub(super) fn forget_doubtful_copies(&mut self) {
        for name in self.queue.forget_doubtful_copies() {
            self.outbox.forget(name);
        }
    }
}
