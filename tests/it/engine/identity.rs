//! What proves that two halves belong together: identity, a pairing token, a reading of the monotonic clock.

use std::time::Duration;

use snakepit_otel_bridge::drops::DropReason;

use super::bench_worker::{Bench, MS, SECOND, Sent, US, event, start, stop, text, times};

fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger().dropped[reason.index()]
}

#[test]
fn identity_pairs_whatever_the_times_say() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).identity(1, 2, None)).send(&start("a", US).identity(1, 3, Some(2)));
    bench.send(&stop("a", US, MS).identity(1, 2, None)).send(&stop("a", 0, 2 * MS).identity(1, 3, Some(2)));
    bench.settled();
    let ids: Vec<_> = bench.spans.iter().map(|span| (span.span_id.0[0], times(span))).collect();
    assert_eq!(ids, [(2, (0, MS)), (3, (US, 2 * MS))]);
    assert_eq!(bench.spans[1].parent_span_id, Some(bench.spans[0].span_id));
    assert_eq!(text(&bench.spans[1], "snakepit.parent"), None);
}

#[test]
fn a_second_half_of_an_identity_is_a_duplicate_whatever_else_differs() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).identity(1, 2, None)).send(&start("a", 5).identity(1, 2, None));
    bench.send(&stop("a", 0, MS).identity(1, 2, None)).send(&stop("a", 0, 2 * MS).identity(1, 2, None));
    bench.send(&start("b", 9).identity(1, 2, None));
    bench.only_span();
    assert_eq!(dropped(&bench, DropReason::DuplicateStart), 2);
    assert_eq!(dropped(&bench, DropReason::DuplicateEnd), 1);
}

#[test]
fn a_malformed_identity_is_ignored_and_counted() {
    let mut bench = Bench::new();
    let mut from = start("a", 0);
    from.identity = Some((vec![1; 5], vec![2; 8], Vec::new()));
    let mut to = stop("a", 0, MS);
    to.identity = Some((vec![0; 16], vec![2; 8], Vec::new()));
    bench.send(&from).send(&to);
    bench.only_span();
    assert_eq!((bench.ledger().paired, bench.ledger().notes.malformed_identity), (2, 2));
}

#[test]
fn an_identity_that_only_the_end_carries_is_used() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&stop("a", 0, MS).identity(7, 8, Some(9)));
    let span = bench.only_span();
    assert_eq!((span.trace_id.0[0], span.span_id.0[0], span.parent_span_id.unwrap().0[0]), (7, 8, 9));
    assert_eq!(bench.ledger().paired, 2);
}

#[test]
fn a_pairing_token_pairs_twins() {
    let mut bench = Bench::new();
    let token = |sent: Sent, token: &str| sent.meta("telemetry_span_context", token);
    bench.send(&token(start("a", 0), "x")).send(&token(start("a", 0), "y"));
    bench.send(&token(stop("a", 0, 2 * MS), "y")).send(&token(stop("a", 0, MS), "x"));
    bench.settled();
    assert_eq!(bench.ledger().paired, 4);
    assert!(bench.spans.iter().all(|span| text(span, "telemetry_span_context").is_none()));
}

#[test]
fn a_monotonic_time_decides_alone() {
    let mut bench = Bench::new();
    bench
        .send(&start("a", 0).int("monotonic_time", 1_000))
        .send(&start("a", US).int("monotonic_time", 9_000));
    bench.send(
        &event("a.stop", MS).int("duration", MS).int("monotonic_time", 9_000 + MS).meta("which", "second"),
    );
    bench.send(
        &event("a.stop", MS).int("duration", MS).int("monotonic_time", 1_000 + MS).meta("which", "first"),
    );
    bench.settled();
    let which: Vec<_> =
        bench.spans.iter().map(|span| (times(span).0, text(span, "which").unwrap())).collect();
    assert_eq!(which, [(0, "first"), (US, "second")]);
}

#[test]
fn two_identities_that_differ_are_never_one_span() {
    // The start of one and the end of the other were lost, and the times fit.
    let mut bench = Bench::new();
    bench.send(&start("a", 0).identity(1, 2, None)).send(&stop("a", 0, MS).identity(1, 3, None));
    bench.pass(Duration::from_secs(700));
    let ids: Vec<_> = bench.spans.iter().map(|span| span.span_id.0[0]).collect();
    assert_eq!(ids, [3, 2]);
    assert_eq!((bench.ledger().rebuilt, bench.ledger().incomplete), (1, 1));
}

#[test]
fn two_identities_that_differ_are_never_one_span_whatever_a_token_or_a_clock_says() {
    let both = |sent: Sent| sent.int("monotonic_time", 1_000).meta("telemetry_span_context", "#Ref<0.1>");
    let (from, to) = (both(start("a", 0).identity(1, 2, None)), both(stop("a", 0, 0).identity(1, 3, None)));
    for order in [[&from, &to], [&to, &from]] {
        let mut bench = Bench::new();
        bench.send(order[0]).send(order[1]).pass(Duration::from_secs(700));
        assert_eq!(bench.ledger().paired, 0, "{:?}", bench.ledger());
    }
}

#[test]
fn a_pairing_token_that_differs_keeps_halves_apart() {
    let token = |sent: Sent, token: &str| sent.meta("telemetry_span_context", token);
    let mut bench = Bench::new();
    bench.send(&token(start("a", 0), "x")).send(&token(stop("a", 0, MS), "y"));
    bench.settled();
    assert_eq!((bench.ledger().paired, bench.ledger().rebuilt, bench.ledger().pending), (0, 1, 1));
}

#[test]
fn a_twin_at_a_monotonic_reading_of_an_incomplete_span_is_no_duplicate() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).int("monotonic_time", 5)).pass(Duration::from_secs(700));
    bench.send(&start("a", 700 * SECOND).int("monotonic_time", 5));
    assert_eq!((bench.ledger().pending, dropped(&bench, DropReason::DuplicateStart)), (1, 0));
}

#[test]
fn a_monotonic_time_finds_a_closed_span_wherever_the_clock_was_set() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).int("monotonic_time", 5)).pass(Duration::from_secs(700));
    // The wall clock was set forward by an hour in between.
    bench.send(
        &event("a.stop", 4_300 * SECOND)
            .int("duration", 700 * SECOND)
            .int("monotonic_time", 700 * SECOND + 5),
    );
    bench.settled();
    assert_eq!(bench.ledger().notes.late_ends, 1, "{:?}", bench.ledger());
}

#[test]
fn a_token_reconciles_a_start_with_an_end_that_had_no_duration() {
    let mut bench = Bench::new();
    let token = |sent: Sent| sent.meta("telemetry_span_context", "x");
    bench.send(&token(event("a.stop", MS))).pass(Duration::from_secs(1));
    bench.send(&token(start("a", 0))).send(&token(start("a", 0)));
    assert_eq!(dropped(&bench, DropReason::Reconciled), 1);
    assert_eq!(dropped(&bench, DropReason::DuplicateStart), 1);
    assert_eq!(bench.ledger().pending, 0);
}

#[test]
fn an_identity_that_comes_after_a_child_was_exported_is_too_late() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).corr("c")).send(&start("b", MS).corr("c")).send(&stop("b", MS, MS).corr("c"));
    bench.pass(Duration::from_secs(1));
    bench.send(&stop("a", 0, 1_000 * MS).corr("c").identity(7, 8, None));
    bench.settled();
    assert_eq!(bench.span("b").parent_span_id, Some(bench.span("a").span_id));
    assert_eq!(bench.span("b").trace_id, bench.span("a").trace_id);
}
