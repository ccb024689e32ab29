//! Keeps one thing that goes wrong again and again from filling the log: the first line at once, then one in a while, with
//! the number of those that were kept back.

use std::time::Duration;

use crate::time::Monotonic;

/// At most one line of a kind in this time.
pub(crate) const QUIET_FOR: Duration = Duration::from_secs(10);

/// Lets one through in a while, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed_until: Option<Monotonic>,
    kept_back: u64,
}

impl Gate {
    /// How many were kept back since the last that went through, if this one goes through.
    pub(crate) fn open(&mut self, now: Monotonic, quiet_for: Duration) -> Option<u64> {
        if self.closed_until.is_some_and(|until| now < until) {
            self.kept_back += 1;
            return None;
        }
        self.closed_until = Some(now.after(quiet_for));
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_one_through_in_a_while_and_counts_the_others() {
        let mut gate = Gate::default();
        let at = |seconds| Monotonic(0).after(Duration::from_secs(seconds));
        let mut open = |seconds| gate.open(at(seconds), QUIET_FOR);
        assert_eq!(open(0), Some(0));
        assert_eq!(open(1), None);
        assert_eq!(open(9), None);
        assert_eq!(open(10), Some(2));
        assert_eq!(open(11), None);
    }
}
