//! Lets the engines go on where a run before this one left them.
//!
//! | what | becomes |
//! |---|---|
//! | a shard's checkpoint | its engine |
//! | a shard's journal | happens again, and makes what it made then |
//! | an output whose fate is on disk | nothing more |
//! | any other output | an output of this run, for the exporter |
//! | another number of shards than then | the same workers, divided anew |
//!
//! Then no worker has a stream any more, and each may come back within its grace.
//!
//! Law: an output is known by its ordinal only where the replay is the original: same program, same settings, nothing
//! damaged. Else no output passes for one whose fate is on disk: it may be sent twice, and is not lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::engine::{Damage, Engine, KnownWorker, RESTORED_GRACE, Restored, Settings, StreamId};
use crate::exporter::signal::Signal;
use crate::shard::journal::{fingerprint, records, split_head};
use crate::shard::made::Finished;
use crate::shard::replay::{Replayed, Settled, replay};
use crate::shard::shard_of;
use crate::store::{Ordinals, Recovered, RecoveredShard};
use crate::time::{Monotonic, Now};

/// Where the engines stand when a bridge begins.
#[derive(Debug)]
pub struct Beginning {
    /// One a shard.
    pub shards: Vec<ShardBeginning>,
    /// Workers that may come back.
    pub workers: Vec<KnownWorker>,
    /// No stream has had this number or a larger one.
    pub next_stream: StreamId,
    /// Inputs that happened again.
    pub replayed: u64,
    /// Outputs that were made once more though their fate is on disk, since the replay was not the original.
    pub made_again: Ordinals,
    /// The sums of all engines are there, and all that happened since their checkpoints happened again.
    pub is_whole: bool,
}

/// Where one shard stands.
#[derive(Debug)]
pub struct ShardBeginning {
    /// Its engine.
    pub engine: Engine,
    /// Of its next outputs.
    pub next: Ordinals,
}

/// An output of a replay.
#[derive(Debug)]
pub struct Remade {
    /// The shard that made it.
    pub shard: u16,
    /// Its number among those of its signal.
    pub ordinal: u64,
    /// What it is.
    pub output: Finished,
}

/// What came of one shard.
struct GoneOn {
    beginning: ShardBeginning,
    replayed: u64,
    made_again: Ordinals,
    is_whole: bool,
}

/// Shards to which nothing has happened yet.
#[must_use]
pub fn fresh(settings: &Arc<Settings>, shards: u16) -> Beginning {
    let beginning = |shard| ShardBeginning {
        engine: Engine::new(Arc::clone(settings), shard),
        next: Ordinals::default(),
    };
    Beginning {
        shards: (0..shards).map(beginning).collect(),
        workers: Vec::new(),
        next_stream: StreamId(1),
        replayed: 0,
        made_again: Ordinals::default(),
        is_whole: true,
    }
}

/// The last instant of the run before: the clock goes on from here, so that time-outs have the time that was left.
#[must_use]
pub fn last_instant(recovered: &Recovered) -> Monotonic {
    let of_shard = |shard: &RecoveredShard| {
        let head = shard.head.as_deref().and_then(|head| split_head(head).ok());
        let journalled = shard.journal.last().into_iter().flat_map(|journal| records(journal));
        let last = journalled.filter_map(Result::ok).last();
        [head.map(|(head, _)| head.now.mono), last.map(|record| record.now.mono)].into_iter().flatten().max()
    };
    recovered.shards.iter().filter_map(of_shard).max().unwrap_or_default()
}

/// Makes the engines of what was kept. `on_output` gets the outputs of the replay whose fate is not on disk, in the order of
/// their shard.
pub fn recover(
    recovered: &mut Recovered,
    settings: &Arc<Settings>,
    shards: u16,
    now: Now,
    mut on_output: impl FnMut(Remade),
) -> Beginning {
    let settled = Settled::new(recovered.known_origins());
    let is_undamaged = recovered.damaged.total() == 0 && recovered.set_aside.is_none();
    let is_there = recovered.damaged.heads == 0 && recovered.damaged.journal == 0;
    // A start that ended before its first commit leaves no shards: what it was told of the state is forgotten.
    let has_engines = !recovered.shards.is_empty();
    let mut is_whole = has_engines && is_there && recovered.set_aside.is_none() && !recovered.is_behind;
    let mut beginnings = Vec::new();
    let (mut replayed, mut made_again) = (0, Ordinals::default());
    for shard in std::mem::take(&mut recovered.shards) {
        let number = shard.shard;
        let gone_on = go_on(shard, settings, &settled, is_undamaged, &mut on_output);
        replayed += gone_on.replayed;
        is_whole &= gone_on.is_whole;
        for signal in Signal::ALL {
            made_again[signal] += gone_on.made_again[signal];
        }
        beginnings.push((number, gone_on.beginning));
    }
    let is_as_before = beginnings.iter().map(|(number, _)| *number).eq(0..shards);
    let mut beginnings: Vec<_> = beginnings.into_iter().map(|(_, beginning)| beginning).collect();
    if !is_as_before {
        beginnings = divided_anew(beginnings, settings, shards);
    }
    for (beginning, shard) in beginnings.iter_mut().zip(0..) {
        beginning.engine.streams_lost(now, RESTORED_GRACE);
        // Incarnations that another had replaced already have no grace.
        while let Some(output) = beginning.engine.next_output() {
            if let Some(output) = Finished::of(output) {
                let next = &mut beginning.next[output.signal()];
                on_output(Remade { shard, ordinal: *next, output });
                *next += 1;
            }
        }
    }
    Beginning {
        workers: beginnings.iter().flat_map(|beginning| beginning.engine.known_workers()).collect(),
        next_stream: beginnings
            .iter()
            .map(|beginning| beginning.engine.next_stream())
            .max()
            .unwrap_or(StreamId(1)),
        shards: beginnings,
        replayed,
        made_again,
        is_whole,
    }
}

