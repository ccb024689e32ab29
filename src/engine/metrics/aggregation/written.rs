//! Which instances, streams and series differ from what checkpoints have of them, and how these are written.

use std::borrow::Cow;
use std::sync::Arc;

use crate::engine::checkpoint::draft::Draft;
use crate::engine::metrics::aggregation::Aggregation;
use crate::engine::metrics::aggregation::instances::Instance;
use crate::engine::metrics::aggregation::rows::{
    AggregationHead, InstanceRow, MetricRow, SeriesRow, StreamRow,
};
use crate::engine::metrics::aggregation::series::{OVERFLOW, Series, Stream};
use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::settings::Temporality;

/// Places with what differs from what was written.
#[derive(Debug, Default)]
struct Slots {
    instances: Vec<Slot>,
    streams: Vec<Slot>,
    series: Vec<Slot>,
}

/// Where something is, in the order in which everything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Instance(Slot),
    Stream(Slot),
    Series(Slot),
}

/// What differs from what was written. Nothing is noted before the first checkpoint: that has everything.
#[derive(Debug, Default)]
pub(super) struct Written {
    is_noting: bool,
    changed: Slots,
    /// What had changed when the pass began that is under way, and has not been written since.
    in_pass: Slots,
    /// Everything is to be written, and from here on was not: what is said to be written is what checkpoints before had.
    all_from: Option<Place>,
    removed: Vec<MetricRow>,
}

impl Slots {
    fn len(&self) -> usize {
        self.instances.len() + self.streams.len() + self.series.len()
    }

    fn pop(&mut self) -> Option<Place> {
        let instance = self.instances.pop().map(Place::Instance);
        let stream = || self.streams.pop().map(Place::Stream);
        instance.or_else(stream).or_else(|| self.series.pop().map(Place::Series))
    }

    fn append(&mut self, mut other: Self) {
        self.instances.append(&mut other.instances);
        self.streams.append(&mut other.streams);
        self.series.append(&mut other.series);
    }
}

impl Written {
    pub(super) fn touch_series(&mut self, slot: Slot, series: &mut Series) {
        if self.is_noting && !series.is_dirty {
            series.is_dirty = true;
            self.changed.series.push(slot);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let Self { is_noting, changed, in_pass, all_from, removed } = self;
        !is_noting && changed.len() + in_pass.len() + removed.len() == 0 && all_from.is_none()
    }

    pub(super) fn removed_series(&mut self, slot: Slot, series: &Series) {
        self.removed(series.is_written, Place::Series(slot), MetricRow::Series(series.number));
    }

    pub(super) fn removed_stream(&mut self, slot: Slot, stream: &Stream) {
        self.removed(stream.is_written, Place::Stream(slot), MetricRow::Stream(stream.number));
    }

    pub(super) fn removed_instance(&mut self, slot: Slot, instance: &Instance) {
        self.removed(instance.is_written, Place::Instance(slot), MetricRow::Instance(instance.number));
    }

    fn removed(&mut self, is_written: bool, place: Place, row: MetricRow) {
        if is_written && self.all_from.is_none_or(|from| place < from) {
            self.removed.push(row);
        }
    }
}

impl Aggregation {
    pub(super) fn touch_instance(&mut self, slot: Slot) {
        if let Some(instance) = self.instances.get_mut(slot)
            && self.written.is_noting
            && !instance.is_dirty
        {
            instance.is_dirty = true;
            self.written.changed.instances.push(slot);
        }
    }

    pub(super) fn touch_stream(&mut self, slot: Slot) {
        if let Some(stream) = self.streams.get_mut(slot)
            && self.written.is_noting
            && !stream.is_dirty
        {
            stream.is_dirty = true;
            self.written.changed.streams.push(slot);
        }
    }

    /// Everything is to be written: then the rows of before are to go.
    pub(crate) fn write_all(&mut self) {
        self.written = Written { is_noting: true, all_from: Some(Place::Instance(0)), ..Written::default() };
    }

    /// What has changed so far is in this pass, and what changes from now on is left to the next.
    pub(crate) fn begin_pass(&mut self) {
        let changed = std::mem::take(&mut self.written.changed);
        self.written.in_pass.append(changed);
    }

