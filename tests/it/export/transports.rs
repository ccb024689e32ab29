//! The real Collector takes what the bridge sends by each transport, however it is compressed and protected.

mod signals;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use super::{LIMIT, send_spans};
use crate::support::bridge::{Bridge, sum};
use crate::support::free_addresses;
use crate::support::peers::{collector_with, retried};
use crate::support::process::Process;
use crate::support::sink::Sink;
use crate::support::worker::Connector;

const PROTOCOLS: [&str; 3] = ["grpc", "http/protobuf", "http/json"];
const COMPRESSIONS: [&str; 3] = ["none", "gzip", "zstd"];
const SPANS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_and_compression_arrives_exactly() -> Result<()> {
    let collector = Collector::start().await?;
    for protocol in PROTOCOLS {
        for compression in COMPRESSIONS {
            let endpoint = format!("http://{}", collector.plain.of(protocol));
            let variables = [("OTEL_EXPORTER_OTLP_COMPRESSION", compression)];
            let name = format!("{protocol} {compression}");
            collector.takes_spans(&name, protocol, &endpoint, &variables).await.context(name)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_arrives_over_tls() -> Result<()> {
    let collector = Collector::start().await?;
    let ca = collector.file("ca.pem");
    let (certificate, key) = (collector.file("client.pem"), collector.file("client.key"));
    for protocol in PROTOCOLS {
        // As the machine's own roots.
        let endpoint = format!("https://localhost:{}", port(collector.tls.of(protocol)));
        let name = format!("{protocol} roots");
        let variables = [("SSL_CERT_FILE", ca.as_str())];
        collector.takes_spans(&name, protocol, &endpoint, &variables).await.context(name)?;

        let endpoint = format!("https://localhost:{}", port(collector.mutual.of(protocol)));
        let name = format!("{protocol} mutual");
        let variables = [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.as_str()),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
        ];
        collector.takes_spans(&name, protocol, &endpoint, &variables).await.context(name)?;
    }
    Ok(())
}

/// Who trusts nobody, or whose files are not there, is told so before anything is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_anybody_to_trust_is_refused() -> Result<()> {
    let common = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1");
    for (variable, path, expected) in [
        ("SSL_CERT_FILE", "/dev/null", "this machine has no root certificates"),
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "/does/not/exist.pem",
            "the CA certificates \"/does/not/exist.pem\"",
        ),
    ] {
        let (status, output, log) = Bridge::refused(&[], &[common, (variable, path)]).await?;
        assert_eq!((status.code(), output), (Some(64), Vec::new()), "{log}");
        assert!(log.contains(expected) || log.contains(&expected.replace('"', "\\\"")), "{log}");
    }
    Ok(())
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

/// Addresses of one receiver.
struct Receiver {
    grpc: String,
    http: String,
}

impl Receiver {
    fn of(&self, protocol: &str) -> &str {
        if protocol == "grpc" { &self.grpc } else { &self.http }
    }
}

/// The real Collector with a receiver for each kind of protection; what it takes is in the sink.
struct Collector {
    plain: Receiver,
    tls: Receiver,
    mutual: Receiver,
    sink: Sink,
    folder: TempDir,
    _process: Process,
}

impl Collector {
    async fn start() -> Result<Self> {
        retried(async || Self::try_start().await).await
    }

    async fn try_start() -> Result<Self> {
        let sink = Sink::http().await?;
        let folder = TempDir::new()?;
        write_certificates(folder.path())?;
        let [health, a, b, c, d, e, f] = free_addresses()?;
        let plain = Receiver { grpc: a, http: b };
        let (tls, mutual) = (Receiver { grpc: c, http: d }, Receiver { grpc: e, http: f });
        let file = |name: &str| folder.path().join(name).display().to_string();
        let own = format!("cert_file: {}, key_file: {}", file("server.pem"), file("server.key"));
        let receiver = |name: &str, receiver: &Receiver, tls: &str| {
            let Receiver { grpc, http } = receiver;
            format!(
                "  otlp/{name}: {{protocols: {{grpc: {{endpoint: \"{grpc}\"{tls}}}, http: {{endpoint: \"{http}\"{tls}}}}}}}\n"
            )
        };
        let pipeline = |signal: &str| {
            format!(
                "    {signal}: {{receivers: [otlp/plain, otlp/tls, otlp/mutual], exporters: [otlp_http/sink]}}\n"
            )
        };
        let configuration = format!(
            "extensions:\n  health_check: {{endpoint: \"{health}\"}}\n\
             receivers:\n{}{}{}\
             exporters:\n  otlp_http/sink: {{endpoint: \"{}\", sending_queue: {{enabled: false}}}}\n\
             service:\n  extensions: [health_check]\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines:\n{}{}{}",
            receiver("plain", &plain, ""),
            receiver("tls", &tls, &format!(", tls: {{{own}}}")),
            receiver("mutual", &mutual, &format!(", tls: {{{own}, client_ca_file: {}}}", file("ca.pem"))),
            sink.url(),
            pipeline("traces"),
            pipeline("metrics"),
            pipeline("logs"),
        );
        let path = folder.path().join("collector.yaml");
        fs::write(&path, configuration)?;
        let process = collector_with(&path, &health).await?;
        Ok(Self { plain, tls, mutual, sink, folder, _process: process })
    }

    fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a bridge whose spans must all come, once each, as those of the worker `name`.
    async fn takes_spans(
        &self,
        name: &str,
        protocol: &str,
        endpoint: &str,
        variables: &[(&str, &str)],
    ) -> Result<()> {
        let common = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ];
        let flags = ["--reorder-window", "50ms", "--log-format", "json"];
        let bridge = Bridge::start(&flags, &[&common, variables].concat()).await?;
        let worker = Connector::named(name).connect(&bridge.grpc).await?;
        send_spans(&worker, SPANS).await?;

        let ledger = bridge.settled(2 * SPANS as u64, LIMIT).await.with_context(|| bridge.log())?;
        assert_eq!((ledger.spans.exported, sum(&ledger.spans.refused)), (SPANS as u64, 0), "{ledger:?}");
        assert_eq!(
            bridge.metric("snakepit_bridge_export_requests_failed_total").await?,
            0,
            "{}",
            bridge.log()
        );
        let spans = self.sink.spans_of(name, SPANS, LIMIT).await?;
        let names: BTreeSet<_> = spans.iter().map(|span| span.name.clone()).collect();
        assert_eq!((spans.len(), names.len()), (SPANS, SPANS));
        let last = format!("snakepit.python.operation_{}", SPANS - 1);
        assert!(names.contains(&last), "{names:?}");
        assert!(spans.iter().all(|span| span.end_time_unix_nano == span.start_time_unix_nano + 1_000));
        bridge.terminate(LIMIT).await?;
        Ok(())
    }
}

/// `ca.pem`, and certificate and key of `server` (for localhost) and of `client`, all of one authority.
fn write_certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    for (name, host) in [("server", "localhost"), ("client", "a-bridge")] {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &authority)?;
        fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}
