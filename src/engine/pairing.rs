//! What becomes of a start and of an end when they arrive, and when what they wait for is over.
//!
//! Halves pair by proof where both carry one: identity, else a pairing token, else a reading of the monotonic clock
//! (`tests/it/engine/identity.rs`). They pair by key (worker, correlation id, operation) otherwise: which start an end
//! takes is in [`super::matching`], what is made of one half alone in [`super::closing`].
//!
//! | case | becomes | test |
//! | --- | --- | --- |
//! | start, stop | a span | `start_and_stop_become_a_span_without_status` |
//! | start, stop that says ok | a span, Ok | `a_stop_that_says_ok_makes_the_status_ok` |
//! | start, stop that speaks of an error | a span, Error | `a_stop_that_speaks_of_an_error_makes_the_status_error` |
//! | start, stop whose `error` says nothing | a span, Unset | `an_error_key_that_says_nothing_is_no_error` |
//! | start, exception | a span with an exception event | `start_and_exception_become_a_span_with_an_exception_event` |
//! | end, its start within the window | one span | `an_end_before_its_start_is_one_span` |
//! | end with duration, no start | a whole span | `an_end_alone_becomes_a_whole_span` |
//! | end without duration, no start | no length | `an_end_without_duration_and_without_start_is_a_zero_length_span` |
//! | end without duration, starts | takes the latest | `an_end_without_duration_takes_the_latest_start_not_after_it` |
//! | an equal end, within the window | dropped | `an_equal_end_within_the_window_is_dropped` |
//! | an equal end, of a span made of it alone | dropped | `an_end_equal_to_one_that_made_a_span_alone_is_dropped_for_an_hour` |
//! | an equal start, open or just finished | dropped | `an_equal_start_is_dropped_while_its_span_is_open_and_just_after` |
//! | starts of one key and time that differ | two spans | `two_starts_that_differ_in_anything_are_two_spans` |
//! | start after its span was rebuilt | dropped | `a_start_after_its_span_was_rebuilt_is_reconciled` |
//! | start that an end alone explains | dropped | `an_open_start_that_a_rebuilt_end_explains_is_reconciled_when_it_would_be_closed` |
//! | the same, with a child or an event | incomplete | `an_explained_start_with_a_child_or_an_event_closes_as_incomplete` |
//! | start, no end in time | incomplete | `a_start_without_end_is_closed_by_the_span_timeout` |
//! | the worker is lost | incomplete | `a_worker_that_does_not_come_back_loses_its_open_spans` |
//! | the worker comes back | nothing | `a_worker_that_comes_back_within_its_grace_period_loses_nothing` |
//! | an end after its span was closed | a span, linked | `an_end_after_the_timeout_is_a_late_end` |
//! | the same, without duration | from the start | `a_late_end_without_duration_starts_where_its_start_was` |
//! | the bridge shuts down | incomplete | `a_shutdown_closes_open_spans_without_blame` |
//! | a limit on open spans | incomplete | `the_limit_on_open_spans_evicts_the_oldest` |
//! | a limit on their bytes | incomplete | `the_limit_on_bytes_evicts_the_oldest` |
//! | times that cannot be meant | a valid span | `nonsense_times_become_a_valid_span` |
//! | a duration in another unit | the times win | `times_win_over_a_duration_in_another_unit` |
//! | uncertain start, no end | dropped | `a_start_whose_end_was_sampled_away_makes_no_span` |
//! | the same, with a child | incomplete | `an_uncertain_start_with_a_child_closes_as_incomplete` |
//! | end of an accepted start, by policy refused | a span | `an_end_whose_start_was_accepted_is_accepted` |

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::drops::DropReason;
use crate::engine::closing::Reason;
use crate::engine::compose::{self, Finished, Parent};
use crate::engine::half::{Half, Tokens, sorted_key};
use crate::engine::ids::{Derivation, SpanContext};
use crate::engine::memory::{ClosedHalf, TokenHolder};
use crate::engine::nesting::{Relative, Standing};
use crate::engine::open::{OpenEvents, OpenSpan};
use crate::engine::roots::Root;
use crate::engine::span::{Status, TraceId};
use crate::engine::state::{Shared, WorkerState};
use crate::engine::tolerance::Residual;
use crate::engine::waiting::End;
use crate::engine::{Output, Warning};
use crate::event::Event;
use crate::time::UnixNanos;

