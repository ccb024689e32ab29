//! Log records: which events become one, and what it says.

use std::time::Duration;

use snakepit_otel_bridge::drops::DropReason;
use snakepit_otel_bridge::engine::attributes::AttributeValue;
use snakepit_otel_bridge::engine::record::{RecordTrace, Severity};
use snakepit_otel_bridge::engine::settings::{ExceptionSignal, RedactAction, RedactRule};

use super::bench_worker::{Bench, EPOCH, MS, SECOND, event, start, stop};
use super::metrics::{bench, dropped, everything};

#[test]
fn a_record_of_an_event_within_a_span_has_its_ids() {
    let mut bench = bench();
    bench.send(&start("a", 0).corr("c")).send(&event("retry", MS).corr("c"));
    assert!(bench.records.is_empty(), "its span is not certain yet");
    assert_eq!((bench.ledger().standalone, bench.ledger().pending), (1, 1));
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.records.len(), 1, "a window is enough, however long the span takes");
    bench.send(&stop("a", 0, 2 * SECOND).corr("c"));
    let span = bench.only_span();
    let trace = bench.records[0].trace.expect("a trace");
    assert_eq!((trace.trace_id, trace.span_id), (span.trace_id, Some(span.span_id)));
    assert_eq!((trace.flags, span.events.len()), (span.trace_flags, 1));
}

