//! The instruments of a shard, each once, with a small number that stands for it.
//!
//! Equal instruments have one number as long as anybody holds one of them; numbers are never used again. Names are made of
//! untrusted text, so there is a limit: what nobody holds any more gives way, and beyond it instruments are not shared. None
//! is refused: what becomes of a measurement must not depend on what is remembered here, which no checkpoint has.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::metrics::instrument::Instrument;

/// Instruments that are shared in a shard; a worker has a thousand at most, and most workers have the same.
const MAX_INSTRUMENTS: usize = 65_536;

/// Once nothing could be freed, so many are not shared before it is tried again: trying looks at every one.
const UNSHARED_A_TRY: usize = 4096;

/// Instruments whose names have one hash, with their numbers.
type Alike = SmallVec<[(u32, Arc<Instrument>); 1]>;

/// Every instrument, by the hash of its name.
#[derive(Debug, Default)]
pub(super) struct Instruments {
    by_name: HashMap<u64, Alike>,
    len: usize,
    next: u32,
    /// Instruments that are not shared until the next try.
    unshared: usize,
    /// Whoever holds more than it must may let go.
    is_full: bool,
}

impl Instruments {
    /// The one that equals it, and its number. Where there is no room for another, one that nobody shares.
    pub(super) fn intern(&mut self, instrument: Instrument) -> (Arc<Instrument>, u32) {
        let hash = xxh3_64(instrument.name.as_bytes());
        let known = self.by_name.get(&hash).and_then(|same| same.iter().find(|(_, one)| **one == instrument));
        if let Some((number, known)) = known {
            return (Arc::clone(known), *number);
        }
        let number = self.next;
        // Four billion take years of nothing else.
        self.next = self.next.wrapping_add(1);
        let instrument = Arc::new(instrument);
        if self.len < MAX_INSTRUMENTS || self.make_room() {
            self.by_name.entry(hash).or_default().push((number, Arc::clone(&instrument)));
            self.len += 1;
        }
        (instrument, number)
    }

    /// Whether something was not shared since the last time that this was asked, and nothing could be freed.
    pub(super) fn take_full(&mut self) -> bool {
        std::mem::take(&mut self.is_full)
    }

    /// Forgets what nobody holds.
    pub(super) fn sweep(&mut self) {
        self.by_name.retain(|_, same| {
            same.retain(|(_, one)| Arc::strong_count(one) > 1);
            !same.is_empty()
        });
        self.len = self.by_name.values().map(SmallVec::len).sum();
        if self.len < MAX_INSTRUMENTS {
            self.unshared = 0;
        }
    }

    /// Makes room, unless that was tried a moment ago. False if everything is held.
    fn make_room(&mut self) -> bool {
        if self.unshared > 0 {
            self.unshared -= 1;
            return false;
        }
        self.sweep();
        if self.len < MAX_INSTRUMENTS {
            return true;
        }
        self.unshared = UNSHARED_A_TRY;
        self.is_full = true;
        false
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::metrics::instrument::Kind;

    fn instrument(number: usize) -> Instrument {
        Instrument {
            name: format!("x{number}").into(),
            unit: "".into(),
            description: "".into(),
            kind: Kind::Counter,
        }
    }

    #[test]
    fn equal_instruments_share_a_number_and_others_do_not() {
        let mut instruments = Instruments::default();
        let (first, number) = instruments.intern(instrument(1));
        assert_eq!(instruments.intern(instrument(1)), (first, number));
        let other = Instrument { kind: Kind::Gauge, ..instrument(1) };
        assert_ne!(instruments.intern(other).1, number);
        assert_eq!(instruments.len(), 2);
    }

    #[test]
    fn beyond_the_limit_what_nobody_holds_gives_way_and_else_it_is_not_shared() {
        let mut instruments = Instruments::default();
        let mut held: Vec<_> =
            (0..MAX_INSTRUMENTS).map(|number| instruments.intern(instrument(number)).0).collect();
        let [one, another] = [(); 2].map(|()| instruments.intern(instrument(MAX_INSTRUMENTS)));
        assert!(one.0 == another.0 && one.1 != another.1, "equal, and not shared");
        assert!(instruments.take_full() && !instruments.take_full(), "it is said once");
        assert_eq!(instruments.intern(instrument(7)).1, 7, "the known stay");

        held.truncate(10);
        for _ in 1..UNSHARED_A_TRY {
            instruments.intern(instrument(usize::MAX));
            assert_eq!(instruments.len(), MAX_INSTRUMENTS);
        }
        let (_, shared) = instruments.intern(instrument(usize::MAX));
        assert_eq!((instruments.len(), instruments.intern(instrument(usize::MAX)).1), (11, shared));
        assert!(!instruments.take_full());
        assert_eq!(instruments.intern(instrument(3)).1, 3, "what is held keeps its number");
    }
}
