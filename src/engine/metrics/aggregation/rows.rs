//! What checkpoints have of series: a row for each instance, stream and series, of which those are written that changed.
//!
//! Rows go by number, and numbers are never given twice. Places are written too where an id that others keep has them. Who
//! is attached, and the mapping's numbers of instruments, are not: workers say the one again ([`Aggregation::rejoin`]),
//! measurements the other. Rows that cannot be read, and those that belong to one of these, are left out: what is lost is
//! a series' value, and the next measurement begins another.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::engine::attributes::Attributes;
use crate::engine::metrics::aggregation::Aggregation;
use crate::engine::metrics::aggregation::collect::Running;
use crate::engine::metrics::aggregation::exemplars::Exemplars;
use crate::engine::metrics::aggregation::figures::Counters;
use crate::engine::metrics::aggregation::instances::{Instance, InstanceKey};
use crate::engine::metrics::aggregation::lists::pairs_of;
use crate::engine::metrics::aggregation::series::{OVERFLOW, Series, Stream};
use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::aggregation::value::Value;
use crate::engine::metrics::instrument::{Instrument, Kind};
use crate::engine::metrics::measured::PointKeys;
use crate::engine::metrics::settings::{MetricSettings, Temporality};
use crate::engine::rows;
use crate::store::RowKey;
use crate::time::{Monotonic, UnixNanos};
use crate::worker::Source;

/// The first byte of every key here.
const ROWS: u8 = 2;

/// No series has a place beyond this: what says so is damaged, and would take the memory of all places before it.
const MAX_SLOT: Slot = 1 << 26;

/// Which row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricRow {
    Instance(u64),
    Stream(u64),
    Series(u64),
}

impl MetricRow {
    pub(crate) fn key(self) -> RowKey {
        let (kind, number) = match self {
            Self::Instance(number) => (0, number),
            Self::Stream(number) => (1, number),
            Self::Series(number) => (2, number),
        };
        let mut key = RowKey::from_slice(&[ROWS, kind]);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    /// The row of a key, if it is one of these.
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        let (kind, number) = key.strip_prefix(&[ROWS])?.split_first()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        match kind {
            0 => Some(Self::Instance(number)),
            1 => Some(Self::Stream(number)),
            2 => Some(Self::Series(number)),
            _ => None,
        }
    }
}

