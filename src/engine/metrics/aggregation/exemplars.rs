//! Which measurements stand for the others of a series.
//!
//! | kind | kept |
//! |---|---|
//! | fixed buckets | the last offered of each bucket |
//! | buckets of base 2 | the last offered of each bucket, at most [`MAX_EXPONENTIAL`]; the longest kept goes first |
//! | sums | the last offered |
//! | gauges | none: Prometheus has no place for them |
//!
//! A collection takes them all, of cumulative series as well: Prometheus refuses one that it has had, the next ones are
//! there by the next collection, and what is not kept twice costs no memory between.

use serde::{Deserialize, Serialize};

use crate::engine::metrics::aggregation::exponential::finest_index;
use crate::engine::metrics::aggregation::value::bucket_of;
use crate::engine::metrics::instrument::{Kind, Number};
use crate::engine::metrics::point::Exemplar;
use crate::engine::span::{SpanId, TraceId};
use crate::time::UnixNanos;

/// Exemplars of a histogram with buckets of base 2, from the specification.
const MAX_EXPONENTIAL: usize = 20;

/// Exemplars of one series, in the order in which they were offered; nothing until the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[expect(clippy::box_collection, reason = "most series have none, and are to be small")]
pub(super) struct Exemplars(Option<Box<Vec<Kept>>>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    place: Place,
    time: UnixNanos,
    value: Number,
    span: Option<(TraceId, SpanId)>,
}

/// A bucket: of fixed ones their number, of base 2 the index at the finest scale, with the value's sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    sign: i8,
    index: i32,
}

impl Place {
    fn of(kind: &Kind, value: Number) -> Self {
        let value = value.as_f64();
        match kind {
            Kind::Counter | Kind::UpDownCounter | Kind::Gauge => Self { sign: 0, index: 0 },
            Kind::Histogram { .. } => {
                let index = i32::try_from(bucket_of(kind, value)).unwrap_or(i32::MAX);
                Self { sign: 0, index }
            }
            Kind::ExponentialHistogram => match finest_index(value) {
                Some(index) => Self { sign: if value < 0.0 { -1 } else { 1 }, index },
                None => Self { sign: 0, index: 0 },
            },
        }
    }

    fn is_one_with(self, other: Self, shift: u32) -> bool {
        self.sign == other.sign && self.index >> shift == other.index >> shift
    }
}

impl Exemplars {
    /// Takes one; `false` where there is no place for any. `shift` says how coarse the buckets are.
    pub(super) fn offer(
        &mut self,
        kind: &Kind,
        shift: u32,
        value: Number,
        time: UnixNanos,
        span: Option<(TraceId, SpanId)>,
    ) -> bool {
        let max = match kind {
            Kind::Gauge => return false,
            Kind::Counter | Kind::UpDownCounter => 1,
            Kind::Histogram { boundaries } => boundaries.len() + 1,
            Kind::ExponentialHistogram => MAX_EXPONENTIAL,
        };
        let place = Place::of(kind, value);
        let kept = self.0.get_or_insert_default();
        if let Some(at) = kept.iter().position(|kept| kept.place.is_one_with(place, shift)) {
            kept.remove(at);
        } else if kept.len() >= max {
            kept.remove(0);
        }
        kept.push(Kept { place, time, value, span });
        true
    }

