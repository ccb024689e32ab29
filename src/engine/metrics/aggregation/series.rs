//! How measurements find their series, and what the limits do.
//!
//! Instruments of one instance are one stream if their names (letters' case apart), units and kinds are equal. They are in
//! conflict with the same name and another unit or kind, and with another name where Prometheus has one for both, or has it
//! for one and for the count, sum or buckets of the other: what came first stays, the measurement is lost, counted, and told
//! once. An instrument of before a restart that is in conflict with what the settings say now gives way instead: its series
//! end as those that expire, and until then those that follow under its name in Prometheus have no points, for no time has
//! two.
//!
//! | limit | what is beyond |
//! |---|---|
//! | series of an instrument, series of an instance | goes to the instrument's overflow series, which counts in neither |
//! | instruments of an instance | is lost |

use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::metrics::aggregation::exemplars::Exemplars;
use crate::engine::metrics::aggregation::figures::OverflowLimit;
use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::aggregation::value::{Taken, Value};
use crate::engine::metrics::aggregation::{Aggregation, InstanceId, Recorded, SeriesId, generation};
use crate::engine::metrics::instrument::{Instrument, Kind, Number};
use crate::engine::metrics::measured::{Loss, Measured, PointKeys, Weight};
use crate::engine::metrics::prometheus::{Claim, claims, prometheus_name};
use crate::engine::span::{SpanId, TraceId};
use crate::engine::steps;
use crate::time::{Monotonic, Now, UnixNanos};

/// In place of a list of attributes: the series takes what limits keep out.
pub(super) const OVERFLOW: Slot = Slot::MAX;

/// Numbers of the mapping that an instance remembers, for each instrument that it may have. Names that differ in letters'
/// case have numbers of their own; what is beyond is found by name.
const NUMBERS_PER_INSTRUMENT: usize = 4;

/// How many bits of a weight are behind the point.
const FRACTION_BITS: u32 = 32;

/// A weight beyond this counts as this.
const MAX_WEIGHT: f64 = 2_147_483_648.0;

/// An instrument of an instance.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) number: u64,
    pub(super) instance: Slot,
    pub(super) instrument: Arc<Instrument>,
    /// In the order in which they came.
    pub(super) series: SmallVec<[Slot; 4]>,
    /// One of them.
    pub(super) overflow: Option<Slot>,
    /// One that it follows in Prometheus had its last points in this collection, which has none of it: its series start
    /// then at the earliest.
    pub(super) after: Option<UnixNanos>,
    /// Of its instance and its names.
    hashes: [u64; 2],
    /// It was made under other settings, and has not been measured under these.
    pub(super) is_questioned: bool,
    /// It has given way to another with its name: nothing finds it any more.
    pub(super) is_retired: bool,
    pub(super) is_dirty: bool,
    pub(super) is_written: bool,
}

/// Under which name a stream is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Its own.
    Own,
    /// The one that Prometheus gives it.
    Prometheus,
}

/// A list of attributes of a stream, and what was measured with it.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) number: u64,
    /// Of its attributes.
    pub(super) hash: u64,
    pub(super) start: UnixNanos,
    /// When its last measurement arrived.
    pub(super) measured_at: Monotonic,
    pub(super) exemplars: Exemplars,
    pub(super) stream: Slot,
    /// Its attributes, or [`OVERFLOW`].
    pub(super) list: Slot,
    /// The part of a measurement that its weights have left over, in units of 2^-32.
    pub(super) carry: u32,
    /// It was measured since the last point.
    pub(super) is_measured: bool,
    pub(super) is_dirty: bool,
    pub(super) is_written: bool,
    pub(super) value: Value,
}

impl Aggregation {
    /// Takes a measurement of an event of this time. A known series costs a search among the instance's instruments, one in a
    /// table, and no memory.
    pub(crate) fn record(
        &mut self,
        id: InstanceId,
        measured: &Measured<'_>,
        weight: Weight,
        time: UnixNanos,
        now: Now,
    ) -> Recorded {
        if matches!(measured.instrument.kind, Kind::Counter) && measured.value.is_negative() {
            self.counters.negative += 1;
            return Recorded::Lost(Loss::Negative);
        }
        let stream = match self.known_stream(id, measured).map_or_else(|| self.stream(id, measured), Ok) {
            Ok(stream) => stream,
            Err(loss) => return Recorded::Lost(loss),
        };
        let keys = measured.attributes;
        let mut taken = Taken { value: measured.value, times: 1, time, now };
        let (slot, is_overflow) = self
            .known_series(stream, keys)
            .map_or_else(|| self.add_series(stream, keys, &taken), |slot| (slot, false));
        let series = self.series.get_mut(slot).expect("found or made just now");
        if weight != Weight::ONE {
            taken.times = series.whole(weight);
        }
        series.measured_at = now.mono;
        let is_changed = series.value.record(&measured.instrument.kind, &taken, self.rules.reorder_window_ns);
        series.is_measured |= is_changed;
        let id = series.id(slot);
        self.written.touch_series(slot, series);
        if is_overflow {
            self.counters.overflow(&measured.instrument.name);
            return Recorded::Overflowed(id);
        }
        Recorded::Series(id)
    }

