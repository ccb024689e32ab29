//! What the transports have in common: signals, compressions, encodings, sockets, and peers that go silent.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::peer::{GrpcPeer, HttpPeer, answer, names};
use super::{Running, otlp, settings};
use crate::exporter::grpc::GrpcSink;
use crate::exporter::http::HttpSink;
use crate::exporter::retry::Outcome;
use crate::exporter::settings::{Compression, OtlpSettings, Protocol};
use crate::exporter::signal::Signal;
use crate::time::{Monotonic, Now, UnixNanos};

const JSON: (&str, &str) = ("content-type", "application/json");
const NOW: Now = Now { mono: Monotonic(0), wall: UnixNanos(0) };

fn of(signal: Signal, protocol: Protocol, endpoint: &str) -> OtlpSettings {
    OtlpSettings { signal, ..otlp(&mut settings(protocol, endpoint)).clone() }
}

fn rejected(rejected_items: u64, message: &str) -> Outcome {
    Outcome::Accepted { rejected_items, message: message.to_owned() }
}

#[tokio::test]
async fn json_and_protobuf_arrive_however_they_are_compressed() {
    for protocol in [Protocol::HttpProtobuf, Protocol::HttpJson] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let peer = HttpPeer::start().await;
            let mut settings = settings(protocol, &peer.endpoint);
            otlp(&mut settings).compression = compression;
            let exporter = Running::start(settings);
            exporter.export(&["a", "b"]);
            assert_eq!(exporter.finish().await.exported, 2);

            let request = &peer.requests()[0];
            let encoding = request.headers.get("content-encoding").map(|value| value.to_str().unwrap());
            let body = match compression {
                Compression::None => request.body.to_vec(),
                Compression::Gzip => unzipped(&request.body),
                Compression::Zstd => zstd::decode_all(&request.body[..]).unwrap(),
            };
            assert_eq!(encoding.unwrap_or("none"), compression.to_string());
            let request: ExportTraceServiceRequest = if protocol == Protocol::HttpJson {
                assert_eq!(request.headers["content-type"], JSON.1);
                assert_eq!(request.headers["accept"], JSON.1);
                serde_json::from_slice(&body).unwrap()
            } else {
                prost::Message::decode(&body[..]).unwrap()
            };
            assert_eq!(names(&request), ["a", "b"]);
        }
    }
}

#[tokio::test]
async fn zstd_arrives_by_grpc() {
    let peer = GrpcPeer::start().await;
    let mut settings = settings(Protocol::Grpc, &peer.endpoint);
    otlp(&mut settings).compression = Compression::Zstd;
    let exporter = Running::start(settings);
    exporter.export(&["a"]);
    assert_eq!(exporter.finish().await.exported, 1);
    assert_eq!(peer.headers()[0]["grpc-encoding"], "zstd");
    assert_eq!(peer.received(), ["a"]);
}

#[tokio::test]
async fn answers_in_json_are_read() {
    let peer = HttpPeer::start().await;
    let status = json!({"code": 3, "message": "no such tenant", "details": [{"@type": "x"}]});
    let success = json!({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "one"}, "new": true});
    peer.answers([
        answer(StatusCode::BAD_REQUEST, &[JSON], status.to_string()),
        answer(StatusCode::OK, &[JSON, ("content-encoding", "gzip")], zipped(success.to_string().as_bytes())),
        answer(StatusCode::OK, &[JSON], "<html>"),
    ]);
    let exporter = Running::start(settings(Protocol::HttpJson, &peer.endpoint));
    exporter.export(&["a"]);
    let snapshot = exporter.until(|snapshot| snapshot.queued_items == 0).await;
    assert_eq!(snapshot.last_error.as_deref(), Some("400 Bad Request: no such tenant"));
    exporter.export(&["b", "c"]);
    exporter.until(|snapshot| snapshot.queued_items == 0).await;
    exporter.export(&["d"]);
    let snapshot = exporter.finish().await;
    assert_eq!((snapshot.exported, snapshot.requests_sent), (2, 3));
    assert_eq!((snapshot.refused["rejected:400"], snapshot.refused["partial_success"]), (1, 1));
}

