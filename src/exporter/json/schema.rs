//! OTLP's messages: numbers, JSON names and kinds of their fields.
//!
//! From `opentelemetry/proto/{collector,trace,metrics,logs,resource,common}`, version 1. `TracesData`, `MetricsData` and
//! `LogsData`, the lines of files, have the fields of the requests.

use Kind::{
    Base64, Bool, Double, Fixed32, Fixed64, Id, Int32, Int64, Message as Nested, Sfixed64, Sint32, Text,
    Uint32, Uint64,
};

use crate::exporter::signal::Signal;

/// A message's fields.
pub(super) type Message = &'static [Field];

/// A field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_repeated: bool,
    /// Written though it be empty: readers that are made with serde ask for it.
    pub(super) is_always_there: bool,
}

/// What stands in a field, and so how it is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Message(Message),
    Text,
    /// A trace's or span's id.
    Id,
    Base64,
    Bool,
    Uint32,
    /// Enumerations too.
    Int32,
    Sint32,
    Fixed32,
    Int64,
    Uint64,
    Fixed64,
    Sfixed64,
    Double,
}

/// The message that a request of the signal is.
pub(super) fn request(signal: Signal) -> Message {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

const fn one(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, is_repeated: false, is_always_there: false }
}

const fn many(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, is_repeated: true, is_always_there: false }
}

const fn always(mut field: Field) -> Field {
    field.is_always_there = true;
    field
}

// === Traces ===

static TRACES: [Field; 1] = [always(many(1, "resourceSpans", Nested(&RESOURCE_SPANS)))];
static RESOURCE_SPANS: [Field; 3] = [
    one(1, "resource", Nested(&RESOURCE)),
    many(2, "scopeSpans", Nested(&SCOPE_SPANS)),
    one(3, "schemaUrl", Text),
];
static SCOPE_SPANS: [Field; 3] =
    [one(1, "scope", Nested(&SCOPE)), many(2, "spans", Nested(&SPAN)), one(3, "schemaUrl", Text)];
