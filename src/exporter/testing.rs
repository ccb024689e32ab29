//! Spans, metrics and log records for the exporter's tests, and the plain way from each to `opentelemetry-proto`'s structs
//! that the writers are compared with.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::span::{Link, Span, SpanEvent, SpanId, SpanKind, Status, TraceFlags, TraceId};
use crate::time::UnixNanos;
use crate::worker::Source;

mod metrics;
mod records;

pub(crate) use metrics::{any_metric, buckets, metric, plain_metric};
pub(crate) use records::{any_record, plain_record, record};

/// A worker's source.
pub(crate) fn source(serial: u64) -> Arc<Source> {
    Arc::new(Source {
        serial,
        worker_id: format!("worker_{serial}").into(),
        node: "node_a".into(),
        pool: Some("default".into()),
        pid: Some(4711),
        host: Some("host_a".into()),
        same_host: true,
    })
}

/// A small span of worker 1.
pub(crate) fn span(name: &str) -> Span {
    span_of(&source(1), name)
}

/// A small span of `source`.
pub(crate) fn span_of(source: &Arc<Source>, name: &str) -> Span {
    Span {
        source: Arc::clone(source),
        trace_id: TraceId([1; 16]),
        span_id: SpanId([2; 8]),
        parent_span_id: None,
        parent_is_remote: false,
        trace_flags: TraceFlags::SAMPLED,
        sampling_is_decided: false,
        trace_state: None,
        name: name.into(),
        kind: SpanKind::Internal,
        start: UnixNanos(1_000),
        end: UnixNanos(2_000),
        attributes: Attributes::default(),
        events: Vec::new(),
        dropped_events: 0,
        links: Vec::new(),
        dropped_links: 0,
        status: Status::Unset,
    }
}

/// Any span that the engine could make, and some that it could not.
pub(crate) fn any_span() -> impl Strategy<Value = Span> {
    let ids = (any::<[u8; 16]>(), any::<[u8; 8]>(), option::of(any::<[u8; 8]>()), any::<bool>(), any::<u8>());
    let what = (option::of("[a-z0-9=,]{1,60}"), any_text(), any_kind(), any::<i64>(), any::<i64>());
    let rest = (
        any_attributes(),
        vec(any_event(), 0..4),
        any_count(),
        vec(any_link(), 0..3),
        any_status(),
        any_count(),
    );
    (ids, what, rest).prop_map(|(ids, what, rest)| Span {
        source: source(1),
        trace_id: TraceId(ids.0),
        span_id: SpanId(ids.1),
        parent_span_id: ids.2.map(SpanId),
        parent_is_remote: ids.3,
        trace_flags: TraceFlags(ids.4),
        sampling_is_decided: false,
        trace_state: what.0.map(Into::into),
        name: what.1.into(),
        kind: what.2,
        start: UnixNanos(what.3),
        end: UnixNanos(what.4),
        attributes: rest.0,
        events: rest.1,
        dropped_events: rest.2,
        links: rest.3,
        dropped_links: rest.5,
        status: rest.4,
    })
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![3 => ".{0,40}", 1 => ".{100,300}"]
}

fn any_count() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), any::<u32>()]
}

fn any_kind() -> impl Strategy<Value = SpanKind> {
    prop_oneof![
        Just(SpanKind::Internal),
        Just(SpanKind::Server),
        Just(SpanKind::Client),
        Just(SpanKind::Producer),
        Just(SpanKind::Consumer),
    ]
}