    /// Offers a measurement that a series of an instance has taken, as one that stands for others.
    pub(crate) fn offer(
        &mut self,
        id: InstanceId,
        series: SeriesId,
        value: Number,
        time: UnixNanos,
        span: Option<(TraceId, SpanId)>,
    ) {
        let (slot, generation_now) = (series.slot, series.generation);
        let Some(series) = self.series.get_mut(slot).filter(|own| generation(own.number) == generation_now)
        else {
            return;
        };
        let stream = self.streams.get(series.stream).filter(|stream| stream.instance == id.slot);
        let Some(stream) = stream.filter(|_| self.rules.has_exemplars) else { return };
        let shift = series.value.exemplar_shift();
        if series.exemplars.offer(&stream.instrument.kind, shift, value, time, span) {
            self.written.touch_series(slot, series);
        }
    }

    /// The stream of an instrument whose number has been seen.
    fn known_stream(&self, id: InstanceId, measured: &Measured<'_>) -> Option<Slot> {
        let numbers = &self.instance(id)?.numbers;
        let order = |(number, _): &(u32, Slot)| {
            steps::count();
            number.cmp(&measured.number)
        };
        let slot = numbers[numbers.binary_search_by(order).ok()?].1;
        let stream = self.streams.get(slot)?;
        Arc::ptr_eq(&stream.instrument, measured.instrument).then_some(slot)
    }

    /// The stream of an instrument, found by name or made.
    fn stream(&mut self, id: InstanceId, measured: &Measured<'_>) -> Result<Slot, Loss> {
        let instrument = measured.instrument;
        if self.instance(id).is_none() {
            self.counters.no_room += 1;
            return Err(Loss::NoRoom);
        }
        let named = self.named_streams(id.slot, instrument);
        for slot in named.iter().copied() {
            let stream = self.streams.get_mut(slot).expect("a name leads to its stream");
            if is_one(&stream.instrument, instrument) {
                if stream.instrument == *instrument {
                    // The same words in the mapping's own copy, which all instances share and the next look finds.
                    stream.instrument = Arc::clone(instrument);
                }
                if std::mem::take(&mut stream.is_questioned) {
                    self.touch_stream(slot);
                }
                self.remember_number(id.slot, measured.number, slot);
                return Ok(slot);
            }
            if !stream.is_questioned {
                let kept = Arc::clone(&stream.instrument);
                self.say_conflict(id.slot, kept, instrument);
                return Err(Loss::Conflict);
            }
        }
        named.into_iter().for_each(|slot| self.retire(slot));
        let instance = self.instances.get(id.slot).expect("seen above");
        if instance.streams.len() >= self.rules.max_instruments_per_worker {
            self.say_no_room(id.slot, instrument);
            return Err(Loss::NoRoom);
        }
        let number = self.number();
        let slot = self.put_stream(Stream::new(number, id.slot, Arc::clone(instrument)));
        self.remember_number(id.slot, measured.number, slot);
        Ok(slot)
    }

    /// The streams that have an instrument's name, and those in the way of its names in Prometheus; one that has its own name
    /// comes first.
    pub(super) fn named_streams(&self, instance: Slot, instrument: &Instrument) -> SmallVec<[Slot; 2]> {
        let find = |hash, naming, is_named: &dyn Fn(&Instrument) -> bool| {
            let is_it = |entry: &(Slot, Naming)| {
                steps::count();
                entry.1 == naming
                    && self
                        .streams
                        .get(entry.0)
                        .is_some_and(|stream| stream.instance == instance && is_named(&stream.instrument))
            };
            self.by_name.find(hash, is_it).map(|(slot, _)| *slot)
        };
        let mut named = SmallVec::new();
        let own = own_hash(instance, &instrument.name);
        named.extend(find(own, Naming::Own, &|other| other.name.eq_ignore_ascii_case(&instrument.name)));
        for claim in claims(instrument) {
            let hash = prometheus_hash(instance, &claim.name);
            let rival = find(hash, Naming::Prometheus, &|other| claim.is_against(other));
            named.extend(rival.filter(|rival| !named.contains(rival)));
        }
        named
    }

