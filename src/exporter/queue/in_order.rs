//! The order of batches for a peer that refuses what is older than what it has.
//!
//! Prometheus takes no point before the last one of its series, and throws the whole request away for one. So batches of
//! metrics go one by one, and the oldest goes first:
//!
//! | the oldest | those behind it |
//! |---|---|
//! | may be sent | wait |
//! | waits to be sent again, for the disk, or for a commit | wait |
//! | has failed [`FAILURES_BEFORE_PASSED`] times, and after each [`FAILURES_BETWEEN_PASSES`] more | one is tried |
//! | was passed by one that the peer answered | go on: its place in the order is lost |
//!
//! So a batch that no peer will ever take costs itself alone, and an outage of minutes costs no order, or that of few.

use super::{Entry, Lane, Place, Queue};
use crate::exporter::queue::BatchId;
use crate::time::UnixNanos;

/// While the peer is away every batch fails, so this is rare.
pub(super) const FAILURES_BEFORE_PASSED: u32 = 8;
/// The fault may be the batch's own, which only another can show.
pub(super) const FAILURES_BETWEEN_PASSES: u32 = 16;

impl Queue {
    /// The batch whose turn it is, if it may be sent now and none is in flight.
    pub(super) fn next_in_order(&self) -> Option<(BatchId, Lane)> {
        if self.lanes.in_flight() > 0 {
            return None;
        }
        for (id, entry) in &self.entries {
            match entry.place {
                Place::Lane(lane) => return Some((*id, lane)),
                Place::Delayed(_) if entry.may_be_passed() => {}
                Place::Delayed(_) | Place::Held(_) | Place::Absent | Place::Loading | Place::Flying(_) => {
                    return None;
                }
            }
        }
        None
    }

    /// The batch that the others wait for, if order counts: it is read from disk whatever was read ahead of it.
    pub(super) fn awaited(&self) -> Option<BatchId> {
        let oldest = self.entries.first_key_value().map(|(id, _)| *id);
        oldest.filter(|_| self.settings.in_order)
    }

    /// Whether order counts, and the next batch is only on disk.
    #[must_use]
    pub fn awaits_disk(&self) -> bool {
        self.awaited().is_some_and(|id| self.entries[&id].place == Place::Absent)
    }

    /// Notes that the peer has answered for this batch: those before it have lost their place in the order.
    pub(super) fn note_passed(&mut self, id: BatchId) {
        if self.settings.in_order {
            self.entries.range_mut(..id).for_each(|(_, older)| older.was_passed = true);
        }
    }

    /// When a batch counts as filled: by this a restart puts them in order, so it never goes back where order counts.
    pub(super) fn filled_at(&mut self, now: UnixNanos) -> UnixNanos {
        if !self.settings.in_order {
            return now;
        }
        self.last_filled_at = self.last_filled_at.max(now);
        self.last_filled_at
    }
}

