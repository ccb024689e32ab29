//! Laws of the engine, whatever arrives. `PROPTEST_CASES` says how many streams are tried.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use snakepit_otel_bridge::control::policy::{Policy, Rate};
use snakepit_otel_bridge::engine::metrics::point::{Metric, Points};
use snakepit_otel_bridge::engine::metrics::settings::{ExemplarFilter, MetricSettings, Temporality};
use snakepit_otel_bridge::engine::sampler::Sampler;
use snakepit_otel_bridge::engine::settings::{ExceptionSignal, Limits};
use snakepit_otel_bridge::engine::span::SpanId;
use snakepit_otel_bridge::engine::{
    Engine, Input, Output, RESTORED_GRACE, Settings, Span, StreamId, Warning,
};
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};
use snakepit_otel_bridge::worker::{Identity, WorkerKey};

use super::bench_worker::{EPOCH, MS, Number, SECOND, Sent, US, event, measured_points, text};

/// The reorder window, which the laws' tests leave as it is.
const WINDOW: Duration = Duration::from_millis(500);

/// An event's own time.
#[derive(Debug, Clone, Copy)]
enum At {
    /// From now.
    Near(i64),
    /// From the beginning, so that equal times recur.
    Fixed(i64),
    /// Anything.
    Garbage(i64),
}

/// One event. Names, ids and times are few, so that everything collides with everything.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    phase: &'static str,
    operation: &'static str,
    correlation_id: &'static str,
    at: At,
    duration: Option<i64>,
    monotonic: Option<i64>,
    identity: Option<u8>,
    token: Option<u8>,
    trace: Option<u8>,
    note: Option<u8>,
    /// A measurement beside the times.
    hits: Option<i64>,
}

/// What happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Send(u64, Spec),
    /// An event that was sent before comes again, as it was.
    Again(u64, prop::sample::Index),
    Pass(u64),
    Open(u64, Rules),
    Close(u64),
    Supersede(u64),
    Evict(usize),
    Unreadable(u64),
    Collect,
    CollectMore,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Rules {
    Everything,
    Half,
    Nothing,
    Filtered,
}

fn near() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => prop::sample::select(vec![0, US, 3 * US, 20 * US, MS, 2 * MS, 5 * MS, 9 * MS]),
        2 => -3 * MS..3 * MS,
        1 => prop::sample::select(vec![-SECOND, SECOND, 30 * SECOND]),
    ]
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        6 => near().prop_map(At::Near),
        4 => near().prop_map(At::Fixed),
        1 => any::<i64>().prop_map(At::Garbage),
        1 => prop::sample::select(vec![i64::MIN, -1, 0, i64::MAX]).prop_map(At::Garbage),
    ]
}

fn duration() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        1 => Just(None),
        8 => near().prop_map(Some),
        1 => any::<i64>().prop_map(Some),
        1 => prop::sample::select(vec![i64::MIN, -1, i64::MAX]).prop_map(Some),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    let few = |percent: u32| prop::option::weighted(f64::from(percent) / 100.0, 0u8..3);
    let what = (
        prop::sample::select(vec!["start", "start", "start", "stop", "stop", "exception", "note"]),
        prop::sample::select(vec!["a", "b", "c"]),
        prop::sample::select(vec!["", "c", "d", "4bf92f3577b34da6a3ce929d0e0e4736"]),
    );
    let clocks = (at(), duration(), prop::option::weighted(0.2, 0..3 * US));
    let hits = prop::option::weighted(0.5, 0..1_000_i64);
    (what, clocks, (few(20), few(10), few(15), few(40)), hits).prop_map(|(what, clocks, ids, hits)| Spec {
        phase: what.0,
        operation: what.1,
        correlation_id: what.2,
        at: clocks.0,
        duration: clocks.1,
        monotonic: clocks.2,
        identity: ids.0,
        token: ids.1,
        trace: ids.2,
        note: ids.3,
        hits,
    })
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let stream = || prop_oneof![6 => Just(1u64), 1 => Just(2), 1 => Just(3)];
    let wait = prop_oneof![
        6 => 0u64..300,
        2 => 300u64..1_200,
        1 => prop::sample::select(vec![500, 1_000, 4_999, 5_001, 30_000, 601_000, 3_700_000]),
    ];
    let rules = prop::sample::select(vec![
        Rules::Everything,
        Rules::Everything,
        Rules::Half,
        Rules::Nothing,
        Rules::Filtered,
    ]);
    prop_oneof![
        30 => (stream(), spec()).prop_map(|(stream, spec)| Step::Send(stream, spec)),
        4 => (stream(), any::<prop::sample::Index>()).prop_map(|(stream, index)| Step::Again(stream, index)),
        10 => wait.prop_map(Step::Pass),
        2 => (stream(), rules).prop_map(|(stream, rules)| Step::Open(stream, rules)),
        1 => stream().prop_map(Step::Close),
        1 => stream().prop_map(Step::Supersede),
        1 => (1usize..4).prop_map(Step::Evict),
        1 => stream().prop_map(Step::Unreadable),
        2 => Just(Step::Collect),
        2 => Just(Step::CollectMore),
    ]
}

