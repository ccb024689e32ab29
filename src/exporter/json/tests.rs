//! The transcoder against `opentelemetry-proto`'s own reader, against a plain reading of the fields, and against people's
//! eyes.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::exporter::testing::{any_span, plain_span};

fn value(signal: Signal, request: &impl prost::Message) -> Value {
    serde_json::from_slice(&transcode(signal, &request.encode_to_vec()).unwrap()).unwrap()
}

fn read<T: DeserializeOwned>(signal: Signal, request: &impl prost::Message) -> T {
    serde_json::from_slice(&transcode(signal, &request.encode_to_vec()).unwrap()).unwrap()
}

proptest! {
    /// What serde reads of the JSON of spans is what prost reads of their protobuf.
    #[test]
    fn spans_are_read_back(spans in vec(any_span(), 0..4), resource in any_resource(), scope in any_scope()) {
        let spans = spans.iter().map(plain_span).map(finite_span).collect();
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(resource),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans, schema_url: "s".to_owned() }],
                schema_url: String::new(),
            }],
        };
        prop_assert_eq!(&read::<ExportTraceServiceRequest>(Signal::Traces, &request), &request);
    }

    /// The same of metrics of every kind.
    #[test]
    fn metrics_are_read_back(metrics in vec(any_metric(), 0..4), resource in any_resource()) {
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(resource),
                scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
                schema_url: "s".to_owned(),
            }],
        };
        prop_assert_eq!(&read::<ExportMetricsServiceRequest>(Signal::Metrics, &request), &request);
    }

    /// The same of log records.
    #[test]
    fn log_records_are_read_back(log_records in vec(any_record(), 0..4)) {
        let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
        };
        prop_assert_eq!(&read::<ExportLogsServiceRequest>(Signal::Logs, &request), &request);
    }

    /// Ids are hexadecimal, times text, and no field of any span is `null` or an empty id: read without a schema.
    #[test]
    fn spans_have_the_fields_that_the_specification_names(span in any_span()) {
        let plain = plain_span(&span);
        let json = value(Signal::Traces, &traces(vec![plain.clone()]));
        let read = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        prop_assert_eq!(&read["traceId"], &json!(hex::encode(&plain.trace_id)));
        prop_assert_eq!(&read["spanId"], &json!(hex::encode(&plain.span_id)));
        let parent = span.parent_span_id.map(|id| json!(hex::encode(id.0)));
        prop_assert_eq!(read.get("parentSpanId"), parent.as_ref());
        prop_assert_eq!(read["kind"].as_i64(), Some(i64::from(plain.kind)));
        prop_assert_eq!(read["flags"].as_u64(), Some(u64::from(plain.flags)));
        let end = Some(plain.end_time_unix_nano).filter(|end| *end > 0).map(|end| json!(end.to_string()));
        prop_assert_eq!(read.get("endTimeUnixNano"), end.as_ref());
        let attributes = read.get("attributes").and_then(Value::as_array).map_or(0, Vec::len);
        prop_assert_eq!(attributes, plain.attributes.len());
        prop_assert!(!json.to_string().contains("null,"));
        prop_assert!(!json.to_string().contains('\n'));
    }

    /// Damaged bytes cost themselves alone: an error or some JSON, never a panic.
    #[test]
    fn damaged_bytes_are_no_panic(
        span in any_span(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = traces(vec![plain_span(&span)]).encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for signal in Signal::ALL {
            if let Ok(json) = transcode(signal, &bytes) {
                serde_json::from_slice::<Value>(&json).unwrap();
            }
        }
    }
}

#[test]
fn numbers_that_json_does_not_have_are_words() {
    let doubles = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5];
    let words = json!(["NaN", "Infinity", "-Infinity", -0.5]);
    let values = doubles.map(|double| AnyValue { value: Some(Any::DoubleValue(double)) }).to_vec();
    let array = KeyValue {
        key: "doubles".to_owned(),
        value: Some(AnyValue { value: Some(Any::ArrayValue(ArrayValue { values })) }),
        ..KeyValue::default()
    };
    let point = HistogramDataPoint {
        attributes: vec![array],
        sum: Some(f64::NAN),
        explicit_bounds: doubles.to_vec(),
        min: Some(0.0),
        ..HistogramDataPoint::default()
    };
    let data_points = vec![point];
    let histogram = Histogram { data_points, ..Histogram::default() };
    let json = value(Signal::Metrics, &metrics(vec![metric_of(metric::Data::Histogram(histogram))]));
    let point = &json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["histogram"]["dataPoints"][0];
    let listed = point["attributes"][0]["value"]["arrayValue"]["values"].as_array().unwrap();
    let listed: Vec<_> = listed.iter().map(|value| value["doubleValue"].clone()).collect();
    assert_eq!(json!(listed), words);
    assert_eq!(point["explicitBounds"], words);
    assert_eq!((&point["sum"], &point["min"], point.get("max")), (&json!("NaN"), &json!(0.0), None));
}

