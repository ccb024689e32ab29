//! Flipped bits, no room, a disk that cannot keep up.

use std::process::Command;

use super::kill::{model, push, pushes_in};
use super::*;

/// A simple sequence of numbers that look random; the same in every run.
fn numbers() -> impl FnMut(u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    }
}

fn flip(path: &Path, at: u64, bit: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// A bit that flipped anywhere in the file costs what it is in, is counted, and nothing that is wrong is handed out;
/// the store goes on.
#[tokio::test]
async fn a_flipped_bit_costs_only_what_it_is_in() {
    const PUSHES: u64 = 150;
    let parent = tempfile::tempdir().unwrap();
    let whole = parent.path().join("whole");
    let (store, _) = open(&whole);
    for number in 0..PUSHES {
        let mut ops = push(number);
        // Much stays: batches above all, of which a push settles that of five pushes before.
        if let Op::Settled { spool, .. } = &mut ops[0]
            && number % 4 != 0
        {
            *spool = None;
        }
        store.push(ops);
    }
    assert!(store.close().await);
    let whole_state = held(&whole).await;
    let length = fs::metadata(whole.join("state.db")).unwrap().len();
    let mut number = numbers();
    let (mut costs, mut salvages) = (0, 0);
    for round in 0..50 {
        let dir = parent.path().join(format!("{round}"));
        copy_dir(&whole, &dir);
        // Everywhere, and the heads of pages, where the structure is, more than their share.
        let at = if round % 2 == 0 { number(length) } else { number(length / 4096) * 4096 + number(100) };
        flip(&dir.join("state.db"), at, number(8));
        let (store, recovered) = match Store::open(settings(&dir)) {
            Ok(opened) => opened,
            Err(error) => panic!("a bit at {at}: {error}"),
        };
        let lost = count_lost(&recovered, &whole_state);
        let mut lost_bodies = 0;
        let mut ids: Vec<_> = recovered.spool.iter().map(|entry| entry.id).collect();
        while !ids.is_empty() {
            for (id, body) in store.load(ids.clone()).await {
                let expected = vec![id.0 as u8; (id.0 * 7919 % 200_000) as usize];
                lost_bodies += u64::from(body.is_none());
                assert!(body.is_none_or(|body| body == expected), "a bit at {at}: a wrong body");
                ids.retain(|other| *other != id);
            }
        }
        let is_salvage = recovered.set_aside.is_some();
        salvages += u64::from(is_salvage);
        costs += u64::from(lost + lost_bodies > 0);
        assert_eq!(
            store.figures().damaged > 0,
            lost + lost_bodies > 0 || is_salvage,
            "a bit at {at}: {recovered:?}"
        );
        assert!(
            lost_bodies <= 1 && (lost <= 2 || is_salvage),
            "a bit at {at}: {lost} and {lost_bodies} bodies lost"
        );
        // Everything can be settled, the damaged batch too, and counts go on from what was known.
        let settle = |entry: &SpoolEntry| settled(Some(entry.id.0), 0, 0..1);
        store.push(recovered.spool.iter().map(settle).collect());
        store.push(vec![Op::ForgetShards, checkpoint(0, spans(9), &[("a", "b")])]);
        assert!(store.close().await, "a bit at {at}");
        let after = held(&dir).await;
        assert_eq!(after.spool, [], "a bit at {at}");
        assert_eq!(after.damaged, Damaged::default(), "a bit at {at}");
        assert_eq!(after.shards.len(), 1, "a bit at {at}");
    }
    // Otherwise the flips have missed what they were meant for.
    assert!(costs > 20, "{costs} flips cost something, {salvages} made a new database");
}

/// Damage that shows only when a batch is deleted: the rest moves to a new database while the program runs.
#[tokio::test]
async fn a_database_that_turns_out_damaged_is_replaced_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.push(vec![journal(1, "kept"), spool(0, &[1; 100_000], 0, 0..1)]);
    store.push(vec![spool(1, &vec![2; 4_000_000], 0, 1..2), spool(2, b"kept", 0, 2..3)]);
    assert!(store.close().await);
    // In the midst of the large body: the number of the page that goes on with it.
    let path = dir.path().join("state.db");
    let mut bytes = fs::read(&path).unwrap();
    let page = database::PAGE_BYTES as usize;
    let at = bytes.len() / 2 / page * page;
    bytes[at..at + 4].fill(0xff);
    fs::write(&path, bytes).unwrap();

    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.spool.len(), 3);
    assert_eq!(store.load(vec![SpoolId(1)]).await, [(SpoolId(1), None)]);
    let commit = store.push(vec![settled(Some(1), 0, 1..2), journal(1, "new")]);
    written(&store, commit).await;
    let figures = store.figures();
    assert_eq!((figures.state, figures.failures, figures.damaged), (StoreState::Durable, 0, 2));
    assert!(dir.path().join("state.db.damaged-1").exists());
    assert_eq!(store.load(vec![SpoolId(2)]).await, [(SpoolId(2), Some(Bytes::from_static(b"kept")))]);
    assert!(store.close().await);
    let recovered = held(dir.path()).await;
    assert_eq!(recovered.spool.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(recovered.shards[0].journal, [Bytes::from_static(b"kept"), Bytes::from_static(b"new")]);
    assert_eq!(recovered.set_aside, None);
}

