//! What an event's or a span's measurements are measurements of: instruments, values in their unit, point attributes.
//!
//! | an event has | it becomes |
//! |---|---|
//! | measurements that are numbers | one of instrument `<prefix>.<event>.<measurement>` each |
//! | none, or only times, identifiers and texts | 1 of the counter `<prefix>.<event>.count` |
//! | only such that are not finite | nothing |
//!
//! A finished span becomes one of `<prefix>.<operation>.duration` in seconds, and one for each other number that it was sent
//! with. Which instrument a measurement has is said by the first rule that matches, else by `shape`. Pure: the same names
//! and settings give the same instruments, whatever is remembered; how many there may be is the aggregation's business.

mod bounds;
mod explain;
mod instruments;
mod known_keys;
mod maker;
pub(crate) mod names;
mod plan;
pub(crate) mod point_keys;
mod rules;
mod shape;
mod units;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::drops::DropReason;
use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metadata::{sent_name, truncated};
use crate::engine::metrics::instrument::{Instrument, Kind, Number};
use crate::engine::metrics::measured::{Loss, Measured, Pairs, PairsHash, PointKeys};
use crate::engine::metrics::settings::MetricSettings;
use crate::engine::naming::Name;
use crate::engine::report::{EventAnswer, EventQuery};
use crate::engine::settings::{MAX_KEY_BYTES, Settings};
use crate::event::{Event, Value};

use bounds::Bounds;
use instruments::Instruments;
use maker::Maker;
use names::instrument_name;
use plan::{Becomes, Plan, Plans};

pub(crate) use plan::MAX_MEASUREMENTS;
use rules::{Metadata, Rules};
use shape::{COUNT, never, shape};
use units::Scale;

/// The name of a span's own measurement.
const DURATION: &str = "duration";

/// Finds out what measurements are measurements of.
#[derive(Debug)]
pub(crate) struct Mapping {
    settings: MetricSettings,
    rules: Rules,
    bounds: Bounds,
    instruments: Instruments,
    plans: Plans,
    /// Counts spans without an end.
    incomplete: (Arc<Instrument>, u32),
}

/// What was made of an event or a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Measurements that were handed on, and went into a series.
    pub(crate) measured: u32,
    /// Measurements that are no finite number.
    pub(crate) not_finite: u32,
    /// Measurements that were lost because there are too many in the event.
    pub(crate) no_room: u32,
    /// Measurements that a rule switches off, for all events or for this one.
    pub(crate) ruled_out: u32,
    /// Measurements left out, because another of the event has their name in Prometheus.
    pub(crate) repeated: u32,
    /// Some measurement was a number, whatever became of it: the event is no mere happening.
    pub(crate) has_eligible: bool,
    /// It had nothing but measurements that are not finite, and makes nothing.
    pub(crate) is_not_finite: bool,
}

/// What became of an event beside its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// An event of a span.
    SpanEvent,
    /// A log record.
    Record,
    /// Nothing, in the end.
    Dropped(DropReason),
    /// Nothing: it was not even asked what it measures.
    Refused(DropReason),
}

/// A measurement's value before its unit is known.
enum Reading {
    Number(Number),
    NotFinite,
    NotANumber,
}

// ---------------------------------------------------------------------------------------------------------------------

impl Mapping {
    /// By these settings. `engine` says the prefix and what must not be shown.
    pub(crate) fn new(settings: &MetricSettings, engine: &Settings) -> Self {
        let mut instruments = Instruments::default();
        let incomplete = Instrument {
            name: instrument_name(&engine.prefix, "spans.incomplete"),
            unit: "{span}".into(),
            description: "Spans that were closed without their end".into(),
            kind: Kind::Counter,
        };
        Self {
            settings: settings.clone(),
            rules: Rules::new(settings, &engine.redact),
            bounds: Bounds::default(),
            incomplete: instruments.intern(incomplete),
            instruments,
            plans: Plans::default(),
        }
    }

