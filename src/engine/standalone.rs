//! Events that are no half of a span.
//!
//! One with a correlation id becomes a span event of the innermost span of its worker and id at its time. That is
//! settled when a span around it is exported, or when its own window closes, so that disorder changes nothing. Metrics
//! and log records are not built yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::drops::DropReason;
use crate::engine::compose::Finished;
use crate::engine::half::{self, span_id_token};
use crate::engine::ids::ExplicitIdentity;
use crate::engine::intervals::IntervalKey;
use crate::engine::memory::TokenHolder;
use crate::engine::naming::Name;
use crate::engine::nesting::Standing;
use crate::engine::open::{event_bytes, push_event};
use crate::engine::span::SpanEvent;
use crate::engine::state::{Shared, WorkerState};
use crate::event::{Event, Value};
use crate::time::Monotonic;

/// What the tables cost for each pending event, beside the event itself.
const INDEX_BYTES: usize = 128;

/// An event that waits for its span.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pending {
    event: SpanEvent,
    group: Option<u64>,
    /// As sent, for the search.
    time: i64,
    /// The span that its identity names.
    token: Option<u64>,
    /// Its fate if there is no span.
    otherwise: DropReason,
}

impl Pending {
    fn size_bytes(&self) -> usize {
        INDEX_BYTES + event_bytes(&self.event)
    }
}

/// The pending events of one worker, in order of arrival, which is the order of their deadlines.
#[derive(Debug, Default)]
pub(crate) struct PendingEvents {
    events: BTreeMap<u64, (Monotonic, Box<Pending>)>,
    by_group: BTreeSet<(u64, i64, u64)>,
    by_token: BTreeSet<(u64, u64)>,
    bytes: usize,
}

impl PendingEvents {
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.events.first_key_value().map(|(seq, _)| *seq)
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        self.events.first_key_value().map(|(_, (deadline, _))| *deadline)
    }

    pub(crate) fn due(&self, now: Monotonic) -> Option<u64> {
        self.events.first_key_value().filter(|(_, (deadline, _))| *deadline <= now).map(|(seq, _)| *seq)
    }

    /// In order of arrival.
    pub(crate) fn entries(&self) -> &BTreeMap<u64, (Monotonic, Box<Pending>)> {
        &self.events
    }

    /// Puts back what waited before a restart.
    pub(crate) fn restore(&mut self, events: BTreeMap<u64, (Monotonic, Box<Pending>)>) {
        for (seq, (deadline, pending)) in events {
            self.insert(seq, deadline, *pending);
        }
    }

    fn insert(&mut self, seq: u64, deadline: Monotonic, pending: Pending) {
        if let Some(group) = pending.group {
            self.by_group.insert((group, pending.time, seq));
        }
        if let Some(token) = pending.token {
            self.by_token.insert((token, seq));
        }
        self.bytes += pending.size_bytes();
        self.events.insert(seq, (deadline, Box::new(pending)));
    }

    fn remove(&mut self, seq: u64) -> Option<Pending> {
        let (_, pending) = self.events.remove(&seq)?;
        if let Some(group) = pending.group {
            self.by_group.remove(&(group, pending.time, seq));
        }
        if let Some(token) = pending.token {
            self.by_token.remove(&(token, seq));
        }
        self.bytes -= pending.size_bytes();
        Some(*pending)
    }

    /// Those that name the span of a token, in order of arrival.
    fn naming(&self, token: u64) -> Vec<u64> {
        self.by_token.range((token, 0)..=(token, u64::MAX)).map(|(_, seq)| *seq).collect()
    }

    /// Of the span that an event names.
    fn token(&self, seq: u64) -> Option<u64> {
        self.events.get(&seq).and_then(|(_, pending)| pending.token)
    }
}

impl WorkerState {
    /// A standalone event arrived.
    pub(crate) fn standalone(&mut self, cx: &mut Shared<'_>, event: &Event<'_>, name: &Arc<Name>) {
        let correlation_id = half::correlation_id(event);
        let sent = event.span.as_ref();
        let identity = sent.and_then(ExplicitIdentity::parse);
        self.ledger.notes.malformed_identity += u64::from(sent.is_some() && identity.is_none());
        let otherwise = without_span(event);
        if correlation_id.is_empty() && identity.is_none() {
            return self.drop_event(otherwise);
        }
        let meaning = cx.reader.read(event, None, correlation_id);
        self.ledger.notes.attributes_cut += meaning.cut;
        self.ledger.notes.measurements_not_finite += meaning.not_finite;
        let span_event = SpanEvent {
            name: Arc::clone(&name.title),
            time: cx.credible(event.timestamp_ns),
            attributes: meaning.attributes,
        };
        let token = identity.map(|identity| span_id_token(&identity.context.span_id.0));
        let span_event = match token.and_then(|token| self.tokens.holder(token)) {
            Some(holder) => match self.give_event(cx, holder, span_event) {
                Ok(()) => return,
                Err(event) => event,
            },
            None => span_event,
        };
        if self.pending_events.len() >= cx.settings.limits.max_waiting_per_worker
            && let Some(oldest) = self.pending_events.oldest()
        {
            self.settle_event(cx, oldest);
        }
        let pending = Pending {
            event: span_event,
            group: (!correlation_id.is_empty()).then(|| half::correlation_group(correlation_id)),
            time: event.timestamp_ns,
            token,
            otherwise,
        };
        let seq = self.take_seq();
        self.pending_events.insert(seq, cx.now.mono.after(cx.settings.reorder_window), pending);
    }

