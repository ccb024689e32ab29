//! The store as a plain structure in memory, and the law that the store is that.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What a store holds that was pushed some ops.
#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    shards: BTreeMap<u16, Shard>,
    pub(super) spool: BTreeMap<SpoolId, (SpoolEntry, Bytes)>,
    settled: BTreeSet<(u16, Signal, u64)>,
    pub(super) sums: BTreeMap<Signal, SignalSums>,
}

#[derive(Debug, Default, Clone)]
struct Shard {
    next: Ordinals,
    head: Option<Vec<u8>>,
    rows: BTreeMap<RowKey, Vec<u8>>,
    journal: Vec<Bytes>,
}

impl Model {
    pub(super) fn push(&mut self, ops: &[Op]) {
        ops.iter().for_each(|op| self.op(op.clone()));
    }

    fn op(&mut self, op: Op) {
        match op {
            Op::Journal { shard, records } => self.shards.entry(shard).or_default().journal.push(records),
            Op::Spool { id, signal, items, body, filled_at, origins } => {
                let entry = SpoolEntry { id, signal, items, bytes: body.len() as u64, filled_at, origins };
                self.spool.entry(id).or_insert((entry, body));
            }
            Op::Settled { signal, spool, origins, exported, refused } => {
                if let Some(id) = spool {
                    self.spool.remove(&id);
                }
                for Origin { shard, ordinals } in origins {
                    let floor = self.shards.get(&shard).map_or(0, |shard| shard.next[signal]);
                    let later = ordinals.filter(|ordinal| *ordinal >= floor);
                    self.settled.extend(later.map(|ordinal| (shard, signal, ordinal)));
                }
                if exported > 0 {
                    self.sums.entry(signal).or_default().exported += exported;
                }
                for (reason, items) in refused.into_iter().filter(|(_, items)| *items > 0) {
                    let refused = &mut self.sums.entry(signal).or_default().refused;
                    *refused.entry(reason.to_owned()).or_default() += items;
                }
            }
            Op::Checkpoint { shard: number, state } => {
                let shard = self.shards.entry(number).or_default();
                if state.replaces_all {
                    shard.rows.clear();
                }
                shard.rows.extend(state.puts);
                shard.rows.retain(|key, _| !state.deletes.contains(key));
                shard.head = Some(state.head);
                shard.next = state.next;
                shard.journal.clear();
                self.settled.retain(|(of, signal, ordinal)| *of != number || *ordinal >= state.next[*signal]);
            }
            Op::ForgetShards => {
                self.shards.clear();
                self.settled.clear();
                self.spool.values_mut().for_each(|(entry, _)| entry.origins.clear());
            }
        }
    }

    /// What a start finds.
    pub(super) fn recovered(&self) -> Recovered {
        let shards = self.shards.iter().map(|(number, shard)| RecoveredShard {
            shard: *number,
            next: shard.next,
            head: shard.head.clone(),
            rows: shard.rows.clone().into_iter().collect(),
            journal: shard.journal.clone(),
        });
        let mut settled: Vec<(Signal, Origin)> = Vec::new();
        for (shard, signal, ordinal) in &self.settled {
            match settled.last_mut() {
                Some((of, last)) if of == signal && last.shard == *shard && last.ordinals.end == *ordinal => {
                    last.ordinals.end += 1;
                }
                _ => settled.push((*signal, Origin { shard: *shard, ordinals: *ordinal..ordinal + 1 })),
            }
        }
        Recovered {
            shards: shards.collect(),
            spool: self.spool.values().map(|(entry, _)| entry.clone()).collect(),
            settled,
            sums: self.sums.clone(),
            ..Recovered::default()
        }
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let shard = 0_u16..3;
    let range = (0_u64..60, 0_u64..6).prop_map(|(start, length)| start..start + length);
    let origins = prop::collection::vec((shard.clone(), range), 0..3).prop_map(|origins| {
        origins.into_iter().map(|(shard, ordinals)| Origin { shard, ordinals }).collect::<Origins>()
    });
    let signal = prop::sample::select(Signal::ALL.to_vec());
    let bytes = |length| prop::collection::vec(any::<u8>(), 0..length);
    // Of one byte each, for the sake of whoever reads a failure.
    let body = (any::<u8>(), 0_usize..100_000).prop_map(|(byte, length)| Bytes::from(vec![byte; length]));
    let key = || prop::collection::vec(0_u8..3, 0..3).prop_map(RowKey::from_vec);
    prop_oneof![
        8 => (shard.clone(), bytes(200)).prop_map(|(shard, records)| Op::Journal { shard, records: records.into() }),
        6 => (0_u64..12, signal.clone(), 0_u64..1000, body, any::<i64>(), origins.clone()).prop_map(
            |(id, signal, items, body, filled_at, origins)| Op::Spool {
                id: SpoolId(id),
                signal,
                items,
                body,
                filled_at: UnixNanos(filled_at),
                origins,
            }
        ),
        8 => (signal, prop::option::of(0_u64..12), origins, 0_u64..9, 0_u64..9).prop_map(
            |(signal, id, origins, exported, refused)| Op::Settled {
                signal,
                spool: id.map(SpoolId),
                origins,
                exported,
                refused: smallvec![("too_old", refused)],
            }
        ),
        4 => (
            shard,
            [0_u64..60, 0..60, 0..60],
            bytes(200),
            any::<bool>(),
            prop::collection::vec((key(), bytes(300)), 0..6),
            prop::collection::vec(key(), 0..3),
        )
            .prop_map(|(shard, [spans, metrics, records], head, replaces_all, puts, deletes)| {
                let next = Ordinals { spans, metrics, records };
                Op::Checkpoint { shard, state: ShardCheckpoint { next, head, replaces_all, puts, deletes } }
            }),
        1 => Just(Op::ForgetShards),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(10), ..ProptestConfig::default() })]

    /// Whatever is pushed, and whenever the store is closed and opened again, it holds what the plain structure holds,
    /// bodies included.
    #[test]
    fn a_store_is_what_was_pushed(
        lives in prop::collection::vec(prop::collection::vec(prop::collection::vec(any_op(), 1..5), 0..12), 1..4)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (mut model, mut used) = (Model::default(), BTreeSet::new());
        runtime.block_on(async {
            for pushes in lives {
                let (store, recovered) = open(dir.path());
                prop_assert_eq!(recovered, model.recovered());
                for mut ops in pushes {
                    // A name is used once: again only while the batch is there, as a full checkpoint does.
                    ops.retain(|op| {
                        let is_new = match op {
                            Op::Spool { id, .. } => used.insert(*id) || model.spool.contains_key(id),
                            Op::Journal { .. } | Op::Settled { .. } | Op::Checkpoint { .. } | Op::ForgetShards => true,
                        };
                        if is_new {
                            model.op(op.clone());
                        }
                        is_new
                    });
                    store.push(ops);
                }
                let ids = model.spool.keys().copied().collect();
                let loaded = store.load(ids).await;
                for (id, body) in &loaded {
                    prop_assert_eq!(body.as_ref(), model.spool.get(id).map(|(_, body)| body));
                }
                prop_assert_eq!(loaded.len(), model.spool.len());
                prop_assert_eq!(store.figures().spool_bytes(), model.spool.values().map(|(entry, _)| entry.bytes).sum::<u64>());
                prop_assert!(store.close().await);
            }
            prop_assert_eq!(held(dir.path()).await, model.recovered());
            Ok(())
        })?;
    }
}
