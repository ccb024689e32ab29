//! The pipeline in virtual time: each law and each rule by its name.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use rand::SeedableRng;

use super::*;
use crate::exporter::encode::write_span;
use crate::exporter::refusal::GrpcRefusal;
use crate::exporter::retry::Outcome;
use crate::exporter::testing::{source, span_of};
use crate::store::{Commit, Op, SignalSums, SpoolEntry, SpoolId};
use crate::time::UnixNanos;

const SECOND: u64 = 1_000_000_000;

mod laws;
mod model;
mod order;
mod outage;
mod reconcile;
mod splitting;
mod spool;

fn settings() -> PipelineSettings {
    PipelineSettings {
        signal: Signal::Traces,
        enabled: true,
        batch: BatchSettings { max_items: Some(1), ..BatchSettings::default() },
        queue: QueueSettings::default(),
        retry: RetrySettings::default(),
        max_in_flight: 2,
        resource: ResourceSettings::default(),
    }
}

fn pipeline(settings: PipelineSettings) -> Pipeline {
    Pipeline::new(settings, StdRng::seed_from_u64(7))
}

/// Wall and monotonic clock go alike.
fn at(nanos: u64) -> Now {
    Now { mono: Monotonic(nanos), wall: UnixNanos(nanos.cast_signed()) }
}

fn snapshot(pipeline: &Pipeline) -> ExportSnapshot {
    pipeline.snapshot(Monotonic(0))
}

fn encoded(name: &str) -> Vec<u8> {
    let mut span = Vec::new();
    write_span(&mut span, &span_of(&source(1), name));
    span
}

fn admit(pipeline: &mut Pipeline, now: u64) -> Result<(), Refusal> {
    let admitted = pipeline.admit(&source(1), &encoded("a"), 1, Provenance::default(), at(now));
    assert!(snapshot(pipeline).adds_up());
    admitted
}

fn begin(pipeline: &mut Pipeline, now: u64) -> Option<BatchId> {
    pipeline.next_request(at(now)).map(|request| request.id)
}

fn settle(pipeline: &mut Pipeline, id: BatchId, outcome: Outcome, now: u64) -> Vec<Notice> {
    pipeline.settle(id, outcome, at(now));
    assert!(snapshot(pipeline).adds_up());
    pipeline.take_notices()
}

fn accepted() -> Outcome {
    Outcome::Accepted { rejected_items: 0, message: String::new() }
}

fn retry(delay: Option<u64>) -> Outcome {
    Outcome::Retry { delay: delay.map(Duration::from_secs), error: "away".to_owned() }
}

fn refused() -> Outcome {
    Outcome::Refused { refusal: Refusal::Grpc(GrpcRefusal::InvalidArgument), error: "no".to_owned() }
}

/// The names of the spans in a request.
fn names(body: &Bytes) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
}

#[test]
fn as_many_requests_fly_as_are_allowed() {
    let mut pipeline = pipeline(settings());
    (0..3).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let first = begin(&mut pipeline, 0).unwrap();
    let second = begin(&mut pipeline, 0).unwrap();
    assert_eq!(begin(&mut pipeline, 0), None);
    assert_eq!(pipeline.poll_timeout(), None, "an answer comes next");
    assert_eq!(settle(&mut pipeline, second, accepted(), 1), []);
    assert!(begin(&mut pipeline, 1).is_some_and(|third| third > second));
    settle(&mut pipeline, first, accepted(), 2);
    assert_eq!(snapshot(&pipeline).exported, 2);
}

#[test]
fn a_poisoned_batch_holds_no_other_up() {
    let mut pipeline = pipeline(settings());
    (0..20).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let poisoned = begin(&mut pipeline, 0).unwrap();
    settle(&mut pipeline, poisoned, retry(None), 1);
    for now in 2..21 {
        let id = begin(&mut pipeline, now).unwrap();
        assert_ne!(id, poisoned);
        settle(&mut pipeline, id, accepted(), now);
    }
    assert_eq!(snapshot(&pipeline).exported, 19);
    let again = pipeline.poll_timeout().unwrap();
    assert!((SECOND / 2..=2 * SECOND).contains(&again.0));
    assert_eq!(begin(&mut pipeline, again.0), Some(poisoned));
}

