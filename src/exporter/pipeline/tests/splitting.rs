//! Requests that the peer finds too large.

use super::model::Rig;
use super::*;
use crate::exporter::refusal::HttpRefusal;

fn batched(max_items: u64) -> PipelineSettings {
    PipelineSettings {
        batch: BatchSettings { max_items: Some(max_items), ..BatchSettings::default() },
        max_in_flight: 4,
        ..settings()
    }
}

fn too_large() -> Outcome {
    Outcome::Refused { refusal: Refusal::Http(HttpRefusal::PayloadTooLarge413), error: "413".to_owned() }
}

fn exhausted(error: &str) -> Outcome {
    Outcome::Refused { refusal: Refusal::Grpc(GrpcRefusal::ResourceExhausted), error: error.to_owned() }
}

fn admit_named(pipeline: &mut Pipeline, name: &str, now: u64) {
    pipeline.admit(&source(1), &encoded(name), 1, Provenance::default(), at(now)).unwrap();
}

/// Sends all there is to a peer that takes `limit` bytes. Returns what it took, and how often it refused.
fn send_all(pipeline: &mut Pipeline, limit: usize, now: u64) -> (Vec<String>, usize) {
    let (mut taken, mut refusals) = (Vec::new(), 0);
    while let Some(request) = pipeline.next_request(at(now)) {
        let fits = request.body.len() <= limit;
        refusals += usize::from(!fits);
        if fits {
            taken.extend(names(&request.body));
        }
        pipeline.settle(request.id, if fits { accepted() } else { too_large() }, at(now));
        assert!(snapshot(pipeline).adds_up());
    }
    (taken, refusals)
}

#[test]
fn a_request_that_is_too_large_arrives_in_pieces_and_in_order() {
    let mut pipeline = pipeline(batched(64));
    let all: Vec<_> = (0..64).map(|number| format!("{number:03}")).collect();
    all.iter().for_each(|name| admit_named(&mut pipeline, name, 0));
    let (taken, refusals) = send_all(&mut pipeline, 1000, 0);
    assert_eq!(taken, all);
    assert!(refusals < 16, "{refusals}");
    let snapshot = snapshot(&pipeline);
    assert_eq!((snapshot.exported, snapshot.queued_items, snapshot.refused_total()), (64, 0, 0));
    assert!(pipeline.take_notices().iter().any(|notice| matches!(notice, Notice::Split { pieces: 2.., .. })));
}

/// The limit is learned: a peer that takes a third of the usual request refuses two requests and not two a batch, and the
/// bound grows back without more than one refusal a minute.
#[test]
fn a_limit_costs_a_few_refusals_and_not_some_for_every_batch() {
    let mut pipeline = pipeline(batched(512));
    let name = "x".repeat(1000);
    let (mut taken, mut refusals) = (0, 0);
    for second in 0..600 {
        (0..512).for_each(|_| admit_named(&mut pipeline, &name, second * SECOND));
        let (names, refused) = send_all(&mut pipeline, 200_000, second * SECOND);
        taken += names.len();
        refusals += refused;
    }
    taken += {
        pipeline.drain(Monotonic(u64::MAX), at(600 * SECOND));
        send_all(&mut pipeline, 200_000, 600 * SECOND).0.len()
    };
    assert_eq!(taken, 600 * 512);
    assert!((2..=2 + 2 * 10).contains(&refusals), "{refusals} refusals in ten minutes");
}

#[test]
fn an_item_that_is_too_large_alone_is_refused_by_name_and_the_others_arrive() {
    let mut pipeline = pipeline(batched(3));
    let huge = "h".repeat(3000);
    ["a", &huge, "b"].iter().for_each(|name| admit_named(&mut pipeline, name, 0));
    assert_eq!(send_all(&mut pipeline, 1000, 0).0, ["a", "b"]);
    assert_eq!(snapshot(&pipeline).refused, BTreeMap::from([("item_too_large", 1)]));
    let named = |notice: &Notice| matches!(notice, Notice::ItemTooLarge { name: Some(name), .. } if huge.starts_with(name));
    assert!(pipeline.take_notices().iter().any(named));
}