#[tokio::test]
async fn each_signal_has_its_own_words_over_http() {
    let peer = HttpPeer::start().await;
    for (signal, list, rejects) in [
        (Signal::Traces, "resourceSpans", "rejectedSpans"),
        (Signal::Metrics, "resourceMetrics", "rejectedDataPoints"),
        (Signal::Logs, "resourceLogs", "rejectedLogRecords"),
    ] {
        let endpoint = peer.endpoint.replace("v1/traces", signal.http_path());
        let sink = HttpSink::new(&of(signal, Protocol::HttpJson, &endpoint)).unwrap();
        let body = json!({"partialSuccess": {rejects: "2", "errorMessage": "two"}}).to_string();
        peer.answers([answer(StatusCode::OK, &[JSON], body)]);
        assert_eq!(sink.send(Bytes::new(), || NOW).await, rejected(2, "two"));
        let request = peer.requests().pop().unwrap();
        assert_eq!(request.uri.path(), format!("/v1/{signal}"));
        assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), json!({list: []}));
    }
}

#[tokio::test]
async fn each_signal_has_its_own_method_over_grpc() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        tonic::transport::Server::builder()
            .add_service(MetricsServiceServer::new(OtherSignals))
            .add_service(LogsServiceServer::new(OtherSignals))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    for (signal, expected) in
        [(Signal::Metrics, rejected(2, "two points")), (Signal::Logs, rejected(3, "three records"))]
    {
        let sink = GrpcSink::new(&of(signal, Protocol::Grpc, &endpoint), Duration::from_secs(10)).unwrap();
        assert_eq!(sink.send(Bytes::new(), NOW.mono).await, expected);
    }
    let sink =
        GrpcSink::new(&of(Signal::Traces, Protocol::Grpc, &endpoint), Duration::from_secs(10)).unwrap();
    let Outcome::Refused { error, .. } = sink.send(Bytes::new(), NOW.mono).await else { panic!() };
    assert!(error.starts_with("Unimplemented"), "{error}");
}

struct OtherSignals;

#[tonic::async_trait]
impl MetricsService for OtherSignals {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let partial =
            ExportMetricsPartialSuccess { rejected_data_points: 2, error_message: "two points".to_owned() };
        Ok(Response::new(ExportMetricsServiceResponse { partial_success: Some(partial) }))
    }
}

#[tonic::async_trait]
impl LogsService for OtherSignals {
    async fn export(
        &self,
        _: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let partial =
            ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "three records".to_owned() };
        Ok(Response::new(ExportLogsServiceResponse { partial_success: Some(partial) }))
    }
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint_of_grpc() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("otlp.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = GrpcPeer::start().await;
    let address = peer.endpoint.trim_start_matches("http://").to_owned();
    let mut relay = JoinSet::new();
    relay.spawn(async move {
        let (mut outside, _) = listener.accept().await.unwrap();
        let mut inside = TcpStream::connect(address).await.unwrap();
        // A side that hangs up ends both.
        let _ = copy_bidirectional(&mut outside, &mut inside).await;
    });
    let exporter = Running::start(settings(Protocol::Grpc, &format!("unix://{}", path.display())));
    exporter.export(&["a"]);
    assert_eq!(exporter.finish().await.exported, 1);
    assert_eq!(peer.received(), ["a"]);
}

