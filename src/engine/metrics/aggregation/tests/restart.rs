//! What a checkpoint has of series, and what becomes of it under other settings, or when it is damaged.

use super::*;
use crate::engine::metrics::settings::{HistogramAggregation, MetricRule};
use crate::store::RowKey;

type Rows = Vec<(RowKey, Vec<u8>)>;

/// Everything that is to be written, and how many rows that does not need any more.
fn written(bench: &mut Bench, all: bool) -> (Rows, usize, AggregationHead) {
    if all {
        bench.own.write_all();
    }
    let mut draft = draft();
    let head = bench.own.write(&mut draft);
    let (puts, deletes) = draft.into_rows();
    (puts, deletes.len(), head)
}

fn restored(settings: &MetricSettings, rows: &Rows, head: AggregationHead) -> (Bench, u64) {
    let mut read = AggregationRows::default();
    let unread = rows.iter().filter(|(key, value)| !read.put(MetricRow::of(key).unwrap(), value)).count();
    let (own, damaged) = read.restore(settings, WINDOW, head);
    (Bench { own, next_source: 100, now: 0.0 }, damaged + unread as u64)
}

/// Settings that say of every instrument something else than the default.
fn other_settings() -> MetricSettings {
    let rule = MetricRule { unit: Some("s".into()), ..MetricRule::of("*") };
    MetricSettings { rules: vec![rule], ..MetricSettings::default() }
}