pub(super) fn limits() -> impl Strategy<Value = Limits> {
    let small = |limits: (usize, usize, usize, usize, usize, usize, usize)| Limits {
        max_open_spans_per_worker: limits.0,
        max_uncertain_per_worker: limits.1,
        max_waiting_per_worker: limits.2,
        max_held_per_worker: limits.3,
        max_duplicates_per_worker: limits.4,
        max_closed_per_worker: limits.5,
        max_span_events: limits.6,
        max_open_bytes_per_worker: 6_000,
        ..Limits::default()
    };
    let of = |most: usize| 1..=most;
    prop_oneof![Just(Limits::default()), (of(6), of(3), of(4), of(4), of(8), of(6), of(2)).prop_map(small),]
}

/// Nothing but spans is made, or everything.
pub(super) fn signals() -> impl Strategy<Value = Settings> {
    let temporality = prop_oneof![Just(Temporality::Cumulative), Just(Temporality::Delta)];
    let filter = prop_oneof![
        Just(ExemplarFilter::TraceBased),
        Just(ExemplarFilter::AlwaysOn),
        Just(ExemplarFilter::AlwaysOff)
    ];
    let sizes = prop_oneof![Just((2000, 1000)), (1..3usize, 1..4usize)];
    let metrics = (temporality, filter, sizes).prop_map(|(temporality, exemplars, sizes)| MetricSettings {
        temporality,
        exemplars,
        max_series: sizes.0,
        max_instruments_per_worker: sizes.1,
        series_idle: Duration::from_secs(300),
        ..MetricSettings::default()
    });
    let exceptions = prop_oneof![
        Just(ExceptionSignal::SpanEvent),
        Just(ExceptionSignal::Record),
        Just(ExceptionSignal::Both)
    ];
    (limits(), prop::option::weighted(0.7, metrics), any::<bool>(), exceptions, any::<bool>()).prop_map(
        |(limits, metrics, records, exception_signal, has_traces)| Settings {
            limits,
            metrics,
            records,
            exception_signal,
            sampler: has_traces.then(Sampler::default),
            ..Settings::default()
        },
    )
}

/// An engine, what it is told, and everything that it said.
pub(super) struct World {
    pub(super) engine: Engine,
    limits: Limits,
    pub(super) now: Now,
    sent: Vec<Sent>,
    /// The measurements of the standalone events that were taken.
    measured: Vec<Option<i64>>,
    /// With the time at which they came.
    pub(super) outputs: Vec<(Monotonic, Output)>,
}

impl World {
    pub(super) fn with(settings: Settings) -> Self {
        let limits = settings.limits.clone();
        let now = Now { mono: Monotonic(0), wall: UnixNanos(EPOCH) };
        let engine = Engine::new(Arc::new(settings), 0);
        Self { engine, limits, now, sent: Vec::new(), measured: Vec::new(), outputs: Vec::new() }
    }

