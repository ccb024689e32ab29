//! `GET /api/v1/workers`: who is connected, or was a moment ago.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::problem::Problem;
use super::query::{Asked, Parameters};
use super::safe_json;
use super::shards::ask;
use super::sources::AdminState;
use crate::engine::report::WorkerReport;
use crate::shard::ShardMessage;
use crate::worker::Dialect;

const POLICY_REVISION: u64 = 1;

pub(super) async fn answer(State(state): State<AdminState>, asked: Asked) -> Result<Response, Problem> {
    Parameters::read(asked, &[])?;
    let mut workers: Vec<WorkerReport> =
        ask(&state.shards, ShardMessage::Workers).await?.into_iter().flatten().collect();
    workers.sort_by(|left, right| left.key.cmp(&right.key));
    let shown: Vec<Value> = workers.iter().map(show).collect();
    Ok(safe_json(&json!({"workers": shown})))
}

fn show(worker: &WorkerReport) -> Value {
    let capabilities = worker.identity.capabilities;
    let capabilities: Vec<&str> = [
        (capabilities.sampling_patterns, "sampling-patterns"),
        (capabilities.consistent_sampling, "consistent-sampling"),
        (capabilities.batches, "batches"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect();
    json!({
        "key": worker.key.to_string(),
        "worker_id": &*worker.shown_worker_id,
        "pool": worker.shown_pool.as_deref(),
        "pid": worker.shown_pid,
        "node": worker.identity.node_header.as_deref(),
        "host": worker.identity.host.as_deref(),
        "connected": worker.streams > 0,
        "streams": worker.streams,
        "dialect": worker.identity.dialect.as_str(),
        "capabilities": capabilities,
        "events_received": worker.ledger.received,
        "events_pending": worker.ledger.pending,
        "events_dropped": worker.ledger.dropped_total(),
        "open_spans": worker.open_spans,
        "clock_offset_ns": worker.clock_offset_ns,
        "policy": show_policy(worker),
    })
}

/// The policy follows from the configuration alone, so its revision stays the first; whoever speaks a dialect was sent it
/// on connect.
fn show_policy(worker: &WorkerReport) -> Value {
    let desired = &worker.policy;
    let sent = worker.identity.dialect != Dialect::Unknown;
    json!({
        "desired": {
            "enabled": desired.enabled,
            "sampling_rate": desired.sampling_rate.value(),
            "event_patterns": desired.event_patterns,
            "allowed_events": desired.allowed_events,
            "blocked_events": desired.blocked_events,
        },
        "desired_revision": POLICY_REVISION,
        "sent_revision": sent.then_some(POLICY_REVISION),
        "observed": worker.observed.as_str(),
    })
}
