//! OTLP/JSON, made from a request that is already encoded as protobuf.
//!
//! A table says of each message which field has which name and kind ([`schema`]); this file walks the bytes along it. So
//! no structs are built, every signal goes the same way, and a request's spans are encoded once, whatever the transport.
//! (`opentelemetry-proto`'s serde writes `null` for what is absent and for doubles that are not finite, `""` for an absent
//! id, and every default; readers that go by the letter refuse the first.)
//!
//! By the specification this is proto3's JSON mapping, except that ids are hexadecimal, enumerations are numbers, and
//! names are lowerCamelCase only:
//!
//! | protobuf | JSON |
//! |---|---|
//! | 64-bit integers | decimal text |
//! | 32-bit integers, enumerations | numbers |
//! | doubles | numbers, or `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | ids | hexadecimal in lower case; an empty one is left out |
//! | other bytes | base64 with padding |
//! | what is not on the wire | nothing |

use bytes::Bytes;
use smallvec::SmallVec;

use crate::exporter::json::schema::{Field, Kind, Message};
use crate::exporter::signal::Signal;

mod schema;
#[cfg(test)]
mod tests;

/// Messages within messages: values of attributes may hold values. Ours have a dozen levels; the limit guards the stack.
const MAX_DEPTH: usize = 100;
/// JSON of spans takes about three times their protobuf's bytes.
const USUAL_GROWTH: usize = 3;

/// The bytes are no request of the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no protobuf message")]
pub(crate) struct NotProtobuf;

/// The same request as OTLP/JSON: one object, in one line.
///
/// # Errors
/// If the bytes are no protobuf, which only bytes from elsewhere can be.
pub(crate) fn transcode(signal: Signal, request: &[u8]) -> Result<Bytes, NotProtobuf> {
    let mut out = Vec::with_capacity(request.len().saturating_mul(USUAL_GROWTH));
    write_message(&mut out, schema::request(signal), request, MAX_DEPTH)?;
    Ok(Bytes::from(out))
}

fn write_message(out: &mut Vec<u8>, schema: Message, bytes: &[u8], depth: usize) -> Result<(), NotProtobuf> {
    let depth = depth.checked_sub(1).ok_or(NotProtobuf)?;
    let records = read_records(bytes)?;
    let mut rest = records.as_slice();
    out.push(b'{');
    let start = out.len();
    while let Some(&Record { number, .. }) = rest.first() {
        let count = rest.iter().take_while(|record| record.number == number).count();
        let (same, others) = rest.split_at(count);
        rest = others;
        // What is unknown here is newer than this program; ours has none.
        let Some(field) = schema.iter().find(|field| field.number == number) else { continue };
        write_field(out, start, field, same, depth)?;
    }
    for field in schema.iter().filter(|field| field.is_always_there) {
        if !records.iter().any(|record| record.number == field.number) {
            write_name(out, start, field);
            out.extend_from_slice(if field.is_repeated { b"[]" } else { b"\"\"" });
        }
    }
    out.push(b'}');
    Ok(())
}

/// All that a message has under one number. Of what may be there once, the last counts.
fn write_field(
    out: &mut Vec<u8>,
    start: usize,
    field: &Field,
    records: &[Record<'_>],
    depth: usize,
) -> Result<(), NotProtobuf> {
    if !field.is_repeated {
        let Some(last) = records.last() else { return Ok(()) };
        if matches!((field.kind, last.value), (Kind::Id, Wire::Bytes([]))) {
            return Ok(());
        }
        write_name(out, start, field);
        return write_value(out, field.kind, last.value, depth);
    }
    write_name(out, start, field);
    out.push(b'[');
    let first = out.len();
    for record in records {
        match (field.kind, record.value) {
            (Kind::Fixed64 | Kind::Double, Wire::Bytes(packed)) => {
                let (numbers, []) = packed.as_chunks::<8>() else { return Err(NotProtobuf) };
                for number in numbers {
                    comma(out, first);
                    write_value(out, field.kind, Wire::Fixed64(u64::from_le_bytes(*number)), depth)?;
                }
            }
            (Kind::Uint64, Wire::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    let number = read_varint(&mut packed)?;
                    comma(out, first);
                    write_value(out, field.kind, Wire::Varint(number), depth)?;
                }
            }
            (kind, value) => {
                comma(out, first);
                write_value(out, kind, value, depth)?;
            }
        }
    }
    out.push(b']');
    Ok(())
}

