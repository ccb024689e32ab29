//! A worker's desired policy, and whether it lets an event through.
//!
//! Laws: what is blocked does not pass, whatever is allowed; an empty list of what is allowed allows everything. Which
//! worker has which policy is in [`super::policies`].

use std::collections::HashSet;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::glob::Glob;

/// A share of events, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate(f64);

/// A rate outside 0..1, or not a number.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("sampling rate {0} is not between 0 and 1")]
pub struct RateError(pub f64);

impl Rate {
    /// Everything.
    pub const ALL: Self = Self(1.0);

    /// A rate of `value`.
    ///
    /// # Errors
    /// When `value` is outside 0..=1 or not a number.
    pub fn new(value: f64) -> Result<Self, RateError> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(RateError(value)) }
    }

    /// As a number.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Rate {
    type Error = RateError;

    fn try_from(value: f64) -> Result<Self, RateError> {
        Self::new(value)
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

/// The desired control state of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Telemetry is on.
    pub enabled: bool,
    /// Sent to the worker as it is.
    pub sampling_rate: Rate,
    /// Globs that the rate is for; empty means everything.
    pub event_patterns: Vec<String>,
    /// Globs of names that pass; empty passes everything.
    pub allowed_events: Vec<String>,
    /// Globs of names that do not pass; wins over `allowed_events`.
    pub blocked_events: Vec<String>,
    /// The lists above, compiled when they are first needed. A policy that is in use is not changed any more.
    #[serde(skip)]
    pub filter: CompiledFilter,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            sampling_rate: Rate::ALL,
            event_patterns: Vec::new(),
            allowed_events: Vec::new(),
            blocked_events: Vec::new(),
            filter: CompiledFilter::default(),
        }
    }
}

impl Policy {
    /// Whether an event of this dotted name, without the prefix, passes the filter.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        if self.allowed_events.is_empty() && self.blocked_events.is_empty() {
            return true;
        }
        let lists = self.lists();
        !lists.blocked.catch(name) && (self.allowed_events.is_empty() || lists.allowed.catch(name))
    }

    /// The share of the events of this name that the worker is asked to send.
    #[must_use]
    pub fn share_of(&self, name: &str) -> f64 {
        let share = self.sampling_rate.value();
        if share >= 1.0 || self.event_patterns.is_empty() || self.lists().sampled.catch(name) {
            share
        } else {
            1.0
        }
    }

    fn lists(&self) -> &Lists {
        self.filter.0.get_or_init(|| Lists {
            allowed: Patterns::new(&self.allowed_events),
            blocked: Patterns::new(&self.blocked_events),
            sampled: Patterns::new(&self.event_patterns),
        })
    }

    /// Whether the policy may make a worker that samples per event tear pairs apart.
    #[must_use]
    pub fn thins(&self) -> bool {
        !self.enabled || self.sampling_rate.value() < 1.0
    }
}

/// A policy's filter, compiled. It follows from the policy's lists, so all are equal and a copy starts anew.
#[derive(Debug, Default)]
pub struct CompiledFilter(OnceLock<Lists>);

impl Clone for CompiledFilter {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for CompiledFilter {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Lists {
    allowed: Patterns,
    blocked: Patterns,
    /// What the rate is for.
    sampled: Patterns,
}

/// Patterns of which any may catch a name; those without wildcards are found by hash.
#[derive(Debug)]
struct Patterns {
    literals: HashSet<String>,
    globs: Vec<Glob>,
}

impl Patterns {
    fn new(patterns: &[String]) -> Self {
        let mut compiled = Self { literals: HashSet::new(), globs: Vec::new() };
        for pattern in patterns {
            let glob = Glob::new(pattern);
            match glob.literal() {
                Some(literal) => {
                    compiled.literals.insert(literal);
                }
                None => compiled.globs.push(glob),
            }
        }
        compiled
    }

    fn catch(&self, name: &str) -> bool {
        self.literals.contains(name) || self.globs.iter().any(|glob| glob.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_lists_everything_passes() {
        assert!(Policy::default().allows("tool.start"));
        assert!(Policy::default().allows(""));
    }

    #[test]
    fn only_what_is_allowed_passes() {
        let policy = policy(&["tool.*", "cache.hit"], &[]);

        assert!(policy.allows("tool.execution.start"));
        assert!(policy.allows("cache.hit"));
        assert!(!policy.allows("cache.hits"));
        assert!(!policy.allows("Tool.start"));
    }

    #[test]
    fn blocked_wins_over_allowed() {
        let policy = policy(&["tool.*"], &["*.debug.*", "tool.secret"]);

        assert!(policy.allows("tool.run.start"));
        assert!(!policy.allows("tool.debug.start"));
        assert!(!policy.allows("tool.secret"));
    }

    #[test]
    fn a_changed_copy_has_its_own_filter() {
        let first = policy(&[], &["a"]);
        assert!(!first.allows("a"));

        let second = Policy { blocked_events: vec!["b".to_owned()], ..first.clone() };

        assert!(second.allows("a"));
        assert!(!second.allows("b"));
        assert_eq!(first, first.clone());
        assert_ne!(first, second);
    }

    #[test]
    fn a_rate_is_for_what_its_patterns_catch() {
        let half = Policy { sampling_rate: Rate::new(0.5).unwrap(), ..Policy::default() };
        assert!((half.share_of("tool.start") - 0.5).abs() < f64::EPSILON);
        let some = Policy { event_patterns: vec!["tool.*".to_owned()], ..half };
        let shares = ["tool.start", "cache.hit"].map(|name| some.share_of(name));
        assert!((shares[0] - 0.5).abs() < f64::EPSILON && (shares[1] - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_rate_is_a_share() {
        for value in [0.0, 0.5, 1.0] {
            assert_eq!(Rate::new(value).map(Rate::value), Ok(value));
        }
        for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Rate::new(value).is_err(), "{value}");
        }
    }

    fn policy(allowed: &[&str], blocked: &[&str]) -> Policy {
        let owned = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Policy { allowed_events: owned(allowed), blocked_events: owned(blocked), ..Policy::default() }
    }
}
