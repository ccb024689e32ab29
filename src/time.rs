//! The two clocks, as types that cannot be mixed up.
//!
//! *Event time* is a worker's wall clock and makes the times of spans: [`UnixNanos`]. *Arrival time* is the bridge's
//! monotonic clock and drives every time-out: [`Monotonic`]. The engine reads neither; it is told [`Now`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A wall-clock instant: nanoseconds since the Unix epoch. Workers may say anything, negative times included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// This instant moved by `nanos`, kept within what 64 bits can say.
    #[must_use]
    pub const fn saturating_add(self, nanos: i64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// This instant moved back by `nanos`, kept within what 64 bits can say.
    #[must_use]
    pub const fn saturating_sub(self, nanos: i64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }

    /// `self - earlier` in nanoseconds, kept within what 64 bits can say.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// An instant of the bridge's monotonic clock: nanoseconds since the program started; with a state directory, since its
/// first start, without the time in which it did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The instant `wait` after this one.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Nanoseconds from `earlier` to this instant; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One instant on both of the bridge's clocks, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Drives time-outs.
    pub mono: Monotonic,
    /// Judges whether a worker's times are credible.
    pub wall: UnixNanos,
}
