//! What standalone events and finished spans become beside span events: points, exemplars, log records. Sections 7 and 8 of
//! the semantics, a test a rule.

use std::time::Duration;

use snakepit_otel_bridge::drops::DropReason;
use snakepit_otel_bridge::engine::attributes::AttributeValue;
use snakepit_otel_bridge::engine::metrics::point::{Exemplar, Points};
use snakepit_otel_bridge::engine::metrics::settings::{
    ExemplarFilter, MetricRule, MetricSettings, RuleInstrument, Temporality,
};
use snakepit_otel_bridge::engine::record::Severity;
use snakepit_otel_bridge::engine::report::EventQuery;
use snakepit_otel_bridge::engine::sampler::{Exceptions, Sampler, SamplerSettings};
use snakepit_otel_bridge::engine::{Input, Output, Settings, StreamId, Warning};

use super::bench_worker::{Bench, EPOCH, MS, SECOND, Sent, event, start, stop};

pub(super) fn everything(settings: &mut Settings) {
    settings.metrics = Some(MetricSettings::default());
    settings.records = true;
    settings.sampler = Some(Sampler::default());
}

pub(super) fn bench() -> Bench {
    Bench::with(everything, |_, _| {})
}

fn measuring(change: impl FnOnce(&mut MetricSettings)) -> Bench {
    Bench::with(
        |settings| {
            everything(settings);
            change(settings.metrics.as_mut().expect("metrics are made"));
        },
        |_, _| {},
    )
}

pub(super) fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger().dropped[reason.index()]
}

/// Count and value of the only series of an instrument.
pub(super) fn only(bench: &Bench, instrument: &str) -> (String, u64, f64) {
    let points = bench.points(instrument);
    let [(attributes, point)] = &points.iter().collect::<Vec<_>>()[..] else { panic!("{points:#?}") };
    ((*attributes).clone(), point.count, point.value.expect("a value"))
}

#[test]
fn a_measurement_is_a_point_at_once() {
    let mut bench = bench();
    bench.send(&event("tool.result_size", 0).int("bytes", 42).meta("tool", "search").meta("user", "u-1"));
    assert_eq!((bench.ledger().standalone, bench.ledger().pending), (1, 0));
    bench.measured();
    assert_eq!(only(&bench, "tool.result_size.bytes"), ("snakepit.tool=search".to_owned(), 1, 42.0));
    let [metric] = &bench.metrics[..] else { panic!("{:#?}", bench.metrics) };
    assert_eq!((&*metric.instrument.unit, metric.source.pid), ("By", None));
    assert_eq!((&*metric.source.worker_id, &*metric.source.node), ("worker_1", "host"));
    assert!(bench.records.is_empty(), "it holds a number");
    assert_eq!(bench.ledger().points_made, 1);
}

#[test]
fn an_event_without_a_number_is_counted_and_said() {
    let mut bench = bench();
    bench.send(&event("worker.ready", MS).int("system_time", EPOCH).meta("message", "up").meta("pid", "7"));
    assert_eq!((bench.ledger().standalone, bench.ledger().records_made), (1, 1));
    bench.measured();
    assert_eq!(only(&bench, "worker.ready.count"), (String::new(), 0, 1.0));
    let [record] = &bench.records[..] else { panic!("{:#?}", bench.records) };
    assert_eq!((&*record.event_name, &*record.body), ("snakepit.python.worker.ready", "up"));
    assert_eq!((record.time.0 - EPOCH, record.observed.0 - EPOCH), (MS, 0));
    assert_eq!((record.severity, record.trace), (Severity::Info, None));
    assert_eq!(record.attributes.value("pid"), Some(AttributeValue::Text("7")));
    assert_eq!(record.source.pid, Some(4711));
}

#[test]
fn what_is_not_finite_makes_neither_count_nor_record() {
    let mut bench = bench();
    bench.send(&event("loss", 0).float("value", f64::NAN).int("system_time", EPOCH));
    assert_eq!(dropped(&bench, DropReason::NoFiniteValue), 1);
    assert!(bench.measured().is_empty() && bench.records.is_empty());
    bench.send(&event("loss", 0).float("value", f64::NAN).float("rate", 0.5).meta("tool", "t"));
    assert_eq!((bench.ledger().standalone, bench.ledger().notes.measurements_not_finite), (1, 2));
}