/// What is small, of all of it: a part of the engine's head.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AggregationHead {
    pub(super) next_number: u64,
    pub(super) last: Option<UnixNanos>,
    pub(super) running: Option<Running>,
    pub(super) counters: Counters,
    pub(super) fingerprint: u64,
    pub(super) is_delta: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InstanceRow {
    pub(super) slot: Slot,
    pub(super) key: InstanceKey,
    pub(super) source: Arc<Source>,
    pub(super) is_leaving: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StreamRow {
    pub(super) instance: u64,
    pub(super) instrument: Arc<Instrument>,
    pub(super) after: Option<UnixNanos>,
    pub(super) is_questioned: bool,
    pub(super) is_retired: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SeriesRow<'a> {
    pub(super) slot: Slot,
    pub(super) stream: u64,
    /// Absent for the series that takes what limits keep out.
    pub(super) attributes: Option<Arc<Attributes>>,
    pub(super) start: UnixNanos,
    pub(super) measured_at: Monotonic,
    pub(super) carry: u32,
    pub(super) is_measured: bool,
    pub(super) exemplars: Cow<'a, Exemplars>,
    pub(super) value: Cow<'a, Value>,
}

/// The rows of an aggregation, as they are read.
#[derive(Debug, Default)]
pub(crate) struct AggregationRows {
    instances: BTreeMap<u64, InstanceRow>,
    streams: BTreeMap<u64, StreamRow>,
    series: BTreeMap<u64, SeriesRow<'static>>,
}

impl AggregationRows {
    /// Takes a row in; `false` if it is not what was written.
    pub(crate) fn put(&mut self, row: MetricRow, value: &[u8]) -> bool {
        let read = match row {
            MetricRow::Instance(number) => {
                rows::decode(value).map(|row| self.instances.insert(number, row).is_some())
            }
            MetricRow::Stream(number) => {
                rows::decode(value).map(|row| self.streams.insert(number, row).is_some())
            }
            MetricRow::Series(number) => {
                rows::decode(value).map(|row| self.series.insert(number, row).is_some())
            }
        };
        read.is_some()
    }

    /// The aggregation that wrote these rows, and how many of them are of no use. Nobody is attached yet.
    pub(crate) fn restore(
        self,
        settings: &MetricSettings,
        reorder_window: Duration,
        head: AggregationHead,
    ) -> (Aggregation, u64) {
        let mut own = Aggregation::new(settings, reorder_window);
        own.next_number = head.next_number;
        (own.last, own.running) = (head.last, head.running);
        own.counters = head.counters;
        let mut restoring = Restoring {
            has_other_rules: own.rules.fingerprint != head.fingerprint,
            begins_delta: own.rules.temporality == Temporality::Delta && !head.is_delta,
            own,
            instances: HashMap::new(),
            streams: HashMap::new(),
            instruments: HashMap::new(),
        };
        let mut damaged = 0;
        for (number, row) in self.instances {
            damaged += u64::from(restoring.instance(number, row).is_none());
        }
        for (number, row) in self.streams {
            damaged += u64::from(restoring.stream(number, row).is_none());
        }
        for (number, row) in self.series {
            damaged += u64::from(restoring.series(number, row).is_none());
        }
        (restoring.own, damaged)
    }
}

/// An aggregation that is being restored, with where things are by their numbers.
#[derive(Debug)]
struct Restoring {
    own: Aggregation,
    instances: HashMap<u64, Slot>,
    streams: HashMap<u64, Slot>,
    /// By name, so that instances share them again.
    instruments: HashMap<Arc<str>, Vec<Arc<Instrument>>>,
    has_other_rules: bool,
    /// What was cumulative is differences now.
    begins_delta: bool,
}

impl Restoring {
    fn instance(&mut self, number: u64, row: InstanceRow) -> Option<()> {
        let is_new = row.slot < MAX_SLOT
            && number < self.own.next_number
            && self.own.instances.get(row.slot).is_none()
            && !self.own.by_key.contains_key(&row.key);
        if !is_new {
            return None;
        }
        let mut instance = Instance::new(number, row.key, row.source);
        instance.users = 0;
        instance.is_leaving = row.is_leaving;
        self.own.put_instance(Some(row.slot), instance);
        self.instances.insert(number, row.slot);
        Some(())
    }

    fn stream(&mut self, number: u64, row: StreamRow) -> Option<()> {
        let instance =
            self.instances.get(&row.instance).copied().filter(|_| number < self.own.next_number)?;
        if !row.is_retired && !self.own.named_streams(instance, &row.instrument).is_empty() {
            return None;
        }
        let mut stream = Stream::new(number, instance, self.shared(row.instrument));
        stream.is_questioned = row.is_questioned || self.has_other_rules;
        stream.is_retired = row.is_retired;
        stream.after = row.after;
        let slot = self.own.put_stream(stream);
        self.streams.insert(number, slot);
        Some(())
    }

    fn series(&mut self, number: u64, row: SeriesRow<'static>) -> Option<()> {
        let stream = self.streams.get(&row.stream).copied().filter(|_| number < self.own.next_number)?;
        let own = self.own.streams.get(stream)?;
        let kind = own.instrument.kind.clone();
        let is_free = row.slot < MAX_SLOT && self.own.series.get(row.slot).is_none();
        let is_second = row.attributes.is_none() && own.overflow.is_some();
        if !is_free || is_second || !row.value.is_of(&kind) || !row.exemplars.is_of(&kind) {
            return None;
        }
        let (list, hash) = match &row.attributes {
            Some(attributes) => {
                let mut pairs = pairs_of(attributes);
                let keys = PointKeys::of(&mut pairs);
                (self.own.lists.share(keys), keys.hash())
            }
            None => (OVERFLOW, 0),
        };
        let mut series = Series {
            number,
            hash,
            start: row.start,
            measured_at: row.measured_at,
            exemplars: row.exemplars.into_owned(),
            stream,
            list,
            carry: row.carry,
            is_measured: row.is_measured,
            is_dirty: false,
            is_written: false,
            value: row.value.into_owned(),
        };
        self.begin_delta(&kind, &mut series);
        self.own.put_series(Some(row.slot), series);
        Some(())
    }

    /// What a cumulative series has exported is not to be exported as a difference. What it has not cannot be told from
    /// that, and is in the first one.
    fn begin_delta(&self, kind: &Kind, series: &mut Series) {
        if self.begins_delta && *kind != Kind::UpDownCounter && !series.is_measured {
            series.value.reset();
            series.start = self.own.last.unwrap_or(series.start);
        }
    }

    fn shared(&mut self, instrument: Arc<Instrument>) -> Arc<Instrument> {
        let known = self.instruments.entry(Arc::clone(&instrument.name)).or_default();
        if let Some(known) = known.iter().find(|known| **known == instrument) {
            return Arc::clone(known);
        }
        known.push(Arc::clone(&instrument));
        instrument
    }
}
