//! What a series has in it, by its instrument's kind.

use serde::{Deserialize, Serialize};

use crate::engine::metrics::aggregation::exponential::Exponential;
use crate::engine::metrics::instrument::{Kind, Number};
use crate::engine::metrics::point::{Buckets, ExponentialBuckets};
use crate::time::{Monotonic, Now, UnixNanos};

/// So many bounds are counted rather than searched: the bridge's own lists have no more.
const FEW_BOUNDS: usize = 24;

/// The value of a series since it began, or since the last point of differences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Value {
    /// Whole as long as every measurement is, and 64 bits hold it; a double from then on.
    Sum(Number),
    Gauge(Last),
    Histogram {
        counts: Counts,
        stats: Stats,
    },
    Exponential(Box<(Exponential, Stats)>),
}

/// Counts of fixed buckets, one more than there are bounds: of 32 bits until one of them is larger, for buckets are most
/// of what a series costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Counts {
    Narrow(Box<[u32]>),
    Wide(Box<[u64]>),
}

/// What a gauge keeps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Last {
    pub(super) value: Number,
    /// Of its event, and not after its arrival.
    pub(super) time: UnixNanos,
    arrived: Monotonic,
}

/// What a histogram has beside its buckets; the least is above the greatest while nothing is in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Stats {
    sum: f64,
    min: f64,
    max: f64,
}

/// A measurement as a series takes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) value: Number,
    /// How many it stands for.
    pub(super) times: u64,
    /// Of its event.
    pub(super) time: UnixNanos,
    pub(super) now: Now,
}

impl Default for Stats {
    fn default() -> Self {
        Self { sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Stats {
    fn record(&mut self, value: f64, times: u64) {
        self.sum = within_doubles(self.sum + value * as_f64(times));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// None with a negative value in it: it would go up and down, and nobody could tell that from a restart.
    fn sum(&self) -> Option<f64> {
        (self.min >= 0.0).then_some(self.sum)
    }

    fn min(&self) -> Option<f64> {
        (self.min <= self.max).then_some(self.min)
    }

    fn max(&self) -> Option<f64> {
        (self.min <= self.max).then_some(self.max)
    }
}

impl Counts {
    fn new(buckets: usize) -> Self {
        Self::Narrow(vec![0; buckets].into())
    }

    fn add(&mut self, bucket: usize, times: u64) {
        match self {
            Self::Narrow(counts) => {
                let sum = u64::from(counts[bucket]).saturating_add(times);
                match u32::try_from(sum) {
                    Ok(sum) => counts[bucket] = sum,
                    Err(_) => {
                        let mut wide: Box<[u64]> = counts.iter().map(|count| u64::from(*count)).collect();
                        wide[bucket] = sum;
                        *self = Self::Wide(wide);
                    }
                }
            }
            Self::Wide(counts) => counts[bucket] = counts[bucket].saturating_add(times),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Narrow(counts) => counts.fill(0),
            Self::Wide(counts) => counts.fill(0),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Narrow(counts) => counts.len(),
            Self::Wide(counts) => counts.len(),
        }
    }

    fn to_vec(&self) -> Vec<u64> {
        match self {
            Self::Narrow(counts) => counts.iter().map(|count| u64::from(*count)).collect(),
            Self::Wide(counts) => counts.to_vec(),
        }
    }
}

impl Value {
    /// A value that nothing is in yet. A gauge has the measurement that made it.
    pub(super) fn new(kind: &Kind, first: &Taken) -> Self {
        match kind {
            Kind::Counter | Kind::UpDownCounter => Self::Sum(Number::Int(0)),
            Kind::Gauge => Self::Gauge(Last::of(first)),
            Kind::Histogram { boundaries } => {
                Self::Histogram { counts: Counts::new(boundaries.len() + 1), stats: Stats::default() }
            }
            Kind::ExponentialHistogram => Self::Exponential(Box::default()),
        }
    }

    /// Takes a measurement; `false` if it changes nothing, which only a gauge says.
    ///
    /// A gauge keeps what was measured last by event time, for events of one worker come a little out of order. One that
    /// arrives more than a window after the kept one is no such case: the worker's clock was set back.
    pub(super) fn record(&mut self, kind: &Kind, taken: &Taken, reorder_window_ns: u64) -> bool {
        match self {
            Self::Sum(sum) => *sum = plus(*sum, taken.value, taken.times),
            Self::Gauge(last) => {
                let next = Last::of(taken);
                let is_late = next.time < last.time;
                if is_late && taken.now.mono.since(last.arrived) <= reorder_window_ns {
                    return false;
                }
                *last = next;
            }
            Self::Histogram { counts, stats } => {
                let value = taken.value.as_f64();
                counts.add(bucket_of(kind, value), taken.times);
                stats.record(value, taken.times);
            }
            Self::Exponential(own) => {
                let value = taken.value.as_f64();
                own.0.record(value, taken.times);
                own.1.record(value, taken.times);
            }
        }
        true
    }

    /// Begins anew after a point of differences. A gauge keeps its value, so that a late one is told from a new one.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Sum(sum) => *sum = Number::Int(0),
            Self::Gauge(_) => {}
            Self::Histogram { counts, stats } => {
                counts.clear();
                *stats = Stats::default();
            }
            Self::Exponential(own) => **own = <(Exponential, Stats)>::default(),
        }
    }

    /// How many times coarser its buckets are than those in which exemplars have their place, as a number of bits.
    pub(super) fn exemplar_shift(&self) -> u32 {
        match self {
            Self::Sum(_) | Self::Gauge(_) | Self::Histogram { .. } => 0,
            Self::Exponential(own) => own.0.shift(),
        }
    }

    /// Whether it can belong to an instrument of this kind: for what was read from a disk.
    pub(super) fn is_of(&self, kind: &Kind) -> bool {
        match (self, kind) {
            (Self::Sum(_), Kind::Counter | Kind::UpDownCounter) | (Self::Gauge(_), Kind::Gauge) => true,
            (Self::Histogram { counts, .. }, Kind::Histogram { boundaries }) => {
                counts.len() == boundaries.len() + 1
            }
            (Self::Exponential(own), Kind::ExponentialHistogram) => own.0.is_sound(),
            (
                Self::Sum(_) | Self::Gauge(_) | Self::Histogram { .. } | Self::Exponential(_),
                Kind::Counter
                | Kind::UpDownCounter
                | Kind::Gauge
                | Kind::Histogram { .. }
                | Kind::ExponentialHistogram,
            ) => false,
        }
    }

    /// What it takes in memory beside itself.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Sum(_) | Self::Gauge(_) => 0,
            Self::Histogram { counts: Counts::Narrow(counts), .. } => size_of_val(&**counts),
            Self::Histogram { counts: Counts::Wide(counts), .. } => size_of_val(&**counts),
            Self::Exponential(own) => size_of_val(&**own) + own.0.heap_bytes(),
        }
    }
}

