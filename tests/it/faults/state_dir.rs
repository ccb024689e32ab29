//! The state directory in good days and bad ones: what memory cannot hold waits on disk; and where the disk fails, the
//! bridge says so in clear words and goes on in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::{BATCH, LIMIT, SPANS, WORKER, bridge_to};
use crate::support::bridge::{Bridge, COMMITS_UNTIL_DURABLE, Ledger};
use crate::support::faulty_peer::{FaultyPeer, Play, Received, Transport};
use crate::support::load::Load;
use crate::support::until;
use crate::support::worker::{Connector, event, wall};

/// Spans that a bridge with a small memory holds, and spans of a backlog that is far larger.
const FEW: &str = "200";
const BACKLOG: usize = 2_000;

/// A state directory, a peer, and the spans of all bridges that had it.
struct Stage {
    state: TempDir,
    peer: FaultyPeer,
    load: Load,
}

impl Stage {
    fn set() -> Result<Self> {
        Ok(Self { state: TempDir::new()?, peer: FaultyPeer::start(Transport::Grpc)?, load: Load::default() })
    }

    async fn bridge(&self, variables: &[(&str, &str)]) -> Result<Bridge> {
        self.bridge_at(self.state.path(), variables).await
    }

    async fn bridge_at(&self, directory: &Path, variables: &[(&str, &str)]) -> Result<Bridge> {
        let directory = directory.to_str().context("a path of letters")?;
        let arguments =
            ["--state-dir", directory, "--checkpoint-interval", "500ms", "--shutdown-timeout", "1s"];
        bridge_to(&self.peer.url(), Transport::Grpc, &arguments, variables).await
    }

    /// Sends spans over a stream of their own.
    async fn send(&mut self, bridge: &Bridge, count: usize, ballast: &str) -> Result<()> {
        let worker = Connector::named(WORKER).pid(4711).connect(&bridge.grpc).await?;
        self.load.send(&worker, WORKER, count, ballast).await?;
        worker.close().await
    }

    /// Waits until the peer has every span, and compares.
    async fn ends(&self, bridge: &Bridge, most_times: usize) -> Result<Ledger> {
        let mut last = None;
        let delivered = until("all to be delivered", LIMIT, async || {
            let ledger = bridge.ledger().await?;
            let waits = ledger.events.pending + ledger.spans.queued + ledger.spans.spooled;
            let done = waits == 0 && self.peer.taken().distinct() >= self.load.len();
            last = Some(ledger.clone());
            Ok(done.then_some(ledger))
        })
        .await;
        let ledger = delivered.with_context(|| format!("the last sums: {last:?}\n{}", bridge.log()))?;
        let taken = self.peer.taken();
        let differences = self.load.differences(&taken, &[]);
        ensure!(differences.is_empty(), "{}\n{ledger:?}", differences.join("\n"));
        taken.ensure_at_most(most_times)?;
        ensure!(ledger.spans.refused.is_empty(), "{ledger:?}");
        ensure!(!bridge.log().contains("panicked"), "{}", bridge.log());
        Ok(ledger)
    }

    /// What is in the directory, largest first.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut directories = vec![self.state.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.is_dir() { &mut directories } else { &mut files }.push(path);
            }
        }
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        files.sort_by_key(|path| std::cmp::Reverse(size(path)));
        ensure!(!files.is_empty(), "nothing is in the state directory");
        Ok(files)
    }

    /// Leaves a state directory with unsent spans, as a bridge does that ends while its peer is away.
    async fn leave_unsent(&mut self, count: usize) -> Result<()> {
        self.peer.close().await;
        let bridge = self.bridge(&[]).await?;
        self.send(&bridge, count, "").await?;
        let (status, log) = bridge.terminate(LIMIT).await?;
        ensure!(status.success(), "{log}");
        let ledger = Ledger::of_log(&log)?;
        ensure!(ledger.spans.spooled == count as u64, "{ledger:?}");
        self.peer.open().await
    }

    /// A bridge on a directory that is no use: it says so, naming the directory, and new spans arrive nevertheless.
    async fn goes_on_in_memory(&mut self, directory: &Path) -> Result<Bridge> {
        let bridge = self.bridge_at(directory, &[]).await?;
        ensure_complains(&bridge, directory).await?;
        let worker = Connector::named("newcomer").connect(&bridge.grpc).await?;
        self.load.send(&worker, "newcomer", SPANS, "").await?;
        worker.close().await?;
        let arrived = until("new spans", LIMIT, async || {
            let taken = self.peer.taken();
            let new: Vec<_> = taken.each().filter(|arrived| arrived.worker == "newcomer").cloned().collect();
            Ok((new.len() >= SPANS).then_some(new))
        })
        .await
        .with_context(|| bridge.log())?;
        for arrived in arrived {
            let span = self.load.of(&arrived).with_context(|| format!("never sent: {arrived:?}"))?;
            let differences = span.differences(&arrived);
            ensure!(differences.is_empty(), "{differences:?}");
        }
        let ledger = bridge.ledger().await?;
        ensure!(ledger.spans.refused.is_empty(), "{ledger:?}");
        Ok(bridge)
    }
}

