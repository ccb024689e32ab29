//! The exporter with a store, and with a sampler.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::peer::{Answer, GrpcPeer, nobody};
use super::*;
use crate::exporter::spool::{Load, SpoolStore};
use crate::exporter::testing::{metric, record};
use crate::exporter::{Exporters, Parts, build_with};
use crate::store::{Commit, Op, Origin, SignalSums, SpoolEntry, SpoolId};

/// Keeps everything in memory; durable at once, unless the test holds it back.
struct MemoryStore {
    next: AtomicU64,
    durable: watch::Sender<Commit>,
    holds_back: bool,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    last: u64,
    batches: BTreeMap<SpoolId, (SpoolEntry, Bytes)>,
    sums: SignalSums,
    loads: Vec<usize>,
}

impl MemoryStore {
    fn new(holds_back: bool) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(0),
            durable: watch::Sender::new(Commit(0)),
            holds_back,
            held: Mutex::default(),
        })
    }

    fn let_go(&self) {
        self.durable.send_replace(Commit(self.held.lock().unwrap().last));
    }

    /// What the next run finds.
    fn parts(self: &Arc<Self>) -> Parts {
        let held = self.held.lock().unwrap();
        Parts {
            store: Some(Arc::clone(self) as Arc<dyn SpoolStore>),
            left: held.batches.values().map(|(entry, _)| entry.clone()).collect(),
            sums: held.sums.clone(),
            ..Parts::default()
        }
    }
}

