//! Which batch goes when.

use super::*;
use crate::exporter::queue::LIVE_FOR;
use crate::exporter::refusal::HttpRefusal;

fn four_ways() -> PipelineSettings {
    PipelineSettings { max_in_flight: 4, ..settings() }
}

#[test]
fn live_batches_go_before_the_backlog_and_leave_it_a_way() {
    let mut pipeline = pipeline(four_ways());
    (0..20).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let old: Vec<_> = pipeline.queue.uncopied().collect();
    let now = LIVE_FOR.as_nanos() as u64;
    (0..20).for_each(|_| admit(&mut pipeline, now).unwrap());
    let first: Vec<_> = std::iter::from_fn(|| begin(&mut pipeline, now)).collect();
    assert_eq!(first.len(), 4);
    assert_eq!(first.iter().filter(|id| old.contains(id)).collect::<Vec<_>>(), [&old[0]]);
    settle(&mut pipeline, old[0], accepted(), now);
    assert_eq!(
        begin(&mut pipeline, now),
        Some(old[1]),
        "the backlog's way stays the backlog's, oldest first"
    );
}

#[test]
fn a_backlog_leaves_a_way_to_what_comes_next() {
    let mut pipeline = pipeline(four_ways());
    (0..20).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let now = LIVE_FOR.as_nanos() as u64;
    assert_eq!(std::iter::from_fn(|| begin(&mut pipeline, now)).count(), 3);
    assert_eq!(pipeline.poll_timeout(), None, "nothing to do until an answer");
    admit(&mut pipeline, now).unwrap();
    assert!(begin(&mut pipeline, now).is_some());
}

/// One that is poisoned and hangs until its time-out, again and again, takes one way; the rest goes on as if it were not.
#[test]
fn a_poisoned_batch_that_hangs_delays_nothing_that_is_live() {
    let mut pipeline = pipeline(four_ways());
    admit(&mut pipeline, 0).unwrap();
    let poisoned = begin(&mut pipeline, 0).unwrap();
    let mut hangs_until = Some(10 * SECOND);
    let mut now = 0;
    let mut worst = 0;
    let mut delivered = 0;
    while now < 600 * SECOND {
        now += SECOND / 10;
        if hangs_until.is_some_and(|until| until <= now) {
            hangs_until = None;
            settle(&mut pipeline, poisoned, retry(None), now);
        }
        admit(&mut pipeline, now).unwrap();
        while let Some(request) = pipeline.next_request(at(now)) {
            if request.id == poisoned {
                hangs_until = Some(now + 10 * SECOND);
            } else {
                let filled = pipeline.queue.flying(request.id).unwrap().filled_at.0.cast_unsigned();
                worst = worst.max(now - filled);
                delivered += 1;
                settle(&mut pipeline, request.id, accepted(), now);
            }
        }
    }
    assert_eq!((delivered, worst), (6000, 0));
    let snapshot = snapshot(&pipeline);
    assert!(!snapshot.peer_is_down);
    assert!((10..60).contains(&snapshot.retries), "{} retries in ten minutes", snapshot.retries);
}

#[test]
fn many_poisoned_batches_delay_no_healthy_one() {
    let mut pipeline = pipeline(four_ways());
    (0..50).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let poisoned: Vec<_> = pipeline.queue.uncopied().step_by(5).collect();
    let mut healthy = 0;
    for now in 0..1000 {
        while let Some(id) = begin(&mut pipeline, now * SECOND / 100) {
            let outcome = if poisoned.contains(&id) { retry(None) } else { accepted() };
            healthy += u64::from(!poisoned.contains(&id));
            settle(&mut pipeline, id, outcome, now * SECOND / 100);
        }
    }
    assert_eq!((healthy, snapshot(&pipeline).queued_items), (40, 10));
}

#[test]
fn a_lone_batch_that_fails_again_and_again_does_not_hold_up_the_next() {
    let mut pipeline = pipeline(four_ways());
    admit(&mut pipeline, 0).unwrap();
    let mut now = 0;
    for _ in 0..20 {
        now = pipeline.poll_timeout().unwrap().0.max(now);
        let id = begin(&mut pipeline, now).unwrap();
        settle(&mut pipeline, id, retry(None), now);
    }
    admit(&mut pipeline, now + 1).unwrap();
    assert!(begin(&mut pipeline, now + 1).is_some());
}

