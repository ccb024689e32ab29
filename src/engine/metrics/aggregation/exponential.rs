//! Buckets of base 2 that follow the values: at most [`MAX_BUCKETS`] a sign, at the finest scale that holds them all.
//!
//! At scale s, bucket i holds the values in (b^i, b^(i+1)] with b = 2^(2^-s). Two buckets of a scale are one of the scale
//! below: `index >> 1`, so a value's index at the finest scale says those at all others. It is found without logarithms,
//! and is the same on every machine: the mantissa is squared once for each bit. Powers of two are exact; other values would
//! have to be nearer to a bound than one part in 2^60 to be in the bucket below it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::engine::metrics::point::{BucketRange, ExponentialBuckets};

/// Buckets of one sign, from the specification.
pub(super) const MAX_BUCKETS: usize = 160;
/// Where one value alone is.
pub(super) const MAX_SCALE: i32 = 20;
/// Here every double fits into four buckets a sign.
pub(super) const MIN_SCALE: i32 = -10;

/// An exponential histogram that grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Exponential {
    scale: i32,
    zero_count: u64,
    positive: Range,
    negative: Range,
}

/// Buckets in a row; the first and the last are not empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Range {
    offset: i32,
    counts: VecDeque<u64>,
}

/// The index of a finite value's magnitude at [`MAX_SCALE`]; `None` for 0.
pub(super) fn finest_index(value: f64) -> Option<i32> {
    index_at(value, MAX_SCALE)
}

/// The index of a finite value's magnitude at a scale; `None` for 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "an exponent has 11 bits")]
fn index_at(value: f64, scale: i32) -> Option<i32> {
    let bits = value.to_bits() & !(1 << 63);
    if bits == 0 {
        return None;
    }
    let (exponent, fraction) = match bits >> 52 {
        // A subnormal: its first bit stands for the one that others have before the point.
        0 => {
            let shift = bits.leading_zeros();
            (-1011 - shift as i32, bits << shift << 1)
        }
        biased => (biased as i32 - 1023, bits << 12),
    };
    if scale <= 0 {
        // A power of two is the upper bound of its bucket.
        return Some((exponent - i32::from(fraction == 0)) >> -scale);
    }
    if fraction == 0 {
        return Some((exponent << scale) - 1);
    }
    let mut mantissa = fraction >> 1 | 1 << 63;
    let mut index = exponent;
    for _ in 0..scale {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let is_two = square >> 127 == 1;
        index = index << 1 | i32::from(is_two);
        mantissa = (square >> if is_two { 64 } else { 63 }) as u64;
    }
    Some(index)
}

impl Default for Exponential {
    fn default() -> Self {
        Self { scale: MAX_SCALE, zero_count: 0, positive: Range::default(), negative: Range::default() }
    }
}

impl Exponential {
    /// How many times coarser than the finest scale it is, as a number of bits.
    pub(super) fn shift(&self) -> u32 {
        (MAX_SCALE - self.scale).unsigned_abs()
    }

    /// Takes a finite value in, `times` times.
    pub(super) fn record(&mut self, value: f64, times: u64) {
        let Some(index) = index_at(value, self.scale) else {
            self.zero_count = self.zero_count.saturating_add(times);
            return;
        };
        let range = if value < 0.0 { &mut self.negative } else { &mut self.positive };
        let shift = range.shift_for(index);
        let index = if shift == 0 {
            index
        } else {
            self.coarsen(shift);
            index >> shift
        };
        let range = if value < 0.0 { &mut self.negative } else { &mut self.positive };
        range.add(index, times);
    }

    /// Goes `shift` scales down.
    fn coarsen(&mut self, shift: u32) {
        self.scale -= i32::try_from(shift).expect("there are some thirty scales");
        self.positive.coarsen(shift);
        self.negative.coarsen(shift);
    }

    /// All values.
    pub(super) fn count(&self) -> u64 {
        let counts = self.positive.counts.iter().chain(&self.negative.counts);
        counts.fold(self.zero_count, |sum, count| sum.saturating_add(*count))
    }

