//! Reads what a peer says in an answer: partial successes, and words for the log.

use std::fmt::Write;

use bytes::Buf;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use crate::exporter::retry::Outcome;

/// Bytes of a peer's words that are kept: peers may answer at length.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The body of an answer that says success. One that cannot be read is a success with a hint: the peer took the spans,
/// and sending them again would double them.
pub(crate) fn read_success(body: impl Buf) -> Outcome {
    let (rejected_spans, message) = match ExportTraceServiceResponse::decode(body) {
        Ok(response) => {
            let partial = response.partial_success.unwrap_or_default();
            (u64::try_from(partial.rejected_spans).unwrap_or(0), printable(&partial.error_message))
        }
        Err(error) => (0, format!("the answer is no ExportTraceServiceResponse: {error}")),
    };
    Outcome::Accepted { rejected_spans, message }
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

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut shown = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause's words.
        if !shown.contains(&text) {
            shown.push_str(": ");
            shown.push_str(&text);
        }
        cause = error.source();
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
        read_success(response.encode_to_vec().as_slice())
    }

    fn accepted(rejected_spans: u64, message: &str) -> Outcome {
        Outcome::Accepted { rejected_spans, message: message.to_owned() }
    }

    #[test]
    fn partial_successes_are_read() {
        assert_eq!(read_success(&[][..]), accepted(0, ""));
        assert_eq!(answer(0, ""), accepted(0, ""));
        assert_eq!(answer(0, "hint"), accepted(0, "hint"));
        assert_eq!(answer(3, "no\n\u{1b}[31m"), accepted(3, "no\\n\\u{1b}[31m"));
        assert_eq!(answer(-3, ""), accepted(0, ""));
    }

    #[test]
    fn an_unreadable_answer_is_a_success_with_a_hint() {
        let Outcome::Accepted { rejected_spans: 0, message } = read_success(&b"<html>"[..]) else { panic!() };
        assert!(message.starts_with("the answer is no ExportTraceServiceResponse"), "{message}");
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(printable(&"é".repeat(1000)).len(), MAX_MESSAGE_BYTES);
    }
}
