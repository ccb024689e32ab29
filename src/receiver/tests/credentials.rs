//! The worker port behind TLS, client certificates and a token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::authority::{Authority, Certified, Subject};
use super::rig::{Options, PATIENCE, Rig, Worker, eventually, open};
use super::*;
use crate::proto::service::snakepit_bridge_client::SnakepitBridgeClient;
use crate::receiver::credentials::{CredentialFiles, Credentials, FileError, Role, TlsFiles};
use crate::receiver::listen::{Connections, Door, PREFACE_LIMIT};
use crate::receiver::refusals::{RefusedConnection, Unauthenticated};
use crate::receiver::tls::ClientId;

/// The files of a port, and who signs for it.
struct Port {
    directory: TempDir,
    authority: Authority,
    client_id: ClientId,
    client_ca: bool,
    token: Option<&'static str>,
}

impl Port {
    fn tls() -> Self {
        let port = Self {
            directory: TempDir::new().unwrap(),
            authority: Authority::new(),
            client_id: ClientId::None,
            client_ca: false,
            token: None,
        };
        port.authority.server().write(port.directory.path(), "bridge");
        std::fs::write(port.path("ca.pem"), &port.authority.pem).unwrap();
        port
    }

    fn mutual(client_id: ClientId) -> Self {
        Self { client_id, client_ca: true, ..Self::tls() }
    }

    fn with_token(token: &'static str) -> Self {
        let port = Self { token: Some(token), ..Self::tls() };
        std::fs::write(port.path("token"), token).unwrap();
        port
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn files(&self) -> CredentialFiles {
        CredentialFiles {
            tls: Some(TlsFiles {
                certificate: self.path("bridge.pem"),
                key: self.path("bridge.key"),
                client_ca: self.client_ca.then(|| self.path("ca.pem")),
                client_id: self.client_id,
            }),
            token: self.token.map(|_| self.path("token")),
        }
    }

    async fn serve(&self) -> Rig {
        Rig::start(Options { credentials: Credentials::load(self.files()).unwrap(), ..Options::default() })
            .await
    }

    fn channel(&self, address: SocketAddr, certified: Option<&Certified>) -> Channel {
        channel(&self.authority, address, certified)
    }

    /// A stream of `worker_1` over TLS, with these further headers.
    async fn worker(
        &self,
        address: SocketAddr,
        certified: Option<&Certified>,
        headers: &[(&str, &str)],
    ) -> Result<Worker, Status> {
        let client = SnakepitBridgeClient::new(self.channel(address, certified));
        open(&client, &[&[("x-snakepit-worker-id", "worker_1")], headers].concat()).await
    }
}

fn channel(authority: &Authority, address: SocketAddr, certified: Option<&Certified>) -> Channel {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem)).domain_name("localhost");
    if let Some(certified) = certified {
        tls = tls.identity(Identity::from_pem(&certified.pem, &certified.key));
    }
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect_lazy()
}

