//! Checksums of what is on disk, and the few encodings that the store makes itself.
//!
//! A checksum covers a row's key as well, so that bytes that stand in the wrong place are found out too.

use smallvec::SmallVec;
use xxhash_rust::xxh3::Xxh3;

use super::op::{Origin, Origins};
use crate::exporter::signal::Signal;

/// The checksum over parts, each told apart from its neighbour by its length.
pub(super) fn checksum(table: &str, parts: &[&[u8]]) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(table.as_bytes());
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest().cast_signed()
}

/// How a signal is written; never changed within a format.
pub(super) const fn signal_code(signal: Signal) -> i64 {
    match signal {
        Signal::Traces => 0,
        Signal::Metrics => 1,
        Signal::Logs => 2,
    }
}

pub(super) fn signal_of(code: i64) -> Option<Signal> {
    Signal::ALL.into_iter().find(|signal| signal_code(*signal) == code)
}

const ORIGIN_BYTES: usize = 18;

/// Origins, one after another: shard, start, end, little-endian.
pub(super) fn encode_origins(origins: &Origins) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(origins.len() * ORIGIN_BYTES);
    for origin in origins {
        bytes.extend_from_slice(&origin.shard.to_le_bytes());
        bytes.extend_from_slice(&origin.ordinals.start.to_le_bytes());
        bytes.extend_from_slice(&origin.ordinals.end.to_le_bytes());
    }
    bytes
}

pub(super) fn decode_origins(bytes: &[u8]) -> Option<Origins> {
    let (origins, rest) = bytes.as_chunks::<ORIGIN_BYTES>();
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let decoded: SmallVec<_> = origins
        .iter()
        .map(|bytes| Origin {
            shard: u16::from_le_bytes([bytes[0], bytes[1]]),
            ordinals: number(&bytes[2..10])..number(&bytes[10..18]),
        })
        .collect();
    rest.is_empty().then_some(decoded)
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    #[test]
    fn origins_come_back() {
        let origins: Origins = smallvec![
            Origin { shard: 3, ordinals: 0..u64::MAX },
            Origin { shard: u16::MAX, ordinals: 0x0102_0304_0506_0708..0x1112_1314_1516_1718 },
        ];
        let bytes = encode_origins(&origins);
        assert_eq!(decode_origins(&bytes), Some(origins));
        assert_eq!(decode_origins(&bytes[1..]), None);
        assert_eq!(decode_origins(&[]), Some(Origins::new()));
    }

    #[test]
    fn a_checksum_depends_on_where_a_part_ends_and_on_the_table() {
        assert_ne!(checksum("a", &[b"xy", b"z"]), checksum("a", &[b"x", b"yz"]));
        assert_ne!(checksum("a", &[b"x"]), checksum("b", &[b"x"]));
    }
}
