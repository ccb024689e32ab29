//! Metrics.

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{self as otlp, exemplar, number_data_point};

use super::*;
use crate::engine::metrics::instrument::{Instrument, Kind, Number};
use crate::engine::metrics::point::{
    BucketRange, Buckets, Exemplar, ExponentialBuckets, Metric, Point, Points,
};
use crate::engine::metrics::settings::Temporality;

/// A counter of worker 1 with so many points.
pub(crate) fn metric(name: &str, points: i64) -> Metric {
    metric_of(&source(1), name, points)
}

/// A counter of `source` with so many points.
pub(crate) fn metric_of(source: &Arc<Source>, name: &str, points: i64) -> Metric {
    let points = (0..points).map(|number| {
        let mut attributes = Attributes::default();
        attributes.set("snakepit.tool", AttributeValue::Text(&format!("tool_{number}")));
        point(Number::Int(number), attributes)
    });
    Metric {
        source: Arc::clone(source),
        instrument: instrument(name, Kind::Counter),
        temporality: Temporality::Cumulative,
        points: Points::Sum(points.collect()),
    }
}

/// A histogram of worker 1 with one point, which has an exemplar, and the smallest number that fits into each bucket.
pub(crate) fn buckets(name: &str, bounds: &[f64]) -> Metric {
    let value = Buckets {
        count: bounds.len() as u64 + 1,
        sum: Some(7.5),
        min: Some(0.5),
        max: Some(5.0),
        counts: vec![1; bounds.len() + 1],
    };
    let mut point = point(value, Attributes::default());
    point.exemplars.push(Exemplar {
        time: UnixNanos(1_500),
        value: Number::Float(0.5),
        span: Some((TraceId([0xa1; 16]), SpanId([0xb2; 8]))),
    });
    Metric {
        source: source(1),
        instrument: instrument(name, Kind::Histogram { boundaries: bounds.into() }),
        temporality: Temporality::Cumulative,
        points: Points::Histogram(vec![point]),
    }
}

fn instrument(name: &str, kind: Kind) -> Arc<Instrument> {
    Arc::new(Instrument { name: name.into(), unit: "s".into(), description: "for tests".into(), kind })
}

fn point<V>(value: V, attributes: Attributes) -> Point<V> {
    Point {
        attributes: Arc::new(attributes),
        start: UnixNanos(1_000),
        time: UnixNanos(2_000),
        value: Some(value),
        exemplars: Vec::new(),
    }
}

/// Any metric that the engine could make, and some that it could not.
pub(crate) fn any_metric() -> impl Strategy<Value = Metric> {
    let temporality = prop_oneof![Just(Temporality::Cumulative), Just(Temporality::Delta)];
    let boundaries = vec(any::<f64>(), 0..20);
    let kind_and_points = prop_oneof![
        any_points(any_number()).prop_map(|points| (Kind::Gauge, Points::Gauge(points))),
        any_points(any_number()).prop_map(|points| (Kind::Counter, Points::Sum(points))),
        any_points(any_number()).prop_map(|points| (Kind::UpDownCounter, Points::Sum(points))),
        (boundaries, any_points(any_buckets())).prop_map(|(boundaries, points)| {
            (Kind::Histogram { boundaries: boundaries.into() }, Points::Histogram(points))
        }),
        any_points(any_exponential())
            .prop_map(|points| (Kind::ExponentialHistogram, Points::Exponential(points))),
    ];
    (any_text(), any_text(), any_text(), temporality, kind_and_points).prop_map(
        |(name, unit, description, temporality, (kind, points))| Metric {
            source: source(1),
            instrument: Arc::new(Instrument {
                name: name.into(),
                unit: unit.into(),
                description: description.into(),
                kind,
            }),
            temporality,
            points,
        },
    )
}

fn any_points<V: std::fmt::Debug>(value: impl Strategy<Value = V>) -> impl Strategy<Value = Vec<Point<V>>> {
    let point = (any_attributes(), any::<i64>(), any::<i64>(), option::of(value), vec(any_exemplar(), 0..3));
    let point = point.prop_map(|(attributes, start, time, value, exemplars)| Point {
        attributes: Arc::new(attributes),
        start: UnixNanos(start),
        time: UnixNanos(time),
        value,
        exemplars,
    });
    vec(point, 0..4)
}

fn any_number() -> impl Strategy<Value = Number> {
    prop_oneof![
        Just(Number::Int(0)),
        any::<i64>().prop_map(Number::Int),
        any::<f64>().prop_map(Number::Float)
    ]
}

fn any_exemplar() -> impl Strategy<Value = Exemplar> {
    let span = option::of((any::<[u8; 16]>(), any::<[u8; 8]>()));
    (any::<i64>(), any_number(), span).prop_map(|(time, value, span)| Exemplar {
        time: UnixNanos(time),
        value,
        span: span.map(|(trace_id, span_id)| (TraceId(trace_id), SpanId(span_id))),
    })
}

fn any_buckets() -> impl Strategy<Value = Buckets> {
    let double = || option::of(any::<f64>());
    (0_u64..3, double(), double(), double(), vec(any::<u64>(), 0..20))
        .prop_map(|(count, sum, min, max, counts)| Buckets { count, sum, min, max, counts })
}

