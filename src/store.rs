//! What must survive the program: the journal of what arrived, the checkpoints of the engines, the batches that were not
//! delivered yet, and what became of the others.
//!
//! Whoever has something to keep pushes it, never waits, and is told the [`Commit`] that will hold it; one thread writes
//! what was pushed, in order, at most [`GROUP_COMMIT_DELAY`] later, whole or not at all.
//!
//! The disk holds a prefix of what was pushed, always. Trouble (no room, an I/O error, a disk that is too slow) stops
//! nobody: what cannot be written waits, up to a bound; beyond it everything is dropped, and the store asks for a full
//! checkpoint once the disk works again. Meanwhile every commit counts as durable.

mod check;
mod database;
mod disk;
mod error;
mod figures;
pub mod op;
mod pending;
mod ranges;
mod recovered;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::time::Now;
use database::Directory;
pub use database::FORMAT;
use disk::Disk;
pub use error::OpenError;
pub use figures::{SpoolFigures, StoreFigures, StoreState};
pub use op::{Commit, Op, Ordinals, Origin, Origins, RowKey, ShardCheckpoint, SpoolId};
use pending::{Load, Next, Pending, Pushed, Spooled, Turn};
pub use recovered::{Damaged, Recovered, RecoveredShard, SignalSums, SpoolEntry};
use writer::Writer;

/// The longest that what was pushed waits for others before it is written.
pub const GROUP_COMMIT_DELAY: Duration = Duration::from_millis(50);

/// What failed is tried again after this; no sooner is a full checkpoint asked for after something was dropped.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The longest that closing may take.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What may wait to be written, unless the settings say otherwise.
pub const MAX_PENDING_BYTES: u64 = 64 * 1024 * 1024;

/// So much is written at once, without waiting for more.
const MAX_GROUP_BYTES: u64 = 8 * 1024 * 1024;

/// A load ends with the body that passes this.
pub const MAX_LOAD_BYTES: usize = 8 * 1024 * 1024;

/// Loads that may wait for the writer.
const MAX_WAITING_LOADS: usize = 64;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreSettings {
    /// The state directory. It is made if there is none; its parent is not.
    pub dir: PathBuf,
    /// What may wait to be written, in memory. A push is taken whole while less than this waits.
    pub max_pending_bytes: u64,
    /// What failed is tried again after this.
    pub retry_interval: Duration,
    /// Reads the clocks.
    pub clock: Arc<dyn Fn() -> Now + Send + Sync>,
}

impl StoreSettings {
    /// The default settings for a directory.
    #[must_use]
    pub fn new(dir: PathBuf, clock: Arc<dyn Fn() -> Now + Send + Sync>) -> Self {
        Self { dir, max_pending_bytes: MAX_PENDING_BYTES, retry_interval: RETRY_INTERVAL, clock }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings")
            .field("dir", &self.dir)
            .field("max_pending_bytes", &self.max_pending_bytes)
            .field("retry_interval", &self.retry_interval)
            .finish_non_exhaustive()
    }
}

/// A state directory that is open. Clones are the same store; it closes when the last one is gone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Open>);

#[derive(Debug)]
struct Open(Arc<Shared>);

