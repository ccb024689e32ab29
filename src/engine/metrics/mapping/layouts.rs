//! Which metadata of a name's events become point attributes, remembered for keys in the order in which they are sent.
//!
//! The events of one name list their keys in one order, or in a few, so what a [`KeySet`] makes of them is kept and found
//! again by comparing keys. It depends on the list, on the keys in their order, and on which of them have no value, and all
//! three are compared: what is remembered may be forgotten, and is never wrong. Settings are no part of it, for lists stay
//! as they are while there is a mapping.

use super::plan::LeftOff;
use super::point_keys::{KeySet, Pick, Picks};
use crate::engine::metrics::measured::{Pairs, PairsHash};
use crate::engine::short::is_same;
use crate::event::Event;

/// Orders of keys that are remembered for a name, of all lists; a further one takes the place of the one that came first.
const MAX_LAYOUTS: usize = 4;

/// Keys of an order that is remembered.
const MAX_LAYOUT_KEYS: usize = 32;

/// Bytes of those keys.
const MAX_LAYOUT_BYTES: usize = 512;

/// The orders of keys that a name's events were seen with.
#[derive(Debug, Default)]
pub(super) struct Layouts {
    known: Vec<Layout>,
    /// Which of them gives way next.
    oldest: usize,
}

/// One of them.
#[derive(Debug)]
struct Layout {
    /// The place of the rule whose list it is of; of the general one where absent.
    list: Option<usize>,
    keys: Box<[Box<str>]>,
    picks: Box<[Pick]>,
    /// The places of keys that would have been picked with a value, or stood in another's way.
    empty: Box<[usize]>,
}

impl Layouts {
    /// Adds an event's point attributes by the list at a place. Keys that are left off are noted when their order is seen
    /// first: both are remembered with the name.
    pub(super) fn gather<'a, 'e: 'a>(
        &mut self,
        (list, keys): (Option<usize>, &'a KeySet),
        event: &Event<'e>,
        left_off: &mut LeftOff,
        pairs: &mut Pairs<'a>,
    ) -> PairsHash {
        match self.known.iter().find(|layout| layout.list == list && layout.is_of(event)) {
            Some(layout) => keys.of_event(event, &layout.picks, pairs),
            None => keys.of_event(event, &self.find_out((list, keys), event, left_off), pairs),
        }
    }

    #[cold]
    fn find_out(
        &mut self,
        (list, keys): (Option<usize>, &KeySet),
        event: &Event<'_>,
        left_off: &mut LeftOff,
    ) -> Picks {
        let mut empty = Vec::new();
        let picks = keys.pick(event, |key| left_off.note(key), |at| empty.push(at));
        let bytes: usize = event.metadata.iter().map(|(key, _)| key.len()).sum();
        if event.metadata.len() <= MAX_LAYOUT_KEYS && bytes <= MAX_LAYOUT_BYTES {
            let keys = event.metadata.iter().map(|(key, _)| Box::from(*key)).collect();
            self.remember(Layout { list, keys, picks: picks[..].into(), empty: empty.into() });
        }
        picks
    }

    fn remember(&mut self, layout: Layout) {
        if self.known.len() < MAX_LAYOUTS {
            return self.known.push(layout);
        }
        self.known[self.oldest] = layout;
        self.oldest = (self.oldest + 1) % MAX_LAYOUTS;
    }
}

impl Layout {
    /// Whether the event has these keys in this order, and values where they had some as far as that matters.
    fn is_of(&self, event: &Event<'_>) -> bool {
        let metadata = &event.metadata[..];
        self.keys.len() == metadata.len()
            && self.keys.iter().zip(metadata).all(|(own, (key, _))| is_same(own, key))
            && self.picks.iter().all(|pick| !metadata[pick.at].1.is_empty())
            && self.empty.iter().all(|at| metadata[*at].1.is_empty())
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
            let (mut layouts, mut left_off) = (Layouts::default(), LeftOff::default());
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
                    let hash = layouts.gather((at, keys), &event, &mut left_off, &mut pairs);
                    let picks = keys.pick(&event, |key| left_off_in_all.note(key), |_| {});
                    prop_assert_eq!(hash, keys.of_event(&event, &picks, &mut expected));
                    prop_assert_eq!(&pairs, &expected);
                }
                prop_assert!(layouts.known.len() <= MAX_LAYOUTS);
            }
            prop_assert_eq!(left_off.keys, left_off_in_all.keys);
        }
    }

    #[test]
    fn an_order_is_remembered_once_and_long_ones_are_not() {
        let [keys, _] = lists();
        let (mut layouts, mut left_off) = (Layouts::default(), LeftOff::default());
        let mut gather = |metadata: &[(&str, &str)]| {
            layouts.gather((None, &keys), &event(metadata), &mut left_off, &mut Pairs::new());
            layouts.known.len()
        };
        assert_eq!([gather(&[("tool", "a"), ("x", "b")]), gather(&[("tool", "c"), ("x", "")])], [1, 1]);
        assert_eq!([gather(&[("x", "b"), ("tool", "a")]), gather(&[("x", "b"), ("tool", "")])], [2, 3]);
        let long = "k".repeat(MAX_LAYOUT_BYTES + 1);
        assert_eq!(gather(&[(&long, "a")]), 3);
        let many: Vec<_> = (0..=MAX_LAYOUT_KEYS).map(|number| number.to_string()).collect();
        let many: Vec<_> = many.iter().map(|key| (&**key, "a")).collect();
        assert_eq!([gather(&many), gather(&many[1..])], [3, 4]);
        assert_eq!(gather(&many[2..]), MAX_LAYOUTS);
    }
}
