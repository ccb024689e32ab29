//! Which spans are around an interval: those of its group, of other operations, in event time.

use smallvec::SmallVec;

use crate::engine::half::sorted_key;
use crate::engine::intervals::IntervalKey;
use crate::engine::nesting::{Chance, Relative, Standing};
use crate::engine::state::WorkerState;
use crate::time::Monotonic;

/// Spans that may stand in question as a parent, those that start latest; where none of them is, there is no parent.
const MAX_PARENT_CANDIDATES: usize = 64;

/// Operations of a group that are searched for a parent; a request has a few.
const MAX_OPERATIONS: usize = 256;

/// The answer to who contains an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// Nobody.
    None,
    /// This span.
    Is(IntervalKey),
    /// An undecided end may.
    UnknownUntil(Monotonic),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) key: IntervalKey,
    end: i64,
    pub(super) standing: Standing,
}

impl Candidate {
    /// Outer spans are less: an earlier start, then a later end, then any fixed order.
    fn order(&self) -> (i64, std::cmp::Reverse<i64>, u64, u64) {
        (self.key.start, std::cmp::Reverse(self.end), self.key.operation, self.key.seq)
    }

    /// Whether this candidate, the outer of the two, contains the other.
    fn contains(&self, inner: &Self) -> bool {
        self.key.operation != inner.key.operation && self.end >= inner.end
    }
}

impl WorkerState {
    /// The same; `None` if too many spans stand in question.
    pub(super) fn find_container(
        &self,
        own: IntervalKey,
        start: i64,
        end: i64,
        chance: Chance,
    ) -> Option<Container> {
        let (mut candidates, is_complete) = self.candidates(own, start, end)?;
        if chance.is_last {
            candidates.retain(|candidate| !matches!(candidate.standing, Standing::Undecided { .. }));
        }
        let latest_open = candidates.iter().filter(|candidate| candidate.standing == Standing::Open);
        let latest_open = latest_open.map(|candidate| candidate.key.rank()).max();
        let undecided = candidates.iter().filter_map(|candidate| match candidate.standing {
            Standing::Undecided { until } => Some(until),
            Standing::Open => self.may_end_until(candidate.key.seq),
            // The end of an open span within this one may still be on its way.
            Standing::Held { due } if due > chance.now && latest_open > Some(candidate.key.rank()) => {
                Some(due)
            }
            Standing::Held { .. } | Standing::Closed | Standing::Exported => None,
        });
        if let Some(until) = undecided.max().filter(|_| !chance.is_last) {
            return Some(Container::UnknownUntil(until));
        }
        candidates.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.order()));
        let parent = (0..candidates.len()).find(|&at| {
            let (inner, rest) = candidates.split_at(at);
            let Some((candidate, outer)) = rest.split_first() else { return false };
            inner.iter().all(|inner| candidate.contains(inner))
                && outer.iter().all(|outer| outer.contains(candidate))
        });
        match parent {
            Some(at) => Some(Container::Is(candidates[at].key)),
            None => is_complete.then_some(Container::None),
        }
    }

    /// When it is decided whether a waiting end takes this open span; `None` if none can.
    fn may_end_until(&self, seq: u64) -> Option<Monotonic> {
        let span = self.open.get(seq)?;
        let sorts = [false, true].map(|sort| sorted_key(span.key, sort));
        sorts.into_iter().filter_map(|key| self.waiting.may_end_until(key, span.start)).max()
    }

    /// The spans that contain the interval, and whether those are all: of more than [`MAX_PARENT_CANDIDATES`] the ones that
    /// start latest. `None` if there are too many operations to look at.
    pub(super) fn candidates(
        &self,
        own: IntervalKey,
        start: i64,
        end: i64,
    ) -> Option<(SmallVec<[Candidate; 8]>, bool)> {
        // Who ends later is the outer one, else who starts earlier, else a fixed order says so: of two spans never both,
        // whatever the tolerance of their starts.
        let is_outer = |key: &IntervalKey, until: i64| until > end || key.rank() < own.rank();
        if let Some(few) = self.intervals.few(own.group) {
            let contains = |key: &IntervalKey, until: i64| {
                key.operation != own.operation && key.start <= start && until >= end && is_outer(key, until)
            };
            let found = few.filter(|(key, until, _)| contains(key, *until));
            let found =
                found.map(|(key, end, relative)| Candidate { key: *key, end, standing: relative.standing });
            return Some((found.collect(), true));
        }
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
        let mut is_complete = true;
        let mut from = Some(0);
        for _ in 0..MAX_OPERATIONS {
            let Some(operation) = from.and_then(|from| self.intervals.operation_from(own.group, from)) else {
                return Some((candidates, is_complete));
            };
            from = operation.checked_add(1);
            if operation == own.operation {
                continue;
            }
            let mut left = MAX_PARENT_CANDIDATES;
            self.intervals.containing(own.group, operation, start, end, &mut |key, until, relative| {
                if is_outer(key, until) {
                    candidates.push(Candidate { key: *key, end: until, standing: relative.standing });
                    left -= 1;
                }
                left > 0
            });
            if candidates.len() > MAX_PARENT_CANDIDATES {
                is_complete = false;
                candidates.sort_unstable_by_key(|candidate| std::cmp::Reverse(candidate.key.rank()));
                candidates.truncate(MAX_PARENT_CANDIDATES);
            }
        }
        None
    }

    /// The innermost span that is open or held at an instant, among the latest of each operation.
    pub(crate) fn innermost(&self, group: u64, time: i64) -> Option<(IntervalKey, Standing)> {
        let takes_events =
            |relative: &Relative| matches!(relative.standing, Standing::Open | Standing::Held { .. });
        let innermost = self.latest_around(group, time, time, takes_events);
        innermost.map(|(key, _, standing)| (key, standing))
    }

    /// The span of a group that starts latest before an instant, else the latest of all, of those whose context is known;
    /// with its end.
    pub(crate) fn latest(&self, group: u64, time: i64) -> Option<(IntervalKey, i64, Standing)> {
        let is_known =
            |relative: &Relative| relative.context.is_some() || relative.standing == Standing::Open;
        let latest = |until| self.latest_around(group, until, i64::MIN, is_known);
        latest(time).or_else(|| latest(i64::MAX))
    }

    /// Of the latest spans of each operation that contain this interval, the one that starts latest of those wanted.
    fn latest_around(
        &self,
        group: u64,
        start: i64,
        end: i64,
        is_wanted: impl Fn(&Relative) -> bool,
    ) -> Option<(IntervalKey, i64, Standing)> {
        let mut latest: Option<(IntervalKey, i64, Standing)> = None;
        let mut from = 0;
        for _ in 0..MAX_OPERATIONS {
            let Some(operation) = self.intervals.operation_from(group, from) else { break };
            let mut left = MAX_PARENT_CANDIDATES;
            self.intervals.containing(group, operation, start, end, &mut |key, until, relative| {
                left -= 1;
                let found = is_wanted(relative);
                if found && latest.is_none_or(|(best, ..)| (best.start, best.seq) < (key.start, key.seq)) {
                    latest = Some((*key, until, relative.standing));
                }
                !found && left > 0
            });
            let Some(next) = operation.checked_add(1) else { break };
            from = next;
        }
        latest
    }
}
