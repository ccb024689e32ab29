//! The sections of the configuration: their defaults, their ranges, and what they become.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::file::Node;
use super::patterns::{check_event_pattern, check_glob, widened_operation};
use super::provenance::Source;
use super::resolve::Resolver;
use super::schema;
use super::value::Setting;
use crate::control::policies::{MAX_PATTERNS, PolicySettings, RATE_WITH_PATTERNS, Rule};
use crate::control::policy::Rate;
use crate::engine::sampler::Exceptions;
use crate::engine::settings::{Limits, RedactAction, RedactRule, Settings};
use crate::receiver;

/// Longest time-out, grace period or epoch: a week. Longer is a slip of the unit, and state would pile up.
pub(super) const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Shortest span time-out and reorder window: below a millisecond no timer keeps its word.
const SHORTEST: Duration = Duration::from_millis(1);
/// Longest reorder window: everything that waits for a parent waits this long.
const LONGEST_REORDER_WINDOW: Duration = Duration::from_secs(60);
/// Longest prefix, so that names stay within their 255 characters.
const MAX_PREFIX_BYTES: usize = 128;
/// A message must at least hold an event with a few attributes.
const MIN_MESSAGE_BYTES: usize = 1024;
/// tonic reads lengths of 32 bits, and a message is held in memory as a whole.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

pub(super) fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}

/// Checks that a value lies between two others.
pub(super) fn between<T: PartialOrd + Setting>(low: T, high: T) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        if (&low..=&high).contains(&value) {
            return Ok(());
        }
        let [value, low, high] = [value, &low, &high].map(|value| plain(&value.show()));
        Err(format!("`{value}` is not between {low} and {high}"))
    }
}

/// Checks that a count is not 0.
pub(super) fn one_or_more(count: &usize) -> Result<(), String> {
    if *count > 0 { Ok(()) } else { Err("`0` is too few: at least 1 is needed".to_owned()) }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Checks each element of a list.
fn each(check: impl Fn(&str) -> Result<(), String>) -> impl Fn(&Vec<String>) -> Result<(), String> {
    move |values| values.iter().try_for_each(|value| check(value))
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a String")]
fn glob(pattern: &String) -> Result<(), String> {
    check_glob(pattern)
}

/// `naming`, `nesting`, `attributes`, and the engine's part of `bridge` and `limits`.
pub(super) fn engine(resolver: &mut Resolver<'_>) -> Settings {
    let defaults = Settings::default();
    let long = between(SHORTEST, LONGEST);
    let (span_timeout, _) = resolver.keyed(&schema::SPAN_TIMEOUT, defaults.span_timeout, &long);
    let span_timeouts = resolver.table("bridge.span_timeouts", |operation, timeout| {
        check_glob(operation)?;
        long(timeout)
    });
    let (reconnect_grace, _) =
        resolver.keyed(&schema::RECONNECT_GRACE, defaults.reconnect_grace, between(Duration::ZERO, LONGEST));
    let (reorder_window, _) = resolver.keyed(
        &schema::REORDER_WINDOW,
        defaults.reorder_window,
        between(SHORTEST, LONGEST_REORDER_WINDOW),
    );
    let prefix = resolver.filed("naming.prefix", defaults.prefix, check_prefix);
    let trace_epoch =
        resolver.filed("naming.trace_epoch", defaults.trace_epoch, |epoch: &Option<Duration>| {
            epoch.as_ref().map_or(Ok(()), between(Duration::from_secs(1), LONGEST))
        });
    let one_at_a_time = resolver.filed("nesting.one_at_a_time", defaults.one_at_a_time, each(check_glob));
    let max_open_spans_per_worker = resolver.filed(
        "limits.max_open_spans_per_worker",
        defaults.limits.max_open_spans_per_worker,
        one_or_more,
    );
    Settings {
        prefix,
        span_timeout,
        span_timeouts,
        reconnect_grace,
        reorder_window,
        one_at_a_time,
        trace_epoch,
        trace_idle: defaults.trace_idle,
        redact: redact(resolver),
        propagators: defaults.propagators,
        metrics: None,
        records: false,
        exception_signal: defaults.exception_signal,
        sampler: None,
        limits: Limits { max_open_spans_per_worker, ..defaults.limits },
    }
}

#[expect(clippy::ptr_arg, reason = "the readers check what they read, which is a String")]
fn check_prefix(prefix: &String) -> Result<(), String> {
    let fits = |part: &str| {
        !part.is_empty()
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "_-".contains(character))
    };
    let begins = prefix.starts_with(|character: char| character.is_ascii_alphabetic());
    if begins && prefix.split('.').all(fits) && prefix.len() <= MAX_PREFIX_BYTES {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a prefix (dotted parts of letters, digits, `_` and `-`, a letter first, {MAX_PREFIX_BYTES} bytes at most)",
        prefix.escape_debug()
    ))
}

