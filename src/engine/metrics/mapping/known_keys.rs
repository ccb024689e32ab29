//! What the metadata keys of a name's events become, remembered key by key.
//!
//! What a [`KeySet`] makes of a key depends on the list and on the key, and both are compared: what is remembered is never
//! wrong, and what is not is looked up. Settings are no part of it, for lists stay as they are while there is a mapping. Keys
//! come in any order, another in each of a worker's processes, for a protobuf map has none; but a process keeps to its own,
//! so that a key is looked for first behind the one before it.

use super::plan::LeftOff;
use super::point_keys::{KeySet, Meaning};
use crate::engine::metrics::measured::{Pairs, PairsHash};
use crate::engine::short::is_same;
use crate::event::Event;

/// Keys that are remembered for a name, of all lists; further ones are looked up each time.
const MAX_KNOWN_KEYS: usize = 64;

/// Bytes of such a key.
const MAX_KNOWN_KEY_BYTES: usize = 64;

/// The keys that a name's events were seen with.
#[derive(Debug, Default)]
pub(super) struct KnownKeys(Vec<KnownKey>);

/// One of them.
#[derive(Debug)]
struct KnownKey {
    /// The place of the rule whose list it is of; of the general one where absent.
    list: Option<usize>,
    key: Box<str>,
    meaning: Option<Meaning>,
}

impl KnownKeys {
    /// Adds an event's point attributes by the list at a place. Keys that are left off are noted when they are seen first:
    /// both are remembered with the name.
    pub(super) fn gather<'a, 'e: 'a>(
        &mut self,
        (list, keys): (Option<usize>, &'a KeySet),
        event: &Event<'e>,
        left_off: &mut LeftOff,
        pairs: &mut Pairs<'a>,
    ) -> PairsHash {
        let mut next = 0;
        let meaning = |key: &str| match self.find(list, key, next) {
            Some(at) => {
                next = at + 1;
                self.0[at].meaning
            }
            None => self.find_out((list, keys), key, left_off),
        };
        keys.of_event(event, meaning, pairs)
    }

    /// The place of a key, which is looked for from a place on, and then before it.
    #[inline]
    fn find(&self, list: Option<usize>, key: &str, from: usize) -> Option<usize> {
        let is_it = |known: &KnownKey| is_same(&known.key, key) && known.list == list;
        let (before, behind) = self.0.split_at(from);
        let behind = behind.iter().position(is_it).map(|at| from + at);
        behind.or_else(|| before.iter().position(is_it))
    }

    #[cold]
    fn find_out(
        &mut self,
        (list, keys): (Option<usize>, &KeySet),
        key: &str,
        left_off: &mut LeftOff,
    ) -> Option<Meaning> {
        let meaning = keys.meaning(key);
        if meaning.is_none() {
            left_off.note(key);
        }
        if self.0.len() < MAX_KNOWN_KEYS && key.len() <= MAX_KNOWN_KEY_BYTES {
            self.0.push(KnownKey { list, key: key.into(), meaning });
        }
        meaning
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::settings::{RedactAction, RedactRule};

    /// Keys that share a name, a key that is hashed, and some that are left off.
    const KEYS: [&str; 8] = ["tool", "snakepit_tool", "tool.name", "tool_name", "model", "stage", "x", "y"];

    fn lists() -> [KeySet; 2] {
        let redact = [RedactRule { key: "model".to_owned(), action: RedactAction::Hash }];
        let allow = ["tool_name", "tool.name", "snakepit_tool"].map(str::to_owned);
        [KeySet::general(&allow, &[], &redact), KeySet::of(["stage", "x"].into_iter(), &redact)]
    }

    fn event<'e>(metadata: &[(&'e str, &'e str)]) -> Event<'e> {
        Event { metadata: metadata.iter().copied().collect(), ..Event::default() }
    }

    proptest! {
        /// Whatever is remembered, an event has the attributes that it would have if nothing were.
        #[test]
        fn what_is_remembered_is_what_would_be_found(
            events in prop::collection::vec(
                (0..2_usize, prop::sample::subsequence(KEYS.to_vec(), 0..=5).prop_shuffle(),
                 prop::collection::vec(0..3_usize, 5)),
                1..40,
            )
        ) {
            let lists = lists();
            let (mut known, mut left_off) = (KnownKeys::default(), LeftOff::default());
            let mut left_off_in_all = LeftOff::default();
            for (list, sent, values) in &events {
                let metadata: Vec<_> =
                    sent.iter().zip(values).map(|(key, value)| (*key, ["", "a", "b"][*value])).collect();
                let (event, keys) = (event(&metadata), &lists[*list]);
                let at = (*list > 0).then_some(*list);
                let (mut pairs, mut expected) = (Pairs::new(), Pairs::new());
                // The second time from memory.
                for _ in 0..2 {
                    pairs.clear();
                    expected.clear();
                    let hash = known.gather((at, keys), &event, &mut left_off, &mut pairs);
                    prop_assert_eq!(hash, keys.of_event(&event, |key| keys.meaning(key), &mut expected));
                    prop_assert_eq!(&pairs, &expected);
                }
                let left = sent.iter().filter(|key| keys.meaning(key).is_none());
                left.for_each(|key| left_off_in_all.note(key));
            }
            prop_assert_eq!(left_off.keys, left_off_in_all.keys);
        }
    }

    #[test]
    fn a_key_is_remembered_once_in_whatever_order_and_long_and_many_ones_are_not() {
        let [keys, _] = lists();
        let (mut known, mut left_off) = (KnownKeys::default(), LeftOff::default());
        let mut gather = |metadata: &[(&str, &str)]| {
            let mut pairs = Pairs::new();
            known.gather((None, &keys), &event(metadata), &mut left_off, &mut pairs);
            (known.0.len(), pairs.len())
        };
        assert_eq!(gather(&[("tool", "a"), ("x", "b")]), (2, 1));
        assert_eq!(gather(&[("x", ""), ("tool", "a")]), (2, 1));
        let long = "k".repeat(MAX_KNOWN_KEY_BYTES + 1);
        assert_eq!(gather(&[(&long, "a")]), (2, 0));
        let many: Vec<_> = (0..MAX_KNOWN_KEYS).map(|number| number.to_string()).collect();
        let many: Vec<_> =
            many.iter().map(|key| (&**key, "a")).chain([("model", "a"), ("tool", "b")]).collect();
        assert_eq!(gather(&many), (MAX_KNOWN_KEYS, 2), "no room is a reason to look, and not to lose");
    }
}
