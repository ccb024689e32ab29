//! Ends that are not decided yet.
//!
//! An end that does not match well inside the tolerance waits for one reorder window, and is decided among what is left
//! then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::drops::DropReason;
use crate::engine::half::{Tokens, sorted_key};
use crate::engine::ids::{ExplicitIdentity, TraceParent};
use crate::engine::intervals::IntervalKey;
use crate::engine::metadata::Meaning;
use crate::engine::naming::Name;
use crate::engine::open::MAX_CANDIDATES;
use crate::engine::steps;
use crate::engine::tolerance::{EARLY_SLACK_NS, LONE_START_NS, Residual};
use crate::time::Monotonic;

/// What the tables cost for each waiting end, beside the end itself.
const INDEX_BYTES: usize = 128;

/// An end, owned.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) name: Arc<Name>,
    /// Without the sort.
    pub(crate) key: u64,
    pub(crate) fingerprint: u64,
    pub(crate) time: i64,
    pub(crate) duration: Option<i64>,
    pub(crate) tokens: Tokens,
    pub(crate) identity: Option<ExplicitIdentity>,
    pub(crate) trace_parent: Option<TraceParent>,
    pub(crate) correlation_id: Box<str>,
    pub(crate) group: Option<u64>,
    pub(crate) meaning: Meaning,
    pub(crate) arrived: Monotonic,
    /// Its fate by the policy, unless its start was accepted.
    pub(crate) refusal: Option<DropReason>,
    /// No start was within the tolerance when it arrived.
    pub(crate) is_unmatched: bool,
    /// What it says of the tolerance while it waits.
    pub(crate) residual: Option<Residual>,
    /// Where it stands among the intervals while it waits.
    pub(crate) interval: Option<IntervalKey>,
}

impl End {
    pub(crate) fn estimate(&self) -> Option<i64> {
        self.duration.map(|duration| self.time.saturating_sub(duration))
    }

    pub(crate) fn sorted_key(&self) -> u64 {
        sorted_key(self.key, self.identity.is_some())
    }

    /// Whether nothing that proves a pair contradicts that this is the end of a start of its key with these tokens.
    pub(crate) fn may_belong_to(&self, tokens: Tokens) -> bool {
        !self.tokens.are_of_another_reading(tokens) && !self.tokens.contradict(tokens)
    }

    fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + INDEX_BYTES
            + self.name.own_bytes()
            + self.meaning.attributes.size_bytes()
            + self.meaning.outcome.size_bytes()
            + self.correlation_id.len()
    }
}

/// The waiting ends of one worker; in order of arrival, which is the order of their deadlines.
#[derive(Debug, Default)]
pub(crate) struct WaitingEnds {
    ends: BTreeMap<u64, (Monotonic, Box<End>)>,
    by_estimate: BTreeSet<(u64, i64, u64)>,
    /// Those without an estimate, by their own time.
    by_time: BTreeSet<(u64, i64, u64)>,
    unmatched: usize,
    bytes: usize,
}

impl WaitingEnds {
    /// How many had no start within the tolerance when they arrived.
    pub(crate) fn unmatched_len(&self) -> usize {
        self.unmatched
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&End> {
        self.ends.get(&seq).map(|(_, end)| &**end)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// In order of arrival.
    pub(crate) fn entries(&self) -> &BTreeMap<u64, (Monotonic, Box<End>)> {
        &self.ends
    }

    pub(crate) fn insert(&mut self, seq: u64, deadline: Monotonic, end: End) {
        match end.estimate() {
            Some(estimate) => self.by_estimate.insert((end.sorted_key(), estimate, seq)),
            None => self.by_time.insert((end.sorted_key(), end.time, seq)),
        };
        self.unmatched += usize::from(end.is_unmatched);
        self.bytes += end.size_bytes();
        self.ends.insert(seq, (deadline, Box::new(end)));
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Box<End>> {
        let (_, end) = self.ends.remove(&seq)?;
        match end.estimate() {
            Some(estimate) => self.by_estimate.remove(&(end.sorted_key(), estimate, seq)),
            None => self.by_time.remove(&(end.sorted_key(), end.time, seq)),
        };
        self.unmatched -= usize::from(end.is_unmatched);
        self.bytes -= end.size_bytes();
        Some(end)
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.ends.first_key_value().map(|(seq, _)| *seq)
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        self.ends.first_key_value().map(|(_, (deadline, _))| *deadline)
    }

    pub(crate) fn due(&self, now: Monotonic) -> Option<u64> {
        self.ends.first_key_value().filter(|(_, (deadline, _))| *deadline <= now).map(|(seq, _)| *seq)
    }

    /// The ends of `key` that estimate their start within the range, with their estimates.
    pub(crate) fn between(&self, key: u64, from: i64, to: i64) -> impl Iterator<Item = (u64, i64)> {
        let range = self.by_estimate.range((key, from.min(to), 0)..=(key, to, u64::MAX));
        range.inspect(|_| steps::count()).map(|(_, estimate, seq)| (*seq, *estimate))
    }

    /// When it is decided whether an end of `key` takes a start at `start`; `None` if none can.
    pub(crate) fn may_end_until(&self, key: u64, start: i64) -> Option<Monotonic> {
        let (from, to) = (start.saturating_sub(EARLY_SLACK_NS), start.saturating_add(LONE_START_NS));
        let near = self.between(key, from, to).map(|(seq, _)| seq).take(MAX_CANDIDATES);
        let later = self.by_time.range((key, start, 0)..=(key, i64::MAX, u64::MAX)).map(|(_, _, seq)| *seq);
        near.chain(later.take(MAX_CANDIDATES))
            .inspect(|_| steps::count())
            .filter_map(|seq| self.ends.get(&seq))
            .map(|(until, _)| *until)
            .max()
    }

    /// Whether an end of `key` other than `except` estimates its start within the range.
    pub(crate) fn any_between(&self, key: u64, from: i64, to: i64, except: Option<u64>) -> bool {
        from <= to
            && self
                .by_estimate
                .range((key, from, 0)..=(key, to, u64::MAX))
                .take(2)
                .inspect(|_| steps::count())
                .any(|(_, _, seq)| Some(*seq) != except)
    }
}
