//! The real Collector is killed with -9 under load, and comes back.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::{LIMIT, WORKER, bridge_to, each};
use crate::support::collector::Collector;
use crate::support::faulty_peer::{FaultyPeer, Transport};
use crate::support::load::Load;
use crate::support::worker::Connector;
use crate::support::{now, until};

/// The load: so many spans, so often.
const BURST: usize = 20;
const BURST_INTERVAL: Duration = Duration::from_millis(10);

/// How long it lasts, kills and restarts included, and longer where it is not so many spans yet.
const LOAD: Duration = Duration::from_secs(10);
const LEAST_SPANS: u64 = 5_000;
const KILLS: usize = 3;

/// Of the instants of the kills.
const SEED: u64 = 4;

/// The Collector has no queue here, so what it acknowledges has been acknowledged behind it. What it had in its hands at a
/// kill was acknowledged to it and not to the bridge: it arrives twice, with the same ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_killed_again_and_again_costs_no_span() -> Result<()> {
    each([Transport::Grpc, Transport::Http], |transport| async move {
        let sink = FaultyPeer::start(Transport::Grpc)?;
        let mut collector = Collector::start(&sink.address.to_string()).await?;
        let url = match transport {
            Transport::Grpc => collector.otlp_grpc.clone(),
            Transport::Http => collector.otlp_http.clone(),
        };
        let variables = [("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000")];
        let bridge = bridge_to(&url, transport, &[], &variables).await?;
        let worker = Connector::named(WORKER).connect(&bridge.grpc).await?;

        let mut load = Load::default();
        let begun = now();
        let sending = async {
            let mut pace = tokio::time::interval(BURST_INTERVAL);
            let is_too_little = |load: &Load| load.len() < LEAST_SPANS && begun.elapsed() < LIMIT;
            while begun.elapsed() < LOAD || is_too_little(&load) {
                pace.tick().await;
                load.send(&worker, WORKER, BURST, "").await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let killing = async {
            let mut random = StdRng::seed_from_u64(SEED);
            for kill in 1..=KILLS {
                // Each within its own part of the load, and never before something has arrived.
                let arrived = sink.taken().distinct();
                until("spans behind the Collector", LIMIT, async || {
                    Ok((sink.taken().distinct() > arrived).then_some(()))
                })
                .await?;
                let at = LOAD.mul_f64((kill as f64 - random.random::<f64>()) / (KILLS + 1) as f64);
                tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
                let failed = "snakepit_bridge_export_requests_failed_total";
                let before = bridge.metric(failed).await?;
                collector.kill()?;
                until("the kill to be felt", LIMIT, async || {
                    Ok((bridge.metric(failed).await? > before).then_some(()))
                })
                .await?;
                collector.revive().await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let (sent, killed) = tokio::join!(sending, killing);
        sent?;
        killed?;

        ensure!(load.len() >= LEAST_SPANS, "{} spans are no load", load.len());
        let ledger = bridge.settled(2 * load.len(), LIMIT).await?;
        let spans = &ledger.spans;
        ensure!(
            (spans.made, spans.exported, spans.refused.len()) == (load.len(), load.len(), 0),
            "{spans:?}"
        );
        let taken = sink.taken();
        ensure!(taken.distinct() == spans.exported, "{} of {spans:?}", taken.distinct());
        // Once more for each kill that met the span in flight.
        taken.ensure_at_most(1 + KILLS)?;
        let differences = load.differences(&taken, &[]);
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        ensure!(bridge.log().contains("failed to export; will try again"), "{}", bridge.log());
        Ok(())
    })
    .await
}
