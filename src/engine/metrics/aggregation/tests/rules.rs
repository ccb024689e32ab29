//! Each rule by example.

use super::*;
use crate::engine::metrics::point::Point;
use crate::engine::span::{SpanId, TraceId};

#[test]
fn cumulative_sums_repeat_and_keep_their_start() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    bench.now = 1.0;
    bench.count(id, &calls);
    bench.count(id, &calls);
    let named = |start, time, value| vec![("calls".to_owned(), start, time, Some(INT(value)))];
    assert_eq!(numbers(&bench.collect(10.0)), named(1.0, 10.0, 2));
    assert_eq!(numbers(&bench.collect(20.0)), named(1.0, 20.0, 2));
    bench.count(id, &calls);
    let made = bench.collect(30.0);
    assert_eq!(numbers(&made), named(1.0, 30.0, 3));
    assert_eq!(made[0].temporality, Temporality::Cumulative);
    assert_eq!((made[0].source.worker_id.as_ref(), made[0].source.pid), ("w", None));
}

#[test]
fn after_a_wrong_clock_times_go_back_and_values_stay() {
    let mut bench = Bench::new(&MetricSettings::default());
    let (calls, last) = (instrument("calls", "", Kind::Counter), instrument("last", "", Kind::Gauge));
    let id = bench.attach("w");
    bench.now = 1.0;
    bench.count(id, &calls);
    bench.collect(10.0);
    bench.record(id, &last, INT(7), &[]);
    bench.own.begin(wall(100_000.0), now(11.0));
    bench.own.collect(1000, &mut drop);
    assert_eq!(bench.own.last_collection(), Some(wall(100_000.0)));
    bench.record(id, &calls, INT(1), &[("a", "x")]);
    let made = bench.collect(20.0);
    let just_before = 20.0 - 1e-9;
    assert_eq!(
        numbers(&made),
        [
            ("calls".into(), 1.0, 20.0, Some(INT(1))),
            ("calls".into(), just_before, 20.0, Some(INT(1))),
            ("last".into(), 20.0, 20.0, Some(INT(7))),
        ]
    );
    // A little ahead is no reason: points of a time that was sent come no second time.
    let times = |made: &[Metric]| numbers(made)[0].2;
    assert!((times(&bench.collect(620.0)) - 620.0).abs() < 1e-6);
    assert!((times(&bench.collect(20.0)) - 620.001).abs() < 1e-6);
}

#[test]
fn differences_abut_and_come_only_when_measured() {
    let mut bench = Bench::delta();
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    bench.now = 1.0;
    bench.count(id, &calls);
    let made = bench.collect(10.0);
    assert_eq!(made[0].temporality, Temporality::Delta);
    assert_eq!(numbers(&made), [("calls".into(), 1.0, 10.0, Some(INT(1)))]);
    assert_eq!(bench.collect(20.0), []);
    bench.record(id, &calls, INT(5), &[]);
    assert_eq!(numbers(&bench.collect(30.0)), [("calls".into(), 10.0, 30.0, Some(INT(5)))]);
}

#[test]
fn up_down_sums_are_cumulative_and_gauges_come_only_when_measured_where_differences_are_wanted() {
    let mut bench = Bench::delta();
    let (level, last) = (instrument("level", "", Kind::UpDownCounter), instrument("last", "", Kind::Gauge));
    let id = bench.attach("w");
    bench.now = 1.0;
    bench.record(id, &level, INT(-4), &[]);
    bench.record(id, &last, INT(7), &[]);
    let made = bench.collect(10.0);
    assert_eq!(made[0].temporality, Temporality::Cumulative);
    assert_eq!(
        numbers(&made),
        [("level".into(), 1.0, 10.0, Some(INT(-4))), ("last".into(), 1.0, 1.0, Some(INT(7)))]
    );
    assert_eq!(numbers(&bench.collect(20.0)), [("level".into(), 1.0, 20.0, Some(INT(-4)))]);
}

