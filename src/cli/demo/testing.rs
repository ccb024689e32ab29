//! Spans for the demo's tests.

use std::sync::Arc;

use crate::engine::Span;
use crate::engine::attributes::Attributes;
use crate::engine::span::{SpanId, SpanKind, Status, TraceFlags, TraceId};
use crate::time::UnixNanos;
use crate::worker::Source;

/// A root of `worker_1`.
pub(super) fn root(trace: u8, id: u8) -> Span {
    let mut trace_id = [0; 16];
    trace_id[15] = trace;
    Span {
        source: Arc::new(Source {
            serial: 1,
            worker_id: Arc::from("worker_1"),
            node: Arc::from("here"),
            pool: None,
            pid: None,
            host: None,
            same_host: true,
        }),
        trace_id: TraceId(trace_id),
        span_id: span_id(id),
        parent_span_id: None,
        parent_is_remote: false,
        trace_flags: TraceFlags::SAMPLED,
        sampling_is_decided: false,
        trace_state: None,
        name: Arc::from("snakepit.python.call"),
        kind: SpanKind::Internal,
        start: UnixNanos(0),
        end: UnixNanos(1),
        attributes: Attributes::default(),
        events: Vec::new(),
        dropped_events: 0,
        links: Vec::new(),
        dropped_links: 0,
        status: Status::Unset,
    }
}

/// A child of the span `parent`.
pub(super) fn child(trace: u8, id: u8, parent: u8) -> Span {
    Span { parent_span_id: Some(span_id(parent)), ..root(trace, id) }
}

/// The span under another name.
pub(super) fn named(span: Span, name: &str) -> Span {
    Span { name: Arc::from(name), ..span }
}

/// The span from and to these milliseconds.
pub(super) fn timed(span: Span, from_ms: i64, to_ms: i64) -> Span {
    Span { start: UnixNanos(from_ms * 1_000_000), end: UnixNanos(to_ms * 1_000_000), ..span }
}

fn span_id(id: u8) -> SpanId {
    SpanId([0, 0, 0, 0, 0, 0, 0, id])
}