impl Last {
    fn of(taken: &Taken) -> Self {
        Self { value: taken.value, time: taken.time.min(taken.now.wall), arrived: taken.now.mono }
    }
}

/// The point of a histogram with fixed bounds.
pub(super) fn buckets(counts: &Counts, stats: &Stats) -> Buckets {
    let mut counts = counts.to_vec();
    let count = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
    if counts.len() == 1 {
        // No bounds, no buckets: the one that there is says what the count says.
        counts.clear();
    }
    Buckets { count, sum: stats.sum(), min: stats.min(), max: stats.max(), counts }
}

/// The point of a histogram with buckets of base 2.
pub(super) fn exponential_buckets((histogram, stats): &(Exponential, Stats)) -> ExponentialBuckets {
    ExponentialBuckets { sum: stats.sum(), min: stats.min(), max: stats.max(), ..histogram.buckets() }
}

/// The bucket of a value: bounds are inclusive above. 0 for kinds without bounds.
pub(super) fn bucket_of(kind: &Kind, value: f64) -> usize {
    match kind {
        // Several are compared at once, which a search cannot do.
        Kind::Histogram { boundaries } if boundaries.len() <= FEW_BOUNDS => {
            boundaries.iter().map(|bound| usize::from(*bound < value)).sum()
        }
        Kind::Histogram { boundaries } => boundaries.partition_point(|bound| *bound < value),
        Kind::Counter | Kind::UpDownCounter | Kind::Gauge | Kind::ExponentialHistogram => 0,
    }
}

fn plus(sum: Number, value: Number, times: u64) -> Number {
    match (sum, value) {
        (Number::Int(sum), Number::Int(value)) => {
            let sum = i128::from(sum).saturating_add(i128::from(value).saturating_mul(i128::from(times)));
            #[expect(clippy::cast_precision_loss, reason = "64 bits do not hold it")]
            i64::try_from(sum).map_or_else(|_| Number::Float(sum as f64), Number::Int)
        }
        (Number::Int(_) | Number::Float(_), Number::Int(_) | Number::Float(_)) => {
            Number::Float(within_doubles(sum.as_f64() + value.as_f64() * as_f64(times)))
        }
    }
}

/// What is too large for a double stays at the largest: infinity would spoil every sum that it gets into.
fn within_doubles(sum: f64) -> f64 {
    sum.clamp(f64::MIN, f64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "it is multiplied with a double")]
