//! `metrics`, and what the standard variables say about them.

use super::*;
use crate::config::metrics::{MAX_BOUNDARIES, MAX_CONDITIONS, MAX_DESCRIPTION_CHARS, MAX_METRIC_RULES};
use crate::engine::metrics::mapping::point_keys::MAX_POINT_KEYS;
use crate::engine::metrics::settings::{
    ExemplarFilter, HistogramAggregation, MetricRule, MetricSettings, RuleInstrument, Temporality,
};

fn settings(given: &Given) -> MetricSettings {
    given.load().unwrap().engine.metrics.expect("metrics are made")
}

#[test]
fn everything_that_a_rule_can_say_reaches_the_engine() {
    let given = Given::file(
        r#"
metrics:
  rules:
    - event: "model.*"
      measurement: tokens
      instrument: updowncounter
      unit: "{token}"
      sent_unit: "{subword}"
      attributes: [model, tier]
      name: llm.tokens
      description: Tokens of all models
      keep: {model: "gpt-*", tier: paid}
      drop: {error_type: "*"}
    - {event: "a", boundaries: [1, 2.5]}
    - {event: "debug.*", instrument: none}
  attributes: {allow: [tenant], deny: ["dev*"]}
  max_series: 5
  max_series_per_worker: 50
  series_idle: 5m
"#,
    );
    let text = |text: &str| Some(text.to_owned());
    let pair = |key: &str, glob: &str| (key.to_owned(), glob.to_owned());

    let settings = settings(&given);

    let [tokens, bounds, debug] = &settings.rules[..] else { panic!("{settings:#?}") };
    assert_eq!(
        *tokens,
        MetricRule {
            event: "model.*".to_owned(),
            measurement: text("tokens"),
            instrument: Some(RuleInstrument::UpDownCounter),
            unit: text("{token}"),
            sent_unit: text("{subword}"),
            attributes: Some(vec!["model".to_owned(), "tier".to_owned()]),
            boundaries: None,
            name: text("llm.tokens"),
            description: text("Tokens of all models"),
            keep: vec![pair("model", "gpt-*"), pair("tier", "paid")],
            drop: vec![pair("error_type", "*")],
        }
    );
    assert_eq!(bounds.boundaries.as_deref(), Some(&[1.0, 2.5][..]));
    assert_eq!(debug.instrument, Some(RuleInstrument::None));
    assert_eq!((settings.allow, settings.deny), (vec!["tenant".to_owned()], vec!["dev*".to_owned()]));
    assert_eq!((settings.max_series, settings.max_series_per_worker), (5, 50));
    assert_eq!(settings.series_idle, Duration::from_secs(300));
    let warnings = given.load().unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("another unit than `{token}`"), "{warnings:?}");
}

#[test]
fn check_shows_rules_as_they_are_written() {
    let given = Given::file("metrics:\n  rules:\n    - {event: a, boundaries: [1, 2.5], keep: {model: x}}\n");
    let config = given.load().unwrap();
    let shown = config.effective.iter().find(|effective| effective.key == "metrics.rules[0]").unwrap();
    assert_eq!(
        shown.value,
        serde_json::json!({"event": "a", "boundaries": [1, 2.5], "keep": {"model": "x"}})
    );
    assert!(shown.source.to_string().ends_with("bridge.yaml:3"));
}

#[test]
fn what_is_wrong_in_a_rule_is_named_by_key_and_place() {
    let given = Given::file(
        r#"metrics:
  rules:
    - {measurement: a}
    - {event: "a[", measurement: ""}
    - {event: a, measurement: pid}
    - {event: a, instrument: summary}
    - {event: a, unit: "ä"}
    - {event: a, measurement: b, sent_unit: "ä"}
    - {event: a, sent_unit: "%"}
    - {event: a, attributes: ["tool*"]}
    - {event: a, boundaries: [1, 1]}
    - {event: a, boundaries: [1, x]}
    - {event: a, measurement: b, name: "9a"}
    - {event: a, name: b}
    - {event: a, instrument: counter, boundaries: [1]}
    - {event: a, keep: {model: "{x}"}}
    - {event: a, drop: {tier: 1}}
    - {event: a, keep: [model]}
    - {event: a, kep: {}}
  attributes: {allow: ["a*"], deny: ["a["]}
  max_series: 0
  max_series_per_worker: 0
  series_idle: 1ms
"#,
    );
    insta::assert_snapshot!(given.problems().join("\n"));
}

