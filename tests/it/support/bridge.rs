//! The bridge's own binary as a test starts it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::process::Process;
use super::{START_LIMIT, fetch, locked, until};

/// One may be under way without what has just been received, the next one has it, and one is spared for what a shard has
/// answered and not handed over yet.
pub(crate) const COMMITS_UNTIL_DURABLE: u64 = 3;

/// A running bridge. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// `host:port` for workers.
    pub(crate) grpc: String,
    /// `host:port` for operators.
    pub(crate) admin: String,
    process: Process,
    output: Arc<Mutex<Vec<String>>>,
}

impl Bridge {
    /// Starts `serve` on free ports with nothing in its environment but `variables`, and waits for its READY line.
    ///
    /// # Errors
    ///
    /// When it ends, or says something else first, or nothing in time.
    pub(crate) async fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let mut process = Process::spawn("the bridge", &mut command(arguments, variables))?;
        let output = lines(process.take_stdout()?);
        let line = until("the READY line", START_LIMIT, async || {
            let line = locked(&output).first().cloned();
            if line.is_none() {
                process.ensure_running()?;
            }
            Ok(line)
        })
        .await?;
        let (grpc, admin) = line
            .strip_prefix("READY grpc=")
            .and_then(|rest| rest.split_once(" admin="))
            .with_context(|| format!("the bridge's first line is {line:?}"))?;
        Ok(Self { grpc: grpc.to_owned(), admin: admin.to_owned(), process, output })
    }

    /// Starts a bridge that should not come to serve; answers how it ended, what it printed, and its log.
    ///
    /// # Errors
    ///
    /// When it does not end by itself.
    pub(crate) async fn refused(
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(ExitStatus, Vec<String>, String)> {
        let mut process = Process::spawn("the bridge", &mut command(arguments, variables))?;
        let output = lines(process.take_stdout()?);
        let status = process.ended(START_LIMIT).await?;
        let output = locked(&output).clone();
        Ok((status, output, process.log()))
    }

    /// What it has printed so far, READY line included.
    pub(crate) fn output(&self) -> Vec<String> {
        locked(&self.output).clone()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Memory that it has held at most so far.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub(crate) fn peak_memory_mib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    }

    /// Sends a signal by its short name.
    ///
    /// # Errors
    ///
    /// When it cannot be sent.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        self.process.signal(name)
    }

    /// Waits for its end by itself, or by a signal sent before; answers the status and the log.
    ///
    /// # Errors
    ///
    /// When it does not end within `limit`.
    pub(crate) async fn ended(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let status = self.process.ended(limit).await?;
        Ok((status, self.process.log()))
    }

    /// The answer of an admin route.
    ///
    /// # Errors
    ///
    /// When the answer is not 200.
    pub(crate) async fn admin(&self, route: &str) -> Result<String> {
        let url = format!("http://{}{route}", self.admin);
        // A busy bridge may ask to be asked again.
        until(route, START_LIMIT, async || match fetch(&url).await {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.to_string().contains("a shard did not answer") => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// A value of `/metrics`.
    ///
    /// # Errors
    ///
    /// When there is none of this name without labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        let text = self.admin("/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name}"))?.parse()?)
    }

    /// Commits to the state directory so far. What the bridge had received when there were so many is on disk once there
    /// are [`COMMITS_UNTIL_DURABLE`] more.
    ///
    /// # Errors
    ///
    /// When there is no state directory.
    pub(crate) async fn commits(&self) -> Result<u64> {
        self.metric("snakepit_bridge_store_commits_total").await
    }

    /// The sums as they are now.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or do not add up: they do at every instant.
    pub(crate) async fn ledger(&self) -> Result<Ledger> {
        let text = self.admin("/api/v1/ledger").await?;
        let ledger: Ledger = serde_json::from_str(&text).with_context(|| format!("failed to read {text}"))?;
        ledger.ensure_adds_up().with_context(|| text.clone())?;
        Ok(ledger)
    }

    /// Waits until every event has its fate and every span has left.
    ///
    /// # Errors
    ///
    /// When it takes longer than `limit`, with the last sums.
    pub(crate) async fn settled(&self, received: u64, limit: Duration) -> Result<Ledger> {
        let mut last = None;
        let settled = until("every event's fate", limit, async || {
            let ledger = self.ledger().await?;
            let done =
                ledger.events.received >= received && ledger.events.pending == 0 && ledger.spans.queued == 0;
            last = Some(ledger.clone());
            Ok(done.then_some(ledger))
        })
        .await;
        settled.with_context(|| format!("the last sums were {last:?}, with {received} events sent"))
    }

    /// Sends SIGTERM and waits for the end; answers the status and the log.
    ///
    /// # Errors
    ///
    /// When it does not end within `limit`.
    pub(crate) async fn terminate(self, limit: Duration) -> Result<(ExitStatus, String)> {
        self.signal("TERM")?;
        self.ended(limit).await
    }
}

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge"));
    command.arg("serve");
    for flag in ["--listen", "--admin-listen"] {
        if !arguments.contains(&flag) {
            command.args([flag, "127.0.0.1:0"]);
        }
    }
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command
}

