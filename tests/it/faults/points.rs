//! Points and records through kills, restarts and outages: sums are those of the events that were sent, to the event.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use snakepit_otel_bridge::proto::TelemetryEvent;
use tempfile::TempDir;

use super::{LIMIT, bridge_to};
use crate::support::bridge::{Bridge, COMMITS_UNTIL_DURABLE, Ledger};
use crate::support::faulty_peer::{ArrivedRecord, FaultyPeer, Transport};
use crate::support::sink::text;
use crate::support::until;
use crate::support::worker::{Connector, Says as _, Worker, event, wall};

/// Between two collections: several within the life of a bridge.
const INTERVAL: &str = "200";

/// What the workers count, one at a time.
pub(super) const COUNT: &str = "snakepit.python.cache.lookup.hits";

/// Events of one round, of each kind.
const ROUND: u64 = 300;

/// One more hit.
pub(super) fn hit() -> TelemetryEvent {
    event("cache.lookup", "", wall()).measured("hits", 1)
}

/// What holds no number, and is known by one.
pub(super) fn note(number: u64) -> TelemetryEvent {
    event("worker.note", "", wall()).meta("message", &format!("note {number}"))
}

/// The numbers of the notes among these.
///
/// # Errors
///
/// When a record is no note.
pub(super) fn notes(records: &[ArrivedRecord]) -> Result<Vec<u64>> {
    let number = |arrived: &ArrivedRecord| {
        let body = arrived.record.body.clone().map(|body| [("body", body)]).context("no body")?;
        let body = body.map(|(key, value)| opentelemetry_proto::tonic::common::v1::KeyValue {
            key: key.to_owned(),
            value: Some(value),
            ..Default::default()
        });
        let number = text(&body, "body").and_then(|body| body.strip_prefix("note "));
        Ok(number.with_context(|| format!("no note: {arrived:?}"))?.parse()?)
    };
    records.iter().map(number).collect()
}

/// A peer and a state directory, and what was sent.
struct Stage {
    state: TempDir,
    peer: FaultyPeer,
    temporality: &'static str,
    sent: u64,
}

impl Stage {
    fn set(temporality: &'static str) -> Result<Self> {
        Ok(Self { state: TempDir::new()?, peer: FaultyPeer::start(Transport::Grpc)?, temporality, sent: 0 })
    }

    async fn bridge(&self) -> Result<Bridge> {
        let directory = self.state.path().to_str().context("a path of letters")?;
        let arguments =
            ["--state-dir", directory, "--checkpoint-interval", "500ms", "--shutdown-timeout", "1s"];
        let variables = [
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL),
            ("OTEL_METRIC_EXPORT_TIMEOUT", INTERVAL),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", self.temporality),
        ];
        bridge_to(&self.peer.url(), Transport::Grpc, &arguments, &variables).await
    }

    /// Sends a round of hits and notes.
    async fn send(&mut self, worker: &Worker) -> Result<()> {
        for _ in 0..ROUND {
            worker.send_all([hit(), note(self.sent)]).await?;
            self.sent += 1;
        }
        Ok(())
    }

    /// Waits until the peer has every note, and every hit in its points, and until nothing waits; compares.
    async fn ends(&self, bridge: &Bridge, hits: u64, notes_sent: &BTreeSet<u64>) -> Result<Ledger> {
        let mut last = None;
        let delivered = until("all to be delivered", LIMIT, async || {
            let ledger = bridge.ledger().await?;
            let waits = ledger.events.pending + ledger.points.waiting() + ledger.records.waiting();
            let points = self.peer.points();
            let done = waits == 0
                && points.sum(COUNT, None) >= hits as f64
                && self.peer.records().len() >= notes_sent.len();
            last = Some((ledger.clone(), points.sum(COUNT, None), self.peer.records().len()));
            Ok(done.then_some(ledger))
        })
        .await;
        let ledger = delivered.with_context(|| format!("the last sums: {last:?}\n{}", bridge.log()))?;
        let points = self.peer.points();
        points.ensure_sound()?;
        ensure!(points.sum(COUNT, None) == hits as f64, "{} of {hits} hits", points.sum(COUNT, None));
        let arrived: BTreeSet<u64> = notes(&self.peer.records())?.into_iter().collect();
        ensure!(arrived == *notes_sent, "{} of {} notes", arrived.len(), notes_sent.len());
        ensure!(ledger.points.refused.is_empty() && ledger.records.refused.is_empty(), "{ledger:?}");
        ensure!(ledger.records.made == notes_sent.len() as u64, "{ledger:?}");
        ensure!(ledger.events.standalone == hits + notes_sent.len() as u64, "{ledger:?}");
        ensure!(!bridge.log().contains("panicked"), "{}", bridge.log());
        Ok(ledger)
    }
}

