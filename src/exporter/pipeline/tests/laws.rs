//! Laws over any sequence of events.

use std::collections::BTreeMap;

use super::model::{ModelStore, Rig};
use super::*;
use crate::exporter::refusal::HttpRefusal;

#[derive(Debug, Clone)]
enum Step {
    /// With a name of at least so many bytes.
    Admit(usize),
    SampleOut,
    Begin,
    Settle(usize, Outcome),
    Wait(u64),
    Commit,
    Load,
    Persist,
    Drain,
    Close,
}

fn any_step() -> impl Strategy<Value = Step> {
    let too_large =
        Outcome::Refused { refusal: Refusal::Http(HttpRefusal::PayloadTooLarge413), error: "413".to_owned() };
    let exhausted = Outcome::Refused {
        refusal: Refusal::Grpc(GrpcRefusal::ResourceExhausted),
        error: "no memory".to_owned(),
    };
    let outcome = prop_oneof![
        4 => (0_u64..3).prop_map(|rejected_items| Outcome::Accepted { rejected_items, message: String::new() }),
        4 => proptest::option::of(0_u64..100).prop_map(retry),
        2 => Just(too_large),
        1 => Just(exhausted),
        1 => Just(refused()),
    ];
    prop_oneof![
        50 => Just(Step::Admit(0)),
        10 => (0_usize..3000).prop_map(Step::Admit),
        5 => Just(Step::SampleOut),
        40 => Just(Step::Begin),
        40 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        20 => (0..2000 * SECOND).prop_map(Step::Wait),
        30 => Just(Step::Commit),
        20 => Just(Step::Load),
        10 => Just(Step::Persist),
        1 => Just(Step::Drain),
        1 => Just(Step::Close),
    ]
}

/// From what holds nothing to what holds all that memory does.
fn any_spool_bytes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(8000), 0_u64..8000, 0_u64..1000]
}

fn tight(in_order: bool, max_spool_bytes: u64) -> PipelineSettings {
    PipelineSettings {
        batch: BatchSettings { max_items: Some(3), ..BatchSettings::default() },
        queue: QueueSettings { max_bytes: 6000, max_items: Some(12), max_spool_bytes, in_order },
        ..settings()
    }
}

/// A run against a peer that remembers what it took.
struct Run {
    rig: Rig,
    flying: Vec<ExportRequest>,
    /// By ordinal, how often.
    sent: BTreeMap<u64, u32>,
    max_spool_bytes: u64,
    /// Bytes in flight, at most so far.
    most_flying: u64,
}

impl Run {
    fn new(settings: PipelineSettings) -> Self {
        let max_spool_bytes = settings.queue.max_spool_bytes;
        Self {
            rig: Rig::new(settings),
            flying: Vec::new(),
            sent: BTreeMap::new(),
            max_spool_bytes,
            most_flying: 0,
        }
    }

    fn step(&mut self, step: Step) {
        let rig = &mut self.rig;
        match step {
            Step::Admit(bytes) => drop(rig.admit_long(bytes)),
            Step::SampleOut => {
                rig.store.journal(rig.next_ordinal + 1);
                let origin = Some((0, rig.next_ordinal));
                rig.next_ordinal += 1;
                rig.act(|pipeline, _| pipeline.sampled_out(origin));
            }
            Step::Begin => {
                if let Some(request) = rig.begin() {
                    for name in names(&request.body) {
                        let ordinal: u64 = name.parse().unwrap();
                        assert!(ordinal < rig.store.journalled, "{ordinal} was sent before it was durable");
                        *self.sent.entry(ordinal).or_default() += 1;
                    }
                    self.flying.push(request);
                }
            }
            Step::Settle(which, outcome) if !self.flying.is_empty() => {
                let request = self.flying.swap_remove(which % self.flying.len());
                if !matches!(outcome, Outcome::Accepted { .. }) {
                    // Not taken.
                    for name in names(&request.body) {
                        *self.sent.get_mut(&name.parse().unwrap()).unwrap() -= 1;
                    }
                }
                rig.settle(request.id, outcome);
            }
            Step::Settle(..) => {}
            Step::Wait(nanos) => rig.now += nanos,
            Step::Commit => {
                rig.store.commit();
                rig.tell();
            }
            Step::Load => rig.load(),
            Step::Persist => rig.persist(false),
            Step::Drain => rig.act(|pipeline, now| pipeline.drain(Monotonic(now.mono.0 + SECOND), now)),
            Step::Close => drop(rig.act(Pipeline::close)),
        }
        let snapshot = rig.snapshot();
        // A store that breaks gives back what was on its way to disk, which may be as much again.
        assert!(snapshot.queued_bytes <= 2 * 6000 + 1000, "{snapshot:?}");
        assert!(snapshot.requests_in_flight <= 2);
        // What is on its way is on disk even if that has too little room.
        let flying: u64 = self.flying.iter().map(|request| request.body.len() as u64).sum();
        assert!(snapshot.spooled_bytes <= self.max_spool_bytes.max(flying), "{flying} fly: {snapshot:?}");
        self.most_flying = self.most_flying.max(flying);
    }

