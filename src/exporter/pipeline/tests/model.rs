//! A store that a test can stop, crash and break, and a pipeline on top of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A batch on disk.
#[derive(Debug, Clone)]
pub(super) struct OnDisk {
    pub(super) body: Bytes,
    pub(super) entry: SpoolEntry,
}

/// What is written comes to be durable when the test says so.
#[derive(Debug, Default)]
pub(super) struct ModelStore {
    pub(super) works: bool,
    written: VecDeque<(Commit, Vec<Op>)>,
    last: u64,
    pub(super) durable: Commit,
    names: Arc<AtomicU64>,
    pub(super) batches: BTreeMap<SpoolId, OnDisk>,
    pub(super) exported: u64,
    pub(super) refused: BTreeMap<&'static str, u64>,
    pub(super) settled: Vec<Origin>,
    /// Ordinals of shard 0 whose inputs are durable: all below.
    pub(super) journalled: u64,
}

impl ModelStore {
    pub(super) fn new() -> Self {
        Self { works: true, ..Self::default() }
    }

    pub(super) fn push(&mut self, ops: Vec<Op>) -> Commit {
        self.last += 1;
        self.written.push_back((Commit(self.last), ops));
        Commit(self.last)
    }

    /// As the shard's journal does: the record's bytes are the number of the ordinals so far.
    pub(super) fn journal(&mut self, ordinals: u64) -> Commit {
        let records = Bytes::copy_from_slice(&ordinals.to_le_bytes());
        self.push(vec![Op::Journal { shard: 0, records }])
    }

    /// Makes the oldest write durable.
    pub(super) fn commit(&mut self) -> bool {
        let Some((commit, ops)) = self.written.pop_front() else { return false };
        ops.into_iter().for_each(|op| self.apply(op));
        self.durable = commit;
        true
    }

    /// What was not durable is gone.
    pub(super) fn lose(&mut self) {
        self.written.clear();
    }

    pub(super) fn read(&self, name: SpoolId) -> Option<Bytes> {
        self.batches.get(&name).map(|batch| batch.body.clone())
    }

    pub(super) fn names(&self) -> SpoolNames {
        let names = Arc::clone(&self.names);
        Box::new(move || SpoolId(names.fetch_add(1, Ordering::Relaxed)))
    }

    pub(super) fn left(&self) -> Vec<SpoolEntry> {
        self.batches.values().map(|batch| batch.entry.clone()).collect()
    }

    pub(super) fn sums(&self) -> SignalSums {
        let refused = self.refused.iter().map(|(reason, items)| ((*reason).to_owned(), *items)).collect();
        SignalSums { exported: self.exported, refused }
    }

    /// Whether an output of shard 0 has its fate or its batch on disk.
    pub(super) fn knows(&self, ordinal: u64) -> bool {
        let spooled = self.batches.values().flat_map(|batch| &batch.entry.origins);
        spooled.chain(&self.settled).any(|origin| origin.ordinals.contains(&ordinal))
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Journal { records, .. } => {
                self.journalled = u64::from_le_bytes(records[..].try_into().unwrap());
            }
            Op::Spool { id, signal, items, body, filled_at, origins } => {
                let entry = SpoolEntry { id, signal, items, bytes: body.len() as u64, filled_at, origins };
                assert!(self.batches.insert(id, OnDisk { body, entry }).is_none(), "{id:?} was used before");
            }
            Op::Settled { spool, origins, exported, refused, .. } => {
                if let Some(name) = spool {
                    self.batches.remove(&name);
                }
                self.settled.extend(origins);
                self.exported += exported;
                for (reason, items) in refused {
                    *self.refused.entry(reason).or_default() += items;
                }
            }
            Op::Checkpoint { .. } | Op::ForgetShards => panic!("not the pipeline's"),
        }
    }
}

/// A pipeline with a store, in virtual time.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) pipeline: Pipeline,
    pub(super) store: ModelStore,
    pub(super) now: u64,
    pub(super) notices: Vec<Notice>,
    /// Requested and not read yet.
    pub(super) asked: Vec<SpoolId>,
    pub(super) next_ordinal: u64,
}

impl Rig {
    pub(super) fn new(settings: PipelineSettings) -> Self {
        Self::on(ModelStore::new(), settings, 0)
    }