impl SpoolStore for MemoryStore {
    fn next_spool_id(&self) -> SpoolId {
        SpoolId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn push(&self, ops: Vec<Op>) -> Commit {
        let mut held = self.held.lock().unwrap();
        held.last += 1;
        for op in ops {
            match op {
                Op::Spool { id, signal, items, body, filled_at, origins } => {
                    let bytes = body.len() as u64;
                    held.batches
                        .insert(id, (SpoolEntry { id, signal, items, bytes, filled_at, origins }, body));
                }
                Op::Settled { spool, exported, refused, .. } => {
                    if let Some(name) = spool {
                        held.batches.remove(&name);
                    }
                    held.sums.exported += exported;
                    for (reason, items) in refused {
                        *held.sums.refused.entry(reason.to_owned()).or_default() += items;
                    }
                }
                Op::Journal { .. } | Op::Checkpoint { .. } | Op::ForgetShards => panic!("not the exporter's"),
            }
        }
        let commit = Commit(held.last);
        drop(held);
        if !self.holds_back {
            self.let_go();
        }
        commit
    }

    fn durable(&self) -> Commit {
        *self.durable.borrow()
    }

    fn subscribe(&self) -> watch::Receiver<Commit> {
        self.durable.subscribe()
    }

    /// Two at a time, as a store that bounds its answers.
    fn load(&self, names: Vec<SpoolId>) -> Load {
        let mut held = self.held.lock().unwrap();
        held.loads.push(names.len());
        let bodies = names.into_iter().take(2);
        let bodies: Vec<_> =
            bodies.map(|name| (name, held.batches.get(&name).map(|(_, body)| body.clone()))).collect();
        Box::pin(async move { bodies })
    }
}

fn start(settings: ExporterSettings, parts: Parts) -> Running {
    let (handle, task) = build_with(settings, clock(), parts).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    Running { handle, _task: tasks }
}

fn small(endpoint: &str) -> ExporterSettings {
    let mut settings = settings(Protocol::Grpc, endpoint);
    settings.queue.max_bytes = 4_000;
    settings
}

#[tokio::test]
async fn a_restart_in_an_outage_delivers_everything_once_the_peer_is_back() {
    let store = MemoryStore::new(false);
    let address = nobody();
    let exporter = start(small(&format!("http://{address}")), store.parts());
    for number in 0..100_u64 {
        exporter.handle.export_from(vec![span("a")], Some((0, number)), Commit(0));
        tokio::task::yield_now().await;
    }
    let snapshot = exporter.until(|snapshot| snapshot.spooled > 50).await;
    assert!(snapshot.queued_bytes <= 4_000);
    let snapshot = exporter.handle.shutdown(PATIENCE).await;
    assert!(snapshot.adds_up());
    assert_eq!((snapshot.spooled, snapshot.refused_total()), (100, 0), "{snapshot:?}");
    drop(exporter);

    let peer = GrpcPeer::start_at(address).await;
    let exporter = start(settings(Protocol::Grpc, &peer.endpoint), store.parts());
    assert_eq!(exporter.handle.snapshot().made, 100);
    let snapshot = exporter.until(|snapshot| snapshot.exported == 100).await;
    assert_eq!((snapshot.spooled, snapshot.spooled_bytes, snapshot.queued_items), (0, 0, 0));
    assert_eq!(peer.received().len(), 100);
    exporter.finish().await;
    let held = store.held.lock().unwrap();
    assert!(held.batches.is_empty());
    assert_eq!(held.sums.exported, 100);
    assert!(held.loads.iter().any(|asked| *asked > 2), "{:?}", held.loads);
}

#[tokio::test]
async fn nothing_is_sent_before_its_inputs_are_durable() {
    let store = MemoryStore::new(true);
    let peer = GrpcPeer::start().await;
    let exporter = start(settings(Protocol::Grpc, &peer.endpoint), store.parts());
    let needs = store.push(Vec::new());
    exporter.handle.export_from(vec![span("a")], Some((0, 0)), needs);
    exporter.export(&["b"]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(peer.received().is_empty());
    store.let_go();
    exporter.until(|snapshot| snapshot.exported == 2).await;
}

#[tokio::test]
async fn a_checkpoint_comes_after_everything_made_before_it() {
    let store = MemoryStore::new(true);
    let mut settings = settings(Protocol::Grpc, &format!("http://{}", nobody()));
    settings.batch.delay = Duration::from_secs(3600);
    let exporter = start(settings, store.parts());
    exporter.export(&["a", "b"]);
    let mut written = Vec::new();
    let commit = exporter.handle.persist_with(false, |ops| {
        written = ops.iter().map(|op| matches!(op, Op::Spool { items: 2, .. })).collect();
        store.push(ops)
    });
    assert_eq!((written, commit), (vec![true], Commit(1)));
    exporter.handle.persist_with(false, |ops| {
        assert!(ops.is_empty());
        Commit(1)
    });
}

/// Whatever the signals have not written yet is in the commit of a checkpoint, each as its own batch.
#[tokio::test]
async fn one_commit_holds_what_is_left_of_all_signals() {
    let store = MemoryStore::new(true);
    let mut settings = settings(Protocol::Grpc, &format!("http://{}", nobody()));
    settings.batch.delay = Duration::from_secs(3600);
    // They do not run: the first commit comes before.
    let mut tasks = Vec::new();
    let [traces, metrics, logs] = Signal::ALL.map(|signal| {
        let parts = Parts { signal: Some(signal), begins_with_checkpoint: true, ..store.parts() };
        let (handle, task) = build_with(settings.clone(), clock(), parts).unwrap();
        tasks.push(task);
        handle
    });
    let exporters = Exporters { traces, metrics, logs };
    exporters.traces.export_from(vec![span("a"), span("b")], Some((0, 5)), Commit(0));
    exporters.metrics.export_metrics(vec![metric("m", 3)], Some((0, 7)), Commit(0));
    exporters.logs.export_records(vec![record("r")], Some((0, 5)), Commit(0));

    let mut pushes = Vec::new();
    let commit = exporters.persist_with(false, |ops| {
        let spooled = ops.iter().filter_map(|op| match op {
            Op::Spool { signal, items, origins, .. } => Some((*signal, *items, origins.to_vec())),
            Op::Journal { .. } | Op::Settled { .. } | Op::Checkpoint { .. } | Op::ForgetShards => None,
        });
        pushes.push(spooled.collect::<Vec<_>>());
        store.push(ops)
    });

    let of = |ordinals| vec![Origin { shard: 0, ordinals }];
    let batches =
        vec![(Signal::Traces, 2, of(5..7)), (Signal::Metrics, 3, of(7..8)), (Signal::Logs, 1, of(5..6))];
    assert_eq!((pushes, commit), (vec![batches], Commit(1)));
    assert!(exporters.snapshots().iter().all(ExportSnapshot::adds_up));
}

#[tokio::test]
async fn what_a_peer_finds_too_large_arrives_in_pieces_by_way_of_the_store() {
    let store = MemoryStore::new(false);
    let peer = GrpcPeer::start().await;
    let too_large = tonic::Status::resource_exhausted("grpc: received message larger than max (9 vs. 4)");
    peer.answers([Answer::Status(too_large.clone()), Answer::Status(too_large)]);
    let exporter = start(settings(Protocol::Grpc, &peer.endpoint), store.parts());
    exporter.export(&["a", "b", "c", "d"]);
    let snapshot = exporter.until(|snapshot| snapshot.queued_items == 0).await;
    let lost = snapshot.refused.get("item_too_large").copied().unwrap_or(0);
    assert!(snapshot.requests_split > 0 && lost <= 1, "{snapshot:?}");
    assert_eq!(peer.received().len() as u64 + lost, 4);
    exporter.finish().await;
    assert!(store.held.lock().unwrap().batches.is_empty());
}

#[tokio::test]
async fn what_the_sampler_leaves_out_is_counted_and_not_sent() {
    let store = MemoryStore::new(false);
    let peer = GrpcPeer::start().await;
    let sampler = Box::new(|span: &mut crate::engine::span::Span| {
        span.trace_state = Some("vendor=8".into());
        &*span.name != "out"
    });
    let parts = Parts { sampler: Some(sampler), ..store.parts() };
    let exporter = start(settings(Protocol::Grpc, &peer.endpoint), parts);
    let spans = ["a", "out", "out", "b"].map(span).into();
    exporter.handle.export_from(spans, Some((3, 7)), Commit(0));
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.made, snapshot.exported, snapshot.sampled_out), (4, 2, 2));
    assert_eq!(peer.received(), ["a", "b"]);
    let sent = &peer.requests()[0].resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(sent.trace_state, "vendor=8");
    assert_eq!(store.held.lock().unwrap().sums.refused, BTreeMap::from([("sampled_out".to_owned(), 2)]));
}

