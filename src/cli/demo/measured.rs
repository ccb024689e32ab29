//! Gathers the points and log records that the bridge makes, and draws them: how long operations took and how often they
//! failed, what was measured beside, and what was only told.
//!
//! Pure. Of a series the latest point counts; differences (delta temporality) are added up. Series of counters and
//! histograms are added up over workers and attributes, because a table of all would say less; the last values of gauges
//! are each worker's own. Percentiles are read from buckets, as Prometheus reads them.

mod table;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::table::{quantile, shown, table};
use crate::cli::demo::style::{Style, Tone, escaped};
use crate::engine::metrics::instrument::{Instrument, Kind};
use crate::engine::metrics::point::{Buckets, Metric, Point, Points};
use crate::engine::metrics::settings::Temporality;
use crate::engine::record::{LogRecord, Severity};
use crate::time::UnixNanos;

/// Series that are kept; a demo has some dozens.
const MAX_SERIES: usize = 1000;
/// Log records that are drawn: the latest.
const MAX_RECORDS: usize = 6;
/// Characters of a name or a text.
const MAX_TEXT: usize = 255;
/// The end of the name of an operation's own duration.
const DURATION: &str = ".duration";

/// What came until now.
#[derive(Debug, Default)]
pub(super) struct Measured {
    series: BTreeMap<Key, Series>,
    /// Points of series beyond [`MAX_SERIES`].
    left_out: u64,
    records: VecDeque<LogRecord>,
    records_in_all: u64,
}

/// Which series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    instrument: Arc<str>,
    worker: Arc<str>,
    attributes: String,
}

#[derive(Debug)]
struct Series {
    instrument: Arc<Instrument>,
    /// The operation failed.
    failed: bool,
    /// When it began.
    start: UnixNanos,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Gauge(f64),
    Sum(f64),
    Distribution(Distribution),
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Distribution {
    count: u64,
    sum: f64,
    /// None where the buckets follow the values.
    counts: Vec<u64>,
}

/// An instrument's series together.
struct Whole<'a> {
    instrument: &'a Instrument,
    failed: u64,
    value: Value,
}

impl Measured {
    /// Adds the points of a metric.
    pub(super) fn measure(&mut self, metric: &Metric) {
        let is_difference = metric.temporality == Temporality::Delta;
        match &metric.points {
            Points::Gauge(points) => {
                self.take(metric, points, |number| Value::Gauge(number.as_f64()), false);
            }
            Points::Sum(points) => {
                self.take(metric, points, |number| Value::Sum(number.as_f64()), is_difference);
            }
            Points::Histogram(points) => self.take(metric, points, distribution, is_difference),
            Points::Exponential(points) => {
                let of = |buckets: &crate::engine::metrics::point::ExponentialBuckets| {
                    let sum = buckets.sum.unwrap_or(0.0);
                    Value::Distribution(Distribution { count: buckets.count, sum, counts: Vec::new() })
                };
                self.take(metric, points, of, is_difference);
            }
        }
    }