async fn connect(bridge: &Bridge) -> Result<Worker> {
    Connector::named("worker_1").pid(4711).header("x-snakepit-node", b"n").connect(&bridge.grpc).await
}

/// Waits until so many events are received, and on disk. Collections alone make commits enough.
async fn durable(bridge: &Bridge, events: u64) -> Result<()> {
    until("all to be received", LIMIT, async || {
        Ok((bridge.ledger().await?.events.received >= events).then_some(()))
    })
    .await?;
    let before = bridge.commits().await?;
    until("all to be on disk", LIMIT, async || {
        Ok((bridge.commits().await? >= before + COMMITS_UNTIL_DURABLE).then_some(()))
    })
    .await
}

/// Kills at instants when everything sent is on disk, collections under way included: nothing is lost, nothing is counted
/// twice, and no cumulative value ever falls. The peer never sees that there were several bridges.
#[tokio::test(flavor = "multi_thread")]
async fn sums_and_records_are_exact_over_kills() -> Result<()> {
    for temporality in ["cumulative", "delta"] {
        let mut stage = Stage::set(temporality)?;
        for _ in 0..3 {
            let bridge = stage.bridge().await?;
            let worker = connect(&bridge).await?;
            stage.send(&worker).await?;
            durable(&bridge, 2 * stage.sent).await?;
            bridge.signal("KILL")?;
            bridge.ended(LIMIT).await?;
        }
        let bridge = stage.bridge().await?;
        let worker = connect(&bridge).await?;
        stage.send(&worker).await?;
        let ledger = stage.ends(&bridge, stage.sent, &(0..stage.sent).collect()).await;
        let ledger = ledger.with_context(|| temporality)?;
        ensure!(ledger.points.exported == stage.peer.points().distinct(), "{temporality}: {ledger:?}");
        worker.close().await?;
    }
    Ok(())
}

/// Kills in the middle of it: what arrived last may be lost, and then it is lost from everything alike.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_load_leaves_all_sums_agreeing() -> Result<()> {
    let mut stage = Stage::set("delta")?;
    for _ in 0..4 {
        let bridge = stage.bridge().await?;
        let worker = connect(&bridge).await?;
        let known = bridge.ledger().await?.events.received;
        stage.send(&worker).await?;
        durable(&bridge, known + 2 * ROUND).await?;
        stage.send(&worker).await?;
        bridge.signal("KILL")?;
        bridge.ended(LIMIT).await?;
    }
    let bridge = stage.bridge().await?;
    let mut last = None;
    let ledger = until("all to be delivered", LIMIT, async || {
        let ledger = bridge.ledger().await?;
        let arrived: BTreeSet<u64> = notes(&stage.peer.records())?.into_iter().collect();
        let hits = stage.peer.points().sum(COUNT, None) as u64;
        let done = hits + arrived.len() as u64 == ledger.events.received && ledger.points.waiting() == 0;
        last = Some((ledger.clone(), hits, arrived.len()));
        Ok(done.then_some(ledger))
    });
    let ledger = ledger.await.with_context(|| format!("the last sums: {last:?}\n{}", bridge.log()))?;
    stage.peer.points().ensure_sound()?;
    ensure!(
        ledger.events.received >= 4 * 2 * ROUND,
        "only {} of {} events are left",
        ledger.events.received,
        2 * stage.sent
    );
    ensure!(ledger.records.exported == ledger.records.made, "{ledger:?}");
    Ok(())
}

/// While the Collector is away, each collection's points wait with their own times, on disk where the bridge ends; the next
/// bridge sends them, and they are what a Collector would have got that was there.
#[tokio::test(flavor = "multi_thread")]
async fn points_of_an_outage_keep_their_times() -> Result<()> {
    let mut stage = Stage::set("cumulative")?;
    stage.peer.close().await;
    let bridge = stage.bridge().await?;
    let worker = connect(&bridge).await?;
    stage.send(&worker).await?;
    until("some collections", LIMIT, async || {
        Ok((bridge.metric("snakepit_bridge_collections_total").await? >= 5).then_some(()))
    })
    .await?;
    drop(worker);
    let (status, log) = bridge.terminate(LIMIT).await?;
    ensure!(status.success(), "{log}");
    let left = Ledger::of_log(&log)?;
    ensure!(left.points.spooled == left.points.made && left.points.made >= 5, "{left:?}");
    ensure!(left.records.spooled == stage.sent, "{left:?}");

    let reopened = wall().unsigned_abs();
    stage.peer.open().await?;
    let bridge = stage.bridge().await?;
    stage.ends(&bridge, stage.sent, &(0..stage.sent).collect()).await?;

    let points = stage.peer.points();
    let series = points.of(COUNT);
    let (_, of_one) = series.first_key_value().context("no series")?;
    let before = of_one.iter().filter(|point| point.time < reopened).count();
    ensure!(series.len() == 1 && before >= 5, "{series:?}");
    Ok(())
}