    /// A standalone event. `take` gets each of its measurements, or 1 of its count where it has none, and says where one went
    /// into no series.
    pub(crate) fn event(
        &mut self,
        name: &Name,
        event: &Event<'_>,
        take: impl FnMut(&Measured<'_>) -> Result<(), Loss>,
    ) -> Verdict {
        self.keep_room();
        let plan = self.plans.of(name, false);
        plan.known.begin();
        let mut maker = Maker {
            settings: &self.settings,
            rules: &self.rules,
            bounds: &self.bounds,
            instruments: &mut self.instruments,
        };
        let mut verdict = Verdict::default();
        let mut found: SmallVec<[(usize, Number); 4]> = SmallVec::new();
        let redacts = maker.rules.redacts_anything();
        let beyond = event.measurements.len().saturating_sub(MAX_MEASUREMENTS);
        verdict.no_room += u32::try_from(beyond).unwrap_or(u32::MAX);
        for (at, (key, value)) in event.measurements.iter().enumerate().take(MAX_MEASUREMENTS) {
            if key.len() > MAX_KEY_BYTES && redacts {
                // As of an attribute: the part that nobody will see may be what a rule is about.
                continue;
            }
            let at = maker.place(plan, truncated(key, MAX_KEY_BYTES), at);
            let known = plan.known.at_mut(at);
            if matches!(known.becomes, Becomes::Never(_)) {
                continue;
            }
            match read(*value) {
                Reading::Number(number) => found.push((at, number)),
                Reading::NotFinite => {
                    known.not_finite += 1;
                    verdict.not_finite += 1;
                }
                Reading::NotANumber => known.not_numbers += 1,
            }
        }
        verdict.has_eligible = !found.is_empty();
        verdict.is_not_finite = found.is_empty() && verdict.not_finite > 0;
        if found.is_empty() && verdict.not_finite == 0 {
            found.push((maker.place(plan, COUNT, event.measurements.len()), Number::Int(1)));
        }
        hand_on(maker.rules, plan, &found, Metadata::Event(event), &mut verdict, take);
        verdict
    }

    /// A finished span, complete or rebuilt. Its numbers are measurements, since metadata are texts.
    pub(crate) fn span(
        &mut self,
        name: &Name,
        attributes: &Attributes,
        duration_ns: i64,
        take: impl FnMut(&Measured<'_>) -> Result<(), Loss>,
    ) -> Verdict {
        self.keep_room();
        let plan = self.plans.of(name, true);
        plan.known.begin();
        let mut maker = Maker {
            settings: &self.settings,
            rules: &self.rules,
            bounds: &self.bounds,
            instruments: &mut self.instruments,
        };
        let mut verdict = Verdict { has_eligible: true, ..Verdict::default() };
        let mut found: SmallVec<[(usize, Number); 4]> = SmallVec::new();
        found.push((maker.place(plan, DURATION, 0), Number::Int(duration_ns)));
        for (key, value) in attributes.iter() {
            let number = match value {
                AttributeValue::Int(int) => Number::Int(int),
                AttributeValue::Float(float) if float.is_finite() => Number::Float(float),
                AttributeValue::Float(_) | AttributeValue::Text(_) | AttributeValue::Bool(_) => continue,
            };
            if found.len() > MAX_MEASUREMENTS {
                verdict.no_room += 1;
                continue;
            }
            let at = maker.place(plan, sent_name(key), found.len());
            if !matches!(plan.known.at(at).becomes, Becomes::Never(_)) {
                found.push((at, number));
            }
        }
        hand_on(maker.rules, plan, &found, Metadata::Span(attributes), &mut verdict, take);
        verdict
    }

    /// A span that was closed without its end, or an end that says neither duration nor start.
    pub(crate) fn incomplete(
        &mut self,
        reason: &str,
        name: &Name,
        take: impl FnOnce(&Measured<'_>) -> Result<(), Loss>,
    ) {
        let counts = &mut self.plans.of(name, true).counts;
        counts.received += 1;
        counts.incomplete += 1;
        let (instrument, number) = &self.incomplete;
        let mut pairs = [("reason", Cow::Borrowed(reason))];
        let attributes = PointKeys::of(&mut pairs);
        let one = Measured { instrument, number: *number, value: Number::Int(1), attributes };
        counts.points += u64::from(take(&one).is_ok());
    }

    /// Counts what became of an event, for [`Mapping::explain`].
    pub(crate) fn note(&mut self, name: &Name, is_span: bool, fate: Fate) {
        let counts = &mut self.plans.of(name, is_span).counts;
        match fate {
            Fate::SpanEvent => counts.span_events += 1,
            Fate::Record => counts.records += 1,
            Fate::Dropped(reason) => counts.dropped[reason.index()] += 1,
            Fate::Refused(reason) => {
                counts.received += 1;
                counts.dropped[reason.index()] += 1;
            }
        }
    }

    /// What the events seen so far became, and why, by name. Names that were not in use for long are left out.
    pub(crate) fn explain(&self, query: &EventQuery) -> EventAnswer {
        explain::answer(self.plans.iter(), &self.rules, query)
    }

    /// Plans hold instruments that no series has. Where those are in the way, all are forgotten, once.
    fn keep_room(&mut self) {
        if self.instruments.take_full() {
            self.plans.clear();
            self.instruments.sweep();
        }
    }
}

/// Whether there is any event of which a measurement of this name becomes a metric.
pub(crate) fn is_ever_measured(key: &str) -> bool {
    never(key).is_none()
}

/// Whether a rule's unit is true of a measurement: its own unit, which the rule may say, is not known or can be converted.
pub(crate) fn is_converted(key: &str, sent: Option<&str>, unit: &str) -> bool {
    sent.or(shape(key, "").sent).is_none_or(|sent| Scale::between(sent, unit).is_some())
}

/// Applies conditions, converts, and hands on what is left.
fn hand_on(
    rules: &Rules,
    plan: &mut Plan,
    found: &[(usize, Number)],
    metadata: Metadata<'_, '_>,
    verdict: &mut Verdict,
    mut take: impl FnMut(&Measured<'_>) -> Result<(), Loss>,
) {
    plan.counts.received += 1;
    // One for each list of keys; nearly always the general one alone.
    let mut points: SmallVec<[Gathered; 1]> = SmallVec::new();
    let mut pairs = Pairs::new();
    let mut seen: SmallVec<[u64; 8]> = SmallVec::new();
    let mut conditions = Conditions::default();
    for (at, number) in found {
        let measurement = plan.known.at_mut(*at);
        let target = match &measurement.becomes {
            Becomes::Metric(target) => target,
            Becomes::Nothing(_) => {
                verdict.ruled_out += 1;
                measurement.ruled_out += 1;
                continue;
            }
            // Such are not looked at; a count is never one.
            Becomes::Never(_) => continue,
        };
        if target.is_conditional && !conditions.hold(rules, target.rule, metadata) {
            verdict.ruled_out += 1;
            measurement.ruled_out += 1;
            continue;
        }
        let in_prometheus = target.in_prometheus;
        if !target.takes_several && seen.contains(&in_prometheus) {
            // `duration` and `duration_ms`, `rss_mb` and `rss_bytes` are one quantity, and would count twice.
            verdict.repeated += 1;
            measurement.repeated += 1;
            continue;
        }
        let Some(value) = target.scale.apply(*number) else {
            verdict.not_finite += 1;
            measurement.not_finite += 1;
            continue;
        };
        let list = target.rule.filter(|rule| rules.at(*rule).has_keys());
        let known = match points.iter().find(|known| known.list == list) {
            Some(known) => known.clone(),
            None => {
                let (begin, keys) = (pairs.len(), rules.keys(list));
                let hash = match metadata {
                    Metadata::Event(event) => {
                        plan.keys.gather((list, keys), event, &mut plan.left_off, &mut pairs)
                    }
                    Metadata::Span(attributes) => {
                        keys.of_span(attributes, |key| plan.left_off.note(key), &mut pairs)
                    }
                };
                let known = Gathered { list, place: begin..pairs.len(), hash };
                points.push(known.clone());
                known
            }
        };
        let attributes = PointKeys::in_order(&pairs[known.place], known.hash);
        let (instrument, number) = (&target.instrument, target.number);
        if let Err(loss) = take(&Measured { instrument, number, value, attributes }) {
            // Another that is the same quantity may find its place.
            measurement.lost.note(loss);
            continue;
        }
        seen.push(in_prometheus);
        measurement.measured += 1;
        verdict.measured += 1;
    }
    plan.counts.points += u64::from(verdict.measured);
}

/// Where the point attributes by one list are among all that were gathered.
#[derive(Clone)]
struct Gathered {
    /// The place of the rule whose list it is; the general one where absent.
    list: Option<usize>,
    place: Range<usize>,
    hash: PairsHash,
}

/// Which rules measure this event: each is asked once.
#[derive(Default)]
struct Conditions(SmallVec<[(usize, bool); 2]>);

impl Conditions {
    fn hold(&mut self, rules: &Rules, rule: Option<usize>, metadata: Metadata<'_, '_>) -> bool {
        let Some(rule) = rule else { return true };
        if let Some((_, holds)) = self.0.iter().find(|(judged, _)| *judged == rule) {
            return *holds;
        }
        let holds = rules.at(rule).measures(metadata);
        self.0.push((rule, holds));
        holds
    }
}

/// A measurement as it was sent.
fn read(value: Value<'_>) -> Reading {
    let float = |float: f64| {
        if float.is_finite() { Reading::Number(Number::Float(float)) } else { Reading::NotFinite }
    };
    match value {
        Value::Int(int) => Reading::Number(Number::Int(int)),
        Value::Float(value) => float(value),
        // numpy's numbers arrive as texts.
        Value::Text(text) => match text.parse::<i64>() {
            Ok(int) => Reading::Number(Number::Int(int)),
            Err(_) => text.parse::<f64>().map_or(Reading::NotANumber, float),
        },
    }
}

/// Whether an event holds a number, finite or not, that metrics would be made of.
pub(crate) fn measures_something(event: &Event<'_>) -> bool {
    let is_number = |value: Value<'_>| !matches!(read(value), Reading::NotANumber);
    event.measurements.iter().any(|(key, value)| never(key).is_none() && is_number(*value))
}

#[cfg(test)]
mod tests;
