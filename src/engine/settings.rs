//! What the engine is told about how to decide. Every limit has its name and its reason here.

use std::time::Duration;

use crate::engine::metrics::settings::MetricSettings;
use crate::engine::sampler::Sampler;

/// Default of [`Settings::prefix`].
pub const DEFAULT_PREFIX: &str = "snakepit.python";
/// Default of [`Settings::span_timeout`].
pub const DEFAULT_SPAN_TIMEOUT: Duration = Duration::from_secs(600);
/// Default of [`Settings::reconnect_grace`].
pub const DEFAULT_RECONNECT_GRACE: Duration = Duration::from_secs(5);
/// Default of [`Settings::reorder_window`]: threads of one worker were seen 182 ms out of order.
pub const DEFAULT_REORDER_WINDOW: Duration = Duration::from_millis(500);
/// OpenTelemetry's limit on instrument names; span names keep it too, so that one name serves both.
pub const MAX_NAME_CHARS: usize = 255;
/// Default of [`Limits::max_attributes`], from the specification.
pub(crate) const DEFAULT_MAX_ATTRIBUTES: usize = 128;
/// An attribute's key; the specification has no limit, backends have.
pub const MAX_KEY_BYTES: usize = 255;

/// The engine's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Goes before every name; dotted.
    pub prefix: String,
    /// How long a start waits for its end.
    pub span_timeout: Duration,
    /// Other time-outs for operations that match a glob (without the prefix); the first match counts.
    pub span_timeouts: Vec<(String, Duration)>,
    /// How long a worker without a stream keeps its state.
    pub reconnect_grace: Duration,
    /// How far events may arrive out of order.
    pub reorder_window: Duration,
    /// Globs of worker ids that run one thing at a time: they nest without a correlation id too.
    pub one_at_a_time: Vec<String>,
    /// Adds the hour to the hash of a correlation id, for senders of constants.
    pub trace_epoch: Option<Duration>,
    /// A hashed correlation id that is never idle for longer than this is in use.
    pub trace_idle: Duration,
    /// What leaves the engine without its value.
    pub redact: Vec<RedactRule>,
    /// Which metadata count as an event's parent.
    pub propagators: Propagators,
    /// How metrics are made; absent where none are.
    pub metrics: Option<MetricSettings>,
    /// Log records are made.
    pub records: bool,
    /// What a span's exception becomes.
    pub exception_signal: ExceptionSignal,
    /// Which traces are kept, so that exemplars lead to no others; absent where spans go nowhere.
    pub sampler: Option<Sampler>,
    /// The limits.
    pub limits: Limits,
}

/// What a span's exception becomes. Where no records are made, it is a span event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExceptionSignal {
    /// A span event.
    #[default]
    SpanEvent,
    /// A log record.
    Record,
    /// Both.
    Both,
}

/// Which carriers of a parent's context in an event's metadata count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagators {
    /// `traceparent` and `tracestate`.
    pub tracecontext: bool,
    /// `b3`, or `x-b3-traceid` and the keys beside it.
    pub b3: bool,
}

/// The specification's default.
impl Default for Propagators {
    fn default() -> Self {
        Self { tracecontext: true, b3: false }
    }
}

/// A rule of `attributes.redact`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactRule {
    /// Glob on the metadata key as sent.
    pub key: String,
    /// What happens to it.
    pub action: RedactAction,
}

/// What happens to a redacted attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedactAction {
    /// The attribute is left out.
    Drop,
    /// The value becomes the first 16 hex digits of its SHA-256.
    Hash,
}

/// The engine's limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open spans of one worker.
    pub max_open_spans_per_worker: usize,
    /// Bytes of open spans of one worker; the bridge's own bound is kept by the app.
    pub max_open_bytes_per_worker: usize,
    /// Uncertain open spans of one worker: their own quota, so that they push out no others.
    pub max_uncertain_per_worker: usize,
    /// Undecided ends, and standalone events waiting for their span, of one worker.
    pub max_waiting_per_worker: usize,
    /// Finished spans of one worker that wait for their parent.
    pub max_held_per_worker: usize,
    /// Remembered ends and starts of one worker, against duplicates.
    pub max_duplicates_per_worker: usize,
    /// Remembered incomplete spans and rebuilt ends of one worker.
    pub max_closed_per_worker: usize,
    /// How long those are remembered.
    pub closed_memory: Duration,
    /// Bytes of an attribute's value, where no number of characters is set.
    pub max_attribute_value_bytes: usize,
    /// Characters (code points) of an attribute's value.
    pub max_attribute_value_chars: Option<usize>,
    /// Attributes of a span.
    pub max_attributes: usize,
    /// Events of a span.
    pub max_span_events: usize,
    /// Attributes of a span's event.
    pub max_event_attributes: usize,
    /// Links of a span.
    pub max_span_links: usize,
    /// Attributes of a span's link.
    pub max_link_attributes: usize,
    /// Attributes of a log record.
    pub max_record_attributes: usize,
    /// Characters (code points) of a log record's attribute.
    pub max_record_attribute_chars: Option<usize>,
}

impl Limits {
    /// Bytes of a text that is kept until its characters are counted, and of a status message, which no limit on
    /// attributes concerns.
    pub(crate) fn text_bytes(&self) -> usize {
        // No code point takes more than four bytes.
        let chars = self.max_attribute_value_chars.unwrap_or(0).saturating_mul(4);
        self.max_attribute_value_bytes.max(chars)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_open_spans_per_worker: 100_000,
            max_open_bytes_per_worker: 128 << 20,
            max_uncertain_per_worker: 10_000,
            max_waiting_per_worker: 10_000,
            max_held_per_worker: 100_000,
            max_duplicates_per_worker: 65_536,
            max_closed_per_worker: 100_000,
            closed_memory: Duration::from_secs(3600),
            max_attribute_value_bytes: 16 << 10,
            max_attribute_value_chars: None,
            max_attributes: DEFAULT_MAX_ATTRIBUTES,
            max_span_events: 128,
            max_event_attributes: 128,
            max_span_links: 128,
            max_link_attributes: 128,
            max_record_attributes: 128,
            max_record_attribute_chars: None,
        }
    }
}

impl Settings {
    /// These, with the limits of log records in place of those of a span's events.
    pub(crate) fn of_records(&self) -> Self {
        let limits = Limits {
            max_attribute_value_chars: self.limits.max_record_attribute_chars,
            max_event_attributes: self.limits.max_record_attributes,
            ..self.limits.clone()
        };
        Self { limits, ..self.clone() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefix: DEFAULT_PREFIX.to_owned(),
            span_timeout: DEFAULT_SPAN_TIMEOUT,
            span_timeouts: Vec::new(),
            reconnect_grace: DEFAULT_RECONNECT_GRACE,
            reorder_window: DEFAULT_REORDER_WINDOW,
            one_at_a_time: Vec::new(),
            trace_epoch: None,
            trace_idle: Duration::from_secs(3600),
            redact: Vec::new(),
            propagators: Propagators::default(),
            metrics: None,
            records: false,
            exception_signal: ExceptionSignal::default(),
            sampler: None,
            limits: Limits::default(),
        }
    }
}
