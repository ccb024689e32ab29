//! Which instances, streams and series differ from what checkpoints have of them, and how these are written.

use std::borrow::Cow;
use std::sync::Arc;

use crate::engine::metrics::aggregation::Aggregation;
use crate::engine::metrics::aggregation::instances::Instance;
use crate::engine::metrics::aggregation::rows::{
    AggregationHead, InstanceRow, MetricRow, SeriesRow, StreamRow,
};
use crate::engine::metrics::aggregation::series::{OVERFLOW, Series, Stream};
use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::settings::Temporality;
use crate::engine::rows;
use crate::store::RowKey;

/// What changed since the last checkpoint. Nothing is noted before the first: that has everything.
#[derive(Debug, Default)]
pub(super) struct Written {
    is_noting: bool,
    instances: Vec<Slot>,
    streams: Vec<Slot>,
    series: Vec<Slot>,
    removed: Vec<MetricRow>,
}

impl Written {
    pub(super) fn touch_series(&mut self, slot: Slot, series: &mut Series) {
        if self.is_noting && !series.is_dirty {
            series.is_dirty = true;
            self.series.push(slot);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let Self { is_noting, instances, streams, series, removed } = self;
        !is_noting && instances.is_empty() && streams.is_empty() && series.is_empty() && removed.is_empty()
    }

    pub(super) fn removed_series(&mut self, series: &Series) {
        if series.is_written {
            self.removed.push(MetricRow::Series(series.number));
        }
    }

    pub(super) fn removed_stream(&mut self, stream: &Stream) {
        if stream.is_written {
            self.removed.push(MetricRow::Stream(stream.number));
        }
    }

    pub(super) fn removed_instance(&mut self, instance: &Instance) {
        if instance.is_written {
            self.removed.push(MetricRow::Instance(instance.number));
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
            self.written.instances.push(slot);
        }
    }

    pub(super) fn touch_stream(&mut self, slot: Slot) {
        if let Some(stream) = self.streams.get_mut(slot)
            && self.written.is_noting
            && !stream.is_dirty
        {
            stream.is_dirty = true;
            self.written.streams.push(slot);
        }
    }

    /// Adds what changed since this was called last, or everything: then the rows of before are to go.
    pub(crate) fn write(
        &mut self,
        all: bool,
        puts: &mut Vec<(RowKey, Vec<u8>)>,
        deletes: &mut Vec<RowKey>,
    ) -> AggregationHead {
        let changed = std::mem::take(&mut self.written);
        if all || !changed.is_noting {
            self.write_all(puts);
        } else {
            deletes.extend(changed.removed.into_iter().map(MetricRow::key));
            changed.instances.into_iter().for_each(|slot| self.write_instance(slot, false, puts));
            changed.streams.into_iter().for_each(|slot| self.write_stream(slot, false, puts));
            changed.series.into_iter().for_each(|slot| self.write_series(slot, false, puts));
        }
        self.written.is_noting = true;
        AggregationHead {
            next_number: self.next_number,
            last: self.last,
            running: self.running.clone(),
            counters: self.counters.clone(),
            fingerprint: self.rules.fingerprint,
            is_delta: self.rules.temporality == Temporality::Delta,
        }
    }

    fn write_all(&mut self, puts: &mut Vec<(RowKey, Vec<u8>)>) {
        let instances: Vec<Slot> = self.instances.iter_mut().map(|(slot, _)| slot).collect();
        instances.into_iter().for_each(|slot| self.write_instance(slot, true, puts));
        let streams: Vec<Slot> = self.streams.iter_mut().map(|(slot, _)| slot).collect();
        streams.into_iter().for_each(|slot| self.write_stream(slot, true, puts));
        let series: Vec<Slot> = self.series.iter_mut().map(|(slot, _)| slot).collect();
        series.into_iter().for_each(|slot| self.write_series(slot, true, puts));
    }

    /// Places are listed with what was in them, which may be gone, and written since.
    fn write_instance(&mut self, slot: Slot, all: bool, puts: &mut Vec<(RowKey, Vec<u8>)>) {
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
        puts.push((MetricRow::Instance(instance.number).key(), rows::encode(&row)));
    }

    fn write_stream(&mut self, slot: Slot, all: bool, puts: &mut Vec<(RowKey, Vec<u8>)>) {
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
        puts.push((MetricRow::Stream(stream.number).key(), rows::encode(&row)));
    }

    fn write_series(&mut self, slot: Slot, all: bool, puts: &mut Vec<(RowKey, Vec<u8>)>) {
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
        puts.push((MetricRow::Series(series.number).key(), rows::encode(&row)));
    }
}