    /// Takes all, by value and one a bucket, with times from `since` to `time`: an exemplar may be of a measurement that
    /// arrived before its span was known, or on a worker's clock that is not quite the bridge's; and one that is older
    /// than the last of its bucket is refused.
    pub(super) fn take(&mut self, shift: u32, since: UnixNanos, time: UnixNanos) -> Vec<Exemplar> {
        let Some(mut kept) = self.0.take() else { return Vec::new() };
        // Buckets may have become one since; the last offered stands for them.
        kept.reverse();
        let mut places: Vec<Place> = Vec::with_capacity(kept.len());
        kept.retain(|kept| {
            let is_new = !places.iter().any(|place| place.is_one_with(kept.place, shift));
            places.push(kept.place);
            is_new
        });
        kept.sort_by(|a, b| a.value.as_f64().total_cmp(&b.value.as_f64()));
        let earliest = since.min(time);
        let exemplar = |kept: Kept| Exemplar {
            time: kept.time.clamp(earliest, time),
            value: kept.value,
            span: kept.span,
        };
        kept.into_iter().map(exemplar).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether they can have been offered to a series of this kind: for what was read from a disk.
    pub(super) fn is_of(&self, kind: &Kind) -> bool {
        self.0.iter().flat_map(|kept| kept.iter()).all(|kept| kept.place == Place::of(kind, kept.value))
    }

    /// What they take in memory beside themselves.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |kept| size_of::<Vec<Kept>>() + kept.capacity() * size_of::<Kept>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(kind: &Kind, shift: u32, values: &[f64]) -> Vec<(i64, f64)> {
        let mut exemplars = Exemplars::default();
        for (time, value) in (1..).zip(values) {
            exemplars.offer(kind, shift, Number::Float(*value), UnixNanos(time), None);
        }
        let taken = exemplars.take(shift, UnixNanos(0), UnixNanos(1000));
        assert!(exemplars.is_empty(), "they are delivered once");
        taken.iter().map(|exemplar| (exemplar.time.0, exemplar.value.as_f64())).collect()
    }

    #[test]
    fn fixed_buckets_keep_the_last_of_each_in_the_order_of_their_values() {
        let kind = Kind::Histogram { boundaries: [1.0, 2.0].into() };
        assert_eq!(offered(&kind, 0, &[5.0, 0.5, 1.0, 1.5, 3.0]), [(3, 1.0), (4, 1.5), (5, 3.0)]);
    }

    #[test]
    fn sums_keep_one_and_gauges_none() {
        assert_eq!(offered(&Kind::Counter, 0, &[5.0, 7.0, 6.0]), [(3, 6.0)]);
        assert_eq!(offered(&Kind::UpDownCounter, 0, &[-5.0]), [(1, -5.0)]);
        assert_eq!(offered(&Kind::Gauge, 0, &[5.0]), []);
    }

    #[test]
    fn buckets_of_base_2_keep_at_most_twenty_and_one_each() {
        let kind = Kind::ExponentialHistogram;
        let values: Vec<f64> = (1..=30).map(f64::from).collect();
        let kept = offered(&kind, 0, &values);
        assert_eq!(kept.len(), 20);
        assert_eq!(kept[0], (11, 11.0), "the longest kept went first");
        assert_eq!(
            offered(&kind, 20, &[3.0, 4.0, -3.0, 0.0, 5.0]),
            [(3, -3.0), (4, 0.0), (2, 4.0), (5, 5.0)]
        );
    }

    #[test]
    fn buckets_that_have_become_one_show_the_last() {
        let mut exemplars = Exemplars::default();
        for (time, value) in [(1, 3.0), (2, 3.5), (3, 9.0)] {
            exemplars.offer(&Kind::ExponentialHistogram, 0, Number::Float(value), UnixNanos(time), None);
        }
        let taken = exemplars.take(20, UnixNanos(0), UnixNanos(9));
        let values: Vec<f64> = taken.iter().map(|exemplar| exemplar.value.as_f64()).collect();
        assert_eq!(values, [3.5, 9.0]);
    }

    #[test]
    fn times_are_moved_into_the_points_interval() {
        let mut exemplars = Exemplars::default();
        let kind = Kind::Histogram { boundaries: [1.0, 2.0].into() };
        for (time, value) in [(5, 0.5), (15, 1.5), (25, 2.5)] {
            exemplars.offer(&kind, 0, Number::Float(value), UnixNanos(time), None);
        }
        let taken = exemplars.take(0, UnixNanos(10), UnixNanos(20));
        let times: Vec<i64> = taken.iter().map(|exemplar| exemplar.time.0).collect();
        assert_eq!(times, [10, 15, 20]);
    }
}
