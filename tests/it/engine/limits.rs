//! What happens where a limit is reached.

use snakepit_otel_bridge::control::policy::Rate;
use snakepit_otel_bridge::drops::DropReason;
use snakepit_otel_bridge::engine::Input;
use snakepit_otel_bridge::engine::settings::{RedactAction, RedactRule};
use snakepit_otel_bridge::engine::span::Status;
use snakepit_otel_bridge::engine::{Output, Warning};

use super::bench_worker::{Bench, MS, start, stop, text};

fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger().dropped[reason.index()]
}

#[test]
fn the_limit_on_open_spans_evicts_the_oldest() {
    let mut bench = Bench::with(|settings| settings.limits.max_open_spans_per_worker = 2, |_, _| {});
    bench.send(&start("a", 0)).send(&start("b", MS)).send(&start("c", 2 * MS));
    let span = bench.span("a");
    assert_eq!(text(span, "snakepit.span.incomplete"), Some("evicted"));
    assert_eq!(span.status, Status::Unset);
    assert_eq!((bench.ledger().pending, bench.ledger().notes.incomplete_evicted), (2, 1));
}

#[test]
fn the_limit_on_bytes_evicts_the_oldest() {
    let mut bench = Bench::with(|settings| settings.limits.max_open_bytes_per_worker = 40_000, |_, _| {});
    for number in 0..10 {
        bench.send(&start("a", number * MS).meta("blob", &"x".repeat(10_000)));
    }
    let ledger = bench.ledger();
    assert_eq!(ledger.pending + ledger.notes.incomplete_evicted, 10);
    assert!((2..4).contains(&ledger.pending), "{ledger:?}");
}

#[test]
fn evicting_closes_as_many_as_were_asked_for() {
    let mut bench = Bench::new();
    for number in 0..5 {
        bench.send(&start("a", number * MS));
    }
    bench.handle(Input::Evict { spans: 3 });
    assert_eq!((bench.ledger().pending, bench.ledger().notes.incomplete_evicted), (2, 3));
}

#[test]
fn uncertain_starts_have_their_own_quota() {
    let mut bench = Bench::with(
        |settings| settings.limits.max_uncertain_per_worker = 2,
        |_, policy| policy.sampling_rate = Rate::new(0.1).unwrap(),
    );
    for number in 0..5 {
        bench.send(&start("a", number * MS));
    }
    assert_eq!((bench.ledger().pending, dropped(&bench, DropReason::SampledHalf)), (2, 3));
}

#[test]
fn uncertain_starts_push_out_no_others() {
    let mut bench = Bench::with(|settings| settings.limits.max_open_spans_per_worker = 3, |_, _| {});
    bench.send(&start("a", 0));
    bench.policy(|policy| policy.sampling_rate = Rate::new(0.1).unwrap());
    for number in 1..6 {
        bench.send(&start("b", number * MS));
    }
    assert_eq!(dropped(&bench, DropReason::SampledHalf), 3);
    assert_eq!((bench.ledger().pending, bench.ledger().incomplete), (3, 0));
}

#[test]
fn one_large_event_among_thousands_of_waiting_ends_sheds_them_one_after_the_other() {
    let mut bench = Bench::with(|settings| settings.limits.max_open_bytes_per_worker = 12_000_000, |_, _| {});
    for number in 0..9_000 {
        bench.send(&stop("a", number * 100 * MS, MS).corr("c").meta("n", &number.to_string()));
    }
    let waiting = bench.ledger().pending;
    let mut large = start("b", 0).corr("c");
    for number in 0..100 {
        large = large.meta(&format!("blob{number}"), &"x".repeat(16_000));
    }
    for number in 0..8 {
        large.timestamp += number;
        bench.send(&large);
    }
    assert!(waiting > 1_000 && bench.ledger().pending < waiting, "{:?}", bench.ledger());
}

#[test]
fn the_bridge_s_limit_takes_open_spans_from_whoever_has_them_open() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).corr("c")).send(&start("b", 0).corr("c")).send(&stop("b", 0, MS).corr("c"));
    bench.handle(Input::Evict { spans: 1 });
    assert_eq!((bench.ledger().pending, bench.ledger().notes.incomplete_evicted), (0, 1));
}

#[test]
fn a_correlation_id_that_must_not_be_shown_is_not_warned_of_by_name() {
    let rule = RedactRule { key: "correlation_id".to_owned(), action: RedactAction::Drop };
    let mut bench = Bench::with(|settings| settings.redact = vec![rule], |_, _| {});
    for number in 0..10_001 {
        bench.send(&stop("a", number * MS, MS).corr("secret"));
    }
    bench.settled();
    let [Output::Warning(Warning::ConstantCorrelationId { correlation_id, .. })] = &bench.others[..] else {
        panic!("{:?}", bench.others)
    };
    assert_eq!(correlation_id, "");
}