#[test]
fn a_peer_that_is_down_is_probed_and_takes_everything_when_it_is_back() {
    let mut pipeline = pipeline(settings());
    (0..10).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let mut now = 0;
    let mut probes = 0;
    while now < 300 * SECOND {
        while let Some(id) = begin(&mut pipeline, now) {
            if snapshot(&pipeline).peer_is_down {
                assert_eq!(begin(&mut pipeline, now), None, "probes go one at a time");
            }
            assert_eq!(settle(&mut pipeline, id, retry(None), now).len(), 1);
            probes += 1;
        }
        now = pipeline.poll_timeout().unwrap().0;
    }
    assert!((10..40).contains(&probes), "{probes} probes in five minutes");
    assert!(snapshot(&pipeline).peer_is_down);
    let id = begin(&mut pipeline, now).unwrap();
    assert_eq!(settle(&mut pipeline, id, accepted(), now), [Notice::Recovered]);
    while let Some(id) = begin(&mut pipeline, now) {
        assert_eq!(settle(&mut pipeline, id, accepted(), now), [Notice::Retried { items: 1 }]);
    }
    let snapshot = snapshot(&pipeline);
    assert_eq!((snapshot.exported, snapshot.queued_items, snapshot.peer_is_down), (10, 0, false));
}

#[test]
fn a_peer_that_asks_for_time_gets_it_from_every_batch() {
    let mut pipeline = pipeline(settings());
    (0..2).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let id = begin(&mut pipeline, 0).unwrap();
    settle(&mut pipeline, id, retry(Some(45)), 0);
    assert_eq!(begin(&mut pipeline, 45 * SECOND - 1), None);
    assert_eq!(pipeline.poll_timeout(), Some(Monotonic(45 * SECOND)));
    assert_eq!(begin(&mut pipeline, 45 * SECOND), Some(id));
}

#[test]
fn a_refused_batch_is_counted_by_reason_and_never_sent_again() {
    let mut pipeline = pipeline(settings());
    admit(&mut pipeline, 0).unwrap();
    let id = begin(&mut pipeline, 0).unwrap();
    assert_eq!(settle(&mut pipeline, id, refused(), 0).len(), 1);
    assert_eq!(begin(&mut pipeline, u64::MAX), None);
    let snapshot = snapshot(&pipeline);
    assert_eq!(snapshot.refused, BTreeMap::from([("rejected:invalid_argument", 1)]));
    assert_eq!((snapshot.requests_failed, snapshot.last_error.as_deref()), (1, Some("no")));
}

#[test]
fn a_partial_success_counts_at_most_what_was_sent() {
    let mut pipeline = pipeline(PipelineSettings {
        batch: BatchSettings { max_items: Some(3), ..BatchSettings::default() },
        ..settings()
    });
    (0..6).for_each(|_| admit(&mut pipeline, 0).unwrap());
    for (rejected_items, message) in [(2, "two"), (99, "many")] {
        let id = begin(&mut pipeline, 0).unwrap();
        let outcome = Outcome::Accepted { rejected_items, message: message.to_owned() };
        assert_eq!(settle(&mut pipeline, id, outcome, 0).len(), 1);
    }
    let snapshot = snapshot(&pipeline);
    assert_eq!(snapshot.exported, 1);
    assert_eq!(snapshot.refused, BTreeMap::from([("partial_success", 5)]));
}

