//! The bridge under load.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::clock::until;
use crate::process::Process;

/// How long the last spans may take to leave: the reorder window, the batch delay, and a crowded machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// A running bridge that exports to a sink over gRPC.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// Where workers connect.
    pub(crate) endpoint: String,
    /// To be measured.
    pub(crate) process: Process,
    admin: String,
}

impl Bridge {
    /// Starts it with defaults, but for `variables`.
    ///
    /// # Errors
    ///
    /// When it says something else than READY first.
    pub(crate) fn start(sink: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .env_clear()
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink)
            .envs(variables.iter().copied());
        let mut process = Process::spawn("the bridge", &mut command)?;
        let line = process.first_line()?;
        let (grpc, admin) = line
            .strip_prefix("READY grpc=")
            .and_then(|rest| rest.split_once(" admin="))
            .with_context(|| format!("the bridge's first line is {line:?}"))?;
        Ok(Self { endpoint: format!("http://{grpc}"), admin: admin.to_owned(), process })
    }

    /// The sums as they are now.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or do not add up: they do at every instant.
    pub(crate) fn ledger(&self) -> Result<Ledger> {
        let mut connection = TcpStream::connect(&self.admin)?;
        write!(
            connection,
            "GET /api/v1/ledger HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.admin
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).context("no body")?;
        let ledger: Ledger =
            serde_json::from_str(body).with_context(|| format!("failed to read {answer}"))?;
        ledger.ensure_adds_up().with_context(|| body.to_owned())?;
        Ok(ledger)
    }

    /// Waits until `spans` spans were made of twice as many events and have all left.
    ///
    /// # Errors
    ///
    /// When that does not come true, with the last sums.
    pub(crate) fn settled(&self, spans: u64) -> Result<()> {
        let mut last = None;
        let settled = until("every span to leave", SETTLE_LIMIT, || {
            let ledger = self.ledger()?;
            let done =
                ledger.events.received >= 2 * spans && ledger.events.pending == 0 && ledger.spans.queued == 0;
            last = Some(ledger);
            Ok(done.then_some(()))
        });
        settled.with_context(|| format!("the last sums were {last:?}; log:\n{}", self.process.log()))?;
        let ledger = last.context("the sums were read")?;
        ensure!(
            ledger.events.received == 2 * spans
                && ledger.events.paired == 2 * spans
                && ledger.spans.exported == spans,
            "{spans} spans were sent as starts and stops, the bridge's sums are {ledger:?}; log:\n{}",
            self.process.log()
        );
        Ok(())
    }
}

/// `GET /api/v1/ledger`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) events: Events,
    pub(crate) spans: Items,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Events {
    pub(crate) received: u64,
    pub(crate) paired: u64,
    pub(crate) rebuilt: u64,
    pub(crate) incomplete: u64,
    pub(crate) standalone: u64,
    pub(crate) pending: u64,
    pub(crate) dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Items {
    pub(crate) made: u64,
    pub(crate) exported: u64,
    pub(crate) sampled_out: u64,
    pub(crate) queued: u64,
    pub(crate) spooled: u64,
    pub(crate) refused: BTreeMap<String, u64>,
}

impl Ledger {
    fn ensure_adds_up(&self) -> Result<()> {
        let Events { received, paired, rebuilt, incomplete, standalone, pending, dropped } = &self.events;
        let fates = paired + rebuilt + incomplete + standalone + pending + dropped.values().sum::<u64>();
        ensure!(*received == fates, "{received} events received, {fates} fates");
        let Items { made, exported, sampled_out, queued, spooled, refused } = &self.spans;
        let places = exported + sampled_out + queued + spooled + refused.values().sum::<u64>();
        ensure!(*made == places, "{made} spans made, {places} accounted for");
        Ok(())
    }
}
