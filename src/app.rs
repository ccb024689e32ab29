//! The composition root: builds the parts, owns their tasks, drains on shutdown.
//!
//! Whoever runs the bridge (`serve`, `demo`, tests) starts an [`App`] and shuts it down. The order of a shutdown is that
//! of the data: no new streams, what is on the wire is read, the engines close what is open (or write it down, where there
//! is a state directory), the exporter flushes, and what is left is on disk.

mod clock;
mod collections;
mod descriptors;
mod exporters;
mod own;
mod run;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::ledger::{BridgeLedger, sum};
use crate::admin::readiness::State;
use crate::admin::sources::{
    AdminState, ExportFigures, ReceiverFigures, SignalFigures, SpoolFigures, StoreFigures,
};
use crate::admin::{self, Readiness};
use crate::config::{Config, ReceiverSettings};
use crate::control::policies::Policies;
use crate::engine::EventLedger;
use crate::exporter::signal::Signal;
use crate::exporter::{ExportSnapshot, ExportSnapshots, Exporters};
use crate::receiver::refusals::{RefusedConnection, Unauthenticated};
use crate::receiver::registry::{Registry, Returning};
use crate::receiver::stats::ReceiverStats;
use crate::receiver::{self, Drain, Receiver};
use crate::shard::journal::{Journal, fingerprint};
use crate::shard::recover::{fresh, last_instant};
use crate::shard::{Capacity, SHARD_CHANNEL_CAPACITY, ShardMessage, ShardTask, Shards, Tap};
use crate::store::{self, Store};
use crate::time::{Now, UnixNanos};

use collections::Collections;

pub(crate) use clock::{after, start as start_clock};
pub(crate) use own::own_telemetry;
pub(crate) use run::announce;
pub use run::run;
pub(crate) use run::runtime;

/// Threads, at most; each takes some hundred thousand events a second.
const MAX_THREADS: usize = 16;

/// Threads that work, and shards: half of the machine's cores. The bridge stands beside workers that need the others, and
/// where events come one by one, two threads that wake each other cost several times what one costs.
#[must_use]
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, MAX_THREADS)
}

/// How long streams are read once the bridge drains, at most; and of the shutdown timeout at most a third.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// How long the shards have to close what is open, at most.
const CLOSING_LIMIT: Duration = Duration::from_secs(5);

/// What reading, closing and ending have each, even if the shutdown timeout has none left: too short a timeout should
/// cost what waits for the Collector, and not the ledger.
const LEAST_STAGE: Duration = Duration::from_millis(200);

/// Why the bridge ended otherwise than it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port or an endpoint cannot be had.
    #[error("failed to {action}")]
    Unavailable {
        /// What was tried: `listen on 127.0.0.1:50061`.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The configuration passed its checks and still makes no sense.
    #[error("failed to {0}")]
    Usage(String),
    /// A part broke that should not have.
    #[error("{0}")]
    Internal(String),
}

/// A bridge that serves.
#[derive(Debug)]
pub struct App {
    /// Where workers connect.
    pub grpc_addr: SocketAddr,
    /// Where the admin port is.
    pub admin_addr: SocketAddr,
    shards: Shards,
    exporters: Exporters,
    /// Nothing where no metrics are made.
    collections: Option<Collections>,
    drain: Drain,
    readiness: Readiness,
    stop_admin: CancellationToken,
    /// Checkpoints and collections.
    stop_periodic: CancellationToken,
    store: Option<Store>,
    shutdown_timeout: Duration,
    /// The parts' tasks; none ends before it is told to.
    tasks: JoinSet<&'static str>,
}

