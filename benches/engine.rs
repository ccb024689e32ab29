//! What an event costs in the engine, beyond its decoding: nanoseconds a span (two events), by kind of stream. And what
//! a checkpoint of it costs.
//!
//! `cargo bench --bench engine`
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "a program that measures time and prints it"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use snakepit_otel_bridge::control::policy::Policy;
use snakepit_otel_bridge::engine::{Engine, Input, Output, Settings, StreamId};
use snakepit_otel_bridge::event::{Event, Value};
use snakepit_otel_bridge::store::RowKey;
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};
use snakepit_otel_bridge::worker::{Identity, WorkerKey};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EPOCH: i64 = 1_790_000_000_000_000_000;
const SPANS: i64 = 400_000;
const STREAM: StreamId = StreamId(1);
/// As shards do it.
const SLICE_BYTES: usize = 256 << 10;

struct Run {
    engine: Engine,
    spans: u64,
}

impl Run {
    fn new() -> Self {
        let mut engine = Engine::new(Arc::new(Settings::default()), 0);
        let opened = Input::StreamOpened {
            stream: STREAM,
            worker: WorkerKey { node: "host".into(), id: "worker_1".into(), pid: Some(1) },
            identity: Arc::new(Identity::default()),
            policy: Arc::new(Policy::default()),
        };
        engine.handle(opened, now(0));
        Self { engine, spans: 0 }
    }

    fn send(&mut self, event: &Event<'_>, at: i64) {
        let now = now(at);
        if self.engine.poll_timeout().is_some_and(|due| due <= now.mono) {
            self.engine.handle_timeout(now);
        }
        self.engine.handle(Input::Event { stream: STREAM, event }, now);
        while let Some(output) = self.engine.next_output() {
            self.spans += u64::from(matches!(output, Output::Span(_)));
        }
    }

    /// Start and stop of a span, `inner` in between.
    fn span(&mut self, name: &str, correlation: &str, at: i64, length: i64, inner: impl FnOnce(&mut Self)) {
        self.start(name, correlation, at);
        inner(self);
        self.stop(name, correlation, at, at + length);
    }

    fn start(&mut self, name: &str, correlation: &str, at: i64) {
        let start = Event {
            parts: [name, "execution", "start"].into_iter().collect(),
            measurements: [("system_time", Value::Int(EPOCH + at))].into_iter().collect(),
            metadata: METADATA.into_iter().collect(),
            timestamp_ns: EPOCH + at + 500,
            correlation_id: correlation,
            span: None,
        };
        self.send(&start, at);
    }

    fn stop(&mut self, name: &str, correlation: &str, at: i64, end: i64) {
        let length = end - at;
        let stop = Event {
            parts: [name, "execution", "stop"].into_iter().collect(),
            measurements: [("duration", Value::Int(length))].into_iter().collect(),
            metadata: METADATA.into_iter().chain([("result", "success")]).collect(),
            timestamp_ns: EPOCH + at + length + 700,
            correlation_id: correlation,
            span: None,
        };
        self.send(&stop, end);
    }
}

const METADATA: [(&str, &str); 4] =
    [("tool", "search_documents"), ("session_id", "sess_91f2"), ("model", "small"), ("stage", "retrieve")];

fn now(at: i64) -> Now {
    Now { mono: Monotonic(u64::try_from(at).unwrap()), wall: UnixNanos(EPOCH + at) }
}

fn measure(name: &str, mut feed: impl FnMut(&mut Run, i64)) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let mut run = Run::new();
        let begun = Instant::now();
        for number in 0..SPANS / 4 {
            feed(&mut run, number * 40_000);
        }
        let spent = begun.elapsed();
        run.engine.handle(Input::Shutdown, now(SPANS * 10_000 + 1));
        while let Some(output) = run.engine.next_output() {
            run.spans += u64::from(matches!(output, Output::Span(_)));
        }
        let ledger = run.engine.ledger();
        assert!(ledger.adds_up() && ledger.paired == 2 * SPANS.unsigned_abs(), "{ledger:?}");
        best = best.min(spent.as_nanos() as f64 / SPANS as f64);
    }
    println!("{name:<44} {best:7.0} ns a span");
}

