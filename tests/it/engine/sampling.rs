//! Sampling of what the engine makes: a trace is whole or absent.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use snakepit_otel_bridge::engine::sampler::{Exceptions, Ratio, Sampler, SamplerSettings};

use super::bench_worker::{Bench, EPOCH, MS, Sent, start, stop};

/// How a request says to which trace it belongs.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Hashed,
    Verbatim,
    Remote { sampled: bool },
    Derived,
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        3 => Just(Origin::Hashed),
        3 => Just(Origin::Verbatim),
        1 => any::<bool>().prop_map(|sampled| Origin::Remote { sampled }),
        1 => Just(Origin::Derived),
    ]
}

/// The events of a request with this number, with as many spans nested in one another.
fn request(number: usize, origin: Origin, depth: usize) -> Vec<Sent> {
    let from = i64::try_from(number).expect("few requests") * 200 * MS;
    let id = format!("{:032x}", 0x1234_5678_9abc_u64 + number as u64);
    let said = |sent: Sent| match origin {
        Origin::Hashed => sent.corr(&format!("req-{number}")),
        Origin::Verbatim => sent.corr(&id),
        Origin::Remote { sampled } => {
            sent.meta("traceparent", &format!("00-{id}-00f067aa0ba902b7-0{}", u8::from(sampled)))
        }
        Origin::Derived => sent,
    };
    let mut events = Vec::new();
    for level in 0..depth {
        let at = i64::try_from(level).expect("few levels") * MS;
        let operation = format!("level_{level}");
        events.push(said(start(&operation, from + at)));
        events.push(said(stop(&operation, from + at, 100 * MS - 2 * at)));
    }
    events.sort_by_key(|event| event.timestamp);
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(4), ..ProptestConfig::default() })]

    /// All spans of a trace are kept or none is, and those that are kept say the same threshold and flags; a parent that
    /// is not sampled leaves nothing, and one that is leaves everything.
    #[test]
    fn a_trace_is_whole_or_absent(
        requests in vec((origin(), 1_usize..6), 1..12),
        ratio in prop_oneof![Just(0.5), Just(0.25), 0.0..=1.0_f64],
    ) {
        let sampler = Sampler::new(
            SamplerSettings::parent_based(SamplerSettings::Ratio(Ratio::new(ratio).unwrap())),
            Exceptions::default(),
        );
        let mut bench = Bench::new();
        for (number, (origin, depth)) in requests.iter().enumerate() {
            for event in request(number, *origin, *depth) {
                bench.arrive_at(event.timestamp - EPOCH).send(&event);
            }
        }
        bench.settled();
        let mut traces: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for mut span in bench.spans.clone() {
            let remote = span.sampling_is_decided.then(|| span.trace_flags.is_sampled());
            let keeps = sampler.judge(&mut span);
            prop_assert!(remote.is_none_or(|sampled| sampled == keeps));
            let said = keeps.then(|| (span.trace_state.clone(), span.trace_flags.0));
            traces.entry(span.trace_id).or_default().push(said);
        }
        for (trace, said) in traces {
            prop_assert!(said.iter().all(|other| *other == said[0]), "{trace}: {said:?}");
        }
    }
}
