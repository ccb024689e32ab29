//! The ledger through crashes, other settings, damage and full disks: whatever happens, each sum adds up at every look, what
//! was made twice is named, and nothing waits for ever.
//!
//! [`Bridge::ledger`] holds the sums against one another at every look.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::points::{hit, note};
use super::{LIMIT, WORKER, each};
use crate::support::bridge::{Bridge, COMMITS_UNTIL_DURABLE, Items, Ledger, sum};
use crate::support::faulty_peer::{FaultyPeer, Transport};
use crate::support::load::Load;
use crate::support::until;
use crate::support::worker::{Connector, Worker};

/// Spans, counts and records of a round, so many of each.
const ROUND: u64 = 20;

/// Of each, more than memory holds with [`SMALL`].
const MANY: u64 = 400;

/// Items in memory, of spans and of records.
const SMALL: &[(&str, &str)] = &[
    ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "20"),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", "100"),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "20"),
];

/// What a bridge is told beside where the peer and the state are.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// A whole configuration file.
    config: &'static str,
    variables: &'static [(&'static str, &'static str)],
}

const AS_EVER: Told =
    Told { config: "bridge: {reorder_window: 50ms}\nmetrics: {max_series: 20}\n", variables: &[] };

/// Settings with which the same events may make something else, and what becomes of their spans then.
const OTHERS: [(&str, Told); 6] = [
    (
        "exported",
        Told { config: "bridge: {reorder_window: 700ms}\nmetrics: {max_series: 20}\n", variables: &[] },
    ),
    (
        "exported",
        Told {
            config: "bridge: {reorder_window: 50ms}\nmetrics: {max_series: 20, rules: [{event: 'cache.*', instrument: histogram}]}\n",
            variables: &[],
        },
    ),
    ("sampled_out", Told { variables: &[("OTEL_TRACES_SAMPLER", "always_off")], ..AS_EVER }),
    ("signal_disabled", Told { variables: &[("OTEL_TRACES_EXPORTER", "none")], ..AS_EVER }),
    (
        "exported",
        Told { variables: &[("OTEL_METRICS_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none")], ..AS_EVER },
    ),
    (
        "signal_disabled",
        Told {
            variables: &[
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "none"),
                ("OTEL_LOGS_EXPORTER", "none"),
            ],
            ..AS_EVER
        },
    ),
];

/// A state directory, a peer, and what was sent.
struct Stage {
    state: TempDir,
    peer: FaultyPeer,
    load: Load,
    notes: u64,
}

impl Stage {
    fn set() -> Result<Self> {
        Ok(Self {
            state: TempDir::new()?,
            peer: FaultyPeer::start(Transport::Grpc)?,
            load: Load::default(),
            notes: 0,
        })
    }

    /// A bridge that makes no checkpoint of its own accord while a test lasts.
    async fn bridge(&self, told: Told) -> Result<Bridge> {
        let directory = self.state.path().join("state");
        let config = self.state.path().join("bridge.yaml");
        std::fs::write(&config, told.config)?;
        let arguments = [
            "--config",
            config.to_str().context("a path of letters")?,
            "--state-dir",
            directory.to_str().context("a path of letters")?,
            "--checkpoint-interval",
            "1h",
            "--shutdown-timeout",
            "1s",
            "--log-format",
            "json",
        ];
        let url = self.peer.url();
        let mut variables = BTreeMap::from([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
            // Requests have no more time than that.
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ]);
        variables.extend(told.variables.iter().copied());
        Bridge::start(&arguments, &variables.into_iter().collect::<Vec<_>>()).await
    }

    /// Sends spans, counts and records over a stream of their own, which stays open.
    async fn send(&mut self, bridge: &Bridge, count: u64, ballast: &str) -> Result<Worker> {
        let worker = Connector::named(WORKER).pid(4711).connect(&bridge.grpc).await?;
        self.load.send(&worker, WORKER, usize::try_from(count)?, ballast).await?;
        for _ in 0..count {
            worker.send_all([hit(), note(self.notes)]).await?;
            self.notes += 1;
        }
        Ok(worker)
    }

    /// Events that were sent.
    fn events(&self) -> u64 {
        2 * self.load.len() + 2 * self.notes
    }

