//! The decoder against prost, over valid, damaged and random messages. `PROPTEST_CASES` says how many.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::proto::{self, telemetry_value};

proptest! {
    /// Whatever prost encodes is read as prost reads it.
    #[test]
    fn valid_messages_read_as_by_prost(event in event()) {
        assert_same_judgement(&event.encode_to_vec());
    }

    /// Two messages one after the other are one message: repeated single fields, equal map keys and merged identities.
    #[test]
    fn joined_messages_read_as_by_prost(first in event(), second in event()) {
        assert_same_judgement(&[first.encode_to_vec(), second.encode_to_vec()].concat());
    }

    /// Damage is refused, or read, as by prost.
    #[test]
    fn damaged_messages_are_judged_as_by_prost(event in event(), damages in vec(damage(), 1..4)) {
        let mut bytes = event.encode_to_vec();
        for damage in damages {
            damage.apply(&mut bytes);
            assert_same_judgement(&bytes);
        }
    }

    /// Fields in any order, of any number and wire type, nested at will: what a hostile or future peer may send.
    #[test]
    fn odd_messages_are_judged_as_by_prost(bytes in fields(3)) {
        assert_same_judgement(&bytes);
    }

    /// Noise is judged as by prost.
    #[test]
    fn random_bytes_are_judged_as_by_prost(bytes in vec(any::<u8>(), 0..64)) {
        assert_same_judgement(&bytes);
    }
}

#[test]
fn an_empty_message_is_an_empty_event() {
    assert_eq!(decode(b""), Ok(Event::default()));
}

#[test]
fn hand_picked_messages_are_judged_as_by_prost() {
    let cases: &[&[u8]] = &[
        b"\x00",                                                       // field number 0
        b"\x07snakepit-bridge-oversized", // the marker: field number 0, wire type 7
        b"\x0e",                          // wire type 6
        b"\x0a",                          // a key and nothing else
        b"\x0a\x05ab",                    // a string cut short
        b"\x0a\x02\xc3\x28",              // not UTF-8
        b"\x0a\x01\xc3\x0a\x01\xa9",      // a character torn over two strings
        b"\x0a\x02\xc3\xa9",              // UTF-8 of two bytes
        b"\x08\x01",                      // a known field as a varint
        b"\x22\x01\x00",                  // the time as a length-delimited field
        b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // -1
        b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", // more than 64 bits
        b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // eleven bytes
        b"\x20\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", // zero, the long way
        b"\x20\x80",                      // a varint cut short
        b"\x20\x01\x20\x02",              // the last time counts
        b"\x12\x00",                      // an entry without key and value
        b"\x1a\x00",                      // the same of metadata
        b"\x12\x03\x0a\x01k",             // no value
        b"\x12\x05\x0a\x01k\x12\x00",     // a value that says nothing
        b"\x12\x07\x0a\x01k\x12\x02\x08\x05\x12\x05\x0a\x01k\x12\x00", // ... and overrides one
        b"\x12\x05\x0a\x01k\x12\x00\x12\x07\x0a\x01k\x12\x02\x08\x05", // ... and is overridden
        b"\x12\x0b\x0a\x01k\x12\x02\x08\x05\x12\x02\x1a\x00", // a value twice within one entry
        b"\x12\x09\x0a\x01k\x12\x04\x08\x05\x1a\x00", // two of a oneof: the last counts
        b"\x12\x06\x0a\x01k\x12\x02\x08", // a value cut short at the end of its entry
        b"\x12\x02\x0a\x03abc",           // a key that reaches beyond its entry
        b"\x12\x0c\x0a\x01k\x12\x07\x11\x00\x00\x00\x00\x00\x00", // a double cut short
        b"\x82\x01\x00",                  // an empty identity is an identity
        b"\x82\x01\x03\x0a\x01a\x82\x01\x03\x12\x01b", // identities merge
        b"\x82\x01\x02\x20\x00",          // trace flags 0 are given
        b"\x82\x01\x06\x20\xff\xff\xff\xff\x7f", // 35 bits of trace flags
        b"\x82\x01\x03\x2a\x01\xff",      // tracestate that is not UTF-8
        b"\x82\x01\x03\x0a\x01\xff",      // a trace id need not be
        b"\x7b\x7c",                      // an empty unknown group
        b"\x7b\x7b\x7c\x7c",              // nested
        b"\x7b\x6c",                      // closed by another number
        b"\x7b",                          // never closed
        b"\x7c",                          // never opened
        b"\x7b\x7a\x01\xff\x7d\x01\x02\x03\x04\x79\x01\x02\x03\x04\x05\x06\x07\x08\x78\x05\x7c", // all wire types
        b"\xf8\xff\xff\xff\x0f\x01", // the highest field number
        b"\xf8\xff\xff\xff\x1f\x01", // one bit more
        b"\x88\x00\x01",             // a key, the long way
    ];
    for bytes in cases {
        assert_same_judgement(bytes);
    }
}

