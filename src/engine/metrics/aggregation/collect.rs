//! How a collection goes through all series in slices, and when series end.
//!
//! A collection has one time, later than that of the one before, and visits what was there when it began, in the order in
//! which it came; what comes meanwhile waits for the next one. None begins while another runs.
//!
//! | series | cumulative sums and histograms, gauges; up-down sums always | differences |
//! |---|---|---|
//! | measured since its last point | a point | a point; its value begins anew |
//! | not measured | the same again | nothing |
//! | not measured, and idle for too long | a point without value, and it is gone | the same |
//! | not measured, and its instance was without workers at the last collection too | the same | the same |
//! | not measured, and its instrument has given way to another | the same | the same |
//! | of an instrument that follows another in Prometheus, until that has ended | nothing | nothing |
//!
//! What is measured after the time of a collection, and before the series' turn comes, is in its point as well: a slice takes
//! what is there when it is made.
//!
//! Gauges are no differences, but where those are wanted they come only when measured. The end is said of differences as well:
//! who adds them up shows the sum until then.
//!
//! A point without value is alone in its `Metric`: the Collector's exporter for Prometheus reads no further in one after the
//! first.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::MAX_AHEAD_NS;
use crate::engine::attributes::Attributes;
use crate::engine::metrics::aggregation::series::{OVERFLOW, Series};
use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::aggregation::value::{Last, Value, buckets, exponential_buckets};
use crate::engine::metrics::aggregation::{Aggregation, is_roomy};
use crate::engine::metrics::instrument::{Instrument, Kind, Number};
use crate::engine::metrics::point::{Buckets, ExponentialBuckets, Metric, Point, Points};
use crate::engine::metrics::settings::Temporality;
use crate::engine::steps;
use crate::time::{Monotonic, Now, UnixNanos};
use crate::worker::Source;

/// Bytes of one `Metric` as it is sent, about: a batch of them is filled well, and one is soon encoded.
const MAX_METRIC_BYTES: usize = 32 << 10;

/// Two collections are at least this far apart: Prometheus tells times apart by milliseconds.
const MIN_INTERVAL_NS: i64 = 1_000_000;

/// How far the first collection reaches back: Prometheus shows nothing that is older when it comes.
const FIRST_INTERVAL_NS: i64 = 300 * 1_000_000_000;

/// A collection on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Running {
    at: UnixNanos,
    /// The time of the one before.
    previous: Option<UnixNanos>,
    /// When it began, for what is idle.
    mono: Monotonic,
    /// What has this number or a larger one came after it began.
    until: u64,
    /// The smallest numbers that may be visited next, of an instance, its streams and their series.
    instance: u64,
    stream: u64,
    series: u64,
    /// The instance with that number has been entered.
    is_inside: bool,
    /// Its series end, unless a worker has come since.
    is_ending: bool,
}

/// What a collection does with the series of a stream.
#[derive(Debug)]
struct Visit {
    at: UnixNanos,
    /// No gauge's point is before, nor any exemplar.
    since: UnixNanos,
    /// No series starts before, where that is said.
    after: Option<UnixNanos>,
    /// Series have a point each time, measured or not.
    repeats: bool,
    /// Series end without being idle.
    may_end: bool,
    mono: Monotonic,
    series_idle_ns: u64,
}

/// A point of some kind.
#[derive(Debug)]
enum AnyPoint {
    Number(Point<Number>),
    Buckets(Point<Buckets>),
    Exponential(Point<ExponentialBuckets>),
}

/// The points of a stream that are on their way into a `Metric`.
#[derive(Debug)]
struct Making<'a> {
    source: &'a Arc<Source>,
    instrument: &'a Arc<Instrument>,
    temporality: Temporality,
    /// How many points may still come.
    expected: usize,
    points: Option<Points>,
    bytes: usize,
}

impl Aggregation {
    /// Begins a collection of this time, or of a slightly later one where that is not after the last. Where it is far before
    /// the last, a wrong clock was put right: times go on from here, and no start is behind them. While one is on its way
    /// nothing begins: the caller asks first whether one is.
    pub(crate) fn begin(&mut self, at: UnixNanos, now: Now) {
        if self.running.is_some() {
            return;
        }
        let previous = self.last.map(|last| {
            if last.since(at) > MAX_AHEAD_NS { at.saturating_sub(MIN_INTERVAL_NS) } else { last }
        });
        let at = previous.map_or(at, |previous| at.max(previous.saturating_add(MIN_INTERVAL_NS)));
        self.last = Some(at);
        self.running = Some(Running {
            at,
            previous,
            mono: now.mono,
            until: self.next_number,
            instance: 0,
            stream: 0,
            series: 0,
            is_inside: false,
            is_ending: false,
        });
    }

