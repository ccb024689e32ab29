//! The bounds of histograms, by unit.

use std::sync::Arc;

/// Bounds of times: calls from a millisecond, inference of minutes.
const SECONDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Bounds of bytes: powers of 4 from 64 B to 1 GiB.
const BYTES: [f64; 13] = [
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
];
/// Bounds of tokens: those of the semantic conventions, powers of 4.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// Bounds of numbers of things: those of the semantic conventions.
const THINGS: [f64; 13] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];
/// Bounds of what nothing is known about: the specification's.
const UNKNOWN: [f64; 15] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1_000.0, 2_500.0, 5_000.0, 7_500.0,
    10_000.0,
];

/// The bounds that go with units.
#[derive(Debug)]
pub(super) struct Bounds {
    seconds: Arc<[f64]>,
    bytes: Arc<[f64]>,
    tokens: Arc<[f64]>,
    things: Arc<[f64]>,
    unknown: Arc<[f64]>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            seconds: SECONDS.into(),
            bytes: BYTES.into(),
            tokens: TOKENS.into(),
            things: THINGS.into(),
            unknown: UNKNOWN.into(),
        }
    }
}

impl Bounds {
    /// Those that go with a unit.
    pub(super) fn of(&self, unit: &str) -> Arc<[f64]> {
        Arc::clone(match unit {
            "s" => &self.seconds,
            "By" => &self.bytes,
            "{token}" => &self.tokens,
            _ if unit.starts_with('{') => &self.things,
            _ => &self.unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_go_with_their_unit() {
        let bounds = Bounds::default();
        for (unit, first, last, count) in [
            ("s", 0.001, 300.0, 17),
            ("By", 64.0, 1_073_741_824.0, 13),
            ("{token}", 1.0, 67_108_864.0, 14),
            ("{row}", 1.0, 10_000.0, 13),
            ("", 0.0, 10_000.0, 15),
            ("ms", 0.0, 10_000.0, 15),
        ] {
            let bounds = bounds.of(unit);
            assert_eq!((bounds[0], bounds[bounds.len() - 1], bounds.len()), (first, last, count), "{unit}");
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{unit}");
        }
    }
}
