//! OTLP/JSON, over HTTP and as lines.

use anyhow::{Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::export::{LIMIT, send_spans, start};
use super::{Pair, Seen};
use crate::support::until;

/// `http/json` is OTLP/JSON over HTTP.
pub(super) async fn goes_over_http() -> Result<Seen> {
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
pub(super) async fn goes_to_standard_output() -> Result<Seen> {
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
