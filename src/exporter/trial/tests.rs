//! What somebody is told whose endpoint is right, or mistaken in one of the usual ways.

use axum::http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::*;
use crate::exporter::settings::TlsFiles;
use crate::exporter::signal::Signal;
use crate::exporter::tests::peer::{Answer as Says, GrpcPeer, HttpPeer, answer, nobody};
use crate::exporter::tests::pki::{Authority, Files, TlsFront};
use crate::exporter::tests::{clock, otlp, settings};

async fn tried(protocol: Protocol, endpoint: &str) -> Trial {
    tried_with(protocol, endpoint, TlsFiles::default()).await
}

async fn tried_with(protocol: Protocol, endpoint: &str, tls: TlsFiles) -> Trial {
    let settings = OtlpSettings { tls, ..otlp(&mut settings(protocol, endpoint)).clone() };
    Trial::run(&settings, &clock()).await
}

/// The only hint of a trial that failed.
fn hint(trial: &Trial) -> &str {
    assert!(!trial.is_well());
    let [hint] = trial.hints.as_slice() else { panic!("{trial:?}") };
    hint
}

#[tokio::test]
async fn peers_that_take_it_are_well() {
    let (grpc, http) = (GrpcPeer::start().await, HttpPeer::start().await);
    for (protocol, endpoint) in [
        (Protocol::Grpc, &grpc.endpoint),
        (Protocol::HttpProtobuf, &http.endpoint),
        (Protocol::HttpJson, &http.endpoint),
    ] {
        let trial = tried(protocol, endpoint).await;
        assert!(trial.is_well() && trial.hints.is_empty() && trial.trouble.is_none(), "{trial:?}");
        assert!(trial.connected.is_some() && trial.tls.is_none(), "{trial:?}");
    }
    assert_eq!((grpc.requests().len(), http.requests().len()), (1, 2));
    assert!(grpc.requests()[0].resource_spans.is_empty());
}

#[tokio::test]
async fn a_remark_is_passed_on() {
    let peer = GrpcPeer::start().await;
    peer.answers([Says::Partial(0, "be well".to_owned())]);
    let trial = tried(Protocol::Grpc, &peer.endpoint).await;
    assert_eq!(trial.answer.unwrap().0, Answer::Taken("be well".to_owned()));
}

#[tokio::test]
async fn certificates_are_told() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let peer = GrpcPeer::start().await;
    let front = TlsFront::start(&peer.endpoint, &authority.issue(&["localhost"]), None).await;
    let endpoint = format!("https://localhost:{}", front.address.port());
    let trial = tried_with(Protocol::Grpc, &endpoint, files.trusting(&authority)).await;
    assert!(trial.is_well(), "{trial:?}");
    let tls = trial.tls.unwrap();
    assert_eq!(tls.version, "TLSv1_3");
    assert_eq!(tls.trusts, format!("the certificates in {}/ca.pem", files.folder().display()));
    assert!(tls.subject.contains("a peer") && tls.issuer.contains("ours"), "{tls:?}");
    assert_eq!(tls.expires, "4096-01-01T00:00:00Z");
}

#[tokio::test]
async fn nobody_listens() {
    let endpoint = format!("http://{}", nobody());
    let trial = tried(Protocol::Grpc, &endpoint).await;
    assert_eq!(trial.trouble.as_ref().unwrap().step, Step::Tcp);
    assert!(hint(&trial).starts_with("nobody listens there; OTLP's usual ports"), "{trial:?}");

    let mut default = otlp(&mut settings(Protocol::HttpProtobuf, &endpoint)).clone();
    default.endpoint_origin = "the default; OTEL_EXPORTER_OTLP_ENDPOINT changes it".to_owned();
    let trial = Trial::run(&default, &clock()).await;
    assert!(hint(&trial).starts_with("nobody listens there; is a Collector running?"), "{trial:?}");
}

#[tokio::test]
async fn a_name_that_nobody_has() {
    let trial = tried(Protocol::Grpc, "http://no-such-host.invalid:4317").await;
    assert_eq!(trial.trouble.as_ref().unwrap().step, Step::Dns);
    assert!(hint(&trial).starts_with("no address was found"), "{trial:?}");
}

#[tokio::test]
async fn ports_that_are_mixed_up() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let (grpc, http) = (GrpcPeer::start().await, HttpPeer::start().await);
    let front = TlsFront::start(&grpc.endpoint, &authority.issue(&["127.0.0.1"]), None).await;
    let tls = front.address;
    let mut tasks = JoinSet::new();
    for (protocol, endpoint, expected) in [
        (Protocol::Grpc, http.endpoint.replace("/v1/traces", ""), "the peer speaks HTTP there, not gRPC"),
        (Protocol::Grpc, http1(&mut tasks).await, "the peer speaks HTTP there, not gRPC"),
        (Protocol::HttpProtobuf, format!("{}/v1/traces", grpc.endpoint), "the peer speaks HTTP/2 only"),
        (Protocol::HttpJson, format!("{}/v1/traces", grpc.endpoint), "the peer speaks HTTP/2 only"),
        (Protocol::Grpc, format!("http://{tls}"), "the peer speaks TLS there: https"),
        (Protocol::HttpProtobuf, format!("http://{tls}/v1/traces"), "the peer speaks TLS there: https"),
        (Protocol::Grpc, grpc.endpoint.replace("http:", "https:"), "the endpoint says https, the peer"),
        (
            Protocol::HttpProtobuf,
            http.endpoint.replace("http:", "https:"),
            "the endpoint says https, the peer",
        ),
    ] {
        let trial = tried_with(protocol, &endpoint, files.trusting(&authority)).await;
        assert!(hint(&trial).starts_with(expected), "{protocol} {endpoint}: {trial:?}");
    }
}

