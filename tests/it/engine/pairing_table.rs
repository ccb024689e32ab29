//! The pairing table: each row is a test with the row's meaning as its name.

use std::time::Duration;

use snakepit_otel_bridge::drops::DropReason;
use snakepit_otel_bridge::engine::span::{SpanKind, Status};
use snakepit_otel_bridge::engine::{Input, Output};

use crate::support::repository;

use super::bench_worker::{Bench, MS, SECOND, STREAM, US, event, key, start, stop, text, times};

fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger().dropped[reason.index()]
}

#[test]
fn start_and_stop_become_a_span_without_status() {
    let mut bench = Bench::new();
    bench.send(&start("tool.execution", 0).meta("tool", "fetch"));
    assert_eq!(bench.ledger().pending, 1);
    bench.send(&stop("tool.execution", 0, 5 * MS).meta("tool", "fetch").meta("result", "success"));
    let span = bench.only_span();
    assert_eq!((&*span.name, times(&span)), ("snakepit.python.tool.execution", (0, 5 * MS)));
    assert_eq!(
        (span.status.clone(), span.kind, span.parent_span_id),
        (Status::Unset, SpanKind::Internal, None)
    );
    assert_eq!(text(&span, "snakepit.event"), Some("[:snakepit, :python, :tool, :execution]"));
    assert_eq!((text(&span, "snakepit.tool"), text(&span, "result")), (Some("fetch"), Some("success")));
    let ledger = bench.ledger();
    assert_eq!((ledger.received, ledger.paired, ledger.pending, ledger.spans_made), (2, 2, 0, 1));
}

#[test]
fn a_stop_that_says_ok_makes_the_status_ok() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&stop("a", 0, MS).meta("status", "ok"));
    assert_eq!(bench.only_span().status, Status::Ok);
}

#[test]
fn a_stop_that_speaks_of_an_error_makes_the_status_error() {
    for (key, value) in [("result", "error"), ("status", "ERROR"), ("error", "boom")] {
        let mut bench = Bench::new();
        bench.send(&start("a", 0)).send(&stop("a", 0, MS).meta(key, value));
        let span = bench.only_span();
        assert!(matches!(span.status, Status::Error(_)), "{key}={value}: {:?}", span.status);
        assert_eq!(text(&span, "error"), None, "the key `error` never reaches a backend");
        assert_eq!(text(&span, "error.type"), Some("_OTHER"));
    }
}

#[test]
fn an_error_key_that_says_nothing_is_no_error() {
    for value in ["", "none", "NIL", "Null", "false", "0"] {
        let mut bench = Bench::new();
        bench.send(&start("a", 0)).send(&stop("a", 0, MS).meta("error", value));
        let span = bench.only_span();
        assert_eq!(span.status, Status::Unset, "error={value}");
        assert_eq!(text(&span, "snakepit.error"), Some(value));
    }
}

#[test]
fn start_and_exception_become_a_span_with_an_exception_event() {
    let mut bench = Bench::new();
    let exception = event("a.exception", 2 * MS)
        .int("duration", 2 * MS - 500)
        .meta("error_type", "ValueError")
        .meta("error_message", "not a number")
        .meta("traceback", "File \"x.py\", line 1");
    bench.send(&start("a", 0)).send(&exception);
    let span = bench.only_span();
    assert_eq!(span.status, Status::Error("not a number".into()));
    assert_eq!(text(&span, "error.type"), Some("ValueError"));
    let [event] = &span.events[..] else { panic!("{:?}", span.events) };
    let said: Vec<_> = event.attributes.iter().map(|(key, _)| key).collect();
    assert_eq!((&*event.name, event.time), ("exception", span.end));
    assert_eq!(said, ["exception.type", "exception.message", "exception.stacktrace"]);
    assert_eq!(bench.ledger().paired, 2);
}

#[test]
fn an_exception_in_the_words_of_telemetry_span_is_the_same() {
    let mut bench = Bench::new();
    let exception =
        event("a.exception", MS).meta("kind", "error").meta("reason", "timeout").meta("stacktrace", "at x");
    bench.send(&start("a", 0)).send(&exception);
    let span = bench.only_span();
    assert_eq!(span.status, Status::Error("timeout".into()));
    assert_eq!((text(&span, "error.type"), span.events.len()), (Some("error"), 1));
}

