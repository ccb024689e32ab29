//! Reads what a peer says in an answer: partial successes, and words for the log; in protobuf and in JSON.

use std::error::Error;
use std::fmt::Write;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use serde_json::Value;

use crate::exporter::retry::Outcome;
use crate::exporter::signal::Signal;
use crate::exporter::tls;

/// Bytes of a peer's words that are kept: peers may answer at length.
const MAX_MESSAGE_BYTES: usize = 1024;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Protobuf.
    Protobuf,
    /// OTLP/JSON.
    Json,
}

/// The body of an answer that says success. One that cannot be read is a success with a hint: the peer took the items,
/// and sending them again would double them.
pub(crate) fn read_success(signal: Signal, encoding: Encoding, body: &[u8]) -> Outcome {
    let read = match encoding {
        _ if body.is_empty() => Ok((0, String::new())),
        Encoding::Protobuf => read_protobuf(body),
        Encoding::Json => read_json(signal, body),
    };
    let (rejected_items, message) = read.unwrap_or_else(|error| {
        (0, format!("the answer is no {}: {}", response_name(signal), printable(&error)))
    });
    Outcome::Accepted { rejected_items, message }
}

/// The responses of the three signals are one message: their fields have the same numbers and types.
fn read_protobuf(body: &[u8]) -> Result<(u64, String), String> {
    let response = ExportTraceServiceResponse::decode(body).map_err(|error| error.to_string())?;
    let partial = response.partial_success.unwrap_or_default();
    Ok((u64::try_from(partial.rejected_spans).unwrap_or(0), printable(&partial.error_message)))
}

/// Unknown fields are passed over, and a count may be text or a number, as the specification demands.
fn read_json(signal: Signal, body: &[u8]) -> Result<(u64, String), String> {
    let response: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let Value::Object(response) = response else { return Err("it is no object".to_owned()) };
    let Some(partial) = response.get("partialSuccess") else { return Ok((0, String::new())) };
    let rejected = match partial.get(rejected_name(signal)) {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(Value::Number(number)) => number.as_u64().unwrap_or(0),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => 0,
    };
    let message = partial.get("errorMessage").and_then(Value::as_str).unwrap_or_default();
    Ok((rejected, printable(message)))
}

/// What the body of an answer that says an error has to say: a `google.rpc.Status` by the specification, else text.
pub(crate) fn read_error(encoding: Option<Encoding>, body: &[u8]) -> String {
    let message = match encoding {
        Some(Encoding::Protobuf) => tonic_types::pb::Status::decode(body).map(|status| status.message).ok(),
        Some(Encoding::Json) => serde_json::from_slice(body)
            .ok()
            .and_then(|status: Value| Some(status.get("message")?.as_str()?.to_owned())),
        None => None,
    };
    let is_text = encoding != Some(Encoding::Protobuf);
    message
        .unwrap_or_else(|| if is_text { String::from_utf8_lossy(body).into_owned() } else { String::new() })
}

fn response_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "ExportTraceServiceResponse",
        Signal::Metrics => "ExportMetricsServiceResponse",
        Signal::Logs => "ExportLogsServiceResponse",
    }
}

fn rejected_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "rejectedSpans",
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
    }
}

/// The start of what a peer said, its control characters escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in start_of(text, MAX_MESSAGE_BYTES).chars() {
        if character.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// At most the first `max_bytes` of `text`, no character torn apart.
pub(crate) fn start_of(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// An error and what caused it, in one line; what TLS has against the peer, in words.
pub(crate) fn with_causes(first: &(dyn Error + 'static)) -> String {
    let mut shown = first.to_string();
    let mut cause = first.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause's words.
        if !shown.contains(&text) {
            shown.push_str(": ");
            shown.push_str(&text);
        }
        cause = error.source();
    }
    let words = tls::handshake_words(first).or_else(|| tls::alert_words_of(&shown).map(str::to_owned));
    if let Some(words) = words {
        shown.push_str(": ");
        shown.push_str(&words);
    }
    printable(&shown)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn answer(rejected_spans: i64, message: &str) -> Outcome {
        let response = ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: message.to_owned(),
            }),
        };
        read_success(Signal::Traces, Encoding::Protobuf, &response.encode_to_vec())
    }

    fn accepted(rejected_items: u64, message: &str) -> Outcome {
        Outcome::Accepted { rejected_items, message: message.to_owned() }
    }

    #[test]
    fn partial_successes_are_read() {
        assert_eq!(read_success(Signal::Logs, Encoding::Protobuf, b""), accepted(0, ""));
        assert_eq!(read_success(Signal::Logs, Encoding::Json, b""), accepted(0, ""));
        assert_eq!(answer(0, ""), accepted(0, ""));
        assert_eq!(answer(0, "hint"), accepted(0, "hint"));
        assert_eq!(answer(3, "no\n\u{1b}[31m"), accepted(3, "no\\n\\u{1b}[31m"));
        assert_eq!(answer(-3, ""), accepted(0, ""));
    }

    #[test]
    fn an_unreadable_answer_is_a_success_with_a_hint() {
        for (encoding, body) in
            [(Encoding::Protobuf, "<html>"), (Encoding::Json, "<html>"), (Encoding::Json, "[1]")]
        {
            let outcome = read_success(Signal::Metrics, encoding, body.as_bytes());
            let Outcome::Accepted { rejected_items: 0, message } = outcome else { panic!() };
            assert!(message.starts_with("the answer is no ExportMetricsServiceResponse: "), "{message}");
        }
    }

    #[test]
    fn partial_successes_in_json_are_read_by_the_names_of_their_signal() {
        for (signal, body, expected) in [
            (
                Signal::Traces,
                r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"no"}}"#,
                accepted(2, "no"),
            ),
            (Signal::Traces, r#"{"new":1,"partialSuccess":{"rejectedSpans":2,"new":{}}}"#, accepted(2, "")),
            (Signal::Metrics, r#"{"partialSuccess":{"rejectedDataPoints":"3"}}"#, accepted(3, "")),
            (Signal::Logs, r#"{"partialSuccess":{"rejectedLogRecords":4}}"#, accepted(4, "")),
            (Signal::Logs, r#"{"partialSuccess":{"rejectedSpans":4}}"#, accepted(0, "")),
            (
                Signal::Logs,
                r#"{"partialSuccess":{"rejectedLogRecords":"-4","errorMessage":null}}"#,
                accepted(0, ""),
            ),
            (Signal::Traces, r#"{"partialSuccess":null}"#, accepted(0, "")),
            (Signal::Traces, "{}", accepted(0, "")),
        ] {
            assert_eq!(read_success(signal, Encoding::Json, body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn errors_are_read_in_the_encoding_of_the_answer() {
        let status = tonic_types::pb::Status { code: 3, message: "no".to_owned(), details: vec![] };
        assert_eq!(read_error(Some(Encoding::Protobuf), &status.encode_to_vec()), "no");
        assert_eq!(read_error(Some(Encoding::Protobuf), b"<html>"), "");
        assert_eq!(read_error(Some(Encoding::Json), br#"{"code":3,"message":"no","details":[{}]}"#), "no");
        assert_eq!(read_error(Some(Encoding::Json), b"{\"error\":1}"), "{\"error\":1}");
        assert_eq!(read_error(None, b"<html>"), "<html>");
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(printable(&"é".repeat(1000)).len(), MAX_MESSAGE_BYTES);
    }
}
