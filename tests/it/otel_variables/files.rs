//! What is said in a declarative configuration.

use std::fs;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::Seen;
use super::export::{NOWHERE, request, send_spans, start};
use crate::support::bridge::Bridge;
use crate::support::sink::Sink;

pub(super) async fn a_file_says_everything() -> Result<Seen> {
    let folder = TempDir::new()?;
    let path = folder.path().join("otel.yaml");
    let mut seen = Vec::new();
    for variable in ["OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"] {
        let sink = Sink::grpc().await?;
        let endpoint = sink.url();
        fs::write(
            &path,
            "file_format: \"1.1\"\nresource: {attributes: [{name: service.name, value: from-file}]}\ntracer_provider:\n  \
             processors:\n  - batch:\n      schedule_delay: ${DELAY:-20}\n      exporter: {otlp_grpc: {endpoint: \"${TO}\"}}\n",
        )?;
        let file = path.display().to_string();
        let variables = [
            (variable, &*file),
            ("TO", &*endpoint),
            // None of these counts.
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE),
            ("OTEL_SERVICE_NAME", "from-variable"),
        ];
        let (bridge, worker) = start(&variables).await?;
        send_spans(&worker, 1).await?;
        let received = request(&sink).await?;
        let resource = received.request.resource_spans[0].resource.clone().unwrap_or_default();
        let name = crate::support::sink::text(&resource.attributes, "service.name");
        assert_eq!(name, Some("from-file"));
        ensure!(bridge.log().contains("OTEL_SERVICE_NAME"), "what is ignored is said:\n{}", bridge.log());
        seen.push(variable);
    }
    fs::write(&path, "file_format: \"1.1\"\ntracer_provider: {procesors: []}\n")?;
    let file = path.display().to_string();
    let (status, output, log) = Bridge::refused(&[], &[("OTEL_CONFIG_FILE", &file)]).await?;
    assert_eq!((status.code(), output), (Some(64), Vec::new()), "{log}");
    ensure!(
        log.contains("otel.yaml:2: tracer_provider.procesors: unknown key; did you mean `processors`?"),
        "{log}"
    );
    Ok(seen)
}