/// How much of `whole` is not in `recovered`. Panics if anything is there that is not in `whole`.
fn count_lost(recovered: &Recovered, whole: &Recovered) -> u64 {
    let mut lost = whole.spool.len() - recovered.spool.len();
    for entry in &recovered.spool {
        assert!(
            whole.spool.contains(&SpoolEntry { origins: entry.origins.clone(), ..entry.clone() })
                || entry.origins.is_empty()
        );
    }
    lost += whole.settled.len() - recovered.settled.len();
    recovered.settled.iter().for_each(|origin| assert!(whole.settled.contains(origin)));
    for shard in &whole.shards {
        let Some(found) = recovered.shards.iter().find(|found| found.shard == shard.shard) else {
            lost += 1;
            continue;
        };
        lost += usize::from(found.head != shard.head);
        assert!(found.head.is_none() || found.head == shard.head);
        lost += shard.rows.len() - found.rows.len();
        found.rows.iter().for_each(|row| assert!(shard.rows.contains(row)));
        lost += shard.journal.len() - found.journal.len();
        found.journal.iter().for_each(|records| assert!(shard.journal.contains(records)));
    }
    let sums =
        |recovered: &Recovered| recovered.sums.values().map(|sums| 1 + sums.refused.len()).sum::<usize>();
    (lost + sums(whole) - sums(recovered)) as u64
}

/// A bit that flipped in the log costs the commits from there on, and leaves those before whole.
#[tokio::test]
async fn a_flipped_bit_in_the_log_leaves_a_prefix() {
    const PUSHES: u64 = 40;
    let parent = tempfile::tempdir().unwrap();
    let live = parent.path().join("live");
    let (store, _) = open(&live);
    let mut number = numbers();
    for push_number in 0..PUSHES {
        let commit = store.push(push(push_number));
        if push_number % 4 == 3 {
            written(&store, commit).await;
        }
    }
    let mut prefixes = std::collections::BTreeSet::new();
    for round in 0..20 {
        let dir = parent.path().join(format!("{round}"));
        copy_dir(&live, &dir);
        let log = dir.join("state.db-wal");
        let length = fs::metadata(&log).unwrap().len();
        flip(&log, number(length), number(8));
        let recovered = held(&dir).await;
        let pushes = pushes_in(&recovered);
        prefixes.insert(pushes);
        assert_eq!(recovered, model(pushes).recovered());
    }
    assert!(prefixes.len() > 2, "{prefixes:?}");
    assert!(store.close().await);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_at_all_is_kept_and_a_new_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    for number in 1..3 {
        let garbage = format!("garbage {number} ").repeat(10_000);
        fs::write(&path, &garbage).unwrap();
        let (store, recovered) = open(dir.path());
        let aside = dir.path().join(format!("state.db.damaged-{number}"));
        assert_eq!(recovered, Recovered { set_aside: Some(aside.clone()), ..Recovered::default() });
        assert_eq!(fs::read_to_string(aside).unwrap(), garbage);
        assert_eq!(store.figures().damaged, 1);
        store.push(vec![journal(0, "x")]);
        assert!(store.close().await);
        assert_eq!(held(dir.path()).await.shards.len(), 1);
    }
}

