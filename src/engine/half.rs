//! What an event says as one half of a span: its times, its identity, and the hashes that tables know it by.
//!
//! Times here are raw, as pairing wants them; [`crate::engine::compose`] makes them valid for export.

use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::b3::B3;
use crate::engine::ids::{ExplicitIdentity, TraceParent};
use crate::engine::naming::Name;
use crate::engine::settings::Propagators;
use crate::event::{Event, Value};

/// `system_time` is a half's own time where it lies this near to the event's stamp: emitters read the clock for the
/// one, then build the event and read it for the other.
const SYSTEM_TIME_NEAR_NS: i64 = 1_000_000_000;

/// What each kind of hash begins with, so that none is mistaken for another.
mod seed {
    pub(super) const KEY: u64 = 1;
    pub(super) const GROUP_CORRELATION: u64 = 2;
    pub(super) const GROUP_TRACE: u64 = 3;
    pub(super) const TOKEN_SPAN_ID: u64 = 4;
    pub(super) const TOKEN_CONTEXT: u64 = 5;
    pub(super) const TOKEN_MONOTONIC: u64 = 6;
    pub(super) const MEASUREMENT: u64 = 7;
    pub(super) const METADATA: u64 = 8;
}

/// The group of workers that run one thing at a time, for spans without correlation.
pub(crate) const ONE_AT_A_TIME_GROUP: u64 = 1;

/// Distinguishes the key of halves with explicit identity from that of halves without.
const EXPLICIT_SORT: u64 = 1 << 63;

/// One half of a span.
#[derive(Debug)]
pub(crate) struct Half<'e> {
    pub(crate) name: Arc<Name>,
    /// Field 5, else metadata `correlation_id`; empty where there is none.
    pub(crate) correlation_id: &'e str,
    pub(crate) time: i64,
    pub(crate) duration: Option<i64>,
    /// The start that `monotonic_time` proves, on the sender's monotonic clock.
    pub(crate) monotonic_start: Option<i64>,
    pub(crate) identity: Option<ExplicitIdentity>,
    pub(crate) malformed_identity: bool,
    /// `telemetry_span_context` in the metadata.
    pub(crate) context_token: Option<u64>,
    pub(crate) trace_parent: Option<TraceParent>,
    /// Correlation id and operation, without the sort.
    pub(crate) key: u64,
    /// Who may be nested in whom: the same correlation id, or else the same trace.
    pub(crate) group: Option<u64>,
    /// Of every field.
    pub(crate) fingerprint: u64,
}

impl<'e> Half<'e> {
    pub(crate) fn read(event: &Event<'e>, name: Arc<Name>, is_end: bool, propagators: Propagators) -> Self {
        let said = Said::in_event(event, propagators);
        let trace_parent = said.trace_parent(propagators);
        let Said { system_time, duration, monotonic_time, correlation_id, context, .. } = said;
        let time = system_time
            .filter(|time| time.saturating_sub(event.timestamp_ns).saturating_abs() <= SYSTEM_TIME_NEAR_NS)
            .unwrap_or(event.timestamp_ns);
        let duration = duration.filter(|_| is_end);
        let monotonic_start = match (monotonic_time, is_end) {
            (Some(monotonic), false) => Some(monotonic),
            (Some(monotonic), true) => duration.and_then(|duration| monotonic.checked_sub(duration)),
            (None, _) => None,
        };
        let identity = event.span.as_ref().and_then(ExplicitIdentity::parse);
        let group = if correlation_id.is_empty() {
            trace_parent.as_ref().map(|parent| xxh3_64_with_seed(&parent.trace_id.0, seed::GROUP_TRACE))
        } else {
            Some(correlation_group(correlation_id))
        };
        let context_token = context
            .filter(|text| !text.is_empty())
            .map(|text| xxh3_64_with_seed(text.as_bytes(), seed::TOKEN_CONTEXT));
        Self {
            key: xxh3_64_with_seed(correlation_id.as_bytes(), seed::KEY ^ name.hash) & !EXPLICIT_SORT,
            fingerprint: fingerprint(event),
            malformed_identity: event.span.is_some() && identity.is_none(),
            name,
            correlation_id,
            time,
            duration,
            monotonic_start,
            identity,
            context_token,
            trace_parent,
            group,
        }
    }

    pub(crate) fn tokens(&self) -> Tokens {
        let identity = self.identity.as_ref();
        let monotonic = self.monotonic_start.map(|start| monotonic_token(self.key, start));
        Tokens {
            span_id: identity
                .and_then(|identity| NonZeroU64::new(span_id_token(&identity.context.span_id.0))),
            context: self.context_token.and_then(NonZeroU64::new),
            monotonic: monotonic.and_then(NonZeroU64::new),
        }
    }
}

/// The keys of an event that pairing looks at, gathered in one pass.
#[derive(Default)]
struct Said<'e> {
    system_time: Option<i64>,
    duration: Option<i64>,
    monotonic_time: Option<i64>,
    correlation_id: &'e str,
    traceparent: Option<&'e str>,
    tracestate: Option<&'e str>,
    b3: B3<'e>,
    context: Option<&'e str>,
}

impl<'e> Said<'e> {
    fn in_event(event: &Event<'e>, propagators: Propagators) -> Self {
        let mut said = Self { correlation_id: event.correlation_id, ..Self::default() };
        for (key, value) in &event.measurements {
            match *key {
                "system_time" => said.system_time = integer(*value),
                "duration" => said.duration = integer(*value),
                "monotonic_time" => said.monotonic_time = integer(*value),
                _ => {}
            }
        }
        for (key, value) in &event.metadata {
            match *key {
                "correlation_id" if said.correlation_id.is_empty() => said.correlation_id = value,
                "traceparent" => said.traceparent = Some(value),
                "tracestate" => said.tracestate = Some(value),
                "telemetry_span_context" => said.context = Some(value),
                key if propagators.b3 => said.b3.note(key, value),
                _ => {}
            }
        }
        said
    }