#[test]
fn a_gauges_time_is_its_events_moved_into_the_interval() {
    let mut bench = Bench::new(&MetricSettings::default());
    let last = instrument("last", "", Kind::Gauge);
    let id = bench.attach("w");
    bench.now = 1.0;
    bench.record(id, &last, INT(7), &[]);
    let times = |made: Vec<Metric>| numbers(&made)[0].2;
    assert_eq!(times(bench.collect(1000.0)), 700.0, "the first collection reaches back five minutes");
    assert_eq!(times(bench.collect(1010.0)), 1000.001, "repeated, after the collection before");
    bench.now = 1015.0;
    bench.record(id, &last, INT(8), &[]);
    bench.now = 1025.0;
    assert_eq!(times(bench.collect(1020.0)), 1015.0);
}

#[test]
fn two_collections_are_never_of_one_time() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    bench.count(id, &calls);
    let times: Vec<f64> = [10.0, 10.0, 5.0].map(|at| numbers(&bench.collect(at))[0].2).into();
    assert_eq!(times, [10.0, 10.001, 10.002]);
}

#[test]
fn a_clock_that_was_set_back_puts_no_start_behind_its_point() {
    for mut bench in [Bench::new(&MetricSettings::default()), Bench::delta()] {
        let calls = instrument("calls", "", Kind::Counter);
        let id = bench.attach("w");
        bench.now = 100.0;
        bench.count(id, &calls);
        let made = bench.collect(50.0);
        let Points::Sum(points) = &made[0].points else { panic!("{made:?}") };
        assert_eq!((points[0].start.0, points[0].time), (wall(50.0).0 - 1, wall(50.0)));
    }
}

#[test]
fn an_exemplar_is_not_older_than_the_collection_before() {
    let mut bench = Bench::new(&MetricSettings::default());
    let durations = histogram("durations", &[1.0]);
    let id = bench.attach("w");
    bench.now = 1.0;
    let Recorded::Series(series) = bench.record(id, &durations, Number::Float(0.5), &[]) else { panic!() };
    let mut times = Vec::new();
    for (offered, at) in [(1.5, 10.0), (2.0, 20.0), (9.0, 30.0), (31.0, 40.0)] {
        bench.own.offer(id, series, Number::Float(0.5), wall(offered), None);
        let made = bench.collect(at);
        let Points::Histogram(points) = &made[0].points else { panic!("{made:?}") };
        times.push(points[0].exemplars[0].time);
    }
    assert_eq!(times, [1.5, 10.001, 20.001, 31.0].map(wall));
}

#[test]
fn a_number_that_means_another_instrument_now_is_found_out() {
    let mut bench = Bench::new(&MetricSettings::default());
    let id = bench.attach("w");
    let (a, b) = (instrument("a", "", Kind::Counter), instrument("b", "", Kind::Counter));
    let mut gathered = gathered(&[]);
    let keys = PointKeys::of(&mut gathered);
    for instrument in [&a, &b, &a] {
        let measured = Measured { instrument, number: 7, value: INT(1), attributes: keys };
        bench.own.record(id, &measured, Weight::ONE, wall(0.0), now(0.0));
    }
    let made = numbers(&bench.collect(10.0));
    let values: Vec<_> = made.iter().map(|point| (&point.0[..], point.3)).collect();
    assert_eq!(values, [("a", Some(INT(2))), ("b", Some(INT(1)))]);
}

#[test]
fn a_counter_does_not_go_down() {
    let mut bench = Bench::new(&MetricSettings::default());
    let id = bench.attach("w");
    let calls = instrument("calls", "", Kind::Counter);
    assert_eq!(bench.record(id, &calls, INT(-1), &[]), Recorded::Lost(Loss::Negative));
    assert_eq!(bench.record(id, &calls, Number::Float(-0.5), &[]), Recorded::Lost(Loss::Negative));
    let figures = bench.own.figures();
    assert_eq!((figures.negative, figures.instruments, figures.series), (2, 0, 0));
    assert!(matches!(bench.record(id, &calls, INT(0), &[]), Recorded::Series(_)));
}

