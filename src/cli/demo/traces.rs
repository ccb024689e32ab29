//! Gathers finished spans by trace until a trace is whole.
//!
//! The bridge exports each span as soon as it is decided, children before their parents. A trace is taken for whole when
//! no span of it came for a while and every parent is there. One whose parent does not come (it is still open) is given
//! more patience.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Span;
use crate::engine::span::{SpanId, TraceId};
use crate::time::Monotonic;

/// Traces that are gathered at a time; one more, and the one that is silent for longest is taken for whole.
const MAX_TRACES: usize = 256;
/// Spans of a trace that are kept for showing; more do not fit a screen anyway.
const MAX_SPANS: usize = 200;

/// Traces that are not whole yet.
#[derive(Debug)]
pub(super) struct Traces {
    /// A trace with all its parents is whole after so much silence.
    quiet: Duration,
    /// And one without some of them after so much.
    patience: Duration,
    gathered: BTreeMap<TraceId, Gathered>,
}

/// The spans of one trace.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Gathered {
    pub(super) spans: Vec<Span>,
    /// Spans beyond [`MAX_SPANS`].
    pub(super) left_out: usize,
    latest: Monotonic,
}

impl Traces {
    pub(super) fn new(quiet: Duration, patience: Duration) -> Self {
        Self { quiet, patience, gathered: BTreeMap::new() }
    }

    /// Adds a span that was finished at `now`. Returns a trace that has to make room.
    pub(super) fn add(&mut self, span: Span, now: Monotonic) -> Option<Gathered> {
        let makes_room = self.gathered.len() >= MAX_TRACES && !self.gathered.contains_key(&span.trace_id);
        let pushed_out =
            if makes_room { self.most_silent().and_then(|id| self.gathered.remove(&id)) } else { None };
        let trace = self.gathered.entry(span.trace_id).or_default();
        trace.latest = now;
        if trace.spans.len() < MAX_SPANS {
            trace.spans.push(span);
        } else {
            trace.left_out += 1;
        }
        pushed_out
    }

    /// When the next trace will be whole, as far as is known now.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        self.gathered.values().map(|trace| self.due(trace)).min()
    }

    /// The traces that are whole at `now`, in the order in which they became silent.
    pub(super) fn take_due(&mut self, now: Monotonic) -> Vec<Gathered> {
        let due: Vec<_> =
            self.gathered.iter().filter(|(_, trace)| self.due(trace) <= now).map(|(id, _)| *id).collect();
        in_order(due.iter().filter_map(|id| self.gathered.remove(id)).collect())
    }

    /// All others, whole or not.
    pub(super) fn take_rest(&mut self) -> Vec<Gathered> {
        in_order(std::mem::take(&mut self.gathered).into_values().collect())
    }

    fn most_silent(&self) -> Option<TraceId> {
        self.gathered.iter().min_by_key(|(_, trace)| trace.latest).map(|(id, _)| *id)
    }

    fn due(&self, trace: &Gathered) -> Monotonic {
        trace.latest.after(if trace.has_all_parents() { self.quiet } else { self.patience })
    }
}

fn in_order(mut traces: Vec<Gathered>) -> Vec<Gathered> {
    traces.sort_by_key(|trace| trace.latest);
    traces
}

impl Gathered {
    /// Spans that nobody will add to.
    #[cfg(test)]
    pub(super) fn of(spans: Vec<Span>) -> Self {
        Self { spans, left_out: 0, latest: Monotonic(0) }
    }

    /// Whether the span's parent is one that should be here and is not.
    pub(super) fn lacks_parent(&self, span: &Span) -> bool {
        let is_here = |id: SpanId| self.spans.iter().any(|other| other.span_id == id);
        !span.parent_is_remote && span.parent_span_id.is_some_and(|parent| !is_here(parent))
    }

    fn has_all_parents(&self) -> bool {
        !self.spans.iter().any(|span| self.lacks_parent(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::testing::{child, root};

    const QUIET: Duration = Duration::from_millis(400);
    const PATIENCE: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Monotonic {
        Monotonic(millis * 1_000_000)
    }

    #[test]
    fn a_trace_is_whole_when_no_span_came_for_a_while() {
        let mut traces = Traces::new(QUIET, PATIENCE);
        assert_eq!(traces.add(child(1, 2, 1), at(0)), None);
        assert_eq!(traces.next_due(), Some(at(5000)), "the parent is not there");
        assert_eq!(traces.add(root(1, 1), at(100)), None);
        assert_eq!(traces.next_due(), Some(at(500)));
        assert_eq!(traces.take_due(at(499)), []);
        let whole = traces.take_due(at(500));
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].spans, [child(1, 2, 1), root(1, 1)]);
        assert_eq!((traces.next_due(), traces.take_rest()), (None, vec![]));
    }

    #[test]
    fn a_trace_whose_parent_does_not_come_is_shown_at_last() {
        let mut traces = Traces::new(QUIET, PATIENCE);
        traces.add(child(1, 2, 1), at(0));
        assert_eq!(traces.take_due(at(4999)), []);
        assert_eq!(traces.take_due(at(5000)).len(), 1);
    }

    #[test]
    fn traces_come_in_the_order_in_which_they_became_silent() {
        let mut traces = Traces::new(QUIET, PATIENCE);
        traces.add(root(1, 1), at(7));
        traces.add(root(2, 2), at(3));
        let ids: Vec<_> =
            traces.take_due(at(900)).iter().map(|trace| trace.spans[0].trace_id.0[15]).collect();
        assert_eq!(ids, [2, 1]);
    }

    #[test]
    fn what_is_gathered_has_a_limit() {
        let mut traces = Traces::new(QUIET, PATIENCE);
        for number in 0..MAX_TRACES {
            let time = at(u64::try_from(number).unwrap());
            assert_eq!(traces.add(root(u8::try_from(number).unwrap(), 1), time), None);
        }
        let mut stranger = root(0, 1);
        stranger.trace_id.0[0] = 9;
        let pushed_out = traces.add(stranger.clone(), at(1000)).expect("one more than there is room for");
        assert_eq!(pushed_out.spans, [root(0, 1)]);
        for _ in 0..MAX_SPANS {
            traces.add(stranger.clone(), at(1000));
        }
        let last = traces.take_rest().pop().expect("the latest is the last");
        assert_eq!((last.spans.len(), last.left_out), (MAX_SPANS, 1));
    }
}