    /// Makes what one table holds, or all, wrong by its checksum; or the file no database any more, in its middle.
    fn damage(&self, what: &str) -> Result<()> {
        let path = self.state.path().join("state/state.db");
        if what == "file" {
            rusqlite::Connection::open(&path)?.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
            let mut bytes = std::fs::read(&path)?;
            let (from, to) = (bytes.len() / 3, bytes.len() / 2);
            bytes[from..to].fill(0xa5);
            return Ok(std::fs::write(&path, bytes)?);
        }
        let database = rusqlite::Connection::open(&path)?;
        let tables = ["sums", "spool", "bodies", "settled", "journal", "row", "heads"];
        for table in tables.into_iter().filter(|table| what == "all" || what == *table) {
            let changed = database.execute(&format!("UPDATE {table} SET check_sum = ~check_sum"), ())?;
            ensure!(changed > 0, "nothing is in {table}");
        }
        Ok(())
    }
}

/// Waits until every event has its fate and nothing is in memory any more.
async fn settled(bridge: &Bridge, events: u64) -> Result<Ledger> {
    let is_done = |ledger: &Ledger| {
        let queued = ledger.spans.queued + ledger.points.queued + ledger.records.queued;
        ledger.events.received >= events && ledger.events.pending == 0 && queued == 0
    };
    once(bridge, is_done).await
}

/// Waits until nothing is on disk either.
async fn drained(bridge: &Bridge) -> Result<Ledger> {
    once(bridge, |ledger| {
        ledger.events.pending == 0 && of_all(ledger).into_iter().all(|items| items.waiting() == 0)
    })
    .await
}

async fn once(bridge: &Bridge, is_so: impl Fn(&Ledger) -> bool) -> Result<Ledger> {
    let mut last = None;
    let ledger = until("every fate", LIMIT, async || {
        let ledger = bridge.ledger().await?;
        last = Some(ledger.clone());
        Ok(is_so(&ledger).then_some(ledger))
    });
    ledger.await.with_context(|| format!("the last sums: {last:?}\n{}", bridge.log()))
}

const fn of_all(ledger: &Ledger) -> [&Items; 3] {
    [&ledger.spans, &ledger.points, &ledger.records]
}

/// Kills a bridge once all that it has received, and what became of that, is on disk.
async fn kill(bridge: Bridge) -> Result<()> {
    let before = bridge.commits().await?;
    until("all to be on disk", LIMIT, async || {
        // Whoever comes or goes is written down: that makes commits where nothing else does.
        Connector::named("passer-by").connect(&bridge.grpc).await?.close().await?;
        Ok((bridge.commits().await? >= before + COMMITS_UNTIL_DURABLE).then_some(()))
    })
    .await?;
    bridge.signal("KILL")?;
    bridge.ended(LIMIT).await?;
    Ok(())
}

/// What was made since the last checkpoint and has its fate is made once more by a start with other settings: both are made,
/// each has its fate, and the first is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_other_settings_after_a_kill_names_what_it_makes_again() -> Result<()> {
    each(OTHERS, |(fate, told)| async move {
        let mut stage = Stage::set()?;
        let bridge = stage.bridge(AS_EVER).await?;
        let worker = stage.send(&bridge, ROUND, "").await?;
        settled(&bridge, stage.events()).await?;
        let before = once(&bridge, |ledger| ledger.points.exported > 0).await?;
        ensure!((before.spans.made, before.spans.exported) == (ROUND, ROUND), "{before:?}");
        kill(bridge).await?;
        drop(worker);

        let bridge = stage.bridge(told).await?;
        let after = settled(&bridge, stage.events()).await?;
        let of_fate = match fate {
            "exported" => after.spans.exported - ROUND,
            "sampled_out" => after.spans.sampled_out,
            refusal => after.spans.refused[refusal],
        };
        ensure!((after.spans.made, of_fate) == (2 * ROUND, ROUND), "{after:?}");
        ensure!((after.spans.made_again, after.spans.inherited) == (ROUND, 0), "{after:?}");
        let is_off = told.variables.contains(&("OTEL_LOGS_EXPORTER", "none"));
        let (of_records, of_points) = if is_off {
            (after.records.inherited, after.points.inherited)
        } else {
            (after.records.made_again, after.points.made_again)
        };
        ensure!(of_records == ROUND && of_points >= before.points.exported, "{after:?}");
        ensure!(
            [&after.records, &after.points].map(Items::of_before) == [of_records, of_points],
            "{after:?}"
        );

        // Once more with these settings: what was named stays named, and nothing new is.
        let worker = stage.send(&bridge, ROUND, "").await?;
        settled(&bridge, stage.events()).await?;
        kill(bridge).await?;
        drop(worker);
        let bridge = stage.bridge(told).await?;
        let last = settled(&bridge, stage.events()).await?;
        ensure!(last.spans.made == 3 * ROUND, "{last:?}");
        for (last, after) in of_all(&last).into_iter().zip(of_all(&after)) {
            ensure!((last.made_again, last.inherited) == (after.made_again, after.inherited), "{last:?}");
        }
        Ok(())
    })
    .await
}

