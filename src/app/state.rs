//! What outlives the bridge: opens the state directory, lets the engines go on where they stood, and has them written down
//! every so often.
//!
//! Trouble with the directory costs what it would have kept, and never telemetry: without it everything is in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{RunError, clock};
use crate::admin::ledger::sum;
use crate::config::{Config, StateSettings};
use crate::diagnostics::lifecycle;
use crate::engine::{self, Span};
use crate::exporter::pipeline::Engines;
use crate::exporter::signal::Signal;
use crate::exporter::spool::{Load, SpoolStore};
use crate::exporter::{Exporters, Parts};
use crate::shard::journal::{ShardHead, whole_state};
use crate::shard::made::Finished;
use crate::shard::recover::{self, Beginning, Remade};
use crate::shard::{ShardMessage, Shards};
use crate::store::{Commit, Op, Recovered, SpoolId, Store, StoreSettings};
use crate::time::Now;

/// How long a start waits until what it found is written anew. Then it goes on, and what it sends may be sent again.
const FIRST_COMMIT_LIMIT: Duration = Duration::from_secs(10);

/// A journal that is larger than this is ended by a checkpoint before its time: a start reads it whole.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// How often that is looked at.
const JOURNAL_LOOK: Duration = Duration::from_secs(1);

/// Opens the state directory, where there is to be one.
pub(super) async fn open(settings: &StateSettings) -> Result<Option<(Store, Recovered)>, RunError> {
    let Some(dir) = settings.dir.clone() else { return Ok(None) };
    let settings = StoreSettings::new(dir.clone(), Arc::new(clock::start()));
    let opened = tokio::task::spawn_blocking(|| Store::open(settings)).await;
    let opened =
        opened.map_err(|error| RunError::Internal(format!("opening the state directory: {error}")))?;
    Ok(match opened {
        Ok((store, recovered)) => {
            tell(&dir, &recovered);
            Some((store, recovered))
        }
        Err(error) => {
            tracing::error!(%error, "nothing is kept on disk: the bridge goes on in memory");
            None
        }
    })
}

fn tell(dir: &std::path::Path, recovered: &Recovered) {
    let batches = recovered.spool.len();
    let items: u64 = recovered.spool.iter().map(|entry| entry.items).sum();
    tracing::info!(state_dir = %dir.display(), batches, items, "the state directory is open");
    if recovered.is_behind {
        tracing::error!(
            "the state directory had fallen behind when it was last written: open spans and sums begin anew, batches are sent"
        );
    }
    if recovered.damaged.total() > 0 {
        tracing::error!(damaged = ?recovered.damaged, "parts of the state directory were damaged, and are lost");
    }
}

/// What the exporter of a signal is told beside its settings: the sampler, the store, and what is in it.
pub(super) fn exporter_parts(
    signal: Signal,
    config: &Config,
    store: Option<&Store>,
    recovered: Option<&mut Recovered>,
) -> Parts {
    let mut parts = Parts { signal: Some(signal), ..Parts::default() };
    if signal == Signal::Traces {
        let sampler = config.otel.sampler(config.sampling);
        parts.sampler = Some(Box::new(move |span: &mut Span| sampler.judge(span)));
    }
    if let (Some(store), Some(recovered)) = (store, recovered) {
        parts.store = Some(Arc::new(store.clone()));
        parts.begins_with_checkpoint = true;
        parts.left = recovered.spool.clone();
        parts.sums = recovered.sums.remove(&signal).unwrap_or_default();
    }
    parts
}

impl SpoolStore for Store {
    fn next_spool_id(&self) -> SpoolId {
        Self::next_spool_id(self)
    }

    fn push(&self, ops: Vec<Op>) -> Commit {
        Self::push(self, ops)
    }

    fn durable(&self) -> Commit {
        Self::durable(self)
    }

    fn subscribe(&self) -> watch::Receiver<Commit> {
        Self::subscribe(self)
    }

    fn load(&self, names: Vec<SpoolId>) -> Load {
        let store = self.clone();
        Box::pin(async move { store.load(names).await })
    }
}

/// Makes the engines of what was kept, and gives the exporters what they make on the way.
pub(super) fn go_on(
    recovered: &mut Recovered,
    settings: &Arc<engine::Settings>,
    shards: u16,
    now: Now,
    exporters: &Exporters,
) -> Beginning {
    let _recovery = lifecycle("recovery").entered();
    let beginning =
        recover::recover(recovered, settings, shards, now, |Remade { shard, ordinal, output }| {
            let first = Some((shard, ordinal));
            // It leaves with the first commit, which nothing is sent before.
            let needs = Commit::default();
            match output {
                Finished::Span(span) => exporters.traces.export_from(vec![span], first, needs),
                Finished::Metric(metric) => exporters.metrics.export_metrics(vec![metric], first, needs),
                Finished::Record(record) => exporters.logs.export_records(vec![record], first, needs),
            }
        });
    tracing::info!(
        workers = beginning.workers.len(),
        replayed = beginning.replayed,
        "the engines go on where they stood"
    );
    reconcile(&beginning, settings, exporters);
    beginning
}

