//! What a start makes again, and what it leaves out.

use prost::Message as _;
use smallvec::smallvec;

use super::*;
use crate::control::policy::Policy;
use crate::engine::Input;
use crate::engine::metrics::settings::MetricSettings;
use crate::event::Event;
use crate::exporter::signal::Signal;
use crate::proto::telemetry_value::Value;
use crate::proto::{TelemetryEvent, TelemetryValue};
use crate::shard::journal::{Happened, Journal};
use crate::shard::task::take_event;
use crate::store::{Origin, SpoolEntry, SpoolId, Store, StoreSettings};
use crate::time::UnixNanos;
use crate::worker::{Identity, WorkerKey};

const STREAM: StreamId = StreamId(1);

fn now(millis: u64) -> Now {
    let wall = 1_700_000_000_000_000_000 + (millis * 1_000_000).cast_signed();
    Now { mono: Monotonic(millis * 1_000_000), wall: UnixNanos(wall) }
}

fn settings() -> Arc<Settings> {
    Arc::new(Settings { metrics: Some(MetricSettings::default()), records: true, ..Settings::default() })
}

/// A shard that writes its journal, and everything that its engine made.
struct Life {
    engine: Engine,
    journal: Journal,
    made: Vec<(Signal, u64, Finished)>,
}

impl Life {
    fn begin(store: Store) -> Self {
        let settings = settings();
        let journal = Journal::new(0, store, fingerprint(&settings), Ordinals::default());
        Self { engine: Engine::new(settings, 0), journal, made: Vec::new() }
    }

    fn happen(&mut self, now: Now, happened: Happened<'_>, handle: impl FnOnce(&mut Engine)) {
        self.journal.note(now, happened);
        handle(&mut self.engine);
        let mut outputs = Vec::new();
        while let Some(output) = self.engine.next_output() {
            outputs.extend(Finished::of(output));
        }
        let mut count = Ordinals::default();
        for output in &outputs {
            count[output.signal()] += 1;
        }
        let (mut next, _) = self.journal.push(count);
        for output in outputs {
            let signal = output.signal();
            self.made.push((signal, next[signal], output));
            next[signal] += 1;
        }
    }

    fn open(&mut self) {
        let worker = WorkerKey { node: "n".into(), id: "w".into(), pid: Some(7) };
        let (identity, policy) = (Arc::new(Identity::default()), Arc::new(Policy::default()));
        let happened = Happened::Opened {
            stream: STREAM,
            worker: worker.clone(),
            identity: Arc::clone(&identity),
            policy: Arc::clone(&policy),
        };
        let input = Input::StreamOpened { stream: STREAM, worker, identity, policy };
        self.happen(now(0), happened, |engine| engine.handle(input, now(0)));
    }

    fn send(&mut self, at: Now, events: &[TelemetryEvent]) {
        let messages: Vec<bytes::Bytes> = events.iter().map(|event| event.encode_to_vec().into()).collect();
        self.happen(at, Happened::Messages { stream: STREAM, messages: (&messages[..]).into() }, |engine| {
            let mut event = Event::default();
            messages.iter().for_each(|message| take_event(engine, STREAM, message, &mut event, at));
        });
    }

    fn wait(&mut self, until: Now) {
        self.happen(until, Happened::Due, |engine| engine.handle_timeout(until));
    }

    fn collect(&mut self, at: Now) {
        self.happen(at, Happened::Collect { at: at.wall }, |engine| {
            engine.handle(Input::Collect { at: at.wall }, at);
        });
        while self.engine.is_collecting() {
            self.happen(at, Happened::CollectMore, |engine| engine.handle(Input::CollectMore, at));
        }
    }
}

fn event(name: &str, at: Now) -> TelemetryEvent {
    TelemetryEvent {
        event_parts: name.split('.').map(str::to_owned).collect(),
        timestamp_ns: at.wall.0,
        ..TelemetryEvent::default()
    }
}

fn measured(name: &str, at: Now, key: &str, value: i64) -> TelemetryEvent {
    let value = TelemetryValue { value: Some(Value::IntValue(value)) };
    TelemetryEvent { measurements: [(key.to_owned(), value)].into(), ..event(name, at) }
}