    /// Goes on with the pass until the draft is full. Whether it is over.
    pub(crate) fn go_on_with_pass(&mut self, draft: &mut Draft) -> bool {
        while let Some(from) = self.written.all_from {
            if draft.is_full() {
                return false;
            }
            self.written.all_from = self.write_first(from, draft);
        }
        while self.written.in_pass.len() > 0 {
            if draft.is_full() {
                return false;
            }
            match self.written.in_pass.pop() {
                Some(Place::Instance(slot)) => self.write_instance(slot, false, draft),
                Some(Place::Stream(slot)) => self.write_stream(slot, false, draft),
                Some(Place::Series(slot)) => self.write_series(slot, false, draft),
                None => {}
            }
        }
        self.written.in_pass = Slots::default();
        true
    }

    /// Rows that are to be written, and some that need not be any more.
    pub(crate) fn unwritten(&self) -> usize {
        self.written.changed.len() + self.written.in_pass.len()
    }

    /// Adds what changed since it was written last; everything, where this is the first time.
    pub(crate) fn write(&mut self, draft: &mut Draft) -> AggregationHead {
        if !self.written.is_noting {
            self.write_all();
        }
        self.begin_pass();
        let is_over = self.go_on_with_pass(draft);
        debug_assert!(is_over, "the draft has room for all of it");
        for row in std::mem::take(&mut self.written.removed) {
            draft.delete(row.key());
        }
        AggregationHead {
            next_number: self.next_number,
            last: self.last,
            running: self.running.clone(),
            counters: self.counters.clone(),
            fingerprint: self.rules.fingerprint,
            is_delta: self.rules.temporality == Temporality::Delta,
        }
    }

    /// Writes the first thing from a place on, if there is one of its kind. Where it goes on comes back.
    fn write_first(&mut self, from: Place, draft: &mut Draft) -> Option<Place> {
        match from {
            Place::Instance(slot) => Some(match self.instances.next_from(slot) {
                Some(slot) => {
                    self.write_instance(slot, true, draft);
                    Place::Instance(slot + 1)
                }
                None => Place::Stream(0),
            }),
            Place::Stream(slot) => Some(match self.streams.next_from(slot) {
                Some(slot) => {
                    self.write_stream(slot, true, draft);
                    Place::Stream(slot + 1)
                }
                None => Place::Series(0),
            }),
            Place::Series(slot) => {
                let slot = self.series.next_from(slot)?;
                self.write_series(slot, true, draft);
                Some(Place::Series(slot + 1))
            }
        }
    }

    /// Places are listed with what was in them, which may be gone, and written since.
    fn write_instance(&mut self, slot: Slot, all: bool, draft: &mut Draft) {
        let Some(instance) = self.instances.get_mut(slot).filter(|instance| all || instance.is_dirty) else {
            return;
        };
        (instance.is_dirty, instance.is_written) = (false, true);
        let row = InstanceRow {
            slot,
            key: instance.key.clone(),
            source: Arc::clone(&instance.source),
            is_leaving: instance.is_leaving,
        };
        draft.put(MetricRow::Instance(instance.number).key(), &row);
    }

    fn write_stream(&mut self, slot: Slot, all: bool, draft: &mut Draft) {
        let Some(stream) = self.streams.get_mut(slot).filter(|stream| all || stream.is_dirty) else { return };
        (stream.is_dirty, stream.is_written) = (false, true);
        let instance = self.instances.get(stream.instance).expect("a stream has an instance");
        let row = StreamRow {
            instance: instance.number,
            instrument: Arc::clone(&stream.instrument),
            after: stream.after,
            is_questioned: stream.is_questioned,
            is_retired: stream.is_retired,
        };
        draft.put(MetricRow::Stream(stream.number).key(), &row);
    }

    fn write_series(&mut self, slot: Slot, all: bool, draft: &mut Draft) {
        let Some(series) = self.series.get_mut(slot).filter(|series| all || series.is_dirty) else { return };
        (series.is_dirty, series.is_written) = (false, true);
        let stream = self.streams.get(series.stream).expect("a series has a stream");
        let row = SeriesRow {
            slot,
            stream: stream.number,
            attributes: (series.list != OVERFLOW)
                .then(|| Arc::clone(self.lists.get(series.list).expect("a series has its attributes"))),
            start: series.start,
            measured_at: series.measured_at,
            carry: series.carry,
            is_measured: series.is_measured,
            exemplars: Cow::Borrowed(&series.exemplars),
            value: Cow::Borrowed(&series.value),
        };
        draft.put(MetricRow::Series(series.number).key(), &row);
    }
}
