//! A measurement between what it means and what becomes of it.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

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
    pub(crate) attributes: &'a PointKeys<'a>,
}

/// Why a measurement went into no series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// An increment of a counter that is negative.
    Negative,
    /// There is no room for its series.
    NoRoom,
    /// Another instrument has its name.
    Conflict,
}

/// A point attribute.
type Pair<'a> = (&'a str, Cow<'a, str>);

/// Attributes that are kept in place; more are rare.
const INLINE: usize = 8;

/// A point's attributes, unique and in the order of their keys.
///
/// An array and not a `SmallVec`, which cannot be lent for a shorter time than what is in it lives.
#[derive(Debug)]
pub(crate) struct PointKeys<'a> {
    inline: [Pair<'a>; INLINE],
    len: usize,
    /// All of them, where there are more.
    spilled: Vec<Pair<'a>>,
    hash: u64,
}

impl<'a> PointKeys<'a> {
    /// Of these pairs, whose keys are unique, in whatever order.
    pub(crate) fn new(mut pairs: SmallVec<[Pair<'a>; INLINE]>) -> Self {
        pairs.sort_unstable_by_key(|(key, _)| *key);
        debug_assert!(pairs.windows(2).all(|pair| pair[0].0 < pair[1].0), "keys are unique");
        let hash = pairs.iter().fold(0, |hash, (key, value)| {
            xxh3_64_with_seed(value.as_bytes(), xxh3_64_with_seed(key.as_bytes(), hash))
        });
        let mut keys = Self { hash, ..Self::default() };
        if pairs.len() > INLINE {
            keys.spilled = pairs.into_vec();
        } else {
            keys.len = pairs.len();
            keys.inline.iter_mut().zip(pairs).for_each(|(place, pair)| *place = pair);
        }
        keys
    }

    /// In the order of their keys.
    pub(crate) fn pairs(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let pairs = if self.spilled.is_empty() { &self.inline[..self.len] } else { &self.spilled[..] };
        pairs.iter().map(|(key, value)| (*key, &**value))
    }

    /// Stands for them in tables; others may share it.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl Default for PointKeys<'_> {
    fn default() -> Self {
        let inline = [const { ("", Cow::Borrowed("")) }; INLINE];
        Self { inline, len: 0, spilled: Vec::new(), hash: 0 }
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
