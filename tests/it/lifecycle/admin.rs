//! Who may ask, and what gRPC's own services say.

use anyhow::{Context as _, Result};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::LIMIT;
use crate::support::bridge::Bridge;
use crate::support::until;
use crate::support::worker::{Connector, channel, pair, wall};

const ROUTES: [&str; 7] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/v1/ledger",
    "/api/v1/workers",
    "/api/v1/spans/open",
    "/api/v1/events",
];

async fn status(bridge: &Bridge, route: &str, headers: &[(&str, &str)]) -> Result<u16> {
    let mut request = reqwest::Client::new().get(format!("http://{}{route}", bridge.admin));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebound_name_reads_nothing() -> Result<()> {
    let bridge =
        Bridge::start(&["--admin-allowed-hosts", "bridge.internal"], &[("OTEL_TRACES_EXPORTER", "none")])
            .await?;
    for route in ROUTES {
        assert_eq!(status(&bridge, route, &[("host", "evil.example")]).await?, 421, "{route}");
        assert_eq!(status(&bridge, route, &[("host", "bridge.internal:9464")]).await?, 200, "{route}");
        assert_eq!(status(&bridge, route, &[]).await?, 200, "{route}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_never_shown() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("token");
    std::fs::write(&file, "s3cret\n")?;
    let file = file.display().to_string();
    let bridge = Bridge::start(
        &["--admin-token-file", &file, "--admin-listen", "0.0.0.0:0"],
        &[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_LOG_LEVEL", "debug")],
    )
    .await?;
    for route in ROUTES {
        let is_health = route.ends_with('z');
        let expected = if is_health { 200 } else { 401 };
        let host = ("host", "localhost");
        assert_eq!(status(&bridge, route, &[host]).await?, expected, "{route}");
        assert_eq!(
            status(&bridge, route, &[host, ("authorization", "Bearer wrong")]).await?,
            expected,
            "{route}"
        );
        assert_eq!(
            status(&bridge, route, &[host, ("authorization", "Bearer s3cret")]).await?,
            200,
            "{route}"
        );
    }
    assert!(!bridge.log().contains("s3cret"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_serving_until_the_bridge_drains() -> Result<()> {
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let bridge = Bridge::start(&["--shutdown-timeout", "1h", "--reorder-window", "50ms"], &variables).await?;
    let mut health = HealthClient::new(channel(&bridge.grpc).await?);
    let mut watched = Vec::new();
    for service in ["", "SnakepitBridge"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request.clone()).await?.into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        let mut watch = health.watch(request).await?.into_inner();
        let first = watch.message().await?.context("no status")?;
        assert_eq!(first.status(), ServingStatus::Serving, "{service:?}");
        watched.push(watch);
    }
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    worker.send_all(pair("tool.execution", "", wall(), 1_000)).await?;
    until("the span", LIMIT, async || Ok((bridge.ledger().await?.spans.queued == 1).then_some(()))).await?;

    bridge.signal("TERM")?;
    for mut watch in watched {
        let next = tokio::time::timeout(LIMIT, watch.message()).await??.context("no status")?;
        assert_eq!(next.status(), ServingStatus::NotServing);
    }
    // It waits for the Collector; whoever asks is told to go elsewhere.
    until("503", LIMIT, async || Ok((status(&bridge, "/readyz", &[]).await? == 503).then_some(()))).await?;
    assert_eq!(status(&bridge, "/healthz", &[]).await?, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_service_and_describes_its_messages() -> Result<()> {
    let bridge = Bridge::start(&[], &[("OTEL_TRACES_EXPORTER", "none")]).await?;
    let mut client = ServerReflectionClient::new(channel(&bridge.grpc).await?);
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("SnakepitBridge".to_owned()),
        MessageRequest::FileContainingSymbol("TelemetryEvent".to_owned()),
    ];
    let requests = questions
        .map(|question| ServerReflectionRequest { host: String::new(), message_request: Some(question) });
    let mut answers = client.server_reflection_info(tokio_stream::iter(requests)).await?.into_inner();
    let mut next = async || anyhow::Ok(answers.message().await?.context("no answer")?.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = next().await? else {
        anyhow::bail!("no list of services");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert!(names.contains(&"SnakepitBridge".to_owned()), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    for _ in 0..2 {
        let answer = next().await?;
        assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    }
    Ok(())
}
