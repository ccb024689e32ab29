//! Spans that are open or held, as far as what belongs to them asks.

use crate::engine::compose::Parent;
use crate::engine::ids::SpanContext;
use crate::engine::intervals::{IntervalKey, OPEN_END};
use crate::engine::memory::TokenHolder;
use crate::engine::nesting::Held;
use crate::engine::state::WorkerState;

/// A span that is not exported yet.
#[derive(Debug)]
pub(crate) struct Unfinished<'a> {
    pub(crate) context: &'a SpanContext,
    pub(crate) parent: Parent,
    /// Where it stands, from when and until when, if its parent is not decided.
    pub(crate) unjudged: Option<(IntervalKey, i64, i64)>,
}

impl WorkerState {
    /// The span that has a token or a place among the intervals, if it is open or held.
    pub(crate) fn unfinished(&self, holder: TokenHolder) -> Option<Unfinished<'_>> {
        match holder {
            TokenHolder::Open(seq) => {
                let span = self.open.get(seq)?;
                let interval = span.interval(seq).filter(|_| !span.is_judged);
                let unjudged = interval.map(|interval| (interval, span.start, OPEN_END));
                Some(Unfinished { context: &span.context, parent: span.parent, unjudged })
            }
            TokenHolder::Held(due, seq) => {
                let Held { finished, place } = self.held.get((due, seq))?;
                let interval = place.interval.filter(|_| !place.is_judged);
                let unjudged = interval.map(|interval| (interval, place.start, place.end));
                Some(Unfinished { context: &finished.context, parent: finished.parent, unjudged })
            }
            TokenHolder::Waiting(_) | TokenHolder::Closed(_) | TokenHolder::Spent { .. } => None,
        }
    }
}