/// The Collector's memory limiter answers like a server with a limit of size, without the words. What is cut waits longer
/// and longer, so that it is not answered with a storm.
#[test]
fn a_peer_short_of_memory_is_asked_seldom() {
    let mut pipeline = pipeline(batched(512));
    (0..51_200).for_each(|_| admit_named(&mut pipeline, "a", 0));
    let mut now = 0;
    let mut requests = 0;
    while now < 300 * SECOND {
        while let Some(id) = begin(&mut pipeline, now) {
            settle(
                &mut pipeline,
                id,
                exhausted("ResourceExhausted: data refused due to high memory usage"),
                now,
            );
            requests += 1;
        }
        now = pipeline.poll_timeout().unwrap().0.max(now + 1);
    }
    assert!(requests < 40, "{requests} requests in five minutes");
    assert!(snapshot(&pipeline).refused_total() <= 512, "a batch at most has lost something");
    while let Some(next) = pipeline.poll_timeout() {
        now = next.0.max(now);
        while let Some(id) = begin(&mut pipeline, now) {
            settle(&mut pipeline, id, accepted(), now);
        }
    }
    let snapshot = snapshot(&pipeline);
    assert_eq!(snapshot.exported + snapshot.refused_total(), 51_200);
}

#[test]
fn a_small_item_that_is_refused_for_want_of_memory_is_counted_apart() {
    let mut pipeline = pipeline(batched(1));
    admit_named(&mut pipeline, "small", 0);
    let id = begin(&mut pipeline, 0).unwrap();
    settle(&mut pipeline, id, exhausted("ResourceExhausted: no memory"), 0);
    admit_named(&mut pipeline, "small", 60 * SECOND);
    let id = begin(&mut pipeline, 60 * SECOND).unwrap();
    settle(
        &mut pipeline,
        id,
        exhausted("ResourceExhausted: received message larger than max (200 vs. 100)"),
        0,
    );
    admit_named(&mut pipeline, &"l".repeat(SMALL_ITEM_BYTES), 120 * SECOND);
    let id = begin(&mut pipeline, 120 * SECOND).unwrap();
    settle(&mut pipeline, id, exhausted("ResourceExhausted: no memory"), 0);
    assert_eq!(
        snapshot(&pipeline).refused,
        BTreeMap::from([("rejected:resource_exhausted", 1), ("item_too_large", 2)])
    );
}

/// Servers made with tonic say of a request what tonic's client says of an answer.
#[test]
fn the_peers_word_about_a_request_is_told_from_our_own_about_an_answer() {
    for (found, pieces) in [(0, 0), (1, 2)] {
        let mut pipeline = pipeline(batched(2));
        ["a", "b"].iter().for_each(|name| admit_named(&mut pipeline, name, 0));
        let request = pipeline.next_request(at(0)).unwrap();
        let found = request.body.len() * found;
        let error = format!(
            "OutOfRange: Error, decoded message length too large: found {found} bytes, the limit is: 9 bytes"
        );
        settle(&mut pipeline, request.id, Outcome::Refused { refusal: Refusal::ResponseTooLarge, error }, 0);
        assert_eq!(snapshot(&pipeline).queued_items, pieces);
    }
}

/// Pieces have the same origins, so the first that is settled must not speak for those that a crash would lose.
#[test]
fn pieces_are_on_disk_before_the_first_is_sent() {
    let mut rig = Rig::new(batched(4));
    (0..4).for_each(|_| rig.admit().unwrap());
    rig.commit();
    let whole = rig.begin().unwrap();
    rig.settle(whole.id, too_large());
    assert_eq!(rig.begin(), None);
    rig.commit();
    let pieces = rig.store.batches.len();
    assert!(pieces > 1);
    let piece = rig.begin().unwrap();
    rig.settle(piece.id, accepted());
    rig.commit();
    assert_eq!((rig.store.batches.len(), rig.store.exported), (pieces - 1, piece.items));

    // The crash: what is left are the other pieces, and every ordinal has its place.
    let store = rig.crash();
    assert!((0..4).all(|ordinal| store.knows(ordinal)));
    let mut again = Rig::on(store, batched(4), 0);
    let rest = again.deliver_all();
    assert_eq!(piece.items + rest.len() as u64, 4);
    let snapshot = again.snapshot();
    assert_eq!((snapshot.made, snapshot.exported), (4, 4));
}
