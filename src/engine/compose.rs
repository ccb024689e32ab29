//! From what the halves said to a valid span: merged attributes, times that make sense, status, exception, marks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::clock::{MAX_CLOCK_DISTANCE_NS, is_credible};
use crate::engine::ids::SpanContext;
use crate::engine::metadata::{Exception, Meaning, Outcome};
use crate::engine::naming::Name;
use crate::engine::settings::Limits;
use crate::engine::span::{Link, Span, SpanEvent, SpanId, SpanKind, Status};
use crate::time::{Now, UnixNanos};
use crate::worker::Source;

/// Times and duration may disagree by this much; beyond it the times win (a clock step, a duration in another unit).
const DISAGREEMENT_NS: i64 = 1_000_000_000;

/// The name of an exception as a span event. No event of a worker has it: theirs begin with the prefix.
pub(crate) const EXCEPTION: &str = "exception";

/// A span with everything but what its judgement decides.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Finished {
    pub(crate) name: Arc<Name>,
    pub(crate) context: SpanContext,
    pub(crate) parent: Parent,
    pub(crate) has_correlation: bool,
    pub(crate) kind: Option<SpanKind>,
    pub(crate) start: UnixNanos,
    pub(crate) end: UnixNanos,
    pub(crate) attributes: Attributes,
    pub(crate) events: Vec<SpanEvent>,
    pub(crate) dropped_events: u32,
    pub(crate) links: Vec<Link>,
    /// It was made of an end that does not say how long it took.
    pub(crate) lacks_start: bool,
    pub(crate) status: Status,
}

/// Where a span hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Parent {
    /// Nowhere, as far as is known.
    Root,
    /// At a span of another process, by `traceparent`.
    Remote(SpanId),
    /// Where its explicit identity says.
    Explicit(SpanId),
    /// At the span that contains it.
    Inferred(SpanId),
}

impl Parent {
    pub(crate) const fn span_id(self) -> Option<SpanId> {
        match self {
            Self::Root => None,
            Self::Remote(id) | Self::Explicit(id) | Self::Inferred(id) => Some(id),
        }
    }
}

impl Finished {
    /// What an end alone says.
    pub(crate) fn of_end(
        name: Arc<Name>,
        meaning: Meaning,
        has_correlation: bool,
        context: SpanContext,
        parent: Parent,
        times: Times,
    ) -> Self {
        let mut finished = Self {
            name,
            context,
            parent,
            has_correlation,
            kind: meaning.kind,
            start: times.start,
            end: times.end,
            attributes: meaning.attributes,
            events: Vec::new(),
            dropped_events: 0,
            links: Vec::new(),
            lacks_start: false,
            status: Status::Unset,
        };
        finished.apply(meaning.outcome, times.end);
        finished
    }

    pub(crate) fn mark(&mut self, key: &str, value: &str) {
        self.attributes.set(key, AttributeValue::Text(value));
    }

    /// Puts in what an end said: status, `error.type`, the exception as a span event at `time`.
    pub(crate) fn apply(&mut self, outcome: Outcome, time: UnixNanos) {
        if let Some(error_type) = outcome.error_type {
            self.mark("error.type", &error_type);
        }
        self.status = outcome.status.unwrap_or(Status::Unset);
        if let Some(exception) = outcome.exception {
            self.events.push(exception_event(&exception, time));
        }
    }

    /// The span, and how many attributes the limits left out or cut.
    pub(crate) fn into_span(mut self, source: Arc<Source>, limits: &Limits) -> (Span, u64) {
        let elixir = Arc::clone(&self.name.elixir);
        self.mark("snakepit.event", &elixir);
        if matches!(self.parent, Parent::Inferred(_)) {
            self.mark("snakepit.parent", "inferred");
        }
        let kind = self.kind.unwrap_or(match self.parent {
            Parent::Remote(_) => SpanKind::Server,
            Parent::Root if self.has_correlation => SpanKind::Server,
            Parent::Root | Parent::Explicit(_) | Parent::Inferred(_) => SpanKind::Internal,
        });
        let (dropped_links, cut) = self.keep_within(limits);
        self.events.sort_by_key(|event| event.time);
        let span = Span {
            source,
            trace_id: self.context.trace_id,
            span_id: self.context.span_id,
            parent_span_id: self.parent.span_id(),
            parent_is_remote: matches!(self.parent, Parent::Remote(_)),
            trace_flags: self.context.flags.defined(),
            sampling_is_decided: self.context.flags.is_decided(),
            trace_state: self.context.state,
            name: Arc::clone(&self.name.title),
            kind,
            start: self.start,
            end: self.end,
            attributes: self.attributes,
            events: self.events,
            dropped_events: self.dropped_events,
            links: self.links,
            dropped_links,
            status: self.status,
        };
        (span, cut)
    }

    /// Leaves out what is beyond the limits, the marks of the engine included: what came first stays. Returns how many
    /// links were left out, and how many attributes were or were cut.
    fn keep_within(&mut self, limits: &Limits) -> (u32, u64) {
        let beyond = |count: usize, max: usize| u32::try_from(count.saturating_sub(max)).unwrap_or(u32::MAX);
        let chars = limits.max_attribute_value_chars;
        let mut cut = u64::from(self.attributes.keep_within(limits.max_attributes, chars));
        let too_many = beyond(self.events.len(), limits.max_span_events);
        self.dropped_events = self.dropped_events.saturating_add(too_many);
        self.events.truncate(limits.max_span_events);
        for event in &mut self.events {
            cut += u64::from(event.attributes.keep_within(limits.max_event_attributes, chars));
        }
        let dropped_links = beyond(self.links.len(), limits.max_span_links);
        self.links.truncate(limits.max_span_links);
        for link in &mut self.links {
            cut += u64::from(link.attributes.keep_within(limits.max_link_attributes, chars));
        }
        (dropped_links, cut)
    }
}

