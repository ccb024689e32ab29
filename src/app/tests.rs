//! Starts and ends of a whole bridge, within this process.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Endpoint;

use super::*;
use crate::config::flags::Flags;
use crate::proto::TelemetryEvent;
use crate::proto::service::snakepit_bridge_client::SnakepitBridgeClient;

/// How much longer than its timeout a shutdown may take: a few least stages, and a busy machine.
const A_LITTLE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_shutdown_timeout_is_kept_and_costs_the_ledger_nothing() {
    // Nothing listens there, so that whatever is to be exported waits until the end.
    for (timeout, limit) in [("0s", Duration::ZERO), ("1s", Duration::from_secs(1))] {
        let app = start(&[
            ("SNAKEPIT_BRIDGE_SHUTDOWN_TIMEOUT", timeout),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ])
        .await;
        let mut endless = JoinSet::new();
        let events = open_stream(&app).await;
        endless.spawn(async move { while events.send(start_event()).await.is_ok() {} });
        let _silent = TcpStream::connect(app.admin_addr).await.unwrap();

        let begun = clock::tokio_now();
        let ledger = app.shutdown().await;

        let took = clock::tokio_now() - begun;
        assert!(took < limit + A_LITTLE, "{took:?} instead of {limit:?}");
        assert!(ledger.events.adds_up(), "{ledger:?}");
        assert_eq!(ledger.events.pending, 0);
        assert_eq!(ledger.spans_queued(), 0, "{ledger:?}");
        assert_eq!(ledger.events.spans_made, ledger.export.traces.refused.values().sum::<u64>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_workers_sent_before_the_end_is_in_the_last_ledger() {
    let app = start(&[("OTEL_TRACES_EXPORTER", "none")]).await;
    let events = open_stream(&app).await;
    for _ in 0..1000 {
        events.send(start_event()).await.unwrap();
    }
    while events.capacity() < events.max_capacity() {
        tokio::task::yield_now().await;
    }

    let ledger = app.shutdown().await;

    assert_eq!(ledger.events.received, 1000);
    assert!(ledger.events.adds_up() && ledger.events.pending == 0, "{ledger:?}");
    assert_eq!(ledger.spans_queued(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_panics_is_named_and_the_others_still_shut_down() {
    let mut app = start(&[("OTEL_TRACES_EXPORTER", "none")]).await;
    app.tasks.spawn(async { panic!("by this test") });

    let broken = app.broken().await;

    assert!(broken.starts_with("a part panicked: "), "{broken}");
    assert!(app.shutdown().await.events.adds_up());
}

async fn start(variables: &[(&str, &str)]) -> App {
    let ports = [("SNAKEPIT_BRIDGE_LISTEN", "127.0.0.1:0"), ("SNAKEPIT_BRIDGE_ADMIN_LISTEN", "127.0.0.1:0")];
    let env: BTreeMap<String, String> = ports
        .iter()
        .chain(variables)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let config = Config::load(&Flags::default(), &env, false).unwrap();
    App::start(config, None).await.unwrap()
}

/// Opens a worker's stream, whose answers nobody reads.
async fn open_stream(app: &App) -> mpsc::Sender<Bytes> {
    let channel = Endpoint::from_shared(format!("http://{}", app.grpc_addr)).unwrap().connect_lazy();
    let (events, outgoing) = mpsc::channel(64);
    let request = Request::new(ReceiverStream::new(outgoing));
    let answer = SnakepitBridgeClient::new(channel).stream_telemetry(request).await.unwrap();
    std::mem::forget(answer);
    events
}

fn start_event() -> Bytes {
    let event = TelemetryEvent {
        event_parts: vec!["tool".to_owned(), "start".to_owned()],
        ..TelemetryEvent::default()
    };
    event.encode_to_vec().into()
}
