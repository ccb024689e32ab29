//! What goes to disk, and comes back.

use bytes::Bytes;

use super::outbox::{INHERITED, MADE_AGAIN};
use super::{Pipeline, RELOAD_AFTER, SAMPLED_OUT, SpoolNames};
use crate::exporter::pipeline::Notice;
use crate::exporter::queue::BatchId;
use crate::exporter::refusal::Refusal;
use crate::store::{Commit, Op, SignalSums, SpoolEntry, SpoolId};
use crate::time::{Monotonic, Now};

impl Pipeline {
    /// From now on there is a store. `names` gives out names in it.
    pub fn set_store(&mut self, names: SpoolNames) {
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

    /// Writes everything that is not on disk, the batch being filled and what is in flight included. `afresh`: the store
    /// has dropped what was not durable.
    pub fn persist_all(&mut self, afresh: bool, now: Now) {
        if afresh {
            self.forget_doubtful_copies();
        }
        self.flush(now);
        for id in self.queue.uncopied().collect::<Vec<_>>() {
            self.spool(id, false, now.mono);
        }
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
                let size_bytes = entry.size_bytes;
                while !self.queue.has_disk_room(size_bytes) {
                    let age = self.settings.retry.gives_way_after;
                    let Some(oldest) = self.queue.drop_older_than(age, now) else { return };
                    self.note_gave_way(&oldest);
                }
                self.spool(id, false, now);
            }
            self.queue.leave(id);
        }
    }

    /// Writes a batch. `first`: it is not sent before.
    pub(super) fn spool(&mut self, id: BatchId, first: bool, now: Monotonic) {
        let Some(name) = self.outbox.name() else { return };
        if let Some(entry) = self.queue.copy(id, name, first, now) {
            self.outbox.spool(name, entry);
        }
    }

    pub(super) fn forget_doubtful_copies(&mut self) {
        for name in self.queue.forget_doubtful_copies() {
            self.outbox.forget(name);
        }
    }
}
