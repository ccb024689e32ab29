//! Where to, how, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpListener;

use super::{Pair, Seen, names};
use crate::support::bridge::Bridge;
use crate::support::sink::{Received, Sink, text};
use crate::support::until;
use crate::support::worker::{Connector, Worker, pair, wall};

pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// Nothing listens there.
pub(super) const NOWHERE: &str = "http://127.0.0.1:9";

/// A bridge with these variables and no others, and a worker of it.
pub(super) async fn start(variables: &[Pair<'_>]) -> Result<(Bridge, Worker)> {
    let bridge = Bridge::start(&["--reorder-window", "50ms", "--log-format", "json"], variables).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    Ok((bridge, worker))
}

/// Spans that wait for no parent.
pub(super) async fn send_spans(worker: &Worker, count: usize) -> Result<()> {
    for number in 0..count {
        worker.send_all(pair(&format!("operation_{number}"), "", wall(), 1_000)).await?;
    }
    Ok(())
}

/// The first request, once it has come.
pub(super) async fn request(sink: &Sink) -> Result<Received> {
    until("a request", LIMIT, async || Ok(sink.received().first().cloned())).await
}

pub(super) fn header<R>(received: &Received<R>, name: &str) -> Option<String> {
    received.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn resource_text(received: &Received, key: &str) -> Option<String> {
    let resource = received.request.resource_spans.first()?.resource.as_ref()?;
    text(&resource.attributes, key).map(str::to_owned)
}

pub(super) async fn generic_options_reach_the_peer() -> Result<Seen> {
    let sink = Sink::grpc().await?;
    let address = sink.address.to_string();
    let variables = [
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        // Without a scheme it is TLS, unless the next variable says otherwise.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*address),
        ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%2Cb"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_SERVICE_NAME", "our-service"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=a%20b,service.name=beaten"),
        // Only a full batch is sent so soon.
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3"),
    ];
    let (_bridge, worker) = start(&variables).await?;
    send_spans(&worker, 3).await?;
    let received = request(&sink).await?;
    assert_eq!(received.spans().len(), 3);
    assert_eq!(header(&received, "x-tenant").as_deref(), Some("a,b"));
    assert_eq!(header(&received, "grpc-encoding").as_deref(), Some("gzip"));
    assert_eq!(header(&received, "content-type").as_deref(), Some("application/grpc"));
    assert_eq!(resource_text(&received, "service.name").as_deref(), Some("our-service"));
    assert_eq!(resource_text(&received, "team").as_deref(), Some("a b"));
    // Its effect is that of the console, in a case of its own; the delay's is in another.
    let seen = names(&variables);
    Ok(seen
        .into_iter()
        .filter(|name| !["OTEL_TRACES_EXPORTER", "OTEL_BSP_SCHEDULE_DELAY"].contains(name))
        .collect())
}

pub(super) async fn the_options_of_traces_beat_the_generic_ones() -> Result<Seen> {
    let sink = Sink::grpc().await?;
    let address = sink.address.to_string();
    let traces = [
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*address),
        ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-own=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
    ];
    let generic = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE),
        ("OTEL_EXPORTER_OTLP_INSECURE", "false"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-generic=1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ];
    let (_bridge, worker) = start(&[&traces[..], &generic[..]].concat()).await?;
    send_spans(&worker, 1).await?;
    let received = request(&sink).await?;
    assert_eq!(header(&received, "x-own").as_deref(), Some("1"));
    assert_eq!(header(&received, "x-generic"), None, "nothing is merged");
    assert_eq!(header(&received, "grpc-encoding"), None);
    Ok(names(&traces))
}

pub(super) async fn a_request_has_the_least_of_its_time_outs() -> Result<Seen> {
    let mut seen = Vec::new();
    for (name, millis) in [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "310"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "320"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "330"),
    ] {
        // It takes connections, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", silent.local_addr()?);
        let variables =
            [(name, millis), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
        let (bridge, worker) = start(&variables).await?;
        send_spans(&worker, 1).await?;
        let expected = format!("no answer within {millis}ms");
        until(&expected, LIMIT, async || Ok(bridge.log().contains(&expected).then_some(()))).await?;
        seen.push(name);
    }
    Ok(seen)
}

pub(super) async fn a_batch_waits_for_its_delay() -> Result<Seen> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let delay = ("OTEL_BSP_SCHEDULE_DELAY", "700");
    let (_bridge, worker) = start(&[delay, ("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]).await?;
    send_spans(&worker, 2).await?;
    let received = request(&sink).await?;
    let last =
        received.spans().iter().map(|arrived| arrived.span.end_time_unix_nano).max().context("empty")?;
    let waited = wall().unsigned_abs() - last;
    ensure!((600_000_000..4_000_000_000).contains(&waited), "{waited} ns, by default it is 5 s");
    Ok(names(&[delay]))
}

pub(super) async fn a_queue_has_its_size() -> Result<Seen> {
    let queue = ("OTEL_BSP_MAX_QUEUE_SIZE", "7");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE);
    let (bridge, worker) = start(&[queue, endpoint, ("OTEL_BSP_SCHEDULE_DELAY", "20")]).await?;
    send_spans(&worker, 10).await?;
    let full = BTreeMap::from([("queue_full".to_owned(), 3)]);
    until("what finds no room", LIMIT, async || {
        let ledger = bridge.ledger().await?;
        Ok((ledger.spans.refused == full && ledger.spans.queued == 7).then_some(()))
    })
    .await?;
    Ok(names(&[queue]))
}

pub(super) async fn the_console_is_an_exporter() -> Result<Seen> {
    let variables = [("OTEL_TRACES_EXPORTER", "Console")];
    let (bridge, worker) = start(&variables).await?;
    send_spans(&worker, 1).await?;
    until("a line", LIMIT, async || Ok((bridge.output().len() == 2).then_some(()))).await?;
    let output = bridge.output();
    ensure!(output[1].contains("snakepit.python.operation_0"), "{output:?}");
    Ok(names(&variables))
}

pub(super) async fn a_disabled_bridge_drops_what_it_is_sent() -> Result<Seen> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let disabled = ("OTEL_SDK_DISABLED", "true");
    let (bridge, worker) =
        start(&[disabled, ("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_BSP_SCHEDULE_DELAY", "20")]).await?;
    send_spans(&worker, 2).await?;
    let ledger = bridge.settled(4, LIMIT).await?;
    assert_eq!(ledger.events.dropped, BTreeMap::from([("disabled".to_owned(), 4)]));
    worker.close().await?;
    assert_eq!(sink.received().len(), 0);
    Ok(names(&[disabled]))
}