#[test]
fn groups_nest_as_deep_as_prost_lets_them() {
    for depth in 95..105 {
        let groups = [vec![0x7b; depth], vec![0x7c; depth]].concat();
        assert_same_judgement(&groups);
        for field in [2, 3, 16] {
            assert_same_judgement(&delimited(field, &groups));
            assert_same_judgement(&delimited(2, &delimited(2, &groups)));
        }
    }
}

#[test]
fn equal_keys_among_many_entries_count_once_with_their_last_value() {
    for count in [FEW_ENTRIES, FEW_ENTRIES + 1, 8 * FEW_ENTRIES + 1, 1000] {
        let mut bytes = Vec::new();
        for round in 0..3 {
            for index in 0..count {
                let value = if (index + round) % 3 == 0 {
                    Vec::new()
                } else {
                    [vec![0x08], varint((round * count + index) as u64)].concat()
                };
                let key = format!("key{index}");
                let entry = [delimited(1, key.as_bytes()), delimited(2, &value)].concat();
                bytes.extend(delimited(2, &entry));
                bytes.extend(delimited(3, &[delimited(1, key.as_bytes()), delimited(2, &entry)].concat()));
            }
        }
        assert_same_judgement(&bytes);
    }
}

#[test]
fn a_megabyte_of_map_entries_keeps_only_what_differs() {
    let empty_entries = [0x12, 0x00, 0x1a, 0x00].repeat(1 << 18);
    let event = decode(&empty_entries).unwrap();
    assert_eq!(event.metadata.as_slice(), [("", "")]);
    assert!(event.metadata.capacity() < 1000, "{}", event.metadata.capacity());
    assert!(event.measurements.is_empty());

    let mut entries = Vec::new();
    for index in 0..100_000_u32 {
        let key = index.to_le_bytes().map(|byte| byte & 0x7f);
        entries.extend(delimited(3, &delimited(1, &key)));
    }
    assert_same_judgement(&entries);
}

/// Both refuse the bytes, or both read the same.
#[track_caller]
fn assert_same_judgement(bytes: &[u8]) {
    let ours = decode(bytes);
    match proto::TelemetryEvent::decode(bytes) {
        Err(theirs) => assert!(ours.is_err(), "prost says {theirs}, we read {ours:?} in {bytes:02x?}"),
        Ok(theirs) => {
            let ours = ours.unwrap_or_else(|error| panic!("{error}, prost reads {theirs:?} in {bytes:02x?}"));
            assert_same_event(&ours, &theirs, bytes);
        }
    }
}

#[track_caller]
fn assert_same_event(ours: &Event<'_>, theirs: &proto::TelemetryEvent, bytes: &[u8]) {
    let parts: Vec<&str> = theirs.event_parts.iter().map(String::as_str).collect();
    assert_eq!(ours.parts.as_slice(), parts, "{bytes:02x?}");
    assert_eq!(ours.timestamp_ns, theirs.timestamp_ns, "{bytes:02x?}");
    assert_eq!(ours.correlation_id, theirs.correlation_id, "{bytes:02x?}");

    let metadata: BTreeMap<_, _> = ours.metadata.iter().copied().collect();
    let their_metadata: BTreeMap<&str, &str> =
        theirs.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(metadata, their_metadata, "{bytes:02x?}");
    assert_eq!(metadata.len(), ours.metadata.len(), "keys are unique");

    let measurements: BTreeMap<_, _> =
        ours.measurements.iter().map(|(key, value)| (*key, comparable(*value))).collect();
    let their_measurements: BTreeMap<&str, _> = theirs
        .measurements
        .iter()
        .filter_map(|(key, value)| {
            let value = match value.value.as_ref()? {
                telemetry_value::Value::IntValue(value) => Value::Int(*value),
                telemetry_value::Value::FloatValue(value) => Value::Float(*value),
                telemetry_value::Value::StringValue(value) => Value::Text(value),
            };
            Some((key.as_str(), comparable(value)))
        })
        .collect();
    assert_eq!(measurements, their_measurements, "{bytes:02x?}");
    assert_eq!(measurements.len(), ours.measurements.len(), "keys are unique");

    let span = theirs.span.as_ref().map(|span| SpanIdentity {
        trace_id: &span.trace_id,
        span_id: &span.span_id,
        parent_span_id: &span.parent_span_id,
        trace_flags: span.trace_flags,
        trace_state: &span.trace_state,
    });
    assert_eq!(ours.span, span, "{bytes:02x?}");
}