/// What tonic's client makes of a connection that ends before it answers.
fn is_broken_connection(refusal: &Status) -> bool {
    matches!(refusal.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

fn refused(rig: &Rig, reason: RefusedConnection) -> u64 {
    rig.parts.stats.snapshot().refused_connections[reason.index()]
}

fn unauthenticated(rig: &Rig, reason: Unauthenticated) -> u64 {
    rig.parts.stats.snapshot().unauthenticated[reason.index()]
}

#[tokio::test]
async fn events_arrive_over_tls() {
    let port = Port::tls();
    let mut rig = port.serve().await;

    let worker = port.worker(rig.address, None, &[]).await.unwrap();

    let opened = rig.opened().await;
    assert_eq!(&*opened.worker.id, "worker_1");
    assert_eq!(&*opened.worker.node, "bridge-host", "the peer's address is known behind TLS too");
    for _ in 0..100 {
        worker.send(&[b'x'; 10_000]).await;
    }
    assert_eq!(rig.messages(opened.stream, 100).await.len(), 100);
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_closed_and_counted() {
    let port = Port::tls();
    let mut rig = port.serve().await;

    let refusal = open(&rig.client(), &[]).await.map(|_| ()).unwrap_err();

    assert!(is_broken_connection(&refusal), "{refusal:?}");
    eventually(|| refused(&rig, RefusedConnection::PlainText) >= 1).await;
    let _ = port.worker(rig.address, None, &[]).await.unwrap();
    rig.opened().await;
}

/// Each is closed within its handshake, and counted under its own reason.
#[tokio::test]
async fn a_client_certificate_that_is_missing_foreign_or_expired_is_refused() {
    let port = Port::mutual(ClientId::None);
    let mut rig = port.serve().await;
    let foreign = Authority::new().certify(&Subject { common_name: "worker_1", ..Subject::default() });
    let expired =
        port.authority.certify(&Subject { common_name: "worker_1", expired: true, ..Subject::default() });

    for (certified, reason) in [
        (None, RefusedConnection::NoCertificate),
        (Some(&foreign), RefusedConnection::UnknownCertificate),
        (Some(&expired), RefusedConnection::ExpiredCertificate),
    ] {
        let refusal = port.worker(rig.address, certified, &[]).await.map(|_| ()).unwrap_err();
        assert!(is_broken_connection(&refusal), "{reason:?}: {refusal:?}");
        eventually(|| refused(&rig, reason) >= 1).await;
    }
    assert_eq!(rig.parts.stats.snapshot().streams_total, 0);

    let good = port.authority.certify(&Subject { common_name: "anything", ..Subject::default() });
    let _worker = port.worker(rig.address, Some(&good), &[]).await.unwrap();
    rig.opened().await;
    eventually(|| rig.parts.stats.snapshot().connections_open == 1).await;
}

#[tokio::test]
async fn a_certificate_binds_the_ids_that_its_field_matches() {
    let subject = Subject {
        common_name: "worker_*",
        dns: &["worker-1.example.org", "worker_1"],
        uris: &["spiffe://example.org/worker_1"],
        ..Subject::default()
    };
    for (client_id, allowed, refused) in [
        (
            ClientId::CommonName,
            vec!["worker_1", "worker_x.y"],
            vec!["Worker_1", "x-worker_1", "worker-1.example.org"],
        ),
        (
            ClientId::Dns,
            vec!["worker_1", "worker-1.example.org"],
            vec!["worker_2", "worker-1.example.org.evil"],
        ),
        (ClientId::Uri, vec!["spiffe://example.org/worker_1"], vec!["worker_1", "worker_*"]),
        (ClientId::None, vec!["anything"], vec![]),
    ] {
        let port = Port::mutual(client_id);
        let mut rig = port.serve().await;
        let certified = port.authority.certify(&subject);
        let client = SnakepitBridgeClient::new(port.channel(rig.address, Some(&certified)));
        for id in allowed {
            let _ = open(&client, &[("x-snakepit-worker-id", id)]).await.unwrap();
            assert_eq!(&*rig.opened().await.worker.id, id);
            rig.next().await;
        }
        for (index, id) in refused.iter().enumerate() {
            let refusal = open(&client, &[("x-snakepit-worker-id", id)]).await.map(|_| ()).unwrap_err();
            assert_eq!(refusal.code(), Code::Unauthenticated, "{client_id:?}: {id}");
            assert_eq!(refusal.message(), "valid credentials are needed");
            assert_eq!(unauthenticated(&rig, Unauthenticated::WorkerId), index as u64 + 1);
        }
        if client_id != ClientId::None {
            let refusal = open(&client, &[]).await.map(|_| ()).unwrap_err();
            assert_eq!(refusal.code(), Code::Unauthenticated, "a worker that says no id");
        }
    }
}

#[tokio::test]
async fn every_request_but_health_wants_the_token() {
    let port = Port::with_token("s3cret");
    let mut rig = port.serve().await;
    let channel = port.channel(rig.address, None);

    for (headers, reason) in [
        (vec![], Unauthenticated::NoToken),
        (vec![("authorization", "Basic s3cret")], Unauthenticated::NoToken),
        (vec![("authorization", "Bearer s3cre")], Unauthenticated::WrongToken),
        (vec![("authorization", "Bearer s3crets")], Unauthenticated::WrongToken),
        (vec![("authorization", "Bearer ")], Unauthenticated::WrongToken),
    ] {
        let before = unauthenticated(&rig, reason);
        let refusal = port.worker(rig.address, None, &headers).await.map(|_| ()).unwrap_err();
        assert_eq!(refusal.code(), Code::Unauthenticated, "{headers:?}");
        assert_eq!(refusal.message(), "valid credentials are needed", "{headers:?}");
        assert_eq!(unauthenticated(&rig, reason), before + 1, "{headers:?}");
    }

    let asking = tokio_stream::once(ServerReflectionRequest::default());
    let refusal =
        ServerReflectionClient::new(channel.clone()).server_reflection_info(asking).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unauthenticated);
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status, 1);

    let _ = port.worker(rig.address, None, &[("authorization", "bearer s3cret")]).await.unwrap();
    rig.opened().await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_holds_nobody_up_and_is_closed() {
    let port = Port::tls();
    let mut rig = port.serve().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }

    let _worker = port.worker(rig.address, None, &[]).await.unwrap();

    rig.opened().await;
    tokio::time::pause();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, silent[0].read_to_end(&mut rest)).await.unwrap().unwrap();
    tokio::time::resume();
    eventually(|| refused(&rig, RefusedConnection::HandshakeTimeout) == 50).await;
    eventually(|| rig.parts.stats.snapshot().connections_open == 1).await;
}

