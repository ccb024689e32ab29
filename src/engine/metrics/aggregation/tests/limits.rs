//! What has no room, and what cannot be told apart by its name.

use super::*;

#[test]
fn at_the_limit_nothing_overflows_and_beyond_it_one_series_takes_the_rest() {
    let mut bench = Bench::new(&MetricSettings { max_series: 3, ..MetricSettings::default() });
    let calls = instrument("calls", "", Kind::Counter);
    let id = bench.attach("w");
    for value in ["a", "b", "c"] {
        assert!(matches!(bench.record(id, &calls, INT(1), &[("k", value)]), Recorded::Series(_)));
    }
    assert_eq!((bench.own.figures().series, bench.own.figures().overflowed), (3, 0));
    for value in ["d", "e", "d"] {
        assert!(matches!(bench.record(id, &calls, INT(10), &[("k", value)]), Recorded::Overflowed(_)));
    }
    assert!(
        matches!(bench.record(id, &calls, INT(1), &[("k", "b")]), Recorded::Series(_)),
        "known ones go on"
    );
    let made = bench.collect(10.0);
    let values: Vec<_> = numbers(&made).into_iter().map(|point| point.3).collect();
    assert_eq!(values, [Some(INT(1)), Some(INT(2)), Some(INT(1)), Some(INT(30))]);
    let Points::Sum(points) = &made[0].points else { panic!("{made:?}") };
    let overflow: Vec<_> = points[3].attributes.iter().collect();
    assert_eq!(overflow, [("otel.metric.overflow", AttributeValue::Bool(true))]);
    let figures = bench.own.figures();
    assert_eq!((figures.overflowed, figures.overflowed_instruments), (3, vec![("calls".into(), 3)]));
    let notices = bench.own.take_notices();
    assert!(
        matches!(&notices[..], [Notice::Overflow { limit: OverflowLimit::Instrument, .. }]),
        "said once: {notices:?}"
    );
}

#[test]
fn the_limits_of_a_worker_keep_series_and_instruments_out() {
    let settings = MetricSettings {
        max_series_per_worker: 2,
        max_instruments_per_worker: 3,
        ..MetricSettings::default()
    };
    let mut bench = Bench::new(&settings);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| instrument(name, "", Kind::Counter));
    let (id, other) = (bench.attach("w"), bench.attach("v"));
    assert!(matches!(bench.count(id, &a), Recorded::Series(_)));
    assert!(matches!(bench.count(id, &b), Recorded::Series(_)));
    assert!(matches!(bench.count(id, &c), Recorded::Overflowed(_)));
    assert_eq!(bench.count(id, &d), Recorded::Lost(Loss::NoRoom));
    assert_eq!(bench.count(id, &d), Recorded::Lost(Loss::NoRoom));
    assert!(matches!(bench.count(other, &d), Recorded::Series(_)), "another worker has its own limits");
    assert_eq!(bench.own.figures().no_room, 2);
    let notices = bench.own.take_notices();
    assert!(
        matches!(
            &notices[..],
            [Notice::Overflow { limit: OverflowLimit::Worker, .. }, Notice::NoRoom { .. }]
        ),
        "{notices:?}"
    );
}

#[test]
fn a_worker_at_its_limit_is_said_once_whatever_instruments_come() {
    let settings = MetricSettings { max_series_per_worker: 2, max_series: 1, ..MetricSettings::default() };
    let mut bench = Bench::new(&settings);
    for worker in ["w", "v"] {
        let id = bench.attach(worker);
        for (number, value) in [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a"), (3, "a"), (4, "a")] {
            let instrument = instrument(&format!("i{number}"), "", Kind::Counter);
            bench.record(id, &instrument, INT(1), &[("k", value)]);
        }
    }
    let notices = bench.own.take_notices();
    let said: Vec<_> = notices
        .iter()
        .map(|notice| match notice {
            Notice::Overflow { source, instrument, limit } => (&*source.worker_id, &*instrument.name, limit),
            Notice::Conflict { .. } | Notice::NoRoom { .. } => panic!("{notice:?}"),
        })
        .collect();
    let (of_instrument, of_worker) = (&OverflowLimit::Instrument, &OverflowLimit::Worker);
    let expected = ["w", "v"].into_iter().flat_map(|worker| {
        [(worker, "i0", of_instrument), (worker, "i1", of_instrument), (worker, "i2", of_worker)]
    });
    assert_eq!(said, expected.collect::<Vec<_>>());
    assert_eq!(bench.own.figures().overflowed, 10, "all are counted");
}

