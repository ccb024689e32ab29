//! What needs transports: certificates, OTLP/JSON over HTTP and as lines.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::export::{LIMIT, send_spans, start};
use super::{Pair, Seen, names};
use crate::support::sink::Sink;
use crate::support::until;
use crate::support::worker::{event, wall};

/// Who issues certificates, into a folder.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = TempDir::new()?;
        fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { issuer, folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Issues `<name>.pem` and `<name>.key`.
    fn issue(&self, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &self.issuer)?;
        fs::write(self.file(&format!("{name}.pem")), certificate.pem())?;
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// A front for a peer that has a certificate of ours and wants one of ours; answers its port.
    async fn front(&self, peer: String, tasks: &mut JoinSet<()>) -> Result<u16> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem"))?)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let chain = vec![CertificateDer::from_pem_file(self.file("server.pem"))?];
        let key = PrivateKeyDer::from_pem_file(self.file("server.key"))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, peer) = (acceptor.clone(), peer.clone());
                connections.spawn(async move {
                    // Whoever is refused, or hangs up, shows in what the peer got.
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let Ok(mut inside) = TcpStream::connect(peer).await else { return };
                    let _ = copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Ok(port)
    }
}

/// With all three files spans arrive; without any of them, or with another authority's, none does.
pub(super) async fn certificates_protect_the_way() -> Result<Seen> {
    let (ours, others) = (Authority::new()?, Authority::new()?);
    ours.issue("server")?;
    ours.issue("client")?;
    others.issue("client")?;
    let sink = Sink::http().await?;
    let mut tasks = JoinSet::new();
    let port = ours.front(sink.address.to_string(), &mut tasks).await?;
    let endpoint = format!("https://localhost:{port}");
    let to = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let [ca, key, certificate] = ["ca.pem", "client.key", "client.pem"].map(|name| ours.shown(name));
    let [wrong_ca, wrong_key, wrong_certificate] =
        ["ca.pem", "client.key", "client.pem"].map(|name| others.shown(name));
    let generic = [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*ca),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*key),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*certificate),
    ];
    let wrong = [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*wrong_ca),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*wrong_key),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*wrong_certificate),
    ];
    let traces = [
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", &*ca),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", &*key),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", &*certificate),
    ];
    for refused in
        [&generic[..1], &generic[1..], &[wrong[0], generic[1], generic[2]], &[generic[0], wrong[1], wrong[2]]]
    {
        let (bridge, worker) = start(&[&to[..], refused].concat()).await?;
        send_spans(&worker, 1).await?;
        until("a failure", LIMIT, async || {
            let failed = bridge.metric("snakepit_bridge_export_requests_failed_total").await?;
            Ok((failed > 0).then_some(()))
        })
        .await?;
    }
    ensure!(sink.received().is_empty(), "whoever is not trusted is told nothing");
    for (arrived, trusted) in [(1, generic.to_vec()), (2, [&wrong[..], &traces[..]].concat())] {
        let (_bridge, worker) = start(&[&to[..], &trusted].concat()).await?;
        send_spans(&worker, 1).await?;
        until("a span", LIMIT, async || Ok((sink.received().len() == arrived).then_some(()))).await?;
    }
    Ok([names(&generic), names(&traces)].concat())
}

/// The files of a signal beat the generic ones, for each signal.
pub(super) async fn certificates_protect_the_way_of_other_signals() -> Result<Seen> {
    let (ours, others) = (Authority::new()?, Authority::new()?);
    ours.issue("server")?;
    ours.issue("client")?;
    others.issue("client")?;
    let sink = Sink::http().await?;
    let mut tasks = JoinSet::new();
    let port = ours.front(sink.address.to_string(), &mut tasks).await?;
    let endpoint = format!("https://localhost:{port}");
    let [ca, key, certificate] = ["ca.pem", "client.key", "client.pem"].map(|name| ours.shown(name));
    let [wrong_ca, wrong_key, wrong_certificate] =
        ["ca.pem", "client.key", "client.pem"].map(|name| others.shown(name));
    let own = [
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", &*ca),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", &*key),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", &*certificate),
        ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", &*ca),
        ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", &*key),
        ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", &*certificate),
    ];
    let generic = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*wrong_ca),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*wrong_key),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*wrong_certificate),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ];
    let (_bridge, worker) = start(&[&own[..], &generic[..]].concat()).await?;
    send_spans(&worker, 1).await?;
    worker.send(&event("worker.ready", "", wall())).await?;
    sink.metric_of("worker_1", "snakepit.python.operation_0.duration", LIMIT).await?;
    sink.records_of("worker_1", 1, LIMIT).await?;
    ensure!(sink.received().is_empty(), "spans have the generic files, which nobody trusts");
    Ok(names(&own))
}

/// `http/json` is OTLP/JSON over HTTP.
pub(super) async fn json_goes_over_http() -> Result<Seen> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let variables: [Pair<'_>; 3] = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "HTTP/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ];
    let (_bridge, worker) = start(&variables).await?;
    send_spans(&worker, 1).await?;
    let (stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await??;
    let mut stream = BufReader::new(stream);
    let (mut length, mut is_json) = (0, false);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        length = line.strip_prefix("content-length: ").map_or(Ok(length), str::parse)?;
        is_json |= line == "content-type: application/json";
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")
        .await?;
    let request: serde_json::Value = serde_json::from_slice(&body)?;
    let span = &request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    ensure!(is_json && span["traceId"].as_str().is_some_and(|id| id.len() == 32), "{request}");
    Ok(vec!["OTEL_EXPORTER_OTLP_PROTOCOL"])
}

/// `otlp/stdout` is OTLP/JSON lines on standard output.
pub(super) async fn json_goes_to_standard_output() -> Result<Seen> {
    let variables = [("OTEL_TRACES_EXPORTER", "otlp/stdout"), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let (bridge, worker) = start(&variables).await?;
    send_spans(&worker, 1).await?;
    let is_data = |line: &String| {
        let data: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        data["resourceSpans"].is_array()
    };
    until("a line", LIMIT, async || Ok(bridge.output().iter().any(is_data).then_some(()))).await?;
    Ok(vec!["OTEL_TRACES_EXPORTER"])
}
