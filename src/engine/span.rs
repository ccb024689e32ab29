//! What the engine makes: a finished span, with no trace of how it was found.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::time::UnixNanos;
use crate::worker::Source;

/// A W3C trace id; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TraceId(pub [u8; 16]);

/// A W3C span id; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpanId(pub [u8; 8]);

/// W3C trace flags as they are sent on: `01` is sampled, `02` says that the last 56 bits of the trace id are random.
///
/// Within the engine a further bit goes along with a trace, from parent to child: somebody else has decided whether it is
/// sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFlags(pub u8);

impl TraceFlags {
    /// The flags of every span whose sender gave none.
    pub const SAMPLED: Self = Self(0x01);
    /// Those of a trace whose id is a hash.
    pub const SAMPLED_RANDOM: Self = Self(0x03);
    /// The bits that W3C Trace Context defines.
    const DEFINED: u8 = 0x03;
    /// Not one of W3C's, and never sent.
    const DECIDED: u8 = 0x80;

    /// The flags of whoever decided about the trace.
    #[must_use]
    pub const fn decided(self) -> Self {
        Self(self.0 & Self::DEFINED | Self::DECIDED)
    }

    /// Whether somebody else decided about the trace.
    #[must_use]
    pub const fn is_decided(self) -> bool {
        self.0 & Self::DECIDED != 0
    }

    /// Whether the trace is sampled.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED.0 != 0
    }

    /// As they may leave the engine.
    #[must_use]
    pub const fn defined(self) -> Self {
        Self(self.0 & Self::DEFINED)
    }
}

/// A span as it is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The worker that it belongs to: its resource.
    pub source: Arc<Source>,
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// Absent for a root.
    pub parent_span_id: Option<SpanId>,
    /// The parent came from a `traceparent`, and is not a span of this bridge.
    pub parent_is_remote: bool,
    /// Own, inherited or default flags.
    pub trace_flags: TraceFlags,
    /// Whoever began the trace decided about it, and `trace_flags` say how.
    pub sampling_is_decided: bool,
    /// W3C tracestate; `None` for an empty one.
    pub trace_state: Option<Arc<str>>,
    /// The prefixed operation: `snakepit.python.tool.execution`.
    pub name: Arc<str>,
    /// Never unspecified.
    pub kind: SpanKind,
    /// On the worker's clock.
    pub start: UnixNanos,
    /// After `start`.
    pub end: UnixNanos,
    /// Merged from start and end; the end wins.
    pub attributes: Attributes,
    /// In order of time, as far as their times are known.
    pub events: Vec<SpanEvent>,
    /// Events that a limit kept out.
    pub dropped_events: u32,
    /// Empty but for late ends.
    pub links: Vec<Link>,
    /// Links that a limit kept out.
    pub dropped_links: u32,
    /// Unset unless something was said.
    pub status: Status,
}

impl Span {
    /// Whether its status is Error.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self.status, Status::Error(_))
    }

    /// Says that it is here although its trace is not. Where there are `max_attributes` already, one makes room.
    pub(crate) fn mark_kept(&mut self, max_attributes: usize) {
        let Some(others) = max_attributes.checked_sub(1) else { return };
        self.attributes.keep_within(others, None);
        self.attributes.set("snakepit.sampling", AttributeValue::Text("kept"));
    }
}

/// OpenTelemetry's span kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpanKind {
    /// Within an application.
    Internal,
    /// The entry of a request.
    Server,
    /// An outgoing call; only by `span_kind` in the metadata.
    Client,
    /// Only by `span_kind` in the metadata.
    Producer,
    /// Only by `span_kind` in the metadata.
    Consumer,
}

/// OpenTelemetry's span status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Nothing was said.
    Unset,
    /// `status=ok`.
    Ok,
    /// With the message, which may be empty.
    Error(Arc<str>),
}

/// Something that happened within a span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpanEvent {
    /// The prefixed event name, or `exception`.
    pub name: Arc<str>,
    /// On the worker's clock.
    pub time: UnixNanos,
    /// Metadata and measurements.
    pub attributes: Attributes,
}

/// A link to another span of the same trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The other span's trace.
    pub trace_id: TraceId,
    /// The other span.
    pub span_id: SpanId,
    /// Why.
    pub attributes: Attributes,
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}
