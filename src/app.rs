//! The composition root: builds the parts, owns their tasks, drains on shutdown.
//!
//! Whoever runs the bridge (`serve`, `demo`, tests) starts an [`App`] and shuts it down. The order of a shutdown is that
//! of the data: no new streams, what is on the wire is read, the engines close what is open, the exporter flushes.

mod clock;
mod run;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::ledger::{BridgeLedger, sum};
use crate::admin::readiness::State;
use crate::admin::sources::{AdminState, ExportFigures, ReceiverFigures};
use crate::admin::{self, Readiness};
use crate::config::Config;
use crate::control::policies::Policies;
use crate::engine::EventLedger;
use crate::exporter::signal::Signal;
use crate::exporter::{self, ExportSnapshot, ExporterHandle};
use crate::receiver::registry::Registry;
use crate::receiver::stats::ReceiverStats;
use crate::receiver::{self, Drain, Receiver};
use crate::shard::{Capacity, SHARD_CHANNEL_CAPACITY, Sampling, ShardMessage, ShardTask, Shards, Tap};
use crate::time::Now;

pub(crate) use clock::{after, start as start_clock};
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
    exporter: ExporterHandle,
    sampling: Arc<Sampling>,
    drain: Drain,
    readiness: Readiness,
    stop_admin: CancellationToken,
    shutdown_timeout: Duration,
    /// The parts' tasks; none ends before it is told to.
    tasks: JoinSet<&'static str>,
}

impl App {
    /// Starts every part. `tap` sees every finished span as well, as far as it keeps up.
    ///
    /// # Errors
    /// When a port cannot be had, or the endpoint makes no sense.
    pub async fn start(config: Config, tap: Option<Tap>) -> Result<Self, RunError> {
        let clock: Arc<dyn Fn() -> Now + Send + Sync> = Arc::new(clock::start());
        let exporter_clock = Arc::clone(&clock);
        let settings = config.otel.exporter_settings(Signal::Traces, config.same_host, clock::seed());
        let (exporter, export) = exporter::build(settings, move || exporter_clock())
            .map_err(|error| RunError::Usage(error.to_string()))?;
        let policies = Policies::new(&config.control).map_err(|error| RunError::Usage(error.to_string()))?;

        let mut tasks = JoinSet::new();
        tasks.spawn(named("exporter", export));
        let registry = Arc::new(Registry::new(config.receiver.max_workers));
        let shards = threads();
        let capacity = Capacity::new(shards, config.max_open_spans, config.max_open_bytes);
        let sampling = Arc::new(Sampling::new(config.otel.sampler(config.sampling)));
        let settings = Arc::new(config.engine.clone());
        let mut senders = Vec::with_capacity(shards);
        for number in 0..shards {
            let (sender, messages) = mpsc::channel(SHARD_CHANNEL_CAPACITY);
            senders.push(sender);
            let task = ShardTask {
                number: u16::try_from(number).expect("shards are few"),
                messages,
                exporter: exporter.clone(),
                sampling: Arc::clone(&sampling),
                registry: Arc::clone(&registry),
                capacity: capacity.clone(),
                tap: tap.clone(),
                clock: Arc::clone(&clock),
            };
            tasks.spawn(named("shard", task.run(Arc::clone(&settings))));
        }
        let shards = Shards::new(senders);

        let stats = Arc::new(ReceiverStats::default());
        let receiver_settings = receiver::Settings {
            listen: config.listen,
            max_message_bytes: u32::try_from(config.receiver.max_message_bytes).unwrap_or(u32::MAX),
            host_name: clock::host_name(),
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
                let (exporter, sampling) = (exporter.clone(), Arc::clone(&sampling));
                Arc::new(move || export_figures(exporter.snapshot(), &sampling))
            },
            receiver: {
                let max_workers = config.receiver.max_workers as u64;
                Arc::new(move || receiver_figures(&stats, &registry, max_workers))
            },
        };
        let listener = TcpListener::bind(config.admin.listen).await.map_err(|source| {
            RunError::Unavailable { action: format!("listen on {} (admin)", config.admin.listen), source }
        })?;
        let admin_addr = listener
            .local_addr()
            .map_err(|source| RunError::Unavailable { action: "name the admin port".to_owned(), source })?;
        let stop_admin = CancellationToken::new();
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
            exporter,
            sampling,
            drain,
            readiness,
            stop_admin,
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
        let events = self.close_shards(left().clamp(LEAST_STAGE, CLOSING_LIMIT)).await;
        let snapshot = self.exporter.shutdown(left()).await;
        self.stop_admin.cancel();
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        // What is left are connections that do not close; they end with the program.
        let _ = tokio::time::timeout(left().clamp(LEAST_STAGE, admin::server::CLOSING_LIMIT), ending).await;
        BridgeLedger { events, export: export_figures(snapshot, &self.sampling) }
    }

    /// Has the shards close what is open, and adds up their last sums.
    async fn close_shards(&self, within: Duration) -> EventLedger {
        let answers = tokio::time::timeout(within, self.shards.ask(ShardMessage::Shutdown)).await;
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

fn export_figures(snapshot: ExportSnapshot, sampling: &Sampling) -> ExportFigures {
    ExportFigures {
        exported: snapshot.exported,
        sampled_out: sampling.sampled_out(),
        spooled: 0,
        refused: snapshot.refused,
        queued_bytes: snapshot.queued_bytes,
        queue_capacity_bytes: snapshot.queue_capacity_bytes,
        requests_sent: snapshot.requests_sent,
        requests_failed: snapshot.requests_failed,
        requests_in_flight: snapshot.requests_in_flight,
        retries: snapshot.retries,
        peer_is_down: snapshot.peer_is_down,
    }
}

fn receiver_figures(stats: &ReceiverStats, registry: &Registry, max_workers: u64) -> ReceiverFigures {
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
        workers: registry.known_workers() as u64,
        max_workers,
    }
}

#[cfg(test)]
mod tests;
