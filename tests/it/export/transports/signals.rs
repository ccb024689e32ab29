//! Metrics and log records by each transport, made by hand: the Collector reads all that the exporter writes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{exemplar, number_data_point};
use snakepit_otel_bridge::engine::attributes::{AttributeValue, Attributes};
use snakepit_otel_bridge::engine::metrics::instrument::{Instrument, Kind, Number};
use snakepit_otel_bridge::engine::metrics::point::{
    BucketRange, Buckets, Exemplar, ExponentialBuckets, Metric, Point, Points,
};
use snakepit_otel_bridge::engine::metrics::settings::Temporality;
use snakepit_otel_bridge::engine::record::{LogRecord, RecordTrace, Severity};
use snakepit_otel_bridge::engine::span::{SpanId, TraceFlags, TraceId};
use snakepit_otel_bridge::exporter::settings::{
    Compression, ExporterSettings, OtlpSettings, Protocol, SecretHeaders, TlsFiles,
};
use snakepit_otel_bridge::exporter::signal::Signal;
use snakepit_otel_bridge::exporter::{Destination, ExporterHandle, Parts, build_with};
use snakepit_otel_bridge::store::Commit;
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};
use snakepit_otel_bridge::worker::Source;
use tokio::task::JoinSet;

use super::{Collector, LIMIT};
use crate::support::sink::{ArrivedMetric, text};
use crate::support::{now, until};

const TRACE: TraceId = TraceId([0xa1; 16]);
const SPAN: SpanId = SpanId([0xb2; 8]);
const START: UnixNanos = UnixNanos(1_700_000_000_000_000_000);
const TIME: UnixNanos = UnixNanos(1_700_000_060_000_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_records_arrive_by_every_transport() -> Result<()> {
    let collector = Collector::start().await?;
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson] {
        let source = source(protocol);
        let worker = source.worker_id.to_string();

        let (handle, _task) = exporter(&collector, protocol, Signal::Metrics)?;
        let metrics = metrics(&source);
        let points: usize = metrics.iter().map(Metric::len).sum();
        handle.export_metrics(metrics, None, Commit::default());
        let snapshot = handle.shutdown(LIMIT).await;
        ensure!(snapshot.exported == points as u64, "{protocol}: {snapshot:?}");
        let arrived = until("metrics behind the Collector", LIMIT, async || {
            let all = collector.sink.metrics().into_iter();
            let arrived: Vec<_> = all.filter(|arrived| arrived.worker == worker).collect();
            Ok((arrived.len() == 6).then_some(arrived))
        })
        .await?;
        check_metrics(&arrived).with_context(|| format!("{protocol}: {arrived:#?}"))?;

        let (handle, _task) = exporter(&collector, protocol, Signal::Logs)?;
        handle.export_records(vec![record(&source)], None, Commit::default());
        let snapshot = handle.shutdown(LIMIT).await;
        ensure!(snapshot.exported == 1, "{protocol}: {snapshot:?}");
        let records = collector.sink.records_of(&worker, 1, LIMIT).await?;
        let record = &records[0];
        assert_eq!((record.severity_number, record.severity_text.as_str()), (13, ""), "{protocol}");
        assert_eq!(record.event_name, "snakepit.python.worker.ready", "{protocol}");
        assert_eq!((record.trace_id.as_slice(), record.span_id.as_slice()), (&TRACE.0[..], &SPAN.0[..]));
        assert_eq!((record.flags, text(&record.attributes, "reason")), (1, Some("why \u{1f980}")));
        assert_eq!(record.time_unix_nano, START.0.unsigned_abs(), "{protocol}");
        assert_eq!(record.observed_time_unix_nano, TIME.0.unsigned_abs(), "{protocol}");
        let body = KeyValue { key: "body".to_owned(), value: record.body.clone(), ..KeyValue::default() };
        assert_eq!(text([&body], "body"), Some("a worker is ready"), "{protocol}");
    }
    Ok(())
}

