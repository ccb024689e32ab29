//! From an event's metadata and measurements to attributes, and to what they say about its span.
//!
//! One table says which keys have established names. Keys that would mean something else to a backend are put under
//! `snakepit.`; keys that are the event's own machinery (correlation id, trace context, pairing token) become no
//! attribute. Redaction happens here, before anything is kept.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::glob::Glob;
use crate::engine::attributes::{AttributeValue, Attributes, truncated_chars};
use crate::engine::b3;
use crate::engine::naming::Phase;
use crate::engine::settings::{
    DEFAULT_MAX_ATTRIBUTES, Limits, MAX_KEY_BYTES, Propagators, RedactAction, RedactRule, Settings,
};
use crate::engine::span::{SpanKind, Status};
use crate::event::{Event, Value};

/// The established name of a key in Snakepit's own OpenTelemetry code.
fn known_name(key: &str) -> Option<&'static str> {
    Some(match key {
        "call_type" => "snakepit.call_type",
        "command" => "snakepit.command",
        "correlation_id" => "snakepit.correlation_id",
        "function" => "snakepit.function",
        "library" => "snakepit.library",
        "node" => "snakepit.node",
        "pool" | "pool_name" => "snakepit.pool",
        "python_module" => "snakepit.python_module",
        "python_pid" => "snakepit.worker.pid",
        "request_id" => "snakepit.request_id",
        "session_id" => "snakepit.session_id",
        "timeout_ms" => "snakepit.timeout_ms",
        "tool" => "snakepit.tool",
        "worker_id" => "snakepit.worker.id",
        _ => return None,
    })
}

/// How long the name of an attribute of this key is, so that room is made once: a text that grows takes twice as much.
pub(crate) fn name_len(key: &str) -> usize {
    known_name(key).map_or(key.len() + if is_reserved(key) { "snakepit.".len() } else { 0 }, str::len)
}

/// Measurements that are times of the event itself.
pub(crate) const TIMES: [&str; 4] = ["duration", "monotonic_time", "system_time", "timestamp"];

/// What an end says about its span besides attributes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) status: Option<Status>,
    /// `error.type`, where the status is Error.
    pub(crate) error_type: Option<Arc<str>>,
    pub(crate) exception: Option<Exception>,
}

impl Outcome {
    /// What its texts cost in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        let status = match &self.status {
            Some(Status::Error(message)) => message.len(),
            Some(Status::Unset | Status::Ok) | None => 0,
        };
        let exception = self.exception.as_ref().map_or(0, |exception| {
            let parts = [&exception.type_name, &exception.message, &exception.stacktrace];
            parts.into_iter().flatten().map(|text| text.len()).sum()
        });
        status + self.error_type.as_ref().map_or(0, |text| text.len()) + exception
    }
}

/// The parts of an `exception` span event that are there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exception {
    pub(crate) type_name: Option<Box<str>>,
    pub(crate) message: Option<Box<str>>,
    pub(crate) stacktrace: Option<Box<str>>,
}

/// Everything that an event's keys and values say.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meaning {
    pub(crate) attributes: Attributes,
    /// How many there may be: a span event has a limit of its own.
    max_attributes: usize,
    /// It will be measured: the limit on characters is kept when that is done.
    #[serde(skip)]
    is_measured: bool,
    /// How many of the attributes, from the first, come from metadata.
    pub(crate) from_metadata: u16,
    pub(crate) outcome: Outcome,
    pub(crate) kind: Option<SpanKind>,
    /// Values that a limit cut or left out.
    pub(crate) cut: u64,
    pub(crate) not_finite: u64,
}

/// Reads metadata by the settings.
#[derive(Debug)]
pub(crate) struct Reader {
    redact: Vec<(Glob, RedactAction)>,
    timeouts: Vec<(Glob, Duration)>,
    limits: Limits,
    /// Spans are measured.
    measures: bool,
    propagators: Propagators,
}