#[test]
fn an_end_before_its_start_is_one_span() {
    let mut bench = Bench::new();
    bench.send(&stop("a", 0, 5 * MS)).pass(Duration::from_millis(499));
    bench.send(&start("a", 0));
    assert_eq!(times(&bench.only_span()), (0, 5 * MS));
    let ledger = bench.ledger();
    assert_eq!((ledger.paired, ledger.rebuilt, ledger.notes.reordered), (2, 0, 1));
}

#[test]
fn an_end_alone_becomes_a_whole_span() {
    let mut bench = Bench::new();
    bench.send(&stop("a", 0, 5 * MS).corr("c"));
    let span = bench.only_span();
    assert_eq!(times(&span), (500, 5 * MS), "it starts at the end's own time less the duration");
    assert_eq!(text(&span, "snakepit.span.rebuilt_from"), Some("stop"));
    assert_eq!(span.status, Status::Unset);
    let ledger = bench.ledger();
    assert_eq!((ledger.received, ledger.rebuilt, ledger.spans_made), (1, 1, 1));
}

#[test]
fn an_end_without_duration_and_without_start_is_a_zero_length_span() {
    let mut bench = Bench::new();
    bench.send(&event("a.stop", 0));
    let span = bench.only_span();
    assert_eq!(times(&span), (0, 1));
    assert_eq!(text(&span, "snakepit.span.incomplete"), Some("missing_start"));
    assert_eq!(bench.ledger().rebuilt, 1);
}

#[test]
fn an_end_without_duration_takes_the_latest_start_not_after_it() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&start("a", MS)).send(&start("a", 3 * MS)).send(&event("a.stop", 2 * MS));
    bench.settled();
    assert_eq!(times(bench.span("a")), (MS, MS));
}

#[test]
fn an_equal_end_within_the_window_is_dropped() {
    let mut bench = Bench::new();
    let end = stop("a", 0, MS).meta("x", "1").meta("y", "2");
    let mut reordered = end.clone();
    reordered.metadata.reverse();
    bench.send(&start("a", 0)).send(&end).send(&end).send(&reordered);
    bench.only_span();
    assert_eq!(dropped(&bench, DropReason::DuplicateEnd), 2);
    assert_eq!(bench.ledger().received, 4);
}

#[test]
fn an_end_equal_to_one_that_made_a_span_alone_is_dropped_for_an_hour() {
    let mut bench = Bench::new();
    let end = stop("a", 0, MS);
    bench.send(&end).pass(Duration::from_secs(3500));
    bench.send(&end);
    bench.only_span();
    assert_eq!(dropped(&bench, DropReason::DuplicateEnd), 1);
}

#[test]
fn an_equal_start_is_dropped_while_its_span_is_open_and_just_after() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&start("a", 0)).send(&stop("a", 0, MS)).send(&start("a", 0));
    bench.only_span();
    assert_eq!(dropped(&bench, DropReason::DuplicateStart), 2);
    assert_eq!(bench.ledger().pending, 0);
}

#[test]
fn two_starts_that_differ_in_anything_are_two_spans() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).meta("n", "1")).send(&start("a", 0).meta("n", "2"));
    assert_eq!(bench.ledger().pending, 2);
    bench.send(&stop("a", 0, MS).meta("n", "2")).send(&stop("a", 0, 2 * MS).meta("n", "1"));
    bench.settled();
    let mut lasted: Vec<_> = bench.spans.iter().map(|span| (text(span, "n"), times(span).1)).collect();
    lasted.sort_unstable();
    assert_eq!(lasted, [(Some("1"), 2 * MS), (Some("2"), MS)], "metadata decide among equals");
    assert_ne!(bench.spans[0].span_id, bench.spans[1].span_id);
}

#[test]
fn a_start_after_its_span_was_rebuilt_is_reconciled() {
    let mut bench = Bench::new();
    bench.send(&stop("a", 0, 5 * MS)).pass(Duration::from_secs(1));
    bench.send(&start("a", 0));
    bench.only_span();
    assert_eq!((dropped(&bench, DropReason::Reconciled), bench.ledger().pending), (1, 0));
}

