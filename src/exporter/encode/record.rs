//! A log record as OTLP protobuf.
//!
//! Field numbers: `opentelemetry/proto/logs/v1/logs.proto`, version 1. The severity's text is left out: it would be the
//! source's own word for it, and an event has none.

use super::{
    FIXED32, FIXED64, LENGTH, VARINT, delimited_len, key, write_attributes, write_bytes, write_count,
    write_nested, write_text, write_time, write_varint,
};
use crate::engine::record::LogRecord;

/// Bytes that the length of most records takes: they are 128 to 16,383 bytes long.
const RECORD_LENGTH_BYTES: usize = 2;

/// Appends `record` as one element of `ScopeLogs.log_records`, key and length included.
pub fn write_record(out: &mut Vec<u8>, record: &LogRecord) {
    write_nested::<RECORD_LENGTH_BYTES>(out, key(2, LENGTH), |out| write_record_fields(out, record));
}

fn write_record_fields(out: &mut Vec<u8>, record: &LogRecord) {
    write_time(out, key(1, FIXED64), record.time);
    out.extend_from_slice(&[key(2, VARINT), record.severity.number()]);
    write_body(out, &record.body);
    write_attributes(out, key(6, LENGTH), &record.attributes);
    write_count(out, key(7, VARINT), record.attributes.dropped());
    if let Some(trace) = &record.trace {
        if trace.flags.0 != 0 {
            out.extend_from_slice(&[key(8, FIXED32), trace.flags.0, 0, 0, 0]);
        }
        write_bytes(out, key(9, LENGTH), &trace.trace_id.0);
        if let Some(span_id) = &trace.span_id {
            write_bytes(out, key(10, LENGTH), &span_id.0);
        }
    }
    write_time(out, key(11, FIXED64), record.observed);
    write_text(out, key(12, LENGTH), &record.event_name);
}

/// An `AnyValue` with a string, which is written even where it is empty.
fn write_body(out: &mut Vec<u8>, body: &str) {
    out.push(key(5, LENGTH));
    write_varint(out, delimited_len(body.len()) as u64);
    write_bytes(out, key(1, LENGTH), body.as_bytes());
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::ScopeLogs;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::exporter::testing::{any_record, plain_record, record};

    fn by_prost(record: &LogRecord) -> Vec<u8> {
        ScopeLogs { log_records: vec![plain_record(record)], ..ScopeLogs::default() }.encode_to_vec()
    }

    proptest! {
        /// The writer's bytes are prost's bytes for the same record, and so decode to it.
        #[test]
        fn writes_what_prost_writes(record in any_record()) {
            let mut out = vec![7; 3];
            write_record(&mut out, &record);
            prop_assert_eq!(&out[..3], &[7; 3]);
            prop_assert_eq!(&out[3..], &by_prost(&record)[..]);
        }
    }

    #[test]
    fn lengths_around_each_varint_boundary_are_right() {
        for text_len in [0, 1, 60, 125, 127, 128, 16_300, 16_381, 16_384, 2_097_152] {
            let mut record = record("a");
            record.body = "x".repeat(text_len).into();
            let mut out = Vec::new();
            write_record(&mut out, &record);
            assert!(out == by_prost(&record), "a body of {text_len} bytes");
        }
    }
}
