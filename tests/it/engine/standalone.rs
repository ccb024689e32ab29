//! Events that are no half of a span.

use std::time::Duration;

use snakepit_otel_bridge::drops::DropReason;
use snakepit_otel_bridge::engine::attributes::AttributeValue;

use super::bench_worker::{Bench, EPOCH, MS, event, start, stop};

fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger().dropped[reason.index()]
}

#[test]
fn an_event_joins_the_innermost_span_of_its_correlation_id() {
    let mut bench = Bench::new();
    bench.send(&start("outer", 0).corr("c")).send(&start("inner", MS).corr("c"));
    bench.send(&event("tool.result_size", 2 * MS).int("bytes", 42).meta("tool", "t").corr("c"));
    bench.send(&stop("inner", MS, 5 * MS).corr("c")).send(&stop("outer", 0, 9 * MS).corr("c"));
    bench.settled();
    assert!(bench.span("outer").events.is_empty());
    let [event] = &bench.span("inner").events[..] else { panic!("{:#?}", bench.spans) };
    assert_eq!((&*event.name, event.time.0 - EPOCH), ("snakepit.python.tool.result_size", 2 * MS));
    assert_eq!(event.attributes.value("bytes"), Some(AttributeValue::Int(42)));
    assert_eq!(event.attributes.value("snakepit.tool"), Some(AttributeValue::Text("t")));
    assert_eq!(bench.ledger().standalone, 1);
}

#[test]
fn disorder_does_not_change_which_span_it_joins() {
    let mut bench = Bench::new();
    bench.send(&event("progress", 2 * MS).corr("c")).send(&start("outer", 0).corr("c"));
    bench.send(&stop("outer", 0, 9 * MS).corr("c")).pass(Duration::from_millis(300));
    bench.send(&stop("inner", MS, 5 * MS).corr("c")).send(&start("inner", MS).corr("c"));
    bench.settled();
    assert_eq!((bench.span("inner").events.len(), bench.span("outer").events.len()), (1, 0));
}

#[test]
fn an_event_of_a_long_span_joins_it_while_it_is_open() {
    let mut bench = Bench::new();
    bench.send(&start("long", 0).corr("c")).send(&event("progress", MS).corr("c"));
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.ledger().standalone, bench.ledger().pending), (1, 1));
    bench.send(&stop("long", 0, 2_000 * MS).corr("c"));
    assert_eq!(bench.only_span().events.len(), 1);
}

#[test]
fn an_event_without_a_span_is_dropped_as_not_built_yet() {
    let mut bench = Bench::new();
    bench.send(&event("worker.ready", 0).int("system_time", EPOCH)).send(&event("cache.hit", 0).corr("c"));
    assert_eq!(bench.ledger().pending, 1, "it waits one window for its span");
    bench.pass(Duration::from_secs(1));
    assert_eq!((dropped(&bench, DropReason::SignalDisabled), bench.ledger().pending), (2, 0));
}

#[test]
fn an_event_whose_only_measurements_are_not_finite_is_dropped_as_that() {
    let mut bench = Bench::new();
    bench.send(&event("loss", 0).float("value", f64::NAN)).send(&event("loss", 0).text("value", "inf"));
    bench.send(&event("loss", 0).float("value", f64::NAN).int("step", 1));
    assert_eq!(dropped(&bench, DropReason::NoFiniteValue), 2);
    assert_eq!(dropped(&bench, DropReason::SignalDisabled), 1);
}

#[test]
fn an_identity_names_the_span_that_the_event_belongs_to() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).identity(1, 2, None)).send(&start("b", MS).identity(1, 3, Some(2)));
    bench.send(&event("note", 2 * MS).identity(1, 2, None));
    bench.send(&stop("b", MS, MS).identity(1, 3, Some(2))).send(&stop("a", 0, 5 * MS).identity(1, 2, None));
    bench.settled();
    assert_eq!((bench.span("a").events.len(), bench.span("b").events.len()), (1, 0));
}

#[test]
fn an_empty_name_is_a_counted_drop() {
    let mut bench = Bench::new();
    bench.send(&event("", 0)).send(&event("..", 0));
    assert_eq!(dropped(&bench, DropReason::EmptyName), 2);
}

#[test]
fn a_number_that_json_does_not_know_becomes_text() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).send(&stop("a", 0, MS).float("loss", f64::INFINITY).text("rows", "3"));
    let span = bench.only_span();
    assert_eq!(span.attributes.value("loss"), Some(AttributeValue::Text("inf")));
    assert_eq!(span.attributes.value("rows"), Some(AttributeValue::Int(3)));
    assert_eq!(bench.ledger().notes.measurements_not_finite, 1);
}

#[test]
fn an_event_beyond_the_limit_of_its_span_is_a_counted_drop() {
    let mut bench = Bench::with(|settings| settings.limits.max_span_events = 2, |_, _| {});
    bench.send(&start("a", 0).corr("c"));
    for at in 1..=3 {
        bench.send(&event("note", at * MS).corr("c"));
    }
    bench.pass(Duration::from_secs(1)).send(&event("note", 4 * MS).corr("c"));
    bench.send(&stop("a", 0, 2_000 * MS).corr("c"));
    let span = bench.only_span();
    assert_eq!((span.events.len(), span.dropped_events), (2, 2));
    assert_eq!((bench.ledger().standalone, dropped(&bench, DropReason::Overload)), (2, 2));
}

#[test]
fn an_event_before_the_start_of_the_span_that_it_names_joins_it() {
    let mut bench = Bench::new();
    bench.send(&event("note", MS).identity(1, 2, None));
    bench.send(&start("a", 0).identity(1, 2, None)).send(&stop("a", 0, 5 * MS).identity(1, 2, None));
    assert_eq!(bench.only_span().events.len(), 1);
    assert_eq!(bench.ledger().standalone, 1);
}

#[test]
fn an_event_that_names_a_span_joins_no_other() {
    let mut bench = Bench::new();
    bench.send(&event("note", 2 * MS).corr("c").identity(1, 2, None));
    bench.send(&start("a", 0).corr("c").identity(1, 2, None));
    bench.send(&start("b", MS).corr("c").identity(1, 3, None));
    bench.send(&stop("b", MS, 2 * MS).corr("c").identity(1, 3, None));
    bench.send(&stop("a", 0, 9 * MS).corr("c").identity(1, 2, None));
    bench.settled();
    assert_eq!((bench.span("a").events.len(), bench.span("b").events.len()), (1, 0));
}

#[test]
fn a_redacted_key_names_no_worker() {
    use snakepit_otel_bridge::engine::settings::{RedactAction, RedactRule};
    let rule = RedactRule { key: "pool_*".to_owned(), action: RedactAction::Drop };
    let mut bench = Bench::with(|settings| settings.redact = vec![rule], |_, _| {});
    bench.send(&event("worker.ready", 0).meta("pool_name", "secret"));
    bench.send(&start("a", 0)).send(&stop("a", 0, MS));
    assert_eq!(bench.only_span().source.pool, None);
}