#[test]
fn a_full_queue_refuses_new_spans_until_the_old_may_give_way() {
    let mut pipeline = pipeline(PipelineSettings {
        queue: QueueSettings { max_items: Some(2), ..QueueSettings::default() },
        ..settings()
    });
    admit(&mut pipeline, 0).unwrap();
    admit(&mut pipeline, 1).unwrap();
    assert_eq!(admit(&mut pipeline, 2), Err(Refusal::QueueFull));
    assert_eq!(admit(&mut pipeline, 600 * SECOND), Ok(()));
    assert_eq!(admit(&mut pipeline, 600 * SECOND), Err(Refusal::QueueFull));
    let snapshot = snapshot(&pipeline);
    assert_eq!(snapshot.queued_items, 2);
    assert_eq!(snapshot.refused, BTreeMap::from([("queue_full", 2), ("gave_way", 1)]));
}

#[test]
fn what_is_never_taken_is_refused_by_its_reason() {
    let mut off = pipeline(PipelineSettings { enabled: false, ..settings() });
    assert_eq!(admit(&mut off, 0), Err(Refusal::SignalDisabled));
    assert!(off.refuse_all(2, None));
    assert_eq!(snapshot(&off).refused, BTreeMap::from([("signal_disabled", 3)]));

    let batch = BatchSettings { max_bytes: 1000, ..BatchSettings::default() };
    let mut narrow = pipeline(PipelineSettings { batch, ..settings() });
    let (span, none) = (encoded(&"a".repeat(1000)), Provenance::default());
    assert_eq!(narrow.admit(&source(1), &span, 1, none, at(0)), Err(Refusal::ItemTooLarge));
    assert_eq!(narrow.admit(&source(1), &span, 5, none, at(0)), Err(Refusal::ItemTooLarge));
    admit(&mut narrow, 0).unwrap();
    assert!(!narrow.refuse_all(9, None));
    let snapshot = snapshot(&narrow);
    assert_eq!((snapshot.made, snapshot.refused), (7, BTreeMap::from([("item_too_large", 6)])));
}

#[test]
fn a_batch_is_given_up_in_the_end() {
    let mut pipeline = pipeline(settings());
    admit(&mut pipeline, 0).unwrap();
    let week = 7 * 24 * 3600 * SECOND;
    let id = begin(&mut pipeline, week - 1).unwrap();
    settle(&mut pipeline, id, retry(None), week - 1);
    assert_eq!(begin(&mut pipeline, week), None);
    assert_eq!(pipeline.take_notices(), [Notice::Expired { items: 1 }]);
    assert_eq!(snapshot(&pipeline).refused, BTreeMap::from([("retry_expired", 1)]));
}

#[test]
fn draining_sends_what_was_being_collected_and_takes_nothing_new() {
    let mut pipeline = pipeline(PipelineSettings { batch: BatchSettings::default(), ..settings() });
    admit(&mut pipeline, 0).unwrap();
    assert_eq!(begin(&mut pipeline, 0), None);
    pipeline.drain(Monotonic(10), at(0));
    assert_eq!(admit(&mut pipeline, 0), Err(Refusal::Shutdown));
    assert!(pipeline.refuse_all(3, None));
    assert!(!pipeline.is_drained(Monotonic(0)));
    let id = begin(&mut pipeline, 0).unwrap();
    settle(&mut pipeline, id, accepted(), 1);
    assert!(pipeline.is_drained(Monotonic(1)));
    assert_eq!(pipeline.close(at(9)), 0);
}

#[test]
fn what_is_left_at_the_deadline_is_refused() {
    let mut pipeline = pipeline(settings());
    (0..2).for_each(|_| admit(&mut pipeline, 0).unwrap());
    let id = begin(&mut pipeline, 0).unwrap();
    pipeline.drain(Monotonic(10), at(0));
    assert_eq!(pipeline.poll_timeout(), Some(Monotonic(0)), "the second batch may go");
    assert!(pipeline.is_drained(Monotonic(10)));
    assert_eq!(pipeline.close(at(10)), 2);
    assert_eq!(settle(&mut pipeline, id, accepted(), 11), [], "an answer after the end changes nothing");
    assert_eq!(snapshot(&pipeline).refused, BTreeMap::from([("shutdown", 2)]));
}
