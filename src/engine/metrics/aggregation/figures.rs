//! What aggregation counts, and what it says once.

use std::sync::Arc;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::metrics::aggregation::Aggregation;
use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::instrument::{Instrument, Kind};
use crate::worker::Source;

/// Instruments whose overflowed measurements are counted by name; those of others are in the sum alone.
const MAX_OVERFLOWED_NAMES: usize = 32;

/// Things that were said, of each kind; what is beyond is counted and not said.
const MAX_SAID: usize = 1024;

/// Things that wait to be said; what is beyond is counted and not said.
const MAX_NOTICES: usize = 64;

/// How things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AggregationFigures {
    /// Instances that have not been forgotten.
    pub instances: usize,
    /// Of all instances.
    pub instruments: usize,
    /// Of all instruments, those of overflow included.
    pub series: usize,
    /// Measurements in overflow series.
    pub overflowed: u64,
    /// Some of the instruments that they are of, with how many.
    pub overflowed_instruments: Vec<(Arc<str>, u64)>,
    /// Measurements that were lost, because an instrument with the same name has another unit or kind.
    pub conflicts: u64,
    /// Measurements that were lost, because the instance has all instruments that it may have.
    pub no_room: u64,
    /// Measurements that were lost, because counters do not go down.
    pub negative: u64,
    /// Series that have ended.
    pub expired: u64,
    /// Notices that found no room.
    pub unsaid: u64,
}

/// Something that is said once; after a restart perhaps again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Notice {
    /// Two instruments have one name.
    Conflict {
        /// Of the first instance where it showed.
        source: Arc<Source>,
        kept: Arc<Instrument>,
        refused: Arc<Instrument>,
    },
    /// An instrument of an instance has more series than it may have, or the instance has, of which it is the first.
    Overflow { source: Arc<Source>, instrument: Arc<Instrument>, limit: OverflowLimit },
    /// An instance has more instruments than it may have.
    NoRoom { source: Arc<Source>, instrument: Arc<Instrument> },
}

/// Which limit a series is beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverflowLimit {
    /// Series of its instrument.
    Instrument,
    /// Series of its instance.
    Worker,
}

/// What is counted; it goes on after a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    overflowed: u64,
    overflowed_instruments: Vec<(Arc<str>, u64)>,
    pub(super) conflicts: u64,
    pub(super) no_room: u64,
    pub(super) negative: u64,
    pub(super) expired: u64,
    unsaid: u64,
    #[serde(skip)]
    said: HashSet<u64>,
    #[serde(skip)]
    notices: Vec<Notice>,
}

impl Counters {
    pub(super) fn overflow(&mut self, name: &Arc<str>) {
        self.overflowed += 1;
        let is_same = |own: &Arc<str>| Arc::ptr_eq(own, name) || own == name;
        let has_room = self.overflowed_instruments.len() < MAX_OVERFLOWED_NAMES;
        match self.overflowed_instruments.iter_mut().find(|(own, _)| is_same(own)) {
            Some((_, count)) => *count += 1,
            None if has_room => self.overflowed_instruments.push((Arc::clone(name), 1)),
            None => {}
        }
    }

    /// Adds what another has counted, and what it had to say.
    pub(super) fn add(&mut self, other: Self) {
        self.overflowed += other.overflowed;
        for (name, count) in other.overflowed_instruments {
            match self.overflowed_instruments.iter_mut().find(|(own, _)| *own == name) {
                Some((_, own)) => *own += count,
                None => self.overflowed_instruments.push((name, count)),
            }
        }
        self.overflowed_instruments.truncate(MAX_OVERFLOWED_NAMES);
        self.conflicts += other.conflicts;
        self.no_room += other.no_room;
        self.negative += other.negative;
        self.expired += other.expired;
        self.unsaid += other.unsaid;
        self.notices.extend(other.notices);
        self.notices.truncate(MAX_NOTICES);
    }

