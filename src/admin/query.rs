//! What the routes with parameters have in common: how many items an answer has, and which parameters there are.

use axum::http::StatusCode;

use super::problem::Problem;

/// Items in an answer that does not ask for another number: a screenful or four.
pub(super) const DEFAULT_LIMIT: usize = 100;
/// Most items in an answer: an open span with 128 attributes makes some megabytes of it, an event with 256 measurements some
/// tens.
pub(super) const MAX_LIMIT: usize = 1000;

/// The value of `limit`.
///
/// # Errors
/// When it is not a number from 1 to [`MAX_LIMIT`].
pub(super) fn limit(value: &str) -> Result<usize, Problem> {
    value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        let detail = format!("`limit` is `{}`, not a number from 1 to {MAX_LIMIT}", value.escape_debug());
        Problem::parameter("limit", detail)
    })
}

/// A parameter that the route does not have; `known` are those that it has.
#[must_use]
pub(super) fn unknown(name: &str, known: &str) -> Problem {
    let detail = format!("unknown parameter `{}`; known are {known}", name.escape_debug());
    Problem::new(StatusCode::BAD_REQUEST, detail)
}
