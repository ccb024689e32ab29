//! The rules of `metrics.rules`, compiled. The first that matches an event and a measurement decides.

use crate::control::glob::{Glob, MAX_PATTERN_CHARS};
use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metadata::{attribute_name, sent_name, truncated};
use crate::engine::metrics::settings::{MetricRule, MetricSettings};
use crate::engine::settings::RedactRule;
use crate::event::Event;

use super::point_keys::KeySet;

/// All rules, and the general list of point attributes.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<CompiledRule>,
    general: KeySet,
    /// Keys whose values must not be shown.
    redact: Vec<Glob>,
}

/// A rule.
#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) says: MetricRule,
    event: Glob,
    keep: Vec<Condition>,
    drop: Vec<Condition>,
    keys: Option<KeySet>,
}

/// On the value of one metadata key.
#[derive(Debug)]
struct Condition {
    sent: Box<str>,
    on_span: Box<str>,
    value: Glob,
}

/// Where metadata are found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Metadata<'a, 'e> {
    /// As a worker sent them.
    Event(&'a Event<'e>),
    /// As a span keeps them.
    Span(&'a Attributes),
}

impl Rules {
    pub(super) fn new(settings: &MetricSettings, redact: &[RedactRule]) -> Self {
        let condition = |(key, value): &(String, String)| {
            let sent = sent_name(key);
            Condition { sent: sent.into(), on_span: (*attribute_name(sent)).into(), value: Glob::new(value) }
        };
        let compile = |rule: &MetricRule| CompiledRule {
            event: Glob::new(&rule.event),
            keep: rule.keep.iter().map(condition).collect(),
            drop: rule.drop.iter().map(condition).collect(),
            keys: rule.attributes.as_ref().map(|keys| KeySet::of(keys.iter().map(String::as_str), redact)),
            says: rule.clone(),
        };
        Self {
            rules: settings.rules.iter().map(compile).collect(),
            general: KeySet::general(&settings.allow, &settings.deny, redact),
            redact: redact.iter().map(|rule| Glob::new(&rule.key)).collect(),
        }
    }

    /// The places of the rules for an event or an operation, in their order.
    pub(super) fn of(&self, emitted: &str) -> Box<[usize]> {
        let matching = self.rules.iter().enumerate().filter(|(_, rule)| rule.event.matches(emitted));
        matching.map(|(place, _)| place).collect()
    }

    /// Of these rules the one for a measurement.
    pub(super) fn find(&self, places: &[usize], measurement: &str) -> Option<usize> {
        let decides = |place: &usize| {
            self.rules[*place].says.measurement.as_ref().is_none_or(|only| *only == measurement)
        };
        places.iter().copied().find(decides)
    }

    /// The rule at a place.
    pub(super) fn at(&self, place: usize) -> &CompiledRule {
        &self.rules[place]
    }

    /// The point attributes of what a rule decides, or of what none does.
    pub(super) fn keys(&self, place: Option<usize>) -> &KeySet {
        place.and_then(|place| self.rules[place].keys.as_ref()).unwrap_or(&self.general)
    }

    /// Whether nothing of this key may be shown.
    pub(super) fn redacts(&self, key: &str) -> bool {
        self.redact.iter().any(|glob| glob.matches(key))
    }

    /// Whether anything may not be shown.
    pub(super) fn redacts_anything(&self) -> bool {
        !self.redact.is_empty()
    }
}

impl CompiledRule {
    /// Whether the rule measures some events only.
    pub(super) fn is_conditional(&self) -> bool {
        !self.keep.is_empty() || !self.drop.is_empty()
    }

    /// Whether the rule lists its point attributes itself.
    pub(super) fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Whether an event with these metadata is measured.
    pub(super) fn measures(&self, metadata: Metadata<'_, '_>) -> bool {
        self.keep.iter().all(|condition| condition.holds(metadata))
            && !self.drop.iter().any(|condition| condition.holds(metadata))
    }
}

impl Condition {
    /// A key that is not there matches nothing.
    fn holds(&self, metadata: Metadata<'_, '_>) -> bool {
        let value = match metadata {
            Metadata::Event(event) => event.metadata_value(&self.sent),
            Metadata::Span(attributes) => {
                let text = |key: &str| match attributes.value(key) {
                    Some(AttributeValue::Text(text)) => Some(text),
                    Some(AttributeValue::Int(_) | AttributeValue::Float(_) | AttributeValue::Bool(_))
                    | None => None,
                };
                // A failed span has used up its key, and says the same under the established name.
                let failed = if *self.sent == *"error_type" { text("error.type") } else { None };
                failed.or_else(|| text(&self.on_span))
            }
        };
        // Matching is quadratic at worst, so what is long is not looked at to its end.
        value.is_some_and(|value| self.value.matches(truncated(value, MAX_PATTERN_CHARS)))
    }
}