#[test]
fn rows_have_their_keys() {
    for row in [MetricRow::Instance(7), MetricRow::Stream(u64::MAX), MetricRow::Series(0)] {
        assert_eq!(MetricRow::of(&row.key()), Some(row));
    }
    assert_eq!(MetricRow::of(&[2, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(MetricRow::of(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(MetricRow::of(&[2, 0]), None);
}

#[test]
fn only_what_changed_is_written() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    for value in ["a", "b", "c"] {
        bench.record(id, &calls, INT(1), &[("k", value)]);
    }
    assert_eq!(
        written(&mut bench, false).0.len(),
        5,
        "the first has everything: instance, instrument, series"
    );
    assert_eq!(written(&mut bench, false).0.len(), 0);
    bench.record(id, &calls, INT(1), &[("k", "b")]);
    bench.record(id, &calls, INT(1), &[("k", "b")]);
    assert_eq!(written(&mut bench, false).0.len(), 1);
    bench.collect(10.0);
    assert_eq!(written(&mut bench, false).0.len(), 3, "what was measured has been exported");
    bench.collect(20.0);
    assert_eq!(written(&mut bench, false).0.len(), 0, "a repeated point changes nothing");
    bench.collect(4000.0);
    let (puts, deletes, _) = written(&mut bench, false);
    assert_eq!((puts.len(), deletes), (0, 4), "three series and their instrument are gone");
    assert_eq!(written(&mut bench, true).0.len(), 1);
}

#[test]
fn what_was_never_written_is_not_deleted_and_what_is_never_written_is_not_noted() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    let round = |bench: &mut Bench, at: f64| {
        bench.count(id, &calls);
        bench.collect(at);
        bench.collect(at + 4000.0);
    };
    round(&mut bench, 10.0);
    let noted = &bench.own.written;
    assert!(noted.is_empty(), "{noted:?}");
    written(&mut bench, false);
    round(&mut bench, 10_000.0);
    assert_eq!(written(&mut bench, false).1, 0);
}

#[test]
fn a_restart_goes_on_with_the_same_start() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    bench.now = 1.0;
    bench.count(id, &calls);
    bench.collect(10.0);
    let (rows, _, head) = written(&mut bench, true);
    let (mut after, damaged) = restored(&MetricSettings::default(), &rows, head);
    assert!(after.own.rejoin(id));
    after.now = 15.0;
    after.count(id, &calls);
    assert_eq!(numbers(&after.collect(20.0)), [("calls".into(), 1.0, 20.0, Some(INT(2)))]);
    assert_eq!(damaged, 0);
}

#[test]
fn an_instance_whose_worker_did_not_come_back_departs() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    bench.count(id, &calls);
    let (rows, _, head) = written(&mut bench, true);
    let (mut after, _) = restored(&MetricSettings::default(), &rows, head);
    assert_eq!(numbers(&after.collect(10.0))[0].3, Some(INT(1)));
    assert_eq!(numbers(&after.collect(20.0))[0].3, None);
    assert!(!after.own.rejoin(id));
}

#[test]
fn an_instrument_of_before_gives_way_to_what_other_settings_say() {
    let mut bench = Bench::new(&MetricSettings::default());
    let before = instrument("size", "By", Kind::Counter);
    let id = bench.attach("w");
    bench.count(id, &before);
    bench.collect(1.0);
    bench.count(id, &before);
    let (rows, _, head) = written(&mut bench, true);
    let other = other_settings();
    let (mut after, _) = restored(&other, &rows, head);
    assert!(after.own.rejoin(id));
    after.now = 5.0;
    let (now, third) =
        (instrument("size.bytes.total", "By", Kind::Counter), instrument("size", "s", Kind::Gauge));
    assert!(matches!(after.record(id, &now, INT(7), &[]), Recorded::Series(_)), "one name in Prometheus");
    assert_eq!(
        after.record(id, &before, INT(1), &[]),
        Recorded::Lost(Loss::Conflict),
        "it has given way for good"
    );
    assert!(matches!(after.record(id, &third, INT(9), &[]), Recorded::Series(_)), "another name there");
    // The retirement is written as well.
    let (rows, _, head) = written(&mut after, true);
    let (mut again, damaged) = restored(&other, &rows, head);
    assert!(again.own.rejoin(id));
    for bench in [&mut after, &mut again] {
        let of_size = |bench: &mut Bench, at| {
            let made = numbers(&bench.collect(at)).into_iter().filter(|point| point.3 != Some(INT(9)));
            made.map(|(_, start, _, value)| (start, value)).collect::<Vec<_>>()
        };
        assert_eq!(of_size(bench, 10.0), [(0.0, Some(INT(2)))], "what was measured is exported first");
        assert_eq!(of_size(bench, 20.0), [(0.0, None)], "then it ends, alone at that time");
        assert_eq!(of_size(bench, 30.0), [(20.0, Some(INT(7)))]);
        assert_eq!(of_size(bench, 40.0), [(20.0, Some(INT(7)))]);
        assert_eq!(bench.own.figures().instruments, 2);
    }
    assert_eq!(damaged, 0);
}

/// A checkpoint that has what changed says what one of everything says.
#[test]
fn a_start_that_moved_without_a_measurement_is_written() {
    let mut bench = Bench::new(&MetricSettings::default());
    let (before, new) =
        (instrument("size", "By", Kind::Counter), instrument("size.bytes.total", "By", Kind::Counter));
    let id = bench.attach("w");
    bench.count(id, &before);
    let (rows, _, head) = written(&mut bench, true);
    let (mut after, _) = restored(&other_settings(), &rows, head);
    assert!(after.own.rejoin(id));
    after.count(id, &new);
    after.collect(10.0);
    let wrong = |bench: &mut Bench, at| {
        bench.own.begin(wall(at), now(bench.now));
        bench.own.collect(1000, &mut drop);
    };
    // The first ends in the far future, and the second is to follow it.
    wrong(&mut after, 100_000.0);
    after.collect(20.0);
    let mut rows: BTreeMap<_, _> = written(&mut after, true).0.into_iter().collect();
    // A point of an even farther future does.
    wrong(&mut after, 200_000.0);
    let (changed, _, head) = written(&mut after, false);
    rows.extend(changed);
    let (mut again, _) = restored(&other_settings(), &rows.into_iter().collect(), head);
    assert!(again.own.rejoin(id));
    let said = numbers(&again.collect(30.0));
    assert_eq!(said, numbers(&after.collect(30.0)));
    assert_eq!(said.len(), 1);
}

#[test]
fn an_instrument_that_the_settings_still_say_stays() {
    let mut bench = Bench::new(&MetricSettings::default());
    let (before, other) = (instrument("size", "By", Kind::Counter), instrument("size", "s", Kind::Counter));
    let id = bench.attach("w");
    bench.count(id, &before);
    let (rows, _, head) = written(&mut bench, true);
    let (mut same, _) = restored(&MetricSettings::default(), &rows, head);
    assert!(same.own.rejoin(id));
    assert_eq!(same.count(id, &other), Recorded::Lost(Loss::Conflict), "as without the restart");
    let (rows, _, head) = written(&mut bench, true);
    let settings =
        MetricSettings { histogram: HistogramAggregation::Exponential, ..MetricSettings::default() };
    let (mut changed, _) = restored(&settings, &rows, head);
    assert!(changed.own.rejoin(id));
    changed.count(id, &before);
    assert_eq!(changed.count(id, &other), Recorded::Lost(Loss::Conflict), "it has been measured under these");
}

#[test]
fn what_was_exported_as_cumulative_does_not_come_again_as_a_difference() {
    let mut bench = Bench::new(&MetricSettings::default());
    let (calls, level) =
        (instrument("calls", "", Kind::Counter), instrument("level", "", Kind::UpDownCounter));
    let id = bench.attach("w");
    bench.record(id, &calls, INT(5), &[]);
    bench.record(id, &level, INT(5), &[]);
    bench.collect(10.0);
    let (rows, _, head) = written(&mut bench, true);
    let delta = MetricSettings { temporality: Temporality::Delta, ..MetricSettings::default() };
    let (mut after, _) = restored(&delta, &rows, head);
    assert!(after.own.rejoin(id));
    after.now = 15.0;
    after.record(id, &calls, INT(2), &[]);
    after.record(id, &level, INT(2), &[]);
    assert_eq!(
        numbers(&after.collect(20.0)),
        [("calls".into(), 10.0, 20.0, Some(INT(2))), ("level".into(), 0.0, 20.0, Some(INT(7)))]
    );
}

#[test]
fn damage_costs_what_it_is_in_and_what_belongs_to_it() {
    let mut bench = Bench::new(&MetricSettings::default());
    let (calls, other) = (instrument("calls", "", Kind::Counter), histogram("other", &[1.0]));
    for worker in ["v", "w"] {
        let id = bench.attach(worker);
        bench.count(id, &calls);
        bench.count(id, &other);
    }
    let (rows, ..) = written(&mut bench, true);
    assert_eq!(rows.len(), 10);
    for at in 0..rows.len() {
        let mut damaged = rows.clone();
        damaged[at].1[3] ^= 1;
        let (_, _, head) = written(&mut bench, true);
        let (mut after, lost) = restored(&MetricSettings::default(), &damaged, head);
        let expected = match MetricRow::of(&rows[at].0).unwrap() {
            MetricRow::Instance(_) => (5, 1, 2, 2),
            MetricRow::Stream(_) => (2, 2, 3, 3),
            MetricRow::Series(_) => (1, 2, 4, 3),
        };
        let figures = after.own.figures();
        assert_eq!((lost, figures.instances, figures.instruments, figures.series), expected, "row {at}");
        after.collect(10.0);
        let id = after.attach("w");
        assert!(matches!(after.count(id, &calls), Recorded::Series(_)), "life goes on");
    }
}

#[test]
fn rows_that_cannot_be_are_left_out() {
    let mut bench = Bench::new(&MetricSettings::default());
    let (calls, other) = (instrument("calls", "", Kind::Counter), instrument("other", "", Kind::Gauge));
    let id = bench.attach("w");
    bench.count(id, &calls);
    bench.count(id, &other);
    let (rows, _, head) = written(&mut bench, true);
    let number = |kind: u8| rows.iter().position(|(key, _)| key[1] == kind).unwrap();
    // The second series has the first one's value, which is of another kind, and its place.
    let mut swapped = rows.clone();
    let last = rows.len() - 1;
    swapped[last].1 = rows[number(2)].1.clone();
    let (after, damaged) = restored(&MetricSettings::default(), &swapped, head);
    assert_eq!((after.own.figures().series, damaged), (1, 1));
    // A number that was never given.
    let mut beyond = rows.clone();
    beyond.push((MetricRow::Instance(99).key(), rows[number(0)].1.clone()));
    let (_, _, head) = written(&mut bench, true);
    let (after, damaged) = restored(&MetricSettings::default(), &beyond, head);
    assert_eq!((after.own.figures().instances, damaged), (1, 1));
}

#[test]
fn an_instance_moves_with_all_that_it_has() {
    let settings = MetricSettings { max_series: 2, ..MetricSettings::default() };
    let (mut old, mut new) = (Bench::new(&settings), Bench::new(&settings));
    let (calls, durations) = (instrument("calls", "", Kind::Counter), histogram("durations", &[1.0]));
    let (id, other) = (old.attach("w"), old.attach("v"));
    old.now = 1.0;
    for value in ["a", "b", "c", "d"] {
        old.record(id, &calls, INT(1), &[("k", value)]);
    }
    let Recorded::Series(series) = old.count(id, &durations) else { panic!() };
    old.count(other, &calls);
    old.collect(10.0);
    new.own.go_on_after(&old.own);
    new.own.take_counters(&mut old.own);
    assert_eq!(old.own.instance_ids(), [id, other]);
    let moved = old.own.move_instance(id, &mut new.own).unwrap();
    assert_eq!(old.own.move_instance(id, &mut new.own), None, "it is not here any more");
    assert!(new.own.rejoin(moved));
    assert_eq!((old.own.figures().instances, old.own.figures().series), (1, 1));
    let figures = new.own.figures();
    assert_eq!((figures.instances, figures.instruments, figures.series, figures.overflowed), (1, 2, 4, 2));
    new.own.offer(moved, series, INT(1), wall(1.0), None);
    assert!(matches!(new.record(moved, &calls, INT(1), &[("k", "b")]), Recorded::Series(_)));
    assert!(matches!(new.record(moved, &calls, INT(1), &[("k", "e")]), Recorded::Overflowed(_)));
    let made = new.collect(10.0);
    let values: Vec<_> = numbers(&made[..1]).into_iter().map(|point| (point.1, point.2, point.3)).collect();
    let at = 10.001;
    assert_eq!(
        values,
        [1, 2, 3].map(|value| (1.0, at, Some(INT(value)))),
        "after what the other has exported"
    );
    let Points::Histogram(points) = &made[1].points else { panic!("{made:?}") };
    assert_eq!((points[0].value.as_ref().map(|value| value.count), points[0].exemplars.len()), (Some(1), 0));
    let there = new.attach("v");
    assert_eq!(old.own.move_instance(other, &mut new.own), Some(there), "one with its key is there");
    assert_eq!(new.own.figures().expired, 1, "what cannot be told apart is not lost in silence");
    new.own.detach(there);
}
