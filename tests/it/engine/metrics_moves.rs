//! Metrics where the number of shards changes, and where a checkpoint is damaged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use snakepit_otel_bridge::engine::metrics::settings::{ExemplarFilter, MetricSettings};
use snakepit_otel_bridge::engine::{Damage, Engine, Input, Output, Settings, StreamId};
use snakepit_otel_bridge::store::RowKey;
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};
use snakepit_otel_bridge::worker::{Identity, WorkerKey};

use super::bench_worker::{Bench, Disk, EPOCH, MS, Sent, event, measured_points, start, stop};

fn measuring(settings: &mut Settings) {
    settings.metrics =
        Some(MetricSettings { exemplars: ExemplarFilter::AlwaysOn, ..MetricSettings::default() });
    settings.records = true;
}

fn now(millis: i64) -> Now {
    let nanos = millis * MS;
    Now { mono: Monotonic(nanos.unsigned_abs()), wall: UnixNanos(EPOCH + nanos) }
}

fn worker(number: u64) -> WorkerKey {
    WorkerKey { node: Arc::from("host"), id: Arc::from(format!("worker_{number}")), pid: Some(7) }
}

fn open(engine: &mut Engine, number: u64) {
    let identity = Arc::new(Identity { id_by_header: true, ..Identity::default() });
    let (worker, policy) = (worker(number), Arc::default());
    engine.handle(Input::StreamOpened { stream: StreamId(number), worker, identity, policy }, now(0));
}

fn send(engine: &mut Engine, number: u64, sent: &Sent, now: Now) {
    sent.with(|event| engine.handle(Input::Event { stream: StreamId(number), event }, now));
}

/// The values of `cache.hits` by worker, of a collection of all these engines, the serials of their sources, and how many
/// measurements of tokens lead to a span.
fn collected(engines: &mut [Engine], now: Now) -> (BTreeMap<String, Option<f64>>, Vec<u64>, usize) {
    let (mut values, mut serials, mut led) = (BTreeMap::new(), Vec::new(), 0);
    for engine in engines {
        engine.handle(Input::Collect { at: now.wall }, now);
        while engine.is_collecting() {
            engine.handle(Input::CollectMore, now);
        }
        while let Some(output) = engine.next_output() {
            let Output::Metric(metric) = output else { continue };
            if metric.instrument.name.ends_with("cache.hits") {
                let [(_, point)] = &measured_points(&metric.points)[..] else { panic!("{metric:#?}") };
                let before = values.insert(metric.source.worker_id.to_string(), point.value);
                assert_eq!(before, None, "one writer for each resource");
                serials.push(metric.source.serial);
            } else if metric.instrument.name.ends_with("tool.tokens") {
                let points = measured_points(&metric.points);
                led += points
                    .iter()
                    .flat_map(|(_, point)| &point.exemplars)
                    .filter(|own| own.span.is_some())
                    .count();
            }
        }
    }
    serials.sort_unstable();
    (values, serials, led)
}

#[test]
fn series_go_with_their_workers_to_other_shards_and_go_on() {
    let mut chosen = Settings::default();
    measuring(&mut chosen);
    let settings = Arc::new(chosen);
    let mut engines: Vec<_> = (0..2).map(|shard| Engine::new(Arc::clone(&settings), shard)).collect();
    for number in 0..6 {
        let engine = &mut engines[usize::from(number % 2 == 1)];
        open(engine, number);
        send(engine, number, &event("cache", 0).int("hits", 10), now(0));
        send(engine, number, &event("tool", MS).int("tokens", 5).corr("c"), now(1));
    }
    // Its worker is gone, and its series are not.
    engines[0].handle(Input::Superseded { worker: worker(0) }, now(1));
    engines[0].handle(Input::StreamClosed { stream: StreamId(0) }, now(1));
    let (before, serials, _) = collected(&mut engines, now(10));
    assert_eq!(before.len(), 6);
    // A collection that is on its way ends with the shards.
    engines[1].handle(Input::Collect { at: now(20).wall }, now(20));

    let shard_of = |key: &WorkerKey| u16::from(key.id.as_bytes()[key.id.len() - 1] % 3);
    let mut engines = Engine::regrouped(&settings, engines, 3, shard_of);

    assert!(engines.iter().all(|engine| !engine.is_collecting()));
    for number in 0..6 {
        let engine = &mut engines[usize::from(shard_of(&worker(number)))];
        send(engine, number, &event("cache", 0).int("hits", 1), now(30));
        // The event of before joins its span, and its measurement leads nowhere.
        send(engine, number, &start("a", 0).corr("c"), now(30));
        send(engine, number, &stop("a", 0, 5 * MS).corr("c"), now(30));
    }
    engines.iter_mut().for_each(|engine| engine.handle_timeout(now(2_000)));
    let (after, again, led) = collected(&mut engines, now(3_000));
    for number in 1..6 {
        assert_eq!(after[&format!("worker_{number}")], Some(11.0), "{after:#?}");
    }
    assert_eq!(after["worker_0"], None, "what has departed ends");
    assert_eq!(led, 0, "what was to lead there is forgotten");
    assert_eq!(again, serials, "resources are what they were");
}

/// Series of two tools, and an event that waits with a record and a measurement.
fn written() -> (Bench, Disk) {
    let mut bench = Bench::with(measuring, |_, _| {});
    for tool in ["a", "b"] {
        bench.send(&event("cache", 0).int("hits", 1).meta("tool", tool));
    }
    bench.send(&event("note", 0).int("tokens", 5).corr("c")).send(&event("retry", 0).corr("c"));
    let disk = bench.checkpoint();
    (bench, disk)
}

fn rows_of(disk: &Disk, kind: u8) -> Vec<RowKey> {
    disk.rows.keys().filter(|key| key[..2] == [2, kind]).cloned().collect()
}

#[test]
fn a_damaged_row_of_a_series_costs_that_series() {
    let (mut bench, mut disk) = written();
    let before = bench.ledger();
    let key = rows_of(&disk, 2).remove(0);
    disk.rows.get_mut(&key).expect("a row")[3] ^= 1;
    assert_eq!(bench.restart_from(&disk), Damage { rows: 1, ..Damage::default() });
    assert_eq!(bench.ledger(), before);
    bench.send(&event("cache", 0).int("hits", 1).meta("tool", "b")).measured();
    let points = bench.points("cache.hits");
    assert_eq!(points.len(), 1, "{points:#?}");
    assert_eq!(points["snakepit.tool=b"].value, Some(2.0));
}

#[test]
fn a_damaged_row_of_an_instance_costs_its_series_and_they_begin_anew() {
    let (mut bench, mut disk) = written();
    let key = rows_of(&disk, 0).remove(0);
    disk.rows.get_mut(&key).expect("a row")[3] ^= 1;
    let found = bench.restart_from(&disk);
    assert!(found.rows > 1 && found.events == 0, "{found:?}");
    bench.send(&event("cache", 0).int("hits", 1).meta("tool", "b")).measured();
    assert_eq!(bench.points("cache.hits")["snakepit.tool=b"].value, Some(1.0));
}

#[test]
fn metrics_that_are_not_made_any_more_are_forgotten() {
    let (mut bench, disk) = written();
    bench.settings(|settings| settings.metrics = None);
    assert_eq!(bench.restart_from(&disk), Damage::default());
    bench.send(&event("cache", 0).int("hits", 1)).pass(Duration::from_secs(1));
    assert!(bench.measured().is_empty());
    assert!(!bench.checkpoint().rows.keys().any(|key| key[0] == 2));
}
