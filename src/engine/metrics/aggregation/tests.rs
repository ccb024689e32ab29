//! What holds for series as a whole.

mod limits;
mod model;
mod property;
mod restart;
mod rules;
mod size;

use std::sync::Arc;

use super::*;
use crate::engine::checkpoint::draft::Draft;
use crate::engine::metrics::instrument::{Instrument, Kind, Number};
use crate::engine::metrics::measured::{Measured, Pairs, PointKeys, Weight};
use crate::engine::metrics::point::{Metric, Points};
use crate::time::{Monotonic, Now};

const INT: fn(i64) -> Number = Number::Int;
const WINDOW: Duration = Duration::from_millis(500);
/// When the tests begin.
const EPOCH_NS: i64 = 1_700_000_000_000_000_000;

/// `seconds` after the tests began.
fn wall(seconds: f64) -> UnixNanos {
    #[expect(clippy::cast_possible_truncation, reason = "some hours")]
    UnixNanos(EPOCH_NS + (seconds * 1e9) as i64)
}

fn now(seconds: f64) -> Now {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hours")]
    Now { mono: Monotonic((seconds * 1e9) as u64), wall: wall(seconds) }
}

fn instrument(name: &str, unit: &str, kind: Kind) -> Arc<Instrument> {
    Arc::new(Instrument { name: name.into(), unit: unit.into(), description: "".into(), kind })
}

fn histogram(name: &str, boundaries: &[f64]) -> Arc<Instrument> {
    instrument(name, "s", Kind::Histogram { boundaries: boundaries.into() })
}

fn gathered<'a>(pairs: &[(&'a str, &'a str)]) -> Pairs<'a> {
    pairs.iter().map(|(key, value)| (*key, (*value).into())).collect()
}

fn key(worker: &str) -> InstanceKey {
    InstanceKey { node: "node".into(), worker_id: worker.into() }
}

fn described(pool: &str) -> Described {
    Described { pool: Some(pool.into()), host: None, same_host: true }
}

/// One that has room for everything.
fn draft() -> Draft {
    let mut draft = Draft::default();
    draft.make_room(None);
    draft
}

/// Aggregation and what a test needs beside it.
struct Bench {
    own: Aggregation,
    next_source: u64,
    now: f64,
}

impl Bench {
    fn new(settings: &MetricSettings) -> Self {
        Self { own: Aggregation::new(settings, WINDOW), next_source: 1, now: 0.0 }
    }

    fn delta() -> Self {
        Self::new(&MetricSettings { temporality: Temporality::Delta, ..MetricSettings::default() })
    }

    fn attach(&mut self, worker: &str) -> InstanceId {
        self.own.attach(key(worker), described("pool"), &mut self.next_source)
    }

    /// Records a measurement of an event of now. Numbers of instruments are made of their words.
    fn record(
        &mut self,
        id: InstanceId,
        instrument: &Arc<Instrument>,
        value: Number,
        pairs: &[(&str, &str)],
    ) -> Recorded {
        let mut gathered = gathered(pairs);
        let keys = PointKeys::of(&mut gathered);
        let words = format!("{instrument:?}");
        let number = xxh3_64(words.as_bytes()) as u32 % 1000;
        let measured = Measured { instrument, number, value, attributes: keys };
        let now = now(self.now);
        self.own.record(id, &measured, Weight::ONE, now.wall, now)
    }

    /// Records 1 without attributes.
    fn count(&mut self, id: InstanceId, instrument: &Arc<Instrument>) -> Recorded {
        self.record(id, instrument, Number::Int(1), &[])
    }

    /// A whole collection at `seconds`.
    fn collect(&mut self, seconds: f64) -> Vec<Metric> {
        self.now = seconds;
        self.own.begin(wall(seconds), now(seconds));
        let mut made = Vec::new();
        while self.own.is_collecting() {
            self.own.collect(1000, &mut |metric| made.push(metric));
        }
        made
    }
}

/// Name, start and time in seconds, and value of every point of numbers.
fn numbers(metrics: &[Metric]) -> Vec<(String, f64, f64, Option<Number>)> {
    let seconds = |time: UnixNanos| (time.0 - EPOCH_NS) as f64 / 1e9;
    metrics
        .iter()
        .flat_map(|metric| match &metric.points {
            Points::Gauge(points) | Points::Sum(points) => points
                .iter()
                .map(|point| {
                    (
                        metric.instrument.name.to_string(),
                        seconds(point.start),
                        seconds(point.time),
                        point.value,
                    )
                })
                .collect::<Vec<_>>(),
            Points::Histogram(_) | Points::Exponential(_) => panic!("not of numbers: {metric:?}"),
        })
        .collect()
}

/// The attributes of a point.
fn attribute(metric: &Metric, at: usize) -> String {
    let list = match &metric.points {
        Points::Gauge(points) | Points::Sum(points) => &points[at].attributes,
        Points::Histogram(points) => &points[at].attributes,
        Points::Exponential(points) => &points[at].attributes,
    };
    format!("{list:?}")
}
