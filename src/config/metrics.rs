//! `metrics`: which instruments are made of what, which attributes their points have, and how many series there may be.
//!
//! Temporality, the default histogram and exemplars are said by the standard variables; see [`Config`](super::Config).

use std::time::Duration;

use super::file::{Node, Value};
use super::patterns::check_glob;
use super::provenance::Source;
use super::resolve::Resolver;
use super::sections::{LONGEST, between, one_or_more, required_items};
use crate::engine::metrics::mapping::names::is_instrument_name;
use crate::engine::metrics::mapping::point_keys::MAX_POINT_KEYS;
use crate::engine::metrics::mapping::{is_converted, is_ever_measured};
use crate::engine::metrics::settings::{MetricRule, MetricSettings, RuleInstrument};
use crate::engine::settings::MAX_KEY_BYTES;

/// Rules: each is tried on every new name.
pub(super) const MAX_METRIC_RULES: usize = 256;
/// Bounds of a histogram: each costs 8 bytes a series, and backends a series each.
pub(super) const MAX_BOUNDARIES: usize = 100;
/// Conditions of one rule, of each kind.
pub(super) const MAX_CONDITIONS: usize = 16;
/// Characters of a description.
pub(super) const MAX_DESCRIPTION_CHARS: usize = 1024;
/// Characters of a unit, by OpenTelemetry's syntax.
const MAX_UNIT_CHARS: usize = 63;
/// Shortest life of a series without measurements: shorter than a collection would make counters start anew each time.
const SHORTEST_IDLE: Duration = Duration::from_secs(1);

const INSTRUMENTS: [(&str, RuleInstrument); 5] = [
    ("histogram", RuleInstrument::Histogram),
    ("counter", RuleInstrument::Counter),
    ("updowncounter", RuleInstrument::UpDownCounter),
    ("gauge", RuleInstrument::Gauge),
    ("none", RuleInstrument::None),
];

/// The whole section. `prefix` goes before every name.
pub(super) fn metrics(resolver: &mut Resolver<'_>, prefix: &str) -> MetricSettings {
    let defaults = MetricSettings::default();
    let mut rules = Vec::new();
    let items = required_items(resolver, "metrics.rules", &["event"]);
    if items.len() > MAX_METRIC_RULES
        && let Some(line) = resolver.node("metrics.rules").map(|node| node.line)
    {
        let message = format!("{} rules are too many: at most {MAX_METRIC_RULES} are tried", items.len());
        resolver.problem(resolver.at(line), "metrics.rules", message);
    }
    for (path, item) in items {
        rules.extend(rule(resolver, &path, &item, prefix));
        resolver.record(&path, item.value.to_json(), resolver.at(item.line));
    }
    MetricSettings {
        rules,
        allow: resolver.filed("metrics.attributes.allow", defaults.allow, check_keys),
        deny: resolver.filed("metrics.attributes.deny", defaults.deny, |globs: &Vec<String>| {
            at_most(globs.len(), MAX_POINT_KEYS, "globs")?;
            globs.iter().try_for_each(|glob| check_glob(glob))
        }),
        max_series: resolver.filed("metrics.max_series", defaults.max_series, one_or_more),
        max_series_per_worker: resolver.filed(
            "metrics.max_series_per_worker",
            defaults.max_series_per_worker,
            one_or_more,
        ),
        series_idle: resolver.filed(
            "metrics.series_idle",
            defaults.series_idle,
            between(SHORTEST_IDLE, LONGEST),
        ),
        ..defaults
    }
}

