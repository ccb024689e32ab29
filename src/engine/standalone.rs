//! Events that are no half of a span.
//!
//! One with a correlation id becomes a span event of the innermost span of its worker and id at its time. That is
//! settled when a span around it is exported, or when its own window closes, so that disorder changes nothing.
//!
//! | what becomes of it | when | whose ids it has |
//! |---|---|---|
//! | points | at once | none |
//! | a span event | it joins a span | the span's |
//! | exemplars | it joins a span, or its window closes | those of the span that it joins; else of the one that it names, though that is exported; else of the latest span of its correlation id |
//! | a log record | the same; at once where it can belong to no span | the same, the span's own id only if the event is within it; else of the trace that a span of its own would begin |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::drops::DropReason;
use crate::engine::compose::{Finished, Parent};
use crate::engine::half::{self, span_id_token};
use crate::engine::ids::{ExplicitIdentity, SpanContext};
use crate::engine::intervals::IntervalKey;
use crate::engine::measuring::{Measurements, Ticket};
use crate::engine::memory::TokenHolder;
use crate::engine::metadata::Reader;
use crate::engine::metrics::mapping::Fate;
use crate::engine::naming::Name;
use crate::engine::nesting::Standing;
use crate::engine::open::{event_bytes, push_event};
use crate::engine::record::{Draft, RecordTrace};
use crate::engine::span::SpanEvent;
use crate::engine::state::{Shared, WorkerState};
use crate::event::Event;
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
    /// That span, where it was gone already when the event came.
    named: Option<Box<SpanContext>>,
    pub(crate) name: Arc<Name>,
    rest: Rest,
}

/// What else becomes of an event, once it is known to which span it belongs.
#[derive(Debug, Serialize, Deserialize)]
struct Rest {
    /// Its fate if there is no span; nothing if it has one already.
    otherwise: Option<DropReason>,
    /// What becomes a log record.
    record: Option<Box<Draft>>,
    /// What may be offered as exemplars.
    tickets: Vec<Ticket>,
}

impl Rest {
    /// Whether something of it is to say to which span it belongs.
    fn asks_for_the_span(&self) -> bool {
        self.record.is_some() || !self.tickets.is_empty()
    }

    fn size_bytes(&self) -> usize {
        let record = self.record.as_ref().map_or(0, |record| record.size_bytes());
        record + self.tickets.len() * size_of::<Ticket>()
    }
}

/// An event has joined a span.
#[derive(Debug, Clone, Copy)]
struct Joined {
    /// The span had room for it.
    is_kept: bool,
}

/// The span whose ids a record and exemplars have.
#[derive(Debug)]
struct Near {
    context: SpanContext,
    parent_is_remote: Option<bool>,
    /// The event is within it.
    is_around: bool,
}

impl Pending {
    fn size_bytes(&self) -> usize {
        let named = self.named.as_ref().map_or(0, |_| size_of::<SpanContext>());
        INDEX_BYTES + event_bytes(&self.event) + self.name.own_bytes() + named + self.rest.size_bytes()
    }
}

/// The pending events of one worker, in order of arrival, which is the order of their deadlines.
#[derive(Debug, Default)]
pub(crate) struct PendingEvents {
    events: BTreeMap<u64, (Monotonic, Box<Pending>)>,
    by_group: BTreeSet<(u64, i64, u64)>,
    by_token: BTreeSet<(u64, u64)>,
    /// Of which nothing was made yet.
    without_fate: usize,
    bytes: usize,
}