#[tokio::test]
async fn more_than_may_wait_is_dropped_until_a_full_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.max_pending_bytes = 100;
    let (store, _) = Store::open(settings).unwrap();
    let commit = store.push(vec![spool(0, b"on disk", 0, 0..1), spool(1, b"on disk", 0, 1..2)]);
    assert_eq!(store.durable(), Commit(0));
    // Within the delay of the first, which is more than may wait.
    store.push(vec![journal(0, "dropped"), spool(2, b"dropped", 0, 2..3), settled(Some(0), 0, 0..1)]);
    assert_eq!(store.durable(), Commit(u64::MAX));
    assert_eq!(store.figures().state, StoreState::Behind);
    assert_eq!(store.figures().dropped_ops, 2);
    assert!(!store.needs_full_checkpoint());
    written(&store, commit).await;
    store.full_checkpoint_wanted().wait_for(|wanted| *wanted).await.unwrap();
    assert_eq!(
        (store.holds(SpoolId(0)), store.holds(SpoolId(1)), store.holds(SpoolId(2))),
        (false, true, false)
    );

    // Only the whole state is of use now.
    store.push(vec![journal(0, "dropped too")]);
    assert_eq!(store.durable(), Commit(u64::MAX));
    let commit = store.push(vec![
        Op::ForgetShards,
        checkpoint(0, spans(5), &[("a", "b")]),
        spool(1, b"is there already", 0, 1..2),
        spool(2, b"was dropped", 0, 2..3),
    ]);
    assert!(!store.needs_full_checkpoint());
    store.subscribe().wait_for(|durable| *durable == commit).await.unwrap();
    assert_eq!(store.figures().state, StoreState::Durable);
    let commit = store.push(vec![journal(0, "after")]);
    written(&store, commit).await;
    assert_eq!(store.durable(), commit);
    let bodies = store.load(vec![SpoolId(0), SpoolId(1), SpoolId(2)]).await;
    let bodies: Vec<_> = bodies.into_iter().map(|(_, body)| body).collect();
    assert_eq!(
        bodies,
        [None, Some(Bytes::from_static(b"on disk")), Some(Bytes::from_static(b"was dropped"))]
    );
    assert!(store.close().await);

    let recovered = held(dir.path()).await;
    assert_eq!(recovered.shards.len(), 1);
    assert_eq!(recovered.shards[0].next, spans(5));
    assert_eq!(recovered.shards[0].journal, [Bytes::from_static(b"after")]);
    assert_eq!(recovered.spool.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [1, 2]);
    // The fate of the first was known in the gap, and is not forgotten.
    assert_eq!(recovered.sums[&Signal::Traces].exported, 1);
}

/// The disk of a file system of its own, which is full for a while.
#[tokio::test]
async fn a_full_disk_stops_nobody_and_loses_nothing_that_was_committed() {
    let parent = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(&parent.path().join("disk"), "16m") else {
        eprintln!("SKIPPED: this user may not mount a file system of 16 MiB to fill");
        return;
    };
    let dir = disk.0.join("state");
    let mut settings = settings(&dir);
    settings.max_pending_bytes = 4 * 1024 * 1024;
    let (store, _) = Store::open(settings).unwrap();
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; 6 * 1024 * 1024]).unwrap();
    let body = vec![7; 500_000];
    let mut id = 0;
    while store.durable() != Commit(u64::MAX) {
        let commit = store.push(vec![spool(id, &body, 0, id..id + 1)]);
        written(&store, commit).await;
        id += 1;
    }
    let failed_at = id - 1;
    assert!(failed_at > 3);
    assert!(matches!(store.figures().state, StoreState::Failing { error } if error.contains("full")));
    assert!(store.holds(SpoolId(0)) && !store.holds(SpoolId(failed_at)));
    // What is there can be read, and what waits too.
    assert_eq!(
        store.load(vec![SpoolId(failed_at)]).await,
        [(SpoolId(failed_at), Some(Bytes::from(body.clone())))]
    );
    assert_eq!(store.load(vec![SpoolId(0)]).await.len(), 1);
    // Little more waits, so that all is made good once there is room.
    store.push(vec![journal(0, "while the disk is full")]);
    fs::remove_file(&ballast).unwrap();
    state(&store, |state| *state == StoreState::Durable).await;
    assert!(store.holds(SpoolId(failed_at)));
    assert!(!store.needs_full_checkpoint());

    // Full again, and for longer than what may wait.
    fs::write(&ballast, vec![1; 16 * 1024 * 1024]).unwrap_err();
    while !matches!(store.figures().state, StoreState::Failing { .. }) || store.figures().dropped_ops == 0 {
        id += 1;
        store.push(vec![spool(id, &body, 0, id..id + 1)]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::remove_file(&ballast).unwrap();
    store.full_checkpoint_wanted().wait_for(|wanted| *wanted).await.unwrap();
    store.push(vec![Op::ForgetShards, checkpoint(0, spans(77), &[])]);
    state(&store, |state| *state == StoreState::Durable).await;
    assert!(store.figures().failures > 0);
    assert!(store.close().await);
    let recovered = held(&dir).await;
    let ids: Vec<_> = recovered.spool.iter().map(|entry| entry.id.0).collect();
    assert!(ids.starts_with(&(0..=failed_at).collect::<Vec<_>>()), "{ids:?}");
    assert_eq!((recovered.shards.len(), recovered.shards[0].next), (1, spans(77)));
    assert_eq!(recovered.damaged, Damaged::default());

    // A start needs no room.
    fs::write(&ballast, vec![1; 16 * 1024 * 1024]).unwrap_err();
    assert_eq!(held(&dir).await, recovered);
}

/// A file system in memory, unmounted when it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, so that a test that failed with files open leaves nothing behind.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.unwrap().success());
    }
}
