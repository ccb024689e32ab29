//! Sends finished spans, metrics and log records to an OTLP peer: one exporter a signal.
//!
//! [`build`] makes a handle, which any thread may give items to without waiting, and a task, which the app runs. What is
//! sent when, and what became of each item, is decided in [`pipeline`] without input or output; here is the waiting: one
//! lock around the pipeline, one task that owns the requests in flight.
//!
//! Law: in every [`ExportSnapshot`], `made = exported + sampled_out + queued + spooled + sum(refused)`.
//!
//! Items are encoded where they are given, by the caller, outside of the lock: from then on they are bytes, and the
//! bound on the queue counts exactly those. With a store ([`spool`]), what the pipeline decides is written under the same
//! lock, so that the disk sees it in that order.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};

use crate::engine::span::Span;
use crate::exporter::complaints::Complaints;
pub use crate::exporter::handle::ExporterHandle;
pub use crate::exporter::pipeline::ExportSnapshot;
use crate::exporter::pipeline::{Pipeline, PipelineSettings};
pub use crate::exporter::settings::{Destination, ExporterSettings};
use crate::exporter::signal::Signal;
pub use crate::exporter::signals::{ExportSnapshots, Exporters};
use crate::exporter::sink::Sink;
use crate::exporter::spool::{NOBODY_WAITS, SpoolStore};
use crate::exporter::task::Task;
use crate::exporter::tls::TlsError;
use crate::store::{SignalSums, SpoolEntry};
use crate::time::{Monotonic, Now};

mod answer;
pub mod batch;
mod complaints;
mod connect;
mod console;
pub(crate) mod courier;
pub mod encode;
mod grpc;
mod handle;
mod http;
mod json;
mod lines;
mod output;
pub mod pipeline;
pub mod queue;
pub mod refusal;
pub mod resource;
pub mod retry;
pub mod settings;
pub mod signal;
mod signals;
mod sink;
pub mod spool;
mod task;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
pub(crate) mod trial;

/// Whether a finished span is exported; it may note in the span what it did. The same span is always judged the same.
pub type Sampler = Box<dyn Fn(&mut Span) -> bool + Send + Sync>;

/// What an exporter may have beside its settings.
#[derive(Default)]
pub struct Parts {
    /// What is exported; traces where nothing is said.
    pub signal: Option<Signal>,
    /// Where it goes that has no room in memory.
    pub store: Option<Arc<dyn SpoolStore>>,
    /// What earlier runs left there, of any signal.
    pub left: Vec<SpoolEntry>,
    /// What became of the rest, of this signal.
    pub sums: SignalSums,
    /// The store is written by a first [`ExporterHandle::persist_with`], and not before.
    pub begins_with_checkpoint: bool,
    /// Leaves out spans.
    pub sampler: Option<Sampler>,
}

/// Why an exporter could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The endpoint leads nowhere.
    #[error("use the endpoint {endpoint} ({origin}): {reason}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// By whom.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No client could be made, whatever the endpoint.
    #[error("make an HTTP client: {reason}")]
    Client {
        /// What is wrong.
        reason: String,
    },
    /// The certificates or keys of a connection cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

struct Shared {
    clock: Box<dyn Fn() -> Now + Send + Sync>,
    /// Guards the export's state; held for decisions and copies, never while waiting.
    pipeline: Mutex<Pipeline>,
    store: Option<Arc<dyn SpoolStore>>,
    /// Nothing is written until everything is, by the first [`ExporterHandle::persist_with`]: what a replay makes is on disk
    /// together with the checkpoint that follows from it, or not at all. Changed under the pipeline's lock.
    is_beginning: AtomicBool,
    sampler: Option<Sampler>,
    /// Guards the log's memory of what it said.
    complaints: Mutex<Complaints>,
    /// Something happened that the task does not wait for already.
    wake: Notify,
    /// Whether the task has ended.
    ended: watch::Sender<bool>,
}

/// Makes an exporter: a handle, and the task that sends. Must be called within a tokio runtime.
///
/// # Errors
/// If the destination makes no sense.
pub fn build(
    settings: ExporterSettings,
    clock: impl Fn() -> Now + Send + Sync + 'static,
) -> Result<(ExporterHandle, impl Future<Output = ()> + Send + 'static), BuildError> {
    build_with(settings, clock, Parts::default())
}

/// Makes an exporter with a store, a sampler, or for another signal than traces. Must be called within a tokio runtime.
///
/// # Errors
/// As for [`build`].
pub fn build_with(
    settings: ExporterSettings,
    clock: impl Fn() -> Now + Send + Sync + 'static,
    parts: Parts,
) -> Result<(ExporterHandle, impl Future<Output = ()> + Send + 'static), BuildError> {
    let signal = parts.signal.unwrap_or(Signal::Traces);
    let (sink, destination) = Sink::to(&settings, signal)?;
    let pipeline_settings = PipelineSettings {
        signal,
        enabled: !matches!(sink, Sink::Nowhere),
        batch: settings.batch,
        queue: settings.queue,
        retry: settings.retry,
        max_in_flight: sink.max_in_flight(settings.max_in_flight),
        resource: settings.resource,
    };
    let mut pipeline = Pipeline::new(pipeline_settings, StdRng::seed_from_u64(settings.seed));
    let now = clock();
    if let Some(store) = &parts.store {
        let names = Arc::clone(store);
        pipeline.set_store(Box::new(move || names.next_spool_id()));
        pipeline.recover(parts.left, &parts.sums, now);
        note_store(&mut pipeline, store.as_ref(), now.mono);
    }
    let shared = Arc::new(Shared {
        clock: Box::new(clock),
        pipeline: Mutex::new(pipeline),
        is_beginning: AtomicBool::new(parts.begins_with_checkpoint),
        store: parts.store,
        sampler: parts.sampler,
        complaints: Mutex::new(Complaints::new(destination, signal)),
        wake: Notify::new(),
        ended: watch::Sender::new(false),
    });
    let task = Task::new(Arc::clone(&shared), sink, settings.request_timeout);
    Ok((ExporterHandle { shared }, task.run()))
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signal, store, left, sums, sampler: _, begins_with_checkpoint: _ } = self;
        f.debug_struct("Parts")
            .field("signal", signal)
            .field("store", store)
            .field("left", &left.len())
            .field("sums", sums)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn now(&self) -> Now {
        (self.clock)()
    }

    /// A panic under the lock leaves counters that are at worst one short; the export goes on.
    fn lock(&self) -> MutexGuard<'_, Pipeline> {
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the pipeline, and writes what it decides before anybody else decides anything.
    fn with<R>(&self, now: Now, act: impl FnOnce(&mut Pipeline) -> R) -> R {
        let mut pipeline = self.lock();
        if let Some(store) = &self.store {
            note_store(&mut pipeline, store.as_ref(), now.mono);
        }
        let done = act(&mut pipeline);
        if let Some(store) = &self.store
            && !self.is_beginning.load(Ordering::Relaxed)
        {
            let ops = pipeline.take_ops();
            if !ops.is_empty() {
                let commit = store.push(ops);
                pipeline.pushed(commit, now.mono);
            }
        }
        done
    }

    fn complaints(&self) -> MutexGuard<'_, Complaints> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store is asked once: it may change its mind between two questions.
fn note_store(pipeline: &mut Pipeline, store: &dyn SpoolStore, now: Monotonic) {
    let durable = store.durable();
    pipeline.note_store(durable, durable != NOBODY_WAITS, now);
}
