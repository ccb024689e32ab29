//! One worker, one engine, virtual time: tests read as a script of what arrived when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use snakepit_otel_bridge::control::policy::{Policy, Rate};
use snakepit_otel_bridge::engine::attributes::{AttributeValue, Attributes};
use snakepit_otel_bridge::engine::metrics::point::{Exemplar, Metric, Points};
use snakepit_otel_bridge::engine::record::LogRecord;
use snakepit_otel_bridge::engine::{
    Damage, Engine, EventLedger, Input, Output, RESTORED_GRACE, Settings, Span, StreamId,
};
use snakepit_otel_bridge::event::{Event, SpanIdentity, Value};
use snakepit_otel_bridge::store::{RowKey, ShardCheckpoint};
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};
use snakepit_otel_bridge::worker::{Identity, WorkerKey};

/// The wall clock when a test begins.
pub(crate) const EPOCH: i64 = 1_790_000_000_000_000_000;
pub(crate) const US: i64 = 1_000;
pub(crate) const MS: i64 = 1_000_000;
pub(crate) const SECOND: i64 = 1_000_000_000;

/// An event under construction; times are nanoseconds since [`EPOCH`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sent {
    pub(crate) parts: Vec<String>,
    pub(crate) measurements: Vec<(String, Number)>,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) timestamp: i64,
    pub(crate) correlation_id: String,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
    Text(String),
}

/// An event of this dotted name at `at`.
pub(crate) fn event(name: &str, at: i64) -> Sent {
    Sent {
        parts: name.split('.').map(str::to_owned).collect(),
        measurements: Vec::new(),
        metadata: Vec::new(),
        timestamp: EPOCH + at,
        correlation_id: String::new(),
        identity: None,
    }
}

/// A start as the emitters send it: `system_time`, stamped half a microsecond later.
pub(crate) fn start(operation: &str, at: i64) -> Sent {
    let mut sent = event(&format!("{operation}.start"), at);
    sent.timestamp += 500;
    sent.int("system_time", EPOCH + at)
}

/// A stop of a span that began at `began` and lasted `duration`, stamped half a microsecond after it was measured.
pub(crate) fn stop(operation: &str, began: i64, duration: i64) -> Sent {
    event(&format!("{operation}.stop"), began + duration + 500).int("duration", duration)
}

impl Sent {
    pub(crate) fn int(mut self, key: &str, value: i64) -> Self {
        self.measurements.push((key.to_owned(), Number::Int(value)));
        self
    }

    pub(crate) fn float(mut self, key: &str, value: f64) -> Self {
        self.measurements.push((key.to_owned(), Number::Float(value)));
        self
    }

    pub(crate) fn text(mut self, key: &str, value: &str) -> Self {
        self.measurements.push((key.to_owned(), Number::Text(value.to_owned())));
        self
    }

    pub(crate) fn meta(mut self, key: &str, value: &str) -> Self {
        self.metadata.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn corr(mut self, id: &str) -> Self {
        id.clone_into(&mut self.correlation_id);
        self
    }

    pub(crate) fn identity(mut self, trace: u8, span: u8, parent: Option<u8>) -> Self {
        let parent = parent.map_or(Vec::new(), |parent| vec![parent; 8]);
        self.identity = Some((vec![trace; 16], vec![span; 8], parent));
        self
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&Event<'_>) -> T) -> T {
        let event = Event {
            parts: self.parts.iter().map(String::as_str).collect(),
            measurements: self
                .measurements
                .iter()
                .map(|(key, value)| {
                    let value = match value {
                        Number::Int(int) => Value::Int(*int),
                        Number::Float(float) => Value::Float(*float),
                        Number::Text(text) => Value::Text(text),
                    };
                    (key.as_str(), value)
                })
                .collect(),
            metadata: self.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            timestamp_ns: self.timestamp,
            correlation_id: &self.correlation_id,
            span: self.identity.as_ref().map(|(trace_id, span_id, parent_span_id)| SpanIdentity {
                trace_id,
                span_id,
                parent_span_id,
                ..SpanIdentity::default()
            }),
        };
        act(&event)
    }
}

/// What a store has of an engine.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Disk {
    pub(crate) head: Vec<u8>,
    pub(crate) rows: BTreeMap<RowKey, Vec<u8>>,
}

impl Disk {
    /// As a store does it.
    pub(crate) fn apply(&mut self, checkpoint: ShardCheckpoint) {
        if checkpoint.replaces_all {
            self.rows.clear();
        }
        self.rows.extend(checkpoint.puts);
        for key in checkpoint.deletes {
            assert!(self.rows.remove(&key).is_some(), "only what was written is deleted, and once: {key:?}");
        }
        self.head = checkpoint.head;
    }

    pub(crate) fn restored(&self, settings: &Arc<Settings>) -> (Engine, Damage) {
        let rows = self.rows.clone().into_iter();
        let restored = Engine::restore(Arc::clone(settings), 0, &self.head, rows).expect("a whole head");
        (restored.engine, restored.damage)
    }
}