/// What the handles and the writer share.
struct Shared {
    dir: PathBuf,
    clock: Arc<dyn Fn() -> Now + Send + Sync>,
    /// What waits. Held for some lines, never over I/O.
    pending: Mutex<Pending>,
    /// Something came that the writer should look at.
    came: Condvar,
    next_spool_id: AtomicU64,
    durable: watch::Sender<Commit>,
    wants_full_checkpoint: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl Store {
    /// Opens a state directory and reads what it holds.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used: another bridge does, it cannot be written, it is of another version.
    pub fn open(settings: StoreSettings) -> Result<(Self, Recovered), OpenError> {
        let StoreSettings { dir, max_pending_bytes, retry_interval, clock } = settings;
        let (disk, recovered) = Disk::open(Directory::hold(&dir)?)?;
        let mut pending = Pending::new(max_pending_bytes, retry_interval);
        pending.journal_bytes = disk.journal_bytes();
        pending.damaged = recovered.damaged.total() + u64::from(recovered.set_aside.is_some());
        pending.spool = recovered.spool.iter().map(|entry| (entry.id, Spooled::from(entry))).collect();
        let shared = Arc::new(Shared {
            dir,
            clock,
            pending: Mutex::new(pending),
            came: Condvar::new(),
            next_spool_id: AtomicU64::new(disk.next_spool_id()),
            durable: watch::Sender::new(Commit(0)),
            wants_full_checkpoint: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        });
        let writer = Writer::new(Arc::clone(&shared), disk);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok((Self(Arc::new(Open(shared))), recovered))
    }

    /// Takes what belongs together, and names the commit that will hold it. Never waits.
    ///
    /// Guarantee: what is pushed together is on the disk together or not at all, and never without what was pushed
    /// before it.
    pub fn push(&self, ops: Vec<Op>) -> Commit {
        let shared = self.shared();
        let now = (shared.clock)().mono;
        let mut pending = shared.lock();
        let asked = pending.wants_full_checkpoint();
        let Pushed { commit, opened_gap, is_for_writer } = pending.push(ops, now);
        let is_answered = asked && !pending.wants_full_checkpoint();
        let waiting_bytes = pending.waiting_bytes();
        drop(pending);
        if is_for_writer {
            shared.came.notify_one();
        }
        if opened_gap {
            tracing::error!(waiting_bytes, "the state directory cannot keep up: going on in memory");
        }
        if opened_gap || is_answered {
            shared.publish();
        }
        commit
    }

    /// The last commit that is on the disk; `Commit(u64::MAX)` while nobody is to wait for the disk.
    #[must_use]
    pub fn durable(&self) -> Commit {
        *self.shared().durable.borrow()
    }

    /// [`Store::durable`], to be waited for.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Commit> {
        self.shared().durable.subscribe()
    }

    /// Whether something was dropped, so that only a full checkpoint helps: one push of [`Op::ForgetShards`], then a
    /// checkpoint of every shard that replaces all, and every batch that is in memory.
    #[must_use]
    pub fn needs_full_checkpoint(&self) -> bool {
        *self.shared().wants_full_checkpoint.borrow()
    }

    /// [`Store::needs_full_checkpoint`], to be waited for.
    #[must_use]
    pub fn full_checkpoint_wanted(&self) -> watch::Receiver<bool> {
        self.shared().wants_full_checkpoint.subscribe()
    }

    /// Whether something was dropped, so that what is on disk is behind.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.shared().lock().is_behind()
    }

    /// What the engines have journalled since their last checkpoints.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        self.shared().lock().journal_bytes
    }

    /// A name for a batch. It is larger than every one before, and than those on the disk.
    #[must_use]
    pub fn next_spool_id(&self) -> SpoolId {
        SpoolId(self.shared().next_spool_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether a batch is on the disk, so that its body need not be in memory.
    #[must_use]
    pub fn holds(&self, id: SpoolId) -> bool {
        self.shared().lock().holds(id)
    }

    /// The bodies of the first of `ids`: as many as [`MAX_LOAD_BYTES`] allow, one at least. `None` stands for a body that
    /// is damaged or unknown; an empty answer means that the disk cannot be read now.
    pub async fn load(&self, ids: Vec<SpoolId>) -> Vec<(SpoolId, Option<Bytes>)> {
        let shared = self.shared();
        let (answer, answered) = oneshot::channel();
        if !shared.lock().load(Load { ids, answer }) {
            return Vec::new();
        }
        shared.came.notify_one();
        answered.await.unwrap_or_default()
    }

    /// Writes what waits and closes the database. What is pushed afterwards is dropped. Whether everything was written
    /// in time comes back.
    pub async fn close(&self) -> bool {
        let shared = self.shared();
        shared.lock().close();
        shared.came.notify_one();
        let mut ended = shared.ended.subscribe();
        let in_time = tokio::time::timeout(CLOSE_LIMIT, ended.wait_for(|ended| *ended)).await;
        matches!(in_time, Ok(Ok(_))) && !shared.lock().is_in_trouble()
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().close();
        self.0.came.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the writer does next; waits for it.
    fn turn(&self) -> Turn {
        let mut pending = self.lock();
        loop {
            pending = match pending.next((self.clock)().mono) {
                Next::Do(turn) => return turn,
                Next::Wait(None) => self.came.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Next::Wait(Some(wait)) => {
                    let waited = self.came.wait_timeout(pending, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Tells those who wait how things are.
    fn publish(&self) {
        let pending = self.lock();
        let (durable, wants) = (pending.durable(), pending.wants_full_checkpoint());
        // Under the lock, so that nobody is told an older truth last.
        self.durable.send_if_modified(|told| std::mem::replace(told, durable) != durable);
        self.wants_full_checkpoint.send_if_modified(|told| std::mem::replace(told, wants) != wants);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("dir", &self.dir)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
