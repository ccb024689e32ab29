//! The bound of the disk, through an outage that outgrows it: whatever workers send, the bridge keeps the newest and no more.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::points::notes;
use super::{LIMIT, WORKER, bridge_to};
use crate::support::bridge::{Bridge, Items, Ledger};
use crate::support::faulty_peer::{FaultyPeer, Transport};
use crate::support::load::Load;
use crate::support::worker::{Connector, Says as _, Worker, event, wall};
use crate::support::{now, until};

/// Of `limits.max_spool_bytes` spans have 80 %, points and records 10 % each.
const SPOOL_BYTES: u64 = 2_500_000;
const SIGNALS: [(&str, u64); 3] = [("traces", 2_000_000), ("metrics", 250_000), ("logs", 250_000)];

/// What is sent between two looks at the bridge, several of them between two checkpoints.
const SPANS_A_ROUND: usize = 40;
const RECORDS_A_ROUND: u64 = 20;
const SERIES: usize = 40;
const SPAN_BYTES: usize = 8_000;
const RECORD_BYTES: usize = 2_000;
const LABEL_BYTES: usize = 200;

const CHECKPOINT_INTERVAL: &str = "300ms";

/// As often as its room each signal makes more before the peer is back.
const TIMES_ITS_ROOM: u64 = 3;

/// The words of the log.
const GAVE_UP: &str = "gave up the oldest to make room for what is new";

/// Times that the database may be as large as the batches that it may hold: pages are not full, and what a checkpoint and
/// the journal take comes on top, of which there is little here.
const MOST_TIMES_THE_BOUND: u64 = 3;

/// Another one for each `number`.
fn ballast(length: usize, number: u64) -> String {
    format!("{number:0length$}")
}

struct Stage {
    state: TempDir,
    peer: FaultyPeer,
    load: Load,
    notes: u64,
}

impl Stage {
    async fn bridge(&self) -> Result<Bridge> {
        let config = self.state.path().join("config.yaml");
        std::fs::write(&config, format!("limits: {{max_spool_bytes: {SPOOL_BYTES}}}"))?;
        let state = self.state.path().join("state");
        let arguments = [
            ["--state-dir", text(&state)?],
            ["--config", text(&config)?],
            ["--checkpoint-interval", CHECKPOINT_INTERVAL],
            ["--shutdown-timeout", "1s"],
        ];
        let variables = [
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "100"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "20"),
        ];
        bridge_to(&self.peer.url(), Transport::Grpc, arguments.as_flattened(), &variables).await
    }

    /// Series that are there for good, each with a long label.
    async fn measure(&self, worker: &Worker) -> Result<()> {
        for series in 0..SERIES {
            let hit = event("cache.lookup", "", wall()).measured("hits", 1);
            worker.send(&hit.meta("tool", &ballast(LABEL_BYTES, series as u64))).await?;
        }
        Ok(())
    }

    async fn send(&mut self, worker: &Worker) -> Result<()> {
        self.load.send(worker, WORKER, SPANS_A_ROUND, &ballast(SPAN_BYTES, self.notes)).await?;
        for _ in 0..RECORDS_A_ROUND {
            let note = event("worker.note", "", wall()).meta("message", &format!("note {}", self.notes));
            worker.send(&note.meta("ballast", &ballast(RECORD_BYTES, self.notes))).await?;
            self.notes += 1;
        }
        Ok(())
    }

    /// The size of the database; its log is bounded by itself.
    fn database_bytes(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.state.path().join("state").join("state.db"))?.len())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of letters")
}

/// # Errors
///
/// When the batches of a signal take more room than is theirs.
async fn ensure_within_bounds(bridge: &Bridge) -> Result<Vec<u64>> {
    let mut spooled = Vec::new();
    for (signal, bound) in SIGNALS {
        let bytes = bridge.metric(&format!("snakepit_bridge_spool_bytes{{signal={signal:?}}}")).await?;
        let said =
            bridge.metric(&format!("snakepit_bridge_spool_signal_limit_bytes{{signal={signal:?}}}")).await?;
        ensure!(said == bound, "{said} is said to be the bound of {signal}");
        ensure!(bytes <= bound, "{signal} take {bytes} bytes\n{}", bridge.log());
        spooled.push(bytes);
    }
    Ok(spooled)
}

