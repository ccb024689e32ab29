//! The largest request that the peer was seen to take.
//!
//! A peer with a limit of its own refuses each request beyond it. What it refused once halves the bound for whatever is sent
//! later, so a limit costs a few refusals and not one a batch. The bound grows back slowly, since a limit may be lifted: one
//! refusal in [`REGROW_AFTER`] is the price.

use std::time::Duration;

use crate::time::Monotonic;

/// The bound is not lowered below this: requests of so few items would cost more than what they carry. A single request
/// is cut further all the same.
pub const MIN_LEARNED_BYTES: usize = 16 << 10;

/// After so long without a refusal the bound doubles.
pub const REGROW_AFTER: Duration = Duration::from_secs(60);

/// The bound.
#[derive(Debug)]
pub(super) struct PeerLimit {
    /// As configured.
    most: usize,
    learned: usize,
    /// When it was lowered or grew.
    changed_at: Monotonic,
}

impl PeerLimit {
    pub(super) fn new(most: usize) -> Self {
        Self { most, learned: most, changed_at: Monotonic::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.learned
    }

    /// Notes that the peer refused a request of `size_bytes` for its size.
    pub(super) fn note_refused(&mut self, size_bytes: usize, now: Monotonic) {
        self.learned = self.learned.min((size_bytes / 2).max(MIN_LEARNED_BYTES)).min(self.most);
        self.changed_at = now;
    }

    /// Lets the bound grow back.
    pub(super) fn advance(&mut self, now: Monotonic) {
        if self.learned < self.most && self.changed_at.after(REGROW_AFTER) <= now {
            self.learned = self.learned.saturating_mul(2).min(self.most);
            self.changed_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_falls_at_once_and_grows_back_slowly() {
        let at = |seconds| Monotonic(0).after(Duration::from_secs(seconds));
        let mut limit = PeerLimit::new(1 << 20);
        limit.note_refused(1 << 20, at(0));
        limit.note_refused(1 << 19, at(1));
        assert_eq!(limit.bytes(), 1 << 18);
        limit.note_refused(1000, at(2));
        assert_eq!(limit.bytes(), MIN_LEARNED_BYTES);
        limit.advance(at(61));
        assert_eq!(limit.bytes(), MIN_LEARNED_BYTES);
        for seconds in (62..2000).step_by(60) {
            limit.advance(at(seconds));
        }
        assert_eq!(limit.bytes(), 1 << 20);
    }

    #[test]
    fn a_small_configured_bound_is_never_raised() {
        let mut limit = PeerLimit::new(1000);
        limit.note_refused(900, Monotonic(0));
        assert_eq!(limit.bytes(), 1000);
    }
}