/// Lets the exporters name what their sums and those of the engines have not in common.
fn reconcile(beginning: &Beginning, settings: &engine::Settings, exporters: &Exporters) {
    let engines = || beginning.shards.iter().map(|shard| &shard.engine);
    let made = sum(&engines().map(engine::Engine::ledger).collect::<Vec<_>>());
    let held: u64 = engines().map(engine::Engine::held_spans).sum();
    let of_signals = [
        (Signal::Traces, &exporters.traces, made.spans_made.saturating_sub(held), true),
        (Signal::Metrics, &exporters.metrics, made.points_made, settings.metrics.is_some()),
        (Signal::Logs, &exporters.logs, made.records_made, settings.records),
    ];
    for (signal, exporter, passed_on, is_made) in of_signals {
        let made_again = beginning.made_again[signal];
        let is_whole = beginning.is_whole && is_made;
        let items = exporter.reconcile(Engines { passed_on, made_again, is_whole });
        if items > 0 {
            tracing::error!(%signal, items, "the state directory does not say what became of some items");
        }
    }
}

/// Puts everything as it stands into one commit, from which a later start goes on, and waits for it. The exporters' tasks must
/// not run before: what a replay made is on disk before it is sent.
pub(super) async fn write_all(
    beginning: &mut Beginning,
    store: &Store,
    fingerprint: u64,
    now: Now,
    exporters: &Exporters,
) {
    let mut ops = vec![Op::ForgetShards];
    for (shard, number) in beginning.shards.iter_mut().zip(0..) {
        let state = whole_state(ShardHead { now, fingerprint }, shard.engine.checkpoint_all(), shard.next);
        ops.push(Op::Checkpoint { shard: number, state });
    }
    let commit = exporters.persist_with(false, |spooled| {
        ops.extend(spooled);
        store.push(ops)
    });
    if !is_durable(store, commit, FIRST_COMMIT_LIMIT).await {
        tracing::warn!("what was kept is not written anew yet: the bridge begins all the same");
    }
}

async fn is_durable(store: &Store, commit: Commit, within: Duration) -> bool {
    let mut durable = store.subscribe();
    timeout(within, durable.wait_for(|durable| *durable >= commit)).await.is_ok_and(|waited| waited.is_ok())
}

/// Has every shard write down how it stands, every `interval`; all of it, at once, when the store asks for that.
pub(super) async fn checkpoints(
    store: Store,
    shards: Shards,
    exporters: Exporters,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut wanted = store.full_checkpoint_wanted();
    let mut due = clock::after(interval);
    loop {
        let look = due.min(clock::after(JOURNAL_LOOK));
        tokio::select! {
            () = stop.cancelled() => return,
            is_there = async { wanted.wait_for(|wanted| *wanted).await.is_ok() } => {
                if !is_there {
                    return;
                }
            }
            () = tokio::time::sleep_until(look) => {
                if look < due && store.journal_bytes() < MAX_JOURNAL_BYTES {
                    continue;
                }
                shards.ask(ShardMessage::Checkpoint).instrument(lifecycle("checkpoint")).await;
                due = clock::after(interval);
                continue;
            }
        }
        let everything = write_everything(&store, &shards, &exporters).instrument(lifecycle("checkpoint"));
        // Whoever stops this writes everything once more.
        tokio::select! {
            () = stop.cancelled() => return,
            () = everything => {}
        }
        // If it is wanted once more, not at once.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(clock::after(interval)) => {}
        }
    }
}

/// What the store knew is not to be relied on any more: everything, of every shard, in one commit. Most of it is written
/// while the shards go on; for the rest they wait, so that nothing happens between what they say and the commit that
/// holds it.
pub(super) async fn write_everything(store: &Store, shards: &Shards, exporters: &Exporters) {
    if shards.ask(ShardMessage::PrepareWhole).await.contains(&None) {
        return;
    }
    let mut ops = vec![Op::ForgetShards];
    let (written, receiver) = watch::channel(None);
    let ask = |state| ShardMessage::WriteWhole { state, written: receiver.clone() };
    for (state, shard) in shards.ask(ask).await.into_iter().zip(0..) {
        let Some(state) = state else { return };
        ops.push(Op::Checkpoint { shard, state });
    }
    let commit = exporters.persist_with(true, |spooled| {
        ops.extend(spooled);
        store.push(ops)
    });
    written.send_replace(Some(commit));
    tracing::info!("everything was written anew");
}
