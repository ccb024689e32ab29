//! The real OpenTelemetry Collector, and senders that give it spans as SDKs do.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::clock::{unix_nanos, until};
use crate::process::Process;

/// What an SDK's batch processor sends at once by default.
const SDK_BATCH_SPANS: u64 = 512;

/// A running Collector: OTLP in, batches, OTLP out.
#[derive(Debug)]
pub(crate) struct Collector {
    /// Where OTLP over gRPC is taken.
    endpoint: String,
    /// To be measured.
    pub(crate) process: Process,
    _configuration: TempDir,
}

/// The Collector's program, where it was built.
pub(crate) fn program() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/peers.sh");
    let output = Command::new(script).arg("--where").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("otelcol=")).map(PathBuf::from)
}

impl Collector {
    /// Starts it in front of the sink.
    ///
    /// # Errors
    ///
    /// When it does not listen in time, with its log.
    pub(crate) fn start(program: &PathBuf, sink: &str) -> Result<Self> {
        // Free a moment ago: the Collector does not say which port it was given.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let configuration = TempDir::new()?;
        let file = configuration.path().join("config.yaml");
        std::fs::write(&file, Self::configuration(&address.to_string(), sink))?;
        let process = Process::spawn("the Collector", Command::new(program).arg("--config").arg(&file))?;
        let listening =
            until(
                "the Collector to listen",
                Duration::from_secs(20),
                || Ok(TcpStream::connect(address).ok()),
            );
        listening.with_context(|| process.log())?;
        Ok(Self { endpoint: format!("http://{address}"), process, _configuration: configuration })
    }

    /// Without its default compression: the bridge does not compress either unless it is told to.
    fn configuration(listen: &str, sink: &str) -> String {
        format!(
            "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"{listen}\"}}}}}}}}
processors: {{batch: {{timeout: 200ms, send_batch_size: 512}}}}
exporters: {{otlp_grpc: {{endpoint: \"{sink}\", compression: none, tls: {{insecure: true}}}}}}
service:
  pipelines: {{traces: {{receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}}}}
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
"
        )
    }

    /// Sends it `spans` spans from each of `senders` senders, each at `rate` spans a second in an SDK's batches.
    ///
    /// # Errors
    ///
    /// When it refuses any.
    pub(crate) fn feed(&self, senders: u64, spans: u64, rate: u64) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for sender in 0..senders {
                tasks.spawn(send(self.endpoint.clone(), sender, senders, spans, rate));
            }
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            Ok(())
        })
    }
}

async fn send(endpoint: String, sender: u64, senders: u64, spans: u64, rate: u64) -> Result<()> {
    let mut client = TraceServiceClient::connect(endpoint).await?;
    let period = Duration::from_micros(1_000_000 * SDK_BATCH_SPANS / rate);
    let offset = period * u32::try_from(sender)? / u32::try_from(senders)?;
    let mut ticks = interval_at(tokio::time::Instant::from_std(crate::clock::now()) + offset, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    while sent < spans {
        ticks.tick().await;
        let batch = SDK_BATCH_SPANS.min(spans - sent);
        client.export(request(sender, sent, batch)).await?;
        sent += batch;
    }
    Ok(())
}

/// Spans like those that the bridge makes of the same load.
fn request(sender: u64, first: u64, count: u64) -> ExportTraceServiceRequest {
    let spans = (first..first + count).map(|number| span(sender, number)).collect();
    let scope = InstrumentationScope { name: "bench".to_owned(), ..InstrumentationScope::default() };
    let resource = Resource {
        attributes: vec![
            attribute("service.name", "snakepit-python"),
            attribute("service.namespace", "snakepit"),
            attribute("service.instance.id", &format!("worker_{sender}@bench")),
            attribute("snakepit.worker.id", &format!("worker_{sender}")),
            attribute("host.name", "bench"),
        ],
        ..Resource::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

fn span(sender: u64, number: u64) -> Span {
    let now = unix_nanos().cast_unsigned();
    let id = (sender + 1) << 40 | (number + 1);
    Span {
        trace_id: u128::from(id).to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        name: "snakepit.python.tool.execution".to_owned(),
        kind: 2,
        start_time_unix_nano: now - 2_000_000,
        end_time_unix_nano: now,
        attributes: vec![
            attribute("snakepit.event", "[:snakepit, :python, :tool, :execution]"),
            attribute("snakepit.tool", "summarize_document"),
            attribute("model", "llama-3-8b-instruct"),
            attribute("device", "cuda:0"),
            attribute("request_id", &format!("req-{number:08}")),
            attribute("result", "success"),
            attribute("snakepit.correlation_id", &format!("{id:032x}")),
        ],
        ..Span::default()
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}
