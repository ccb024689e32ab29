//! What is pushed is there after a start, and how a start is refused.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn a_new_directory_holds_nothing_and_is_private() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let (store, recovered) = open(&dir);
    assert_eq!(recovered, Recovered::default());
    assert_eq!(store.next_spool_id(), SpoolId(0));
    assert_eq!(store.durable(), Commit(0));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    files.iter().for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
    assert!(store.close().await);
    assert_eq!(store.figures().commits, 0);
}

#[tokio::test]
async fn what_is_pushed_is_there_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let first = store.next_spool_id();
    let commit = store.push(vec![
        journal(0, "before the checkpoint"),
        settled(None, 0, 0..3),
        checkpoint(0, spans(2), &[("b", "2"), ("a", "1")]),
        journal(0, "after it"),
        journal(7, "of another shard"),
        spool(first.0, b"body", 0, 3..5),
        settled(None, 0, 6..7),
        settled(None, 0, 7..9),
    ]);
    written(&store, commit).await;
    assert!(store.holds(first));
    let figures = store.figures();
    assert_eq!(figures.state, StoreState::Durable);
    assert_eq!((figures.commits, figures.failures, figures.dropped_ops, figures.damaged), (1, 0, 0, 0));
    assert_eq!(figures.journal_bytes, ("after it".len() + "of another shard".len()) as u64);
    let of_traces =
        SpoolFigures { batches: 1, items: 2, bytes: 4, oldest: Some(UnixNanos(1_700_000_000_000_000_000)) };
    assert_eq!(figures.spool, [of_traces, SpoolFigures::default(), SpoolFigures::default()]);
    assert!(figures.disk_bytes > 0);
    assert!(store.close().await);
    assert_eq!(store.durable(), Commit(u64::MAX));
    assert_eq!(store.figures().state, StoreState::Closed);
    drop(store);

    let (store, recovered) = open(dir.path());
    let shard = |shard, next, head: Option<&str>, rows: &[(&str, &str)], journal: &str| RecoveredShard {
        shard,
        next: spans(next),
        head: head.map(|head| head.as_bytes().to_vec()),
        rows: rows.iter().map(|(key, value)| (row_key(key), value.as_bytes().to_vec())).collect(),
        journal: vec![Bytes::copy_from_slice(journal.as_bytes())],
    };
    assert_eq!(
        recovered,
        Recovered {
            shards: vec![
                shard(0, 2, Some("head of 0 at 2"), &[("a", "1"), ("b", "2")], "after it"),
                shard(7, 0, None, &[], "of another shard"),
            ],
            spool: vec![SpoolEntry {
                id: first,
                signal: Signal::Traces,
                items: 2,
                bytes: 4,
                filled_at: UnixNanos(1_700_000_000_000_000_000),
                origins: smallvec![Origin { shard: 0, ordinals: 3..5 }],
            }],
            settled: [2..3, 6..9].map(|ordinals| (Signal::Traces, Origin { shard: 0, ordinals })).into(),
            sums: [(Signal::Traces, SignalSums { exported: 6, ..SignalSums::default() })].into(),
            ..Recovered::default()
        }
    );
    assert!(store.holds(first));
    assert_eq!(store.load(vec![first]).await, [(first, Some(Bytes::from_static(b"body")))]);
    assert_eq!(store.next_spool_id(), SpoolId(1));
}

/// The same ordinal is another output in each signal: what is settled of one, and where its checkpoint stands, says nothing of
/// the others.
#[tokio::test]
async fn signals_are_counted_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let next = Ordinals { spans: 4, metrics: 2, records: 0 };
    store.push(vec![checkpoint(0, next, &[])]);
    store.push(Signal::ALL.map(|signal| settled_of(signal, None, 0, 1..6)).into());
    store.push(vec![spool_of(Signal::Logs, 7, b"records", 0, 8..9)]);
    assert!(store.close().await);

    let recovered = held(dir.path()).await;

    assert_eq!(recovered.shards[0].next, next);
    let of = |signal, ordinals| (signal, Origin { shard: 0, ordinals });
    let settled = [of(Signal::Traces, 4..6), of(Signal::Metrics, 2..6), of(Signal::Logs, 1..6)];
    assert_eq!(recovered.settled, settled);
    let known: Vec<_> = recovered.known_origins().map(|(signal, origin)| (signal, origin.clone())).collect();
    assert_eq!(known.len(), 4);
    assert!(known.contains(&of(Signal::Logs, 8..9)));
}

#[tokio::test]
async fn a_name_of_a_batch_is_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.push(vec![spool(4, b"x", 0, 0..1)]);
    store.push(vec![settled(Some(4), 0, 0..1)]);
    assert!(store.close().await);
    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.spool, []);
    assert_eq!(store.next_spool_id(), SpoolId(5));
}

#[tokio::test]
async fn a_load_is_bounded_and_finds_what_is_not_written_yet() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let body = vec![7; MAX_LOAD_BYTES / 2];
    store.push((0..4).map(|id| spool(id, &body, 0, id..id + 1)).collect());
    let ids: Vec<_> = [9, 0, 1, 2, 3].map(SpoolId).to_vec();
    let loaded = store.load(ids).await;
    let sizes: Vec<_> = loaded.iter().map(|(id, body)| (id.0, body.as_ref().map(Bytes::len))).collect();
    assert_eq!(sizes, [(9, None), (0, Some(body.len())), (1, Some(body.len()))]);
}

