//! From the bytes of one `TelemetryEvent` message to an [`Event`], without copying.
//!
//! The judgement is prost's: the same bytes are accepted and refused as by `proto::TelemetryEvent::decode`, and what
//! is accepted says the same. Laws, each a property test against prost:
//! - a known field of another wire type, a string that is not UTF-8, a cut field, a field number 0, a varint beyond
//!   64 bits, and groups that do not match or nest deeper than 100 are errors, in skipped fields too;
//! - of a repeated single field the last one counts, of equal map keys the last entry; field 16 merges field by field;
//! - a map entry without key or value has an empty one; a measurement without a value is no measurement, also where it
//!   overrides one.
//!
//! Work is linear in the message, but for sorting the entries of a map with more than a few. What names and values
//! mean is left to others.

use std::cmp::Ordering;
use std::ops::DerefMut;

use smallvec::SmallVec;

use super::{Event, SpanIdentity, Value};

#[cfg(test)]
mod tests;

/// Why bytes are not a `TelemetryEvent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends in the middle of a field.
    #[error("message ends in the middle of a field")]
    Truncated,
    /// A varint is longer than 64 bits.
    #[error("varint is longer than 64 bits")]
    Varint,
    /// A field has number 0, a number beyond 29 bits, or a wire type that does not exist.
    #[error("field number or wire type does not exist")]
    Key,
    /// A known field has another wire type.
    #[error("known field has a wrong wire type")]
    WireType,
    /// A string is not UTF-8.
    #[error("string is not UTF-8")]
    Utf8,
    /// A group ends that did not begin.
    #[error("group ends that did not begin")]
    Group,
    /// Unknown groups nest too deeply.
    #[error("groups nest too deeply")]
    Depth,
}

/// How deep prost follows nested messages and groups.
const MAX_DEPTH: u32 = 100;

/// Up to this many entries of a map are compared each with each; more are sorted.
const FEW_ENTRIES: usize = 16;

/// Entries of a map before the first look for equal keys.
const FIRST_CLEANING: usize = 8 * FEW_ENTRIES;

type Measurements<'a> = SmallVec<[(&'a str, Value<'a>); 4]>;

/// Wire types, as the low three bits of a key.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const START_GROUP: u8 = 3;
const END_GROUP: u8 = 4;
const FIXED32: u8 = 5;

/// Decodes one message.
///
/// # Errors
/// When `prost` would refuse the bytes as a `TelemetryEvent`; never otherwise.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, DecodeError> {
    let mut event = Event::default();
    decode_into(bytes, &mut event)?;
    Ok(event)
}

/// Decodes one message into an event that is used again and again: an event is half a kilobyte to move.
///
/// # Errors
/// As [`decode`]; the event says nothing then.
pub fn decode_into<'a>(bytes: &'a [u8], event: &mut Event<'a>) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    event.parts.clear();
    event.measurements.clear();
    event.metadata.clear();
    (event.timestamp_ns, event.correlation_id, event.span) = (0, "", None);
    let mut metadata_cleaning = FIRST_CLEANING;
    let mut measurements_cleaning = FIRST_CLEANING;
    // Measurements from the first without a value on.
    let mut late = Vec::new();
    let mut late_cleaning = FIRST_CLEANING;
    let end = bytes.len();
    while reader.position < end {
        let (field, wire_type) = reader.key(end)?;
        match field {
            1 => event.parts.push(reader.string(wire_type, end)?),
            2 => match measurement(&mut reader, wire_type, end)? {
                (key, Some(value)) if late.is_empty() => {
                    push(&mut event.measurements, &mut measurements_cleaning, key, value);
                }
                (key, value) => push(&mut late, &mut late_cleaning, key, value),
            },
            3 => {
                let (key, value) = metadata_entry(&mut reader, wire_type, end)?;
                push(&mut event.metadata, &mut metadata_cleaning, key, value);
            }
            4 => event.timestamp_ns = reader.int64(wire_type, end)?,
            5 => event.correlation_id = reader.string(wire_type, end)?,
            16 => {
                let identity = event.span.get_or_insert_default();
                span_identity(&mut reader, identity, wire_type, end)?;
            }
            _ => reader.skip(field, wire_type, end, MAX_DEPTH)?,
        }
    }
    keep_last_of_each_key(&mut event.metadata);
    keep_last_of_each_key(&mut event.measurements);
    if !late.is_empty() {
        event.measurements = with_late(&event.measurements, late);
    }
    Ok(())
}

