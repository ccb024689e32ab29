//! What aggregation should say, by the plainest means: every measurement is kept, and each point counts them all again.

use super::*;
use crate::engine::metrics::point::Exemplar;

/// A point, as the model and the flattened metrics say it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) worker: String,
    pub(super) pool: String,
    pub(super) name: String,
    /// Of all its series, what stands for them first.
    pub(super) in_prometheus: Vec<String>,
    pub(super) temporality: Temporality,
    pub(super) attributes: String,
    pub(super) start: i64,
    pub(super) time: i64,
    pub(super) value: Option<Value>,
    pub(super) exemplars: Vec<(i64, f64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(Number),
    /// Count, sum, least, greatest, and the counts of what is in the buckets by their number.
    Buckets(u64, Option<f64>, Option<f64>, Option<f64>, Vec<u64>),
    /// The same with scale, zero count, and the buckets that are not empty by sign and index.
    Exponential(u64, Option<f64>, Option<f64>, Option<f64>, i32, u64, Vec<(bool, i32, u64)>),
}

#[derive(Debug, Clone, Copy)]
struct Measurement {
    value: Number,
    times: u64,
    time: i64,
    arrived: Now,
}

#[derive(Debug)]
struct ModelSeries {
    attributes: String,
    start: i64,
    all: Vec<Measurement>,
    /// Of `all`, those that the last point of differences has not had begin here.
    from: usize,
    /// The sum of all weights but 1, in units of 2^-32.
    weights: u128,
    last_arrival: u64,
    is_measured: bool,
    offers: Vec<(i64, Number)>,
    gauge: Option<Measurement>,
}

#[derive(Debug)]
struct ModelStream {
    instrument: Arc<Instrument>,
    series: Vec<(usize, ModelSeries)>,
    /// Rules have changed since it was measured.
    is_questioned: bool,
    is_retired: bool,
    /// The collection that has none of it, for the sake of one that it follows.
    after: Option<i64>,
}

/// What Prometheus makes of the names and units of these tests.
pub(super) fn in_prometheus(instrument: &Instrument) -> String {
    let mut name = instrument.name.to_lowercase().replace('.', "_");
    let word = match &*instrument.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        unit => unit,
    };
    if !name.ends_with(word) {
        name += word;
    }
    if instrument.kind == Kind::Counter {
        name = name.replace("_total", "") + "_total";
    }
    name
}

/// The name of what stands for a histogram, and those of its series; of anything else, its name alone.
fn names_in_prometheus(instrument: &Instrument) -> Vec<String> {
    let is_histogram = matches!(instrument.kind, Kind::Histogram { .. } | Kind::ExponentialHistogram);
    let ends: &[&str] = if is_histogram { &["", "_bucket", "_count", "_sum"] } else { &[""] };
    ends.iter().map(|end| in_prometheus(instrument) + end).collect()
}

/// Whether one of them is called as the other is, or as a series of it.
fn are_one_in_prometheus(one: &Instrument, other: &Instrument) -> bool {
    names_in_prometheus(one).contains(&in_prometheus(other))
        || names_in_prometheus(other).contains(&in_prometheus(one))
}

#[derive(Debug)]
struct ModelInstance {
    worker: String,
    pool: String,
    users: u32,
    was_deserted: bool,
    streams: Vec<(usize, ModelStream)>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter(usize),
    Visit(usize, usize, usize),
    Leave(usize),
}

#[derive(Debug)]
struct Collection {
    at: i64,
    since: i64,
    mono: u64,
    steps: std::collections::VecDeque<Step>,
    ending: bool,
}

/// Things go by serial numbers, so that nothing that is gone is taken for another.
#[derive(Debug)]
pub(super) struct Model {
    settings: MetricSettings,
    instances: Vec<(usize, ModelInstance)>,
    serial: usize,
    last: Option<i64>,
    running: Option<Collection>,
}

fn of<T>(list: &mut [(usize, T)], serial: usize) -> Option<&mut T> {
    list.iter_mut().find(|(own, _)| *own == serial).map(|(_, thing)| thing)
}

/// What a test keeps of a series to offer to it.
pub(super) type Offered = (usize, usize, usize);

impl Model {
    pub(super) fn new(settings: MetricSettings) -> Self {
        Self { settings, instances: Vec::new(), serial: 0, last: None, running: None }
    }

    fn serial(&mut self) -> usize {
        self.serial += 1;
        self.serial
    }