#[tokio::test]
async fn what_is_pushed_after_the_end_is_dropped_and_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    assert!(store.close().await);
    let commit = store.push(vec![journal(0, "late")]);
    written(&store, commit).await;
    assert_eq!(store.figures().dropped_ops, 1);
    assert_eq!(store.load(vec![SpoolId(0)]).await, []);
    drop(store);
    assert_eq!(held(dir.path()).await, Recovered::default());
}

#[tokio::test]
async fn the_last_handle_closes_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut ended = store.0.0.ended.subscribe();
    drop(store.clone());
    store.push(vec![journal(0, "x")]);
    drop(store);
    ended.wait_for(|ended| *ended).await.unwrap();
    assert_eq!(held(dir.path()).await.shards.len(), 1);
}

/// Space of deleted batches is used again: an outage a hundred times over needs no more than one.
#[tokio::test]
async fn the_file_does_not_grow_with_what_passed_through() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let body = vec![3; 150_000];
    let mut sizes = Vec::new();
    for round in 0..10 {
        let ids = round * 40..(round + 1) * 40;
        store.push(ids.clone().map(|id| spool(id, &body, 0, id..id + 1)).collect());
        let commit = store.push(ids.map(|id| settled(Some(id), 0, id..id + 1)).collect());
        written(&store, commit).await;
        store.push(vec![spool(10_000 + round, &body, 0, 0..1)]);
        let commit = store.push(vec![checkpoint(0, spans((round + 1) * 40), &[])]);
        written(&store, commit).await;
        sizes.push(fs::metadata(dir.path().join("state.db")).unwrap().len());
    }
    // Ten batches stayed; two more, and the pages that the log had not yet passed on, are room enough.
    let grown = sizes[9].saturating_sub(sizes[2].max(40 * 150_000));
    assert!(grown < 20 * 150_000, "{sizes:?}");
}

/// The room that an outage took is given back by the next start, once little is left.
#[tokio::test]
async fn a_start_makes_an_empty_file_small() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let body = vec![3; 1_000_000];
    let batches = (0..70).map(|id| spool(id, &body, 0, id..id + 1));
    let commit = store.push(batches.chain((1..70).map(|id| settled(Some(id), 0, id..id + 1))).collect());
    written(&store, commit).await;
    assert!(store.close().await);
    let length = || fs::metadata(dir.path().join("state.db")).unwrap().len();
    assert!(length() > 64 * 1024 * 1024);
    let recovered = held(dir.path()).await;
    assert!(length() < 3_000_000, "{}", length());
    let (store, again) = open(dir.path());
    assert_eq!(again, recovered);
    assert_eq!(store.load(vec![SpoolId(0)]).await, [(SpoolId(0), Some(Bytes::from(body)))]);
}

#[tokio::test]
async fn a_second_bridge_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let error = Store::open(settings(dir.path())).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "another bridge is using the state directory {}; stop it, or give this one a state directory of its own",
            dir.path().display()
        )
    );
    assert!(store.close().await);
    held(dir.path()).await;
}

#[test]
fn a_directory_that_cannot_be_used_is_named_with_the_reason() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let missing = parent.path().join("missing/state");
    for (dir, reason) in [
        (&file, "Not a directory (os error 20)"),
        (&missing, "No such file or directory (os error 2)"),
        (&PathBuf::from("/proc/state"), "No such file or directory (os error 2)"),
    ] {
        let error = Store::open(settings(dir)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot use the state directory {}: ", dir.display())), "{error}");
        assert!(error.ends_with(reason), "{error}");
    }
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    held(dir.path()).await;
    fs::set_permissions(dir.path().join("state.db"), fs::Permissions::from_mode(0o400)).unwrap();
    if fs::OpenOptions::new().write(true).open(dir.path().join("state.db")).is_ok() {
        eprintln!("SKIPPED: this user may write everything, so that modes cannot be tested");
        return;
    }
    let error = Store::open(settings(dir.path())).unwrap_err().to_string();
    assert!(error.contains("state.db: Permission denied"), "{error}");
}

#[tokio::test]
async fn another_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    held(dir.path()).await;
    for (sql, found) in [
        ("PRAGMA user_version = 1; UPDATE meta SET value = 1 WHERE key = 'format'", 1),
        // A format that is nothing like this one.
        ("DROP TABLE meta; PRAGMA user_version = 99", 99),
    ] {
        rusqlite::Connection::open(dir.path().join("state.db")).unwrap().execute_batch(sql).unwrap();
        let before = fs::read(dir.path().join("state.db")).unwrap();
        let error = Store::open(settings(dir.path())).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the state directory {} was written in format {found}, and this bridge reads format 2 only; let the \
                 bridge that wrote it deliver what it holds, or move the directory away to begin a new one (what it \
                 holds is not sent then)",
                dir.path().display()
            )
        );
        assert_eq!(fs::read(dir.path().join("state.db")).unwrap(), before);
    }
}