/// All measurements that are left once those without a value have had their say.
fn with_late<'a>(
    early: &[(&'a str, Value<'a>)],
    late: Vec<(&'a str, Option<Value<'a>>)>,
) -> Measurements<'a> {
    let mut all: Vec<_> = early.iter().map(|(key, value)| (*key, Some(*value))).chain(late).collect();
    keep_last_of_each_key(&mut all);
    all.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))).collect()
}

/// One entry of `measurements`; its value is `None` where the `TelemetryValue` is absent or says nothing.
fn measurement<'a>(
    reader: &mut Reader<'a>,
    wire_type: u8,
    end: usize,
) -> Result<(&'a str, Option<Value<'a>>), DecodeError> {
    let end = reader.delimited(wire_type, end)?;
    let mut key = "";
    let mut value = None;
    while reader.position < end {
        let (field, wire_type) = reader.key(end)?;
        match field {
            1 => key = reader.string(wire_type, end)?,
            2 => telemetry_value(reader, &mut value, wire_type, end)?,
            _ => reader.skip(field, wire_type, end, MAX_DEPTH - 1)?,
        }
    }
    Ok((key, value))
}

fn telemetry_value<'a>(
    reader: &mut Reader<'a>,
    value: &mut Option<Value<'a>>,
    wire_type: u8,
    end: usize,
) -> Result<(), DecodeError> {
    let end = reader.delimited(wire_type, end)?;
    while reader.position < end {
        let (field, wire_type) = reader.key(end)?;
        match field {
            1 => *value = Some(Value::Int(reader.int64(wire_type, end)?)),
            2 => *value = Some(Value::Float(reader.double(wire_type, end)?)),
            3 => *value = Some(Value::Text(reader.string(wire_type, end)?)),
            _ => reader.skip(field, wire_type, end, MAX_DEPTH - 2)?,
        }
    }
    Ok(())
}

fn metadata_entry<'a>(
    reader: &mut Reader<'a>,
    wire_type: u8,
    end: usize,
) -> Result<(&'a str, &'a str), DecodeError> {
    let end = reader.delimited(wire_type, end)?;
    let mut key = "";
    let mut value = "";
    while reader.position < end {
        let (field, wire_type) = reader.key(end)?;
        match field {
            1 => key = reader.string(wire_type, end)?,
            2 => value = reader.string(wire_type, end)?,
            _ => reader.skip(field, wire_type, end, MAX_DEPTH - 1)?,
        }
    }
    Ok((key, value))
}

fn span_identity<'a>(
    reader: &mut Reader<'a>,
    identity: &mut SpanIdentity<'a>,
    wire_type: u8,
    end: usize,
) -> Result<(), DecodeError> {
    let end = reader.delimited(wire_type, end)?;
    while reader.position < end {
        let (field, wire_type) = reader.key(end)?;
        match field {
            1 => identity.trace_id = reader.bytes(wire_type, end)?,
            2 => identity.span_id = reader.bytes(wire_type, end)?,
            3 => identity.parent_span_id = reader.bytes(wire_type, end)?,
            4 => identity.trace_flags = Some(reader.uint32(wire_type, end)?),
            5 => identity.trace_state = reader.string(wire_type, end)?,
            _ => reader.skip(field, wire_type, end, MAX_DEPTH - 1)?,
        }
    }
    Ok(())
}

