//! What becomes of measurements until they are collected.
//!
//! An *instance* (node and worker id) has *streams*, one for each of its instruments; a stream has *series*, one for each
//! list of attributes. Which event makes which measurement is the mapping's business, when to collect is the caller's;
//! nothing here knows workers' states, clocks or OTLP.
//!
//! | part | decides |
//! |---|---|
//! | [`value`], [`exponential`] | what a series has in it |
//! | [`exemplars`] | which measurements stand for the others |
//! | [`series`] | how measurements find their series, and what the limits do |
//! | [`instances`] | who has series, and when all of one's end |
//! | [`collect`] | how a collection goes through them in slices; when series end |
//! | [`rows`] | what a checkpoint has of it |
//! | [`regroup`] | how instances move where shards are divided anew |
//! | [`figures`] | what is counted and said |
//!
//! Laws (`tests`): a point's start is before its time; the times of a series' points ascend, and a series that returns
//! starts after its last point; while the start stays, nothing cumulative runs backwards; differences add up to what was
//! measured; what was restored says what the original would have said.

mod collect;
mod exemplars;
mod exponential;
mod figures;
mod instances;
mod lists;
mod regroup;
mod rows;
mod series;
mod slab;
#[cfg(test)]
mod tests;
mod value;
mod written;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashTable};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metrics::aggregation::collect::Running;
use crate::engine::metrics::aggregation::figures::Counters;
use crate::engine::metrics::aggregation::instances::Instance;
use crate::engine::metrics::aggregation::lists::Lists;
use crate::engine::metrics::aggregation::series::{Naming, Series, Stream};
use crate::engine::metrics::aggregation::slab::{Slab, Slot};
use crate::engine::metrics::aggregation::written::Written;
use crate::engine::metrics::measured::Loss;
use crate::engine::metrics::settings::{ExemplarFilter, MetricSettings, Temporality};
use crate::time::UnixNanos;

pub use crate::engine::metrics::aggregation::figures::AggregationFigures;
pub(crate) use crate::engine::metrics::aggregation::figures::{Notice, OverflowLimit};
pub(crate) use crate::engine::metrics::aggregation::instances::{Described, InstanceKey};
pub(crate) use crate::engine::metrics::aggregation::rows::{AggregationHead, AggregationRows, MetricRow};

/// The attribute of the series that takes what limits keep out, with `true`, from the specification.
const OVERFLOW_KEY: &str = "otel.metric.overflow";

/// An instance; names nothing any more once that was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct InstanceId {
    slot: Slot,
    /// The low half of its number.
    generation: u32,
}

/// A series; names nothing any more once that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct SeriesId {
    slot: Slot,
    /// The low half of its number.
    generation: u32,
}

/// What became of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// It is in a series of its own attributes.
    Series(SeriesId),
    /// It is in the series that takes what limits keep out.
    Overflowed(SeriesId),
    /// It is in none.
    Lost(Loss),
}

/// The series of a shard's instances.
#[derive(Debug)]
pub(crate) struct Aggregation {
    rules: Rules,
    instances: Slab<Instance>,
    by_key: HashMap<InstanceKey, Slot>,
    /// By number: in the order in which they came.
    in_order: BTreeMap<u64, Slot>,
    streams: Slab<Stream>,
    /// Streams by instance and each of their names.
    by_name: HashTable<(Slot, Naming)>,
    series: Slab<Series>,
    /// Series by stream and attributes.
    by_attributes: HashTable<Slot>,
    lists: Lists,
    overflow: Arc<Attributes>,
    /// For instances, streams and series; none is given twice.
    next_number: u64,
    /// The time of the collection that began last.
    last: Option<UnixNanos>,
    running: Option<Running>,
    counters: Counters,
    written: Written,
}

/// What the settings say, as it is used.
#[derive(Debug, Clone)]
struct Rules {
    max_series: usize,
    max_series_per_worker: usize,
    max_instruments_per_worker: usize,
    series_idle_ns: u64,
    reorder_window_ns: u64,
    temporality: Temporality,
    has_exemplars: bool,
    /// Of everything that decides what an instrument is; equal for equal settings of one version.
    fingerprint: u64,
}

impl Aggregation {
    /// One that has nothing. `reorder_window` is how far events of one worker arrive out of order.
    pub(crate) fn new(settings: &MetricSettings, reorder_window: Duration) -> Self {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let version = env!("CARGO_PKG_VERSION");
        let said = format!("{version} {:?} {:?}", settings.rules, settings.histogram);
        let mut overflow = Attributes::default();
        overflow.push_new(OVERFLOW_KEY, AttributeValue::Bool(true));
        overflow.shrink();
        Self {
            rules: Rules {
                max_series: settings.max_series,
                max_series_per_worker: settings.max_series_per_worker,
                max_instruments_per_worker: settings.max_instruments_per_worker,
                series_idle_ns: nanos(settings.series_idle),
                reorder_window_ns: nanos(reorder_window),
                temporality: settings.temporality,
                has_exemplars: settings.exemplars != ExemplarFilter::AlwaysOff,
                fingerprint: xxh3_64(said.as_bytes()),
            },
            instances: Slab::default(),
            by_key: HashMap::new(),
            in_order: BTreeMap::new(),
            streams: Slab::default(),
            by_name: HashTable::new(),
            series: Slab::default(),
            by_attributes: HashTable::new(),
            lists: Lists::default(),
            overflow: Arc::new(overflow),
            next_number: 0,
            last: None,
            running: None,
            counters: Counters::default(),
            written: Written::default(),
        }
    }

    /// A number that nothing has.
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Gives back memory that nothing needs.
    fn shrink(&mut self) {
        let (streams, series) = (&self.streams, &self.series);
        let name_hash = |(slot, naming): &(Slot, Naming)| {
            streams.get(*slot).map_or(0, |stream| stream.name_hash(*naming))
        };
        shrunk(&mut self.by_name, name_hash);
        shrunk(&mut self.by_attributes, |slot| series.get(*slot).map_or(0, Series::table_hash));
        if is_roomy(self.by_key.capacity(), self.by_key.len()) {
            self.by_key.shrink_to(2 * self.by_key.len());
        }
        self.lists.shrink();
    }
}

/// Whether a table has so much room that most of it is to be given back.
fn is_roomy(capacity: usize, len: usize) -> bool {
    capacity > 64 && len < capacity / 4
}

/// Gives back the memory of a table that was larger once.
fn shrunk<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if is_roomy(table.capacity(), table.len()) {
        table.shrink_to(2 * table.len(), hash);
    }
}

/// The low half of a number.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
const fn generation(number: u64) -> u32 {
    number as u32
}
