//! What people read, line by line.

use std::sync::Arc;

use super::*;
use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metrics::instrument::{Instrument, Kind};
use crate::engine::metrics::point::{BucketRange, ExponentialBuckets, Metric, Point, Points};
use crate::engine::metrics::settings::Temporality;
use crate::engine::record::Severity;
use crate::engine::span::{SpanId, Status};
use crate::exporter::batch::{BatchSettings, Batcher, Provenance};
use crate::exporter::encode::{write_metric, write_record, write_span};
use crate::exporter::resource::ResourceSettings;
use crate::exporter::testing::{buckets, metric, record, source, span};
use crate::time::{Monotonic, UnixNanos};

/// The lines of one encoded element of worker 1.
fn shown(signal: Signal, element: &[u8]) -> String {
    let mut batcher = Batcher::new(BatchSettings::default(), ResourceSettings::default());
    batcher.push(&source(1), element, 1, Provenance::default(), Monotonic(0)).unwrap();
    lines(signal, &batcher.flush().unwrap().body).unwrap()
}

fn shown_metric(metric: &Metric) -> String {
    let mut element = Vec::new();
    write_metric(&mut element, metric);
    shown(Signal::Metrics, &element)
}

#[test]
fn a_span_is_a_line_of_json() {
    let mut span = span("snakepit.python.tool\u{1b}[31m\n\u{9b}");
    span.start = UnixNanos(1_700_000_000_123_456_789);
    span.end = span.start.saturating_add(1_234_567);
    span.parent_span_id = Some(SpanId([3; 8]));
    span.status = Status::Error("boom".into());
    span.attributes.set("n", AttributeValue::Int(1));
    span.attributes.set("f", AttributeValue::Float(f64::NAN));
    let mut element = Vec::new();
    write_span(&mut element, &span);
    assert_eq!(
        shown(Signal::Traces, &element),
        concat!(
            r#"{"start":"2023-11-14T22:13:20.123456789Z","duration_ms":1.234,"#,
            r#""name":"snakepit.python.tool\u001b[31m\n\u009b","worker":"worker_1@node_a","status":"error","#,
            r#""message":"boom","kind":"INTERNAL","trace_id":"01010101010101010101010101010101","#,
            r#""span_id":"0202020202020202","parent_span_id":"0303030303030303","#,
            r#""attributes":{"f":"NaN","n":1}}"#,
            "\n"
        )
    );
}

#[test]
fn a_point_is_a_line_of_json() {
    let mut metric = metric("snakepit.python.tool\u{1b}[31m", 2);
    assert_eq!(
        shown_metric(&metric),
        concat!(
            r#"{"time":"1970-01-01T00:00:00.000002Z","name":"snakepit.python.tool\u001b[31m","#,
            r#""worker":"worker_1@node_a","kind":"counter","unit":"s","value":0,"attributes":{"snakepit.tool":"tool_0"}}"#,
            "\n",
            r#"{"time":"1970-01-01T00:00:00.000002Z","name":"snakepit.python.tool\u001b[31m","#,
            r#""worker":"worker_1@node_a","kind":"counter","unit":"s","value":1,"attributes":{"snakepit.tool":"tool_1"}}"#,
            "\n",
        )
    );
    metric.temporality = Temporality::Delta;
    assert!(shown_metric(&metric).contains(r#""kind":"counter","since":"1970-01-01T00:00:00.000001Z","#));
    let Points::Sum(points) = &mut metric.points else { panic!() };
    points[0].value = None;
    assert!(shown_metric(&metric).contains(r#""unit":"s","ended":true,"attributes""#));
}

#[test]
fn a_histogram_shows_the_buckets_that_something_is_in() {
    let mut metric = buckets("h", &[1.0, 2.5]);
    let Points::Histogram(points) = &mut metric.points else { panic!() };
    points[0].value.as_mut().unwrap().counts = vec![2, 0, 1];
    assert_eq!(
        shown_metric(&metric),
        concat!(
            r#"{"time":"1970-01-01T00:00:00.000002Z","name":"h","worker":"worker_1@node_a","kind":"histogram","#,
            r#""unit":"s","count":3,"sum":7.5,"min":0.5,"max":5.0,"buckets":[[1.0,2],["+Inf",1]],"attributes":{},"#,
            r#""exemplars":[{"span_id":"b2b2b2b2b2b2b2b2","time":"1970-01-01T00:00:00.0000015Z","#,
            r#""trace_id":"a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1","value":0.5}]}"#,
            "\n"
        )
    );
}

/// At scale 1 the bounds are the powers of the square root of 2, here of even exponents: 2, 4, and -2.
#[test]
fn an_exponential_histogram_shows_bounds_and_not_indexes() {
    let value = ExponentialBuckets {
        count: 6,
        sum: None,
        min: None,
        max: None,
        scale: 1,
        zero_count: 1,
        positive: BucketRange { offset: 1, counts: vec![2, 0, 1] },
        negative: BucketRange { offset: 2, counts: vec![2] },
    };
    let instrument = Instrument {
        name: "e".into(),
        unit: "".into(),
        description: "".into(),
        kind: Kind::ExponentialHistogram,
    };
    let point = Point {
        attributes: Arc::new(Attributes::default()),
        start: UnixNanos(1_000),
        time: UnixNanos(2_000),
        value: Some(value),
        exemplars: Vec::new(),
    };
    let metric = Metric {
        source: source(1),
        instrument: Arc::new(instrument),
        temporality: Temporality::Cumulative,
        points: Points::Exponential(vec![point]),
    };
    let line = shown_metric(&metric);
    assert!(line.contains(r#""count":6,"buckets":[[-2.0,2],[0.0,1],[2.0,2],[4.0,1]],"#), "{line}");
}

#[test]
fn a_log_record_is_a_line_of_json() {
    let mut record = record("snakepit.python.worker.ready");
    record.severity = Severity::Warn;
    record.body = "ready\u{1b}[2J\n".into();
    record.attributes.set("n", AttributeValue::Int(1));
    let mut element = Vec::new();
    write_record(&mut element, &record);
    assert_eq!(
        shown(Signal::Logs, &element),
        concat!(
            r#"{"time":"1970-01-01T00:00:00.000001Z","severity":"WARN","name":"snakepit.python.worker.ready","#,
            r#""worker":"worker_1@node_a","body":"ready\u001b[2J\n","trace_id":"01010101010101010101010101010101","#,
            r#""span_id":"0202020202020202","attributes":{"n":1}}"#,
            "\n"
        )
    );
}
