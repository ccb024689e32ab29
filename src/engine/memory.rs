//! What a worker's state remembers of halves that have their fate: against duplicates, for starts and ends that come
//! late, and to keep derived ids apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::{HashMap, HashSet};

use crate::engine::compose::Parent;
use crate::engine::half::Tokens;
use crate::engine::ids::SpanContext;
use crate::engine::intervals::IntervalKey;
use crate::engine::open::MAX_CANDIDATES;
use crate::engine::steps;
use crate::time::Monotonic;

/// Whether a table has so much more room than entries that it is worth giving back: bursts pass.
fn is_roomy(len: usize, capacity: usize) -> bool {
    capacity > 1024 && len < capacity / 16
}

/// Fingerprints of halves: those of open starts and closed spans for as long as these are remembered, those of others
/// for the duplicate memory.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    known: HashSet<u64>,
    expiry: VecDeque<(Monotonic, u64)>,
}

impl Fingerprints {
    /// Of both tables.
    pub(crate) fn len(&self) -> usize {
        self.known.len() + self.expiry.len()
    }

    pub(crate) fn contains(&self, fingerprint: u64) -> bool {
        self.known.contains(&fingerprint)
    }

    /// Remembers until told otherwise.
    pub(crate) fn hold(&mut self, fingerprint: u64) {
        self.known.insert(fingerprint);
    }

    /// Forgets at `until` what is held, or earlier where `max` newer ones are to be forgotten.
    pub(crate) fn release_held(&mut self, fingerprint: u64, until: Monotonic, max: usize) {
        self.expiry.push_back((until, fingerprint));
        if self.expiry.len() > max {
            self.forget_first();
        }
    }

    /// Forgets at `until`, or earlier where `max` newer ones are to be forgotten.
    pub(crate) fn release(&mut self, fingerprint: u64, until: Monotonic, max: usize) {
        self.hold(fingerprint);
        self.release_held(fingerprint, until, max);
    }

    pub(crate) fn forget(&mut self, fingerprint: u64) {
        self.known.remove(&fingerprint);
    }

    pub(crate) fn expire(&mut self, now: Monotonic) {
        while self.expiry.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
        if self.expiry.is_empty() {
            self.expiry.shrink_to_fit();
        }
        if is_roomy(self.known.len(), self.known.capacity()) {
            self.known.shrink_to_fit();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, fingerprint)) = self.expiry.pop_front() {
            self.known.remove(&fingerprint);
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Monotonic> {
        self.expiry.front().map(|(until, _)| *until)
    }
}

/// Whose a pairing token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenHolder {
    /// An open span, by its sequence number.
    Open(u64),
    /// A waiting end.
    Waiting(u64),
    /// A finished span that is held for its parent.
    Held(Monotonic, u64),
    /// A closed span, by its number in [`ClosedSpans`].
    Closed(u64),
    /// A span that is gone: another half is a duplicate.
    Spent {
        /// It is forgotten then.
        until: Monotonic,
    },
}

/// Who holds which pairing token.
#[derive(Debug, Default)]
pub(crate) struct TokenTable {
    holders: HashMap<u64, TokenHolder>,
    expiry: VecDeque<(Monotonic, u64)>,
}

impl TokenTable {
    /// Of both tables.
    pub(crate) fn len(&self) -> usize {
        self.holders.len() + self.expiry.len()
    }

    pub(crate) fn holder(&self, token: u64) -> Option<TokenHolder> {
        self.holders.get(&token).copied()
    }

    pub(crate) fn set(&mut self, tokens: impl Iterator<Item = u64>, holder: TokenHolder) {
        for token in tokens {
            self.holders.insert(token, holder);
        }
    }

    /// Gives the tokens to `holder` unless somebody has them.
    pub(crate) fn set_if_free(&mut self, tokens: impl Iterator<Item = u64>, holder: TokenHolder) {
        for token in tokens {
            self.holders.entry(token).or_insert(holder);
        }
    }

