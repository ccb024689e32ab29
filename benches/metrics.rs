//! What a standalone event costs in the engine, beyond its decoding, beside what `opentelemetry_sdk` takes for a histogram;
//! and what a collection of many workers costs, and a checkpoint of their series.
//!
//! `cargo bench --bench metrics`
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a program that measures time and prints it"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use snakepit_otel_bridge::engine::metrics::settings::MetricSettings;
use snakepit_otel_bridge::engine::{Engine, Input, Output, Settings, StreamId};
use snakepit_otel_bridge::event::{Event, Value};
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};
use snakepit_otel_bridge::worker::{Identity, WorkerKey};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EPOCH: i64 = 1_790_000_000_000_000_000;
const EVENTS: i64 = 1_000_000;
const WORKERS: u64 = 300;
/// Of each worker.
const SERIES: usize = 100;
const ROUNDS: usize = 5;
/// Of a checkpoint, as shards do it.
const SLICE_BYTES: usize = 256 << 10;
const ATTRIBUTES: [(&str, &str); 3] =
    [("tool", "search_documents"), ("model", "small"), ("stage", "retrieve")];

/// The SDK asks for somewhere to export to.
struct Nowhere;

impl PushMetricExporter for Nowhere {
    async fn export(&self, _metrics: &ResourceMetrics) -> OTelSdkResult {
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn now(at: i64) -> Now {
    Now { mono: Monotonic(u64::try_from(at).unwrap()), wall: UnixNanos(EPOCH + at) }
}

/// An engine with so many workers, streams from 0.
fn engine(workers: u64) -> Engine {
    let settings = Settings { metrics: Some(MetricSettings::default()), ..Settings::default() };
    let mut engine = Engine::new(Arc::new(settings), 0);
    for number in 0..workers {
        let opened = Input::StreamOpened {
            stream: StreamId(number),
            worker: WorkerKey { node: "host".into(), id: format!("worker_{number}").into(), pid: Some(1) },
            identity: Arc::new(Identity { id_by_header: true, ..Identity::default() }),
            policy: Arc::default(),
        };
        engine.handle(opened, now(0));
    }
    engine
}

fn event<'a>(metadata: &[(&'a str, &'a str)], value: i64, at: i64) -> Event<'a> {
    Event {
        parts: ["model", "inference"].into_iter().collect(),
        measurements: [("tokens", Value::Int(value))].into_iter().collect(),
        metadata: metadata.iter().copied().collect(),
        timestamp_ns: EPOCH + at,
        ..Event::default()
    }
}

/// The best of some rounds, in nanoseconds a time.
fn best(name: &str, mut round: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        round();
        best = best.min(begun.elapsed().as_nanos() as f64 / EVENTS as f64);
    }
    println!("{name:<60} {best:7.0} ns");
}

fn measure_events() {
    let mut own = engine(1);
    best("a standalone event, one measurement, three attributes", || {
        for number in 0..EVENTS {
            let at = number * 1_000;
            let event = event(&ATTRIBUTES, number % 1000, at);
            own.handle(Input::Event { stream: StreamId(0), event: &event }, now(at));
        }
    });
    let made = best_without_engine();
    println!("{:<60} {made:7.0} ns", "  of which: making the event");
    assert_eq!(own.ledger().standalone, EVENTS.unsigned_abs() * ROUNDS as u64);

    let reader = PeriodicReader::builder(Nowhere).with_interval(Duration::from_secs(3600)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let meter = provider.meter("bench");
    let histogram = meter.u64_histogram("model.inference.tokens").build();
    let ready = ATTRIBUTES.map(|(key, value)| KeyValue::new(key, value));
    best("opentelemetry_sdk: a histogram at hand, attributes ready", || {
        for number in 0..EVENTS.unsigned_abs() {
            histogram.record(black_box(number % 1000), &ready);
        }
    });
    best("opentelemetry_sdk: looked up by name, attributes made", || {
        for number in 0..EVENTS.unsigned_abs() {
            let attributes = ATTRIBUTES.map(|(key, value)| KeyValue::new(key, value.to_owned()));
            meter
                .u64_histogram(black_box("model.inference.tokens"))
                .build()
                .record(number % 1000, &attributes);
        }
    });
}

fn best_without_engine() -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for number in 0..EVENTS {
            black_box(event(&ATTRIBUTES, number % 1000, number * 1_000));
        }
        best = best.min(begun.elapsed().as_nanos() as f64 / EVENTS as f64);
    }
    best
}

fn measure_collections() {
    let mut engine = engine(WORKERS);
    let tools: Vec<String> = (0..SERIES).map(|number| format!("tool_{number}")).collect();
    for round in 1..=3 {
        let at = round * 60_000_000_000;
        (0..WORKERS).for_each(|worker| measure_each(&mut engine, worker, &tools, at));
        let begun = Instant::now();
        engine.handle(Input::Collect { at: now(at).wall }, now(at));
        let (mut points, mut longest) = (0, 0.0_f64);
        while engine.is_collecting() {
            let slice = Instant::now();
            engine.handle(Input::CollectMore, now(at));
            while let Some(output) = engine.next_output() {
                if let Output::Metric(metric) = output {
                    points += metric.len();
                }
            }
            longest = longest.max(slice.elapsed().as_secs_f64() * 1e3);
        }
        let spent = begun.elapsed().as_secs_f64() * 1e3;
        println!(
            "{:<60} {spent:7.2} ms, the longest slice {longest:.2} ms",
            format!("a collection of {points} points")
        );
    }
    measure_checkpoints(&mut engine, &tools);
}

fn measure_each(engine: &mut Engine, worker: u64, tools: &[String], at: i64) {
    for tool in tools {
        let event = event(&[("tool", tool), ("stage", "retrieve")], 512, at);
        engine.handle(Input::Event { stream: StreamId(worker), event: &event }, now(at));
    }
}

/// Of all series, at once; and in parts as shards make them, while events come.
fn measure_checkpoints(engine: &mut Engine, tools: &[String]) {
    let begun = Instant::now();
    let written = engine.checkpoint();
    let bytes: usize = written.puts.iter().map(|(_, value)| value.len()).sum();
    let spent = begun.elapsed().as_secs_f64() * 1e3;
    println!("{:<60} {spent:7.2} ms, {bytes} bytes", "the first checkpoint of them, at once");
    let at = 240_000_000_000;
    (0..WORKERS).for_each(|worker| measure_each(engine, worker, tools, at));
    let (mut parts, mut longest) = (0, 0.0_f64);
    loop {
        let begun = Instant::now();
        let is_prepared = engine.prepare_checkpoint(SLICE_BYTES);
        longest = longest.max(begun.elapsed().as_secs_f64() * 1e3);
        parts += 1;
        if is_prepared {
            break;
        }
        measure_each(engine, parts % WORKERS, tools, at);
    }
    let begun = Instant::now();
    let written = engine.checkpoint();
    let end = begun.elapsed().as_secs_f64() * 1e3;
    let rows = written.puts.len();
    let name = "all of them again, in parts, 100 events between two";
    println!("{name:<60} {longest:7.2} ms the longest of {parts}, {end:.2} ms the end, {rows} rows");
}

fn main() {
    measure_events();
    measure_collections();
}