fn redact(resolver: &mut Resolver<'_>) -> Vec<RedactRule> {
    let mut rules = Vec::new();
    for (path, item) in required_items(resolver, "attributes.redact", &["key", "action"]) {
        let key: Option<String> = resolver.field(&item, &path, "key", glob);
        let action: Option<String> = resolver.field(&item, &path, "action", |action: &String| {
            redact_action(action)
                .map(|_| ())
                .ok_or_else(|| format!("`{}` is not an action (`drop` or `hash`)", action.escape_debug()))
        });
        let (Some(key), Some(action)) = (key, action.as_deref().and_then(redact_action)) else { continue };
        let shown = match action {
            RedactAction::Drop => "drop",
            RedactAction::Hash => "hash",
        };
        resolver.record(&path, json!({"key": key, "action": shown}), resolver.at(item.line));
        rules.push(RedactRule { key, action });
    }
    rules
}

fn redact_action(name: &str) -> Option<RedactAction> {
    match name {
        "drop" => Some(RedactAction::Drop),
        "hash" => Some(RedactAction::Hash),
        _ => None,
    }
}

/// The items of a list, where an item without one of `needed` is a problem. Notes the default of an empty list.
pub(super) fn required_items(
    resolver: &mut Resolver<'_>,
    list: &str,
    needed: &[&str],
) -> Vec<(String, Node)> {
    let items = resolver.items(list);
    if items.is_empty() {
        resolver.record(list, json!([]), Source::Default);
    }
    for (path, item) in &items {
        for name in needed.iter().filter(|name| !has(item, name)) {
            resolver.problem(resolver.at(item.line), path, format!("`{name}` is missing"));
        }
    }
    items
}

fn has(item: &Node, name: &str) -> bool {
    match &item.value {
        super::file::Value::Map(entries) => entries.iter().any(|(key, _)| key.name == name),
        super::file::Value::Null
        | super::file::Value::Bool(_)
        | super::file::Value::Int(_)
        | super::file::Value::Float(_)
        | super::file::Value::Text(_)
        | super::file::Value::List(_) => false,
    }
}

/// `telemetry` and `control`.
pub(super) fn control(resolver: &mut Resolver<'_>, prefix: &str) -> PolicySettings {
    let defaults = PolicySettings::default();
    let enabled = resolver.filed("telemetry.enabled", defaults.enabled, any);
    let default_sampling_rate =
        resolver.filed("telemetry.default_sampling_rate", defaults.default_sampling_rate, any);
    let per_worker_sampling: BTreeMap<String, Rate> =
        resolver.table("telemetry.per_worker_sampling", |_, _| Ok(())).into_iter().collect();
    resolver.filed("telemetry.grpc_stream", true, any);
    if let Some(node) = resolver.node("telemetry.grpc_stream") {
        let place = resolver.at(node.line);
        resolver.warnings.push(format!(
            "{place}: telemetry.grpc_stream has no effect here: workers always stream over gRPC"
        ));
    }
    let mut rules = Vec::new();
    for (path, item) in required_items(resolver, "control.rules", &[]) {
        let rule = rule(resolver, &path, &item, prefix);
        resolver.record(&path, show_rule(&rule), resolver.at(item.line));
        rules.push(rule);
    }
    PolicySettings { enabled, default_sampling_rate, per_worker_sampling, rules }
}