#[test]
fn a_negative_increment_is_lost_and_counted() {
    let mut bench = bench();
    bench.send(&event("cache", 0).int("hits", -1));
    assert_eq!((dropped(&bench, DropReason::Malformed), bench.ledger().notes.measurements_negative), (1, 1));
    bench.send(&event("cache", 0).int("hits", -1).int("errors", 2));
    assert_eq!((bench.ledger().standalone, bench.ledger().notes.measurements_negative), (1, 2));
}

#[test]
fn what_an_event_says_twice_counts_once_and_is_noted() {
    let mut bench = bench();
    bench.send(&event("memory", 0).float("rss_mb", 1.0).int("rss_bytes", 1 << 20).int("other", 1));
    assert_eq!((bench.ledger().standalone, bench.ledger().notes.measurements_repeated), (1, 1));
    bench.send(&start("a", 0)).send(&stop("a", 0, 5 * MS).int("duration_ms", 5)).settled();
    assert_eq!(bench.ledger().notes.measurements_repeated, 2);
    bench.measured();
    assert_eq!(only(&bench, "memory.rss"), (String::new(), 1, 1_048_576.0));
    assert_eq!(only(&bench, "a.duration"), (String::new(), 1, 0.005));
    assert!(bench.points("memory.rss_bytes").is_empty());
}

/// Names of one quantity come in any order, and only one of them may have a place.
#[test]
fn what_an_event_says_twice_counts_where_there_is_a_place_for_it() {
    let mut bench = bench();
    bench.send(&event("memory", 0).int("rss_bytes", 1));
    bench.send(&event("memory", 0).float("rss_mb", 1.0).int("rss_bytes", 1 << 20));
    let notes = bench.ledger().notes;
    assert_eq!(
        (bench.ledger().standalone, notes.measurements_conflict, notes.measurements_repeated),
        (2, 1, 0)
    );
    bench.measured();
    assert_eq!(only(&bench, "memory.rss_bytes"), (String::new(), 2, 1_048_577.0));
    assert!(bench.points("memory.rss").is_empty());
}

#[test]
fn a_conflict_is_told_once_and_its_measurement_is_lost() {
    let rule = |event: &str, instrument| MetricRule {
        instrument: Some(instrument),
        name: Some("shared.name".to_owned()),
        ..MetricRule::of(event)
    };
    let mut bench = measuring(|metrics| {
        metrics.rules = vec![rule("a", RuleInstrument::Gauge), rule("b", RuleInstrument::Histogram)];
    });
    bench.send(&event("a", 0).int("x", 1)).send(&event("b", 0).int("x", 1)).send(&event("b", 0).int("x", 2));
    assert_eq!((bench.ledger().standalone, bench.ledger().notes.measurements_conflict), (1, 2));
    assert_eq!(dropped(&bench, DropReason::Malformed), 2);
    let [Output::Warning(Warning::InstrumentConflict { instance, name, kept, refused })] = &bench.others[..]
    else {
        panic!("{:#?}", bench.others)
    };
    assert_eq!(
        (&**instance, &**name, &**kept, &**refused),
        ("worker_1@host", "shared.name", "gauge", "histogram")
    );
}

#[test]
fn names_that_are_one_in_prometheus_are_in_conflict_and_both_are_told() {
    let mut bench = bench();
    bench.send(&event("cache.hit", 0)).send(&event("cache_hit", 0)).send(&event("cache.hit", 0)).measured();
    assert_eq!(bench.ledger().notes.measurements_conflict, 1);
    assert_eq!(only(&bench, "cache.hit.count").2.to_string(), "2");
    let [Output::Warning(Warning::InstrumentConflict { name, refused, .. })] = &bench.others[..] else {
        panic!("{:#?}", bench.others)
    };
    assert_eq!(&**name, "snakepit.python.cache.hit.count");
    assert_eq!(refused, "counter in {cache_hit} named snakepit.python.cache_hit.count");
}

