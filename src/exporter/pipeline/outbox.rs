//! What is to be written to disk, in order, until somebody takes it. Without a store: nothing.

use std::fmt;

use smallvec::{SmallVec, smallvec};

use crate::exporter::queue::Entry;
use crate::exporter::refusal::Refusal;
use crate::exporter::signal::Signal;
use crate::store::{Op, Origin, Origins, SpoolId};

/// The reason under which what the sampler left out is written: it is a fate as well, and an earlier run's sums are asked for
/// it.
pub const SAMPLED_OUT: &str = "sampled_out";

/// Under these is written what the sums of the engines lack of what was made; they are no fates.
pub(super) const MADE_AGAIN: &str = "made_again";
/// See [`MADE_AGAIN`].
pub(super) const INHERITED: &str = "inherited";

/// Gives out names for batches on disk; never the same twice.
pub type SpoolNames = Box<dyn FnMut() -> SpoolId + Send>;

/// The outbox.
pub(super) struct Outbox {
    signal: Signal,
    names: Option<SpoolNames>,
    ops: Vec<Op>,
}

impl Outbox {
    pub(super) fn new(signal: Signal) -> Self {
        Self { signal, names: None, ops: Vec::new() }
    }

    pub(super) fn set_names(&mut self, names: SpoolNames) {
        self.names = Some(names);
    }

    pub(super) fn has_store(&self) -> bool {
        self.names.is_some()
    }

    pub(super) fn take(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops)
    }

    /// A name for a batch.
    pub(super) fn name(&mut self) -> Option<SpoolId> {
        self.names.as_mut().map(|names| names())
    }

    /// Writes a batch under `name`.
    pub(super) fn spool(&mut self, name: SpoolId, entry: &Entry) {
        let Some(body) = &entry.body else { return };
        self.push(Op::Spool {
            id: name,
            signal: self.signal,
            items: entry.items,
            body: body.clone(),
            filled_at: entry.filled_at,
            origins: entry.origins.clone(),
        });
    }

    /// The fate of a batch.
    pub(super) fn settled(&mut self, entry: &Entry, exported: u64, refused: Option<(Refusal, u64)>) {
        let refused =
            refused.filter(|(_, items)| *items > 0).map(|(refusal, items)| (refusal.as_str(), items));
        self.push(Op::Settled {
            signal: self.signal,
            spool: entry.spool(),
            origins: entry.origins.clone(),
            exported,
            refused: refused.into_iter().collect(),
        });
    }

    /// A batch goes on under other names; its items have no fate yet.
    pub(super) fn forget(&mut self, name: SpoolId) {
        self.push(Op::Settled {
            signal: self.signal,
            spool: Some(name),
            origins: Origins::new(),
            exported: 0,
            refused: SmallVec::new(),
        });
    }

    /// The fate of an output of so many items that never came into a batch. Fates alike of outputs in a row are one.
    pub(super) fn one(&mut self, reason: &'static str, items: u64, origin: Option<(u16, u64)>) {
        if self.names.is_none() {
            return;
        }
        if let Some((count, origins)) = self.last_alike(reason)
            && extends(origins, origin)
        {
            *count += items;
            return;
        }
        let origins = origin.map(|(shard, ordinal)| Origin { shard, ordinals: ordinal..ordinal + 1 });
        self.many(reason, items, origins);
    }

    /// The fate of items that never came into a batch.
    pub(super) fn many(&mut self, reason: &'static str, items: u64, origin: Option<Origin>) {
        if items > 0 {
            self.push(Op::Settled {
                signal: self.signal,
                spool: None,
                origins: origin.into_iter().collect(),
                exported: 0,
                refused: smallvec![(reason, items)],
            });
        }
    }

    fn push(&mut self, op: Op) {
        if self.names.is_some() {
            self.ops.push(op);
        }
    }

    /// Count and origins of the last thing written, if it is a fate like this.
    fn last_alike(&mut self, reason: &str) -> Option<(&mut u64, &mut Origins)> {
        let Some(Op::Settled { spool: None, exported: 0, refused, origins, .. }) = self.ops.last_mut() else {
            return None;
        };
        match refused.as_mut_slice() {
            [(same, count)] if *same == reason && origins.len() <= 1 => Some((count, origins)),
            _ => None,
        }
    }
}

fn extends(origins: &mut Origins, origin: Option<(u16, u64)>) -> bool {
    match (origins.first_mut(), origin) {
        (None, None) => true,
        (Some(last), Some((shard, ordinal))) if last.shard == shard && last.ordinals.end == ordinal => {
            last.ordinals.end += 1;
            true
        }
        (Some(_) | None, _) => false,
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("ops", &self.ops.len()).finish_non_exhaustive()
    }
}
