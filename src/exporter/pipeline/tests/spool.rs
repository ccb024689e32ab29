//! With a store: what goes to disk when, and comes back.

use super::model::Rig;
use super::*;
use crate::exporter::queue::READ_AHEAD_BYTES;

/// One span a batch, of some 200 bytes with its resource; memory for some ten.
fn small() -> PipelineSettings {
    PipelineSettings {
        queue: QueueSettings { max_bytes: 4000, max_items: None, max_spool_bytes: 1 << 20, in_order: false },
        ..settings()
    }
}

/// The peer is down.
fn fail(rig: &mut Rig) {
    while let Some(request) = rig.begin() {
        rig.settle(request.id, retry(None));
    }
}

fn all(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("{number:05}")).collect()
}

#[test]
fn what_memory_cannot_hold_goes_to_disk_and_comes_back_in_order() {
    let mut rig = Rig::new(small());
    for _ in 0..500 {
        rig.now += SECOND;
        rig.admit().unwrap();
        rig.commit();
        fail(&mut rig);
        assert!(rig.snapshot().queued_bytes <= 4000);
    }
    let snapshot = rig.snapshot();
    assert!(snapshot.spooled > 480, "{snapshot:?}");
    assert_eq!(snapshot.queued_items + snapshot.spooled, 500);
    rig.now += 3600 * SECOND;
    let delivered = rig.deliver_all();
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.exported, snapshot.queued_items, snapshot.spooled_bytes), (500, 0, 0));
    let late = delivered.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(late <= 2, "oldest first, but for those that were being tried: {late}");
    rig.commit();
    assert!(rig.store.batches.is_empty());
    assert_eq!(rig.store.exported, 500);
}

#[test]
fn nothing_is_sent_before_what_it_was_made_of_is_durable() {
    let mut rig = Rig::new(small());
    rig.admit().unwrap();
    assert_eq!(rig.begin(), None);
    rig.commit();
    assert!(rig.begin().is_some());
}

/// `OTEL_BSP_MAX_QUEUE_SIZE` bounds memory to the letter; what is beyond goes to disk.
#[test]
fn a_bound_of_items_is_obeyed_and_the_rest_is_on_disk() {
    let queue = QueueSettings { max_items: Some(8), ..QueueSettings::default() };
    let mut rig = Rig::new(PipelineSettings { queue, ..settings() });
    for _ in 0..100 {
        rig.admit().unwrap();
        rig.commit();
        assert!(rig.snapshot().queued_items <= 8);
    }
    assert_eq!(rig.snapshot().queued_items + rig.snapshot().spooled, 100);
    rig.now += 60 * SECOND;
    assert_eq!(rig.deliver_all(), all(100));
}

fn with_disk_of(max_spool_bytes: u64) -> PipelineSettings {
    let queue = QueueSettings { max_bytes: 4000, max_items: None, max_spool_bytes, in_order: false };
    PipelineSettings { queue, ..settings() }
}

fn kept(snapshot: &ExportSnapshot) -> usize {
    usize::try_from(snapshot.queued_items + snapshot.spooled).unwrap()
}

/// What is left, by number.
fn delivered_by_number(rig: &mut Rig) -> Vec<String> {
    let mut delivered = rig.deliver_all();
    delivered.sort();
    delivered
}

#[test]
fn a_full_disk_bound_lets_the_oldest_give_way_to_what_is_new() {
    let mut rig = Rig::new(with_disk_of(8000));
    for _ in 0..200 {
        rig.admit().unwrap();
        rig.commit();
        assert!(rig.snapshot().spooled_bytes <= 8000);
    }
    let snapshot = rig.snapshot();
    assert!(snapshot.refused["gave_way"] > 100, "{snapshot:?}");
    assert!(rig.notices.iter().any(|notice| matches!(notice, Notice::GaveWay { .. })));
    assert_eq!(rig.store.refused, snapshot.refused);
    let delivered = delivered_by_number(&mut rig);
    // While it is read, what is new may need room.
    assert!((20..=kept(&snapshot)).contains(&delivered.len()), "{delivered:?}");
    assert_eq!(delivered, all(200)[200 - delivered.len()..], "the newest");
}

