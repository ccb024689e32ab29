//! Which span a span is nested in, and when that is decided.
//!
//! Explicit identity wins. Else the parent is the span of the same worker and group, of another operation, whose
//! interval contains the child's in event time, the one that starts latest; where two such spans overlap without one
//! containing the other, it is their nearest common encloser. A span is judged when the reorder window after its end
//! has closed, so disorder changes nothing; until then it is *held*.

use crate::engine::compose::{Finished, Parent};
use crate::engine::half::span_id_token;
use crate::engine::ids::SpanContext;
use crate::engine::intervals::{IntervalKey, OPEN_END};
use crate::engine::memory::TokenHolder;
use crate::engine::nesting::around::Container;
use crate::engine::state::{Shared, WorkerState};
use crate::time::Monotonic;

mod around;
mod held;

pub(crate) use crate::engine::nesting::held::{Held, HeldSpans, Place};

/// Open ancestors that are judged before their descendant.
const MAX_DEPTH: usize = 64;

/// A span among the intervals of its group.
#[derive(Debug)]
pub(crate) struct Relative {
    /// What its children take over; an open span has its own, and an undecided end has none yet.
    pub(crate) context: Option<Box<SpanContext>>,
    pub(crate) standing: Standing,
}

/// How far a span among the intervals has come. Its sequence number is in its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A start without its end.
    Open,
    /// An end that waits; its interval is a guess.
    Undecided {
        /// It is decided then.
        until: Monotonic,
    },
    /// Finished, and waiting for its own judgement.
    Held {
        /// It is judged then.
        due: Monotonic,
    },
    /// Closed without its end: counts as open until a late end comes.
    Closed,
    /// Exported.
    Exported,
}

/// Under what conditions a span is judged.
#[derive(Debug, Clone, Copy)]
struct Chance {
    now: Monotonic,
    /// It cannot wait: it is judged on what is known.
    is_last: bool,
    /// The end of the span whose ancestors are in question.
    inner_end: i64,
}

impl WorkerState {
    /// A span is finished: it is exported at once if its parent is settled, else held.
    pub(crate) fn finish(&mut self, cx: &mut Shared<'_>, seq: u64, finished: Finished, place: Place) {
        let due = place.arrived.after(cx.settings.reorder_window);
        self.mark_named_parent(finished.parent);
        if let Some(interval) = place.interval {
            let context = Some(Box::new(finished.context.clone()));
            let standing = if place.is_settled { Standing::Exported } else { Standing::Held { due } };
            self.intervals.update(&interval, |end, relative| {
                *end = place.end;
                *relative = Relative { context, standing };
            });
        }
        if place.is_settled {
            let mut finished = finished;
            self.attach_pending_events(cx, place.interval, place.start, place.end, &mut finished);
            return self.export(cx, finished, &place);
        }
        self.tokens.set(place.tokens.unique(), TokenHolder::Held(due, seq));
        self.held.insert((due, seq), Box::new(Held { finished, place }));
        if self.held.len() > cx.settings.limits.max_held_per_worker {
            self.judge_oldest_early(cx);
        }
    }

    /// Judges every held span whose time has come.
    pub(crate) fn judge_due(&mut self, cx: &mut Shared<'_>) {
        while let Some(at) = self.held.first().filter(|(due, _)| *due <= cx.now.mono) {
            self.judge_held(cx, at, false, 0);
        }
    }

    /// Judges the held span that has waited longest, on what is known.
    pub(crate) fn judge_oldest_early(&mut self, cx: &mut Shared<'_>) {
        if let Some(at) = self.held.first() {
            self.ledger.notes.judged_early += 1;
            self.judge_held(cx, at, true, 0);
        }
    }

    /// Judges every held span, on what is known.
    pub(crate) fn judge_all(&mut self, cx: &mut Shared<'_>) {
        while let Some(at) = self.held.first() {
            self.judge_held(cx, at, true, 0);
        }
    }