fn any_status() -> impl Strategy<Value = Status> {
    prop_oneof![
        Just(Status::Unset),
        Just(Status::Ok),
        any_text().prop_map(|message| Status::Error(message.into()))
    ]
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    #[derive(Debug, Clone)]
    enum Owned {
        Text(String),
        Int(i64),
        Float(f64),
        Bool(bool),
    }
    let value = prop_oneof![
        any_text().prop_map(Owned::Text),
        any::<i64>().prop_map(Owned::Int),
        (0_i64..200).prop_map(Owned::Int),
        any::<f64>().prop_map(Owned::Float),
        any::<bool>().prop_map(Owned::Bool),
    ];
    (vec((any_text(), value), 0..6), 0_u32..3).prop_map(|(entries, dropped)| {
        let mut attributes = Attributes::default();
        for (key, value) in &entries {
            attributes.set(
                key,
                match value {
                    Owned::Text(text) => AttributeValue::Text(text),
                    Owned::Int(int) => AttributeValue::Int(*int),
                    Owned::Float(float) => AttributeValue::Float(*float),
                    Owned::Bool(boolean) => AttributeValue::Bool(*boolean),
                },
            );
        }
        (0..dropped).for_each(|_| attributes.count_dropped());
        attributes
    })
}

fn any_event() -> impl Strategy<Value = SpanEvent> {
    (any_text(), any::<i64>(), any_attributes()).prop_map(|(name, time, attributes)| SpanEvent {
        name: name.into(),
        time: UnixNanos(time),
        attributes,
    })
}

fn any_link() -> impl Strategy<Value = Link> {
    (any::<[u8; 16]>(), any::<[u8; 8]>(), any_attributes()).prop_map(|(trace_id, span_id, attributes)| Link {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        attributes,
    })
}

/// The same span as `opentelemetry-proto` holds it.
pub(crate) fn plain_span(span: &Span) -> otlp::Span {
    otlp::Span {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        trace_state: span.trace_state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: span.parent_span_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        flags: 0x100 | if span.parent_is_remote { 0x200 } else { 0 } | u32::from(span.trace_flags.0),
        name: span.name.to_string(),
        kind: match span.kind {
            SpanKind::Internal => otlp::span::SpanKind::Internal,
            SpanKind::Server => otlp::span::SpanKind::Server,
            SpanKind::Client => otlp::span::SpanKind::Client,
            SpanKind::Producer => otlp::span::SpanKind::Producer,
            SpanKind::Consumer => otlp::span::SpanKind::Consumer,
        }
        .into(),
        start_time_unix_nano: time(span.start),
        end_time_unix_nano: time(span.end),
        attributes: plain_attributes(&span.attributes),
        dropped_attributes_count: span.attributes.dropped(),
        events: span
            .events
            .iter()
            .map(|event| otlp::span::Event {
                time_unix_nano: time(event.time),
                name: event.name.to_string(),
                attributes: plain_attributes(&event.attributes),
                dropped_attributes_count: event.attributes.dropped(),
            })
            .collect(),
        dropped_events_count: span.dropped_events,
        links: span
            .links
            .iter()
            .map(|link| otlp::span::Link {
                trace_id: link.trace_id.0.to_vec(),
                span_id: link.span_id.0.to_vec(),
                trace_state: String::new(),
                attributes: plain_attributes(&link.attributes),
                dropped_attributes_count: link.attributes.dropped(),
                flags: 0x100 | u32::from(span.trace_flags.0),
            })
            .collect(),
        dropped_links_count: span.dropped_links,
        status: match &span.status {
            Status::Unset => None,
            Status::Ok => {
                Some(otlp::Status { message: String::new(), code: otlp::status::StatusCode::Ok.into() })
            }
            Status::Error(message) => Some(otlp::Status {
                message: message.to_string(),
                code: otlp::status::StatusCode::Error.into(),
            }),
        },
    }
}

/// OTLP knows no time before 1970.
fn time(time: UnixNanos) -> u64 {
    time.0.max(0).cast_unsigned()
}

fn plain_attributes(attributes: &Attributes) -> Vec<KeyValue> {
    attributes
        .iter()
        .map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(match value {
                    AttributeValue::Text(text) => Value::StringValue(text.to_owned()),
                    AttributeValue::Int(int) => Value::IntValue(int),
                    AttributeValue::Float(float) => Value::DoubleValue(float),
                    AttributeValue::Bool(boolean) => Value::BoolValue(boolean),
                }),
            }),
            ..KeyValue::default()
        })
        .collect()
}