    pub(super) fn attach(&mut self, worker: &str, pool: &str) {
        let serial = self.serial();
        if !self.instances.iter().any(|(_, own)| own.worker == worker) {
            let (worker, pool) = (worker.to_owned(), pool.to_owned());
            let new = ModelInstance { worker, pool, users: 0, was_deserted: false, streams: Vec::new() };
            self.instances.push((serial, new));
        }
        let own = self.instances.iter_mut().find(|(_, own)| own.worker == worker).unwrap();
        own.1.users += 1;
        own.1.was_deserted = false;
        own.1.pool = pool.to_owned();
    }

    pub(super) fn detach(&mut self, worker: &str) {
        self.instances.iter_mut().find(|(_, own)| own.worker == worker).unwrap().1.users -= 1;
    }

    /// What kind of thing becomes of a measurement, and of which series.
    pub(super) fn record(
        &mut self,
        worker: &str,
        instrument: &Arc<Instrument>,
        value: Number,
        weight: f64,
        attributes: &str,
        (time, arrived): (i64, Now),
    ) -> (&'static str, Option<Offered>) {
        if instrument.kind == Kind::Counter && value.as_f64() < 0.0 {
            return ("negative", None);
        }
        let (new_stream, new_series) = (self.serial(), self.serial());
        let (instance_serial, instance) =
            self.instances.iter_mut().find(|(_, own)| own.worker == worker).unwrap();
        let of_instance: usize = instance
            .streams
            .iter()
            .map(|(_, stream)| {
                stream.series.iter().filter(|(_, series)| series.attributes != "overflow").count()
            })
            .sum();
        let lower = |instrument: &Instrument| instrument.name.to_lowercase();
        let is_same = |stream: &ModelStream| {
            let own = &stream.instrument;
            lower(own) == lower(instrument) && own.unit == instrument.unit && own.kind == instrument.kind
        };
        let is_rival = |stream: &ModelStream| {
            let own = &stream.instrument;
            !stream.is_retired && (lower(own) == lower(instrument) || are_one_in_prometheus(own, instrument))
        };
        let live = |stream: &ModelStream| !stream.is_retired && is_same(stream);
        let known = match instance.streams.iter().position(|(_, stream)| live(stream)) {
            Some(at) => {
                instance.streams[at].1.is_questioned = false;
                at
            }
            None => {
                let mut rivals: Vec<&mut ModelStream> = Vec::new();
                for (_, stream) in &mut instance.streams {
                    if is_rival(stream) {
                        rivals.push(stream);
                    }
                }
                if rivals.iter().any(|rival| !rival.is_questioned) {
                    return ("conflict", None);
                }
                rivals.into_iter().for_each(|rival| rival.is_retired = true);
                if instance.streams.len() >= self.settings.max_instruments_per_worker {
                    return ("no room", None);
                }
                let instrument = Arc::clone(instrument);
                let (is_questioned, is_retired, after) = (false, false, None);
                let series = Vec::new();
                let new = ModelStream { instrument, series, is_questioned, is_retired, after };
                instance.streams.push((new_stream, new));
                instance.streams.len() - 1
            }
        };
        let (stream_serial, stream) = &mut instance.streams[known];
        let is_known = stream.series.iter().any(|(_, series)| series.attributes == attributes);
        let of_stream = stream.series.iter().filter(|(_, series)| series.attributes != "overflow").count();
        let overflows = !is_known
            && (of_stream >= self.settings.max_series || of_instance >= self.settings.max_series_per_worker);
        let attributes = if overflows { "overflow" } else { attributes };
        if !stream.series.iter().any(|(_, series)| series.attributes == attributes) {
            let start = self.last.map_or(arrived.wall.0, |last| arrived.wall.0.max(last + 1));
            stream.series.push((
                new_series,
                ModelSeries {
                    attributes: attributes.to_owned(),
                    start,
                    all: Vec::new(),
                    from: 0,
                    weights: 0,
                    last_arrival: 0,
                    is_measured: false,
                    offers: Vec::new(),
                    gauge: None,
                },
            ));
        }
        let found = stream.series.iter_mut().find(|(_, series)| series.attributes == attributes);
        let (series_serial, series) = found.unwrap();
        let before = series.weights >> 32;
        let times = if weight > 1.0 {
            series.weights += (weight * 4_294_967_296.0).round() as u128;
            (series.weights >> 32) - before
        } else {
            1
        };
        let measurement = Measurement { value, times: times as u64, time, arrived };
        series.last_arrival = arrived.mono.0;
        if instrument.kind == Kind::Gauge {
            let time = time.min(arrived.wall.0);
            let loses = series.gauge.is_some_and(|kept| {
                time < kept.time && arrived.mono.0 - kept.arrived.mono.0 <= WINDOW.as_nanos() as u64
            });
            if !loses {
                series.gauge = Some(Measurement { time, ..measurement });
                series.is_measured = true;
            }
        } else {
            series.all.push(measurement);
            series.is_measured = true;
        }
        let id = (*instance_serial, *stream_serial, *series_serial);
        (if overflows { "overflowed" } else { "series" }, Some(id))
    }