/// A server of HTTP/1 alone, as the Collector has one.
async fn http1(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut start = [0; 24];
            // Who only connects is not answered.
            if stream.read_exact(&mut start).await.is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    });
    endpoint
}

#[tokio::test]
async fn certificates_that_do_not_fit() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let peer = GrpcPeer::start().await;
    for (own, clients, expected) in [
        (Authority::new("theirs").issue(&["127.0.0.1"]), None, "OTEL_EXPORTER_OTLP_CERTIFICATE names"),
        (authority.issue(&["elsewhere.example"]), None, "the endpoint's host must be a name"),
        (authority.issue(&["127.0.0.1"]), Some(&authority), "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and"),
    ] {
        let front = TlsFront::start(&peer.endpoint, &own, clients).await;
        let endpoint = format!("https://{}", front.address);
        let trial = tried_with(Protocol::Grpc, &endpoint, files.trusting(&authority)).await;
        assert!(hint(&trial).starts_with(expected), "{trial:?}");
    }
    let files = TlsFiles { ca: Some("/does/not/exist".into()), client: None };
    let trial = tried_with(Protocol::Grpc, "https://127.0.0.1:1", files).await;
    let trouble = trial.trouble.unwrap();
    assert_eq!(trouble.step, Step::Settings);
    assert!(trouble.error.contains("/does/not/exist"), "{trouble:?}");
}

#[tokio::test]
async fn requests_that_are_refused() {
    let http = HttpPeer::start().await;
    for (status, expected) in [
        (
            StatusCode::NOT_FOUND,
            "the peer does not know the path /v1/traces: it may have no pipeline for traces: add one, or set OTEL_TRACES_EXPORTER=none",
        ),
        (StatusCode::UNAUTHORIZED, "OTEL_EXPORTER_OTLP_HEADERS"),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the peer does not take http/json"),
    ] {
        http.answers([answer(status, &[], "")]);
        let trial = tried(Protocol::HttpJson, &http.endpoint).await;
        assert!(hint(&trial).starts_with(expected), "{trial:?}");
    }
    let grpc = GrpcPeer::start().await;
    for (code, expected) in [
        (Code::Unauthenticated, "OTEL_EXPORTER_OTLP_HEADERS"),
        (Code::Unimplemented, "the peer takes no traces by gRPC"),
    ] {
        grpc.answers([Says::Status(Status::new(code, "no"))]);
        let trial = tried(Protocol::Grpc, &grpc.endpoint).await;
        assert!(hint(&trial).starts_with(expected), "{trial:?}");
    }
}

/// A Collector has a path and a service for each signal that it has a pipeline for, and for no other.
#[tokio::test]
async fn a_peer_that_does_not_know_the_signal() {
    let (grpc, http) = (GrpcPeer::start().await, HttpPeer::start().await);
    for signal in [Signal::Metrics, Signal::Logs] {
        let base = http.endpoint.replace("/v1/traces", "");
        for (protocol, endpoint) in [
            (Protocol::Grpc, grpc.endpoint.clone()),
            (Protocol::HttpProtobuf, format!("{base}/{}", signal.http_path())),
        ] {
            http.answers([answer(StatusCode::NOT_FOUND, &[], "404 page not found")]);
            let settings = OtlpSettings { signal, ..otlp(&mut settings(protocol, &endpoint)).clone() };
            let trial = Trial::run(&settings, &clock()).await;
            assert!(hint(&trial).contains(&signal.without_pipeline()), "{trial:?}");
        }
        let elsewhere = format!("{base}/v1/elsewhere");
        let settings = otlp(&mut settings(Protocol::HttpJson, &elsewhere)).clone();
        http.answers([answer(StatusCode::NOT_FOUND, &[], "404 page not found")]);
        let trial = Trial::run(&OtlpSettings { signal, ..settings }, &clock()).await;
        assert!(hint(&trial).contains("the usual one is /v1/"), "{trial:?}");
    }
}

/// Whoever says nothing at all costs the limits of the steps, and no more.
#[tokio::test]
async fn a_peer_that_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let trial = tried(Protocol::Grpc, &endpoint).await;
    assert_eq!(trial.answer.as_ref().unwrap().0, Answer::Failed("no answer within 5s".to_owned()));
    assert_eq!(trial.speaks, Some(Speech::Nothing));
    assert!(hint(&trial).starts_with("whoever listens there"), "{trial:?}");
}