/// The exporter's task runs as long as the set is there.
fn exporter(
    collector: &Collector,
    protocol: Protocol,
    signal: Signal,
) -> Result<(ExporterHandle, JoinSet<()>)> {
    let address = collector.plain.of(protocol.as_str());
    let endpoint = match protocol {
        Protocol::Grpc => format!("http://{address}"),
        Protocol::HttpProtobuf | Protocol::HttpJson => format!("http://{address}/{}", signal.http_path()),
    };
    let mut settings = ExporterSettings::new(Destination::Otlp(OtlpSettings {
        signal,
        protocol,
        endpoint,
        endpoint_origin: "a test".to_owned(),
        headers: SecretHeaders::default(),
        compression: Compression::Gzip,
        tls: TlsFiles::default(),
    }));
    settings.batch.max_items = None;
    settings.batch.delay = Duration::from_millis(100);
    let began = now();
    let clock = move || Now {
        mono: Monotonic(u64::try_from(now().duration_since(began).as_nanos()).unwrap_or(u64::MAX)),
        wall: TIME,
    };
    let (handle, task) = build_with(settings, clock, Parts { signal: Some(signal), ..Parts::default() })?;
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    Ok((handle, tasks))
}

fn source(protocol: Protocol) -> Arc<Source> {
    Arc::new(Source {
        serial: 1,
        worker_id: format!("by {protocol}").into(),
        node: "node_a".into(),
        pool: None,
        pid: None,
        host: None,
        same_host: false,
    })
}

/// One of each kind, a delta, and a series that has ended.
fn metrics(source: &Arc<Source>) -> Vec<Metric> {
    let metric = |name: &str, kind: Kind, temporality, points| Metric {
        source: Arc::clone(source),
        instrument: Arc::new(Instrument {
            name: name.into(),
            unit: "s".into(),
            description: "by hand".into(),
            kind,
        }),
        temporality,
        points,
    };
    let cumulative = Temporality::Cumulative;
    let buckets = Buckets { count: 3, sum: Some(4.5), min: Some(0.5), max: Some(3.0), counts: vec![1, 1, 1] };
    let exponential = ExponentialBuckets {
        count: 4,
        sum: Some(1.5),
        min: Some(-1.0),
        max: Some(2.0),
        scale: -3,
        zero_count: 1,
        positive: BucketRange { offset: -2, counts: vec![1, 300] },
        negative: BucketRange { offset: 7, counts: vec![1] },
    };
    let histogram = Kind::Histogram { boundaries: [1.0, 2.0].into() };
    vec![
        metric("gauge", Kind::Gauge, cumulative, Points::Gauge(vec![point(Some(Number::Float(-0.25)))])),
        metric("counter", Kind::Counter, Temporality::Delta, Points::Sum(vec![point(Some(Number::Int(0)))])),
        metric("ups", Kind::UpDownCounter, cumulative, Points::Sum(vec![point(Some(Number::Int(-7)))])),
        metric(
            "histogram",
            histogram,
            cumulative,
            Points::Histogram(vec![point(Some(buckets)), point(None)]),
        ),
        metric(
            "exponential",
            Kind::ExponentialHistogram,
            Temporality::Delta,
            Points::Exponential(vec![point(Some(exponential))]),
        ),
        metric("ended", Kind::Counter, cumulative, Points::Sum(vec![point(None)])),
    ]
}

fn point<V>(value: Option<V>) -> Point<V> {
    let mut attributes = Attributes::default();
    attributes.set("snakepit.tool", AttributeValue::Text("search \u{1f980}"));
    let exemplar = Exemplar { time: START, value: Number::Int(2), span: Some((TRACE, SPAN)) };
    let exemplars = value.iter().map(|_| exemplar.clone()).collect();
    Point { attributes: Arc::new(attributes), start: START, time: TIME, value, exemplars }
}

fn record(source: &Arc<Source>) -> LogRecord {
    let mut attributes = Attributes::default();
    attributes.set("reason", AttributeValue::Text("why \u{1f980}"));
    LogRecord {
        source: Arc::clone(source),
        time: START,
        observed: TIME,
        severity: Severity::Warn,
        event_name: "snakepit.python.worker.ready".into(),
        body: "a worker is ready".into(),
        attributes,
        trace: Some(RecordTrace { trace_id: TRACE, span_id: Some(SPAN), flags: TraceFlags::SAMPLED }),
    }
}

