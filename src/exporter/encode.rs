//! Writes spans as OTLP protobuf, straight from the engine's `Span` to bytes.
//!
//! Building `opentelemetry-proto` structs costs several allocations a span, and encoding them walks everything twice;
//! this writer appends to one buffer and allocates nothing else. What it writes is, byte for byte, what prost writes for
//! the same span: fields in the order of their numbers, defaults left out, shortest lengths. The property test below
//! holds it to that.
//!
//! Field numbers: `opentelemetry/proto/trace/v1/trace.proto` and `common/v1/common.proto`, version 1.

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::span::{Link, Span, SpanEvent, SpanId, SpanKind, Status, TraceFlags, TraceId};
use crate::time::UnixNanos;

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: whether the parent is remote is known. Here it always is.
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const FLAG_IS_REMOTE: u32 = 0x200;

/// Bytes that the length of most spans takes: they are 128 to 16,383 bytes long.
const SPAN_LENGTH_BYTES: usize = 2;
/// Bytes that the length of most span events and links takes.
const ITEM_LENGTH_BYTES: usize = 1;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;

/// The key of a field whose number is below 16.
const fn key(number: u8, wire_type: u8) -> u8 {
    assert!(number < 16, "a larger number takes two bytes");
    number << 3 | wire_type
}

/// Appends `span` as one element of `ScopeSpans.spans`, key and length included.
pub fn write_span(out: &mut Vec<u8>, span: &Span) {
    write_nested::<SPAN_LENGTH_BYTES>(out, key(2, LENGTH), |out| write_span_fields(out, span));
}

/// Appends `key` and a length-delimited `payload`: a message that is already encoded, a string or bytes.
pub fn write_bytes(out: &mut Vec<u8>, key: u8, payload: &[u8]) {
    out.push(key);
    write_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

/// Appends a number in base 128.
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// How many bytes [`write_varint`] appends.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    // 7 bits a byte; `| 1` because zero takes a byte too.
    ((value | 1).ilog2() / 7 + 1) as usize
}

fn write_span_fields(out: &mut Vec<u8>, span: &Span) {
    write_ids(out, &span.trace_id, &span.span_id);
    if let Some(trace_state) = &span.trace_state {
        write_text(out, key(3, LENGTH), trace_state);
    }
    if let Some(parent) = &span.parent_span_id {
        write_bytes(out, key(4, LENGTH), &parent.0);
    }
    write_text(out, key(5, LENGTH), &span.name);
    out.extend_from_slice(&[key(6, VARINT), kind_number(span.kind)]);
    write_time(out, key(7, FIXED64), span.start);
    write_time(out, key(8, FIXED64), span.end);
    write_attributes(out, key(9, LENGTH), &span.attributes);
    write_count(out, key(10, VARINT), span.attributes.dropped());
    for event in &span.events {
        write_nested::<ITEM_LENGTH_BYTES>(out, key(11, LENGTH), |out| write_event_fields(out, event));
    }
    write_count(out, key(12, VARINT), span.dropped_events);
    for link in &span.links {
        write_nested::<ITEM_LENGTH_BYTES>(out, key(13, LENGTH), |out| {
            write_link_fields(out, link, span.trace_flags);
        });
    }
    write_count(out, key(14, VARINT), span.dropped_links);
    write_status(out, key(15, LENGTH), &span.status);
    let remote = if span.parent_is_remote { FLAG_IS_REMOTE } else { 0 };
    let [a, b, c, d] = (FLAG_HAS_IS_REMOTE | remote | u32::from(span.trace_flags.0)).to_le_bytes();
    // Number 16, fixed 32 bits: the one key of two bytes.
    out.extend_from_slice(&[0x85, 0x01, a, b, c, d]);
}

/// Fields 1 and 2, of spans and links alike.
fn write_ids(out: &mut Vec<u8>, trace_id: &TraceId, span_id: &SpanId) {
    let mut fields = [0; 2 + 16 + 2 + 8];
    fields[..2].copy_from_slice(&[key(1, LENGTH), 16]);
    fields[2..18].copy_from_slice(&trace_id.0);
    fields[18..20].copy_from_slice(&[key(2, LENGTH), 8]);
    fields[20..].copy_from_slice(&span_id.0);
    out.extend_from_slice(&fields);
}

