//! How instances go to another shard, where the number of shards has changed.
//!
//! A collection that is on its way ends: what it had not come to yet is in the next one. Everything that is kept elsewhere
//! under the ids of before is told those of now.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::engine::attributes::Attributes;
use crate::engine::metrics::aggregation::figures::Counters;
use crate::engine::metrics::aggregation::instances::{Instance, InstanceKey};
use crate::engine::metrics::aggregation::lists::keys_of;
use crate::engine::metrics::aggregation::series::{OVERFLOW, Series, Stream};
use crate::engine::metrics::aggregation::{Aggregation, InstanceId, SeriesId, generation};
use crate::time::UnixNanos;

/// An instance on its way, with everything of it.
#[derive(Debug)]
pub(crate) struct Moving {
    id: InstanceId,
    instance: Instance,
    streams: Vec<(Stream, Vec<MovingSeries>)>,
}

/// With its id of before; without attributes if it takes what limits keep out.
type MovingSeries = (SeriesId, Series, Option<Arc<Attributes>>);

/// What the ids of one aggregation have become.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    instances: HashMap<InstanceId, InstanceId>,
    series: HashMap<SeriesId, SeriesId>,
}

impl Moving {
    /// The id of before.
    pub(crate) const fn id(&self) -> InstanceId {
        self.id
    }

    pub(crate) fn key(&self) -> &InstanceKey {
        &self.instance.key
    }
}

impl Moved {
    /// Nothing for one that was forgotten.
    pub(crate) fn instance(&self, before: InstanceId) -> Option<InstanceId> {
        self.instances.get(&before).copied()
    }

    pub(crate) fn series(&self, before: SeriesId) -> Option<SeriesId> {
        self.series.get(&before).copied()
    }
}

impl Aggregation {
    /// Takes it apart: its instances in the order in which they came, the time of its last collection, and what it counted.
    pub(crate) fn into_instances(mut self) -> (Vec<Moving>, Option<UnixNanos>, Counters) {
        let order: Vec<_> = self.in_order.values().copied().collect();
        let instances = order.into_iter().filter_map(|slot| {
            let mut instance = self.instances.remove(slot)?;
            let id = InstanceId { slot, generation: generation(instance.number) };
            let streams = std::mem::take(&mut instance.streams).into_iter().filter_map(|slot| {
                let mut stream = self.streams.remove(slot)?;
                let series = std::mem::take(&mut stream.series).into_iter().filter_map(|slot| {
                    let series = self.series.remove(slot)?;
                    let id = SeriesId { slot, generation: generation(series.number) };
                    let attributes = (series.list != OVERFLOW).then(|| self.lists.get(series.list).cloned());
                    Some((id, series, attributes.flatten()))
                });
                let series = series.collect();
                Some((stream, series))
            });
            let streams = streams.collect();
            Some(Moving { id, instance, streams })
        });
        (instances.collect(), self.last, self.counters)
    }

    /// The next collection is after this one, and what was counted goes on.
    pub(crate) fn follow(&mut self, last: Option<UnixNanos>, counters: Option<&Counters>) {
        self.last = self.last.max(last);
        counters.into_iter().for_each(|counters| self.counters.add(counters));
    }

    /// Takes an instance in. Nobody is attached yet. If there is one of its name already, because a worker was known to one
    /// shard by its header and to another by its metadata, that one stays, and the series of this one begin anew.
    pub(crate) fn take_in(&mut self, moving: Moving, moved: &mut Moved) {
        let Moving { id, instance, streams } = moving;
        if let Some(slot) = self.by_key.get(&instance.key).copied() {
            let own = self.instances.get(slot).expect("a key leads to its instance");
            moved.instances.insert(id, InstanceId { slot, generation: generation(own.number) });
            return;
        }
        let mut own = Instance::new(self.number(), instance.key, instance.source);
        (own.users, own.is_leaving) = (0, instance.is_leaving);
        let instance = self.put_instance(None, own);
        moved.instances.insert(id, instance);
        for (stream, series) in streams {
            let mut own = Stream::new(self.number(), instance.slot, stream.instrument);
            (own.is_questioned, own.is_retired) = (stream.is_questioned, stream.is_retired);
            let stream = self.put_stream(own);
            for (before, series, attributes) in series {
                let list = attributes.map_or(OVERFLOW, |attributes| self.lists.share(&keys_of(&attributes)));
                let number = self.number();
                let own = Series { number, stream, list, is_dirty: false, is_written: false, ..series };
                let slot = self.put_series(None, own);
                moved.series.insert(before, SeriesId { slot, generation: generation(number) });
            }
        }
    }
}
