//! Over TLS, with certificates that are made here.

use bytes::Bytes;

use super::peer::{GrpcPeer, HttpPeer};
use super::pki::{Authority, Files, Issued, TlsFront};
use super::{Running, settings};
use crate::exporter::grpc::GrpcSink;
use crate::exporter::http::HttpSink;
use crate::exporter::retry::Outcome;
use crate::exporter::settings::{DEFAULT_REQUEST_TIMEOUT, OtlpSettings, Protocol, TlsFiles};
use crate::exporter::tls::RECHECK_INTERVAL;
use crate::time::{Monotonic, Now, UnixNanos};

const PROTOCOLS: [Protocol; 3] = [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson];
const HERE: &[&str] = &["127.0.0.1", "localhost"];

/// A peer of any protocol, and the front before it.
struct TlsPeer {
    front: TlsFront,
    grpc: GrpcPeer,
    http: HttpPeer,
    protocol: Protocol,
}

impl TlsPeer {
    async fn start(protocol: Protocol, own: &Issued, clients: Option<&Authority>) -> Self {
        let (grpc, http) = (GrpcPeer::start().await, HttpPeer::start().await);
        let plain = if protocol == Protocol::Grpc { &grpc.endpoint } else { &http.endpoint };
        Self { front: TlsFront::start(plain, own, clients).await, grpc, http, protocol }
    }

    fn requests(&self) -> usize {
        self.grpc.requests().len() + self.http.requests().len()
    }

    fn settings(&self, host: &str, files: TlsFiles) -> OtlpSettings {
        let path = if self.protocol == Protocol::Grpc { "" } else { "/v1/traces" };
        let endpoint = format!("https://{host}:{}{path}", self.front.address.port());
        let mut settings = settings(self.protocol, &endpoint);
        super::otlp(&mut settings).tls = files;
        super::otlp(&mut settings).clone()
    }

    fn sink(&self, files: TlsFiles) -> Sink {
        Sink::new(&self.settings("127.0.0.1", files))
    }
}

/// A client whose clock the test holds.
enum Sink {
    Grpc(Box<GrpcSink>),
    Http(Box<HttpSink>),
}

impl Sink {
    fn new(settings: &OtlpSettings) -> Self {
        match settings.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(GrpcSink::new(settings, DEFAULT_REQUEST_TIMEOUT).unwrap())),
            Protocol::HttpProtobuf | Protocol::HttpJson => {
                Self::Http(Box::new(HttpSink::new(settings).unwrap()))
            }
        }
    }

    async fn send(&self, mono: Monotonic) -> Outcome {
        match self {
            Self::Grpc(sink) => sink.send(Bytes::new(), mono).await,
            Self::Http(sink) => sink.send(Bytes::new(), || Now { mono, wall: UnixNanos(0) }).await,
        }
    }
}

fn taken() -> Outcome {
    Outcome::Accepted { rejected_items: 0, message: String::new() }
}

/// Connections fail, and so are tried again; answers what is said of them.
fn will_retry(outcome: Outcome) -> String {
    match outcome {
        Outcome::Retry { delay: None, error } => error,
        outcome @ (Outcome::Retry { .. } | Outcome::Accepted { .. } | Outcome::Refused { .. }) => {
            panic!("{outcome:?}")
        }
    }
}

#[tokio::test]
async fn spans_arrive() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    for protocol in PROTOCOLS {
        for host in HERE {
            let peer = TlsPeer::start(protocol, &authority.issue(HERE), None).await;
            let mut settings = settings(protocol, "");
            *super::otlp(&mut settings) = peer.settings(host, files.trusting(&authority));
            let exporter = Running::start(settings);
            exporter.export(&["a"]);
            exporter.export(&["b"]);
            let snapshot = exporter.finish().await;
            assert_eq!((snapshot.exported, snapshot.requests_failed), (2, 0), "{snapshot:?}");
            assert_eq!(peer.requests() as u64, snapshot.requests_sent);
        }
    }
}

