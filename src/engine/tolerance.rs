//! How far an end's estimate of its start may be from the start that it takes.
//!
//! The residual (estimate minus start) has no right constant: it is a microsecond on a quiet worker, tens of
//! microseconds on one that matches filter patterns between its two clock readings, and milliseconds where the process
//! lost the CPU in between. So it is learned per worker, from the start that is nearest to each end when the end is decided.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A start may be this much later than its end's estimate: the clocks of `duration` and of `system_time` are two.
pub(crate) const EARLY_SLACK_NS: i64 = 2_000;

/// A lone start may even be this much later: on a busy machine the emitter lost the CPU between its two clocks, and 2.3 us
/// were seen where the design's 2 us are the worst of a quiet one.
pub(crate) const LATE_EARLY_SLACK_NS: i64 = 1_000_000;

/// A key's only open start is taken up to here, if nothing else of that key lies between.
pub(crate) const LONE_START_NS: i64 = 10_000_000;

/// The tolerance that a worker begins with, and never goes below: a quiet worker's 99th percentile, seven times.
const MIN_NS: i64 = 5_000;

/// And never above: a worker under load with a filter set showed 200 us at worst.
const MAX_NS: i64 = 250_000;

/// A match is made at once only up to here. Beyond, another start is too likely to be as near.
const MAX_AT_ONCE_NS: i64 = 25_000;

/// Residuals below which the learned quantile lies, in per cent. So few, because the ends whose own start was lost show
/// the distance to a stranger, and up to three in four may be such.
const QUANTILE_PERCENT: u32 = 20;

/// The tolerance in quantiles: the slowest of the measured residuals against their 20th percentile.
const QUANTILES: i64 = 6;

/// The slowest one pair in a hundred, in tolerances.
const WIDE: i64 = 6;

/// The middle of the residuals in tenths of a quantile.
const MIDDLE_TENTHS: i64 = 14;

/// Residuals fall into a quarter of an octave each, from 256 ns up.
const BUCKETS: usize = 64;
const FIRST_OCTAVE: u32 = 8;

/// Ends without a start within the tolerance that are put down to lateness: a few, and two in a hundred. One in a
/// hundred is late on a worker that loses the CPU now and then; where more miss their start, starts are being lost.
const LATE_ENDS: u64 = 3;
const LATE_PERCENT: u64 = 2;

/// Quiet ends that a worker is credited with: a handful of residuals shows nothing.
const PRIOR_ENDS: u32 = 8;

/// Ends after which older ones count half.
const HALF_LIFE_ENDS: u64 = 2_048;

/// A worker's learned tolerance.
#[derive(Debug, Clone)]
pub(crate) struct Tolerance {
    /// Residuals of decided ends.
    decided: [u32; BUCKETS],
    /// Residuals of waiting ends, as they were when these arrived; each is taken back when its end is decided.
    waiting: [u32; BUCKETS],
    quantile_ns: i64,
    ends: u64,
    /// Ends that had no start within the tolerance when their window closed.
    strays: u64,
}

impl Default for Tolerance {
    fn default() -> Self {
        let mut decided = [0; BUCKETS];
        decided[0] = PRIOR_ENDS;
        Self { decided, waiting: [0; BUCKETS], quantile_ns: MIN_NS / QUANTILES, ends: 0, strays: 0 }
    }
}

/// Without what waiting ends say: that is learned again from these, by [`Tolerance::restore_waiting`].
impl Serialize for Tolerance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.decided[..], self.quantile_ns, self.ends, self.strays).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Tolerance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (decided, quantile_ns, ends, strays) = <(Vec<u32>, i64, u64, u64)>::deserialize(deserializer)?;
        let decided = decided
            .try_into()
            .map_err(|_| serde::de::Error::custom("a tolerance with another number of buckets"))?;
        Ok(Self { decided, waiting: [0; BUCKETS], quantile_ns, ends, strays })
    }
}