    /// The time of the collection that began last.
    pub(crate) const fn last_collection(&self) -> Option<UnixNanos> {
        self.last
    }

    /// Whether a collection is on its way.
    pub(crate) fn is_collecting(&self) -> bool {
        self.running.is_some()
    }

    /// Makes the next points, at most so many. Instances and series that are passed without a point count as one, so that
    /// the work of a slice is bounded as well.
    pub(crate) fn collect(&mut self, max_points: usize, make: &mut impl FnMut(Metric)) {
        let Some(mut running) = self.running.take() else { return };
        let mut budget = max_points.max(1);
        while budget > 0 {
            let next = self.in_order.range(running.instance..running.until).next();
            let Some((number, slot)) = next.map(|(number, slot)| (*number, *slot)) else {
                self.shrink();
                return;
            };
            if running.instance != number || !running.is_inside {
                budget -= 1;
                self.enter(&mut running, number, slot);
            }
            if self.collect_instance(&mut running, slot, &mut budget, make) {
                running.instance = number + 1;
                running.is_inside = false;
            }
        }
        self.running = Some(running);
    }

    fn enter(&mut self, running: &mut Running, number: u64, slot: Slot) {
        let instance = self.instances.get_mut(slot).expect("an instance in order is there");
        let is_deserted = instance.users == 0;
        running.is_ending = is_deserted && instance.is_leaving;
        (running.instance, running.stream, running.series) = (number, 0, 0);
        running.is_inside = true;
        if instance.is_leaving != is_deserted {
            instance.is_leaving = is_deserted;
            self.touch_instance(slot);
        }
    }

    /// Goes on in an instance; `true` if it is done with.
    fn collect_instance(
        &mut self,
        running: &mut Running,
        slot: Slot,
        budget: &mut usize,
        make: &mut impl FnMut(Metric),
    ) -> bool {
        loop {
            let instance = self.instances.get(slot).expect("an instance in order is there");
            let number = |stream: &Slot| self.streams.get(*stream).map_or(0, |stream| stream.number);
            let at = instance.streams.partition_point(|stream| number(stream) < running.stream);
            let next = instance.streams.get(at).copied().filter(|stream| number(stream) < running.until);
            let Some(stream) = next else {
                if instance.users == 0 && instance.streams.is_empty() {
                    self.remove_instance(slot);
                }
                return true;
            };
            if *budget == 0 {
                return false;
            }
            let number = number(&stream);
            if number > running.stream {
                (running.stream, running.series) = (number, 0);
            }
            if !self.collect_stream(running, stream, budget, make) {
                return false;
            }
            (running.stream, running.series) = (number + 1, 0);
            if self.streams.get(stream).is_some_and(|stream| stream.series.is_empty()) {
                self.remove_stream(stream);
            }
        }
    }

