//! What the exporter asks of a store, so that it need not know one.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::watch;

use crate::store::{Commit, Op, SpoolId};

/// Bytes of batches that were asked for. One that is damaged has none; one that could not be read for now is left out, and
/// asked for again.
pub type Loaded = Vec<(SpoolId, Option<Bytes>)>;

/// A read that is under way.
pub type Load = Pin<Box<dyn Future<Output = Loaded> + Send>>;

/// What a store says is durable while it keeps nothing, so that nobody waits for it.
pub const NOBODY_WAITS: Commit = Commit(u64::MAX);

/// A store of batches.
pub trait SpoolStore: Send + Sync {
    /// A name that no batch in this state directory ever had.
    fn next_spool_id(&self) -> SpoolId;

    /// Writes all of it or nothing, after what was pushed before. Never waits.
    fn push(&self, ops: Vec<Op>) -> Commit;

    /// What is on disk by now; `Commit(u64::MAX)` while nobody is to wait for the disk.
    fn durable(&self) -> Commit;

    /// Changes when [`durable`](Self::durable) does.
    fn subscribe(&self) -> watch::Receiver<Commit>;

    /// Reads batches.
    fn load(&self, names: Vec<SpoolId>) -> Load;
}

impl fmt::Debug for dyn SpoolStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpoolStore")
    }
}