fn check_metrics(arrived: &[ArrivedMetric]) -> Result<()> {
    let data = |name: &str| {
        let found = arrived.iter().find(|arrived| arrived.metric.name == name);
        let metric = found.with_context(|| format!("no {name}"))?.metric.clone();
        ensure!((metric.unit.as_str(), metric.description.as_str()) == ("s", "by hand"), "{metric:?}");
        metric.data.context("nothing in it")
    };
    let resource = &arrived[0].resource;
    ensure!(text(resource, "service.instance.id").is_some_and(|id| id.ends_with("@node_a")), "{resource:?}");
    ensure!(resource.iter().all(|attribute| attribute.key != "process.pid"), "{resource:?}");

    let Data::Gauge(gauge) = data("gauge")? else { anyhow::bail!("no gauge") };
    let point = &gauge.data_points[0];
    ensure!(point.value == Some(number_data_point::Value::AsDouble(-0.25)), "{point:?}");
    ensure!((point.start_time_unix_nano, point.time_unix_nano) == (0, TIME.0.unsigned_abs()), "{point:?}");
    ensure!(text(&point.attributes, "snakepit.tool") == Some("search \u{1f980}"), "{point:?}");
    let exemplar = point.exemplars.first().context("no exemplar")?;
    ensure!(exemplar.value == Some(exemplar::Value::AsInt(2)), "{exemplar:?}");
    ensure!((&exemplar.trace_id[..], &exemplar.span_id[..]) == (&TRACE.0[..], &SPAN.0[..]), "{exemplar:?}");
    ensure!(exemplar.time_unix_nano == START.0.unsigned_abs(), "{exemplar:?}");

    let Data::Sum(counter) = data("counter")? else { anyhow::bail!("no sum") };
    ensure!((counter.aggregation_temporality, counter.is_monotonic) == (1, true), "{counter:?}");
    let point = &counter.data_points[0];
    ensure!(point.value == Some(number_data_point::Value::AsInt(0)), "{point:?}");
    ensure!(point.start_time_unix_nano == START.0.unsigned_abs(), "{point:?}");

    let Data::Sum(ups) = data("ups")? else { anyhow::bail!("no sum") };
    ensure!((ups.aggregation_temporality, ups.is_monotonic) == (2, false), "{ups:?}");

    let Data::Histogram(histogram) = data("histogram")? else { anyhow::bail!("no histogram") };
    ensure!(histogram.aggregation_temporality == 2, "{histogram:?}");
    let [point, ended] = &histogram.data_points[..] else { anyhow::bail!("{histogram:?}") };
    ensure!(
        (point.count, point.sum, point.min, point.max) == (3, Some(4.5), Some(0.5), Some(3.0)),
        "{point:?}"
    );
    ensure!(point.bucket_counts == [1, 1, 1] && point.explicit_bounds == [1.0, 2.0], "{point:?}");
    ensure!((ended.flags, ended.count) == (1, 0) && ended.bucket_counts.is_empty(), "{ended:?}");

    let Data::ExponentialHistogram(histogram) = data("exponential")? else { anyhow::bail!("no histogram") };
    ensure!(histogram.aggregation_temporality == 1, "{histogram:?}");
    let point = &histogram.data_points[0];
    ensure!((point.count, point.scale, point.zero_count) == (4, -3, 1), "{point:?}");
    let positive = point.positive.clone().unwrap_or_default();
    let negative = point.negative.clone().unwrap_or_default();
    ensure!((positive.offset, &positive.bucket_counts[..]) == (-2, &[1, 300][..]), "{point:?}");
    ensure!((negative.offset, &negative.bucket_counts[..]) == (7, &[1][..]), "{point:?}");

    let Data::Sum(ended) = data("ended")? else { anyhow::bail!("no sum") };
    let point = &ended.data_points[0];
    ensure!((point.flags, &point.value) == (1, &None), "{point:?}");
    Ok(())
}