/// A residual as the tolerance remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Residual(u8);

impl Residual {
    /// `None` if it is none that a pair can show.
    pub(crate) fn of(residual_ns: i64) -> Option<Self> {
        if !(-EARLY_SLACK_NS..=LONE_START_NS).contains(&residual_ns) {
            return None;
        }
        let ns = residual_ns.max(1).unsigned_abs();
        let octave = ns.ilog2();
        let Some(above) = octave.checked_sub(FIRST_OCTAVE) else { return Some(Self(0)) };
        let quarter = (ns >> (octave - 2)) & 3;
        u8::try_from(u64::from(above) * 4 + quarter).ok().map(|bucket| Self(bucket.min(BUCKETS as u8 - 1)))
    }

    fn bucket(self) -> usize {
        usize::from(self.0).min(BUCKETS - 1)
    }
}

/// The upper end of a bucket.
fn upper_ns(bucket: usize) -> i64 {
    let (octave, quarter) = (bucket / 4, bucket % 4);
    let unit = 1_i64 << (octave + FIRST_OCTAVE as usize - 2);
    unit * (5 + quarter as i64)
}

impl Tolerance {
    /// An end was decided; this was the distance to the start that was nearest.
    pub(crate) fn learn(&mut self, residual: Residual) {
        self.decided[residual.bucket()] += 1;
        self.refresh();
    }

    /// An end waits; this is the distance to the start that is nearest for now.
    pub(crate) fn learn_for_now(&mut self, residual: Residual) {
        self.waiting[residual.bucket()] += 1;
        self.refresh();
    }

    /// What an end said that waited before a restart; it has had its effect.
    pub(crate) fn restore_waiting(&mut self, residual: Residual) {
        self.waiting[residual.bucket()] += 1;
    }

    /// Takes back what a waiting end said.
    pub(crate) fn unlearn(&mut self, residual: Residual) {
        self.waiting[residual.bucket()] -= 1;
    }

    fn refresh(&mut self) {
        let counts = || self.decided.iter().zip(&self.waiting).map(|(decided, waiting)| decided + waiting);
        let total: u32 = counts().sum();
        let wanted = (total * QUANTILE_PERCENT).div_ceil(100).max(1);
        let mut below = 0;
        let bucket = counts().position(|count| {
            below += count;
            below >= wanted
        });
        if let Some(bucket) = bucket {
            self.quantile_ns = upper_ns(bucket).clamp(MIN_NS / QUANTILES, MAX_NS / QUANTILES);
        }
    }

