//! From measurements to metric points.
//!
//! | part | decides |
//! |---|---|
//! | `mapping` | what an event's measurements are measurements *of*: instruments, values in their unit, point attributes |
//! | `aggregation` | what becomes of them until they are collected: series, limits, expiry, exemplars |
//! | `prometheus` | which instruments are one where names are translated |
//! | [`instrument`], [`point`] | the words in which both speak, and what leaves the engine |
//!
//! Metrics belong to an *instance*, that is a node and a worker id: one writer for each resource that a backend sees,
//! however often the worker's process is replaced.

pub(crate) mod aggregation;
pub mod instrument;
pub(crate) mod mapping;
pub(crate) mod measured;
pub mod point;
pub(crate) mod prometheus;
pub mod settings;

pub use aggregation::AggregationFigures as MetricFigures;
