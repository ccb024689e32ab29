//! What the end-to-end tests stand on: programs that do not outlive a test, and what can be asked of them.
//!
//! Nothing here waits a fixed time: every wait is for a condition, looked at again and again, with a limit that makes
//! the test fail and show the program's log.

pub(crate) mod authority;
pub(crate) mod bridge;
pub(crate) mod collector;
pub(crate) mod faulty_peer;
pub(crate) mod jaeger;
pub(crate) mod load;
pub(crate) mod peers;
pub(crate) mod points;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod python;
pub(crate) mod sink;
pub(crate) mod truth;
pub(crate) mod worker;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Longest wait for a program to be ready; seconds on an idle machine are many on a busy one.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(120);

/// Pause between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Looks at `condition` until it gives a value.
///
/// # Errors
///
/// When the condition fails, or has given nothing within `limit`.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let look = async {
        loop {
            if let Some(value) = condition().await? {
                return Ok(value);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(limit, look)
        .await
        .with_context(|| format!("gave up waiting {limit:?} for {what}"))?
}

/// For measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "tests measure the bridge, which has clocks of its own")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What a mutex guards, also after a test that held it has panicked.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Addresses on loopback that nothing listens on just now.
pub(crate) fn free_addresses<const N: usize>() -> Result<[String; N]> {
    // All are held at once, so that they differ.
    let mut listeners = Vec::with_capacity(N);
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0").context("failed to find a free port")?);
    }
    let addresses: Result<Vec<_>, _> =
        listeners.iter().map(|listener| listener.local_addr().map(|a| a.to_string())).collect();
    addresses?.try_into().ok().context("as many addresses as listeners")
}

/// The answer's body.
///
/// # Errors
///
/// When there is no answer, or one of another status than 200.
pub(crate) async fn fetch(url: &str) -> Result<String> {
    fetch_as(url, "*/*").await
}

/// The answer's body, in a format of this media type.
///
/// # Errors
///
/// When there is no answer, or one of another status than 200.
pub(crate) async fn fetch_as(url: &str, accept: &str) -> Result<String> {
    let request = reqwest::Client::new().get(url).header("accept", accept);
    let response = request.send().await.with_context(|| format!("failed to ask {url}"))?;
    let status = response.status();
    let body = response.text().await.with_context(|| format!("failed to read the answer of {url}"))?;
    ensure!(status == 200, "{url} answered {status}: {body}");
    Ok(body)
}

/// What one of our scripts prints.
///
/// # Errors
///
/// When the script fails, with what it said: which `make` target to run.
fn script_output(script: &str, argument: &str) -> Result<String> {
    let output = Command::new(repository(script))
        .arg(argument)
        .output()
        .with_context(|| format!("failed to run {script}"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
