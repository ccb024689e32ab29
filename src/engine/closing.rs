//! Spans that end without their end, and ends that come too late for their start or without it.

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::drops::DropReason;
use crate::engine::Output;
use crate::engine::compose::{self, Finished, Parent};
use crate::engine::ids::{Derivation, SpanContext};
use crate::engine::memory::{ClosedHalf, ClosedSpan, IncompleteSpan, TokenHolder};
use crate::engine::nesting::{Place, Relative, Standing};
use crate::engine::open::{OpenEvents, OpenSpan};
use crate::engine::pairing::explicit;
use crate::engine::span::{Link, Status};
use crate::engine::state::{Presence, Shared, WorkerState};
use crate::engine::waiting::End;

/// Why the bridge closes a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No end within the span timeout.
    Timeout,
    /// The worker went, and did not come back within its grace period.
    WorkerLost,
    /// A limit on open spans or their bytes.
    Evicted,
    /// The bridge itself ends.
    BridgeShutdown,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::WorkerLost => "worker_lost",
            Self::Evicted => "evicted",
            Self::BridgeShutdown => "bridge_shutdown",
        }
    }

    /// What the status says where it says something: evictions and shutdowns are no fault of the span.
    const fn fault(self) -> Option<&'static str> {
        match self {
            Self::Timeout => Some("no end within the span timeout"),
            Self::WorkerLost => Some("the worker was lost"),
            Self::Evicted | Self::BridgeShutdown => None,
        }
    }
}

impl WorkerState {
    /// The worker did not come back.
    pub(crate) fn lose(&mut self, cx: &mut Shared<'_>) {
        while let Some(seq) = self.waiting.oldest() {
            self.decide(cx, seq);
        }
        while let Some(seq) = self.open.oldest() {
            self.close(cx, seq, Reason::WorkerLost);
        }
        self.presence = Presence::Lost;
        self.detach(cx);
        let streams = std::mem::take(&mut self.streams_seen);
        cx.outputs.push_back(Output::WorkerForgotten { worker: self.key.clone(), streams });
    }

    /// The bridge ends, and nothing outlives it: everything is decided on what is known, and what is open is closed.
    pub(crate) fn shut_down(&mut self, cx: &mut Shared<'_>) {
        self.pause(cx);
        while let Some(seq) = self.open.oldest() {
            self.close(cx, seq, Reason::BridgeShutdown);
        }
    }

    /// The bridge ends, and its state is kept: what has ended is decided on what is known, and delivered; what is open stays
    /// open for the next run.
    pub(crate) fn pause(&mut self, cx: &mut Shared<'_>) {
        while let Some(seq) = self.waiting.oldest() {
            self.decide(cx, seq);
        }
        while let Some(seq) = self.pending_events.oldest() {
            self.settle_event(cx, seq);
        }
        self.judge_all(cx);
    }

    /// Ends an open span without its end.
    pub(crate) fn close(&mut self, cx: &mut Shared<'_>, seq: u64, reason: Reason) {
        let Some(span) = self.open.get(seq) else { return };
        // What hangs on the span would be lost with it.
        let is_needed = span.has_children || span.events.is_some();
        let is_uncertain = span.is_uncertain;
        let rebuilt = self.rebuilt_end_explaining(span.key, span.tokens, span.start);
        if let Some(number) = rebuilt {
            self.closed.explain(number);
        }
        if !is_needed && rebuilt.is_some() {
            return self.withdraw(cx, seq, DropReason::Reconciled);
        }
        if !is_needed && is_uncertain {
            return self.withdraw(cx, seq, DropReason::SampledHalf);
        }
        self.judge_closing(cx, seq);
        let Some(span) = self.open.remove(seq) else { return };
        let span = *span;
        self.ledger.incomplete += 1;
        self.ledger.spans_made += 1;
        let notes = &mut self.ledger.notes;
        *match reason {
            Reason::Timeout => &mut notes.incomplete_timeout,
            Reason::WorkerLost => &mut notes.incomplete_worker_lost,
            Reason::Evicted => &mut notes.incomplete_evicted,
            Reason::BridgeShutdown => &mut notes.incomplete_bridge_shutdown,
        } += 1;
        let interval = span.interval(seq);
        self.remember_incomplete(cx, seq, &span);
        let times = compose::valid(span.start, self.closing_time(cx.now).0, None, false, cx.now);
        let fault = reason.fault().filter(|_| !span.is_uncertain);
        let events = span.events.map_or_else(OpenEvents::default, |events| *events);
        let mut finished = Finished {
            name: span.name,
            context: span.context,
            parent: span.parent,
            has_correlation: span.has_correlation,
            kind: span.kind,
            start: times.start,
            end: times.end,
            attributes: span.attributes,
            events: events.list,
            dropped_events: events.dropped,
            links: Vec::new(),
            lacks_start: false,
            status: fault.map_or(Status::Unset, |fault| Status::Error(Arc::from(fault))),
        };
        finished.mark("snakepit.span.incomplete", reason.as_str());
        if fault.is_some() {
            finished.mark("error.type", reason.as_str());
        }
        self.mark_adjusted(&mut finished, times);
        self.attach_pending_events(cx, interval, span.start, times.end.0, &mut finished);
        self.emit(cx, finished, Some(reason.as_str()));
    }

