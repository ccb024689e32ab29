//! What the engine makes of measurements: the points of one metric at one collection.

use std::sync::Arc;

use crate::engine::attributes::Attributes;
use crate::engine::metrics::instrument::{Instrument, Number};
use crate::engine::metrics::settings::Temporality;
use crate::engine::span::{SpanId, TraceId};
use crate::time::UnixNanos;
use crate::worker::Source;

/// Points of one metric of one instance: what one OTLP `Metric` message holds. A large metric comes in several.
///
/// Points without a recorded value (the end of a series) stand alone in theirs: the Collector's Prometheus exporter
/// skips every point behind one.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The instance: its resource. `pid` is absent: a worker's new process goes on with the same series.
    pub source: Arc<Source>,
    /// What was measured.
    pub instrument: Arc<Instrument>,
    /// Of counters and histograms; up-down counters are cumulative, gauges have none.
    pub temporality: Temporality,
    /// At least one; of the kind that the instrument's aggregation says.
    pub points: Points,
}

/// The points, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Points {
    /// Last values.
    Gauge(Vec<Point<Number>>),
    /// Sums. Whether they are monotonic, the instrument says.
    Sum(Vec<Point<Number>>),
    /// Fixed buckets. The bounds are the instrument's.
    Histogram(Vec<Point<Buckets>>),
    /// Buckets of base 2.
    Exponential(Vec<Point<ExponentialBuckets>>),
}

/// One point of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Point<V> {
    /// What tells the series from others of the instrument; in the order of their keys.
    pub attributes: Arc<Attributes>,
    /// When the series began, or the last point was made; equals `time` for gauges, where it is not sent.
    pub start: UnixNanos,
    /// Of the collection; of a gauge, its event's, moved into the time since the collection before.
    pub time: UnixNanos,
    /// Nothing is recorded any more: the series has ended (OTLP's `NO_RECORDED_VALUE`).
    pub value: Option<V>,
    /// Sorted by value, at most one a bucket.
    pub exemplars: Vec<Exemplar>,
}

/// The value of an explicit-bucket histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// Of all measurements.
    pub count: u64,
    /// Absent where measurements may be negative.
    pub sum: Option<f64>,
    /// Absent where none is known for the interval.
    pub min: Option<f64>,
    /// See `min`.
    pub max: Option<f64>,
    /// One more than there are bounds, or none for none.
    pub counts: Vec<u64>,
}

/// The value of a base-2 exponential histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct ExponentialBuckets {
    /// Of all measurements.
    pub count: u64,
    /// Absent where measurements may be negative.
    pub sum: Option<f64>,
    /// Absent where none is known for the interval.
    pub min: Option<f64>,
    /// See `min`.
    pub max: Option<f64>,
    /// From -10 to 20.
    pub scale: i32,
    /// Measurements of 0.
    pub zero_count: u64,
    /// Above 0.
    pub positive: BucketRange,
    /// Below 0.
    pub negative: BucketRange,
}

/// Buckets of base 2 in a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BucketRange {
    /// The index of the first.
    pub offset: i32,
    /// Their counts.
    pub counts: Vec<u64>,
}

/// One measurement that stands for others, and leads to its trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// When it was made, on the worker's clock.
    pub time: UnixNanos,
    /// What was measured.
    pub value: Number,
    /// The span that it belongs to; absent only where the filter is `always_on`, and there if none is kept.
    pub span: Option<(TraceId, SpanId)>,
}

impl Metric {
    /// How many points there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.points {
            Points::Gauge(points) | Points::Sum(points) => points.len(),
            Points::Histogram(points) => points.len(),
            Points::Exponential(points) => points.len(),
        }
    }

    /// Whether there are none, which an engine never gives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
