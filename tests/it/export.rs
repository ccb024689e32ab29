//! What leaves the bridge: requests as an OTLP peer sees them, whatever it answers.

mod golden;
mod transports;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::support::bridge::Bridge;
use crate::support::sink::{Answer, Received, Sink};
use crate::support::until;
use crate::support::worker::{Connector, Says as _, Worker, channel, pair, wall};

/// Longest wait for what takes a moment on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A bridge that exports to the sink by gRPC, with further variables.
async fn bridge_to(sink: &Sink, variables: &[(&str, &str)]) -> Result<Bridge> {
    let url = sink.url();
    let all = [&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &url)], variables];
    Bridge::start(&["--reorder-window", "50ms", "--log-format", "json"], &all.concat()).await
}

/// Spans without correlation, which need not wait for a parent.
async fn send_spans(worker: &Worker, count: usize) -> Result<()> {
    for number in 0..count {
        worker.send_all(pair(&format!("operation_{number}"), "", wall(), 1_000)).await?;
    }
    Ok(())
}

/// How many spans each request has.
fn sizes(received: &[Received]) -> Vec<usize> {
    received.iter().map(|received| received.spans().len()).collect()
}

/// The first requests, once there are so many.
async fn requests(sink: &Sink, count: usize) -> Result<Vec<Received>> {
    until("requests", LIMIT, async || Ok(Some(sink.received()).filter(|received| received.len() >= count)))
        .await
}