    /// Adds a log record.
    pub(super) fn tell(&mut self, record: LogRecord) {
        self.records_in_all += 1;
        if self.records.len() == MAX_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    fn take<V>(
        &mut self,
        metric: &Metric,
        points: &[Point<V>],
        value: impl Fn(&V) -> Value,
        is_difference: bool,
    ) {
        for point in points {
            // A series that has ended keeps its last value here.
            let Some(value) = point.value.as_ref().map(&value) else { continue };
            let key = Key {
                instrument: Arc::clone(&metric.instrument.name),
                worker: Arc::clone(&metric.source.worker_id),
                attributes: format!("{:?}", point.attributes),
            };
            if !is_difference {
                self.keep_ended(&key, point.start);
            }
            if let Some(series) = self.series.get_mut(&key) {
                if is_difference { series.value.add(&value) } else { series.value = value }
            } else if self.series.len() < MAX_SERIES {
                let failed = point.attributes.value("error.type").is_some();
                let instrument = Arc::clone(&metric.instrument);
                let start = point.start;
                self.series.insert(key, Series { instrument, failed, start, value });
            } else {
                self.left_out += 1;
            }
        }
    }

    /// A series that begins anew, because its worker was gone for a while, counts beside what it was before.
    fn keep_ended(&mut self, key: &Key, start: UnixNanos) {
        let has_ended = |series: &Series| !matches!(series.value, Value::Gauge(_)) && series.start < start;
        if self.series.get(key).is_some_and(has_ended)
            && let Some(ended) = self.series.remove(key)
        {
            let attributes = format!("{} since {}", key.attributes, ended.start.0);
            self.series.insert(Key { attributes, ..key.clone() }, ended);
        }
    }

    /// Operations, other distributions, counters and last values, each as a table; nothing where nothing was measured.
    pub(super) fn draw_metrics(&self, style: Style) -> String {
        if self.series.is_empty() {
            return "  none\n".to_owned();
        }
        let (mut operations, mut distributions, mut counters) = (Vec::new(), Vec::new(), Vec::new());
        for whole in self.wholes() {
            let name = escaped(&whole.instrument.name, MAX_TEXT);
            match &whole.value {
                Value::Distribution(values) if name.ends_with(DURATION) => {
                    let operation = name.trim_end_matches(DURATION).to_owned();
                    let counts = [values.count.to_string(), whole.failed.to_string()];
                    operations.push(
                        [operation].into_iter().chain(counts).chain(whole.percentiles(values)).collect(),
                    );
                }
                Value::Distribution(values) => {
                    let sum = shown(values.sum, &whole.instrument.unit);
                    let counts = [values.count.to_string(), sum];
                    distributions
                        .push([name].into_iter().chain(counts).chain(whole.percentiles(values)).collect());
                }
                Value::Sum(sum) => counters.push(vec![name, shown(*sum, &whole.instrument.unit)]),
                Value::Gauge(_) => {}
            }
        }
        let last_values = self.series.iter().filter_map(|(key, series)| match series.value {
            Value::Gauge(value) => {
                let value = shown(value, &series.instrument.unit);
                Some(vec![escaped(&key.instrument, MAX_TEXT), value, escaped(&key.worker, MAX_TEXT)])
            }
            Value::Sum(_) | Value::Distribution(_) => None,
        });
        let mut tables = vec![
            table(&["operation", "ended", "failed", "p50", "p95"], &operations, style),
            table(&["measured", "times", "sum", "p50", "p95"], &distributions, style),
            table(&["counted", "sum"], &counters, style),
            table(&["sampled", "last value", "of"], &last_values.collect::<Vec<_>>(), style),
        ];
        if self.left_out > 0 {
            tables.push(format!("  … and {} more points\n", self.left_out));
        }
        tables.retain(|table| !table.is_empty());
        tables.join("\n")
    }

    /// The latest log records, a line each.
    pub(super) fn draw_records(&self, style: Style) -> String {
        if self.records.is_empty() {
            return "  none\n".to_owned();
        }
        let mut text = String::new();
        for record in &self.records {
            let tone = if record.severity >= Severity::Warn { Tone::Bad } else { Tone::Faint };
            let severity = format!("{:5}", format!("{:?}", record.severity).to_uppercase());
            text.push_str(&format!(
                "  {}  {}  {}\n",
                style.paint(tone, &severity),
                escaped(&record.event_name, MAX_TEXT),
                escaped(&record.source.worker_id, MAX_TEXT),
            ));
        }
        let shown = u64::try_from(self.records.len()).unwrap_or(u64::MAX);
        if self.records_in_all > shown {
            text.push_str(&format!("  these are the latest of {}\n", self.records_in_all));
        }
        text
    }

    /// Each instrument with all its series added up, in the order of names.
    fn wholes(&self) -> Vec<Whole<'_>> {
        let mut wholes: Vec<Whole<'_>> = Vec::new();
        for series in self.series.values() {
            let failed = match &series.value {
                Value::Distribution(values) if series.failed => values.count,
                Value::Distribution(_) | Value::Sum(_) | Value::Gauge(_) => 0,
            };
            match wholes.last_mut().filter(|last| last.instrument.name == series.instrument.name) {
                Some(whole) => {
                    whole.failed += failed;
                    whole.value.add(&series.value);
                }
                None => {
                    wholes.push(Whole {
                        instrument: &series.instrument,
                        failed,
                        value: series.value.clone(),
                    });
                }
            }
        }
        wholes
    }
}