impl App {
    /// Starts every part. `tap` sees everything that is finished as well, as far as it keeps up.
    ///
    /// # Errors
    /// When a port cannot be had, or the endpoint makes no sense.
    pub async fn start(config: Config, tap: Option<Tap>) -> Result<Self, RunError> {
        let policies = Policies::new(&config.control).map_err(|error| RunError::Usage(error.to_string()))?;
        let (store, mut recovered) = state::open(&config.state).await?.unzip();
        let begun = recovered.as_ref().map(last_instant).unwrap_or_default();
        let clock: Arc<dyn Fn() -> Now + Send + Sync> = Arc::new(clock::start_at(begun));
        let exporters::Built { exporters, tasks: exports } =
            exporters::build(&config, &clock, store.as_ref(), recovered.as_mut())?;

        let shards = u16::try_from(threads()).expect("threads are few");
        let settings = Arc::new(config.engine.clone());
        let fingerprint = fingerprint(&settings);
        let mut beginning = match &mut recovered {
            Some(recovered) => state::go_on(recovered, &settings, shards, clock(), &exporters),
            None => fresh(&settings, shards),
        };
        if let Some(store) = &store {
            state::write_all(&mut beginning, store, fingerprint, clock(), &exporters).await;
        }
        let collections = settings.metrics.is_some().then(|| {
            let last = beginning.shards.iter().filter_map(|shard| shard.engine.last_collection()).max();
            Collections::new(Arc::clone(&clock), last.unwrap_or(UnixNanos(i64::MIN)))
        });
        let mut tasks = JoinSet::new();
        for (name, export) in exports {
            tasks.spawn(named(name, export));
        }
        let registry = Arc::new(Registry::new(config.receiver.max_workers));
        registry.restore(beginning.workers.into_iter().map(Returning::from), beginning.next_stream);
        let capacity = Capacity::new(usize::from(shards), config.max_open_spans, config.max_open_bytes);
        let mut senders = Vec::with_capacity(usize::from(shards));
        for (number, shard) in (0..shards).zip(beginning.shards) {
            let (sender, messages) = mpsc::channel(SHARD_CHANNEL_CAPACITY);
            senders.push(sender);
            let journal =
                store.as_ref().map(|store| Journal::new(number, store.clone(), fingerprint, shard.next));
            let task = ShardTask {
                number,
                messages,
                journal,
                exporters: exporters.clone(),
                registry: Arc::clone(&registry),
                capacity: capacity.clone(),
                tap: tap.clone(),
                clock: Arc::clone(&clock),
            };
            tasks.spawn(named("shard", task.run(shard.engine)));
        }
        let shards = Shards::new(senders);
        let stop_periodic = CancellationToken::new();
        if let Some(store) = &store {
            let checkpoints = state::checkpoints(
                store.clone(),
                shards.clone(),
                exporters.clone(),
                config.state.checkpoint_interval,
                stop_periodic.clone(),
            );
            tasks.spawn(named("checkpoints", checkpoints));
        }
        if let Some(collections) = &collections {
            let interval = config.otel.metrics_interval();
            let running = collections.clone().run(shards.clone(), interval, stop_periodic.clone());
            tasks.spawn(named("collections", running));
        }

        let stats = Arc::new(ReceiverStats::default());
        let receiver_settings = receiver::Settings {
            listen: config.listen,
            max_message_bytes: u32::try_from(config.receiver.max_message_bytes).unwrap_or(u32::MAX),
            host_name: clock::host_name(),
            credentials: config.credentials.clone(),
            max_connections: config.receiver.max_connections,
        };
        let parts = receiver::Parts {
            shards: shards.clone(),
            registry: Arc::clone(&registry),
            policies: Arc::new(policies),
            stats: Arc::clone(&stats),
        };
        let Receiver { local_addr: grpc_addr, serve, drain } =
            receiver::build(receiver_settings, parts).await.map_err(not_listening)?;
        let readiness = Readiness::new();
        let state = AdminState {
            shards: shards.clone(),
            readiness: readiness.clone(),
            capacity,
            export: {
                let (exporters, store) = (exporters.clone(), store.clone());
                Arc::new(move || export_figures(exporters.snapshots(), store.as_ref().map(Store::figures)))
            },
            collections: {
                let collections = collections.clone();
                Arc::new(move || collections.as_ref().map(Collections::figures))
            },
            receiver: {
                let limits = config.receiver;
                Arc::new(move || receiver_figures(&stats, &registry, limits))
            },
        };
        let listener = TcpListener::bind(config.admin.listen).await.map_err(|source| {
            RunError::Unavailable { action: format!("listen on {} (admin)", config.admin.listen), source }
        })?;
        let admin_addr = listener
            .local_addr()
            .map_err(|source| RunError::Unavailable { action: "name the admin port".to_owned(), source })?;
        let stop_admin = CancellationToken::new();
        if config.own_telemetry.contains(&Signal::Metrics) {
            tasks.spawn(named("own metrics", admin::own::keep_fresh(state.clone(), stop_admin.clone())));
        }
        let router = admin::router(&config.admin, state);
        tasks.spawn(named("admin", admin::server::serve(listener, router, stop_admin.clone())));
        tasks.spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the worker port broke");
            }
            "receiver"
        });
        readiness.set(State::Serving);
        Ok(Self {
            grpc_addr,
            admin_addr,
            shards,
            exporters,
            collections,
            drain,
            readiness,
            stop_admin,
            stop_periodic,
            store,
            shutdown_timeout: config.shutdown_timeout,
            tasks,
        })
    }

    /// Waits until a part ends that should not. Names it.
    pub async fn broken(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => format!("the {name} ended"),
            Some(Err(error)) => format!("a part panicked: {error}"),
            None => "nothing runs".to_owned(),
        }
    }

    /// Drains: takes no new streams, reads what is on the wire, closes what is open, flushes within the shutdown
    /// timeout. Returns the final sums.
    pub async fn shutdown(mut self) -> BridgeLedger {
        self.readiness.set(State::Draining);
        let deadline = clock::tokio_now() + self.shutdown_timeout;
        let left = || deadline.saturating_duration_since(clock::tokio_now());
        let given_up = self.drain.run((self.shutdown_timeout / 3).clamp(LEAST_STAGE, DRAIN_LIMIT)).await;
        if given_up > 0 {
            tracing::warn!(streams = given_up, "some streams could not be read to their end");
        }
        self.stop_periodic.cancel();
        if let Some(store) = self.store.as_ref().filter(|store| store.is_behind()) {
            // The disk may take again what it did not keep up with.
            let written = state::write_everything(store, &self.shards, &self.exporters);
            let _ = tokio::time::timeout(left().min(CLOSING_LIMIT), written).await;
        }
        let events = self.close_shards(left().clamp(LEAST_STAGE, CLOSING_LIMIT)).await;
        let snapshots = self.exporters.shutdown(left()).await;
        if let Some(store) = &self.store
            && !store.close().await
        {
            tracing::error!("the last of what was to be kept could not be written");
        }
        self.stop_admin.cancel();
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        // What is left are connections that do not close; they end with the program.
        let _ = tokio::time::timeout(left().clamp(LEAST_STAGE, admin::server::CLOSING_LIMIT), ending).await;
        BridgeLedger { events, export: export_figures(snapshots, None) }
    }

    /// Has the shards close what is open and make their last points, and adds up their last sums.
    async fn close_shards(&self, within: Duration) -> EventLedger {
        let collect = self.collections.as_ref().map(Collections::next_time);
        let ask = self.shards.ask(|answer| ShardMessage::Shutdown { collect, answer });
        let answers = tokio::time::timeout(within, ask).await;
        let answers = answers.unwrap_or_else(|_| {
            tracing::error!("the engines did not close in time: the ledger lacks their events");
            Vec::new()
        });
        let ended = answers.iter().filter(|answer| answer.is_none()).count();
        if ended > 0 {
            tracing::error!(shards = ended, "some shards had ended before: the ledger lacks their events");
        }
        sum(&answers.into_iter().flatten().collect::<Vec<_>>())
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()> + Send) -> &'static str {
    task.await;
    name
}