/// A place in the message. Every method reads within `end`, the end of the message or submessage that it is in.
///
/// What runs for every field is always inlined, what is rare never: that made decoding a fifth faster (`benches/decode.rs`).
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    /// A run of the message that is known to be UTF-8, and where it begins. Short lengths and most keys are ASCII, so
    /// one check usually covers several strings with what stands between them.
    text: &'a str,
    text_start: usize,
}

impl<'a> Reader<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, text: "", text_start: 0 }
    }

    /// A field's number and wire type.
    #[inline(always)]
    fn key(&mut self, end: usize) -> Result<(u32, u8), DecodeError> {
        let key = u32::try_from(self.varint(end)?).map_err(|_| DecodeError::Key)?;
        let (field, wire_type) = (key >> 3, (key & 7) as u8);
        if field == 0 || wire_type > FIXED32 {
            return Err(DecodeError::Key);
        }
        Ok((field, wire_type))
    }

    #[inline(always)]
    fn varint(&mut self, end: usize) -> Result<u64, DecodeError> {
        match self.bytes.get(self.position) {
            Some(&byte) if byte < 0x80 && self.position < end => {
                self.position += 1;
                Ok(u64::from(byte))
            }
            Some(_) | None => self.long_varint(end),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self, end: usize) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (index, &byte) in self.bytes[self.position..end].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                // The tenth byte holds the 64th bit and nothing else.
                if index == 9 && byte > 1 {
                    return Err(DecodeError::Varint);
                }
                self.position += index + 1;
                return Ok(value);
            }
        }
        Err(if end - self.position < 10 { DecodeError::Truncated } else { DecodeError::Varint })
    }

    /// The end of a length-delimited field that begins here.
    #[inline(always)]
    fn delimited(&mut self, wire_type: u8, end: usize) -> Result<usize, DecodeError> {
        expect(LENGTH_DELIMITED, wire_type)?;
        let length = self.varint(end)?;
        if length > (end - self.position) as u64 {
            return Err(DecodeError::Truncated);
        }
        // Not longer than the slice that it lies in, so it fits.
        Ok(self.position + length as usize)
    }

    #[inline]
    fn bytes(&mut self, wire_type: u8, end: usize) -> Result<&'a [u8], DecodeError> {
        let field_end = self.delimited(wire_type, end)?;
        let field = &self.bytes[self.position..field_end];
        self.position = field_end;
        Ok(field)
    }

    #[inline(always)]
    fn string(&mut self, wire_type: u8, end: usize) -> Result<&'a str, DecodeError> {
        let field_end = self.delimited(wire_type, end)?;
        let start = self.position;
        self.position = field_end;
        if start < self.text_start || start >= self.text_start + self.text.len() {
            self.find_text(start);
        }
        // A string follows its length, whose last byte is ASCII, so it begins at a character. Where it does not end at
        // one, or reaches beyond the run, it is not UTF-8.
        self.text.get(start - self.text_start..field_end - self.text_start).ok_or(DecodeError::Utf8)
    }

    /// Makes `text` the longest run of UTF-8 from `start`. Each byte of a message is looked at once: the next call
    /// begins beyond the end of the run.
    #[inline(never)]
    fn find_text(&mut self, start: usize) {
        let rest = &self.bytes[start..];
        self.text_start = start;
        self.text = match std::str::from_utf8(rest) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default(),
        };
    }

    #[inline]
    fn int64(&mut self, wire_type: u8, end: usize) -> Result<i64, DecodeError> {
        expect(VARINT, wire_type)?;
        Ok(self.varint(end)?.cast_signed())
    }

    /// Like every protobuf reader, takes the low 32 bits of a longer varint.
    fn uint32(&mut self, wire_type: u8, end: usize) -> Result<u32, DecodeError> {
        expect(VARINT, wire_type)?;
        Ok(self.varint(end)? as u32)
    }

    fn double(&mut self, wire_type: u8, end: usize) -> Result<f64, DecodeError> {
        expect(FIXED64, wire_type)?;
        let bytes = self.bytes[self.position..end].first_chunk::<8>().ok_or(DecodeError::Truncated)?;
        self.position += 8;
        Ok(f64::from_le_bytes(*bytes))
    }

    /// Passes over an unknown field, at most `depth` groups deep.
    fn skip(&mut self, field: u32, wire_type: u8, end: usize, depth: u32) -> Result<(), DecodeError> {
        if depth == 0 {
            return Err(DecodeError::Depth);
        }
        let length = match wire_type {
            VARINT => {
                self.varint(end)?;
                0
            }
            FIXED64 => 8,
            FIXED32 => 4,
            LENGTH_DELIMITED => self.varint(end)?,
            START_GROUP => {
                self.skip_group(field, end, depth)?;
                0
            }
            // An end without a beginning: `key` lets no other wire type through.
            _ => return Err(DecodeError::Group),
        };
        if length > (end - self.position) as u64 {
            return Err(DecodeError::Truncated);
        }
        self.position += length as usize;
        Ok(())
    }

    fn skip_group(&mut self, group: u32, end: usize, depth: u32) -> Result<(), DecodeError> {
        loop {
            let (field, wire_type) = self.key(end)?;
            if wire_type == END_GROUP {
                return if field == group { Ok(()) } else { Err(DecodeError::Group) };
            }
            self.skip(field, wire_type, end, depth - 1)?;
        }
    }
}

