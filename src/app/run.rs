//! `serve`: runs an [`App`] until a signal, prints where it listens, and says at the end where every event went.

use std::io::Write as _;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use tracing::Instrument as _;

use super::{App, RunError, descriptors};
use crate::config::Config;
use crate::diagnostics::lifecycle;

/// Runs the bridge until it is asked to end, and drains it. A second signal ends it at once.
///
/// # Errors
/// When a port cannot be had, or a part broke.
pub fn run(config: Config) -> Result<(), RunError> {
    let runtime = runtime()?;
    let ended = runtime.block_on(serve(config));
    // Connections that do not close end here.
    runtime.shutdown_background();
    ended
}

/// How long a thread that has nothing to do waits before it asks the kernel what has come.
const GATHERING: Duration = Duration::from_millis(2);

/// Lets events gather. Workers send them one by one, and waking for each costs several times what the event costs; two
/// milliseconds are nothing beside the reorder window and the batch delay. A bridge without work sleeps on.
fn gather() {
    std::thread::sleep(GATHERING);
}

/// The runtime of a bridge.
pub(crate) fn runtime() -> Result<Runtime, RunError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(super::threads())
        .on_thread_park(gather)
        .enable_all()
        .build()
        .map_err(|error| RunError::Internal(format!("failed to start the runtime: {error}")))
}

async fn serve(config: Config) -> Result<(), RunError> {
    let signals = |kind| {
        signal(kind).map_err(|error| RunError::Internal(format!("failed to listen to signals: {error}")))
    };
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let mut hang_up = signals(SignalKind::hangup())?;
    descriptors::warn_if_few(config.receiver.max_connections);
    let mut app = App::start(config, None).instrument(lifecycle("start")).await?;
    announce(&app)?;
    let broken = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hang_up.recv() => tracing::warn!("the configuration file is not read again: restart the bridge"),
            broken = app.broken() => break Some(broken),
        }
    };
    let shutdown = lifecycle("shutdown");
    if let Some(broken) = &broken {
        tracing::error!("{broken}, which it should not: the bridge shuts down");
    } else {
        shutdown.in_scope(|| tracing::info!("draining"));
    }
    let second_signal = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        ledger = app.shutdown().instrument(shutdown.clone()) => shutdown.in_scope(|| {
            tracing::info!(ledger = %ledger.to_json(), "the bridge has shut down");
        }),
        () = second_signal => {
            return Err(RunError::Internal("a second signal ended the drain".to_owned()));
        }
    }
    broken.map_or(Ok(()), |broken| Err(RunError::Internal(broken)))
}

/// The one line that tools wait for, before anything else on standard output.
pub(crate) fn announce(app: &App) -> Result<(), RunError> {
    let mut out = std::io::stdout().lock();
    let line = format!("READY grpc={} admin={}", app.grpc_addr, app.admin_addr);
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written
        .map_err(|error| RunError::Internal(format!("failed to say where the bridge listens: {error}")))?;
    tracing::info!(grpc = %app.grpc_addr, admin = %app.admin_addr, "serving");
    Ok(())
}
