//! Which spans of a group contain an interval: a search tree over starts that knows the latest end below each node.
//!
//! A treap. Its priorities are hashes of the keys, so its shape depends on what is in it and on nothing else. Every
//! operation takes logarithmic time; nodes are boxed, so memory returns as spans go.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::steps;

/// The end of an interval that is still open.
pub(crate) const OPEN_END: i64 = i64::MAX;

/// Where an interval stands: its group, its operation, its start, and which of equals it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct IntervalKey {
    pub(crate) group: u64,
    pub(crate) operation: u64,
    pub(crate) start: i64,
    pub(crate) seq: u64,
}

impl IntervalKey {
    /// Which of two intervals of one group with equal ends is the outer one: the lesser.
    pub(crate) const fn rank(&self) -> (i64, u64, u64) {
        (self.start, self.operation, self.seq)
    }
}

type Link<V> = Option<Box<Node<V>>>;

#[derive(Debug)]
struct Node<V> {
    key: IntervalKey,
    end: i64,
    /// The latest end of this node and all below it.
    latest_end: i64,
    priority: u64,
    left: Link<V>,
    right: Link<V>,
    value: V,
}

/// Intervals with a value each, by group.
///
/// Most groups are a request's few spans, and a short sorted list beats any tree; a group that grows becomes a tree.
#[derive(Debug)]
pub(crate) struct Intervals<V> {
    groups: HashMap<u64, Group<V>>,
}

/// The intervals of one group.
#[derive(Debug)]
enum Group<V> {
    /// In order of their keys.
    Few(Vec<Interval<V>>),
    Many(Link<V>),
}

#[derive(Debug)]
struct Interval<V> {
    key: IntervalKey,
    end: i64,
    value: V,
}

/// A list of more is slower than a tree.
const MAX_FEW: usize = 24;

impl<V> Default for Intervals<V> {
    fn default() -> Self {
        Self { groups: HashMap::new() }
    }
}

impl<V> Node<V> {
    fn new(Interval { key, end, value }: Interval<V>) -> Box<Self> {
        let mut bytes = [0; 32];
        for (chunk, part) in
            bytes.chunks_exact_mut(8).zip([key.group, key.operation, key.start.cast_unsigned(), key.seq])
        {
            chunk.copy_from_slice(&part.to_le_bytes());
        }
        let priority = xxh3_64(&bytes);
        Box::new(Self { key, end, latest_end: end, priority, left: None, right: None, value })
    }

    fn refresh(&mut self) {
        let below = |link: &Link<V>| link.as_ref().map_or(i64::MIN, |node| node.latest_end);
        self.latest_end = self.end.max(below(&self.left)).max(below(&self.right));
    }
}