fn not_listening(error: receiver::BuildError) -> RunError {
    match error {
        receiver::BuildError::Listen { address, error } => {
            RunError::Unavailable { action: format!("listen on {address} (workers)"), source: error }
        }
        error @ receiver::BuildError::Reflection(_) => RunError::Internal(error.to_string()),
    }
}

fn export_figures(snapshots: ExportSnapshots, store: Option<store::StoreFigures>) -> ExportFigures {
    let of_all = |figure: fn(&ExportSnapshot) -> u64| snapshots.iter().map(figure).sum();
    let has_store = store.is_some();
    let sums = ExportFigures {
        store: store.map(|store| StoreFigures {
            is_working: store.state == store::StoreState::Durable,
            commits: store.commits,
            commits_failed: store.failures,
            bytes: store.disk_bytes,
            spool_limit_bytes: of_all(|snapshot| snapshot.spool_capacity_bytes),
        }),
        queued_bytes: of_all(|snapshot| snapshot.queued_bytes),
        queue_capacity_bytes: of_all(|snapshot| snapshot.queue_capacity_bytes),
        requests_sent: of_all(|snapshot| snapshot.requests_sent),
        requests_failed: of_all(|snapshot| snapshot.requests_failed),
        requests_in_flight: of_all(|snapshot| snapshot.requests_in_flight),
        retries: of_all(|snapshot| snapshot.retries),
        peer_is_down: snapshots.iter().any(|snapshot| snapshot.peer_is_down),
        ..ExportFigures::default()
    };
    let [traces, metrics, logs] = snapshots.map(|snapshot| signal_figures(snapshot, has_store));
    ExportFigures { traces, metrics, logs, ..sums }
}

