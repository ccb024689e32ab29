//! Over gRPC.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::peer::{Answer, GrpcPeer, hang_up_on_everybody, names, nobody};
use super::{Running, otlp, settings};
use crate::exporter::settings::{Compression, Protocol};
use crate::exporter::testing::{source, span_of};

async fn peer_and_exporter() -> (GrpcPeer, Running) {
    let peer = GrpcPeer::start().await;
    let exporter = Running::start(settings(Protocol::Grpc, &peer.endpoint));
    (peer, exporter)
}

fn status(code: Code) -> Answer {
    Answer::Status(Status::new(code, "as told"))
}

#[tokio::test]
async fn spans_of_many_workers_arrive_in_one_request() {
    let peer = GrpcPeer::start().await;
    let mut settings = settings(Protocol::Grpc, &peer.endpoint);
    otlp(&mut settings)
        .headers
        .insert(HeaderName::from_static("x-team"), HeaderValue::from_static("secret value"));
    let exporter = Running::start(settings);
    exporter.handle.export(vec![
        span_of(&source(1), "a"),
        span_of(&source(2), "b"),
        span_of(&source(1), "c"),
    ]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.requests_sent, snapshot.requests_failed), (3, 1, 0));
    assert_eq!(peer.received(), ["a", "c", "b"]);
    assert_eq!(peer.requests()[0].resource_spans.len(), 2);
    let headers = &peer.headers()[0];
    assert_eq!(headers["x-team"], "secret value");
    let agent = headers["user-agent"].to_str().unwrap();
    assert!(agent.starts_with("snakepit-otel-bridge/"), "{agent}");
    assert!(agent.contains(" OTel-OTLP-Exporter-Rust/"), "{agent}");
    assert!(headers.contains_key("grpc-timeout"));
}

#[tokio::test]
async fn a_batch_waits_for_its_delay() {
    let peer = GrpcPeer::start().await;
    let mut settings = settings(Protocol::Grpc, &peer.endpoint);
    settings.batch.delay = Duration::from_millis(100);
    let exporter = Running::start(settings);
    exporter.export(&["a"]);
    exporter.export(&["b"]);
    let snapshot = exporter.until(|snapshot| snapshot.exported == 2).await;
    assert_eq!(snapshot.requests_sent, 1);
}

#[tokio::test]
async fn compressed_requests_arrive() {
    let peer = GrpcPeer::start().await;
    let mut settings = settings(Protocol::Grpc, &peer.endpoint);
    otlp(&mut settings).compression = Compression::Gzip;
    let exporter = Running::start(settings);
    exporter.export(&["a"]);
    assert_eq!(exporter.finish().await.exported, 1);
    assert_eq!(peer.headers()[0]["grpc-encoding"], "gzip");
    assert_eq!(peer.received(), ["a"]);
}

#[tokio::test]
async fn an_unavailable_peer_is_asked_again_with_the_same_spans() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([status(Code::Unavailable), status(Code::DeadlineExceeded)]);
    exporter.export(&["a", "b"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.requests_failed, snapshot.retries), (2, 2, 2));
    let requests = peer.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| *request == requests[0]));
    assert_eq!(peer.received(), ["a", "b"]);
}

#[tokio::test]
async fn an_exhausted_peer_is_asked_again_only_if_it_says_when() {
    let (peer, exporter) = peer_and_exporter().await;
    let delay = Duration::from_millis(150);
    let details = ErrorDetails::with_retry_info(Some(delay));
    peer.answers([
        Answer::Status(Status::with_error_details(Code::ResourceExhausted, "later", details)),
        status(Code::ResourceExhausted),
    ]);
    let clock = super::clock();
    exporter.export(&["a"]);
    exporter.until(|snapshot| snapshot.requests_sent == 2).await;
    assert!(u128::from(clock().mono.0) >= delay.as_nanos(), "the delay was obeyed");
    let snapshot = exporter.until(|snapshot| snapshot.queued_items == 0).await;
    assert_eq!(snapshot.refused["rejected:resource_exhausted"], 1);
    assert_eq!((snapshot.exported, snapshot.requests_sent), (0, 2));
}

#[tokio::test]
async fn a_rejected_request_is_not_sent_again() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([status(Code::InvalidArgument)]);
    exporter.export(&["a", "b"]);
    exporter.until(|snapshot| snapshot.queued_items == 0).await;
    exporter.export(&["c"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.refused["rejected:invalid_argument"]), (1, 2));
    assert_eq!(snapshot.last_error.as_deref(), Some("InvalidArgument: as told"));
    assert_eq!(peer.received(), ["c"]);
}

