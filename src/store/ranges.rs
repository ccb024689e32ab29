//! Ordinals whose fate is known, as ranges that neither overlap nor touch.

use std::collections::BTreeMap;
use std::ops::Range;

/// The ranges: start to end.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

/// What a change of the ranges means for whoever keeps a copy of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Starts of the ranges that are no more.
    pub(super) gone: Vec<u64>,
    /// The range that is new.
    pub(super) new: Option<Range<u64>>,
}

impl Ranges {
    /// Adds `range`, and joins it with what it meets.
    pub(super) fn insert(&mut self, range: Range<u64>) -> Change {
        if range.is_empty() {
            return Change::default();
        }
        let Range { mut start, mut end } = range;
        let met: Vec<_> = self
            .0
            .range(..=end)
            .rev()
            // Ranges are apart, so that ends are in order as starts are.
            .take_while(|(_, met_end)| **met_end >= start)
            .map(|(met_start, met_end)| (*met_start, *met_end))
            .collect();
        if let [(met_start, met_end)] = met[..]
            && met_start <= start
            && end <= met_end
        {
            return Change::default();
        }
        for (met_start, met_end) in &met {
            self.0.remove(met_start);
            start = start.min(*met_start);
            end = end.max(*met_end);
        }
        self.0.insert(start, end);
        Change { gone: met.into_iter().map(|(met_start, _)| met_start).collect(), new: Some(start..end) }
    }

    /// Forgets what is below `floor`.
    pub(super) fn forget_below(&mut self, floor: u64) -> Change {
        let kept = self.0.split_off(&floor);
        let below = std::mem::replace(&mut self.0, kept);
        let across = below.last_key_value().filter(|(_, end)| **end > floor).map(|(_, end)| floor..*end);
        if let Some(across) = &across {
            self.0.insert(across.start, across.end);
        }
        Change { gone: below.into_keys().collect(), new: across }
    }

    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(0..5), Change { gone: vec![], new: Some(0..5) });
        assert_eq!(ranges.insert(10..15), Change { gone: vec![], new: Some(10..15) });
        assert_eq!(ranges.insert(11..12), Change::default());
        assert_eq!(ranges.insert(5..10), Change { gone: vec![10, 0], new: Some(0..15) });
        assert!(ranges.iter().eq(std::iter::once(0..15)));
        assert_eq!(ranges.forget_below(7), Change { gone: vec![0], new: Some(7..15) });
        assert_eq!(ranges.forget_below(15), Change { gone: vec![7], new: None });
        assert_eq!(ranges, Ranges::default());
    }

    proptest! {
        /// The ranges hold the ordinals that were inserted and not forgotten, as few ranges as can be, and a copy that
        /// follows the changes is equal.
        #[test]
        fn ranges_are_the_set_of_their_ordinals(steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0_u64..8), 0..40)) {
            let (mut ranges, mut copy, mut model) = (Ranges::default(), BTreeMap::new(), [false; 64]);
            for (forget, start, length) in steps {
                let change = if forget && length == 0 {
                    model[..start as usize].fill(false);
                    ranges.forget_below(start)
                } else {
                    model[start as usize..(start + length) as usize].fill(true);
                    ranges.insert(start..start + length)
                };
                change.gone.iter().for_each(|start| assert!(copy.remove(start).is_some()));
                change.new.into_iter().for_each(|new| assert!(copy.insert(new.start, new.end).is_none()));
                prop_assert_eq!(&copy, &ranges.0);
            }
            let mut held = [false; 64];
            let mut last_end = None;
            for range in ranges.iter() {
                prop_assert!(last_end.is_none_or(|end| end < range.start));
                last_end = Some(range.end);
                held[range.start as usize..range.end as usize].fill(true);
            }
            prop_assert_eq!(held, model);
        }
    }
}
