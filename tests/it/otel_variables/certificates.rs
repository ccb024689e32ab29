//! Certificates that protect the way to the peer.

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
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::export::{LIMIT, send_spans, start};
use super::{Pair, Seen};
use crate::support::sink::Sink;
use crate::support::until;
use crate::support::worker::{event, wall};

/// What a client has of its authority.
const FILES: [&str; 3] = ["ca.pem", "client.key", "client.pem"];

const GENERIC: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
];
const TRACES: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
];
const METRICS: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
];
const LOGS: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
];

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

/// A peer that has a certificate of `ours` and wants one of `ours`, and an authority that it does not know.
struct Peer {
    ours: Authority,
    others: Authority,
    sink: Sink,
    endpoint: String,
    _front: JoinSet<()>,
}

impl Peer {
    async fn new() -> Result<Self> {
        let (ours, others) = (Authority::new()?, Authority::new()?);
        ours.issue("server")?;
        ours.issue("client")?;
        others.issue("client")?;
        let sink = Sink::http().await?;
        let mut front = JoinSet::new();
        let port = ours.front(sink.address.to_string(), &mut front).await?;
        let endpoint = format!("https://localhost:{port}");
        Ok(Self { ours, others, sink, endpoint, _front: front })
    }
}

/// The variables of these names, in the order of [`FILES`], with the files of an authority.
fn files(names: [&'static str; 3], authority: &Authority) -> Vec<(&'static str, String)> {
    names.into_iter().zip(FILES.map(|file| authority.shown(file))).collect()
}

fn pairs<'a>(files: &'a [(&'static str, String)]) -> Vec<Pair<'a>> {
    files.iter().map(|(name, file)| (*name, &**file)).collect()
}

/// With all three files spans arrive; without any of them, or with another authority's, none does.
pub(super) async fn protect_the_way() -> Result<Seen> {
    let peer = Peer::new().await?;
    let to = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*peer.endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let [generic, wrong, traces] =
        [files(GENERIC, &peer.ours), files(GENERIC, &peer.others), files(TRACES, &peer.ours)];
    let [generic, wrong, traces] = [&generic, &wrong, &traces].map(|files| pairs(files));
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
    ensure!(peer.sink.received().is_empty(), "whoever is not trusted is told nothing");
    for (arrived, trusted) in [(1, generic), (2, [wrong, traces].concat())] {
        let (_bridge, worker) = start(&[&to[..], &trusted].concat()).await?;
        send_spans(&worker, 1).await?;
        until("a span", LIMIT, async || Ok((peer.sink.received().len() == arrived).then_some(()))).await?;
    }
    Ok([GENERIC, TRACES].concat())
}

/// The files of a signal beat the generic ones, for each signal.
pub(super) async fn protect_the_way_of_other_signals() -> Result<Seen> {
    let peer = Peer::new().await?;
    let own = [files(METRICS, &peer.ours), files(LOGS, &peer.ours)].concat();
    let wrong = files(GENERIC, &peer.others);
    let to = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*peer.endpoint), ("OTEL_METRIC_EXPORT_INTERVAL", "200")];
    let (_bridge, worker) = start(&[&to[..], &pairs(&own), &pairs(&wrong)].concat()).await?;
    send_spans(&worker, 1).await?;
    worker.send(&event("worker.ready", "", wall())).await?;
    peer.sink.metric_of("worker_1", "snakepit.python.operation_0.duration", LIMIT).await?;
    peer.sink.records_of("worker_1", 1, LIMIT).await?;
    ensure!(peer.sink.received().is_empty(), "spans have the generic files, which nobody trusts");
    Ok([METRICS, LOGS].concat())
}
