//! The specification's vectors, and the laws of consistent sampling.

use proptest::prelude::*;

use super::*;
use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::span::{SpanId, SpanKind, Status, TraceId};
use crate::engine::trace_state::threshold_digits;
use crate::time::UnixNanos;
use crate::worker::Source;

fn span(trace_id: &str) -> Span {
    let mut id = [0; 16];
    hex::decode_to_slice(trace_id, &mut id).unwrap();
    Span {
        source: Arc::new(Source {
            serial: 1,
            worker_id: "worker_1".into(),
            node: "node".into(),
            pool: None,
            pid: None,
            host: None,
            same_host: true,
        }),
        trace_id: TraceId(id),
        span_id: SpanId([1; 8]),
        parent_span_id: None,
        parent_is_remote: false,
        trace_flags: TraceFlags::SAMPLED_RANDOM,
        sampling_is_decided: false,
        trace_state: None,
        name: "call".into(),
        kind: SpanKind::Internal,
        start: UnixNanos(1_000),
        end: UnixNanos(2_000),
        attributes: Attributes::default(),
        events: Vec::new(),
        dropped_events: 0,
        links: Vec::new(),
        dropped_links: 0,
        status: Status::Unset,
    }
}

const W3C: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn with_state(state: &str) -> Span {
    Span { trace_state: Some(Arc::from(state)), ..span(W3C) }
}

fn sampler(settings: SamplerSettings) -> Sampler {
    Sampler::new(settings, Exceptions::default())
}

fn ratio(p: f64) -> SamplerSettings {
    SamplerSettings::Ratio(Ratio::new(p).unwrap())
}

/// Whether the span is kept, its trace state and its flags.
fn judged(settings: &SamplerSettings, mut span: Span) -> (bool, String, u8) {
    let keeps = sampler(settings.clone()).judge(&mut span);
    (keeps, span.trace_state.as_deref().unwrap_or_default().to_owned(), span.trace_flags.0)
}

#[test]
fn thresholds_have_four_digits_after_the_leading_fs() {
    for (p, digits, real) in [
        (1.0, "0", 1.0),
        (0.75, "4", 0.75),
        (0.5, "8", 0.5),
        (0.25, "c", 0.25),
        (0.125, "e", 0.125),
        (0.9, "199a", 0.899_993_896_484_375),
        (1.0 / 3.0, "aaab", 0.333_328_247_070_312_5),
        (0.1, "e666", 0.100_006_103_515_625),
        (0.99, "028f", 0.990_005_5),
        (0.05, "f3333", 0.050_000_2),
        (0.01, "fd70a", 0.010_000_2),
        (0.001, "ffbe77", 0.000_999_987),
        // Rounded to nothing; an empty text would be no threshold.
        (1.0 - 2_f64.powi(-18), "0", 1.0),
        (2_f64.powi(-56), "ffffffffffffff", 2_f64.powi(-56)),
        (0.57, "6e14", 0.57),
        (0.56, "70a4", 0.56),
    ] {
        let threshold = Ratio::new(p).unwrap().threshold().unwrap();
        assert_eq!(threshold_digits(threshold), digits, "{p}");
        #[expect(clippy::cast_precision_loss, reason = "seven digits are compared")]
        let is = (RANGE - threshold) as f64 / 2_f64.powi(56);
        assert!((is - real).abs() < 1e-4 && (is / real - 1.0).abs() < 1e-4, "{p}: {is}");
    }
    assert_eq!(Ratio::new(0.0).unwrap().threshold(), None);
    assert_eq!(Ratio::new(2_f64.powi(-57)).unwrap().threshold(), None);
    for junk in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(Ratio::new(junk).is_err(), "{junk}");
    }
}

#[test]
fn traces_are_kept_as_the_reference_vectors_say() {
    let id = |last: &str| format!("{}{last}", "0".repeat(18));
    for (trace_id, kept) in [
        (W3C.to_owned(), [true, true, false]),
        ("0af7651916cd43dd8448eb211c80319c".to_owned(), [false, false, false]),
        ("9456bdfa12ea76959c94a3572f5d91c7".to_owned(), [true, false, false]),
        ("bc0e142195cb27a6127a29283e0ccdfb".to_owned(), [false, false, false]),
        ("749e7e1c63a152e701f9ae4d52d9dc8f".to_owned(), [true, true, true]),
        ("70a6686b614a947c9af6995fa87c5727".to_owned(), [true, true, true]),
        (id("80000000000000"), [true, false, false]),
        (id("7fffffffffffff"), [false, false, false]),
        (id("c0000000000000"), [true, true, false]),
        (id("e6660000000000"), [true, true, true]),
        (id("e665ffffffffff"), [true, true, false]),
    ] {
        for ((p, th), kept) in [(0.5, "8"), (0.25, "c"), (0.1, "e666")].into_iter().zip(kept) {
            let (keeps, state, _) = judged(&ratio(p), span(&trace_id));
            assert_eq!(keeps, kept, "{trace_id} {p}");
            assert_eq!(state, if kept { format!("ot=th:{th}") } else { String::new() }, "{trace_id} {p}");
        }
    }
}

