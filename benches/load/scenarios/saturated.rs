//! One stream as fast as it goes.

use anyhow::{Result, ensure};

use super::micros_per_span;
use crate::bridge::Bridge;
use crate::clock;
use crate::events::{Busy, Correlation};
use crate::floor::Floor;
use crate::generator::{Framing, number, saturate};
use crate::report::Report;
use crate::sink::{Reading, Sink};

/// What a span may cost where the transport coalesces.
const TARGET_MICROS: f64 = 3.0;

/// Seconds of CPU, so that the kernel's clock tick is below 1 %.
const COALESCED_SPANS: u64 = 1_000_000;
const ALONE_SPANS: u64 = 300_000;

/// The bridge keeps all that a burst without end outruns the sink by, so that none of the work is saved by dropping.
const VARIABLES: [(&str, &str); 1] = [("OTEL_BSP_MAX_QUEUE_SIZE", "2000000")];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    for (framing, spans, how) in [
        (Framing::Coalesced, COALESCED_SPANS, "coalesced"),
        (Framing::EachAlone, ALONE_SPANS, "a write an event"),
    ] {
        let target = (framing == Framing::Coalesced).then_some(TARGET_MICROS);
        for (correlation, which) in
            [(Correlation::PerCall, "correlated"), (Correlation::Absent, "no correlation id")]
        {
            let (micros, rate) = bridge(report, framing, spans, correlation)?;
            report.figure(format!("a saturated, {how}, {which}: CPU a span"), micros, "us", target);
            report.figure(format!("a saturated, {how}, {which}: rate"), rate, "spans/s", None);
        }
        let micros = floor(report, framing, spans)?;
        report.figure(format!("a saturated, {how}: floor, two messages dropped"), micros, "us", None);
    }
    Ok(())
}

/// CPU a span, and spans a second until the stream's end.
fn bridge(report: &Report, framing: Framing, spans: u64, correlation: Correlation) -> Result<(f64, f64)> {
    let sink = Sink::start(Reading::Count)?;
    let bridge = Bridge::start(&sink.endpoint, &VARIABLES)?;
    let (cpu, begun) = (bridge.process.cpu()?, clock::now());
    saturate(&bridge.endpoint, framing, Busy::new(correlation, spans))?;
    let rate = spans as f64 / begun.elapsed().as_secs_f64();
    bridge.settled(spans)?;
    let cpu = bridge.process.cpu()? - cpu;
    sink.ensure_received(spans)?;
    report.counted(&format!("{} events paired, {spans} spans at the sink", 2 * spans));
    Ok((micros_per_span(cpu, spans), rate))
}

/// CPU for two messages.
fn floor(report: &Report, framing: Framing, spans: u64) -> Result<f64> {
    let floor = Floor::start()?;
    let cpu = floor.process.cpu()?;
    let count = number(saturate(&floor.endpoint, framing, Busy::new(Correlation::PerCall, spans))?)?;
    let cpu = floor.process.cpu()? - cpu;
    ensure!(count == 2 * spans, "{} messages were sent, {count} counted", 2 * spans);
    report.counted(&format!("{count} messages dropped"));
    Ok(micros_per_span(cpu, spans))
}
