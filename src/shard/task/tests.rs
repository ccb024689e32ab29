//! Collections between other messages.

use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;

use super::*;
use crate::control::policy::Policy;
use crate::engine::metrics::settings::MetricSettings;
use crate::engine::{COLLECT_POINTS, Settings};
use crate::exporter::{Destination, ExporterSettings, Parts, build_with};
use crate::proto::telemetry_value::Value;
use crate::proto::{TelemetryEvent, TelemetryValue};
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
            journal: None,
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
        let event = |number: usize| TelemetryEvent {
            event_parts: vec!["cache".to_owned(), "lookup".to_owned()],
            measurements: [("hits".to_owned(), TelemetryValue { value: Some(Value::IntValue(1)) })].into(),
            metadata: [("tool".to_owned(), number.to_string())].into(),
            ..TelemetryEvent::default()
        };
        let messages = (0..series).map(|number| event(number).encode_to_vec().into()).collect();
        self.send(ShardMessage::Messages { stream, messages }).await;
    }

    async fn collect(&self, at: i64) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        self.send(ShardMessage::Collect { at: UnixNanos(at), answer }).await;
        answered
    }

    async fn received(&self) -> u64 {
        let (answer, answered) = oneshot::channel();
        self.send(ShardMessage::Ledger(answer)).await;
        answered.await.unwrap().received
    }
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