/// One shard, by its checkpoint and its journal.
fn go_on(
    shard: RecoveredShard,
    settings: &Arc<Settings>,
    settled: &Settled,
    is_undamaged: bool,
    on_output: &mut impl FnMut(Remade),
) -> GoneOn {
    let RecoveredShard { shard: number, next, head, rows, journal } = shard;
    let fresh = || Restored { engine: Engine::new(Arc::clone(settings), number), damage: Damage::default() };
    let head = head.as_deref().map(split_head);
    let mut is_whole = true;
    let (restored, mut is_exact) = match head {
        // Nothing was ever written of it, or nothing that can be read.
        None => (fresh(), next == Ordinals::default()),
        Some(Err(error)) => {
            tracing::error!(shard = number, %error, "a checkpoint could not be read: its open spans are lost");
            is_whole = false;
            (fresh(), false)
        }
        Some(Ok((head, of_engine))) => {
            match Engine::restore(Arc::clone(settings), number, of_engine, rows.into_iter()) {
                Ok(restored) => (restored, head.fingerprint == fingerprint(settings)),
                Err(error) => {
                    tracing::error!(shard = number, %error, "a checkpoint could not be read: its open spans are lost");
                    is_whole = false;
                    (fresh(), false)
                }
            }
        }
    };
    let Restored { engine, damage } = restored;
    if damage != Damage::default() {
        tracing::error!(shard = number, ?damage, "parts of a checkpoint could not be read: they are lost");
        is_exact = false;
    }
    is_exact &= is_undamaged;
    if !is_exact && !journal.is_empty() {
        tracing::warn!(
            shard = number,
            "what happened since the last checkpoint may not be made again exactly (another version or configuration, or \
             damage): what was made of it may be sent twice"
        );
    }
    // Numbers of before mean something else then.
    let behind = settled.end_of(number).max(next);
    let mut ordinals = if is_exact { next } else { behind };
    let replaying = AssertUnwindSafe(|| {
        let mut engine = engine;
        let replayed = replay(&mut engine, journal.iter().map(AsRef::as_ref), |output| {
            let signal = output.signal();
            let ordinal = ordinals[signal];
            ordinals[signal] += 1;
            if !is_exact || !settled.contains(number, signal, ordinal) {
                on_output(Remade { shard: number, ordinal, output });
            }
        });
        (engine, replayed)
    });
    // What made a bridge panic once must not keep it from ever starting again.
    let (engine, replayed) = catch_unwind(replaying).unwrap_or_else(|_| {
        tracing::error!(shard = number, "a shard could not go on where it stood: its open spans are lost");
        is_whole = false;
        (fresh().engine, Replayed::default())
    });
    if replayed.is_cut {
        tracing::error!(shard = number, "a journal could not be read to its end: what arrived after is lost");
    }
    GoneOn {
        beginning: ShardBeginning { engine, next: ordinals.max(behind) },
        replayed: replayed.records,
        made_again: if is_exact { Ordinals::default() } else { settled.count_from(number, next) },
        is_whole: is_whole && !replayed.is_cut,
    }
}

/// Numbers go on behind all of them, so that none has two meanings.
fn divided_anew(
    beginnings: Vec<ShardBeginning>,
    settings: &Arc<Settings>,
    shards: u16,
) -> Vec<ShardBeginning> {
    let next = beginnings.iter().fold(Ordinals::default(), |next, beginning| next.max(beginning.next));
    let engines = beginnings.into_iter().map(|beginning| beginning.engine).collect();
    Engine::regrouped(settings, engines, shards, |worker| shard_of(worker, shards))
        .into_iter()
        .map(|engine| ShardBeginning { engine, next })
        .collect()
}

#[cfg(test)]
mod tests;
