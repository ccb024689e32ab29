//! Who is whose parent, and in which trace.

use std::time::Duration;

use snakepit_otel_bridge::engine::span::SpanKind;

use super::bench_worker::{Bench, MS, Sent, US, start, stop, text, times};

/// Start and stop of one span.
fn pair(operation: &str, from: i64, to: i64) -> [Sent; 2] {
    [start(operation, from).corr("c"), stop(operation, from, to - from).corr("c")]
}

/// Sends every event in its own order of time.
fn in_order(bench: &mut Bench, pairs: &[[Sent; 2]]) {
    let mut events: Vec<&Sent> = pairs.iter().flatten().collect();
    events.sort_by_key(|event| event.timestamp);
    for event in events {
        bench.arrive_at(event.timestamp - super::bench_worker::EPOCH).send(event);
    }
    bench.settled();
}

fn parent_of(bench: &Bench, child: &str) -> Option<String> {
    let parent = bench.span(child).parent_span_id?;
    let found = bench.spans.iter().find(|span| span.span_id == parent).expect("a parent that is exported");
    Some(found.name.trim_start_matches("snakepit.python.").to_owned())
}

#[test]
fn a_span_is_nested_in_the_one_that_contains_it_and_starts_latest() {
    let mut bench = Bench::new();
    let pairs =
        [pair("request", 0, 90 * MS), pair("tool", 10 * MS, 80 * MS), pair("model", 20 * MS, 30 * MS)];
    in_order(&mut bench, &pairs);
    assert_eq!(parent_of(&bench, "model").as_deref(), Some("tool"));
    assert_eq!(parent_of(&bench, "tool").as_deref(), Some("request"));
    assert_eq!(parent_of(&bench, "request"), None);
    assert_eq!(text(bench.span("model"), "snakepit.parent"), Some("inferred"));
    assert_eq!(bench.span("request").kind, SpanKind::Server);
    assert_eq!(bench.span("model").kind, SpanKind::Internal);
    let trace = bench.span("request").trace_id;
    assert!(bench.spans.iter().all(|span| span.trace_id == trace));
    // printf c | sha256sum
    assert_eq!(trace.to_string(), "2e7d2c03a9507ae265ecf5b5356885a5");
}

#[test]
fn any_order_within_the_window_gives_the_same_parents() {
    let pairs = [
        pair("request", 0, 90 * MS),
        pair("tool", 10 * MS, 80 * MS),
        pair("model", 20 * MS, 30 * MS),
        pair("cache", 40 * MS, 41 * MS),
    ];
    let mut bench = Bench::new();
    let mut events: Vec<&Sent> = pairs.iter().flatten().collect();
    events.sort_by_key(|event| std::cmp::Reverse(event.timestamp));
    for event in events {
        bench.send(event).pass(Duration::from_millis(50));
    }
    bench.settled();
    let parents: Vec<_> = ["request", "tool", "model", "cache"].map(|name| parent_of(&bench, name)).to_vec();
    let expected = [None, Some("request"), Some("tool"), Some("tool")].map(|name| name.map(str::to_owned));
    assert_eq!(parents, expected);
    assert_eq!(bench.ledger().paired, 8);
}

#[test]
fn twins_are_siblings_and_not_parents() {
    let mut bench = Bench::new();
    let pairs = [pair("gather", 0, 90 * MS), pair("tool", 10 * MS, 80 * MS), pair("tool", 20 * MS, 30 * MS)];
    in_order(&mut bench, &pairs);
    let gather = bench.span("gather").span_id;
    let tools = bench.spans.iter().filter(|span| span.name.ends_with("tool"));
    assert_eq!(tools.map(|span| span.parent_span_id).collect::<Vec<_>>(), [Some(gather), Some(gather)]);
}

#[test]
fn where_candidates_overlap_the_parent_is_their_common_encloser() {
    let mut bench = Bench::new();
    let pairs = [
        pair("outer", 0, 100 * MS),
        pair("left", 10 * MS, 60 * MS),
        pair("right", 20 * MS, 80 * MS),
        pair("child", 30 * MS, 40 * MS),
    ];
    in_order(&mut bench, &pairs);
    assert_eq!(parent_of(&bench, "child").as_deref(), Some("outer"));
    assert_eq!(parent_of(&bench, "right").as_deref(), Some("outer"));
}