#[test]
fn a_rule_that_makes_nothing_leaves_the_event_without_a_metric() {
    let mut bench = measuring(|metrics| {
        metrics.rules =
            vec![MetricRule { instrument: Some(RuleInstrument::None), ..MetricRule::of("noise.*") }];
    });
    bench.send(&event("noise.level", 0).int("x", 1)).send(&event("noise.made", 0));
    assert_eq!(dropped(&bench, DropReason::SignalDisabled), 1);
    assert_eq!(
        (bench.ledger().standalone, bench.records.len()),
        (1, 1),
        "rules of metrics are not about records"
    );
    assert!(bench.measured().is_empty());
}

#[test]
fn series_beyond_the_limit_are_counted_together_and_that_is_told_once() {
    let mut bench = measuring(|metrics| metrics.max_series = 2);
    for tool in ["a", "b", "c", "d"] {
        bench.send(&event("cache", 0).int("hits", 1).meta("tool", tool));
    }
    assert_eq!((bench.ledger().standalone, bench.ledger().notes.measurements_overflowed), (4, 2));
    bench.measured();
    let points = bench.points("cache.hits");
    assert_eq!(points["otel.metric.overflow=Bool(true)"].value, Some(2.0), "{points:#?}");
    assert_eq!(points.len(), 3);
    let warned = |output: &Output| {
        matches!(output, Output::Warning(Warning::SeriesOverflow { is_of_worker: false, .. }))
    };
    assert_eq!((bench.others.len(), warned(&bench.others[0])), (1, true));
    assert_eq!(bench.engine.metric_figures().series, 3);
}

#[test]
fn instruments_beyond_the_limit_are_lost_and_that_is_told_once() {
    let mut bench = measuring(|metrics| metrics.max_instruments_per_worker = 1);
    for name in ["a", "b", "c"] {
        bench.send(&event(name, 0).int("hits", 1));
    }
    assert_eq!((bench.ledger().standalone, bench.ledger().notes.measurements_no_room), (1, 2));
    assert_eq!((dropped(&bench, DropReason::Overload), bench.others.len()), (2, 1));
}

#[test]
fn an_event_of_a_span_is_a_point_and_a_span_event_and_counts_once() {
    let mut bench = bench();
    bench.send(&start("a", 0).corr("c")).send(&event("model.inference", MS).int("tokens", 512).corr("c"));
    assert_eq!((bench.ledger().standalone, bench.ledger().pending), (1, 1), "the start is pending");
    bench.send(&stop("a", 0, 5 * MS).corr("c"));
    assert_eq!(bench.only_span().events.len(), 1);
    assert_eq!((bench.ledger().standalone, bench.ledger().pending), (1, 0));
    bench.measured();
    assert_eq!(only(&bench, "model.inference.tokens"), (String::new(), 1, 512.0));
    let point = &bench.points("model.inference.tokens")[""];
    let span = bench.span("a");
    let [Exemplar { time, span: Some(ids), .. }] = &point.exemplars[..] else { panic!("{point:#?}") };
    assert_eq!((time.0 - EPOCH, *ids), (MS, (span.trace_id, span.span_id)));
}

#[test]
fn a_point_is_the_fate_of_an_event_that_its_span_has_no_room_for() {
    let mut bench = Bench::with(
        |settings| {
            everything(settings);
            settings.limits.max_span_events = 0;
        },
        |_, _| {},
    );
    bench.send(&start("a", 0).corr("c")).send(&event("cache", MS).int("hits", 1).corr("c"));
    bench.send(&event("note", MS).corr("c")).send(&stop("a", 0, 5 * MS).corr("c"));
    assert_eq!(bench.only_span().dropped_events, 2);
    assert_eq!((bench.ledger().standalone, dropped(&bench, DropReason::Overload)), (2, 0));
}

