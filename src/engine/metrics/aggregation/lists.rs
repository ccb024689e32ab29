//! Lists of attributes that series share: three hundred workers with the same tools have the same lists.

use std::sync::Arc;

use hashbrown::HashTable;

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metrics::aggregation::shrunk;
use crate::engine::metrics::aggregation::slab::{Slab, Slot};
use crate::engine::metrics::measured::{Pairs, PointKeys};

/// The lists of a shard; as many as its series have, and no more.
#[derive(Debug, Default)]
pub(super) struct Lists {
    lists: Slab<List>,
    index: HashTable<Slot>,
}

#[derive(Debug)]
struct List {
    attributes: Arc<Attributes>,
    hash: u64,
    /// Series that have it. The `Arc` knows others: points on their way out.
    users: u32,
}

impl Lists {
    /// The list of these attributes, made where there is none; one more series has it.
    pub(super) fn share(&mut self, keys: PointKeys<'_>) -> Slot {
        let lists = &self.lists;
        let is_same = |slot: &Slot| {
            lists
                .get(*slot)
                .is_some_and(|list| list.hash == keys.hash() && list.attributes.are_texts(keys.pairs()))
        };
        if let Some(slot) = self.index.find(keys.hash(), is_same).copied() {
            self.lists.get_mut(slot).expect("found just now").users += 1;
            return slot;
        }
        let mut attributes = Attributes::default();
        keys.pairs().for_each(|(key, value)| attributes.push_new(key, AttributeValue::Text(value)));
        attributes.shrink();
        let slot = self.lists.insert(List { attributes: Arc::new(attributes), hash: keys.hash(), users: 1 });
        let lists = &self.lists;
        self.index.insert_unique(keys.hash(), slot, |slot| lists.get(*slot).map_or(0, |list| list.hash));
        slot
    }

    /// A series that had the list is gone.
    pub(super) fn release(&mut self, slot: Slot) {
        let Some(list) = self.lists.get_mut(slot) else { return };
        list.users -= 1;
        if list.users > 0 {
            return;
        }
        if let Ok(entry) = self.index.find_entry(list.hash, |own| *own == slot) {
            entry.remove();
        }
        self.lists.remove(slot);
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Arc<Attributes>> {
        self.lists.get(slot).map(|list| &list.attributes)
    }

    /// Whether the list is that of these attributes.
    pub(super) fn is_of(&self, slot: Slot, keys: PointKeys<'_>) -> bool {
        self.get(slot).is_some_and(|attributes| attributes.are_texts(keys.pairs()))
    }

    /// Gives back memory that nothing needs.
    pub(super) fn shrink(&mut self) {
        let lists = &self.lists;
        shrunk(&mut self.index, |slot| lists.get(*slot).map_or(0, |list| list.hash));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    /// What they take in memory.
    #[cfg(test)]
    pub(super) fn size_bytes(&mut self) -> usize {
        let each =
            |list: &List| list.attributes.size_bytes() + size_of::<Attributes>() + 2 * size_of::<usize>();
        let lists: usize = self.lists.iter_mut().map(|(_, list)| each(list)).sum();
        lists + self.lists.size_bytes() + self.index.allocation_size()
    }
}

/// The attributes as measurements have them, to be put in order: how they are found again after a restart.
pub(super) fn pairs_of(attributes: &Attributes) -> Pairs<'_> {
    let text = |value| match value {
        AttributeValue::Text(text) => Some(text),
        AttributeValue::Int(_) | AttributeValue::Float(_) | AttributeValue::Bool(_) => None,
    };
    attributes.iter().filter_map(|(key, value)| Some((key, text(value)?.into()))).collect()
}
