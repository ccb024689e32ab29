//! What a span costs on its way out: encoding alone, beside `opentelemetry-proto`'s structs, and the whole export to a
//! local peer in another process (whose CPU is not counted), beside `opentelemetry-otlp`'s exporter for the same spans. And
//! what a point of a histogram costs to encode.
//!
//! `cargo bench --bench encode`, all or some of it (`encode`, `points`, `grpc none`, `http`, `gzip`, `sdk`); figures are the best of several rounds, so that a busy machine disturbs least.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may give up")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clocks")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use snakepit_otel_bridge::engine::attributes::{AttributeValue, Attributes};
use snakepit_otel_bridge::engine::metrics::instrument::{Instrument, Kind};
use snakepit_otel_bridge::engine::metrics::point::{Buckets, Metric, Point, Points};
use snakepit_otel_bridge::engine::metrics::settings::Temporality;
use snakepit_otel_bridge::engine::span::{Span, SpanEvent, SpanId, SpanKind, Status, TraceFlags, TraceId};
use snakepit_otel_bridge::exporter::encode::{write_metric, write_span};
use snakepit_otel_bridge::exporter::settings::{
    Compression, OtlpSettings, Protocol, SecretHeaders, TlsFiles,
};
use snakepit_otel_bridge::exporter::signal::Signal;
use snakepit_otel_bridge::exporter::{Destination, ExporterHandle, ExporterSettings, build};
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};
use snakepit_otel_bridge::worker::Source;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 512;
const ROUNDS: usize = 12;
const SENT_PER_ROUND: usize = 200 * BATCH;
fn main() {
    if std::env::args().any(|argument| argument == "--peer") {
        serve();
        return;
    }
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    if is_wanted("encode") {
        encode();
    }
    if is_wanted("points") {
        points();
    }
    for (protocol, compression) in [
        (Protocol::Grpc, Compression::None),
        (Protocol::HttpProtobuf, Compression::None),
        (Protocol::HttpJson, Compression::None),
        (Protocol::Grpc, Compression::Gzip),
        (Protocol::Grpc, Compression::Zstd),
    ] {
        if is_wanted(&format!("{protocol} {compression}")) {
            send(protocol, compression);
        }
    }
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        if is_wanted(&format!("sdk {protocol}")) {
            sdk::send(protocol);
        }
    }
}

/// Six attributes (four of them strings), one event, a parent, a status.
fn span(source: &Arc<Source>, number: u64) -> Span {
    let mut attributes = Attributes::default();
    attributes.set("snakepit.event", AttributeValue::Text("[:snakepit, :python, :tool, :execution]"));
    attributes.set("snakepit.correlation_id", AttributeValue::Text("0f3c1c9e-5c43-4ea1-9c0d-000000000000"));
    attributes.set("tool", AttributeValue::Text("embed_documents"));
    attributes.set("model", AttributeValue::Text("bge-small"));
    attributes.set("tokens", AttributeValue::Int(1234));
    attributes.set("score", AttributeValue::Float(0.25));
    let mut event = Attributes::default();
    event.set("exception.type", AttributeValue::Text("ValueError"));
    Span {
        source: Arc::clone(source),
        trace_id: TraceId([7; 16]),
        span_id: SpanId(number.to_be_bytes()),
        parent_span_id: Some(SpanId([9; 8])),
        parent_is_remote: true,
        trace_flags: TraceFlags::SAMPLED,
        sampling_is_decided: false,
        trace_state: None,
        name: "snakepit.python.tool.execution".into(),
        kind: SpanKind::Internal,
        start: UnixNanos(1_700_000_000_000_000_000),
        end: UnixNanos(1_700_000_000_001_000_000),
        attributes,
        events: vec![SpanEvent {
            name: "exception".into(),
            time: UnixNanos(1_700_000_000_000_500_000),
            attributes: event,
        }],
        dropped_events: 0,
        links: Vec::new(),
        dropped_links: 0,
        status: Status::Error("boom".into()),
    }
}