    /// Streams 1 and 2 are one worker's, 3 is another's.
    fn worker(stream: u64) -> WorkerKey {
        let id = if stream == 3 { "worker_2" } else { "worker_1" };
        WorkerKey { node: Arc::from("host"), id: Arc::from(id), pid: Some(4711) }
    }

    pub(super) fn open(&mut self, stream: u64, rules: Rules) {
        let everything = Policy::default();
        let policy = match rules {
            Rules::Everything => everything,
            Rules::Half => Policy { sampling_rate: Rate::new(0.5).expect("a rate"), ..everything },
            Rules::Nothing => Policy { enabled: false, ..everything },
            Rules::Filtered => Policy { blocked_events: vec!["b.*".to_owned()], ..everything },
        };
        let identity = Arc::new(Identity { id_by_header: true, ..Identity::default() });
        let worker = Self::worker(stream);
        self.handle(Input::StreamOpened {
            stream: StreamId(stream),
            worker,
            identity,
            policy: Arc::new(policy),
        });
    }

    pub(super) fn take(&mut self, step: &Step) {
        match step {
            Step::Send(stream, spec) => {
                let sent = self.event(spec);
                self.sent.push(sent.clone());
                self.send(*stream, &sent);
            }
            Step::Again(stream, index) => {
                if !self.sent.is_empty() {
                    let sent = index.get(&self.sent).clone();
                    self.send(*stream, &sent);
                }
            }
            Step::Pass(millis) => self.pass(Duration::from_millis(*millis)),
            Step::Open(stream, rules) => self.open(*stream, *rules),
            Step::Close(stream) => self.handle(Input::StreamClosed { stream: StreamId(*stream) }),
            Step::Supersede(stream) => self.handle(Input::Superseded { worker: Self::worker(*stream) }),
            Step::Collect => self.handle(Input::Collect { at: self.now.wall }),
            Step::CollectMore => self.handle(Input::CollectMore),
            Step::Evict(spans) => self.handle(Input::Evict { spans: *spans }),
            Step::Unreadable(stream) => self.handle(Input::Unreadable {
                stream: StreamId(*stream),
                reason: snakepit_otel_bridge::drops::DropReason::Malformed,
            }),
        }
    }

    /// What the bridge says to its engines after it recovered.
    pub(super) fn recover(&mut self) {
        self.engine.streams_lost(self.now, RESTORED_GRACE);
        self.look();
    }

    fn event(&self, spec: &Spec) -> Sent {
        let mut sent = event(&format!("{}.{}", spec.operation, spec.phase), 0).corr(spec.correlation_id);
        sent.timestamp = match spec.at {
            At::Near(offset) => self.now.wall.0.saturating_add(offset),
            At::Fixed(offset) => EPOCH + offset,
            At::Garbage(at) => at,
        };
        let is_end = matches!(spec.phase, "stop" | "exception");
        let duration = spec.duration.filter(|_| is_end);
        sent.measurements.extend(duration.map(|duration| ("duration".to_owned(), Number::Int(duration))));
        if let Some(monotonic) = spec.monotonic {
            sent = sent.int("monotonic_time", monotonic.saturating_add(duration.unwrap_or(0)));
        }
        if let Some(id) = spec.identity {
            sent = sent.identity(9, id + 1, id.checked_sub(1).map(|parent| parent + 1));
        }
        if let Some(token) = spec.token {
            sent = sent.meta("telemetry_span_context", &format!("#Ref<{token}>"));
        }
        if let Some(trace) = spec.trace {
            sent = sent.meta("traceparent", &format!("00-{trace:031x}7-00f067aa0ba902b7-01"));
        }
        if let Some(note) = spec.note {
            sent = sent.meta("note", &note.to_string()).meta("tool", &note.to_string());
        }
        if let Some(hits) = spec.hits {
            sent = sent.int("hits", hits);
        }
        sent
    }