/// Spans, points and records of some seconds, journalled and then forgotten, as by a kill.
async fn life(dir: &std::path::Path) -> Vec<(Signal, u64, Finished)> {
    let store = open(dir).0;
    let mut life = Life::begin(store.clone());
    life.open();
    for round in 0..3 {
        let at = now(100 + round * 10_000);
        life.send(
            at,
            &[
                event("tool.run.start", at),
                measured("tool.run.stop", at, "duration", 1_000),
                measured("cache.lookup", at, "hits", 1),
                event("worker.note", at),
            ],
        );
        life.wait(now(5_000 + round * 10_000));
        life.collect(now(9_000 + round * 10_000));
    }
    assert!(store.close().await);
    for signal in Signal::ALL {
        let count = life.made.iter().filter(|(of, ..)| *of == signal).count();
        assert!(count >= 3, "{count} of {signal}");
    }
    life.made
}

fn open(dir: &std::path::Path) -> (Store, Recovered) {
    Store::open(StoreSettings::new(dir.to_owned(), Arc::new(crate::app::start_clock()))).unwrap()
}

/// What a start makes again of all that, and where the shard's numbers go on.
fn again(recovered: Recovered, settings: &Arc<Settings>) -> (Vec<(Signal, u64, Finished)>, Ordinals) {
    let (remade, beginning) = begin_again(recovered, settings);
    (remade, beginning.shards[0].next)
}

fn begin_again(
    mut recovered: Recovered,
    settings: &Arc<Settings>,
) -> (Vec<(Signal, u64, Finished)>, Beginning) {
    let mut remade = Vec::new();
    let beginning = recover(&mut recovered, settings, 1, now(60_000), |Remade { shard, ordinal, output }| {
        assert_eq!(shard, 0);
        remade.push((output.signal(), ordinal, output));
    });
    (remade, beginning)
}

#[tokio::test]
async fn a_replay_makes_the_same_spans_points_and_records_with_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let made = life(dir.path()).await;

    let (remade, _) = again(open(dir.path()).1, &settings());

    assert_eq!(remade, made);
}

/// The fate of one output of each signal is known, as settled or as a batch on disk: these are not made again, and nothing else
/// is taken for them.
#[tokio::test]
async fn what_has_its_fate_is_left_out_signal_by_signal() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = life(dir.path()).await;
    let mut recovered = open(dir.path()).1;
    let origin = |ordinal| Origin { shard: 0, ordinals: ordinal..ordinal + 1 };
    recovered.settled = vec![(Signal::Traces, origin(2)), (Signal::Metrics, origin(1))];
    recovered.spool = vec![SpoolEntry {
        id: SpoolId(0),
        signal: Signal::Logs,
        items: 1,
        bytes: 1,
        filled_at: UnixNanos(0),
        origins: smallvec![origin(0)],
    }];
    let known = [(Signal::Traces, 2), (Signal::Metrics, 1), (Signal::Logs, 0)];
    expected.retain(|(signal, ordinal, _)| !known.contains(&(*signal, *ordinal)));

    let (remade, _) = again(recovered, &settings());

    assert_eq!(remade, expected);
}

/// With other settings the same events may make something else: then no output passes for one whose fate is known, of any
/// signal.
#[tokio::test]
async fn numbers_of_another_run_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let made = life(dir.path()).await;
    let mut recovered = open(dir.path()).1;
    let ends = [(Signal::Traces, 40), (Signal::Metrics, 70), (Signal::Logs, 50)];
    let all = |end| Origin { shard: 0, ordinals: 0..end };
    recovered.settled = ends.map(|(signal, end)| (signal, all(end))).into();
    recovered.damaged.rows = 1;

    let (remade, next) = again(recovered, &settings());

    assert_eq!(remade.len(), made.len());
    for ((signal, ordinal, output), (_, was, before)) in remade.iter().zip(&made) {
        let (_, end) = ends.iter().find(|(of, _)| of == signal).unwrap();
        assert_eq!((*ordinal, output), (end + was, before));
    }
    for (signal, end) in ends {
        let count = made.iter().filter(|(of, ..)| *of == signal).count();
        assert_eq!(next[signal], end + count as u64);
    }
}

