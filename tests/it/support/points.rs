//! Data points as a peer has them, and what must be true of any series.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, HistogramDataPoint, Metric, NumberDataPoint,
};

/// What tells a series from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SeriesKey {
    pub(crate) worker: String,
    pub(crate) metric: String,
    attributes: String,
}

/// One point; of a histogram its count stands for all of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) start: u64,
    pub(crate) time: u64,
    /// Nothing where the series has ended.
    pub(crate) value: Option<f64>,
    temporality: Option<AggregationTemporality>,
}

/// All points that a peer took, by series, in order of arrival.
#[derive(Debug, Default, Clone)]
pub(crate) struct Points {
    series: BTreeMap<SeriesKey, Vec<Point>>,
}

impl Points {
    /// Adds the points of a metric of a worker.
    pub(crate) fn add(&mut self, worker: &str, metric: &Metric) {
        let mut add = |attributes: &[KeyValue], point: Point| {
            let mut attributes: Vec<_> =
                attributes.iter().map(|one| format!("{}={:?}", one.key, one.value)).collect();
            attributes.sort();
            let key = SeriesKey {
                worker: worker.to_owned(),
                metric: metric.name.clone(),
                attributes: attributes.join(","),
            };
            self.series.entry(key).or_default().push(point);
        };
        match &metric.data {
            Some(Data::Gauge(gauge)) => {
                gauge.data_points.iter().for_each(|point| add(&point.attributes, number(point, None)));
            }
            Some(Data::Sum(sum)) => {
                let temporality = Some(sum.aggregation_temporality());
                sum.data_points.iter().for_each(|point| add(&point.attributes, number(point, temporality)));
            }
            Some(Data::Histogram(histogram)) => {
                let temporality = histogram.aggregation_temporality();
                histogram
                    .data_points
                    .iter()
                    .for_each(|point| add(&point.attributes, counted(point, temporality)));
            }
            Some(Data::ExponentialHistogram(_) | Data::Summary(_)) | None => {}
        }
    }

    /// How many there are, each time once: what is sent again is the same.
    pub(crate) fn distinct(&self) -> u64 {
        let times = |points: &Vec<Point>| {
            let mut times: Vec<_> = points.iter().map(|point| point.time).collect();
            times.sort_unstable();
            times.dedup();
            times.len() as u64
        };
        self.series.values().map(times).sum()
    }

    /// The points of all series of this metric, by series, in order of their time, each once.
    pub(crate) fn of(&self, metric: &str) -> BTreeMap<&SeriesKey, Vec<&Point>> {
        let of_metric = self.series.iter().filter(|(key, _)| key.metric == metric);
        of_metric
            .map(|(key, points)| {
                let mut points: Vec<_> = points.iter().collect();
                points.sort_by_key(|point| point.time);
                points.dedup_by_key(|point| point.time);
                (key, points)
            })
            .collect()
    }

    /// All metrics' names.
    pub(crate) fn metrics(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.series.keys().map(|key| key.metric.as_str()).collect();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What was measured in all, of one worker or of all: the last values of cumulative series, all of delta ones.
    pub(crate) fn sum(&self, metric: &str, worker: Option<&str>) -> f64 {
        let series =
            self.of(metric).into_iter().filter(|(key, _)| worker.is_none_or(|one| key.worker == one));
        let sum = |points: &[&Point]| {
            let is_delta = |point: &&&Point| point.temporality == Some(AggregationTemporality::Delta);
            if points.first().as_ref().is_some_and(is_delta) {
                points.iter().filter_map(|point| point.value).sum()
            } else {
                points.iter().rev().find_map(|point| point.value).unwrap_or(0.0)
            }
        };
        series.map(|(_, points)| sum(&points)).sum()
    }

    /// # Errors
    ///
    /// When points of one series and time differ, a cumulative value falls or begins anew, windows of deltas overlap, a
    /// point is over before it begins, or the points of a series did not first come in order of their times: a backend
    /// refuses one that is older than the last.
    pub(crate) fn ensure_sound(&self) -> Result<()> {
        for (key, arrived) in &self.series {
            for point in arrived {
                let twin = arrived.iter().find(|other| other.time == point.time && *other != point);
                ensure!(twin.is_none(), "{key:?}: {point:?} and {twin:?}");
            }
            let mut latest = 0;
            for (place, point) in arrived.iter().enumerate() {
                let is_again = arrived[..place].iter().any(|earlier| earlier.time == point.time);
                ensure!(is_again || point.time > latest, "{key:?}: {point:?} came after one of {latest}");
                latest = latest.max(point.time);
            }
            let ordered = &self.of(&key.metric)[key];
            for pair in ordered.windows(2) {
                let [before, after] = pair else { continue };
                match after.temporality {
                    Some(AggregationTemporality::Cumulative) => {
                        ensure!(before.start == after.start, "{key:?} begins anew: {before:?}, {after:?}");
                        let falls =
                            after.value.zip(before.value).is_some_and(|(after, before)| after < before);
                        ensure!(!falls, "{key:?} falls: {before:?}, {after:?}");
                    }
                    Some(AggregationTemporality::Delta) => {
                        ensure!(before.time <= after.start, "{key:?} overlaps: {before:?}, {after:?}");
                    }
                    Some(AggregationTemporality::Unspecified) | None => {}
                }
            }
            let is_backward = |point: &&Point| point.temporality.is_some() && point.start >= point.time;
            ensure!(!arrived.iter().any(|point| is_backward(&point)), "{key:?}: {arrived:?}");
        }
        Ok(())
    }
}

fn number(point: &NumberDataPoint, temporality: Option<AggregationTemporality>) -> Point {
    let value = match point.value {
        Some(Value::AsInt(value)) => Some(value as f64),
        Some(Value::AsDouble(value)) => Some(value),
        None => None,
    };
    Point {
        start: point.start_time_unix_nano,
        time: point.time_unix_nano,
        value: value.filter(|_| !is_end(point.flags)),
        temporality,
    }
}

fn counted(point: &HistogramDataPoint, temporality: AggregationTemporality) -> Point {
    Point {
        start: point.start_time_unix_nano,
        time: point.time_unix_nano,
        value: (!is_end(point.flags)).then_some(point.count as f64),
        temporality: Some(temporality),
    }
}

const fn is_end(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

/// What is sent again is no disorder; what comes behind a later point is.
#[test]
fn points_that_come_behind_later_ones_are_found() {
    let arrived = |times: &[u64]| {
        let mut points = Points::default();
        for time in times {
            let point = NumberDataPoint {
                start_time_unix_nano: 1,
                time_unix_nano: *time,
                value: Some(Value::AsInt(7)),
                ..NumberDataPoint::default()
            };
            let sum = opentelemetry_proto::tonic::metrics::v1::Sum {
                data_points: vec![point],
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            };
            points
                .add("w", &Metric { name: "n".to_owned(), data: Some(Data::Sum(sum)), ..Metric::default() });
        }
        points.ensure_sound().is_ok()
    };
    assert!(arrived(&[2, 3, 2, 3, 4]));
    assert!(!arrived(&[2, 4, 3]));
}