/// # Errors
///
/// When no warning or error names the directory, or they are a flood.
async fn ensure_complains(bridge: &Bridge, directory: &Path) -> Result<String> {
    let name = directory.to_str().context("a path of letters")?;
    let complaints = until("a complaint", LIMIT, async || {
        let log = bridge.log();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(r#""level":"WARN""#) || line.contains(r#""level":"ERROR""#))
            .filter(|line| line.contains(name))
            .map(str::to_owned)
            .collect();
        Ok((!lines.is_empty()).then_some(lines))
    })
    .await
    .with_context(|| bridge.log())?;
    ensure!(complaints.len() <= 4, "a flood: {complaints:?}");
    Ok(complaints.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unsent_at_the_end_is_sent_by_the_next_bridge() -> Result<()> {
    let mut stage = Stage::set()?;
    stage.leave_unsent(SPANS).await?;
    let bridge = stage.bridge(&[]).await?;
    let ledger = stage.ends(&bridge, 1).await?;
    // The ledger goes on.
    ensure!((ledger.spans.made, ledger.spans.exported) == (SPANS as u64, SPANS as u64), "{ledger:?}");
    Ok(())
}

/// Spans that are open at the end of a bridge are finished by the next one, and nothing says that there were two.
#[tokio::test(flavor = "multi_thread")]
async fn a_span_may_outlive_a_bridge() -> Result<()> {
    let mut stage = Stage::set()?;
    let mut open = Vec::new();
    for is_kind in [true, false] {
        let bridge = stage.bridge(&[]).await?;
        let worker = Connector::named(WORKER).pid(4711).connect(&bridge.grpc).await?;
        for _ in 0..BATCH {
            let span = stage.load.next(WORKER, Duration::from_millis(5));
            let [start, stop] = span.events("");
            worker.send(&start).await?;
            open.push(stop);
        }
        until("the starts", LIMIT, async || {
            Ok((bridge.ledger().await?.events.pending >= open.len() as u64).then_some(()))
        })
        .await?;
        if is_kind {
            bridge.terminate(LIMIT).await?;
        } else {
            // An event without a name makes a commit, and nothing else.
            let before = bridge.commits().await?;
            until("the starts to be on disk", LIMIT, async || {
                worker.send(&event("", "", wall())).await?;
                Ok((bridge.commits().await? >= before + COMMITS_UNTIL_DURABLE).then_some(()))
            })
            .await?;
            bridge.signal("KILL")?;
            bridge.ended(LIMIT).await?;
        }
    }
    let bridge = stage.bridge(&[]).await?;
    let worker = Connector::named(WORKER).pid(4711).connect(&bridge.grpc).await?;
    worker.send_all(open).await?;
    let ledger = stage.ends(&bridge, 1).await?;
    ensure!(ledger.events.paired == 2 * stage.load.len(), "{ledger:?}");
    worker.close().await
}

/// A long outage: memory holds few, the disk the rest. When the peer is back, the backlog comes oldest first, and live
/// spans do not wait for its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_drains_oldest_first_and_leaves_room_for_the_living() -> Result<()> {
    let mut stage = Stage::set()?;
    stage.peer.close().await;
    let bridge = stage.bridge(&[("OTEL_BSP_MAX_QUEUE_SIZE", FEW)]).await?;
    stage.send(&bridge, BACKLOG, "").await?;
    let memory: u64 = FEW.parse()?;
    // What has left memory counts there until its copy is durable.
    let spooled = until("what memory does not hold to be on disk", LIMIT, async || {
        let ledger = bridge.ledger().await?;
        let all = ledger.spans.made == BACKLOG as u64 && ledger.events.pending == 0;
        Ok((all && ledger.spans.queued <= memory).then_some(ledger))
    })
    .await?;
    ensure!(spooled.spans.refused.is_empty(), "{spooled:?}");
    ensure!(spooled.spans.spooled >= BACKLOG as u64 - memory, "{spooled:?}");

    // Slow enough that there is an order to see.
    stage.peer.rule(|_| Some(Play::Take.after(Duration::from_millis(120))));
    stage.peer.open().await?;
    stage.peer.requested(4, LIMIT).await?;
    stage.send(&bridge, 2 * BATCH, "").await?;
    stage.ends(&bridge, 1).await?;

    let order: Vec<usize> =
        stage.peer.received().iter().flat_map(Received::spans).filter_map(number).collect();
    let last_live = order.iter().rposition(|number| *number >= BACKLOG).context("nothing lives")?;
    let last_old = order.iter().rposition(|number| *number < BACKLOG).context("no backlog")?;
    ensure!(last_live < last_old, "the living waited for the whole backlog: {order:?}");
    let old: Vec<_> = order.into_iter().filter(|number| *number < BACKLOG).collect();
    // Requests overtake one another in flight, and what was in memory need not wait for what was on disk: each of those may
    // be a step back. By chance, half of the steps of a batch's length would go back.
    let steps = old.windows(BATCH + 1);
    let back = steps.clone().filter(|step| step[0] > step[BATCH]).count();
    ensure!(back <= usize::try_from(memory)? + steps.count() / 10, "{back} steps back: {old:?}");
    Ok(())
}

/// The number that the load gave a span.
#[expect(clippy::needless_pass_by_value, reason = "for `filter_map`")]
fn number(arrived: crate::support::faulty_peer::Arrived) -> Option<usize> {
    arrived.text("snakepit.correlation_id")?.rsplit('/').next()?.parse().ok()
}

/// A torn write costs itself: what was written before it is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_write_costs_itself_alone() -> Result<()> {
    let mut stage = Stage::set()?;
    stage.leave_unsent(SPANS).await?;
    stage.peer.close().await;
    let bridge = stage.bridge(&[]).await?;
    let sure = stage.load.clone();
    // Enough for a log of some length.
    stage.send(&bridge, 10 * SPANS, &"x".repeat(500)).await?;
    bridge.signal("KILL")?;
    bridge.ended(LIMIT).await?;
    let log = stage.files()?.into_iter().find(|path| path.to_string_lossy().ends_with("-wal"));
    let Some(log) = log else {
        eprintln!("SKIPPED: the store has no log beside it that could be torn");
        return Ok(());
    };
    let file = fs::OpenOptions::new().write(true).open(&log)?;
    let length = file.metadata()?.len();
    file.set_len(length.saturating_sub(100))?;
    drop(file);
    stage.peer.open().await?;
    let bridge = stage.bridge(&[]).await?;
    until("the spooled spans", LIMIT, async || {
        let ledger = bridge.ledger().await?;
        let waits = ledger.spans.queued + ledger.spans.spooled;
        Ok((waits == 0 && stage.peer.taken().distinct() == ledger.spans.exported).then_some(()))
    })
    .await
    .with_context(|| bridge.log())?;
    let taken = stage.peer.taken();
    taken.ensure_at_most(1)?;
    let wrong = stage.load.differences(&taken, &[]);
    let wrong: Vec<_> = wrong.iter().filter(|line| !line.starts_with("neither taken nor refused")).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    let first = sure.spans().keys().filter(|id| {
        taken.each().any(|arrived| arrived.text("snakepit.correlation_id") == Some(id.as_str()))
    });
    ensure!(first.count() == SPANS, "spans of an earlier bridge are lost");
    Ok(())
}

/// Every byte of it overwritten: the bridge says so, and starts with what it can have.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_no_store_is_named_and_does_without() -> Result<()> {
    let mut stage = Stage::set()?;
    stage.leave_unsent(SPANS).await?;
    for path in stage.files()? {
        let length = usize::try_from(fs::metadata(&path)?.len())?;
        fs::write(&path, b"this is no database ".repeat(length / 20 + 1))?;
    }
    let directory = stage.state.path().to_owned();
    stage.goes_on_in_memory(&directory).await?;
    Ok(())
}