fn sources() -> Vec<Arc<Source>> {
    (0..8)
        .map(|serial| {
            Arc::new(Source {
                serial,
                worker_id: format!("worker_{serial}").into(),
                node: "node_a".into(),
                pool: Some("default".into()),
                pid: Some(4711),
                host: Some("node_a".into()),
                same_host: true,
            })
        })
        .collect()
}

fn spans(count: usize) -> Vec<Span> {
    let sources = sources();
    // Eight workers, in runs of eight spans.
    (0..count).map(|number| span(&sources[number / 8 % sources.len()], number as u64)).collect()
}

// === Encoding ===

fn encode() {
    let spans = spans(BATCH);
    let mut out = Vec::with_capacity(BATCH * 1024);
    let direct = best_nanos(|| {
        out.clear();
        spans.iter().for_each(|span| write_span(&mut out, span));
        std::hint::black_box(&out);
    });
    let bytes = out.len() / BATCH;
    let structs = best_nanos(|| {
        let scope =
            otlp::ScopeSpans { spans: spans.iter().map(plain).collect(), ..otlp::ScopeSpans::default() };
        out.clear();
        scope.encode(&mut out).unwrap();
        std::hint::black_box(&out);
    });
    println!(
        "encode: {direct:.0} ns a span, {bytes} bytes; by way of opentelemetry-proto structs {structs:.0} ns"
    );
}

/// Histograms of 15 bounds, with three attributes a point and 32 points a metric.
fn points() {
    const POINTS_A_METRIC: usize = 32;
    let bounds = (1..=15_u32).map(|exponent| 0.001 * f64::from(1_u32 << exponent));
    let instrument = Arc::new(Instrument {
        name: "snakepit.python.tool.execution.duration".into(),
        unit: "s".into(),
        description: "".into(),
        kind: Kind::Histogram { boundaries: bounds.collect() },
    });
    let source = sources().remove(0);
    let metrics: Vec<_> = (0..BATCH / POINTS_A_METRIC)
        .map(|_| Metric {
            source: Arc::clone(&source),
            instrument: Arc::clone(&instrument),
            temporality: Temporality::Cumulative,
            points: Points::Histogram((0..POINTS_A_METRIC).map(point).collect()),
        })
        .collect();
    let mut out = Vec::with_capacity(BATCH * 1024);
    let nanos = best_nanos(|| {
        out.clear();
        metrics.iter().for_each(|metric| write_metric(&mut out, metric));
        std::hint::black_box(&out);
    });
    println!("points: {nanos:.0} ns a point, {} bytes", out.len() / BATCH);
}

fn point(number: usize) -> Point<Buckets> {
    let mut attributes = Attributes::default();
    attributes.set("error.type", AttributeValue::Text("ValueError"));
    attributes.set("snakepit.model", AttributeValue::Text("bge-small"));
    attributes.set("snakepit.tool", AttributeValue::Text(&format!("embed_documents_{number}")));
    Point {
        attributes: Arc::new(attributes),
        start: UnixNanos(1_700_000_000_000_000_000),
        time: UnixNanos(1_700_000_060_000_000_000),
        value: Some(Buckets {
            count: 1600,
            sum: Some(123.5),
            min: Some(0.001),
            max: Some(20.0),
            counts: vec![100; 16],
        }),
        exemplars: Vec::new(),
    }
}

fn best_nanos(mut batch: impl FnMut()) -> f64 {
    const BATCHES: u32 = 200;
    let rounds = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        (0..BATCHES).for_each(|_| batch());
        begun.elapsed()
    });
    rounds.min().unwrap().as_nanos() as f64 / f64::from(BATCHES) / BATCH as f64
}