#[test]
fn a_finished_span_is_measured_before_it_is_sampled() {
    let mut bench = Bench::with(
        |settings| {
            everything(settings);
            settings.sampler = Some(Sampler::new(SamplerSettings::AlwaysOff, Exceptions::default()));
        },
        |_, _| {},
    );
    bench.send(&start("tool.run", 0).meta("tool", "search"));
    bench.send(
        &stop("tool.run", 0, 250 * MS)
            .int("tokens", 7)
            .meta("tool", "search")
            .meta("error_type", "E")
            .meta("result", "error"),
    );
    bench.settled();
    bench.measured();
    let (attributes, count, sum) = only(&bench, "tool.run.duration");
    assert_eq!(
        (&*attributes, count),
        (
            "error.type=E,snakepit.result=error,snakepit.tool=search"
                .replace("snakepit.result", "result")
                .as_str(),
            1
        )
    );
    assert!((sum - 0.25).abs() < 1e-9);
    assert_eq!(only(&bench, "tool.run.tokens").2.to_string(), "7");
    let points = bench.points("tool.run.duration");
    assert!(points.values().all(|point| point.exemplars.is_empty()), "its trace is not kept: {points:#?}");
}

#[test]
fn a_kept_spans_measurements_lead_to_it() {
    let mut bench = bench();
    bench.send(&start("a", 0)).send(&stop("a", 0, 5 * MS));
    let span = bench.only_span();
    bench.measured();
    let exemplars = bench.points("a.duration")[""].exemplars.clone();
    assert_eq!(
        exemplars.iter().map(|exemplar| exemplar.span).collect::<Vec<_>>(),
        [Some((span.trace_id, span.span_id))]
    );
}

#[test]
fn an_exceptional_span_is_led_to_although_its_trace_is_not_kept() {
    let exceptions = Exceptions { errors: true, ..Exceptions::default() };
    let mut bench = Bench::with(
        |settings| {
            everything(settings);
            settings.sampler = Some(Sampler::new(SamplerSettings::AlwaysOff, exceptions));
        },
        |_, _| {},
    );
    bench.send(&start("a", 0)).send(&stop("a", 0, MS).meta("result", "error"));
    bench.send(&event("cache", MS).int("hits", 1).corr("c")).send(&start("b", 0).corr("c"));
    bench.send(&stop("b", 0, 5 * MS).corr("c"));
    bench.settled();
    bench.measured();
    let led = |instrument: &str| -> usize {
        bench.points(instrument).values().map(|point| point.exemplars.len()).sum()
    };
    assert_eq!((led("a.duration"), led("b.duration"), led("cache.hits")), (1, 0, 0));
}

#[test]
fn without_an_exporter_of_spans_there_is_no_trace_to_lead_to() {
    let exemplars = |filter, has_traces: bool, sent: &[Sent]| {
        let mut bench = Bench::with(
            |settings| {
                everything(settings);
                settings.metrics.as_mut().into_iter().for_each(|metrics| metrics.exemplars = filter);
                settings.sampler = has_traces.then(Sampler::default);
            },
            |_, _| {},
        );
        for sent in sent {
            bench.send(sent);
        }
        bench.settled();
        bench.measured();
        let all = bench.points("cache.hits").into_values().flat_map(|point| point.exemplars);
        all.map(|exemplar| exemplar.span.is_some()).collect::<Vec<_>>()
    };
    let alone = [event("cache", MS).int("hits", 1)];
    let joined = [
        start("a", 0).corr("c"),
        event("cache", MS).int("hits", 1).corr("c"),
        stop("a", 0, 5 * MS).corr("c"),
    ];
    assert_eq!(exemplars(ExemplarFilter::TraceBased, true, &joined), [true]);
    assert_eq!(exemplars(ExemplarFilter::TraceBased, false, &joined), [false; 0]);
    assert_eq!(exemplars(ExemplarFilter::TraceBased, true, &alone), [false; 0]);
    assert_eq!(exemplars(ExemplarFilter::AlwaysOn, false, &joined), [false]);
    assert_eq!(exemplars(ExemplarFilter::AlwaysOn, true, &alone), [false]);
    assert_eq!(exemplars(ExemplarFilter::AlwaysOff, true, &joined), [false; 0]);
}