/// How many bytes of a correlation id a warning shows.
const MAX_WARNED_BYTES: usize = 64;

/// What the tokens of a start prove.
enum Proof {
    /// Nothing.
    None,
    /// This waiting end is its own.
    Waiting(u64),
    /// Its span was rebuilt from its end.
    Rebuilt(u64),
    /// Its span has a start already.
    Duplicate,
}

/// The ids that a span begins with.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) context: SpanContext,
    pub(crate) parent: Parent,
    pub(crate) base: Option<u64>,
}

impl WorkerState {
    /// A start arrived.
    pub(crate) fn start(&mut self, cx: &mut Shared<'_>, event: &Event<'_>, half: Half<'_>) {
        if self.fingerprints.contains(half.fingerprint) {
            return self.drop_event(DropReason::DuplicateStart);
        }
        let tokens = half.tokens();
        match self.proven_end(tokens) {
            Proof::None => {}
            Proof::Waiting(seq) => {
                let opened = self.open(cx, event, half);
                if let Some(end) = self.stop_waiting(seq) {
                    self.pair(cx, opened, end, Some(seq));
                }
                return;
            }
            Proof::Rebuilt(number) => return self.reconcile(cx, number, half.fingerprint),
            Proof::Duplicate => return self.drop_event(DropReason::DuplicateStart),
        }
        if let Some(number) = self.rebuilt_end_explaining(half.key, tokens, half.time) {
            return self.reconcile(cx, number, half.fingerprint);
        }
        let start = half.time;
        let seq = self.open(cx, event, half);
        if let Some(waiting) = self.end_at_once(seq)
            && let Some(end) = self.stop_waiting(waiting)
        {
            let residual = end.estimate().map(|estimate| estimate.saturating_sub(start));
            residual.into_iter().for_each(|residual| self.learn(residual));
            self.pair(cx, seq, end, Some(waiting));
        }
    }

    /// What the tokens of a start prove. A second start at the same reading of the monotonic clock is a twin, not a
    /// duplicate.
    fn proven_end(&self, tokens: Tokens) -> Proof {
        for token in tokens.iter() {
            let is_unique = Some(token) != tokens.monotonic();
            match self.holder(token, tokens) {
                Some(TokenHolder::Waiting(seq)) => return Proof::Waiting(seq),
                Some(TokenHolder::Closed(number)) if self.is_rebuilt(number) => {
                    return Proof::Rebuilt(number);
                }
                Some(_) if is_unique => return Proof::Duplicate,
                Some(_) | None => {}
            }
        }
        Proof::None
    }

    /// A start whose span was rebuilt from its end makes nothing more; nor does a copy of it.
    fn reconcile(&mut self, cx: &Shared<'_>, rebuilt: u64, fingerprint: u64) {
        self.closed.explain(rebuilt);
        let until = cx.now.mono.after(cx.settings.reorder_window);
        self.fingerprints.release(fingerprint, until, cx.settings.limits.max_duplicates_per_worker);
        self.drop_event(DropReason::Reconciled);
    }

    /// Opens a span; returns its sequence number.
    fn open(&mut self, cx: &mut Shared<'_>, event: &Event<'_>, half: Half<'_>) -> u64 {
        let limits = &cx.settings.limits;
        let is_uncertain = self.policy.thins() && !self.identity.capabilities.consistent_sampling;
        if is_uncertain && self.open.uncertain_len() >= limits.max_uncertain_per_worker {
            if let Some(oldest) = self.open.oldest_uncertain() {
                self.close(cx, oldest, Reason::Evicted);
            }
        } else if self.open.len() >= limits.max_open_spans_per_worker
            && let Some(oldest) = self.open.oldest_uncertain().or_else(|| self.open.oldest())
        {
            self.close(cx, oldest, Reason::Evicted);
        }
        let meaning = cx.reader.read(event, half.name.phase, half.correlation_id);
        self.ledger.notes.attributes_cut += meaning.cut;
        self.ledger.notes.measurements_not_finite += meaning.not_finite;
        let seq = self.take_seq();
        let tokens = half.tokens();
        let is_explicit = half.identity.is_some();
        let title = Arc::clone(&half.name.title);
        let beginning = match half.identity {
            Some(identity) => explicit(identity),
            None => self.derive(cx, half.trace_parent, half.correlation_id, &title, half.time, ""),
        };
        let arrived = cx.now.mono;
        let deadline = arrived.after(cx.span_timeout(&half.name.emitted));
        let span = OpenSpan {
            name: half.name,
            key: half.key,
            fingerprint: half.fingerprint,
            start: half.time,
            arrived,
            deadline,
            tokens,
            is_explicit,
            context: beginning.context,
            parent: beginning.parent,
            is_judged: is_explicit,
            has_children: false,
            is_uncertain,
            has_correlation: !half.correlation_id.is_empty(),
            group: half.group.and_then(NonZeroU64::new),
            base: beginning.base.and_then(NonZeroU64::new),
            kind: meaning.kind,
            attributes: meaning.attributes,
            from_metadata: meaning.from_metadata,
            events: None,
        };
        self.fingerprints.hold(span.fingerprint);
        self.tokens.set_if_free(tokens.iter(), TokenHolder::Open(seq));
        if let Some(interval) = span.interval(seq) {
            let relative = Relative { context: None, standing: Standing::Open };
            self.intervals.insert(interval, crate::engine::intervals::OPEN_END, relative);
        }
        self.open.insert(seq, span);
        seq
    }

