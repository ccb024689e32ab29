//! What must survive the program: the journal of what arrived, the checkpoints of the engines, the batches that were not
//! delivered yet, and what became of the others.
//!
//! Whoever has something to keep pushes it, never waits, and is told the [`Commit`] that will hold it; one thread writes
//! what was pushed, in order, at most [`GROUP_COMMIT_DELAY`] later, whole or not at all.

pub mod op;

use std::time::Duration;

pub use op::{Commit, Op, Origin, Origins, RowKey, ShardCheckpoint, SpoolId};

/// The longest that what was pushed waits for others before it is written.
pub const GROUP_COMMIT_DELAY: Duration = Duration::from_millis(50);