#[test]
fn an_idle_series_ends_after_its_last_point_and_starts_again_behind_it() {
    let mut bench = Bench::new(&MetricSettings::default());
    let id = bench.attach("w");
    let calls = instrument("calls", "", Kind::Counter);
    bench.now = 1.0;
    bench.count(id, &calls);
    assert_eq!(numbers(&bench.collect(3700.0))[0].3, Some(INT(1)), "not before it was exported");
    let ended = bench.collect(3710.0);
    assert_eq!(numbers(&ended), [("calls".into(), 1.0, 3710.0, None)]);
    assert_eq!(bench.collect(3720.0), []);
    assert_eq!((bench.own.figures().series, bench.own.figures().expired), (0, 1));
    bench.now = 3700.0;
    bench.count(id, &calls);
    let made = bench.collect(3730.0);
    let Points::Sum(points) = &made[0].points else { panic!("{made:?}") };
    assert_eq!(points[0].start.0, wall(3720.0).0 + 1, "after everything that was exported");
}

/// One of each kind, by name.
fn of_each_kind() -> [Arc<Instrument>; 5] {
    [
        instrument("calls", "", Kind::Counter),
        instrument("level", "", Kind::UpDownCounter),
        instrument("last", "", Kind::Gauge),
        histogram("fixed", &[1.0]),
        instrument("flexible", "", Kind::ExponentialHistogram),
    ]
}

/// Of each metric, its name, and the seconds of the points that have no value.
fn ends(metrics: &[Metric]) -> Vec<(String, Vec<(f64, f64)>)> {
    fn of<V>(points: &[Point<V>]) -> Vec<(f64, f64)> {
        let seconds = |time: UnixNanos| (time.0 - EPOCH_NS) as f64 / 1e9;
        let without = points.iter().filter(|point| point.value.is_none());
        without.map(|point| (seconds(point.start), seconds(point.time))).collect()
    }
    let of_metric = |metric: &Metric| match &metric.points {
        Points::Gauge(points) | Points::Sum(points) => of(points),
        Points::Histogram(points) => of(points),
        Points::Exponential(points) => of(points),
    };
    metrics.iter().map(|metric| (metric.instrument.name.to_string(), of_metric(metric))).collect()
}

/// Of every kind, whether values are repeated or not: who shows a gauge, or a sum of differences, shows it until it ends.
#[test]
fn series_of_a_worker_that_is_gone_end_under_every_temporality() {
    for (mut bench, sums_start) in [(Bench::new(&MetricSettings::default()), 0.0), (Bench::delta(), 10.0)] {
        let id = bench.attach("w");
        for instrument in &of_each_kind() {
            bench.count(id, instrument);
        }
        bench.own.detach(id);
        assert!(ends(&bench.collect(10.0)).iter().all(|(_, ends)| ends.is_empty()));
        let expected = [
            ("calls", sums_start),
            ("level", 0.0),
            ("last", 20.0),
            ("fixed", sums_start),
            ("flexible", sums_start),
        ]
        .map(|(name, start)| (name.to_owned(), vec![(start, 20.0)]));
        assert_eq!(ends(&bench.collect(20.0)), expected);
        assert_eq!((bench.own.figures().series, bench.own.figures().instances), (0, 0));
    }
}

#[test]
fn an_idle_series_of_differences_ends_once_it_has_been_idle_for_long() {
    let mut bench = Bench::delta();
    let id = bench.attach("w");
    let calls = instrument("calls", "", Kind::Counter);
    bench.count(id, &calls);
    assert_eq!(bench.collect(10.0).len(), 1);
    assert_eq!(bench.collect(3599.0), []);
    assert_eq!(bench.own.figures().series, 1);
    assert_eq!(numbers(&bench.collect(3600.0)), [("calls".into(), 10.0, 3600.0, None)]);
    assert_eq!((bench.own.figures().series, bench.own.figures().instruments), (0, 0));
}