    /// Ids for a span without explicit identity.
    pub(crate) fn derive(
        &mut self,
        cx: &mut Shared<'_>,
        trace_parent: Option<crate::engine::ids::TraceParent>,
        correlation_id: &str,
        operation: &str,
        start: i64,
        suffix: &str,
    ) -> Beginning {
        let root = cx.roots.root(trace_parent, correlation_id, start, cx.settings.trace_epoch);
        if let Root::Hashed { .. } = root {
            let idle = cx.settings.trace_idle;
            if let Some(spans) = cx.constants.count(&self.id_prefix, correlation_id, cx.now.mono, idle) {
                let shown = cx.reader.shown_correlation_id(correlation_id);
                let shown = crate::engine::metadata::truncated(&shown, MAX_WARNED_BYTES);
                cx.outputs.push_back(Output::Warning(Warning::ConstantCorrelationId {
                    worker: self.key.clone(),
                    correlation_id: shown.to_owned(),
                    spans,
                }));
            }
        }
        let derivation = Derivation::new(&self.id_prefix, root.trace_id(), operation, start);
        let base = derivation.base();
        let ordinal = self.ordinals.take(base);
        let trace_id: TraceId = root.trace_id().unwrap_or_else(|| derivation.trace_id(ordinal));
        let parent = match &root {
            Root::Remote(parent) => Parent::Remote(parent.parent_id),
            Root::Verbatim { .. } | Root::Hashed { .. } | Root::Derived => Parent::Root,
        };
        let context = root.context(trace_id, derivation.span_id(ordinal, suffix));
        Beginning { context, parent, base: Some(base) }
    }

    /// An end arrived. With a `refusal` it counts only if its start was accepted.
    pub(crate) fn end(
        &mut self,
        cx: &mut Shared<'_>,
        event: &Event<'_>,
        half: Half<'_>,
        refusal: Option<DropReason>,
    ) {
        if self.fingerprints.contains(half.fingerprint) {
            return self.drop_event(DropReason::DuplicateEnd);
        }
        let tokens = half.tokens();
        for token in tokens.unique() {
            match self.holder(token, tokens) {
                None => {}
                Some(TokenHolder::Open(seq)) => {
                    let end = self.read_end(cx, event, half, refusal);
                    return self.pair(cx, seq, end, None);
                }
                Some(TokenHolder::Closed(number)) if self.is_incomplete(number) => {
                    let end = self.read_end(cx, event, half, refusal);
                    return self.late_end(cx, number, end);
                }
                Some(_) => return self.drop_event(DropReason::DuplicateEnd),
            }
        }
        if let Some(reason) = refusal
            && !self.has_start(half.key)
        {
            return self.drop_event(reason);
        }
        let proven = tokens.monotonic().and_then(|token| self.holder(token, tokens));
        let end = self.read_end(cx, event, half, refusal);
        match proven {
            Some(TokenHolder::Open(seq)) => return self.pair(cx, seq, end, None),
            Some(TokenHolder::Closed(number)) if self.is_incomplete(number) => {
                return self.late_end(cx, number, end);
            }
            Some(_) | None => {}
        }
        match self.start_at_once(&end) {
            Some(seq) => self.pair(cx, seq, end, None),
            None => self.wait(cx, end),
        }
    }

