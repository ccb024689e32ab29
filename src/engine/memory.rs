//! What a worker's state remembers of halves that have their fate: against duplicates, for starts and ends that come
//! late, and to keep derived ids apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use crate::engine::changes::Changes;
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

    /// Those that are to be forgotten, first to last, with the time.
    pub(crate) fn expiry(&self) -> &VecDeque<(Monotonic, u64)> {
        &self.expiry
    }

    /// Puts back those that were to be forgotten before a restart.
    pub(crate) fn restore(&mut self, expiry: VecDeque<(Monotonic, u64)>) {
        self.known.extend(expiry.iter().map(|(_, fingerprint)| *fingerprint));
        self.expiry = expiry;
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
    /// Holders that had a token taken from them by another.
    robbed: Vec<TokenHolder>,
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
            self.take_for(token, holder, holder);
        }
    }

    /// Gives a token to `next`, whoever has it; it was `own` that should.
    fn take_for(&mut self, token: u64, own: TokenHolder, next: TokenHolder) {
        if let Some(before) = self.holders.insert(token, next)
            && before != own
            && matches!(before, TokenHolder::Open(_) | TokenHolder::Closed(_))
        {
            self.robbed.push(before);
        }
    }

    /// Somebody had a token taken from them since this was asked last.
    pub(crate) fn take_robbed(&mut self) -> Vec<TokenHolder> {
        std::mem::take(&mut self.robbed)
    }

    /// Which of the tokens `holder` has, as bits in their order.
    pub(crate) fn owned(&self, tokens: Tokens, holder: TokenHolder) -> u8 {
        let has = |token: u64| u8::from(self.holder(token) == Some(holder));
        tokens.iter().enumerate().map(|(at, token)| has(token) << at).sum()
    }

    /// Puts back what [`TokenTable::owned`] said before a restart.
    pub(crate) fn restore_owned(&mut self, tokens: Tokens, holder: TokenHolder, owned: u8) {
        for (_, token) in tokens.iter().enumerate().filter(|(at, _)| owned >> at & 1 == 1) {
            self.holders.insert(token, holder);
        }
    }

    /// Tokens that are to be forgotten, first to last, with the time, and whether they are spent until then.
    pub(crate) fn expiry(&self) -> impl ExactSizeIterator<Item = (Monotonic, u64, bool)> {
        self.expiry.iter().map(|(until, token)| {
            (*until, *token, self.holder(*token) == Some(TokenHolder::Spent { until: *until }))
        })
    }

    /// Puts back what [`TokenTable::expiry`] said before a restart.
    pub(crate) fn restore_expiry(&mut self, expiry: Vec<(Monotonic, u64, bool)>) {
        for (until, token, is_spent) in expiry {
            self.expiry.push_back((until, token));
            if is_spent {
                self.holders.insert(token, TokenHolder::Spent { until });
            }
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
            self.take_for(token, holder, TokenHolder::Spent { until });
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
    /// Bases of which an ordinal was given back while others are in use: only of these is the next ordinal another than
    /// the number of users.
    odd: BTreeSet<u64>,
}

impl Ordinals {
    pub(crate) fn len(&self) -> usize {
        self.bases.len()
    }

    /// Next ordinals that do not follow from who uses their bases.
    pub(crate) fn odd(&self) -> Vec<(u64, u32)> {
        self.odd.iter().filter_map(|base| Some((*base, self.bases.get(base)?.0))).collect()
    }

    /// Puts back what [`Ordinals::odd`] said before a restart, once every user has taken an ordinal again.
    pub(crate) fn restore_odd(&mut self, odd: Vec<(u64, u32)>) {
        for (base, next) in odd {
            if let Some(known) = self.bases.get_mut(&base) {
                known.0 = next;
                self.odd.insert(base);
            }
        }
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
            if *users > 0 {
                self.odd.insert(base);
            } else {
                self.bases.remove(&base);
                self.odd.remove(&base);
                if is_roomy(self.bases.len(), self.bases.capacity()) {
                    self.bases.shrink_to_fit();
                }
            }
        }
    }
}

/// A span that was made of one half, and that its other half may still explain.
#[derive(Debug, Serialize, Deserialize)]
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
#[derive(Debug, Serialize, Deserialize)]
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
#[derive(Debug, Serialize, Deserialize)]
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
    changes: Changes,
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
        self.changes.remove(number);
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

    /// To change it in a way that the tables do not show.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut ClosedSpan> {
        let span = self.spans.get_mut(&number)?;
        self.changes.change(number);
        Some(span)
    }

    /// What the tables do not say of a span has changed.
    pub(crate) fn touch(&mut self, number: u64) {
        if self.spans.contains_key(&number) {
            self.changes.change(number);
        }
    }

    /// Which of the spans differ from what was written.
    pub(crate) fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// In order of closing.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &ClosedSpan)> {
        self.spans.iter().map(|(number, span)| (*number, span))
    }

    /// Those of the range that were never written, and those that changed since; ascending.
    pub(crate) fn unwritten(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &ClosedSpan)> {
        let changed = self.changes.changed(range.clone()).filter_map(|seq| Some((seq, self.get(seq)?)));
        let new = self.spans.range(self.changes.new_of(range));
        changed.chain(new.map(|(number, span)| (*number, span)))
    }

    /// A rebuilt end got its start.
    pub(crate) fn explain(&mut self, number: u64) {
        let Some(span) = self.spans.get_mut(&number) else { return };
        self.changes.change(number);
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
