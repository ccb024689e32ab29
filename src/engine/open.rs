//! The starts of one worker that have no end yet, and every way to find one.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::attributes::Attributes;
use crate::engine::changes::Changes;
use crate::engine::compose::Parent;
use crate::engine::half::{Tokens, sorted_key};
use crate::engine::ids::SpanContext;
use crate::engine::intervals::IntervalKey;
use crate::engine::naming::Name;
use crate::engine::span::{SpanEvent, SpanKind};
use crate::engine::steps;
use crate::engine::tolerance::{EARLY_SLACK_NS, LONE_START_NS};
use crate::time::Monotonic;

/// Candidates among which metadata may decide; more than this many twins within a tolerance are beyond telling apart.
pub(crate) const MAX_CANDIDATES: usize = 8;

/// What the tables below cost for each open span, beside the span itself.
const INDEX_BYTES: usize = 256;

/// A start that waits for its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OpenSpan {
    pub(crate) name: Arc<Name>,
    /// Without the sort.
    pub(crate) key: u64,
    pub(crate) fingerprint: u64,
    /// The start's own time.
    pub(crate) start: i64,
    pub(crate) arrived: Monotonic,
    pub(crate) deadline: Monotonic,
    pub(crate) tokens: Tokens,
    pub(crate) is_explicit: bool,
    pub(crate) context: SpanContext,
    pub(crate) parent: Parent,
    /// The parent is decided.
    pub(crate) is_judged: bool,
    pub(crate) has_children: bool,
    /// Its end may have been sampled away in the worker.
    pub(crate) is_uncertain: bool,
    pub(crate) has_correlation: bool,
    pub(crate) group: Option<NonZeroU64>,
    /// Of its derived id, for the ordinals.
    pub(crate) base: Option<NonZeroU64>,
    pub(crate) kind: Option<SpanKind>,
    pub(crate) attributes: Attributes,
    pub(crate) from_metadata: u16,
    /// What happened in it so far; nothing in most.
    pub(crate) events: Option<Box<OpenEvents>>,
}

/// The events of an open span.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct OpenEvents {
    pub(crate) list: Vec<SpanEvent>,
    /// Events that the limit kept out.
    pub(crate) dropped: u32,
}

impl OpenSpan {
    pub(crate) fn sorted_key(&self) -> u64 {
        sorted_key(self.key, self.is_explicit)
    }

    /// Where the span stands among the intervals, if it can nest.
    pub(crate) fn interval(&self, seq: u64) -> Option<IntervalKey> {
        let group = self.group?.get();
        Some(IntervalKey { group, operation: self.name.hash, start: self.start, seq })
    }

    /// What the span costs.
    pub(crate) fn size_bytes(&self) -> usize {
        let events: usize = self.events.iter().flat_map(|events| &events.list).map(event_bytes).sum();
        size_of::<Self>() + INDEX_BYTES + self.name.own_bytes() + self.attributes.size_bytes() + events
    }
}

/// Adds an event to a span's; false, and counted there, if it has as many as it may have.
pub(crate) fn push_event(
    events: &mut Vec<SpanEvent>,
    dropped: &mut u32,
    event: SpanEvent,
    max_events: usize,
) -> bool {
    let has_room = events.len() < max_events;
    if has_room {
        events.push(event);
    } else {
        *dropped = dropped.saturating_add(1);
    }
    has_room
}

pub(crate) fn event_bytes(event: &SpanEvent) -> usize {
    size_of::<SpanEvent>() + event.attributes.size_bytes()
}

/// A start that an end might take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) seq: u64,
    pub(crate) start: i64,
}

/// All open spans of a worker. Sequence numbers ascend with arrival.
#[derive(Debug, Default)]
pub(crate) struct OpenSpans {
    spans: BTreeMap<u64, Box<OpenSpan>>,
    by_key: BTreeSet<(u64, i64, u64)>,
    /// Empty where all operations have one time-out: then deadlines ascend with arrival.
    deadlines: BTreeSet<(Monotonic, u64)>,
    has_one_timeout: bool,
    uncertain: BTreeSet<u64>,
    bytes: usize,
    changes: Changes,
}

