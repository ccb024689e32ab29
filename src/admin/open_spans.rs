//! `GET /api/v1/spans/open?worker=&operation=&min_age=&limit=`: spans in flight, oldest first.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::query::{Asked, Parameters};
use super::safe_json;
use super::shards::ask;
use super::sources::AdminState;
use crate::engine::attributes::AttributeValue;
use crate::engine::report::{OpenSpanQuery, OpenSpanReport};
use crate::shard::ShardMessage;

const PARAMETERS: [&str; 4] = ["worker", "operation", "min_age", "limit"];

pub(super) async fn answer(State(state): State<AdminState>, asked: Asked) -> Result<Response, Problem> {
    let query = parse(&Parameters::read(asked, &PARAMETERS)?)?;
    let answers = ask(&state.shards, |sender| ShardMessage::OpenSpans(query.clone(), sender)).await?;
    let (spans, total) = merge(answers, query.limit);
    let shown: Vec<Value> = spans.iter().map(show).collect();
    Ok(safe_json(&json!({"spans": shown, "total": total})))
}

fn parse(asked: &Parameters) -> Result<OpenSpanQuery, Problem> {
    let text = |name| asked.value(name).map(str::to_owned);
    Ok(OpenSpanQuery {
        worker: text("worker"),
        operation: text("operation"),
        min_age_ns: asked.value("min_age").map_or(Ok(0), min_age)?,
        limit: asked.limit()?,
    })
}

fn min_age(value: &str) -> Result<u64, Problem> {
    let age = humantime::parse_duration(value).ok().and_then(|age| u64::try_from(age.as_nanos()).ok());
    age.ok_or_else(|| {
        let detail = format!("`min_age` is `{}`, not a duration such as `30s` or `5m`", value.escape_debug());
        Problem::parameter("min_age", detail)
    })
}

/// The oldest of all shards, and how many match in all of them.
fn merge(answers: Vec<(Vec<OpenSpanReport>, u64)>, limit: usize) -> (Vec<OpenSpanReport>, u64) {
    let total = answers.iter().map(|(_, total)| total).sum();
    let mut spans: Vec<OpenSpanReport> = answers.into_iter().flat_map(|(spans, _)| spans).collect();
    // Ids make the order of equals the same in every answer.
    spans.sort_by(|left, right| right.age_ns.cmp(&left.age_ns).then(left.span_id.cmp(&right.span_id)));
    spans.truncate(limit);
    (spans, total)
}

fn show(span: &OpenSpanReport) -> Value {
    let attributes: Map<String, Value> =
        span.attributes.iter().map(|(key, value)| (key.to_owned(), show_attribute(value))).collect();
    json!({
        "worker_id": &*span.worker_id,
        "name": &*span.name,
        "correlation_id": (!span.correlation_id.is_empty()).then_some(&*span.correlation_id),
        "trace_id": span.trace_id.to_string(),
        "span_id": span.span_id.to_string(),
        "parent_span_id": span.parent_span_id.map(|id| id.to_string()),
        "start_unix_nano": span.start.0,
        "age_ns": span.age_ns,
        "uncertain": span.uncertain,
        "attributes": attributes,
    })
}

fn show_attribute(value: AttributeValue<'_>) -> Value {
    match value {
        AttributeValue::Text(text) => json!(text),
        AttributeValue::Int(int) => json!(int),
        // JSON has no NaN; as text it is at least seen.
        AttributeValue::Float(float) if !float.is_finite() => json!(float.to_string()),
        AttributeValue::Float(float) => json!(float),
        AttributeValue::Bool(boolean) => json!(boolean),
    }
}