#[test]
fn spans_of_other_correlation_ids_and_without_one_do_not_nest() {
    let mut bench = Bench::new();
    bench.send(&start("request", 0).corr("c"));
    bench.send(&start("other", MS).corr("d")).send(&stop("other", MS, MS).corr("d"));
    bench.send(&start("none", MS)).send(&stop("none", MS, MS));
    bench.send(&stop("request", 0, 10 * MS).corr("c"));
    bench.settled();
    assert!(bench.spans.iter().all(|span| span.parent_span_id.is_none()));
}

#[test]
fn a_span_without_correlation_does_not_wait() {
    let mut bench = Bench::new();
    bench.send(&start("none", 0)).send(&stop("none", 0, MS));
    assert_eq!(bench.spans.len(), 1);
    bench.send(&start("c", 0).corr("c")).send(&stop("c", 0, MS).corr("c"));
    assert_eq!(bench.spans.len(), 1);
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.spans.len(), 2);
}

#[test]
fn a_worker_that_runs_one_thing_at_a_time_nests_without_correlation() {
    let mut bench = Bench::with(|settings| settings.one_at_a_time = vec!["worker_*".to_owned()], |_, _| {});
    bench.send(&start("a", 0)).send(&start("b", MS)).send(&stop("b", MS, MS)).send(&stop("a", 0, 5 * MS));
    bench.settled();
    assert_eq!(parent_of(&bench, "b").as_deref(), Some("a"));
    assert_eq!(bench.span("a").trace_id, bench.span("b").trace_id);
}

