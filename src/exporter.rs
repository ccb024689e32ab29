//! Sends finished spans to an OTLP peer.
//!
//! [`build`] makes a handle, which any thread may give spans to without waiting, and a task, which the app runs. What is
//! sent when, and what became of each span, is decided in [`pipeline`] without input or output; here is the waiting: one
//! lock around the pipeline, one task that owns the requests in flight.
//!
//! Law: in every [`ExportSnapshot`], `made = exported + queued + sum(refused)`.
//!
//! Spans are encoded where they are given, by the caller, outside of the lock: from then on they are bytes, and the
//! bound on the queue counts exactly those.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::engine::span::Span;
use crate::exporter::complaints::Complaints;
use crate::exporter::encode::write_span;
use crate::exporter::grpc::GrpcSink;
use crate::exporter::http::HttpSink;
pub use crate::exporter::pipeline::ExportSnapshot;
use crate::exporter::pipeline::{Pipeline, PipelineSettings};
use crate::exporter::queue::BatchId;
use crate::exporter::refusal::Refusal;
use crate::exporter::retry::Outcome;
use crate::exporter::settings::Protocol;
pub use crate::exporter::settings::{Destination, ExporterSettings};
use crate::time::Now;

mod answer;
pub mod batch;
mod complaints;
mod console;
pub(crate) mod courier;
pub mod encode;
mod grpc;
mod http;
pub mod pipeline;
pub mod queue;
pub mod refusal;
pub mod resource;
pub mod retry;
pub mod settings;
pub mod signal;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// What a span takes, encoded, on the usual side: room is made for so much at first.
const USUAL_SPAN_BYTES: usize = 512;
/// How long after a shutdown's deadline the task may take to notice it.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(1);

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
}

struct Shared {
    clock: Box<dyn Fn() -> Now + Send + Sync>,
    /// Guards the export's state; held for decisions and copies, never while waiting.
    pipeline: Mutex<Pipeline>,
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
    Console,
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
    let (sink, destination) = match &settings.destination {
        Destination::Otlp(otlp) => {
            let sink = match otlp.protocol {
                Protocol::Grpc => Sink::Grpc(Box::new(GrpcSink::new(otlp, settings.request_timeout)?)),
                Protocol::HttpProtobuf | Protocol::HttpJson => Sink::Http(HttpSink::new(otlp)?),
            };
            (sink, format!("{} ({}, {})", otlp.endpoint, otlp.protocol, otlp.endpoint_origin))
        }
        Destination::Console | Destination::File(_) => (Sink::Console, "standard output".to_owned()),
        Destination::None => (Sink::Nowhere, "nowhere".to_owned()),
    };
    let max_in_flight = match sink {
        // Lines would mix.
        Sink::Console => 1,
        Sink::Grpc(_) | Sink::Http(_) | Sink::Nowhere => settings.max_in_flight,
    };
    let pipeline = PipelineSettings {
        enabled: !matches!(sink, Sink::Nowhere),
        batch: settings.batch,
        queue: settings.queue,
        retry: settings.retry,
        max_in_flight,
        resource: settings.resource,
    };
    let shared = Arc::new(Shared {
        clock: Box::new(clock),
        pipeline: Mutex::new(Pipeline::new(pipeline, StdRng::seed_from_u64(settings.seed))),
        complaints: Mutex::new(Complaints::new(destination)),
        wake: Notify::new(),
        ended: watch::Sender::new(false),
    });
    let task = Task {
        shared: Arc::clone(&shared),
        sink: Arc::new(sink),
        timeout: settings.request_timeout,
        flights: JoinSet::new(),
        carries: HashMap::new(),
    };
    Ok((ExporterHandle { shared }, task.run()))
}

// === impl ExporterHandle ===

