//! What the bridge costs: CPU a span, resident memory, latency; each beside the figure that it has to reach.
//!
//! `cargo bench --bench load` runs every scenario, `cargo bench --bench load -- a d` some of them. Load, sink and peers
//! are other processes or threads: what is counted is the bridge's process alone, by what the kernel says of it. A
//! scenario fails when the sums are wrong (an event or a span is missing or too many), never because it was slow.
//!
//! | scenario | what |
//! |---|---|
//! | `a` | one stream as fast as it goes, and a bare tonic server that drops the same messages |
//! | `b` | 10,000 spans a second over 8 workers, and the real Collector forwarding as many to the same sink |
//! | `c` | memory: idle, with 100,000 open spans, after they ended |
//! | `d` | latency from an end's sending to its span's arrival, at 10,000 spans a second |
//! | `e` | the Collector away, with a state directory: cost, memory, and how fast the backlog goes |
#![expect(clippy::print_stdout, reason = "the figures are this program's output")]

mod bridge;
mod clock;
mod collector;
mod events;
mod floor;
mod generator;
mod process;
mod report;
mod scenarios;
mod sink;

use std::process::ExitCode;

use anyhow::Result;

use crate::report::Report;

/// The first argument of a copy of this program that is the floor of scenario `a`.
const FLOOR_ROLE: &str = "serve-floor";

type Scenario = fn(&mut Report) -> Result<()>;

const SCENARIOS: [(&str, Scenario); 5] = [
    ("a", scenarios::saturated::run),
    ("b", scenarios::paced::run),
    ("c", scenarios::memory::run),
    ("d", scenarios::latency::run),
    ("e", scenarios::outage::run),
];

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == FLOOR_ROLE) {
        floor::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("measures for two minutes; `cargo bench --bench load` runs it");
        return Ok(ExitCode::SUCCESS);
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();

    let mut report = Report::default();
    for (name, scenario) in SCENARIOS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| *wanted == name) {
            continue;
        }
        if let Err(error) = scenario(&mut report) {
            report.failed(name, &error);
        }
    }
    report.print();
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
