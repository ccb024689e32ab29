//! The real Collector, alone, passing on what it takes: what it acknowledges has been acknowledged behind it.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::free_addresses;
use super::peers::{Programs, ready};
use super::process::Process;

/// No queue, no batches, no retries: the exporter's answer is the receiver's.
const CONFIG: &str = "
extensions:
  health_check: {endpoint: '${env:HEALTH}'}
receivers:
  otlp: {protocols: {grpc: {endpoint: '${env:GRPC}'}, http: {endpoint: '${env:HTTP}'}}}
exporters:
  otlp_grpc:
    endpoint: '${env:BEHIND}'
    tls: {insecure: true}
    compression: none
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}
service:
  extensions: [health_check]
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp_grpc]}
    metrics: {receivers: [otlp], exporters: [otlp_grpc]}
    logs: {receivers: [otlp], exporters: [otlp_grpc]}
  telemetry: {metrics: {level: none}}
";

/// A Collector that can be killed and started again. It ends with this.
#[derive(Debug)]
pub(crate) struct Collector {
    /// Where it takes OTLP over gRPC, as a URL.
    pub(crate) otlp_grpc: String,
    /// Where it takes OTLP over HTTP, as a URL.
    pub(crate) otlp_http: String,
    health: String,
    programs: Programs,
    command_line: [(&'static str, String); 4],
    directory: TempDir,
    process: Option<Process>,
}

impl Collector {
    /// Starts one that passes on to this gRPC peer (`host:port`), and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it is not built (the message says what to run), or does not get ready.
    pub(crate) async fn start(behind: &str) -> Result<Self> {
        let programs = Programs::find()?;
        let [health, grpc, http] = free_addresses()?;
        let directory = TempDir::new()?;
        fs::write(directory.path().join("collector.yaml"), CONFIG)?;
        let mut collector = Self {
            otlp_grpc: format!("http://{grpc}"),
            otlp_http: format!("http://{http}"),
            health: format!("http://{health}/"),
            programs,
            command_line: [("HEALTH", health), ("GRPC", grpc), ("HTTP", http), ("BEHIND", behind.to_owned())],
            directory,
            process: None,
        };
        collector.revive().await?;
        Ok(collector)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    ///
    /// When it was dead.
    pub(crate) fn kill(&mut self) -> Result<()> {
        // Dropping a process kills it so, and waits for its end.
        let mut process = self.process.take().context("the Collector was dead")?;
        process.ensure_running()
    }

    /// Starts it again, on the same ports.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub(crate) async fn revive(&mut self) -> Result<()> {
        let mut command = Command::new(&self.programs.otelcol);
        command
            .arg("--config")
            .arg(self.directory.path().join("collector.yaml"))
            .envs(self.command_line.iter().map(|(name, value)| (*name, value)));
        let mut process = Process::spawn("otelcol", &mut command)?;
        ready(&mut process, "the Collector", &self.health).await?;
        self.process = Some(process);
        Ok(())
    }
}