#[inline]
fn expect(expected: u8, wire_type: u8) -> Result<(), DecodeError> {
    if wire_type == expected { Ok(()) } else { Err(DecodeError::WireType) }
}

/// What the two kinds of vectors that hold a map's entries have in common.
trait Entries<'a, V>: DerefMut<Target = [(&'a str, V)]> {
    fn append(&mut self, key: &'a str, value: V);
    fn remove(&mut self, index: usize);
    fn dedup(&mut self);
}

impl<'a, V, const N: usize> Entries<'a, V> for SmallVec<[(&'a str, V); N]> {
    #[inline]
    fn append(&mut self, key: &'a str, value: V) {
        self.push((key, value));
    }

    fn remove(&mut self, index: usize) {
        Self::remove(self, index);
    }

    fn dedup(&mut self) {
        self.dedup_by(|(a, _), (b, _)| a == b);
    }
}

impl<'a, V> Entries<'a, V> for Vec<(&'a str, V)> {
    fn append(&mut self, key: &'a str, value: V) {
        self.push((key, value));
    }

    fn remove(&mut self, index: usize) {
        Self::remove(self, index);
    }

    fn dedup(&mut self) {
        self.dedup_by(|(a, _), (b, _)| a == b);
    }
}

/// Adds an entry of a map; of equal keys the last will count. `cleaning` is the number of entries to reach before equal
/// keys are thrown out, so that a message of many empty entries takes little memory.
#[inline]
fn push<'a, V>(entries: &mut impl Entries<'a, V>, cleaning: &mut usize, key: &'a str, value: V) {
    if entries.len() == *cleaning {
        keep_last_of_each_key(entries);
        *cleaning = (*cleaning).max(2 * entries.len());
    }
    entries.append(key, value);
}

#[inline]
fn keep_last_of_each_key<'a, V>(entries: &mut impl Entries<'a, V>) {
    if entries.len() > FEW_ENTRIES {
        // Stable, and `dedup` keeps the first of equal ones: that is the last on the wire once they are turned around.
        entries.reverse();
        entries.sort_by(|(a, _), (b, _)| shortlex(a, b));
        entries.dedup();
        return;
    }
    let mut index = 0;
    while index < entries.len() {
        let key = entries[index].0;
        if entries[index + 1..].iter().any(|(later, _)| *later == key) {
            entries.remove(index);
        } else {
            index += 1;
        }
    }
}

/// Any total order would do; lengths differ more cheaply than bytes.
fn shortlex(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}
