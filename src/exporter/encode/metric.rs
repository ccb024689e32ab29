//! A metric as OTLP protobuf, with its points and their exemplars.
//!
//! Field numbers: `opentelemetry/proto/metrics/v1/metrics.proto`, version 1. Two things here are not in the order of their
//! numbers, because prost puts a `oneof` where its first member would stand: the value of a point and of an exemplar.
//!
//! A point without a recorded value has the flag that says so, and neither value nor buckets.

use super::{
    FIXED64, ITEM_LENGTH_BYTES, LENGTH, VARINT, key, varint_len, write_attributes, write_bytes, write_nested,
    write_text, write_time, write_varint,
};
use crate::engine::metrics::instrument::{Kind, Number};
use crate::engine::metrics::point::{
    BucketRange, Buckets, Exemplar, ExponentialBuckets, Metric, Point, Points,
};
use crate::engine::metrics::settings::Temporality;

/// Bytes that the length of most metrics takes, and of what holds their points.
const METRIC_LENGTH_BYTES: usize = 2;
/// Bytes that the length of most points with buckets takes.
const BUCKETS_LENGTH_BYTES: usize = 2;

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`.
const NO_RECORDED_VALUE: u8 = 1;

/// Appends `metric` as one element of `ScopeMetrics.metrics`, key and length included.
pub fn write_metric(out: &mut Vec<u8>, metric: &Metric) {
    write_nested::<METRIC_LENGTH_BYTES>(out, key(2, LENGTH), |out| write_metric_fields(out, metric));
}

fn write_metric_fields(out: &mut Vec<u8>, metric: &Metric) {
    let instrument = &*metric.instrument;
    write_text(out, key(1, LENGTH), &instrument.name);
    write_text(out, key(2, LENGTH), &instrument.description);
    write_text(out, key(3, LENGTH), &instrument.unit);
    match &metric.points {
        Points::Gauge(points) => {
            write_points(out, key(5, LENGTH), points, write_gauge_point, |_| {});
        }
        Points::Sum(points) => {
            let is_monotonic = matches!(instrument.kind, Kind::Counter);
            let temporality = if is_monotonic { metric.temporality } else { Temporality::Cumulative };
            write_points(out, key(7, LENGTH), points, write_sum_point, |out| {
                write_temporality(out, temporality);
                if is_monotonic {
                    out.extend_from_slice(&[key(3, VARINT), 1]);
                }
            });
        }
        Points::Histogram(points) => {
            let bounds: &[f64] = match &instrument.kind {
                Kind::Histogram { boundaries } => boundaries,
                Kind::Counter | Kind::UpDownCounter | Kind::Gauge | Kind::ExponentialHistogram => &[],
            };
            let write = |out: &mut Vec<u8>, point: &Point<Buckets>| write_buckets_point(out, point, bounds);
            write_points(out, key(9, LENGTH), points, write, |out| {
                write_temporality(out, metric.temporality);
            });
        }
        Points::Exponential(points) => {
            write_points(out, key(10, LENGTH), points, write_exponential_point, |out| {
                write_temporality(out, metric.temporality);
            });
        }
    }
}

/// A `Gauge`, `Sum` or histogram: the points are field 1 of each, then comes what holds for all of them.
fn write_points<V>(
    out: &mut Vec<u8>,
    field: u8,
    points: &[Point<V>],
    write: impl Fn(&mut Vec<u8>, &Point<V>),
    rest: impl FnOnce(&mut Vec<u8>),
) {
    write_nested::<METRIC_LENGTH_BYTES>(out, field, |out| {
        points.iter().for_each(|point| write(out, point));
        rest(out);
    });
}

/// Field 2 of all that have one.
fn write_temporality(out: &mut Vec<u8>, temporality: Temporality) {
    let number = match temporality {
        Temporality::Delta => 1,
        Temporality::Cumulative => 2,
    };
    out.extend_from_slice(&[key(2, VARINT), number]);
}

// === Points ===

/// A `NumberDataPoint` that has no start.
fn write_gauge_point(out: &mut Vec<u8>, point: &Point<Number>) {
    write_nested::<ITEM_LENGTH_BYTES>(out, key(1, LENGTH), |out| write_number_fields(out, point));
}

fn write_sum_point(out: &mut Vec<u8>, point: &Point<Number>) {
    write_nested::<ITEM_LENGTH_BYTES>(out, key(1, LENGTH), |out| {
        write_time(out, key(2, FIXED64), point.start);
        write_number_fields(out, point);
    });
}

fn write_number_fields(out: &mut Vec<u8>, point: &Point<Number>) {
    write_time(out, key(3, FIXED64), point.time);
    if let Some(value) = point.value {
        write_number(out, key(4, FIXED64), value);
    }
    write_exemplars(out, key(5, LENGTH), &point.exemplars);
    write_attributes(out, key(7, LENGTH), &point.attributes);
    write_flags(out, key(8, VARINT), point);
}

/// A `HistogramDataPoint`.
fn write_buckets_point(out: &mut Vec<u8>, point: &Point<Buckets>, bounds: &[f64]) {
    write_nested::<BUCKETS_LENGTH_BYTES>(out, key(1, LENGTH), |out| {
        write_time(out, key(2, FIXED64), point.start);
        write_time(out, key(3, FIXED64), point.time);
        if let Some(buckets) = &point.value {
            write_fixed(out, key(4, FIXED64), buckets.count);
            write_double(out, key(5, FIXED64), buckets.sum);
            write_packed(out, key(6, LENGTH), buckets.counts.iter().map(|count| count.to_le_bytes()));
            write_packed(out, key(7, LENGTH), bounds.iter().map(|bound| bound.to_le_bytes()));
        }
        write_exemplars(out, key(8, LENGTH), &point.exemplars);
        write_attributes(out, key(9, LENGTH), &point.attributes);
        write_flags(out, key(10, VARINT), point);
        if let Some(buckets) = &point.value {
            write_double(out, key(11, FIXED64), buckets.min);
            write_double(out, key(12, FIXED64), buckets.max);
        }
    });
}

/// An `ExponentialHistogramDataPoint`.
fn write_exponential_point(out: &mut Vec<u8>, point: &Point<ExponentialBuckets>) {
    write_nested::<BUCKETS_LENGTH_BYTES>(out, key(1, LENGTH), |out| {
        write_attributes(out, key(1, LENGTH), &point.attributes);
        write_time(out, key(2, FIXED64), point.start);
        write_time(out, key(3, FIXED64), point.time);
        if let Some(buckets) = &point.value {
            write_fixed(out, key(4, FIXED64), buckets.count);
            write_double(out, key(5, FIXED64), buckets.sum);
            write_signed(out, key(6, VARINT), buckets.scale);
            write_fixed(out, key(7, FIXED64), buckets.zero_count);
            write_range(out, key(8, LENGTH), &buckets.positive);
            write_range(out, key(9, LENGTH), &buckets.negative);
        }
        write_flags(out, key(10, VARINT), point);
        write_exemplars(out, key(11, LENGTH), &point.exemplars);
        if let Some(buckets) = &point.value {
            write_double(out, key(12, FIXED64), buckets.min);
            write_double(out, key(13, FIXED64), buckets.max);
        }
    });
}

/// A `Buckets` message. None where there are none: its offset says nothing then.
fn write_range(out: &mut Vec<u8>, field: u8, range: &BucketRange) {
    if range.counts.is_empty() {
        return;
    }
    write_nested::<ITEM_LENGTH_BYTES>(out, field, |out| {
        write_signed(out, key(1, VARINT), range.offset);
        out.push(key(2, LENGTH));
        write_varint(out, range.counts.iter().map(|count| varint_len(*count) as u64).sum());
        range.counts.iter().for_each(|count| write_varint(out, *count));
    });
}

fn write_exemplars(out: &mut Vec<u8>, field: u8, exemplars: &[Exemplar]) {
    for exemplar in exemplars {
        write_nested::<ITEM_LENGTH_BYTES>(out, field, |out| {
            write_time(out, key(2, FIXED64), exemplar.time);
            write_number(out, key(3, FIXED64), exemplar.value);
            if let Some((trace_id, span_id)) = &exemplar.span {
                write_bytes(out, key(4, LENGTH), &span_id.0);
                write_bytes(out, key(5, LENGTH), &trace_id.0);
            }
        });
    }
}

fn write_flags<V>(out: &mut Vec<u8>, field: u8, point: &Point<V>) {
    if point.value.is_none() {
        out.extend_from_slice(&[field, NO_RECORDED_VALUE]);
    }
}

// === Numbers ===

/// Of a point or an exemplar: a member of a oneof, written even where it is zero. Integers are field 6 of both.
fn write_number(out: &mut Vec<u8>, double_field: u8, value: Number) {
    let (field, value) = match value {
        Number::Int(int) => (key(6, FIXED64), int.to_le_bytes()),
        Number::Float(float) => (double_field, float.to_le_bytes()),
    };
    write_eight(out, field, value);
}

/// An optional double, written even where it is zero.
fn write_double(out: &mut Vec<u8>, field: u8, value: Option<f64>) {
    if let Some(value) = value {
        write_eight(out, field, value.to_le_bytes());
    }
}

fn write_fixed(out: &mut Vec<u8>, field: u8, value: u64) {
    if value > 0 {
        write_eight(out, field, value.to_le_bytes());
    }
}

fn write_eight(out: &mut Vec<u8>, field: u8, value: [u8; 8]) {
    let mut bytes = [field; 9];
    bytes[1..].copy_from_slice(&value);
    out.extend_from_slice(&bytes);
}

/// A `sint32`: small numbers of either sign take few bytes.
fn write_signed(out: &mut Vec<u8>, field: u8, value: i32) {
    if value != 0 {
        out.push(field);
        write_varint(out, u64::from((value << 1 ^ value >> 31).cast_unsigned()));
    }
}

/// Numbers of eight bytes in a row.
fn write_packed(out: &mut Vec<u8>, field: u8, values: impl ExactSizeIterator<Item = [u8; 8]>) {
    if values.len() > 0 {
        out.push(field);
        write_varint(out, 8 * values.len() as u64);
        out.reserve(8 * values.len());
        values.for_each(|value| out.extend_from_slice(&value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::metrics::v1::{ScopeMetrics, metric::Data, number_data_point::Value};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::exporter::testing::{any_metric, buckets, metric, plain_metric};

    fn written(metric: &Metric) -> Vec<u8> {
        let mut out = Vec::new();
        write_metric(&mut out, metric);
        out
    }

    fn data(metric: &Metric) -> Data {
        let scope = ScopeMetrics::decode(written(metric).as_slice()).unwrap();
        scope.metrics.into_iter().next().unwrap().data.unwrap()
    }

    fn by_prost(metric: &Metric) -> Vec<u8> {
        ScopeMetrics { metrics: vec![plain_metric(metric)], ..ScopeMetrics::default() }.encode_to_vec()
    }

    proptest! {
        /// The writer's bytes are prost's bytes for the same metric, and so decode to it.
        #[test]
        fn writes_what_prost_writes(metric in any_metric()) {
            let mut out = vec![7; 3];
            write_metric(&mut out, &metric);
            prop_assert_eq!(&out[..3], &[7; 3]);
            prop_assert_eq!(&out[3..], &by_prost(&metric)[..]);
        }
    }

    #[test]
    fn lengths_around_each_varint_boundary_are_right() {
        for points in [1, 2, 3, 5, 40, 60, 500, 600, 70_000] {
            let metric = metric("a", points);
            assert!(written(&metric) == by_prost(&metric), "{points} points");
        }
    }

    #[test]
    fn an_up_down_counter_is_cumulative_and_not_monotonic() {
        let mut metric = metric("a", 1);
        metric.temporality = Temporality::Delta;
        let Data::Sum(sum) = data(&metric) else { panic!() };
        assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (1, true));
        let mut instrument = (*metric.instrument).clone();
        instrument.kind = Kind::UpDownCounter;
        metric.instrument = Arc::new(instrument);
        let Data::Sum(sum) = data(&metric) else { panic!() };
        assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (2, false));
    }

    #[test]
    fn a_gauge_has_no_start() {
        let mut metric = metric("a", 1);
        let Points::Sum(points) = &metric.points else { panic!() };
        metric.points = Points::Gauge(points.clone());
        let Data::Gauge(gauge) = data(&metric) else { panic!() };
        let point = &gauge.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (0, 2_000));
        assert_eq!(point.value, Some(Value::AsInt(0)));
    }

    #[test]
    fn an_ended_series_has_the_flag_and_nothing_that_counts() {
        let mut metric = buckets("a", &[1.0, 2.0]);
        let Points::Histogram(points) = &mut metric.points else { panic!() };
        points[0].value = None;
        let Data::Histogram(histogram) = data(&metric) else { panic!() };
        let point = &histogram.data_points[0];
        assert_eq!((point.flags, point.count, point.sum, point.min, point.max), (1, 0, None, None, None));
        assert!(point.bucket_counts.is_empty() && point.explicit_bounds.is_empty());
    }
}
