//! A metric's points for people: a line each.
//!
//! Buckets are shown by their upper bounds, and only those that something is in.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint,
    Metric, NumberDataPoint, exemplar, metric::Data, number_data_point,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{attributes, double, hex, timestamp, written};

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    name: &'a str,
    worker: &'a str,
    kind: &'static str,
    /// Of a difference: since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'a str,
    #[serde(flatten)]
    value: Shown,
    attributes: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exemplars: Vec<Value>,
}

/// What a point says.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Number { value: Value },
    Distribution(Distribution),
    Ended { ended: bool },
}

#[derive(Serialize)]
struct Distribution {
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sum: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<(Value, u64)>,
}

/// What all kinds of points have.
struct Common<'p> {
    time: u64,
    start: u64,
    flags: u32,
    attributes: &'p [KeyValue],
    exemplars: &'p [Exemplar],
}

pub(super) fn lines(metric: &Metric, worker: &str, add: &mut impl FnMut(String)) {
    let mut line = |kind, temporality: i32, common: Common<'_>, value: Shown| {
        let is_delta = temporality == AggregationTemporality::Delta as i32;
        let has_ended = common.flags & DataPointFlags::NoRecordedValueMask as u32 != 0;
        add(written(&Line {
            time: timestamp(common.time),
            name: &metric.name,
            worker,
            kind,
            since: is_delta.then(|| timestamp(common.start)),
            unit: &metric.unit,
            value: if has_ended { Shown::Ended { ended: true } } else { value },
            attributes: attributes(common.attributes),
            exemplars: common.exemplars.iter().map(shown_exemplar).collect(),
        }));
    };
    match &metric.data {
        Some(Data::Gauge(gauge)) => {
            gauge.data_points.iter().for_each(|point| line("gauge", 0, number(point), value(point)));
        }
        Some(Data::Sum(sum)) => {
            let kind = if sum.is_monotonic { "counter" } else { "up_down_counter" };
            for point in &sum.data_points {
                line(kind, sum.aggregation_temporality, number(point), value(point));
            }
        }
        Some(Data::Histogram(histogram)) => {
            for point in &histogram.data_points {
                line("histogram", histogram.aggregation_temporality, explicit(point), explicit_value(point));
            }
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            for point in &histogram.data_points {
                let (common, value) = (exponential(point), exponential_value(point));
                line("exponential_histogram", histogram.aggregation_temporality, common, value);
            }
        }
        // The bridge makes no summaries.
        Some(Data::Summary(_)) | None => {}
    }
}

fn number(point: &NumberDataPoint) -> Common<'_> {
    Common {
        time: point.time_unix_nano,
        start: point.start_time_unix_nano,
        flags: point.flags,
        attributes: &point.attributes,
        exemplars: &point.exemplars,
    }
}

fn explicit(point: &HistogramDataPoint) -> Common<'_> {
    Common {
        time: point.time_unix_nano,
        start: point.start_time_unix_nano,
        flags: point.flags,
        attributes: &point.attributes,
        exemplars: &point.exemplars,
    }
}

fn exponential(point: &ExponentialHistogramDataPoint) -> Common<'_> {
    Common {
        time: point.time_unix_nano,
        start: point.start_time_unix_nano,
        flags: point.flags,
        attributes: &point.attributes,
        exemplars: &point.exemplars,
    }
}

fn value(point: &NumberDataPoint) -> Shown {
    let value = match point.value {
        Some(number_data_point::Value::AsInt(int)) => int.into(),
        Some(number_data_point::Value::AsDouble(float)) => double(float),
        None => Value::Null,
    };
    Shown::Number { value }
}

fn explicit_value(point: &HistogramDataPoint) -> Shown {
    let bounds = point.explicit_bounds.iter().map(|bound| double(*bound)).chain(["+Inf".into()]);
    let buckets = bounds.zip(point.bucket_counts.iter().copied());
    Shown::Distribution(Distribution {
        count: point.count,
        sum: point.sum.map(double),
        min: point.min.map(double),
        max: point.max.map(double),
        buckets: buckets.filter(|(_, count)| *count > 0).collect(),
    })
}

/// From the lowest to the highest: below zero the bounds go down with the index.
fn exponential_value(point: &ExponentialHistogramDataPoint) -> Shown {
    let (below, above) = (in_rows(point.negative.as_ref()), in_rows(point.positive.as_ref()));
    let bound = |index: i64| (index as f64 * f64::from(-point.scale).exp2()).exp2();
    let below = below.into_iter().rev().map(|(index, count)| (double(-bound(index)), count));
    let zero = (point.zero_count > 0).then(|| (double(0.0), point.zero_count));
    let above = above.into_iter().map(|(index, count)| (double(bound(index + 1)), count));
    Shown::Distribution(Distribution {
        count: point.count,
        sum: point.sum.map(double),
        min: point.min.map(double),
        max: point.max.map(double),
        buckets: below.chain(zero).chain(above).collect(),
    })
}

/// The indexes and counts of those that something is in.
fn in_rows(buckets: Option<&Buckets>) -> Vec<(i64, u64)> {
    let Some(buckets) = buckets else { return Vec::new() };
    let rows = (i64::from(buckets.offset)..).zip(buckets.bucket_counts.iter().copied());
    rows.filter(|(_, count)| *count > 0).collect()
}

fn shown_exemplar(exemplar: &Exemplar) -> Value {
    let value = match exemplar.value {
        Some(exemplar::Value::AsInt(int)) => int.into(),
        Some(exemplar::Value::AsDouble(float)) => double(float),
        None => Value::Null,
    };
    let mut shown = Map::from_iter([
        ("time".to_owned(), timestamp(exemplar.time_unix_nano).into()),
        ("value".to_owned(), value),
    ]);
    for (name, id) in [("trace_id", &exemplar.trace_id), ("span_id", &exemplar.span_id)] {
        if !id.is_empty() {
            shown.insert(name.to_owned(), hex(id).into());
        }
    }
    shown.into()
}
