//! Measurements of workers that are asked to send a share of their events.

use std::time::Duration;

use snakepit_otel_bridge::engine::observed::Observed;

use super::bench_worker::{Bench, MS, SECOND, STREAM, event, start, stop};
use super::metrics::{everything, only};

/// The worker sends half of its events, so half of its ends lack their start.
fn half_torn(bench: &mut Bench, spans: i64) {
    for number in 0..spans {
        let at = number * 10 * MS;
        bench.arrive_at(at);
        if number % 2 == 0 {
            bench.send(&start("a", at));
        }
        bench.send(&stop("a", at, MS));
    }
    bench.pass(Duration::from_secs(3));
}

#[test]
fn measurements_of_a_worker_that_is_seen_to_sample_stand_for_others() {
    let mut bench = Bench::with(everything, |_, policy| {
        policy.sampling_rate = snakepit_otel_bridge::control::policy::Rate::new(0.5).unwrap();
    });
    bench.send(&event("cache", 0).int("hits", 1));
    bench.measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "1", "nothing is known yet");
    half_torn(&mut bench, 128);
    assert_eq!(bench.engine.workers(bench.now())[0].observed, Observed::Honoured);
    let later = 2 * SECOND;
    bench.send(&event("cache", later).int("hits", 1)).send(&event("queue", later).int("queue_depth", 4));
    bench.measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "3");
    assert_eq!(only(&bench, "queue.queue_depth").2.to_string(), "4", "never gauges");
    bench.restart();
    assert_eq!(bench.engine.workers(bench.now())[0].observed, Observed::Honoured);
    bench.policy(|policy| policy.event_patterns = vec!["tool.*".to_owned()]);
    assert_eq!(bench.engine.workers(bench.now())[0].observed, Observed::NoEvidence, "the policy is another");
}

#[test]
fn measurements_of_a_worker_that_ignores_its_rate_stand_for_themselves() {
    let mut bench = Bench::with(everything, |_, policy| {
        policy.sampling_rate = snakepit_otel_bridge::control::policy::Rate::new(0.5).unwrap();
    });
    for number in 0..128 {
        bench.arrive_at(number * 10 * MS).send(&start("a", number * 10 * MS)).send(&stop(
            "a",
            number * 10 * MS,
            MS,
        ));
    }
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.engine.workers(bench.now())[0].observed, Observed::Ignored);
    bench.send(&event("cache", 0).int("hits", 1)).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "1");
}

#[test]
fn a_worker_that_samples_whole_spans_is_taken_at_its_word() {
    let mut bench = Bench::with(everything, |identity, policy| {
        identity.capabilities.consistent_sampling = true;
        policy.sampling_rate = snakepit_otel_bridge::control::policy::Rate::new(0.25).unwrap();
    });
    assert_eq!(bench.engine.workers(bench.now())[0].observed, Observed::NoEvidence);
    let hit = |at| event("cache", at).int("hits", 1);
    // What had waited in the worker was emitted when it sampled nothing yet.
    bench.pass(Duration::from_secs(1)).send(&hit(-5 * SECOND)).send(&hit(499 * MS)).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "2");
    bench.send(&hit(500 * MS)).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "6");
    // A span is sampled at its start.
    for (operation, began) in [("early", 400 * MS), ("late", 600 * MS)] {
        bench.send(&start(operation, began)).send(&stop(operation, began, 300 * MS));
    }
    bench.settled();
    bench.measured();
    assert_eq!((only(&bench, "early.duration").1, only(&bench, "late.duration").1), (1, 4));
    // The same process knows the share although its stream is another one.
    bench.disconnect(STREAM);
    bench.connect(STREAM);
    bench.send(&hit(4 * SECOND)).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "10");
    bench.policy(|policy| policy.blocked_events = vec!["secret".to_owned()]);
    bench.send(&hit(4 * SECOND)).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "11", "the policy is another");
}
