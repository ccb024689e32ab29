//! Things with small numbers, in pieces of memory that come and go with them.
//!
//! A growing vector would move everything once in a while, and one that has been large keeps its memory. Here a place is
//! taken in the first piece that has room, and a piece whose last thing goes is given back.

use std::collections::BTreeSet;

/// Things in one piece: as many as a word has bits.
const PIECE: u32 = u64::BITS;

/// Where something is. Places are used again.
pub(super) type Slot = u32;

/// See above.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pieces: Vec<Option<Piece<T>>>,
    /// Pieces with room, and those that were given back.
    roomy: BTreeSet<u32>,
    len: usize,
}

#[derive(Debug)]
struct Piece<T> {
    things: Box<[Option<T>]>,
    /// One bit for each place that is taken.
    taken: u64,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), roomy: BTreeSet::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, thing: T) -> Slot {
        let number = self.roomy.first().copied().unwrap_or_else(|| {
            u32::try_from(self.pieces.len()).expect("limits keep far fewer than 2^32 things")
        });
        let taken = self.pieces.get(number as usize).and_then(Option::as_ref).map_or(0, |piece| piece.taken);
        let slot = number * PIECE + taken.trailing_ones();
        self.put(slot, thing);
        slot
    }

    /// Takes a thing in at the place that it had before; `false` if that is taken.
    pub(super) fn insert_at(&mut self, slot: Slot, thing: T) -> bool {
        let is_free = self.get(slot).is_none();
        if is_free {
            self.put(slot, thing);
        }
        is_free
    }

    fn put(&mut self, slot: Slot, thing: T) {
        let (number, at) = (slot / PIECE, slot % PIECE);
        while self.pieces.len() <= number as usize {
            self.roomy.insert(u32::try_from(self.pieces.len()).expect("a piece has a number"));
            self.pieces.push(None);
        }
        let piece = self.pieces[number as usize]
            .get_or_insert_with(|| Piece { things: (0..PIECE).map(|_| None).collect(), taken: 0 });
        piece.things[at as usize] = Some(thing);
        piece.taken |= 1 << at;
        if piece.taken == u64::MAX {
            self.roomy.remove(&number);
        }
        self.len += 1;
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        let (number, at) = (slot / PIECE, slot % PIECE);
        let place = self.pieces.get_mut(number as usize)?;
        let piece = place.as_mut()?;
        let thing = piece.things[at as usize].take()?;
        piece.taken &= !(1 << at);
        if piece.taken == 0 {
            *place = None;
        }
        self.roomy.insert(number);
        self.len -= 1;
        while let Some(None) = self.pieces.last() {
            self.pieces.pop();
            self.roomy.remove(&u32::try_from(self.pieces.len()).expect("a piece has a number"));
        }
        if self.pieces.capacity() > 64 && self.pieces.len() < self.pieces.capacity() / 4 {
            self.pieces.shrink_to(self.pieces.len() * 2);
        }
        Some(thing)
    }

    #[inline]
    pub(super) fn get(&self, slot: Slot) -> Option<&T> {
        self.pieces.get((slot / PIECE) as usize)?.as_ref()?.things[(slot % PIECE) as usize].as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.pieces.get_mut((slot / PIECE) as usize)?.as_mut()?.things[(slot % PIECE) as usize].as_mut()
    }

    /// The first place from `slot` on that is taken.
    pub(super) fn next_from(&self, slot: Slot) -> Option<Slot> {
        let (first, at) = (slot / PIECE, slot % PIECE);
        let mut pieces = (first..).zip(self.pieces.get(first as usize..)?);
        pieces.find_map(|(number, piece)| {
            let before = if number == first { at } else { 0 };
            let taken = piece.as_ref()?.taken >> before << before;
            (taken != 0).then(|| number * PIECE + taken.trailing_zeros())
        })
    }

    /// In the order of their places.
    #[cfg(test)]
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut T)> {
        (0..).zip(&mut self.pieces).filter_map(|(number, piece)| Some((number, piece.as_mut()?))).flat_map(
            |(number, piece)| {
                let things = (number * PIECE..).zip(&mut piece.things);
                things.filter_map(|(slot, thing)| Some((slot, thing.as_mut()?)))
            },
        )
    }

    /// What it takes in memory, the things' own apart.
    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        let pieces = self.pieces.iter().flatten().count() * PIECE as usize * size_of::<Option<T>>();
        pieces + self.pieces.capacity() * size_of::<Option<Piece<T>>>() + self.roomy.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_memory_returns() {
        let mut slab = Slab::default();
        let slots: Vec<Slot> = (0..1000).map(|thing| slab.insert(thing)).collect();
        assert!(slots.iter().copied().eq(0..1000));
        assert_eq!(slab.remove(17), Some(17));
        assert_eq!((slab.remove(17), slab.get(17), slab.len()), (None, None, 999));
        assert_eq!(slab.insert(1017), 17);
        (0..1000).filter(|slot| *slot != 500).for_each(|slot| assert!(slab.remove(slot).is_some()));
        assert_eq!(slab.iter_mut().map(|(slot, thing)| (slot, *thing)).collect::<Vec<_>>(), [(500, 500)]);
        assert_eq!([0, 500, 501, 1000].map(|from| slab.next_from(from)), [Some(500), Some(500), None, None]);
        assert!(slab.size_bytes() < 64 * size_of::<Option<i32>>() + 1024, "{}", slab.size_bytes());
        assert_eq!((slab.remove(500), slab.len(), slab.pieces.len()), (Some(500), 0, 0));
        assert!(slab.roomy.is_empty());
    }

    #[test]
    fn a_thing_comes_back_to_its_place() {
        let mut slab = Slab::default();
        assert!(slab.insert_at(200, "a"));
        assert!(!slab.insert_at(200, "b"));
        assert_eq!((slab.get(200), slab.len()), (Some(&"a"), 1));
        assert_eq!(slab.insert("c"), 0, "pieces before it have room");
    }
}