/// The fate of a metric is that of its points, and it is settled by its one ordinal.
#[tokio::test]
async fn metrics_outlive_the_program_with_all_their_points() {
    let store = MemoryStore::new(false);
    let metrics = |exporter: &Running| {
        let metrics = vec![metric("a", 3), metric("b", 4)];
        exporter.handle.export_metrics(metrics, Some((0, 0)), Commit(0));
    };
    let parts = || Parts { signal: Some(Signal::Metrics), ..store.parts() };
    let exporter = start(settings(Protocol::Grpc, &format!("http://{}", nobody())), parts());
    metrics(&exporter);
    let snapshot = exporter.handle.shutdown(Duration::from_millis(50)).await;
    assert_eq!((snapshot.made, snapshot.spooled, snapshot.refused_total()), (7, 7, 0), "{snapshot:?}");
    {
        let held = store.held.lock().unwrap();
        let origins: Vec<_> =
            held.batches.values().flat_map(|(entry, _)| entry.origins.iter().cloned()).collect();
        assert_eq!(origins, [Origin { shard: 0, ordinals: 0..2 }]);
    }
    let exporter = start(ExporterSettings::new(Destination::Console), parts());
    assert_eq!(exporter.handle.snapshot().spooled, 7);
    let snapshot = exporter.until(|snapshot| snapshot.exported == 7).await;
    assert!(snapshot.adds_up());
    assert_eq!(store.held.lock().unwrap().sums.exported, 7);
}