fn signal_figures(snapshot: ExportSnapshot, has_store: bool) -> SignalFigures {
    let spool = SpoolFigures {
        batches: snapshot.spooled_batches,
        items: snapshot.spooled,
        bytes: snapshot.spooled_bytes,
        limit_bytes: snapshot.spool_capacity_bytes,
        oldest_age_ns: snapshot.oldest_age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
    };
    SignalFigures {
        accepted: snapshot.made,
        made_again: snapshot.made_again,
        inherited: snapshot.inherited,
        refused: snapshot.refused,
        sent: snapshot.exported,
        sampled_out: snapshot.sampled_out,
        spooled: snapshot.spooled,
        send_failed: snapshot.send_failed,
        queue_items: snapshot.queued_items,
        queue_limit_items: snapshot.queue_capacity_items,
        queue_bytes: snapshot.queued_bytes,
        queue_limit_bytes: snapshot.queue_capacity_bytes,
        retries: snapshot.retries,
        request_duration_ns: snapshot.request_duration_ns,
        batch_items: snapshot.batch_items,
        batch_bytes: snapshot.batch_bytes,
        peer_is_down: snapshot.peer_is_down,
        spool: has_store.then_some(spool),
    }
}

fn receiver_figures(stats: &ReceiverStats, registry: &Registry, limits: ReceiverSettings) -> ReceiverFigures {
    let counts = stats.snapshot();
    ReceiverFigures {
        streams_open: counts.streams_open,
        streams_opened: counts.streams_total,
        streams_broken: counts.streams_broken,
        messages: counts.messages,
        message_bytes: counts.bytes,
        messages_undelivered: counts.undelivered,
        streams_refused: [("workers", counts.refused_workers), ("other", counts.refused_streams)]
            .into_iter()
            .collect(),
        connections_open: counts.connections_open,
        max_connections: limits.max_connections as u64,
        connections_refused: RefusedConnection::ALL
            .map(|reason| (reason.as_str(), counts.refused_connections[reason.index()]))
            .into(),
        requests_unauthenticated: Unauthenticated::ALL
            .map(|reason| (reason.as_str(), counts.unauthenticated[reason.index()]))
            .into(),
        workers: registry.known_workers() as u64,
        max_workers: limits.max_workers as u64,
    }
}

#[cfg(test)]
mod tests;