#[test]
fn a_traceparent_makes_a_remote_parent_and_a_server_span() {
    let mut bench = Bench::new();
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let with = |sent: Sent| sent.meta("traceparent", traceparent).meta("tracestate", "vendor=1");
    bench.send(&with(start("outer", 0))).send(&with(start("inner", MS)));
    bench.send(&with(stop("inner", MS, MS))).send(&with(stop("outer", 0, 9 * MS)));
    bench.settled();
    let (outer, inner) = (bench.span("outer"), bench.span("inner"));
    assert_eq!(outer.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(outer.parent_span_id.unwrap().to_string(), "00f067aa0ba902b7");
    assert!(outer.parent_is_remote && outer.kind == SpanKind::Server);
    assert_eq!(inner.parent_span_id, Some(outer.span_id), "an open local span beats a repeated traceparent");
    assert!(!inner.parent_is_remote);
    assert_eq!(inner.trace_state.as_deref(), Some("vendor=1"));
    assert_eq!(text(inner, "traceparent"), None);
}

#[test]
fn a_child_takes_its_parents_trace_whatever_its_own_metadata_say() {
    let mut bench = Bench::new();
    let foreign = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    bench.send(&start("outer", 0).corr("c"));
    bench.send(&start("inner", MS).corr("c").meta("traceparent", foreign));
    bench.send(&stop("inner", MS, MS).corr("c").meta("traceparent", foreign));
    bench.send(&stop("outer", 0, 9 * MS).corr("c"));
    bench.settled();
    let (outer, inner) = (bench.span("outer"), bench.span("inner"));
    assert_eq!((inner.trace_id, inner.parent_span_id), (outer.trace_id, Some(outer.span_id)));
    assert_eq!(inner.trace_flags, outer.trace_flags);
}

#[test]
fn open_ancestors_are_judged_before_their_descendant() {
    let mut bench = Bench::new();
    let foreign = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    bench.send(&start("outer", 0).corr("c").meta("traceparent", foreign));
    bench.send(&start("middle", MS).corr("c")).send(&start("inner", 2 * MS).corr("c"));
    bench.send(&stop("inner", 2 * MS, MS).corr("c")).pass(Duration::from_secs(1));
    let trace = bench.span("inner").trace_id.to_string();
    assert_eq!(trace, "4bf92f3577b34da6a3ce929d0e0e4736", "through the open middle span");
    bench.send(&stop("middle", MS, 5 * MS).corr("c")).send(&stop("outer", 0, 9 * MS).corr("c"));
    bench.settled();
    assert_eq!(parent_of(&bench, "inner").as_deref(), Some("middle"));
    assert_eq!(parent_of(&bench, "middle").as_deref(), Some("outer"));
}

#[test]
fn a_held_parent_in_another_trace_is_judged_before_its_child() {
    let mut bench = Bench::new();
    let foreign = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    bench.send(&start("outer", 0).corr("c").meta("traceparent", foreign));
    bench.send(&start("middle", MS).corr("c")).send(&start("inner", 2 * MS).corr("c"));
    bench.send(&stop("inner", 2 * MS, MS).corr("c")).pass(Duration::from_millis(100));
    bench.send(&stop("middle", MS, 5 * MS).corr("c")).send(&stop("outer", 0, 9 * MS).corr("c"));
    bench.settled();
    let trace = bench.span("outer").trace_id;
    assert!(bench.spans.iter().all(|span| span.trace_id == trace), "{:#?}", bench.spans);
    assert_eq!(parent_of(&bench, "inner").as_deref(), Some("middle"));
}

#[test]
fn a_waiting_end_that_could_be_the_parent_is_decided_first() {
    let mut bench = Bench::new();
    bench.send(&start("child", 10 * MS).corr("c")).send(&stop("child", 10 * MS, MS).corr("c"));
    // The parent's start was lost; its end comes just before the child's window closes.
    bench.pass(Duration::from_millis(400)).send(&stop("parent", 0, 400 * MS).corr("c"));
    bench.settled();
    assert_eq!(parent_of(&bench, "child").as_deref(), Some("parent"));
    assert_eq!(bench.ledger().rebuilt, 1);
}

#[test]
fn an_incomplete_span_counts_as_open_for_nesting_until_its_end_comes() {
    let mut bench = Bench::new();
    bench.send(&start("outer", 0).corr("c")).pass(Duration::from_secs(700));
    let began = 700 * super::bench_worker::SECOND;
    bench.send(&start("inner", began).corr("c")).send(&stop("inner", began, MS).corr("c"));
    bench.settled();
    assert_eq!(parent_of(&bench, "inner").as_deref(), Some("outer"));
}

#[test]
fn a_child_of_a_thousand_sequential_siblings_finds_its_parent() {
    let mut bench = Bench::new();
    bench.send(&start("request", 0).corr("c"));
    for number in 0..1000 {
        let at = 10 * US * (number + 1);
        bench.send(&start("step", at).corr("c")).send(&start("leaf", at + US).corr("c"));
        bench.send(&stop("leaf", at + US, US).corr("c")).send(&stop("step", at, 8 * US).corr("c"));
    }
    bench.send(&stop("request", 0, 20 * MS).corr("c"));
    bench.settled();
    let request = bench.span("request").span_id;
    for span in &bench.spans {
        let parent = bench.spans.iter().find(|other| Some(other.span_id) == span.parent_span_id);
        match span.name.rsplit('.').next().unwrap() {
            "step" => assert_eq!(span.parent_span_id, Some(request)),
            "leaf" => {
                let parent = parent.expect("a leaf has a parent");
                assert!(parent.name.ends_with("step"), "{parent:?}");
                assert!(parent.start <= span.start && parent.end >= span.end);
            }
            _ => assert_eq!(span.parent_span_id, None),
        }
    }
    assert_eq!(bench.ledger().notes.nesting_gave_up, 0);
}

#[test]
fn two_hundred_levels_are_nested_one_in_the_other() {
    let mut bench = Bench::new();
    for level in 0..200 {
        bench.send(&start(&format!("level{level}"), level * US).corr("c"));
    }
    for level in (0..200).rev() {
        let (from, to) = (level * US, 10 * MS - level * US);
        bench.send(&stop(&format!("level{level}"), from, to - from).corr("c"));
    }
    bench.settled();
    for level in 1..200 {
        let parent = bench.span(&format!("level{}", level - 1)).span_id;
        assert_eq!(bench.span(&format!("level{level}")).parent_span_id, Some(parent), "level {level}");
    }
    assert_eq!(bench.ledger().notes.nesting_gave_up, 0);
}

#[test]
fn where_the_sixty_four_latest_candidates_are_all_in_dispute_there_is_no_parent() {
    let mut bench = Bench::new();
    bench.send(&start("outer", 0).corr("c"));
    for number in 0..70 {
        bench.send(&start("twin", (number + 1) * US).corr("c"));
    }
    bench.send(&start("leaf", MS).corr("c")).send(&stop("leaf", MS, US).corr("c"));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.span("leaf").parent_span_id, None);
    assert_eq!(bench.ledger().notes.nesting_gave_up, 1);
}

#[test]
fn the_same_input_gives_the_same_ids() {
    let run = || {
        let mut bench = Bench::new();
        bench.send(&start("a", 0)).send(&start("a", 0).meta("x", "1")).send(&start("b", 0).corr("c"));
        bench.send(&stop("a", 0, MS)).send(&stop("a", 0, 2 * MS)).send(&stop("b", 0, MS).corr("c"));
        bench.send(&stop("z", 50 * MS, MS)).settled();
        bench.spans
    };
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    let ids: std::collections::BTreeSet<_> = first.iter().map(|span| span.span_id).collect();
    assert_eq!(ids.len(), first.len(), "equal spans have different ids");
}

