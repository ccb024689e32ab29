//! What series cost in memory, and that it returns.

use super::*;
use crate::engine::steps;

/// What everything takes, counted by what is allocated.
fn size_bytes(own: &mut Aggregation) -> usize {
    let series: usize =
        own.series.iter_mut().map(|(_, one)| one.value.heap_bytes() + one.exemplars.heap_bytes()).sum();
    let streams: usize = own
        .streams
        .iter_mut()
        .map(|(_, stream)| if stream.series.spilled() { stream.series.capacity() * 4 } else { 0 })
        .sum();
    let instances: usize = own
        .instances
        .iter_mut()
        .map(|(_, one)| {
            one.streams.capacity() * 4
                + one.numbers.capacity() * 8
                + size_of::<crate::worker::Source>()
                + one.key.worker_id.len()
                + 2 * size_of::<usize>()
        })
        .sum();
    let slabs = own.series.size_bytes() + own.streams.size_bytes() + own.instances.size_bytes();
    let tables = own.by_attributes.allocation_size() + own.by_name.allocation_size();
    let keys = own.by_key.allocation_size() + own.in_order.len() * 2 * size_of::<(u64, Slot)>();
    series + streams + instances + slabs + tables + keys + own.lists.size_bytes()
}

fn bounds() -> Vec<f64> {
    (1..=15).map(f64::from).collect()
}

#[test]
fn a_histogram_series_of_its_own_attributes_costs_at_most_400_bytes() {
    let mut bench = Bench::new(&MetricSettings {
        max_series: 100_000,
        max_series_per_worker: 100_000,
        ..MetricSettings::default()
    });
    let durations = histogram("durations", &bounds());
    let id = bench.attach("w");
    let worst = [1000, 1793, 3585, 20_000].map(|count: usize| {
        for number in 0..count {
            let tool = format!("tool_{number}");
            bench.record(id, &durations, Number::Float(1.5), &[("snakepit.tool", &tool), ("stage", "first")]);
        }
        let each = size_bytes(&mut bench.own) / count;
        println!("{count} series of their own attributes: {each} bytes each");
        each
    });
    assert!(worst.into_iter().all(|each| each <= 400), "{worst:?}");
    assert!(size_of::<Series>() <= 112, "{}", size_of::<Series>());
}

#[test]
fn ten_thousand_workers_with_ten_series_each_fit_in_80_mib_and_their_memory_returns() {
    let mut bench = Bench::new(&MetricSettings::default());
    let instruments: Vec<_> = (0..10).map(|number| histogram(&format!("i{number}"), &bounds())).collect();
    let ids: Vec<InstanceId> = (0..10_000)
        .map(|worker| {
            let id = bench.attach(&format!("worker_{worker}"));
            for (number, instrument) in (0..).zip(&instruments) {
                let mut gathered = gathered(&[("snakepit.tool", "search"), ("stage", "first")]);
                let keys = PointKeys::of(&mut gathered);
                let measured = Measured { instrument, number, value: Number::Float(1.5), attributes: keys };
                bench.own.record(id, &measured, Weight::ONE, wall(0.0), now(0.0));
            }
            id
        })
        .collect();
    let size = size_bytes(&mut bench.own);
    println!("10,000 workers with 10 histograms each: {:.1} MiB", size as f64 / f64::from(1 << 20));
    assert!(size < 64 << 20, "{size}");
    assert_eq!(bench.own.lists.len(), 1, "all share one list of attributes");
    ids.into_iter().for_each(|id| bench.own.detach(id));
    bench.collect(10.0);
    let made: usize = bench.collect(20.0).iter().map(Metric::len).sum();
    assert_eq!((made, bench.own.figures().series), (100_000, 0));
    let size = size_bytes(&mut bench.own);
    assert!(size < 64 << 10, "{size}");
}

#[test]
fn finding_an_instrument_and_a_series_takes_no_longer_among_many() {
    let settings = MetricSettings { max_series: 5000, ..MetricSettings::default() };
    let looked_at = |others: usize| {
        let mut bench = Bench::new(&settings);
        let durations = histogram("durations", &bounds());
        let id = bench.attach("w");
        for number in 0..others {
            bench.record(id, &durations, Number::Int(1), &[("k", &format!("{number}"))]);
        }
        let before = steps::taken();
        for number in 0..100 {
            bench.record(id, &durations, Number::Int(1), &[("k", &format!("{number}"))]);
        }
        steps::taken() - before
    };
    assert!(looked_at(4000) < 2 * looked_at(100), "{} against {}", looked_at(4000), looked_at(100));
    let settings = MetricSettings { max_instruments_per_worker: 5000, ..MetricSettings::default() };
    // Known by number, and by name alone as after a restart: a search in a list, and two in a table.
    let looked_at = |others: u32, first_number: u32| {
        let mut bench = Bench::new(&settings);
        let all: Vec<_> =
            (0..others).map(|number| instrument(&format!("i{number}"), "", Kind::Gauge)).collect();
        let id = bench.attach("w");
        let mut gathered = gathered(&[]);
        let keys = PointKeys::of(&mut gathered);
        let mut record = |number: u32, instrument| {
            let measured = Measured { instrument, number, value: Number::Int(1), attributes: keys };
            bench.own.record(id, &measured, Weight::ONE, wall(0.0), now(0.0));
        };
        (0..).zip(&all).for_each(|(number, instrument)| record(number, instrument));
        let before = steps::taken();
        (0..).zip(&all[..100]).for_each(|(number, instrument)| record(first_number + number, instrument));
        steps::taken() - before
    };
    for first_number in [0, 10_000] {
        let (many, few) = (looked_at(4000, first_number), looked_at(100, first_number));
        assert!(0 < few && many < 3 * few, "{many} against {few}");
    }
}

#[test]
fn series_that_end_leave_their_list_in_order_and_cost_a_slice_what_it_visits() {
    let looked_at = |count: usize| {
        let limits =
            MetricSettings { max_series: count, max_series_per_worker: count, ..MetricSettings::default() };
        let mut bench = Bench::new(&limits);
        let calls = instrument("calls", "", Kind::Counter);
        let id = bench.attach("w");
        let record = |bench: &mut Bench, number: usize| {
            bench.record(id, &calls, Number::Int(1), &[("k", &format!("{number}"))]);
        };
        (0..count).for_each(|number| record(&mut bench, number));
        bench.collect(10.0);
        bench.now = 3609.0;
        (0..count).filter(|number| number % 100 == 7).for_each(|number| record(&mut bench, number));
        bench.own.begin(wall(3611.0), now(3611.0));
        let (mut points, mut ended) = (0, 0);
        let before = steps::taken();
        while bench.own.is_collecting() {
            bench.own.collect(50, &mut |metric| {
                let is_end = numbers(std::slice::from_ref(&metric))[0].3.is_none();
                if is_end { ended += metric.len() } else { points += metric.len() }
            });
        }
        let looked_at = steps::taken() - before;
        assert_eq!((points, ended), (count / 100, count - count / 100));
        let (_, stream) = bench.own.streams.iter_mut().next().unwrap();
        assert_eq!(stream.series.len(), count / 100);
        assert!(stream.series.capacity() <= count / 10, "its memory returns");
        assert_eq!(bench.collect(3620.0).iter().map(Metric::len).sum::<usize>(), count / 100);
        looked_at
    };
    assert!(looked_at(4000) < 11 * looked_at(400), "{} against {}", looked_at(4000), looked_at(400));
}
