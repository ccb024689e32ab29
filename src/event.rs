//! One telemetry event, as it stands on the wire: borrowed from the message's bytes, checked, and nothing more.
//!
//! What a name, a time or a value *means* is the engine's business. [`wire`] turns bytes into an [`Event`].

pub mod wire;

use smallvec::SmallVec;

/// An event, borrowed from its message.
///
/// Keys of `measurements` and of `metadata` are unique: of equal keys on the wire the last one counts, as in any
/// protobuf map. Their order is that of the wire, which says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event<'a> {
    /// The name in parts, as sent: parts may be empty.
    pub parts: SmallVec<[&'a str; 4]>,
    /// Measurements by key. An entry without a value is left out.
    pub measurements: SmallVec<[(&'a str, Value<'a>); 4]>,
    /// Metadata by key.
    pub metadata: SmallVec<[(&'a str, &'a str); 8]>,
    /// Nanoseconds since the Unix epoch on the worker's clock.
    pub timestamp_ns: i64,
    /// Empty where the sender gave none.
    pub correlation_id: &'a str,
    /// Field 16, not yet validated.
    pub span: Option<SpanIdentity<'a>>,
}

/// A measurement's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `int_value`.
    Int(i64),
    /// `float_value`; may be NaN or infinite.
    Float(f64),
    /// `string_value`.
    Text(&'a str),
}

/// Field 16 as sent; lengths are not checked here, because a malformed identity is ignored and counted, and the event
/// stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpanIdentity<'a> {
    /// 16 bytes if it is valid.
    pub trace_id: &'a [u8],
    /// 8 bytes if it is valid.
    pub span_id: &'a [u8],
    /// 8 bytes, or empty for a root.
    pub parent_span_id: &'a [u8],
    /// W3C trace flags; absent means sampled.
    pub trace_flags: Option<u32>,
    /// W3C tracestate.
    pub trace_state: &'a str,
}

impl<'a> Event<'a> {
    /// The metadata value under `key`.
    #[must_use]
    pub fn metadata_value(&self, key: &str) -> Option<&'a str> {
        self.metadata.iter().find(|(candidate, _)| *candidate == key).map(|(_, value)| *value)
    }
}
