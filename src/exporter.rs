//! Sends finished spans to an OTLP peer.

pub mod batch;
pub mod encode;
pub mod pipeline;
pub mod queue;
pub mod refusal;
pub mod resource;
pub mod retry;
#[cfg(test)]
pub(crate) mod testing;
