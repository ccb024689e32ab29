//! The bridge's own limit on open spans and their bytes, which no shard can keep alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::report::Occupancy;

/// What all shards hold, and what they may hold together.
#[derive(Debug, Clone)]
pub struct Capacity {
    shards: Arc<[Held]>,
    max_spans: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Held {
    spans: AtomicUsize,
    bytes: AtomicUsize,
}

impl Capacity {
    /// For so many shards, which together may hold so much.
    #[must_use]
    pub fn new(shards: usize, max_spans: usize, max_bytes: usize) -> Self {
        Self { shards: (0..shards).map(|_| Held::default()).collect(), max_spans, max_bytes }
    }

    /// What all shards hold.
    #[must_use]
    pub fn held(&self) -> Occupancy {
        let sum = |read: fn(&Held) -> &AtomicUsize| {
            self.shards.iter().map(|held| read(held).load(Ordering::Relaxed)).sum()
        };
        Occupancy { open_spans: sum(|held| &held.spans), open_bytes: sum(|held| &held.bytes) }
    }

    /// Notes what a shard holds, and says how many spans it has to give up: all that is too much, if it holds more than
    /// its share, so that shards that hold little are left alone.
    pub fn update(&self, shard: usize, occupancy: Occupancy) -> usize {
        self.shards[shard].spans.store(occupancy.open_spans, Ordering::Relaxed);
        self.shards[shard].bytes.store(occupancy.open_bytes, Ordering::Relaxed);
        let all = self.held();
        let spans = excess(occupancy.open_spans, all.open_spans, self.max_spans, self.shards.len());
        let bytes = excess(occupancy.open_bytes, all.open_bytes, self.max_bytes, self.shards.len());
        let usual = (occupancy.open_bytes / occupancy.open_spans.max(1)).max(1);
        spans.max(bytes.div_ceil(usual))
    }
}

fn excess(own: usize, all: usize, max: usize, shards: usize) -> usize {
    let is_over_share = own.saturating_mul(shards) >= all;
    if is_over_share { all.saturating_sub(max) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(open_spans: usize, open_bytes: usize) -> Occupancy {
        Occupancy { open_spans, open_bytes }
    }

    #[test]
    fn the_shard_that_holds_more_than_its_share_gives_up_what_is_too_much() {
        let capacity = Capacity::new(2, 100, 1 << 20);
        assert_eq!(capacity.update(0, holding(90, 900)), 0);
        assert_eq!(capacity.update(1, holding(20, 200)), 0);
        assert_eq!(capacity.update(0, holding(90, 900)), 10);
        assert_eq!(capacity.held(), holding(110, 1_100));
    }

    #[test]
    fn bytes_that_are_too_much_are_given_up_as_spans() {
        let capacity = Capacity::new(1, 100, 1_000);
        assert_eq!(capacity.update(0, holding(10, 1_150)), 2);
    }
}