/// What memory holds goes to disk at each checkpoint, and is within the bound there too.
#[test]
fn checkpoints_keep_the_bound_of_the_disk() {
    let mut rig = Rig::new(PipelineSettings {
        queue: QueueSettings { max_spool_bytes: 2000, ..QueueSettings::default() },
        ..settings()
    });
    for checkpoints in 1..=5 {
        for _ in 0..20 {
            rig.admit().unwrap();
            rig.commit();
            fail(&mut rig);
        }
        rig.persist(false);
        rig.commit();
        let snapshot = rig.snapshot();
        let on_disk: u64 = rig.store.left().iter().map(|entry| entry.bytes).sum();
        assert_eq!(on_disk, snapshot.spooled_bytes);
        assert!((1500..=2000).contains(&on_disk), "as much as there is room for: {on_disk}");
        let gave_way = checkpoints * 20 - kept(&snapshot) as u64;
        assert_eq!(rig.store.refused, BTreeMap::from([("gave_way", gave_way)]));
    }
    let kept = kept(&rig.snapshot());
    rig.now += 60 * SECOND;
    assert_eq!(delivered_by_number(&mut rig), all(100)[100 - kept..]);
}

/// A request of the usual size would be larger than a small disk's room.
#[test]
fn batches_are_small_where_the_disk_has_little_room() {
    let batch = BatchSettings { max_items: None, ..BatchSettings::default() };
    let queue = QueueSettings { max_spool_bytes: 20_000, ..QueueSettings::default() };
    let mut rig = Rig::new(PipelineSettings { batch, queue, ..settings() });
    for _ in 0..5 {
        (0..20).for_each(|_| rig.admit_long(1000).unwrap());
        rig.persist(false);
        rig.commit();
    }
    let sizes: Vec<_> = rig.store.left().iter().map(|entry| entry.bytes).collect();
    assert!(sizes.iter().all(|bytes| *bytes <= 2500), "{sizes:?}");
    assert!(sizes.iter().sum::<u64>() > 17_500, "the room is used: {sizes:?}");
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.refused.keys().collect::<Vec<_>>(), [&"gave_way"]);
    assert_eq!(kept(&snapshot) as u64 + snapshot.refused["gave_way"], 100);
}

/// It must not cost the others their room, for it has none even so.
#[test]
fn a_batch_larger_than_the_bound_of_the_disk_gives_way_alone() {
    let mut rig = Rig::new(with_disk_of(1500));
    rig.admit().unwrap();
    rig.admit_long(2000).unwrap();
    rig.admit().unwrap();
    rig.persist(false);
    rig.commit();
    assert_eq!(rig.store.refused, BTreeMap::from([("gave_way", 1)]));
    assert_eq!(rig.deliver_all(), ["00000", "00002"]);
}

/// It may have arrived already. When it comes back the bound holds for it too.
#[test]
fn a_request_on_its_way_does_not_give_way_until_it_has_failed() {
    let mut rig = Rig::new(with_disk_of(1500));
    rig.admit_long(2000).unwrap();
    rig.admit().unwrap();
    rig.commit();
    let request = rig.begin().unwrap();
    rig.persist(false);
    rig.commit();
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.spooled_bytes, request.body.len() as u64);
    assert_eq!(snapshot.refused, BTreeMap::from([("gave_way", 1)]));
    rig.settle(request.id, retry(None));
    rig.commit();
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.spooled_bytes, snapshot.queued_items), (0, 0));
    assert_eq!(rig.store.refused, BTreeMap::from([("gave_way", 2)]));
    assert!(rig.store.batches.is_empty());
}

#[test]
fn a_checkpoint_writes_what_is_only_in_memory_once() {
    let mut rig = Rig::new(PipelineSettings { batch: BatchSettings::default(), ..settings() });
    rig.admit().unwrap();
    rig.commit();
    rig.persist(false);
    let flying = rig.begin().unwrap();
    rig.admit().unwrap();
    rig.persist(false);
    rig.persist(false);
    rig.commit();
    assert_eq!(rig.store.batches.len(), 2);
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.queued_items, snapshot.spooled), (2, 0), "they are in memory still");
    rig.settle(flying.id, accepted());
    rig.commit();
    assert_eq!((rig.store.batches.len(), rig.store.exported), (1, 1));
}

#[test]
fn a_shutdown_with_a_store_keeps_what_is_left() {
    let mut rig = Rig::new(PipelineSettings { batch: BatchSettings::default(), ..settings() });
    rig.admit().unwrap();
    rig.commit();
    rig.act(|pipeline, now| pipeline.drain(Monotonic(now.mono.0 + SECOND), now));
    let flying = rig.begin().unwrap();
    assert_eq!(rig.admit(), Ok(()), "a store has room for what comes late");
    rig.now += SECOND;
    assert!(rig.pipeline.is_drained(Monotonic(rig.now)));
    assert_eq!(rig.act(Pipeline::close), 0);
    assert_eq!(rig.admit(), Err(Refusal::Shutdown));
    rig.settle(flying.id, retry(None));
    rig.commit();
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.spooled, snapshot.queued_items), (2, 0));
    assert_eq!(snapshot.refused, BTreeMap::from([("shutdown", 1)]));
    let mut again = Rig::on(rig.crash(), settings(), 0);
    assert_eq!(again.deliver_all().len(), 2);
}