#[test]
fn an_open_start_that_a_rebuilt_end_explains_is_reconciled_when_it_would_be_closed() {
    // Two twins lie between the end's estimate and either of them, so nothing is taken when its window closes; the
    // tolerance has grown by the time that the start is closed.
    let mut bench = Bench::with(|settings| settings.span_timeout = Duration::from_secs(60), |_, _| {});
    bench.send(&start("b", 0).meta("x", "1"));
    bench.send(&start("b", US).meta("x", "2"));
    bench.send(&stop("b", 12 * US, 5 * MS)).pass(Duration::from_secs(1));
    assert_eq!(bench.ledger().rebuilt, 1, "{:?}", bench.ledger());
    for number in 1..200 {
        let began = number * 10 * MS;
        bench.send(&start("a", began)).send(&stop("a", began + 18 * US, MS)).pass(Duration::from_millis(600));
    }
    bench.pass(Duration::from_secs(120));
    assert_eq!(dropped(&bench, DropReason::Reconciled), 1, "{:?}", bench.ledger());
}

#[test]
fn a_start_without_end_is_closed_by_the_span_timeout() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).corr("c").meta("tool", "fetch")).pass(Duration::from_secs(601));
    let span = bench.only_span();
    assert_eq!(text(&span, "snakepit.span.incomplete"), Some("timeout"));
    assert_eq!(text(&span, "error.type"), Some("timeout"));
    assert_eq!(text(&span, "snakepit.tool"), Some("fetch"), "it carries what the start said");
    assert!(matches!(span.status, Status::Error(_)));
    let (began, lasted) = times(&span);
    assert_eq!((began, lasted / SECOND), (0, 600));
    let ledger = bench.ledger();
    assert_eq!((ledger.incomplete, ledger.notes.incomplete_timeout, ledger.pending), (1, 1, 0));
}

#[test]
fn an_operation_may_have_its_own_timeout() {
    let mut bench = Bench::with(
        |settings| settings.span_timeouts = vec![("model.*".to_owned(), Duration::from_secs(3600))],
        |_, _| {},
    );
    bench.send(&start("model.load", 0)).send(&start("a", 0)).pass(Duration::from_secs(700));
    assert_eq!((bench.ledger().pending, bench.ledger().incomplete), (1, 1));
    bench.pass(Duration::from_secs(3000));
    assert_eq!(bench.ledger().incomplete, 2);
}

#[test]
fn a_worker_that_does_not_come_back_loses_its_open_spans() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).pass(Duration::from_secs(2));
    bench.disconnect(STREAM);
    bench.pass(Duration::from_millis(4_900));
    assert_eq!(bench.ledger().pending, 1, "within the grace period");
    assert_eq!(bench.oldest_open_age(), Duration::from_millis(6_900), "on the bridge's clock");
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.oldest_open_age(), Duration::ZERO, "none is open");
    let span = bench.only_span();
    assert_eq!(text(&span, "snakepit.span.incomplete"), Some("worker_lost"));
    assert_eq!(
        times(&span),
        (0, 2 * SECOND + 500),
        "it ends when the worker was lost, on the worker's clock"
    );
    assert_eq!(bench.others, [Output::WorkerForgotten { worker: key(), streams: 1 }]);
}

#[test]
fn a_worker_that_comes_back_within_its_grace_period_loses_nothing() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0));
    bench.disconnect(STREAM);
    bench.pass(Duration::from_secs(4));
    bench.connect(STREAM);
    bench.pass(Duration::from_secs(10)).send(&stop("a", 0, 14 * SECOND));
    assert_eq!(times(&bench.only_span()), (0, 14 * SECOND));
}

#[test]
fn another_incarnation_ends_the_grace_of_the_old_one() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0));
    bench.handle(Input::Superseded { worker: key() });
    assert_eq!(bench.ledger().pending, 1, "its own stream is still up");
    bench.disconnect(STREAM);
    assert_eq!(text(&bench.only_span(), "snakepit.span.incomplete"), Some("worker_lost"));
}