/// NaN equals nothing, its bits do.
fn comparable(value: Value<'_>) -> (u8, u64, &str) {
    match value {
        Value::Int(value) => (0, value.cast_unsigned(), ""),
        Value::Float(value) => (1, value.to_bits(), ""),
        Value::Text(value) => (2, 0, value),
    }
}

fn event() -> impl Strategy<Value = proto::TelemetryEvent> {
    let value = prop_oneof![
        any::<i64>().prop_map(|value| Some(telemetry_value::Value::IntValue(value))),
        any::<f64>().prop_map(|value| Some(telemetry_value::Value::FloatValue(value))),
        text().prop_map(|value| Some(telemetry_value::Value::StringValue(value))),
        Just(None),
    ]
    .prop_map(|value| proto::TelemetryValue { value });
    let identity =
        (
            vec(any::<u8>(), 0..20),
            vec(any::<u8>(), 0..10),
            vec(any::<u8>(), 0..10),
            proptest::option::of(any::<u32>()),
            text(),
        )
            .prop_map(|(trace_id, span_id, parent_span_id, trace_flags, trace_state)| {
                proto::SpanIdentity { trace_id, span_id, parent_span_id, trace_flags, trace_state }
            });
    (
        vec(text(), 0..5),
        btree_map(text(), value, 0..6),
        btree_map(text(), text(), 0..20),
        any::<i64>(),
        text(),
        proptest::option::of(identity),
    )
        .prop_map(|(event_parts, measurements, metadata, timestamp_ns, correlation_id, span)| {
            proto::TelemetryEvent { event_parts, measurements, metadata, timestamp_ns, correlation_id, span }
        })
}

/// Short words that collide, text beyond ASCII, and text whose length takes two bytes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]{0,2}",
        2 => "[a-z_.]{3,30}",
        1 => "\\PC{0,12}",
        1 => "[a-z]{120,140}",
    ]
}

#[derive(Debug, Clone)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Flip(at, mask) => {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }
            Self::Insert(at, inserted) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, inserted.iter().copied());
            }
            Self::Remove(at) => {
                bytes.remove(at.index(bytes.len()));
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Damage::Cut),
        (at(), 1..=u8::MAX).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        (at(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        at().prop_map(Damage::Remove),
    ]
}

/// Well-framed fields of any number and wire type, of which length-delimited ones and groups may hold fields again.
fn fields(depth: u32) -> BoxedStrategy<Vec<u8>> {
    let number = prop_oneof![8 => 1..6_u64, 2 => Just(16_u64), 1 => 6..40_u64];
    let leaf = prop_oneof![
        any::<u64>().prop_map(|value| (0, varint(value))),
        vec(any::<u8>(), 8).prop_map(|bytes| (1, bytes)),
        vec(any::<u8>(), 4).prop_map(|bytes| (5, bytes)),
        "\\PC{0,4}".prop_map(|text| (2, with_length(text.as_bytes()))),
    ];
    let field = if depth == 0 {
        (number, leaf).prop_map(|(number, (wire_type, body))| tagged(number, wire_type, &body)).boxed()
    } else {
        let nested = fields(depth - 1);
        prop_oneof![
            (number.clone(), leaf).prop_map(|(number, (wire_type, body))| tagged(number, wire_type, &body)),
            (number.clone(), nested.clone()).prop_map(|(number, body)| delimited(number, &body)),
            (number, nested)
                .prop_map(|(number, body)| { [tagged(number, 3, &body), tagged(number, 4, &[])].concat() }),
        ]
        .boxed()
    };
    vec(field, 0..5).prop_map(|fields| fields.concat()).boxed()
}

fn delimited(number: u64, body: &[u8]) -> Vec<u8> {
    tagged(number, 2, &with_length(body))
}

fn with_length(body: &[u8]) -> Vec<u8> {
    [&varint(body.len() as u64), body].concat()
}

fn tagged(number: u64, wire_type: u64, body: &[u8]) -> Vec<u8> {
    [&varint(number << 3 | wire_type), body].concat()
}

fn varint(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(value, &mut bytes);
    bytes
}
