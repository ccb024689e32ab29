//! Moves instances to other aggregations, where the number of shards has changed.
//!
//! Whoever divides anew tells each new aggregation of all old ones ([`Aggregation::go_on_after`]), moves the instances one by
//! one, and has their workers attach again ([`Aggregation::rejoin`]). A collection that was on its way is not continued: what
//! it has not come to is in the next one. Ids of series name nothing any more; exemplars that were to be offered are not.

use crate::engine::metrics::aggregation::instances::{Instance, InstanceKey};
use crate::engine::metrics::aggregation::lists::pairs_of;
use crate::engine::metrics::aggregation::series::{OVERFLOW, Stream};
use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::aggregation::{Aggregation, InstanceId, generation};
use crate::engine::metrics::measured::PointKeys;

impl Aggregation {
    /// Gives no number that the other has given, and no point a time that is not after those of the other.
    pub(crate) fn go_on_after(&mut self, other: &Self) {
        self.next_number = self.next_number.max(other.next_number);
        self.last = self.last.max(other.last);
    }

    /// Adds what the other has counted, which counts no more.
    pub(crate) fn take_counters(&mut self, other: &mut Self) {
        let taken = std::mem::take(&mut other.counters);
        self.counters.add(taken);
    }

    /// Every instance, in the order in which they came.
    pub(crate) fn instance_ids(&self) -> Vec<InstanceId> {
        self.in_order
            .iter()
            .map(|(number, slot)| InstanceId { slot: *slot, generation: generation(*number) })
            .collect()
    }

    /// What an instance is called; `None` if it is not here.
    pub(crate) fn key_of(&self, id: InstanceId) -> Option<&InstanceKey> {
        self.instance(id).map(|instance| &instance.key)
    }

    /// Moves an instance with all that it has to `other`, where nobody is attached to it yet. `None` if it is not here. Where
    /// one with its key is there already, because two workers of different ids are shown as one, that one goes on for both,
    /// and what the other had counts as expired.
    pub(crate) fn move_instance(&mut self, id: InstanceId, other: &mut Self) -> Option<InstanceId> {
        let instance = self.instance(id)?;
        if let Some(slot) = other.by_key.get(&instance.key).copied() {
            let streams = instance.streams.iter().filter_map(|stream| self.streams.get(*stream));
            other.counters.expired += streams.map(|stream| stream.series.len() as u64).sum::<u64>();
            return other.instances.get(slot).map(|there| there.id(slot));
        }
        let mut moved = Instance::new(other.number(), instance.key.clone(), instance.source.clone());
        moved.users = 0;
        moved.is_leaving = instance.is_leaving;
        let streams = instance.streams.clone();
        let moved = other.put_instance(None, moved);
        streams.into_iter().for_each(|stream| self.move_stream(stream, other, moved.slot));
        self.remove_instance(id.slot);
        Some(moved)
    }

    fn move_stream(&mut self, slot: Slot, other: &mut Self, instance: Slot) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        let all = std::mem::take(&mut stream.series);
        let mut moved = Stream::new(other.number(), instance, stream.instrument.clone());
        moved.is_questioned = stream.is_questioned;
        moved.is_retired = stream.is_retired;
        moved.after = stream.after;
        let moved = other.put_stream(moved);
        for series in all {
            self.move_series(series, other, moved);
        }
        self.remove_stream(slot);
    }

    fn move_series(&mut self, slot: Slot, other: &mut Self, stream: Slot) {
        let number = other.number();
        let Some(series) = self.series.get(slot) else { return };
        let list = match self.lists.get(series.list) {
            Some(attributes) => other.lists.share(PointKeys::of(&mut pairs_of(attributes))),
            None => OVERFLOW,
        };
        if let Some(mut moved) = self.remove_series(slot) {
            (moved.number, moved.stream, moved.list) = (number, stream, list);
            (moved.is_dirty, moved.is_written) = (false, false);
            let slot = other.put_series(None, moved);
            if let Some(moved) = other.series.get_mut(slot) {
                other.written.touch_series(slot, moved);
            }
        }
    }
}
