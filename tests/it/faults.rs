//! Delivery with real faults: whatever the peer does, both sides' sums are equal to the item, and no span is wrong.

mod answers;
mod bounds;
mod chaos;
mod collector;
mod connections;
mod ledger;
mod peer;
mod points;
mod sizes;
mod state_dir;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::{JoinSet, LocalSet};
use tonic::Code;

use crate::support::bridge::{Bridge, Ledger};
use crate::support::faulty_peer::{FaultyPeer, Play, Received, Transport};
use crate::support::load::Load;
use crate::support::until;
use crate::support::worker::{Connector, Worker};

/// Longest wait for what takes some seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Spans of a request, for the bridge fills no request with more; and the spans of three requests.
const BATCH: usize = 20;
const SPANS: usize = 3 * BATCH;

/// Bridges at a time in one test: each waits most of its time.
const AT_A_TIME: usize = 4;

/// Lines that the log may have of one matter within a test.
const MOST_LINES: usize = 4;

const WORKER: &str = "worker_1";

/// A bridge that exports to a scripted peer, and a worker.
struct Scene {
    peer: FaultyPeer,
    bridge: Bridge,
    worker: Worker,
    load: Load,
}

impl Scene {
    /// A bridge as patient as it is by default.
    async fn set(transport: Transport) -> Result<Self> {
        Self::set_with(FaultyPeer::start(transport)?, transport, &[]).await
    }

    /// A bridge that gives up a request after a short time, yet not so short that a busy machine would take it.
    async fn set_impatient(transport: Transport) -> Result<Self> {
        let variables = [("OTEL_EXPORTER_OTLP_TIMEOUT", "1500")];
        Self::set_with(FaultyPeer::start(transport)?, transport, &variables).await
    }

    async fn set_with(peer: FaultyPeer, transport: Transport, variables: &[(&str, &str)]) -> Result<Self> {
        let bridge = bridge_to(&peer.url(), transport, &[], variables).await?;
        let worker = Connector::named(WORKER).connect(&bridge.grpc).await?;
        Ok(Self { peer, bridge, worker, load: Load::default() })
    }

    async fn send(&mut self, count: usize) -> Result<()> {
        self.load.send(&self.worker, WORKER, count, "").await
    }

    /// Waits until each span has its fate; answers the sums.
    async fn settled(&self) -> Result<Ledger> {
        let settled = self.bridge.settled(2 * self.load.len(), LIMIT).await;
        settled.with_context(|| {
            format!("the peer had {} requests:\n{}", self.peer.requests(), self.bridge.log())
        })
    }

    /// Waits until each span has its fate, and compares both sides. The spans that a request was not taken with are lost
    /// for good where `refusal` gives that play a reason, and come again where it gives none.
    async fn ends(&self, refusal: impl Fn(&Play) -> Option<String>, most_times: usize) -> Result<()> {
        let ledger = self.settled().await?;
        let received = self.peer.received();
        let lost: Vec<_> =
            received.iter().filter(|request| refusal(&request.play).is_some()).cloned().collect();
        let mut refused = BTreeMap::new();
        for request in lost.iter().filter(|request| request.rejected > 0) {
            *refused.entry(refusal(&request.play).expect("partitioned by it")).or_default() +=
                request.rejected as u64;
        }
        let taken = self.peer.taken();
        let differences = self.load.differences(&taken, &lost);
        let context = || {
            format!("{ledger:?}\n{} requests: {:?}\n{}", received.len(), plays(&received), self.bridge.log())
        };
        ensure!(differences.is_empty(), "{}\n{}", differences.join("\n"), context());
        ensure!(ledger.spans.made == self.load.len(), "made is not {}: {}", self.load.len(), context());
        ensure!(ledger.spans.exported == taken.distinct(), "{} were taken: {}", taken.distinct(), context());
        ensure!(ledger.spans.refused == refused, "{refused:?} were refused: {}", context());
        taken.ensure_at_most(most_times).with_context(context)?;
        // What is refused for good is not tried again, nor what was taken where that was said.
        let settling = received.iter().filter(|r| r.rejected == 0 || refusal(&r.play).is_some());
        let settled: usize = settling.map(|request| request.spans().len()).sum();
        ensure!(
            most_times > 1 || settled as u64 == self.load.len(),
            "{settled} spans were sent: {}",
            context()
        );
        ensure!(!self.bridge.log().contains("panicked"), "{}", context());
        Ok(())
    }