    /// Gives the tokens of one holder, and those that are free, to another.
    pub(crate) fn pass_on(&mut self, tokens: Tokens, from: TokenHolder, to: TokenHolder) {
        for token in tokens.iter() {
            if self.holder(token).is_none_or(|holder| holder == from) {
                self.holders.insert(token, to);
            }
        }
    }

    /// Takes the tokens from `holder`: unique ones are spent until `until`, others are free again.
    pub(crate) fn spend(&mut self, tokens: Tokens, holder: TokenHolder, until: Monotonic, max: usize) {
        for token in tokens.unique() {
            self.holders.insert(token, TokenHolder::Spent { until });
            self.expiry.push_back((until, token));
            if self.expiry.len() > max {
                self.forget_first();
            }
        }
        if let Some(token) = tokens.monotonic()
            && self.holder(token) == Some(holder)
        {
            self.holders.remove(&token);
        }
    }

    /// Takes the tokens from `holder`, as if they had never been.
    pub(crate) fn free(&mut self, tokens: Tokens, holder: TokenHolder) {
        for token in tokens.iter() {
            if self.holder(token) == Some(holder) {
                self.holders.remove(&token);
            }
        }
    }

    pub(crate) fn expire(&mut self, now: Monotonic) {
        while self.expiry.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
        if is_roomy(self.holders.len(), self.holders.capacity()) {
            self.holders.shrink_to_fit();
            self.expiry.shrink_to_fit();
        }
    }

