//! Why an event made nothing: a closed set, so that a ledger can be added up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The fate `dropped`, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DropReason {
    /// A start equal in every field to one that is open or just finished.
    DuplicateStart,
    /// An end equal in every field to one that was used.
    DuplicateEnd,
    /// A start whose span was already rebuilt from its end.
    Reconciled,
    /// A name that is empty once empty parts are taken away.
    EmptyName,
    /// Bytes that are not a `TelemetryEvent`; or all that it measures cannot be what its instruments are.
    Malformed,
    /// A message beyond `max_message_bytes`.
    Oversized,
    /// The worker's policy says that telemetry is off.
    Disabled,
    /// The worker's policy blocks the event's name.
    Filtered,
    /// A start whose end was, as far as can be known, sampled away in the worker.
    SampledHalf,
    /// A standalone event whose only measurements are not finite.
    NoFiniteValue,
    /// What it would have become is switched off, or not built yet.
    SignalDisabled,
    /// A limit was reached.
    Overload,
}

impl DropReason {
    /// Every reason, in the order of [`DropReason::index`].
    pub const ALL: [Self; 12] = [
        Self::DuplicateStart,
        Self::DuplicateEnd,
        Self::Reconciled,
        Self::EmptyName,
        Self::Malformed,
        Self::Oversized,
        Self::Disabled,
        Self::Filtered,
        Self::SampledHalf,
        Self::NoFiniteValue,
        Self::SignalDisabled,
        Self::Overload,
    ];

    /// The reason's place in [`DropReason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason as the ledger and the metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DuplicateStart => "duplicate_start",
            Self::DuplicateEnd => "duplicate_end",
            Self::Reconciled => "reconciled",
            Self::EmptyName => "empty_name",
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::Disabled => "disabled",
            Self::Filtered => "filtered",
            Self::SampledHalf => "sampled_half",
            Self::NoFiniteValue => "no_finite_value",
            Self::SignalDisabled => "signal_disabled",
            Self::Overload => "overload",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason}");
        }
    }
}