fn plain(span: &Span) -> otlp::Span {
    otlp::Span {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        parent_span_id: span.parent_span_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        flags: 0x301,
        name: span.name.to_string(),
        kind: 1,
        start_time_unix_nano: span.start.0.cast_unsigned(),
        end_time_unix_nano: span.end.0.cast_unsigned(),
        attributes: plain_attributes(&span.attributes),
        events: span
            .events
            .iter()
            .map(|event| otlp::span::Event {
                time_unix_nano: event.time.0.cast_unsigned(),
                name: event.name.to_string(),
                attributes: plain_attributes(&event.attributes),
                dropped_attributes_count: 0,
            })
            .collect(),
        status: Some(otlp::Status { message: "boom".to_owned(), code: 2 }),
        ..otlp::Span::default()
    }
}

fn plain_attributes(attributes: &Attributes) -> Vec<KeyValue> {
    attributes
        .iter()
        .map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(match value {
                    AttributeValue::Text(text) => Value::StringValue(text.to_owned()),
                    AttributeValue::Int(int) => Value::IntValue(int),
                    AttributeValue::Float(float) => Value::DoubleValue(float),
                    AttributeValue::Bool(boolean) => Value::BoolValue(boolean),
                }),
            }),
            ..KeyValue::default()
        })
        .collect()
}

// === Sending ===

