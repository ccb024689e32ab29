//! The composition root: builds the parts, owns their tasks, drains on shutdown.

use crate::config::Config;

/// Why the bridge ended otherwise than it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port or an endpoint cannot be had.
    #[error("failed to {action}")]
    Unavailable {
        /// What was tried: `listen on 127.0.0.1:50061`.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A part broke that should not have.
    #[error("{0}")]
    Internal(String),
}

/// Runs the bridge until it is asked to end, and drains it.
///
/// # Errors
/// When a port cannot be had, or a part broke.
pub fn run(_config: Config) -> Result<(), RunError> {
    Err(RunError::Internal("the parts are not put together yet".to_owned()))
}