/// An engine with one connected worker.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    settings: Arc<Settings>,
    disk: Disk,
    now: Now,
    /// Nanoseconds for which the bridge did not run.
    downtime: i64,
    pub(crate) spans: Vec<Span>,
    /// Of the last collection.
    pub(crate) metrics: Vec<Metric>,
    pub(crate) records: Vec<LogRecord>,
    pub(crate) others: Vec<Output>,
    identity: Identity,
    policy: Policy,
}

pub(crate) const STREAM: StreamId = StreamId(1);

pub(crate) fn key() -> WorkerKey {
    WorkerKey { node: Arc::from("host"), id: Arc::from("worker_1"), pid: Some(4711) }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {}, |_, _| {})
    }

    pub(crate) fn with(
        settings: impl FnOnce(&mut Settings),
        worker: impl FnOnce(&mut Identity, &mut Policy),
    ) -> Self {
        let mut chosen = Settings::default();
        settings(&mut chosen);
        let mut identity = Identity { id_by_header: true, same_host: true, ..Identity::default() };
        let mut policy = Policy::default();
        worker(&mut identity, &mut policy);
        let now = Now { mono: Monotonic(0), wall: UnixNanos(EPOCH) };
        let settings = Arc::new(chosen);
        let mut bench = Self {
            engine: Engine::new(Arc::clone(&settings), 0),
            settings,
            disk: Disk::default(),
            now,
            downtime: 0,
            spans: Vec::new(),
            metrics: Vec::new(),
            records: Vec::new(),
            others: Vec::new(),
            identity,
            policy,
        };
        bench.connect(STREAM);
        bench
    }

    /// A worker that samples per event.
    pub(crate) fn sampling(rate: f64) -> Self {
        Self::with(|_| {}, |_, policy| policy.sampling_rate = Rate::new(rate).expect("a rate"))
    }

    pub(crate) fn connect(&mut self, stream: StreamId) {
        let opened = Input::StreamOpened {
            stream,
            worker: key(),
            identity: Arc::new(self.identity.clone()),
            policy: Arc::new(self.policy.clone()),
        };
        self.handle(opened);
    }

    /// Whoever restarts next has other settings.
    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::clone(&self.settings);
        change(&mut settings);
        self.settings = Arc::new(settings);
    }

    /// What a store has after another checkpoint.
    pub(crate) fn checkpoint(&mut self) -> Disk {
        self.disk.apply(self.engine.checkpoint());
        self.disk.clone()
    }

    /// The bridge ends without a word and is back at once; it recovers from a checkpoint of its last instant.
    pub(crate) fn restart(&mut self) -> &mut Self {
        let disk = self.checkpoint();
        assert_eq!(self.restart_from(&disk), Damage::default());
        self
    }

    /// The same, and it takes its time.
    pub(crate) fn restart_after(&mut self, downtime: Duration) -> &mut Self {
        self.downtime += i64::try_from(downtime.as_nanos()).expect("a test is short");
        self.set_time(self.now.mono);
        self.restart()
    }

    pub(crate) fn restart_from(&mut self, disk: &Disk) -> Damage {
        let (engine, damage) = disk.restored(&self.settings);
        self.engine = engine;
        damage
    }

    /// What the bridge says to its engines after it recovered.
    pub(crate) fn streams_lost(&mut self) {
        self.engine.streams_lost(self.now, RESTORED_GRACE);
        self.collect();
    }

    pub(crate) fn now(&self) -> Now {
        self.now
    }

    /// Another stream of the worker, under a policy that was changed.
    pub(crate) fn policy(&mut self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.policy);
        self.connect(STREAM);
    }

    pub(crate) fn disconnect(&mut self, stream: StreamId) {
        self.handle(Input::StreamClosed { stream });
    }

    pub(crate) fn handle(&mut self, input: Input<'_, '_>) {
        self.engine.handle(input, self.now);
        self.collect();
    }

    pub(crate) fn send(&mut self, sent: &Sent) -> &mut Self {
        self.send_on(STREAM, sent)
    }

    pub(crate) fn send_on(&mut self, stream: StreamId, sent: &Sent) -> &mut Self {
        let now = self.now;
        let engine = &mut self.engine;
        sent.with(|event| engine.handle(Input::Event { stream, event }, now));
        self.collect();
        self
    }

    /// Lets time pass, with every time-out at its time.
    pub(crate) fn pass(&mut self, wait: Duration) -> &mut Self {
        let until = self.now.mono.after(wait);
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.set_time(at.max(self.now.mono));
            self.engine.handle_timeout(self.now);
            let once = self.engine.ledger();
            self.collect();
            self.engine.handle_timeout(self.now);
            assert_eq!(self.engine.ledger(), once, "handle_timeout is idempotent at one instant");
            assert!(self.engine.next_output().is_none(), "handle_timeout is idempotent at one instant");
        }
        self.set_time(until);
        self
    }

    /// Arrival time becomes `at` nanoseconds after the beginning.
    pub(crate) fn arrive_at(&mut self, at: i64) -> &mut Self {
        let at = u64::try_from(at).expect("not before the beginning");
        self.pass(Duration::from_nanos(at.saturating_sub(self.now.mono.0)))
    }

    fn set_time(&mut self, mono: Monotonic) {
        let wall = EPOCH + self.downtime + i64::try_from(mono.0).expect("a test is short");
        self.now = Now { mono, wall: UnixNanos(wall) };
    }

    fn collect(&mut self) {
        while let Some(output) = self.engine.next_output() {
            match output {
                Output::Span(span) => {
                    assert!(span.end > span.start, "{span:?}");
                    self.spans.push(span);
                }
                Output::Metric(metric) => {
                    assert!(!metric.is_empty(), "{metric:?}");
                    self.metrics.push(metric);
                }
                Output::Record(record) => self.records.push(record),
                other @ (Output::WorkerForgotten { .. } | Output::Warning(_)) => self.others.push(other),
            }
        }
        let ledger = self.engine.ledger();
        assert!(ledger.adds_up(), "{ledger:?}");
    }

    pub(crate) fn oldest_open_age(&self) -> Duration {
        Duration::from_nanos(self.engine.oldest_open_age_ns(self.now))
    }

    /// Makes all points of a collection of now.
    pub(crate) fn measured(&mut self) -> &[Metric] {
        self.metrics.clear();
        self.handle(Input::Collect { at: self.now.wall });
        while self.engine.is_collecting() {
            self.handle(Input::CollectMore);
        }
        &self.metrics
    }

    /// The points of an instrument, without the prefix, in the last collection: attributes and values, in any order.
    pub(crate) fn points(&self, instrument: &str) -> BTreeMap<String, Measured> {
        let name = format!("snakepit.python.{instrument}");
        let metrics = self.metrics.iter().filter(|metric| *metric.instrument.name == *name);
        let mut found = BTreeMap::new();
        for (attributes, measured) in metrics.flat_map(|metric| measured_points(&metric.points)) {
            assert!(found.insert(attributes, measured).is_none(), "one point of a series in {name}");
        }
        found
    }

    pub(crate) fn ledger(&self) -> EventLedger {
        self.engine.ledger()
    }

    /// Everything that is held is judged; spans by start.
    pub(crate) fn settled(&mut self) -> &[Span] {
        self.pass(Duration::from_secs(3));
        self.spans.sort_by_key(|span| span.start);
        &self.spans
    }

    /// The only span.
    pub(crate) fn only_span(&mut self) -> Span {
        self.settled();
        let [span] = &self.spans[..] else { panic!("one span: {:#?}", self.spans) };
        span.clone()
    }

    pub(crate) fn span(&self, operation: &str) -> &Span {
        let name = format!("snakepit.python.{operation}");
        let mut found = self.spans.iter().filter(|span| *span.name == *name);
        let span = found.next().unwrap_or_else(|| panic!("{name} among {:#?}", self.spans));
        assert!(found.next().is_none(), "one {name} among {:#?}", self.spans);
        span
    }
}

