//! The exporters of all signals, where they act as one: a checkpoint needs what each of them has not written yet, and the
//! end of the program is the end of all.
//!
//! Each is always there: one that sends nothing still keeps what earlier runs left on disk.

use std::time::Duration;

use crate::exporter::signal::Signal;
use crate::exporter::{ExportSnapshot, ExporterHandle};
use crate::store::{Commit, Op};

/// The ways to the exporters. Clones lead to the same ones.
#[derive(Debug, Clone)]
pub struct Exporters {
    /// Of spans.
    pub traces: ExporterHandle,
    /// Of points.
    pub metrics: ExporterHandle,
    /// Of log records.
    pub logs: ExporterHandle,
}

/// What the exporters say of themselves, in the order of [`Signal::ALL`].
pub type ExportSnapshots = [ExportSnapshot; Signal::ALL.len()];

impl Exporters {
    /// Has everything written that is not on disk, of every signal and by one `push`, as
    /// [`ExporterHandle::persist_with`] does for one signal. Nothing is written by any of them in between.
    pub fn persist_with(&self, afresh: bool, push: impl FnOnce(Vec<Op>) -> Commit) -> Commit {
        // Whoever locks more than one of them does so in this order.
        self.traces.persist_with(afresh, |mut ops| {
            self.metrics.persist_with(afresh, |of_metrics| {
                ops.extend(of_metrics);
                self.logs.persist_with(afresh, |of_logs| {
                    ops.extend(of_logs);
                    push(ops)
                })
            })
        })
    }

    /// The ledgers at this instant, each for itself.
    #[must_use]
    pub fn snapshots(&self) -> ExportSnapshots {
        [self.traces.snapshot(), self.metrics.snapshot(), self.logs.snapshot()]
    }

    /// Sends what there is of every signal, at the same time, and ends the tasks, as [`ExporterHandle::shutdown`] does.
    pub async fn shutdown(&self, within: Duration) -> ExportSnapshots {
        let Self { traces, metrics, logs } = self;
        tokio::join!(traces.shutdown(within), metrics.shutdown(within), logs.shutdown(within)).into()
    }
}
