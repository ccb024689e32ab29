//! Liveness and readiness, for those who start and stop the bridge. Neither asks for a token.
//!
//! Alive is who can still do its work: 503 means that a part has died and a restart is the only cure. Ready is who takes
//! new workers.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::readiness;
use super::sources::AdminState;

/// `GET /healthz`
pub(super) async fn alive(State(state): State<AdminState>) -> Response {
    let ended = state.shards.all().filter(|shard| shard.is_closed()).count();
    let reasons = match state.readiness.state() {
        readiness::State::Starting | readiness::State::Serving if ended > 0 => {
            vec![format!("{ended} shards have ended")]
        }
        readiness::State::Starting | readiness::State::Serving | readiness::State::Draining => Vec::new(),
    };
    respond("ok", "broken", &reasons)
}

/// `GET /readyz`
pub(super) async fn ready(State(state): State<AdminState>) -> Response {
    let reasons = match state.readiness.state() {
        readiness::State::Starting => vec!["starting".to_owned()],
        readiness::State::Serving => Vec::new(),
        readiness::State::Draining => vec!["draining".to_owned()],
    };
    respond("ready", "not_ready", &reasons)
}

fn respond(well: &str, unwell: &str, reasons: &[String]) -> Response {
    let (code, status) =
        if reasons.is_empty() { (StatusCode::OK, well) } else { (StatusCode::SERVICE_UNAVAILABLE, unwell) };
    (code, axum::Json(json!({"status": status, "reasons": reasons}))).into_response()
}
