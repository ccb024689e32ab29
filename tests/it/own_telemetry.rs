//! The bridge's own spans, metrics and log records over OTLP: they arrive, say the right things, and never tell of
//! themselves.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::support::bridge::{Bridge, Ledger};
use crate::support::sink::{axum_server, text};
use crate::support::worker::{Connector, pair, wall};
use crate::support::{locked, now, until};

/// Longest wait for what takes a second or two on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A loop would bring something new every second, which is how long the SDK gathers: this is several times as long.
const IDLE: Duration = Duration::from_secs(5);

/// What came of all signals, the workers' spans aside.
#[derive(Debug, Default)]
struct Told {
    services: BTreeSet<String>,
    spans: Vec<Span>,
    records: Vec<LogRecord>,
    metrics: BTreeSet<String>,
    workers_spans: usize,
}

type Shared = Arc<Mutex<Told>>;

#[derive(Clone)]
struct Peer(Shared);

impl Told {
    fn service(&mut self, resource: Option<&Resource>) -> String {
        let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
        let name = text(attributes, "service.name").unwrap_or_default().to_owned();
        self.services.insert(name.clone());
        name
    }

    fn traces(&mut self, request: ExportTraceServiceRequest) {
        for resource in request.resource_spans {
            let service = self.service(resource.resource.as_ref());
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            if service == "snakepit-otel-bridge" {
                self.spans.extend(spans);
            } else {
                self.workers_spans += spans.count();
            }
        }
    }

    fn logs(&mut self, request: ExportLogsServiceRequest) {
        for resource in request.resource_logs {
            self.service(resource.resource.as_ref());
            self.records.extend(resource.scope_logs.into_iter().flat_map(|scope| scope.log_records));
        }
    }

    fn metrics(&mut self, request: ExportMetricsServiceRequest) {
        for resource in request.resource_metrics {
            self.service(resource.resource.as_ref());
            let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.metrics.extend(metrics.map(|metric| metric.name));
        }
    }

    fn said(&self, body: &str) -> Option<&LogRecord> {
        self.records.iter().find(|record| {
            let value = record.body.as_ref().and_then(|body| body.value.as_ref());
            matches!(value, Some(Value::StringValue(text)) if text == body)
        })
    }

    fn span(&self, name: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.name == name)
    }
}