impl Value {
    fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Sum(sum), Self::Sum(more)) => *sum += more,
            (Self::Distribution(values), Self::Distribution(more)) => {
                values.count += more.count;
                values.sum += more.sum;
                let has_same_buckets = values.counts.len() == more.counts.len();
                debug_assert!(has_same_buckets, "an instrument's bounds do not change");
                values.counts.iter_mut().zip(&more.counts).for_each(|(count, more)| *count += more);
            }
            // Last values are not added; an instrument does not change its kind.
            (mine @ (Self::Gauge(_) | Self::Sum(_) | Self::Distribution(_)), other) => *mine = other.clone(),
        }
    }
}

impl Whole<'_> {
    fn percentiles(&self, values: &Distribution) -> [String; 2] {
        let bounds: &[f64] = match &self.instrument.kind {
            Kind::Histogram { boundaries } => boundaries,
            Kind::Counter | Kind::UpDownCounter | Kind::Gauge | Kind::ExponentialHistogram => &[],
        };
        [0.5, 0.95].map(|share| {
            quantile(share, bounds, &values.counts)
                .map_or_else(|| "–".to_owned(), |value| shown(value, &self.instrument.unit))
        })
    }
}

fn distribution(buckets: &Buckets) -> Value {
    let Buckets { count, sum, counts, .. } = buckets;
    Value::Distribution(Distribution { count: *count, sum: sum.unwrap_or(0.0), counts: counts.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::testing::root;
    use crate::engine::attributes::{AttributeValue, Attributes};
    use crate::engine::metrics::instrument::Number;

    fn instrument(name: &str, unit: &str, kind: Kind) -> Arc<Instrument> {
        let (name, unit, description) = (Arc::from(name), Arc::from(unit), Arc::from(""));
        Arc::new(Instrument { name, unit, description, kind })
    }

    fn histogram(name: &str, unit: &str, bounds: &[f64]) -> Arc<Instrument> {
        instrument(name, unit, Kind::Histogram { boundaries: Arc::from(bounds) })
    }

    fn point<V>(error_type: Option<&'static str>, value: Option<V>) -> Point<V> {
        let mut attributes = Attributes::default();
        if let Some(error_type) = error_type {
            attributes.set("error.type", AttributeValue::Text(error_type));
        }
        let attributes = Arc::new(attributes);
        Point { attributes, start: UnixNanos(0), time: UnixNanos(1), value, exemplars: Vec::new() }
    }

    fn buckets(counts: &[u64], sum: f64) -> Option<Buckets> {
        let count = counts.iter().sum();
        Some(Buckets { count, sum: Some(sum), min: None, max: None, counts: counts.to_vec() })
    }

    fn metric(instrument: &Arc<Instrument>, temporality: Temporality, points: Points) -> Metric {
        let (source, instrument) = (root(1, 1).source, Arc::clone(instrument));
        Metric { source, instrument, temporality, points }
    }

    #[test]
    fn the_latest_points_are_drawn_as_tables() {
        let duration = histogram("snakepit.python.call.duration", "s", &[0.1, 0.2, 0.4]);
        let tokens = histogram("snakepit.python.model.inference.tokens", "{token}", &[100.0]);
        let hits = instrument("snakepit.python.cache.hit.count", "{hit}", Kind::Counter);
        let memory = instrument("snakepit.python.memory.sampled.rss_bytes", "By", Kind::Gauge);
        let mut gathered = Measured::default();
        for last in [1, 2] {
            let succeeded = point(None, buckets(&[last, 4 * last, 0, 0], 0.7));
            let failed = point(Some("ValueError"), buckets(&[0, 0, last, 0], 0.3));
            let cumulative = Temporality::Cumulative;
            gathered.measure(&metric(&duration, cumulative, Points::Histogram(vec![succeeded, failed])));
            let delta = Points::Histogram(vec![point(None, buckets(&[1, 0], 50.0))]);
            gathered.measure(&metric(&tokens, Temporality::Delta, delta));
            let sum = Points::Sum(vec![point(None, Some(Number::Int(7)))]);
            gathered.measure(&metric(&hits, cumulative, sum));
            let gauge = Points::Gauge(vec![point(None, Some(Number::Float(1.5 * 1024.0 * 1024.0)))]);
            gathered.measure(&metric(&memory, cumulative, gauge));
            // The end of a series takes nothing back.
            gathered.measure(&metric(&hits, cumulative, Points::Sum(vec![point(None, None)])));
        }
        assert_eq!(
            gathered.draw_metrics(Style::PLAIN),
            "  operation             ended  failed       p50       p95
  snakepit.python.call     12       2  150.0 ms  340.0 ms

  measured                                times        sum       p50       p95
  snakepit.python.model.inference.tokens      2  100 token  50 token  95 token

  counted                            sum
  snakepit.python.cache.hit.count  7 hit

  sampled                                   last value        of
  snakepit.python.memory.sampled.rss_bytes     1.5 MiB  worker_1
"
        );
    }

    /// The sums of a table are those of all events, though a worker was gone for a while and its series began anew.
    #[test]
    fn a_series_that_begins_anew_takes_nothing_back() {
        let hits = instrument("snakepit.python.cache.hit.count", "{hit}", Kind::Counter);
        let mut gathered = Measured::default();
        for (start, value) in [(0, 2), (0, 3), (5, 1), (5, 2), (9, 1)] {
            let mut point = point(None, Some(Number::Int(value)));
            point.start = UnixNanos(start);
            gathered.measure(&metric(&hits, Temporality::Cumulative, Points::Sum(vec![point])));
        }
        let drawn = gathered.draw_metrics(Style::PLAIN);
        assert!(drawn.ends_with("snakepit.python.cache.hit.count  6 hit\n"), "{drawn}");
    }

    #[test]
    fn nothing_measured_and_nothing_told_is_said() {
        let gathered = Measured::default();
        let nothing = "  none\n".to_owned();
        assert_eq!(
            [gathered.draw_metrics(Style::PLAIN), gathered.draw_records(Style::PLAIN)],
            [&*nothing, &nothing]
        );
    }

    #[test]
    fn series_have_a_limit() {
        let mut gathered = Measured::default();
        for number in 0..MAX_SERIES + 2 {
            let counter = instrument(&format!("counter_{number:04}"), "", Kind::Counter);
            let points = Points::Sum(vec![point(None, Some(Number::Int(1)))]);
            gathered.measure(&metric(&counter, Temporality::Cumulative, points));
        }
        assert_eq!((gathered.series.len(), gathered.left_out), (MAX_SERIES, 2));
        assert!(gathered.draw_metrics(Style::PLAIN).ends_with("\n  … and 2 more points\n"));
    }

    #[test]
    fn the_latest_records_are_drawn() {
        let mut gathered = Measured::default();
        for number in 0..=MAX_RECORDS {
            let name: Arc<str> = Arc::from(format!("event_{number}"));
            gathered.tell(LogRecord {
                source: root(1, 1).source,
                time: UnixNanos(0),
                observed: UnixNanos(0),
                severity: Severity::Info,
                event_name: Arc::clone(&name),
                body: name,
                attributes: Attributes::default(),
                trace: None,
            });
        }
        let text = gathered.draw_records(Style::PLAIN);
        assert!(text.starts_with("  INFO   event_1  worker_1\n"), "{text}");
        assert!(text.ends_with("event_6  worker_1\n  these are the latest of 7\n"), "{text}");
    }
}
