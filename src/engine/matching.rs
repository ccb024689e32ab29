//! Which start an end takes, and which end a start.
//!
//! Halves of one key differ only in their times, so the times decide: an end's estimate of its start, against the open
//! starts, and metadata among those that are near. At once: well inside the tolerance, with nothing else near. When the
//! window closes: among what is left, in order, else the most usual residual, else the only start in reach
//! (`a_lone_start_is_taken_from_ten_milliseconds_away_when_the_window_closes`), and none of those where starts are being
//! lost. Halves whose identities, tokens or monotonic readings differ never pair. How often this is right is in
//! `tests/it/engine/simulation.rs`; the cases are in [`super::pairing`].

use smallvec::SmallVec;

use crate::engine::half::{Tokens, sorted_key};
use crate::engine::memory::ClosedHalf;
use crate::engine::open::{Candidate, MAX_CANDIDATES};
use crate::engine::state::WorkerState;
use crate::engine::tolerance::{EARLY_SLACK_NS, LATE_EARLY_SLACK_NS, LONE_START_NS, Residual};
use crate::engine::waiting::End;

impl WorkerState {
    /// The start that an end takes without waiting: well inside the tolerance, of one mind with the end, and alone in
    /// the neighbourhood.
    pub(crate) fn start_at_once(&mut self, end: &End) -> Option<u64> {
        let estimate = end.estimate()?;
        self.tolerance.count_end();
        let key = end.sorted_key();
        let wide = self.tolerance.wide_ns();
        let mut near = self.open.near(key, estimate);
        let first = near.next()?;
        let second = near.next();
        drop(near);
        let residual = estimate.saturating_sub(first.start);
        let is_crowded = second.is_some_and(|second| estimate.saturating_sub(second.start) <= wide);
        if !self.tolerance.allows_at_once(residual) || is_crowded || !self.may_pair(first, end) {
            return None;
        }
        let (from, to) = (first.start.saturating_sub(EARLY_SLACK_NS), first.start.saturating_add(wide));
        if self.waiting.any_between(key, from, to, None) || !self.agrees(first, end) {
            return None;
        }
        self.learn(residual);
        Some(first.seq)
    }

    /// Learns from the start that is nearest to an end; not from a worker that drops halves by policy.
    pub(crate) fn learn(&mut self, residual: i64) {
        if let Some(residual) = Residual::of(residual).filter(|_| !self.policy.thins()) {
            self.tolerance.learn(residual);
        }
    }

    /// Where both halves have an identity or a pairing token, or else a reading of the monotonic clock, that decides
    /// alone.
    fn may_pair(&self, candidate: Candidate, end: &End) -> bool {
        self.open.get(candidate.seq).is_some_and(|span| end.may_belong_to(span.tokens))
    }

    /// Whether the metadata of start and end contradict each other nowhere.
    fn agrees(&self, candidate: Candidate, end: &End) -> bool {
        self.open.get(candidate.seq).is_some_and(|span| {
            span.attributes.agrees_with(
                span.from_metadata.into(),
                &end.meaning.attributes,
                end.meaning.from_metadata.into(),
            )
        })
    }

    /// The start of `key` that the end takes when its window closes.
    pub(crate) fn best_start(&mut self, end: &End, key: u64, seq: u64) -> Option<u64> {
        let Some(estimate) = end.estimate() else {
            let candidates = self.open.until(key, end.time).filter(|start| self.may_pair(*start, end));
            return candidates.min_by_key(|start| !self.agrees(*start, end)).map(|start| start.seq);
        };
        let residual = |start: Candidate| estimate.saturating_sub(start.start);
        let near: SmallVec<[Candidate; 8]> = self.open.near(key, estimate).collect();
        if key == end.sorted_key() {
            if let Some(nearest) = near.first() {
                self.learn(residual(*nearest));
            }
            if !near.first().is_some_and(|start| self.tolerance.explains(residual(*start))) {
                self.tolerance.count_stray();
            }
        }
        let is_whole = self.tolerance.is_whole(self.waiting.unmatched_len());
        let reach = if is_whole { self.tolerance.wide_ns() } else { self.tolerance.full_ns() };
        let nearest = || {
            near.iter()
                .copied()
                .filter(|start| self.tolerance.allows(residual(*start)) && self.may_pair(*start, end))
                .filter(|start| !self.is_nearer_to_another(key, *start, residual(*start), seq))
                .min_by_key(|start| (!self.agrees(*start, end), self.tolerance.oddity(residual(*start))))
        };
        let late = || self.late_start(end, key, estimate).filter(|_| is_whole);
        let found = self.start_in_order(end, key, seq, estimate, reach).or_else(nearest).or_else(late)?;
        Some(found.seq)
    }

    /// The start of an end that is late: the only one in reach that no other end explains.
    fn late_start(&self, end: &End, key: u64, estimate: i64) -> Option<Candidate> {
        let is_explained = |start: &Candidate| {
            let (from, to) = (
                start.start.saturating_sub(EARLY_SLACK_NS),
                start.start.saturating_add(self.tolerance.wide_ns()),
            );
            self.waiting.any_between(key, from, to, None)
        };
        let from = estimate.saturating_sub(LONE_START_NS);
        let in_reach = self.open.between(key, from, estimate.saturating_add(LATE_EARLY_SLACK_NS));
        let mut left = in_reach.take(MAX_CANDIDATES).filter(|start| !is_explained(start));
        let (Some(lone), None) = (left.next(), left.next()) else { return None };
        let mut others = self.waiting.between(key, lone.start, estimate);
        let has_rival = others
            .by_ref()
            .take(MAX_CANDIDATES)
            .any(|(_, other)| self.open.near(key, other).next().is_none_or(|near| near.seq == lone.seq));
        // Among so many there is no telling.
        let has_rival = has_rival || others.next().is_some();
        (!has_rival && self.may_pair(lone, end)).then_some(lone)
    }