/// The Collector is away, and the disk holds what memory does not: what is there is not made twice by the same settings, and
/// is sent as it is under others.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_an_outage_leaves_every_sum_adding_up() -> Result<()> {
    let small = Told { variables: SMALL, ..AS_EVER };
    let other =
        Told { config: "bridge: {reorder_window: 700ms}\nmetrics: {max_series: 20}\n", variables: SMALL };
    each([small, other], |told| async move {
        let mut stage = Stage::set()?;
        stage.peer.close().await;
        let bridge = stage.bridge(Told { variables: SMALL, ..AS_EVER }).await?;
        let worker = stage.send(&bridge, MANY, "").await?;
        let events = stage.events();
        once(&bridge, |ledger| {
            let spooled = ledger.spans.spooled > 0 && ledger.records.spooled > 0;
            ledger.events.received == events && ledger.events.pending == 0 && spooled
        })
        .await?;
        kill(bridge).await?;
        drop(worker);

        let bridge = stage.bridge(told).await?;
        once(&bridge, |ledger| ledger.events.received == events && ledger.events.pending == 0).await?;
        stage.peer.open().await?;
        let ledger = drained(&bridge).await?;
        // On a busy machine so small a memory may be full before the disk has taken its part.
        let is_room_alone = |items: &&Items| items.refused.keys().all(|reason| reason == "queue_full");
        ensure!(of_all(&ledger).iter().all(is_room_alone), "{ledger:?}");
        let is_exact = told.config == AS_EVER.config;
        let distinct = stage.peer.taken().distinct();
        ensure!(if is_exact { distinct == ledger.spans.exported } else { distinct <= MANY }, "{ledger:?}");
        for items in [&ledger.spans, &ledger.records] {
            ensure!(items.inherited == 0 && items.made == MANY + items.made_again, "{ledger:?}");
            ensure!((items.made_again == 0) == is_exact, "{ledger:?}");
        }
        ensure!(!is_exact || ledger.points.of_before() == 0, "{ledger:?}");
        Ok(())
    })
    .await
}

/// A clean end writes everything down: other settings change what is made from then on, and nothing of before.
#[tokio::test(flavor = "multi_thread")]
async fn other_settings_after_a_clean_end_make_nothing_again() -> Result<()> {
    each(OTHERS, |(_, told)| async move {
        let mut stage = Stage::set()?;
        let bridge = stage.bridge(AS_EVER).await?;
        let worker = stage.send(&bridge, ROUND, "").await?;
        settled(&bridge, stage.events()).await?;
        stage.peer.close().await;
        drop(worker);
        let worker = stage.send(&bridge, ROUND, "").await?;
        once(&bridge, |ledger| ledger.events.received == stage.events()).await?;
        drop(worker);
        let (status, log) = bridge.terminate(LIMIT).await?;
        ensure!(status.success(), "{log}");
        let before = Ledger::of_log(&log)?;
        ensure!(before.spans.spooled == ROUND, "{before:?}");

        let bridge = stage.bridge(told).await?;
        stage.peer.open().await?;
        let ledger = settled(&bridge, stage.events()).await?;
        ensure!(ledger.spans.made == 2 * ROUND && ledger.records.made == 2 * ROUND, "{ledger:?}");
        for (now, before) in of_all(&ledger).into_iter().zip(of_all(&before)) {
            ensure!(now.of_before() == 0 && now.refused == before.refused, "{ledger:?}");
            ensure!(now.sampled_out == 0 && now.exported >= before.exported, "{ledger:?}");
        }
        Ok(())
    })
    .await
}