#[test]
fn points_without_value_are_alone_in_their_metric() {
    let mut bench = Bench::new(&MetricSettings::default());
    let id = bench.attach("w");
    let calls = instrument("calls", "", Kind::Counter);
    for value in ["a", "b", "c"] {
        bench.record(id, &calls, INT(1), &[("k", value)]);
    }
    bench.collect(10.0);
    bench.record(id, &calls, INT(1), &[("k", "b")]);
    let made = bench.collect(3605.0);
    assert_eq!(made.iter().map(Metric::len).collect::<Vec<_>>(), [1, 1, 1]);
    let (ended, valued): (Vec<_>, Vec<_>) =
        made.into_iter().partition(|metric| numbers(std::slice::from_ref(metric))[0].3.is_none());
    assert_eq!((ended.len(), valued.len()), (2, 1));
    assert!(attribute(&valued[0], 0).contains("\"b\""), "{valued:?}");
}

#[test]
fn an_instance_without_workers_is_repeated_once_then_ends_and_is_forgotten() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let (id, again) = (bench.attach("w"), bench.attach("w"));
    assert_eq!(id, again, "two workers, one instance");
    bench.count(id, &calls);
    bench.own.detach(id);
    bench.collect(10.0);
    assert_eq!(numbers(&bench.collect(20.0))[0].3, Some(INT(1)), "one is still there");
    bench.own.detach(id);
    assert_eq!(numbers(&bench.collect(30.0))[0].3, Some(INT(1)));
    assert_eq!(numbers(&bench.collect(40.0))[0].3, None);
    assert_eq!(bench.own.figures(), AggregationFigures { expired: 1, ..AggregationFigures::default() });
    assert_eq!(
        bench.count(id, &calls),
        Recorded::Lost(Loss::NoRoom),
        "whoever kept the id has nothing in its hands"
    );
    let id = bench.attach("w");
    assert!(matches!(bench.count(id, &calls), Recorded::Series(_)));
}

#[test]
fn a_worker_that_comes_back_before_the_end_goes_on() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    bench.count(id, &calls);
    bench.own.detach(id);
    bench.collect(10.0);
    assert_eq!(bench.attach("w"), id);
    bench.count(id, &calls);
    assert_eq!(numbers(&bench.collect(20.0)), [("calls".into(), 0.0, 20.0, Some(INT(2)))]);
}

#[test]
fn a_resource_is_made_anew_where_it_says_something_else() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    bench.count(id, &calls);
    let first = bench.collect(10.0)[0].source.clone();
    bench.attach("w");
    assert!(Arc::ptr_eq(&first, &bench.collect(20.0)[0].source));
    bench.own.attach(key("w"), described("other"), &mut bench.next_source);
    let made = bench.collect(30.0);
    assert_eq!((made[0].source.serial, made[0].source.pool.as_deref()), (first.serial + 1, Some("other")));
    assert_eq!(numbers(&made), [("calls".into(), 0.0, 30.0, Some(INT(1)))]);
}

#[test]
fn a_collection_is_of_what_was_there_when_it_began_and_of_one_time() {
    let mut bench = Bench::new(&MetricSettings::default());
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    for value in ["a", "b"] {
        bench.record(id, &calls, INT(1), &[("k", value)]);
    }
    bench.own.begin(wall(10.0), now(10.0));
    let mut made = Vec::new();
    bench.own.collect(2, &mut |metric| made.push(metric));
    assert_eq!(made.iter().map(Metric::len).sum::<usize>(), 1, "the instance counts as one");
    bench.now = 11.0;
    bench.record(id, &calls, INT(1), &[("k", "c")]);
    let other = bench.attach("v");
    bench.count(other, &calls);
    bench.own.begin(wall(20.0), now(20.0));
    while bench.own.is_collecting() {
        bench.own.collect(2, &mut |metric| made.push(metric));
    }
    assert_eq!(bench.own.last_collection(), Some(wall(10.0)), "none began while one was on its way");
    made.extend(bench.collect(25.0));
    let made = numbers(&made);
    let times: Vec<f64> = made.iter().map(|point| point.2).collect();
    assert_eq!(times, [10.0, 10.0, 25.0, 25.0, 25.0, 25.0]);
    assert_eq!(bench.own.figures().series, 4);
}