#[test]
fn given_randomness_beats_the_trace_id() {
    let keeps = |p| judged(&ratio(p), with_state("ot=rv:6e6d1a75832a2f"));
    assert!(!keeps(0.5).0 && !keeps(0.25).0 && !keeps(0.1).0 && !keeps(0.56).0);
    assert_eq!(keeps(0.57), (true, "ot=th:6e14;rv:6e6d1a75832a2f".to_owned(), 3));
}

#[test]
fn a_threshold_that_is_there_is_only_raised() {
    // R of this trace is .8069.
    assert_eq!(judged(&ratio(0.5), with_state("ot=th:c,a=1")).1, "ot=th:c,a=1");
    assert_eq!(judged(&ratio(0.25), with_state("a=1,ot=th:8")).1, "ot=th:c,a=1");
    assert!(!judged(&ratio(0.1), with_state("ot=th:8")).0);
    // It says that the span is not here.
    assert_eq!(judged(&ratio(0.5), with_state("ot=th:f,a=1")), (true, "a=1".to_owned(), 3));
    assert_eq!(judged(&SamplerSettings::AlwaysOn, with_state("ot=th:f,a=1")).1, "a=1");
    assert_eq!(judged(&SamplerSettings::AlwaysOn, with_state("ot=th:f")).1, "");
    assert_eq!(judged(&SamplerSettings::AlwaysOn, with_state("ot=th:8")).1, "ot=th:8");
}

#[test]
fn always_on_and_off_and_the_edges_of_a_ratio() {
    assert_eq!(judged(&SamplerSettings::AlwaysOn, span(W3C)), (true, String::new(), 3));
    assert!(!judged(&SamplerSettings::AlwaysOff, span(W3C)).0);
    assert!(!judged(&ratio(0.0), span(W3C)).0);
    assert_eq!(judged(&ratio(1.0), span(&format!("01{}", "0".repeat(30)))).1, "ot=th:0");
}

#[test]
fn what_a_parent_decided_stands() {
    let root = SamplerSettings::parent_based(ratio(0.1));
    let decided = |is_remote: bool, flags: u8, state: &str| {
        let mut span = with_state(state);
        (span.sampling_is_decided, span.parent_is_remote) = (true, is_remote);
        span.trace_flags = TraceFlags(flags);
        judged(&root, span)
    };
    for is_remote in [true, false] {
        // A ratio of 10 % would drop this trace.
        assert_eq!(decided(is_remote, 1, "a=1"), (true, "a=1".to_owned(), 1));
        assert_eq!(decided(is_remote, 1, "ot=th:c"), (true, "ot=th:c".to_owned(), 1));
        assert_eq!(decided(is_remote, 1, "ot=th:f"), (true, String::new(), 1), "it does not fit");
        assert!(!decided(is_remote, 0, "a=1").0);
    }
    assert!(!judged(&root, span(W3C)).0, "nobody decided about this one");
    assert!(judged(&root, span("749e7e1c63a152e701f9ae4d52d9dc8f")).0);
}

/// `traceidratio` ignores parents and so may tear traces: that is what its users ask for.
#[test]
fn a_ratio_alone_ignores_parents() {
    let mut remote = span(W3C);
    (remote.sampling_is_decided, remote.parent_is_remote) = (true, true);
    remote.trace_flags = TraceFlags(0);
    assert_eq!(judged(&ratio(0.5), remote), (true, "ot=th:8".to_owned(), 1));
}

#[test]
fn each_branch_of_a_parent_has_its_sampler() {
    let settings = SamplerSettings::ParentBased(Box::new(ParentBased {
        root: SamplerSettings::AlwaysOff,
        remote_sampled: ratio(0.5),
        remote_not_sampled: SamplerSettings::parent_based(SamplerSettings::AlwaysOn),
        local_sampled: SamplerSettings::AlwaysOff,
        local_not_sampled: SamplerSettings::AlwaysOn,
    }));
    let keeps = |is_decided: bool, is_remote: bool, flags: u8| {
        let mut span = span(W3C);
        (span.sampling_is_decided, span.parent_is_remote) = (is_decided, is_remote);
        span.trace_flags = TraceFlags(flags);
        judged(&settings, span).0
    };
    assert!(!keeps(false, false, 1));
    assert!(keeps(true, true, 1));
    assert!(!keeps(true, true, 0), "off once more, in the sampler within");
    assert!(!keeps(true, false, 1));
    assert!(keeps(true, false, 0));
}

#[test]
fn a_threshold_without_room_is_left_out() {
    let long = format!("ot=x:{}", "y".repeat(250));
    assert_eq!(judged(&ratio(0.5), with_state(&long)), (true, long, 3));
}

