//! The bridge's own log: to standard error, as text for people or JSON for machines.
//!
//! `RUST_LOG` says what is logged, in tracing's own syntax; without it the configuration gives a level. Whatever workers sent, a record is one line, and no control character reaches a terminal.

pub(crate) mod gate;
pub mod lines;
pub mod own;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use tracing::{Span, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::config::env::{EnvSource, non_empty};
use lines::{LastLines, Lines};
use own::{OwnError, OwnTelemetry, Providers};

/// Targets that say nothing about the bridge below `info`, and everything about each frame.
const TRANSPORT_TARGETS: [&str; 6] = ["h2", "hyper", "hyper_util", "tonic", "tower", "reqwest"];

/// The target of the spans that the bridge exports about itself.
pub const LIFECYCLE: &str = "snakepit_otel_bridge::lifecycle";

/// A span of the bridge's own life: its start, its recovery, a checkpoint, its shutdown. Nothing that happens more often
/// than every few seconds.
#[must_use]
pub fn lifecycle(operation: &'static str) -> Span {
    tracing::info_span!(target: LIFECYCLE, "lifecycle", otel.name = operation)
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}

impl LogFormat {
    /// The format as flags and `check` spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The least important record that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to find a mistake.
    Debug,
    /// What operators care about.
    Info,
    /// What should not repeat.
    Warn,
    /// What is broken.
    Error,
    /// Nothing.
    Off,
}

impl LogLevel {
    /// The level as `OTEL_LOG_LEVEL` and `check` spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Off => "off",
        }
    }
}

/// What is going on as long as the program logs.
#[derive(Debug)]
#[must_use = "the last lines of the log are waited for when it is dropped"]
pub struct Diagnostics {
    own: Option<Providers>,
    /// Waits for the log's last lines when it is dropped.
    _last_lines: LastLines,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something else logs already.
    #[error("start the log: {0}")]
    Log(#[from] tracing::subscriber::SetGlobalDefaultError),
    /// The bridge's own telemetry cannot be sent where it should.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// There is no thread for it.
    #[error("start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// Begins to log to standard error, for the rest of the program, and to send the bridge's own telemetry if asked to.
///
/// # Errors
/// When something else logs already, or the bridge's own telemetry leads nowhere.
pub fn start(
    format: LogFormat,
    level: LogLevel,
    env: &impl EnvSource,
    own: Option<&OwnTelemetry>,
) -> Result<Diagnostics, StartError> {
    let own = own.map(Providers::new).transpose()?;
    let (filter, complaint) = filter(level, env);
    let quiet_sdk = non_empty(env, "RUST_LOG").is_none_or(|directives| !directives.contains("opentelemetry"));
    let filter = filter.and(filter_fn(move |metadata| {
        // What it says at every failed request, the bridge says itself, less often.
        !(quiet_sdk && metadata.target().starts_with("opentelemetry"))
    }));
    let (lines, last_lines) = Lines::start(io::stderr())?;
    let log = match format {
        LogFormat::Text => text(lines).with_filter(filter).boxed(),
        LogFormat::Json => json(lines).with_filter(filter).boxed(),
    };
    let records = own.as_ref().and_then(|own| own.records(self::filter(level, env).0));
    let spans = own.as_ref().and_then(Providers::spans);
    tracing::subscriber::set_global_default(Registry::default().with(log).with(spans).with(records))?;
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
    Ok(Diagnostics { own, _last_lines: last_lines })
}

impl Diagnostics {
    /// What [`Diagnostics::end`] may need of `shutdown_timeout`: at most a fifth of it.
    #[must_use]
    pub fn reserve(&self, shutdown_timeout: Duration) -> Duration {
        if self.own.is_some() { own::FLUSH_LIMIT.min(shutdown_timeout / 5) } else { Duration::ZERO }
    }

    /// Sends what there is of the bridge's own telemetry, within that time. Not within a tokio runtime.
    pub fn end(self, within: Duration) {
        if let Some(own) = self.own {
            own.shutdown(within);
        }
    }
}

/// What is logged, and what could not be understood about it.
fn filter(level: LogLevel, env: &impl EnvSource) -> (EnvFilter, Option<String>) {
    if let Some(directives) = non_empty(env, "RUST_LOG") {
        return match EnvFilter::try_new(&directives) {
            Ok(filter) => (filter, None),
            Err(error) => (at_level(level), Some(format!("RUST_LOG `{directives}` is ignored: {error}"))),
        };
    }
    (at_level(level), None)
}

fn at_level(level: LogLevel) -> EnvFilter {
    let mut directives = level.as_str().to_owned();
    if matches!(level, LogLevel::Debug | LogLevel::Trace) {
        for target in TRANSPORT_TARGETS {
            write!(directives, ",{target}=info").expect("a String takes everything");
        }
    }
    EnvFilter::new(directives)
}

fn text<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        // Colours are escape sequences, and those of workers could not be told from ours.
        .with_ansi(false)
        // A closed standard error is not worth a panic.
        .log_internal_errors(false)
        .with_writer(Escaping {
            inner: writer,
            escape: |character| format!("\\u{{{:x}}}", u32::from(character)),
        })
}

fn json<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().json().flatten_event(true).log_internal_errors(false).with_writer(
        Escaping { inner: writer, escape: |character| format!("\\u{:04x}", u32::from(character)) },
    )
}