fn write_event_fields(out: &mut Vec<u8>, event: &SpanEvent) {
    write_time(out, key(1, FIXED64), event.time);
    write_text(out, key(2, LENGTH), &event.name);
    write_attributes(out, key(3, LENGTH), &event.attributes);
    write_count(out, key(4, VARINT), event.attributes.dropped());
}

/// A link leads to a span of the same trace and of this bridge, so it shares the span's flags and is not remote.
fn write_link_fields(out: &mut Vec<u8>, link: &Link, trace_flags: TraceFlags) {
    const FIXED32: u8 = 5;
    write_ids(out, &link.trace_id, &link.span_id);
    write_attributes(out, key(4, LENGTH), &link.attributes);
    write_count(out, key(5, VARINT), link.attributes.dropped());
    out.push(key(6, FIXED32));
    out.extend_from_slice(&(FLAG_HAS_IS_REMOTE | u32::from(trace_flags.0)).to_le_bytes());
}

/// `STATUS_CODE_UNSET` is the default, so that status is left out whole.
fn write_status(out: &mut Vec<u8>, field: u8, status: &Status) {
    const CODE: u8 = key(3, VARINT);
    match status {
        Status::Unset => {}
        Status::Ok => out.extend_from_slice(&[field, 2, CODE, 1]),
        Status::Error(message) => write_nested::<ITEM_LENGTH_BYTES>(out, field, |out| {
            write_text(out, key(2, LENGTH), message);
            out.extend_from_slice(&[CODE, 2]);
        }),
    }
}

fn write_attributes(out: &mut Vec<u8>, field: u8, attributes: &Attributes) {
    for (name, value) in attributes.iter() {
        write_attribute(out, field, name, value);
    }
}

/// A `KeyValue`. Its length follows from its parts, so it is written in one pass.
fn write_attribute(out: &mut Vec<u8>, field: u8, name: &str, value: AttributeValue<'_>) {
    let name_len = if name.is_empty() { 0 } else { delimited_len(name.len()) };
    let value_len = match value {
        AttributeValue::Text(text) => delimited_len(text.len()),
        AttributeValue::Int(int) => 1 + varint_len(int.cast_unsigned()),
        AttributeValue::Float(_) => 1 + size_of::<f64>(),
        AttributeValue::Bool(_) => 2,
    };
    let length = name_len + delimited_len(value_len);
    if name_len > 0 && length < 0x80 {
        // Nearly every attribute: each length in it takes one byte, so the bytes between the texts go out together.
        out.extend_from_slice(&[field, low_byte(length), key(1, LENGTH), low_byte(name.len())]);
    } else {
        out.push(field);
        write_varint(out, length as u64);
        if name_len > 0 {
            out.push(key(1, LENGTH));
            write_varint(out, name.len() as u64);
        }
    }
    out.extend_from_slice(name.as_bytes());
    // A member of a oneof is written even where it is the default.
    match value {
        AttributeValue::Text(text) => {
            if length < 0x80 {
                let head = [key(2, LENGTH), low_byte(value_len), key(1, LENGTH), low_byte(text.len())];
                out.extend_from_slice(&head);
                out.extend_from_slice(text.as_bytes());
            } else {
                out.push(key(2, LENGTH));
                write_varint(out, value_len as u64);
                write_bytes(out, key(1, LENGTH), text.as_bytes());
            }
        }
        AttributeValue::Bool(boolean) => {
            out.extend_from_slice(&[key(2, LENGTH), 2, key(2, VARINT), u8::from(boolean)]);
        }
        AttributeValue::Int(int) => {
            out.extend_from_slice(&[key(2, LENGTH), low_byte(value_len), key(3, VARINT)]);
            write_varint(out, int.cast_unsigned());
        }
        AttributeValue::Float(float) => {
            out.extend_from_slice(&[key(2, LENGTH), 9, key(4, FIXED64)]);
            out.extend_from_slice(&float.to_le_bytes());
        }
    }
}

/// A length that is known to be below 128, as its varint.
const fn low_byte(length: usize) -> u8 {
    debug_assert!(length < 0x80, "a longer length takes more bytes");
    length.to_le_bytes()[0]
}

/// Key, length and payload.
const fn delimited_len(payload: usize) -> usize {
    1 + varint_len(payload as u64) + payload
}

