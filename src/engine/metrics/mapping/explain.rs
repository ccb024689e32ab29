//! What events became, and why, for whoever asks.

use std::sync::Arc;

use super::plan::{Becomes, Measurement, Plan};
use super::rules::Rules;
use crate::engine::report::{EventAnswer, EventName, EventQuery, EventReport, MeasurementReport};
use crate::engine::steps;

/// How the attributes begin that the engine itself gives to a finished span.
const MADE: [&str; 3] = ["snakepit.span.", "snakepit.clock", "snakepit.parent"];

/// What is asked for of all that is known: a name that is not asked for costs a look, one beyond the limit its name.
pub(super) fn answer<'a>(
    plans: impl Iterator<Item = &'a Plan>,
    rules: &Rules,
    query: &EventQuery,
) -> EventAnswer {
    let mut asked: Vec<&Plan> =
        plans.filter(|plan| query.asks_for(&plan.title, &plan.emitted, plan.is_span)).collect();
    asked.sort_unstable_by_key(|plan| (&*plan.title, &*plan.emitted, plan.is_span));
    let (shown, others) = asked.split_at(query.limit.min(asked.len()));
    EventAnswer {
        reports: shown.iter().map(|plan| report(plan, rules)).collect(),
        others: others.iter().map(|plan| name(plan)).collect(),
    }
}

fn name(plan: &Plan) -> EventName {
    (Arc::clone(&plan.title), plan.emitted.clone(), plan.is_span)
}

/// What is known about a name.
fn report(plan: &Plan, rules: &Rules) -> EventReport {
    steps::count();
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
        left_off: plan.left_off.keys.iter().filter(|key| !plan.is_span || is_sent(key)).cloned().collect(),
        has_more_left_off: plan.left_off.has_more,
    }
}

fn is_sent(key: &str) -> bool {
    !MADE.iter().any(|made| key.starts_with(made))
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
        Becomes::Metric(_) if measurement.measured == 0 && measurement.lost.conflict > 0 => {
            "another instrument has its name, or one of its names in Prometheus: the log says which"
                .to_owned()
        }
        Becomes::Metric(_) if measurement.measured == 0 && measurement.lost.no_room > 0 => {
            "its worker has no room for another instrument".to_owned()
        }
        Becomes::Metric(_) if measurement.measured == 0 && measurement.lost.negative > 0 => {
            "it is negative, and a counter does not fall".to_owned()
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
        lost: measurement.lost,
    }
}