    /// Who has a token of a half with these tokens, unless the two say that they do not belong together: a pairing token
    /// or a clock may not say otherwise than two identities do.
    fn holder(&self, token: u64, tokens: Tokens) -> Option<TokenHolder> {
        let holder = self.tokens.holder(token)?;
        let own = match holder {
            TokenHolder::Open(seq) => self.open.get(seq).map(|span| span.tokens),
            TokenHolder::Waiting(seq) => self.waiting.get(seq).map(|end| end.tokens),
            TokenHolder::Closed(number) => self.closed.get(number).map(|span| span.tokens),
            TokenHolder::Held(..) | TokenHolder::Spent { .. } => None,
        };
        (!own.is_some_and(|own| own.contradict(tokens))).then_some(holder)
    }

    /// Whether a start of `key`, of either sort, was accepted that has no end yet.
    fn has_start(&self, key: u64) -> bool {
        let sorts = [false, true].map(|sort| sorted_key(key, sort));
        sorts.into_iter().any(|key| self.open.has_key(key) || self.closed.has_incomplete(key))
    }

    fn is_incomplete(&self, number: u64) -> bool {
        self.closed.get(number).is_some_and(|span| matches!(span.half, ClosedHalf::Incomplete(_)))
    }

    fn is_rebuilt(&self, number: u64) -> bool {
        self.closed.get(number).is_some_and(|span| matches!(span.half, ClosedHalf::Rebuilt { .. }))
    }

    fn read_end(
        &mut self,
        cx: &Shared<'_>,
        event: &Event<'_>,
        half: Half<'_>,
        refusal: Option<DropReason>,
    ) -> End {
        let meaning = cx.reader.read(event, half.name.phase, half.correlation_id);
        self.ledger.notes.attributes_cut += meaning.cut;
        self.ledger.notes.measurements_not_finite += meaning.not_finite;
        End {
            key: half.key,
            fingerprint: half.fingerprint,
            time: half.time,
            duration: half.duration,
            tokens: half.tokens(),
            identity: half.identity,
            trace_parent: half.trace_parent,
            correlation_id: half.correlation_id.into(),
            group: half.group,
            meaning,
            arrived: cx.now.mono,
            refusal,
            interval: None,
            is_unmatched: false,
            residual: None,
            name: half.name,
        }
    }

    fn wait(&mut self, cx: &mut Shared<'_>, mut end: End) {
        if self.waiting.len() >= cx.settings.limits.max_waiting_per_worker
            && let Some(oldest) = self.waiting.oldest()
        {
            self.ledger.notes.judged_early += 1;
            self.decide(cx, oldest);
        }
        if let Some(estimate) = end.estimate() {
            let nearest = self.open.near(end.sorted_key(), estimate).next();
            let residual = nearest.map(|start| estimate.saturating_sub(start.start));
            end.is_unmatched = !residual.is_some_and(|residual| self.tolerance.explains(residual));
            end.residual = residual.and_then(Residual::of).filter(|_| !self.policy.thins());
            if let Some(residual) = end.residual {
                self.tolerance.learn_for_now(residual);
            }
        }
        let seq = self.take_seq();
        let deadline = end.arrived.after(cx.settings.reorder_window);
        end.interval = self.undecided_interval(&end, seq);
        if let Some(interval) = end.interval {
            let relative = Relative { context: None, standing: Standing::Undecided { until: deadline } };
            self.intervals.insert(interval, end.time, relative);
        }
        self.fingerprints.hold(end.fingerprint);
        self.tokens.set_if_free(end.tokens.iter(), TokenHolder::Waiting(seq));
        self.waiting.insert(seq, deadline, end);
    }

    /// A waiting end is decided: its window is over, or there is no room for it.
    pub(crate) fn decide(&mut self, cx: &mut Shared<'_>, seq: u64) {
        let Some(end) = self.stop_waiting(seq) else { return };
        let other_sort = sorted_key(end.key, end.identity.is_none());
        let start =
            self.best_start(&end, end.sorted_key(), seq).or_else(|| self.best_start(&end, other_sort, seq));
        if let Some(start) = start {
            return self.pair(cx, start, end, Some(seq));
        }
        let incomplete =
            self.best_incomplete(&end, end.sorted_key()).or_else(|| self.best_incomplete(&end, other_sort));
        match (incomplete, end.refusal) {
            (Some(number), _) => {
                self.unwait(&end, seq);
                self.late_end(cx, number, end);
            }
            (None, Some(reason)) => {
                self.unwait(&end, seq);
                self.fingerprints.forget(end.fingerprint);
                self.drop_event(reason);
            }
            (None, None) => self.rebuild(cx, end, seq),
        }
    }

