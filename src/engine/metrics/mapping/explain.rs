//! What events became, and why, for whoever asks.

use std::sync::Arc;

use super::plan::{Becomes, Measurement, Plan};
use super::rules::Rules;
use crate::engine::report::{EventReport, MeasurementReport};

/// What is known about a name.
pub(super) fn report(plan: &Plan, rules: &Rules) -> EventReport {
    let counts = &plan.counts;
    let mut becomes: Vec<_> = plan.known.iter().map(|measurement| measured(measurement, rules)).collect();
    becomes.sort_by(|left, right| left.measurement.cmp(&right.measurement));
    EventReport {
        event: Arc::clone(&plan.title),
        sent_as: plan.emitted.clone(),
        is_span: plan.is_span,
        received: counts.received,
        points: counts.points,
        incomplete: counts.incomplete,
        span_events: counts.span_events,
        records: counts.records,
        dropped: counts.dropped,
        becomes,
        left_off: plan.left_off.keys.clone(),
        has_more_left_off: plan.left_off.has_more,
    }
}

fn measured(measurement: &Measurement, rules: &Rules) -> MeasurementReport {
    let by_rule = |place: usize| format!("rule {} of metrics.rules", place + 1);
    let (instrument, rule) = match &measurement.becomes {
        Becomes::Metric(target) => (Some(Arc::clone(&target.instrument)), target.rule),
        Becomes::Nothing(rule) => (None, Some(*rule)),
        Becomes::Never(_) => (None, None),
    };
    let because = match &measurement.becomes {
        Becomes::Never(because) => (*because).to_owned(),
        Becomes::Nothing(rule) => format!("no metric: {} says so", by_rule(*rule)),
        Becomes::Metric(_) if measurement.measured == 0 && measurement.not_numbers > 0 => {
            "not a number".to_owned()
        }
        Becomes::Metric(_) if measurement.measured == 0 && measurement.repeated > 0 => {
            "another measurement of the event has the same name in Prometheus".to_owned()
        }
        Becomes::Metric(target) => match target.rule {
            Some(rule) => format!("{}; {}", by_rule(rule), target.because),
            None => target.because.to_owned(),
        },
    };
    MeasurementReport {
        measurement: measurement.key.clone(),
        instrument,
        because,
        attributes: rules.keys(rule).listed().to_vec(),
        measured: measurement.measured,
        not_finite: measurement.not_finite,
        not_numbers: measurement.not_numbers,
        ruled_out: measurement.ruled_out,
        repeated: measurement.repeated,
    }
}
