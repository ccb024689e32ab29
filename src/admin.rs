//! The admin port: health, metrics, and what the bridge knows, as JSON.
//!
//! It reads and never decides: events are the engine's, figures are those of the parts that count them. Who may ask is
//! judged in `guard` before any route; every error is `application/problem+json`.

mod events;
mod exposition;
mod guard;
mod health;
pub mod ledger;
mod metrics;
mod open_spans;
pub mod own;
mod problem;
mod query;
pub mod readiness;
pub mod server;
pub mod settings;
mod shards;
pub mod sources;
mod workers;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

pub use readiness::Readiness;
pub use sources::AdminState;

use crate::diagnostics::escaped_json;
use problem::Problem;
use settings::AdminSettings;

/// All routes, behind the guard.
pub fn router(settings: &AdminSettings, state: AdminState) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::answer))
        .route("/api/v1/ledger", get(ledger::answer))
        .route("/api/v1/workers", get(workers::answer))
        .route("/api/v1/spans/open", get(open_spans::answer))
        .route("/api/v1/events", get(events::answer))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state)
        .layer(middleware::from_fn_with_state(Arc::new(guard::Guard::new(settings)), guard::guard))
}

/// An answer with text from workers in it, which whoever asked may well print on a terminal.
fn safe_json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], escaped_json(value.to_string())).into_response()
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("nothing is at `{}`", uri.path().escape_debug()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("`{}` can be read with GET only, not with {method}", uri.path().escape_debug());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

#[cfg(test)]
mod tests;
