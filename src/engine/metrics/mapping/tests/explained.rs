//! What the mapping says of the events that it has seen.

use super::*;
use crate::engine::report::Lost;
use crate::engine::steps;

#[test]
fn it_is_explained_what_events_became_and_why() {
    let off = MetricRule {
        instrument: Some(RuleInstrument::None),
        measurement: Some("noise".to_owned()),
        ..MetricRule::of("a.*")
    };
    let sent = MetricRule {
        measurement: Some("lag_ms".to_owned()),
        sent_unit: Some("us".to_owned()),
        ..MetricRule::of("a.*")
    };
    let mut bench = Bench::of_rules(vec![off, sent]);
    let measurements = [
        ("lag_ms", Int(1)),
        ("bytes", Int(1)),
        ("pid", Int(1)),
        ("noise", Int(1)),
        ("label", Text("x")),
        ("loss", Float(f64::NAN)),
    ];
    bench.event("a.b", &measurements, &[("session_id", "s"), ("tool", "t")]);
    let name = bench.name("a.b");
    bench.mapping.note(&name, false, Fate::SpanEvent);
    bench.mapping.note(&name, false, Fate::Refused(DropReason::Filtered));
    bench.span("a.run.stop", &[], 5);

    let reports = bench.reports();

    let names: Vec<_> =
        reports.iter().map(|report| (&*report.event, &*report.sent_as, report.is_span)).collect();
    assert_eq!(names, [("snakepit.python.a.b", "a.b", false), ("snakepit.python.a.run", "a.run", true)]);
    let report = &reports[0];
    assert_eq!((report.received, report.points, report.span_events), (2, 2, 1));
    assert_eq!(report.dropped[DropReason::Filtered.index()], 1);
    assert_eq!(report.left_off, ["session_id".into()]);
    let why: Vec<_> = report
        .becomes
        .iter()
        .map(|one| (&*one.measurement, one.instrument.is_some(), one.because.as_str(), one.measured))
        .collect();
    assert_eq!(
        why,
        [
            ("bytes", true, "a number of bytes", 1),
            ("label", true, "not a number", 0),
            ("lag_ms", true, "rule 2 of metrics.rules; sent in the unit that the rule says", 1),
            ("loss", true, "a number of which its name says nothing", 0),
            ("noise", false, "no metric: rule 1 of metrics.rules says so", 0),
            ("pid", false, "never a metric: an identifier", 0),
        ]
    );
    assert_eq!((report.becomes[3].not_finite, report.becomes[4].ruled_out), (1, 1));
}

#[test]
fn who_asks_about_an_event_hears_of_its_name_and_who_asks_about_a_phase_of_the_operation() {
    let mut bench = Bench::new();
    bench.event("a.b", &[], &[]);
    bench.event("a.b.c", &[], &[]);
    bench.event("stop", &[], &[]);
    bench.event("python.x", &[], &[]);
    bench.span("a.b.stop", &[], 5);
    let asked = |event: &str| {
        let answer = bench.mapping.explain(&EventQuery { event: Some(event.to_owned()), limit: 9 });
        assert_eq!(answer.others, []);
        answer.reports.iter().map(|one| format!("{} {}", one.sent_as, one.is_span)).collect::<Vec<_>>()
    };
    assert_eq!(asked("a.b"), ["a.b false", "a.b true"]);
    assert_eq!(asked("snakepit.python.a.b"), ["a.b false", "a.b true"]);
    for phase in ["start", "stop", "exception"] {
        assert_eq!(asked(&format!("a.b.{phase}")), ["a.b true"]);
        assert_eq!(asked(&format!("snakepit.python.a.b.{phase}")), ["a.b true"]);
    }
    assert_eq!(asked("stop"), ["stop false"], "a name of one part has no phase");
    assert_eq!(asked("snakepit.python.x"), ["python.x false"]);
    assert_eq!(asked("x.stop"), [""; 0]);
    assert_eq!(asked("a"), [""; 0]);
    assert_eq!(asked("b.c"), [""; 0]);
}

/// Of a thousand names, a question about one makes one report, and one with a limit no more than that.
#[test]
fn reports_are_made_of_what_is_asked_for_alone() {
    let mut bench = Bench::new();
    for number in (0..1000).rev() {
        bench.event(&format!("event.{number:03}"), &[("bytes", Int(number))], &[]);
    }
    let asked = |event: Option<&str>, limit| {
        let before = steps::taken();
        let answer = bench.mapping.explain(&EventQuery { event: event.map(str::to_owned), limit });
        (steps::taken() - before, answer)
    };
    let (made, one) = asked(Some("event.500"), 100);
    assert_eq!((made, one.reports.len(), one.others.len()), (1, 1, 0));
    assert_eq!(asked(Some("event"), 100), (0, EventAnswer::default()));

    let (made, some) = asked(None, 10);
    assert_eq!((made, some.reports.len(), some.others.len()), (10, 10, 990));
    let (made, all) = asked(None, 1000);
    assert_eq!((made, all.reports.len(), all.others.len()), (1000, 1000, 0));
    assert_eq!(some.reports, all.reports[..10], "the first by name");
    let mut rest: Vec<_> = some.others.iter().map(|(title, ..)| title).collect();
    rest.sort();
    assert!(rest.into_iter().eq(all.reports[10..].iter().map(|report| &report.event)));
}

#[test]
fn what_goes_into_no_series_is_no_point_and_it_is_said_why() {
    let mut bench = Bench::new();
    let name = bench.name("a.b");
    let event = Event {
        measurements: [("kept", Int(1)), ("conflict", Int(1)), ("no_room", Int(1)), ("hits", Int(-1))]
            .into_iter()
            .collect(),
        ..Event::default()
    };
    let verdict = bench.mapping.event(&name, &event, |measured| match &*measured.instrument.name {
        name if name.ends_with(".conflict") => Err(Loss::Conflict),
        name if name.ends_with(".no_room") => Err(Loss::NoRoom),
        name if name.ends_with(".hits") => Err(Loss::Negative),
        _ => Ok(()),
    });
    assert_eq!(verdict.measured, 1);
    let operation = bench.name("a.run.start");
    bench.mapping.incomplete("timeout", &operation, |_| Err(Loss::NoRoom));

    let reports = bench.reports();

    assert_eq!((reports[0].points, reports[1].points, reports[1].incomplete), (1, 0, 1));
    let why: Vec<_> = reports[0]
        .becomes
        .iter()
        .map(|one| {
            let Lost { negative, no_room, conflict } = one.lost;
            (&*one.measurement, one.measured, [negative, no_room, conflict], &one.because[..19])
        })
        .collect();
    assert_eq!(
        why,
        [
            ("conflict", 0, [0, 0, 1], "another instrument "),
            ("hits", 0, [1, 0, 0], "it is negative, and"),
            ("kept", 1, [0, 0, 0], "a number of which i"),
            ("no_room", 0, [0, 1, 0], "its worker has no r"),
        ]
    );
}

#[test]
fn what_the_engine_says_of_a_span_is_no_key_that_is_left_off() {
    let mut bench = Bench::new();
    let text = AttributeValue::Text("x");
    let marks = ["snakepit.span.rebuilt_from", "snakepit.clock", "snakepit.correlation_id"];
    bench.span("a.run.stop", &marks.map(|key| (key, text)), 5);
    assert_eq!(bench.reports()[0].left_off, ["correlation_id".into()]);
}