fn rule(resolver: &mut Resolver<'_>, path: &str, item: &Node, prefix: &str) -> Rule {
    let rule = Rule {
        worker: resolver.field(item, path, "worker", glob),
        pool: resolver.field(item, path, "pool", glob),
        node: resolver.field(item, path, "node", glob),
        enabled: resolver.field(item, path, "enabled", any),
        sampling_rate: resolver.field(item, path, "sampling_rate", any),
        event_patterns: resolver
            .field(item, path, "event_patterns", |patterns: &Vec<String>| {
                if patterns.is_empty() { Ok(()) } else { Err(RATE_WITH_PATTERNS.to_owned()) }
            })
            .unwrap_or_default(),
        allowed_events: resolver
            .field(item, path, "allowed_events", check_event_patterns)
            .unwrap_or_default(),
        blocked_events: resolver
            .field(item, path, "blocked_events", check_event_patterns)
            .unwrap_or_default(),
    };
    let place = resolver.at(item.line);
    for pattern in rule.allowed_events.iter().chain(&rule.blocked_events) {
        if let Some(operation) = widened_operation(pattern) {
            resolver.warnings.push(format!(
                "{place}: {path}: `{pattern}` stands for the start, stop and exception of `{operation}`, so that no span is torn apart"
            ));
        }
        if pattern.starts_with(&format!("{prefix}.")) {
            resolver.warnings.push(format!(
                "{place}: {path}: `{pattern}` matches nothing: patterns are on the name that the worker sends, without `{prefix}.`"
            ));
        }
    }
    if rule
        == (Rule {
            worker: rule.worker.clone(),
            pool: rule.pool.clone(),
            node: rule.node.clone(),
            ..Rule::default()
        })
    {
        resolver.warnings.push(format!("{place}: {path} changes nothing, and hides the rules after it"));
    }
    rule
}

fn check_event_patterns(patterns: &Vec<String>) -> Result<(), String> {
    if patterns.len() > MAX_PATTERNS {
        return Err(format!("{} patterns are too many: at most {MAX_PATTERNS} are matched", patterns.len()));
    }
    each(check_event_pattern)(patterns)
}

fn show_rule(rule: &Rule) -> serde_json::Value {
    let mut shown = serde_json::Map::new();
    let mut put = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            shown.insert(name.to_owned(), value);
        }
    };
    put("worker", rule.worker.as_ref().map(Setting::show));
    put("pool", rule.pool.as_ref().map(Setting::show));
    put("node", rule.node.as_ref().map(Setting::show));
    put("enabled", rule.enabled.as_ref().map(Setting::show));
    put("sampling_rate", rule.sampling_rate.as_ref().map(Setting::show));
    let stated = |list: &Vec<String>| (!list.is_empty()).then(|| list.show());
    put("allowed_events", stated(&rule.allowed_events));
    put("blocked_events", stated(&rule.blocked_events));
    shown.into()
}

/// `sampling`.
pub(super) fn sampling(resolver: &mut Resolver<'_>) -> Exceptions {
    let errors = resolver.filed("sampling.keep_errors", false, any);
    let slower_than = resolver.filed("sampling.keep_slower_than", None::<Duration>, any);
    let nanos = |wait: Duration| u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
    Exceptions { errors, slower_than_ns: slower_than.map(nanos) }
}

/// `workers`.
pub(super) fn same_host(resolver: &mut Resolver<'_>) -> bool {
    let same_host = resolver.filed("workers.same_host", false, any);
    let dialled = required_items(resolver, "workers.dial", &[]);
    if let Some((_, first)) = dialled.first() {
        // Accepted in silence it would look like a bridge that gets no events.
        resolver.problem(
            resolver.at(first.line),
            "workers.dial",
            "dialling workers is not built yet: let the workers connect to `bridge.listen`".to_owned(),
        );
    }
    same_host
}

/// The part of `limits` that is not the engine's.
#[derive(Debug, Clone, Copy)]
pub(super) struct BridgeLimits {
    pub(super) max_workers: usize,
    pub(super) max_open_spans: usize,
    pub(super) max_open_bytes: usize,
    pub(super) max_message_bytes: usize,
    pub(super) max_spool_bytes: usize,
    pub(super) max_connections: usize,
}

pub(super) fn limits(resolver: &mut Resolver<'_>) -> BridgeLimits {
    BridgeLimits {
        max_workers: resolver.filed("limits.max_workers", receiver::DEFAULT_MAX_WORKERS, one_or_more),
        max_open_spans: resolver.filed("limits.max_open_spans", super::DEFAULT_MAX_OPEN_SPANS, one_or_more),
        max_open_bytes: resolver.filed("limits.max_open_bytes", super::DEFAULT_MAX_OPEN_BYTES, one_or_more),
        max_message_bytes: resolver.filed(
            "limits.max_message_bytes",
            receiver::DEFAULT_MAX_MESSAGE_BYTES as usize,
            between(MIN_MESSAGE_BYTES, MAX_MESSAGE_BYTES),
        ),
        max_spool_bytes: resolver.filed(
            "limits.max_spool_bytes",
            super::DEFAULT_MAX_SPOOL_BYTES,
            one_or_more,
        ),
        max_connections: resolver.filed(
            "limits.max_connections",
            receiver::DEFAULT_MAX_CONNECTIONS,
            one_or_more,
        ),
    }
}