    /// Marks and counts a span whose times had to be moved.
    pub(crate) fn mark_adjusted(&mut self, finished: &mut Finished, times: compose::Times) {
        if times.adjusted {
            self.ledger.notes.clock_adjusted += 1;
            finished.mark("snakepit.clock", "adjusted");
        }
    }

    /// An open start makes no span. Its end, if it comes after all, makes one alone.
    fn withdraw(&mut self, cx: &Shared<'_>, seq: u64, reason: DropReason) {
        let Some(span) = self.open.remove(seq) else { return };
        let until = cx.now.mono.after(cx.settings.reorder_window);
        let max = cx.settings.limits.max_duplicates_per_worker;
        self.fingerprints.release_held(span.fingerprint, until, max);
        self.tokens.free(span.tokens, TokenHolder::Open(seq));
        self.forget_span(span.interval(seq), span.base.map(NonZeroU64::get));
        self.drop_event(reason);
    }

    fn remember_incomplete(&mut self, cx: &mut Shared<'_>, seq: u64, span: &OpenSpan) {
        let interval = span.interval(seq);
        if let Some(interval) = interval {
            let context = Some(Box::new(span.context.clone()));
            self.intervals.update(&interval, |_, relative| {
                *relative = Relative { context, standing: Standing::Closed };
            });
        }
        let incomplete = IncompleteSpan {
            start: span.start,
            context: span.context.clone(),
            parent: span.parent,
            interval,
            operation: Arc::clone(&span.name.title),
        };
        let closed = ClosedSpan {
            key: span.sorted_key(),
            fingerprint: span.fingerprint,
            tokens: span.tokens,
            bases: [span.base.map(NonZeroU64::get), None],
            until: cx.now.mono.after(cx.settings.limits.closed_memory),
            half: ClosedHalf::Incomplete(Box::new(incomplete)),
        };
        self.remember_closed(cx, closed, TokenHolder::Open(seq));
    }

    /// Remembers a span that was made of one half, and whose tokens `holder` had.
    fn remember_closed(&mut self, cx: &Shared<'_>, closed: ClosedSpan, holder: TokenHolder) {
        if self.closed.len() >= cx.settings.limits.max_closed_per_worker
            && let Some(oldest) = self.closed.oldest()
        {
            self.forget_closed_early(cx, oldest);
        }
        let number = self.take_seq();
        self.fingerprints.hold(closed.fingerprint);
        self.tokens.pass_on(closed.tokens, holder, TokenHolder::Closed(number));
        self.closed.insert(number, closed);
    }

    /// Makes room; the ids of the span are kept from others a little longer, because it may just have been exported.
    fn forget_closed_early(&mut self, cx: &Shared<'_>, number: u64) {
        let bases = self.closed.get_mut(number).map(|closed| std::mem::take(&mut closed.bases));
        self.forget_closed(number);
        let window = cx.settings.reorder_window;
        for base in bases.into_iter().flatten().flatten() {
            self.leave(cx.now.mono.after(window).after(window), None, Some(base));
        }
    }

    pub(crate) fn forget_closed(&mut self, number: u64) {
        let Some(closed) = self.closed.remove(number) else { return };
        self.fingerprints.forget(closed.fingerprint);
        self.tokens.free(closed.tokens, TokenHolder::Closed(number));
        let interval = match closed.half {
            ClosedHalf::Incomplete(incomplete) => incomplete.interval,
            ClosedHalf::Rebuilt { .. } | ClosedHalf::Explained => None,
        };
        self.forget_span(interval, None);
        closed.bases.into_iter().flatten().for_each(|base| self.ordinals.release(base));
    }

