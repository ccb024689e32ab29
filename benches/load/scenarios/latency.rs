//! How long after its end's sending a span arrives, at 10,000 spans a second.

use anyhow::{Result, ensure};

use super::paced::{WORKERS, send};
use crate::bridge::Bridge;
use crate::events::Correlation;
use crate::generator::Workers;
use crate::report::Report;
use crate::sink::{Reading, Sink};

const SECONDS: u64 = 10;
const BATCH_DELAY_MILLIS: f64 = 200.0;
/// The bridge's default.
const REORDER_WINDOW_MILLIS: f64 = 500.0;
/// What may come on top of delays that are meant.
const MARGIN_MILLIS: f64 = 10.0;

const VARIABLES: [(&str, &str); 1] = [("OTEL_BSP_SCHEDULE_DELAY", "200")];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let sink = Sink::start(Reading::Latency)?;
    let bridge = Bridge::start(&sink.endpoint, &VARIABLES)?;
    let workers = Workers::connect(&bridge.endpoint, WORKERS)?;
    // Half of the workers have nothing to nest by.
    let spans =
        send(
            &workers,
            SECONDS,
            |worker| {
                if worker % 2 == 0 { Correlation::PerCall } else { Correlation::Absent }
            },
        )?;
    workers.finish()?;
    bridge.settled(spans)?;
    sink.ensure_received(spans)?;

    let mut received = sink.received();
    let (plain, correlated) = (&mut received.plain, &mut received.correlated);
    ensure!(plain.len() == correlated.len(), "{} plain spans, {} correlated", plain.len(), correlated.len());
    report.counted(&format!("{} events paired, half of {spans} spans at the sink of each sort", 2 * spans));
    let target = BATCH_DELAY_MILLIS + MARGIN_MILLIS;
    report.figure("d end to arrival, no correlation id: p50", percentile(plain, 50), "ms", None);
    report.figure("d end to arrival, no correlation id: p99", percentile(plain, 99), "ms", Some(target));
    let target = target + REORDER_WINDOW_MILLIS;
    report.figure("d end to arrival, correlated: p50", percentile(correlated, 50), "ms", None);
    report.figure("d end to arrival, correlated: p99", percentile(correlated, 99), "ms", Some(target));
    Ok(())
}

/// In milliseconds.
fn percentile(nanos: &mut [i64], percent: usize) -> f64 {
    let at = (nanos.len() * percent / 100).min(nanos.len() - 1);
    *nanos.select_nth_unstable(at).1 as f64 / 1e6
}
