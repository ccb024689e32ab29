//! How a shard is written down: most of it a part at a time between other messages, so that no worker waits for all of it.

use tokio::sync::{oneshot, watch};

use super::ShardTask;
use crate::engine::Engine;
use crate::store::{Commit, ShardCheckpoint};

/// What is written of a checkpoint in one turn, in bytes as they are in memory: some 500 rows, half a millisecond's work.
pub(super) const SLICE_BYTES: usize = 256 << 10;

/// Who waits for a checkpoint, or for most of it.
#[derive(Debug, Default)]
pub(super) struct AskedToWrite {
    checkpoint: Option<oneshot::Sender<Option<Commit>>>,
    prepared: Option<oneshot::Sender<()>>,
}

impl AskedToWrite {
    /// Whoever asked before is not answered: one is enough, and the app asks one at a time.
    pub(super) fn checkpoint(&mut self, answer: oneshot::Sender<Option<Commit>>) {
        self.checkpoint = Some(answer);
    }

    pub(super) const fn is_asked(&self) -> bool {
        self.checkpoint.is_some() || self.prepared.is_some()
    }
}

impl ShardTask {
    /// Begins to write down everything. A checkpoint that somebody waits for would take what is prepared of it.
    pub(super) fn begin_whole(
        &self,
        engine: &mut Engine,
        asked: &mut AskedToWrite,
        answer: oneshot::Sender<()>,
    ) {
        if self.journal.is_some() {
            engine.next_is_whole();
            *asked = AskedToWrite { checkpoint: None, prepared: Some(answer) };
        }
    }

    /// Writes a part of what was asked for, and the rest where that is little.
    ///
    /// What the engine has made is passed on before.
    pub(super) fn go_on_writing(&mut self, engine: &mut Engine, asked: &mut AskedToWrite) {
        if !asked.is_asked() {
            return;
        }
        let is_behind = self.journal.as_ref().is_some_and(|journal| journal.is_behind());
        let is_wanted = is_behind || asked.prepared.is_some();
        if is_wanted && !engine.prepare_checkpoint(SLICE_BYTES) {
            return;
        }
        // Whoever asked may have gone in the meantime.
        if let Some(answer) = asked.checkpoint.take() {
            let _ = answer.send(self.checkpoint(engine));
        }
        if let Some(answer) = asked.prepared.take() {
            let _ = answer.send(());
        }
    }

    /// Writes down how things stand. Whatever the engine has made is passed on before; what of it was not delivered yet
    /// must be on disk no later than the checkpoint, from which it cannot be made again.
    pub(super) fn checkpoint(&mut self, engine: &mut Engine) -> Option<Commit> {
        let journal = self.journal.as_mut()?;
        if !journal.is_behind() {
            return None;
        }
        let state = engine.checkpoint();
        let now = (self.clock)();
        let exporters = &self.exporters;
        Some(journal.checkpoint(now, state, |store, checkpoint| {
            exporters.persist_with(false, |mut ops| {
                ops.push(checkpoint);
                store.push(ops)
            })
        }))
    }

    /// Says how everything stands, and waits until it is handed over.
    pub(super) async fn write_whole(
        &mut self,
        engine: &mut Engine,
        state: oneshot::Sender<ShardCheckpoint>,
        mut written: watch::Receiver<Option<Commit>>,
    ) {
        self.pass_on(engine);
        let now = (self.clock)();
        let Some(journal) = &mut self.journal else { return };
        let is_taken = state.send(journal.whole(now, engine.checkpoint_all())).is_ok();
        let commit = match is_taken {
            true => written.wait_for(Option::is_some).await.ok().and_then(|commit| *commit),
            false => None,
        };
        match commit {
            Some(commit) => journal.written(commit),
            // Whoever asked gave up: what was written is nowhere.
            None => engine.next_is_whole(),
        }
    }
}
