//! Metrics and log records through the handle: what is counted, and what is written.

use axum::http::StatusCode;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::ScopeMetrics;
use prost::Message as _;
use serde_json::Value;

use super::peer::{HttpPeer, answer};
use super::*;
use crate::exporter::settings::FileTarget;
use crate::exporter::testing::{buckets, metric, plain_metric, record};
use crate::exporter::{Parts, build_with};
use crate::store::Commit;

fn start(settings: ExporterSettings, signal: Signal) -> Running {
    let parts = Parts { signal: Some(signal), ..Parts::default() };
    let (handle, task) = build_with(settings, clock(), parts).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    Running { handle, _task: tasks }
}

/// An exporter of metrics to the peer.
fn metrics_to(peer: &HttpPeer) -> Running {
    let mut settings = settings(Protocol::HttpProtobuf, &peer.endpoint.replace("traces", "metrics"));
    otlp(&mut settings).signal = Signal::Metrics;
    settings.batch.max_items = None;
    start(settings, Signal::Metrics)
}

#[tokio::test]
async fn points_are_counted_one_by_one_and_a_metric_has_one_ordinal() {
    let peer = HttpPeer::start().await;
    let partial_success =
        Some(ExportMetricsPartialSuccess { rejected_data_points: 2, error_message: "too old".to_owned() });
    let body = ExportMetricsServiceResponse { partial_success }.encode_to_vec();
    peer.answers([answer(StatusCode::OK, &[("content-type", "application/x-protobuf")], body)]);
    let exporter = metrics_to(&peer);
    let metrics = vec![metric("a", 3), metric("b", 4)];
    let plain = metrics.iter().map(plain_metric).collect::<Vec<_>>();
    exporter.handle.export_metrics(metrics, Some((0, 7)), Commit::default());
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.made, snapshot.exported, snapshot.refused["partial_success"]), (7, 5, 2));
    let requests = peer.requests();
    assert_eq!((requests.len(), requests[0].uri.path()), (1, "/v1/metrics"));
    let request = ExportMetricsServiceRequest::decode(requests[0].body.clone()).unwrap();
    let scopes: Vec<ScopeMetrics> =
        request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics).collect();
    assert_eq!(scopes.len(), 1);
    assert_eq!(scopes[0].metrics, plain);
}

/// A request that is too large is cut between metrics, and each piece counts its own points.
#[tokio::test]
async fn metrics_that_a_peer_finds_too_large_arrive_in_pieces() {
    let peer = HttpPeer::start().await;
    peer.answers([answer(StatusCode::PAYLOAD_TOO_LARGE, &[], "")]);
    let exporter = metrics_to(&peer);
    let metrics = vec![metric("a", 30), metric("b", 30), metric("c", 1)];
    exporter.handle.export_metrics(metrics, None, Commit::default());
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.made, snapshot.exported, snapshot.requests_split), (61, 61, 1));
    let requests = peer.requests();
    let names = requests[1..].iter().flat_map(|request| {
        let request = ExportMetricsServiceRequest::decode(request.body.clone()).unwrap();
        let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name).collect::<Vec<_>>()
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn what_is_refused_counts_its_points() {
    let exporter = start(ExporterSettings::new(Destination::None), Signal::Metrics);
    exporter.handle.export_metrics(vec![metric("a", 3), metric("b", 4)], Some((0, 0)), Commit::default());
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.made, snapshot.refused["signal_disabled"]), (7, 7));

    let peer = HttpPeer::start().await;
    let mut narrow = settings(Protocol::HttpProtobuf, &peer.endpoint);
    narrow.queue.max_bytes = 3000;
    narrow.batch.max_bytes = 2000;
    let exporter = start(narrow, Signal::Metrics);
    exporter.handle.export_metrics(vec![metric("large", 1000)], None, Commit::default());
    exporter.handle.export_metrics(vec![metric("small", 2)], None, Commit::default());
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.made, snapshot.exported, snapshot.refused_total()), (1002, 2, 1000));
}

/// Ids are hexadecimal in OTLP/JSON, those of exemplars and records too.
#[tokio::test]
async fn metrics_and_records_are_lines_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.jsonl");
    let to_file = |signal| {
        let mut settings = ExporterSettings::new(Destination::File(FileTarget::Path(path.clone())));
        settings.batch.delay = Duration::ZERO;
        start(settings, signal)
    };
    let metrics = to_file(Signal::Metrics);
    metrics.handle.export_metrics(vec![buckets("h", &[1.0])], None, Commit::default());
    assert_eq!(metrics.finish().await.exported, 1);
    let records = to_file(Signal::Logs);
    records.handle.export_records(vec![record("ready")], None, Commit::default());
    assert_eq!(records.finish().await.exported, 1);

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let metric = &lines[0]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0];
    let point = &metric["histogram"]["dataPoints"][0];
    assert_eq!((&metric["name"], &metric["histogram"]["aggregationTemporality"]), (&"h".into(), &2.into()));
    assert_eq!((&point["count"], &point["bucketCounts"][1]), (&"2".into(), &"1".into()));
    assert_eq!(point["exemplars"][0]["traceId"], "a1".repeat(16));
    assert_eq!(point["exemplars"][0]["spanId"], "b2".repeat(8));
    let record = &lines[1]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!((&record["eventName"], &record["severityNumber"]), (&"ready".into(), &9.into()));
    assert_eq!((&record["traceId"], &record["spanId"]), (&"01".repeat(16).into(), &"02".repeat(8).into()));
    assert_eq!(record["body"]["stringValue"], "body of ready");
}