    pub(super) fn offer(&mut self, (instance, stream, series): Offered, value: Number, time: i64) {
        let own = of(&mut self.instances, instance)
            .and_then(|instance| of(&mut instance.streams, stream))
            .filter(|stream| stream.instrument.kind != Kind::Gauge)
            .and_then(|stream| of(&mut stream.series, series));
        if let Some(own) = own {
            own.offers.push((time, value));
        }
    }

    pub(super) fn begin(&mut self, at: i64, mono: u64) {
        if self.running.is_some() {
            return;
        }
        let is_far_ahead = |last: i64| last > at + 600_000_000_000;
        let last = self.last.map(|last| if is_far_ahead(last) { at - 1_000_000 } else { last });
        let at = last.map_or(at, |last| at.max(last + 1_000_000));
        let since = last.map_or(at - 300_000_000_000, |last| last + 1_000_000);
        self.last = Some(at);
        let mut steps = std::collections::VecDeque::new();
        for (instance, own) in &self.instances {
            steps.push_back(Step::Enter(*instance));
            for (stream, own) in &own.streams {
                steps.extend(own.series.iter().map(|(series, _)| Step::Visit(*instance, *stream, *series)));
            }
            steps.push_back(Step::Leave(*instance));
        }
        self.running = Some(Collection { at, since, mono, steps, ending: false });
    }

    /// Whatever is measured now may take the place of what was.
    pub(super) fn change_rules(&mut self) {
        for (_, instance) in &mut self.instances {
            instance.streams.iter_mut().for_each(|(_, stream)| stream.is_questioned = true);
        }
    }