const fn as_f64(times: u64) -> f64 {
    times as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(value: Number, time: i64, arrived_ms: u64) -> Taken {
        let now = Now { mono: Monotonic(arrived_ms * 1_000_000), wall: UnixNanos(1_000_000) };
        Taken { value, times: 1, time: UnixNanos(time), now }
    }

    const WINDOW: u64 = 500_000_000;

    #[test]
    fn sums_of_integers_are_exact_until_64_bits_do_not_hold_them() {
        let large = 1_i64 << 60;
        assert_eq!(plus(Number::Int(large + 1), Number::Int(1), 1), Number::Int(large + 2));
        assert_eq!(
            plus(Number::Int(i64::MAX), Number::Int(1), 1),
            Number::Float(9_223_372_036_854_775_808.0)
        );
        assert_eq!(plus(Number::Int(-5), Number::Int(large), 7), Number::Int(large * 7 - 5));
        assert_eq!(plus(Number::Int(1), Number::Float(0.5), 2), Number::Float(2.0));
        assert_eq!(plus(Number::Float(0.5), Number::Int(2), 1), Number::Float(2.5));
        assert_eq!(plus(Number::Float(f64::MAX), Number::Float(f64::MAX), 9), Number::Float(f64::MAX));
    }

    #[test]
    fn bounds_are_inclusive_above_and_counts_are_one_longer() {
        let kind = Kind::Histogram { boundaries: [1.0, 2.0].into() };
        let first = taken(Number::Int(0), 0, 0);
        let mut value = Value::new(&kind, &first);
        for number in [0.5, 1.0, 1.5, 2.0, 2.5, 7.0] {
            assert!(value.record(&kind, &taken(Number::Float(number), 0, 0), WINDOW));
        }
        let Value::Histogram { counts, stats } = &value else { panic!("{value:?}") };
        let made = buckets(counts, stats);
        assert_eq!((made.count, made.counts, made.sum), (6, vec![2, 2, 2], Some(14.5)));
        assert_eq!((made.min, made.max), (Some(0.5), Some(7.0)));
    }

    #[test]
    fn few_bounds_and_many_have_the_same_buckets() {
        for bounds in [0, 1, FEW_BOUNDS, FEW_BOUNDS + 1, 100] {
            let kind = Kind::Histogram { boundaries: (0..bounds).map(|bound| bound as f64).collect() };
            for bucket in 0..=bounds {
                let value = bucket as f64;
                assert_eq!(bucket_of(&kind, value), bucket, "of {bounds}");
                assert_eq!(bucket_of(&kind, value - 0.5), bucket, "of {bounds}");
            }
        }
    }

    #[test]
    fn a_bucket_may_count_more_than_32_bits_hold() {
        let mut counts = Counts::new(3);
        counts.add(1, 7);
        counts.add(2, u64::from(u32::MAX));
        assert!(matches!(counts, Counts::Narrow(_)));
        counts.add(2, 1);
        counts.add(0, u64::MAX);
        counts.add(0, 1);
        assert_eq!(counts.to_vec(), [u64::MAX, 7, 1 << 32]);
    }

    #[test]
    fn a_histogram_without_bounds_is_count_and_sum_and_a_negative_value_ends_its_sum() {
        let kind = Kind::Histogram { boundaries: [].into() };
        let mut value = Value::new(&kind, &taken(Number::Int(0), 0, 0));
        value.record(&kind, &Taken { times: 3, ..taken(Number::Int(2), 0, 0) }, WINDOW);
        let made = |value: &Value| {
            let Value::Histogram { counts, stats } = value else { panic!("{value:?}") };
            buckets(counts, stats)
        };
        assert_eq!((made(&value).count, made(&value).counts, made(&value).sum), (3, vec![], Some(6.0)));
        value.record(&kind, &taken(Number::Int(-1), 0, 0), WINDOW);
        assert_eq!((made(&value).sum, made(&value).min, made(&value).max), (None, Some(-1.0), Some(2.0)));
        value.reset();
        let empty = Buckets { count: 0, sum: Some(0.0), min: None, max: None, counts: vec![] };
        assert_eq!(made(&value), empty);
    }

    #[test]
    fn a_gauge_keeps_the_latest_by_event_time_but_not_against_a_clock_that_was_set_back() {
        let mut value = Value::new(&Kind::Gauge, &taken(Number::Int(1), 100, 0));
        assert!(!value.record(&Kind::Gauge, &taken(Number::Int(2), 99, 500), WINDOW), "late");
        assert!(value.record(&Kind::Gauge, &taken(Number::Int(3), 100, 500), WINDOW), "of the same instant");
        assert!(
            !value.record(&Kind::Gauge, &taken(Number::Int(4), 50, 1000), WINDOW),
            "the window is inclusive"
        );
        assert!(value.record(&Kind::Gauge, &taken(Number::Int(5), 50, 1001), WINDOW), "set back");
        let Value::Gauge(last) = value else { panic!("{value:?}") };
        assert_eq!((last.value, last.time), (Number::Int(5), UnixNanos(50)));
    }

    #[test]
    fn a_gauges_time_is_not_after_its_arrival() {
        let last = Last::of(&taken(Number::Int(1), 5_000_000, 0));
        assert_eq!(last.time, UnixNanos(1_000_000));
    }
}