/// A value as it may leave the engine.
enum Shown<'a> {
    Plain(&'a str),
    Hashed(String),
    Nothing,
}

impl Shown<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Hashed(text) => text,
            Self::Nothing => "",
        }
    }
}

impl Reader {
    /// A reader with these rules.
    pub(crate) fn new(settings: &Settings) -> Self {
        let compile = |rule: &RedactRule| (Glob::new(&rule.key), rule.action);
        Self {
            redact: settings.redact.iter().map(compile).collect(),
            timeouts: settings
                .span_timeouts
                .iter()
                .map(|(glob, timeout)| (Glob::new(glob), *timeout))
                .collect(),
            limits: settings.limits.clone(),
            measures: settings.metrics.is_some(),
            propagators: settings.propagators,
        }
    }

    /// How many attributes a span may have until it is finished. Where spans are measured, a limit that is set for what is
    /// exported keeps nothing from that, and only what is always the limit counts.
    pub(crate) fn max_span_attributes(&self) -> usize {
        let least = if self.measures { DEFAULT_MAX_ATTRIBUTES } else { 0 };
        self.limits.max_attributes.max(least)
    }

    /// The span timeout of an operation, where one of its own is configured. `emitted` is the start's dotted name.
    pub(crate) fn timeout(&self, emitted: &str) -> Option<Duration> {
        if self.timeouts.is_empty() {
            return None;
        }
        let operation = emitted.rsplit_once('.').map_or(emitted, |(operation, _)| operation);
        self.timeouts.iter().find(|(glob, _)| glob.matches(operation)).map(|(_, timeout)| *timeout)
    }

    /// What is to happen to the value of `key`, by the first rule that matches.
    fn redaction(&self, key: &str) -> Option<RedactAction> {
        if self.redact.is_empty() {
            return None;
        }
        // Matching is quadratic at worst, and the part of a key that nobody will see may be what a rule is about.
        if key.len() > MAX_KEY_BYTES {
            return Some(RedactAction::Drop);
        }
        self.redact.iter().find(|(glob, _)| glob.matches(key)).map(|(_, action)| *action)
    }

