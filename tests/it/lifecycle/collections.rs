//! When points are made: every interval, and once more at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::LIMIT;
use crate::support::bridge::{Bridge, Ledger};
use crate::support::points::Points;
use crate::support::sink::Sink;
use crate::support::until;
use crate::support::worker::{Connector, Says as _, Worker, event, pair, wall};

/// Workers enough that no shard is without one.
const WORKERS: usize = 8;

const HITS: &str = "snakepit.python.cache.lookup.hits";

async fn bridge_to(sink: &Sink, arguments: &[&str], interval: &str) -> Result<Bridge> {
    let arguments = [&["--reorder-window", "100ms", "--log-format", "json"], arguments].concat();
    let variables = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
        ("OTEL_METRIC_EXPORT_INTERVAL", interval),
        ("OTEL_METRIC_EXPORT_TIMEOUT", interval),
    ];
    Bridge::start(&arguments, &variables).await
}

/// One hit, one span and one note of each worker.
async fn send(bridge: &Bridge) -> Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let worker = Connector::named(&format!("worker_{number}")).connect(&bridge.grpc).await?;
        worker.send(&event("cache.lookup", "", wall()).measured("hits", 1)).await?;
        worker.send_all(pair("tool.execution", "", wall(), 1_000)).await?;
        worker.send(&event("worker.note", "", wall()).meta("message", "a note")).await?;
        workers.push(worker);
    }
    Ok(workers)
}

fn points(sink: &Sink) -> Points {
    let mut points = Points::default();
    sink.metrics().iter().for_each(|arrived| points.add(&arrived.worker, &arrived.metric));
    points
}

/// With an interval of an hour, all that was measured until the end is exported at the end, whether there is a state
/// directory or none.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_collection_is_made_at_the_end() -> Result<()> {
    let state = TempDir::new()?;
    for arguments in [vec![], vec!["--state-dir", state.path().to_str().expect("letters")]] {
        let sink = Sink::grpc().await?;
        let bridge = bridge_to(&sink, &arguments, "3600000").await?;
        let workers = send(&bridge).await?;
        bridge.signal("TERM")?;
        for worker in workers {
            worker.ended_by_bridge().await?;
        }
        let (status, log) = bridge.ended(LIMIT).await?;
        ensure!(status.success(), "{log}");
        let ledger = Ledger::of_log(&log)?;
        let all = WORKERS as u64;
        ensure!(ledger.spans.made == all, "{ledger:?}");
        ensure!((ledger.records.made, ledger.records.exported) == (all, all), "{ledger:?}");
        let points = points(&sink);
        points.ensure_sound()?;
        ensure!(
            (ledger.points.made, ledger.points.exported) == (points.distinct(), points.distinct()),
            "{ledger:?}"
        );
        ensure!(points.sum(HITS, None) == all as f64, "{points:?}");
        ensure!(points.sum("snakepit.python.tool.execution.duration", None) == all as f64, "{points:?}");
        let times: BTreeSet<_> = points.of(HITS).values().flatten().map(|point| point.time).collect();
        ensure!(times.len() == 1, "collected once: {times:?}");
        ensure!(sink.records().len() == WORKERS, "{:?}", sink.records());
    }
    Ok(())
}

/// All workers' points of one collection have one time, whatever shard they are in, and these times are the interval apart.
#[tokio::test(flavor = "multi_thread")]
async fn points_are_made_every_interval_at_one_time_for_all() -> Result<()> {
    let interval = Duration::from_millis(500);
    let sink = Sink::grpc().await?;
    let bridge = bridge_to(&sink, &[], "500").await?;
    let _workers = send(&bridge).await?;

    // Workers' events may miss collections on a busy machine; from the first one that has all of them on, all have them.
    let collections = until("some collections of all", LIMIT, async || {
        let points = points(&sink);
        Ok((times_of_all(&points).len() >= 7).then_some(points))
    })
    .await?;

    collections.ensure_sound()?;
    let series = collections.of(HITS);
    let times = times_of_all(&collections);
    // The last may be on its way.
    for time in &times[..times.len() - 1] {
        let of_time = series.values().flatten().filter(|point| point.time == *time).count();
        ensure!(of_time == WORKERS, "{of_time} at {time}: {times:?}");
    }
    // A timer may be late, and the next one is not for that: single gaps say nothing.
    let all = Duration::from_nanos(times[times.len() - 1] - times[0]);
    let apart = all / (u32::try_from(times.len())? - 1);
    ensure!(apart > interval * 3 / 4 && apart < interval * 10, "{apart:?} on average: {times:?}");
    Ok(())
}

/// The times of collections since every worker has hits; none before.
fn times_of_all(points: &Points) -> Vec<u64> {
    let series = points.of(HITS);
    let firsts = series.values().filter_map(|points| points.first()).map(|point| point.time);
    let Some(complete) = firsts.max().filter(|_| series.len() == WORKERS) else { return Vec::new() };
    let times: BTreeSet<_> = series.values().flatten().map(|point| point.time).collect();
    times.into_iter().filter(|time| *time >= complete).collect()
}

/// Exporter `none`: no points are made, nothing is collected, and the events say so.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_where_no_metrics_are_made() -> Result<()> {
    let variables = [
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let bridge = Bridge::start(&["--log-format", "json"], &variables).await?;
    let workers = send(&bridge).await?;
    let ledger = bridge.settled(4 * WORKERS as u64, LIMIT).await?;
    ensure!((ledger.points.made, ledger.records.made) == (0, 0), "{ledger:?}");
    ensure!(ledger.events.dropped.get("signal_disabled") == Some(&(2 * WORKERS as u64)), "{ledger:?}");
    let metrics = bridge.admin("/metrics").await?;
    ensure!(!metrics.contains("\nsnakepit_bridge_collections_total"), "{metrics}");
    drop(workers);
    let (status, log) = bridge.terminate(LIMIT).await?;
    ensure!(status.success(), "{log}");
    Ok(())
}