/// A store of a version that is yet to come: it is not touched, for its own bridge may come back to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_an_unknown_version_is_named_and_left_alone() -> Result<()> {
    let mut stage = Stage::set()?;
    stage.leave_unsent(SPANS).await?;
    let is_database =
        |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"));
    let path = stage.files()?.into_iter().find(is_database).context("no database is left")?;
    // A later bridge writes its version where this one does: twice.
    let database = rusqlite::Connection::open(&path)?;
    database.execute_batch(
        "PRAGMA user_version = 9999; UPDATE meta SET value = 9999 WHERE key = 'format'; PRAGMA wal_checkpoint(TRUNCATE)",
    )?;
    database.close().map_err(|(_, error)| error)?;
    let bytes = fs::read(&path)?;
    let directory = stage.state.path().to_owned();
    let bridge = stage.goes_on_in_memory(&directory).await?;
    let complaint = ensure_complains(&bridge, &directory).await?;
    ensure!(complaint.contains("9999"), "{complaint}");
    bridge.terminate(LIMIT).await?;
    ensure!(fs::read(&path)? == bytes, "the store was changed");
    Ok(())
}

/// The first keeps its directory, and the second says what it does without.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_on_the_same_directory_goes_on_in_memory() -> Result<()> {
    let mut stage = Stage::set()?;
    let first = stage.bridge(&[]).await?;
    stage.send(&first, SPANS, "").await?;
    stage.ends(&first, 1).await?;
    let directory = stage.state.path().to_owned();
    let second = stage.goes_on_in_memory(&directory).await?;
    let words = ensure_complains(&second, &directory).await?.to_lowercase();
    ensure!(words.contains("another") || words.contains("lock") || words.contains("in use"), "{words}");
    second.terminate(LIMIT).await?;

    // The first is undisturbed: what it has survives it.
    stage.peer.close().await;
    let mark = "after the second";
    let worker = Connector::named("worker_2").connect(&first.grpc).await?;
    stage.load.send(&worker, "worker_2", SPANS, mark).await?;
    worker.close().await?;
    let (status, log) = first.terminate(LIMIT).await?;
    ensure!(status.success(), "{log}");
    let ledger = Ledger::of_log(&log)?;
    ensure!(ledger.spans.spooled == SPANS as u64, "{ledger:?}");
    stage.peer.open().await?;
    let third = stage.bridge(&[]).await?;
    until("what the first has left", LIMIT, async || {
        let left = stage.peer.taken().each().filter(|arrived| arrived.text("ballast") == Some(mark)).count();
        Ok((left == SPANS).then_some(()))
    })
    .await
    .with_context(|| third.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_named_and_done_without() -> Result<()> {
    let mut stage = Stage::set()?;
    // To root, permissions mean nothing, and a mount does.
    if let Some(mount) = Mount::tmpfs("size=4m,ro")? {
        stage.goes_on_in_memory(mount.path()).await?;
        return Ok(());
    }
    let directory = TempDir::new()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555))?;
    if fs::write(directory.path().join("probe"), "").is_ok() {
        eprintln!("SKIPPED: permissions mean nothing to this user, who may not mount either");
        return Ok(());
    }
    stage.goes_on_in_memory(directory.path()).await?;
    Ok(())
}