    fn shown<'a>(&self, key: &str, value: &'a str) -> Shown<'a> {
        match self.redaction(key) {
            None => Shown::Plain(value),
            Some(RedactAction::Drop) => Shown::Nothing,
            Some(RedactAction::Hash) => Shown::Hashed(hashed(value)),
        }
    }

    /// Whether a rule keeps this key's value from being shown as it is.
    pub(crate) fn redacts(&self, key: &str) -> bool {
        self.redaction(key).is_some()
    }

    /// A key's value as it may be shown; nothing where a rule drops it.
    pub(crate) fn shown_text<'a>(&self, key: &str, value: &'a str) -> Option<Cow<'a, str>> {
        match self.shown(key, value) {
            Shown::Plain(text) => Some(text.into()),
            Shown::Hashed(text) => Some(text.into()),
            Shown::Nothing => None,
        }
    }

    /// A correlation id as it may be shown.
    pub(crate) fn shown_correlation_id(&self, correlation_id: &str) -> String {
        self.shown("correlation_id", correlation_id).as_str().to_owned()
    }

    /// What `event` says as this half of a span, or as a standalone event (no phase).
    pub(crate) fn read(&self, event: &Event<'_>, phase: Option<Phase>, correlation_id: &str) -> Meaning {
        let ends = matches!(phase, Some(Phase::Stop | Phase::Exception));
        let mut meaning = Meaning {
            attributes: Attributes::with_capacity(event, ends),
            max_attributes: match phase {
                Some(_) => self.max_span_attributes(),
                None => self.limits.max_event_attributes,
            },
            is_measured: self.measures && phase.is_some(),
            ..Meaning::default()
        };
        let mut said = Said::default();
        // First, so that no limit on attributes keeps it out.
        if !correlation_id.is_empty() {
            let shown = self.shown("correlation_id", correlation_id);
            if !matches!(shown, Shown::Nothing) {
                self.set_text(&mut meaning, "correlation_id", shown.as_str());
            }
        }
        for (key, value) in &event.metadata {
            let shown = self.shown(key, value);
            if matches!(shown, Shown::Nothing) {
                continue;
            }
            let consumed = match *key {
                "correlation_id" | "traceparent" | "tracestate" | "telemetry_span_context" => true,
                key if self.propagators.b3 && b3::is_key(key) => true,
                "span_kind" => {
                    meaning.kind = span_kind(value);
                    meaning.kind.is_some()
                }
                key => ends && said.take(key, &shown, phase == Some(Phase::Exception)),
            };
            if !consumed {
                self.set_text(&mut meaning, key, shown.as_str());
            }
        }
        if let (Some(module), Some(function)) =
            (event.metadata_value("python_module"), event.metadata_value("function"))
            && self.redact.is_empty()
        {
            meaning.attributes.set_joined("code.function.name", module, function);
        }
        meaning.from_metadata = u16::try_from(meaning.attributes.len()).unwrap_or(u16::MAX);
        for (key, value) in &event.measurements {
            if !TIMES.contains(key) {
                self.set_measurement(&mut meaning, key, *value);
            }
        }
        if ends {
            said.conclude(&mut meaning, phase == Some(Phase::Exception), &self.limits);
        }
        if meaning.cut > 0 {
            // Room was made for all that was sent; an open span would keep it.
            meaning.attributes.shrink();
        }
        meaning
    }

    fn set_measurement(&self, meaning: &mut Meaning, key: &str, value: Value<'_>) {
        let is_redacted = self.redaction(key).is_some();
        match value {
            _ if is_redacted => {}
            Value::Int(int) => self.set(meaning, key, AttributeValue::Int(int)),
            Value::Float(float) if float.is_finite() => self.set(meaning, key, AttributeValue::Float(float)),
            // JSON has no such numbers, and a backend that answers in JSON would not show the trace at all.
            Value::Float(float) => {
                meaning.not_finite += 1;
                self.set_text(meaning, key, &float.to_string());
            }
            Value::Text(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(int), _) => self.set(meaning, key, AttributeValue::Int(int)),
                (Err(_), Ok(float)) if float.is_finite() => {
                    self.set(meaning, key, AttributeValue::Float(float));
                }
                (Err(_), _) => self.set_text(meaning, key, text),
            },
        }
    }

    fn set_text(&self, meaning: &mut Meaning, key: &str, text: &str) {
        let cut = match self.limits.max_attribute_value_chars {
            Some(max) if !meaning.is_measured => truncated_chars(text, max),
            Some(_) => truncated(text, self.limits.text_bytes()),
            None => truncated(text, self.limits.max_attribute_value_bytes),
        };
        meaning.cut += u64::from(cut.len() < text.len());
        self.set(meaning, key, AttributeValue::Text(cut));
    }

    fn set(&self, meaning: &mut Meaning, key: &str, value: AttributeValue<'_>) {
        if meaning.attributes.len() >= meaning.max_attributes
            && meaning.attributes.value(&attribute_name(key)).is_none()
        {
            meaning.attributes.count_dropped();
            meaning.cut += 1;
            return;
        }
        if let Some(known) = known_name(key) {
            meaning.attributes.set(known, value);
        } else if is_reserved(key) {
            meaning.attributes.set_prefixed("snakepit.", truncated(key, MAX_KEY_BYTES), value);
        } else if meaning.from_metadata == 0 && key.len() <= MAX_KEY_BYTES && !key.starts_with("snakepit.") {
            // The keys of metadata are unique, and this one is no other's new name.
            meaning.attributes.push_new(key, value);
        } else {
            meaning.attributes.set(truncated(key, MAX_KEY_BYTES), value);
        }
    }
}

