//! How the bridge begins and ends, and how it keeps its workers while they, the Collector or an operator come and go.

mod admin;
mod collections;
mod log;
mod shutdown;
mod workers;

use std::time::Duration;

use anyhow::Result;

use crate::support::bridge::Bridge;
use crate::support::sink::Sink;

/// Longest wait for what takes a moment on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A bridge that exports to the sink without delay, and logs JSON.
async fn bridge_to(sink: &Sink, arguments: &[&str]) -> Result<Bridge> {
    bridge_to_url(&sink.url(), arguments).await
}

async fn bridge_to_url(url: &str, arguments: &[&str]) -> Result<Bridge> {
    let arguments = [&["--reorder-window", "100ms", "--log-format", "json"], arguments].concat();
    let variables = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ];
    Bridge::start(&arguments, &variables).await
}
