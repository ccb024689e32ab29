//! Collections and checkpoints between other messages.

use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;

use super::writing::SLICE_BYTES;
use super::*;
use crate::control::policy::Policy;
use crate::engine::metrics::settings::MetricSettings;
use crate::engine::{COLLECT_POINTS, Settings};
use crate::exporter::{Destination, ExporterSettings, Parts, build_with};
use crate::proto::telemetry_value::Value;
use crate::proto::{TelemetryEvent, TelemetryValue};
use crate::store::{Op, Ordinals, Recovered, Store, StoreSettings};
use crate::worker::{Identity, WorkerKey};

/// Parts of a collection that the tests make.
const SLICES: usize = 12;

/// A shard with its task, and the exporters that it gives to, which send nothing.
struct Rig {
    shard: mpsc::Sender<ShardMessage>,
    exporters: Exporters,
    _tasks: tokio::task::JoinSet<()>,
}

impl Rig {
    fn start() -> Self {
        Self::with(None)
    }

    /// One that writes everything down.
    fn with(store: Option<&Store>) -> Self {
        let nanos = AtomicU64::new(0);
        // Each look at the clock is a microsecond later.
        let clock: Arc<dyn Fn() -> Now + Send + Sync> = Arc::new(move || {
            let now = nanos.fetch_add(1_000, Ordering::Relaxed);
            Now { mono: Monotonic(now), wall: UnixNanos(1_700_000_000_000_000_000 + now.cast_signed()) }
        });
        let mut tasks = tokio::task::JoinSet::new();
        let [traces, metrics, logs] = Signal::ALL.map(|signal| {
            let clock = Arc::clone(&clock);
            let parts = Parts { signal: Some(signal), ..Parts::default() };
            // Nothing listens there.
            let mut settings =
                ExporterSettings::new(Destination::File(crate::exporter::settings::FileTarget::Stdout));
            settings.batch.delay = Duration::from_secs(3600);
            let (handle, task) = build_with(settings, move || clock(), parts).unwrap();
            // It never runs: what it is given stays.
            tasks.spawn(async move {
                let _task = task;
                std::future::pending::<()>().await;
            });
            handle
        });
        let exporters = Exporters { traces, metrics, logs };
        let (shard, messages) = mpsc::channel(256);
        let task = ShardTask {
            number: 0,
            messages,
            exporters: exporters.clone(),
            registry: Arc::new(Registry::new(10)),
            capacity: Capacity::new(1, 1_000_000, 1 << 30),
            tap: None,
            clock,
            journal: store.map(|store| Journal::new(0, store.clone(), 0, Ordinals::default())),
        };
        let metrics = MetricSettings {
            max_series: 100_000,
            max_series_per_worker: 100_000,
            ..MetricSettings::default()
        };
        let settings = Settings { metrics: Some(metrics), ..Settings::default() };
        tasks.spawn(task.run(Engine::new(Arc::new(settings), 0)));
        Self { shard, exporters, _tasks: tasks }
    }

    async fn send(&self, message: ShardMessage) {
        self.shard.send(message).await.unwrap();
    }

    /// A worker with so many series.
    async fn measure(&self, series: usize) {
        let stream = StreamId(1);
        let worker = WorkerKey { node: "n".into(), id: "w".into(), pid: Some(7) };
        let (identity, policy) = (Arc::new(Identity::default()), Arc::new(Policy::default()));
        self.send(ShardMessage::Opened { stream, worker, identity, policy }).await;
        let messages = (0..series).map(event).collect();
        self.send(ShardMessage::Messages { stream, messages }).await;
    }

    /// One more measurement, of the series with this number.
    async fn measure_one(&self, number: usize) {
        self.send(ShardMessage::Messages { stream: StreamId(1), messages: vec![event(number)] }).await;
    }

    async fn collect(&self, at: i64) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        self.send(ShardMessage::Collect { at: UnixNanos(at), answer }).await;
        answered
    }

    async fn checkpoint(&self) -> oneshot::Receiver<Option<Commit>> {
        let (answer, answered) = oneshot::channel();
        self.send(ShardMessage::Checkpoint(answer)).await;
        answered
    }

    /// Takes a state that is whole, as the app does, and hands it over.
    async fn whole(&self, store: &Store) -> ShardCheckpoint {
        let (sender, state) = oneshot::channel();
        let (commit, written) = watch::channel(None);
        self.send(ShardMessage::WriteWhole { state: sender, written }).await;
        let state = state.await.unwrap();
        let op = Op::Checkpoint { shard: 0, state: state.clone() };
        commit.send_replace(Some(store.push(vec![Op::ForgetShards, op])));
        state
    }

    async fn received(&self) -> u64 {
        let (answer, answered) = oneshot::channel();
        self.send(ShardMessage::Ledger(answer)).await;
        answered.await.unwrap().received
    }
}

fn event(number: usize) -> Bytes {
    let event = TelemetryEvent {
        event_parts: vec!["cache".to_owned(), "lookup".to_owned()],
        measurements: [("hits".to_owned(), TelemetryValue { value: Some(Value::IntValue(1)) })].into(),
        metadata: [("tool".to_owned(), number.to_string())].into(),
        ..TelemetryEvent::default()
    };
    event.encode_to_vec().into()
}

/// A time after all that the rig's clock says.
const AT: i64 = 1_700_000_100_000_000_000;

