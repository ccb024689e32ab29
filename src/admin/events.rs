//! `GET /api/v1/events?event=&limit=`: what the events seen so far became, and why, by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::query::{Asked, Parameters};
use super::safe_json;
use super::shards::ask;
use super::sources::AdminState;
use crate::drops::DropReason;
use crate::engine::metrics::instrument::Kind;
use crate::engine::report::{EventAnswer, EventName, EventQuery, EventReport, Lost, MeasurementReport};
use crate::shard::ShardMessage;

const PARAMETERS: [&str; 2] = ["event", "limit"];

pub(super) async fn answer(State(state): State<AdminState>, asked: Asked) -> Result<Response, Problem> {
    let query = parse(&Parameters::read(asked, &PARAMETERS)?)?;
    let answers = ask(&state.shards, |sender| ShardMessage::Events(query.clone(), sender)).await?;
    let (events, total) = merge(answers, query.limit);
    let shown: Vec<Value> = events.iter().map(show).collect();
    Ok(safe_json(&json!({"events": shown, "total": total})))
}

fn parse(asked: &Parameters) -> Result<EventQuery, Problem> {
    Ok(EventQuery { event: asked.value("event").map(str::to_owned), limit: asked.limit()? })
}

/// What all shards say of the first names that are asked for, and how many names that are.
fn merge(answers: Vec<EventAnswer>, limit: usize) -> (Vec<EventReport>, usize) {
    let mut names: BTreeSet<EventName> = BTreeSet::new();
    let mut reports = Vec::new();
    for answer in answers {
        names.extend(answer.others);
        reports.extend(answer.reports);
    }
    reports.sort_by(|left, right| left.order().cmp(&right.order()));
    let mut events: Vec<EventReport> = Vec::new();
    for report in reports {
        match events.last_mut() {
            Some(last) if last.order() == report.order() => last.absorb(report),
            Some(_) | None => events.push(report),
        }
    }
    names.extend(
        events.iter().map(|report| (Arc::clone(&report.event), report.sent_as.clone(), report.is_span)),
    );
    // Beyond the limit a shard may have said no more than the name.
    events.truncate(limit);
    (events, names.len())
}

fn show(report: &EventReport) -> Value {
    let dropped: Map<String, Value> = DropReason::ALL
        .into_iter()
        .map(|reason| (reason, report.dropped[reason.index()]))
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.as_str().to_owned(), json!(count)))
        .collect();
    json!({
        "event": &*report.event,
        "sent_as": &*report.sent_as,
        "span": report.is_span,
        "received": report.received,
        "points": report.points,
        "incomplete": report.incomplete,
        "span_events": report.span_events,
        "records": report.records,
        "dropped": dropped,
        "measurements": report.becomes.iter().map(show_measurement).collect::<Vec<_>>(),
        "left_off": report.left_off,
        "more_left_off": report.has_more_left_off,
    })
}

/// By reason, as in `/metrics`; reasons that did not happen are left out.
fn lost(lost: &Lost) -> Map<String, Value> {
    let reasons = [("negative", lost.negative), ("no_room", lost.no_room), ("conflict", lost.conflict)];
    let happened = reasons.into_iter().filter(|(_, count)| *count > 0);
    happened.map(|(reason, count)| (reason.to_owned(), json!(count))).collect()
}

fn show_measurement(report: &MeasurementReport) -> Value {
    let mut shown = json!({
        "measurement": &*report.measurement,
        "because": report.because,
        "measured": report.measured,
        "not_finite": report.not_finite,
        "not_numbers": report.not_numbers,
        "ruled_out": report.ruled_out,
        "repeated": report.repeated,
        "lost": lost(&report.lost),
    });
    if let Some(instrument) = &report.instrument {
        let (kind, boundaries) = match &instrument.kind {
            Kind::Counter => ("counter", None),
            Kind::UpDownCounter => ("updowncounter", None),
            Kind::Gauge => ("gauge", None),
            Kind::Histogram { boundaries } => ("histogram", Some(boundaries)),
            Kind::ExponentialHistogram => ("exponential_histogram", None),
        };
        shown["instrument"] = json!(&*instrument.name);
        shown["kind"] = json!(kind);
        shown["unit"] = json!(&*instrument.unit);
        shown["attributes"] = json!(report.attributes);
        if let Some(boundaries) = boundaries {
            shown["boundaries"] = json!(&**boundaries);
        }
    }
    shown
}
