//! The bridge's own telemetry over OTLP, when asked for: by the ordinary SDK, in threads of its own.
//!
//! The SDK makes spans, metrics and log records of what `tracing` and `/metrics` say, batches and encodes them. Its
//! exporters are given a client that passes the encoded request on to a `Courier`: so the endpoint, headers, TLS and
//! compression are those that the configuration names, and not what the SDK would read in the environment again, by other
//! rules.
//!
//! No feedback: nothing that belongs to exporting is exported (`is_of_exporting`), and whatever the threads here say is
//! suppressed by the SDK as well. No waiting: queues are bounded and drop what is too much; a peer that is away costs
//! their contents and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{self, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{self, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanLimits};
use tokio::runtime::{Handle, Runtime};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use super::LIFECYCLE;
use crate::exporter::BuildError;
use crate::exporter::courier::{Clock, Courier};
use crate::exporter::retry::Outcome;
use crate::exporter::settings::OtlpSettings;
use crate::exporter::signal::Signal;

/// The bridge's own `service.name`.
pub const SERVICE_NAME: &str = "snakepit-otel-bridge";

/// How often metrics are sent, and how often what they say is renewed: the specification's default of the former.
pub const METRICS_INTERVAL: Duration = Duration::from_secs(60);

/// Spans and log records that may wait; more are dropped. The SDK's default for the former.
const MAX_QUEUE_ITEMS: usize = 2_048;
/// Items of one request.
const MAX_BATCH_ITEMS: usize = 512;
/// How long an item waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// What ending may take, whatever the peer does.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The SDK's exporters want a URL; it names nothing, because the courier knows where to.
const PLACEHOLDER: &str = "http://own-telemetry.invalid/";

/// Targets that have to do with exporting, with everything below them: exporting what they say would make them say more.
const TARGETS_OF_EXPORTING: [&str; 17] = [
    "h2",
    "http",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "mio",
    "opentelemetry",
    "reqwest",
    "rustls",
    "snakepit_otel_bridge::codec",
    "snakepit_otel_bridge::diagnostics",
    "snakepit_otel_bridge::exporter",
    "snakepit_otel_bridge::store",
    "tokio",
    "tokio_rustls",
    "tonic",
    "tower",
];

/// What the bridge tells of itself, and where to.
#[derive(Clone)]
pub struct OwnTelemetry {
    /// One for each signal, with the limit of a request.
    pub destinations: Vec<(OtlpSettings, Duration)>,
    /// Said of the bridge besides its name and version.
    pub attributes: Vec<(String, String)>,
    /// `service.instance.id`.
    pub instance: String,
    /// For delays that the peer asks for.
    pub clock: Clock,
}

impl std::fmt::Debug for OwnTelemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnTelemetry").field("destinations", &self.destinations).finish_non_exhaustive()
    }
}

/// The SDK's providers, and the runtime of their requests.
#[derive(Debug)]
pub(super) struct Providers {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: Option<SdkMeterProvider>,
    /// Set when the last word of the log has been said.
    is_ending: Arc<AtomicBool>,
    runtime: Runtime,
}

/// Why the bridge's own telemetry cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The endpoint, or its certificates.
    #[error("{0}")]
    Destination(#[from] BuildError),
    /// No thread is to be had.
    #[error("start the threads of the bridge's own telemetry: {0}")]
    Threads(#[from] std::io::Error),
    /// The SDK does not like it.
    #[error("set up the bridge's own telemetry: {0}")]
    Sdk(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Providers {
    pub(super) fn new(own: &OwnTelemetry) -> Result<Self, OwnError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("own-telemetry")
            // For the life of the thread, which ends with the program.
            .on_thread_start(|| std::mem::forget(Context::enter_telemetry_suppressed_scope()))
            .enable_all()
            .build()?;
        let is_ending = Arc::default();
        let mut providers = Self { traces: None, logs: None, metrics: None, is_ending, runtime };
        for (settings, limit) in &own.destinations {
            let client = providers.client(settings, *limit, &own.clock)?;
            let resource = resource(own);
            match settings.signal {
                Signal::Traces => providers.traces = Some(traces(client, *limit, resource)?),
                Signal::Logs => providers.logs = Some(logs(client, *limit, resource)?),
                Signal::Metrics => providers.metrics = Some(metrics(client, *limit, resource)?),
            }
        }
        if let Some(metrics) = &providers.metrics {
            global::set_meter_provider(metrics.clone());
        }
        Ok(providers)
    }

    fn client(&self, settings: &OtlpSettings, limit: Duration, clock: &Clock) -> Result<Client, OwnError> {
        let _within = self.runtime.enter();
        Ok(Client {
            signal: settings.signal,
            courier: Arc::new(Courier::new(settings, limit, Arc::clone(clock))?),
            handle: self.runtime.handle().clone(),
            failed: AtomicU64::new(0),
            is_ending: Arc::clone(&self.is_ending),
        })
    }

    /// Makes spans of the bridge's own, and nothing of what happens within them.
    pub(super) fn spans<S>(&self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
    {
        let tracer = self.traces.as_ref()?.tracer(SERVICE_NAME);
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == LIFECYCLE)))
    }

    /// Makes log records, of the same lines that `level` lets into the log, but for those of exporting.
    pub(super) fn records<S>(
        &self,
        level: impl tracing_subscriber::layer::Filter<S> + Send + Sync + 'static,
    ) -> Option<impl Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
    {
        let layer = OpenTelemetryTracingBridge::new(self.logs.as_ref()?);
        Some(layer.with_filter(level.and(filter_fn(|metadata| !is_of_exporting(metadata)))))
    }

    /// Sends what there is, and ends. Takes `within` at most: what is left then is lost.
    pub(super) fn shutdown(self, within: Duration) {
        let Self { traces, logs, metrics, is_ending, runtime } = self;
        is_ending.store(true, Ordering::Relaxed);
        let (done, ended) = mpsc::channel();
        // The SDK's own limits are not kept by all of its parts.
        let ending = std::thread::Builder::new().name("own-telemetry-end".to_owned()).spawn(move || {
            // A peer that is away is no news.
            let _ = traces.map(|traces| traces.shutdown_with_timeout(within));
            let _ = metrics.map(|metrics| metrics.shutdown_with_timeout(within));
            let _ = logs.map(|logs| logs.shutdown_with_timeout(within));
            // Nobody listens any more if it took too long.
            let _ = done.send(());
        });
        if ending.is_ok() {
            // Too late is the same as done: the program ends.
            let _ = ended.recv_timeout(within);
        }
        runtime.shutdown_background();
    }
}