fn exception_event(exception: &Exception, time: UnixNanos) -> SpanEvent {
    let mut attributes = Attributes::default();
    let parts = [
        ("exception.type", &exception.type_name),
        ("exception.message", &exception.message),
        ("exception.stacktrace", &exception.stacktrace),
    ];
    for (key, part) in parts {
        if let Some(text) = part {
            attributes.set(key, AttributeValue::Text(text));
        }
    }
    SpanEvent { name: Arc::from(EXCEPTION), time, attributes }
}

/// The times of a span, and whether they had to be moved to make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) start: UnixNanos,
    pub(crate) end: UnixNanos,
    pub(crate) adjusted: bool,
}

/// Of a start and its end: from the start's own time, for as long as the emitter measured.
pub(crate) fn paired_times(start: i64, end: i64, duration: Option<i64>, now: Now) -> Times {
    let usable = duration.and_then(sane);
    let Some(length) = usable else { return valid(start, end, None, usable != duration, now) };
    let measured = start.saturating_add(length);
    let agree = measured.saturating_sub(end).saturating_abs() <= DISAGREEMENT_NS;
    valid(start, if agree { measured } else { end }, usable, !agree, now)
}

/// Of an end alone; without a usable duration the span has no length.
pub(crate) fn rebuilt_times(end: i64, duration: Option<i64>, now: Now) -> Times {
    let usable = duration.and_then(sane);
    let start = usable.map_or(end, |duration| end.saturating_sub(duration));
    valid(start, end, usable, usable != duration, now)
}

/// A duration that a span can have: not negative, at most 7 days.
fn sane(duration: i64) -> Option<i64> {
    (0..=MAX_CLOCK_DISTANCE_NS).contains(&duration).then_some(duration)
}

/// Replaces times that cannot be meant by what the others say, else by the arrival, and puts the end after the start.
pub(crate) fn valid(start: i64, end: i64, duration: Option<i64>, adjusted: bool, now: Now) -> Times {
    let (start, end) = (UnixNanos(start), UnixNanos(end));
    let length = duration.unwrap_or(0);
    let (from, to) = match (is_credible(start, now), is_credible(end, now)) {
        (true, true) => (start, end),
        (true, false) => (start, start.saturating_add(length)),
        (false, true) => (end.saturating_sub(length), end),
        (false, false) => (now.wall.saturating_sub(length), now.wall),
    };
    let moved = (from, to) != (start, end) || to < from;
    let to = to.max(from.saturating_add(1));
    Times { start: from, end: to, adjusted: adjusted || moved }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Monotonic;

    const NOW: Now = Now { mono: Monotonic(0), wall: UnixNanos(1_790_000_000_000_000_000) };

    fn times(start: i64, end: i64, adjusted: bool) -> Times {
        Times { start: UnixNanos(start), end: UnixNanos(end), adjusted }
    }

    #[test]
    fn a_pair_lasts_as_long_as_its_emitter_measured() {
        let start = NOW.wall.0;
        assert_eq!(paired_times(start, start + 2_000, Some(1_500), NOW), times(start, start + 1_500, false));
        assert_eq!(paired_times(start, start + 2_000, None, NOW), times(start, start + 2_000, false));
    }

    #[test]
    fn the_times_win_where_the_duration_disagrees_by_more_than_a_second() {
        let start = NOW.wall.0;
        let in_microseconds = 5_000_000;
        let end = start + 5_000_000_000;
        assert_eq!(paired_times(start, end, Some(in_microseconds), NOW), times(start, end, true));
    }

    #[test]
    fn the_times_win_over_a_duration_that_cannot_be_meant() {
        let start = NOW.wall.0;
        assert_eq!(paired_times(start, start + 2_000, Some(-5), NOW), times(start, start + 2_000, true));
    }

    #[test]
    fn an_end_alone_spans_its_duration() {
        let end = NOW.wall.0;
        assert_eq!(rebuilt_times(end, Some(700), NOW), times(end - 700, end, false));
        assert_eq!(rebuilt_times(end, None, NOW), times(end, end + 1, false));
        for nonsense in [-1, i64::MIN, i64::MAX] {
            assert_eq!(rebuilt_times(end, Some(nonsense), NOW), times(end, end + 1, true), "{nonsense}");
        }
    }

    proptest! {
        /// Whatever the halves say, the end is after the start, both are after the epoch, and neither is further than
        /// 14 days from the arrival.
        #[test]
        fn every_span_is_valid(start: i64, end: i64, duration: Option<i64>) {
            for times in [paired_times(start, end, duration, NOW), rebuilt_times(end, duration, NOW)] {
                prop_assert!(times.end > times.start && times.start.0 > 0, "{times:?}");
                for time in [times.start, times.end] {
                    prop_assert!(time.since(NOW.wall).abs() <= 2 * MAX_CLOCK_DISTANCE_NS + 1, "{times:?}");
                }
            }
        }
    }
}
