//! Who has series: a node and a worker id, whatever process is behind it.
//!
//! Workers *attach* with their first measurement, or with their first stream where their instance is there already, and *detach*
//! when they are lost. An instance without workers departs: the
//! next collection repeats its series, the one after ends them, and then nothing is left of it. A worker that attaches
//! before goes on with what is there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::metrics::aggregation::slab::Slot;
use crate::engine::metrics::aggregation::{Aggregation, InstanceId, generation};
use crate::worker::Source;

/// What tells an instance from others: one writer for each resource that a backend sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct InstanceKey {
    pub(crate) node: Arc<str>,
    /// As it is shown.
    pub(crate) worker_id: Arc<str>,
}

/// What else its resource says; of the worker that attached last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) pool: Option<Arc<str>>,
    pub(crate) host: Option<Arc<str>>,
    pub(crate) same_host: bool,
}

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) number: u64,
    pub(super) key: InstanceKey,
    pub(super) source: Arc<Source>,
    /// Workers that are attached.
    pub(super) users: u32,
    /// A collection has come by when nobody was attached: the next one ends its series.
    pub(super) is_leaving: bool,
    /// In the order in which they came.
    pub(super) streams: Vec<Slot>,
    /// The mapping's number of an instrument, and its stream; ascending.
    pub(super) numbers: Vec<(u32, Slot)>,
    /// Of all streams, those of overflow apart.
    pub(super) series: usize,
    pub(super) is_dirty: bool,
    pub(super) is_written: bool,
}

impl Aggregation {
    /// The instance of a worker that is about to record its first measurement, found or made. Its resource is made anew
    /// where it would say something else; its series go on all the same.
    pub(crate) fn attach(
        &mut self,
        key: InstanceKey,
        described: Described,
        next_source: &mut u64,
    ) -> InstanceId {
        let Some(slot) = self.by_key.get(&key).copied() else {
            return self.add_instance(key, described, next_source);
        };
        let instance = self.instances.get_mut(slot).expect("a key leads to its instance");
        instance.users = instance.users.saturating_add(1);
        instance.is_leaving = false;
        let source = &instance.source;
        let is_same = source.pool == described.pool
            && source.host == described.host
            && source.same_host == described.same_host;
        if !is_same {
            instance.source = source_of(&key, described, next_source);
        }
        let id = instance.id(slot);
        self.touch_instance(slot);
        id
    }

    /// The instance of a worker that has come and has measured nothing yet, if it is there: it does not depart while the worker
    /// loads a model. Which pool it has may be said only later.
    pub(crate) fn attach_again(
        &mut self,
        key: InstanceKey,
        described: Described,
        next_source: &mut u64,
    ) -> Option<InstanceId> {
        let slot = self.by_key.get(&key).copied()?;
        let known = self.instances.get(slot)?.source.pool.clone();
        let described = Described { pool: described.pool.or(known), ..described };
        Some(self.attach(key, described, next_source))
    }

    /// A worker of it is lost.
    pub(crate) fn detach(&mut self, id: InstanceId) {
        if let Some(instance) = self.instance_mut(id) {
            debug_assert!(instance.users > 0, "who detaches has attached");
            instance.users = instance.users.saturating_sub(1);
        }
    }

    /// Attaches a worker that was attached when the checkpoint was written; `false` if its instance is not there, which
    /// only damage explains. Who is attached is not written: every worker says it again.
    pub(crate) fn rejoin(&mut self, id: InstanceId) -> bool {
        let instance = self.instance_mut(id);
        instance.map(|instance| instance.users = instance.users.saturating_add(1)).is_some()
    }

    fn add_instance(&mut self, key: InstanceKey, described: Described, next_source: &mut u64) -> InstanceId {
        let number = self.number();
        let source = source_of(&key, described, next_source);
        self.put_instance(None, Instance::new(number, key, source))
    }

    /// Takes an instance in, at its place if it had one.
    pub(super) fn put_instance(&mut self, place: Option<Slot>, instance: Instance) -> InstanceId {
        let (number, key) = (instance.number, instance.key.clone());
        let slot = match place {
            Some(slot) => {
                let is_free = self.instances.insert_at(slot, instance);
                debug_assert!(is_free, "whoever gives a place has seen that it is free");
                slot
            }
            None => self.instances.insert(instance),
        };
        self.by_key.insert(key, slot);
        self.in_order.insert(number, slot);
        self.touch_instance(slot);
        InstanceId { slot, generation: generation(number) }
    }

    pub(super) fn remove_instance(&mut self, slot: Slot) {
        if let Some(instance) = self.instances.remove(slot) {
            debug_assert!(instance.streams.is_empty(), "an instance goes last");
            self.by_key.remove(&instance.key);
            self.in_order.remove(&instance.number);
            self.written.removed_instance(slot, &instance);
        }
    }

    pub(super) fn instance(&self, id: InstanceId) -> Option<&Instance> {
        self.instances.get(id.slot).filter(|instance| generation(instance.number) == id.generation)
    }

    fn instance_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.instances.get_mut(id.slot).filter(|instance| generation(instance.number) == id.generation)
    }
}

impl Instance {
    pub(super) fn new(number: u64, key: InstanceKey, source: Arc<Source>) -> Self {
        Self {
            number,
            key,
            source,
            users: 1,
            is_leaving: false,
            streams: Vec::new(),
            numbers: Vec::new(),
            series: 0,
            is_dirty: false,
            is_written: false,
        }
    }

    pub(super) fn id(&self, slot: Slot) -> InstanceId {
        InstanceId { slot, generation: generation(self.number) }
    }
}

fn source_of(key: &InstanceKey, described: Described, next_source: &mut u64) -> Arc<Source> {
    let serial = *next_source;
    *next_source += 1;
    Arc::new(Source {
        serial,
        worker_id: Arc::clone(&key.worker_id),
        node: Arc::clone(&key.node),
        pool: described.pool,
        pid: None,
        host: described.host,
        same_host: described.same_host,
    })
}
