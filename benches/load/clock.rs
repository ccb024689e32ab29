//! The clocks of load and sink: one machine, so one wall clock.
#![expect(clippy::disallowed_methods, reason = "the load is real, and so are its times")]

use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds since the Unix epoch.
pub(crate) fn unix_nanos() -> i64 {
    let since =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the machine's clock is past 1970");
    i64::try_from(since.as_nanos()).expect("the machine's clock is before 2262")
}

/// The monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Asks every 20 ms until there is an answer.
///
/// # Errors
///
/// When there is none within `limit`, or asking fails.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        anyhow::ensure!(now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