fn any_exponential() -> impl Strategy<Value = ExponentialBuckets> {
    let range = || {
        let count = prop_oneof![0_u64..200, any::<u64>()];
        (any::<i32>(), vec(count, 0..20)).prop_map(|(offset, counts)| BucketRange { offset, counts })
    };
    (any_buckets(), -10..=20_i32, 0_u64..3, range(), range()).prop_map(
        |(buckets, scale, zero_count, positive, negative)| ExponentialBuckets {
            count: buckets.count,
            sum: buckets.sum,
            min: buckets.min,
            max: buckets.max,
            scale,
            zero_count,
            positive,
            negative,
        },
    )
}

/// The same metric as `opentelemetry-proto` holds it.
pub(crate) fn plain_metric(metric: &Metric) -> otlp::Metric {
    let aggregation_temporality = match metric.temporality {
        Temporality::Delta => otlp::AggregationTemporality::Delta,
        Temporality::Cumulative => otlp::AggregationTemporality::Cumulative,
    }
    .into();
    let instrument = &metric.instrument;
    let data = match &metric.points {
        Points::Gauge(points) => Data::Gauge(otlp::Gauge {
            data_points: points.iter().map(|point| plain_number_point(point, 0)).collect(),
        }),
        Points::Sum(points) => {
            let is_monotonic = instrument.kind == Kind::Counter;
            Data::Sum(otlp::Sum {
                data_points: points
                    .iter()
                    .map(|point| plain_number_point(point, time(point.start)))
                    .collect(),
                aggregation_temporality: if is_monotonic { aggregation_temporality } else { 2 },
                is_monotonic,
            })
        }
        Points::Histogram(points) => {
            let Kind::Histogram { boundaries } = &instrument.kind else { panic!("no histogram") };
            Data::Histogram(otlp::Histogram {
                data_points: points.iter().map(|point| plain_buckets_point(point, boundaries)).collect(),
                aggregation_temporality,
            })
        }
        Points::Exponential(points) => Data::ExponentialHistogram(otlp::ExponentialHistogram {
            data_points: points.iter().map(plain_exponential_point).collect(),
            aggregation_temporality,
        }),
    };
    otlp::Metric {
        name: instrument.name.to_string(),
        description: instrument.description.to_string(),
        unit: instrument.unit.to_string(),
        data: Some(data),
        ..otlp::Metric::default()
    }
}

fn plain_number_point(point: &Point<Number>, start_time_unix_nano: u64) -> otlp::NumberDataPoint {
    otlp::NumberDataPoint {
        attributes: plain_attributes(&point.attributes),
        start_time_unix_nano,
        time_unix_nano: time(point.time),
        exemplars: point.exemplars.iter().map(plain_exemplar).collect(),
        flags: point.value.is_none().into(),
        value: point.value.map(|value| match value {
            Number::Int(int) => number_data_point::Value::AsInt(int),
            Number::Float(float) => number_data_point::Value::AsDouble(float),
        }),
    }
}

fn plain_buckets_point(point: &Point<Buckets>, bounds: &[f64]) -> otlp::HistogramDataPoint {
    let mut plain = otlp::HistogramDataPoint {
        attributes: plain_attributes(&point.attributes),
        start_time_unix_nano: time(point.start),
        time_unix_nano: time(point.time),
        exemplars: point.exemplars.iter().map(plain_exemplar).collect(),
        flags: point.value.is_none().into(),
        ..otlp::HistogramDataPoint::default()
    };
    if let Some(buckets) = &point.value {
        plain.count = buckets.count;
        plain.sum = buckets.sum;
        plain.bucket_counts.clone_from(&buckets.counts);
        plain.explicit_bounds = bounds.to_vec();
        plain.min = buckets.min;
        plain.max = buckets.max;
    }
    plain
}

fn plain_exponential_point(point: &Point<ExponentialBuckets>) -> otlp::ExponentialHistogramDataPoint {
    let mut plain = otlp::ExponentialHistogramDataPoint {
        attributes: plain_attributes(&point.attributes),
        start_time_unix_nano: time(point.start),
        time_unix_nano: time(point.time),
        exemplars: point.exemplars.iter().map(plain_exemplar).collect(),
        flags: point.value.is_none().into(),
        ..otlp::ExponentialHistogramDataPoint::default()
    };
    if let Some(buckets) = &point.value {
        let range = |range: &BucketRange| {
            (!range.counts.is_empty()).then(|| otlp::exponential_histogram_data_point::Buckets {
                offset: range.offset,
                bucket_counts: range.counts.clone(),
            })
        };
        plain.count = buckets.count;
        plain.sum = buckets.sum;
        plain.scale = buckets.scale;
        plain.zero_count = buckets.zero_count;
        plain.positive = range(&buckets.positive);
        plain.negative = range(&buckets.negative);
        plain.min = buckets.min;
        plain.max = buckets.max;
    }
    plain
}

fn plain_exemplar(exemplar: &Exemplar) -> otlp::Exemplar {
    otlp::Exemplar {
        time_unix_nano: time(exemplar.time),
        span_id: exemplar.span.map(|(_, id)| id.0.to_vec()).unwrap_or_default(),
        trace_id: exemplar.span.map(|(id, _)| id.0.to_vec()).unwrap_or_default(),
        value: Some(match exemplar.value {
            Number::Int(int) => exemplar::Value::AsInt(int),
            Number::Float(float) => exemplar::Value::AsDouble(float),
        }),
        ..otlp::Exemplar::default()
    }
}
