//! 10,000 spans a second over 8 workers, and the real Collector forwarding as many.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;

use super::micros_per_span;
use crate::bridge::Bridge;
use crate::clock::{self, until};
use crate::collector::{self, Collector};
use crate::events::{Call, Correlation};
use crate::floor::Floor;
use crate::generator::{Workers, number};
use crate::report::Report;
use crate::sink::{Reading, Sink};

/// What a span may cost.
const TARGET_MICROS: f64 = 6.0;

pub(super) const WORKERS: usize = 8;
pub(super) const SPANS_PER_WORKER_SECOND: u64 = 1_250;
const SECONDS: u64 = 10;
/// From one event of a call to the next.
const STEP: Duration = Duration::from_millis(1);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let ours = bridge(report)?;
    report.figure("b 10,000 spans/s over 8 workers: CPU a span", ours, "us", Some(TARGET_MICROS));
    let least = floor(report)?;
    report.figure("b 10,000 spans/s: floor, two messages dropped", least, "us", None);
    let Some(program) = collector::program() else {
        report.skipped("the real Collector is not built here (`make peers` builds it)");
        return Ok(());
    };
    let peer = collector(report, &program)?;
    report.figure("b 10,000 spans/s forwarded by the real Collector: CPU a span", peer, "us", None);
    report.figure("b the bridge's CPU beside the Collector's", ours / peer, "times", None);
    Ok(())
}

fn bridge(report: &Report) -> Result<f64> {
    let sink = Sink::start(Reading::Count)?;
    let bridge = Bridge::start(&sink.endpoint, &[])?;
    let workers = Workers::connect(&bridge.endpoint, WORKERS)?;
    let cpu = bridge.process.cpu()?;
    let spans = send(&workers, SECONDS, |_| Correlation::PerCall)?;
    workers.finish()?;
    bridge.settled(spans)?;
    let cpu = bridge.process.cpu()? - cpu;
    sink.ensure_received(spans)?;
    report.counted(&format!("{} events paired, {spans} spans at the sink", 2 * spans));
    Ok(micros_per_span(cpu, spans))
}

/// CPU for two messages that a bare tonic server drops, sent as a span's two events are.
fn floor(report: &Report) -> Result<f64> {
    let floor = Floor::start()?;
    let workers = Workers::connect(&floor.endpoint, WORKERS)?;
    let cpu = floor.process.cpu()?;
    let spans = send(&workers, SECONDS, |_| Correlation::PerCall)?;
    let answers = workers.finish()?;
    let cpu = floor.process.cpu()? - cpu;
    let counts: Vec<u64> = answers.into_iter().map(number).collect::<Result<_>>()?;
    let count: u64 = counts.iter().sum();
    ensure!(count == 2 * spans, "{} messages were sent, {count} counted", 2 * spans);
    report.counted(&format!("{count} messages dropped"));
    Ok(micros_per_span(cpu, spans))
}

fn collector(report: &Report, program: &std::path::PathBuf) -> Result<f64> {
    let sink = Sink::start(Reading::Count)?;
    let collector = Collector::start(program, &sink.address)?;
    let per_worker = SPANS_PER_WORKER_SECOND * SECONDS;
    let spans = per_worker * WORKERS as u64;
    let cpu = collector.process.cpu()?;
    collector.feed(WORKERS as u64, per_worker, SPANS_PER_WORKER_SECOND)?;
    let all = until("the Collector's last span", Duration::from_secs(20), || {
        Ok((sink.received().spans >= spans).then_some(()))
    });
    let cpu = collector.process.cpu()? - cpu;
    all.and_then(|()| sink.ensure_received(spans)).with_context(|| collector.process.log())?;
    report.counted(&format!("{spans} spans sent, {spans} spans at the sink"));
    Ok(micros_per_span(cpu, spans))
}

/// Every worker calls at an even rate, each event sent when it is due; answers the number of spans.
pub(super) fn send(
    workers: &Workers,
    seconds: u64,
    correlation: impl Fn(usize) -> Correlation,
) -> Result<u64> {
    let schedule = schedule(seconds);
    let mut calls = HashMap::new();
    let mut arena = BytesMut::new();
    let begun = clock::now();
    for &Due { after, worker, call: id, depth } in &schedule {
        if let Some(wait) = after.checked_sub(begun.elapsed()) {
            std::thread::sleep(wait);
        }
        let lane = usize::try_from(id)? % 16;
        let unique = id * WORKERS as u64 + worker as u64;
        let call =
            calls.entry((worker, id)).or_insert_with(|| Call::new(unique, lane, correlation(worker), depth));
        workers.send(worker, call.write_next(&mut arena))?;
        if call.is_over() {
            calls.remove(&(worker, id));
        }
    }
    Ok(schedule.len() as u64 / 2)
}

/// When the next event of a call is due.
struct Due {
    after: Duration,
    worker: usize,
    call: u64,
    depth: usize,
}

fn schedule(seconds: u64) -> Vec<Due> {
    let per_worker = SPANS_PER_WORKER_SECOND * seconds;
    let between_spans =
        Duration::from_secs(1) / u32::try_from(SPANS_PER_WORKER_SECOND).expect("a few thousand");
    let mut schedule = Vec::new();
    for worker in 0..WORKERS {
        // Workers do not run in step.
        let mut begins = between_spans * u32::try_from(worker).expect("few") / 8;
        let (mut call, mut spans) = (0, 0);
        while spans < per_worker {
            let left = usize::try_from(per_worker - spans).expect("a 64-bit machine");
            let depth = Call::usual_depth(call).min(left);
            let mut after = begins;
            for _ in 0..2 * depth {
                schedule.push(Due { after, worker, call, depth });
                after += STEP;
            }
            begins += between_spans * u32::try_from(depth).expect("at most three");
            spans += depth as u64;
            call += 1;
        }
    }
    schedule.sort_by_key(|due| due.after);
    schedule
}