/// The directory's file system fills up while the peer is away: what is in memory is delivered when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_done_without() -> Result<()> {
    let Some(mount) = Mount::tmpfs("size=4m")? else {
        eprintln!("SKIPPED: only root can mount a small file system");
        return Ok(());
    };
    let mut stage = Stage::set()?;
    stage.peer.close().await;
    let bridge = stage.bridge_at(mount.path(), &[]).await?;
    // Some 16 MB in events, and as much again in spans.
    let ballast = "x".repeat(8_000);
    stage.send(&bridge, BACKLOG, &ballast).await?;
    let words = ensure_complains(&bridge, mount.path()).await?.to_lowercase();
    ensure!(words.contains("no space") || words.contains("full"), "{words}");
    let ledger = bridge.ledger().await?;
    ensure!(ledger.spans.refused.is_empty(), "{ledger:?}");
    stage.peer.open().await?;
    stage.ends(&bridge, 1).await?;
    // A file system with room again is used again: the bridge ends and starts as ever.
    let (status, log) = bridge.terminate(LIMIT).await?;
    ensure!(status.success(), "{log}");
    let next = stage.bridge_at(mount.path(), &[]).await?;
    stage.send(&next, SPANS, "").await?;
    // Where there was no room to write down what was delivered, it is delivered again.
    stage.ends(&next, 2).await?;
    Ok(())
}

/// A file system of its own. It is unmounted with this.
struct Mount(TempDir);

impl Mount {
    /// None where this user may not mount.
    fn tmpfs(options: &str) -> Result<Option<Self>> {
        let directory = TempDir::new()?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .output()
            .context("failed to run mount")?;
        Ok(mount.status.success().then_some(Self(directory)))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, for a bridge may still be in its end. Nobody is left to tell if it fails.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}
