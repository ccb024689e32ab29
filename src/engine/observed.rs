//! Whether a worker is seen to keep to the share of events that it was asked to send.
//!
//! A worker that decides for each event alone tears pairs: of the ends that it sends, `1 - share` lack their start. One
//! that ignores the share sends every start. So the ends that were decided are counted in blocks so long that a worker
//! that honours the share would send 64 of them alone, and the verdict on a block holds until the next one is complete:
//!
//! | of a block's ends | verdict |
//! |---|---|
//! | at least half as many alone as expected | [`Observed::Honoured`] |
//! | fewer | [`Observed::Ignored`] |
//!
//! By Chernoff's bound a worker that honours the share is misjudged in fewer than one block of 2,900 (`exp(-64 / 8)`), and
//! one that ignores it, and loses a start in eight times as many ends for other reasons, far more rarely. A worker that
//! says that it samples whole spans (`consistent-sampling`) tears nothing and leaves no trace of what is missing: it is
//! taken at its word once it has sent something. A worker that is asked for all, or for nothing, shows nothing; nor does
//! one that is asked for nearly all, whose pairs as many other reasons tear.
//!
//! What a worker emitted before it could know of the share is all that there was, though it comes later: the share counts from
//! a reorder window after the worker was told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::UnixNanos;

/// A larger share tears so few pairs that it is no evidence.
const MAX_SHARE: f64 = 0.9;

/// Ends alone that are expected in a block.
const EXPECTED_ALONE: f64 = 64.0;

/// Whether a worker honours its sampling rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Observed {
    /// Too little was seen.
    #[default]
    NoEvidence,
    /// It does.
    Honoured,
    /// It sends more.
    Ignored,
}

impl Observed {
    /// As the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoEvidence => "no_evidence",
            Self::Honoured => "honoured",
            Self::Ignored => "ignored",
        }
    }
}

/// What was seen of a worker under one policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Observation {
    verdict: Observed,
    /// When the worker was told.
    told: UnixNanos,
    /// Of the block that is not complete.
    ends: u64,
    alone: u64,
}

impl Observation {
    /// Of a worker that is told a share now.
    pub(crate) fn beginning(now: UnixNanos) -> Self {
        Self { told: now, ..Self::default() }
    }

    /// The worker may be another process, which is told the share now.
    pub(crate) const fn told_again(&mut self, now: UnixNanos) {
        self.told = now;
    }

    pub(crate) const fn verdict(self) -> Observed {
        self.verdict
    }

    /// Whether an event that was emitted at `time` stands for others that the share left out.
    pub(crate) fn is_thinned(self, time: UnixNanos, window: Duration) -> bool {
        let window = i64::try_from(window.as_nanos()).unwrap_or(i64::MAX);
        self.verdict == Observed::Honoured && time.since(self.told) >= window
    }

    /// A worker that samples whole spans sent something, and was asked for this share.
    pub(crate) fn take_at_its_word(&mut self, share: f64) {
        if share > 0.0 && share < 1.0 {
            self.verdict = Observed::Honoured;
        }
    }

    /// An end was decided of which this share was asked for.
    #[expect(clippy::cast_precision_loss, reason = "a block that long takes centuries")]
    pub(crate) fn end(&mut self, is_alone: bool, share: f64) {
        if share <= 0.0 || share > MAX_SHARE {
            return;
        }
        self.ends += 1;
        self.alone += u64::from(is_alone);
        let expected = self.ends as f64 * (1.0 - share);
        if expected < EXPECTED_ALONE {
            return;
        }
        let is_honoured = self.alone as f64 >= expected / 2.0;
        let verdict = if is_honoured { Observed::Honoured } else { Observed::Ignored };
        *self = Self { verdict, told: self.told, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ends of which every `every`th is alone.
    fn observed(ends: u64, every: u64, share: f64) -> Observed {
        let mut observation = Observation::default();
        (1..=ends).for_each(|end| observation.end(every > 0 && end % every == 0, share));
        observation.verdict()
    }

    #[test]
    fn torn_pairs_are_the_evidence() {
        assert_eq!(observed(127, 2, 0.5), Observed::NoEvidence);
        assert_eq!(observed(128, 2, 0.5), Observed::Honoured);
        assert_eq!(observed(128, 0, 0.5), Observed::Ignored);
        assert_eq!(observed(128, 20, 0.5), Observed::Ignored, "pairs are torn for other reasons too");
        assert_eq!(observed(639, 10, 0.9), Observed::NoEvidence);
        assert_eq!(observed(641, 10, 0.9), Observed::Honoured);
        assert_eq!(
            observed(100_000, 100, 0.99),
            Observed::NoEvidence,
            "it would tear as few as anything does"
        );
    }

    #[test]
    fn what_was_emitted_before_the_worker_knew_stands_for_itself() {
        let (told, window) = (UnixNanos(1_000), Duration::from_nanos(50));
        let mut observation = Observation::beginning(told);
        assert!(!observation.is_thinned(UnixNanos(2_000), window), "nothing was seen");
        observation.take_at_its_word(0.5);
        assert!(!observation.is_thinned(UnixNanos(1_049), window));
        assert!(observation.is_thinned(UnixNanos(1_050), window));
        (0..128).for_each(|end| observation.end(end % 2 == 0, 0.5));
        assert!(!observation.is_thinned(UnixNanos(1_049), window), "a block changes nothing about it");
        observation.told_again(UnixNanos(3_000));
        assert!(!observation.is_thinned(UnixNanos(3_000), window));
    }

    #[test]
    fn a_worker_that_changes_its_ways_is_seen_to() {
        let mut observation = Observation::default();
        (0..128).for_each(|_| observation.end(false, 0.5));
        assert_eq!(observation.verdict(), Observed::Ignored);
        (0..127).for_each(|end| observation.end(end % 2 == 0, 0.5));
        assert_eq!(observation.verdict(), Observed::Ignored);
        observation.end(true, 0.5);
        assert_eq!(observation.verdict(), Observed::Honoured);
    }

    proptest! {
        /// A worker that is asked for all or nothing shows nothing.
        #[test]
        fn without_a_share_there_is_no_evidence(ends in prop::collection::vec(any::<bool>(), 0..400), all: bool) {
            let mut observation = Observation::default();
            ends.iter().for_each(|alone| observation.end(*alone, f64::from(u8::from(all))));
            prop_assert_eq!(observation, Observation::default());
        }
    }
}