    pub(super) fn put_stream(&mut self, stream: Stream) -> Slot {
        let (instance, is_retired) = (stream.instance, stream.is_retired);
        let slot = self.streams.insert(stream);
        self.instances.get_mut(instance).expect("a stream has an instance").streams.push(slot);
        if !is_retired {
            let streams = &self.streams;
            let hash_of = |(slot, naming): &(Slot, Naming)| {
                streams.get(*slot).map_or(0, |stream| stream.name_hash(*naming))
            };
            for entry in [(slot, Naming::Own), (slot, Naming::Prometheus)] {
                self.by_name.insert_unique(hash_of(&entry), entry, hash_of);
            }
        }
        self.touch_stream(slot);
        slot
    }

    fn remember_number(&mut self, instance: Slot, number: u32, stream: Slot) {
        let max = self.rules.max_instruments_per_worker.saturating_mul(NUMBERS_PER_INSTRUMENT);
        let numbers = &mut self.instances.get_mut(instance).expect("seen before").numbers;
        match numbers.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => numbers[at].1 = stream,
            Err(at) if numbers.len() < max => numbers.insert(at, (number, stream)),
            Err(_) => {}
        }
    }

    /// Nothing finds the stream any more; the next collections end its series.
    fn retire(&mut self, slot: Slot) {
        self.forget_name(slot);
        self.streams.get_mut(slot).expect("seen before").is_retired = true;
        self.touch_stream(slot);
    }

    fn forget_name(&mut self, slot: Slot) {
        let Some(stream) = self.streams.get(slot) else { return };
        for naming in [Naming::Own, Naming::Prometheus] {
            let is_it = |entry: &(Slot, Naming)| *entry == (slot, naming);
            if let Ok(entry) = self.by_name.find_entry(stream.name_hash(naming), is_it) {
                entry.remove();
            }
        }
        if let Some(instance) = self.instances.get_mut(stream.instance) {
            instance.numbers.retain(|(_, stream)| *stream != slot);
        }
    }

    pub(super) fn remove_stream(&mut self, slot: Slot) {
        self.forget_name(slot);
        let Some(stream) = self.streams.remove(slot) else { return };
        if let Some(instance) = self.instances.get_mut(stream.instance) {
            instance.streams.retain(|own| *own != slot);
        }
        self.written.removed_stream(slot, &stream);
    }

    fn known_series(&self, stream: Slot, keys: PointKeys<'_>) -> Option<Slot> {
        let is_same = |slot: &Slot| {
            steps::count();
            self.series.get(*slot).is_some_and(|series| {
                series.stream == stream && series.hash == keys.hash() && self.lists.is_of(series.list, keys)
            })
        };
        self.by_attributes.find(table_hash(stream, keys.hash()), is_same).copied()
    }

    /// A series for attributes that have none, and whether it is that of overflow.
    fn add_series(&mut self, stream: Slot, keys: PointKeys<'_>, first: &Taken) -> (Slot, bool) {
        let own = self.streams.get(stream).expect("found or made just now");
        let series = own.series.len() - usize::from(own.overflow.is_some());
        let of_instance = self.instances.get(own.instance).map_or(0, |instance| instance.series);
        let limit = if series >= self.rules.max_series {
            Some(OverflowLimit::Instrument)
        } else if of_instance >= self.rules.max_series_per_worker {
            Some(OverflowLimit::Worker)
        } else {
            None
        };
        if let (Some(_), Some(overflow)) = (limit, own.overflow) {
            return (overflow, true);
        }
        let (instance, instrument) = (own.instance, Arc::clone(&own.instrument));
        let (list, hash) = match limit {
            Some(limit) => {
                self.say_overflow(instance, &instrument, limit);
                (OVERFLOW, 0)
            }
            None => (self.lists.share(keys), keys.hash()),
        };
        // Whatever had these attributes before had its last point then at the latest.
        let start = self.last.map_or(first.now.wall, |last| first.now.wall.max(last.saturating_add(1)));
        let series = Series {
            number: self.number(),
            hash,
            start,
            measured_at: first.now.mono,
            exemplars: Exemplars::default(),
            stream,
            list,
            carry: 0,
            is_measured: false,
            is_dirty: false,
            is_written: false,
            value: Value::new(&instrument.kind, first),
        };
        (self.put_series(None, series), limit.is_some())
    }

    /// Takes a series in, at its place if it had one.
    pub(super) fn put_series(&mut self, place: Option<Slot>, series: Series) -> Slot {
        let (hash, stream, is_overflow) = (series.table_hash(), series.stream, series.list == OVERFLOW);
        let slot = match place {
            Some(slot) => {
                let is_free = self.series.insert_at(slot, series);
                debug_assert!(is_free, "whoever gives a place has seen that it is free");
                slot
            }
            None => self.series.insert(series),
        };
        let own = self.streams.get_mut(stream).expect("a series has a stream");
        own.series.push(slot);
        if is_overflow {
            own.overflow = Some(slot);
        } else {
            self.instances.get_mut(own.instance).expect("a stream has an instance").series += 1;
            let series = &self.series;
            let hash_of = |slot: &Slot| series.get(*slot).map_or(0, Series::table_hash);
            self.by_attributes.insert_unique(hash, slot, hash_of);
        }
        slot
    }

    /// Forgets a series; the caller takes it off its stream's list.
    pub(super) fn remove_series(&mut self, slot: Slot) -> Option<Series> {
        let series = self.series.remove(slot)?;
        if series.list == OVERFLOW {
            if let Some(stream) = self.streams.get_mut(series.stream) {
                stream.overflow = None;
            }
        } else {
            self.lists.release(series.list);
            if let Ok(entry) = self.by_attributes.find_entry(series.table_hash(), |own| *own == slot) {
                entry.remove();
            }
            let instance = self.streams.get(series.stream).map(|stream| stream.instance);
            if let Some(instance) = instance.and_then(|slot| self.instances.get_mut(slot)) {
                instance.series -= 1;
            }
        }
        self.written.removed_series(slot, &series);
        Some(series)
    }
}

