//! What others do with an exporter: give it items, ask what became of them, end it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use crate::engine::metrics::point::Metric;
use crate::engine::record::LogRecord;
use crate::engine::span::Span;
use crate::exporter::Shared;
use crate::exporter::batch::Provenance;
use crate::exporter::output::Output;
use crate::exporter::pipeline::{Engines, ExportSnapshot};
use crate::exporter::refusal::Refusal;
use crate::store::{Commit, Op, Origin};

/// How long after a shutdown's deadline the task may take to notice it.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(1);

/// The way to the exporter. Clones lead to the same one.
#[derive(Clone)]
pub struct ExporterHandle {
    pub(super) shared: Arc<Shared>,
}

impl ExporterHandle {
    /// Takes finished spans that nobody will ask for again.
    ///
    /// Guarantee: never waits. What there is no room for is refused and counted.
    pub fn export(&self, spans: Vec<Span>) {
        self.export_from(spans, None, Commit::default());
    }

    /// Takes finished spans. `first`: the shard that made them, and the ordinal of the first; the others follow. None is
    /// sent before `needs` is durable.
    ///
    /// Guarantee: never waits. What there is no room for is refused and counted.
    pub fn export_from(&self, spans: Vec<Span>, first: Option<(u16, u64)>, needs: Commit) {
        let sampler = self.shared.sampler.as_ref();
        self.export_kept(spans, first, needs, |span| sampler.is_none_or(|sampler| sampler(span)));
    }

    /// Takes metrics, each of which has one ordinal and counts its points; otherwise as [`export_from`](Self::export_from).
    pub fn export_metrics(&self, metrics: Vec<Metric>, first: Option<(u16, u64)>, needs: Commit) {
        self.export_kept(metrics, first, needs, |_| true);
    }

    /// Takes log records, as [`export_from`](Self::export_from) takes spans.
    pub fn export_records(&self, records: Vec<LogRecord>, first: Option<(u16, u64)>, needs: Commit) {
        self.export_kept(records, first, needs, |_| true);
    }

    /// Takes those outputs of an engine that `keep` lets pass.
    fn export_kept<O: Output>(
        &self,
        mut outputs: Vec<O>,
        first: Option<(u16, u64)>,
        needs: Commit,
        keep: impl Fn(&mut O) -> bool,
    ) {
        let shared = &*self.shared;
        let now = shared.now();
        let count = outputs.len() as u64;
        let all = first.map(|(shard, from)| Origin { shard, ordinals: from..from + count });
        let items = outputs.iter().map(O::items).sum();
        if shared.with(now, |pipeline| pipeline.refuse_all(items, all)) {
            return;
        }
        let mut encoded = Vec::with_capacity(outputs.len() * O::USUAL_BYTES);
        let mut ends = Vec::with_capacity(outputs.len());
        for output in &mut outputs {
            // What is left out takes no bytes.
            if keep(output) {
                output.write(&mut encoded);
            }
            ends.push(encoded.len());
        }

        let mut queue_full = 0;
        let mut too_large = Vec::new();
        let mut start = 0;
        let (earlier, notices) = shared.with(now, |pipeline| {
            let expected = pipeline.poll_timeout();
            for (at, (output, end)) in outputs.iter().zip(ends).enumerate() {
                let origin = first.map(|(shard, from)| (shard, from + at as u64));
                if start == end {
                    pipeline.sampled_out(origin);
                    continue;
                }
                let (element, items) = (&encoded[start..end], output.items());
                let provenance = Provenance { origin, needs };
                let refusal = pipeline.admit(output.source(), element, items, provenance, now).err();
                if refusal == Some(Refusal::ItemTooLarge) {
                    too_large.push((Arc::clone(output.name()), end - start));
                }
                if refusal == Some(Refusal::QueueFull) {
                    queue_full += items;
                }
                start = end;
            }
            let earlier = match (expected, pipeline.poll_timeout()) {
                (Some(expected), Some(next)) => next < expected,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            (earlier, pipeline.take_notices())
        });
        drop(outputs);

        if earlier {
            shared.wake.notify_one();
        }
        if queue_full > 0 || !too_large.is_empty() || !notices.is_empty() {
            let mut complaints = shared.complaints();
            complaints.about_admission(queue_full, &too_large, now.mono);
            complaints.about(notices, now.mono);
        }
    }

    /// Makes the sums agree with those of the engines, as [`Pipeline::reconcile`](super::pipeline::Pipeline::reconcile) does.
    pub fn reconcile(&self, engines: Engines) -> u64 {
        self.shared.lock().reconcile(engines)
    }

    /// Has everything written that is not on disk, by `push`, which may add to it: what an engine's checkpoint says must
    /// come after what the engine made before. Nothing of this signal is written in between. `afresh`: the store has dropped
    /// what was not durable, and asks for everything.
    pub fn persist_with(&self, afresh: bool, push: impl FnOnce(Vec<Op>) -> Commit) -> Commit {
        let now = self.shared.now();
        let mut pipeline = self.shared.lock();
        pipeline.persist_all(afresh, now);
        self.shared.is_beginning.store(false, Ordering::Relaxed);
        let commit = push(pipeline.take_ops());
        pipeline.pushed(commit, now.mono);
        drop(pipeline);
        self.shared.wake.notify_one();
        commit
    }

    /// The ledger and the state at this instant.
    ///
    /// Guarantee: the sums add up.
    #[must_use]
    pub fn snapshot(&self) -> ExportSnapshot {
        let now = self.shared.now().mono;
        self.shared.lock().snapshot(now)
    }

    /// Sends what there is, and ends the task: when nothing is left, or `within` is over. What is left then is on disk where
    /// there is a store, and refused as `shutdown` otherwise; a request that is on its way may arrive all the same.
    pub async fn shutdown(&self, within: Duration) -> ExportSnapshot {
        let now = self.shared.now();
        self.shared.with(now, |pipeline| pipeline.drain(now.mono.after(within), now));
        self.shared.wake.notify_one();
        let mut ended = self.shared.ended.subscribe();
        let ended = timeout(within.saturating_add(SHUTDOWN_SLACK), ended.wait_for(|ended| *ended)).await;
        if ended.is_err() {
            tracing::warn!("the exporter's task is not running; giving up what is left");
            let now = self.shared.now();
            self.shared.with(now, |pipeline| pipeline.close(now));
        }
        self.snapshot()
    }
}

impl fmt::Debug for ExporterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExporterHandle").finish_non_exhaustive()
    }
}