#[test]
fn errors_and_slow_spans_are_kept_alone_and_marked() {
    let exceptions = Exceptions { errors: true, slower_than_ns: Some(1_001) };
    let sampler = Sampler::new(SamplerSettings::AlwaysOff, exceptions);
    let mut failed = Span { status: Status::Error("boom".into()), ..with_state("ot=th:8;rv:6e6d1a75832a2f") };
    assert!(sampler.judge(&mut failed));
    assert_eq!(failed.trace_state.as_deref(), Some("ot=rv:6e6d1a75832a2f"));
    assert_eq!(failed.attributes.value("snakepit.sampling"), Some(AttributeValue::Text("kept")));
    let mut slow = Span { end: UnixNanos(2_001), ..span(W3C) };
    assert!(sampler.judge(&mut slow));
    assert!(!sampler.judge(&mut span(W3C)));
    let mut kept = Span { status: Status::Error("boom".into()), ..span(W3C) };
    assert!(Sampler::new(SamplerSettings::AlwaysOn, exceptions).judge(&mut kept));
    assert_eq!(kept.attributes.value("snakepit.sampling"), None, "it is not here by exception");
}

#[test]
fn a_mark_keeps_to_the_limit_of_attributes() {
    let marked = |max| {
        let sampler =
            Sampler::new(SamplerSettings::AlwaysOff, Exceptions { errors: true, ..Exceptions::default() });
        let mut failed = Span { status: Status::Error("boom".into()), ..span(W3C) };
        for key in ["a", "b"] {
            failed.attributes.set(key, AttributeValue::Text("x"));
        }
        assert!(sampler.with_max_attributes(max).judge(&mut failed));
        let keys: Vec<_> = failed.attributes.iter().map(|(key, _)| key.to_owned()).collect();
        (keys.join(","), failed.attributes.dropped())
    };
    assert_eq!(marked(3), ("a,b,snakepit.sampling".to_owned(), 0));
    assert_eq!(marked(2), ("a,snakepit.sampling".to_owned(), 1));
}

#[test]
fn what_is_always_kept_keeps_its_trace_state_without_a_copy() {
    let mut span = with_state("ot=rv:6e6d1a75832a2f,a=1");
    let before = span.trace_state.clone().unwrap();
    assert!(sampler(SamplerSettings::AlwaysOn).judge(&mut span));
    assert!(Arc::ptr_eq(&before, span.trace_state.as_ref().unwrap()));
}

proptest! {
    /// What is asked beforehand is what is judged.
    #[test]
    fn keeping_is_foretold(
        id: [u8; 16],
        p in 0.0..1.0_f64,
        state in proptest::sample::select(vec!["", "ot=th:8", "ot=rv:6e6d1a75832a2f", "ot=th:8;rv:6e6d1a75832a2f"]),
        (is_parent_based, is_decided, is_remote, is_sampled, is_error) in any::<(bool, bool, bool, bool, bool)>(),
    ) {
        let settings = if is_parent_based { SamplerSettings::parent_based(ratio(p)) } else { ratio(p) };
        let sampler = Sampler::new(settings, Exceptions { errors: true, ..Exceptions::default() });
        let mut span = Span {
            trace_state: (!state.is_empty()).then(|| Arc::from(state)),
            sampling_is_decided: is_decided,
            parent_is_remote: is_remote,
            trace_flags: TraceFlags(u8::from(is_sampled)),
            status: if is_error { Status::Error("boom".into()) } else { Status::Unset },
            ..span(&hex::encode(id))
        };
        let foretold = sampler.keeps(&span);
        prop_assert_eq!(foretold, sampler.judge(&mut span));
    }

    /// A higher ratio keeps all that a lower one keeps.
    #[test]
    fn ratios_nest(id: [u8; 16], low in 0.0..1.0_f64, high in 0.0..1.0_f64) {
        let (low, high) = (low.min(high), low.max(high));
        let trace = hex::encode(id);
        if judged(&ratio(low), span(&trace)).0 {
            prop_assert!(judged(&ratio(high), span(&trace)).0);
        }
    }

    /// Two stages keep what the stricter one alone keeps, and say its threshold.
    #[test]
    fn stages_in_a_row_are_as_the_strictest(id: [u8; 16], first in 0.01..1.0_f64, second in 0.01..1.0_f64) {
        let mut twice = span(&hex::encode(id));
        let keeps = sampler(ratio(first)).judge(&mut twice) && sampler(ratio(second)).judge(&mut twice);
        let (once, state, _) = judged(&ratio(first.min(second)), span(&hex::encode(id)));
        prop_assert_eq!(keeps, once);
        if keeps {
            prop_assert_eq!(twice.trace_state.as_deref(), Some(state.as_str()));
        }
    }
}