/// The lines that a program prints, as they come; it never waits for us.
fn lines(stdout: ChildStdout) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            locked(&collected).push(line);
        }
    });
    lines
}

/// `GET /api/v1/ledger`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) events: Events,
    pub(crate) spans: Items,
    pub(crate) points: Items,
    pub(crate) records: Items,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Events {
    pub(crate) received: u64,
    pub(crate) paired: u64,
    pub(crate) rebuilt: u64,
    pub(crate) incomplete: u64,
    pub(crate) standalone: u64,
    pub(crate) pending: u64,
    pub(crate) dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Items {
    pub(crate) made: u64,
    pub(crate) made_again: u64,
    pub(crate) inherited: u64,
    pub(crate) exported: u64,
    pub(crate) sampled_out: u64,
    pub(crate) queued: u64,
    pub(crate) spooled: u64,
    pub(crate) refused: BTreeMap<String, u64>,
}

impl Ledger {
    /// The sums in the log's last line.
    ///
    /// # Errors
    ///
    /// When that line is another, or they do not add up.
    pub(crate) fn of_log(log: &str) -> Result<Self> {
        let last = log.lines().last().context("the log is empty")?;
        let record: serde_json::Value = serde_json::from_str(last).with_context(|| last.to_owned())?;
        let ledger = record["ledger"].as_str().with_context(|| format!("no ledger in {last}"))?;
        let ledger: Self = serde_json::from_str(ledger)?;
        ledger.ensure_adds_up().with_context(|| last.to_owned())?;
        Ok(ledger)
    }

    fn ensure_adds_up(&self) -> Result<()> {
        let Events { received, paired, rebuilt, incomplete, standalone, pending, dropped } = &self.events;
        let fates = paired + rebuilt + incomplete + standalone + pending + sum(dropped);
        ensure!(*received == fates, "{received} events received, {fates} fates");
        for (what, items) in [("spans", &self.spans), ("points", &self.points), ("records", &self.records)] {
            let (made, places) = (items.made, items.waiting() + items.gone());
            ensure!(made == places, "{made} {what} made, {places} accounted for");
        }
        let Items { made, made_again, inherited, .. } = self.spans;
        let of_events = paired / 2 + rebuilt + incomplete;
        ensure!(made == of_events + made_again + inherited, "{made} spans made of other events");
        Ok(())
    }
}

impl Items {
    /// Those whose fate is open.
    pub(crate) const fn waiting(&self) -> u64 {
        self.queued + self.spooled
    }

    /// Those that an earlier bridge has made and no engine of this one.
    pub(crate) const fn of_before(&self) -> u64 {
        self.made_again + self.inherited
    }

    /// Those whose fate is known.
    fn gone(&self) -> u64 {
        self.exported + self.sampled_out + sum(&self.refused)
    }
}

/// The sum over reasons.
pub(crate) fn sum(by_reason: &BTreeMap<String, u64>) -> u64 {
    by_reason.values().sum()
}
