//! Integration tests of the bridge as it is shipped: the binary, real workers, the real Collector, the real Jaeger
//! and the real Prometheus.

mod bad_input;
mod demo;
mod e2e;
mod engine;
mod export;
mod faults;
mod lifecycle;
mod metrics;
mod otel_variables;
mod own_telemetry;
mod start;
mod support;
mod tidy;