    /// Gives an event to the span that holds a token.
    ///
    /// # Errors
    /// With the event, if that span takes none.
    fn give_event(
        &mut self,
        cx: &Shared<'_>,
        holder: TokenHolder,
        event: SpanEvent,
    ) -> Result<(), SpanEvent> {
        let max = cx.settings.limits.max_span_events;
        let is_kept = match holder {
            TokenHolder::Open(seq) => self.open.push_event(seq, event, max),
            TokenHolder::Held(due, seq) => self.held.push_event((due, seq), event, max),
            TokenHolder::Waiting(_) | TokenHolder::Closed(_) | TokenHolder::Spent { .. } => {
                return Err(event);
            }
        };
        self.count_event(is_kept);
        Ok(())
    }

    /// An event has its fate: it is among those of a span, or its span has as many as it may have.
    fn count_event(&mut self, is_kept: bool) {
        if is_kept {
            self.ledger.standalone += 1;
        } else {
            self.drop_event(DropReason::Overload);
        }
    }

    /// The event's window is over, or there is no room for it: it joins the span that it names, else the innermost span
    /// around it, if any.
    pub(crate) fn settle_event(&mut self, cx: &mut Shared<'_>, seq: u64) {
        let Some(pending) = self.pending_events.remove(seq) else { return };
        let named = pending.token.and_then(|token| self.tokens.holder(token));
        let around = || {
            let (span, standing) = self.innermost(pending.group?, pending.time)?;
            match standing {
                Standing::Open => Some(TokenHolder::Open(span.seq)),
                Standing::Held { due } => Some(TokenHolder::Held(due, span.seq)),
                Standing::Undecided { .. } | Standing::Closed | Standing::Exported => None,
            }
        };
        let takes_events =
            |holder: &TokenHolder| matches!(holder, TokenHolder::Open(_) | TokenHolder::Held(..));
        let Some(holder) = named.filter(takes_events).or_else(around) else {
            return self.drop_event(pending.otherwise);
        };
        let given = self.give_event(cx, holder, pending.event);
        debug_assert!(given.is_ok(), "open and held spans take events");
    }

    /// Moves the pending events that belong to a span into it, before it is exported: those that name it, and those
    /// within it that name none.
    pub(crate) fn attach_pending_events(
        &mut self,
        cx: &Shared<'_>,
        span: Option<IntervalKey>,
        start: i64,
        end: i64,
        finished: &mut Finished,
    ) {
        if self.pending_events.len() == 0 {
            return;
        }
        let mut own = self.pending_events.naming(span_id_token(&finished.context.span_id.0));
        if let Some(span) = span.filter(|_| start <= end) {
            let range = (span.group, start, 0)..=(span.group, end, u64::MAX);
            for (_, time, seq) in self.pending_events.by_group.range(range) {
                crate::engine::steps::count();
                // What is inside a span that is still to be exported belongs there.
                let inner = self.innermost(span.group, *time).filter(|(inner, _)| inner.start >= span.start);
                let names_another = self.pending_events.token(*seq).is_some_and(|token| {
                    matches!(self.tokens.holder(token), Some(TokenHolder::Open(_) | TokenHolder::Held(..)))
                });
                if !names_another && inner.is_none_or(|(inner, _)| inner == span) {
                    own.push(*seq);
                }
            }
        }
        for seq in own {
            let Some(pending) = self.pending_events.remove(seq) else { continue };
            let max = cx.settings.limits.max_span_events;
            let is_kept = push_event(&mut finished.events, &mut finished.dropped_events, pending.event, max);
            self.count_event(is_kept);
        }
    }
}

/// The fate of a standalone event that joins no span, as long as metrics and log records are not built.
fn without_span(event: &Event<'_>) -> DropReason {
    let is_not_finite = |value: &Value<'_>| match value {
        Value::Float(float) => !float.is_finite(),
        Value::Text(text) => text.parse::<f64>().is_ok_and(|float| !float.is_finite()),
        Value::Int(_) => false,
    };
    if !event.measurements.is_empty() && event.measurements.iter().all(|(_, value)| is_not_finite(value)) {
        DropReason::NoFiniteValue
    } else {
        DropReason::SignalDisabled
    }
}
