//! Workers that die, come back, or stand still; a Collector that is away; and what workers are told on connect.

use std::process::Command;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde_json::Value as Json;
use tonic::Code;

use super::{LIMIT, bridge_to, bridge_to_url};
use crate::support::bridge::{Bridge, Events};
use crate::support::process::Process;
use crate::support::sink::{Sink, text};
use crate::support::worker::{Connector, Worker, event, pair, wall};
use crate::support::{free_addresses, repository, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_lost_after_the_grace_period() -> Result<()> {
    let sink = Sink::grpc().await?;
    let bridge = bridge_to(&sink, &["--reconnect-grace", "1s"]).await?;
    let (process, worker) = relayed_worker(&bridge).await?;
    worker.send(&event("tool.execution.start", "a", wall())).await?;
    until("the start", LIMIT, async || Ok((bridge.ledger().await?.events.pending == 1).then_some(())))
        .await?;
    let died = wall();
    process.signal("KILL")?;

    let span = sink.spans_of("worker_1", 1, LIMIT).await?.remove(0);
    assert_eq!(text(&span.attributes, "snakepit.span.incomplete"), Some("worker_lost"));
    assert_eq!(text(&span.attributes, "error.type"), Some("worker_lost"));
    assert_eq!(span.status.map(|status| status.code), Some(2));
    // At the loss, not at the end of the grace period.
    let until_loss = span.end_time_unix_nano.abs_diff(died.unsigned_abs());
    assert!(until_loss < 900_000_000, "ends {until_loss} ns from the loss");
    let events = bridge.ledger().await?.events;
    assert_eq!(events, Events { received: 1, incomplete: 1, ..Events::default() });
    let workers: Json = serde_json::from_str(&bridge.admin("/api/v1/workers").await?)?;
    assert_eq!(workers["workers"], serde_json::json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_back_has_lost_nothing() -> Result<()> {
    let sink = Sink::grpc().await?;
    let bridge = bridge_to(&sink, &["--reconnect-grace", "1h"]).await?;
    let mut spans = 0;
    let began = wall();
    let [start, stop] = pair("tool.outer", "a", began, 1_000_000);
    let mut worker = Connector::named("worker_1").pid(1).connect(&bridge.grpc).await?;
    worker.send(&start).await?;
    for number in 0..20 {
        let [start, stop] = pair("tool.inner", "a", began + 1_000 * (number + 1), 500);
        worker.send(&start).await?;
        let sent = 2 * u64::try_from(number)? + 2;
        until("it", LIMIT, async || Ok((bridge.ledger().await?.events.received == sent).then_some(())))
            .await?;
        // Breaks off, or leaves in good order.
        if number % 2 == 0 {
            drop(worker);
        } else {
            worker.close().await?;
        }
        worker = Connector::named("worker_1").pid(1).connect(&bridge.grpc).await?;
        worker.send(&stop).await?;
        spans += 1;
    }
    worker.send(&stop).await?;
    spans += 1;

    let arrived = sink.spans_of("worker_1", spans, LIMIT).await?;
    let outer = arrived.iter().find(|span| span.name.ends_with("outer")).context("no outer span")?;
    let children = arrived.iter().filter(|span| span.parent_span_id == outer.span_id).count();
    assert_eq!(children, 20);
    let events = bridge.ledger().await?.events;
    assert_eq!(events, Events { received: 42, paired: 42, ..Events::default() });
    worker.close().await
}

/// A stopped process is not a dead one: its kernel answers, so its stream stays and its spans stay open.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stands_still_keeps_its_stream() -> Result<()> {
    let sink = Sink::grpc().await?;
    let bridge = bridge_to(&sink, &["--reconnect-grace", "0s"]).await?;
    let (process, worker) = relayed_worker(&bridge).await?;
    let [start, stop] = pair("tool.execution", "a", wall(), 1_000);
    worker.send(&start).await?;
    until("the start", LIMIT, async || Ok((bridge.ledger().await?.events.pending == 1).then_some(())))
        .await?;

    process.signal("STOP")?;
    // On a busy machine some of its threads may run on for a moment.
    until("the process to stand still", LIMIT, async || Ok(process.stands_still()?.then_some(()))).await?;
    worker.send(&stop).await?;
    // Others work meanwhile, long enough for a bridge that pings to notice.
    let other = Connector::named("worker_2").connect(&bridge.grpc).await?;
    for number in 0..5 {
        other.send_all(pair("tool.execution", &number.to_string(), wall(), 1_000)).await?;
        sink.spans_of("worker_2", number + 1, LIMIT).await?;
    }
    let ledger = bridge.ledger().await?;
    assert_eq!((ledger.events.pending, ledger.events.incomplete), (1, 0));
    process.signal("CONT")?;
    let span = sink.spans_of("worker_1", 1, LIMIT).await?.remove(0);
    assert_eq!(text(&span.attributes, "snakepit.span.incomplete"), None);
    other.close().await?;
    worker.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_collector_misses_is_queued_and_delivered_when_it_is_back() -> Result<()> {
    let [address] = free_addresses()?;
    let bridge = bridge_to_url(&format!("http://{address}"), &[]).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    for number in 0..100 {
        worker.send_all(pair("tool.execution", &number.to_string(), wall(), 1_000)).await?;
    }
    let queued = until("a full queue", LIMIT, async || {
        let ledger = bridge.ledger().await?;
        Ok((ledger.spans.made == 100).then_some(ledger))
    })
    .await?;
    assert_eq!((queued.spans.queued, queued.spans.exported), (100, 0));
    // Never because the Collector is away.
    bridge.admin("/readyz").await?;

    let sink = Sink::grpc_at(&address).await?;
    let arrived = sink.spans_of("worker_1", 100, LIMIT).await?;
    assert_eq!(arrived.len(), 100);
    let ledger = bridge.settled(200, LIMIT).await?;
    assert_eq!((ledger.spans.exported, ledger.spans.refused.len()), (100, 0));
    worker.close().await
}

/// Each worker is told its policy before anything else, in the numbering of its dialect: these are the bytes that the
/// Python classes read.
#[tokio::test(flavor = "multi_thread")]
async fn controls_on_connect_are_these_bytes_in_each_dialect() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bridge.yaml");
    std::fs::write(
        &file,
        "telemetry: {enabled: true, default_sampling_rate: 0.5, per_worker_sampling: {worker_1: 0.25}}\n\
         control:\n  rules:\n    - {pool: 'gpu*', enabled: false, sampling_rate: 1.0, blocked_events: ['debug.*']}\n",
    )?;
    let bridge =
        Bridge::start(&["--config", &file.display().to_string()], &[("OTEL_TRACES_EXPORTER", "none")])
            .await?;
    let quarter = b"\x09\0\0\0\0\0\0\xd0\x3f";
    let half = b"\x09\0\0\0\0\0\0\xe0\x3f";
    let whole = b"\x09\0\0\0\0\0\0\xf0\x3f";
    let filter: &[u8] = b"\x1a\x09\x12\x07debug.*";
    let cases: [(&str, &str, &str, [Vec<u8>; 3]); 4] = [
        (
            "worker_1",
            "default",
            "design",
            [b"\x12\x02\x08\x01".to_vec(), control(1, quarter), b"\x1a\0".to_vec()],
        ),
        (
            "worker_1",
            "default",
            "released",
            [b"\x0a\x02\x08\x01".to_vec(), control(2, quarter), b"\x1a\0".to_vec()],
        ),
        (
            "worker_2",
            "default",
            "design",
            [b"\x12\x02\x08\x01".to_vec(), control(1, half), b"\x1a\0".to_vec()],
        ),
        ("worker_3", "gpu-0", "released", [b"\x0a\0".to_vec(), control(2, whole), filter.to_vec()]),
    ];
    for (id, pool, dialect, expected) in cases {
        let mut worker = Connector::named(id)
            .header("x-snakepit-pool", pool.as_bytes())
            .header("x-snakepit-dialect", dialect.as_bytes())
            .connect(&bridge.grpc)
            .await?;
        for bytes in expected {
            assert_eq!(worker.control().await?, Bytes::from(bytes), "{id} in {dialect}");
        }
        worker.ensure_open().await?;
        worker.close().await?;
    }
    // What is switched off is not taken either, and what is blocked is filtered.
    let worker =
        Connector::named("worker_3").header("x-snakepit-pool", b"gpu-0").connect(&bridge.grpc).await?;
    worker.send(&event("tool.execution.start", "a", wall())).await?;
    worker.close().await?;
    let ledger = bridge.settled(1, LIMIT).await?;
    assert_eq!(ledger.events.dropped.get("disabled"), Some(&1));
    Ok(())
}

/// A worker whose connection is another process's, which can be stopped and killed.
async fn relayed_worker(bridge: &Bridge) -> Result<(Process, Worker)> {
    let [address] = free_addresses()?;
    let mut command = Command::new("python3");
    command.arg(repository("tests/python/relay.py")).args([&address, &bridge.grpc]);
    let mut process = Process::spawn("the relay", &mut command)?;
    let worker = until("the relay", LIMIT, async || {
        process.ensure_running()?;
        Ok(Connector::named("worker_1").connect(&address).await.ok())
    })
    .await?;
    Ok((process, worker))
}

/// A `TelemetryControl` whose field of this number holds these bytes.
fn control(number: u8, message: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(message.len()).expect("short")], message].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_not_built_yet_and_say_so() -> Result<()> {
    use snakepit_otel_bridge::proto::service::snakepit_bridge_client::SnakepitBridgeClient;
    let bridge = Bridge::start(&[], &[("OTEL_TRACES_EXPORTER", "none")]).await?;
    let mut client = SnakepitBridgeClient::new(crate::support::worker::channel(&bridge.grpc).await?);
    let answer = client.stream_telemetry_batches(tokio_stream::empty()).await;
    assert_eq!(answer.err().map(|status| status.code()), Some(Code::Unimplemented));
    Ok(())
}