    fn forget_first(&mut self) {
        if let Some((until, token)) = self.expiry.pop_front()
            && self.holder(token) == Some(TokenHolder::Spent { until })
        {
            self.holders.remove(&token);
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Monotonic> {
        self.expiry.front().map(|(until, _)| *until)
    }
}

/// Tells spans apart whose derived ids would be equal.
#[derive(Debug, Default)]
pub(crate) struct Ordinals {
    /// By the base of the derivation: the next ordinal, and how many spans still use one.
    bases: HashMap<u64, (u32, u32)>,
}

impl Ordinals {
    pub(crate) fn len(&self) -> usize {
        self.bases.len()
    }

    /// The next ordinal of this base. It is to be given back with [`Ordinals::release`].
    pub(crate) fn take(&mut self, base: u64) -> u32 {
        let (next, users) = self.bases.entry(base).or_default();
        let ordinal = *next;
        *next = next.wrapping_add(1);
        *users += 1;
        ordinal
    }

    pub(crate) fn release(&mut self, base: u64) {
        if let Some((_, users)) = self.bases.get_mut(&base) {
            *users -= 1;
            if *users == 0 {
                self.bases.remove(&base);
                if is_roomy(self.bases.len(), self.bases.capacity()) {
                    self.bases.shrink_to_fit();
                }
            }
        }
    }
}

/// A span that was made of one half, and that its other half may still explain.
#[derive(Debug)]
pub(crate) struct ClosedSpan {
    /// With the sort.
    pub(crate) key: u64,
    pub(crate) fingerprint: u64,
    pub(crate) tokens: Tokens,
    /// Of the ids that were derived for it, and for its late end.
    pub(crate) bases: [Option<u64>; 2],
    pub(crate) until: Monotonic,
    pub(crate) half: ClosedHalf,
}

/// Which half a closed span was made of.
#[derive(Debug)]
pub(crate) enum ClosedHalf {
    /// An end without start; no start has explained it yet.
    Rebuilt {
        /// When its start was, if it says how long it took.
        estimate: Option<i64>,
    },
    /// An end whose start came too late, or whose start had been closed before.
    Explained,
    /// A start without end.
    Incomplete(Box<IncompleteSpan>),
}

/// What a late end needs of the span that was closed without it.
#[derive(Debug)]
pub(crate) struct IncompleteSpan {
    /// The start's own time.
    pub(crate) start: i64,
    pub(crate) context: SpanContext,
    pub(crate) parent: Parent,
    /// Where it still counts as open.
    pub(crate) interval: Option<IntervalKey>,
    pub(crate) operation: std::sync::Arc<str>,
}

/// The closed spans of one worker, in order of closing.
#[derive(Debug, Default)]
pub(crate) struct ClosedSpans {
    spans: BTreeMap<u64, ClosedSpan>,
    rebuilt: BTreeSet<(u64, i64, u64)>,
    incomplete: BTreeSet<(u64, i64, u64)>,
}

impl ClosedSpans {
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn insert(&mut self, number: u64, span: ClosedSpan) {
        match &span.half {
            ClosedHalf::Rebuilt { estimate: Some(estimate) } => {
                self.rebuilt.insert((span.key, *estimate, number));
            }
            ClosedHalf::Incomplete(incomplete) => {
                self.incomplete.insert((span.key, incomplete.start, number));
            }
            ClosedHalf::Rebuilt { estimate: None } | ClosedHalf::Explained => {}
        }
        self.spans.insert(number, span);
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<ClosedSpan> {
        let span = self.spans.remove(&number)?;
        match &span.half {
            ClosedHalf::Rebuilt { estimate: Some(estimate) } => {
                self.rebuilt.remove(&(span.key, *estimate, number));
            }
            ClosedHalf::Incomplete(incomplete) => {
                self.incomplete.remove(&(span.key, incomplete.start, number));
            }
            ClosedHalf::Rebuilt { estimate: None } | ClosedHalf::Explained => {}
        }
        Some(span)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&ClosedSpan> {
        self.spans.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut ClosedSpan> {
        self.spans.get_mut(&number)
    }

    /// A rebuilt end got its start.
    pub(crate) fn explain(&mut self, number: u64) {
        let Some(span) = self.spans.get_mut(&number) else { return };
        let half = std::mem::replace(&mut span.half, ClosedHalf::Explained);
        debug_assert!(matches!(half, ClosedHalf::Rebuilt { .. }), "only a rebuilt end is explained");
        if let ClosedHalf::Rebuilt { estimate: Some(estimate) } = half {
            self.rebuilt.remove(&(span.key, estimate, number));
        }
    }

    /// Rebuilt ends of `key` whose estimates lie in the range, nearest to its beginning first.
    pub(crate) fn rebuilt_between(&self, key: u64, from: i64, to: i64) -> impl Iterator<Item = (u64, i64)> {
        let range = self.rebuilt.range((key, from.min(to), 0)..=(key, to, u64::MAX)).take(MAX_CANDIDATES);
        range.inspect(|_| steps::count()).map(|(_, start, number)| (*number, *start))
    }

    /// Incomplete spans of `key` that start in the range, latest first.
    pub(crate) fn incomplete_between(
        &self,
        key: u64,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = (u64, i64)> {
        let range = self.incomplete.range((key, from.min(to), 0)..=(key, to, u64::MAX)).rev();
        range.take(MAX_CANDIDATES).inspect(|_| steps::count()).map(|(_, start, number)| (*number, *start))
    }

    /// Whether `key` has any incomplete span.
    pub(crate) fn has_incomplete(&self, key: u64) -> bool {
        self.incomplete_between(key, i64::MIN, i64::MAX).next().is_some()
    }

    /// Whether `key` has exactly one incomplete span.
    pub(crate) fn is_lone_incomplete(&self, key: u64) -> bool {
        self.incomplete.range((key, i64::MIN, 0)..=(key, i64::MAX, u64::MAX)).take(2).count() == 1
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.spans.first_key_value().map(|(number, _)| *number)
    }

    /// The oldest, if its time is over.
    pub(crate) fn due(&self, now: Monotonic) -> Option<u64> {
        self.spans.first_key_value().filter(|(_, span)| span.until <= now).map(|(number, _)| *number)
    }

    pub(crate) fn next_expiry(&self) -> Option<Monotonic> {
        self.spans.first_key_value().map(|(_, span)| span.until)
    }
}