/// The name of a key's attribute.
pub(crate) fn attribute_name(key: &str) -> Cow<'_, str> {
    let short = truncated(key, MAX_KEY_BYTES);
    match known_name(key) {
        Some(known) => known.into(),
        None if is_reserved(key) => format!("snakepit.{short}").into(),
        None => short.into(),
    }
}

/// The key that became the attribute of this name, which may itself be such a key.
pub(crate) fn sent_name(attribute: &str) -> &str {
    let Some(key) = attribute.strip_prefix("snakepit.") else { return attribute };
    match attribute {
        "snakepit.worker.pid" => "python_pid",
        "snakepit.worker.id" => "worker_id",
        _ if known_name(key) == Some(attribute) || is_reserved(key) => key,
        _ => attribute,
    }
}

/// What stands for a value that is not to be shown.
pub(crate) fn hashed(value: &str) -> String {
    Sha256::digest(value.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Keys that a backend would take for its own. An empty key is no attribute name at all.
fn is_reserved(key: &str) -> bool {
    key.is_empty()
        || key == "error"
        || key == "span.kind"
        || ["otel.", "service.", "telemetry."].iter().any(|prefix| key.starts_with(prefix))
}

fn span_kind(text: &str) -> Option<SpanKind> {
    let kinds = [
        ("internal", SpanKind::Internal),
        ("server", SpanKind::Server),
        ("client", SpanKind::Client),
        ("producer", SpanKind::Producer),
        ("consumer", SpanKind::Consumer),
    ];
    kinds.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, kind)| kind)
}