#[tonic::async_trait]
impl TraceService for Peer {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        locked(&self.0).traces(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Peer {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        locked(&self.0).logs(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Peer {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        locked(&self.0).metrics(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn take_http(State(told): State<Shared>, Path(signal): Path<String>, body: Bytes) -> StatusCode {
    let mut told = locked(&told);
    let taken = match signal.as_str() {
        "traces" => ExportTraceServiceRequest::decode(body).map(|request| told.traces(request)),
        "logs" => ExportLogsServiceRequest::decode(body).map(|request| told.logs(request)),
        _ => ExportMetricsServiceRequest::decode(body).map(|request| told.metrics(request)),
    };
    if taken.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST }
}

/// A peer of this protocol: its address, what it is told, and the task that ends with it.
async fn peer(protocol: &str) -> Result<(String, Shared, JoinSet<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let told = Shared::default();
    let mut server = JoinSet::new();
    if protocol == "grpc" {
        let peer = Peer(Arc::clone(&told));
        let router = Server::builder()
            .add_service(TraceServiceServer::new(peer.clone()))
            .add_service(LogsServiceServer::new(peer.clone()))
            .add_service(MetricsServiceServer::new(peer));
        // A broken peer shows in the test as telemetry that does not come.
        server.spawn(async move {
            let _ = router.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
    } else {
        let router = axum::Router::new()
            .route("/v1/{signal}", axum::routing::post(take_http))
            .with_state(Arc::clone(&told));
        server.spawn(async move {
            let _ = axum_server(listener, router).await;
        });
    }
    Ok((url, told, server))
}

/// With everything switched on, at the level `debug` for the transport as well, and a worker's spans exported to the same peer: what the bridge
/// says of itself comes to an end as soon as nothing happens any more. What is said during the shutdown arrives too, the
/// ledger included, and knows the span that it was said in.
#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_tells_of_itself_and_never_of_the_telling() -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let (url, told, _server) = peer(protocol).await?;
        let bridge = Bridge::start(
            &["--own-telemetry", "traces,metrics,logs", "--log-format", "json"],
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
                ("OTEL_BSP_SCHEDULE_DELAY", "50"),
                ("RUST_LOG", "debug"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=workers,deployment=test"),
            ],
        )
        .await?;
        let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
        worker.send_all(pair("tool", "id", wall(), 1_000_000)).await?;
        worker.close().await?;
        until("the worker's span, and the log of its coming and going", LIMIT, async || {
            let told = locked(&told);
            let is_there = told.workers_spans == 1
                && told.span("start").is_some()
                && told.said("serving").is_some()
                && told.said("worker connected").is_some()
                && told.said("worker disconnected").is_some();
            Ok(is_there.then_some(()))
        })
        .await
        .with_context(|| format!("{protocol}: {:?}\n{}", locked(&told), bridge.log()))?;

        let count = || {
            let told = locked(&told);
            (told.spans.len(), told.records.len(), told.workers_spans)
        };
        // The last debug lines of the worker's end may still be on their way; what tells of itself never falls silent.
        let silence = until("a while in which nothing is told", LIMIT, async || {
            let before = count();
            tokio::time::sleep(IDLE).await;
            Ok((count() == before).then_some(()))
        })
        .await;
        silence.with_context(|| format!("{protocol}: nothing happens, and more is told: {:?}", count()))?;

        let (status, _) = bridge.terminate(LIMIT).await?;
        assert!(status.success(), "{protocol}: {status}");
        let told = locked(&told);
        assert_eq!(
            told.services,
            BTreeSet::from(["snakepit-otel-bridge".to_owned(), "workers".to_owned()]),
            "{protocol}"
        );
        let shutdown = told.span("shutdown").with_context(|| format!("{protocol}: {:?}", told.spans))?;
        for said in ["draining", "the bridge has shut down"] {
            let record = told.said(said).with_context(|| format!("{protocol}: {said}"))?;
            assert_eq!(record.trace_id, shutdown.trace_id, "{protocol}: {said}");
            assert_eq!(record.span_id, shutdown.span_id, "{protocol}: {said}");
        }
        for metric in ["snakepit_bridge_ready", "snakepit_bridge_exporter_items_sent"] {
            assert!(told.metrics.contains(metric), "{protocol}: {metric} in {:?}", told.metrics);
        }
        let of_exporting = |record: &&LogRecord| {
            let target = text(&record.attributes, "target").unwrap_or_default().to_owned();
            ["h2", "hyper", "opentelemetry", "snakepit_otel_bridge::exporter"]
                .iter()
                .any(|t| target.starts_with(t))
        };
        assert_eq!(told.records.iter().find(of_exporting), None, "{protocol}");
    }
    Ok(())
}

/// A peer that takes connections and says nothing, and one that is not there at all: the bridge starts, serves, and ends
/// within its shutdown timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_holds_nothing_up() -> Result<()> {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    for (endpoint, protocol) in [
        (format!("http://{}", silent.local_addr()?), "http/protobuf"),
        (format!("http://{}", silent.local_addr()?), "grpc"),
        ("http://127.0.0.1:9".to_owned(), "grpc"),
    ] {
        let bridge = Bridge::start(
            &["--own-telemetry", "traces,metrics,logs", "--shutdown-timeout", "5s", "--log-format", "json"],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)],
        )
        .await?;
        let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
        worker.close().await?;
        let began = now();
        let (status, log) = bridge.terminate(LIMIT).await?;
        assert!(status.success(), "{protocol} {endpoint}: {status}");
        // The last word is the ledger, whatever cannot be sent after it.
        Ledger::of_log(&log)?;
        // A second more for a busy machine.
        assert!(began.elapsed() < Duration::from_secs(6), "{protocol} {endpoint}: {:?}", began.elapsed());
    }
    Ok(())
}
