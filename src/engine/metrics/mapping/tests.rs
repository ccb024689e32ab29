mod documented;
mod explained;

use super::*;
use crate::engine::metrics::settings::{HistogramAggregation, MetricRule, RuleInstrument};
use crate::engine::naming::Naming;
use crate::engine::report::EventReport;
use crate::engine::settings::{RedactAction, RedactRule};

/// What was handed on, as text: `name unit kind value {attributes}`.
struct Bench {
    naming: Naming,
    mapping: Mapping,
    made: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        Self::with(&MetricSettings::default(), &Settings::default())
    }

    fn of_rules(rules: Vec<MetricRule>) -> Self {
        Self::with(&MetricSettings { rules, ..MetricSettings::default() }, &Settings::default())
    }

    fn with(settings: &MetricSettings, engine: &Settings) -> Self {
        Self {
            naming: Naming::new(&engine.prefix),
            mapping: Mapping::new(settings, engine),
            made: Vec::new(),
        }
    }

    fn name(&mut self, dotted: &str) -> Arc<Name> {
        self.naming.resolve(&dotted.split('.').collect::<Vec<_>>()).expect("a name")
    }

    fn event(
        &mut self,
        name: &str,
        measurements: &[(&str, Value<'_>)],
        metadata: &[(&str, &str)],
    ) -> Verdict {
        let name = self.name(name);
        let event = Event {
            measurements: measurements.iter().copied().collect(),
            metadata: metadata.iter().copied().collect(),
            ..Event::default()
        };
        let made = &mut self.made;
        self.mapping.event(&name, &event, |measured| {
            made.push(shown(measured));
            Ok(())
        })
    }

    fn span(&mut self, name: &str, attributes: &[(&str, AttributeValue<'_>)], duration_ns: i64) -> Verdict {
        let name = self.name(name);
        let mut list = Attributes::default();
        attributes.iter().for_each(|(key, value)| list.set(key, *value));
        let made = &mut self.made;
        self.mapping.span(&name, &list, duration_ns, |measured| {
            made.push(shown(measured));
            Ok(())
        })
    }

    fn reports(&self) -> Vec<EventReport> {
        self.mapping.explain(&EventQuery { event: None, limit: 10_000 }).reports
    }

    /// One measurement of one event, and the one line that it makes.
    #[track_caller]
    fn makes(&mut self, name: &str, measurement: &str, value: Value<'_>, line: &str) {
        self.made.clear();
        self.event(name, &[(measurement, value)], &[]);
        assert_eq!(self.made, [line], "{name} {measurement}");
    }
}

fn shown(measured: &Measured<'_>) -> String {
    let Instrument { name, unit, kind, .. } = &**measured.instrument;
    let name = name.strip_prefix("snakepit.python.").unwrap_or(name);
    let kind = match kind {
        Kind::Counter => "counter".to_owned(),
        Kind::UpDownCounter => "updowncounter".to_owned(),
        Kind::Gauge => "gauge".to_owned(),
        Kind::Histogram { boundaries } => format!("histogram/{}", boundaries.len()),
        Kind::ExponentialHistogram => "exponential".to_owned(),
    };
    let value = match measured.value {
        Number::Int(int) => int.to_string(),
        Number::Float(float) => format!("{float:?}"),
    };
    let pairs: Vec<_> = measured.attributes.pairs().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{name} [{unit}] {kind} {value} {{{}}}", pairs.join(","))
}

use Value::{Float, Int, Text};

/// A line for each row of the table of shapes.
#[test]
fn a_measurement_is_what_its_name_says() {
    let mut bench = Bench::new();
    for (measurement, value, line) in [
        ("duration", Int(1_500_000_000), "a.b.duration [s] histogram/17 1.5 {}"),
        ("queue_time", Int(1_000_000), "a.b.queue_time [s] histogram/17 0.001 {}"),
        ("wait_ns", Int(500), "a.b.wait [s] histogram/17 5e-7 {}"),
        ("wait_us", Int(500), "a.b.wait [s] histogram/17 0.0005 {}"),
        ("latency_ms", Float(12.5), "a.b.latency [s] histogram/17 0.0125 {}"),
        ("wait_s", Float(0.25), "a.b.wait [s] histogram/17 0.25 {}"),
        ("uptime_seconds", Int(3), "a.b.uptime_seconds [s] histogram/17 3 {}"),
        ("bytes", Int(42), "a.b.bytes [By] histogram/13 42 {}"),
        ("rss_bytes", Int(42), "a.b.rss_bytes [By] histogram/13 42 {}"),
        ("request_size", Int(42), "a.b.request_size [By] histogram/13 42 {}"),
        ("rss_kb", Int(2), "a.b.rss [By] histogram/13 2048 {}"),
        ("rss_mb", Int(2), "a.b.rss [By] histogram/13 2097152 {}"),
        ("rss_mb", Float(0.5), "a.b.rss [By] histogram/13 524288.0 {}"),
        ("rss_gb", Int(1), "a.b.rss [By] histogram/13 1073741824 {}"),
        ("cpu_percent", Float(12.5), "a.b.cpu_percent [%] gauge 12.5 {}"),
        ("utilization", Float(0.5), "a.b.utilization [1] gauge 0.5 {}"),
        ("queue_depth", Int(3), "a.b.queue_depth [{item}] gauge 3 {}"),
        ("busy_workers", Int(3), "a.b.busy_workers [{worker}] gauge 3 {}"),
        ("count", Int(3), "a.b.count [{b}] counter 3 {}"),
        ("hits", Int(3), "a.b.hits [{hit}] counter 3 {}"),
        ("errors", Int(3), "a.b.errors [{error}] counter 3 {}"),
        ("executions", Int(3), "a.b.executions [{execution}] counter 3 {}"),
        ("tokens", Int(512), "a.b.tokens [{token}] histogram/14 512 {}"),
        ("batch_size", Int(8), "a.b.batch_size [{item}] histogram/13 8 {}"),
        ("message_count", Int(8), "a.b.message_count [{message}] histogram/13 8 {}"),
        ("loss", Float(0.1), "a.b.loss [] histogram/15 0.1 {}"),
    ] {
        bench.makes("a.b", measurement, value, line);
    }
}

#[test]
fn samples_and_states_are_gauges_in_the_measurements_unit() {
    let mut bench = Bench::new();
    bench.makes("memory.sampled", "rss_bytes", Int(7), "memory.sampled.rss_bytes [By] gauge 7 {}");
    bench.makes("gpu.memory.sampled", "used_mb", Int(1), "gpu.memory.sampled.used [By] gauge 1048576 {}");
    bench.makes("heartbeat.state", "latency_ms", Int(5), "heartbeat.state.latency [s] gauge 0.005 {}");
    bench.makes("pool.status", "loss", Float(0.5), "pool.status.loss [] gauge 0.5 {}");
    bench.makes("cache.state", "hits", Int(5), "cache.state.hits [{hit}] gauge 5 {}");
}

/// A duration is in nanoseconds, whatever its type: so says Snakepit, and so are spans rebuilt.
#[test]
fn a_float_duration_is_in_nanoseconds_too() {
    Bench::new().makes("a.b", "duration", Float(2.5e9), "a.b.duration [s] histogram/17 2.5 {}");
}

#[test]
fn a_text_that_is_a_number_is_one_and_others_are_not() {
    let mut bench = Bench::new();
    bench.makes("a.b", "bytes", Text("42"), "a.b.bytes [By] histogram/13 42 {}");
    bench.makes("a.b", "loss", Text("0.5"), "a.b.loss [] histogram/15 0.5 {}");
    bench.makes("a.b", "label", Text("forty-two"), "a.b.count [{b}] counter 1 {}");
}

#[test]
fn an_event_without_a_measurement_is_counted_as_one_with_a_count_is() {
    let mut bench = Bench::new();
    let verdict = bench.event("cache.hit", &[], &[("tool", "search")]);
    assert_eq!(verdict, Verdict { measured: 1, ..Verdict::default() }, "it is a mere happening");
    let with_count = bench.event("cache.hit", &[("count", Int(2))], &[("tool", "search")]);
    assert_eq!(with_count, Verdict { measured: 1, has_eligible: true, ..Verdict::default() });
    assert_eq!(
        bench.made,
        [
            "cache.hit.count [{hit}] counter 1 {snakepit.tool=search}",
            "cache.hit.count [{hit}] counter 2 {snakepit.tool=search}",
        ]
    );
    assert_eq!(bench.mapping.instruments.len(), 2, "one beside the spans without an end");
}

#[test]
fn times_and_identifiers_are_no_measurements() {
    let mut bench = Bench::new();
    let measurements: Vec<_> = [
        "system_time",
        "monotonic_time",
        "timestamp",
        "pid",
        "port",
        "sequence_number",
        "python_pid",
        "python_port",
    ]
    .into_iter()
    .map(|key| (key, Int(1)))
    .collect();
    let verdict = bench.event("worker.ready", &measurements, &[]);
    assert_eq!(bench.made, ["worker.ready.count [{ready}] counter 1 {}"]);
    assert!(!verdict.has_eligible);
}

#[test]
fn what_is_not_finite_is_counted_and_an_event_of_nothing_else_makes_nothing() {
    let mut bench = Bench::new();
    for bad in [Float(f64::NAN), Float(f64::INFINITY), Text("nan"), Text("-inf"), Text("1e999")] {
        let verdict = bench.event("a.b", &[("loss", bad), ("system_time", Int(1))], &[]);
        assert_eq!(verdict, Verdict { not_finite: 1, is_not_finite: true, ..Verdict::default() }, "{bad:?}");
    }
    assert!(bench.made.is_empty());
    let verdict = bench.event("a.b", &[("loss", Float(f64::NAN)), ("bytes", Int(1))], &[]);
    assert_eq!((verdict.measured, verdict.not_finite, verdict.is_not_finite), (1, 1, false));
    let too_large = bench.event("a.b", &[("rss_mb", Float(f64::MAX))], &[]);
    assert_eq!((too_large.measured, too_large.not_finite), (0, 1), "not finite once it is in bytes");
}

#[test]
fn a_span_is_a_duration_and_its_other_numbers() {
    let mut bench = Bench::new();
    let attributes = [
        ("snakepit.tool", AttributeValue::Text("search")),
        ("model", AttributeValue::Text("m")),
        ("snakepit.correlation_id", AttributeValue::Text("c")),
        ("error.type", AttributeValue::Text("ValueError")),
        ("tokens", AttributeValue::Int(512)),
        ("response_size", AttributeValue::Int(10)),
        ("snakepit.timeout_ms", AttributeValue::Int(3_000)),
        ("snakepit.worker.pid", AttributeValue::Int(4711)),
        ("share", AttributeValue::Float(0.5)),
        ("cached", AttributeValue::Bool(true)),
    ];
    let verdict = bench.span("tool.execution.stop", &attributes, 2_000_000);
    let points = "{error.type=ValueError,model=m,snakepit.tool=search}";
    assert_eq!(
        bench.made,
        [
            format!("tool.execution.duration [s] histogram/17 0.002 {points}"),
            format!("tool.execution.tokens [{{token}}] histogram/14 512 {points}"),
            format!("tool.execution.response_size [By] histogram/13 10 {points}"),
            format!("tool.execution.timeout [s] histogram/17 3.0 {points}"),
            format!("tool.execution.share [] histogram/15 0.5 {points}"),
        ]
    );
    assert_eq!(verdict.measured, 5);
}

#[test]
fn one_quantity_in_two_units_counts_once_and_a_named_instrument_takes_several() {
    let mut bench = Bench::new();
    bench.span("call.stop", &[("duration_ms", AttributeValue::Int(2))], 2_000_000);
    bench.event("a.b", &[("wait_ms", Int(2)), ("wait_us", Int(2_000))], &[]);
    assert_eq!(bench.made, ["call.duration [s] histogram/17 0.002 {}", "a.b.wait [s] histogram/17 0.002 {}"]);
    for (first, second) in [
        ("duration", "duration_seconds"),
        ("rss_mb", "rss_bytes"),
        ("rss_bytes", "rss_mb"),
        ("latency_ms", "latency_seconds"),
        ("total.loss", "total_loss"),
    ] {
        let mut bench = Bench::new();
        let verdict = bench.event("a.b", &[(first, Int(2)), (second, Int(3)), ("other", Int(1))], &[]);
        assert_eq!((verdict.measured, bench.made.len()), (2, 2), "{first} and {second}");
        let reports = bench.reports();
        let repeated: Vec<_> = reports[0].becomes.iter().filter(|one| one.repeated > 0).collect();
        assert_eq!(repeated.len(), 1);
        assert_eq!((&*repeated[0].measurement, repeated[0].repeated), (second, 1));
    }
    let named = |measurement: &str| MetricRule {
        measurement: Some(measurement.to_owned()),
        name: Some("tokens".to_owned()),
        ..MetricRule::of("*")
    };
    let mut bench = Bench::of_rules(vec![named("input_tokens"), named("output_tokens")]);
    bench.event("a.b", &[("input_tokens", Int(2)), ("output_tokens", Int(3))], &[]);
    assert_eq!(bench.made.len(), 2);
}

#[test]
fn an_event_with_more_measurements_than_are_looked_at_loses_the_rest() {
    let mut bench = Bench::new();
    let keys: Vec<_> = (0..MAX_MEASUREMENTS + 3).map(|number| format!("k{number}")).collect();
    let measurements: Vec<_> = keys.iter().map(|key| (key.as_str(), Int(1))).collect();
    let verdict = bench.event("a.b", &measurements, &[]);
    assert_eq!((verdict.measured as usize, verdict.no_room), (MAX_MEASUREMENTS, 3));
}

#[test]
fn a_span_of_an_operation_called_state_is_no_gauge() {
    let mut bench = Bench::new();
    bench.span("read.state.stop", &[("rows", AttributeValue::Int(3))], 1_000_000_000);
    assert_eq!(
        bench.made,
        ["read.state.duration [s] histogram/17 1.0 {}", "read.state.rows [{row}] histogram/13 3 {}"]
    );
}

#[test]
fn a_span_without_an_end_is_counted_by_reason() {
    let mut bench = Bench::new();
    let name = bench.name("tool.execution.start");
    let made = &mut bench.made;
    bench.mapping.incomplete("timeout", &name, |measured| {
        made.push(shown(measured));
        Ok(())
    });
    assert_eq!(bench.made, ["spans.incomplete [{span}] counter 1 {reason=timeout}"]);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let tokens = MetricRule {
        measurement: Some("tokens".to_owned()),
        instrument: Some(RuleInstrument::Counter),
        unit: Some("{piece}".to_owned()),
        attributes: Some(vec!["model".to_owned(), "tier".to_owned()]),
        name: Some("llm.tokens".to_owned()),
        description: Some("Tokens of all models".to_owned()),
        ..MetricRule::of("model.*")
    };
    let later = MetricRule { instrument: Some(RuleInstrument::Gauge), ..MetricRule::of("model.inference") };
    let mut bench = Bench::of_rules(vec![tokens, later]);
    bench.event(
        "model.inference",
        &[("tokens", Int(5)), ("latency_ms", Int(3))],
        &[("model", "m"), ("tier", "free"), ("tool", "t")],
    );
    assert_eq!(
        bench.made,
        [
            "llm.tokens [{piece}] counter 5 {model=m,tier=free}",
            "model.inference.latency [s] gauge 0.003 {model=m,snakepit.tool=t}",
        ]
    );
    bench.makes("x.inference", "tokens", Int(5), "x.inference.tokens [{token}] histogram/14 5 {}");
}

#[test]
fn a_rules_unit_is_converted_to_where_both_are_known() {
    let unit = |event: &str, unit: &str| MetricRule { unit: Some(unit.to_owned()), ..MetricRule::of(event) };
    let mut bench =
        Bench::of_rules(vec![unit("ms", "ms"), unit("mib", "MiBy"), unit("one", "1"), unit("x", "{x}")]);
    for (name, measurement, value, line) in [
        ("ms", "duration", Int(1_500_000), "ms.duration [ms] histogram/15 1.5 {}"),
        ("ms", "latency_ms", Int(7), "ms.latency [ms] histogram/15 7 {}"),
        ("ms", "uptime_seconds", Int(7), "ms.uptime [ms] histogram/15 7000 {}"),
        ("mib", "rss_bytes", Int(1 << 20), "mib.rss [MiBy] histogram/15 1.0 {}"),
        ("mib", "rss_mb", Int(3), "mib.rss [MiBy] histogram/15 3 {}"),
        ("one", "cpu_percent", Float(50.0), "one.cpu [1] gauge 0.5 {}"),
        ("x", "latency_ms", Int(7), "x.latency_ms [{x}] histogram/13 7 {}"),
        ("x", "loss", Int(7), "x.loss [{x}] histogram/13 7 {}"),
    ] {
        bench.makes(name, measurement, value, line);
    }
}

#[test]
fn a_rule_says_in_which_unit_values_are_sent_where_their_name_does_not() {
    let sent = |event: &str, measurement: &str, sent: &str, unit: Option<&str>| MetricRule {
        measurement: Some(measurement.to_owned()),
        sent_unit: Some(sent.to_owned()),
        unit: unit.map(str::to_owned),
        ..MetricRule::of(event)
    };
    let mut bench = Bench::of_rules(vec![
        sent("gpu.sampled", "utilization", "%", None),
        sent("gpu.seen.sampled", "utilization", "%", Some("%")),
        sent("gc.completed", "duration", "us", None),
        sent("a", "value", "ms", None),
        sent("b", "value", "ms", Some("s")),
        sent("c", "latency_ms", "us", None),
        sent("d", "size", "{page}", None),
        sent("e", "cpu_percent", "1", None),
        sent("tool.run", "duration", "us", None),
        sent("tool.run", "queue_time", "us", None),
    ]);
    for (name, measurement, value, line) in [
        ("gpu.sampled", "utilization", Int(87), "gpu.sampled.utilization [1] gauge 0.87 {}"),
        ("gpu.seen.sampled", "utilization", Int(87), "gpu.seen.sampled.utilization [%] gauge 87 {}"),
        ("gc.completed", "duration", Int(1_500), "gc.completed.duration [s] histogram/17 0.0015 {}"),
        ("gc.other", "duration", Int(1_500), "gc.other.duration [s] histogram/17 1.5e-6 {}"),
        ("a", "value", Int(7), "a.value [ms] histogram/15 7 {}"),
        ("b", "value", Int(7), "b.value [s] histogram/17 0.007 {}"),
        ("c", "latency_ms", Int(7_000), "c.latency [s] histogram/17 0.007 {}"),
        ("d", "size", Int(7), "d.size [{page}] histogram/13 7 {}"),
        ("e", "cpu_percent", Float(0.5), "e.cpu [%] gauge 50.0 {}"),
    ] {
        bench.makes(name, measurement, value, line);
    }
    bench.made.clear();
    bench.span("tool.run.stop", &[("queue_time", AttributeValue::Int(7_000))], 5_000_000);
    assert_eq!(
        bench.made,
        ["tool.run.duration [s] histogram/17 0.005 {}", "tool.run.queue_time [s] histogram/17 0.007 {}"],
        "what the bridge measures itself is in nanoseconds"
    );
}

#[test]
fn boundaries_make_a_histogram_of_fixed_bounds() {
    let bounds = MetricRule { boundaries: Some([1.0, 2.0].into()), ..MetricRule::of("a.*") };
    let settings = MetricSettings {
        rules: vec![bounds],
        histogram: HistogramAggregation::Exponential,
        ..MetricSettings::default()
    };
    let mut bench = Bench::with(&settings, &Settings::default());
    bench.makes("a.b", "queue_depth", Int(1), "a.b.queue_depth [{item}] histogram/2 1 {}");
    bench.makes("x.b", "loss", Int(1), "x.b.loss [] exponential 1 {}");
}

#[test]
fn a_rule_switches_off_and_the_event_is_ruled_out() {
    let off = MetricRule { instrument: Some(RuleInstrument::None), ..MetricRule::of("debug.*") };
    let mut bench = Bench::of_rules(vec![off]);
    let counted = bench.event("debug.hit", &[], &[]);
    assert_eq!(counted, Verdict { ruled_out: 1, ..Verdict::default() });
    let measured = bench.event("debug.hit", &[("bytes", Int(1))], &[]);
    assert_eq!(measured, Verdict { ruled_out: 1, has_eligible: true, ..Verdict::default() });
    let span = bench.span("debug.run.stop", &[], 1);
    assert_eq!((span.measured, span.ruled_out), (0, 1));
    assert!(bench.made.is_empty());
}

#[test]
fn conditions_are_on_metadata() {
    let some = MetricRule {
        keep: vec![("model".to_owned(), "gpt-*".to_owned()), ("snakepit.tool".to_owned(), "*".to_owned())],
        drop: vec![("error_type".to_owned(), "Cancel*".to_owned())],
        ..MetricRule::of("*")
    };
    let mut bench = Bench::of_rules(vec![some]);
    for (metadata, is_measured) in [
        (&[("model", "gpt-4"), ("tool", "t")][..], true),
        (&[("model", "other"), ("tool", "t")], false),
        (&[("model", "gpt-4")], false),
        (&[("model", "gpt-4"), ("tool", "t"), ("error_type", "Cancelled")], false),
    ] {
        let verdict = bench.event("a.b", &[("bytes", Int(1))], metadata);
        assert_eq!(
            (verdict.measured, verdict.ruled_out),
            (u32::from(is_measured), u32::from(!is_measured)),
            "{metadata:?}"
        );
    }
    let text = AttributeValue::Text;
    let of_span = [("model", text("gpt-4")), ("snakepit.tool", text("t"))];
    assert_eq!(bench.span("a.b.stop", &of_span, 1).measured, 1);
    let failed = [of_span[0], of_span[1], ("error.type", text("Cancelled"))];
    assert_eq!(bench.span("a.b.stop", &failed, 1).ruled_out, 1);
}

#[test]
fn what_is_redacted_is_measured_neither() {
    let rule = |key: &str, action| RedactRule { key: key.to_owned(), action };
    let redact = vec![rule("*secret*", RedactAction::Drop), rule("tool", RedactAction::Hash)];
    let mut bench = Bench::with(&MetricSettings::default(), &Settings { redact, ..Settings::default() });
    bench.event("a.b", &[("secret_bytes", Int(1)), ("bytes", Int(2))], &[("tool", "gpt")]);
    let hash = crate::engine::metadata::hashed("gpt");
    assert_eq!(bench.made, [format!("a.b.bytes [By] histogram/13 2 {{snakepit.tool={hash}}}")]);
    let long = format!("{}secret", "x".repeat(300));
    let verdict = bench.event("a.b", &[(&long, Int(1))], &[]);
    assert!(!verdict.has_eligible, "nobody can tell what its cut part says");
    bench.span("a.b.stop", &[("snakepit.tool", AttributeValue::Text("hashed"))], 1_000_000_000);
    assert_eq!(bench.made.last().unwrap(), "a.b.duration [s] histogram/17 1.0 {snakepit.tool=hashed}");
}

/// Law: whatever is sent, what is remembered is bounded, and what was known before keeps its number.
#[test]
fn a_new_measurement_in_every_event_costs_nothing_but_itself() {
    let mut bench = Bench::new();
    let name = bench.name("model.inference");
    let mut number = None;
    for at in 0..70_000 {
        let key = format!("k{at}");
        let event = Event {
            measurements: [("tokens", Int(1)), (&*key, Int(1))].into_iter().collect(),
            ..Event::default()
        };
        let verdict = bench.mapping.event(&name, &event, |measured| {
            if measured.instrument.name.ends_with(".tokens") {
                assert_eq!(*number.get_or_insert(measured.number), measured.number);
            }
            Ok(())
        });
        assert_eq!(verdict.measured, 2);
    }
    assert!(bench.reports().iter().all(|report| report.becomes.len() <= 2 * MAX_MEASUREMENTS));
}
