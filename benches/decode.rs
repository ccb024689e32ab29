//! Nanoseconds per event: our borrowed decoder and prost's, over the same bytes in the same run.
#![expect(clippy::print_stdout, reason = "figures go to standard output")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use prost::Message;
use snakepit_otel_bridge::event::wire;
use snakepit_otel_bridge::proto::{TelemetryEvent, TelemetryValue, telemetry_value};

/// Rounds of which the fastest counts: the others were disturbed.
const ROUNDS: u32 = 20;
const EVENTS_PER_ROUND: u32 = 50_000;

fn main() {
    for (name, event) in [("start", start()), ("stop, 10 metadata", stop())] {
        let bytes = event.encode_to_vec();
        let ours = fastest(|| {
            black_box(wire::decode(black_box(&bytes)).is_ok());
        });
        let prost = fastest(|| {
            black_box(TelemetryEvent::decode(black_box(bytes.as_slice())).is_ok());
        });
        println!("decode/{name}: {} B, ours {ours:.0} ns, prost {prost:.0} ns", bytes.len());
    }
}

fn fastest(mut decode: impl FnMut()) -> f64 {
    let round = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..EVENTS_PER_ROUND {
                decode();
            }
            begin.elapsed()
        })
        .min()
        .unwrap_or(Duration::ZERO);
    round.as_secs_f64() * 1e9 / f64::from(EVENTS_PER_ROUND)
}

/// What the design document's emitter sends when a tool begins: 4 metadata.
fn start() -> TelemetryEvent {
    event("start", &[("system_time", 1_761_664_000_123_456_789)], 4)
}

/// The end of it, with measurements and more metadata.
fn stop() -> TelemetryEvent {
    event("stop", &[("duration", 12_345_678), ("system_time", 1_761_664_000_135_802_467)], 10)
}

fn event(phase: &str, measurements: &[(&str, i64)], metadata: usize) -> TelemetryEvent {
    let all = [
        ("tool", "telemetry_demo"),
        ("operation", "render"),
        ("session_id", "session-42"),
        ("correlation_id", "sp-0123456789abcdef01234567"),
        ("model", "gpt-j"),
        ("library", "numpy"),
        ("function", "linalg.svd"),
        ("call_type", "function"),
        ("result", "success"),
        ("stage", "inference"),
    ];
    TelemetryEvent {
        event_parts: ["tool", "execution", phase].map(str::to_owned).to_vec(),
        measurements: measurements
            .iter()
            .map(|(key, value)| {
                let value = Some(telemetry_value::Value::IntValue(*value));
                ((*key).to_owned(), TelemetryValue { value })
            })
            .collect(),
        metadata: all[..metadata].iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        timestamp_ns: 1_761_664_000_123_456_999,
        correlation_id: "sp-0123456789abcdef01234567".to_owned(),
        span: None,
    }
}
