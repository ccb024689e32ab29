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
    let all = async {
        let mut answers = Vec::new();
        for shard in shards.all() {
            let (sender, answer) = oneshot::channel();
            shard.send(question(sender)).await.map_err(|_| has_ended())?;
            answers.push(answer);
        }
        let mut answered = Vec::with_capacity(answers.len());
        for answer in answers {
            answered.push(answer.await.map_err(|_| has_ended())?);
        }
        Ok(answered)
    };
    tokio::time::timeout(SHARD_ANSWER_LIMIT, all).await.unwrap_or_else(|_| {
        let detail = format!("a shard did not answer within {} s", SHARD_ANSWER_LIMIT.as_secs());
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
    })
}

fn has_ended() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "a shard has ended: the bridge is shutting down, or is broken",
    )
}