fn gave_way(items: &Items) -> u64 {
    items.refused.get("gave_way").copied().unwrap_or(0)
}

fn of_signals(ledger: &Ledger) -> [&Items; 3] {
    [&ledger.spans, &ledger.points, &ledger.records]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_takes_no_more_of_the_disk_than_it_may() -> Result<()> {
    let peer = FaultyPeer::start(Transport::Grpc)?;
    let mut stage = Stage { state: TempDir::new()?, peer, load: Load::default(), notes: 0 };
    stage.peer.close().await;
    let bridge = stage.bridge().await?;
    let worker = Connector::named(WORKER).connect(&bridge.grpc).await?;
    stage.measure(&worker).await?;

    // Until most of what each signal made has given way to the rest.
    let begun = now();
    let mut most = vec![0; SIGNALS.len()];
    loop {
        ensure!(
            begun.elapsed() < LIMIT,
            "the bound is never reached: {:?}\n{}",
            bridge.ledger().await?,
            bridge.log()
        );
        stage.send(&worker).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let spooled = ensure_within_bounds(&bridge).await?;
        most.iter_mut().zip(spooled).for_each(|(most, bytes)| *most = bytes.max(*most));
        let ledger = bridge.ledger().await?;
        if of_signals(&ledger).iter().all(|items| gave_way(items) > TIMES_ITS_ROOM * items.waiting().max(1)) {
            break;
        }
    }
    for ((signal, bound), most) in SIGNALS.into_iter().zip(&most) {
        ensure!(*most > bound / 2, "{signal} had {most} bytes at most");
    }
    let database = stage.database_bytes()?;
    ensure!(database <= MOST_TIMES_THE_BOUND * SPOOL_BYTES, "the database has {database} bytes");

    // It is said, and not again and again.
    for (signal, _) in SIGNALS {
        let log = bridge.log();
        let said = log.lines().filter(|line| line.contains(GAVE_UP) && line.contains(&format!("{signal:?}")));
        let said = said.count() as u64;
        ensure!((1..=2 + begun.elapsed().as_secs() / 10).contains(&said), "{said} lines of {signal}\n{log}");
    }

    stage.peer.open().await?;
    let mut last = None;
    let ledger = until("what is left to be delivered", LIMIT, async || {
        ensure_within_bounds(&bridge).await?;
        let ledger = bridge.ledger().await?;
        let done = ledger.events.pending == 0
            && ledger.spans.waiting() + ledger.records.waiting() == 0
            && ledger.spans.exported > 0
            && ledger.records.exported > 0
            && ledger.points.exported > 0;
        last = Some(ledger.clone());
        Ok(done.then_some(ledger))
    });
    let ledger = ledger.await.with_context(|| format!("the last sums: {last:?}\n{}", bridge.log()))?;
    for (items, sent) in [(&ledger.spans, stage.load.len()), (&ledger.records, stage.notes)] {
        ensure!(items.made == sent, "{sent} were sent: {ledger:?}");
        ensure!(items.refused.keys().eq(["gave_way"]), "{ledger:?}");
        ensure!(items.exported + gave_way(items) == items.made, "{ledger:?}");
    }
    ensure!(ledger.points.refused.keys().eq(["gave_way"]), "{ledger:?}");

    // The newest have arrived, each once.
    let taken = stage.peer.taken();
    ensure!(taken.distinct() == ledger.spans.exported, "{} spans arrived: {ledger:?}", taken.distinct());
    taken.ensure_at_most(1)?;
    let newest = format!("{WORKER}/{}", stage.load.len() - 1);
    ensure!(
        taken.each().any(|arrived| arrived.text("snakepit.correlation_id") == Some(newest.as_str())),
        "{newest} did not arrive"
    );
    let mut arrived = notes(&stage.peer.records())?;
    arrived.sort_unstable();
    ensure!(
        arrived.len() as u64 == ledger.records.exported && arrived.last() == Some(&(stage.notes - 1)),
        "{arrived:?}"
    );
    ensure!(!bridge.log().contains("panicked"), "{}", bridge.log());
    worker.close().await
}