#[test]
fn a_large_metric_comes_in_several() {
    let mut bench = Bench::new(&MetricSettings::default());
    let bounds: Vec<f64> = (0..15).map(f64::from).collect();
    let durations = histogram("durations", &bounds);
    let id = bench.attach("w");
    for number in 0..500 {
        bench.record(id, &durations, INT(1), &[("k", &format!("{number}"))]);
    }
    let made = bench.collect(10.0);
    assert_eq!(made.iter().map(Metric::len).sum::<usize>(), 500);
    assert!((4..12).contains(&made.len()), "{}", made.len());
    let first = made[0].len();
    assert!(first * 290 < 33 << 10, "{first}");
}

#[test]
fn weights_count_in_whole_numbers_and_carry_the_rest() {
    let mut bench = Bench::new(&MetricSettings::default());
    let (calls, last) = (instrument("calls", "", Kind::Counter), instrument("last", "", Kind::Gauge));
    let id = bench.attach("w");
    let mut gathered = gathered(&[]);
    let keys = PointKeys::of(&mut gathered);
    let weight = Weight::of_share(0.4);
    let mut totals = Vec::new();
    for at in 1..=4 {
        for (number, instrument) in [(0, &calls), (1, &last)] {
            let measured = Measured { instrument, number, value: INT(3), attributes: keys };
            bench.own.record(id, &measured, weight, wall(0.0), now(0.0));
        }
        let made = numbers(&bench.collect(10.0 * f64::from(at)));
        assert_eq!(made[1].3, Some(INT(3)), "a gauge is not multiplied");
        totals.push(made[0].3);
    }
    assert_eq!(totals, [6, 15, 21, 30].map(|total| Some(INT(total))));
}

#[test]
fn exemplars_go_out_once_and_only_of_a_series_that_is_there() {
    let mut bench = Bench::new(&MetricSettings::default());
    let durations = histogram("durations", &[1.0]);
    let id = bench.attach("w");
    bench.now = 1.0;
    let Recorded::Series(series) = bench.record(id, &durations, Number::Float(0.5), &[]) else { panic!() };
    let span = Some((TraceId([1; 16]), SpanId([2; 8])));
    bench.own.offer(id, series, Number::Float(0.5), wall(1.5), span);
    let exemplars = |made: &[Metric]| {
        let Points::Histogram(points) = &made[0].points else { panic!("{made:?}") };
        points[0].exemplars.clone()
    };
    let first = exemplars(&bench.collect(10.0));
    assert_eq!((first.len(), first[0].time, first[0].span), (1, wall(1.5), span));
    assert_eq!(exemplars(&bench.collect(20.0)), []);
    bench.collect(3700.0);
    assert_eq!(bench.own.figures().series, 0);
    bench.own.offer(id, series, Number::Float(0.5), wall(1.5), span);
    bench.record(id, &durations, Number::Float(0.5), &[]);
    bench.own.offer(id, series, Number::Float(0.5), wall(1.5), span);
    assert_eq!(exemplars(&bench.collect(3710.0)), [], "another series in its place is not it");
}

#[test]
fn no_exemplars_are_kept_where_none_are_wanted() {
    let settings = MetricSettings { exemplars: ExemplarFilter::AlwaysOff, ..MetricSettings::default() };
    let mut bench = Bench::new(&settings);
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    let Recorded::Series(series) = bench.count(id, &calls) else { panic!() };
    bench.own.offer(id, series, INT(1), wall(0.0), None);
    let made = bench.collect(10.0);
    let Points::Sum(points) = &made[0].points else { panic!("{made:?}") };
    assert_eq!(points[0].exemplars, []);
}