    /// The buckets as they leave the engine; the caller adds the rest.
    pub(super) fn buckets(&self) -> ExponentialBuckets {
        ExponentialBuckets {
            count: self.count(),
            sum: None,
            min: None,
            max: None,
            scale: self.scale,
            zero_count: self.zero_count,
            positive: self.positive.buckets(),
            negative: self.negative.buckets(),
        }
    }

    /// Whether it can have come out of [`Exponential::record`]: for what was read from a disk.
    pub(super) fn is_sound(&self) -> bool {
        let is_sound = |range: &Range| {
            let len = i32::try_from(range.counts.len()).unwrap_or(i32::MAX);
            range.counts.len() <= MAX_BUCKETS && range.offset.checked_add(len).is_some()
        };
        (MIN_SCALE..=MAX_SCALE).contains(&self.scale) && is_sound(&self.positive) && is_sound(&self.negative)
    }

    /// What it takes in memory beside itself.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        (self.positive.counts.capacity() + self.negative.counts.capacity()) * size_of::<u64>()
    }
}

impl Range {
    fn last(&self) -> i64 {
        i64::from(self.offset) + self.counts.len() as i64 - 1
    }

    /// How many scales down this index fits in with the others.
    fn shift_for(&self, index: i32) -> u32 {
        if self.counts.is_empty() {
            return 0;
        }
        let (mut low, mut high) = (i64::from(index.min(self.offset)), i64::from(index).max(self.last()));
        let mut shift = 0;
        while high - low >= MAX_BUCKETS as i64 {
            (low, high, shift) = (low >> 1, high >> 1, shift + 1);
        }
        shift
    }

    fn coarsen(&mut self, shift: u32) {
        let fine = std::mem::take(self);
        for (index, count) in (fine.offset..).zip(fine.counts) {
            if count > 0 {
                self.add(index >> shift, count);
            }
        }
    }

    /// Counts an index that fits in.
    fn add(&mut self, index: i32, times: u64) {
        if self.counts.is_empty() {
            self.offset = index;
        }
        while index < self.offset {
            self.counts.push_front(0);
            self.offset -= 1;
        }
        let at = (index - self.offset).unsigned_abs() as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(times);
    }

