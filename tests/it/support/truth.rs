//! What a Python worker writes down of itself, and holding what was found in a backend against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

/// A worker's own account. Foreign emitters cannot tell everything about their spans; what they do not tell is not compared.
#[derive(Debug, Deserialize)]
pub(crate) struct Truth {
    pub(crate) events_sent: u64,
    #[serde(default)]
    pub(crate) controls: Vec<Value>,
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    #[serde(default)]
    pub(crate) sampling_rate: Option<f64>,
    #[serde(default)]
    pub(crate) worker_id: Option<String>,
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    pub(crate) spans: Vec<TrueSpan>,
}

/// A span as it really was; times in nanoseconds.
#[derive(Debug, Deserialize)]
pub(crate) struct TrueSpan {
    pub(crate) name: String,
    /// Absent where the bridge derives it.
    pub(crate) trace_id: Option<String>,
    start_ns: u64,
    end_ns: u64,
    /// Index of the parent among the worker's spans.
    parent: Option<usize>,
    status: String,
    status_message: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    attributes: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    exception: Option<Exception>,
    #[serde(default)]
    events: Option<Vec<TrueEvent>>,
}

#[derive(Debug, Clone, Deserialize, PartialEq)]
pub(crate) struct Exception {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) message: String,
}

#[derive(Debug, Deserialize)]
struct TrueEvent {
    name: String,
    time_ns: u64,
}

/// A span as a backend has it; times in microseconds, which is all that Jaeger's API tells.
#[derive(Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) trace_id: String,
    pub(crate) name: String,
    pub(crate) start_us: u64,
    pub(crate) duration_us: u64,
    /// Name and start.
    pub(crate) parent: Option<(String, u64)>,
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) status_message: Option<String>,
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) exceptions: Vec<Exception>,
    pub(crate) events: Vec<(String, u64)>,
    pub(crate) resource: BTreeMap<String, Value>,
}

impl Truth {
    /// # Errors
    ///
    /// When the file is not there or not a truth.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("failed to understand {}", path.display()))
    }

    /// What differs between the truth and what was found, a line each; nothing when they are the same.
    ///
    /// `found` is what a backend has of this worker, no more and no less.
    pub(crate) fn differences(&self, found: &[Found]) -> Vec<String> {
        let mut differences = Vec::new();
        let mut unclaimed: BTreeMap<Key, &Found> = BTreeMap::new();
        for span in found {
            if unclaimed.insert(Key::of_found(span), span).is_some() {
                differences.push(format!("found twice: {span:?}"));
            }
        }
        for span in &self.spans {
            match unclaimed.remove(&Key::of_true(span)) {
                Some(found) => differences.extend(self.differ(span, found)),
                None => differences.push(format!("not found: {span:?}")),
            }
        }
        differences.extend(unclaimed.values().map(|span| format!("never happened: {span:?}")));
        differences
    }

    /// How many of the worker's spans are of that trace.
    pub(crate) fn spans_of_trace(&self, trace_id: &str) -> usize {
        self.spans.iter().filter(|span| span.trace_id.as_deref() == Some(trace_id)).count()
    }

    fn differ(&self, span: &TrueSpan, found: &Found) -> Vec<String> {
        let parent = span.parent.map(|index| &self.spans[index]).map(|p| (p.name.clone(), p.start_ns / 1000));
        let events = span.events.as_ref().map(|events| {
            let events: BTreeSet<_> = events.iter().map(|e| (e.name.clone(), e.time_ns / 1000)).collect();
            events.into_iter().collect::<Vec<_>>()
        });
        let exceptions: Vec<_> = span.exception.iter().cloned().collect();
        let mut differences = Vec::new();
        let mut compare = |what: &str, is_true: String, is_found: String| {
            if is_true != is_found {
                differences.push(format!(
                    "{} at {}: {what} is {is_found}, should be {is_true}",
                    span.name, span.start_ns
                ));
            }
        };
        compare("parent", format!("{parent:?}"), format!("{:?}", found.parent));
        compare("status", span.status.clone(), found.status.clone());
        compare(
            "status message",
            format!("{:?}", span.status_message),
            format!("{:?}", found.status_message),
        );
        if let Some(trace_id) = &span.trace_id {
            compare("trace id", trace_id.clone(), found.trace_id.clone());
        }
        if let Some(kind) = &span.kind {
            compare("kind", kind.clone(), found.kind.clone());
        }
        if let Some(attributes) = &span.attributes {
            compare("attributes", format!("{attributes:?}"), format!("{:?}", found.attributes));
            compare("exceptions", format!("{exceptions:?}"), format!("{:?}", found.exceptions));
        }
        if let Some(events) = events {
            compare("events", format!("{events:?}"), format!("{:?}", found.events));
        }
        differences
    }
}

/// What a span is known by on both sides: no two of a worker are equal in these.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: String,
    start_us: u64,
    duration_us: u64,
}

impl Key {
    fn of_true(span: &TrueSpan) -> Self {
        // Jaeger cuts nanoseconds off the start and off the duration, each by itself.
        let duration_us = (span.end_ns - span.start_ns) / 1000;
        Self { name: span.name.clone(), start_us: span.start_ns / 1000, duration_us }
    }

    fn of_found(span: &Found) -> Self {
        Self { name: span.name.clone(), start_us: span.start_us, duration_us: span.duration_us }
    }
}
