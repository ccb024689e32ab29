//! The bridge's own limit on open spans and their bytes, which no shard can keep alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

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
    /// Another shard found that all hold too much, and this one most.
    asked: Notify,
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
        self.shards.iter().map(Held::occupancy).fold(Occupancy::default(), |sum, held| Occupancy {
            open_spans: sum.open_spans + held.open_spans,
            open_bytes: sum.open_bytes + held.open_bytes,
        })
    }

    /// Notes what a shard holds, and says how many spans it has to give up: all that is too much, if it holds more than
    /// its share, so that shards that hold little are left alone. Else the one that holds most is asked: it may have nothing
    /// else to do, and would not look for itself.
    pub fn update(&self, shard: usize, occupancy: Occupancy) -> usize {
        self.shards[shard].spans.store(occupancy.open_spans, Ordering::Relaxed);
        self.shards[shard].bytes.store(occupancy.open_bytes, Ordering::Relaxed);
        let all = self.held();
        if all.open_spans <= self.max_spans && all.open_bytes <= self.max_bytes {
            return 0;
        }
        let own = self.excess_of(occupancy, all);
        if own == 0 {
            let is_spans = all.open_spans > self.max_spans;
            let most = self.shards.iter().max_by_key(|held| {
                let held = held.occupancy();
                if is_spans { held.open_spans } else { held.open_bytes }
            });
            if let Some(most) = most {
                most.asked.notify_one();
            }
        }
        own
    }

    /// Waits until the shard should [`update`](Self::update), though nothing of its own has happened.
    pub async fn asked(&self, shard: usize) {
        self.shards[shard].asked.notified().await;
    }

    /// How many spans a shard that holds `own` has to give up.
    fn excess_of(&self, own: Occupancy, all: Occupancy) -> usize {
        let spans = excess(own.open_spans, all.open_spans, self.max_spans, self.shards.len());
        let bytes = excess(own.open_bytes, all.open_bytes, self.max_bytes, self.shards.len());
        let usual = (own.open_bytes / own.open_spans.max(1)).max(1);
        spans.max(bytes.div_ceil(usual))
    }
}

impl Held {
    fn occupancy(&self) -> Occupancy {
        Occupancy {
            open_spans: self.spans.load(Ordering::Relaxed),
            open_bytes: self.bytes.load(Ordering::Relaxed),
        }
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
    fn a_shard_that_only_holds_is_asked_to_give_up() {
        let capacity = Capacity::new(2, 100, 1 << 20);
        capacity.update(0, holding(90, 900));
        let is_asked = |shard| {
            let mut asked = std::pin::pin!(capacity.asked(shard));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            asked.as_mut().poll(&mut cx).is_ready()
        };
        capacity.update(1, holding(10, 100));
        assert!(!is_asked(0), "all together is within the limit");

        assert_eq!(capacity.update(1, holding(20, 200)), 0);

        assert!(is_asked(0));
        assert!(!is_asked(1));
        assert_eq!(capacity.update(0, holding(90, 900)), 10);
    }

    #[test]
    fn bytes_that_are_too_much_are_given_up_as_spans() {
        let capacity = Capacity::new(1, 100, 1_000);
        assert_eq!(capacity.update(0, holding(10, 1_150)), 2);
    }
}