#[tokio::test]
async fn a_partial_success_is_counted_and_not_sent_again() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([Answer::Partial(2, "two too many".to_owned())]);
    exporter.export(&["a", "b", "c"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.refused["partial_success"]), (1, 2));
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_asked_for_again() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([Answer::Partial(0, "x".repeat(5 << 20))]);
    exporter.export(&["a"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.refused["response_too_large"], snapshot.requests_sent), (1, 1));
}

#[tokio::test]
async fn spans_wait_for_a_peer_that_is_not_there_yet() {
    let address = nobody();
    let exporter = Running::start(settings(Protocol::Grpc, &format!("http://{address}")));
    for name in ["a", "b", "c"] {
        exporter.export(&[name]);
    }
    let snapshot = exporter.until(|snapshot| snapshot.peer_is_down).await;
    assert_eq!(snapshot.queued_items, 3);
    let peer = GrpcPeer::start_at(address).await;
    let snapshot = exporter.until(|snapshot| snapshot.queued_items == 0).await;
    assert_eq!((snapshot.exported, snapshot.peer_is_down), (3, false));
    let mut received = peer.received();
    received.sort();
    assert_eq!(received, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_no_answer() {
    let mut tasks = JoinSet::new();
    let address = hang_up_on_everybody(&mut tasks);
    let exporter = Running::start(settings(Protocol::Grpc, &format!("http://{address}")));
    exporter.export(&["a"]);
    let snapshot = exporter.until(|snapshot| snapshot.requests_failed >= 3).await;
    assert_eq!((snapshot.queued_items, snapshot.refused_total()), (1, 0));
}

#[tokio::test]
async fn a_request_without_an_answer_holds_no_other_up_and_is_sent_again() {
    let peer = GrpcPeer::start().await;
    let mut settings = settings(Protocol::Grpc, &peer.endpoint);
    settings.max_in_flight = 2;
    settings.request_timeout = Duration::from_secs(1);
    let exporter = Running::start(settings);
    peer.answers([Answer::Never]);
    exporter.export(&["stuck"]);
    exporter.until(|snapshot| snapshot.requests_in_flight == 1).await;
    for name in ["a", "b", "c"] {
        exporter.export(&[name]);
    }
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.requests_failed), (4, 1));
    assert_eq!(snapshot.last_error.as_deref(), Some("no answer within 1s"));
    assert_eq!(peer.received().last().map(String::as_str), Some("stuck"));
    assert_eq!(names(&peer.requests()[0]), ["stuck"]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_never_waits() {
    let mut settings = settings(Protocol::Grpc, &format!("http://{}", nobody()));
    settings.queue.max_bytes = 2_000;
    let exporter = Running::start(settings);
    for _ in 0..100 {
        exporter.export(&["a"]);
    }
    let snapshot = exporter.handle.snapshot();
    assert!(snapshot.adds_up() && snapshot.queued_bytes <= 2_000, "{snapshot:?}");
    assert_eq!(snapshot.made, 100);
    assert!(snapshot.refused["queue_full"] > 50, "{snapshot:?}");
}

#[tokio::test]
async fn what_is_left_at_the_shutdowns_deadline_is_refused() {
    let (peer, exporter) = peer_and_exporter().await;
    peer.answers([Answer::Never]);
    exporter.export(&["a"]);
    exporter.until(|snapshot| snapshot.requests_in_flight == 1).await;
    let handle = exporter.handle.clone();
    let snapshot = exporter.finish_within(Duration::from_millis(50)).await;
    assert_eq!(snapshot.refused["shutdown"], 1);
    handle.export(vec![span_of(&source(1), "late")]);
    assert_eq!(handle.snapshot().refused["shutdown"], 2);
}

#[tokio::test]
async fn a_shutdown_sends_what_was_being_collected() {
    let peer = GrpcPeer::start().await;
    let mut settings = settings(Protocol::Grpc, &peer.endpoint);
    settings.batch.delay = Duration::from_secs(3600);
    let exporter = Running::start(settings);
    exporter.export(&["a"]);
    assert_eq!(exporter.finish().await.exported, 1);
    assert_eq!(peer.received(), ["a"]);
}

#[tokio::test]
async fn an_endpoint_that_is_none_stops_the_start() {
    let settings = settings(Protocol::Grpc, "http://a b");
    let error = crate::exporter::build(settings, super::clock()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("http://a b (a test)"), "{error}");
}