#[test]
fn an_end_after_the_timeout_is_a_late_end() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).corr("c")).pass(Duration::from_secs(700));
    bench.send(&stop("a", 0, 700 * SECOND).corr("c").meta("rows", "3"));
    bench.settled();
    let [incomplete, whole] = &bench.spans[..] else { panic!("{:#?}", bench.spans) };
    assert_eq!(text(incomplete, "snakepit.span.incomplete"), Some("timeout"));
    assert_eq!(times(whole), (500, 700 * SECOND));
    assert_eq!((whole.trace_id, whole.parent_span_id), (incomplete.trace_id, incomplete.parent_span_id));
    assert_ne!(whole.span_id, incomplete.span_id);
    let original = incomplete.span_id.to_string();
    assert_eq!(text(whole, "snakepit.span.original_id"), Some(original.as_str()));
    assert_eq!(whole.links[0].span_id, incomplete.span_id);
    let ledger = bench.ledger();
    assert_eq!((ledger.incomplete, ledger.rebuilt, ledger.notes.late_ends, ledger.spans_made), (1, 1, 1, 2));
}

#[test]
fn a_late_end_without_duration_starts_where_its_start_was() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).pass(Duration::from_secs(700));
    bench.send(&event("a.stop", 700 * SECOND));
    bench.settled();
    assert_eq!(times(&bench.spans[1]), (0, 700 * SECOND));
}

#[test]
fn a_shutdown_closes_open_spans_without_blame() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).pass(Duration::from_secs(1));
    bench.handle(Input::Shutdown);
    let span = bench.only_span();
    assert_eq!(text(&span, "snakepit.span.incomplete"), Some("bridge_shutdown"));
    assert_eq!((span.status.clone(), text(&span, "error.type")), (Status::Unset, None));
}

#[test]
fn nonsense_times_become_a_valid_span() {
    let nonsense = [
        (start("a", 0), stop("a", 0, MS).int("system_time", 0)),
        (start("a", 0), event("a.stop", MS).int("duration", -5)),
        (start("a", 0), event("a.stop", MS).int("duration", i64::MIN)),
        (start("a", 0), event("a.stop", MS).int("duration", i64::MAX)),
        (start("a", 0), event("a.stop", -MS)),
    ];
    for (from, to) in nonsense {
        let mut bench = Bench::new();
        bench.send(&from).send(&to);
        bench.settled();
        assert!(!bench.spans.is_empty());
    }
    for at in [i64::MIN, -1, 0, i64::MAX] {
        let mut bench = Bench::new();
        let mut end = event("a.stop", 0).int("duration", MS);
        end.timestamp = at;
        bench.send(&end);
        let span = bench.only_span();
        assert_eq!(text(&span, "snakepit.clock"), Some("adjusted"), "{at}");
        assert_eq!(times(&span).1, MS, "{at}: what is sane about it is kept");
        assert_eq!(bench.ledger().notes.clock_adjusted, 1);
    }
}

#[test]
fn times_win_over_a_duration_in_another_unit() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&event("a.stop", 5 * SECOND).int("duration", 5_000_000));
    bench.settled();
    // The estimate is far from the start, so the end waited, and nothing proves that they belong together.
    assert_eq!(bench.ledger().rebuilt, 1);
    let mut bench = Bench::new();
    let token = |sent: super::bench_worker::Sent| sent.meta("telemetry_span_context", "#Ref<0.1>");
    bench.send(&token(start("a", 0))).send(&token(event("a.stop", 5 * SECOND).int("duration", 5_000_000)));
    let span = bench.only_span();
    assert_eq!((times(&span), text(&span, "snakepit.clock")), ((0, 5 * SECOND), Some("adjusted")));
}

#[test]
fn a_start_whose_end_was_sampled_away_makes_no_span() {
    let mut bench = Bench::sampling(0.5);
    bench.send(&start("a", 0)).send(&start("b", 0)).send(&stop("b", 0, MS)).pass(Duration::from_secs(700));
    assert_eq!(bench.spans.len(), 1);
    assert_eq!(dropped(&bench, DropReason::SampledHalf), 1);
}

#[test]
fn an_uncertain_start_with_a_child_closes_as_incomplete() {
    let mut bench = Bench::sampling(0.5);
    bench.send(&start("parent", 0).corr("c")).send(&start("child", MS).corr("c"));
    bench.send(&stop("child", MS, MS).corr("c")).pass(Duration::from_secs(700));
    let (parent, child) = (bench.span("parent"), bench.span("child"));
    assert_eq!(child.parent_span_id, Some(parent.span_id));
    assert_eq!(text(parent, "snakepit.span.incomplete"), Some("timeout"));
    assert_eq!(parent.status, Status::Unset);
    assert_eq!(dropped(&bench, DropReason::SampledHalf), 0);
}

