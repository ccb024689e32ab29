//! Builds an exporter for each signal, on one store.

use std::pin::Pin;
use std::sync::Arc;

use super::{RunError, clock, state};
use crate::config::Config;
use crate::exporter::signal::Signal;
use crate::exporter::{self, ExporterHandle, Exporters};
use crate::store::{Recovered, Store};
use crate::time::Now;

/// The part of what may wait on disk that each signal has, in the order of [`Signal::ALL`]: an outage must not let the spans,
/// which are most of it, take the room of the rest.
const SPOOL_PERCENT: [u64; 3] = [80, 10, 10];

/// What sends, until it is told to end.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Exporters, and the tasks that send. No task may run before the first commit.
pub(super) struct Built {
    pub(super) exporters: Exporters,
    pub(super) tasks: [(&'static str, Task); 3],
}

/// Builds them all.
///
/// # Errors
/// When an endpoint makes no sense.
pub(super) fn build(
    config: &Config,
    clock: &Arc<dyn Fn() -> Now + Send + Sync>,
    store: Option<&Store>,
    mut recovered: Option<&mut Recovered>,
) -> Result<Built, RunError> {
    let mut build = |signal: Signal, spool_percent| {
        let mut settings = config.otel.exporter_settings(signal, config.same_host, clock::seed());
        settings.queue.max_spool_bytes = config.state.max_spool_bytes / 100 * spool_percent;
        let parts = state::exporter_parts(signal, config, store, recovered.as_deref_mut());
        let clock = Arc::clone(clock);
        let (handle, task) = exporter::build_with(settings, move || clock(), parts)
            .map_err(|error| RunError::Usage(error.to_string()))?;
        let task: Task = Box::pin(task);
        Ok::<(ExporterHandle, _), RunError>((handle, task))
    };
    let [of_traces, of_metrics, of_logs] = SPOOL_PERCENT;
    let (traces, traces_task) = build(Signal::Traces, of_traces)?;
    let (metrics, metrics_task) = build(Signal::Metrics, of_metrics)?;
    let (logs, logs_task) = build(Signal::Logs, of_logs)?;
    let tasks = [
        ("exporter of traces", traces_task),
        ("exporter of metrics", metrics_task),
        ("exporter of logs", logs_task),
    ];
    Ok(Built { exporters: Exporters { traces, metrics, logs }, tasks })
}
