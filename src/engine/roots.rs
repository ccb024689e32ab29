//! The trace that a span would begin if it had no parent in the bridge.

use crate::engine::ids::{self, SpanContext, TraceParent};
use crate::engine::span::{TraceFlags, TraceId};
use crate::time::UnixNanos;

/// Hashed trace ids that are remembered: the spans of one request follow one another.
const CACHE_SLOTS: usize = 64;

/// Longer correlation ids are hashed each time.
const MAX_CACHED_BYTES: usize = 256;

/// Remembers the trace ids of the latest correlation ids, because SHA-256 costs more than the rest of a span's ids.
#[derive(Debug)]
pub(crate) struct RootCache {
    slots: Vec<Option<(String, Option<i64>, TraceId)>>,
}

impl Default for RootCache {
    fn default() -> Self {
        Self { slots: vec![None; CACHE_SLOTS] }
    }
}

/// A root's trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// Known.
    Known {
        /// The trace.
        trace_id: TraceId,
        /// It was hashed from the correlation id.
        is_hashed: bool,
    },
    /// From a `traceparent`.
    Remote(TraceParent),
    /// To be derived with the span's id.
    Derived,
}

impl Root {
    pub(crate) fn trace_id(&self) -> Option<TraceId> {
        match self {
            Self::Known { trace_id, .. } => Some(*trace_id),
            Self::Remote(parent) => Some(parent.trace_id),
            Self::Derived => None,
        }
    }

    /// The context of a span with this root.
    pub(crate) fn context(self, trace_id: TraceId, span_id: crate::engine::span::SpanId) -> SpanContext {
        match self {
            Self::Remote(parent) => {
                SpanContext { trace_id, span_id, flags: parent.flags, state: parent.state }
            }
            Self::Known { .. } | Self::Derived => {
                SpanContext { trace_id, span_id, flags: TraceFlags::SAMPLED, state: None }
            }
        }
    }
}

impl RootCache {
    /// The first that applies: `traceparent`, a correlation id that is a trace id, a hash of any other, none.
    pub(crate) fn root(
        &mut self,
        trace_parent: Option<TraceParent>,
        correlation_id: &str,
        start: i64,
        epoch: Option<std::time::Duration>,
    ) -> Root {
        if let Some(parent) = trace_parent {
            return Root::Remote(parent);
        }
        if correlation_id.is_empty() {
            return Root::Derived;
        }
        if let Some(trace_id) = ids::verbatim_trace_id(correlation_id) {
            return Root::Known { trace_id, is_hashed: false };
        }
        let epoch = epoch.and_then(|length| epoch_of(UnixNanos(start), length));
        let slot = crate::engine::half::correlation_group(correlation_id) % CACHE_SLOTS as u64;
        let slot = &mut self.slots[usize::try_from(slot).expect("less than the number of slots")];
        if let Some((known, at, trace_id)) = slot
            && known == correlation_id
            && *at == epoch
        {
            return Root::Known { trace_id: *trace_id, is_hashed: true };
        }
        let trace_id = ids::hashed_trace_id(correlation_id, epoch);
        if correlation_id.len() > MAX_CACHED_BYTES {
            return Root::Known { trace_id, is_hashed: true };
        }
        *slot = Some((correlation_id.to_owned(), epoch, trace_id));
        Root::Known { trace_id, is_hashed: true }
    }
}

fn epoch_of(start: UnixNanos, length: std::time::Duration) -> Option<i64> {
    let length = i64::try_from(length.as_nanos()).ok().filter(|length| *length > 0)?;
    Some(start.0.div_euclid(length))
}
