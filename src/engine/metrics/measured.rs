//! A measurement between what it means and what becomes of it.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::engine::metrics::instrument::{Instrument, Number};

/// One measurement of one instrument.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    /// Of what.
    pub(crate) instrument: &'a Arc<Instrument>,
    /// Stands for the instrument in tables: equal for equal instruments of one mapping, and small.
    pub(crate) number: u32,
    /// In the instrument's unit.
    pub(crate) value: Number,
    /// What tells its series from others.
    pub(crate) attributes: PointKeys<'a>,
}

/// Why a measurement went into no series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// An increment of a counter that is negative: counters do not go down.
    Negative,
    /// The instance has all instruments that it may have, or is forgotten.
    NoRoom,
    /// An instrument that has its name, or one in the way of it in Prometheus, has another unit or kind.
    Conflict,
}

/// A point attribute.
pub(crate) type Pair<'a> = (&'a str, Cow<'a, str>);

/// Attributes that are gathered in place; more are rare.
const INLINE: usize = 8;

/// Point attributes while they are gathered, of one point or of several.
pub(crate) type Pairs<'a> = SmallVec<[Pair<'a>; INLINE]>;

/// A point's attributes, unique and in the order of their keys, where they were gathered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PointKeys<'a> {
    pairs: &'a [Pair<'a>],
    hash: PairsHash,
}

impl<'a> PointKeys<'a> {
    /// Of these pairs, whose keys are unique, in whatever order: they are put in order.
    pub(crate) fn of<'p: 'a>(pairs: &'a mut [Pair<'p>]) -> Self {
        pairs.sort_unstable_by_key(|(key, _)| *key);
        let hash = PairsHash::of(pairs);
        Self::in_order(pairs, hash)
    }

    /// Of these pairs, which are in order, and whose hash is known.
    pub(crate) fn in_order(pairs: &'a [Pair<'a>], hash: PairsHash) -> Self {
        debug_assert!(pairs.windows(2).all(|pair| pair[0].0 < pair[1].0), "keys are unique");
        debug_assert_eq!(hash, PairsHash::of(pairs), "one list has one hash, whoever makes it");
        Self { pairs, hash }
    }

    /// In the order of their keys.
    pub(crate) fn pairs(self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> {
        self.pairs.iter().map(|(key, value)| (*key, &**value))
    }

    /// Stands for them in tables; others may share it.
    pub(crate) fn hash(self) -> u64 {
        self.hash.0
    }
}

/// The hash of pairs so far. Keys are hashed once, where lists of them are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PairsHash(u64);

impl PairsHash {
    fn of(pairs: &[Pair<'_>]) -> Self {
        let mut hash = Self::default();
        pairs.iter().for_each(|(key, value)| hash.add(Self::of_key(key), value));
        hash
    }

    /// What [`PairsHash::add`] takes for a key.
    pub(crate) fn of_key(key: &str) -> u64 {
        xxh3_64(key.as_bytes())
    }

    /// Goes on with another pair. Values are hashed for themselves, so that one need not wait for the one before.
    #[inline]
    pub(crate) fn add(&mut self, key: u64, value: &str) {
        let pair = xxh3_64_with_seed(value.as_bytes(), key);
        self.0 = (self.0.rotate_left(5) ^ pair).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// How many measurements one stands for: 1, or where the worker sends a share of them only, one divided by that share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weight(f64);

impl Weight {
    /// It stands for itself.
    pub(crate) const ONE: Self = Self(1.0);

    /// For a worker that sends this share. A share of 0, or of more than all, says nothing.
    pub(crate) fn of_share(share: f64) -> Self {
        if share > 0.0 && share < 1.0 { Self(1.0 / share) } else { Self::ONE }
    }

    /// As a number; 1 or more.
    pub(crate) const fn value(self) -> f64 {
        self.0
    }
}
