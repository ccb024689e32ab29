//! What an event costs as more and more spans are open under one key: counted by what the searches look at, not by
//! time. Release builds do not count.
#![cfg(debug_assertions)]

use std::time::Duration;

use snakepit_otel_bridge::engine::steps;

use super::bench_worker::{Bench, MS, Sent, US, event, start, stop};

const FEW: i64 = 1_000;
const MANY: i64 = 100_000;

/// Events after which the dearest is judged.
const TRIED: i64 = 40;

/// The most that one event may look at, for each doubling of what is open. It is what a search tree's depth is worth
/// (two and a half levels for each doubling, on average), times the searches of a start, its end and their judgement.
const STEPS_PER_DOUBLING: u64 = 20;

/// How starts and ends of one key lie to one another.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// Between two starts.
    gap: i64,
    has_duration: bool,
    correlation_id: &'static str,
}

/// The most steps that one event took, its time-outs included, with so many spans open.
fn dearest(case: Case, open: i64) -> u64 {
    let mut bench = Bench::with(|settings| settings.limits.max_open_bytes_per_worker = 1 << 30, |_, _| {});
    for number in 0..open {
        let from = start("a", number * case.gap).meta("n", &number.to_string());
        bench.send(&from.corr(case.correlation_id));
    }
    let mut dearest = 0;
    for number in (0..open).step_by(usize::try_from(open / TRIED).expect("small")) {
        let began = number * case.gap;
        let end: Sent = if case.has_duration {
            stop("a", began, 3 * MS + number)
        } else {
            event("a.stop", open * case.gap + number)
        };
        let child = [start("b", began), stop("b", began, US), event("note", began + 1)];
        let events = [end.meta("n", &number.to_string())].into_iter().chain(child);
        for sent in events.map(|sent| sent.corr(case.correlation_id)) {
            let before = steps::taken();
            bench.send(&sent).pass(Duration::from_millis(600));
            dearest = dearest.max(steps::taken() - before);
        }
    }
    let ledger = bench.ledger();
    assert!(ledger.paired > 0 && ledger.pending > open as u64 / 2, "{ledger:?}");
    dearest
}

fn doublings(open: i64) -> u64 {
    u64::from(open.ilog2()) + 1
}

fn check(case: Case) {
    let (few, many) = (dearest(case, FEW), dearest(case, MANY));
    for (steps, open) in [(few, FEW), (many, MANY)] {
        assert!(steps > 0, "steps are counted");
        assert!(steps <= STEPS_PER_DOUBLING * doublings(open), "{case:?}: {steps} steps with {open} open");
    }
    assert!(many <= 3 * few, "{case:?}: a hundred times as many open, from {few} to {many} steps");
}

#[test]
fn an_end_among_starts_of_equal_times_takes_logarithmic_work() {
    check(Case { gap: 0, has_duration: true, correlation_id: "" });
    check(Case { gap: 0, has_duration: true, correlation_id: "c" });
}

#[test]
fn an_end_among_starts_of_different_times_takes_logarithmic_work() {
    check(Case { gap: 3 * US, has_duration: true, correlation_id: "" });
    check(Case { gap: 3 * US, has_duration: true, correlation_id: "c" });
}

#[test]
fn an_end_without_duration_takes_logarithmic_work() {
    check(Case { gap: 3 * US, has_duration: false, correlation_id: "" });
    check(Case { gap: 3 * US, has_duration: false, correlation_id: "c" });
}