/// The longest beginning of `text` of at most `max` bytes that ends between characters.
pub(crate) fn truncated(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

/// What an end's keys say about its outcome, gathered in one pass.
#[derive(Default)]
struct Said {
    is_error: bool,
    is_ok: bool,
    /// The value of `error`, which may itself be the message.
    error: Option<String>,
    type_name: Option<String>,
    message: Option<String>,
    stacktrace: Option<String>,
    /// `kind` and `reason` as `:telemetry.span` says them.
    kind: Option<String>,
    reason: Option<String>,
}

impl Said {
    /// Whether the key is used up, and becomes no attribute of its own.
    fn take(&mut self, key: &str, value: &Shown<'_>, is_exception: bool) -> bool {
        let text = value.as_str();
        let owned = || Some(text.to_owned());
        match key {
            "error_type" => self.type_name = owned(),
            "error_message" => self.message = owned(),
            "traceback" => self.stacktrace = owned(),
            "stacktrace" if is_exception => self.stacktrace = self.stacktrace.take().or_else(owned),
            "kind" if is_exception => self.kind = owned(),
            "reason" if is_exception => self.reason = owned(),
            "error" => {
                if is_an_error(text) {
                    self.is_error = true;
                    self.error = owned();
                }
                return false;
            }
            "result" | "status" => {
                self.is_error |= text.eq_ignore_ascii_case("error");
                self.is_ok |= key == "status" && text.eq_ignore_ascii_case("ok");
                return false;
            }
            _ => return false,
        }
        true
    }

    fn conclude(self, meaning: &mut Meaning, is_exception: bool, limits: &Limits) {
        let filled = |text: Option<String>| {
            text.filter(|text| !text.is_empty())
                .map(|text| Box::<str>::from(truncated(&text, limits.text_bytes())))
        };
        let type_name = filled(self.type_name.or(self.kind));
        let message = filled(self.message.or(self.reason));
        let stacktrace = filled(self.stacktrace);
        if !is_exception && !self.is_error {
            meaning.outcome.status = self.is_ok.then_some(Status::Ok);
            // The keys say nothing about an outcome here, so they are attributes like any others.
            for (key, text) in
                [("error_type", type_name), ("error_message", message), ("traceback", stacktrace)]
            {
                if let Some(text) = text {
                    meaning.attributes.set(key, AttributeValue::Text(&text));
                }
            }
            return;
        }
        let error = self.error.as_deref().map(|error| truncated(error, limits.text_bytes()));
        let description = message.as_deref().or(error).unwrap_or_default();
        meaning.outcome.status = Some(Status::Error(Arc::from(description)));
        meaning.outcome.error_type = Some(Arc::from(type_name.as_deref().unwrap_or("_OTHER")));
        if is_exception || type_name.is_some() || stacktrace.is_some() {
            meaning.outcome.exception = Some(Exception { type_name, message, stacktrace });
        }
    }
}

/// Whether the keys of an event that is no end tell of an error: those that make an end one, and those that say what it was.
pub(crate) fn tells_of_an_error(event: &Event<'_>) -> bool {
    event.metadata.iter().any(|(key, value)| match *key {
        "error" | "error_type" | "error.type" | "error_message" | "error.message" | "exception"
        | "exception_type" | "exception_message" | "traceback" => is_an_error(value),
        "result" | "status" => value.eq_ignore_ascii_case("error"),
        key => key.starts_with("exception.") && is_an_error(value),
    })
}

/// The value of an `error` key that says that there was one.
fn is_an_error(text: &str) -> bool {
    let nothing = ["", "none", "nil", "null", "false", "0"];
    !nothing.iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_for_all_that_a_start_says_and_no_more() {
        let metadata = [("tool", "search"), ("session_id", "s-1"), ("model", "small"), ("error", "x")];
        let measurements = [("system_time", Value::Int(1)), ("queue_depth", Value::Int(2))];
        let event = Event {
            metadata: metadata.into_iter().collect(),
            measurements: measurements.into_iter().collect(),
            correlation_id: "sp-0123456789",
            ..Event::default()
        };
        let meaning =
            Reader::new(&Settings::default()).read(&event, Some(Phase::Start), event.correlation_id);
        let mut shrunk = meaning.attributes.clone();
        shrunk.shrink();
        assert_eq!(meaning.attributes.size_bytes(), shrunk.size_bytes());
    }

    #[test]
    fn the_first_rule_that_matches_a_key_redacts_it() {
        let reader = reader(&[("*password*", RedactAction::Drop), ("user_id", RedactAction::Hash)]);

        assert_eq!(reader.redaction("db.password.old"), Some(RedactAction::Drop));
        assert_eq!(reader.redaction("user_id"), Some(RedactAction::Hash));
        assert_eq!(reader.redaction("user_ids"), None);
        let Shown::Hashed(shown) = reader.shown("user_id", "4711") else { panic!("not hashed") };
        assert_eq!(shown, "de650d61f5bd166a");
    }

    #[test]
    fn a_key_too_long_to_judge_is_dropped_where_there_are_rules() {
        let long = format!("{}password", "a".repeat(MAX_KEY_BYTES));

        assert_eq!(reader(&[("other", RedactAction::Hash)]).redaction(&long), Some(RedactAction::Drop));
        assert_eq!(reader(&[]).redaction(&long), None);
    }

    #[test]
    fn an_operation_has_the_timeout_of_the_first_glob_that_matches() {
        let timeouts =
            [("model.*", 2), ("*", 1)].map(|(glob, secs)| (glob.to_owned(), Duration::from_secs(secs)));
        let reader = Reader::new(&Settings { span_timeouts: timeouts.into(), ..Settings::default() });

        assert_eq!(reader.timeout("model.load.start"), Some(Duration::from_secs(2)));
        assert_eq!(reader.timeout("model.start"), Some(Duration::from_secs(1)));
        assert_eq!(Reader::new(&Settings::default()).timeout("model.start"), None);
    }

    fn reader(rules: &[(&str, RedactAction)]) -> Reader {
        let rule =
            |(key, action): &(&str, RedactAction)| RedactRule { key: (*key).to_owned(), action: *action };
        Reader::new(&Settings { redact: rules.iter().map(rule).collect(), ..Settings::default() })
    }
}