#[test]
fn a_worker_that_samples_whole_spans_leaves_no_uncertain_starts() {
    let mut bench = Bench::with(
        |_| {},
        |identity, policy| {
            identity.capabilities.consistent_sampling = true;
            policy.sampling_rate = snakepit_otel_bridge::control::policy::Rate::new(0.5).unwrap();
        },
    );
    bench.send(&start("a", 0)).pass(Duration::from_secs(700));
    assert_eq!(bench.ledger().incomplete, 1);
}

#[test]
fn a_disabled_worker_s_events_are_dropped() {
    let mut bench = Bench::with(|_| {}, |_, policy| policy.enabled = false);
    bench.send(&start("a", 0)).send(&stop("a", 0, MS)).send(&event("x.y", 0));
    assert_eq!((dropped(&bench, DropReason::Disabled), bench.ledger().pending), (3, 0));
}

#[test]
fn a_lone_start_is_taken_from_ten_milliseconds_away_when_the_window_closes() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&stop("a", 9 * MS, MS));
    assert!(bench.spans.is_empty(), "not at once");
    bench.only_span();
    assert_eq!(bench.ledger().paired, 2);
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&stop("a", 11 * MS, MS));
    bench.settled();
    assert_eq!(bench.ledger().rebuilt, 1, "beyond that it is another span");
}

#[test]
fn a_copy_of_a_reconciled_start_is_a_duplicate() {
    let mut bench = Bench::new();
    bench.send(&stop("a", 0, 5 * MS)).pass(Duration::from_secs(1));
    bench.send(&start("a", 0)).send(&start("a", 0));
    bench.only_span();
    assert_eq!(dropped(&bench, DropReason::Reconciled), 1);
    assert_eq!((dropped(&bench, DropReason::DuplicateStart), bench.ledger().pending), (1, 0));
}

#[test]
fn an_uncertain_start_whose_identity_a_child_names_closes_as_incomplete() {
    let mut bench = Bench::sampling(0.5);
    bench.send(&start("parent", 0).identity(1, 2, None)).send(&start("child", MS).identity(1, 3, Some(2)));
    bench.send(&stop("child", MS, MS).identity(1, 3, Some(2))).pass(Duration::from_secs(700));
    assert_eq!(bench.span("child").parent_span_id, Some(bench.span("parent").span_id));
    assert_eq!(dropped(&bench, DropReason::SampledHalf), 0);
}

#[test]
fn an_end_after_its_uncertain_start_was_given_up_is_a_whole_span() {
    let mut bench = Bench::with(
        |settings| settings.limits.max_uncertain_per_worker = 1,
        |_, policy| policy.sampling_rate = snakepit_otel_bridge::control::policy::Rate::new(0.1).unwrap(),
    );
    bench.send(&start("a", 0).identity(1, 2, None)).send(&start("b", 0).identity(1, 3, None));
    bench.send(&stop("a", 0, MS).identity(1, 2, None));
    bench.settled();
    assert_eq!(dropped(&bench, DropReason::SampledHalf), 1);
    assert_eq!((bench.ledger().rebuilt, dropped(&bench, DropReason::DuplicateEnd)), (1, 0));
}

/// Reconciling it would leave the child with a parent that nobody exports, and lose the event.
#[test]
fn an_explained_start_with_a_child_or_an_event_closes_as_incomplete() {
    let mut bench = Bench::with(|settings| settings.span_timeout = Duration::from_secs(60), |_, _| {});
    bench.send(&start("b", 0).meta("x", "1").corr("c")).send(&start("b", US).meta("x", "2").corr("c"));
    bench.send(&event("note", 500).corr("c"));
    bench.send(&stop("b", 12 * US, 5 * MS).corr("c")).pass(Duration::from_secs(1));
    assert_eq!((bench.ledger().rebuilt, bench.ledger().standalone), (1, 1), "{:?}", bench.ledger());
    for number in 1..200 {
        let began = number * 10 * MS;
        bench.send(&start("a", began)).send(&stop("a", began + 18 * US, MS)).pass(Duration::from_millis(300));
    }
    bench.pass(Duration::from_secs(120));
    let events: usize = bench.spans.iter().map(|span| span.events.len()).sum();
    assert_eq!((events, bench.ledger().standalone), (1, 1), "what is counted is there");
}