/// 100,000 open spans, of which some change between checkpoints.
fn measure_checkpoints() {
    const OPEN: i64 = 100_000;
    let mut run = Run::new();
    let correlation = |number: i64| format!("sp-{number:024x}");
    let start = |run: &mut Run, number: i64| run.start("tool", &correlation(number), number * 1_000);
    (0..OPEN).for_each(|number| start(&mut run, number));
    let mut newest = OPEN;
    in_parts("in parts, all of them, 20 spans between two", &mut run, |run| {
        for _ in 0..20 {
            run.stop("tool", &correlation(newest - OPEN), (newest - OPEN) * 1_000, newest * 1_000);
            start(run, newest);
            newest += 1;
        }
    });
    let first = newest - OPEN;
    let mut rows = BTreeMap::new();
    let mut head = Vec::new();
    let mut write = |run: &mut Run, name: &str| {
        let begun = Instant::now();
        let written = run.engine.checkpoint();
        let spent = begun.elapsed();
        let bytes: usize = written.puts.iter().map(|(key, value)| key.len() + value.len()).sum();
        println!(
            "{name:<44} {:7.2} ms, {} rows, {bytes} bytes, {} deletes",
            spent.as_secs_f64() * 1e3,
            written.puts.len(),
            written.deletes.len()
        );
        written.deletes.iter().for_each(|key| drop(rows.remove(key)));
        rows.extend(written.puts);
        head = written.head;
    };
    run.engine.next_is_whole();
    write(&mut run, "full checkpoint, 100,000 open spans, at once");
    write(&mut run, "nothing changed");
    let mut busy = Run::new();
    for number in 0..50_000 {
        busy.span("tool", &correlation(number), number * 100_000, 50_000, |_| {});
    }
    let begun = Instant::now();
    let bytes = busy.engine.checkpoint().puts.iter().map(|(_, value)| value.len()).sum::<usize>();
    println!(
        "{:<44} {:7.2} ms, {bytes} bytes",
        "a worker that ends 10,000 spans a second",
        begun.elapsed().as_secs_f64() * 1e3
    );
    for (name, changes) in [("10 spans ended, 10 began", 10), ("1,000 spans ended, 1,000 began", 1_000)] {
        for number in 0..changes {
            let (old, new) = (first + changes + number, newest + changes + number);
            run.stop("tool", &correlation(old), old * 1_000, new * 1_000);
            start(&mut run, new);
        }
        write(&mut run, name);
    }
    measure_restore(&run, &head, rows);
}

/// A checkpoint that is written a part at a time, with something between two parts: how long the longest takes, and what is left
/// for the end.
fn in_parts(name: &str, run: &mut Run, mut between: impl FnMut(&mut Run)) {
    let (mut parts, mut longest) = (0, 0.0_f64);
    run.engine.next_is_whole();
    loop {
        let begun = Instant::now();
        let is_prepared = run.engine.prepare_checkpoint(SLICE_BYTES);
        longest = longest.max(begun.elapsed().as_secs_f64() * 1e3);
        parts += 1;
        if is_prepared {
            break;
        }
        between(run);
    }
    let begun = Instant::now();
    let written = run.engine.checkpoint();
    let end = begun.elapsed().as_secs_f64() * 1e3;
    let rows = written.puts.len();
    println!("{name:<44} {longest:7.2} ms the longest of {parts}, {end:.2} ms the end, {rows} rows");
}

fn measure_restore(run: &Run, head: &[u8], rows: BTreeMap<RowKey, Vec<u8>>) {
    let begun = Instant::now();
    let restored = Engine::restore(Arc::new(Settings::default()), 0, head, rows.into_iter()).unwrap();
    println!("{:<44} {:7.2} ms", "restored", begun.elapsed().as_secs_f64() * 1e3);
    assert_eq!(restored.engine.ledger(), run.engine.ledger());
}

fn main() {
    measure_checkpoints();
    measure("one after the other, without correlation", |run, at| {
        for step in 0..4 {
            run.span("tool", "", at + step * 10_000, 8_000, |_| {});
        }
    });
    measure("nested four deep, one correlation id each", |run, at| {
        let correlation = format!("sp-{at:024x}");
        run.span("request", &correlation, at, 36_000, |run| {
            run.span("tool", &correlation, at + 2_000, 30_000, |run| {
                run.span("model", &correlation, at + 4_000, 10_000, |_| {});
                run.span("cache", &correlation, at + 20_000, 5_000, |_| {});
            });
        });
    });
    measure("nested four deep, correlation ids verbatim", |run, at| {
        let correlation = format!("{at:032x}").replace('0', "a");
        run.span("request", &correlation, at, 36_000, |run| {
            run.span("tool", &correlation, at + 2_000, 30_000, |run| {
                run.span("model", &correlation, at + 4_000, 10_000, |_| {});
                run.span("cache", &correlation, at + 20_000, 5_000, |_| {});
            });
        });
    });
}
