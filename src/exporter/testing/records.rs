//! Log records.

use opentelemetry_proto::tonic::logs::v1 as otlp;

use super::*;
use crate::engine::record::{LogRecord, RecordTrace, Severity};

/// A small record of worker 1.
pub(crate) fn record(name: &str) -> LogRecord {
    record_of(&source(1), name)
}

/// A small record of `source`.
pub(crate) fn record_of(source: &Arc<Source>, name: &str) -> LogRecord {
    LogRecord {
        source: Arc::clone(source),
        time: UnixNanos(1_000),
        observed: UnixNanos(2_000),
        severity: Severity::Info,
        event_name: name.into(),
        body: format!("body of {name}").into(),
        attributes: Attributes::default(),
        trace: Some(RecordTrace {
            trace_id: TraceId([1; 16]),
            span_id: Some(SpanId([2; 8])),
            flags: TraceFlags::SAMPLED,
        }),
    }
}

/// Any record that the engine could make, and some that it could not.
pub(crate) fn any_record() -> impl Strategy<Value = LogRecord> {
    let severity = prop_oneof![
        Just(Severity::Debug),
        Just(Severity::Info),
        Just(Severity::Warn),
        Just(Severity::Error),
        Just(Severity::Fatal),
    ];
    let trace = (any::<[u8; 16]>(), option::of(any::<[u8; 8]>()), any::<u8>()).prop_map(
        |(trace_id, span_id, flags)| RecordTrace {
            trace_id: TraceId(trace_id),
            span_id: span_id.map(SpanId),
            flags: TraceFlags(flags),
        },
    );
    let what = (any_text(), any_text(), any_attributes());
    (any::<i64>(), any::<i64>(), severity, what, option::of(trace)).prop_map(
        |(time, observed, severity, (event_name, body, attributes), trace)| LogRecord {
            source: source(1),
            time: UnixNanos(time),
            observed: UnixNanos(observed),
            severity,
            event_name: event_name.into(),
            body: body.into(),
            attributes,
            trace,
        },
    )
}

/// The same record as `opentelemetry-proto` holds it.
pub(crate) fn plain_record(record: &LogRecord) -> otlp::LogRecord {
    let trace = record.trace.as_ref();
    otlp::LogRecord {
        time_unix_nano: time(record.time),
        observed_time_unix_nano: time(record.observed),
        severity_number: record.severity.number().into(),
        severity_text: String::new(),
        body: Some(AnyValue { value: Some(Value::StringValue(record.body.to_string())) }),
        attributes: plain_attributes(&record.attributes),
        dropped_attributes_count: record.attributes.dropped(),
        flags: trace.map_or(0, |trace| trace.flags.0.into()),
        trace_id: trace.map(|trace| trace.trace_id.0.to_vec()).unwrap_or_default(),
        span_id: trace.and_then(|trace| trace.span_id).map(|id| id.0.to_vec()).unwrap_or_default(),
        event_name: record.event_name.to_string(),
    }
}
