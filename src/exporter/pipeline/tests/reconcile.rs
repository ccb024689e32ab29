//! The sums of a start, held against those of the engines.

use super::model::{ModelStore, Rig};
use super::*;
use crate::exporter::pipeline::Engines;

/// A start on a disk that knows of 5 items that were exported and 3 that were refused.
fn rig() -> Rig {
    let mut store = ModelStore::new();
    store.exported = 5;
    store.refused.insert("gave_way", 3);
    Rig::on(store, settings(), 0)
}

/// Reconciles, twice: the second time as the next start does.
fn reconciled(mut rig: Rig, engines: Engines) -> ExportSnapshot {
    rig.act(|pipeline, _| pipeline.reconcile(engines));
    rig.commit();
    let snapshot = rig.snapshot();
    let mut next = Rig::on(rig.crash(), settings(), 0);
    assert_eq!(next.snapshot().made, snapshot.made);
    let unknown = next.act(|pipeline, _| pipeline.reconcile(Engines { made_again: 0, ..engines }));
    assert_eq!((unknown, next.snapshot()), (0, snapshot.clone()), "nothing is named twice");
    snapshot
}

fn named(snapshot: &ExportSnapshot) -> [u64; 4] {
    let unknown = snapshot.refused.get("fate_unknown").copied().unwrap_or(0);
    [snapshot.made, snapshot.made_again, snapshot.inherited, unknown]
}

#[test]
fn sums_that_agree_stay_as_they_are() {
    let engines = Engines { passed_on: 8, made_again: 0, is_whole: true };
    assert_eq!(named(&reconciled(rig(), engines)), [8, 0, 0, 0]);
}

#[test]
fn what_the_engines_have_once_and_the_exporter_twice_was_made_again() {
    let engines = Engines { passed_on: 6, made_again: 2, is_whole: true };
    assert_eq!(named(&reconciled(rig(), engines)), [8, 2, 0, 0]);
}

#[test]
fn what_the_engines_know_nothing_of_is_inherited() {
    let engines = Engines { passed_on: 2, made_again: 0, is_whole: false };
    assert_eq!(named(&reconciled(rig(), engines)), [8, 0, 6, 0]);
}

#[test]
fn what_the_exporter_knows_nothing_of_has_no_known_fate() {
    let engines = Engines { passed_on: 9, made_again: 0, is_whole: true };
    assert_eq!(named(&reconciled(rig(), engines)), [9, 0, 0, 1]);
}

/// Damage must not hide what was made again, nor the other way round.
#[test]
fn what_was_made_again_is_told_from_what_is_lost() {
    let engines = Engines { passed_on: 9, made_again: 4, is_whole: true };
    assert_eq!(named(&reconciled(rig(), engines)), [13, 4, 0, 5]);
}

proptest! {
    /// Whatever the two say: all that was made has one place, and is what the engines passed on, and what has a name.
    #[test]
    fn every_item_has_a_name_and_a_place(
        exported in 0_u64..20, refused in 0_u64..20, passed_on in 0_u64..60, made_again in 0_u64..10, is_whole: bool,
        later in 0_u64..5,
    ) {
        let mut store = ModelStore::new();
        store.exported = exported;
        store.refused.insert("queue_full", refused);
        let mut rig = Rig::on(store, settings(), 0);
        rig.act(|pipeline, _| pipeline.reconcile(Engines { passed_on, made_again, is_whole }));
        for _ in 0..later {
            rig.admit().unwrap();
        }
        let snapshot = rig.snapshot();
        prop_assert!(snapshot.adds_up());
        let named = snapshot.made_again + snapshot.inherited;
        prop_assert_eq!(snapshot.made, passed_on + later + named);
        prop_assert!(snapshot.made >= exported + refused);
        prop_assert!(is_whole || snapshot.made_again == 0);
    }
}