/// The correlation id alone would say another trace.
#[test]
fn a_record_within_an_open_child_has_the_trace_of_the_parent() {
    let remote = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut bench = bench();
    bench.send(&start("outer", 0).corr("c").meta("traceparent", remote)).send(&start("inner", MS).corr("c"));
    bench.send(&event("retry", 2 * MS).corr("c")).send(&event("cache", 2 * MS).int("hits", 1).corr("c"));
    bench.pass(Duration::from_secs(1)).measured();
    let exemplar = bench.points("cache.hits")[""].exemplars[0].clone();
    bench.send(&stop("inner", MS, SECOND).corr("c")).send(&stop("outer", 0, 2 * SECOND).corr("c"));
    bench.settled();
    let inner = bench.span("inner");
    let trace = bench.records[0].trace.expect("a trace");
    assert_eq!((trace.trace_id, trace.span_id), (inner.trace_id, Some(inner.span_id)));
    assert_eq!(trace.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(exemplar.span, Some((inner.trace_id, inner.span_id)));
}

#[test]
fn a_record_without_a_span_has_the_trace_of_its_correlation_id() {
    let mut bench = bench();
    bench.send(&event("note", 0).corr("c")).pass(Duration::from_secs(1));
    bench.send(&start("a", 2 * SECOND).corr("c")).send(&stop("a", 2 * SECOND, MS).corr("c"));
    let span = bench.only_span();
    let trace = RecordTrace { trace_id: span.trace_id, span_id: None, flags: span.trace_flags };
    assert_eq!(bench.records[0].trace, Some(trace));
    bench.send(
        &event("note", 0).meta("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    );
    let remote = bench.records[1].trace.expect("a trace");
    assert_eq!(remote.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(remote.span_id.map(|id| id.to_string()).as_deref(), Some("00f067aa0ba902b7"));
    bench.send(&event("note", 0).identity(1, 2, None)).pass(Duration::from_secs(1));
    let named = bench.records[2].trace.expect("a trace");
    assert_eq!((named.trace_id.0, named.span_id.map(|id| id.0)), ([1; 16], Some([2; 8])));
}

/// Nothing else has the trace that the correlation id alone would say.
#[test]
fn a_record_after_its_span_has_the_trace_of_it_whatever_became_of_the_span() {
    let remote = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for has_stop in [true, false] {
        let mut bench = Bench::with(
            |settings| {
                everything(settings);
                settings.span_timeout = Duration::from_millis(20);
            },
            |_, _| {},
        );
        bench.send(&start("early", -MS).corr("c").meta("traceparent", remote));
        bench.send(&start("a", 0).corr("c").meta("traceparent", remote));
        if has_stop {
            bench.send(&stop("early", -MS, 2 * MS).corr("c")).send(&stop("a", 0, 5 * MS).corr("c"));
        } else {
            bench.pass(Duration::from_secs(1));
        }
        let (within, after) = (event("retry", 3 * MS).corr("c"), event("retry", 6 * MS).corr("c"));
        let hits = event("cache", 6 * MS).int("hits", 1).corr("c");
        bench.send(&after).send(&hits).send(&event("retry", -2 * MS).corr("c"));
        if !has_stop {
            bench.send(&within);
        }
        bench.settled();
        let span = bench.span("a").clone();
        assert!(span.events.is_empty(), "{span:#?}");
        assert_eq!(bench.records.len(), if has_stop { 2 } else { 3 });
        for record in &bench.records {
            let trace = record.trace.expect("a trace");
            assert_eq!((trace.trace_id, trace.flags), (span.trace_id, span.trace_flags));
            let is_within = !has_stop && record.time.0 > EPOCH;
            assert_eq!(trace.span_id, is_within.then_some(span.span_id), "{record:#?}");
        }
        bench.measured();
        let exemplar = &bench.points("cache.hits")[""].exemplars[0];
        assert_eq!(exemplar.span, Some((span.trace_id, span.span_id)));
    }
}

#[test]
fn a_record_names_the_span_of_its_identity_though_that_is_exported() {
    let mut bench = bench();
    bench.send(&start("a", 0).identity(1, 2, None)).send(&stop("a", 0, MS).identity(1, 2, None));
    assert_eq!(bench.spans.len(), 1, "a span with an identity does not wait");
    bench.send(&event("cache", 2 * MS).int("hits", 1).identity(1, 2, None));
    bench.send(&start("b", 0).corr("c")).send(&stop("b", 0, MS).corr("c"));
    bench.send(&event("cache", 2 * MS).int("misses", 1).identity(4, 3, None).corr("c"));
    bench.send(&event("retry", 2 * MS).identity(4, 3, None).corr("c"));
    bench.pass(Duration::from_secs(1)).measured();
    let said = bench.records[0].trace.expect("a trace");
    assert_eq!((said.trace_id.0, said.span_id.map(|id| id.0)), ([4; 16], Some([3; 8])));
    let span = bench.span("a");
    let exemplar = &bench.points("cache.hits")[""].exemplars[0];
    assert_eq!(exemplar.span, Some((span.trace_id, span.span_id)));
    assert!(bench.points("cache.misses")[""].exemplars.is_empty(), "nobody has heard of that span");
}

#[test]
fn records_keep_their_own_limits_and_the_redaction() {
    let mut bench = Bench::with(
        |settings| {
            everything(settings);
            settings.limits.max_record_attributes = 2;
            settings.limits.max_record_attribute_chars = Some(3);
            settings.redact = vec![RedactRule { key: "secret".to_owned(), action: RedactAction::Drop }];
        },
        |_, _| {},
    );
    bench.send(&event("note", 0).meta("secret", "x").meta("a", "abcdef").meta("b", "1").meta("c", "2"));
    let record = &bench.records[0];
    let shown: Vec<_> = record.attributes.iter().collect();
    assert_eq!(shown, [("a", AttributeValue::Text("abc")), ("b", AttributeValue::Text("1"))]);
    assert_eq!((record.attributes.dropped(), bench.ledger().notes.attributes_cut), (1, 2));
}

#[test]
fn without_metrics_an_event_without_a_number_is_a_record_all_the_same() {
    let mut bench = Bench::with(|settings| settings.records = true, |_, _| {});
    bench.send(&event("worker.ready", 0)).send(&event("cache", 0).int("hits", 1));
    bench.send(&event("loss", 0).float("value", f64::INFINITY));
    assert_eq!((bench.ledger().standalone, bench.records.len()), (1, 1));
    assert_eq!(dropped(&bench, DropReason::SignalDisabled), 1);
    assert_eq!(dropped(&bench, DropReason::NoFiniteValue), 1);
    assert!(bench.measured().is_empty());
}

#[test]
fn exceptions_become_records_where_that_is_opted_into() {
    let failed = |signal, records| {
        let mut bench = Bench::with(
            |settings| {
                settings.records = records;
                settings.exception_signal = signal;
            },
            |_, _| {},
        );
        let exception = event("a.exception", 5 * MS).int("duration", 5 * MS);
        let exception = exception.meta("error_type", "ValueError").meta("error_message", "boom");
        bench.send(&start("a", 0)).send(&exception);
        (bench.only_span(), bench.records)
    };
    for (signal, records, events) in [
        (ExceptionSignal::SpanEvent, true, 1),
        (ExceptionSignal::Both, true, 1),
        (ExceptionSignal::Record, true, 0),
        (ExceptionSignal::Record, false, 1),
    ] {
        let (span, made) = failed(signal, records);
        assert_eq!(span.events.len(), events, "{signal:?}");
        let is_made = records && signal != ExceptionSignal::SpanEvent;
        assert_eq!(made.len(), usize::from(is_made), "{signal:?}");
        let Some(record) = made.first() else { continue };
        assert_eq!((&*record.event_name, &*record.body), ("snakepit.python.a.exception", "boom"));
        assert_eq!((record.severity, record.time.0 - EPOCH), (Severity::Error, 5 * MS));
        assert_eq!(record.attributes.value("exception.type"), Some(AttributeValue::Text("ValueError")));
        let trace = record.trace.expect("a trace");
        assert_eq!((trace.trace_id, trace.span_id), (span.trace_id, Some(span.span_id)));
    }
}