    /// Exports a held span under its parent, or puts it off if that depends on what is decided later.
    fn judge_held(&mut self, cx: &mut Shared<'_>, at: (Monotonic, u64), is_last_chance: bool, depth: usize) {
        let Some(Held { place, .. }) = self.held.get(at) else { return };
        let Some(interval) = place.interval else { return };
        let mut found = None;
        if !place.is_judged {
            let (start, end) = (place.start, place.end);
            let chance = Chance { now: cx.now.mono, is_last: is_last_chance, inner_end: end };
            let wait = match self.container(interval, start, end, chance) {
                Container::None => None,
                Container::UnknownUntil(until) => Some(until),
                Container::Is(parent) => match self.parent_context(cx, parent, chance, depth) {
                    Ok(context) => {
                        found = Some((parent, context));
                        None
                    }
                    Err(until) => Some(until),
                },
            };
            if let Some(until) = wait {
                debug_assert!(until > cx.now.mono, "what is due is decided before anything is judged");
                return self.put_off(at, until, interval);
            }
        }
        let Some(held) = self.held.remove(at) else { return };
        let Held { mut finished, place } = *held;
        if let Some((parent, context)) = found {
            self.mark_parent(parent);
            finished.parent = Parent::Inferred(context.span_id);
            adopt(&mut finished.context, &context);
        }
        let context = Some(Box::new(finished.context.clone()));
        self.intervals.update(&interval, |_, relative| {
            *relative = Relative { context, standing: Standing::Exported };
        });
        self.attach_pending_events(cx, Some(interval), place.start, place.end, &mut finished);
        let until = cx.now.mono.after(cx.settings.reorder_window);
        let max = cx.settings.limits.max_duplicates_per_worker;
        self.tokens.spend(place.tokens, TokenHolder::Held(at.0, at.1), until, max);
        self.export(cx, finished, &place);
    }

    fn put_off(&mut self, at: (Monotonic, u64), until: Monotonic, interval: IntervalKey) {
        let Some(held) = self.held.remove(at) else { return };
        let later = (until, at.1);
        self.tokens.set(held.place.tokens.unique(), TokenHolder::Held(until, at.1));
        self.held.insert(later, held);
        self.intervals.update(&interval, |_, relative| relative.standing = Standing::Held { due: until });
    }

    /// Remembers that a finished span names an open one, by its identity, as its parent.
    fn mark_named_parent(&mut self, parent: Parent) {
        if let Parent::Explicit(id) = parent
            && let Some(TokenHolder::Open(seq)) = self.tokens.holder(span_id_token(&id.0))
        {
            self.open.mark_parent(seq);
        }
    }

    /// Remembers that a span of this bridge names `parent` as its parent.
    fn mark_parent(&mut self, parent: IntervalKey) {
        self.open.mark_parent(parent.seq);
    }

    /// The context that a child of `parent` takes over. Open ancestors are judged first, and that stands.
    ///
    /// # Errors
    /// With the time at which it is known, where `parent` waits for its own judgement, which may change its trace.
    fn parent_context(
        &mut self,
        cx: &mut Shared<'_>,
        parent: IntervalKey,
        chance: Chance,
        depth: usize,
    ) -> Result<SpanContext, Monotonic> {
        match self.standing(&parent) {
            Some(Standing::Open) => self.judge_open(cx, parent.seq, chance, depth + 1)?,
            Some(Standing::Held { due }) if depth < MAX_DEPTH && (due <= chance.now || chance.is_last) => {
                self.judge_held(cx, (due, parent.seq), chance.is_last, depth + 1);
            }
            Some(
                Standing::Held { .. } | Standing::Undecided { .. } | Standing::Closed | Standing::Exported,
            )
            | None => {}
        }
        if let Some(Standing::Held { due }) = self.standing(&parent)
            && due > chance.now
            && !chance.is_last
            && self.held.get((due, parent.seq)).is_some_and(|held| !held.place.is_judged)
        {
            return Err(due);
        }
        let relative = self.intervals.get(&parent);
        let context = match self.open.get(parent.seq) {
            Some(span) => Some(&span.context),
            None => relative.and_then(|relative| relative.context.as_deref()),
        };
        Ok(context.cloned().expect("a container is open, or finished with a context"))
    }

    fn standing(&self, span: &IntervalKey) -> Option<Standing> {
        self.intervals.get(span).map(|relative| relative.standing)
    }

    /// Decides the parent of an open span that is about to be closed.
    pub(crate) fn judge_closing(&mut self, cx: &mut Shared<'_>, seq: u64) {
        let chance = Chance { now: cx.now.mono, is_last: true, inner_end: OPEN_END };
        let judged = self.judge_open(cx, seq, chance, 0);
        debug_assert!(judged.is_ok(), "the last chance waits for nothing");
    }