    /// Counts an end that has a duration.
    pub(crate) fn count_end(&mut self) {
        self.ends += 1;
        if self.ends > HALF_LIFE_ENDS {
            self.ends /= 2;
            self.strays /= 2;
            self.decided.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// Counts an end that had no start within the tolerance when its window closed.
    pub(crate) fn count_stray(&mut self) {
        self.strays += 1;
    }

    /// Whether the worker's stream seems whole, with `undecided` ends of which it is not known yet: then a lone start is
    /// a late end's own, else it is as likely a stranger's.
    pub(crate) fn is_whole(&self, undecided: usize) -> bool {
        self.strays + undecided as u64 <= LATE_ENDS + self.ends * LATE_PERCENT / 100
    }

    /// How unlike the worker's usual residuals this one is.
    pub(crate) fn oddity(&self, residual_ns: i64) -> i64 {
        residual_ns.saturating_sub(self.middle_ns()).saturating_abs()
    }

    /// The middle of the worker's usual residuals.
    pub(crate) fn middle_ns(&self) -> i64 {
        self.quantile_ns * MIDDLE_TENTHS / 10
    }

    /// The furthest residual of a match that is made when the window closes, or in memory.
    pub(crate) fn full_ns(&self) -> i64 {
        (self.quantile_ns * QUANTILES).clamp(MIN_NS, MAX_NS)
    }

    /// How far the slowest pairs are apart: nothing else may be as near where a match is made at once.
    pub(crate) fn wide_ns(&self) -> i64 {
        (self.full_ns() * WIDE).min(MAX_NS)
    }

    /// Whether an end with this residual to its nearest start has not lost its own.
    pub(crate) fn explains(&self, residual_ns: i64) -> bool {
        (-EARLY_SLACK_NS..=self.wide_ns()).contains(&residual_ns)
    }

    /// The furthest residual of a match that is made at once: well inside.
    pub(crate) fn at_once_ns(&self) -> i64 {
        (self.full_ns() / 2).min(MAX_AT_ONCE_NS)
    }

    /// Whether this residual allows a match when the window closes.
    pub(crate) fn allows(&self, residual_ns: i64) -> bool {
        (-EARLY_SLACK_NS..=self.full_ns()).contains(&residual_ns)
    }

    /// Whether this residual allows a match at once.
    pub(crate) fn allows_at_once(&self, residual_ns: i64) -> bool {
        (-EARLY_SLACK_NS..=self.at_once_ns()).contains(&residual_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(residuals: &[i64]) -> Tolerance {
        let mut tolerance = Tolerance::default();
        for residual in residuals.iter().copied().cycle().take(1000).filter_map(Residual::of) {
            tolerance.learn(residual);
        }
        tolerance
    }

    #[test]
    fn every_residual_lies_in_its_bucket() {
        for residual in (0..24).flat_map(|octave| [1_i64 << octave, (1 << octave) + 1, (3 << octave) / 2]) {
            let Some(bucket) = Residual::of(residual).map(Residual::bucket) else { continue };
            assert!(residual <= upper_ns(bucket), "{residual} in {bucket}");
            assert!(bucket == 0 || residual >= upper_ns(bucket - 1), "{residual} in {bucket}");
        }
    }

    #[test]
    fn a_quiet_worker_keeps_the_smallest_tolerance() {
        let tolerance = after(&[400, 700, 350, 900]);
        assert_eq!((tolerance.full_ns(), tolerance.at_once_ns()), (MIN_NS, MIN_NS / 2));
    }

    #[test]
    fn a_worker_with_a_filter_gets_a_wider_tolerance() {
        let tolerance = after(&[5_000, 9_000, 12_000, 16_000, 21_000]);
        assert!((21_000..80_000).contains(&tolerance.full_ns()), "{}", tolerance.full_ns());
    }

    #[test]
    fn ends_that_lost_their_start_do_not_widen_the_tolerance() {
        let tolerance = after(&[400, 90_000, 2_000_000, 900_000]);
        assert_eq!(tolerance.full_ns(), MIN_NS);
    }

    #[test]
    fn what_a_waiting_end_said_is_taken_back() {
        let mut tolerance = after(&[400]);
        let far = Residual::of(9_000_000).unwrap();
        (0..10_000).for_each(|_| tolerance.learn_for_now(far));
        assert_eq!(tolerance.full_ns(), MAX_NS / QUANTILES * QUANTILES);
        (0..10_000).for_each(|_| tolerance.unlearn(far));
        tolerance.learn(Residual::of(400).unwrap());
        assert_eq!(tolerance.full_ns(), MIN_NS);
    }

    #[test]
    fn a_stream_is_whole_while_few_ends_miss_their_start() {
        let mut tolerance = Tolerance::default();
        assert!(tolerance.is_whole(3) && !tolerance.is_whole(4));
        (0..1000).for_each(|_| tolerance.count_end());
        (0..10).for_each(|_| tolerance.count_stray());
        assert!(tolerance.is_whole(13) && !tolerance.is_whole(14));
    }

    #[test]
    fn what_no_pair_can_show_is_not_learned() {
        for residual in [i64::MIN, -1_000_000, LONE_START_NS + 1, i64::MAX] {
            assert_eq!(Residual::of(residual), None);
        }
    }
}
