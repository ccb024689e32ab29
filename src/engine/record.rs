//! What the engine makes of events that hold no number, and of exceptions where that is opted into: log records.
//!
//! | severity | where |
//! |---|---|
//! | ERROR | one of `error`, `exception`, `failed`, `failure`, `fatal`, `crash`, `crashed` is a word of the name, or the metadata tell of an error |
//! | WARN | `warn` or `warning` is a word of the name |
//! | what `level` or `severity` says, as Python's or Elixir's logging does | the name and the metadata say neither; else only if it is worse |
//! | INFO | otherwise |
//!
//! A word is what stands between `.`, `_` and `-`, in whatever case, and its plural is as good. What metadata tell is in `metadata`.
//!
//! Whether an event becomes one, and when its trace is known, is in `standalone`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metadata::{Reader, tells_of_an_error, truncated};
use crate::engine::span::{SpanEvent, SpanId, TraceFlags, TraceId};
use crate::event::Event;
use crate::time::UnixNanos;
use crate::worker::Source;

/// Bytes of a record's body: those of an attribute's value where nothing else is set. No limit on attributes concerns it.
const MAX_BODY_BYTES: usize = 16 << 10;

/// Keys whose value is the body; the first that says something counts.
const MESSAGES: [&str; 4] = ["message", "msg", "error_message", "reason"];

/// Words of a name that say that something went wrong.
const ERROR_WORDS: [&str; 11] = [
    "error",
    "errors",
    "exception",
    "exceptions",
    "failed",
    "failure",
    "failures",
    "fatal",
    "crash",
    "crashes",
    "crashed",
];

/// Words of a name that say that something may go wrong.
const WARNING_WORDS: [&str; 3] = ["warn", "warning", "warnings"];

/// A log record as it is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// The worker that it belongs to: its resource.
    pub source: Arc<Source>,
    /// When it happened, on the worker's clock.
    pub time: UnixNanos,
    /// When the bridge received it.
    pub observed: UnixNanos,
    /// How bad it is.
    pub severity: Severity,
    /// The prefixed name: `snakepit.python.worker.ready`.
    pub event_name: Arc<str>,
    /// For people: the event's message, else its name.
    pub body: Arc<str>,
    /// What the event says.
    pub attributes: Attributes,
    /// The trace, where it is known.
    pub trace: Option<RecordTrace>,
}

/// The trace that a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordTrace {
    /// The trace.
    pub trace_id: TraceId,
    /// The innermost span around the event, where there is one.
    pub span_id: Option<SpanId>,
    /// The trace's.
    pub flags: TraceFlags,
}

/// OpenTelemetry's severities, as far as events tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// `DEBUG`, 5.
    Debug,
    /// `INFO`, 9.
    Info,
    /// `WARN`, 13.
    Warn,
    /// `ERROR`, 17.
    Error,
    /// `FATAL`, 21.
    Fatal,
}

/// A record whose trace may still become known.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Draft {
    time: UnixNanos,
    observed: UnixNanos,
    severity: Severity,
    event_name: Arc<str>,
    body: Arc<str>,
    attributes: Attributes,
    /// As far as the event itself says.
    pub(crate) trace: Option<RecordTrace>,
}

impl Draft {
    /// Of an event of this prefixed name.
    ///
    /// `reader` keeps the limits of records.
    pub(crate) fn of(
        event: &Event<'_>,
        emitted: &str,
        event_name: &Arc<str>,
        attributes: Attributes,
        reader: &Reader,
        [time, observed]: [UnixNanos; 2],
    ) -> Self {
        Self {
            time,
            observed,
            severity: Severity::of(emitted, event),
            event_name: Arc::clone(event_name),
            body: body(event, reader).unwrap_or_else(|| Arc::clone(event_name)),
            attributes,
            trace: None,
        }
    }

    /// Of an exception that would be, or is, a span event of this operation.
    pub(crate) fn of_exception(operation: &str, exception: SpanEvent, observed: UnixNanos) -> Self {
        let event_name: Arc<str> = Arc::from(format!("{operation}.exception"));
        let said = ["exception.message", "exception.type"].into_iter().find_map(|key| {
            match exception.attributes.value(key) {
                Some(AttributeValue::Text(text)) if !text.is_empty() => Some(text),
                _ => None,
            }
        });
        Self {
            time: exception.time,
            observed,
            severity: Severity::Error,
            body: said.map_or_else(|| Arc::clone(&event_name), |text| truncated(text, MAX_BODY_BYTES).into()),
            event_name,
            attributes: exception.attributes,
            trace: None,
        }
    }

    /// The record, of this worker.
    pub(crate) fn into_record(self, source: Arc<Source>) -> LogRecord {
        let Self { time, observed, severity, event_name, body, attributes, trace } = self;
        LogRecord { source, time, observed, severity, event_name, body, attributes, trace }
    }

    /// What it costs while it waits.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.attributes.size_bytes() + self.body.len()
    }
}

/// What an event says to people.
fn body(event: &Event<'_>, reader: &Reader) -> Option<Arc<str>> {
    let said = MESSAGES.into_iter().find_map(|key| {
        let value = event.metadata_value(key).filter(|value| !value.trim().is_empty())?;
        reader.shown_text(key, value)
    })?;
    Some(Arc::from(truncated(&said, MAX_BODY_BYTES)))
}