fn write_text(out: &mut Vec<u8>, field: u8, text: &str) {
    if !text.is_empty() {
        write_bytes(out, field, text.as_bytes());
    }
}

fn write_count(out: &mut Vec<u8>, field: u8, count: u32) {
    if count > 0 {
        out.push(field);
        write_varint(out, u64::from(count));
    }
}

/// OTLP knows no time before 1970.
fn write_time(out: &mut Vec<u8>, field: u8, time: UnixNanos) {
    let nanos = u64::try_from(time.0).unwrap_or(0);
    if nanos > 0 {
        let mut bytes = [field; 9];
        bytes[1..].copy_from_slice(&nanos.to_le_bytes());
        out.extend_from_slice(&bytes);
    }
}

/// Writes a message whose length is not known before: room for `EXPECTED` length bytes is left, and the message moves if
/// it needs another number of them.
fn write_nested<const EXPECTED: usize>(out: &mut Vec<u8>, field: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(field);
    let length_at = out.len();
    out.extend_from_slice(&[0; EXPECTED]);
    write(out);
    let body_at = length_at + EXPECTED;
    let length = out.len() - body_at;
    let needed = varint_len(length as u64);
    if needed != EXPECTED {
        if needed > EXPECTED {
            out.resize(length_at + needed + length, 0);
        }
        out.copy_within(body_at..body_at + length, length_at + needed);
        out.truncate(length_at + needed + length);
    }
    let mut rest = length;
    for byte in &mut out[length_at..length_at + needed] {
        *byte = rest.to_le_bytes()[0] | 0x80;
        rest >>= 7;
    }
    out[length_at + needed - 1] &= 0x7f;
}

fn kind_number(kind: SpanKind) -> u8 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::ScopeSpans;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::exporter::testing::{any_span, plain_span, span};

    fn decoded(span: &Span) -> ScopeSpans {
        let mut out = Vec::new();
        write_span(&mut out, span);
        ScopeSpans::decode(out.as_slice()).unwrap()
    }

    fn by_prost(span: &Span) -> Vec<u8> {
        ScopeSpans { spans: vec![plain_span(span)], ..ScopeSpans::default() }.encode_to_vec()
    }

    proptest! {
        /// The writer's bytes are prost's bytes for the same span, and so decode to it.
        #[test]
        fn writes_what_prost_writes(span in any_span()) {
            let mut out = vec![7; 3];
            write_span(&mut out, &span);
            prop_assert_eq!(&out[..3], &[7; 3]);
            prop_assert_eq!(&out[3..], &by_prost(&span)[..]);
        }

        #[test]
        fn varint_len_is_what_is_written(value: u64, shift in 0_u32..64) {
            let mut out = Vec::new();
            write_varint(&mut out, value >> shift);
            prop_assert_eq!(out.len(), varint_len(value >> shift));
            prop_assert_eq!(prost::encoding::decode_varint(&mut out.as_slice()).unwrap(), value >> shift);
        }
    }

    #[test]
    fn lengths_around_each_varint_boundary_are_right() {
        for text_len in [0, 1, 20, 40, 127, 128, 129, 16_200, 16_300, 16_383, 16_384, 2_097_000, 2_097_152] {
            let mut span = span("a");
            span.attributes.set("k", AttributeValue::Text(&"x".repeat(text_len)));
            span.status = Status::Error("e".repeat(text_len).into());
            let mut out = Vec::new();
            write_span(&mut out, &span);
            assert!(out == by_prost(&span), "text of {text_len} bytes");
        }
    }

    #[test]
    fn times_before_1970_become_1970() {
        let mut span = span("a");
        span.start = UnixNanos(-5);
        let decoded = &decoded(&span).spans[0];
        assert_eq!(decoded.start_time_unix_nano, 0);
        assert_eq!(decoded.end_time_unix_nano, 2_000);
    }

    #[test]
    fn flags_say_whether_the_parent_is_remote() {
        let mut span = span("a");
        assert_eq!(decoded(&span).spans[0].flags, 0x101);
        span.parent_is_remote = true;
        span.trace_flags = TraceFlags(0x02);
        assert_eq!(decoded(&span).spans[0].flags, 0x302);
    }
}
