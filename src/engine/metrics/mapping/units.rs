//! Units that can be converted into each other, and numbers that are.
//!
//! Every known unit is a whole multiple of the smallest of its dimension, so a conversion is one whole multiplication or
//! one division. Multiplied integers stay integers while they fit; a division makes a double.

use crate::engine::metrics::instrument::Number;

/// A quantity's dimension, and how many of its smallest unit one is.
const KNOWN: [(&str, Dimension, i64); 18] = [
    ("ns", Dimension::Time, 1),
    ("us", Dimension::Time, 1_000),
    ("ms", Dimension::Time, 1_000_000),
    ("s", Dimension::Time, 1_000_000_000),
    ("min", Dimension::Time, 60 * 1_000_000_000),
    ("h", Dimension::Time, 3_600 * 1_000_000_000),
    ("d", Dimension::Time, 86_400 * 1_000_000_000),
    ("By", Dimension::Bytes, 1),
    ("kBy", Dimension::Bytes, 1_000),
    ("MBy", Dimension::Bytes, 1_000_000),
    ("GBy", Dimension::Bytes, 1_000_000_000),
    ("TBy", Dimension::Bytes, 1_000_000_000_000),
    ("KiBy", Dimension::Bytes, 1 << 10),
    ("MiBy", Dimension::Bytes, 1 << 20),
    ("GiBy", Dimension::Bytes, 1 << 30),
    ("TiBy", Dimension::Bytes, 1 << 40),
    ("%", Dimension::Fraction, 1),
    ("1", Dimension::Fraction, 100),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    Time,
    Bytes,
    Fraction,
}

/// How a number of one unit becomes one of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// It is one.
    Same,
    /// Multiplied.
    Times(i64),
    /// Divided.
    Over(i64),
    /// Multiplied, then divided: neither unit is a multiple of the other.
    Fraction(i64, i64),
}

impl Scale {
    /// From one unit to another; `None` unless both are known and of one dimension.
    pub(super) fn between(from: &str, to: &str) -> Option<Self> {
        let known = |unit: &str| KNOWN.iter().find(|(name, ..)| *name == unit);
        let (_, from_dimension, from) = known(from)?;
        let (_, to_dimension, to) = known(to)?;
        (from_dimension == to_dimension).then_some(if from == to {
            Self::Same
        } else if from % to == 0 {
            Self::Times(from / to)
        } else if to % from == 0 {
            Self::Over(to / from)
        } else {
            Self::Fraction(*from, *to)
        })
    }

    /// The converted number; `None` where it is not finite any more.
    #[expect(clippy::cast_precision_loss, reason = "what does not fit an integer is a double")]
    pub(super) fn apply(self, number: Number) -> Option<Number> {
        let converted = match (self, number) {
            (Self::Same, number) => return Some(number),
            (Self::Times(factor), Number::Int(int)) => match int.checked_mul(factor) {
                Some(int) => return Some(Number::Int(int)),
                None => int as f64 * factor as f64,
            },
            (Self::Times(factor), Number::Float(float)) => float * factor as f64,
            (Self::Over(divisor), number) => number.as_f64() / divisor as f64,
            (Self::Fraction(factor, divisor), number) => number.as_f64() / divisor as f64 * factor as f64,
        };
        converted.is_finite().then_some(Number::Float(converted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_multiples_stay_whole_and_divisions_are_doubles() {
        let convert = |from, to, number| Scale::between(from, to).unwrap().apply(number).unwrap();
        assert_eq!(convert("MiBy", "By", Number::Int(3)), Number::Int(3 << 20));
        assert_eq!(convert("MiBy", "By", Number::Float(0.5)), Number::Float(524_288.0));
        assert_eq!(convert("ns", "s", Number::Int(1_500_000_000)), Number::Float(1.5));
        assert_eq!(convert("ms", "s", Number::Int(3)), Number::Float(0.003));
        assert_eq!(convert("h", "min", Number::Int(2)), Number::Int(120));
        assert_eq!(convert("%", "1", Number::Int(25)), Number::Float(0.25));
        assert_eq!(convert("KiBy", "kBy", Number::Int(1_000)), Number::Float(1_024.0));
        assert_eq!(convert("s", "s", Number::Int(7)), Number::Int(7));
    }

    #[test]
    fn what_does_not_fit_an_integer_is_a_double_and_what_is_not_finite_is_nothing() {
        let mebibytes = Scale::between("MiBy", "By").unwrap();
        let large = mebibytes.apply(Number::Int(i64::MAX)).unwrap();
        assert_eq!(large, Number::Float(2f64.powi(83)));
        assert_eq!(mebibytes.apply(Number::Float(f64::MAX)), None);
    }

    #[test]
    fn other_dimensions_and_unknown_units_are_not_converted() {
        for (from, to) in [("s", "By"), ("s", "fortnight"), ("", "s"), ("{token}", "1"), ("S", "s")] {
            assert_eq!(Scale::between(from, to), None, "{from} to {to}");
        }
    }
}