/// A rule; `None` where it has no event, which is a problem by itself.
fn rule(resolver: &mut Resolver<'_>, path: &str, item: &Node, prefix: &str) -> Option<MetricRule> {
    let event: Option<String> = resolver.field(item, path, "event", |glob: &String| check_glob(glob));
    let measurement: Option<String> = resolver.field(item, path, "measurement", check_measurement);
    let instrument: Option<String> = resolver.field(item, path, "instrument", |name: &String| {
        let known = INSTRUMENTS.map(|(name, _)| format!("`{name}`")).join(", ");
        let found = instrument(name).map(|_| ());
        found.ok_or_else(|| format!("`{}` is not an instrument ({known})", name.escape_debug()))
    });
    let mut rule = MetricRule {
        event: event?,
        measurement,
        instrument: instrument.as_deref().and_then(self::instrument),
        unit: resolver.field(item, path, "unit", check_unit),
        sent_unit: resolver.field(item, path, "sent_unit", check_unit),
        attributes: resolver.field(item, path, "attributes", check_keys),
        boundaries: resolver.field(item, path, "boundaries", check_boundaries).map(Vec::<f64>::into),
        name: resolver.field(item, path, "name", check_name),
        description: resolver.field(item, path, "description", check_description),
        keep: conditions(resolver, item, path, "keep"),
        drop: conditions(resolver, item, path, "drop"),
    };
    let place = resolver.at(item.line);
    check_whole(resolver, &place, path, &rule);
    whole_operation(resolver, &place, path, &mut rule);
    if rule.event.starts_with(&format!("{prefix}.")) {
        resolver.warnings.push(format!(
            "{place}: {path}: `{}` matches nothing: it is on the name that the worker sends, without `{prefix}.`",
            rule.event
        ));
    }
    Some(rule)
}

/// What is no mapping has been reported already.
fn conditions(resolver: &mut Resolver<'_>, item: &Node, path: &str, name: &str) -> Vec<(String, String)> {
    let is_mapping = |node: &Node| matches!(node.value, Value::Map(_));
    let Value::Map(entries) = &item.value else { return Vec::new() };
    if !entries.iter().any(|(key, node)| key.name == name && is_mapping(node)) {
        return Vec::new();
    }
    resolver.field(item, path, name, check_conditions).unwrap_or_default()
}

/// Judges what a rule's parts say together.
fn check_whole(resolver: &mut Resolver<'_>, place: &Source, path: &str, rule: &MetricRule) {
    let says_what = [
        ("unit", rule.unit.is_some()),
        ("sent_unit", rule.sent_unit.is_some()),
        ("attributes", rule.attributes.is_some()),
        ("boundaries", rule.boundaries.is_some()),
        ("name", rule.name.is_some()),
        ("description", rule.description.is_some()),
    ];
    if rule.name.is_some() && rule.measurement.is_none() {
        let message = "it is the whole name of one instrument: `measurement` must say of which measurement \
                       (`count` for events that have none, `duration` of spans)";
        resolver.problem(place.clone(), &format!("{path}.name"), message.to_owned());
    }
    if rule.sent_unit.is_some() && rule.measurement.is_none() {
        let message = "it is true of one measurement: `measurement` must say of which".to_owned();
        resolver.problem(place.clone(), &format!("{path}.sent_unit"), message);
    }
    match rule.instrument {
        Some(RuleInstrument::None) => {
            let idle: Vec<_> = says_what.iter().filter(|(_, said)| *said).map(|(name, _)| *name).collect();
            if !idle.is_empty() {
                let idle = idle.join(", ");
                let warning =
                    format!("{place}: {path}: beside `instrument: none` there is no effect of {idle}");
                resolver.warnings.push(warning);
            }
        }
        Some(RuleInstrument::Counter | RuleInstrument::UpDownCounter | RuleInstrument::Gauge)
            if rule.boundaries.is_some() =>
        {
            let message = "only a histogram has boundaries".to_owned();
            resolver.problem(place.clone(), &format!("{path}.boundaries"), message);
        }
        None if says_what.iter().all(|(_, said)| !said) && rule.keep.is_empty() && rule.drop.is_empty() => {
            let warning = format!("{place}: {path} changes nothing, and hides the rules after it");
            resolver.warnings.push(warning);
        }
        Some(
            RuleInstrument::Counter
            | RuleInstrument::UpDownCounter
            | RuleInstrument::Gauge
            | RuleInstrument::Histogram,
        )
        | None => {}
    }
    let unconverted = rule.unit.as_deref().zip(rule.measurement.as_deref());
    let sent = rule.sent_unit.as_deref();
    if let Some((unit, measurement)) = unconverted.filter(|(unit, key)| !is_converted(key, sent, unit)) {
        resolver.warnings.push(format!(
            "{place}: {path}: `{}` is measured in another unit than `{}`, and is not converted: the values stay as \
             they are sent",
            measurement.escape_debug(),
            unit.escape_debug()
        ));
    }
}