impl ExporterHandle {
    /// Takes finished spans.
    ///
    /// Guarantee: never waits. What there is no room for is refused and counted.
    pub fn export(&self, spans: Vec<Span>) {
        let shared = &*self.shared;
        let count = spans.len() as u64;
        if shared.lock().refuse_all(count) {
            return;
        }
        let now = shared.now().mono;
        let mut encoded = Vec::with_capacity(spans.len() * USUAL_SPAN_BYTES);
        let mut ends = Vec::with_capacity(spans.len());
        for span in &spans {
            write_span(&mut encoded, span);
            ends.push(encoded.len());
        }

        let mut queue_full = 0;
        let mut too_large = Vec::new();
        let mut pipeline = shared.lock();
        let expected = pipeline.poll_timeout();
        let mut start = 0;
        for (span, end) in spans.iter().zip(ends) {
            let refusal = pipeline.admit(&span.source, &encoded[start..end], now).err();
            if refusal == Some(Refusal::SpanTooLarge) {
                too_large.push((Arc::clone(&span.name), end - start));
            }
            queue_full += u64::from(refusal == Some(Refusal::QueueFull));
            start = end;
        }
        let earlier = match (expected, pipeline.poll_timeout()) {
            (Some(expected), Some(next)) => next < expected,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        drop(pipeline);
        drop(spans);

        if earlier {
            shared.wake.notify_one();
        }
        if queue_full > 0 || !too_large.is_empty() {
            shared.complaints().about_admission(queue_full, &too_large, now);
        }
    }

    /// The ledger and the state at this instant.
    ///
    /// Guarantee: the sums add up.
    #[must_use]
    pub fn snapshot(&self) -> ExportSnapshot {
        self.shared.lock().snapshot()
    }

    /// Takes no more spans, sends what there is, and ends the task: when nothing is left, or `within` is over. What is
    /// left then is refused as `shutdown`; a request that is on its way may arrive all the same.
    pub async fn shutdown(&self, within: Duration) -> ExportSnapshot {
        let now = self.shared.now().mono;
        self.shared.lock().drain(now.after(within), now);
        self.shared.wake.notify_one();
        let mut ended = self.shared.ended.subscribe();
        let ended = timeout(within.saturating_add(SHUTDOWN_SLACK), ended.wait_for(|ended| *ended)).await;
        if ended.is_err() {
            tracing::warn!("the exporter's task is not running; giving up what is left");
            self.shared.lock().close();
        }
        self.snapshot()
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

    fn complaints(&self) -> MutexGuard<'_, Complaints> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === The task ===

struct Task {
    shared: Arc<Shared>,
    sink: Arc<Sink>,
    timeout: Duration,
    flights: JoinSet<Outcome>,
    /// Which batch a flight carries.
    carries: HashMap<task::Id, BatchId>,
}

impl Task {
    async fn run(mut self) {
        while let Some(wait) = self.begin_requests() {
            tokio::select! {
                biased;
                Some(landed) = self.flights.join_next_with_id() => self.settle(landed),
                () = self.shared.wake.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Sends what may be sent. Returns how long nothing else is due, or nothing if it is all over.
    fn begin_requests(&mut self) -> Option<Duration> {
        let now = self.shared.now().mono;
        let mut requests = Vec::new();
        let next;
        {
            let mut pipeline = self.shared.lock();
            if pipeline.is_drained(now) {
                return None;
            }
            while let Some(request) = pipeline.next_request(now) {
                requests.push(request);
            }
            next = pipeline.poll_timeout();
        }
        for (id, batch) in requests {
            let sink = Arc::clone(&self.sink);
            let shared = Arc::clone(&self.shared);
            let limit = self.timeout;
            let flight =
                self.flights.spawn(async move { sink.send_within(limit, batch.body, &shared).await });
            self.carries.insert(flight.id(), id);
        }
        Some(next.map_or(Duration::MAX, |at| Duration::from_nanos(at.since(now))))
    }

    fn settle(&mut self, landed: Result<(task::Id, Outcome), JoinError>) {
        let (flight, outcome) = landed.unwrap_or_else(|error| {
            (error.id(), Outcome::Refused { refusal: Refusal::Internal, error: error.to_string() })
        });
        let Some(id) = self.carries.remove(&flight) else { return };
        let now = self.shared.now().mono;
        let notices = self.shared.lock().settle(id, outcome, now);
        if !notices.is_empty() {
            self.shared.complaints().about_requests(notices, now);
        }
    }
}

/// However the task ends, what is left gets its fate, and whoever waits for the end hears of it.
impl Drop for Task {
    fn drop(&mut self) {
        let left = self.shared.lock().close();
        if left > 0 {
            tracing::warn!(
                spans = left,
                "gave up spans that were not delivered before the shutdown's deadline"
            );
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
            Self::Http(_) | Self::Console | Self::Nowhere => {}
        }
        Outcome::Retry {
            delay: None,
            error: format!("no answer within {}", humantime::format_duration(limit)),
        }
    }

    async fn send(&self, body: Bytes, shared: &Shared) -> Outcome {
        match self {
            Self::Grpc(grpc) => grpc.send(body).await,
            Self::Http(http) => http.send(body, || shared.now().wall).await,
            Self::Console => console::write(&mut tokio::io::stdout(), body).await,
            Self::Nowhere => Outcome::Accepted { rejected_spans: 0, message: String::new() },
        }
    }
}