#[test]
fn two_ends_alone_that_may_contain_each_other_are_no_circle() {
    // Both intervals begin a tolerance before the estimate, and both end in the same nanosecond.
    for (first, second) in [("a", "b"), ("b", "a")] {
        let mut bench = Bench::new();
        bench.send(&stop(first, 0, 5 * MS).corr("c")).send(&stop(second, US, 5 * MS - US).corr("c"));
        bench.settled();
        assert_eq!(parent_of(&bench, second).as_deref(), Some(first));
        assert_eq!(parent_of(&bench, first), None);
    }
}

#[test]
fn an_end_alone_and_a_pair_that_may_contain_each_other_are_no_circle() {
    for (pair, alone) in [("a", "b"), ("b", "a")] {
        let mut bench = Bench::new();
        bench.send(&start(pair, 0).corr("c")).send(&stop(pair, 0, 5 * MS).corr("c"));
        bench.send(&stop(alone, US, 5 * MS - US).corr("c"));
        bench.settled();
        let parents = [parent_of(&bench, pair), parent_of(&bench, alone)];
        assert_eq!(parents.iter().flatten().count(), 1, "{parents:?}");
    }
}

#[test]
fn a_long_line_of_held_ancestors_is_one_trace() {
    let mut bench = Bench::new();
    let foreign = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    bench.send(&start("outermost", 0).corr("c").meta("traceparent", foreign));
    let inner = ["outer", "middle", "inner", "innermost"];
    for (number, operation) in (1..).zip(inner) {
        bench.send(&start(operation, number * MS).corr("c"));
    }
    for (number, operation) in (1..).zip(inner).collect::<Vec<_>>().into_iter().rev() {
        bench.send(&stop(operation, number * MS, (20 - 2 * number) * MS).corr("c"));
        bench.pass(Duration::from_millis(50));
    }
    bench.send(&stop("outermost", 0, 60 * MS).corr("c"));
    bench.settled();
    let trace = bench.span("outermost").trace_id;
    assert!(bench.spans.iter().all(|span| span.trace_id == trace), "{:#?}", bench.spans);
    assert_eq!(parent_of(&bench, "innermost").as_deref(), Some("inner"));
}

#[test]
fn a_parent_that_is_rebuilt_late_moves_nobody_s_trace() {
    let mut bench = Bench::new();
    let foreign = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    bench.send(&start("middle", MS).corr("c")).send(&start("inner", 2 * MS).corr("c"));
    bench.send(&stop("inner", 2 * MS, MS).corr("c")).pass(Duration::from_millis(300));
    bench.send(&stop("middle", MS, 5 * MS).corr("c")).pass(Duration::from_millis(300));
    bench.send(&stop("outer", 0, 9 * MS).corr("c").meta("traceparent", foreign));
    bench.settled();
    let trace = bench.span("outer").trace_id;
    assert!(bench.spans.iter().all(|span| span.trace_id == trace), "{:#?}", bench.spans);
}

#[test]
fn the_oldest_is_judged_early_where_too_many_are_held() {
    let mut bench = Bench::with(|settings| settings.limits.max_held_per_worker = 2, |_, _| {});
    for [from, to] in [pair("a", 0, MS), pair("b", 2 * MS, 3 * MS), pair("c", 4 * MS, 5 * MS)] {
        bench.send(&from).send(&to);
    }
    assert_eq!((bench.spans.len(), bench.ledger().notes.judged_early), (1, 1));
}

/// The end of `middle` is on its way while `outer`, which is around it, is over already.
#[test]
fn an_open_parent_that_may_be_over_is_waited_for() {
    for child in ["outer", "inner"] {
        let mut bench = Bench::new();
        for [from, _] in [pair("outer", 0, 40 * MS), pair("middle", 5 * MS, 30 * MS)] {
            bench.send(&from);
        }
        pair(child, 6 * MS, 7 * MS).iter().for_each(|event| {
            bench.send(event);
        });
        bench.arrive_at(40 * MS).send(&pair("outer", 0, 40 * MS)[1]);
        bench.arrive_at(510 * MS).send(&pair("middle", 5 * MS, 30 * MS)[1]);
        bench.settled();
        let parent = |from: i64| bench.spans.iter().find(|span| times(span).0 == from).unwrap();
        assert_eq!(parent(6 * MS).parent_span_id, Some(parent(5 * MS).span_id), "{child}");
        assert_eq!(parent(5 * MS).parent_span_id, Some(parent(0).span_id), "{child}");
    }
}
