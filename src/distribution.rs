//! How often a quantity had which size: counts in fixed buckets, for the bridge's own metrics.
//!
//! All is in whole units (nanoseconds, bytes, items), so that sums are exact.

/// Bounds for how long an export request takes, in nanoseconds: from a Collector on the same machine to the default
/// time-out, and beyond.
pub const REQUEST_DURATION_NS: &[u64] = &[
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// Bounds for the items of an export request; 512 is the specification's default of a full one.
pub const BATCH_ITEMS: &[u64] = &[1, 8, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192];

/// Bounds for the bytes of an export request; gRPC servers take 4 MiB by default.
pub const BATCH_BYTES: &[u64] =
    &[1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// Counts of a quantity, by size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    bounds: &'static [u64],
    /// One more than there are bounds.
    counts: Vec<u64>,
    sum: u64,
}

impl Distribution {
    /// Nothing is counted yet. `bounds` ascend.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds ascend");
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    /// Counts one of this size.
    pub fn record(&mut self, size: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < size);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(size);
    }

    /// All that were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of their sizes.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// For each bound, how many were not larger.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut so_far = 0;
        self.bounds.iter().zip(&self.counts).map(move |(bound, count)| {
            so_far += count;
            (*bound, so_far)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_counts_up_to_its_bound_and_beyond() {
        let mut sizes = Distribution::new(&[1, 10, 100]);
        for size in [0, 1, 2, 10, 11, 101, 5_000] {
            sizes.record(size);
        }
        assert_eq!(sizes.cumulative().collect::<Vec<_>>(), [(1, 2), (10, 4), (100, 5)]);
        assert_eq!((sizes.count(), sizes.sum()), (7, 5_125));
    }
}
