//! The exporter against real peers on loopback sockets, scripted request by request.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::exporter::settings::{Compression, OtlpSettings, Protocol, SecretHeaders, TlsFiles};
use crate::exporter::signal::Signal;
use crate::exporter::testing::{source, span, span_of};
use crate::exporter::{Destination, ExportSnapshot, ExporterHandle, ExporterSettings, build};
use crate::time::{Monotonic, Now, UnixNanos};

mod grpc;
mod http;
mod lines;
pub(crate) mod peer;
pub(crate) mod pki;
mod signals;
mod store;
mod tls;
mod transports;

/// Long enough for a busy machine, short enough to notice.
const PATIENCE: Duration = Duration::from_secs(20);

/// An exporter with its task running.
struct Running {
    handle: ExporterHandle,
    _task: JoinSet<()>,
}

impl Running {
    fn start(settings: ExporterSettings) -> Self {
        let (handle, task) = build(settings, clock()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Self { handle, _task: tasks }
    }

    fn export(&self, names: &[&str]) {
        self.handle.export(names.iter().map(|name| span(name)).collect());
    }

    /// Delivers everything, and checks the sums.
    async fn finish(self) -> ExportSnapshot {
        self.finish_within(PATIENCE).await
    }

    async fn finish_within(self, limit: Duration) -> ExportSnapshot {
        let snapshot = self.handle.shutdown(limit).await;
        assert!(snapshot.adds_up(), "{snapshot:?}");
        assert_eq!((snapshot.queued_items, snapshot.queued_bytes), (0, 0));
        snapshot
    }

    /// Waits until the snapshot is as wished.
    async fn until(&self, wish: impl Fn(&ExportSnapshot) -> bool) -> ExportSnapshot {
        let wait = async {
            loop {
                let snapshot = self.handle.snapshot();
                if wish(&snapshot) {
                    return snapshot;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("still {:?}", self.handle.snapshot()))
    }
}

/// Sends each call's spans at once and retries quickly.
pub(crate) fn settings(protocol: Protocol, endpoint: &str) -> ExporterSettings {
    let mut settings = ExporterSettings::new(Destination::Otlp(OtlpSettings {
        signal: Signal::Traces,
        tls: TlsFiles::default(),
        protocol,
        endpoint: endpoint.to_owned(),
        endpoint_origin: "a test".to_owned(),
        headers: SecretHeaders::default(),
        compression: Compression::None,
    }));
    settings.batch.delay = Duration::ZERO;
    settings.retry.initial_backoff = Duration::from_millis(10);
    settings.retry.max_backoff = Duration::from_millis(50);
    settings
}

pub(crate) fn otlp(settings: &mut ExporterSettings) -> &mut OtlpSettings {
    match &mut settings.destination {
        Destination::Otlp(otlp) => otlp,
        Destination::Console | Destination::File(_) | Destination::None => panic!("no peer"),
    }
}

#[expect(clippy::disallowed_methods, reason = "stands in for the app's clock")]
pub(crate) fn clock() -> impl Fn() -> Now + Send + Sync {
    let start = std::time::Instant::now();
    move || {
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap();
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Now { mono: Monotonic(nanos), wall: UnixNanos(i64::try_from(wall.as_nanos()).unwrap()) }
    }
}

#[tokio::test]
async fn without_a_destination_spans_are_refused() {
    let exporter = Running::start(ExporterSettings::new(Destination::None));
    exporter.export(&["a", "b"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.made, snapshot.refused["signal_disabled"]), (2, 2));
}

#[tokio::test]
async fn a_task_that_never_runs_loses_nothing_from_the_sums() {
    let (handle, task) = build(ExporterSettings::new(Destination::Console), clock()).unwrap();
    handle.export(vec![span("a")]);
    assert_eq!(handle.snapshot().queued_items, 1);
    drop(task);
    handle.export(vec![span("b")]);
    let snapshot = handle.shutdown(Duration::ZERO).await;
    assert_eq!((snapshot.made, snapshot.refused["shutdown"]), (2, 2));
}

/// Spans are given by several threads while the ledger is read: it adds up at every look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sums_add_up_whenever_somebody_looks() {
    let peer = peer::GrpcPeer::start().await;
    let mut settings = settings(Protocol::Grpc, &peer.endpoint);
    settings.batch.max_items = Some(7);
    settings.queue.max_items = Some(200);
    let exporter = Running::start(settings);
    let mut givers = JoinSet::new();
    for worker in 0..3 {
        let handle = exporter.handle.clone();
        givers.spawn(async move {
            for _ in 0..300 {
                handle.export(vec![span_of(&source(worker), "a"), span_of(&source(worker), "b")]);
                let snapshot = handle.snapshot();
                assert!(snapshot.adds_up(), "{snapshot:?}");
                assert!(snapshot.queued_items <= 200);
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(given) = givers.join_next().await {
        given.unwrap();
    }
    let snapshot = exporter.finish().await;
    assert_eq!(snapshot.made, 1800);
    assert_eq!(snapshot.exported, peer.received().len() as u64);
    assert_eq!(snapshot.exported + snapshot.refused.get("queue_full").unwrap_or(&0), 1800);
}