impl Entry {
    /// Whether those behind it are tried while it waits.
    fn may_be_passed(&self) -> bool {
        let is_time = |beyond: u32| beyond.is_multiple_of(FAILURES_BETWEEN_PASSES);
        self.was_passed || self.failures.checked_sub(FAILURES_BEFORE_PASSED).is_some_and(is_time)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::exporter::queue::QueueSettings;
    use crate::exporter::queue::tests::{at, batch, begin};
    use crate::exporter::signal::Signal;
    use crate::store::{Commit, Origins, SpoolEntry, SpoolId};
    use crate::time::Monotonic;

    fn queue(max_bytes: usize) -> Queue {
        Queue::new(QueueSettings { max_bytes, in_order: true, ..QueueSettings::default() })
    }

    /// Fails the batch that is in flight; it waits for 100 ns.
    fn fail(queue: &mut Queue, id: BatchId, now: u64) {
        queue.put_back(id, Monotonic(now), |_| Duration::from_nanos(100));
    }

    fn load(queue: &mut Queue, now: u64) -> usize {
        let names = queue.next_loads(0);
        for name in &names {
            queue.loaded(*name, Some(Bytes::from(vec![0; 50])), Monotonic(now));
        }
        names.len()
    }

    #[test]
    fn batches_do_not_overtake_one_another() {
        let mut queue = queue(1000);
        let ids: Vec<_> = [1, 2, 3].map(|bytes| queue.push(batch(bytes), at(0))).into();
        assert_eq!(begin(&mut queue, 0), Some(ids[0]));
        assert_eq!(begin(&mut queue, 0), None, "one is in flight");
        fail(&mut queue, ids[0], 0);
        assert_eq!(begin(&mut queue, 99), None, "the oldest waits, and the others with it");
        assert_eq!(queue.poll_timeout(9, false), Some(Monotonic(100)));
        assert_eq!(begin(&mut queue, 100), Some(ids[0]));
        queue.finish(ids[0]).unwrap();
        assert_eq!(begin(&mut queue, 100), Some(ids[1]));
    }

    #[test]
    fn a_batch_that_fails_by_itself_is_passed_and_holds_up_nothing_then() {
        let mut queue = queue(1000);
        let poisoned = queue.push(batch(1), at(0));
        let others: Vec<_> = (0..3).map(|_| queue.push(batch(2), at(0))).collect();
        let (mut now, mut tries, mut delivered) = (0, 0, Vec::new());
        while delivered.len() < others.len() {
            match begin(&mut queue, now) {
                Some(id) if id == poisoned => {
                    tries += 1;
                    fail(&mut queue, id, now);
                }
                Some(id) => {
                    queue.finish(id).unwrap();
                    queue.release(Monotonic(now));
                    delivered.push(id);
                }
                None => now += 50,
            }
        }
        assert_eq!(delivered, others);
        assert!(tries < FAILURES_BEFORE_PASSED + 3, "{tries}");
    }

    /// What was read ahead of the oldest never keeps it from being read.
    #[test]
    fn the_oldest_is_read_from_disk_whatever_was_read_before_it() {
        let mut queue = queue(800);
        queue.note_store(Commit(0), true, Monotonic(0));
        let ids: Vec<_> = (0..4).map(|_| queue.push(batch(50), at(0))).collect();
        assert_eq!(begin(&mut queue, 0), Some(ids[0]));
        fail(&mut queue, ids[0], 0);
        for (id, name) in ids.iter().zip(1..) {
            queue.copy(*id, SpoolId(name), false, Monotonic(0));
            queue.leave(*id);
        }
        queue.pushed(Commit(1), Monotonic(0));
        queue.note_store(Commit(1), true, Monotonic(0));
        assert!(load(&mut queue, 1) > 0, "others are read while the oldest waits");
        queue.advance(Monotonic(100));
        assert!(queue.awaits_disk());
        load(&mut queue, 100);
        assert!(!queue.awaits_disk());
        assert_eq!(begin(&mut queue, 100), Some(ids[0]));
    }

    #[test]
    fn what_was_read_and_failed_stays_in_memory() {
        let mut queue = queue(1000);
        queue.note_store(Commit(0), true, Monotonic(0));
        for id in 1..=2 {
            let entry = SpoolEntry {
                id: SpoolId(id),
                signal: Signal::Metrics,
                items: 1,
                bytes: 50,
                filled_at: UnixNanos(0),
                origins: Origins::new(),
            };
            queue.recover(&entry, at(0));
        }
        assert_eq!(begin(&mut queue, 0), None, "nothing was read yet");
        load(&mut queue, 0);
        let first = begin(&mut queue, 0).unwrap();
        fail(&mut queue, first, 0);
        assert!(queue.next_loads(0).iter().all(|name| *name != SpoolId(1)));
        assert_eq!(begin(&mut queue, 100), Some(first));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_change_the_order() {
        let mut queue = queue(1000);
        assert_eq!(queue.filled_at(UnixNanos(5)), UnixNanos(5));
        assert_eq!(queue.filled_at(UnixNanos(3)), UnixNanos(5));
    }
}
