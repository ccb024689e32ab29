//! What Jaeger's query API says, and reading it into the same shape as the truth.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::truth::{Exception, Found};
use super::{fetch, until};

/// More traces than any test makes.
const SEARCH_LIMIT: usize = 20_000;

/// Tags that Jaeger makes itself or of other parts of a span than its attributes.
const TAGS_BESIDE_ATTRIBUTES: [&str; 7] = [
    "error",
    "otel.scope.name",
    "otel.scope.version",
    "otel.status_code",
    "otel.status_description",
    "span.kind",
    "w3c.tracestate",
];

/// A Jaeger to ask.
#[derive(Debug, Clone)]
pub(crate) struct Jaeger {
    url: String,
}

impl Jaeger {
    pub(crate) fn new(url: String) -> Self {
        Self { url }
    }

    /// Waits until Jaeger has `count` spans of the service, and answers all it has: more than that is not hidden.
    ///
    /// # Errors
    ///
    /// When there are not as many within `limit`, or the answer cannot be read.
    pub(crate) async fn spans(&self, service: &str, count: usize, limit: Duration) -> Result<Vec<Found>> {
        let mut seen = 0;
        let what = format!("{count} spans in Jaeger");
        let found = until(&what, limit, async || {
            let traces = self.traces(service).await?;
            seen = traces.iter().map(|trace| trace.spans.len()).sum();
            Ok((seen >= count).then_some(traces))
        })
        .await;
        let traces = found.with_context(|| format!("the last answer had {seen} spans"))?;
        let mut spans = Vec::with_capacity(count);
        for trace in &traces {
            for span in &trace.spans {
                spans.push(trace.found(span).with_context(|| format!("failed to read {span:?}"))?);
            }
        }
        Ok(spans)
    }

    /// One trace by its id, as Jaeger writes it.
    ///
    /// # Errors
    ///
    /// When there is no such trace.
    pub(crate) async fn trace(&self, id: &str) -> Result<Trace> {
        let mut traces = read(&fetch(&format!("{}/api/traces/{id}", self.url)).await?)?;
        ensure!(traces.len() == 1, "{} traces of id {id}", traces.len());
        Ok(traces.remove(0))
    }

    async fn traces(&self, service: &str) -> Result<Vec<Trace>> {
        let url = format!("{}/api/traces?service={service}&limit={SEARCH_LIMIT}", self.url);
        read(&fetch(&url).await?)
    }
}

fn read(body: &str) -> Result<Vec<Trace>> {
    let answer: Answer = serde_json::from_str(body).with_context(|| format!("failed to read {body}"))?;
    Ok(answer.data)
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: Vec<Trace>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    #[serde(rename = "traceID")]
    pub(crate) trace_id: String,
    pub(crate) spans: Vec<Span>,
    processes: BTreeMap<String, Process>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Span {
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: String,
    references: Vec<Reference>,
    start_time: u64,
    duration: u64,
    tags: Vec<Tag>,
    logs: Vec<Log>,
    #[serde(rename = "processID")]
    process_id: String,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Debug, Deserialize)]
struct Tag {
    key: String,
    value: Value,
}

#[derive(Debug, Deserialize)]
struct Log {
    timestamp: u64,
    fields: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
    tags: Vec<Tag>,
}

impl Trace {
    /// The span in the shape of the truth.
    fn found(&self, span: &Span) -> Result<Found> {
        ensure!(span.warnings.is_none(), "Jaeger warns: {:?}", span.warnings);
        let mut tags = by_key(&span.tags)?;
        let status = match tags.get("otel.status_code").and_then(Value::as_str) {
            Some("OK") => "ok",
            Some("ERROR") => "error",
            None => "unset",
            Some(other) => anyhow::bail!("unknown status {other}"),
        };
        let marked_as_error = tags.get("error") == Some(&Value::Bool(true));
        ensure!(
            marked_as_error == (status == "error"),
            "status {status}, but error: {:?}",
            tags.get("error")
        );
        let text = |key: &str| tags.get(key).and_then(Value::as_str).map(str::to_owned);
        let (kind, status_message) = (text("span.kind"), text("otel.status_description"));
        tags.retain(|key, _| !TAGS_BESIDE_ATTRIBUTES.contains(&key.as_str()));

        let mut events = Vec::new();
        let mut exceptions = Vec::new();
        for log in &span.logs {
            let fields = by_key(&log.fields)?;
            let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            if text("event") == "exception" {
                exceptions
                    .push(Exception { kind: text("exception.type"), message: text("exception.message") });
            } else {
                events.push((text("event"), log.timestamp));
            }
        }
        events.sort();

        let process = self.processes.get(&span.process_id).context("no such process")?;
        let mut resource = by_key(&process.tags)?;
        resource.insert("service.name".to_owned(), Value::String(process.service_name.clone()));
        Ok(Found {
            trace_id: self.trace_id.clone(),
            name: span.operation_name.clone(),
            start_us: span.start_time,
            duration_us: span.duration,
            parent: self.parent(span)?,
            kind: kind.context("no span.kind")?,
            status: status.to_owned(),
            status_message,
            attributes: tags,
            exceptions,
            events,
            resource,
        })
    }

    /// Name and start of the parent, by which the truth knows it too.
    fn parent(&self, span: &Span) -> Result<Option<(String, u64)>> {
        let Some(reference) = span.references.first() else { return Ok(None) };
        ensure!(span.references.len() == 1 && reference.ref_type == "CHILD_OF", "{:?}", span.references);
        let parent = self.spans.iter().find(|other| other.span_id == reference.span_id);
        let parent = parent.with_context(|| format!("parent {} is not in the trace", reference.span_id))?;
        Ok(Some((parent.operation_name.clone(), parent.start_time)))
    }
}

fn by_key(tags: &[Tag]) -> Result<BTreeMap<String, Value>> {
    let map: BTreeMap<_, _> = tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect();
    ensure!(map.len() == tags.len(), "a key is there twice: {tags:?}");
    Ok(map)
}
