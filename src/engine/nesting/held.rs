//! Finished spans that wait for their judgement.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::compose::Finished;
use crate::engine::half::Tokens;
use crate::engine::intervals::IntervalKey;
use crate::engine::open::{event_bytes, push_event};
use crate::engine::span::{SpanEvent, Status};
use crate::time::Monotonic;

/// What a held span costs beside its attributes and events.
const HELD_BYTES: usize = 512;

/// Where a finished span stands among the others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) interval: Option<IntervalKey>,
    /// The start as a child: its own time.
    pub(crate) start: i64,
    /// Its end's own time, not before its start.
    pub(crate) end: i64,
    /// When its end arrived.
    pub(crate) arrived: Monotonic,
    pub(crate) base: Option<u64>,
    pub(crate) tokens: Tokens,
    /// Its parent is what its identity says: it does not wait.
    pub(crate) is_settled: bool,
    /// Its parent was decided while it was open.
    pub(crate) is_judged: bool,
}

/// A finished span that waits for its judgement.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) finished: Finished,
    pub(crate) place: Place,
}

impl Held {
    fn size_bytes(&self) -> usize {
        let events: usize = self.finished.events.iter().map(event_bytes).sum();
        let finished = &self.finished;
        let status = match &finished.status {
            Status::Error(message) => message.len(),
            Status::Unset | Status::Ok => 0,
        };
        HELD_BYTES + finished.name.own_bytes() + finished.attributes.size_bytes() + status + events
    }
}

/// The held spans of one worker, in the order in which they are judged.
#[derive(Debug, Default)]
pub(crate) struct HeldSpans {
    spans: BTreeMap<(Monotonic, u64), Box<Held>>,
    bytes: usize,
}

impl HeldSpans {
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        self.spans.first_key_value().map(|((due, _), _)| *due)
    }

    pub(super) fn first(&self) -> Option<(Monotonic, u64)> {
        self.spans.first_key_value().map(|(at, _)| *at)
    }

    pub(crate) fn get(&self, at: (Monotonic, u64)) -> Option<&Held> {
        self.spans.get(&at).map(|held| &**held)
    }

    /// In the order in which they are judged.
    pub(crate) fn entries(&self) -> &BTreeMap<(Monotonic, u64), Box<Held>> {
        &self.spans
    }

    pub(crate) fn insert(&mut self, at: (Monotonic, u64), held: Box<Held>) {
        self.bytes += held.size_bytes();
        self.spans.insert(at, held);
    }

    pub(super) fn remove(&mut self, at: (Monotonic, u64)) -> Option<Box<Held>> {
        let held = self.spans.remove(&at)?;
        self.bytes -= held.size_bytes();
        Some(held)
    }

    /// Adds a span event; false if there is no room for it.
    pub(crate) fn push_event(&mut self, at: (Monotonic, u64), event: SpanEvent, max_events: usize) -> bool {
        let Some(held) = self.spans.get_mut(&at) else { return false };
        let bytes = event_bytes(&event);
        let finished = &mut held.finished;
        let is_kept = push_event(&mut finished.events, &mut finished.dropped_events, event, max_events);
        self.bytes += if is_kept { bytes } else { 0 };
        is_kept
    }
}
