//! The Collector is away and comes back: what memory holds meanwhile, what going to disk costs, how fast the backlog goes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{micros_per_span, paced};
use crate::bridge::Bridge;
use crate::clock::{now, until};
use crate::events::Correlation;
use crate::generator::Workers;
use crate::report::Report;
use crate::sink::{Reading, Sink, free_address};

/// A minute of ten thousand spans a second is as much as ten minutes of a thousand.
const SECONDS: u64 = 60;
const SPANS: u64 = SECONDS * paced::SPANS_PER_WORKER_SECOND * paced::WORKERS as u64;

const DRAIN_TARGET_SECONDS: f64 = 30.0;
/// 64 MiB in memory, as much on its way to disk, and the program.
const RESIDENT_TARGET_MIB: f64 = 256.0;
/// The longest pause between two probes is 30 s.
const RETURN_LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let state = tempfile::tempdir()?;
    let address = free_address()?;
    let dir = state.path().to_str().context("a path of letters")?;
    let variables = [("SNAKEPIT_BRIDGE_STATE_DIR", dir)];
    let bridge = Bridge::start(&format!("http://{address}"), &variables)?;
    let cpu = bridge.process.cpu()?;
    let workers = Workers::connect(&bridge.endpoint, paced::WORKERS)?;
    let sent = paced::send(&workers, SECONDS, |_| Correlation::PerCall)?;
    ensure!(sent == SPANS, "{sent} spans were sent");
    workers.finish()?;
    let ledger = until("every span to be made", RETURN_LIMIT, || {
        let ledger = bridge.ledger()?;
        let is_made = ledger.spans.made == SPANS && ledger.events.pending == 0;
        Ok(is_made.then_some(ledger))
    })?;
    let cpu = bridge.process.cpu()? - cpu;
    ensure!(ledger.spans.refused.is_empty(), "{ledger:?}");
    let micros = micros_per_span(cpu, SPANS);
    report.figure(
        "e 10,000 spans/s, the peer away, journal and spool on disk: CPU a span",
        micros,
        "us",
        None,
    );
    let resident = bridge.process.resident_mib()?;
    report.figure("e resident, 600,000 spans undelivered", resident, "MiB", Some(RESIDENT_TARGET_MIB));
    report.counted(&format!("{} spans on disk, {} in memory", ledger.spans.spooled, ledger.spans.queued));

    let cpu = bridge.process.cpu()?;
    let sink = Sink::start_at(Reading::Count, address)?;
    until("the first span", RETURN_LIMIT, || Ok((sink.received().spans > 0).then_some(())))?;
    let begun = now();
    until("the last span", RETURN_LIMIT, || Ok((sink.received().spans >= SPANS).then_some(())))?;
    let drained = begun.elapsed().as_secs_f64();
    bridge.settled(SPANS)?;
    sink.ensure_received(SPANS)?;
    let cpu = bridge.process.cpu()? - cpu;
    report.counted(&format!("{SPANS} spans at the sink"));
    report.figure("e a backlog of 600,000 spans drains in", drained, "s", Some(DRAIN_TARGET_SECONDS));
    report.figure("e draining: CPU a span", micros_per_span(cpu, SPANS), "us", None);
    Ok(())
}