/// Whatever of the directory is damaged, the sums add up, nothing waits for ever, and the next start changes nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn damage_leaves_every_sum_adding_up() -> Result<()> {
    each(
        ["sums", "spool", "bodies", "settled", "journal", "row", "heads", "all", "file"],
        |damaged| async move {
            let mut stage = Stage::set()?;
            let small = Told { variables: SMALL, ..AS_EVER };
            let bridge = stage.bridge(small).await?;
            let worker = stage.send(&bridge, ROUND, "").await?;
            settled(&bridge, stage.events()).await?;
            drop(worker);
            bridge.terminate(LIMIT).await?;
            // Of these some are settled and some wait, and no checkpoint has them.
            let bridge = stage.bridge(small).await?;
            let worker = stage.send(&bridge, ROUND, "").await?;
            settled(&bridge, stage.events()).await?;
            drop(worker);
            stage.peer.close().await;
            let worker = stage.send(&bridge, MANY, "").await?;
            let sent = stage.events();
            once(&bridge, |ledger| ledger.events.received == sent && ledger.spans.spooled > 0).await?;
            kill(bridge).await?;
            drop(worker);
            stage.damage(damaged)?;

            stage.peer.open().await?;
            let bridge = stage.bridge(small).await?;
            let after = drained(&bridge).await?;
            let unknown = |items: &Items| items.refused.contains_key("fate_unknown");
            match damaged {
                "sums" => ensure!(unknown(&after.spans) && unknown(&after.records), "{after:?}"),
                "heads" | "journal" => ensure!(after.spans.inherited >= ROUND, "{after:?}"),
                "settled" | "row" => ensure!(after.spans.made_again >= ROUND, "{after:?}"),
                "bodies" => ensure!(after.spans.refused.contains_key("spool_damaged"), "{after:?}"),
                _ => {}
            }
            let (status, log) = bridge.terminate(LIMIT).await?;
            ensure!(status.success() && !log.contains("panicked"), "{log}");
            ensure!(damaged != "file" || log.contains("the state database was damaged"), "{log}");

            let bridge = stage.bridge(small).await?;
            let last = drained(&bridge).await?;
            for (last, after) in of_all(&last).into_iter().zip(of_all(&after)) {
                ensure!(last.of_before() == after.of_before(), "{last:?} after {after:?}");
                ensure!(last.refused == after.refused, "{last:?} after {after:?}");
            }
            Ok(())
        },
    )
    .await
}

/// When its part of the disk is full, a signal's oldest give way, and every sum knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_share_of_the_disk_leaves_every_sum_adding_up() -> Result<()> {
    let mut stage = Stage::set()?;
    stage.peer.close().await;
    let told = Told {
        config: "bridge: {reorder_window: 50ms}\nmetrics: {max_series: 20}\nlimits: {max_spool_bytes: 50000}\n",
        variables: SMALL,
    };
    let bridge = stage.bridge(told).await?;
    let worker = stage.send(&bridge, MANY, &"x".repeat(500)).await?;
    let events = stage.events();
    let before = once(&bridge, |ledger| {
        let gave_way = |items: &Items| items.refused.get("gave_way") > Some(&0);
        let is_read = ledger.events.received == events && ledger.events.pending == 0;
        is_read && gave_way(&ledger.spans) && gave_way(&ledger.records)
    })
    .await?;
    kill(bridge).await?;
    drop(worker);

    let bridge = stage.bridge(told).await?;
    stage.peer.open().await?;
    let after = drained(&bridge).await?;
    for (items, before) in [(&after.spans, &before.spans), (&after.records, &before.records)] {
        ensure!(items.made == MANY && items.of_before() == 0, "{after:?}");
        ensure!(items.exported + sum(&items.refused) == MANY, "{after:?}");
        ensure!(sum(&items.refused) >= sum(&before.refused), "{after:?} after {before:?}");
    }
    ensure!(after.points.of_before() == 0, "{after:?}");
    Ok(())
}