impl Stream {
    pub(super) fn new(number: u64, instance: Slot, instrument: Arc<Instrument>) -> Self {
        let hashes =
            [own_hash(instance, &instrument.name), prometheus_hash(instance, &prometheus_name(&instrument))];
        Self {
            number,
            instance,
            instrument,
            series: SmallVec::new(),
            overflow: None,
            after: None,
            hashes,
            is_questioned: false,
            is_retired: false,
            is_dirty: false,
            is_written: false,
        }
    }

    pub(super) const fn name_hash(&self, naming: Naming) -> u64 {
        let [own, in_prometheus] = self.hashes;
        match naming {
            Naming::Own => own,
            Naming::Prometheus => in_prometheus,
        }
    }

    /// What its instrument leaves to no other, with the hash of each.
    pub(super) fn claims(&self) -> SmallVec<[(u64, Claim); 4]> {
        let claims = claims(&self.instrument);
        claims.into_iter().map(|claim| (prometheus_hash(self.instance, &claim.name), claim)).collect()
    }

    /// Whether it has what another of its instance claims.
    pub(super) fn is_claimed(&self, claims: &[(u64, Claim)]) -> bool {
        let hash = self.name_hash(Naming::Prometheus);
        claims.iter().any(|(own, claim)| *own == hash && claim.is_against(&self.instrument))
    }
}

impl Series {
    fn id(&self, slot: Slot) -> SeriesId {
        SeriesId { slot, generation: generation(self.number) }
    }

    pub(super) fn table_hash(&self) -> u64 {
        table_hash(self.stream, self.hash)
    }

    /// How many measurements the next one stands for: whole ones, and what is left over is carried to the one after.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 1 to 2^31, with a fraction"
    )]
    fn whole(&mut self, weight: Weight) -> u64 {
        let unit = f64::from(1_u32 << 31) * 2.0;
        let weight = (weight.value().clamp(1.0, MAX_WEIGHT) * unit).round() as u64;
        let weight = weight + u64::from(self.carry);
        self.carry = weight as u32;
        weight >> FRACTION_BITS
    }
}

/// Whether they are one stream. Letters' case does not count: instruments' names are ASCII.
fn is_one(own: &Instrument, other: &Instrument) -> bool {
    own.name.eq_ignore_ascii_case(&other.name) && own.unit == other.unit && own.kind == other.kind
}

/// Of an instrument's name.
fn own_hash(instance: Slot, name: &str) -> u64 {
    let lower: SmallVec<[u8; 96]> = name.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
    xxh3_64_with_seed(&lower, u64::from(instance))
}

/// Of its name in Prometheus.
fn prometheus_hash(instance: Slot, name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), u64::from(instance))
}

/// Streams with the same attributes are spread by an odd factor.
fn table_hash(stream: Slot, hash: u64) -> u64 {
    hash.wrapping_add((u64::from(stream) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
