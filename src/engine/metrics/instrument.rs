//! What is measured: an instrument's name, unit, kind.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An instrument. Two with the same name (letters' case apart) and another unit or kind are in conflict, and so are two that
/// Prometheus has one name for, be it only for a histogram's count, sum or buckets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instrument {
    /// By OpenTelemetry's syntax: a letter, then letters, digits, `_`, `.`, `-`, `/`; at most 255.
    pub name: Arc<str>,
    /// UCUM, at most 63 ASCII characters; empty where nothing is known.
    pub unit: Arc<str>,
    /// For people; may be empty.
    pub description: Arc<str>,
    /// What is made of its measurements.
    pub kind: Kind,
}

impl Instrument {
    /// Its kind and unit, for people.
    #[must_use]
    pub fn form(&self) -> String {
        let kind = match &self.kind {
            Kind::Counter => "counter",
            Kind::UpDownCounter => "up-down counter",
            Kind::Gauge => "gauge",
            Kind::Histogram { .. } => "histogram",
            Kind::ExponentialHistogram => "exponential histogram",
        };
        if self.unit.is_empty() { kind.to_owned() } else { format!("{kind} in {}", self.unit) }
    }
}

/// What is made of an instrument's measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// A monotonic sum.
    Counter,
    /// A sum that goes up and down.
    UpDownCounter,
    /// The last value.
    Gauge,
    /// Counts in fixed buckets.
    Histogram {
        /// Upper bounds, inclusive; finite, ascending. May be empty: count and sum alone.
        boundaries: Arc<[f64]>,
    },
    /// Counts in buckets of base 2 that follow the values.
    ExponentialHistogram,
}

/// A measured value, in its instrument's unit. A float is finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Number {
    /// Whole.
    Int(i64),
    /// Not known to be whole.
    Float(f64),
}

impl Number {
    /// As a double; large integers lose their last digits.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "buckets and bounds are doubles")]
    pub const fn as_f64(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }

    /// Whether it is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        match self {
            Self::Int(int) => int < 0,
            Self::Float(float) => float < 0.0,
        }
    }
}