/// Whoever asks again and again during a collection is answered after each part of it, and has all answers but the last
/// before its end.
#[tokio::test]
async fn what_comes_during_a_collection_waits_for_one_part_of_it() {
    let rig = Rig::start();
    let series = SLICES * COLLECT_POINTS;
    rig.measure(series).await;
    assert_eq!(rig.received().await, series as u64);

    let mut collected = rig.collect(AT).await;
    let mut answers = 0;
    while collected.try_recv().is_err() {
        assert_eq!(rig.received().await, series as u64);
        answers += 1;
    }

    assert!((SLICES - 1..=SLICES + 2).contains(&answers), "{answers} answers in {SLICES} parts");
    assert_eq!(rig.exporters.metrics.snapshot().made, series as u64);
}

/// Where nothing comes, the collection goes on by itself; and the answer comes when the exporter has every point.
#[tokio::test]
async fn an_idle_shard_collects_to_the_end() {
    let rig = Rig::start();
    rig.measure(3 * COLLECT_POINTS).await;

    rig.collect(AT).await.await.unwrap();

    assert_eq!(rig.exporters.metrics.snapshot().made, 3 * COLLECT_POINTS as u64);
}

/// A collection that is under way is not disturbed by another, which is left out.
#[tokio::test]
async fn a_second_collection_during_one_is_left_out() {
    let rig = Rig::start();
    rig.measure(3 * COLLECT_POINTS).await;
    let first = rig.collect(AT).await;
    let second = rig.collect(AT + 1_000_000).await;

    second.await.unwrap_err();
    first.await.unwrap();

    assert_eq!(rig.exporters.metrics.snapshot().made, 3 * COLLECT_POINTS as u64);
}

/// The end of a shard completes the collection that is under way, and makes a last one.
#[tokio::test]
async fn the_end_makes_every_point_once_more() {
    let rig = Rig::start();
    rig.measure(3 * COLLECT_POINTS).await;
    let _first = rig.collect(AT).await;
    let (answer, answered) = oneshot::channel();
    rig.send(ShardMessage::Shutdown { collect: Some(UnixNanos(AT + 1_000_000)), answer }).await;

    let ledger = answered.await.unwrap();

    assert_eq!(ledger.received, 3 * COLLECT_POINTS as u64);
    // At least: those of a worker that is gone are made for the last time.
    assert!(rig.exporters.metrics.snapshot().made >= 6 * COLLECT_POINTS as u64);
}

fn open(dir: &tempfile::TempDir) -> (Store, Recovered) {
    let clock = Arc::new(crate::app::start_clock());
    Store::open(StoreSettings::new(dir.path().to_owned(), clock)).unwrap()
}

/// Rows of series of a state directory that nobody has.
fn series_in(recovered: &Recovered) -> usize {
    recovered.shards[0].rows.iter().filter(|(key, _)| key[..2] == [2, 2]).count()
}

/// Series whose rows take more than as many slices as the tests make, and fewer than twice as many.
fn many() -> usize {
    SLICES * SLICE_BYTES / 400
}

/// Whoever asks again and again while a checkpoint is written is answered after each part of it; what comes meanwhile is in it.
#[tokio::test]
async fn what_comes_during_a_checkpoint_waits_for_one_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    let rig = Rig::with(Some(&store));
    rig.measure(many()).await;
    assert_eq!(rig.received().await, many() as u64);

    let mut written = rig.checkpoint().await;
    let mut answers = 0;
    let commit = loop {
        if let Ok(commit) = written.try_recv() {
            break commit;
        }
        rig.measure_one(many()).await;
        answers += 1;
        assert_eq!(rig.received().await, many() as u64 + answers);
    };

    let slices = u64::try_from(SLICES).unwrap();
    assert!((slices - 1..=2 * slices).contains(&answers), "{answers} answers");
    assert!(commit.is_some());
    assert_eq!(rig.checkpoint().await.await.unwrap(), None, "nothing has happened since");
    drop(rig);
    assert!(store.close().await);
    let recovered = open(&dir).1;
    assert_eq!(series_in(&recovered), many() + 1, "the one that came meanwhile too");
    assert_eq!(recovered.shards[0].journal.len(), 0);
}

/// Where nothing comes, a checkpoint goes on by itself.
#[tokio::test]
async fn an_idle_shard_writes_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    let rig = Rig::with(Some(&store));
    rig.measure(many()).await;

    assert!(rig.checkpoint().await.await.unwrap().is_some());

    drop(rig);
    assert!(store.close().await);
    assert_eq!(series_in(&open(&dir).1), many());
}

/// A whole checkpoint is prepared in parts too, and has what came since; a smaller one that somebody waits for gives way to it.
#[tokio::test]
async fn a_whole_checkpoint_is_prepared_between_messages() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir);
    let rig = Rig::with(Some(&store));
    rig.measure(many()).await;
    rig.checkpoint().await.await.unwrap();
    rig.measure_one(0).await;
    let smaller = rig.checkpoint().await;
    let (answer, mut prepared) = oneshot::channel();
    rig.send(ShardMessage::PrepareWhole(answer)).await;
    let mut answers = 0;
    while prepared.try_recv().is_err() {
        rig.received().await;
        answers += 1;
    }
    assert!(answers >= SLICES - 1, "{answers} answers");
    smaller.await.unwrap_err();
    rig.measure_one(many()).await;

    let state = rig.whole(&store).await;

    assert!(state.replaces_all);
    drop(rig);
    assert!(store.close().await);
    assert_eq!(series_in(&open(&dir).1), many() + 1);
}

/// Without somewhere to write nothing is written, and whoever asks hears so.
#[tokio::test]
async fn a_shard_without_a_journal_writes_nothing() {
    let rig = Rig::start();
    rig.measure(1).await;

    assert_eq!(rig.checkpoint().await.await.unwrap(), None);

    let (answer, prepared) = oneshot::channel();
    rig.send(ShardMessage::PrepareWhole(answer)).await;
    prepared.await.unwrap_err();
}