    pub(super) fn is_collecting(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn series(&self) -> usize {
        self.instances.iter().flat_map(|(_, own)| &own.streams).map(|(_, stream)| stream.series.len()).sum()
    }

    pub(super) fn instances(&self) -> usize {
        self.instances.len()
    }

    /// A slice of so many steps; leaving costs nothing.
    pub(super) fn collect(&mut self, mut budget: usize) -> Vec<Said> {
        let mut said = Vec::new();
        let Some(mut running) = self.running.take() else { return said };
        loop {
            let Some(step) = running.steps.front().copied() else {
                if budget == 0 {
                    self.running = Some(running);
                }
                return said;
            };
            if budget == 0 && !matches!(step, Step::Leave(_)) {
                self.running = Some(running);
                return said;
            }
            running.steps.pop_front();
            match step {
                Step::Enter(instance) => {
                    budget -= 1;
                    let own = of(&mut self.instances, instance).unwrap();
                    running.ending = own.users == 0 && own.was_deserted;
                    own.was_deserted = own.users == 0;
                }
                Step::Visit(instance, stream, series) => {
                    budget -= 1;
                    if self.is_held_back(running.at, instance, stream) {
                        let is_of = |step: &Step| matches!(step, Step::Visit(_, own, _) if *own == stream);
                        while running.steps.front().is_some_and(is_of) {
                            running.steps.pop_front();
                        }
                        continue;
                    }
                    said.extend(self.visit(&running, (instance, stream, series)));
                }
                Step::Leave(instance) => {
                    let own = of(&mut self.instances, instance).unwrap();
                    own.streams.retain(|(_, stream)| !stream.series.is_empty());
                    if own.users == 0 && own.streams.is_empty() {
                        self.instances.retain(|(serial, _)| *serial != instance);
                    }
                }
            }
        }
    }

    /// Whether a stream has no points in this collection; holds back those that follow one that has given way.
    fn is_held_back(&mut self, at: i64, instance: usize, stream: usize) -> bool {
        let streams = &mut of(&mut self.instances, instance).unwrap().streams;
        let place = streams.iter().position(|(serial, _)| *serial == stream).unwrap();
        let (before, following) = streams.split_at_mut(place + 1);
        let own = &before[place].1;
        if own.after == Some(at) {
            return true;
        }
        if own.is_retired {
            let is_one = |other: &ModelStream| are_one_in_prometheus(&own.instrument, &other.instrument);
            for (_, other) in following.iter_mut().filter(|(_, other)| is_one(other)) {
                other.after = Some(at);
            }
        }
        false
    }

    fn visit(&mut self, running: &Collection, (instance, stream, series): Offered) -> Option<Said> {
        let is_delta = self.settings.temporality == Temporality::Delta;
        let idle = self.settings.series_idle.as_nanos() as u64;
        let own_instance = of(&mut self.instances, instance).unwrap();
        let (worker, pool) = (own_instance.worker.clone(), own_instance.pool.clone());
        let is_deserted = own_instance.users == 0;
        let own_stream = of(&mut own_instance.streams, stream).unwrap();
        let instrument = Arc::clone(&own_stream.instrument);
        let (is_retired, after) = (own_stream.is_retired, own_stream.after);
        let own = of(&mut own_stream.series, series).unwrap();
        let start = match after {
            Some(after) if after < running.at => own.start.max(after),
            Some(_) | None => own.start,
        };
        let start = start.min(running.at - 1);
        let repeats = !is_delta || instrument.kind == Kind::UpDownCounter;
        let temporality = match instrument.kind {
            Kind::Gauge | Kind::UpDownCounter => Temporality::Cumulative,
            Kind::Counter | Kind::Histogram { .. } | Kind::ExponentialHistogram => self.settings.temporality,
        };
        let said = |own: &ModelSeries, value, start, time, exemplars| Said {
            worker: worker.clone(),
            pool: pool.clone(),
            name: instrument.name.to_string(),
            in_prometheus: names_in_prometheus(&instrument),
            temporality,
            attributes: own.attributes.clone(),
            start,
            time,
            value,
            exemplars,
        };
        let is_idle = running.mono.saturating_sub(own.last_arrival) >= idle;
        if !own.is_measured && (is_idle || is_retired || (running.ending && is_deserted)) {
            let start = if instrument.kind == Kind::Gauge { running.at } else { start };
            let last = said(own, None, start, running.at, Vec::new());
            let stream = own_stream;
            stream.series.retain(|(serial, _)| *serial != series);
            // A stream without series is gone at once: the next measurement makes another.
            if stream.series.is_empty() {
                own_instance.streams.retain(|(_, stream)| !stream.series.is_empty());
            }
            return Some(last);
        }
        if !own.is_measured && !repeats {
            return None;
        }
        own.is_measured = false;
        if let Some(kept) = own.gauge {
            let time = kept.time.clamp(running.since, running.at);
            return Some(said(own, Some(Value::Number(kept.value)), time, time, Vec::new()));
        }
        own.start = start;
        let value = value(&instrument.kind, &own.all[own.from..]);
        let offers = std::mem::take(&mut own.offers);
        let since = running.since.max(own.start + 1).min(running.at);
        let exemplars = exemplars(&instrument.kind, &value, &offers, since, running.at);
        let point = said(own, Some(value), own.start, running.at, exemplars);
        if !repeats {
            own.from = own.all.len();
            own.start = running.at;
        }
        Some(point)
    }
}

fn value(kind: &Kind, all: &[Measurement]) -> Value {
    let numbers: Vec<f64> = all.iter().map(|one| one.value.as_f64()).collect();
    let count: u64 = all.iter().map(|one| one.times).sum();
    let has_sum = numbers.iter().all(|number| *number >= 0.0);
    let sum = || all.iter().map(|one| one.value.as_f64() * one.times as f64).sum::<f64>();
    let least = numbers.iter().copied().reduce(f64::min);
    let greatest = numbers.iter().copied().reduce(f64::max);
    match kind {
        Kind::Counter | Kind::UpDownCounter => {
            let whole = |one: &Measurement| match one.value {
                Number::Int(int) => Some(int * one.times as i64),
                Number::Float(_) => None,
            };
            let whole: Option<i64> = all.iter().map(whole).sum();
            Value::Number(whole.map_or_else(|| Number::Float(sum()), Number::Int))
        }
        Kind::Gauge => unreachable!("a gauge keeps one"),
        Kind::Histogram { boundaries } => {
            let mut counts = vec![0; boundaries.len() + 1];
            for one in all {
                counts[fixed_bucket(boundaries, one.value.as_f64())] += one.times;
            }
            let counts = if boundaries.is_empty() { Vec::new() } else { counts };
            Value::Buckets(count, has_sum.then(sum), least, greatest, counts)
        }
        Kind::ExponentialHistogram => {
            let fits = |scale: &i32| {
                [false, true].iter().all(|sign| {
                    let indexes =
                        || numbers.iter().filter(|n| (**n < 0.0) == *sign).filter_map(|n| index(*n, *scale));
                    indexes().max().zip(indexes().min()).is_none_or(|(max, min)| max - min < 160)
                })
            };
            let scale = (-10..=20).rev().find(fits).unwrap();
            let mut buckets: BTreeMap<(bool, i32), u64> = BTreeMap::new();
            let mut zeros = 0;
            for one in all {
                let value = one.value.as_f64();
                match index(value, scale) {
                    Some(index) => *buckets.entry((value < 0.0, index)).or_default() += one.times,
                    None => zeros += one.times,
                }
            }
            let buckets = buckets.into_iter().map(|((sign, index), count)| (sign, index, count)).collect();
            Value::Exponential(count, has_sum.then(sum), least, greatest, scale, zeros, buckets)
        }
    }
}

fn fixed_bucket(boundaries: &[f64], value: f64) -> usize {
    boundaries.iter().position(|bound| value <= *bound).unwrap_or(boundaries.len())
}

/// By the definition, with logarithms; powers of two are exact.
fn index(value: f64, scale: i32) -> Option<i32> {
    let magnitude = value.abs();
    (magnitude > 0.0).then(|| ((magnitude.log2() * f64::from(scale).exp2()).ceil() as i32) - 1)
}

/// The last offered of each bucket, by value.
fn exemplars(kind: &Kind, value: &Value, offers: &[(i64, Number)], since: i64, at: i64) -> Vec<(i64, f64)> {
    let bucket = |number: Number| {
        let number = number.as_f64();
        match (kind, value) {
            (Kind::Histogram { boundaries }, _) => (false, Some(fixed_bucket(boundaries, number) as i32)),
            (_, Value::Exponential(_, _, _, _, scale, ..)) => (number < 0.0, index(number, *scale)),
            _ => (false, None),
        }
    };
    let last_of_its_bucket = |(at, (_, number)): &(usize, &(i64, Number))| {
        offers[at + 1..].iter().all(|(_, later)| bucket(*later) != bucket(*number))
    };
    let mut kept: Vec<(i64, f64)> = offers
        .iter()
        .enumerate()
        .filter(last_of_its_bucket)
        .map(|(_, (time, number))| ((*time).clamp(since, at), number.as_f64()))
        .collect();
    kept.sort_by(|a, b| a.1.total_cmp(&b.1));
    kept
}

/// Metrics as the model says them.
pub(super) fn flattened(metrics: &[Metric]) -> Vec<Said> {
    metrics.iter().flat_map(said_by).collect()
}

fn said_by(metric: &Metric) -> Vec<Said> {
    let head = |attributes: &Attributes, start: UnixNanos, time: UnixNanos, exemplars: &[Exemplar]| Said {
        worker: metric.source.worker_id.to_string(),
        pool: metric.source.pool.as_deref().unwrap_or_default().to_owned(),
        name: metric.instrument.name.to_string(),
        in_prometheus: names_in_prometheus(&metric.instrument),
        temporality: metric.temporality,
        attributes: match attributes.value(OVERFLOW_KEY) {
            Some(_) => "overflow".to_owned(),
            None => attributes
                .iter()
                .map(|(key, value)| {
                    let AttributeValue::Text(value) = value else { panic!("{value:?}") };
                    format!("{key}={value};")
                })
                .collect(),
        },
        start: start.0,
        time: time.0,
        value: None,
        exemplars: exemplars.iter().map(|exemplar| (exemplar.time.0, exemplar.value.as_f64())).collect(),
    };
    match &metric.points {
        Points::Gauge(points) | Points::Sum(points) => points
            .iter()
            .map(|point| Said {
                value: point.value.map(Value::Number),
                ..head(&point.attributes, point.start, point.time, &point.exemplars)
            })
            .collect(),
        Points::Histogram(points) => points
            .iter()
            .map(|point| Said {
                value: point
                    .value
                    .clone()
                    .map(|value| Value::Buckets(value.count, value.sum, value.min, value.max, value.counts)),
                ..head(&point.attributes, point.start, point.time, &point.exemplars)
            })
            .collect(),
        Points::Exponential(points) => points
            .iter()
            .map(|point| Said {
                value: point.value.clone().map(|value| {
                    let mut buckets = Vec::new();
                    for (sign, range) in [(false, &value.positive), (true, &value.negative)] {
                        let filled = (range.offset..).zip(&range.counts).filter(|(_, count)| **count > 0);
                        buckets.extend(filled.map(|(index, count)| (sign, index, *count)));
                    }
                    let zeros = value.zero_count;
                    let (sum, min, max) = (value.sum, value.min, value.max);
                    Value::Exponential(value.count, sum, min, max, value.scale, zeros, buckets)
                }),
                ..head(&point.attributes, point.start, point.time, &point.exemplars)
            })
            .collect(),
    }
}