#[test]
fn late_ends_of_twins_have_ids_of_their_own() {
    let mut bench = Bench::new();
    bench.send(
        &start("outer", -MS)
            .corr("c")
            .meta("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    );
    bench.send(&start("a", 0).corr("c").meta("n", "1")).send(&start("a", 0).corr("c").meta("n", "2"));
    bench.pass(Duration::from_secs(700));
    for number in ["1", "2"] {
        bench.send(&stop("a", 0, 700 * SECOND).corr("c").meta("n", number)).pass(Duration::from_secs(3));
    }
    let ids: std::collections::BTreeSet<_> = bench.spans.iter().map(|span| span.span_id).collect();
    assert_eq!((bench.ledger().notes.late_ends, ids.len()), (2, 5));
}

#[test]
fn remembered_ends_alone_keep_their_ids_to_themselves() {
    let mut bench = Bench::new();
    bench.send(&event("a.stop", 0).meta("n", "1")).pass(Duration::from_secs(10));
    bench.send(&event("a.stop", 0).meta("n", "2")).pass(Duration::from_secs(10));
    assert_eq!(bench.spans.len(), 2);
    assert_ne!(bench.spans[0].span_id, bench.spans[1].span_id);
}

/// An end whose start was accepted is always accepted, a late one too.
#[test]
fn a_late_end_of_a_worker_that_was_switched_off_is_accepted() {
    for (closed, late_ends) in [(true, 1), (false, 0)] {
        let mut bench = Bench::new();
        bench.send(&start("a", 0)).pass(Duration::from_secs(if closed { 700 } else { 1 }));
        bench.policy(|policy| policy.enabled = false);
        bench.send(&stop("a", 0, 700 * SECOND));
        bench.settled();
        assert_eq!((bench.ledger().notes.late_ends, dropped(&bench, DropReason::Disabled)), (late_ends, 0));
        assert_eq!(bench.ledger().pending, 0);
    }
}

#[test]
fn an_incarnation_that_comes_back_at_once_remembers_what_it_sent() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&stop("a", 0, MS));
    bench.handle(Input::Superseded { worker: key() });
    bench.disconnect(STREAM);
    bench.connect(STREAM);
    bench.send(&start("a", 0)).send(&stop("a", 0, MS));
    bench.only_span();
    assert_eq!(
        (dropped(&bench, DropReason::DuplicateStart), dropped(&bench, DropReason::DuplicateEnd)),
        (1, 1)
    );
}

#[test]
fn an_end_whose_start_was_accepted_is_accepted() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0));
    bench.policy(|policy| policy.blocked_events = vec!["a.*".to_owned()]);
    bench.send(&stop("a", 0, MS)).send(&start("a", 2 * MS)).send(&stop("a", 2 * MS, MS));
    bench.only_span();
    assert_eq!((bench.ledger().paired, dropped(&bench, DropReason::Filtered)), (2, 2));
}

/// The table stands in the module's doc as well; this keeps it from naming tests that are gone.
#[test]
fn every_row_of_the_table_has_its_test() {
    let read = |path: &str| std::fs::read_to_string(repository(path)).unwrap();
    let tests =
        ["pairing_table", "identity", "limits"].map(|file| read(&format!("tests/it/engine/{file}.rs")));
    let doc = read("src/engine/pairing.rs");
    let rows: Vec<_> = doc.lines().filter(|line| line.starts_with("//! | ")).skip(2).collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let test = row.trim_end_matches(" |").rsplit("| ").next().unwrap().trim_matches('`');
        assert!(tests.iter().any(|file| file.contains(&format!("fn {test}()"))), "{row}");
    }
}

#[test]
fn a_lone_start_that_was_stamped_late_is_taken_when_the_window_closes() {
    let mut bench = Bench::new();
    bench.send(&start("a", 5 * US)).send(&stop("a", 0, MS));
    bench.only_span();
    assert_eq!((bench.ledger().paired, bench.ledger().rebuilt, bench.ledger().pending), (2, 0, 0));
}