    fn send(&mut self, stream: u64, sent: &Sent) {
        let before = self.engine.ledger().standalone;
        let (engine, now) = (&mut self.engine, self.now);
        sent.with(|event| engine.handle(Input::Event { stream: StreamId(stream), event }, now));
        if sent.parts.last().is_some_and(|last| last == "note") && self.engine.ledger().standalone > before {
            let hits = sent.measurements.iter().find(|(key, _)| key == "hits");
            self.measured.push(hits.map(|(_, value)| match value {
                Number::Int(hits) => *hits,
                Number::Float(_) | Number::Text(_) => panic!("{value:?}"),
            }));
        }
        let most = 2 * self.limits.max_open_bytes_per_worker;
        let bytes = self.engine.occupancy().open_bytes;
        assert!(bytes <= most, "{bytes} bytes of two workers, not more than {most}");
        self.look();
    }

    pub(super) fn handle(&mut self, input: Input<'_, '_>) {
        self.engine.handle(input, self.now);
        self.look();
    }

    /// What holds at every instant.
    fn look(&mut self) {
        while let Some(output) = self.engine.next_output() {
            if let Output::Span(span) = &output {
                assert!(span.end > span.start, "{span:?}");
                assert!(span.trace_id.0 != [0; 16] && span.span_id.0 != [0; 8], "{span:?}");
            }
            if let Output::Record(record) = &output {
                assert!(record.trace.is_none_or(|trace| trace.trace_id.0 != [0; 16]), "{record:?}");
            }
            // What was said may be said again after a restart.
            if !matches!(
                output,
                Output::Warning(Warning::SeriesOverflow { .. } | Warning::TooManyInstruments { .. })
            ) {
                self.outputs.push((self.now.mono, output));
            }
        }
        let ledger = self.engine.ledger();
        assert!(ledger.adds_up(), "{ledger:?}");
        let pending = self.limits.max_open_spans_per_worker + 2 * self.limits.max_waiting_per_worker;
        for worker in self.engine.workers(self.now) {
            assert!(worker.ledger.adds_up(), "{worker:?}");
            assert!(worker.ledger.pending <= pending as u64, "{worker:?}");
            assert!(worker.open_spans <= self.limits.max_open_spans_per_worker, "{worker:?}");
        }
    }

    pub(super) fn pass(&mut self, wait: Duration) {
        let until = self.now.mono.after(wait);
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.set_time(at.max(self.now.mono));
            self.engine.handle_timeout(self.now);
            self.look();
            let (before, said) = (self.engine.ledger(), self.outputs.len());
            self.engine.handle_timeout(self.now);
            self.look();
            assert_eq!(
                (self.engine.ledger(), self.outputs.len()),
                (before, said),
                "idempotent at one instant"
            );
            assert!(
                self.engine.poll_timeout().is_none_or(|next| next > self.now.mono),
                "what was due is done"
            );
        }
        self.set_time(until);
    }

    fn set_time(&mut self, mono: Monotonic) {
        let wall = UnixNanos(EPOCH + i64::try_from(mono.0).expect("a test is short"));
        self.now = Now { mono, wall };
    }

    fn spans(&self) -> impl Iterator<Item = (Monotonic, &Span)> {
        self.outputs.iter().filter_map(|(at, output)| match output {
            Output::Span(span) => Some((*at, span)),
            Output::Metric(_) | Output::Record(_) | Output::WorkerForgotten { .. } | Output::Warning(_) => {
                None
            }
        })
    }

    /// Makes all points of now, once those of before are made.
    pub(super) fn collect(&mut self) {
        while self.engine.is_collecting() {
            self.handle(Input::CollectMore);
        }
        self.handle(Input::Collect { at: self.now.wall });
        while self.engine.is_collecting() {
            self.handle(Input::CollectMore);
        }
    }

    fn metrics(&self) -> impl Iterator<Item = &Metric> {
        self.outputs.iter().filter_map(|(_, output)| match output {
            Output::Metric(metric) => Some(metric),
            Output::Span(_) | Output::Record(_) | Output::WorkerForgotten { .. } | Output::Warning(_) => None,
        })
    }

    /// Plays everything, and lets it come to rest.
    fn played(settings: &Settings, steps: &[Step], is_shut_down: bool) -> Self {
        let mut world = Self::with(settings.clone());
        world.open(1, Rules::Everything);
        steps.iter().for_each(|step| world.take(step));
        if is_shut_down {
            world.handle(Input::Shutdown);
            assert_eq!(world.engine.ledger().pending, 0);
        }
        world.pass(Duration::from_secs(2 * 3600));
        world
    }
}