    /// # Errors
    ///
    /// When the log has these words never, or again and again.
    async fn ensure_said(&self, words: &str) -> Result<()> {
        // A ledger may be read before the log has heard of it.
        let said = until(words, LIMIT, async || {
            let log = self.bridge.log();
            let lines: Vec<_> = log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect();
            Ok((!lines.is_empty()).then_some(lines))
        });
        let lines = said.await.with_context(|| self.bridge.log())?;
        ensure!(lines.len() <= MOST_LINES, "{words:?} is said {} times: {lines:?}", lines.len());
        let longest = lines.iter().map(String::len).max();
        ensure!(longest < Some(4096), "a line of {longest:?} bytes says {words:?}");
        Ok(())
    }
}

/// A bridge with small batches, without delay, that logs JSON. It exports spans, and the rest where `variables` say so.
async fn bridge_to(
    url: &str,
    transport: Transport,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<Bridge> {
    let protocol = match transport {
        Transport::Grpc => "grpc",
        Transport::Http => "http/protobuf",
    };
    let batch = BATCH.to_string();
    let mut all = BTreeMap::from([
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &batch),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
    ]);
    all.extend(variables.iter().copied());
    let variables: Vec<_> = all.into_iter().collect();
    Bridge::start(&[&["--reorder-window", "50ms", "--log-format", "json"], arguments].concat(), &variables)
        .await
}

/// Runs cases some at a time; a failure names its case.
async fn each<C, F>(cases: impl IntoIterator<Item = C>, run: impl Fn(C) -> F) -> Result<()>
where
    C: std::fmt::Debug,
    F: Future<Output = Result<()>> + 'static,
{
    // On one thread: conditions that are waited for need not be sent to others.
    let all = async {
        let mut running = JoinSet::new();
        for case in cases {
            if running.len() == AT_A_TIME {
                running.join_next().await.context("one is running")???;
            }
            let name = format!("{case:?}");
            let one = run(case);
            running.spawn_local(async move { one.await.with_context(|| format!("in the case {name}")) });
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        Ok(())
    };
    LocalSet::new().run_until(all).await
}

/// No play loses anything for good.
fn never(_: &Play) -> Option<String> {
    None
}

/// The reason by which the ledger counts a play that is an answer for good.
fn for_good(play: &Play) -> Option<String> {
    match play {
        Play::Partial { .. } => Some("partial_success".to_owned()),
        Play::Grpc(status) => is_final(status.code()).then(|| format!("rejected:{}", snake(status.code()))),
        Play::Http { status, .. } => http_reason(*status),
        Play::Huge | Play::Endless => Some("response_too_large".to_owned()),
        Play::After(_, play) | Play::GoAway(play) => for_good(play),
        Play::Take
        | Play::Garbage
        | Play::Drip
        | Play::Silent
        | Play::LoseAnswer
        | Play::CutAnswer
        | Play::CutRequest => None,
    }
}

/// By the OTLP specification's table.
fn is_final(code: Code) -> bool {
    !RETRYABLE_CODES.contains(&code)
}

const RETRYABLE_CODES: [Code; 6] = [
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unavailable,
    Code::DataLoss,
];

const RETRYABLE_STATUSES: [u16; 4] = [429, 502, 503, 504];

fn http_reason(status: u16) -> Option<String> {
    match status {
        200..300 | 429 | 502 | 503 | 504 => None,
        300..400 => Some("rejected:3xx".to_owned()),
        400 | 401 | 403 | 404 | 405 | 408 | 413 | 415 | 500 => Some(format!("rejected:{status}")),
        400..500 => Some("rejected:4xx".to_owned()),
        _ => Some("rejected:5xx".to_owned()),
    }
}

/// `InvalidArgument` as `invalid_argument`.
fn snake(code: Code) -> String {
    let mut words = String::new();
    for character in format!("{code:?}").chars() {
        if character.is_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}

fn plays(received: &[Received]) -> Vec<String> {
    received.iter().map(|r| format!("{} spans: {:.60}", r.spans().len(), format!("{:?}", r.play))).collect()
}
