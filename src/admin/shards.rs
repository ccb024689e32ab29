//! Questions to every shard, with a limit on how long the answers may take.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::oneshot;

use super::problem::Problem;
use crate::shard::{ShardMessage, Shards};

/// How long all shards together may take. A shard answers after what is in its channel, some milliseconds of work.
pub(super) const SHARD_ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Asks every shard the same, and returns their answers in their order.
///
/// # Errors
/// When one of them does not answer in time, or has ended.
pub(super) async fn ask<T>(
    shards: &Shards,
    question: impl Fn(oneshot::Sender<T>) -> ShardMessage,
) -> Result<Vec<T>, Problem> {
    let answers = tokio::time::timeout(SHARD_ANSWER_LIMIT, shards.ask(question)).await.map_err(|_| {
        let detail = format!("a shard did not answer within {} s", SHARD_ANSWER_LIMIT.as_secs());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    answers.into_iter().collect::<Option<_>>().ok_or_else(has_ended)
}

fn has_ended() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "a shard has ended: the bridge is shutting down, or is broken",
    )
}