impl<V> Intervals<V> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        fn count<V>(link: Option<&Node<V>>) -> usize {
            link.map_or(0, |node| 1 + count(node.left.as_deref()) + count(node.right.as_deref()))
        }
        let len = |group: &Group<V>| match group {
            Group::Few(list) => list.len(),
            Group::Many(root) => count(root.as_deref()),
        };
        self.groups.values().map(len).sum()
    }

    /// Adds an interval; its key must be new.
    pub(crate) fn insert(&mut self, key: IntervalKey, end: i64, value: V) {
        let group = self.groups.entry(key.group).or_insert_with(|| Group::Few(Vec::with_capacity(1)));
        let interval = Interval { key, end, value };
        match group {
            Group::Few(list) if list.len() < MAX_FEW => {
                let at = list.partition_point(|other| other.key < key);
                list.insert(at, interval);
            }
            Group::Few(list) => {
                let mut root = None;
                for interval in list.drain(..).chain([interval]) {
                    insert(&mut root, Node::new(interval));
                }
                *group = Group::Many(root);
            }
            Group::Many(root) => insert(root, Node::new(interval)),
        }
    }

    /// Takes an interval away.
    pub(crate) fn remove(&mut self, key: &IntervalKey) -> Option<V> {
        let group = self.groups.get_mut(&key.group)?;
        let (removed, is_empty) = match group {
            Group::Few(list) => {
                let at = list.binary_search_by(|interval| interval.key.cmp(key)).ok()?;
                (list.remove(at).value, list.is_empty())
            }
            Group::Many(root) => {
                let removed = remove(root, key)?;
                (removed.value, root.is_none())
            }
        };
        if is_empty {
            self.groups.remove(&key.group);
            if self.groups.capacity() > 1024 && self.groups.len() < self.groups.capacity() / 16 {
                self.groups.shrink_to_fit();
            }
        }
        Some(removed)
    }

    /// The value of an interval.
    pub(crate) fn get(&self, key: &IntervalKey) -> Option<&V> {
        self.entry(key).map(|(_, value)| value)
    }

    /// The end of an interval, and its value.
    pub(crate) fn entry(&self, key: &IntervalKey) -> Option<(i64, &V)> {
        let mut link = match self.groups.get(&key.group)? {
            Group::Few(list) => {
                let at = list.binary_search_by(|interval| interval.key.cmp(key)).ok()?;
                return Some((list[at].end, &list[at].value));
            }
            Group::Many(root) => root,
        };
        while let Some(node) = link {
            steps::count();
            link = match key.cmp(&node.key) {
                std::cmp::Ordering::Less => &node.left,
                std::cmp::Ordering::Greater => &node.right,
                std::cmp::Ordering::Equal => return Some((node.end, &node.value)),
            };
        }
        None
    }

    /// Changes an interval's end and value.
    pub(crate) fn update(&mut self, key: &IntervalKey, change: impl FnOnce(&mut i64, &mut V)) {
        match self.groups.get_mut(&key.group) {
            Some(Group::Few(list)) => {
                if let Ok(at) = list.binary_search_by(|interval| interval.key.cmp(key)) {
                    let interval = &mut list[at];
                    change(&mut interval.end, &mut interval.value);
                }
            }
            Some(Group::Many(root)) => update(root, key, change),
            None => {}
        }
    }

    /// All intervals of a group, with their ends, if they are few; else they are searched by operation.
    pub(crate) fn few(&self, group: u64) -> Option<impl Iterator<Item = (&IntervalKey, i64, &V)>> {
        match self.groups.get(&group)? {
            Group::Few(list) => {
                Some(list.iter().map(|interval| (&interval.key, interval.end, &interval.value)))
            }
            Group::Many(_) => None,
        }
    }

    /// The first operation of `group` that is at least `operation`.
    pub(crate) fn operation_from(&self, group: u64, operation: u64) -> Option<u64> {
        let from = IntervalKey { group, operation, start: i64::MIN, seq: 0 };
        let mut link = match self.groups.get(&group)? {
            Group::Few(list) => {
                let at = list.partition_point(|interval| interval.key < from);
                return list.get(at).map(|interval| interval.key.operation);
            }
            Group::Many(root) => root,
        };
        let mut found = None;
        while let Some(node) = link {
            steps::count();
            link = if node.key >= from {
                found = Some(node.key.operation);
                &node.left
            } else {
                &node.right
            };
        }
        found
    }

    /// Calls `visit` with the intervals of one operation that start at or before `start` and end at or after `end`,
    /// latest start first, until it returns false.
    pub(crate) fn containing(
        &self,
        group: u64,
        operation: u64,
        start: i64,
        end: i64,
        visit: &mut dyn FnMut(&IntervalKey, i64, &V) -> bool,
    ) {
        let low = IntervalKey { group, operation, start: i64::MIN, seq: 0 };
        let high = IntervalKey { group, operation, start, seq: u64::MAX };
        match self.groups.get(&group) {
            Some(Group::Few(list)) => {
                let until = list.partition_point(|interval| interval.key <= high);
                let own = list[..until].iter().rev().take_while(|interval| interval.key >= low);
                for interval in own.filter(|interval| interval.end >= end) {
                    if !visit(&interval.key, interval.end, &interval.value) {
                        return;
                    }
                }
            }
            Some(Group::Many(root)) => {
                containing(root.as_deref(), &low, &high, end, visit);
            }
            None => {}
        }
    }
}

/// Returns false once `visit` did.
fn containing<V>(
    node: Option<&Node<V>>,
    low: &IntervalKey,
    high: &IntervalKey,
    end: i64,
    visit: &mut dyn FnMut(&IntervalKey, i64, &V) -> bool,
) -> bool {
    let Some(node) = node else { return true };
    steps::count();
    if node.latest_end < end {
        return true;
    }
    if node.key <= *high && !containing(node.right.as_deref(), low, high, end, visit) {
        return false;
    }
    let inside = node.key >= *low && node.key <= *high && node.end >= end;
    if inside && !visit(&node.key, node.end, &node.value) {
        return false;
    }
    node.key < *low || containing(node.left.as_deref(), low, high, end, visit)
}

fn insert<V>(link: &mut Link<V>, mut new: Box<Node<V>>) {
    steps::count();
    match link {
        Some(node) if node.priority >= new.priority => {
            node.latest_end = node.latest_end.max(new.end);
            insert(if new.key < node.key { &mut node.left } else { &mut node.right }, new);
        }
        _ => {
            (new.left, new.right) = split(link.take(), &new.key);
            new.refresh();
            *link = Some(new);
        }
    }
}

/// Everything before `key`, and everything from it on.
fn split<V>(link: Link<V>, key: &IntervalKey) -> (Link<V>, Link<V>) {
    let Some(mut node) = link else { return (None, None) };
    steps::count();
    if node.key < *key {
        let (before, after) = split(node.right.take(), key);
        node.right = before;
        node.refresh();
        (Some(node), after)
    } else {
        let (before, after) = split(node.left.take(), key);
        node.left = after;
        node.refresh();
        (before, Some(node))
    }
}