#[tokio::test]
async fn a_peer_that_wants_a_client_certificate_gets_it() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    for protocol in PROTOCOLS {
        let peer = TlsPeer::start(protocol, &authority.issue(HERE), Some(&authority)).await;
        let error = will_retry(peer.sink(files.trusting(&authority)).send(Monotonic(0)).await);
        assert!(error.contains("the peer wants a client certificate"), "{protocol}: {error}");

        let client = files.client(&authority.issue(&["a-bridge"]));
        let sink = peer.sink(TlsFiles { client, ..files.trusting(&authority) });
        assert_eq!(sink.send(Monotonic(0)).await, taken(), "{protocol}");

        let client = files.client(&Authority::new("theirs").issue(&["a-bridge"]));
        let sink = peer.sink(TlsFiles { client, ..files.trusting(&authority) });
        let error = will_retry(sink.send(Monotonic(0)).await);
        assert!(error.contains("client certificate"), "{protocol}: {error}");
        assert_eq!(peer.requests(), 1);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_peers_certificate_is_said() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    let cases = [
        (
            Authority::new("theirs").issue(HERE),
            "the peer's certificate comes from an authority that is not trusted here",
        ),
        (authority.issue_expired(), "the peer's certificate expired at 2020-01-01T00:00:00Z"),
        (
            authority.issue(&["elsewhere.example"]),
            "the peer's certificate is not for 127.0.0.1, but for DnsName(\"elsewhere.example\")",
        ),
    ];
    for protocol in PROTOCOLS {
        for (own, expected) in &cases {
            let peer = TlsPeer::start(protocol, own, None).await;
            let error = will_retry(peer.sink(files.trusting(&authority)).send(Monotonic(0)).await);
            assert!(error.contains(expected), "{protocol}: {error}");
            assert_eq!(peer.requests(), 0);
        }
    }
}

#[tokio::test]
async fn a_plaintext_peer_does_not_speak_tls() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    for protocol in PROTOCOLS {
        let peer = HttpPeer::start().await;
        let mut settings = settings(protocol, &peer.endpoint.replace("http:", "https:"));
        super::otlp(&mut settings).tls = files.trusting(&authority);
        let error = will_retry(Sink::new(super::otlp(&mut settings)).send(Monotonic(0)).await);
        assert!(error.contains("the peer does not speak TLS there"), "{protocol}: {error}");
    }
}

#[tokio::test]
async fn a_new_authority_is_trusted_without_a_restart() {
    let (old, new, files) = (Authority::new("old"), Authority::new("new"), Files::new());
    for protocol in PROTOCOLS {
        let peer = TlsPeer::start(protocol, &new.issue(HERE), None).await;
        let sink = peer.sink(files.trusting(&old));
        let now = Monotonic(0).after(RECHECK_INTERVAL);
        assert!(will_retry(sink.send(now).await).contains("not trusted here"));

        files.trusting(&new);
        assert!(will_retry(sink.send(now).await).contains("not trusted here"), "it was looked at just now");
        assert_eq!(sink.send(now.after(RECHECK_INTERVAL)).await, taken(), "{protocol}");
    }
}

/// The connection that there is was made with the old certificate: another is made.
#[tokio::test]
async fn a_new_client_certificate_is_shown_without_a_restart() {
    let (old, new, files) = (Authority::new("old"), Authority::new("new"), Files::new());
    for protocol in PROTOCOLS {
        let peer = TlsPeer::start(protocol, &old.issue(HERE), Some(&old)).await;
        let client = files.client(&old.issue(&["a-bridge"]));
        let sink = peer.sink(TlsFiles { client, ..files.trusting(&old) });
        let now = Monotonic(0).after(RECHECK_INTERVAL);
        assert_eq!(sink.send(now).await, taken());

        peer.front.change(&old.issue(HERE), Some(&new));
        files.client(&new.issue(&["a-bridge"]));
        assert_eq!(sink.send(now.after(RECHECK_INTERVAL)).await, taken(), "{protocol}");
        assert_eq!(peer.requests(), 2);
    }
}

#[tokio::test]
async fn new_files_that_cannot_be_used_leave_the_old_in_force() {
    let (authority, files) = (Authority::new("ours"), Files::new());
    for protocol in PROTOCOLS {
        let peer = TlsPeer::start(protocol, &authority.issue(HERE), None).await;
        let sink = peer.sink(files.trusting(&authority));
        let mut now = Monotonic(0).after(RECHECK_INTERVAL);
        files.write("ca.pem", "junk");
        assert_eq!(sink.send(now).await, taken(), "{protocol}");
        std::fs::remove_file(files.path("ca.pem")).unwrap();
        now = now.after(RECHECK_INTERVAL);
        assert_eq!(sink.send(now).await, taken(), "{protocol}");
    }
}