/// Waits until the bridge has heard the peer's first no; until then it may send what it has.
async fn refused_once(bridge: &Bridge) -> Result<()> {
    until("a refusal", LIMIT, async || {
        let failed = bridge.metric("snakepit_bridge_export_requests_failed_total").await?;
        Ok((failed > 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_many_workers_are_many_resources_of_one_request() -> Result<()> {
    const WORKERS: usize = 20;
    let sink = Sink::grpc().await?;
    // Full when all have sent, and not before.
    let full = (2 * WORKERS).to_string();
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "60000"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", full.as_str())];
    let bridge = bridge_to(&sink, &variables).await?;
    let channel = channel(&bridge.grpc).await?;
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let worker = Connector::named(&format!("worker_{number}"))
            .header("x-snakepit-node", b"node-a")
            .header("x-snakepit-pool", b"gpu")
            .pid(u32::try_from(4_000 + number)?)
            .open(&channel)
            .await?;
        send_spans(&worker, 2).await?;
        workers.push(worker);
    }

    let received = requests(&sink, 1).await?;
    assert_eq!(sizes(&received), [2 * WORKERS]);
    let resources = &received[0].request.resource_spans;
    assert_eq!(resources.len(), WORKERS);
    let mut seen = BTreeSet::new();
    for resource in resources {
        let attributes = resource.resource.clone().context("no resource")?.attributes;
        let value = |key: &str| crate::support::sink::text(&attributes, key).map(str::to_owned);
        let id = value("snakepit.worker.id").context("no worker")?;
        assert_eq!(value("service.instance.id"), Some(format!("{id}@node-a")));
        assert_eq!(value("snakepit.pool").as_deref(), Some("gpu"));
        assert_eq!(resource.scope_spans.len(), 1);
        assert_eq!(resource.scope_spans[0].spans.len(), 2);
        seen.insert(id);
    }
    assert_eq!(seen.len(), WORKERS);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_full_by_count_or_sent_after_its_delay() -> Result<()> {
    let sink = Sink::grpc().await?;
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "500"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")];
    let bridge = bridge_to(&sink, &variables).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    send_spans(&worker, 25).await?;

    let received = requests(&sink, 3).await?;
    let mut by_size = sizes(&received);
    by_size.sort_unstable();
    assert_eq!(by_size, [5, 10, 10]);
    let rest = received.iter().find(|received| received.spans().len() == 5).context("no rest")?;
    let last_of =
        rest.spans().iter().map(|arrived| arrived.span.end_time_unix_nano).max().context("empty")?;
    assert!(wall().unsigned_abs() - last_of >= 450_000_000, "the rest waits for its delay");
    worker.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_full_by_bytes() -> Result<()> {
    let sink = Sink::grpc().await?;
    let bridge = bridge_to(&sink, &[("OTEL_BSP_SCHEDULE_DELAY", "50")]).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    // 16 MiB in 256 spans: within the default count, four times what a gRPC peer takes.
    let blob = "x".repeat(16 << 10);
    for number in 0..256 {
        let [start, mut stop] = pair(&format!("operation_{number}"), "", wall(), 1_000);
        for blobs in 0..4 {
            stop = stop.meta(&format!("blob_{blobs}"), &blob);
        }
        worker.send_all([start, stop]).await?;
    }

    let ledger = bridge.settled(512, LIMIT).await?;
    assert_eq!((ledger.spans.exported, ledger.spans.refused.len()), (256, 0));
    let received = sink.received();
    assert_eq!(sizes(&received).iter().sum::<usize>(), 256);
    let largest = received.iter().map(|received| received.request.encoded_len()).max();
    assert!(largest <= Some(4 << 20), "{largest:?}");
    assert!(received.len() >= 5, "{}", received.len());
    worker.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_gzip_go_with_every_request_of_either_protocol() -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let sink = if protocol == "grpc" { Sink::grpc().await? } else { Sink::http().await? };
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret,x-tenant=a"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ("OTEL_SERVICE_NAME", "our-service"),
            ("OTEL_LOG_LEVEL", "debug"),
        ];
        let bridge = bridge_to(&sink, &variables).await?;
        let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
        send_spans(&worker, 3).await?;
        let ledger = bridge.settled(6, LIMIT).await?;
        assert_eq!(ledger.spans.exported, 3);
        for received in sink.received() {
            let header = |name: &str| received.headers.get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("authorization"), Some("Bearer s3cret"), "{protocol}");
            assert_eq!(header("x-tenant"), Some("a"), "{protocol}");
            let encoding = if protocol == "grpc" { "grpc-encoding" } else { "content-encoding" };
            assert_eq!(header(encoding), Some("gzip"), "{protocol}");
            let content = if protocol == "grpc" { "application/grpc" } else { "application/x-protobuf" };
            assert_eq!(header("content-type"), Some(content), "{protocol}");
            let resource = received.request.resource_spans[0].resource.clone().context("no resource")?;
            let name = crate::support::sink::text(&resource.attributes, "service.name");
            assert_eq!(name, Some("our-service"), "{protocol}");
        }
        assert!(!bridge.log().contains("s3cret"), "{protocol}");
        worker.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_for_now_is_sent_again_as_it_was() -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let sink = if protocol == "grpc" { Sink::grpc().await? } else { Sink::http().await? };
        sink.answer([Answer::Fail(Status::unavailable("not yet"))]);
        let variables = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
        let bridge = bridge_to(&sink, &variables).await?;
        let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
        send_spans(&worker, 1).await?;

        let ledger = bridge.settled(2, LIMIT).await?;
        assert_eq!((ledger.spans.exported, ledger.spans.refused.len()), (1, 0), "{protocol}");
        let received = sink.received();
        assert_eq!(received.len(), 2, "{protocol}");
        assert_eq!(received[0].request, received[1].request, "{protocol}");
        worker.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_peer_rejects_is_counted_as_refused() -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let sink = if protocol == "grpc" { Sink::grpc().await? } else { Sink::http().await? };
        // More than there are is as many as there are.
        sink.answer([Answer::Partial(2), Answer::Partial(1_000)]);
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "60000"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5"),
        ];
        let bridge = bridge_to(&sink, &variables).await?;
        let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
        send_spans(&worker, 10).await?;
        let ledger = bridge.settled(20, LIMIT).await?;
        assert_eq!(ledger.spans.exported, 3, "{protocol}: {ledger:?}");
        assert_eq!(ledger.spans.refused, BTreeMap::from([("partial_success".to_owned(), 7)]), "{protocol}");
        assert_eq!(sink.received().len(), 2, "{protocol}: rejected spans are not sent again");
        assert!(bridge.log().contains("too old"), "{protocol}");
        worker.close().await?;
    }
    Ok(())
}

/// RESOURCE_EXHAUSTED with a pause is sent again, and not a moment before; without one the request may have been too large,
/// and is sent again in halves.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_for_a_pause_gets_it() -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(1_500);
    let sink = Sink::grpc().await?;
    let details = ErrorDetails::with_retry_info(Some(PAUSE));
    sink.answer([
        Answer::Fail(Status::with_error_details(Code::ResourceExhausted, "busy", details)),
        Answer::Fail(Status::resource_exhausted("too large")),
        Answer::Fail(Status::invalid_argument("what is this")),
    ]);
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "60000"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")];
    let bridge = bridge_to(&sink, &variables).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    send_spans(&worker, 2).await?;
    refused_once(&bridge).await?;
    send_spans(&worker, 6).await?;

    let ledger = bridge.settled(16, LIMIT).await?;
    let received = sink.received();
    let pause = received[1].at - received[0].at;
    assert!(pause >= PAUSE, "{pause:?}");
    assert_eq!(received.len(), 7, "four batches, the first twice, one in two halves");
    assert_eq!(ledger.spans.exported, 6);
    assert_eq!(ledger.spans.refused, BTreeMap::from([("rejected:invalid_argument".to_owned(), 2)]));
    worker.close().await
}

/// What is queued beyond the bound is refused at once, and the rest arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_counts() -> Result<()> {
    let sink = Sink::grpc().await?;
    let pause = ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
    sink.answer([Answer::Fail(Status::with_error_details(Code::ResourceExhausted, "busy", pause))]);
    let variables = [
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "50"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"),
    ];
    let bridge = bridge_to(&sink, &variables).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    send_spans(&worker, 1).await?;
    refused_once(&bridge).await?;
    send_spans(&worker, 200).await?;
    let ledger = bridge.settled(402, LIMIT).await?;
    assert_eq!(ledger.spans.refused, BTreeMap::from([("queue_full".to_owned(), 151)]));
    assert_eq!(ledger.spans.exported, 50);
    worker.send_raw(Bytes::new()).await?;
    worker.close().await
}