#[test]
fn a_peer_that_is_down_is_not_waited_for_at_the_end() {
    let mut rig = Rig::new(settings());
    (0..3).for_each(|_| rig.admit().unwrap());
    rig.commit();
    rig.act(|pipeline, now| pipeline.drain(Monotonic(now.mono.0 + 100 * SECOND), now));
    for _ in 0..2 {
        rig.now += 1;
        assert!(!rig.pipeline.is_drained(Monotonic(rig.now)));
        let request = rig.begin().unwrap();
        rig.now += 1;
        rig.settle(request.id, retry(None));
    }
    assert!(rig.pipeline.is_drained(Monotonic(rig.now)));
}

#[test]
fn a_damaged_batch_is_refused_and_the_others_arrive() {
    let mut rig = Rig::new(settings());
    (0..3).for_each(|_| rig.admit().unwrap());
    rig.act(Pipeline::close);
    rig.commit();
    let mut store = rig.crash();
    let second = *store.batches.keys().nth(1).unwrap();
    store.batches.get_mut(&second).unwrap().body = Bytes::new();
    let mut rig = Rig::on(store, settings(), 0);
    assert_eq!(rig.snapshot().spooled, 3);
    assert_eq!(rig.deliver_all(), ["00000", "00002"]);
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.made, snapshot.exported), (3, 2));
    assert_eq!(snapshot.refused, BTreeMap::from([("spool_damaged", 1)]));
    assert_eq!(rig.notices, [Notice::SpoolDamaged { items: 1 }]);
    rig.commit();
    assert_eq!((rig.store.batches.len(), rig.store.exported), (0, 2));
}

#[test]
fn a_store_that_breaks_loses_nothing_that_memory_holds() {
    let mut rig = Rig::new(small());
    (0..8).for_each(|_| rig.admit().unwrap());
    let before = rig.snapshot().queued_items;
    // What was written since never comes to be durable.
    rig.store.works = false;
    rig.store.lose();
    rig.tell();
    assert_eq!(rig.snapshot().queued_items, before);
    let mut refused = 0;
    for _ in 0..40 {
        refused += u64::from(rig.admit() == Err(Refusal::QueueFull));
    }
    assert!(refused > 10, "the bound of memory is all there is");
    assert_eq!(rig.deliver_all().len() as u64, 48 - refused);

    rig.store.works = true;
    rig.tell();
    rig.admit().unwrap();
    rig.persist(false);
    rig.commit();
    assert_eq!(rig.store.batches.len(), 1);
}

/// A store may have dropped what it was given, and say so only when it asks for everything.
#[test]
fn a_checkpoint_afresh_writes_again_what_is_not_known_to_be_durable() {
    let mut rig = Rig::new(small());
    (0..8).for_each(|_| rig.admit().unwrap());
    rig.persist(false);
    rig.store.lose();
    rig.persist(true);
    rig.commit();
    assert_eq!(rig.store.batches.len(), 8);
    rig.persist(true);
    rig.commit();
    assert_eq!(rig.store.batches.len(), 8, "what is durable is not written again");
    assert_eq!(rig.deliver_all().len(), 8);
    rig.commit();
    assert!(rig.store.batches.is_empty());
}

#[test]
fn what_is_on_disk_does_not_give_way_for_room_in_memory() {
    let mut rig = Rig::new(small());
    for _ in 0..100 {
        rig.admit().unwrap();
        rig.commit();
    }
    let spooled = rig.snapshot().spooled;
    rig.store.works = false;
    rig.tell();
    rig.now = 601 * SECOND;
    for _ in 0..100 {
        // Refused or not: it is counted.
        let _ = rig.admit();
    }
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.spooled, spooled);
    assert!(snapshot.refused["gave_way"] > 0 && snapshot.refused["queue_full"] > 0, "{snapshot:?}");
}

#[test]
fn earlier_runs_sums_go_on() {
    let mut pipeline = pipeline(settings());
    let sums = SignalSums {
        exported: 5,
        refused: [("sampled_out", 4), ("gave_way", 3), ("rejected:413", 2), ("of_old", 1)]
            .map(|(reason, items)| (reason.to_owned(), items))
            .into(),
    };
    pipeline.recover(Vec::new(), &sums, at(0));
    pipeline.sampled_out(None);
    let snapshot = snapshot(&pipeline);
    assert_eq!((snapshot.made, snapshot.exported, snapshot.sampled_out), (16, 5, 5));
    let refused = BTreeMap::from([("gave_way", 3), ("rejected:413", 2), ("earlier_version", 1)]);
    assert_eq!(snapshot.refused, refused);
}

