//! Sends finished spans to an OTLP peer.

pub mod encode;
#[cfg(test)]
pub(crate) mod testing;
