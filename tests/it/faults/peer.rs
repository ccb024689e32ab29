//! The scripted peer itself: what it is told by ordinary clients, and what they hear.

use anyhow::Result;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use super::LIMIT;
use crate::support::faulty_peer::{FaultyPeer, Payload, Play, Transport};

fn resource() -> Option<Resource> {
    let value = Some(AnyValue { value: Some(Value::StringValue("worker_1".to_owned())) });
    let worker = KeyValue { key: "snakepit.worker.id".to_owned(), value, ..KeyValue::default() };
    Some(Resource { attributes: vec![worker], ..Resource::default() })
}

fn traces() -> ExportTraceServiceRequest {
    let spans =
        (1..=3).map(|n| Span { trace_id: vec![n; 16], span_id: vec![n; 8], ..Span::default() }).collect();
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() }],
    }
}

fn metrics() -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource: resource(), ..ResourceMetrics::default() }],
    }
}

fn logs() -> ExportLogsServiceRequest {
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: resource(), ..ResourceLogs::default() }],
    }
}

/// In protobuf and in JSON; the answer is of the kind of the request, and only taken spans count as taken.
#[tokio::test(flavor = "multi_thread")]
async fn all_signals_are_read_over_http() -> Result<()> {
    let peer = FaultyPeer::start(Transport::Http)?;
    let client = reqwest::Client::new();
    let requests = [
        ("traces", traces().encode_to_vec(), serde_json::to_vec(&traces())?, "rejectedSpans"),
        ("metrics", metrics().encode_to_vec(), serde_json::to_vec(&metrics())?, "rejectedDataPoints"),
        ("logs", logs().encode_to_vec(), serde_json::to_vec(&logs())?, "rejectedLogRecords"),
    ];
    for (signal, protobuf, json, rejected) in requests {
        peer.play([Play::Take, Play::Partial { rejected: 2, message: "no" }]);
        for (content_type, body) in [("application/x-protobuf", protobuf), ("application/json", json)] {
            let url = format!("{}/v1/{signal}", peer.url());
            let request = client.post(url).header("content-type", content_type).body(body);
            let answer = request.send().await?;
            assert_eq!(
                (answer.status().as_u16(), answer.headers()["content-type"] == content_type),
                (200, true)
            );
            let text = answer.text().await?;
            if content_type == "application/json" {
                assert_eq!(text, format!(r#"{{"partialSuccess":{{"errorMessage":"no","{rejected}":"2"}}}}"#));
            } else {
                assert_eq!(text, "");
            }
        }
    }
    let payloads: Vec<_> = peer.received().into_iter().filter_map(|received| received.payload).collect();
    let each = [Payload::Traces(traces()), Payload::Metrics(metrics()), Payload::Logs(logs())];
    assert_eq!(payloads, each.into_iter().flat_map(|payload| [payload.clone(), payload]).collect::<Vec<_>>());
    // All three of the first, and the last of the second.
    let taken = peer.taken();
    assert_eq!((taken.distinct(), taken.arrivals()), (3, 4));
    assert!(taken.ensure_at_most(1).is_err());
    taken.ensure_at_most(2)?;

    let answer = client.post(format!("{}/v1/traces", peer.url())).body("\u{1}").send().await?;
    assert_eq!(answer.status(), 400);
    assert_eq!(peer.received().last().map(|received| received.payload.is_none()), Some(true));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_signals_are_read_over_grpc() -> Result<()> {
    let peer = FaultyPeer::start(Transport::Grpc)?;
    let mut client =
        MetricsServiceClient::connect(peer.url()).await?.send_compressed(CompressionEncoding::Gzip);
    client.export(metrics()).await?;
    let mut client = LogsServiceClient::connect(peer.url()).await?.send_compressed(CompressionEncoding::Zstd);
    let answer = client.export(logs()).await?.into_inner();
    assert_eq!(answer, ExportLogsServiceResponse::default());
    peer.play([Play::Grpc(tonic::Status::aborted("later")), Play::Silent, Play::LoseAnswer]);
    assert_eq!(client.export(logs()).await.map_err(|status| status.code()).err(), Some(Code::Aborted));
    tokio::select! {
        answer = client.export(logs()) => panic!("{answer:?}"),
        asked = peer.requested(4, LIMIT) => asked?,
    }
    assert!(client.export(logs()).await.is_err());
    let received = peer.received();
    assert_eq!(received[0].payload, Some(Payload::Metrics(metrics())));
    assert_eq!(received[1..].iter().filter(|r| r.payload == Some(Payload::Logs(logs()))).count(), 4);
    assert_eq!((received[0].connection, received[1].connection), (0, 1));
    Ok(())
}
