//! Over HTTP.

use std::io::Read;
use std::time::Duration;

use axum::http::StatusCode;
use http::{HeaderName, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tokio::task::JoinSet;

use super::peer::{HttpPeer, HttpRequest, answer, hang_up_on_everybody, names};
use super::{Running, otlp, settings};
use crate::exporter::settings::{Compression, Protocol};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

async fn peer_and_exporter() -> (HttpPeer, Running) {
    let peer = HttpPeer::start().await;
    let exporter = Running::start(settings(Protocol::HttpProtobuf, &peer.endpoint));
    (peer, exporter)
}

fn received(request: &HttpRequest) -> Vec<String> {
    names(&ExportTraceServiceRequest::decode(request.body.clone()).unwrap())
}

#[tokio::test]
async fn spans_arrive() {
    let peer = HttpPeer::start().await;
    let mut settings = settings(Protocol::HttpProtobuf, &peer.endpoint);
    otlp(&mut settings)
        .headers
        .insert(HeaderName::from_static("x-team"), HeaderValue::from_static("secret value"));
    let exporter = Running::start(settings);
    exporter.export(&["a", "b"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.requests_failed), (2, 0));
    let requests = peer.requests();
    assert_eq!(received(&requests[0]), ["a", "b"]);
    assert_eq!(requests[0].uri.path(), "/v1/traces");
    assert_eq!(requests[0].headers["content-type"], "application/x-protobuf");
    assert_eq!(requests[0].headers["x-team"], "secret value");
    let agent = requests[0].headers["user-agent"].to_str().unwrap();
    assert!(agent.contains(" OTel-OTLP-Exporter-Rust/"), "{agent}");
}

#[tokio::test]
async fn compressed_requests_arrive() {
    let peer = HttpPeer::start().await;
    let mut settings = settings(Protocol::HttpProtobuf, &peer.endpoint);
    otlp(&mut settings).compression = Compression::Gzip;
    let exporter = Running::start(settings);
    exporter.export(&["a"]);
    assert_eq!(exporter.finish().await.exported, 1);
    let request = &peer.requests()[0];
    assert_eq!(request.headers["content-encoding"], "gzip");
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&request.body[..]).read_to_end(&mut body).unwrap();
    assert_eq!(names(&ExportTraceServiceRequest::decode(body.as_slice()).unwrap()), ["a"]);
}

#[tokio::test]
async fn the_retryable_statuses_are_retried() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([429, 502, 503, 504].map(|status| answer(StatusCode::from_u16(status).unwrap(), &[], "")));
    exporter.export(&["a"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.requests_failed), (1, 4));
    let requests = peer.requests();
    assert!(requests.iter().all(|request| request.body == requests[0].body));
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([answer(StatusCode::TOO_MANY_REQUESTS, &[("retry-after", "1")], "")]);
    let clock = super::clock();
    exporter.export(&["a"]);
    let snapshot = exporter.until(|snapshot| snapshot.exported == 1).await;
    assert!(clock().mono.0 >= 1_000_000_000, "the delay was obeyed");
    assert_eq!(snapshot.requests_sent, 2);
}

#[tokio::test]
async fn a_rejected_request_is_not_sent_again_and_its_reason_is_told() {
    let (peer, exporter) = peer_and_exporter().await;
    let status = tonic_types::pb::Status { code: 14, message: "no such tenant".to_owned(), details: vec![] };
    peer.answers([
        answer(StatusCode::BAD_REQUEST, &[PROTOBUF], status.encode_to_vec()),
        answer(StatusCode::INTERNAL_SERVER_ERROR, &[], "plain \u{1b}[31m words"),
    ]);
    exporter.export(&["a"]);
    let snapshot = exporter.until(|snapshot| snapshot.queued_items == 0).await;
    assert_eq!(snapshot.refused["rejected:400"], 1);
    assert_eq!(snapshot.last_error.as_deref(), Some("400 Bad Request: no such tenant"));
    exporter.export(&["b"]);
    let snapshot = exporter.finish().await;
    assert_eq!(snapshot.refused["rejected:500"], 1);
    assert_eq!(snapshot.last_error.as_deref(), Some("500 Internal Server Error: plain \\u{1b}[31m words"));
    assert_eq!(snapshot.requests_sent, 2);
}

#[tokio::test]
async fn a_partial_success_is_counted_and_not_sent_again() {
    let (peer, exporter) = peer_and_exporter().await;
    let partial_success =
        Some(ExportTracePartialSuccess { rejected_spans: 1, error_message: "one".to_owned() });
    let body = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    peer.answers([answer(StatusCode::OK, &[PROTOBUF], body)]);
    exporter.export(&["a", "b"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.refused["partial_success"], snapshot.requests_sent), (1, 1, 1));
}

#[tokio::test]
async fn an_unreadable_success_is_a_success() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([answer(StatusCode::OK, &[], "<html>")]);
    exporter.export(&["a"]);
    assert_eq!(exporter.finish().await.exported, 1);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_asked_for_again() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([answer(StatusCode::OK, &[PROTOBUF], vec![0_u8; 5 << 20])]);
    exporter.export(&["a"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.refused["response_too_large"], snapshot.requests_sent), (1, 1));
}

#[tokio::test]
async fn redirections_are_followed_on_the_same_host_only() {
    let (peer, exporter) = peer_and_exporter().await;
    let other = HttpPeer::start().await;
    let redirect =
        |status, location: &str| answer(StatusCode::from_u16(status).unwrap(), &[("location", location)], "");
    peer.answers([redirect(307, "/elsewhere")]);
    exporter.export(&["a"]);
    exporter.until(|snapshot| snapshot.exported == 1).await;
    let requests = peer.requests();
    assert_eq!(requests[1].uri.path(), "/elsewhere");
    assert_eq!(received(&requests[1]), ["a"]);

    peer.answers([redirect(308, &other.endpoint), redirect(302, "/elsewhere")]);
    exporter.export(&["b"]);
    exporter.until(|snapshot| snapshot.queued_items == 0).await;
    exporter.export(&["c"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.refused["rejected:3xx"]), (1, 2));
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_no_answer() {
    let mut tasks = JoinSet::new();
    let address = hang_up_on_everybody(&mut tasks);
    let exporter = Running::start(settings(Protocol::HttpProtobuf, &format!("http://{address}/v1/traces")));
    exporter.export(&["a"]);
    let snapshot = exporter.until(|snapshot| snapshot.requests_failed >= 3).await;
    assert_eq!((snapshot.queued_items, snapshot.refused_total()), (1, 0));
    let snapshot = exporter.finish_within(Duration::from_millis(50)).await;
    assert_eq!(snapshot.refused["shutdown"], 1);
}
