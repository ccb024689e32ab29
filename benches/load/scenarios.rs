//! What is measured.

pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod outage;
pub(crate) mod paced;
pub(crate) mod saturated;

use std::time::Duration;

/// CPU time a span in microseconds.
fn micros_per_span(cpu: Duration, spans: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / spans as f64
}
