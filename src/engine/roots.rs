//! The trace that a span would begin if it had no parent in the bridge.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::engine::ids::{self, SpanContext, TraceParent};
use crate::engine::record::RecordTrace;
use crate::engine::span::{SpanId, TraceFlags, TraceId};
use crate::time::UnixNanos;

/// Hashed trace ids that are remembered: the spans of one request follow one another.
const CACHE_SLOTS: usize = 64;

/// Longer correlation ids are hashed each time.
const MAX_CACHED_BYTES: usize = 256;

/// Remembers what the latest correlation ids mean, because SHA-256 costs more than the rest of a span's ids.
#[derive(Debug)]
pub(crate) struct RootCache {
    slots: Vec<Option<(String, Option<i64>, Root)>>,
}

impl Default for RootCache {
    fn default() -> Self {
        Self { slots: vec![None; CACHE_SLOTS] }
    }
}

/// A root's trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// The correlation id is a trace id. It need not be random, so the trace state has what samplers decide by instead.
    Verbatim {
        /// The trace.
        trace_id: TraceId,
        /// `ot=rv:…`.
        state: Arc<str>,
    },
    /// The trace id is a hash of the correlation id.
    Hashed {
        /// The trace.
        trace_id: TraceId,
    },
    /// From a `traceparent`.
    Remote(TraceParent),
    /// To be derived with the span's id.
    Derived,
}

impl Root {
    pub(crate) fn trace_id(&self) -> Option<TraceId> {
        match self {
            Self::Verbatim { trace_id, .. } | Self::Hashed { trace_id } => Some(*trace_id),
            Self::Remote(parent) => Some(parent.trace_id),
            Self::Derived => None,
        }
    }

    /// The trace of a log record that belongs to no span of the bridge; none where there is no trace.
    pub(crate) fn into_record_trace(self) -> Option<RecordTrace> {
        let span_id = match &self {
            Self::Remote(parent) => Some(parent.parent_id),
            Self::Verbatim { .. } | Self::Hashed { .. } | Self::Derived => None,
        };
        let trace_id = self.trace_id()?;
        let context = self.context(trace_id, SpanId([0; 8]));
        Some(RecordTrace { span_id, ..RecordTrace::of(&context) })
    }

    /// The context of a span with this root.
    pub(crate) fn context(self, trace_id: TraceId, span_id: SpanId) -> SpanContext {
        let (flags, state) = match self {
            Self::Remote(parent) => (parent.flags.decided(), parent.state),
            Self::Verbatim { state, .. } => (TraceFlags::SAMPLED, Some(state)),
            Self::Hashed { .. } | Self::Derived => (TraceFlags::SAMPLED_RANDOM, None),
        };
        SpanContext { trace_id, span_id, flags, state }
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
        let epoch = epoch.and_then(|length| epoch_of(UnixNanos(start), length));
        let slot = crate::engine::half::correlation_group(correlation_id) % CACHE_SLOTS as u64;
        let slot = &mut self.slots[usize::try_from(slot).expect("less than the number of slots")];
        if let Some((known, at, root)) = slot
            && known == correlation_id
            && *at == epoch
        {
            return root.clone();
        }
        let root = match ids::verbatim_trace_id(correlation_id) {
            Some(trace_id) => Root::Verbatim { trace_id, state: randomness_state(trace_id) },
            None => Root::Hashed { trace_id: ids::hashed_trace_id(correlation_id, epoch) },
        };
        if correlation_id.len() <= MAX_CACHED_BYTES {
            *slot = Some((correlation_id.to_owned(), epoch, root.clone()));
        }
        root
    }
}

/// `ot=rv:` with the first 56 bits of the SHA-256 of the trace id's 32 lower-case digits, however the correlation id
/// spelt them: a trace has one answer.
fn randomness_state(trace_id: TraceId) -> Arc<str> {
    let digest = Sha256::digest(trace_id.to_string().as_bytes());
    let digits: String = digest[..7].iter().map(|byte| format!("{byte:02x}")).collect();
    Arc::from(format!("ot=rv:{digits}"))
}

fn epoch_of(start: UnixNanos, length: std::time::Duration) -> Option<i64> {
    let length = i64::try_from(length.as_nanos()).ok().filter(|length| *length > 0)?;
    Some(start.0.div_euclid(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_taken_as_it_is_has_its_randomness_beside_it() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let dashed = "4BF92F35-77B3-4DA6-A3CE-929D0E0E4736";
        for spelling in [id, dashed] {
            let root = RootCache::default().root(None, spelling, 0, None);
            let Root::Verbatim { trace_id, state } = root else { panic!("{root:?}") };
            assert_eq!((trace_id.to_string().as_str(), &*state), (id, "ot=rv:398acaee65c4e5"));
        }
        let hashed = RootCache::default().root(None, "abc-123", 0, None);
        assert!(matches!(hashed, Root::Hashed { .. }));
    }
}
