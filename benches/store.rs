//! What the state directory costs: spooling and draining a span, journalling an event, and a start with a full spool.
//!
//! `cargo bench --bench store`, all or some of it (`spool`, `journal`); `STORE_BENCH_DIR` says on which disk (the
//! temporary directory's otherwise). CPU is that of the whole process; files are written and synced for real, so that
//! times are the disk's as much as ours.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may give up")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clocks and its environment")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::smallvec;
use snakepit_otel_bridge::exporter::signal::Signal;
use snakepit_otel_bridge::store::{Commit, Op, Origin, Recovered, SpoolId, Store, StoreSettings};
use snakepit_otel_bridge::time::{Monotonic, Now, UnixNanos};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SPANS_PER_BATCH: u64 = 512;
const SPAN_BYTES: u64 = 350;
const BATCH_BYTES: usize = (SPANS_PER_BATCH * SPAN_BYTES) as usize;

/// A full spool of the default size.
const SPOOL_BYTES: u64 = 1 << 30;
const BATCHES: u64 = SPOOL_BYTES / BATCH_BYTES as u64;

/// Batches that a round spools or settles before it waits: a burst.
const BURST: u64 = 32;

const EVENT_BYTES: usize = 200;
const EVENTS_PER_PUSH: usize = 64;

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let disk = std::env::var_os("STORE_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (name, rate) in [("journal at 5,000 events/s", 5_000), ("journal at 50,000 events/s", 50_000)] {
        if is_wanted(name) {
            let dir = tempfile::tempdir_in(&disk).unwrap();
            runtime.block_on(journal(dir.path(), name, rate));
        }
    }
    if is_wanted("spool") {
        let dir = tempfile::tempdir_in(&disk).unwrap();
        runtime.block_on(spool(dir.path()));
    }
}

async fn spool(dir: &Path) {
    let body = Bytes::from(noise(BATCH_BYTES));
    let (store, _) = open(dir);
    let begun = Lap::begin();
    for first in (0..BATCHES).step_by(BURST as usize) {
        let mut commit = Commit(0);
        for id in first..(first + BURST).min(BATCHES) {
            commit = store.push(vec![Op::Spool {
                id: SpoolId(id),
                signal: Signal::Traces,
                items: SPANS_PER_BATCH,
                body: body.clone(),
                filled_at: UnixNanos(0),
                origins: smallvec![Origin { shard: 0, ordinals: 0..SPANS_PER_BATCH }],
            }]);
        }
        written(&store, commit).await;
    }
    begun.print("spool a batch", BATCHES * SPANS_PER_BATCH, "span");
    let figures = store.figures();
    println!(
        "  {} MiB of bodies take {} MiB on disk; {} MiB resident",
        figures.spool_bytes() >> 20,
        figures.disk_bytes >> 20,
        resident_mib()
    );

    // The files as a kill leaves them: the log not yet put into the database.
    let killed = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), killed.path().join(entry.file_name())).unwrap();
    }
    assert!(store.close().await);
    drop(store);
    for (how, dir) in [("after a close", dir), ("after a kill", killed.path())] {
        let begun = Instant::now();
        let (store, recovered) = open(dir);
        println!("open {how} with {} batches: {:.1?}", recovered.spool.len(), begun.elapsed());
        assert!(store.close().await);
    }
    drop(killed);

    let (store, recovered) = open(dir);
    let mut ids: Vec<_> = recovered.spool.iter().map(|entry| entry.id).collect();
    let mut commit = Commit(0);
    let begun = Lap::begin();
    while !ids.is_empty() {
        let asked = ids[..ids.len().min(BURST as usize)].to_vec();
        let loaded = store.load(asked).await;
        ids.drain(..loaded.len());
        for (id, body) in loaded {
            assert_eq!(body.map(|body| body.len()), Some(BATCH_BYTES));
            commit = store.push(vec![Op::Settled {
                signal: Signal::Traces,
                spool: Some(id),
                origins: smallvec![],
                exported: SPANS_PER_BATCH,
                refused: smallvec![],
            }]);
        }
    }
    written(&store, commit).await;
    begun.print("load and settle a batch", BATCHES * SPANS_PER_BATCH, "span");
    assert!(store.close().await);
    println!("  {} MiB on disk remain for reuse", store.figures().disk_bytes >> 20);
}

async fn journal(dir: &Path, name: &str, events_per_second: usize) {
    const SECONDS: usize = 6;
    let (store, _) = open(dir);
    let records = Bytes::from(noise(EVENT_BYTES * EVENTS_PER_PUSH));
    let pushes = events_per_second * SECONDS / EVENTS_PER_PUSH;
    let mut commit = Commit(0);
    let begun = Lap::begin();
    for push in 0..pushes {
        let due = Duration::from_secs_f64((push * EVENTS_PER_PUSH) as f64 / events_per_second as f64);
        tokio::time::sleep(due.saturating_sub(begun.wall.elapsed())).await;
        commit = store.push(vec![Op::Journal { shard: (push % 2) as u16, records: records.clone() }]);
    }
    written(&store, commit).await;
    begun.print(name, (pushes * EVENTS_PER_PUSH) as u64, "event");
    let figures = store.figures();
    println!("  {} commits, {:.1?} each", figures.commits, figures.commit_time / figures.commits as u32);
    assert!(store.close().await);
}

fn open(dir: &Path) -> (Store, Recovered) {
    let begun = Instant::now();
    let clock = move || Now { mono: Monotonic(begun.elapsed().as_nanos() as u64), wall: UnixNanos(0) };
    Store::open(StoreSettings::new(dir.to_owned(), Arc::new(clock))).unwrap()
}

async fn written(store: &Store, commit: Commit) {
    store.subscribe().wait_for(|durable| *durable >= commit).await.unwrap();
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// CPU and time since an instant.
struct Lap {
    wall: Instant,
    cpu: Duration,
}

impl Lap {
    fn begin() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn print(&self, what: &str, count: u64, unit: &str) {
        let (cpu, wall) = (cpu() - self.cpu, self.wall.elapsed());
        let nanos = cpu.as_nanos() as f64 / count as f64;
        println!(
            "{what}: {nanos:.0} ns of CPU a {unit}, {:.0} {unit}s a second",
            count as f64 / wall.as_secs_f64()
        );
    }
}

/// The CPU of the threads that there are.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanos = threads.map(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