/// Given by a sender: every byte is the same.
fn is_explicit(id: SpanId) -> bool {
    id.0.iter().all(|byte| *byte == id.0[0])
}

/// Every inferred parent is a span of the same trace, and following parents comes to an end.
fn check_parents(world: &World) {
    let mut parents: BTreeMap<_, Option<SpanId>> = BTreeMap::new();
    for (_, span) in world.spans() {
        parents.insert((span.trace_id, span.span_id), span.parent_span_id);
    }
    for (_, span) in world.spans().filter(|(_, span)| text(span, "snakepit.parent").is_some()) {
        let mut at = span.parent_span_id;
        assert!(at.is_some_and(|parent| parents.contains_key(&(span.trace_id, parent))), "{span:#?}");
        let mut steps = 0;
        while let Some(parent) = at {
            steps += 1;
            assert!(steps <= parents.len(), "a circle: {span:#?}");
            at = parents.get(&(span.trace_id, parent)).copied().flatten();
        }
    }
}

/// Derived ids are kept from other spans while anything remembers them.
fn check_ids(world: &World) {
    let mut seen: BTreeMap<SpanId, Monotonic> = BTreeMap::new();
    for (at, span) in world.spans().filter(|(_, span)| !is_explicit(span.span_id)) {
        if let Some(before) = seen.insert(span.span_id, at) {
            assert!(at >= before.after(WINDOW), "the same id again: {span:#?}");
        }
    }
}