/// A span's measurements are those of its operation, whichever half brought them.
fn whole_operation(resolver: &mut Resolver<'_>, place: &Source, path: &str, rule: &mut MetricRule) {
    let phases = [".start", ".stop", ".exception"];
    let operation = phases.into_iter().find_map(|phase| rule.event.strip_suffix(phase));
    let Some(operation) = operation.filter(|operation| !operation.is_empty()).map(str::to_owned) else {
        return;
    };
    resolver.warnings.push(format!(
        "{place}: {path}: `{}` is a half of a span: the rule is for the whole operation `{operation}`",
        rule.event
    ));
    rule.event = operation;
}

fn instrument(name: &str) -> Option<RuleInstrument> {
    INSTRUMENTS.into_iter().find(|(known, _)| *known == name).map(|(_, instrument)| instrument)
}

fn at_most(count: usize, most: usize, what: &str) -> Result<(), String> {
    if count <= most {
        Ok(())
    } else {
        Err(format!("{count} {what} are too many: at most {most} may be there"))
    }
}

fn check_key(key: &str) -> Result<(), String> {
    match key.len() {
        0 => Err("`` is not a key: it is empty".to_owned()),
        1..=MAX_KEY_BYTES => Ok(()),
        _ => Err(format!("a key has at most {MAX_KEY_BYTES} bytes")),
    }
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a Vec")]
fn check_keys(keys: &Vec<String>) -> Result<(), String> {
    at_most(keys.len(), MAX_POINT_KEYS, "keys")?;
    keys.iter().try_for_each(|key| match key.contains(['*', '?', '[']) {
        true => Err(format!("`{}` is a glob: keys are named one by one here", key.escape_debug())),
        false => check_key(key),
    })
}

fn check_measurement(measurement: &String) -> Result<(), String> {
    check_key(measurement)?;
    if !is_ever_measured(measurement) {
        return Err(format!(
            "`{measurement}` is never a metric: it is a time of the event, or an identifier"
        ));
    }
    Ok(())
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a String")]
fn check_unit(unit: &String) -> Result<(), String> {
    if unit.len() <= MAX_UNIT_CHARS && unit.chars().all(|character| character.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a unit (UCUM such as `s`, `By`, `%`, `{{token}}`; at most {MAX_UNIT_CHARS} ASCII characters)",
        unit.escape_debug()
    ))
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a Vec")]
fn check_boundaries(bounds: &Vec<f64>) -> Result<(), String> {
    at_most(bounds.len(), MAX_BOUNDARIES, "boundaries")?;
    match bounds.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(format!("`{}` after `{}`: boundaries ascend", pair[1], pair[0])),
        None => Ok(()),
    }
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a String")]
fn check_name(name: &String) -> Result<(), String> {
    if is_instrument_name(name) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not the name of an instrument (a letter, then letters, digits, `_`, `.`, `-`, `/`; at most 255)",
        name.escape_debug()
    ))
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a String")]
fn check_description(description: &String) -> Result<(), String> {
    at_most(description.chars().count(), MAX_DESCRIPTION_CHARS, "characters")
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a Vec")]
fn check_conditions(conditions: &Vec<(String, String)>) -> Result<(), String> {
    at_most(conditions.len(), MAX_CONDITIONS, "conditions")?;
    conditions.iter().try_for_each(|(key, glob)| {
        check_key(key)?;
        check_glob(glob).map_err(|message| format!("{}: {message}", key.escape_debug()))
    })
}