/// A relay whose connections go silent when it is told so; they stay open. Ends with its value.
struct Relay {
    address: String,
    silence: Arc<Notify>,
    connections: Arc<Mutex<usize>>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Before `peer`, a URL. The first `silent` connections never say anything.
    async fn start(peer: &str, silent: usize) -> Self {
        let peer = peer.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (silence, connections) = (Arc::new(Notify::new()), Arc::new(Mutex::new(0)));
        let (silenced, count) = (Arc::clone(&silence), Arc::clone(&connections));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((mut outside, _)) = listener.accept().await {
                let number = {
                    let mut count = count.lock().unwrap();
                    *count += 1;
                    *count
                };
                let (peer, silenced) = (peer.clone(), Arc::clone(&silenced));
                relays.spawn(async move {
                    let mut inside = TcpStream::connect(peer).await.unwrap();
                    if number > silent {
                        tokio::select! {
                            _ = copy_bidirectional(&mut outside, &mut inside) => return,
                            () = silenced.notified() => {}
                        }
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { address, silence, connections, _tasks: tasks }
    }
}

#[tokio::test]
async fn a_half_open_connection_costs_one_request_its_time() {
    let (grpc, http) = (GrpcPeer::start().await, HttpPeer::start().await);
    for (protocol, peer, path) in
        [(Protocol::Grpc, &grpc.endpoint, ""), (Protocol::HttpProtobuf, &http.endpoint, "/v1/traces")]
    {
        let relay = Relay::start(peer, 1).await;
        let mut settings = settings(protocol, &format!("http://{}{path}", relay.address));
        settings.request_timeout = Duration::from_millis(500);
        let exporter = Running::start(settings);
        exporter.export(&["a"]);
        let snapshot = exporter.finish().await;
        assert_eq!((snapshot.exported, snapshot.requests_failed), (1, 1), "{snapshot:?}");
        assert_eq!(snapshot.last_error.as_deref(), Some("no answer within 500ms"));
        assert_eq!(*relay.connections.lock().unwrap(), 2);
    }
}

/// A request may have hours: that its connection is dead is noticed long before.
#[tokio::test]
async fn a_peer_that_goes_silent_is_noticed_by_keepalive() {
    let peer = GrpcPeer::start().await;
    let relay = Relay::start(&peer.endpoint, 0).await;
    let settings = of(Signal::Traces, Protocol::Grpc, &format!("http://{}", relay.address));
    let sink = GrpcSink::new(&settings, Duration::from_secs(3600)).unwrap();
    assert_eq!(sink.send(Bytes::new(), NOW.mono).await, rejected(0, ""));
    relay.silence.notify_one();
    // Lets the relay hear it; from here on only timers do anything.
    tokio::task::yield_now().await;
    tokio::time::pause();
    let minute = Duration::from_secs(60);
    let outcome = tokio::time::timeout(minute, sink.send(Bytes::new(), NOW.mono)).await.unwrap();
    let Outcome::Retry { delay: None, error } = outcome else { panic!("{outcome:?}") };
    assert!(error.contains("keep-alive timed out"), "{error}");
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let (grpc, http) = (GrpcPeer::start().await, HttpPeer::start().await);
    for (protocol, peer, path) in
        [(Protocol::Grpc, &grpc.endpoint, ""), (Protocol::HttpJson, &http.endpoint, "/v1/traces")]
    {
        let relay = Relay::start(peer, 0).await;
        let exporter = Running::start(settings(protocol, &format!("http://{}{path}", relay.address)));
        for sent in 1..=20 {
            exporter.export(&["a"]);
            exporter.until(|snapshot| snapshot.exported == sent).await;
        }
        assert_eq!(*relay.connections.lock().unwrap(), 1);
    }
}

#[tokio::test]
async fn answers_that_are_garbage_lose_nothing() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let mut peer = JoinSet::new();
        peer.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.readable().await.unwrap();
                let mut stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                // Who does not listen to the end is right.
                let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            }
        });
        let exporter = Running::start(settings(protocol, &endpoint));
        exporter.export(&["a"]);
        let snapshot = exporter.until(|snapshot| snapshot.requests_failed >= 3).await;
        assert_eq!((snapshot.queued_items, snapshot.refused_total()), (1, 0), "{snapshot:?}");
    }
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut body).unwrap();
    body
}