pub(super) fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// At every instant the sums add up and the limits hold; every span ends after it starts; at the end nothing is
    /// left in any table, nothing is due, and nothing comes any more.
    #[test]
    fn everything_is_counted_bounded_and_forgotten(
        settings in signals(),
        steps in prop::collection::vec(step(), 0..120),
        is_shut_down: bool,
    ) {
        let mut world = World::played(&settings, &steps, is_shut_down);
        prop_assert_eq!(world.engine.residue(), 0, "{:#?}", world.engine);
        prop_assert_eq!(world.engine.poll_timeout(), None);
        let (ledger, said) = (world.engine.ledger(), world.outputs.len());
        prop_assert_eq!(ledger.pending, 0);
        world.set_time(world.now.mono.after(Duration::from_secs(365 * 86_400)));
        world.engine.handle_timeout(world.now);
        world.look();
        prop_assert_eq!((world.engine.ledger(), world.outputs.len()), (ledger, said));
        prop_assert_eq!(world.spans().count() as u64, ledger.spans_made);
        prop_assert_eq!(world.engine.occupancy().open_bytes, 0);
        let made = |is_made: fn(&Output) -> bool| world.outputs.iter().filter(|(_, output)| is_made(output)).count();
        prop_assert_eq!(made(|output| matches!(output, Output::Record(_))) as u64, ledger.records_made);
        prop_assert_eq!(world.metrics().map(Metric::len).sum::<usize>() as u64, ledger.points_made);
        // Once nobody is left, all series are exported once more, then ended, then forgotten.
        (1..=3).for_each(|stream| world.take(&Step::Close(stream)));
        world.pass(Duration::from_secs(2 * 3600));
        (0..3).for_each(|_| world.collect());
        let figures = world.engine.metric_figures();
        prop_assert_eq!((figures.instances, figures.instruments, figures.series), (0, 0, 0));
    }

    /// Every standalone event is in one point, and every span in one point of a duration or of the incomplete ones, whatever
    /// was collected when: differences add up, and so do the last points of all that has a start of its own.
    #[test]
    fn points_add_up_to_the_events(
        settings in signals(),
        is_delta: bool,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let metrics = MetricSettings {
            temporality: if is_delta { Temporality::Delta } else { Temporality::Cumulative },
            max_instruments_per_worker: 1000,
            ..settings.metrics.clone().unwrap_or_default()
        };
        let mut world = World::played(&Settings { metrics: Some(metrics), ..settings }, &steps, true);
        world.collect();
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        let mut so_far: BTreeMap<_, f64> = BTreeMap::new();
        for metric in world.metrics() {
            let name = metric.instrument.name.strip_prefix("snakepit.python.").expect("the prefix");
            // Spans have hits of their own.
            let (of, last) = name.rsplit_once('.').expect("an event and a measurement");
            if last == "hits" && !of.ends_with("note") {
                continue;
            }
            for (attributes, measured) in measured_points(&metric.points) {
                // The last point of a series says nothing but that it ends.
                let Some(value) = measured.value else { continue };
                let is_histogram = matches!(metric.points, Points::Histogram(_));
                let value = if is_histogram { f64::from(u32::try_from(measured.count).expect("few")) } else { value };
                let series = (metric.source.instance_id(), name, attributes, measured.start);
                let before = so_far.insert(series, value).filter(|_| !is_delta);
                *sums.entry(last).or_default() += value - before.unwrap_or(0.0);
            }
        }
        let sum = |name: &str| sums.get(name).copied().unwrap_or(0.0);
        let ledger = world.engine.ledger();
        let hits: i64 = world.measured.iter().filter_map(|hits| *hits).sum();
        let happenings = world.measured.iter().filter(|hits| hits.is_none()).count();
        prop_assert_eq!(sum("count"), happenings as f64);
        prop_assert_eq!(sum("hits") as i64, hits, "{:?}", sums);
        prop_assert_eq!(ledger.standalone, world.measured.len() as u64);
        prop_assert_eq!((sum("duration") + sum("incomplete")) as u64, ledger.spans_made);
    }

    /// Spans are what they are whether metrics and records are made or not, and so is their fate.
    #[test]
    fn measuring_changes_no_span(mut settings in signals(), steps in prop::collection::vec(step(), 0..120)) {
        // What waits costs more where more is to become of it.
        settings.limits.max_open_bytes_per_worker = Limits::default().max_open_bytes_per_worker;
        let with = World::played(&Settings { exception_signal: ExceptionSignal::SpanEvent, ..settings.clone() }, &steps, true);
        let settings = Settings { metrics: None, records: false, ..settings };
        let without = World::played(&settings, &steps, true);
        let (one, other) = (with.engine.ledger(), without.engine.ledger());
        prop_assert_eq!(
            (one.received, one.paired, one.rebuilt, one.incomplete),
            (other.received, other.paired, other.rebuilt, other.incomplete)
        );
        let ids = |world: &World| -> Vec<_> {
            world.spans().map(|(at, span)| (at, span.trace_id, span.span_id, span.events.len())).collect()
        };
        prop_assert_eq!(ids(&with), ids(&without));
    }

    /// The same inputs at the same times make the same outputs, ids and order included.
    #[test]
    fn a_replay_says_the_same(settings in signals(), steps in prop::collection::vec(step(), 0..80)) {
        let (first, second) =
            (World::played(&settings, &steps, true), World::played(&settings, &steps, true));
        prop_assert_eq!(first.outputs, second.outputs);
        prop_assert_eq!(first.engine.ledger(), second.engine.ledger());
    }

    /// Every inferred parent is a span that was exported in the same trace, and nobody is their own ancestor; a derived
    /// id belongs to one span.
    #[test]
    fn parents_exist_and_ids_are_unique(limits in limits(), steps in prop::collection::vec(step(), 0..120)) {
        let world = World::played(&Settings { limits, ..Settings::default() }, &steps, true);
        check_parents(&world);
        check_ids(&world);
    }
}