    fn stop_waiting(&mut self, seq: u64) -> Option<End> {
        let end = *self.waiting.remove(seq)?;
        if let Some(residual) = end.residual {
            self.tolerance.unlearn(residual);
        }
        Some(end)
    }

    /// Takes a waiting end's traces out of the tables.
    fn unwait(&mut self, end: &End, seq: u64) {
        self.tokens.free(end.tokens, TokenHolder::Waiting(seq));
        if let Some(interval) = end.interval {
            self.intervals.remove(&interval);
        }
    }

    /// Makes one span of a start and its end.
    fn pair(&mut self, cx: &mut Shared<'_>, seq: u64, mut end: End, waited_as: Option<u64>) {
        let Some(start) = self.open.remove(seq) else { return };
        let start = *start;
        self.ledger.paired += 2;
        self.ledger.spans_made += 1;
        self.ledger.notes.reordered += u64::from(start.arrived > end.arrived);
        self.observe_end(&end.name.emitted, false);
        if let Some(waited_as) = waited_as {
            self.unwait(&end, waited_as);
        }
        self.remember_pair(cx, seq, &start, &end);
        let interval = start.interval(seq);
        let mut context = start.context;
        let mut parent = start.parent;
        let mut is_explicit = start.is_explicit;
        if let Some(identity) = end.identity.take()
            && !start.is_explicit
            && !start.has_children
        {
            let beginning = explicit(identity);
            (context, parent, is_explicit) = (beginning.context, beginning.parent, true);
        }
        let times = compose::paired_times(start.start, end.time, end.duration, cx.now);
        let mut attributes = end.meaning.attributes;
        let left_out = attributes.add_missing(&start.attributes, cx.reader.max_span_attributes());
        self.ledger.notes.attributes_cut += u64::from(left_out);
        let events = start.events.map_or_else(OpenEvents::default, |events| *events);
        let mut finished = Finished {
            name: start.name,
            context,
            parent,
            has_correlation: start.has_correlation || !end.correlation_id.is_empty(),
            kind: end.meaning.kind.or(start.kind),
            start: times.start,
            end: times.end,
            attributes,
            events: events.list,
            dropped_events: events.dropped,
            links: Vec::new(),
            lacks_start: false,
            status: Status::Unset,
        };
        self.mark_adjusted(&mut finished, times);
        finished.apply(end.meaning.outcome, times.end);
        let ended = end.time.max(start.start);
        let place = crate::engine::nesting::Place {
            interval,
            start: start.start,
            end: ended,
            arrived: end.arrived,
            base: start.base.map(NonZeroU64::get),
            tokens: start.tokens.or(end.tokens),
            is_settled: is_explicit || interval.is_none(),
            is_judged: start.is_judged,
        };
        self.finish(cx, seq, finished, place);
    }

    fn remember_pair(&mut self, cx: &Shared<'_>, seq: u64, start: &OpenSpan, end: &End) {
        let window = cx.settings.reorder_window;
        let (until, max) = (cx.now.mono.after(window), cx.settings.limits.max_duplicates_per_worker);
        self.fingerprints.release_held(start.fingerprint, until, max);
        self.fingerprints.release(end.fingerprint, until, max);
        self.tokens.spend(start.tokens, TokenHolder::Open(seq), until, max);
        self.tokens.spend(end.tokens, TokenHolder::Open(seq), until, max);
    }
}

/// Ids that the sender gave.
pub(crate) fn explicit(identity: crate::engine::ids::ExplicitIdentity) -> Beginning {
    let parent = identity.parent.map_or(Parent::Root, Parent::Explicit);
    Beginning { context: identity.context, parent, base: None }
}

impl Shared<'_> {
    /// How long a start of this operation waits.
    pub(crate) fn span_timeout(&self, emitted: &str) -> std::time::Duration {
        self.reader.timeout(emitted).unwrap_or(self.settings.span_timeout)
    }

    /// A time of the worker as it is exported, if it can be meant; else the arrival's.
    pub(crate) fn credible(&self, time: i64) -> UnixNanos {
        let time = UnixNanos(time);
        if crate::engine::clock::is_credible(time, self.now) { time } else { self.now.wall }
    }
}