/// Whoever wants every measurement as an exemplar has it, and is led to no trace that was left out.
#[test]
fn exemplars_of_all_measurements_name_only_traces_that_are_kept() {
    let named = |sampler| {
        let mut bench = Bench::with(
            |settings| {
                everything(settings);
                let metrics = settings.metrics.as_mut();
                metrics.into_iter().for_each(|metrics| metrics.exemplars = ExemplarFilter::AlwaysOn);
                settings.sampler = Some(Sampler::new(sampler, Exceptions::default()));
            },
            |_, _| {},
        );
        bench.send(&event("cache", MS).int("hits", 1).corr("c")).send(&start("a", 0).corr("c"));
        bench.send(&stop("a", 0, 5 * MS).corr("c"));
        bench.settled();
        bench.measured();
        let ids = |instrument: &str| -> Vec<_> {
            let points = bench.points(instrument).into_values();
            points.flat_map(|point| point.exemplars).map(|exemplar| exemplar.span).collect()
        };
        (ids("cache.hits"), ids("a.duration"), bench.spans.first().map(|span| (span.trace_id, span.span_id)))
    };
    let (event, span, _) = named(SamplerSettings::AlwaysOff);
    assert_eq!((event, span), (vec![None], vec![None]));
    let (event, span, ids) = named(SamplerSettings::AlwaysOn);
    assert!(ids.is_some());
    assert_eq!((event, span), (vec![ids], vec![ids]));
}

#[test]
fn incomplete_spans_are_counted_by_reason_and_not_measured() {
    let mut bench = bench();
    bench.send(&start("a", 0)).pass(Duration::from_secs(601));
    bench.send(&event("b.stop", 601 * SECOND)).send(&start("c", 601 * SECOND)).pass(Duration::from_secs(1));
    bench.disconnect(StreamId(1));
    bench.pass(Duration::from_secs(6)).measured();
    let points = bench.points("spans.incomplete");
    let counts: Vec<_> = points.iter().map(|(reason, point)| (reason.as_str(), point.value)).collect();
    assert_eq!(
        counts,
        [
            ("reason=missing_start", Some(1.0)),
            ("reason=timeout", Some(1.0)),
            ("reason=worker_lost", Some(1.0))
        ]
    );
    assert!(bench.points("a.duration").is_empty() && bench.points("b.duration").is_empty());
    assert!(bench.points("c.duration").is_empty());
}

#[test]
fn a_limit_on_spans_attributes_keeps_nothing_from_being_measured() {
    let mut bench = Bench::with(
        |settings| {
            everything(settings);
            settings.limits.max_attributes = 2;
            settings.limits.max_attribute_value_chars = Some(3);
        },
        |_, _| {},
    );
    let mut begun = start("a", 0).meta("tool", "search");
    for key in ["x", "y"] {
        begun = begun.meta(key, "long");
    }
    bench.send(&begun).send(&stop("a", 0, MS).meta("tool", "search").int("tokens", 512));
    let span = bench.only_span();
    let shown: Vec<_> = span.attributes.iter().collect();
    let kept =
        [("snakepit.event", AttributeValue::Text("[:s")), ("snakepit.tool", AttributeValue::Text("sea"))];
    assert_eq!(shown, kept);
    assert_eq!((span.attributes.dropped(), bench.ledger().notes.attributes_cut), (3, 5));
    bench.measured();
    assert_eq!(only(&bench, "a.tokens"), ("snakepit.tool=search".to_owned(), 1, 512.0));
}

