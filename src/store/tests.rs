//! The store on real files.

mod faults;
mod kill;
mod model;
mod roundtrip;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;

use super::*;
use crate::exporter::signal::Signal;
use crate::time::UnixNanos;

/// No metrics and no records yet.
const fn spans(spans: u64) -> Ordinals {
    Ordinals { spans, metrics: 0, records: 0 }
}

/// What is tried again in tests, soon.
const SOON: Duration = Duration::from_millis(50);

fn settings(dir: &Path) -> StoreSettings {
    let mut settings = StoreSettings::new(dir.to_owned(), Arc::new(crate::app::start_clock()));
    settings.retry_interval = SOON;
    settings
}

fn open(dir: &Path) -> (Store, Recovered) {
    Store::open(settings(dir)).unwrap()
}

/// What a directory holds.
async fn held(dir: &Path) -> Recovered {
    let (store, recovered) = open(dir);
    assert!(store.close().await);
    recovered
}

async fn written(store: &Store, commit: Commit) {
    store.subscribe().wait_for(|durable| *durable >= commit).await.unwrap();
}

async fn state(store: &Store, wanted: impl Fn(&StoreState) -> bool) {
    let mut durable = store.subscribe();
    while !wanted(&store.figures().state) {
        // A change of the state that changes nothing for those who wait is not told, hence the time-out.
        let _ = tokio::time::timeout(SOON, durable.changed()).await;
    }
}

fn journal(shard: u16, records: &str) -> Op {
    Op::Journal { shard, records: Bytes::copy_from_slice(records.as_bytes()) }
}

fn spool(id: u64, body: &[u8], shard: u16, ordinals: std::ops::Range<u64>) -> Op {
    spool_of(Signal::Traces, id, body, shard, ordinals)
}

fn spool_of(signal: Signal, id: u64, body: &[u8], shard: u16, ordinals: std::ops::Range<u64>) -> Op {
    Op::Spool {
        id: SpoolId(id),
        signal,
        items: ordinals.end - ordinals.start,
        body: Bytes::copy_from_slice(body),
        filled_at: UnixNanos(1_700_000_000_000_000_000 + id.cast_signed()),
        origins: smallvec![Origin { shard, ordinals }],
    }
}

fn settled(id: Option<u64>, shard: u16, ordinals: std::ops::Range<u64>) -> Op {
    settled_of(Signal::Traces, id, shard, ordinals)
}

fn settled_of(signal: Signal, id: Option<u64>, shard: u16, ordinals: std::ops::Range<u64>) -> Op {
    Op::Settled {
        signal,
        spool: id.map(SpoolId),
        exported: ordinals.end - ordinals.start,
        origins: smallvec![Origin { shard, ordinals }],
        refused: smallvec![],
    }
}

fn checkpoint(shard: u16, next: Ordinals, rows: &[(&str, &str)]) -> Op {
    let puts = rows.iter().map(|(key, value)| (row_key(key), value.as_bytes().to_vec())).collect();
    let head = format!("head of {shard} at {}", next.spans).into_bytes();
    Op::Checkpoint { shard, state: ShardCheckpoint { next, head, puts, ..ShardCheckpoint::default() } }
}

fn row_key(key: &str) -> RowKey {
    RowKey::from_slice(key.as_bytes())
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