/// A peer that takes what is small and not what is large, with both coming: nobody starves.
#[test]
fn two_signals_do_not_know_of_each_other() {
    let mut traces = pipeline(settings());
    let mut metrics = pipeline(PipelineSettings { signal: Signal::Metrics, ..settings() });
    for now in 0..5 {
        admit(&mut traces, now).unwrap();
        metrics.admit(&source(1), &[0x12, 0], 1, Provenance::default(), at(now)).unwrap();
        let down = begin(&mut traces, now);
        down.into_iter().for_each(|id| drop(settle(&mut traces, id, retry(Some(500)), now)));
        let up = begin(&mut metrics, now).unwrap();
        settle(&mut metrics, up, accepted(), now);
    }
    let (traces, metrics) = (snapshot(&traces), snapshot(&metrics));
    assert_eq!((traces.signal, traces.exported, traces.queued_items), (Signal::Traces, 0, 5));
    assert_eq!((metrics.signal, metrics.exported, metrics.queued_items), (Signal::Metrics, 5, 0));
}

/// Where order counts, a batch that is answered 503 for ever costs itself alone, and no outage of minutes costs more than
/// the order of a few batches.
#[test]
fn a_poisoned_batch_in_order_costs_itself_alone() {
    for seed in 0..5 {
        let mut settings = four_ways();
        settings.queue.in_order = true;
        let mut pipeline = Pipeline::new(settings, StdRng::seed_from_u64(seed));
        let (mut now, mut next_admit, mut poisoned, mut admitted, mut delivered) = (0, 0, None, 0, 0);
        while now < 7200 * SECOND {
            if now >= next_admit {
                for _ in 0..3 {
                    admit(&mut pipeline, now).unwrap();
                    admitted += 1;
                }
                next_admit += 60 * SECOND;
            }
            while let Some(id) = begin(&mut pipeline, now) {
                if id == *poisoned.get_or_insert(id) {
                    settle(&mut pipeline, id, retry(None), now);
                } else {
                    delivered += 1;
                    settle(&mut pipeline, id, accepted(), now);
                }
            }
            now += SECOND / 2;
        }
        assert!(delivered >= admitted - 3, "{delivered} of {admitted}");
    }
}

/// After an outage of minutes hardly a batch is delivered before an older one.
#[test]
fn an_outage_costs_hardly_any_order() {
    let mut out_of_order = 0;
    for seed in 0..100 {
        let mut settings = four_ways();
        settings.queue.in_order = true;
        let mut pipeline = Pipeline::new(settings, StdRng::seed_from_u64(seed));
        let (mut now, mut next_admit, mut delivered) = (0, 0, Vec::new());
        let outage = (600 + seed) * SECOND;
        while now < outage + 300 * SECOND {
            if now >= next_admit {
                admit(&mut pipeline, now).unwrap();
                next_admit += 60 * SECOND;
            }
            while let Some(id) = begin(&mut pipeline, now) {
                if now < outage {
                    settle(&mut pipeline, id, retry(None), now);
                } else {
                    delivered.push(id);
                    settle(&mut pipeline, id, accepted(), now);
                }
            }
            now += SECOND / 2;
        }
        out_of_order += delivered.windows(2).filter(|pair| pair[0] > pair[1]).count();
    }
    assert!(out_of_order <= 5, "{out_of_order} in a hundred outages");
}

/// A Prometheus answers 400 to points that are older than those that it has: the batch that came too late is refused by that
/// name, with all its items, and nothing waits for it.
#[test]
fn what_comes_too_late_for_its_order_is_refused_by_name() {
    let mut settings = four_ways();
    settings.queue.in_order = true;
    let mut pipeline = pipeline(settings);
    (0..3).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let (mut now, mut newest, mut first) = (0, None, None);
    while snapshot(&pipeline).queued_items > 0 && now < 3600 * SECOND {
        while let Some(id) = begin(&mut pipeline, now) {
            let is_first = id == *first.get_or_insert(id);
            let outcome = if newest > Some(id) {
                let refusal = Refusal::Http(HttpRefusal::BadRequest400);
                Outcome::Refused { refusal, error: "out of order sample".to_owned() }
            } else if is_first {
                retry(None)
            } else {
                newest = Some(id);
                accepted()
            };
            settle(&mut pipeline, id, outcome, now);
        }
        now += SECOND / 2;
    }
    let snapshot = snapshot(&pipeline);
    assert_eq!((snapshot.made, snapshot.exported), (3, 2));
    assert_eq!(snapshot.refused, BTreeMap::from([("rejected:400", 1)]));
}
