//! What is looked at: two workers that are measured until somebody has seen enough, and a bridge that has all the trouble
//! there is.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::bridge::Bridge;
use crate::support::peers::Peers;
use crate::support::prometheus::Prometheus;
use crate::support::python::{Client, Python};
use crate::support::sink::Sink;
use crate::support::worker::{Connector, Says as _, Worker, event, pair, wall};
use crate::support::{free_addresses, until};

/// Longest wait for what takes some seconds on an idle machine: a dozen programs share the cores here, with whatever else
/// the machine does.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

const WORKERS: [(&str, &str); 2] = [("worker_1", "default"), ("worker_2", "gpu")];

/// Everything that runs. It ends with this.
pub(crate) struct Session {
    pub(crate) peers: Peers,
    /// What the Collector passes on beside its page for Prometheus.
    pub(crate) sink: Sink,
    pub(crate) prometheus: Prometheus,
    workers: Vec<Client>,
    python: Python,
    _bridge: Bridge,
    _trouble: Trouble,
}

/// What a worker says it sent.
#[derive(Debug, Deserialize)]
pub(crate) struct Truth {
    pub(crate) executions: u64,
    pub(crate) errors: u64,
    pub(crate) calls: u64,
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

/// A bridge whose Collector is away, whose metrics are refused, and whose port is asked for what it does not give.
struct Trouble {
    bridge: Bridge,
    _admitted: Worker,
    _connections: Vec<TcpStream>,
    _directory: TempDir,
}

impl Session {
    /// Starts everything. From then on the workers do all they do, again and again.
    ///
    /// # Errors
    ///
    /// When a part does not start.
    pub(crate) async fn begin() -> Result<Self> {
        let sink = Sink::grpc().await?;
        let peers = Peers::start_with(Some(&passing_on_to(&sink))).await?;
        let python = Python::set_up()?;
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &peers.otlp_grpc),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ];
        let bridge = Bridge::start(&["--span-timeout", "2s"], &variables).await?;
        let trouble = Trouble::make().await?;
        let prometheus =
            Prometheus::start(&peers.prometheus_page, &[&bridge.admin, &trouble.bridge.admin]).await?;

        let mut workers = Vec::new();
        for (seed, (id, pool)) in WORKERS.into_iter().enumerate() {
            let seed = seed.to_string();
            let arguments = ["--worker-id", id, "--pool", pool, "--seed", &seed];
            workers.push(python.measured(&bridge.grpc, &python.file(id), &arguments)?);
        }
        for worker in &mut workers {
            ensure!(worker.line(LIMIT).await? == "CONNECTED");
        }
        Ok(Self { peers, sink, prometheus, workers, python, _bridge: bridge, _trouble: trouble })
    }

    /// Ends what the workers do, and says what each of them sent; they stay connected.
    ///
    /// # Errors
    ///
    /// When a worker fails.
    pub(crate) async fn enough(&mut self) -> Result<Vec<Truth>> {
        for worker in &mut self.workers {
            worker.enough()?;
        }
        for worker in &mut self.workers {
            ensure!(worker.line(LIMIT).await? == "DONE");
        }
        let truth = |(id, _)| Ok(serde_json::from_slice(&fs::read(self.python.file(id))?)?);
        WORKERS.into_iter().map(truth).collect()
    }
}

/// What the Collector's configuration is completed with: metrics go to the sink as well.
fn passing_on_to(sink: &Sink) -> String {
    format!(
        "
exporters: {{otlp_grpc/sink: {{endpoint: '{}', tls: {{insecure: true}}, compression: none}}}}
service: {{pipelines: {{metrics: {{exporters: [prometheus, otlp_grpc/sink]}}}}}}
",
        sink.address
    )
}

impl Trouble {
    async fn make() -> Result<Self> {
        let directory = TempDir::new()?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let [token, config, state] = ["token", "bridge.yaml", "state"].map(path);
        fs::write(&token, "a-token")?;
        fs::write(&config, "limits: {max_workers: 1, max_connections: 2}\n")?;
        // Its own admin port knows nothing of OTLP: what is sent there is refused for good.
        let [admin] = free_addresses()?;
        let arguments = [
            ["--config", &config],
            ["--state-dir", &state],
            ["--worker-token-file", &token],
            ["--admin-listen", &admin],
        ];
        let arguments = arguments.concat();
        let variables = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces".to_owned()),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", format!("http://{admin}/nothing")),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let bridge = Bridge::start(&arguments, &variables).await?;

        ensure!(Connector::named("stranger").connect(&bridge.grpc).await.is_err());
        let authorized = |id| Connector::named(id).header("authorization", b"Bearer a-token");
        let admitted = authorized("worker_1").connect(&bridge.grpc).await?;
        ensure!(authorized("worker_2").connect(&bridge.grpc).await.is_err(), "one too many");
        admitted.send_all(pair("tool.execution", "a request", wall(), 1_000_000)).await?;
        admitted.send(&event("tool.result_size", "", wall()).measured("bytes", 7)).await?;
        admitted.send(&event("", "", wall())).await?;
        let mut connections = Vec::new();
        until("a connection too many", LIMIT, async || {
            connections.push(TcpStream::connect(&bridge.grpc).await.context("failed to connect")?);
            let page = bridge.admin("/metrics").await?;
            Ok(page.contains("snakepit_bridge_connections_refused_total{reason=\"too_many\"}").then_some(()))
        })
        .await?;
        Ok(Self { bridge, _admitted: admitted, _connections: connections, _directory: directory })
    }
}
