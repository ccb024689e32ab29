//! The sums in which every event is accounted for.

use serde::{Deserialize, Serialize};

use crate::drops::DropReason;

/// What became of every event that reached the engine.
///
/// Law: `received = paired + rebuilt + incomplete + standalone + pending + sum(dropped)` at every instant, and
/// `spans_made = paired / 2 + rebuilt + incomplete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventLedger {
    /// Every event that reached the engine.
    pub received: u64,
    /// Both halves of every complete span.
    pub paired: u64,
    /// Ends that made a span without their start.
    pub rebuilt: u64,
    /// Starts whose span was closed without their end.
    pub incomplete: u64,
    /// Events that became at least one of: a point, a span event, a log record.
    pub standalone: u64,
    /// Events still without fate.
    pub pending: u64,
    /// By [`DropReason::index`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// Finished spans so far, those held for their parent included.
    pub spans_made: u64,
    /// Points of all collections so far.
    pub points_made: u64,
    /// Log records so far.
    pub records_made: u64,
    /// Outside the identity.
    pub notes: Notes,
}

/// What was noticed along the way; these do not take part in the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Measurements that are not finite, of all events: those that counted otherwise, and those that were dropped.
    pub measurements_not_finite: u64,
    /// Negative increments of counters.
    pub measurements_negative: u64,
    /// Measurements for which there was no series, and no room for another.
    pub measurements_no_room: u64,
    /// Measurements of an instrument that has another unit or kind already.
    pub measurements_conflict: u64,
    /// Measurements that say once more what another of the same event has said: both have one name in Prometheus.
    pub measurements_repeated: u64,
    /// Measurements that went to the series of what is beyond the limits.
    pub measurements_overflowed: u64,
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
        self.points_made += other.points_made;
        self.records_made += other.records_made;
        self.notes.add(&other.notes);
    }

    /// What these sums have beyond another's.
    pub(crate) fn beyond(&self, other: &Self) -> Self {
        let mut rest = *self;
        rest.received = rest.received.saturating_sub(other.received);
        rest.paired = rest.paired.saturating_sub(other.paired);
        rest.rebuilt = rest.rebuilt.saturating_sub(other.rebuilt);
        rest.incomplete = rest.incomplete.saturating_sub(other.incomplete);
        rest.standalone = rest.standalone.saturating_sub(other.standalone);
        rest.pending = rest.pending.saturating_sub(other.pending);
        for (rest, count) in rest.dropped.iter_mut().zip(other.dropped) {
            *rest = rest.saturating_sub(count);
        }
        rest.spans_made = rest.spans_made.saturating_sub(other.spans_made);
        rest.points_made = rest.points_made.saturating_sub(other.points_made);
        rest.records_made = rest.records_made.saturating_sub(other.records_made);
        rest.notes.take_away(&other.notes);
        rest
    }

    /// `events` without fate are lost: what is on disk of them cannot be read.
    pub(crate) fn lose_pending(&mut self, events: u64) {
        self.pending -= events;
        self.dropped[DropReason::Malformed.index()] += events;
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
        self.measurements_negative += other.measurements_negative;
        self.measurements_no_room += other.measurements_no_room;
        self.measurements_conflict += other.measurements_conflict;
        self.measurements_repeated += other.measurements_repeated;
        self.measurements_overflowed += other.measurements_overflowed;
        self.attributes_cut += other.attributes_cut;
        self.judged_early += other.judged_early;
        self.incomplete_timeout += other.incomplete_timeout;
        self.incomplete_worker_lost += other.incomplete_worker_lost;
        self.incomplete_evicted += other.incomplete_evicted;
        self.incomplete_bridge_shutdown += other.incomplete_bridge_shutdown;
    }

    fn take_away(&mut self, other: &Self) {
        self.reordered = self.reordered.saturating_sub(other.reordered);
        self.late_ends = self.late_ends.saturating_sub(other.late_ends);
        self.clock_adjusted = self.clock_adjusted.saturating_sub(other.clock_adjusted);
        self.malformed_identity = self.malformed_identity.saturating_sub(other.malformed_identity);
        self.nesting_gave_up = self.nesting_gave_up.saturating_sub(other.nesting_gave_up);
        self.measurements_not_finite =
            self.measurements_not_finite.saturating_sub(other.measurements_not_finite);
        self.measurements_negative = self.measurements_negative.saturating_sub(other.measurements_negative);
        self.measurements_no_room = self.measurements_no_room.saturating_sub(other.measurements_no_room);
        self.measurements_conflict = self.measurements_conflict.saturating_sub(other.measurements_conflict);
        self.measurements_repeated = self.measurements_repeated.saturating_sub(other.measurements_repeated);
        self.measurements_overflowed =
            self.measurements_overflowed.saturating_sub(other.measurements_overflowed);
        self.attributes_cut = self.attributes_cut.saturating_sub(other.attributes_cut);
        self.judged_early = self.judged_early.saturating_sub(other.judged_early);
        self.incomplete_timeout = self.incomplete_timeout.saturating_sub(other.incomplete_timeout);
        self.incomplete_worker_lost =
            self.incomplete_worker_lost.saturating_sub(other.incomplete_worker_lost);
        self.incomplete_evicted = self.incomplete_evicted.saturating_sub(other.incomplete_evicted);
        self.incomplete_bridge_shutdown =
            self.incomplete_bridge_shutdown.saturating_sub(other.incomplete_bridge_shutdown);
    }
}