static SPAN: [Field; 16] = [
    one(1, "traceId", Id),
    one(2, "spanId", Id),
    one(3, "traceState", Text),
    one(4, "parentSpanId", Id),
    one(5, "name", Text),
    one(6, "kind", Int32),
    one(7, "startTimeUnixNano", Fixed64),
    one(8, "endTimeUnixNano", Fixed64),
    many(9, "attributes", Nested(&KEY_VALUE)),
    one(10, "droppedAttributesCount", Uint32),
    many(11, "events", Nested(&EVENT)),
    one(12, "droppedEventsCount", Uint32),
    many(13, "links", Nested(&LINK)),
    one(14, "droppedLinksCount", Uint32),
    one(15, "status", Nested(&STATUS)),
    one(16, "flags", Fixed32),
];
static EVENT: [Field; 4] = [
    one(1, "timeUnixNano", Fixed64),
    one(2, "name", Text),
    many(3, "attributes", Nested(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Uint32),
];
static LINK: [Field; 6] = [
    one(1, "traceId", Id),
    one(2, "spanId", Id),
    one(3, "traceState", Text),
    many(4, "attributes", Nested(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Uint32),
    one(6, "flags", Fixed32),
];
static STATUS: [Field; 2] = [one(2, "message", Text), one(3, "code", Int32)];

// === Metrics ===

static METRICS: [Field; 1] = [always(many(1, "resourceMetrics", Nested(&RESOURCE_METRICS)))];
static RESOURCE_METRICS: [Field; 3] = [
    one(1, "resource", Nested(&RESOURCE)),
    many(2, "scopeMetrics", Nested(&SCOPE_METRICS)),
    one(3, "schemaUrl", Text),
];
static SCOPE_METRICS: [Field; 3] =
    [one(1, "scope", Nested(&SCOPE)), many(2, "metrics", Nested(&METRIC)), one(3, "schemaUrl", Text)];
static METRIC: [Field; 9] = [
    one(1, "name", Text),
    one(2, "description", Text),
    one(3, "unit", Text),
    one(5, "gauge", Nested(&GAUGE)),
    one(7, "sum", Nested(&SUM)),
    one(9, "histogram", Nested(&HISTOGRAM)),
    one(10, "exponentialHistogram", Nested(&EXPONENTIAL_HISTOGRAM)),
    one(11, "summary", Nested(&SUMMARY)),
    many(12, "metadata", Nested(&KEY_VALUE)),
];
static GAUGE: [Field; 1] = [many(1, "dataPoints", Nested(&NUMBER_POINT))];
static SUM: [Field; 3] = [
    many(1, "dataPoints", Nested(&NUMBER_POINT)),
    one(2, "aggregationTemporality", Int32),
    one(3, "isMonotonic", Bool),
];
static HISTOGRAM: [Field; 2] =
    [many(1, "dataPoints", Nested(&HISTOGRAM_POINT)), one(2, "aggregationTemporality", Int32)];
static EXPONENTIAL_HISTOGRAM: [Field; 2] =
    [many(1, "dataPoints", Nested(&EXPONENTIAL_POINT)), one(2, "aggregationTemporality", Int32)];
static SUMMARY: [Field; 1] = [many(1, "dataPoints", Nested(&SUMMARY_POINT))];
static NUMBER_POINT: [Field; 7] = [
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "asDouble", Double),
    many(5, "exemplars", Nested(&EXEMPLAR)),
    one(6, "asInt", Sfixed64),
    many(7, "attributes", Nested(&KEY_VALUE)),
    one(8, "flags", Uint32),
];
static HISTOGRAM_POINT: [Field; 11] = [
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    many(6, "bucketCounts", Fixed64),
    many(7, "explicitBounds", Double),
    many(8, "exemplars", Nested(&EXEMPLAR)),
    many(9, "attributes", Nested(&KEY_VALUE)),
    one(10, "flags", Uint32),
    one(11, "min", Double),
    one(12, "max", Double),
];
static EXPONENTIAL_POINT: [Field; 14] = [
    many(1, "attributes", Nested(&KEY_VALUE)),
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    one(6, "scale", Sint32),
    one(7, "zeroCount", Fixed64),
    one(8, "positive", Nested(&BUCKETS)),
    one(9, "negative", Nested(&BUCKETS)),
    one(10, "flags", Uint32),
    many(11, "exemplars", Nested(&EXEMPLAR)),
    one(12, "min", Double),
    one(13, "max", Double),
    one(14, "zeroThreshold", Double),
];
static BUCKETS: [Field; 2] = [one(1, "offset", Sint32), many(2, "bucketCounts", Uint64)];
static SUMMARY_POINT: [Field; 7] = [
    one(2, "startTimeUnixNano", Fixed64),
    one(3, "timeUnixNano", Fixed64),
    one(4, "count", Fixed64),
    one(5, "sum", Double),
    many(6, "quantileValues", Nested(&QUANTILE)),
    many(7, "attributes", Nested(&KEY_VALUE)),
    one(8, "flags", Uint32),
];
static QUANTILE: [Field; 2] = [one(1, "quantile", Double), one(2, "value", Double)];
static EXEMPLAR: [Field; 6] = [
    one(2, "timeUnixNano", Fixed64),
    one(3, "asDouble", Double),
    one(4, "spanId", Id),
    one(5, "traceId", Id),
    one(6, "asInt", Sfixed64),
    many(7, "filteredAttributes", Nested(&KEY_VALUE)),
];

// === Logs ===

static LOGS: [Field; 1] = [always(many(1, "resourceLogs", Nested(&RESOURCE_LOGS)))];
static RESOURCE_LOGS: [Field; 3] = [
    one(1, "resource", Nested(&RESOURCE)),
    many(2, "scopeLogs", Nested(&SCOPE_LOGS)),
    one(3, "schemaUrl", Text),
];
static SCOPE_LOGS: [Field; 3] =
    [one(1, "scope", Nested(&SCOPE)), many(2, "logRecords", Nested(&LOG_RECORD)), one(3, "schemaUrl", Text)];
static LOG_RECORD: [Field; 11] = [
    one(1, "timeUnixNano", Fixed64),
    one(2, "severityNumber", Int32),
    one(3, "severityText", Text),
    one(5, "body", Nested(&ANY_VALUE)),
    many(6, "attributes", Nested(&KEY_VALUE)),
    one(7, "droppedAttributesCount", Uint32),
    one(8, "flags", Fixed32),
    one(9, "traceId", Id),
    one(10, "spanId", Id),
    one(11, "observedTimeUnixNano", Fixed64),
    one(12, "eventName", Text),
];

// === Common ===

static RESOURCE: [Field; 3] = [
    many(1, "attributes", Nested(&KEY_VALUE)),
    one(2, "droppedAttributesCount", Uint32),
    many(3, "entityRefs", Nested(&ENTITY_REF)),
];
static ENTITY_REF: [Field; 4] = [
    always(one(1, "schemaUrl", Text)),
    always(one(2, "type", Text)),
    always(many(3, "idKeys", Text)),
    always(many(4, "descriptionKeys", Text)),
];
static SCOPE: [Field; 4] = [
    one(1, "name", Text),
    one(2, "version", Text),
    many(3, "attributes", Nested(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Uint32),
];
/// `keyStrindex` and `stringValueStrindex` belong to the profiles signal.
static KEY_VALUE: [Field; 2] = [always(one(1, "key", Text)), one(2, "value", Nested(&ANY_VALUE))];
static ANY_VALUE: [Field; 7] = [
    one(1, "stringValue", Text),
    one(2, "boolValue", Bool),
    one(3, "intValue", Int64),
    one(4, "doubleValue", Double),
    one(5, "arrayValue", Nested(&ARRAY)),
    one(6, "kvlistValue", Nested(&KEY_VALUES)),
    one(7, "bytesValue", Base64),
];
static ARRAY: [Field; 1] = [always(many(1, "values", Nested(&ANY_VALUE)))];
static KEY_VALUES: [Field; 1] = [always(many(1, "values", Nested(&KEY_VALUE)))];