#[test]
fn a_replaced_process_goes_on_with_the_series() {
    let mut bench = bench();
    bench.send(&event("cache", 0).int("hits", 1)).measured();
    let serial = bench.metrics[0].source.serial;
    let other = StreamId(2);
    let worker = snakepit_otel_bridge::worker::WorkerKey { pid: Some(4712), ..super::bench_worker::key() };
    bench.handle(Input::StreamOpened {
        stream: other,
        worker,
        identity: std::sync::Arc::new(snakepit_otel_bridge::worker::Identity {
            id_by_header: true,
            same_host: true,
            ..snakepit_otel_bridge::worker::Identity::default()
        }),
        policy: std::sync::Arc::default(),
    });
    bench.handle(Input::Superseded { worker: super::bench_worker::key() });
    bench.disconnect(StreamId(1));
    bench.send_on(other, &event("cache", 0).int("hits", 1)).pass(Duration::from_secs(60)).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "2");
    assert_eq!(bench.metrics[0].source.serial, serial);
}

#[test]
fn a_process_that_takes_long_to_begin_goes_on_with_the_series_of_the_one_before() {
    let mut bench = bench();
    bench.send(&event("cache", 0).int("hits", 1).meta("pool_name", "p")).measured();
    let source = std::sync::Arc::clone(&bench.metrics[0].source);
    bench.disconnect(StreamId(1));
    bench.pass(Duration::from_secs(4));
    let other = StreamId(2);
    bench.handle(Input::StreamOpened {
        stream: other,
        worker: snakepit_otel_bridge::worker::WorkerKey { pid: Some(4712), ..super::bench_worker::key() },
        identity: std::sync::Arc::new(snakepit_otel_bridge::worker::Identity {
            id_by_header: true,
            same_host: true,
            ..snakepit_otel_bridge::worker::Identity::default()
        }),
        policy: std::sync::Arc::default(),
    });
    bench.handle(Input::Superseded { worker: super::bench_worker::key() });
    // It loads a model, and measures nothing yet.
    for _ in 0..6 {
        bench.pass(Duration::from_secs(60)).measured();
        assert_eq!(only(&bench, "cache.hits").2.to_string(), "1");
        assert!(std::sync::Arc::ptr_eq(&bench.metrics[0].source, &source), "its pool is not forgotten");
    }
    bench.send_on(other, &event("cache", 0).int("hits", 1).meta("pool_name", "p")).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "2");
    assert_eq!(bench.metrics[0].source.serial, source.serial);
    bench.disconnect(other);
    bench.pass(Duration::from_secs(60)).measured();
    bench.pass(Duration::from_secs(60)).measured();
    bench.pass(Duration::from_secs(60)).measured();
    assert_eq!(bench.engine.metric_figures().instances, 0, "who attached early is detached as well");
}

#[test]
fn a_lost_worker_departs_and_nothing_is_left_of_it() {
    let mut bench = bench();
    bench.send(&event("cache", 0).int("hits", 1));
    bench.disconnect(StreamId(1));
    bench.pass(Duration::from_secs(10)).measured();
    assert_eq!(only(&bench, "cache.hits").2.to_string(), "1", "once more");
    bench.pass(Duration::from_secs(60)).measured();
    assert_eq!(bench.points("cache.hits")[""].value, None, "then its end");
    bench.pass(Duration::from_secs(60)).measured();
    assert!(bench.metrics.is_empty());
    assert_eq!(bench.engine.metric_figures().instances, 0);
}

#[test]
fn a_worker_without_headers_is_measured_as_what_it_says_it_is() {
    let mut bench = Bench::with(everything, |identity, _| identity.id_by_header = false);
    bench.send(&event("cache", 0).int("hits", 1));
    bench.send(&event("cache", 0).int("hits", 1).meta("worker_id", "w-7").meta("pool_name", "p"));
    bench.send(&event("cache", 0).int("hits", 1)).measured();
    let of: Vec<_> = bench
        .metrics
        .iter()
        .map(|metric| (&*metric.source.worker_id, metric.source.pool.as_deref()))
        .collect();
    assert_eq!(of, [("worker_1", None), ("w-7", Some("p"))]);
}

#[test]
fn a_worker_that_calls_itself_ever_otherwise_is_believed_so_often_and_no_more() {
    let mut bench = Bench::with(everything, |identity, _| identity.id_by_header = false);
    for number in 0..200 {
        bench.send(&event("cache", 0).int("hits", 1).meta("worker_id", &format!("w-{number}")));
    }
    assert_eq!(bench.ledger().standalone, 200);
    assert!(bench.engine.metric_figures().instances < 40, "{:?}", bench.engine.metric_figures());
}

