//! What the engine makes of events that hold no number: log records.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::attributes::Attributes;
use crate::engine::span::{SpanId, TraceFlags, TraceId};
use crate::time::UnixNanos;
use crate::worker::Source;

/// A log record as it is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// The worker that it belongs to: its resource.
    pub source: Arc<Source>,
    /// When it happened, on the worker's clock.
    pub time: UnixNanos,
    /// When the bridge received it.
    pub observed: UnixNanos,
    /// How bad it is.
    pub severity: Severity,
    /// The prefixed name: `snakepit.python.worker.ready`.
    pub event_name: Arc<str>,
    /// For people: the event's message, else its name.
    pub body: Arc<str>,
    /// What the event says.
    pub attributes: Attributes,
    /// The trace, where it is known.
    pub trace: Option<RecordTrace>,
}

/// The trace that a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordTrace {
    /// The trace.
    pub trace_id: TraceId,
    /// The innermost span around the event, where there is one.
    pub span_id: Option<SpanId>,
    /// The trace's.
    pub flags: TraceFlags,
}

/// OpenTelemetry's severities, as far as events tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// `DEBUG`, 5.
    Debug,
    /// `INFO`, 9.
    Info,
    /// `WARN`, 13.
    Warn,
    /// `ERROR`, 17.
    Error,
    /// `FATAL`, 21.
    Fatal,
}

impl Severity {
    /// OpenTelemetry's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
            Self::Fatal => 21,
        }
    }
}
