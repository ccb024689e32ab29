//! The log, and those who do not read it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::support::worker::{Connector, pair, wall};
use crate::support::{fetch, until};

const LIMIT: Duration = Duration::from_secs(120);

/// Ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Standard error is a pipe that nobody reads, and more is logged than it holds: the bridge serves on, counts the lines
/// that it drops, and says how many as soon as somebody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_costs_lines_and_nothing_else() -> Result<()> {
    let child = Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge"))
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
        .env_clear()
        .envs([("RUST_LOG", "trace"), ("OTEL_TRACES_EXPORTER", "none")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut bridge = Killed(child);
    let mut ready = String::new();
    BufReader::new(bridge.0.stdout.take().context("stdout")?).read_line(&mut ready)?;
    let (grpc, admin) = ready
        .trim()
        .strip_prefix("READY grpc=")
        .and_then(|rest| rest.split_once(" admin="))
        .with_context(|| ready.clone())?;
    let metrics = format!("http://{admin}/metrics");

    let dropped = until("lines that are dropped", LIMIT, async || {
        let worker = Connector::named("worker_1").connect(grpc).await?;
        for number in 0..200 {
            worker.send_all(pair("tool", &number.to_string(), wall(), 1_000)).await?;
        }
        worker.close().await?;
        let text = fetch(&metrics).await?;
        let value =
            text.lines().find_map(|line| line.strip_prefix("snakepit_bridge_log_lines_dropped_total "));
        let dropped: u64 = value.context("no metric")?.parse()?;
        Ok((dropped > 0).then_some(dropped))
    })
    .await?;

    let mut log = BufReader::new(bridge.0.stderr.take().context("stderr")?).lines();
    let said = tokio::task::spawn_blocking(move || {
        log.by_ref().map_while(Result::ok).find(|line| line.contains("lines of this log were dropped"))
    });
    let said = tokio::time::timeout(LIMIT, said).await??.context("the log ended")?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    assert!(said["lines"].as_u64() >= Some(1) && dropped > 0, "{said}");
    Ok(())
}
