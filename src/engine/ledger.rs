//! The sums in which every event is accounted for.

use crate::drops::DropReason;

/// What became of every event that reached the engine.
///
/// Law: `received = paired + rebuilt + incomplete + standalone + pending + sum(dropped)` at every instant, and
/// `spans_made = paired / 2 + rebuilt + incomplete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventLedger {
    /// Every event that reached the engine.
    pub received: u64,
    /// Both halves of every complete span.
    pub paired: u64,
    /// Ends that made a span without their start.
    pub rebuilt: u64,
    /// Starts whose span was closed without their end.
    pub incomplete: u64,
    /// Events that became a span event (and, one day, points or records).
    pub standalone: u64,
    /// Events still without fate.
    pub pending: u64,
    /// By [`DropReason::index`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// Finished spans so far, those held for their parent included.
    pub spans_made: u64,
    /// Outside the identity.
    pub notes: Notes,
}

/// What was noticed along the way; these do not take part in the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notes {
    /// Pairs whose end arrived before their start.
    pub reordered: u64,
    /// Ends of spans that had been closed as incomplete.
    pub late_ends: u64,
    /// Spans whose times had to be moved to make sense.
    pub clock_adjusted: u64,
    /// Field 16 of a wrong length, or all zero.
    pub malformed_identity: u64,
    /// Spans without parent because more than 64 candidates stood in question.
    pub nesting_gave_up: u64,
    /// Measurements that are not finite, of events that counted otherwise.
    pub measurements_not_finite: u64,
    /// Attributes cut or left out by a limit.
    pub attributes_cut: u64,
    /// Spans held for their parent that were judged early, and waiting ends decided early, because of a limit.
    pub judged_early: u64,
    /// Incomplete spans by reason.
    pub incomplete_timeout: u64,
    /// See `incomplete_timeout`.
    pub incomplete_worker_lost: u64,
    /// See `incomplete_timeout`.
    pub incomplete_evicted: u64,
    /// See `incomplete_timeout`.
    pub incomplete_bridge_shutdown: u64,
}

impl EventLedger {
    /// Adds another ledger's sums.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.paired += other.paired;
        self.rebuilt += other.rebuilt;
        self.incomplete += other.incomplete;
        self.standalone += other.standalone;
        self.pending += other.pending;
        for (sum, count) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += count;
        }
        self.spans_made += other.spans_made;
        self.notes.add(&other.notes);
    }

    /// All drops.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether the sums add up.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.received
            == self.paired
                + self.rebuilt
                + self.incomplete
                + self.standalone
                + self.pending
                + self.dropped_total()
            && self.spans_made == self.paired / 2 + self.rebuilt + self.incomplete
    }
}

impl Notes {
    fn add(&mut self, other: &Self) {
        self.reordered += other.reordered;
        self.late_ends += other.late_ends;
        self.clock_adjusted += other.clock_adjusted;
        self.malformed_identity += other.malformed_identity;
        self.nesting_gave_up += other.nesting_gave_up;
        self.measurements_not_finite += other.measurements_not_finite;
        self.attributes_cut += other.attributes_cut;
        self.judged_early += other.judged_early;
        self.incomplete_timeout += other.incomplete_timeout;
        self.incomplete_worker_lost += other.incomplete_worker_lost;
        self.incomplete_evicted += other.incomplete_evicted;
        self.incomplete_bridge_shutdown += other.incomplete_bridge_shutdown;
    }
}
