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

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::engine::metrics::point::Metric;
use crate::engine::record::LogRecord;
use crate::engine::span::Span;
use crate::exporter::batch::Provenance;
use crate::exporter::complaints::Complaints;
use crate::exporter::grpc::GrpcSink;
use crate::exporter::http::HttpSink;
use crate::exporter::lines::{Format, LineSink};
use crate::exporter::output::Output;
pub use crate::exporter::pipeline::ExportSnapshot;
use crate::exporter::pipeline::{ExportRequest, Notice, Pipeline, PipelineSettings};
use crate::exporter::queue::BatchId;
use crate::exporter::refusal::Refusal;
use crate::exporter::retry::Outcome;
pub use crate::exporter::settings::{Destination, ExporterSettings};
use crate::exporter::settings::{FileTarget, Protocol};
use crate::exporter::signal::Signal;
pub use crate::exporter::signals::{ExportSnapshots, Exporters};
use crate::exporter::spool::{Loaded, NOBODY_WAITS, SpoolStore};
use crate::exporter::tls::TlsError;
use crate::store::{Commit, Op, Origin, SignalSums, SpoolEntry, SpoolId};
use crate::time::{Monotonic, Now};

mod answer;
pub mod batch;
mod complaints;
mod connect;
mod console;
pub(crate) mod courier;
pub mod encode;
mod grpc;
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
pub mod spool;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
pub(crate) mod trial;

/// How long after a shutdown's deadline the task may take to notice it.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(1);

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

/// The way to the exporter. Clones lead to the same one.
#[derive(Clone)]
pub struct ExporterHandle {
    shared: Arc<Shared>,
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

/// What sends a request.
enum Sink {
    Grpc(Box<GrpcSink>),
    Http(HttpSink),
    Lines(LineSink),
    Nowhere,
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
    let (sink, destination) = match &settings.destination {
        Destination::Otlp(otlp) => {
            let sink = match otlp.protocol {
                Protocol::Grpc => Sink::Grpc(Box::new(GrpcSink::new(otlp, settings.request_timeout)?)),
                Protocol::HttpProtobuf | Protocol::HttpJson => Sink::Http(HttpSink::new(otlp)?),
            };
            (sink, format!("{} ({}, {})", otlp.endpoint, otlp.protocol, otlp.endpoint_origin))
        }
        Destination::Console => (
            Sink::Lines(LineSink::new(Format::Console(signal), FileTarget::Stdout)),
            FileTarget::Stdout.to_string(),
        ),
        Destination::File(target) => {
            (Sink::Lines(LineSink::new(Format::Json(signal), target.clone())), target.to_string())
        }
        Destination::None => (Sink::Nowhere, "nowhere".to_owned()),
    };
    let max_in_flight = match sink {
        // Lines would mix.
        Sink::Lines(_) => 1,
        Sink::Grpc(_) | Sink::Http(_) | Sink::Nowhere => settings.max_in_flight,
    };
    let pipeline_settings = PipelineSettings {
        signal,
        enabled: !matches!(sink, Sink::Nowhere),
        batch: settings.batch,
        queue: settings.queue,
        retry: settings.retry,
        max_in_flight,
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
    let task = Task {
        durable: shared.store.as_ref().map(|store| store.subscribe()),
        shared: Arc::clone(&shared),
        sink: Arc::new(sink),
        timeout: settings.request_timeout,
        flights: JoinSet::new(),
        carries: HashMap::new(),
        loads: JoinSet::new(),
        asked: HashMap::new(),
    };
    Ok((ExporterHandle { shared }, task.run()))
}

// === impl ExporterHandle ===

impl ExporterHandle {
    /// Takes finished spans that nobody will ask for again.
    ///
    /// Guarantee: never waits. What there is no room for is refused and counted.
    pub fn export(&self, spans: Vec<Span>) {
        self.export_from(spans, None, Commit::default());
    }

    /// Takes finished spans. `first`: the shard that made them, and the ordinal of the first; the others follow. None is
    /// sent before `needs` is durable.
    ///
    /// Guarantee: never waits. What there is no room for is refused and counted.
    pub fn export_from(&self, spans: Vec<Span>, first: Option<(u16, u64)>, needs: Commit) {
        let sampler = self.shared.sampler.as_ref();
        self.export_kept(spans, first, needs, |span| sampler.is_none_or(|sampler| sampler(span)));
    }

    /// Takes metrics, each of which has one ordinal and counts its points; otherwise as [`export_from`](Self::export_from).
    pub fn export_metrics(&self, metrics: Vec<Metric>, first: Option<(u16, u64)>, needs: Commit) {
        self.export_kept(metrics, first, needs, |_| true);
    }

    /// Takes log records, as [`export_from`](Self::export_from) takes spans.
    pub fn export_records(&self, records: Vec<LogRecord>, first: Option<(u16, u64)>, needs: Commit) {
        self.export_kept(records, first, needs, |_| true);
    }