    /// Starts on what a store holds.
    pub(super) fn on(store: ModelStore, settings: PipelineSettings, now: u64) -> Self {
        let mut pipeline = pipeline(settings);
        pipeline.set_store(store.names());
        pipeline.recover(store.left(), &store.sums(), at(now));
        let mut rig = Self { pipeline, next_ordinal: 0, store, now, notices: Vec::new(), asked: Vec::new() };
        rig.tell();
        rig
    }

    /// Does something, and writes what comes of it.
    pub(super) fn act<R>(&mut self, act: impl FnOnce(&mut Pipeline, Now) -> R) -> R {
        let done = act(&mut self.pipeline, at(self.now));
        let ops = self.pipeline.take_ops();
        if !ops.is_empty() {
            let commit = self.store.push(ops);
            self.pipeline.pushed(commit, Monotonic(self.now));
        }
        self.notices.extend(self.pipeline.take_notices());
        assert!(self.snapshot().adds_up());
        done
    }

    /// Tells the pipeline of the store.
    pub(super) fn tell(&mut self) {
        let (durable, works) = (self.store.durable, self.store.works);
        self.act(|pipeline, now| pipeline.note_store(durable, works, now.mono));
    }

    /// Makes everything durable.
    pub(super) fn commit(&mut self) {
        while self.store.commit() {}
        self.tell();
    }

    /// The engine's next output, with its number as name.
    pub(super) fn admit(&mut self) -> Result<(), Refusal> {
        self.admit_long(0)
    }

    /// The same, with a number of at least so many digits.
    pub(super) fn admit_long(&mut self, digits: usize) -> Result<(), Refusal> {
        let needs = self.store.journal(self.next_ordinal + 1);
        self.admit_named(self.next_ordinal, digits, needs)
    }

    pub(super) fn admit_again(&mut self, ordinal: u64, needs: Commit) -> Result<(), Refusal> {
        self.admit_named(ordinal, 0, needs)
    }

    fn admit_named(&mut self, ordinal: u64, digits: usize, needs: Commit) -> Result<(), Refusal> {
        self.next_ordinal = self.next_ordinal.max(ordinal + 1);
        let provenance = Provenance { origin: Some((0, ordinal)), needs };
        let span = encoded(&format!("{ordinal:0digits$}", digits = digits.max(5)));
        self.act(|pipeline, now| pipeline.admit(&source(1), &span, 1, provenance, now))
    }

    pub(super) fn persist(&mut self, afresh: bool) {
        self.act(|pipeline, now| pipeline.persist_all(afresh, now));
    }

    pub(super) fn begin(&mut self) -> Option<ExportRequest> {
        self.act(Pipeline::next_request)
    }

    pub(super) fn settle(&mut self, id: BatchId, outcome: Outcome) {
        self.act(|pipeline, now| pipeline.settle(id, outcome, now));
    }

    /// Reads whatever is asked for.
    pub(super) fn load(&mut self) {
        let names = self.act(|pipeline, _| pipeline.next_loads());
        self.asked.extend(names);
        for name in std::mem::take(&mut self.asked) {
            let body = self.store.read(name);
            self.act(|pipeline, now| pipeline.loaded(name, body, now.mono));
        }
    }

    /// The store as the next run finds it.
    pub(super) fn crash(&mut self) -> ModelStore {
        let mut store = std::mem::take(&mut self.store);
        store.lose();
        store.works = true;
        store
    }

    /// Lets the peer take everything; returns the names of what it took, in order.
    pub(super) fn deliver_all(&mut self) -> Vec<String> {
        let mut delivered = Vec::new();
        loop {
            self.commit();
            self.load();
            let flying: Vec<_> = std::iter::from_fn(|| self.begin()).collect();
            for request in &flying {
                delivered.extend(names(&request.body));
                self.settle(request.id, accepted());
            }
            if flying.is_empty() {
                let Some(next) = self.pipeline.poll_timeout() else { return delivered };
                self.now = self.now.max(next.0);
            }
        }
    }

    pub(super) fn snapshot(&self) -> ExportSnapshot {
        self.pipeline.snapshot(Monotonic(self.now))
    }
}
