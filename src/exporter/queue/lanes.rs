//! Which of the batches that may be sent goes next, so that none waits for another's sake.
//!
//! | lane | holds | order |
//! |---|---|---|
//! | live | what was filled a moment ago and never failed | oldest first |
//! | backlog | what an outage left behind | oldest first |
//! | suspects | what failed by itself, while the peer may be well | oldest first |
//!
//! Live batches go first; but as long as there is a backlog, [`BACKLOG_WAYS`] of the ways are never theirs, and
//! [`LIVE_WAYS`] are never the others', even while nothing live waits: the next live batch comes soon. Suspects have at most
//! [`SUSPECT_WAYS`], since each may hang until its time-out. Where there is one way only, the lanes take turns.

use std::collections::BTreeSet;
use std::time::Duration;

use super::BatchId;

/// A batch is live for so long after it was filled; the batch after it is usually filled by then.
pub const LIVE_FOR: Duration = Duration::from_secs(10);
/// Ways that live batches leave to the backlog.
pub const BACKLOG_WAYS: usize = 1;
/// Ways that the backlog and the suspects leave to live batches.
pub const LIVE_WAYS: usize = 1;
/// Ways that suspects take at most.
pub const SUSPECT_WAYS: usize = 1;

/// A lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lane {
    /// New.
    #[default]
    Live,
    /// Left behind.
    Backlog,
    /// Failed by itself.
    Suspect,
}

/// The lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    live: BTreeSet<BatchId>,
    backlog: BTreeSet<BatchId>,
    suspects: BTreeSet<BatchId>,
    flying: [usize; 3],
    /// Who had the last turn.
    last: Lane,
}

impl Lanes {
    pub(super) fn insert(&mut self, lane: Lane, id: BatchId) {
        self.of_mut(lane).insert(id);
    }

    pub(super) fn remove(&mut self, lane: Lane, id: BatchId) {
        self.of_mut(lane).remove(&id);
    }

    pub(super) fn of(&self, lane: Lane) -> &BTreeSet<BatchId> {
        match lane {
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
            Lane::Suspect => &self.suspects,
        }
    }

    /// Notes that a batch of `lane` is on its way.
    pub(super) fn took_off(&mut self, lane: Lane) {
        self.flying[lane as usize] += 1;
        self.last = lane;
    }

    /// Notes that a batch of `lane` is back.
    pub(super) fn landed(&mut self, lane: Lane) {
        self.flying[lane as usize] -= 1;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flying.iter().sum()
    }

    /// The batch whose turn it is, with `ways` in all. `reserves`: ways are kept for live batches that do not wait yet.
    /// A batch of the backlog does not overtake the older one that is being loaded, `loading`.
    pub(super) fn choose(
        &self,
        ways: usize,
        reserves: bool,
        loading: Option<BatchId>,
    ) -> Option<(BatchId, Lane)> {
        if self.in_flight() >= ways {
            return None;
        }
        let first = |lane: Lane| {
            let id = *self.of(lane).first()?;
            let overtakes = lane == Lane::Backlog && loading.is_some_and(|loading| loading < id);
            (!overtakes && self.may_fly(lane, ways, reserves)).then_some((id, lane))
        };
        self.turns(ways).into_iter().find_map(first)
    }

    fn may_fly(&self, lane: Lane, ways: usize, reserves: bool) -> bool {
        let [live, backlog, suspects] = self.flying;
        if lane == Lane::Suspect && suspects >= SUSPECT_WAYS {
            return false;
        }
        if ways == 1 {
            return true;
        }
        let others_wait = !self.backlog.is_empty() || !self.suspects.is_empty();
        match lane {
            Lane::Live => !others_wait || live < ways - BACKLOG_WAYS,
            Lane::Backlog | Lane::Suspect => !reserves || backlog + suspects < ways - LIVE_WAYS,
        }
    }

    fn turns(&self, ways: usize) -> [Lane; 3] {
        use Lane::{Backlog, Live, Suspect};
        match (ways, self.last) {
            (1, Live) => [Backlog, Suspect, Live],
            (1, Backlog) => [Suspect, Live, Backlog],
            (_, Live | Backlog) => [Live, Suspect, Backlog],
            (_, Suspect) => [Live, Backlog, Suspect],
        }
    }

    fn of_mut(&mut self, lane: Lane) -> &mut BTreeSet<BatchId> {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backlog => &mut self.backlog,
            Lane::Suspect => &mut self.suspects,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(live: u64, backlog: u64, suspects: u64) -> Lanes {
        let mut lanes = Lanes::default();
        (0..suspects).for_each(|id| lanes.insert(Lane::Suspect, BatchId(id)));
        (0..backlog).for_each(|id| lanes.insert(Lane::Backlog, BatchId(100 + id)));
        (0..live).for_each(|id| lanes.insert(Lane::Live, BatchId(200 + id)));
        lanes
    }

    fn fly(lanes: &mut Lanes, ways: usize) -> Vec<Lane> {
        let mut flown = Vec::new();
        while let Some((id, lane)) = lanes.choose(ways, true, None) {
            lanes.remove(lane, id);
            lanes.took_off(lane);
            flown.push(lane);
        }
        flown
    }

    #[test]
    fn every_lane_keeps_a_way() {
        use Lane::{Backlog, Live, Suspect};
        assert_eq!(fly(&mut lanes(9, 0, 0), 4), [Live; 4]);
        assert_eq!(fly(&mut lanes(0, 9, 0), 4), [Backlog; 3]);
        assert_eq!(fly(&mut lanes(0, 0, 9), 4), [Suspect]);
        assert_eq!(fly(&mut lanes(9, 9, 0), 4), [Live, Live, Live, Backlog]);
        assert_eq!(fly(&mut lanes(1, 9, 9), 4), [Live, Suspect, Backlog, Backlog]);
        assert_eq!(fly(&mut lanes(9, 9, 9), 2), [Live, Suspect]);
    }

    #[test]
    fn one_way_is_taken_in_turns() {
        let mut lanes = lanes(9, 9, 9);
        let mut flown = Vec::new();
        for _ in 0..6 {
            flown.extend(fly(&mut lanes, 1));
            lanes.landed(*flown.last().unwrap());
        }
        use Lane::{Backlog, Live, Suspect};
        assert_eq!(flown, [Backlog, Suspect, Live, Backlog, Suspect, Live]);
    }

    #[test]
    fn a_suspect_does_not_take_the_backlogs_only_way_twice_in_a_row() {
        let mut lanes = lanes(0, 9, 9);
        let mut flown = Vec::new();
        for _ in 0..4 {
            flown.extend(fly(&mut lanes, 2));
            lanes.landed(*flown.last().unwrap());
        }
        use Lane::{Backlog, Suspect};
        assert_eq!(flown, [Suspect, Backlog, Suspect, Backlog]);
    }

    #[test]
    fn the_backlog_waits_for_the_older_batch_that_is_being_loaded() {
        let lanes = lanes(0, 2, 0);
        assert_eq!(lanes.choose(4, true, Some(BatchId(99))), None);
        assert_eq!(lanes.choose(4, true, Some(BatchId(150))), Some((BatchId(100), Lane::Backlog)));
    }
}