    /// What a crash would leave at this instant.
    fn ensure_disk_within_bound(&self) {
        let on_disk: u64 = self.rig.store.batches.values().map(|batch| batch.body.len() as u64).sum();
        assert!(on_disk <= self.max_spool_bytes.max(self.most_flying), "{on_disk} bytes are on disk");
    }
}

proptest! {
    /// Whatever happens without a store, in whatever order, the sums add up and the bounds hold.
    #[test]
    fn without_a_store_the_sums_always_add_up(in_order: bool, steps in vec(any_step(), 0..200)) {
        let mut pipeline = pipeline(tight(in_order, 0));
        let (mut now, mut flying) = (0, Vec::new());
        for step in steps {
            match step {
                Step::Admit(_) => drop(admit(&mut pipeline, now)),
                Step::SampleOut => pipeline.sampled_out(None),
                Step::Begin => flying.extend(begin(&mut pipeline, now)),
                Step::Settle(which, outcome) if !flying.is_empty() => {
                    let id = flying.swap_remove(which % flying.len());
                    settle(&mut pipeline, id, outcome, now);
                }
                Step::Wait(nanos) => now += nanos,
                Step::Drain => pipeline.drain(Monotonic(now + SECOND), at(now)),
                Step::Close => drop(pipeline.close(at(now))),
                Step::Settle(..) | Step::Commit | Step::Load | Step::Persist => {}
            }
            let snapshot = snapshot(&pipeline);
            prop_assert!(snapshot.adds_up(), "{:?}", snapshot);
            prop_assert!(snapshot.queued_items <= 12 && snapshot.spooled == 0);
            prop_assert!(snapshot.requests_in_flight <= 2);
            prop_assert!(pipeline.take_ops().is_empty());
        }
    }

    /// A crash at any instant. Every output whose inputs were durable is counted once over both runs and delivered, unless
    /// it is refused; nothing is delivered more than twice, and nothing that is known to be delivered a second time; nothing
    /// is sent before its inputs are durable.
    #[test]
    fn a_crash_loses_and_doubles_nothing_in_the_sums(
        in_order: bool, max_spool_bytes in any_spool_bytes(), steps in vec(any_step(), 0..250),
    ) {
        let mut run = Run::new(tight(in_order, max_spool_bytes));
        for step in steps {
            run.step(step);
            run.ensure_disk_within_bound();
        }
        // Requests on their way may arrive, though nobody hears the answer: `sent` counts them.
        let store = run.rig.crash();
        let settled: Vec<_> = store.settled.clone();
        let exported_before = store.exported;

        let journalled = store.journalled;
        let unknown: Vec<_> = (0..journalled).filter(|ordinal| !store.knows(*ordinal)).collect();
        let on_disk: Vec<u64> = store
            .batches
            .values()
            .flat_map(|batch| names(&batch.body))
            .map(|name| name.parse().unwrap())
            .collect();
        let mut roomy = PipelineSettings { batch: tight(in_order, 0).batch, ..settings() };
        roomy.queue.in_order = in_order;
        let mut again = Rig::on(store, roomy, run.rig.now);
        let needs = again.store.durable;
        for ordinal in &unknown {
            prop_assert_eq!(again.admit_again(*ordinal, needs), Ok(()));
        }
        let snapshot = again.snapshot();
        prop_assert_eq!(snapshot.made, journalled, "each output is counted once: {:?}", snapshot);
        prop_assert_eq!(snapshot.exported, exported_before);

        let delivered: Vec<u64> =
            again.deliver_all().iter().map(|name| name.parse().unwrap()).collect();
        let mut expected: Vec<_> = unknown.iter().chain(&on_disk).copied().collect();
        let mut sorted = delivered.clone();
        expected.sort_unstable();
        sorted.sort_unstable();
        let expired = again.snapshot().refused.get("retry_expired").copied().unwrap_or(0) > 0;
        prop_assert!(expired || sorted == expected, "{:?} {:?}", sorted, expected);
        for ordinal in delivered {
            let times = run.sent.entry(ordinal).or_default();
            *times += 1;
            prop_assert!(*times <= 2, "{ordinal} was delivered {times} times");
            let is_on_disk = on_disk.contains(&ordinal);
            prop_assert!(is_on_disk || !settled.iter().any(|origin| origin.ordinals.contains(&ordinal)));
        }
        let snapshot = again.snapshot();
        prop_assert_eq!(snapshot.made, snapshot.exported + snapshot.sampled_out + snapshot.refused_total());
        again.commit();
        prop_assert!(again.store.batches.is_empty());
        let sums = again.store.sums();
        prop_assert_eq!(sums.exported, snapshot.exported);
        let written: u64 = sums.refused.values().sum();
        prop_assert_eq!(written, snapshot.refused_total() + snapshot.sampled_out);
    }
}