    /// The end of a span that was closed without it.
    pub(crate) fn late_end(&mut self, cx: &mut Shared<'_>, number: u64, end: End) {
        let Some(closed) = self.closed.remove(number) else { return };
        let ClosedHalf::Incomplete(incomplete) = closed.half else { return };
        self.ledger.rebuilt += 1;
        self.ledger.spans_made += 1;
        self.ledger.notes.late_ends += 1;
        self.observe_end(&end.name.emitted, false);
        let window = cx.settings.reorder_window;
        let max = cx.settings.limits.max_duplicates_per_worker;
        self.fingerprints.release(closed.fingerprint, cx.now.mono.after(window), max);
        let original = incomplete.context;
        let derivation = Derivation::new(
            &self.id_prefix,
            Some(original.trace_id),
            &incomplete.operation,
            incomplete.start,
        );
        let base = derivation.base();
        let ordinal = self.ordinals.take(base);
        let [original_base, _] = closed.bases;
        let context = SpanContext { span_id: derivation.span_id(ordinal, "late_end"), ..original.clone() };
        let times = match end.duration {
            Some(_) => compose::rebuilt_times(end.time, end.duration, cx.now),
            None => compose::valid(incomplete.start, end.time, None, false, cx.now),
        };
        let has_correlation = !end.correlation_id.is_empty();
        let parent = incomplete.parent;
        let mut finished = Finished::of_end(end.name, end.meaning, has_correlation, context, parent, times);
        finished.links.push(Link {
            trace_id: original.trace_id,
            span_id: original.span_id,
            attributes: crate::engine::attributes::Attributes::default(),
        });
        finished.mark("snakepit.span.rebuilt_from", "late_end");
        finished.mark("snakepit.span.original_id", &original.span_id.to_string());
        self.mark_adjusted(&mut finished, times);
        if let Some(interval) = incomplete.interval {
            // What was nested in the incomplete span stays there, and so does what is judged from now on.
            self.intervals.update(&interval, |until, relative| {
                *until = end.time.max(interval.start);
                relative.standing = Standing::Exported;
            });
        }
        let explained = ClosedSpan {
            key: closed.key,
            fingerprint: end.fingerprint,
            tokens: closed.tokens.or(end.tokens),
            bases: [original_base, Some(base)],
            until: cx.now.mono.after(cx.settings.limits.closed_memory),
            half: ClosedHalf::Explained,
        };
        self.remember_closed(cx, explained, TokenHolder::Closed(number));
        let place = Place {
            interval: incomplete.interval,
            start: incomplete.start,
            end: end.time,
            arrived: cx.now.mono,
            base: None,
            tokens: crate::engine::half::Tokens::default(),
            is_settled: true,
            is_judged: true,
        };
        self.export(cx, finished, &place);
    }

    /// Makes a span of an end alone.
    pub(crate) fn rebuild(&mut self, cx: &mut Shared<'_>, end: End, seq: u64) {
        self.ledger.rebuilt += 1;
        self.ledger.spans_made += 1;
        self.observe_end(&end.name.emitted, true);
        let estimate = end.estimate();
        let start = estimate.unwrap_or(end.time);
        let is_explicit = end.identity.is_some();
        let phase = end.name.phase.map_or("stop", crate::engine::naming::Phase::as_str);
        let key = end.sorted_key();
        let times = compose::rebuilt_times(end.time, end.duration, cx.now);
        let title = Arc::clone(&end.name.title);
        let beginning = match end.identity {
            Some(identity) => explicit(identity),
            None => self.derive(cx, end.trace_parent, &end.correlation_id, &title, start, ""),
        };
        let has_correlation = !end.correlation_id.is_empty();
        let (context, parent) = (beginning.context, beginning.parent);
        let mut finished = Finished::of_end(end.name, end.meaning, has_correlation, context, parent, times);
        if estimate.is_some() {
            finished.mark("snakepit.span.rebuilt_from", phase);
        } else {
            finished.mark("snakepit.span.incomplete", "missing_start");
            finished.lacks_start = true;
        }
        self.mark_adjusted(&mut finished, times);
        let interval = end.interval.or_else(|| {
            let group = end.group?;
            let operation = finished.name.hash;
            let interval = crate::engine::intervals::IntervalKey { group, operation, start, seq };
            let relative =
                Relative { context: Some(Box::new(finished.context.clone())), standing: Standing::Exported };
            self.intervals.insert(interval, end.time, relative);
            Some(interval)
        });
        let closed = ClosedSpan {
            key,
            fingerprint: end.fingerprint,
            tokens: end.tokens,
            bases: [beginning.base, None],
            until: cx.now.mono.after(cx.settings.limits.closed_memory),
            half: ClosedHalf::Rebuilt { estimate },
        };
        self.remember_closed(cx, closed, TokenHolder::Waiting(seq));
        let place = Place {
            interval,
            start,
            end: end.time.max(start),
            arrived: end.arrived,
            base: None,
            tokens: crate::engine::half::Tokens::default(),
            is_settled: is_explicit || interval.is_none(),
            is_judged: matches!(finished.parent, Parent::Explicit(_)),
        };
        self.finish(cx, seq, finished, place);
    }

    /// Where an undecided end stands among the intervals: from as early as its start may be.
    pub(crate) fn undecided_interval(
        &self,
        end: &End,
        seq: u64,
    ) -> Option<crate::engine::intervals::IntervalKey> {
        let group = end.group?;
        let start = end.estimate()?.saturating_sub(self.tolerance.full_ns());
        Some(crate::engine::intervals::IntervalKey { group, operation: end.name.hash, start, seq })
    }
}