    fn buckets(&self) -> BucketRange {
        BucketRange { offset: self.offset, counts: self.counts.iter().copied().collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Upper bound of a bucket, by the definition.
    fn bound(index: i32, scale: i32) -> f64 {
        (f64::from(index + 1) * (-f64::from(scale)).exp2()).exp2()
    }

    #[test]
    fn powers_of_two_are_upper_bounds_at_every_scale() {
        for scale in MIN_SCALE..=MAX_SCALE {
            for exponent in -1074..=1023 {
                let value = if exponent < -1022 {
                    f64::from_bits(1 << (exponent + 1074))
                } else {
                    f64::from_bits(u64::try_from(exponent + 1023).unwrap() << 52)
                };
                let expected = if scale > 0 { (exponent << scale) - 1 } else { (exponent - 1) >> -scale };
                assert_eq!(index_at(value, scale), Some(expected), "2^{exponent} at {scale}");
                assert_eq!(index_at(-value, scale), Some(expected));
            }
        }
        assert_eq!((index_at(0.0, 3), index_at(-0.0, 3)), (None, None));
    }

    #[test]
    fn the_neighbours_of_a_power_of_two_are_on_its_two_sides() {
        for scale in 0..=MAX_SCALE {
            for exponent in [-1022, -300, -1, 0, 1, 10, 1023] {
                let bits = u64::try_from(exponent + 1023).unwrap() << 52;
                let index = index_at(f64::from_bits(bits), scale).unwrap();
                assert_eq!(index_at(f64::from_bits(bits + 1), scale), Some(index + 1));
                assert_eq!(index_at(f64::from_bits(bits - 1), scale), Some(index), "2^{exponent} at {scale}");
            }
        }
    }

    #[test]
    fn subnormal_values_have_their_own_buckets() {
        assert_eq!(index_at(f64::from_bits(1), 0), Some(-1075));
        assert_eq!(index_at(f64::from_bits(3), 0), Some(-1073), "3 * 2^-1074 is in (2^-1073, 2^-1072]");
        assert_eq!(index_at(f64::from_bits(3), 1), Some(-2145), "above 2^-1072.5");
        assert_eq!(index_at(f64::from_bits((1 << 52) - 1), 0), Some(-1023));
    }

    #[test]
    fn one_value_is_at_the_finest_scale() {
        let mut histogram = Exponential::default();
        histogram.record(1e300, 1);
        let buckets = histogram.buckets();
        assert_eq!((buckets.scale, buckets.count, buckets.positive.counts), (20, 1, vec![1]));
    }

    #[test]
    fn the_widest_range_is_at_the_coarsest_scale_that_is_needed() {
        let mut histogram = Exponential::default();
        for value in [f64::from_bits(1), f64::MAX, -f64::from_bits(1), -f64::MAX, 0.0] {
            histogram.record(value, 2);
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets.count, buckets.zero_count, buckets.scale), (10, 2, -4));
        assert_eq!(buckets.positive, buckets.negative);
        assert_eq!(buckets.positive.counts.iter().sum::<u64>(), 4);
        assert!(buckets.positive.counts.len() <= MAX_BUCKETS);
    }

    proptest! {
        /// A value lies between the bounds of its bucket, by the definition in floating point, wherever that is far
        /// enough from the bound to be sure.
        #[test]
        fn a_value_lies_in_its_bucket(mantissa in 1.0..2.0_f64, exponent in -300..300_i32, scale in MIN_SCALE..=MAX_SCALE) {
            let value = mantissa * f64::from(exponent).exp2();
            let index = index_at(value, scale).unwrap();
            let slack = 1e-12;
            prop_assert!(value <= bound(index, scale) * (1.0 + slack));
            prop_assert!(value > bound(index - 1, scale) * (1.0 - slack));
        }

        /// An index at a scale is what shifting the finest says.
        #[test]
        fn scales_agree(bits in 1..(2047_u64 << 52), scale in MIN_SCALE..=MAX_SCALE) {
            let value = f64::from_bits(bits);
            let shift = u32::try_from(MAX_SCALE - scale).unwrap();
            prop_assert_eq!(index_at(value, scale), finest_index(value).map(|index| index >> shift));
        }

        /// Whatever comes in whatever order: each value is counted in its bucket at the scale that is reached, and that is
        /// the finest at which they fit.
        #[test]
        fn buckets_follow_the_values(values in prop::collection::vec((any::<bool>(), 1..(2047_u64 << 52), 1..4_u64), 1..60)) {
            let mut histogram = Exponential::default();
            let values: Vec<(f64, u64)> = values
                .into_iter()
                .map(|(negative, bits, times)| {
                    let value = f64::from_bits(bits);
                    (if negative { -value } else { value }, times)
                })
                .collect();
            values.iter().for_each(|(value, times)| histogram.record(*value, *times));
            prop_assert!(histogram.is_sound());
            let buckets = histogram.buckets();
            let spread = |scale: i32, sign: f64| {
                let indexes = || {
                    values.iter().filter(|(value, _)| value * sign > 0.0).filter_map(|(value, _)| index_at(*value, scale))
                };
                indexes().max().zip(indexes().min()).map_or(0, |(max, min)| max - min)
            };
            let fits = |scale| [1.0, -1.0].iter().all(|sign| spread(scale, *sign) < 160);
            prop_assert!(fits(buckets.scale));
            prop_assert!(buckets.scale == MAX_SCALE || !fits(buckets.scale + 1));
            for (range, sign) in [(&buckets.positive, 1.0), (&buckets.negative, -1.0)] {
                for (index, count) in (range.offset..).zip(&range.counts) {
                    let expected: u64 = values
                        .iter()
                        .filter(|(value, _)| value * sign > 0.0 && index_at(*value, buckets.scale) == Some(index))
                        .map(|(_, times)| times)
                        .sum();
                    prop_assert_eq!(*count, expected);
                }
            }
            prop_assert_eq!(buckets.count, values.iter().map(|(_, times)| times).sum::<u64>());
        }
    }
}