#[test]
fn what_is_said_and_named_is_bounded() {
    let mut bench = Bench::new(&MetricSettings { max_series: 0, ..MetricSettings::default() });
    let id = bench.attach("w");
    for number in 0..100 {
        let instrument = instrument(&format!("i{number}"), "", Kind::Counter);
        assert!(matches!(bench.count(id, &instrument), Recorded::Overflowed(_)));
    }
    let figures = bench.own.figures();
    assert_eq!((figures.overflowed, figures.overflowed_instruments.len(), figures.unsaid), (100, 32, 36));
    assert_eq!(bench.own.take_notices().len(), 64);
}

#[test]
fn one_name_with_another_unit_or_kind_is_a_conflict_that_is_said_once() {
    let mut bench = Bench::new(&MetricSettings::default());
    let id = bench.attach("w");
    let first = instrument("size", "By", Kind::Counter);
    bench.count(id, &first);
    let same = instrument("SIZE", "By", Kind::Counter);
    assert!(matches!(bench.count(id, &same), Recorded::Series(_)), "letters' case does not count");
    assert_eq!(bench.own.figures().series, 1);
    let others = [instrument("size", "s", Kind::Counter), instrument("Size", "By", Kind::Gauge)];
    for other in others.iter().chain(&others) {
        assert_eq!(bench.count(id, other), Recorded::Lost(Loss::Conflict));
    }
    let second = bench.attach("v");
    bench.count(second, &first);
    assert_eq!(bench.count(second, &others[0]), Recorded::Lost(Loss::Conflict));
    assert_eq!(bench.own.figures().conflicts, 5);
    let notices = bench.own.take_notices();
    let said: Vec<_> = notices
        .iter()
        .map(|notice| match notice {
            Notice::Conflict { kept, refused, .. } => (&kept.unit[..], &refused.unit[..]),
            Notice::Overflow { .. } | Notice::NoRoom { .. } => panic!("{notice:?}"),
        })
        .collect();
    assert_eq!(said, [("By", "s"), ("By", "By")]);
}

#[test]
fn what_prometheus_would_take_for_one_is_a_conflict() {
    let mut bench = Bench::new(&MetricSettings::default());
    let id = bench.attach("w");
    let counter = |name: &str, unit: &str| instrument(name, unit, Kind::Counter);
    let pairs = [
        (histogram("x.duration", &[1.0]), histogram("x.duration_seconds", &[1.0])),
        (instrument("x.rss_bytes", "By", Kind::Gauge), instrument("x.rss", "By", Kind::Gauge)),
        (counter("x.cache.hit.count", "{hit}"), counter("x.cache_hit.count", "{cache_hit}")),
        (counter("y", ""), counter("y.total", "")),
        (instrument("z", "1", Kind::Gauge), instrument("z.ratio", "", Kind::Gauge)),
        (histogram("h", &[1.0]), instrument("h.seconds.count", "", Kind::Gauge)),
        (instrument("i.sum", "", Kind::UpDownCounter), instrument("i", "", Kind::ExponentialHistogram)),
        (
            instrument("j", "", Kind::ExponentialHistogram),
            instrument("j.bucket", "", Kind::ExponentialHistogram),
        ),
    ];
    for (first, second) in &pairs {
        assert!(matches!(bench.count(id, first), Recorded::Series(_)), "{first:?}");
        assert_eq!(bench.count(id, second), Recorded::Lost(Loss::Conflict), "{second:?}");
        assert!(matches!(bench.count(id, first), Recorded::Series(_)), "{first:?}");
    }
    let figures = bench.own.figures();
    assert_eq!((figures.conflicts, figures.instruments), (8, 8));
    assert_eq!(bench.own.take_notices().len(), 8, "each is said");
    // A third that is in conflict with two of them.
    assert!(matches!(bench.count(id, &instrument("x", "By", Kind::Gauge)), Recorded::Series(_)));
    assert_eq!(bench.count(id, &instrument("x.duration", "By", Kind::Gauge)), Recorded::Lost(Loss::Conflict));
}

#[test]
fn names_like_those_of_a_histograms_series_are_free_where_none_has_such_series() {
    let mut bench = Bench::new(&MetricSettings::default());
    let id = bench.attach("w");
    let free = [
        instrument("x", "", Kind::Gauge),
        instrument("x.count", "", Kind::Gauge),
        histogram("x.count.sum", &[1.0]),
        histogram("y", &[1.0]),
        // It ends in `_total`.
        instrument("y.seconds.count", "", Kind::Counter),
        instrument("y.seconds.counts", "", Kind::Gauge),
        instrument("y.count", "", Kind::Gauge),
    ];
    for instrument in &free {
        assert!(matches!(bench.count(id, instrument), Recorded::Series(_)), "{instrument:?}");
    }
    let other = bench.attach("v");
    assert!(matches!(bench.count(other, &instrument("y.seconds.sum", "", Kind::Gauge)), Recorded::Series(_)));
}
