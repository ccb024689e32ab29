//! A span as OTLP protobuf.
//!
//! Field numbers: `opentelemetry/proto/trace/v1/trace.proto`, version 1.

use super::{
    FIXED32, FIXED64, ITEM_LENGTH_BYTES, LENGTH, VARINT, key, write_attributes, write_bytes, write_count,
    write_nested, write_text, write_time,
};
use crate::engine::span::{Link, Span, SpanEvent, SpanId, SpanKind, Status, TraceFlags, TraceId};

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: whether the parent is remote is known. Here it always is.
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const FLAG_IS_REMOTE: u32 = 0x200;

/// Bytes that the length of most spans takes: they are 128 to 16,383 bytes long.
const SPAN_LENGTH_BYTES: usize = 2;

/// Appends `span` as one element of `ScopeSpans.spans`, key and length included.
pub fn write_span(out: &mut Vec<u8>, span: &Span) {
    write_nested::<SPAN_LENGTH_BYTES>(out, key(2, LENGTH), |out| write_span_fields(out, span));
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
    use crate::engine::attributes::AttributeValue;
    use crate::exporter::testing::{any_span, plain_span, span};
    use crate::time::UnixNanos;

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