    /// Goes on in a stream; `true` if it is done with.
    fn collect_stream(
        &mut self,
        running: &mut Running,
        slot: Slot,
        budget: &mut usize,
        make: &mut impl FnMut(Metric),
    ) -> bool {
        let stream = self.streams.get_mut(slot).expect("a stream of an instance is there");
        if stream.after == Some(running.at) {
            *budget -= 1;
            return true;
        }
        if stream.is_retired && running.series == 0 {
            self.hold_back(slot, running.at);
        }
        let stream = self.streams.get_mut(slot).expect("seen above");
        let mut slots = std::mem::take(&mut stream.series);
        let stream = self.streams.get(slot).expect("seen above");
        let instance = self.instances.get(stream.instance).expect("a stream has an instance");
        let kind = &stream.instrument.kind;
        let is_delta = self.rules.temporality == Temporality::Delta;
        let visit = Visit {
            at: running.at,
            since: running.since(),
            after: stream.after,
            repeats: !is_delta || *kind == Kind::UpDownCounter,
            may_end: stream.is_retired || (running.is_ending && instance.users == 0),
            mono: running.mono,
            series_idle_ns: self.rules.series_idle_ns,
        };
        let from = {
            let number = |series: &Slot| self.series.get(*series).map_or(0, |series| series.number);
            slots.partition_point(|series| number(series) < running.series)
        };
        let temporality =
            if visit.repeats || *kind == Kind::Gauge { Temporality::Cumulative } else { Temporality::Delta };
        let making = |expected| Making {
            source: &instance.source,
            instrument: &stream.instrument,
            temporality,
            expected,
            points: None,
            bytes: 0,
        };
        let (mut valued, mut ended) = (making((slots.len() - from).min(*budget)), making(1));
        let mut gone: Vec<Slot> = Vec::new();
        let (mut end, mut kept) = (from, from);
        let mut is_done = true;
        while let Some(series_slot) = slots.get(end).copied() {
            let series = self.series.get_mut(series_slot).expect("a series of a stream is there");
            if series.number >= running.until {
                break;
            }
            if *budget == 0 {
                running.series = series.number;
                is_done = false;
                break;
            }
            *budget -= 1;
            end += 1;
            steps::count();
            let attributes = match series.list {
                OVERFLOW => &self.overflow,
                list => self.lists.get(list).expect("a series has its attributes"),
            };
            if visit.ends(series) {
                gone.push(series_slot);
                ended.push_alone(visit.last_point(series, attributes), make);
                continue;
            }
            slots[kept] = series_slot;
            kept += 1;
            if series.is_measured || visit.repeats {
                let is_changed = visit.changes(series);
                valued.push(visit.point(series, attributes), make);
                if is_changed {
                    self.written.touch_series(series_slot, series);
                }
            }
        }
        valued.flush(make);
        self.counters.expired += gone.len() as u64;
        gone.iter().for_each(|series| drop(self.remove_series(*series)));
        // A slice costs what it has visited: the rest of the list is moved, and not looked at.
        slots.drain(kept..end);
        if is_done && is_roomy(slots.capacity(), slots.len()) {
            slots.shrink_to_fit();
        }
        self.streams.get_mut(slot).expect("seen above").series = slots;
        is_done
    }

    /// This collection has points of a stream that has given way: those that follow it in Prometheus have none.
    fn hold_back(&mut self, retired: Slot, at: UnixNanos) {
        let stream = self.streams.get(retired).expect("it is being visited");
        let instance = self.instances.get(stream.instance).expect("a stream has an instance");
        let claims = stream.claims();
        let follows = |slot: &Slot| {
            let other = self.streams.get(*slot);
            other.is_some_and(|other| other.number > stream.number && other.is_claimed(&claims))
        };
        let following: Vec<Slot> = instance.streams.iter().copied().filter(follows).collect();
        for slot in following {
            if let Some(following) = self.streams.get_mut(slot) {
                following.after = Some(at);
            }
            self.touch_stream(slot);
        }
    }
}

impl Running {
    /// The times of gauges and exemplars are after the collection before: what is older than what was sent is refused.
    fn since(&self) -> UnixNanos {
        let since = match self.previous {
            Some(previous) => previous.saturating_add(MIN_INTERVAL_NS),
            None => self.at.saturating_sub(FIRST_INTERVAL_NS),
        };
        since.min(self.at)
    }
}

impl Visit {
    fn ends(&self, series: &Series) -> bool {
        let is_idle = self.mono.since(series.measured_at) >= self.series_idle_ns;
        !series.is_measured && (self.may_end || is_idle)
    }

    /// Whether making a point of the series changes it.
    fn changes(&self, series: &Series) -> bool {
        series.is_measured || !series.exemplars.is_empty() || series.start != self.start(series)
    }

    /// A clock that was set back must not put a start behind its points.
    fn start(&self, series: &Series) -> UnixNanos {
        let after = self.after.filter(|after| *after < self.at);
        let start = after.map_or(series.start, |after| series.start.max(after));
        start.min(self.at.saturating_sub(1))
    }

    /// The next point of a series, which begins anew after it if its points are differences.
    fn point(&self, series: &mut Series, attributes: &Arc<Attributes>) -> AnyPoint {
        series.start = self.start(series);
        series.is_measured = false;
        let shift = series.value.exemplar_shift();
        let since = self.since.max(series.start.saturating_add(1));
        let exemplars = series.exemplars.take(shift, since, self.at);
        let attributes = Arc::clone(attributes);
        let (start, time) = (series.start, self.at);
        let point = match &series.value {
            Value::Sum(sum) => {
                AnyPoint::Number(Point { attributes, start, time, value: Some(*sum), exemplars })
            }
            Value::Gauge(last) => return self.gauge(last, attributes),
            Value::Histogram { counts, stats } => {
                let value = Some(buckets(counts, stats));
                AnyPoint::Buckets(Point { attributes, start, time, value, exemplars })
            }
            Value::Exponential(own) => {
                let value = Some(exponential_buckets(own));
                AnyPoint::Exponential(Point { attributes, start, time, value, exemplars })
            }
        };
        if !self.repeats {
            series.value.reset();
            series.start = self.at;
        }
        point
    }

