//! The variables that have no effect.

use std::process::Command;

use anyhow::{Result, ensure};
use snakepit_otel_bridge::config::otel::table::Status;

use super::export::{request, send_spans, start};
use super::{Pair, Seen, rows};
use crate::support::sink::{Received, Sink};

/// A value that would change something if it were obeyed, and that is none of the default.
fn unusual(name: &'static str) -> Pair<'static> {
    let value = match name {
        name if name.ends_with("_PROTOCOL") => "grpc",
        name if name.ends_with("_ENDPOINT") => "http://127.0.0.1:9/elsewhere",
        name if name.ends_with("_INSECURE") => "true",
        name if name.ends_with("_HOST") => "0.0.0.0",
        "TRACEPARENT" => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "TRACESTATE" | "BAGGAGE" => "stray=1",
        "OTEL_ENTITIES" => "host{host.id=stray}",
        name if name.contains("_OPT_IN") => "logs",
        name if name.ends_with("_METHODS") => "GET",
        // Limits, sizes, times.
        _ => "1",
    };
    (name, value)
}

/// What a peer can tell apart, but for ids and times.
fn shape(received: &Received) -> String {
    let mut request = received.request.clone();
    for resource in &mut request.resource_spans {
        if let Some(resource) = &mut resource.resource {
            resource.attributes.retain(|attribute| attribute.key != "host.name");
        }
        for span in resource.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans) {
            assert!(span.parent_span_id.is_empty(), "{span:?}");
            (span.trace_id, span.span_id) = (Vec::new(), Vec::new());
            (span.start_time_unix_nano, span.end_time_unix_nano) = (0, 0);
        }
    }
    let headers: Vec<_> = received
        .headers
        .iter()
        .filter(|(name, _)| !["host", "content-length"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    format!("{headers:#?}\n{request:#?}")
}

async fn exported(variables: &[Pair<'_>]) -> Result<String> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let to = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{url}/v1/traces"))];
    let to: Vec<Pair<'_>> = to.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let batch = [("OTEL_BSP_SCHEDULE_DELAY", "3600000"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")];
    let (_bridge, worker) = start(&[&to[..], &batch[..], variables].concat()).await?;
    send_spans(&worker, 2).await?;
    Ok(shape(&request(&sink).await?))
}

pub(super) async fn what_has_no_effect_changes_nothing() -> Result<Seen> {
    let idle = rows(|status| !matches!(status, Status::Honoured));
    let variables: Vec<_> = idle.iter().map(|name| unusual(name)).collect();
    assert_eq!(exported(&variables).await?, exported(&[]).await?);

    let check = Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge"))
        .arg("check")
        .env_clear()
        .envs(variables.iter().copied())
        .output()?;
    let said = String::from_utf8_lossy(&check.stdout);
    ensure!(check.status.success(), "{said}{}", String::from_utf8_lossy(&check.stderr));
    for (name, _) in &variables {
        let is_explained =
            |line: &str| line.starts_with(&format!("warning: {name}=")) && line.contains("no effect");
        ensure!(said.lines().any(is_explained), "check does not say why {name} has no effect:\n{said}");
    }
    Ok(idle)
}
