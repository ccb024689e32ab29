//! How far an end's estimate of its start may be from the start that it takes.
//!
//! The residual (estimate minus start) has no right constant: it is a microsecond on a quiet worker, tens of
//! microseconds on one that matches filter patterns between its two clock readings, and milliseconds where the process
//! lost the CPU in between. It is learned per worker, from pairs that could not have been anything else.

/// A start may be this much later than its end's estimate: the clocks of `duration` and of `system_time` are two.
pub(crate) const EARLY_SLACK_NS: i64 = 2_000;

/// A key's only open start is taken up to here, if nothing else of that key lies between.
pub(crate) const LONE_START_NS: i64 = 10_000_000;

/// The tolerance that a worker begins with, and never goes below: a quiet worker's 99th percentile, ten times.
const MIN_NS: i64 = 5_000;

/// And never above: a worker under load with a filter set showed 200 us at worst.
const MAX_NS: i64 = 250_000;

/// A match is made at once only up to here. Beyond, another start is too likely to be as near.
const MAX_AT_ONCE_NS: i64 = 25_000;

/// The share of residuals that the learned quantile lies above, in per cent.
const QUANTILE_PERCENT: i64 = 95;

/// A worker's learned tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tolerance {
    /// A running estimate of the residuals' [`QUANTILE_PERCENT`] quantile.
    quantile_ns: i64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { quantile_ns: MIN_NS / 2 }
    }
}

impl Tolerance {
    /// Learns from the residual of an unambiguous pair: the quantile moves up by 95 parts of a step for a residual
    /// above it, down by 5 for one below it.
    pub(crate) fn learn(&mut self, residual_ns: i64) {
        if !(-EARLY_SLACK_NS..=LONE_START_NS).contains(&residual_ns) {
            return;
        }
        let step = (self.quantile_ns / 8).max(200);
        if residual_ns > self.quantile_ns {
            self.quantile_ns += step * QUANTILE_PERCENT / 100;
        } else {
            self.quantile_ns -= step * (100 - QUANTILE_PERCENT) / 100;
        }
        self.quantile_ns = self.quantile_ns.clamp(MIN_NS / 2, MAX_NS / 2);
    }

    /// The furthest residual of a match that is made when the window closes, or in memory.
    pub(crate) fn full_ns(self) -> i64 {
        (self.quantile_ns * 2).clamp(MIN_NS, MAX_NS)
    }

    /// The furthest residual of a match that is made at once: well inside.
    pub(crate) fn at_once_ns(self) -> i64 {
        self.quantile_ns.clamp(MIN_NS / 2, MAX_AT_ONCE_NS)
    }

    /// Whether this residual allows a match when the window closes.
    pub(crate) fn allows(self, residual_ns: i64) -> bool {
        (-EARLY_SLACK_NS..=self.full_ns()).contains(&residual_ns)
    }

    /// Whether this residual allows a match at once.
    pub(crate) fn allows_at_once(self, residual_ns: i64) -> bool {
        (-EARLY_SLACK_NS..=self.at_once_ns()).contains(&residual_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_worker_keeps_the_smallest_tolerance() {
        let mut tolerance = Tolerance::default();
        for residual in [400, 700, 350, 900].into_iter().cycle().take(1000) {
            tolerance.learn(residual);
        }
        assert_eq!((tolerance.full_ns(), tolerance.at_once_ns()), (MIN_NS, MIN_NS / 2));
    }

    #[test]
    fn a_worker_with_a_filter_gets_a_wider_tolerance() {
        let mut tolerance = Tolerance::default();
        for residual in [5_000, 9_000, 12_000, 21_000].into_iter().cycle().take(1000) {
            tolerance.learn(residual);
        }
        assert!((21_000..80_000).contains(&tolerance.full_ns()), "{tolerance:?}");
    }

    #[test]
    fn what_no_pair_can_show_is_not_learned() {
        let mut tolerance = Tolerance::default();
        for residual in [i64::MIN, -1_000_000, LONE_START_NS + 1, i64::MAX] {
            tolerance.learn(residual);
        }
        assert_eq!(tolerance, Tolerance::default());
    }
}