fn write_value(out: &mut Vec<u8>, kind: Kind, value: Wire<'_>, depth: usize) -> Result<(), NotProtobuf> {
    match (kind, value) {
        (Kind::Message(schema), Wire::Bytes(bytes)) => write_message(out, schema, bytes, depth)?,
        (Kind::Text, Wire::Bytes(bytes)) => write_text(out, &String::from_utf8_lossy(bytes)),
        (Kind::Id, Wire::Bytes(bytes)) => write_hex(out, bytes),
        (Kind::Base64, Wire::Bytes(bytes)) => write_base64(out, bytes),
        (Kind::Bool, Wire::Varint(number)) => {
            out.extend_from_slice(if number == 0 { b"false" } else { b"true" });
        }
        (Kind::Uint32, Wire::Varint(number)) => write_number(out, i64::from(low_half(number))),
        (Kind::Int32, Wire::Varint(number)) => {
            write_number(out, i64::from(low_half(number).cast_signed()));
        }
        (Kind::Sint32, Wire::Varint(number)) => {
            let zigzag = low_half(number);
            write_number(out, i64::from((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed()));
        }
        (Kind::Fixed32, Wire::Fixed32(number)) => write_number(out, i64::from(number)),
        (Kind::Int64, Wire::Varint(number)) => write_long(out, number.cast_signed()),
        (Kind::Uint64, Wire::Varint(number)) => write_long(out, number),
        (Kind::Fixed64, Wire::Fixed64(number)) => write_long(out, number),
        (Kind::Sfixed64, Wire::Fixed64(number)) => write_long(out, number.cast_signed()),
        (Kind::Double, Wire::Fixed64(bits)) => write_double(out, f64::from_bits(bits)),
        (
            Kind::Message(_)
            | Kind::Text
            | Kind::Id
            | Kind::Base64
            | Kind::Bool
            | Kind::Uint32
            | Kind::Int32
            | Kind::Sint32
            | Kind::Fixed32
            | Kind::Int64
            | Kind::Uint64
            | Kind::Fixed64
            | Kind::Sfixed64
            | Kind::Double,
            Wire::Varint(_) | Wire::Fixed64(_) | Wire::Fixed32(_) | Wire::Bytes(_),
        ) => return Err(NotProtobuf),
    }
    Ok(())
}

// === JSON ===

fn write_name(out: &mut Vec<u8>, start: usize, field: &Field) {
    comma(out, start);
    out.push(b'"');
    out.extend_from_slice(field.name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Between elements of what begins at `start`.
fn comma(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.push(b',');
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing text to a vector does not fail");
}

fn write_number(out: &mut Vec<u8>, number: i64) {
    serde_json::to_writer(out, &number).expect("writing a number to a vector does not fail");
}

fn write_long(out: &mut Vec<u8>, number: impl serde::Serialize) {
    out.push(b'"');
    serde_json::to_writer(&mut *out, &number).expect("writing a number to a vector does not fail");
    out.push(b'"');
}

fn write_double(out: &mut Vec<u8>, number: f64) {
    let word = match number {
        number if number.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        finite => {
            return serde_json::to_writer(out, &finite).expect("writing a number to a vector does not fail");
        }
    };
    write_text(out, word);
}

fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    out.push(b'"');
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push(b'"');
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let [a, b, c] = three;
        let sextets = [a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63];
        for (position, sextet) in sextets.into_iter().enumerate() {
            // So many bytes make one digit more than they are.
            out.push(if position > chunk.len() { b'=' } else { DIGITS[usize::from(sextet)] });
        }
    }
    out.push(b'"');
}

// === Protobuf ===

/// One field as it stands on the wire.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    number: u64,
    value: Wire<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Most messages have fewer fields than this.
type Records<'a> = SmallVec<[Record<'a>; 16]>;

/// A message's fields in the order of their numbers, those of one number in their own.
fn read_records(mut bytes: &[u8]) -> Result<Records<'_>, NotProtobuf> {
    let mut records = Records::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Wire::Varint(read_varint(&mut bytes)?),
            1 => Wire::Fixed64(u64::from_le_bytes(read_array(&mut bytes)?)),
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)?).map_err(|_| NotProtobuf)?;
                let (payload, rest) = bytes.split_at_checked(length).ok_or(NotProtobuf)?;
                bytes = rest;
                Wire::Bytes(payload)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(read_array(&mut bytes)?)),
            _ => return Err(NotProtobuf),
        };
        records.push(Record { number: key >> 3, value });
    }
    // Encoders write them so already; a decoder must not rely on it.
    if !records.is_sorted_by_key(|record| record.number) {
        records.sort_by_key(|record| record.number);
    }
    Ok(records)
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64, NotProtobuf> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(NotProtobuf)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(NotProtobuf)
}

fn read_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], NotProtobuf> {
    let (array, rest) = bytes.split_first_chunk().ok_or(NotProtobuf)?;
    *bytes = rest;
    Ok(*array)
}

/// 32-bit numbers are on the wire as 64-bit ones.
fn low_half(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