/// Joins two trees of which all of `left` is before all of `right`.
fn merge<V>(left: Link<V>, right: Link<V>) -> Link<V> {
    steps::count();
    match (left, right) {
        (None, only) | (only, None) => only,
        (Some(mut left), Some(mut right)) => Some(if left.priority >= right.priority {
            left.right = merge(left.right.take(), Some(right));
            left.refresh();
            left
        } else {
            right.left = merge(Some(left), right.left.take());
            right.refresh();
            right
        }),
    }
}

fn remove<V>(link: &mut Link<V>, key: &IntervalKey) -> Option<Box<Node<V>>> {
    let node = link.as_mut()?;
    steps::count();
    let removed = match key.cmp(&node.key) {
        std::cmp::Ordering::Less => remove(&mut node.left, key)?,
        std::cmp::Ordering::Greater => remove(&mut node.right, key)?,
        std::cmp::Ordering::Equal => {
            let mut removed = link.take()?;
            *link = merge(removed.left.take(), removed.right.take());
            return Some(removed);
        }
    };
    node.refresh();
    Some(removed)
}

fn update<V>(link: &mut Link<V>, key: &IntervalKey, change: impl FnOnce(&mut i64, &mut V)) {
    let Some(node) = link else { return };
    steps::count();
    match key.cmp(&node.key) {
        std::cmp::Ordering::Less => update(&mut node.left, key, change),
        std::cmp::Ordering::Greater => update(&mut node.right, key, change),
        std::cmp::Ordering::Equal => change(&mut node.end, &mut node.value),
    }
    node.refresh();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(group: u64, operation: u64, start: i64, seq: u64) -> IntervalKey {
        IntervalKey { group, operation, start, seq }
    }

    proptest! {
        /// Whatever was put in, taken out and changed, the tree finds exactly what a search through a list finds, in
        /// the same order.
        #[test]
        fn the_tree_finds_what_a_list_finds(
            steps in prop::collection::vec((0u64..2, 0u64..3, 0i64..40, 0i64..40, 0u8..4), 0..120),
            (start, end) in (0i64..40, 0i64..40),
        ) {
            let mut tree = Intervals::default();
            let mut list: Vec<(IntervalKey, i64)> = Vec::new();
            for (seq, (group, operation, from, length, action)) in (0u64..).zip(steps) {
                match action {
                    0 if !list.is_empty() => {
                        let (gone, _) = list.swap_remove(from as usize % list.len());
                        prop_assert_eq!(tree.remove(&gone), Some(gone.seq));
                        prop_assert_eq!(tree.remove(&gone), None);
                    }
                    1 if !list.is_empty() => {
                        let at = from as usize % list.len();
                        list[at].1 = from + length;
                        tree.update(&list[at].0, |end, _| *end = from + length);
                    }
                    _ => {
                        let key = key(group, operation, from, seq);
                        tree.insert(key, from + length, seq);
                        list.push((key, from + length));
                    }
                }
            }
            prop_assert_eq!(tree.len(), list.len());
            for group in 0..2 {
                for operation in 0..3 {
                    let mut expected: Vec<_> = list
                        .iter()
                        .filter(|(key, to)| key.group == group && key.operation == operation
                            && key.start <= start && *to >= end)
                        .map(|(key, _)| key.seq)
                        .collect();
                    expected.sort_by_key(|seq| {
                        let (key, _) = list.iter().find(|(key, _)| key.seq == *seq).unwrap();
                        std::cmp::Reverse((key.start, key.seq))
                    });
                    let mut found = Vec::new();
                    tree.containing(group, operation, start, end, &mut |_, _, seq| {
                        found.push(*seq);
                        true
                    });
                    prop_assert_eq!(found, expected);
                    let next = list.iter().map(|(key, _)| key).filter(|key| key.group == group
                        && key.operation >= operation).map(|key| key.operation).min();
                    prop_assert_eq!(tree.operation_from(group, operation), next);
                }
            }
        }
    }

    #[test]
    fn ten_thousand_finished_siblings_cost_a_search_nothing_much() {
        let mut tree = Intervals::default();
        tree.insert(key(1, 1, 0, 0), OPEN_END, "parent");
        for number in 0..10_000 {
            let start = 10 * number;
            tree.insert(key(1, 1, start, number.cast_unsigned() + 1), start + 5, "sibling");
        }
        let mut found = Vec::new();
        tree.containing(1, 1, 100_000, 100_001, &mut |_, _, value| {
            found.push(*value);
            true
        });
        assert_eq!(found, ["parent"]);
    }
}
