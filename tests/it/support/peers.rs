//! The real OpenTelemetry Collector and two real Jaegers, run with the very files in `collector-config/`.
//!
//! The second Jaeger stands where Tempo would: it speaks the same protocol to the Collector, and Tempo cannot be had from
//! package registries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::jaeger::Jaeger;
use super::process::Process;
use super::{START_LIMIT, fetch, free_addresses, repository, script_output, until};

/// A port that was free may be taken before a program listens on it, so starting is tried anew with others.
const START_ATTEMPTS: usize = 3;

/// Collector and backends, ready. They end with this.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Where the Collector takes OTLP over gRPC, as a URL.
    pub(crate) otlp_grpc: String,
    /// Where the Collector takes OTLP over HTTP, as a URL.
    pub(crate) otlp_http: String,
    /// Where the Collector shows metrics to Prometheus, `host:port`.
    pub(crate) prometheus_page: String,
    /// What the Collector's `otlp_grpc/jaeger` feeds.
    pub(crate) jaeger: Jaeger,
    /// What the Collector's `otlp_grpc/tempo` feeds.
    pub(crate) tempo_stand_in: Jaeger,
    _collector: Process,
    _backends: [Process; 2],
}

impl Peers {
    /// Starts the peers and waits until they are ready.
    ///
    /// # Errors
    ///
    /// When they are not built (the message says what to run), or one does not get ready.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// As [`start`](Self::start), with YAML that is merged into the Collector's configuration.
    ///
    /// # Errors
    ///
    /// The same.
    pub(crate) async fn start_with(more: Option<&str>) -> Result<Self> {
        let programs = Programs::find()?;
        let (first, jaeger, jaeger_otlp) = retried(async || start_jaeger(&programs).await).await?;
        let (second, tempo_stand_in, tempo_otlp) = retried(async || start_jaeger(&programs).await).await?;
        // Last, so that it does not begin with retries.
        let (collector, [otlp_grpc, otlp_http, prometheus_page]) =
            retried(async || start_collector(&programs, &jaeger_otlp, &tempo_otlp, more).await).await?;
        Ok(Self {
            otlp_grpc: format!("http://{otlp_grpc}"),
            otlp_http: format!("http://{otlp_http}"),
            prometheus_page,
            jaeger,
            tempo_stand_in,
            _collector: collector,
            _backends: [first, second],
        })
    }
}

/// A Collector with a configuration of the test's own, ready. It ends with the value.
///
/// # Errors
///
/// When it is not built, or does not get ready; `health` is where its health check listens.
pub(crate) async fn collector_with(configuration: &Path, health: &str) -> Result<Process> {
    let mut command = Command::new(Programs::find()?.otelcol);
    command.arg("--config").arg(configuration);
    let mut process = Process::spawn("otelcol", &mut command)?;
    ready(&mut process, "the Collector", &format!("http://{health}/")).await?;
    Ok(process)
}

/// Where `make peers` has put the programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) otelcol: PathBuf,
    jaeger: PathBuf,
    pub(crate) prometheus: PathBuf,
    pub(crate) promtool: PathBuf,
}

impl Programs {
    /// # Errors
    ///
    /// When they are not built; the message says what to run.
    pub(crate) fn find() -> Result<Self> {
        let lines = script_output("scripts/peers.sh", "--where")?;
        let path = |name: &str| {
            let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(PathBuf::from).with_context(|| format!("scripts/peers.sh names no {name}"))
        };
        Ok(Self {
            otelcol: path("otelcol")?,
            jaeger: path("jaeger")?,
            prometheus: path("prometheus")?,
            promtool: path("promtool")?,
        })
    }
}

async fn start_jaeger(programs: &Programs) -> Result<(Process, Jaeger, String)> {
    let [health, query, query_grpc, otlp] = free_addresses()?;
    let mut command = Command::new(&programs.jaeger);
    command
        .arg("--config")
        .arg(repository("collector-config/jaeger.yaml"))
        .env("JAEGER_HEALTH_LISTEN", &health)
        .env("JAEGER_QUERY_HTTP_LISTEN", &query)
        .env("JAEGER_QUERY_GRPC_LISTEN", query_grpc)
        .env("JAEGER_OTLP_GRPC_LISTEN", &otlp);
    let mut process = Process::spawn("jaeger", &mut command)?;
    ready(&mut process, "jaeger", &format!("http://{health}/status")).await?;
    Ok((process, Jaeger::new(format!("http://{query}")), otlp))
}

async fn start_collector(
    programs: &Programs,
    jaeger: &str,
    tempo: &str,
    more: Option<&str>,
) -> Result<(Process, [String; 3])> {
    let [health, grpc, http, prometheus] = free_addresses()?;
    let mut command = Command::new(&programs.otelcol);
    command
        .arg("--config")
        .arg(repository("collector-config/collector.yaml"))
        .env("COLLECTOR_HEALTH_LISTEN", &health)
        .env("COLLECTOR_OTLP_GRPC_LISTEN", &grpc)
        .env("COLLECTOR_OTLP_HTTP_LISTEN", &http)
        .env("COLLECTOR_PROMETHEUS_LISTEN", &prometheus)
        .env("JAEGER_OTLP_GRPC_ENDPOINT", jaeger)
        .env("TEMPO_OTLP_GRPC_ENDPOINT", tempo)
        .args(more.map(|yaml| format!("--config=yaml:{yaml}")));
    let mut process = Process::spawn("otelcol", &mut command)?;
    ready(&mut process, "the Collector", &format!("http://{health}/")).await?;
    Ok((process, [grpc, http, prometheus]))
}

/// Waits until a program answers.
///
/// # Errors
///
/// When it ends, or does not answer in time.
pub(crate) async fn ready(process: &mut Process, name: &str, url: &str) -> Result<()> {
    until(name, START_LIMIT, async || {
        process.ensure_running()?;
        Ok(fetch(url).await.ok())
    })
    .await?;
    Ok(())
}

pub(crate) async fn retried<T>(mut start: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut outcome = start().await;
    for _ in 1..START_ATTEMPTS {
        if outcome.is_ok() {
            break;
        }
        outcome = start().await;
    }
    outcome
}