/// Event times of a span since [`EPOCH`]: when it starts and how long it lasts.
pub(crate) fn times(span: &Span) -> (i64, i64) {
    (span.start.0 - EPOCH, span.end.since(span.start))
}

pub(crate) fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match span.attributes.value(key) {
        Some(AttributeValue::Text(text)) => Some(text),
        _ => None,
    }
}

/// What a point says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// Of sums and gauges the value; of histograms the sum.
    pub(crate) value: Option<f64>,
    /// Of histograms.
    pub(crate) count: u64,
    pub(crate) start: i64,
    pub(crate) time: i64,
    pub(crate) exemplars: Vec<Exemplar>,
}

/// With the attributes as text.
pub(crate) fn measured_points(points: &Points) -> Vec<(String, Measured)> {
    let shown = |attributes: &Attributes| {
        let pairs: Vec<_> = attributes
            .iter()
            .map(|(key, value)| match value {
                AttributeValue::Text(text) => format!("{key}={text}"),
                AttributeValue::Int(_) | AttributeValue::Float(_) | AttributeValue::Bool(_) => {
                    format!("{key}={value:?}")
                }
            })
            .collect();
        pairs.join(",")
    };
    macro_rules! all {
        ($points:expr, $value:expr) => {
            $points
                .iter()
                .map(|point| {
                    let (value, count) = point.value.as_ref().map_or((None, 0), $value);
                    let measured = Measured {
                        value,
                        count,
                        start: point.start.0 - EPOCH,
                        time: point.time.0 - EPOCH,
                        exemplars: point.exemplars.clone(),
                    };
                    (shown(&point.attributes), measured)
                })
                .collect()
        };
    }
    match points {
        Points::Gauge(points) | Points::Sum(points) => all!(points, |value| (Some(value.as_f64()), 0)),
        Points::Histogram(points) => all!(points, |value| (value.sum, value.count)),
        Points::Exponential(points) => all!(points, |value| (value.sum, value.count)),
    }
}
