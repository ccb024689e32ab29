//! What Prometheus is shown of a worker that is gone: nothing, at once.

use std::fs;

use anyhow::{Result, ensure};

use super::session::LIMIT;
use crate::support::bridge::Bridge;
use crate::support::peers::{collector_with, retried};
use crate::support::process::Process;
use crate::support::worker::{Connector, Says as _, Worker, event, wall};
use crate::support::{fetch, free_addresses, until};

/// By itself this one forgets nothing.
const COLLECTOR: &str = "
extensions: {health_check: {endpoint: '${HEALTH}'}}
receivers: {otlp: {protocols: {http: {endpoint: '${HTTP}'}}}}
exporters: {prometheus: {endpoint: '${PAGE}', metric_expiration: 24h}}
service:
  extensions: [health_check]
  pipelines: {metrics: {receivers: [otlp], exporters: [prometheus]}}
  telemetry: {metrics: {level: none}}
";

/// What tells series of an instrument apart.
const TOOLS: [&str; 3] = ["a", "b", "c"];

/// A sum, a gauge, a histogram, and by a rule a sum that may fall.
const MEASUREMENTS: [(&str, &str); 4] = [
    ("cost.paid", "count"),
    ("pool.state", "queue_depth"),
    ("model.asked", "tokens"),
    ("level.set", "level"),
];

/// Each of several series of an instrument ends, whatever its kind and whatever the points are of; another worker's stay.
#[tokio::test(flavor = "multi_thread")]
async fn no_series_of_a_worker_that_is_gone_stays_on_the_collectors_page() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let rules = directory.path().join("bridge.yaml");
    fs::write(
        &rules,
        "metrics: {rules: [{event: level.set, measurement: level, instrument: updowncounter}]}\n",
    )?;
    for temporality in ["cumulative", "delta"] {
        let (_collector, http, page) = retried(async || collector(directory.path()).await).await?;
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality),
        ];
        let configuration = rules.display().to_string();
        let bridge =
            Bridge::start(&["--config", &configuration, "--reconnect-grace", "1s"], &variables).await?;
        let leaving = measured(&bridge, "leaving").await?;
        let staying = measured(&bridge, "staying").await?;
        for who in ["leaving", "staying"] {
            until("all series", LIMIT, async || {
                let shown = series_of(&page, who).await?;
                Ok((shown.len() == MEASUREMENTS.len() * TOOLS.len()).then_some(()))
            })
            .await?;
        }

        leaving.close().await?;
        until("no series", LIMIT, async || {
            let shown = series_of(&page, "leaving").await?;
            Ok(shown.is_empty().then_some(()))
        })
        .await?;
        let shown = series_of(&page, "staying").await?;
        ensure!(shown.len() == MEASUREMENTS.len() * TOOLS.len(), "{temporality}: {shown:?}");
        staying.close().await?;
    }
    Ok(())
}

/// One that is ready, where it takes OTLP, and its page.
async fn collector(directory: &std::path::Path) -> Result<(Process, String, String)> {
    let [health, http, page] = free_addresses()?;
    let configuration = [("HEALTH", &health), ("HTTP", &http), ("PAGE", &page)]
        .into_iter()
        .fold(COLLECTOR.to_owned(), |text, (name, address)| text.replace(&format!("${{{name}}}"), address));
    let path = directory.join("collector.yaml");
    fs::write(&path, configuration)?;
    let process = collector_with(&path, &health).await?;
    Ok((process, format!("http://{http}"), format!("http://{page}/metrics")))
}

/// A worker that has sent each measurement with each tool.
async fn measured(bridge: &Bridge, id: &str) -> Result<Worker> {
    let worker = Connector::named(id).connect(&bridge.grpc).await?;
    for (name, measurement) in MEASUREMENTS {
        for tool in TOOLS {
            worker.send(&event(name, "", wall()).measured(measurement, 5).meta("tool", tool)).await?;
        }
    }
    Ok(worker)
}

/// The lines of a worker's series, of a histogram those of the count.
async fn series_of(page: &str, worker: &str) -> Result<Vec<String>> {
    let text = fetch(page).await?;
    let instance = format!("instance=\"{worker}@");
    let is_one = |line: &&str| {
        let name = line.split('{').next().unwrap_or_default();
        line.contains(&instance)
            && name != "target_info"
            && !name.ends_with("_bucket")
            && !name.ends_with("_sum")
    };
    Ok(text.lines().filter(is_one).map(str::to_owned).collect())
}
