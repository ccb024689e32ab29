//! A worker's clock, as far as the bridge can tell.
//!
//! A span that the bridge closes ends on the worker's own clock, so that two machines' clocks never mix: the latest
//! credible event's time, plus the bridge's monotonic time since that event arrived.

use serde::{Deserialize, Serialize};

use crate::time::{Monotonic, Now, UnixNanos};

/// A time further than this from the bridge's own clock is not credible: 7 days.
pub(crate) const MAX_CLOCK_DISTANCE_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// Disorder among threads; an earlier reading within this does not set the clock back.
const DISORDER_NS: i64 = 1_000_000_000;

/// Whether a worker's time can be meant: after the epoch, and within 7 days of its arrival.
pub(crate) fn is_credible(time: UnixNanos, now: Now) -> bool {
    time.0 > 0 && time.since(now.wall).saturating_abs() <= MAX_CLOCK_DISTANCE_NS
}

/// The last reading of a worker's clock.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct WorkerClock {
    reading: Option<Reading>,
    /// When the latest credible event came.
    latest: Option<Monotonic>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Reading {
    time: UnixNanos,
    at: Now,
}

impl WorkerClock {
    /// Takes an event's time as a reading, if it is credible.
    pub(crate) fn observe(&mut self, time: UnixNanos, now: Now) {
        if !is_credible(time, now) {
            return;
        }
        self.latest = Some(now.mono);
        let behind = self.now(now.mono).map_or(0, |projected| projected.since(time));
        if !(1..DISORDER_NS).contains(&behind) {
            self.reading = Some(Reading { time, at: now });
        }
    }

    /// What the worker's clock shows at `mono`; unknown until a credible event came.
    pub(crate) fn now(&self, mono: Monotonic) -> Option<UnixNanos> {
        let reading = self.reading?;
        let elapsed = i64::try_from(mono.since(reading.at.mono)).unwrap_or(i64::MAX);
        Some(reading.time.saturating_add(elapsed))
    }

    /// When the latest credible event came.
    pub(crate) fn latest(&self) -> Option<Monotonic> {
        self.latest
    }

    /// The worker's clock minus the bridge's, at the last reading.
    pub(crate) fn offset_ns(&self) -> Option<i64> {
        self.reading.map(|reading| reading.time.since(reading.at.wall))
    }
}
