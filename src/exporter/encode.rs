//! Writes spans, metrics and log records as OTLP protobuf, straight from the engine's types to bytes.
//!
//! Building `opentelemetry-proto` structs costs several allocations an item, and encoding them walks everything twice;
//! this writer appends to one buffer and allocates nothing else. What it writes is, byte for byte, what prost writes for
//! the same item: fields in the order of their numbers, defaults left out, shortest lengths. The property tests hold it
//! to that.
//!
//! Here is what the three have in common. Field numbers: `opentelemetry/proto/common/v1/common.proto`, version 1.

use crate::engine::attributes::{AttributeValue, Attributes};
use crate::time::UnixNanos;

mod metric;
mod record;
mod span;

pub use metric::write_metric;
pub use record::write_record;
pub use span::write_span;

/// Bytes that the length of most parts of an item takes: span events, links, points of one number, exemplars.
const ITEM_LENGTH_BYTES: usize = 1;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// The key of a field whose number is below 16.
const fn key(number: u8, wire_type: u8) -> u8 {
    assert!(number < 16, "a larger number takes two bytes");
    number << 3 | wire_type
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varint_len_is_what_is_written(value: u64, shift in 0_u32..64) {
            let mut out = Vec::new();
            write_varint(&mut out, value >> shift);
            prop_assert_eq!(out.len(), varint_len(value >> shift));
            prop_assert_eq!(prost::encoding::decode_varint(&mut out.as_slice()).unwrap(), value >> shift);
        }
    }
}
