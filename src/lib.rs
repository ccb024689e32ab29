//! `snakepit-otel-bridge` turns the telemetry that Snakepit's Python workers stream over gRPC into OpenTelemetry
//! traces over OTLP.
//!
//! ```text
//!  Python worker --TelemetryEvent--> receiver --> engine --spans--> exporter --OTLP--> Collector
//!        ^                              |         (pure)            (encode, batch, queue, retry)
//!        +------TelemetryControl--------+
//! ```
//!
//! Data goes from left to right; control is the only thing that flows back. `ARCHITECTURE.md` says where each rule
//! lives.

pub mod admin;
pub mod app;
pub mod cli;
pub mod codec;
pub mod config;
pub mod control;
pub mod diagnostics;
pub mod distribution;
pub mod drops;
pub mod engine;
pub mod event;
pub mod exporter;
pub mod proto;
pub mod receiver;
pub mod shard;
pub mod store;
pub mod time;
pub mod token;
pub mod worker;
