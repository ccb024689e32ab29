//! A day without the peer, in virtual time.

use super::model::Rig;
use super::*;
use crate::exporter::encode::write_bytes;
use crate::exporter::queue::LIVE_FOR;

const ITEMS_A_BATCH: u64 = 5000;
const BATCH_EVERY: u64 = 5 * SECOND;
const DAY: u64 = 24 * 3600 * SECOND;
/// What a batch takes that has nothing in it but its number: 1,000 spans a second are 17,280 batches a day, and their bytes
/// do not matter.
const BATCH_BYTES: usize = 600;

fn day_settings(max_spool_bytes: u64) -> PipelineSettings {
    PipelineSettings {
        batch: BatchSettings { max_items: Some(ITEMS_A_BATCH), ..BatchSettings::default() },
        queue: QueueSettings {
            max_bytes: 100 * BATCH_BYTES,
            max_items: None,
            max_spool_bytes,
            in_order: false,
        },
        max_in_flight: 4,
        ..settings()
    }
}

/// An element whose last bytes say when it was made: a `schema_url` of its scope.
fn made_at(now: u64) -> Vec<u8> {
    let around = Batcher::new(BatchSettings::default(), ResourceSettings::default()).cost(&source(1), 0);
    let mut element = Vec::new();
    write_bytes(&mut element, 0x1a, &vec![b'x'; BATCH_BYTES - around - 3]);
    let number_at = element.len() - 8;
    element[number_at..].copy_from_slice(&now.to_be_bytes());
    element
}

fn when(body: &Bytes) -> u64 {
    u64::from_be_bytes(body[body.len() - 8..].try_into().unwrap())
}

fn admit(rig: &mut Rig) {
    let element = made_at(rig.now);
    // Refused or not: it is counted.
    let _ = rig
        .act(|pipeline, now| pipeline.admit(&source(1), &element, ITEMS_A_BATCH, Provenance::default(), now));
    rig.commit();
}

/// A day of spans, with a peer that answers nothing.
fn outage(rig: &mut Rig) -> u64 {
    let mut probes = 0;
    while rig.now < DAY {
        admit(rig);
        while let Some(request) = rig.begin() {
            probes += 1;
            rig.settle(request.id, retry(None));
        }
        rig.load();
        assert!(rig.snapshot().queued_bytes <= 100 * BATCH_BYTES as u64);
        rig.now += BATCH_EVERY;
    }
    probes
}

#[test]
fn a_days_outage_loses_nothing_that_fits_and_live_data_does_not_wait_for_the_backlog() {
    let mut rig = Rig::new(day_settings(1 << 30));
    let probes = outage(&mut rig);
    assert!((1000..8000).contains(&probes), "{probes} probes in a day");
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.made, snapshot.refused_total()), (86_400_000, 0));
    assert!(snapshot.spooled > 85_000_000, "{snapshot:?}");

    // The peer is back, and takes 40 requests a second: the backlog drains beside what is live.
    let (mut order, mut worst, mut live) = (Vec::new(), 0, 0);
    let mut next_batch = rig.now;
    while rig.snapshot().queued_items + rig.snapshot().spooled > 0 || live < 100 {
        if next_batch <= rig.now {
            admit(&mut rig);
            next_batch += BATCH_EVERY;
        }
        rig.load();
        let flying: Vec<_> = std::iter::from_fn(|| rig.begin()).collect();
        rig.now += SECOND / 10;
        for request in flying {
            let made = when(&request.body);
            if made >= DAY {
                live += 1;
                worst = worst.max(rig.now - made);
            } else {
                order.push(made);
            }
            rig.settle(request.id, accepted());
        }
        rig.commit();
    }
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.exported, snapshot.refused_total()), (snapshot.made, 0));
    assert_eq!(order.len(), 17_280);
    let disorder = order.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(disorder < 200, "oldest first: {disorder} exceptions");
    assert!(worst < LIVE_FOR.as_nanos() as u64, "a live batch waited {worst} ns");
    assert!(rig.store.batches.is_empty());
}

#[test]
fn a_days_outage_with_a_small_disk_keeps_the_latest() {
    let mut rig = Rig::new(day_settings(1000 * BATCH_BYTES as u64));
    outage(&mut rig);
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.refused.keys().collect::<Vec<_>>(), [&"gave_way"]);
    assert!(snapshot.spooled_bytes <= snapshot.spool_capacity_bytes);
    let kept = (snapshot.queued_items + snapshot.spooled) / ITEMS_A_BATCH;
    assert!((1000..1100).contains(&kept), "{kept} batches");
    rig.load();
    rig.now = rig.pipeline.poll_timeout().unwrap().0.max(rig.now);
    let oldest = when(&rig.begin().unwrap().body);
    assert!(oldest > DAY - 1200 * BATCH_EVERY, "the oldest gave way first");
}

#[test]
fn a_day_without_the_program_is_like_a_day_without_the_peer() {
    let mut rig = Rig::new(day_settings(1 << 30));
    (0..100).for_each(|_| admit(&mut rig));
    rig.act(Pipeline::close);
    rig.commit();
    let store = rig.crash();
    let mut rig = Rig::on(store, day_settings(1 << 30), DAY);
    assert_eq!(rig.snapshot().spooled, 100 * ITEMS_A_BATCH);
    rig.deliver_all();
    assert_eq!(rig.snapshot().exported, 100 * ITEMS_A_BATCH);
}
