//! What a measurement becomes that was not seen before: the first rule that matches decides, then its shape.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::DURATION;
use super::bounds::Bounds;
use super::instruments::Instruments;
use super::names::{annotation, instrument_name};
use super::plan::{Becomes, Plan, Target};
use super::rules::{CompiledRule, Rules};
use super::shape::{Form, Shape, event_shape, never, shape};
use super::units::Scale;
use crate::engine::metrics::instrument::{Instrument, Kind};
use crate::engine::metrics::prometheus::prometheus_name;
use crate::engine::metrics::settings::{MetricRule, MetricSettings, RuleInstrument};

/// Makes plans of names.
pub(super) struct Maker<'a> {
    pub(super) settings: &'a MetricSettings,
    pub(super) rules: &'a Rules,
    pub(super) bounds: &'a Bounds,
    pub(super) instruments: &'a mut Instruments,
}

impl Maker<'_> {
    /// The place of a measurement in its plan; `hint` is where it probably is.
    pub(super) fn place(&mut self, plan: &mut Plan, key: &str, hint: usize) -> usize {
        plan.known.position(key, hint).unwrap_or_else(|| {
            let becomes = self.becomes(plan, key);
            plan.known.add(key, becomes)
        })
    }

    fn becomes(&mut self, plan: &mut Plan, key: &str) -> Becomes {
        if let Some(because) = never(key) {
            return Becomes::Never(because);
        }
        if self.rules.redacts(key) {
            return Becomes::Never("never a metric: a rule of attributes.redact says so");
        }
        let rules = plan.rules.get_or_insert_with(|| self.rules.of(&plan.emitted));
        let place = self.rules.find(rules, key);
        let rule = place.map(|place| self.rules.at(place));
        if let (Some(place), Some(RuleInstrument::None)) = (place, rule.and_then(|rule| rule.says.instrument))
        {
            return Becomes::Nothing(place);
        }
        let counted = annotation(plan.title.rsplit('.').next().unwrap_or_default());
        let shape = shape(key, &counted);
        let sampled = if plan.is_span { None } else { event_shape(&plan.emitted) };
        let says = rule.map(|rule| &rule.says);
        let unit = says.and_then(|rule| rule.unit.as_deref());
        let is_measured_here = plan.is_span && key == DURATION;
        let sent = says.and_then(|rule| rule.sent_unit.as_deref()).filter(|_| !is_measured_here);
        let (unit, scale, name) = in_unit(&shape, key, sent, unit);
        let name = match says.and_then(|rule| rule.name.as_deref()) {
            Some(name) => name.into(),
            None => instrument_name(&plan.title, name),
        };
        let form = if sampled.is_some() { Form::Gauge } else { shape.form };
        let instrument = Instrument {
            name,
            kind: self.kind(form, says, &unit),
            unit: unit.into(),
            description: says.and_then(|rule| rule.description.as_deref()).unwrap_or_default().into(),
        };
        let in_prometheus = xxh3_64(prometheus_name(&instrument).as_bytes());
        let (instrument, number) = self.instruments.intern(instrument);
        Becomes::Metric(Target {
            instrument,
            number,
            in_prometheus,
            scale,
            rule: place,
            is_conditional: rule.is_some_and(CompiledRule::is_conditional),
            takes_several: says.is_some_and(|rule| rule.name.is_some()),
            because: sampled.unwrap_or(match sent {
                Some(_) => "sent in the unit that the rule says",
                None => shape.because,
            }),
        })
    }

    fn kind(&self, form: Form, rule: Option<&MetricRule>, unit: &str) -> Kind {
        let bounds = rule.and_then(|rule| rule.boundaries.as_ref());
        let instrument = rule.and_then(|rule| rule.instrument).or(bounds.map(|_| RuleInstrument::Histogram));
        let form = match instrument {
            Some(RuleInstrument::Counter) => Form::Counter,
            Some(RuleInstrument::UpDownCounter) => return Kind::UpDownCounter,
            Some(RuleInstrument::Gauge) => Form::Gauge,
            Some(RuleInstrument::Histogram) => Form::Histogram,
            Some(RuleInstrument::None) | None => form,
        };
        match (form, bounds) {
            (Form::Counter, _) => Kind::Counter,
            (Form::Gauge, _) => Kind::Gauge,
            (Form::Histogram, Some(bounds)) => Kind::Histogram { boundaries: Arc::clone(bounds) },
            (Form::Histogram, None) => self.settings.histogram_kind(self.bounds.of(unit)),
        }
    }
}

/// The unit of a measurement's instrument, how its values get there, and its name there. `sent` and `said` are what a rule says:
/// the unit of the values as they are sent, and that of the instrument.
fn in_unit<'k>(
    shape: &Shape<'k>,
    key: &'k str,
    sent: Option<&str>,
    said: Option<&str>,
) -> (String, Scale, &'k str) {
    // The usual unit is not true of values that are sent in one of another dimension.
    let usual = sent.filter(|sent| Scale::between(sent, &shape.unit).is_none()).unwrap_or(&shape.unit);
    let unit = said.unwrap_or(usual);
    let scale = sent.or(shape.sent).and_then(|sent| Scale::between(sent, unit));
    // A unit word stays where it is still true and Prometheus finds it there.
    let leaves = match scale {
        None => false,
        Some(Scale::Same) => shape.word_leaves,
        Some(Scale::Times(_) | Scale::Over(_) | Scale::Fraction(..)) => true,
    };
    let name = if leaves { shape.stem } else { key };
    (unit.to_owned(), scale.unwrap_or(Scale::Same), name)
}