    /// Says something, if what it is about was not said yet.
    fn say(&mut self, about: u64, notice: impl FnOnce() -> Notice) {
        if self.said.contains(&about) {
            return;
        }
        if self.said.len() >= MAX_SAID || self.notices.len() >= MAX_NOTICES {
            self.unsaid += 1;
            return;
        }
        self.said.insert(about);
        self.notices.push(notice());
    }
}

impl AggregationFigures {
    /// Adds those of another shard.
    pub fn add(&mut self, other: &Self) {
        self.instances += other.instances;
        self.instruments += other.instruments;
        self.series += other.series;
        self.overflowed += other.overflowed;
        for (name, count) in &other.overflowed_instruments {
            match self.overflowed_instruments.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => *own += count,
                None => self.overflowed_instruments.push((Arc::clone(name), *count)),
            }
        }
        self.conflicts += other.conflicts;
        self.no_room += other.no_room;
        self.negative += other.negative;
        self.expired += other.expired;
        self.unsaid += other.unsaid;
    }
}

impl Aggregation {
    /// How things are.
    pub(crate) fn figures(&self) -> AggregationFigures {
        let counters = &self.counters;
        AggregationFigures {
            instances: self.instances.len(),
            instruments: self.streams.len(),
            series: self.series.len(),
            overflowed: counters.overflowed,
            overflowed_instruments: counters.overflowed_instruments.clone(),
            conflicts: counters.conflicts,
            no_room: counters.no_room,
            negative: counters.negative,
            expired: counters.expired,
            unsaid: counters.unsaid,
        }
    }

    /// Whether something is to be said.
    pub(crate) fn has_notices(&self) -> bool {
        !self.counters.notices.is_empty()
    }

    /// What is to be said, in the order in which it happened.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.counters.notices)
    }

    /// A conflict is said once for two definitions, whoever has them.
    pub(super) fn say_conflict(&mut self, instance: Slot, kept: Arc<Instrument>, refused: &Arc<Instrument>) {
        self.counters.conflicts += 1;
        let kinds = u64::from(kind_number(&kept.kind)) << 8 | u64::from(kind_number(&refused.kind));
        let texts = [&kept.name, &refused.name, &kept.unit, &refused.unit];
        let about = texts.iter().fold(kinds, |hash, text| xxh3_64_with_seed(text.as_bytes(), hash));
        if let Some(source) = self.source(instance) {
            self.counters.say(about, || Notice::Conflict { source, kept, refused: Arc::clone(refused) });
        }
    }

    /// Overflow is said once for each limit: that of an instrument, or of an instance, which all further instruments meet.
    pub(super) fn say_overflow(
        &mut self,
        instance: Slot,
        instrument: &Arc<Instrument>,
        limit: OverflowLimit,
    ) {
        let Some(source) = self.source(instance) else { return };
        let about = match limit {
            OverflowLimit::Instrument => about(1, &source, &instrument.name),
            OverflowLimit::Worker => about(3, &source, ""),
        };
        self.counters.say(about, || Notice::Overflow { source, instrument: Arc::clone(instrument), limit });
    }

    /// That there are too many instruments is said once for an instance.
    pub(super) fn say_no_room(&mut self, instance: Slot, instrument: &Arc<Instrument>) {
        self.counters.no_room += 1;
        let Some(source) = self.source(instance) else { return };
        let about = about(2, &source, "");
        self.counters.say(about, || Notice::NoRoom { source, instrument: Arc::clone(instrument) });
    }

    fn source(&self, instance: Slot) -> Option<Arc<Source>> {
        self.instances.get(instance).map(|instance| Arc::clone(&instance.source))
    }
}

fn about(what: u64, source: &Source, name: &str) -> u64 {
    [&*source.node, &*source.worker_id, name]
        .iter()
        .fold(what << 32, |hash, text| xxh3_64_with_seed(text.as_bytes(), hash))
}

const fn kind_number(kind: &Kind) -> u8 {
    match kind {
        Kind::Counter => 0,
        Kind::UpDownCounter => 1,
        Kind::Gauge => 2,
        Kind::Histogram { .. } => 3,
        Kind::ExponentialHistogram => 4,
    }
}
