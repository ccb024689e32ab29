//! What the program asks the machine: the clocks, a seed, the host's name. Nothing else in the crate reads a clock.
#![expect(clippy::disallowed_methods, reason = "this is the place that reads the clocks")]

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::{Monotonic, Now, UnixNanos};

/// A clock that reads both of the machine's clocks together. Its monotonic time begins now.
pub(crate) fn start() -> impl Fn() -> Now + Send + Sync {
    start_at(Monotonic::default())
}

/// A clock whose monotonic time goes on from `instant`, where a run before this one ended: the time between was none.
pub(crate) fn start_at(instant: Monotonic) -> impl Fn() -> Now + Send + Sync {
    let begun = Instant::now();
    move || Now { mono: instant.after(begun.elapsed()), wall: UnixNanos(unix_nanos()) }
}

fn unix_nanos() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// tokio's clock, for deadlines among its timers.
pub(super) fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// tokio's clock, `wait` from now.
pub(crate) fn after(wait: std::time::Duration) -> tokio::time::Instant {
    tokio_now() + wait
}

/// A seed for jitter: any two bridges should differ, nothing more.
pub(super) fn seed() -> u64 {
    u64::from(std::process::id()).rotate_left(32) ^ unix_nanos().cast_unsigned()
}

/// The machine's host name; `localhost` where it has none.
pub(super) fn host_name() -> Arc<str> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .unwrap_or_default();
    match name.trim() {
        "" => Arc::from("localhost"),
        name => Arc::from(name),
    }
}