impl PendingEvents {
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Those that count as pending: of the others something was made already.
    pub(crate) fn without_fate(&self) -> usize {
        self.without_fate
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
            self.insert(seq, deadline, pending);
        }
    }

    fn insert(&mut self, seq: u64, deadline: Monotonic, pending: Box<Pending>) {
        if let Some(group) = pending.group {
            self.by_group.insert((group, pending.time, seq));
        }
        if let Some(token) = pending.token {
            self.by_token.insert((token, seq));
        }
        self.without_fate += usize::from(pending.rest.otherwise.is_some());
        self.bytes += pending.size_bytes();
        self.events.insert(seq, (deadline, pending));
    }

    fn remove(&mut self, seq: u64) -> Option<Box<Pending>> {
        let (_, pending) = self.events.remove(&seq)?;
        if let Some(group) = pending.group {
            self.by_group.remove(&(group, pending.time, seq));
        }
        if let Some(token) = pending.token {
            self.by_token.remove(&(token, seq));
        }
        self.without_fate -= usize::from(pending.rest.otherwise.is_some());
        self.bytes -= pending.size_bytes();
        Some(pending)
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
        let waits = !correlation_id.is_empty() || identity.is_some();
        let Measurements { otherwise, is_happening, tickets } = self.measure_event(cx, event, name, waits);
        let record = cx
            .record_reader
            .filter(|_| is_happening)
            .map(|reader| self.draft(cx, reader, event, name, correlation_id, identity.as_ref()));
        if !waits && otherwise.is_none() && record.is_none() && tickets.is_empty() {
            // Its points are all that becomes of it.
            return;
        }
        let rest = Rest { otherwise, record, tickets };
        if !waits {
            return self.conclude(cx, name, rest, None, None);
        }
        let meaning = cx.reader.read(event, None, correlation_id);
        self.ledger.notes.attributes_cut += meaning.cut;
        if cx.metrics.is_none() {
            self.ledger.notes.measurements_not_finite += meaning.not_finite;
        }
        let token = identity.as_ref().map(|identity| span_id_token(&identity.context.span_id.0));
        let holder = token.and_then(|token| self.tokens.holder(token));
        let is_gone = matches!(holder, Some(TokenHolder::Closed(_) | TokenHolder::Spent { .. }));
        let named = identity.filter(|_| is_gone && rest.asks_for_the_span());
        let pending = Box::new(Pending {
            event: SpanEvent {
                name: Arc::clone(&name.title),
                time: cx.credible(event.timestamp_ns),
                attributes: meaning.attributes,
            },
            group: (!correlation_id.is_empty()).then(|| half::correlation_group(correlation_id)),
            time: event.timestamp_ns,
            token,
            named: named.map(|identity| Box::new(identity.context)),
            name: Arc::clone(name),
            rest,
        });
        let pending = match holder {
            Some(holder) => match self.join(cx, holder, pending) {
                Ok(()) => return,
                Err(pending) => pending,
            },
            None => pending,
        };
        if self.pending_events.len() >= cx.settings.limits.max_waiting_per_worker
            && let Some(oldest) = self.pending_events.oldest()
        {
            self.settle_event(cx, oldest);
        }
        let seq = self.take_seq();
        self.pending_events.insert(seq, cx.now.mono.after(cx.settings.reorder_window), pending);
    }

    /// The log record that an event becomes, with the trace that a span of its own would have.
    fn draft(
        &mut self,
        cx: &mut Shared<'_>,
        reader: &Reader,
        event: &Event<'_>,
        name: &Arc<Name>,
        correlation_id: &str,
        identity: Option<&ExplicitIdentity>,
    ) -> Box<Draft> {
        let meaning = reader.read(event, None, correlation_id);
        self.ledger.notes.attributes_cut += meaning.cut;
        let times = [cx.credible(event.timestamp_ns), cx.now.wall];
        let mut draft = Draft::of(event, &name.emitted, &name.title, meaning.attributes, reader, times);
        draft.trace = match identity {
            Some(identity) => Some(RecordTrace::of(&identity.context)),
            None => {
                let remote = half::trace_parent(event, cx.settings.propagators);
                let epoch = cx.settings.trace_epoch;
                cx.roots.root(remote, correlation_id, event.timestamp_ns, epoch).into_record_trace()
            }
        };
        Box::new(draft)
    }

    /// Gives an event to the span that holds a token.
    ///
    /// # Errors
    /// With the event, if that span takes none.
    fn join(
        &mut self,
        cx: &mut Shared<'_>,
        holder: TokenHolder,
        pending: Box<Pending>,
    ) -> Result<(), Box<Pending>> {
        let max = cx.settings.limits.max_span_events;
        let is_asked_for = pending.rest.asks_for_the_span();
        let near = is_asked_for.then(|| self.near_now(holder, cx.now.mono, true)).flatten();
        let is_kept = match holder {
            TokenHolder::Open(seq) => self.open.push_event(seq, pending.event, max),
            TokenHolder::Held(due, seq) => self.held.push_event((due, seq), pending.event, max),
            TokenHolder::Waiting(_) | TokenHolder::Closed(_) | TokenHolder::Spent { .. } => {
                return Err(pending);
            }
        };
        self.conclude(cx, &pending.name, pending.rest, Some(Joined { is_kept }), near);
        Ok(())
    }

    /// An open or held span, as it would be if it were judged now.
    fn near_now(&self, holder: TokenHolder, now: Monotonic, is_around: bool) -> Option<Near> {
        let (context, is_remote) = self.context_now(holder, now)?;
        Some(Near { context, parent_is_remote: Some(is_remote), is_around })
    }

    /// The span that an event belongs to although it joins none: the one that its identity names, else the latest of its
    /// group, whatever became of that.
    fn near(&self, pending: &Pending, now: Monotonic) -> Option<Near> {
        if let Some(named) = &pending.named {
            // What a worker says of a span's parent, it says of one of its own spans.
            let (context, parent_is_remote) = (SpanContext::clone(named), Some(false));
            return Some(Near { context, parent_is_remote, is_around: true });
        }
        if pending.token.is_some() {
            // It names a span that nobody has heard of: no other is meant.
            return None;
        }
        let (span, end, standing) = self.latest(pending.group?, pending.time)?;
        let is_around = span.start <= pending.time && end >= pending.time;
        match standing {
            Standing::Open => self.near_now(TokenHolder::Open(span.seq), now, is_around),
            Standing::Held { due } => self.near_now(TokenHolder::Held(due, span.seq), now, is_around),
            Standing::Undecided { .. } | Standing::Closed | Standing::Exported => {
                let context = SpanContext::clone(self.intervals.get(&span)?.context.as_deref()?);
                Some(Near { context, parent_is_remote: None, is_around })
            }
        }
    }

    /// Nothing more becomes of an event: it has joined a span, or it joins none.
    fn conclude(
        &mut self,
        cx: &mut Shared<'_>,
        name: &Name,
        rest: Rest,
        joined: Option<Joined>,
        near: Option<Near>,
    ) {
        let Rest { otherwise, record, tickets } = rest;
        cx.offer_event(&tickets, near.as_ref().map(|near| (&near.context, near.parent_is_remote)));
        let is_record = record.is_some();
        if let Some(mut draft) = record {
            if let Some(near) = near {
                let trace = RecordTrace::of(&near.context);
                draft.trace =
                    Some(RecordTrace { span_id: trace.span_id.filter(|_| near.is_around), ..trace });
            }
            self.emit_record(cx, *draft);
            cx.note_fate(name, false, Fate::Record);
        }
        let is_span_event = joined.is_some_and(|joined| joined.is_kept);
        if is_span_event {
            cx.note_fate(name, false, Fate::SpanEvent);
        }
        let Some(otherwise) = otherwise else { return };
        if is_record || is_span_event {
            self.ledger.standalone += 1;
            return;
        }
        let reason = if joined.is_some() { DropReason::Overload } else { otherwise };
        cx.note_fate(name, false, Fate::Dropped(reason));
        self.drop_event(reason);
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
            let is_asked_for = pending.rest.asks_for_the_span();
            let near = is_asked_for.then(|| self.near(&pending, cx.now.mono)).flatten();
            return self.conclude(cx, &pending.name, pending.rest, None, near);
        };
        let joined = self.join(cx, holder, pending);
        debug_assert!(joined.is_ok(), "open and held spans take events");
    }

    /// Moves the pending events that belong to a span into it, before it is exported: those that name it, and those
    /// within it that name none.
    pub(crate) fn attach_pending_events(
        &mut self,
        cx: &mut Shared<'_>,
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
            let near = pending.rest.asks_for_the_span().then(|| Near {
                context: finished.context.clone(),
                parent_is_remote: Some(matches!(finished.parent, Parent::Remote(_))),
                is_around: true,
            });
            self.conclude(cx, &pending.name, pending.rest, Some(Joined { is_kept }), near);
        }
    }
}