    fn trace_parent(&self, propagators: Propagators) -> Option<TraceParent> {
        self.traceparent
            .filter(|_| propagators.tracecontext)
            .and_then(|traceparent| TraceParent::parse(traceparent, self.tracestate.unwrap_or_default()))
            .or_else(|| self.b3.parent())
    }
}

/// What pairs two halves beyond doubt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tokens {
    span_id: Option<NonZeroU64>,
    context: Option<NonZeroU64>,
    monotonic: Option<NonZeroU64>,
}

impl Tokens {
    pub(crate) fn iter(self) -> impl Iterator<Item = u64> {
        [self.span_id, self.context, self.monotonic].into_iter().flatten().map(NonZeroU64::get)
    }

    /// Whether two halves say that they do not belong together: by their identities where both have one, else by
    /// their pairing tokens.
    pub(crate) fn contradict(self, other: Self) -> bool {
        let differ = |own: Option<NonZeroU64>, other: Option<NonZeroU64>| Some(own? != other?);
        differ(self.span_id, other.span_id).or_else(|| differ(self.context, other.context)).unwrap_or(false)
    }

    /// Whether two halves of one key say that they began at different readings of the monotonic clock.
    pub(crate) fn are_of_another_reading(self, other: Self) -> bool {
        self.monotonic.zip(other.monotonic).is_some_and(|(own, other)| own != other)
    }

    /// These, and what only `other` has.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            span_id: self.span_id.or(other.span_id),
            context: self.context.or(other.context),
            monotonic: self.monotonic.or(other.monotonic),
        }
    }

    /// The one that a reading of the monotonic clock makes.
    pub(crate) fn monotonic(self) -> Option<u64> {
        self.monotonic.map(NonZeroU64::get)
    }

    /// Those of which a second use is a duplicate.
    pub(crate) fn unique(self) -> impl Iterator<Item = u64> {
        [self.span_id, self.context].into_iter().flatten().map(NonZeroU64::get)
    }
}

/// `key` for halves of this sort.
pub(crate) const fn sorted_key(key: u64, is_explicit: bool) -> u64 {
    if is_explicit { key | EXPLICIT_SORT } else { key }
}

pub(crate) fn span_id_token(span_id: &[u8; 8]) -> u64 {
    xxh3_64_with_seed(span_id, seed::TOKEN_SPAN_ID)
}

fn monotonic_token(key: u64, monotonic_start: i64) -> u64 {
    xxh3_64_with_seed(&monotonic_start.to_le_bytes(), seed::TOKEN_MONOTONIC ^ key)
}

pub(crate) fn correlation_group(correlation_id: &str) -> u64 {
    xxh3_64_with_seed(correlation_id.as_bytes(), seed::GROUP_CORRELATION)
}

/// Field 5; else the metadata's, which is where the design document's spans have it.
pub(crate) fn correlation_id<'e>(event: &Event<'e>) -> &'e str {
    if event.correlation_id.is_empty() {
        event.metadata_value("correlation_id").unwrap_or_default()
    } else {
        event.correlation_id
    }
}

/// The parent that an event's metadata name.
pub(crate) fn trace_parent(event: &Event<'_>, propagators: Propagators) -> Option<TraceParent> {
    Said::in_event(event, propagators).trace_parent(propagators)
}

/// A measurement as a whole number; numpy's integers arrive as strings.
fn integer(value: Value<'_>) -> Option<i64> {
    let whole = |float: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the cast saturates, and bounds are judged later"
        )]
        float.is_finite().then_some(float as i64)
    };
    match value {
        Value::Int(int) => Some(int),
        Value::Float(float) => whole(float),
        Value::Text(text) => text.parse().ok().or_else(|| text.parse().ok().and_then(whole)),
    }
}

/// A hash of everything in the event, whatever the order of its maps.
pub(crate) fn fingerprint(event: &Event<'_>) -> u64 {
    let chain = |hash, field: &[u8]| xxh3_64_with_seed(field, hash);
    let mut sum = event.parts.iter().fold(0, |hash, part| chain(hash, part.as_bytes()));
    sum = chain(sum, &event.timestamp_ns.to_le_bytes());
    sum = chain(sum, event.correlation_id.as_bytes());
    if let Some(span) = &event.span {
        let flags = span.trace_flags.unwrap_or(u32::MAX).to_le_bytes();
        let fields = [span.trace_id, span.span_id, span.parent_span_id, span.trace_state.as_bytes(), &flags];
        sum = fields.into_iter().fold(sum, chain);
    }
    for (key, value) in &event.metadata {
        sum = sum.wrapping_add(xxh3_64_with_seed(value.as_bytes(), hash_key(key, seed::METADATA)));
    }
    for (key, value) in &event.measurements {
        let key = hash_key(key, seed::MEASUREMENT);
        sum = sum.wrapping_add(match value {
            Value::Int(int) => xxh3_64_with_seed(&int.to_le_bytes(), key),
            Value::Float(float) => xxh3_64_with_seed(&float.to_bits().to_be_bytes(), !key),
            Value::Text(text) => xxh3_64_with_seed(text.as_bytes(), key.rotate_left(1)),
        });
    }
    sum
}

fn hash_key(key: &str, seed: u64) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), seed)
}
