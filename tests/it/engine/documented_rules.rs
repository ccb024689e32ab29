//! The rules that `docs/metrics.md` shows do what it says beside them.

use std::collections::BTreeMap;
use std::fs;

use snakepit_otel_bridge::config::Config;
use snakepit_otel_bridge::config::flags::Flags;

use super::bench_worker::{Bench, MS, Sent, event, measured_points, start, stop};
use crate::support::repository;

#[test]
fn values_that_are_sent_in_another_unit_than_their_name_says_are_put_right() {
    let [mut bench, _] = documented();
    bench.send(&event("gpu.sampled", 0).int("utilization", 87));
    bench.send(&event("python.gc.completed", 0).int("duration", 1_500).int("collected", 3));
    assert_eq!(
        made(&mut bench),
        [
            "snakepit.python.gc.completed.collected [] {} 3",
            "snakepit.python.gc.completed.duration [s] {} 0.0015",
            "snakepit.python.gpu.sampled.utilization [1] {} 0.87",
        ]
    );
}

#[test]
fn rules_in_the_words_of_telemetry_metrics_do_what_they_say() {
    let [_, mut bench] = documented();
    let told = |event: Sent| {
        let pairs = [("model", "m"), ("tier", "paid"), ("tool", "t"), ("tenant", "x"), ("device", "gpu0")];
        pairs.into_iter().fold(event, |event, (key, value)| event.meta(key, value))
    };
    bench.send(&told(event("model.inference", 0).int("tokens", 5)));
    bench.send(&told(event("pool.load", 0).int("value", 7)));
    bench.send(&told(event("prediction.score", 0).float("value", 0.5)));
    bench.send(&event("prediction.score", 0).float("value", 0.5).meta("model", "other"));
    bench.send(&told(event("debug.anything", 0).int("value", 1)));
    for (at, tool) in [(0, "search"), (100 * MS, "internal_ping")] {
        bench.send(&start("tool.execution", at).meta("tool", tool));
        bench.send(&stop("tool.execution", at, 25 * MS).meta("tool", tool));
    }
    bench.settled();
    assert_eq!(
        made(&mut bench),
        [
            "queue.length [{item}] {model=m,snakepit.tool=t,tenant=x} 7",
            "snakepit.python.model.inference.tokens [{token}] {model=m,tier=paid} 5",
            "snakepit.python.prediction.score.value [] {model=m,snakepit.tool=t,tenant=x} 0.5",
            "snakepit.python.tool.execution.duration [ms] {snakepit.tool=search} 25",
        ]
    );
}

/// An engine for each configuration that the document shows.
fn documented() -> [Bench; 2] {
    let document = fs::read_to_string(repository("docs/metrics.md")).expect("the document");
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let own: Vec<_> = blocks.filter(|block| block.starts_with("metrics:")).collect();
    let [odd, usual] = own[..] else { panic!("{own:?}") };
    [odd, usual].map(configured)
}

fn configured(text: &str) -> Bench {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bridge.yaml");
    fs::write(&path, text).expect("a file");
    let flags = Flags { config: path.to_str().map(str::to_owned), ..Flags::default() };
    let config = Config::load(&flags, &BTreeMap::new(), false).expect("a configuration");
    Bench::with(|settings| *settings = config.engine, |_, _| {})
}

/// What is collected, a line for each series: name, unit, attributes, value or sum.
fn made(bench: &mut Bench) -> Vec<String> {
    let metrics = bench.measured().iter();
    let lines = metrics.flat_map(|metric| {
        let (name, unit) = (&metric.instrument.name, &metric.instrument.unit);
        let points = measured_points(&metric.points).into_iter();
        points.map(move |(attributes, point)| {
            format!("{name} [{unit}] {{{attributes}}} {}", point.value.expect("a value"))
        })
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}
