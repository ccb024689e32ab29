//! What is said of log records: where to, when, and what they hold.

use std::time::Duration;

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;

use super::export::{LIMIT, NOWHERE, header, start};
use super::{Pair, Seen, names};
use crate::support::sink::Sink;
use crate::support::until;
use crate::support::worker::{Says as _, Worker, event, pair, wall};

/// Spans and metrics stay at home.
const ONLY_RECORDS: [Pair<'_>; 2] = [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "none")];

/// Events that hold no number, and belong to no span: each becomes a record.
async fn send_records(worker: &Worker, count: usize) -> Result<()> {
    worker.send_all((0..count).map(|_| event("worker.ready", "", wall()))).await
}

pub(super) async fn the_options_of_logs_beat_the_generic_ones() -> Result<Seen> {
    let sink = Sink::grpc().await?;
    let address = sink.address.to_string();
    let own = [
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &*address),
        ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-own=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
    ];
    let generic = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-generic=1"),
    ];
    let (_bridge, worker) = start(&[&own[..], &generic[..]].concat()).await?;
    send_records(&worker, 1).await?;
    let received = until("a request", LIMIT, async || Ok(sink.received_records().first().cloned())).await?;
    assert_eq!(header(&received, "x-own").as_deref(), Some("1"));
    assert_eq!(header(&received, "x-generic"), None, "nothing is merged");
    assert_eq!(header(&received, "grpc-encoding").as_deref(), Some("gzip"));
    Ok(names(&own))
}

pub(super) async fn a_request_of_records_has_the_least_of_its_time_outs() -> Result<Seen> {
    let mut seen = Vec::new();
    for (name, millis) in [("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "360"), ("OTEL_BLRP_EXPORT_TIMEOUT", "370")] {
        // It takes connections, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", silent.local_addr()?);
        let to = [(name, millis), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)];
        let (bridge, worker) = start(&[&to[..], &ONLY_RECORDS[..]].concat()).await?;
        send_records(&worker, 1).await?;
        let expected = format!("no answer within {millis}ms");
        until(&expected, LIMIT, async || Ok(bridge.log().contains(&expected).then_some(()))).await?;
        seen.push(name);
    }
    Ok(seen)
}

pub(super) async fn records_wait_for_their_delay() -> Result<Seen> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let delay = ("OTEL_BLRP_SCHEDULE_DELAY", "2500");
    let (_bridge, worker) = start(&[delay, ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)]).await?;
    send_records(&worker, 1).await?;
    let records = sink.records_of("worker_1", 1, LIMIT).await?;
    let waited = Duration::from_nanos(wall().unsigned_abs() - records[0].observed_time_unix_nano);
    ensure!(waited > Duration::from_millis(2300), "{waited:?}, by default it is 1 s");
    Ok(names(&[delay]))
}

pub(super) async fn records_have_their_batches() -> Result<Seen> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let size = ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "3");
    // Only a full batch is sent so soon.
    let to = [("OTEL_BLRP_SCHEDULE_DELAY", "3600000"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)];
    let (_bridge, worker) = start(&[&[size][..], &to[..]].concat()).await?;
    send_records(&worker, 3).await?;
    let received = until("a request", LIMIT, async || Ok(sink.received_records().first().cloned())).await?;
    assert_eq!(received.records().len(), 3);
    Ok(names(&[size]))
}

pub(super) async fn records_have_their_queue() -> Result<Seen> {
    let queue = ("OTEL_BLRP_MAX_QUEUE_SIZE", "7");
    let (bridge, worker) = start(&[queue, ("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE)]).await?;
    send_records(&worker, 10).await?;
    until("what finds no room", LIMIT, async || {
        let log = bridge.log();
        let is_full = |line: &str| line.contains("the export queue is full") && line.contains(r#""logs""#);
        Ok(log.lines().any(is_full).then_some(()))
    })
    .await?;
    Ok(names(&[queue]))
}

pub(super) async fn the_console_shows_records() -> Result<Seen> {
    let console = ("OTEL_LOGS_EXPORTER", "console");
    let (bridge, worker) = start(&[&[console][..], &ONLY_RECORDS[..]].concat()).await?;
    send_records(&worker, 1).await?;
    until("a record's line", LIMIT, async || {
        let is_shown = |line: &String| {
            line.contains("snakepit.python.worker.ready") && line.contains(r#""severity":"INFO""#)
        };
        Ok(bridge.output().iter().any(is_shown).then_some(()))
    })
    .await?;
    Ok(names(&[console]))
}

pub(super) async fn records_have_their_limits() -> Result<Seen> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let limits =
        [("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4"), ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "2")];
    // They beat these.
    let general = [("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "9"), ("OTEL_ATTRIBUTE_COUNT_LIMIT", "3")];
    let to = [("OTEL_BLRP_SCHEDULE_DELAY", "20"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)];
    let (_bridge, worker) = start(&[&limits[..], &general[..], &to[..]].concat()).await?;
    let ready = event("worker.ready", "", wall());
    let ready = ["a", "b", "c", "d"].iter().fold(ready, |ready, key| ready.meta(key, "grüße, über"));
    worker.send(&ready).await?;
    let records = sink.records_of("worker_1", 1, LIMIT).await?;
    let attributes = &records[0].attributes;
    assert_eq!(attributes.len(), 2, "{attributes:?}");
    ensure!(records[0].dropped_attributes_count >= 2, "{:?}", records[0]);
    let longest = attributes.iter().filter_map(|attribute| {
        let Some(Value::StringValue(text)) = attribute.value.as_ref()?.value.as_ref() else { return None };
        Some(text.chars().count())
    });
    assert_eq!(longest.max(), Some(4), "{attributes:?}");
    Ok(names(&limits))
}

pub(super) async fn exceptions_may_be_records() -> Result<Seen> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let opt_in = ("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "logs");
    let to = [
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
    ];
    let (_bridge, worker) = start(&[&[opt_in][..], &to[..]].concat()).await?;
    let [begin, _] = pair("tool.execution", "c-1", wall(), 1_000_000);
    let failed = event("tool.execution.exception", "c-1", wall() + 1_000_000)
        .measured("duration", 1_000_000)
        .meta("error_type", "KeyError")
        .meta("error_message", "boom");
    worker.send_all([begin, failed]).await?;
    let spans = sink.spans_of("worker_1", 1, LIMIT).await?;
    ensure!(spans[0].events.iter().all(|event| event.name != "exception"), "{spans:?}");
    let records = sink.records_of("worker_1", 1, LIMIT).await?;
    let exception = records
        .iter()
        .find(|record| record.attributes.iter().any(|attribute| attribute.key == "exception.message"));
    let exception = exception.ok_or_else(|| anyhow::anyhow!("no exception among {records:?}"))?;
    assert_eq!((&exception.trace_id, &exception.span_id), (&spans[0].trace_id, &spans[0].span_id));
    Ok(names(&[opt_in]))
}