impl OpenSpans {
    /// No open spans; whether all operations have one time-out.
    pub(crate) fn new(has_one_timeout: bool) -> Self {
        Self { has_one_timeout, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn uncertain_len(&self) -> usize {
        self.uncertain.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&OpenSpan> {
        self.spans.get(&seq).map(|span| &**span)
    }

    /// To change it in a way that the tables do not show.
    pub(crate) fn get_mut(&mut self, seq: u64) -> Option<&mut OpenSpan> {
        let span = self.spans.get_mut(&seq)?;
        self.changes.change(seq);
        Some(&mut **span)
    }

    /// Notes that something says of it that it is its parent.
    pub(crate) fn mark_parent(&mut self, seq: u64) {
        if self.get(seq).is_some_and(|span| !span.has_children)
            && let Some(span) = self.get_mut(seq)
        {
            span.has_children = true;
        }
    }

    /// What the tables do not say of a span has changed.
    pub(crate) fn touch(&mut self, seq: u64) {
        if self.spans.contains_key(&seq) {
            self.changes.change(seq);
        }
    }

    /// Which of the spans differ from what was written.
    pub(crate) fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// Those of the range that were never written, and those that changed since; ascending.
    pub(crate) fn unwritten(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &OpenSpan)> {
        let changed = self.changes.changed(range.clone()).filter_map(|seq| Some((seq, self.get(seq)?)));
        let new = self.spans.range(self.changes.new_of(range));
        changed.chain(new.map(|(seq, span)| (*seq, &**span)))
    }

    /// In order of arrival.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &OpenSpan)> {
        self.spans.iter().map(|(seq, span)| (*seq, &**span))
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.spans.first_key_value().map(|(seq, _)| *seq)
    }

    pub(crate) fn oldest_uncertain(&self) -> Option<u64> {
        self.uncertain.first().copied()
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        self.first_deadline().map(|(deadline, _)| deadline)
    }

    /// The span whose time is over first, if that is by `now`.
    pub(crate) fn due(&self, now: Monotonic) -> Option<u64> {
        self.first_deadline().filter(|(deadline, _)| *deadline <= now).map(|(_, seq)| seq)
    }

    fn first_deadline(&self) -> Option<(Monotonic, u64)> {
        if self.has_one_timeout {
            return self.spans.first_key_value().map(|(seq, span)| (span.deadline, *seq));
        }
        self.deadlines.first().copied()
    }

    pub(crate) fn insert(&mut self, seq: u64, span: OpenSpan) {
        self.by_key.insert((span.sorted_key(), span.start, seq));
        if !self.has_one_timeout {
            self.deadlines.insert((span.deadline, seq));
        }
        if span.is_uncertain {
            self.uncertain.insert(seq);
        }
        self.bytes += span.size_bytes();
        self.spans.insert(seq, Box::new(span));
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Box<OpenSpan>> {
        let span = self.spans.remove(&seq)?;
        self.changes.remove(seq);
        self.by_key.remove(&(span.sorted_key(), span.start, seq));
        self.deadlines.remove(&(span.deadline, seq));
        self.uncertain.remove(&seq);
        self.bytes -= span.size_bytes();
        Some(span)
    }

    /// Adds a span event; false if there is no room for it.
    pub(crate) fn push_event(&mut self, seq: u64, event: SpanEvent, max_events: usize) -> bool {
        let Some(span) = self.spans.get_mut(&seq) else { return false };
        self.changes.change(seq);
        let bytes = event_bytes(&event);
        let events = span.events.get_or_insert_default();
        let is_kept = push_event(&mut events.list, &mut events.dropped, event, max_events);
        self.bytes += if is_kept { bytes } else { 0 };
        is_kept
    }

    /// The starts of `key` from as early as a lone start may be up to the slack after `estimate`, latest first, at most
    /// [`MAX_CANDIDATES`].
    pub(crate) fn near(&self, key: u64, estimate: i64) -> impl Iterator<Item = Candidate> {
        let from = (key, estimate.saturating_sub(LONE_START_NS), 0);
        let to = (key, estimate.saturating_add(EARLY_SLACK_NS), u64::MAX);
        self.candidates(from, to)
    }

    /// The starts of `key` not after `time`, latest first, at most [`MAX_CANDIDATES`].
    pub(crate) fn until(&self, key: u64, time: i64) -> impl Iterator<Item = Candidate> {
        self.candidates((key, i64::MIN, 0), (key, time, u64::MAX))
    }

    /// The starts of `key` within the range, earliest first.
    pub(crate) fn between(&self, key: u64, from: i64, to: i64) -> impl Iterator<Item = Candidate> {
        let range = self.by_key.range((key, from.min(to), 0)..=(key, to, u64::MAX));
        range.inspect(|_| steps::count()).map(|(_, start, seq)| Candidate { seq: *seq, start: *start })
    }

    fn candidates(&self, from: (u64, i64, u64), to: (u64, i64, u64)) -> impl Iterator<Item = Candidate> {
        let range = self.by_key.range(from..=to).rev().take(MAX_CANDIDATES);
        range.inspect(|_| steps::count()).map(|(_, start, seq)| Candidate { seq: *seq, start: *start })
    }

    /// Whether `key` has any open start.
    pub(crate) fn has_key(&self, key: u64) -> bool {
        self.by_key.range((key, i64::MIN, 0)..=(key, i64::MAX, u64::MAX)).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred thousand of them may be open; the allocator's next size is 256.
    #[test]
    fn an_open_span_is_small() {
        assert!(size_of::<OpenSpan>() <= 224, "{} bytes", size_of::<OpenSpan>());
    }
}