/// Whether an event or span has to do with exporting.
pub(super) fn is_of_exporting(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    TARGETS_OF_EXPORTING.into_iter().any(|name| {
        // The SDK's crates go by several names, all with the same beginning.
        target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '_', '-']))
    })
}

fn resource(own: &OwnTelemetry) -> Resource {
    let attributes = own.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(attributes)
        .with_attributes([
            KeyValue::new("service.name", SERVICE_NAME),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", own.instance.clone()),
        ])
        .build()
}

/// An exporter of the SDK that gives its requests to `client`.
fn through<B: WithExportConfig + WithHttpConfig>(builder: B, client: Client, limit: Duration) -> B {
    builder
        .with_http_client(client)
        .with_endpoint(PLACEHOLDER)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(limit)
}

fn traces(client: Client, limit: Duration, resource: Resource) -> Result<SdkTracerProvider, OwnError> {
    let exporter = through(SpanExporter::builder().with_http(), client, limit).build()?;
    let batches = trace::BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUE_ITEMS)
        .with_max_export_batch_size(MAX_BATCH_ITEMS)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(Sampler::AlwaysOn)
        .with_span_limits(SpanLimits::default())
        .with_resource(resource)
        .build())
}

fn logs(client: Client, limit: Duration, resource: Resource) -> Result<SdkLoggerProvider, OwnError> {
    let exporter = through(LogExporter::builder().with_http(), client, limit).build()?;
    let batches = logs::BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUE_ITEMS)
        .with_max_export_batch_size(MAX_BATCH_ITEMS)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    Ok(SdkLoggerProvider::builder()
        .with_log_processor(BatchLogProcessor::builder(exporter).with_batch_config(batches).build())
        .with_resource(resource)
        .build())
}

fn metrics(client: Client, limit: Duration, resource: Resource) -> Result<SdkMeterProvider, OwnError> {
    let exporter = through(MetricExporter::builder().with_http(), client, limit)
        .with_temporality(Temporality::Cumulative)
        .build()?;
    Ok(SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(exporter).with_interval(METRICS_INTERVAL).build())
        .with_resource(resource)
        .build())
}

/// Passes the SDK's encoded requests on. What it says of where to, and how, is left behind.
#[derive(Debug)]
struct Client {
    signal: Signal,
    courier: Arc<Courier>,
    handle: Handle,
    failed: AtomicU64,
    is_ending: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let courier = Arc::clone(&self.courier);
        // The SDK waits on threads that have no reactor.
        let sent = self.handle.spawn(async move { courier.send(request.into_body()).await }).await?;
        let response = Response::builder();
        let response = match sent {
            Outcome::Accepted { .. } => response.status(StatusCode::OK).body(Bytes::new())?,
            Outcome::Retry { delay, error } => {
                self.complain(&error);
                let response = response.status(StatusCode::SERVICE_UNAVAILABLE);
                let response = match delay {
                    Some(delay) => response.header(header::RETRY_AFTER, delay.as_secs().max(1)),
                    None => response,
                };
                response.body(Bytes::new())?
            }
            Outcome::Refused { error, .. } => {
                self.complain(&error);
                response.status(StatusCode::BAD_REQUEST).body(Bytes::new())?
            }
        };
        Ok(response)
    }
}

impl Client {
    /// At the 1st, 2nd, 4th, 8th failure, or a Collector that is away would fill the log.
    fn complain(&self, error: &str) {
        let failed_so_far = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        if failed_so_far.is_power_of_two() && !self.is_ending.load(Ordering::Relaxed) {
            let signal = self.signal.as_str();
            tracing::warn!(signal, failed_so_far, "the bridge's own telemetry cannot be sent: {error}");
        }
    }
}
