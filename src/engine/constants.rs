//! Finds correlation ids that stay in use: somebody sends a constant, and every span ends up in one trace.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::time::Monotonic;

/// Ids that are watched at a time; the busiest keep their place.
const WATCHED: usize = 1024;

/// A trace of more spans than this is no request.
const MAX_SPANS: u64 = 10_000;

/// The ids are written in so many parts, of which each is written where an id in it was counted.
const PARTS: usize = 32;

/// The watched ids of one shard.
#[derive(Debug)]
pub(crate) struct ConstantIds {
    slots: Vec<Watched>,
    /// Parts with an id that was counted since they were written, as bits.
    changed: u32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Watched {
    hash: u64,
    spans: u64,
    /// Goes down when another id wants the place.
    weight: u64,
    first: Monotonic,
    last: Monotonic,
    is_warned: bool,
}

impl Default for ConstantIds {
    fn default() -> Self {
        Self { slots: vec![Watched::default(); WATCHED], changed: 0 }
    }
}

impl ConstantIds {
    /// Counts a span of this worker and id. Returns its count when it should be warned of: once, when it has more than
    /// 10,000 spans, or has been in use for longer than `idle` without a pause of that length.
    pub(crate) fn count(
        &mut self,
        worker: &[u8],
        correlation_id: &str,
        now: Monotonic,
        idle: Duration,
    ) -> Option<u64> {
        let hash = xxh3_64(correlation_id.as_bytes()) ^ xxh3_64(worker).rotate_left(1);
        let at = usize::try_from(hash % WATCHED as u64).expect("less than the number of slots");
        self.changed |= 1 << (at / (WATCHED / PARTS));
        let slot = &mut self.slots[at];
        let idle_ns = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        if slot.hash != hash {
            slot.weight = slot.weight.saturating_sub(1);
            if slot.weight == 0 {
                *slot = Watched { hash, first: now, ..Watched::default() };
            } else {
                return None;
            }
        } else if now.since(slot.last) > idle_ns {
            *slot = Watched { hash, first: now, is_warned: slot.is_warned, ..Watched::default() };
        }
        slot.spans += 1;
        slot.weight += 1;
        slot.last = now;
        let is_constant = slot.spans > MAX_SPANS || now.since(slot.first) > idle_ns;
        if is_constant && !slot.is_warned {
            slot.is_warned = true;
            return Some(slot.spans);
        }
        None
    }
}

/// A part of the ids, as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WatchedPart(Vec<Watched>);

impl ConstantIds {
    /// The parts that changed since they were taken last, or all that are not empty, with their numbers.
    pub(crate) fn take_changed(&mut self, all: bool) -> impl Iterator<Item = (u8, WatchedPart)> {
        let changed = if all { u32::MAX } else { self.changed };
        self.changed = 0;
        let parts = self.slots.chunks(WATCHED / PARTS).zip(0..);
        parts.filter_map(move |(slots, number)| {
            let is_empty = all && slots.iter().all(|slot| slot.spans == 0 && slot.weight == 0);
            let is_wanted = changed >> number & 1 == 1 && !is_empty;
            is_wanted.then(|| (number, WatchedPart(slots.to_vec())))
        })
    }

    /// Puts a part back.
    pub(crate) fn restore(&mut self, number: u8, part: WatchedPart) {
        let from = usize::from(number) * (WATCHED / PARTS);
        for (slot, watched) in self.slots.iter_mut().skip(from).zip(part.0) {
            *slot = watched;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    #[test]
    fn an_id_with_more_than_ten_thousand_spans_is_warned_of_once() {
        let mut ids = ConstantIds::default();
        let warnings: Vec<_> =
            (0..30_000).filter_map(|_| ids.count(b"worker", "constant", at(1), IDLE)).collect();
        assert_eq!(warnings, [10_001]);
    }

    #[test]
    fn an_id_in_use_for_longer_than_the_idle_time_is_warned_of() {
        let mut ids = ConstantIds::default();
        let minutes: Vec<u64> = (0..200)
            .filter(|minute| ids.count(b"worker", "constant", at(60 * minute), IDLE).is_some())
            .collect();
        assert_eq!(minutes, [61]);
    }

    #[test]
    fn an_id_that_pauses_is_another_use_of_it() {
        let mut ids = ConstantIds::default();
        assert!((0..100).all(|hours| ids.count(b"worker", "daily", at(7200 * hours), IDLE).is_none()));
    }

    #[test]
    fn a_constant_is_found_among_ids_that_are_used_once() {
        let mut ids = ConstantIds::default();
        let found = (0..30_000).any(|number| {
            ids.count(b"worker", &format!("request-{number}"), at(1), IDLE);
            ids.count(b"worker", "constant", at(1), IDLE).is_some()
        });
        assert!(found);
    }
}