impl Severity {
    /// Of an event with this dotted name.
    pub(crate) fn of(emitted: &str, event: &Event<'_>) -> Self {
        let has_one_of = |known: &[&str]| {
            let is_known = |word: &str| known.iter().any(|known| word.eq_ignore_ascii_case(known));
            emitted.split(['.', '_', '-']).any(is_known)
        };
        let told = if has_one_of(&ERROR_WORDS) || tells_of_an_error(event) {
            Self::Error
        } else if has_one_of(&WARNING_WORDS) {
            Self::Warn
        } else {
            Self::Info
        };
        let level = ["level", "severity"].into_iter().find_map(|key| level(event.metadata_value(key)?));
        match (told, level) {
            (told, None) => told,
            (Self::Info, Some(level)) => level,
            (told, Some(level)) => told.max(level),
        }
    }

    /// OpenTelemetry's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
            Self::Fatal => 21,
        }
    }
}

/// A level as Python's and Elixir's logging spell them.
fn level(text: &str) -> Option<Severity> {
    let levels = [
        ("trace", Severity::Debug),
        ("debug", Severity::Debug),
        ("info", Severity::Info),
        ("notice", Severity::Info),
        ("warn", Severity::Warn),
        ("warning", Severity::Warn),
        ("error", Severity::Error),
        ("critical", Severity::Fatal),
        ("fatal", Severity::Fatal),
        ("alert", Severity::Fatal),
        ("emergency", Severity::Fatal),
    ];
    let text = text.trim();
    levels.into_iter().find(|(word, _)| text.eq_ignore_ascii_case(word)).map(|(_, level)| level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::settings::{RedactAction, RedactRule, Settings};

    fn severity(name: &str, metadata: &[(&'static str, &'static str)]) -> Severity {
        let event = Event { metadata: metadata.iter().copied().collect(), ..Event::default() };
        Severity::of(name, &event)
    }

    #[test]
    fn the_name_the_error_and_the_level_say_how_bad_it_is() {
        for (name, metadata, expected) in [
            ("worker.ready", &[][..], Severity::Info),
            ("worker.error", &[], Severity::Error),
            ("worker.start_failed", &[], Severity::Error),
            ("worker.Exception", &[], Severity::Error),
            ("python.error.occurred", &[], Severity::Error),
            ("error.x", &[], Severity::Error),
            ("a.errors", &[], Severity::Error),
            ("batch.failures", &[], Severity::Error),
            ("worker-crashed.x", &[], Severity::Error),
            ("a.terror", &[], Severity::Info),
            ("a.errorless", &[], Severity::Info),
            ("memory.warning", &[], Severity::Warn),
            ("memory.low_warn", &[], Severity::Warn),
            ("warnings.sent", &[], Severity::Warn),
            ("warning.error", &[], Severity::Error),
            ("warned.x", &[], Severity::Info),
            ("ü", &[], Severity::Info),
            ("tool.ran", &[("error", "boom")], Severity::Error),
            ("tool.ran", &[("error", "None")], Severity::Info),
            ("tool.ran", &[("result", "error")], Severity::Error),
            ("tool.ran", &[("error_type", "ValueError"), ("error_message", "x")], Severity::Error),
            ("tool.ran", &[("error.type", "ValueError")], Severity::Error),
            ("tool.ran", &[("exception.stacktrace", "…")], Severity::Error),
            ("tool.ran", &[("traceback", "Traceback (most recent call last)")], Severity::Error),
            (
                "tool.ran",
                &[("error_type", ""), ("traceback", " null "), ("exception", "None")],
                Severity::Info,
            ),
            ("tool.ran", &[("exceptional", "yes"), ("error_budget", "3")], Severity::Info),
            ("log", &[("level", "debug"), ("error_message", "x")], Severity::Error),
            ("log", &[("level", "DEBUG")], Severity::Debug),
            ("log", &[("level", "critical")], Severity::Fatal),
            ("log", &[("severity", "notice")], Severity::Info),
            ("log", &[("level", "12"), ("severity", "warn")], Severity::Warn),
            ("log.error", &[("level", "info")], Severity::Error),
            ("log.error", &[("level", "fatal")], Severity::Fatal),
            ("log.warning", &[("level", "debug")], Severity::Warn),
        ] {
            assert_eq!(severity(name, metadata), expected, "{name} {metadata:?}");
        }
    }

    #[test]
    fn the_body_is_what_the_event_says_to_people() {
        let rule = RedactRule { key: "message".to_owned(), action: RedactAction::Drop };
        let plain = Reader::new(&Settings::default());
        let redacted = Reader::new(&Settings { redact: vec![rule], ..Settings::default() });
        let said = |metadata: &[(&'static str, &'static str)], reader: &Reader| {
            let event = Event { metadata: metadata.iter().copied().collect(), ..Event::default() };
            body(&event, reader).map(|body| body.to_string())
        };
        assert_eq!(said(&[("msg", "b"), ("message", "a")], &plain).as_deref(), Some("a"));
        assert_eq!(said(&[("message", " "), ("error_message", "boom")], &plain).as_deref(), Some("boom"));
        assert_eq!(said(&[("message", "a"), ("msg", "b")], &redacted).as_deref(), Some("b"));
        assert_eq!(said(&[("tool", "a")], &plain), None);
        let long = "ü".repeat(MAX_BODY_BYTES);
        let event =
            Event { metadata: [("message", long.as_str())].into_iter().collect(), ..Event::default() };
        assert_eq!(body(&event, &plain).map(|body| body.len()), Some(MAX_BODY_BYTES));
    }
}
