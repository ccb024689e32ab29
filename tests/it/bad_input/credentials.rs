//! A protected worker port: those who may come in are served, the others are refused, counted and told nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::LIMIT;
use crate::support::authority::{Authority, Subject};
use crate::support::bridge::Bridge;
use crate::support::python::Python;
use crate::support::sink::Sink;
use crate::support::truth::Truth;
use crate::support::until;

const SPANS: usize = 50;

/// A directory with the credentials of a bridge and of some workers.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Result<Self> {
        let files = Self { directory: TempDir::new()? };
        let authority = Authority::new();
        std::fs::write(files.path("ca.pem"), &authority.pem)?;
        std::fs::write(files.path("token"), "s3cret\n")?;
        let directory = files.directory.path();
        authority.server().write(directory, "bridge");
        let pool = Subject { common_name: "worker_*", ..Subject::default() };
        authority.certify(&pool).write(directory, "pool");
        authority.certify(&Subject { expired: true, ..pool }).write(directory, "expired");
        let pool = Subject { common_name: "worker_*", ..Subject::default() };
        Authority::new().certify(&pool).write(directory, "foreign");
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        text(&self.path(name))
    }

    /// A bridge that wants everything.
    async fn bridge(&self, variables: &[(&str, &str)]) -> Result<Bridge> {
        let [certificate, key, ca, token] =
            ["bridge.pem", "bridge.key", "ca.pem", "token"].map(|name| self.text(name));
        let arguments = [
            ["--tls-cert", &certificate],
            ["--tls-key", &key],
            ["--tls-client-ca", &ca],
            ["--tls-client-id", "cn"],
            ["--worker-token-file", &token],
            ["--log-format", "json"],
        ];
        Bridge::start(arguments.as_flattened(), variables).await
    }

    /// Arguments of a worker that has this certificate.
    fn worker(&self, certificate: &str) -> Vec<String> {
        let arguments = [
            ["--tls-ca".to_owned(), self.text("ca.pem")],
            ["--tls-cert".to_owned(), self.text(&format!("{certificate}.pem"))],
            ["--tls-key".to_owned(), self.text(&format!("{certificate}.key"))],
        ];
        arguments.concat()
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// A real grpcio worker with certificate and token: all of its spans arrive. The same worker without a token, with
/// another, with no certificate, a foreign or an expired one, or under an id that is not its own, is refused and counted.
#[tokio::test(flavor = "multi_thread")]
async fn python_workers_come_in_with_their_credentials_only() -> Result<()> {
    let files = Files::new()?;
    let sink = Sink::grpc().await?;
    let python = Python::set_up()?;
    let bridge = files
        .bridge(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.url()),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ])
        .await?;
    let good = "authorization=Bearer s3cret";
    let ca = files.text("ca.pem");
    let without = vec!["--tls-ca".to_owned(), ca];

    let requests = "snakepit_bridge_requests_unauthenticated_total";
    let connections = "snakepit_bridge_connections_refused_total";
    for (id, certificate, header, metric, reason) in [
        ("worker_1", files.worker("pool"), "", requests, "token_missing"),
        ("worker_1", files.worker("pool"), "authorization=Bearer other", requests, "token_wrong"),
        ("other_1", files.worker("pool"), good, requests, "worker_id"),
        ("worker_1", without, good, connections, "certificate_missing"),
        ("worker_1", files.worker("foreign"), good, connections, "certificate_unknown"),
        ("worker_1", files.worker("expired"), good, connections, "certificate_expired"),
        ("worker_1", vec![], good, connections, "plain_text"),
    ] {
        let mut arguments: Vec<&str> = vec!["--worker-id", id];
        if !header.is_empty() {
            arguments.extend(["--header", header]);
        }
        arguments.extend(certificate.iter().map(String::as_str));
        let mut worker = python.worker(&bridge.grpc, &python.file("none"), &arguments)?;
        let status = worker.ended(LIMIT).await?;
        assert!(!status.success(), "{reason}: the worker was let in");
        let name = format!("{metric}{{reason=\"{reason}\"}}");
        until(&name, LIMIT, async || Ok((bridge.metric(&name).await? > 0).then_some(()))).await?;
    }
    assert_eq!(bridge.metric("snakepit_bridge_streams_opened_total").await?, 0);

    let truth = python.file("truth");
    let spans = SPANS.to_string();
    let mut arguments = vec!["--worker-id", "worker_1", "--spans", &spans, "--header", good];
    let certificate = files.worker("pool");
    arguments.extend(certificate.iter().map(String::as_str));
    let mut worker = python.worker(&bridge.grpc, &truth, &arguments)?;
    worker.succeeded(LIMIT).await?;
    let arrived = sink.spans_of("worker_1", SPANS, LIMIT).await?;
    let truth = Truth::read(&truth)?;
    let mut expected: Vec<_> = truth.spans.iter().map(|span| span.name.clone()).collect();
    let mut names: Vec<_> = arrived.into_iter().map(|span| span.name).collect();
    expected.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, expected);
    let (status, log) = bridge.terminate(LIMIT).await?;
    assert!(status.success(), "{status}");
    assert!(!log.contains("panicked") && !log.contains("s3cret"), "{log}");
    Ok(())
}

/// Exit code 64, and the file and the reason in one line.
#[tokio::test]
async fn a_bridge_whose_credentials_cannot_be_used_does_not_start() -> Result<()> {
    let files = Files::new()?;
    let [certificate, key, foreign_key] =
        ["bridge.pem", "bridge.key", "foreign.key"].map(|name| files.text(name));
    for (arguments, said) in [
        (vec!["--tls-cert", &certificate], "a certificate is nothing without its key".to_owned()),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &foreign_key],
            format!("--tls-key: bridge.tls_key: `{foreign_key}`: it is not the key of the certificate"),
        ),
        (
            vec!["--tls-cert", &certificate, "--tls-key", &key, "--worker-token-file", "/nonexistent"],
            "`/nonexistent`: No such file or directory".to_owned(),
        ),
    ] {
        let (status, output, log) = Bridge::refused(&arguments, &[]).await?;
        assert_eq!(status.code(), Some(64), "{arguments:?}");
        assert_eq!(output, [""; 0]);
        log.lines().find(|line| line.contains(&said)).with_context(|| format!("no `{said}` in {log}"))?;
    }
    Ok(())
}