#[test]
fn differences_add_up_to_what_was_measured() {
    let mut bench = measuring(|metrics| metrics.temporality = Temporality::Delta);
    let mut sum = 0.0;
    let mut last = None;
    for round in 1..5 {
        for _ in 0..round {
            bench.send(&event("cache", 0).int("hits", 1));
        }
        bench.pass(Duration::from_secs(10)).measured();
        let point = &bench.points("cache.hits")[""];
        sum += point.value.expect("a value");
        assert!(last.is_none_or(|last| last == point.start) && point.start < point.time, "{point:?}");
        last = Some(point.time);
    }
    assert_eq!(sum.to_string(), "10");
}

#[test]
fn a_gauge_has_its_events_time() {
    let mut bench = bench();
    bench.pass(Duration::from_secs(10)).measured();
    bench
        .pass(Duration::from_secs(10))
        .send(&event("memory.sampled", 15 * SECOND).int("rss_bytes", 5))
        .measured();
    assert_eq!(bench.points("memory.sampled.rss_bytes")[""].time, 15 * SECOND);
    assert!(matches!(bench.metrics[0].points, Points::Gauge(_)));
}

#[test]
fn series_outlive_a_restart_and_go_on() {
    let mut bench = bench();
    bench.send(&event("cache", 0).int("hits", 3)).pass(Duration::from_secs(1)).measured();
    let before = bench.points("cache.hits");
    bench.restart_after(Duration::from_secs(30));
    bench.send(&event("cache", 0).int("hits", 4)).measured();
    let after = bench.points("cache.hits");
    assert_eq!((after[""].value, after[""].start), (Some(7.0), before[""].start));
    assert!(after[""].time > before[""].time);
}

#[test]
fn a_waiting_event_keeps_its_record_and_its_exemplar_across_a_restart() {
    let mut bench = bench();
    bench.send(&event("cache", MS).int("hits", 1).corr("c")).send(&event("retry", MS).corr("c")).restart();
    assert_eq!((bench.ledger().standalone, bench.ledger().pending), (2, 0), "both are points");
    bench.send(&start("a", 0).corr("c")).send(&stop("a", 0, 5 * MS).corr("c"));
    let span = bench.only_span();
    assert_eq!((bench.ledger().standalone, span.events.len()), (2, 2));
    assert_eq!(bench.records[0].trace.and_then(|trace| trace.span_id), Some(span.span_id));
    bench.measured();
    assert_eq!(bench.points("cache.hits")[""].exemplars[0].span, Some((span.trace_id, span.span_id)));
}

#[test]
fn reports_say_what_became_of_events_and_why() {
    let mut bench = bench();
    bench.policy(|policy| policy.blocked_events = vec!["secret".to_owned()]);
    bench.send(&event("cache", 0).int("hits", 1)).send(&event("worker.ready", 0)).send(&event("secret", 0));
    bench
        .send(&start("a", 0).corr("c"))
        .send(&event("note", MS).corr("c"))
        .send(&stop("a", 0, 5 * MS).corr("c"));
    bench.settled();
    let reports = bench.engine.events(&EventQuery { event: None, limit: 100 }).reports;
    let of = |name: &str| {
        let found = reports.iter().find(|report| *report.event == *format!("snakepit.python.{name}"));
        found.map(|report| {
            (
                report.received,
                report.points,
                report.span_events,
                report.records,
                report.dropped.iter().sum::<u64>(),
            )
        })
    };
    assert_eq!(of("cache"), Some((1, 1, 0, 0, 0)));
    assert_eq!(of("worker.ready"), Some((1, 1, 0, 1, 0)));
    assert_eq!(of("secret"), Some((1, 0, 0, 0, 1)));
    assert_eq!(of("note"), Some((1, 1, 1, 1, 0)));
    assert_eq!(of("a").map(|counts| counts.0), Some(1));
}
