//! The generated message types of `proto/`, and the descriptors for gRPC reflection.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    missing_debug_implementations,
    clippy::default_constructed_unit_structs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the proto files carry the documentation"
)]

/// `proto/snakepit_bridge.proto`: the design document's messages, without a proto package.
mod design {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}
pub use design::*;

/// `proto/snakepit/bridge.proto`: controls in the released numbering.
pub mod released {
    include!(concat!(env!("OUT_DIR"), "/snakepit.bridge.rs"));
}

/// The gRPC service, over raw message bytes.
pub mod service {
    include!(concat!(env!("OUT_DIR"), "/.SnakepitBridge.rs"));
}

/// Encoded `FileDescriptorSet` of everything above.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