#[tokio::test]
async fn a_handshake_too_many_is_closed_and_those_under_way_are_not_disturbed() {
    let port = Port::tls();
    let stats = Arc::<ReceiverStats>::default();
    let door = Door {
        credentials: Credentials::load(port.files()).unwrap(),
        max_connections: 10,
        max_handshakes: 2,
        stats: Arc::clone(&stats),
    };
    let mut connections = Connections::bind("127.0.0.1:0".parse().unwrap(), door).unwrap();
    let address = connections.local_addr();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let accepted = connections.next().await;
        (accepted.unwrap().unwrap(), connections)
    });
    let too_many = RefusedConnection::TooManyHandshakes.index();
    let silent = TcpStream::connect(address).await.unwrap();
    let slow = TcpStream::connect(address).await.unwrap();
    eventually(|| stats.snapshot().connections_open == 2).await;

    let mut third = TcpStream::connect(address).await.unwrap();

    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, third.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
    assert_eq!(stats.snapshot().refused_connections[too_many], 1);

    drop(slow);
    eventually(|| stats.snapshot().connections_open == 1).await;
    let client = SnakepitBridgeClient::new(port.channel(address, None));
    tokio::select! {
        _ = open(&client, &[]) => panic!("nobody answers here"),
        accepted = server.join_next() => assert!(accepted.unwrap().is_ok()),
    }
    drop(silent);
}

/// What no TLS library would send: the port survives all of it, and counts all of it.
#[tokio::test]
async fn garbage_instead_of_a_handshake_is_refused() {
    let port = Port::tls();
    let mut rig = port.serve().await;
    let client_hello_of_nothing = [&b"\x16\x03\x01\x00\x20\x01\x00\x00\x1c\x03\x03"[..], &[0; 32]].concat();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff",
        b"\x15\x03\x03\x00\x02\x02\x28",
        &client_hello_of_nothing,
        b"",
    ] {
        let mut peer = TcpStream::connect(rig.address).await.unwrap();
        peer.write_all(garbage).await.unwrap();
        peer.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // The bridge may reset the connection, which is an end as good as any.
        let _ = tokio::time::timeout(PATIENCE, peer.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() <= 7, "no more than an alert: {answer:?}");
    }

    eventually(|| rig.parts.stats.snapshot().refused_connections.iter().sum::<u64>() == 5).await;
    let _worker = port.worker(rig.address, None, &[]).await.unwrap();
    rig.opened().await;
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_the_others_are_not_disturbed() {
    let mut rig = Rig::start(Options { max_connections: 2, ..Options::default() }).await;
    let first = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;
    let second = rig.worker(&[]).await;
    rig.opened().await;

    let refusal = open(&rig.client(), &[]).await.map(|_| ()).unwrap_err();

    assert!(is_broken_connection(&refusal), "{refusal:?}");
    eventually(|| refused(&rig, RefusedConnection::TooMany) >= 1).await;
    first.send(b"event").await;
    assert_eq!(rig.messages(stream, 1).await, ["event"]);

    drop(second);
    eventually(|| rig.parts.stats.snapshot().connections_open == 1).await;
    rig.next().await;
    let _third = rig.worker(&[]).await;
    rig.opened().await;
}

/// Files are replaced under a running bridge, one after the other, by sound and by broken ones.
#[tokio::test]
async fn files_that_change_are_read_again_and_broken_ones_change_nothing() {
    let port = Port::with_token("first");
    let mut rig = port.serve().await;
    let _before = port.worker(rig.address, None, &[("authorization", "Bearer first")]).await.unwrap();
    rig.opened().await;

    std::fs::write(port.path("bridge.pem"), "no certificate").unwrap();
    std::fs::write(port.path("token"), "second\n").unwrap();
    worker_comes(&port.authority, rig.address, "second").await;

    let renewed = Authority::new();
    renewed.server().write(port.directory.path(), "bridge");
    worker_comes(&renewed, rig.address, "second").await;

    std::fs::remove_file(port.path("token")).unwrap();
    port.authority.server().write(port.directory.path(), "bridge");
    worker_comes(&port.authority, rig.address, "second").await;
    let counts = rig.parts.stats.snapshot();
    assert_eq!(counts.streams_broken, 0, "nobody who was there is disturbed");
}