#[test]
fn every_list_has_an_end() {
    let list = |count: usize| vec!["a"; count].join(", ");
    let numbers: Vec<String> = (0..=MAX_BOUNDARIES).map(|number| number.to_string()).collect();
    let conditions: Vec<String> = (0..=MAX_CONDITIONS).map(|number| format!("k{number}: x")).collect();
    for (text, message) in [
        (format!("attributes: [{}]", list(MAX_POINT_KEYS + 1)), "33 keys are too many"),
        (format!("boundaries: [{}]", numbers.join(", ")), "101 boundaries are too many"),
        (format!("keep: {{{}}}", conditions.join(", ")), "17 conditions are too many"),
        (format!("description: {}", "a".repeat(MAX_DESCRIPTION_CHARS + 1)), "1025 characters are too many"),
    ] {
        let problems = Given::file(&format!("metrics:\n  rules:\n    - {{event: a, {text}}}\n")).problems();
        assert!(problems.len() == 1 && problems[0].contains(message), "{problems:?}");
    }
    for list_of in ["allow", "deny"] {
        let text = format!("metrics: {{attributes: {{{list_of}: [{}]}}}}\n", list(MAX_POINT_KEYS + 1));
        assert!(Given::file(&text).problems()[0].contains("33 "), "{list_of}");
    }
    let rules = "    - {event: a, unit: x}\n".repeat(MAX_METRIC_RULES + 1);
    let problems = Given::file(&format!("metrics:\n  rules:\n{rules}")).problems();
    assert!(problems.len() == 1 && problems[0].contains("257 rules are too many"), "{problems:?}");
}

#[test]
fn what_is_most_likely_meant_otherwise_is_said() {
    let given = Given::file(
        "metrics:\n  rules:\n    - {event: tool.run.stop, measurement: duration, unit: By}\n    - {event: \
         snakepit.python.x, unit: s}\n    - {event: a, instrument: none, unit: s}\n    - {event: b}\n    - {event: c, measurement: \
         utilization, sent_unit: \"%\", unit: \"%\"}\n    - {event: c, measurement: utilization, sent_unit: s, unit: \
         \"%\"}\n",
    );
    let config = given.load().unwrap();
    assert_eq!(config.engine.metrics.unwrap().rules[0].event, "tool.run");
    let folder = format!("{}/", given.directory.path().display());
    let warnings: Vec<_> = config.warnings.iter().map(|warning| warning.replace(&folder, "")).collect();
    assert_eq!(
        warnings,
        [
            "bridge.yaml:3: metrics.rules[0]: `duration` is measured in another unit than `By`, and is not converted: \
             the values stay as they are sent",
            "bridge.yaml:3: metrics.rules[0]: `tool.run.stop` is a half of a span: the rule is for the whole operation \
             `tool.run`",
            "bridge.yaml:4: metrics.rules[1]: `snakepit.python.x` matches nothing: it is on the name that the worker \
             sends, without `snakepit.python.`",
            "bridge.yaml:5: metrics.rules[2]: beside `instrument: none` there is no effect of unit",
            "bridge.yaml:6: metrics.rules[3] changes nothing, and hides the rules after it",
            "bridge.yaml:8: metrics.rules[5]: `utilization` is measured in another unit than `%`, and is not \
             converted: the values stay as they are sent",
        ]
    );
}

#[test]
fn the_standard_variables_say_how_metrics_are_made() {
    let usual = settings(&Given::nothing());
    assert_eq!(usual.temporality, Temporality::Cumulative);
    assert_eq!(usual.histogram, HistogramAggregation::Explicit);
    assert_eq!(usual.exemplars, ExemplarFilter::TraceBased);
    for preference in ["delta", "lowmemory"] {
        let given = Given::nothing()
            .variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
            .variable(
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                "base2_exponential_bucket_histogram",
            )
            .variable("OTEL_METRICS_EXEMPLAR_FILTER", "always_off");
        let other = settings(&given);
        assert_eq!(other.temporality, Temporality::Delta, "{preference}");
        assert_eq!(other.histogram, HistogramAggregation::Exponential);
        assert_eq!(other.exemplars, ExemplarFilter::AlwaysOff);
    }
}

/// A signal that goes nowhere is not made; traces that go nowhere have no sampler that exemplars could follow.
#[test]
fn what_goes_nowhere_is_not_made() {
    let made = |given: Given| {
        let engine = given.load().unwrap().engine;
        (engine.sampler.is_some(), engine.metrics.is_some(), engine.records)
    };
    assert_eq!(made(Given::nothing()), (true, true, true));
    assert_eq!(made(Given::nothing().variable("OTEL_TRACES_EXPORTER", "none")), (false, true, true));
    assert_eq!(made(Given::nothing().variable("OTEL_METRICS_EXPORTER", "none")), (true, false, true));
    assert_eq!(made(Given::nothing().variable("OTEL_LOGS_EXPORTER", "none")), (true, true, false));
    assert_eq!(made(Given::nothing().variable("OTEL_SDK_DISABLED", "true")), (false, false, false));
    assert_eq!(made(Given::nothing().variable("OTEL_METRICS_EXPORTER", "console")), (true, true, true));
}

/// Law: what the documentation shows as configuration is one, without a warning.
#[test]
fn the_documented_rules_are_understood() {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let own: Vec<_> = blocks.filter(|block| block.starts_with("metrics:")).collect();
    let rules = own.iter().map(|block| {
        let config = Given::file(block).load().unwrap();
        assert_eq!(config.warnings, [""; 0]);
        config.engine.metrics.unwrap().rules.len()
    });
    assert_eq!(rules.collect::<Vec<_>>(), [2, 5]);
}