#[test]
fn the_largest_numbers_are_exact() {
    let point = NumberDataPoint {
        time_unix_nano: u64::MAX,
        value: Some(number_data_point::Value::AsInt(i64::MIN)),
        ..NumberDataPoint::default()
    };
    let gauge = Gauge { data_points: vec![point] };
    let json = value(Signal::Metrics, &metrics(vec![metric_of(metric::Data::Gauge(gauge))]));
    let point = &json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"][0];
    assert_eq!(point, &json!({"timeUnixNano": "18446744073709551615", "asInt": "-9223372036854775808"}));
}

#[test]
fn bytes_are_base64() {
    for (bytes, text) in [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("\u{ff}~?", "w79+Pw==")]
    {
        let body = Some(AnyValue { value: Some(Any::BytesValue(bytes.into())) });
        let json = value(Signal::Logs, &logs(vec![LogRecord { body, ..LogRecord::default() }]));
        let record = &json["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record, &json!({"body": {"bytesValue": text}}));
    }
}

#[test]
fn an_empty_request_has_its_list() {
    assert_eq!(transcode(Signal::Traces, b"").unwrap(), r#"{"resourceSpans":[]}"#);
    assert_eq!(transcode(Signal::Metrics, b"").unwrap(), r#"{"resourceMetrics":[]}"#);
    assert_eq!(transcode(Signal::Logs, b"").unwrap(), r#"{"resourceLogs":[]}"#);
}

#[test]
fn fields_in_any_order_are_one_list() {
    let mut bytes = traces(Vec::new()).encode_to_vec();
    // A field that is newer than this program, between two of one list.
    bytes.extend([0x7a, 1, b'x']);
    bytes.extend(traces(Vec::new()).encode_to_vec());
    let json: Value = serde_json::from_slice(&transcode(Signal::Traces, &bytes).unwrap()).unwrap();
    assert_eq!(json["resourceSpans"].as_array().unwrap().len(), 2);
    assert_eq!(json.as_object().unwrap().len(), 1);
}

#[test]
fn values_within_values_have_an_end() {
    let mut value = AnyValue { value: None };
    for _ in 0..MAX_DEPTH {
        value = AnyValue { value: Some(Any::ArrayValue(ArrayValue { values: vec![value] })) };
    }
    let request = logs(vec![LogRecord { body: Some(value), ..LogRecord::default() }]);
    assert_eq!(transcode(Signal::Logs, &request.encode_to_vec()), Err(NotProtobuf));
}

#[test]
fn a_request_of_each_signal_looks_as_it_should() {
    let attributes = vec![
        attribute("text", Any::StringValue("a \"quote\"\n".to_owned())),
        attribute("int", Any::IntValue(-7)),
        attribute("yes", Any::BoolValue(true)),
        attribute(
            "nested",
            Any::KvlistValue(KeyValueList { values: vec![attribute("double", Any::DoubleValue(0.25))] }),
        ),
    ];
    let mut span = plain_span(&crate::exporter::testing::span("tool"));
    span.parent_span_id = vec![3; 8];
    span.attributes.clone_from(&attributes);
    insta::assert_snapshot!("traces", pretty(&value(Signal::Traces, &traces(vec![span]))));

    let exemplar = Exemplar {
        time_unix_nano: 5,
        span_id: vec![0xab; 8],
        trace_id: vec![0xcd; 16],
        value: Some(exemplar::Value::AsInt(9)),
        ..Exemplar::default()
    };
    let point = ExponentialHistogramDataPoint {
        attributes: attributes.clone(),
        time_unix_nano: 2,
        count: 3,
        sum: Some(1.5),
        scale: -2,
        positive: Some(Buckets { offset: -1, bucket_counts: vec![1, 300] }),
        exemplars: vec![exemplar],
        ..ExponentialHistogramDataPoint::default()
    };
    let histogram = ExponentialHistogram { data_points: vec![point], aggregation_temporality: 1 };
    let request = metrics(vec![metric_of(metric::Data::ExponentialHistogram(histogram))]);
    insta::assert_snapshot!("metrics", pretty(&value(Signal::Metrics, &request)));

    let record = LogRecord {
        time_unix_nano: 1,
        severity_number: 9,
        severity_text: "INFO".to_owned(),
        body: Some(AnyValue { value: Some(Any::StringValue("said".to_owned())) }),
        attributes,
        flags: 1,
        trace_id: vec![1; 16],
        event_name: "worker.ready".to_owned(),
        ..LogRecord::default()
    };
    insta::assert_snapshot!("logs", pretty(&value(Signal::Logs, &logs(vec![record]))));
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

// === Requests ===

fn traces(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    }
}

fn metrics(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }],
    }
}

fn logs(log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
}

fn metric_of(data: metric::Data) -> Metric {
    Metric { name: "m".to_owned(), data: Some(data), ..Metric::default() }
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The reader under comparison rounds some doubles, and reads no words for them.
fn any_double() -> impl Strategy<Value = f64> + Clone {
    any::<i32>().prop_map(|quarters| f64::from(quarters) / 4.0)
}

fn finite_span(mut span: Span) -> Span {
    let events = span.events.iter_mut().flat_map(|event| &mut event.attributes);
    let links = span.links.iter_mut().flat_map(|link| &mut link.attributes);
    for attribute in span.attributes.iter_mut().chain(events).chain(links) {
        if let Some(AnyValue { value: Some(Any::DoubleValue(double)) }) = &mut attribute.value {
            *double = double.clamp(-1e9, 1e9).round();
        }
    }
    span
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        ".{0,20}".prop_map(Any::StringValue),
        any::<bool>().prop_map(Any::BoolValue),
        any::<i64>().prop_map(Any::IntValue),
        any_double().prop_map(Any::DoubleValue),
        vec(any::<u8>(), 0..10).prop_map(Any::BytesValue),
    ];
    let leaf = leaf.prop_map(|value| AnyValue { value: Some(value) });
    leaf.prop_recursive(3, 12, 3, |inner| {
        let pair = (".{0,5}", inner.clone()).prop_map(|(key, value)| KeyValue {
            key,
            value: Some(value),
            ..KeyValue::default()
        });
        let values = prop_oneof![
            vec(inner, 0..3).prop_map(|values| Any::ArrayValue(ArrayValue { values })),
            vec(pair, 0..3).prop_map(|values| Any::KvlistValue(KeyValueList { values })),
        ];
        values.prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn any_attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = (".{0,10}", option::of(any_value()));
    vec(pair.prop_map(|(key, value)| KeyValue { key, value, ..KeyValue::default() }), 0..4)
}

fn any_resource() -> impl Strategy<Value = Resource> {
    let entity = (".{0,5}", ".{0,5}", vec(".{0,5}", 0..2)).prop_map(|(schema_url, kind, keys)| EntityRef {
        schema_url,
        r#type: kind,
        id_keys: keys,
        description_keys: vec![],
    });
    (any_attributes(), any::<u32>(), vec(entity, 0..2)).prop_map(
        |(attributes, dropped_attributes_count, entity_refs)| Resource {
            attributes,
            dropped_attributes_count,
            entity_refs,
        },
    )
}

fn any_scope() -> impl Strategy<Value = InstrumentationScope> {
    (".{0,5}", ".{0,5}", any_attributes()).prop_map(|(name, version, attributes)| InstrumentationScope {
        name,
        version,
        attributes,
        dropped_attributes_count: 0,
    })
}

fn any_exemplars() -> impl Strategy<Value = Vec<Exemplar>> {
    let number = prop_oneof![
        any::<i64>().prop_map(exemplar::Value::AsInt),
        any_double().prop_map(exemplar::Value::AsDouble)
    ];
    let exemplar =
        (any_attributes(), any::<u64>(), option::of(any::<[u8; 8]>()), any::<[u8; 16]>(), option::of(number));
    let exemplar = exemplar.prop_map(|(filtered_attributes, time_unix_nano, span_id, trace_id, value)| {
        let span_id = span_id.map(Vec::from).unwrap_or_default();
        Exemplar { filtered_attributes, time_unix_nano, span_id, trace_id: trace_id.to_vec(), value }
    });
    vec(exemplar, 0..2)
}

/// Attributes, two times, exemplars, flags.
fn any_point() -> impl Strategy<Value = (Vec<KeyValue>, u64, u64, Vec<Exemplar>, u32)> {
    (any_attributes(), any::<u64>(), any::<u64>(), any_exemplars(), any::<u32>())
}

fn any_number_points() -> impl Strategy<Value = Vec<NumberDataPoint>> {
    let number = prop_oneof![
        any::<i64>().prop_map(number_data_point::Value::AsInt),
        any_double().prop_map(number_data_point::Value::AsDouble)
    ];
    let point = (any_point(), option::of(number)).prop_map(|(point, value)| NumberDataPoint {
        attributes: point.0,
        start_time_unix_nano: point.1,
        time_unix_nano: point.2,
        exemplars: point.3,
        flags: point.4,
        value,
    });
    vec(point, 0..3)
}

fn any_metric() -> impl Strategy<Value = Metric> {
    let sums = (option::of(any_double()), option::of(any_double()), option::of(any_double()));
    let histogram =
        (any_point(), any::<u64>(), sums.clone(), vec(any::<u64>(), 0..4), vec(any_double(), 0..4));
    let histogram = histogram.prop_map(|(point, count, sums, bucket_counts, explicit_bounds)| {
        let point = HistogramDataPoint {
            attributes: point.0,
            start_time_unix_nano: point.1,
            time_unix_nano: point.2,
            exemplars: point.3,
            flags: point.4,
            count,
            sum: sums.0,
            bucket_counts,
            explicit_bounds,
            min: sums.1,
            max: sums.2,
        };
        metric::Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: 2 })
    });
    let buckets = option::of((any::<i32>(), vec(any::<u64>(), 0..4)))
        .prop_map(|buckets| buckets.map(|(offset, bucket_counts)| Buckets { offset, bucket_counts }));
    let exponential = (any_point(), any::<u64>(), sums, any::<i32>(), buckets.clone(), buckets, any_double());
    let exponential =
        exponential.prop_map(|(point, count, sums, scale, positive, negative, zero_threshold)| {
            let point = ExponentialHistogramDataPoint {
                attributes: point.0,
                start_time_unix_nano: point.1,
                time_unix_nano: point.2,
                exemplars: point.3,
                flags: point.4,
                count,
                sum: sums.0,
                scale,
                zero_count: count / 2,
                positive,
                negative,
                min: sums.1,
                max: sums.2,
                zero_threshold,
            };
            metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![point],
                aggregation_temporality: 1,
            })
        });
    let quantile =
        (any_double(), any_double()).prop_map(|(quantile, value)| ValueAtQuantile { quantile, value });
    let summary = (any_point(), any::<u64>(), any_double(), vec(quantile, 0..3));
    let summary = summary.prop_map(|(point, count, sum, quantile_values)| {
        let point = SummaryDataPoint {
            attributes: point.0,
            start_time_unix_nano: point.1,
            time_unix_nano: point.2,
            flags: point.4,
            count,
            sum,
            quantile_values,
        };
        metric::Data::Summary(Summary { data_points: vec![point] })
    });
    let data = prop_oneof![
        any_number_points().prop_map(|data_points| metric::Data::Gauge(Gauge { data_points })),
        (any_number_points(), any::<bool>()).prop_map(|(data_points, is_monotonic)| {
            metric::Data::Sum(Sum { data_points, aggregation_temporality: 2, is_monotonic })
        }),
        histogram,
        exponential,
        summary,
    ];
    (".{0,10}", ".{0,10}", ".{0,5}", any_attributes(), option::of(data)).prop_map(
        |(name, description, unit, metadata, data)| Metric { name, description, unit, metadata, data },
    )
}

fn any_record() -> impl Strategy<Value = LogRecord> {
    let texts = (".{0,10}", ".{0,10}");
    let ids = (option::of(any::<[u8; 16]>()), option::of(any::<[u8; 8]>()));
    let numbers = (any::<u64>(), any::<u64>(), 0..25_i32, any::<u32>(), any::<u32>());
    (texts, ids, numbers, option::of(any_value()), any_attributes()).prop_map(
        |(texts, ids, numbers, body, attributes)| LogRecord {
            time_unix_nano: numbers.0,
            observed_time_unix_nano: numbers.1,
            severity_number: numbers.2,
            severity_text: texts.0,
            body,
            attributes,
            dropped_attributes_count: numbers.3,
            flags: numbers.4,
            trace_id: ids.0.map(Vec::from).unwrap_or_default(),
            span_id: ids.1.map(Vec::from).unwrap_or_default(),
            event_name: texts.1,
        },
    )
}