    fn gauge(&self, last: &Last, attributes: Arc<Attributes>) -> AnyPoint {
        let time = last.time.clamp(self.since, self.at);
        AnyPoint::Number(Point {
            attributes,
            start: time,
            time,
            value: Some(last.value),
            exemplars: Vec::new(),
        })
    }

    /// The point that says that a series has ended.
    fn last_point(&self, series: &Series, attributes: &Arc<Attributes>) -> AnyPoint {
        let (attributes, time, exemplars) = (Arc::clone(attributes), self.at, Vec::new());
        let start = self.start(series);
        match &series.value {
            Value::Sum(_) => AnyPoint::Number(Point { attributes, start, time, value: None, exemplars }),
            Value::Gauge(_) => {
                AnyPoint::Number(Point { attributes, start: time, time, value: None, exemplars })
            }
            Value::Histogram { .. } => {
                AnyPoint::Buckets(Point { attributes, start, time, value: None, exemplars })
            }
            Value::Exponential(_) => {
                AnyPoint::Exponential(Point { attributes, start, time, value: None, exemplars })
            }
        }
    }
}

impl Making<'_> {
    fn push(&mut self, point: AnyPoint, make: &mut impl FnMut(Metric)) {
        let bytes = point.estimated_bytes();
        if self.bytes + bytes > MAX_METRIC_BYTES {
            self.flush(make);
        }
        self.bytes += bytes;
        let room = self.expected.min(MAX_METRIC_BYTES / bytes + 1);
        self.expected = self.expected.saturating_sub(1);
        let kind = &self.instrument.kind;
        let points = self.points.get_or_insert_with(|| no_points(kind, room));
        match (points, point) {
            (Points::Gauge(points) | Points::Sum(points), AnyPoint::Number(point)) => points.push(point),
            (Points::Histogram(points), AnyPoint::Buckets(point)) => points.push(point),
            (Points::Exponential(points), AnyPoint::Exponential(point)) => points.push(point),
            (
                Points::Gauge(_) | Points::Sum(_) | Points::Histogram(_) | Points::Exponential(_),
                AnyPoint::Number(_) | AnyPoint::Buckets(_) | AnyPoint::Exponential(_),
            ) => debug_assert!(false, "a series has a value of its instrument's kind"),
        }
    }

    /// A point that must have no other in its `Metric`.
    fn push_alone(&mut self, point: AnyPoint, make: &mut impl FnMut(Metric)) {
        self.flush(make);
        self.expected = 1;
        self.push(point, make);
        self.flush(make);
    }

    fn flush(&mut self, make: &mut impl FnMut(Metric)) {
        self.bytes = 0;
        let Some(points) = self.points.take() else { return };
        make(Metric {
            source: Arc::clone(self.source),
            instrument: Arc::clone(self.instrument),
            temporality: self.temporality,
            points,
        });
    }
}

impl AnyPoint {
    /// What it takes when it is sent, about: eight bytes a bound and a bucket, both of which go out with each point.
    fn estimated_bytes(&self) -> usize {
        match self {
            Self::Number(point) => point_bytes(point, |_| 9),
            Self::Buckets(point) => point_bytes(point, |value| 40 + 16 * value.counts.len()),
            Self::Exponential(point) => point_bytes(point, |value| {
                60 + 4 * (value.positive.counts.len() + value.negative.counts.len())
            }),
        }
    }
}

fn point_bytes<V>(point: &Point<V>, value_bytes: impl Fn(&V) -> usize) -> usize {
    let value = point.value.as_ref().map_or(0, value_bytes);
    32 + point.attributes.size_bytes() + 64 * point.exemplars.len() + value
}

fn no_points(kind: &Kind, room: usize) -> Points {
    match kind {
        Kind::Gauge => Points::Gauge(Vec::with_capacity(room)),
        Kind::Counter | Kind::UpDownCounter => Points::Sum(Vec::with_capacity(room)),
        Kind::Histogram { .. } => Points::Histogram(Vec::with_capacity(room)),
        Kind::ExponentialHistogram => Points::Exponential(Vec::with_capacity(room)),
    }
}