    /// Decides the parent of an open span, its own open ancestors first.
    ///
    /// # Errors
    /// With the time at which it is known, where the span may be over already, within another that is.
    fn judge_open(
        &mut self,
        cx: &mut Shared<'_>,
        seq: u64,
        chance: Chance,
        depth: usize,
    ) -> Result<(), Monotonic> {
        let Some(span) = self.open.get(seq).filter(|span| !span.is_judged && depth <= MAX_DEPTH) else {
            return Ok(());
        };
        let (start, interval) = (span.start, span.interval(seq));
        let mut found = None;
        if let Some(interval) = interval {
            if !chance.is_last {
                self.no_encloser_just_ended(interval, start, chance)?;
            }
            let decided = Chance { is_last: true, ..chance };
            if let Container::Is(parent) = self.container(interval, start, OPEN_END, decided) {
                found = Some((parent, self.parent_context(cx, parent, chance, depth)?));
            }
        }
        if let Some((parent, _)) = &found {
            self.mark_parent(*parent);
        }
        let Some(span) = self.open.get_mut(seq) else { return Ok(()) };
        span.is_judged = true;
        if let Some((_, context)) = found {
            span.parent = Parent::Inferred(context.span_id);
            adopt(&mut span.context, &context);
        }
        Ok(())
    }

    /// Whether no span around an open one and what is within it ended so lately that the end of the open one may still
    /// be on its way.
    ///
    /// # Errors
    /// With the time at which that has shown.
    fn no_encloser_just_ended(&self, open: IntervalKey, start: i64, chance: Chance) -> Result<(), Monotonic> {
        let (around, _) = self.candidates(open, start, chance.inner_end).unwrap_or_default();
        let dues = around.iter().filter_map(|candidate| match candidate.standing {
            Standing::Held { due } if due > chance.now => Some(due),
            Standing::Held { .. }
            | Standing::Open
            | Standing::Undecided { .. }
            | Standing::Closed
            | Standing::Exported => None,
        });
        dues.max().map_or(Ok(()), Err)
    }

    /// The span that contains `[start, end]` of the span at `own`; on the last chance, of those that are decided.
    fn container(&mut self, own: IntervalKey, start: i64, end: i64, chance: Chance) -> Container {
        let found = self.find_container(own, start, end, chance);
        self.ledger.notes.nesting_gave_up += u64::from(found.is_none());
        found.unwrap_or(Container::None)
    }

    /// The context that an open or held span would have if it were judged now, and whether its parent is remote.
    pub(crate) fn context_now(&self, holder: TokenHolder, now: Monotonic) -> Option<(SpanContext, bool)> {
        let own = self.unfinished(holder)?;
        let mut context = own.context.clone();
        let mut is_remote = matches!(own.parent, Parent::Remote(_));
        let mut unjudged = own.unjudged;
        for _ in 0..MAX_DEPTH {
            let Some((interval, start, end)) = unjudged else { break };
            let chance = Chance { now, is_last: true, inner_end: end };
            let Some(Container::Is(outer)) = self.find_container(interval, start, end, chance) else { break };
            is_remote = false;
            let holder = match self.standing(&outer) {
                Some(Standing::Held { due }) => TokenHolder::Held(due, outer.seq),
                _ => TokenHolder::Open(outer.seq),
            };
            match self.unfinished(holder) {
                Some(unfinished) => {
                    adopt(&mut context, unfinished.context);
                    unjudged = unfinished.unjudged;
                }
                None => {
                    let relative =
                        self.intervals.get(&outer).and_then(|relative| relative.context.as_deref());
                    relative.into_iter().for_each(|outer| adopt(&mut context, outer));
                    break;
                }
            }
        }
        Some((context, is_remote))
    }

    /// Gives a finished span to the exporter, and remembers where it stood for two windows after its end's arrival, and
    /// for one from now.
    pub(crate) fn export(&mut self, cx: &mut Shared<'_>, finished: Finished, place: &Place) {
        let window = cx.settings.reorder_window;
        if place.interval.is_some() || place.base.is_some() {
            let until = place.arrived.after(window).after(window).max(cx.now.mono.after(window));
            self.leave(until, place.interval, place.base);
        }
        let incomplete = finished.lacks_start.then_some("missing_start");
        self.emit(cx, finished, incomplete);
    }
}

/// A span with a parent in the bridge is in its parent's trace, whatever its own metadata say.
fn adopt(context: &mut SpanContext, parent: &SpanContext) {
    context.trace_id = parent.trace_id;
    context.flags = parent.flags;
    context.state.clone_from(&parent.state);
}
