//! What stays resident: idle, with many open spans, and after they ended.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::BytesMut;

use crate::bridge::Bridge;
use crate::clock::until;
use crate::events::{Call, Correlation};
use crate::generator::Workers;
use crate::report::Report;
use crate::sink::{Reading, Sink};

const IDLE_TARGET_MIB: f64 = 12.0;
const OPEN_TARGET_MIB: f64 = 80.0;

const WORKERS: usize = 8;
const OPEN_SPANS: u64 = 100_000;
/// Time in which nothing happens, before memory is read.
const QUIET: Duration = Duration::from_secs(2);
/// The same after the spans ended: what the pairing remembers for the reorder window's sake is gone by then.
const AFTER: Duration = Duration::from_secs(8);

/// All spans end at once here.
const VARIABLES: [(&str, &str); 1] = [("OTEL_BSP_MAX_QUEUE_SIZE", "200000")];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let sink = Sink::start(Reading::Count)?;
    let bridge = Bridge::start(&sink.endpoint, &VARIABLES)?;
    std::thread::sleep(QUIET);
    report.figure("c resident, idle", bridge.process.resident_mib()?, "MiB", Some(IDLE_TARGET_MIB));

    let workers = Workers::connect(&bridge.endpoint, WORKERS)?;
    let mut arena = BytesMut::new();
    let mut calls: Vec<Call> = (0..OPEN_SPANS).map(|id| Call::new(id, 0, Correlation::PerCall, 1)).collect();
    let mut send_next = |workers: &Workers| -> Result<()> {
        for (number, call) in calls.iter_mut().enumerate() {
            workers.send(number % WORKERS, call.write_next(&mut arena))?;
        }
        Ok(())
    };

    send_next(&workers)?;
    until("every start to be read", Duration::from_secs(20), || {
        Ok((bridge.ledger()?.events.received == OPEN_SPANS).then_some(()))
    })?;
    std::thread::sleep(QUIET);
    let pending = bridge.ledger()?.events.pending;
    ensure!(pending == OPEN_SPANS, "{OPEN_SPANS} spans are open, the ledger says {pending}");
    report.counted(&format!("{pending} events pending"));
    let open = bridge.process.resident_mib()?;
    report.figure("c resident, 100,000 open spans of 4 attributes", open, "MiB", Some(OPEN_TARGET_MIB));

    send_next(&workers)?;
    bridge.settled(OPEN_SPANS)?;
    sink.ensure_received(OPEN_SPANS)?;
    report.counted(&format!("{} events paired, {OPEN_SPANS} spans at the sink", 2 * OPEN_SPANS));
    std::thread::sleep(AFTER);
    report.figure("c resident, 8 s after they ended", bridge.process.resident_mib()?, "MiB", None);
    workers.finish()?;
    Ok(())
}
