//! Spans that a test sends, and holding what a peer took against them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use sha2::{Digest as _, Sha256};
use snakepit_otel_bridge::proto::TelemetryEvent;

use super::faulty_peer::{Arrived, Received, Taken};
use super::worker::{Says as _, Worker, pair, wall};

/// How long a span lasts on the worker's clock, where nothing else is said.
const USUAL: Duration = Duration::from_millis(1);

/// A span that was sent, or may have been.
#[derive(Debug, Clone)]
pub(crate) struct SentSpan {
    pub(crate) worker: String,
    pub(crate) correlation_id: String,
    operation: String,
    start_ns: i64,
    duration_ns: i64,
    tool: String,
}

/// All spans of a test, by correlation id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Load {
    spans: BTreeMap<String, SentSpan>,
}

impl SentSpan {
    /// A worker's span that begins now.
    fn new(worker: &str, number: usize, lasts: Duration) -> Self {
        // No two are alike.
        let duration_ns = lasts.as_nanos() + number as u128;
        Self {
            worker: worker.to_owned(),
            correlation_id: format!("{worker}/{number}"),
            operation: format!("tool.work_{}", number % 7),
            start_ns: wall(),
            duration_ns: i64::try_from(duration_ns).expect("a test is short"),
            tool: format!("tool-{number}"),
        }
    }

    /// Both halves; `ballast` goes with the end.
    pub(crate) fn events(&self, ballast: &str) -> [TelemetryEvent; 2] {
        let [start, stop] = pair(&self.operation, &self.correlation_id, self.start_ns, self.duration_ns);
        let stop = if ballast.is_empty() { stop } else { stop.meta("ballast", ballast) };
        [start.meta("tool", &self.tool), stop]
    }

    /// By the rule of `docs/ids.md`.
    fn trace_id(&self) -> Vec<u8> {
        Sha256::digest(self.correlation_id.as_bytes())[..16].to_vec()
    }

    /// What is wrong with a span that arrived, if it is to be complete.
    pub(crate) fn differences(&self, arrived: &Arrived) -> Vec<String> {
        let start = self.start_ns.unsigned_abs();
        let end = start + self.duration_ns.unsigned_abs();
        let mut differences = self.differences_of_start(arrived);
        if arrived.span.end_time_unix_nano != end {
            differences
                .push(format!("{} ends {}, not {end}", self.correlation_id, arrived.span.end_time_unix_nano));
        }
        if let Some(reason) = arrived.text("snakepit.span.incomplete") {
            differences.push(format!("{} is incomplete: {reason}", self.correlation_id));
        }
        differences
    }

    /// What is wrong with a span that arrived, its end aside.
    pub(crate) fn differences_of_start(&self, arrived: &Arrived) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, is: String, should: String| {
            if is != should {
                differences.push(format!("{}: {what} is {is}, should be {should}", self.correlation_id));
            }
        };
        let span = &arrived.span;
        compare("worker", arrived.worker.clone(), self.worker.clone());
        compare("name", span.name.clone(), format!("snakepit.python.{}", self.operation));
        compare("start", span.start_time_unix_nano.to_string(), self.start_ns.to_string());
        compare("trace id", hex::encode(&span.trace_id), hex::encode(self.trace_id()));
        compare("span id's length", span.span_id.len().to_string(), "8".to_owned());
        compare("parent", hex::encode(&span.parent_span_id), String::new());
        // The start may be what was lost of a rebuilt span.
        if arrived.text("snakepit.span.rebuilt_from").is_none() {
            compare(
                "tool",
                format!("{:?}", arrived.text("snakepit.tool")),
                format!("{:?}", Some(&self.tool)),
            );
        }
        differences
    }
}

impl Load {
    /// The next span of a worker: it is remembered whether its events are then sent or not.
    pub(crate) fn next(&mut self, worker: &str, lasts: Duration) -> SentSpan {
        let span = SentSpan::new(worker, self.spans.len(), lasts);
        self.spans.insert(span.correlation_id.clone(), span.clone());
        span
    }

    /// Sends `count` spans more.
    ///
    /// # Errors
    ///
    /// When the stream is over.
    pub(crate) async fn send(
        &mut self,
        worker: &Worker,
        name: &str,
        count: usize,
        ballast: &str,
    ) -> Result<()> {
        for _ in 0..count {
            worker.send_all(self.next(name, USUAL).events(ballast)).await?;
        }
        Ok(())
    }

    /// How many spans there are.
    pub(crate) fn len(&self) -> u64 {
        self.spans.len() as u64
    }

    /// All of them, by correlation id.
    pub(crate) fn spans(&self) -> &BTreeMap<String, SentSpan> {
        &self.spans
    }

    /// The span that an arrived one should be.
    pub(crate) fn of(&self, arrived: &Arrived) -> Option<&SentSpan> {
        self.spans.get(arrived.text("snakepit.correlation_id")?)
    }

    /// What is wrong on the peer's side, a line each: every span is either taken, once and as it was, or was refused in
    /// one of the requests.
    pub(crate) fn differences(&self, taken: &Taken, requests: &[Received]) -> Vec<String> {
        let mut differences = Vec::new();
        let mut missing = self.spans.clone();
        for arrived in taken.each() {
            let Some(span) = self.of(arrived) else {
                differences.push(format!("never sent: {arrived:?}"));
                continue;
            };
            if missing.remove(&span.correlation_id).is_none() {
                differences.push(format!("under two ids: {}", span.correlation_id));
            }
            differences.extend(span.differences(arrived));
        }
        for request in requests {
            for rejected in &request.spans()[..request.rejected] {
                if let Some(id) = rejected.text("snakepit.correlation_id") {
                    missing.remove(id);
                }
            }
        }
        differences.extend(missing.keys().map(|id| format!("neither taken nor refused: {id}")));
        differences
    }
}