proptest! {
    /// A store that breaks and works again, at any instant: the sums add up after every call, and what is not refused is
    /// delivered.
    #[test]
    fn a_store_that_breaks_at_any_instant_costs_nothing(
        in_order: bool, max_spool_bytes in any_spool_bytes(), steps in vec((any_step(), 0_u8..20), 0..250),
    ) {
        let mut run = Run::new(tight(in_order, max_spool_bytes));
        run.rig.store.journalled = u64::MAX;
        for (step, trouble) in steps {
            match trouble {
                0 => {
                    run.rig.store.works = false;
                    run.rig.store.lose();
                    run.rig.tell();
                }
                1 if !run.rig.store.works => {
                    run.rig.persist(true);
                    run.rig.store.works = true;
                    run.rig.tell();
                }
                _ => {}
            }
            if !matches!(step, Step::Drain | Step::Close) {
                run.step(step);
                run.rig.store.journalled = u64::MAX;
            }
        }
        if !run.rig.store.works {
            run.rig.persist(true);
            run.rig.store.works = true;
        }
        run.flying.drain(..).for_each(|request| run.rig.settle(request.id, accepted()));
        run.rig.deliver_all();
        let snapshot = run.rig.snapshot();
        prop_assert_eq!(snapshot.queued_items + snapshot.spooled, 0);
        prop_assert!(!snapshot.refused.contains_key("spool_damaged"), "{:?}", snapshot);
    }
}

proptest! {
    /// A start with less room than the run before left taken.
    #[test]
    fn a_start_with_less_room_keeps_the_newest(
        in_order: bool, max_spool_bytes in 0_u64..4000, steps in vec(any_step(), 0..250),
    ) {
        let mut run = Run::new(tight(in_order, 8000));
        steps.into_iter().for_each(|step| run.step(step));
        let store = run.rig.crash();
        let left: u64 = store.batches.values().map(|batch| batch.entry.items).sum();
        let mut again = Rig::on(store, tight(in_order, max_spool_bytes), run.rig.now);
        let snapshot = again.snapshot();
        prop_assert!(snapshot.spooled_bytes <= max_spool_bytes);
        again.commit();
        let kept: Vec<_> = again.store.left();
        prop_assert_eq!(kept.iter().map(|entry| entry.bytes).sum::<u64>(), snapshot.spooled_bytes);
        prop_assert_eq!(kept.iter().map(|entry| entry.items).sum::<u64>(), snapshot.spooled);
        let gave_way = snapshot.refused.get("gave_way").copied().unwrap_or(0);
        prop_assert!(left <= snapshot.spooled + gave_way);
    }
}

/// The model is what the laws rest on.
#[test]
fn the_model_forgets_what_was_not_durable() {
    let mut store = ModelStore::new();
    store.journal(1);
    store.journal(2);
    store.commit();
    store.lose();
    assert_eq!((store.journalled, store.commit()), (1, false));
}