/// What has its fate and happened once more is counted, signal by signal; where the replay is the original nothing is.
#[tokio::test]
async fn what_is_made_again_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    life(dir.path()).await;
    let known = |recovered: &mut Recovered| {
        let origin = |ordinals| Origin { shard: 0, ordinals };
        recovered.settled = vec![(Signal::Traces, origin(0..2)), (Signal::Logs, origin(1..2))];
    };
    let mut recovered = open(dir.path()).1;
    known(&mut recovered);
    let (_, beginning) = begin_again(recovered.clone(), &settings());
    assert_eq!((beginning.made_again, beginning.is_whole), (Ordinals::default(), true));

    recovered.damaged.rows = 1;
    let (_, beginning) = begin_again(recovered.clone(), &settings());
    let twice = Ordinals { spans: 2, metrics: 0, records: 1 };
    assert_eq!((beginning.made_again, beginning.is_whole), (twice, true));

    recovered.damaged.journal = 1;
    assert!(!begin_again(recovered, &settings()).1.is_whole);
}

/// The exporters' sums are held against those of the engines at a start, so these are the same however many shards there are.
#[tokio::test]
async fn sums_of_all_signals_outlive_another_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let made = life(dir.path()).await;
    let count = |of: Signal| made.iter().filter(|(signal, ..)| *signal == of).count() as u64;
    let points = made.iter().filter_map(|(.., output)| match output {
        Finished::Metric(metric) => Some(metric.len() as u64),
        Finished::Span(_) | Finished::Record(_) => None,
    });
    let expected = (count(Signal::Traces), points.sum::<u64>(), count(Signal::Logs));
    for shards in [1, 3] {
        let mut recovered = open(dir.path()).1;
        let beginning = recover(&mut recovered, &settings(), shards, now(60_000), |_| {});
        let mut sum = (0, 0, 0);
        for ShardBeginning { engine, .. } in &beginning.shards {
            let ledger = engine.ledger();
            sum.0 += ledger.spans_made - engine.held_spans();
            sum.1 += ledger.points_made;
            sum.2 += ledger.records_made;
        }
        assert_eq!((sum, beginning.is_whole, beginning.shards.len()), (expected, true, usize::from(shards)));
    }
}

/// A kill while a checkpoint is being prepared: what of it was written before its time is nowhere, so the checkpoint before and
/// the journal say it all.
#[tokio::test]
async fn a_kill_between_the_parts_of_a_checkpoint_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).0;
    let mut life = Life::begin(store.clone());
    life.open();
    let started = |life: &mut Life, from: u64, to: u64| {
        for number in from..to {
            let start = TelemetryEvent {
                correlation_id: format!("c{number}"),
                ..event("tool.run.start", now(number))
            };
            life.send(now(number), &[start, measured(&format!("cache.{number}"), now(number), "hits", 1)]);
        }
    };
    started(&mut life, 0, 200);
    let state = life.engine.checkpoint();
    life.journal.checkpoint(now(200), state, |store, checkpoint| store.push(vec![checkpoint]));
    let before = life.made.len();
    started(&mut life, 200, 400);
    let mut parts = 0;
    for number in 0..20 {
        parts += u32::from(!life.engine.prepare_checkpoint(4096));
        let end = TelemetryEvent { correlation_id: format!("c{number}"), ..event("tool.run.stop", now(400)) };
        life.send(now(400 + number), &[end]);
    }
    assert!(parts >= 10, "{parts} parts");
    life.wait(now(5_000));
    life.collect(now(9_000));
    assert!(store.close().await);

    let recovered = open(dir.path()).1;
    assert_eq!(
        recovered.shards[0].rows.iter().filter(|(key, _)| key[0] == 1).count(),
        1 + 200,
        "of the first"
    );
    let (remade, _) = again(recovered, &settings());

    assert_eq!(remade, life.made[before..]);
    assert!(remade.len() >= 20 + 400, "{} outputs", remade.len());
}
