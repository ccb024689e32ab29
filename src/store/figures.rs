//! What the store tells of itself.

use std::time::Duration;

use super::Store;
use super::database::bytes_on_disk;
use super::op::Commit;
use super::pending::Spooled;
use super::recovered::SpoolEntry;
use crate::exporter::signal::Signal;
use crate::time::UnixNanos;

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// What is pushed is on the disk soon.
    Durable,
    /// The last write failed; what waits is tried again.
    Failing {
        /// Why.
        error: String,
    },
    /// Something was dropped since more waited than may; the state on disk is behind until a full checkpoint.
    Behind,
    /// The database is closed.
    Closed,
}

/// The figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFigures {
    /// How the store is.
    pub state: StoreState,
    /// The batches that were taken and not settled, in the order of [`Signal::ALL`].
    pub spool: [SpoolFigures; Signal::ALL.len()],
    /// What the engines have journalled since their last checkpoints.
    pub journal_bytes: u64,
    /// What waits to be written, or is being written.
    pub waiting_bytes: u64,
    /// The database and its log.
    pub disk_bytes: u64,
    /// Groups that were written.
    pub commits: u64,
    /// The time that they took.
    pub commit_time: Duration,
    /// Writes that failed.
    pub failures: u64,
    /// Ops that were dropped.
    pub dropped_ops: u64,
    /// Things on disk that were found damaged.
    pub damaged: u64,
}

/// The batches of one signal.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SpoolFigures {
    /// How many.
    pub batches: u64,
    /// What is in them.
    pub items: u64,
    /// The size of their bodies.
    pub bytes: u64,
    /// When the oldest was filled.
    pub oldest: Option<UnixNanos>,
}

impl StoreFigures {
    /// The size of all bodies.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        self.spool.iter().map(|spool| spool.bytes).sum()
    }
}

impl Store {
    /// The store's figures. Goes through the index of the spool: for a scrape, not for every batch.
    #[must_use]
    pub fn figures(&self) -> StoreFigures {
        let shared = self.shared();
        let disk_bytes = bytes_on_disk(&shared.dir);
        let pending = shared.lock();
        let state = match pending.error() {
            _ if pending.has_ended() => StoreState::Closed,
            Some(error) => StoreState::Failing { error: error.to_owned() },
            None if pending.is_in_trouble() => StoreState::Behind,
            None => StoreState::Durable,
        };
        let spool = Signal::ALL.map(|signal| {
            let mut figures = SpoolFigures::default();
            for spooled in pending.spool.values().filter(|spooled| spooled.signal == signal) {
                figures.batches += 1;
                figures.items += spooled.items;
                figures.bytes += spooled.bytes;
                let oldest = figures.oldest.unwrap_or(spooled.filled_at);
                figures.oldest = Some(oldest.min(spooled.filled_at));
            }
            figures
        });
        StoreFigures {
            state,
            spool,
            journal_bytes: pending.journal_bytes,
            waiting_bytes: pending.waiting_bytes(),
            disk_bytes,
            commits: pending.commits,
            commit_time: pending.commit_time,
            failures: pending.failures,
            dropped_ops: pending.dropped_ops,
            damaged: pending.damaged,
        }
    }
}

impl From<&SpoolEntry> for Spooled {
    fn from(entry: &SpoolEntry) -> Self {
        let SpoolEntry { signal, items, bytes, filled_at, .. } = *entry;
        Self { signal, items, bytes, filled_at, commit: Commit(0) }
    }
}