fn send(protocol: Protocol, compression: Compression) {
    let (mut peer, ports) = start_peer();
    let (port, path) = match protocol {
        Protocol::Grpc => (ports.0, ""),
        Protocol::HttpProtobuf | Protocol::HttpJson => (ports.1, "/v1/traces"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut settings = ExporterSettings::new(Destination::Otlp(OtlpSettings {
        signal: Signal::Traces,
        tls: TlsFiles::default(),
        protocol,
        endpoint: format!("http://127.0.0.1:{port}{path}"),
        endpoint_origin: "benchmark".to_owned(),
        headers: SecretHeaders::default(),
        compression,
    }));
    settings.batch.delay = Duration::from_millis(200);
    let mut best = Duration::MAX;
    let mut rate: f64 = 0.0;
    let handle = runtime.block_on(async {
        let (handle, task) = build(settings, clock()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        tasks.detach_all();
        handle
    });
    for _ in 0..ROUNDS {
        // An engine hands spans over in small lots.
        let lots = (0..SENT_PER_ROUND / 64).map(|_| spans(64)).collect();
        let (cpu, wall) = round(&handle, lots);
        best = best.min(cpu);
        rate = rate.max(SENT_PER_ROUND as f64 / wall.as_secs_f64());
    }
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.exported, snapshot.made);
    println!(
        "export over {protocol}, compression {compression}: {:.0} ns of CPU a span, {rate:.0} spans a second",
        best.as_nanos() as f64 / SENT_PER_ROUND as f64,
    );
    peer.kill().unwrap();
    peer.wait().unwrap();
}

/// CPU and time from the first span given to the last one taken.
fn round(handle: &ExporterHandle, lots: Vec<Vec<Span>>) -> (Duration, Duration) {
    let target = handle.snapshot().exported + SENT_PER_ROUND as u64;
    let (cpu, begun) = (cpu_time(), Instant::now());
    for lot in lots {
        handle.export(lot);
        while handle.snapshot().queued_items > 20_000 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    while handle.snapshot().exported < target {
        std::thread::sleep(Duration::from_millis(2));
    }
    (cpu_time() - cpu, begun.elapsed())
}

/// User and system time of this process's threads, to the nanosecond.
fn cpu_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanos = threads.map(|thread| {
        let path = thread.unwrap().path().join("schedstat");
        let stat = std::fs::read_to_string(path).unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}

fn clock() -> impl Fn() -> Now + Send + Sync {
    let start = Instant::now();
    move || Now { mono: Monotonic(start.elapsed().as_nanos() as u64), wall: UnixNanos(0) }
}

// === The SDK's exporter ===

/// What `opentelemetry-otlp` takes for the same spans, in batches of the same size. Its batch processor, which the SDK
/// puts before it, is left out: so is what it costs, and what it drops at this rate.
mod sdk {
    use std::borrow::Cow;
    use std::time::{SystemTime, UNIX_EPOCH};

    use opentelemetry::trace::{
        Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
    };
    use opentelemetry::{InstrumentationScope, KeyValue};
    use opentelemetry_otlp::{SpanExporter, WithExportConfig};
    use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

    use super::*;

    pub(super) fn send(protocol: Protocol) {
        let (mut peer, ports) = start_peer();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let exporter = runtime.block_on(async {
            match protocol {
                Protocol::Grpc => SpanExporter::builder()
                    .with_tonic()
                    .with_endpoint(format!("http://127.0.0.1:{}", ports.0))
                    .build(),
                Protocol::HttpProtobuf | Protocol::HttpJson => SpanExporter::builder()
                    .with_http()
                    .with_endpoint(format!("http://127.0.0.1:{}/v1/traces", ports.1))
                    .build(),
            }
            .unwrap()
        });
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            let batches: Vec<Vec<SpanData>> = (0..SENT_PER_ROUND / BATCH)
                .map(|_| (0..BATCH).map(|number| span_data(number as u64)).collect())
                .collect();
            let cpu = cpu_time();
            runtime.block_on(async {
                for batch in batches {
                    exporter.export(batch).await.unwrap();
                }
            });
            best = best.min(cpu_time() - cpu);
        }
        println!(
            "opentelemetry-otlp over {protocol}, no compression: {:.0} ns of CPU a span",
            best.as_nanos() as f64 / SENT_PER_ROUND as f64,
        );
        peer.kill().unwrap();
        peer.wait().unwrap();
    }

    /// The span that [`super::span`] makes.
    fn span_data(number: u64) -> SpanData {
        let at = |nanos| -> SystemTime { UNIX_EPOCH + Duration::from_nanos(nanos) };
        let mut events = SpanEvents::default();
        events.events = vec![Event::new(
            Cow::Borrowed("exception"),
            at(1_700_000_000_000_500_000),
            vec![KeyValue::new("exception.type", "ValueError".to_owned())],
            0,
        )];
        SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes([7; 16]),
                SpanId::from_bytes((number + 1).to_be_bytes()),
                TraceFlags::SAMPLED,
                true,
                TraceState::default(),
            ),
            parent_span_id: SpanId::from_bytes([9; 8]),
            parent_span_is_remote: true,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed("snakepit.python.tool.execution"),
            start_time: at(1_700_000_000_000_000_000),
            end_time: at(1_700_000_000_001_000_000),
            attributes: vec![
                KeyValue::new("snakepit.event", "[:snakepit, :python, :tool, :execution]".to_owned()),
                KeyValue::new("snakepit.correlation_id", "0f3c1c9e-5c43-4ea1-9c0d-000000000000".to_owned()),
                KeyValue::new("tool", "embed_documents".to_owned()),
                KeyValue::new("model", "bge-small".to_owned()),
                KeyValue::new("tokens", 1234_i64),
                KeyValue::new("score", 0.25),
            ],
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: Status::error("boom"),
            instrumentation_scope: InstrumentationScope::builder("snakepit-otel-bridge").build(),
        }
    }
}

// === The peer ===

fn start_peer() -> (Child, (u16, u16)) {
    let mut child =
        Command::new(std::env::current_exe().unwrap()).arg("--peer").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut port = || lines.next().unwrap().unwrap().parse().unwrap();
    let ports = (port(), port());
    (child, ports)
}

#[tokio::main(flavor = "current_thread")]
async fn serve() {
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}\n{}", grpc.local_addr().unwrap().port(), http.local_addr().unwrap().port());
    // Reads every request and decodes none. The status may stand before the one message, which is empty.
    let export = axum::Router::new().fallback(|_: axum::body::Bytes| async {
        ([("content-type", "application/grpc"), ("grpc-status", "0")], [0_u8; 5].as_slice())
    });
    let router = axum::Router::new().fallback(|_: axum::body::Bytes| async {});
    let grpc = tonic::transport::Server::builder()
        .add_routes(tonic::service::Routes::from(export))
        .serve_with_incoming(TcpListenerStream::new(grpc));
    let (grpc, http) = tokio::join!(grpc, async { axum::serve(http, router).await });
    grpc.unwrap();
    http.unwrap();
}