#[test]
fn fates_in_a_row_are_written_as_one() {
    let mut rig = Rig::new(settings());
    for ordinal in [0, 1, 2, 5, 6] {
        rig.pipeline.sampled_out(Some((0, ordinal)));
    }
    let settled: Vec<_> = rig.pipeline.take_ops().into_iter().map(|op| format!("{op:?}")).collect();
    assert_eq!(settled.len(), 2);
    assert!(
        settled[0].contains("ordinals: 0..3") && settled[0].contains("(\"sampled_out\", 3)"),
        "{settled:?}"
    );
    assert!(settled[1].contains("ordinals: 5..7"), "{settled:?}");
}

#[test]
fn what_an_earlier_run_left_is_as_old_as_it_is_and_is_tried_once_all_the_same() {
    let mut rig = Rig::new(settings());
    rig.admit().unwrap();
    rig.act(Pipeline::close);
    rig.commit();
    let store = rig.crash();
    let pipeline = pipeline(settings());
    let mut again = Rig { pipeline, store, ..rig };
    again.pipeline.set_store(again.store.names());
    let week = 7 * 24 * 3600 * SECOND;
    let now = Now { mono: Monotonic(5), wall: UnixNanos(week.cast_signed()) };
    again.pipeline.recover(again.store.left(), &again.store.sums(), now);
    again.now = 5;
    assert_eq!(again.begin(), None);
    again.load();
    let request = again.begin().expect("a clock that was set wrong costs nothing by itself");
    again.settle(request.id, Outcome::Retry { delay: None, error: "away".to_owned() });
    assert_eq!(again.begin(), None);
    assert_eq!(again.snapshot().refused, BTreeMap::from([("retry_expired", 1)]));
}

/// Reading ahead is bounded, and what is read does not push out what is new.
#[test]
fn a_backlog_on_disk_is_read_as_it_is_sent() {
    let mut rig = Rig::new(settings());
    let big = "b".repeat(1 << 20);
    for ordinal in 0..40 {
        let provenance = Provenance { origin: Some((0, ordinal)), needs: Commit(0) };
        let span = encoded(&big);
        rig.act(|pipeline, now| pipeline.admit(&source(1), &span, 1, provenance, now)).unwrap();
        rig.commit();
    }
    rig.act(Pipeline::close);
    rig.commit();
    let store = rig.crash();
    let mut rig = Rig::on(store, settings(), 0);
    rig.load();
    let snapshot = rig.snapshot();
    assert!(snapshot.queued_bytes <= READ_AHEAD_BYTES as u64 && snapshot.queued_items == 7, "{snapshot:?}");
    assert_eq!(rig.deliver_all().len(), 40);
}

fn small_and_in_order() -> PipelineSettings {
    PipelineSettings { queue: QueueSettings { max_bytes: 8000, in_order: true, ..small().queue }, ..small() }
}

/// Where order counts, an outage that outgrows memory holds nothing up for ever.
#[test]
fn a_long_outage_is_delivered_in_order() {
    let mut rig = Rig::new(small_and_in_order());
    for _ in 0..500 {
        rig.now += SECOND;
        rig.admit().unwrap();
        rig.commit();
        rig.load();
        fail(&mut rig);
    }
    rig.now += 3600 * SECOND;
    assert_eq!(rig.deliver_all().len(), 500);
}

/// What is only on disk, and first, is for the next run: the end is not waited for in vain.
#[test]
fn a_drain_does_not_wait_for_what_stays_on_disk() {
    let settings = small_and_in_order();
    let mut rig = Rig::new(settings.clone());
    for _ in 0..100 {
        rig.now += SECOND;
        rig.admit().unwrap();
        rig.commit();
        fail(&mut rig);
    }
    rig.act(|pipeline, now| pipeline.persist_all(false, now));
    rig.commit();
    let store = std::mem::take(&mut rig.store);
    let mut rig = Rig::on(store, settings, rig.now + SECOND);
    rig.admit().unwrap();
    rig.commit();
    let deadline = Monotonic(rig.now + 30 * SECOND);
    rig.act(|pipeline, now| pipeline.drain(deadline, now));
    rig.commit();
    assert!(rig.begin().is_some() || rig.pipeline.is_drained(Monotonic(rig.now)));
}
