//! Laws of checkpoints, whatever arrives. `PROPTEST_CASES` says how many streams are tried.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use snakepit_otel_bridge::engine::{Damage, Engine, Input, Settings};

use super::bench_worker::Disk;
use super::laws::{Rules, Step, World, config, signals, step};

/// Whether a checkpoint is prepared or made after a step, and whether an engine is made of it that goes on.
#[derive(Debug, Clone, Copy)]
enum Mark {
    None,
    /// So many bytes of it are written before its time.
    Prepare(usize),
    /// It is to be whole.
    Whole,
    Checkpoint,
    Restore,
    /// The same, and no stream has outlived it.
    Recover,
}

fn marked() -> impl Strategy<Value = (Step, Mark)> {
    let mark = prop_oneof![
        8 => Just(Mark::None),
        5 => (1..4_000_usize).prop_map(Mark::Prepare),
        1 => Just(Mark::Whole),
        2 => Just(Mark::Checkpoint),
        1 => Just(Mark::Restore),
        1 => Just(Mark::Recover)
    ];
    (step(), mark)
}

fn settings() -> impl Strategy<Value = Settings> {
    (signals(), any::<bool>(), any::<bool>()).prop_map(|(mut settings, has_timeouts, nests)| {
        if has_timeouts {
            settings.span_timeouts = vec![("a".to_owned(), Duration::from_secs(20))];
        }
        if nests {
            settings.one_at_a_time = vec!["worker_*".to_owned()];
        }
        settings
    })
}

fn assert_alike(one: &Engine, other: &Engine) {
    assert_eq!(one.ledger(), other.ledger());
    assert_eq!(one.residue(), other.residue(), "{one:#?}\n{other:#?}");
    assert_eq!(one.occupancy(), other.occupancy());
    assert_eq!(one.poll_timeout(), other.poll_timeout());
    assert_eq!(one.next_stream(), other.next_stream());
    assert_eq!(one.known_workers(), other.known_workers());
    assert_eq!((one.metric_figures(), one.is_collecting()), (other.metric_figures(), other.is_collecting()));
}

proptest! {
    #![proptest_config(config())]

    /// An engine that was made of checkpoints says the same to the same inputs as the one that wrote them, ids, order and
    /// sums included; and what it would write is what was written, however much of it was written before its time.
    #[test]
    fn a_restored_engine_goes_on_as_if_nothing_had_been(
        settings in settings(),
        steps in prop::collection::vec(marked(), 0..120),
        is_shut_down: bool,
    ) {
        let shared = Arc::new(settings.clone());
        let (mut first, mut second) = (World::with(settings.clone()), World::with(settings));
        let mut disk = Disk::default();
        for world in [&mut first, &mut second] {
            world.open(1, Rules::Everything);
        }
        for (step, mark) in &steps {
            first.take(step);
            second.take(step);
            prop_assert_eq!(first.outputs.len(), second.outputs.len(), "after {:?}", step);
            match mark {
                Mark::None => continue,
                Mark::Prepare(bytes) => {
                    first.engine.prepare_checkpoint(*bytes);
                    continue;
                }
                Mark::Whole => {
                    first.engine.next_is_whole();
                    continue;
                }
                Mark::Checkpoint | Mark::Restore | Mark::Recover => {}
            }
            disk.apply(first.engine.checkpoint());
            let (mut restored, damage) = disk.restored(&shared);
            prop_assert_eq!(damage, Damage::default());
            assert_alike(&first.engine, &restored);
            let mut again = Disk::default();
            again.apply(restored.checkpoint_all());
            prop_assert_eq!(&again, &disk);
            match mark {
                Mark::None | Mark::Prepare(_) | Mark::Whole | Mark::Checkpoint => {}
                Mark::Restore => second.engine = restored,
                Mark::Recover => {
                    second.engine = restored;
                    [&mut first, &mut second].into_iter().for_each(World::recover);
                }
            }
        }
        for world in [&mut first, &mut second] {
            if is_shut_down {
                world.handle(Input::Shutdown);
            }
            world.collect();
            world.pass(Duration::from_secs(2 * 3600));
            world.collect();
        }
        prop_assert_eq!(&first.outputs, &second.outputs);
        assert_alike(&first.engine, &second.engine);
    }

    /// Whatever cannot be read, the sums go on and add up at every instant, and in the end nothing is left of it.
    #[test]
    fn damage_costs_only_itself(
        settings in settings(),
        before in prop::collection::vec(step(), 0..80),
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0u8..3), 0..6),
        after in prop::collection::vec(step(), 0..40),
        is_shut_down: bool,
    ) {
        let shared = Arc::new(settings.clone());
        let mut world = World::with(settings);
        world.open(1, Rules::Everything);
        before.iter().for_each(|step| world.take(step));
        let mut disk = Disk::default();
        disk.apply(world.engine.checkpoint());
        for (index, kind) in damages {
            let Some(key) = disk.rows.keys().nth(index.index(disk.rows.len().max(1))).cloned() else { break };
            match (kind, disk.rows.get_mut(&key)) {
                (0, Some(value)) => value[index.index(usize::MAX) % 3] ^= 0x40,
                (1, Some(value)) => value.truncate(value.len() / 2),
                _ => drop(disk.rows.remove(&key)),
            }
        }
        let (ledger, occupancy) = (world.engine.ledger(), world.engine.occupancy());
        let (restored, damage) = disk.restored(&shared);
        world.engine = restored;
        let kept = world.engine.ledger();
        prop_assert!(kept.adds_up(), "{:?}", kept);
        prop_assert_eq!(
            (kept.received, kept.spans_made, kept.pending, kept.dropped_total()),
            (
                ledger.received,
                ledger.spans_made,
                ledger.pending - damage.events,
                ledger.dropped_total() + damage.events,
            )
        );
        prop_assert!(world.engine.occupancy().open_bytes <= occupancy.open_bytes);
        after.iter().for_each(|step| world.take(step));
        if is_shut_down {
            world.handle(Input::Shutdown);
        }
        world.pass(Duration::from_secs(2 * 3600));
        prop_assert_eq!((world.engine.residue(), world.engine.ledger().pending), (0, 0));
    }
}
