//! The gRPC side that workers see: streams, their identity, their limits. It does not know what an event means.

pub mod codec;