/// Waits until a worker that trusts this authority, and has this token, is let in.
async fn worker_comes(authority: &Authority, address: SocketAddr, token: &str) {
    let bearer = format!("Bearer {token}");
    tokio::time::timeout(PATIENCE, async {
        loop {
            let client = SnakepitBridgeClient::new(channel(authority, address, None));
            if open(&client, &[("authorization", &bearer)]).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("no worker is let in");
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let port = Port::with_token("s3cret");
    let write = |name: &str, text: &str| {
        std::fs::write(port.path(name), text).unwrap();
        port.path(name)
    };
    let other = port.authority.server().write(port.directory.path(), "other").1;
    let certificate = port.path("bridge.pem");
    let key = port.path("bridge.key");
    let text = write("text", "no PEM");
    let torn = write("torn", &std::fs::read_to_string(&certificate).unwrap()[..200]);
    let big = write("big", &"x".repeat(2 << 20));
    let missing = port.path("missing");
    let load = |certificate: &Path, key: &Path, client_ca: Option<&Path>| {
        let tls = TlsFiles {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: client_ca.map(Path::to_owned),
            client_id: ClientId::None,
        };
        let errors = Credentials::load(CredentialFiles { tls: Some(tls), token: None }).unwrap_err();
        let [FileError { role, path, reason }] = <[_; 1]>::try_from(errors).unwrap();
        (role, path.file_name().unwrap().to_str().unwrap().to_owned(), reason)
    };
    let named = |role, name: &str, reason: &str| (role, name.to_owned(), reason.to_owned());

    assert_eq!(load(&text, &key, None), named(Role::Certificate, "text", "it holds no certificate in PEM"));
    assert_eq!(load(&torn, &key, None), named(Role::Certificate, "torn", "its PEM is broken"));
    assert_eq!(
        load(&certificate, &text, None),
        named(Role::Key, "text", "it holds no private key in PEM (an encrypted one cannot be read)")
    );
    assert_eq!(
        load(&certificate, &other, None),
        named(Role::Key, "other.key", "it is not the key of the certificate")
    );
    assert_eq!(
        load(&certificate, &key, Some(&text)),
        named(Role::ClientCa, "text", "it holds no certificate in PEM")
    );
    assert_eq!(
        load(&certificate, &missing, None),
        named(Role::Key, "missing", "No such file or directory (os error 2)")
    );
    assert_eq!(load(&big, &key, None), named(Role::Certificate, "big", "it is larger than 1048576 bytes"));

    let errors = Credentials::load(CredentialFiles {
        tls: Some(TlsFiles { certificate: text, key, client_ca: None, client_id: ClientId::None }),
        token: Some(missing),
    })
    .unwrap_err();
    assert_eq!(errors.iter().map(|error| error.role).collect::<Vec<_>>(), [Role::Certificate, Role::Token]);
}

/// A connection that is silent once its TLS is done.
async fn silent_tls(port: &Port, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let files = crate::exporter::settings::TlsFiles { ca: Some(port.path("ca.pem")), client: None };
    let tls = crate::exporter::tls::PeerTls::new(&files, &[b"h2"]).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    tokio_rustls::TlsConnector::from(tls.config()).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn a_connection_without_a_preface_gives_its_seat_back_and_an_idle_worker_keeps_its() {
    let port = Port::tls();
    for options in [
        Options::default(),
        Options { credentials: Credentials::load(port.files()).unwrap(), ..Options::default() },
    ] {
        let is_tls = options.credentials.tls().is_some();
        let mut rig = Rig::start(options).await;
        let worker =
            if is_tls { port.worker(rig.address, None, &[]).await.unwrap() } else { rig.worker(&[]).await };
        let stream = rig.opened().await.stream;
        let mut plain = TcpStream::connect(rig.address).await.unwrap();
        // What is begun is not done.
        plain.write_all(if is_tls { b"" } else { b"PRI * HTTP/2.0\r\n\r\nSM" }).await.unwrap();
        let tls = if is_tls { Some(silent_tls(&port, rig.address).await) } else { None };
        eventually(|| rig.parts.stats.snapshot().connections_open == 2 + u64::from(is_tls)).await;

        tokio::time::pause();
        tokio::time::sleep(PREFACE_LIMIT * 2).await;
        tokio::time::resume();

        eventually(|| refused(&rig, RefusedConnection::Silent) == 1).await;
        eventually(|| rig.parts.stats.snapshot().connections_open == 1).await;
        worker.send(b"\x0a\x01x").await;
        assert_eq!(rig.messages(stream, 1).await.len(), 1);
        drop((plain, tls));
    }
}