    /// The start that an end takes where as many starts as ends are left in the neighbourhood: the first end the first
    /// start, and so on. Of all ways to pair them off that one has the smallest residuals, taken together.
    fn start_in_order(&self, end: &End, key: u64, seq: u64, estimate: i64, reach: i64) -> Option<Candidate> {
        let mut starts: SmallVec<[Candidate; 2 * MAX_CANDIDATES]> = SmallVec::new();
        let mut ends: SmallVec<[(i64, u64); 2 * MAX_CANDIDATES]> = smallvec::smallvec![(estimate, seq)];
        // Whoever may take one of the starts, and whatever these may take: twice is as far as it goes.
        for _ in 0..2 {
            let (first, last) = (ends.iter().min()?.0, ends.iter().max()?.0);
            let (from, to) = (first.saturating_sub(reach), last.saturating_add(EARLY_SLACK_NS));
            starts = self.open.between(key, from, to).take(starts.inline_size()).collect();
            let (first, last) = (starts.first()?.start, starts.last()?.start);
            let (from, to) = (first.saturating_sub(EARLY_SLACK_NS), last.saturating_add(reach));
            let others = self.waiting.between(key, from, to).map(|(seq, estimate)| (estimate, seq));
            ends = others.take(starts.inline_size()).collect();
            ends.push((estimate, seq));
        }
        if starts.len() != ends.len() || starts.len() > MAX_CANDIDATES {
            return None;
        }
        let rank = ends.iter().filter(|other| **other < (estimate, seq)).count();
        let start = *starts.get(rank)?;
        let is_near = (-EARLY_SLACK_NS..=reach).contains(&estimate.saturating_sub(start.start));
        (is_near && self.may_pair(start, end) && self.agrees(start, end)).then_some(start)
    }

    /// Whether this start is more like another waiting end's own.
    fn is_nearer_to_another(&self, key: u64, start: Candidate, residual: i64, seq: u64) -> bool {
        let distance = self.tolerance.oddity(residual).saturating_sub(1);
        let middle = start.start.saturating_add(self.tolerance.middle_ns());
        let (from, to) = (middle.saturating_sub(distance), middle.saturating_add(distance));
        self.waiting.any_between(key, from, to, Some(seq))
    }

    /// The span, closed as incomplete, that the end belongs to.
    pub(crate) fn best_incomplete(&self, end: &End, key: u64) -> Option<u64> {
        let may_pair = |number: u64| {
            self.closed.get(number).is_some_and(|span| match &span.half {
                ClosedHalf::Incomplete(_) => end.may_belong_to(span.tokens),
                ClosedHalf::Rebuilt { .. } | ClosedHalf::Explained => false,
            })
        };
        let Some(estimate) = end.estimate() else {
            let until = self.closed.incomplete_between(key, i64::MIN, end.time);
            return until.map(|(number, _)| number).find(|number| may_pair(*number));
        };
        let from = estimate.saturating_sub(LONE_START_NS);
        let to = estimate.saturating_add(EARLY_SLACK_NS);
        let near = || self.closed.incomplete_between(key, from, to).filter(|(number, _)| may_pair(*number));
        near()
            .filter(|(_, start)| self.tolerance.allows(estimate.saturating_sub(*start)))
            .min_by_key(|(_, start)| self.tolerance.oddity(estimate.saturating_sub(*start)))
            .or_else(|| {
                let (number, start) = near().next()?;
                let is_lone = self.closed.is_lone_incomplete(key)
                    && self.tolerance.is_whole(self.waiting.unmatched_len());
                is_lone.then_some((number, start))
            })
            .map(|(number, _)| number)
    }

    /// The waiting end that a start takes on arrival, by the rule of [`Self::start_at_once`].
    pub(crate) fn end_at_once(&self, seq: u64) -> Option<u64> {
        let span = self.open.get(seq)?;
        let key = span.sorted_key();
        let wide = self.tolerance.wide_ns();
        let (from, to) = (span.start.saturating_sub(EARLY_SLACK_NS), span.start.saturating_add(wide));
        let mut near = self.waiting.between(key, from, to);
        let (Some((waiting, estimate)), None) = (near.next(), near.next()) else { return None };
        let others = self.open.near(key, estimate).filter(|other| other.seq != seq);
        let is_crowded = others.into_iter().any(|other| estimate.saturating_sub(other.start) <= wide);
        let candidate = Candidate { seq, start: span.start };
        let end = self.waiting.get(waiting)?;
        let residual = estimate.saturating_sub(span.start);
        let is_certain = !is_crowded
            && self.tolerance.allows_at_once(residual)
            && self.may_pair(candidate, end)
            && self.agrees(candidate, end);
        is_certain.then_some(waiting)
    }

    /// A rebuilt end that this start belongs to, by the pairing tolerance only.
    pub(crate) fn rebuilt_end_explaining(&self, key: u64, tokens: Tokens, start: i64) -> Option<u64> {
        let from = start.saturating_sub(EARLY_SLACK_NS);
        let to = start.saturating_add(self.tolerance.full_ns());
        [false, true].into_iter().find_map(|sort| {
            let ends = self.closed.rebuilt_between(sorted_key(key, sort), from, to);
            ends.filter(|(number, _)| {
                self.closed.get(*number).is_some_and(|end| !end.tokens.contradict(tokens))
            })
            .min_by_key(|(_, estimate)| estimate.saturating_sub(start).saturating_abs())
            .map(|(number, _)| number)
        })
    }
}
