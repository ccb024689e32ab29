//! The metrics of `GET /metrics` as instruments of the SDK, for a bridge that sends its own telemetry.
//!
//! The SDK asks at its own time, on a thread that cannot wait for the shards; so a task asks them a little more often,
//! and the instruments show what it heard last. A counter has the same name as on `/metrics` without `_total`. The SDK
//! takes no finished histograms: theirs are two counters, `…_count` and `…_sum`.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use opentelemetry::metrics::Meter;
use opentelemetry::{KeyValue, global};
use tokio_util::sync::CancellationToken;

use super::exposition::{Family, Kind, Value};
use super::metrics;
use super::sources::AdminState;
use crate::diagnostics::own::{METRICS_INTERVAL, SERVICE_NAME};

/// How often the shards are asked.
const RENEWAL: Duration = Duration::from_secs(METRICS_INTERVAL.as_secs() / 4);

/// Nanoseconds of a second.
const NANOS: f64 = 1e9;

/// What the shards said last. Guarded for one clone or one assignment.
type Latest = Arc<RwLock<Arc<Vec<Family>>>>;

/// Keeps the instruments of the global meter provider up to date until `stop`.
pub async fn keep_fresh(state: AdminState, stop: CancellationToken) {
    let latest = Latest::default();
    let mut known = BTreeSet::new();
    let meter = global::meter(SERVICE_NAME);
    loop {
        match metrics::collect(&state).await {
            Ok(families) => {
                for family in families.iter().filter(|family| !family.samples.is_empty()) {
                    if known.insert(family.name) {
                        make_instruments(&meter, family, &latest);
                    }
                }
                *latest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(families);
            }
            // A shard that does not answer is complained about elsewhere; the figures stay as they were.
            Err(_) => tracing::debug!("the bridge's own metrics are as old as before"),
        }
        tokio::select! {
            () = tokio::time::sleep(RENEWAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn make_instruments(meter: &Meter, family: &Family, latest: &Latest) {
    let Family { name, kind, help, .. } = family;
    let unit = match family.unit() {
        Some("bytes") => "By",
        Some("seconds") => "s",
        Some(_) | None => "1",
    };
    let observe = |value: fn(&Value) -> f64| {
        let (latest, name) = (Arc::clone(latest), *name);
        move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
            let families = Arc::clone(&latest.read().unwrap_or_else(PoisonError::into_inner));
            for sample in
                families.iter().filter(|family| family.name == name).flat_map(|family| &family.samples)
            {
                let labels: Vec<_> =
                    sample.labels.iter().map(|(key, value)| KeyValue::new(*key, value.clone())).collect();
                observer.observe(value(&sample.value), &labels);
            }
        }
    };
    let counter = |name: String, unit: &'static str, value: fn(&Value) -> f64| {
        let counter = meter.f64_observable_counter(name).with_description(*help).with_unit(unit);
        counter.with_callback(observe(value)).build()
    };
    // The provider keeps what it has made; the handles are of no use.
    match kind {
        Kind::Counter => {
            counter((*name).to_owned(), unit, number);
        }
        Kind::Gauge => {
            let gauge = meter.f64_observable_gauge(*name).with_description(*help).with_unit(unit);
            gauge.with_callback(observe(number)).build();
        }
        Kind::Histogram => {
            counter(format!("{name}_count"), "1", count);
            counter(format!("{name}_sum"), unit, sum);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, which no count of a bridge reaches")]
const fn float(value: u64) -> f64 {
    value as f64
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Number(number) => float(*number),
        Value::Nanos(nanos) => float(*nanos) / NANOS,
        Value::Sizes(_) | Value::NanoSizes(_) => count(value),
    }
}

fn count(value: &Value) -> f64 {
    match value {
        Value::Number(_) | Value::Nanos(_) => 0.0,
        Value::Sizes(sizes) | Value::NanoSizes(sizes) => float(sizes.count()),
    }
}

fn sum(value: &Value) -> f64 {
    match value {
        Value::Number(_) | Value::Nanos(_) => 0.0,
        Value::Sizes(sizes) => float(sizes.sum()),
        Value::NanoSizes(sizes) => float(sizes.sum()) / NANOS,
    }
}
