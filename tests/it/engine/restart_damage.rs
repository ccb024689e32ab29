//! What a restart costs where something of what was written cannot be read, and that the format is what its version says.

use std::sync::Arc;
use std::time::Duration;

use snakepit_otel_bridge::drops::DropReason;
use snakepit_otel_bridge::engine::metrics::settings::MetricSettings;
use snakepit_otel_bridge::engine::sampler::Sampler;
use snakepit_otel_bridge::engine::{Damage, Engine, Input, RestoreError, Settings};
use snakepit_otel_bridge::store::RowKey;
use xxhash_rust::xxh3::xxh3_64;

use super::bench_worker::{Bench, Disk, MS, SECOND, event, start, stop};

fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger().dropped[reason.index()]
}

/// Open, closed and held spans, a waiting end and a waiting event, of one worker.
fn written() -> (Bench, Disk) {
    let mut bench = Bench::new();
    bench.send(&start("closed", 0)).pass(Duration::from_secs(601));
    let at = 601 * SECOND;
    bench.send(&start("open", at).corr("c")).send(&start("other", at + MS).corr("c"));
    bench.send(&start("held", at + 2 * MS).corr("c")).send(&stop("held", at + 2 * MS, MS).corr("c"));
    bench.send(&stop("waiting", at, MS)).send(&event("note", at + MS).corr("c"));
    let disk = bench.checkpoint();
    assert_eq!((bench.ledger().pending, bench.ledger().incomplete, disk.rows.len()), (4, 1, 1 + 2 + 1 + 1));
    (bench, disk)
}

/// By what the rows' keys say: a worker's, open spans', closed spans'.
fn rows_of(disk: &Disk, kind: u8) -> Vec<RowKey> {
    disk.rows.keys().filter(|key| key[0] == 1 && key[9] == kind).cloned().collect()
}

fn damage(disk: &mut Disk, key: &RowKey) {
    let value = disk.rows.get_mut(key).expect("a row");
    let middle = value.len() / 2;
    value[middle] ^= 0x10;
}

#[test]
fn a_damaged_row_of_an_open_span_costs_that_span() {
    let (mut bench, mut disk) = written();
    let before = bench.ledger();
    let key = rows_of(&disk, 1).remove(0);
    damage(&mut disk, &key);
    let found = bench.restart_from(&disk);
    assert_eq!(found, Damage { rows: 1, events: 1, ..Damage::default() });
    let ledger = bench.ledger();
    assert!(ledger.adds_up());
    assert_eq!((ledger.received, ledger.pending), (before.received, before.pending - 1));
    assert_eq!(dropped(&bench, DropReason::Malformed), 1);
    bench.send(&stop("other", 601 * SECOND + MS, 5 * MS).corr("c"));
    assert_eq!(bench.ledger().paired, before.paired + 2, "the other is whole");
    bench.handle(Input::Shutdown);
    bench.pass(Duration::from_secs(7200));
    assert_eq!(bench.ledger().pending, 0);
}

#[test]
fn a_damaged_row_of_a_closed_span_is_forgotten_early() {
    let (mut bench, mut disk) = written();
    let before = bench.ledger();
    let key = rows_of(&disk, 2).remove(0);
    damage(&mut disk, &key);
    assert_eq!(bench.restart_from(&disk), Damage { rows: 1, ..Damage::default() });
    assert_eq!(bench.ledger(), before);
    bench.send(&stop("closed", 0, SECOND));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.ledger().notes.late_ends, 0);
}

#[test]
fn a_damaged_row_of_a_worker_costs_the_worker_and_its_sums_go_on() {
    let (mut bench, mut disk) = written();
    let before = bench.ledger();
    let key = rows_of(&disk, 0).remove(0);
    damage(&mut disk, &key);
    let found = bench.restart_from(&disk);
    assert_eq!(found, Damage { rows: 4, workers: 1, events: 4, held_spans: 1 });
    let ledger = bench.ledger();
    assert!(ledger.adds_up());
    assert_eq!((ledger.received, ledger.pending, ledger.spans_made), (before.received, 0, before.spans_made));
    assert_eq!(dropped(&bench, DropReason::Malformed), 4);
    assert_eq!(bench.engine.residue(), 0);
}

#[test]
fn every_damaged_byte_is_noticed_and_the_sums_add_up() {
    let (mut bench, disk) = written();
    let before = bench.ledger();
    for (key, value) in &disk.rows {
        for at in (0..value.len()).step_by(7) {
            let mut damaged = disk.clone();
            damaged.rows.get_mut(key).expect("a row")[at] ^= 1;
            let found = bench.restart_from(&damaged);
            assert!(found.rows >= 1, "byte {at} of {key:?}");
            let ledger = bench.ledger();
            assert!(ledger.adds_up() && ledger.received == before.received, "{ledger:?}");
        }
        let mut damaged = disk.clone();
        damaged.rows.insert(key.clone(), value[..value.len() / 2].to_vec());
        assert!(bench.restart_from(&damaged).rows >= 1, "half of {key:?}");
    }
}

#[test]
fn rows_that_are_nobodys_are_counted() {
    let (mut bench, mut disk) = written();
    disk.rows.insert(RowKey::from_slice(b"what is this"), b"and this?".to_vec());
    disk.rows.insert(RowKey::new(), Vec::new());
    assert_eq!(bench.restart_from(&disk), Damage { rows: 2, ..Damage::default() });
}

fn restored(head: &[u8]) -> Result<(), RestoreError> {
    let settings = Arc::new(Settings::default());
    Engine::restore(settings, 0, head, std::iter::empty()).map(|_| ())
}

#[test]
fn another_version_is_an_error() {
    let mut head = Bench::new().checkpoint().head;
    assert_eq!(restored(&head), Ok(()));
    head[0] += 1;
    assert_eq!(restored(&head), Err(RestoreError::Version { found: head[0] }));
}

#[test]
fn a_damaged_head_is_an_error() {
    let mut head = Bench::new().checkpoint().head;
    let last = head.len() - 1;
    head[last] ^= 1;
    assert_eq!(restored(&head), Err(RestoreError::Head));
    assert_eq!(restored(&head[..1]), Err(RestoreError::Head));
    assert_eq!(restored(&[]), Err(RestoreError::Head));
}

/// Whoever changes what is written raises the version, and this sum.
#[test]
fn the_format_is_what_its_version_says() {
    let mut measuring = Bench::with(
        |settings| {
            settings.metrics = Some(MetricSettings::default());
            settings.records = true;
            settings.sampler = Some(Sampler::default());
        },
        |_, _| {},
    );
    measuring.send(&event("cache", 0).int("hits", 1)).send(&event("memory.sampled", 0).float("rss", 0.5));
    measuring.send(&event("note", 0).int("tokens", 5).corr("c")).send(&event("retry", 0).corr("c"));
    measuring.measured();
    let (_, disk) = written();
    let everything: Vec<u8> = [&disk, &measuring.checkpoint()]
        .into_iter()
        .flat_map(|disk| disk.rows.iter().flat_map(|(key, value)| key.iter().chain(value)).chain(&disk.head))
        .copied()
        .collect();
    assert_eq!((disk.head[0], xxh3_64(&everything)), (2, 17_251_342_573_314_192_705));
}