/// Whether a character could move the cursor, change the terminal, or turn the direction of the text around it.
#[must_use]
pub fn is_treacherous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Compact JSON whose strings hold no treacherous character as such. JSON itself demands that of ASCII's alone, which
/// leaves a terminal the eight-bit ones.
#[must_use]
pub fn escaped_json(json: String) -> String {
    if !json.contains(is_treacherous) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for character in json.chars() {
        if is_treacherous(character) {
            // All of them lie in the first plane, so that one escape holds each.
            write!(escaped, "\\u{:04x}", u32::from(character)).expect("a String takes everything");
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Writers whose records are one line each, without treacherous characters.
#[derive(Clone)]
struct Escaping<W> {
    inner: W,
    escape: fn(char) -> String,
}

/// The writer of one record. tracing-subscriber gives it the whole record in one call.
struct EscapingWriter<W> {
    inner: W,
    escape: fn(char) -> String,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for Escaping<W> {
    type Writer = EscapingWriter<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        EscapingWriter { inner: self.inner.make_writer(), escape: self.escape }
    }
}

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        if !line.contains(is_treacherous) {
            self.inner.write_all(record)?;
            return Ok(record.len());
        }
        let mut escaped = String::with_capacity(text.len() + 32);
        for character in line.chars() {
            if is_treacherous(character) {
                escaped.push_str(&(self.escape)(character));
            } else {
                escaped.push(character);
            }
        }
        escaped.push_str(end);
        self.inner.write_all(escaped.as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn what_workers_send_cannot_reach_a_terminal() {
        let nasty = "a\u{1b}[2Jb\nc\u{85}\u{202e}d";

        let written = Written::default();
        tracing::subscriber::with_default(Registry::default().with(text(written.clone())), || {
            tracing::info!(worker.id = nasty, "{nasty}");
        });
        let text = written.text();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.trim_end().contains(is_treacherous), "{text:?}");
        assert!(text.contains("[2Jb"), "{text:?}");

        let written = Written::default();
        tracing::subscriber::with_default(Registry::default().with(json(written.clone())), || {
            tracing::info!(worker.id = nasty, "{nasty}");
        });
        let text = written.text();
        assert!(!text.trim_end().contains(is_treacherous), "{text:?}");
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["message"], nasty);
        assert_eq!(record["worker.id"], nasty);
    }

    #[test]
    fn json_is_the_same_with_its_treacherous_characters_escaped() {
        let value = serde_json::json!({"a\u{9b}31m": "b\u{7f}\u{202e}\u{2028}\u{1b}\n\"ü"});
        let escaped = escaped_json(value.to_string());
        assert!(!escaped.contains(is_treacherous), "{escaped}");
        assert!(escaped.contains('ü'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn rust_log_beats_the_level() {
        let filter_of = |level: LogLevel, variables: &[(&str, &str)]| {
            let env: BTreeMap<_, _> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let (filter, complaint) = filter(level, &env);
            (filter.to_string(), complaint.is_some())
        };
        assert_eq!(filter_of(LogLevel::Info, &[]), ("info".to_owned(), false));
        assert_eq!(filter_of(LogLevel::Off, &[]), ("off".to_owned(), false));
        assert_eq!(filter_of(LogLevel::Warn, &[("RUST_LOG", "error")]), ("error".to_owned(), false));
        assert_eq!(filter_of(LogLevel::Warn, &[("RUST_LOG", "a=b=c")]), ("warn".to_owned(), true));
        let (debug, _) = filter_of(LogLevel::Debug, &[]);
        assert!(debug.contains("h2=info"), "{debug}");
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Written {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }
}