    /// Takes those outputs of an engine that `keep` lets pass.
    fn export_kept<O: Output>(
        &self,
        mut outputs: Vec<O>,
        first: Option<(u16, u64)>,
        needs: Commit,
        keep: impl Fn(&mut O) -> bool,
    ) {
        let shared = &*self.shared;
        let now = shared.now();
        let count = outputs.len() as u64;
        let all = first.map(|(shard, from)| Origin { shard, ordinals: from..from + count });
        let items = outputs.iter().map(O::items).sum();
        if shared.with(now, |pipeline| pipeline.refuse_all(items, all)) {
            return;
        }
        let mut encoded = Vec::with_capacity(outputs.len() * O::USUAL_BYTES);
        let mut ends = Vec::with_capacity(outputs.len());
        for output in &mut outputs {
            // What is left out takes no bytes.
            if keep(output) {
                output.write(&mut encoded);
            }
            ends.push(encoded.len());
        }

        let mut queue_full = 0;
        let mut too_large = Vec::new();
        let mut start = 0;
        let (earlier, notices) = shared.with(now, |pipeline| {
            let expected = pipeline.poll_timeout();
            for (at, (output, end)) in outputs.iter().zip(ends).enumerate() {
                let origin = first.map(|(shard, from)| (shard, from + at as u64));
                if start == end {
                    pipeline.sampled_out(origin);
                    continue;
                }
                let (element, items) = (&encoded[start..end], output.items());
                let provenance = Provenance { origin, needs };
                let refusal = pipeline.admit(output.source(), element, items, provenance, now).err();
                if refusal == Some(Refusal::ItemTooLarge) {
                    too_large.push((Arc::clone(output.name()), end - start));
                }
                if refusal == Some(Refusal::QueueFull) {
                    queue_full += items;
                }
                start = end;
            }
            let earlier = match (expected, pipeline.poll_timeout()) {
                (Some(expected), Some(next)) => next < expected,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            (earlier, pipeline.take_notices())
        });
        drop(outputs);

        if earlier {
            shared.wake.notify_one();
        }
        if queue_full > 0 || !too_large.is_empty() || !notices.is_empty() {
            let mut complaints = shared.complaints();
            complaints.about_admission(queue_full, &too_large, now.mono);
            complaints.about(notices, now.mono);
        }
    }

    /// Has everything written that is not on disk, by `push`, which may add to it: what an engine's checkpoint says must
    /// come after what the engine made before. Nothing of this signal is written in between. `afresh`: the store has dropped
    /// what was not durable, and asks for everything.
    pub fn persist_with(&self, afresh: bool, push: impl FnOnce(Vec<Op>) -> Commit) -> Commit {
        let now = self.shared.now();
        let mut pipeline = self.shared.lock();
        pipeline.persist_all(afresh, now);
        self.shared.is_beginning.store(false, Ordering::Relaxed);
        let commit = push(pipeline.take_ops());
        pipeline.pushed(commit, now.mono);
        drop(pipeline);
        self.shared.wake.notify_one();
        commit
    }

    /// The ledger and the state at this instant.
    ///
    /// Guarantee: the sums add up.
    #[must_use]
    pub fn snapshot(&self) -> ExportSnapshot {
        let now = self.shared.now().mono;
        self.shared.lock().snapshot(now)
    }

    /// Sends what there is, and ends the task: when nothing is left, or `within` is over. What is left then is on disk where
    /// there is a store, and refused as `shutdown` otherwise; a request that is on its way may arrive all the same.
    pub async fn shutdown(&self, within: Duration) -> ExportSnapshot {
        let now = self.shared.now();
        self.shared.with(now, |pipeline| pipeline.drain(now.mono.after(within), now));
        self.shared.wake.notify_one();
        let mut ended = self.shared.ended.subscribe();
        let ended = timeout(within.saturating_add(SHUTDOWN_SLACK), ended.wait_for(|ended| *ended)).await;
        if ended.is_err() {
            tracing::warn!("the exporter's task is not running; giving up what is left");
            let now = self.shared.now();
            self.shared.with(now, |pipeline| pipeline.close(now));
        }
        self.snapshot()
    }
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

impl fmt::Debug for ExporterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExporterHandle").finish_non_exhaustive()
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

// === The task ===

struct Task {
    shared: Arc<Shared>,
    sink: Arc<Sink>,
    timeout: Duration,
    flights: JoinSet<Outcome>,
    /// Which batch a flight carries.
    carries: HashMap<task::Id, BatchId>,
    /// Tells what is on disk.
    durable: Option<watch::Receiver<Commit>>,
    loads: JoinSet<Loaded>,
    /// What each of them was asked for.
    asked: HashMap<task::Id, Vec<SpoolId>>,
}

impl Task {
    async fn run(mut self) {
        while let Some(wait) = self.begin_requests() {
            tokio::select! {
                biased;
                Some(landed) = self.flights.join_next_with_id() => self.settle(landed),
                Some(read) = self.loads.join_next_with_id() => self.take_loaded(read),
                () = change(&mut self.durable) => {}
                () = self.shared.wake.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Reads and sends what may be. Returns how long nothing else is due, or nothing if it is all over.
    fn begin_requests(&mut self) -> Option<Duration> {
        let now = self.shared.now();
        let mut requests = Vec::new();
        let mut loads = Vec::new();
        let (next, notices) = self.shared.with(now, |pipeline| {
            if pipeline.is_drained(now.mono) {
                return None;
            }
            loads = pipeline.next_loads();
            while let Some(request) = pipeline.next_request(now) {
                requests.push(request);
            }
            Some((pipeline.poll_timeout(), pipeline.take_notices()))
        })?;
        self.say(notices, now);
        if let Some(store) = self.shared.store.as_ref().filter(|_| !loads.is_empty()) {
            let read = self.loads.spawn(store.load(loads.clone()));
            self.asked.insert(read.id(), loads);
        }
        for ExportRequest { id, body, items: _ } in requests {
            let sink = Arc::clone(&self.sink);
            let shared = Arc::clone(&self.shared);
            let limit = self.timeout;
            let flight = self.flights.spawn(async move { sink.send_within(limit, body, &shared).await });
            self.carries.insert(flight.id(), id);
        }
        Some(next.map_or(Duration::MAX, |at| Duration::from_nanos(at.since(now.mono))))
    }

    fn settle(&mut self, landed: Result<(task::Id, Outcome), JoinError>) {
        let (flight, outcome) = landed.unwrap_or_else(|error| {
            (error.id(), Outcome::Refused { refusal: Refusal::Internal, error: error.to_string() })
        });
        let Some(id) = self.carries.remove(&flight) else { return };
        let now = self.shared.now();
        let notices = self.shared.with(now, |pipeline| {
            pipeline.settle(id, outcome, now);
            pipeline.take_notices()
        });
        self.say(notices, now);
    }

    fn take_loaded(&mut self, read: Result<(task::Id, Loaded), JoinError>) {
        let (task, bodies) = read.unwrap_or_else(|error| {
            tracing::error!(%error, "reading from the state directory broke");
            (error.id(), Vec::new())
        });
        let asked = self.asked.remove(&task).unwrap_or_default();
        let now = self.shared.now();
        // A store may read some of what it is asked for, and the rest next time.
        let is_reading = !bodies.is_empty();
        let notices = self.shared.with(now, |pipeline| {
            bodies.into_iter().for_each(|(name, body)| pipeline.loaded(name, body, now.mono));
            asked.into_iter().for_each(|name| pipeline.not_loaded(name, is_reading, now.mono));
            pipeline.take_notices()
        });
        self.say(notices, now);
    }

    fn say(&self, notices: Vec<Notice>, now: Now) {
        if !notices.is_empty() {
            self.shared.complaints().about(notices, now.mono);
        }
    }
}

/// Waits until the store has news; for ever without one.
async fn change(durable: &mut Option<watch::Receiver<Commit>>) {
    if let Some(receiver) = durable
        && receiver.changed().await.is_ok()
    {
        return;
    }
    // The store is gone, or never was.
    *durable = None;
    std::future::pending::<()>().await;
}

/// However the task ends, what is left gets its fate, and whoever waits for the end hears of it.
impl Drop for Task {
    fn drop(&mut self) {
        let now = self.shared.now();
        let left = self.shared.with(now, |pipeline| pipeline.close(now));
        if left > 0 {
            tracing::warn!(items = left, "gave up what was not delivered before the shutdown's deadline");
        }
        self.shared.ended.send_replace(true);
    }
}

impl Sink {
    async fn send_within(&self, limit: Duration, body: Bytes, shared: &Shared) -> Outcome {
        if let Ok(outcome) = timeout(limit, self.send(body, shared)).await {
            return outcome;
        }
        match self {
            Self::Grpc(grpc) => grpc.reconnect(),
            Self::Http(http) => http.reconnect(),
            Self::Lines(_) | Self::Nowhere => {}
        }
        Outcome::Retry {
            delay: None,
            error: format!("no answer within {}", humantime::format_duration(limit)),
        }
    }

    async fn send(&self, body: Bytes, shared: &Shared) -> Outcome {
        match self {
            Self::Grpc(grpc) => grpc.send(body, shared.now().mono).await,
            Self::Http(http) => http.send(body, || shared.now()).await,
            Self::Lines(lines) => lines.send(&body).await,
            // Nothing is admitted, and nothing leaves the disk.
            Self::Nowhere => Outcome::Refused {
                refusal: Refusal::SignalDisabled,
                error: "there is nowhere to send to".to_owned(),
            },
        }
    }
}
