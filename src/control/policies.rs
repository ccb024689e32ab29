//! Which policy a worker has: defaults, then the first rule that matches it, then its own sampling rate.
//!
//! Patterns are made to keep pairs whole here, once, and a rate with patterns is refused: the known emitters would apply
//! it to everything. What a policy does is in [`super::policy`]; overrides at run time come later.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::glob::Glob;
use super::pairs::{self, PatternError, WholePattern};
use super::policy::{Policy, Rate};

/// Patterns in one list of a policy: every event is matched with all of them.
pub const MAX_PATTERNS: usize = 100;

/// Why a rate with patterns is refused.
pub const RATE_WITH_PATTERNS: &str = "a rate with event_patterns is not built yet: the known workers ignore the patterns \
     and would sample every event at that rate. Leave event_patterns out to thin all events, or use blocked_events";

/// What the configuration says about control.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySettings {
    /// `telemetry.enabled`.
    pub enabled: bool,
    /// `telemetry.default_sampling_rate`.
    pub default_sampling_rate: Rate,
    /// `telemetry.per_worker_sampling`, by worker id.
    pub per_worker_sampling: BTreeMap<String, Rate>,
    /// `control.rules`; the first that matches counts.
    pub rules: Vec<Rule>,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            default_sampling_rate: Rate::ALL,
            per_worker_sampling: BTreeMap::new(),
            rules: Vec::new(),
        }
    }
}

/// One of `control.rules`. What is absent matches every worker, or changes nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// Glob on the worker's id.
    pub worker: Option<String>,
    /// Glob on its pool; a worker without a pool has an empty one.
    pub pool: Option<String>,
    /// Glob on its node.
    pub node: Option<String>,
    /// Switches telemetry on or off.
    pub enabled: Option<bool>,
    /// Sets the rate.
    pub sampling_rate: Option<Rate>,
    /// Events that the rate is for.
    pub event_patterns: Vec<String>,
    /// Events that pass.
    pub allowed_events: Vec<String>,
    /// Events that do not pass.
    pub blocked_events: Vec<String>,
}

/// Why the configuration of control is refused. `key` is the place in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A pattern is refused.
    #[error("{key}: {error}")]
    Pattern {
        /// Such as `control.rules[0].blocked_events[2]`.
        key: String,
        /// Why.
        error: PatternError,
    },
    /// A list is too long.
    #[error("{key}: more than {MAX_PATTERNS} patterns")]
    TooMany {
        /// The list.
        key: String,
    },
    /// A rate is only for some events.
    #[error("{key}: {RATE_WITH_PATTERNS}")]
    RateWithPatterns {
        /// The rule's patterns.
        key: String,
    },
}

/// The worker that a policy is sought for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its id, as it gave it.
    pub worker: &'a str,
    /// Its pool.
    pub pool: Option<&'a str>,
    /// Its node.
    pub node: &'a str,
}

/// The policies of all workers.
#[derive(Debug)]
pub struct Policies {
    default: Arc<Policy>,
    rules: Vec<CompiledRule>,
    per_worker_sampling: BTreeMap<String, Rate>,
}

#[derive(Debug)]
struct CompiledRule {
    worker: Option<Glob>,
    pool: Option<Glob>,
    node: Option<Glob>,
    policy: Arc<Policy>,
}

impl Policies {
    /// Checks and compiles what is configured.
    ///
    /// # Errors
    /// When a rule has a rate with patterns, or a pattern that would tear pairs apart.
    pub fn new(settings: &PolicySettings) -> Result<Self, PolicyError> {
        let default = Policy {
            enabled: settings.enabled,
            sampling_rate: settings.default_sampling_rate,
            ..Policy::default()
        };
        let rules = settings
            .rules
            .iter()
            .enumerate()
            .map(|(index, rule)| compile(rule, &default, &format!("control.rules[{index}]")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            default: Arc::new(default),
            rules,
            per_worker_sampling: settings.per_worker_sampling.clone(),
        })
    }

    /// The desired policy of this worker.
    #[must_use]
    pub fn resolve(&self, subject: Subject<'_>) -> Arc<Policy> {
        let rule = self.rules.iter().find(|rule| rule.is_for(subject));
        let policy = rule.map_or(&self.default, |rule| &rule.policy);
        match self.per_worker_sampling.get(subject.worker) {
            Some(rate) => Arc::new(Policy { sampling_rate: *rate, ..(**policy).clone() }),
            None => Arc::clone(policy),
        }
    }
}

impl Default for Policies {
    /// Everything passes, everywhere.
    fn default() -> Self {
        Self { default: Arc::new(Policy::default()), rules: Vec::new(), per_worker_sampling: BTreeMap::new() }
    }
}

impl CompiledRule {
    fn is_for(&self, subject: Subject<'_>) -> bool {
        let matches = |glob: &Option<Glob>, text: &str| glob.as_ref().is_none_or(|glob| glob.matches(text));
        matches(&self.worker, subject.worker)
            && matches(&self.pool, subject.pool.unwrap_or_default())
            && matches(&self.node, subject.node)
    }
}

fn compile(rule: &Rule, default: &Policy, key: &str) -> Result<CompiledRule, PolicyError> {
    if !rule.event_patterns.is_empty() {
        return Err(PolicyError::RateWithPatterns { key: format!("{key}.event_patterns") });
    }
    let glob = |pattern: &Option<String>| pattern.as_deref().map(Glob::new);
    Ok(CompiledRule {
        worker: glob(&rule.worker),
        pool: glob(&rule.pool),
        node: glob(&rule.node),
        policy: Arc::new(Policy {
            enabled: rule.enabled.unwrap_or(default.enabled),
            sampling_rate: rule.sampling_rate.unwrap_or(default.sampling_rate),
            allowed_events: whole_patterns(&rule.allowed_events, &format!("{key}.allowed_events"))?,
            blocked_events: whole_patterns(&rule.blocked_events, &format!("{key}.blocked_events"))?,
            ..Policy::default()
        }),
    })
}

fn whole_patterns(patterns: &[String], key: &str) -> Result<Vec<String>, PolicyError> {
    if patterns.len() > MAX_PATTERNS {
        return Err(PolicyError::TooMany { key: key.to_owned() });
    }
    let mut whole = Vec::with_capacity(patterns.len());
    for (index, pattern) in patterns.iter().enumerate() {
        let refused = |error| PolicyError::Pattern { key: format!("{key}[{index}]"), error };
        match pairs::whole(pattern).map_err(refused)? {
            WholePattern::Unchanged(pattern) => whole.push(pattern),
            WholePattern::Widened(names) => whole.extend(names),
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_rules_everybody_has_the_defaults() {
        let settings =
            PolicySettings { enabled: false, default_sampling_rate: rate(0.5), ..PolicySettings::default() };

        let policy = policies(&settings).resolve(worker("worker_1"));

        let expected = Policy { enabled: false, sampling_rate: rate(0.5), ..Policy::default() };
        assert_eq!(*policy, expected);
    }

    #[test]
    fn the_first_rule_that_matches_overrides_the_defaults() {
        let settings = PolicySettings {
            rules: vec![
                Rule { pool: Some("gpu*".into()), enabled: Some(false), ..Rule::default() },
                Rule { worker: Some("worker_?".into()), sampling_rate: Some(rate(0.5)), ..Rule::default() },
                Rule { worker: Some("*".into()), enabled: Some(false), ..Rule::default() },
            ],
            ..PolicySettings::default()
        };
        let policies = policies(&settings);

        assert_eq!(policies.resolve(worker("worker_1")).sampling_rate, rate(0.5));
        assert!(policies.resolve(worker("worker_1")).enabled);
        assert!(!policies.resolve(Subject { pool: Some("gpu_a"), ..worker("worker_1") }).enabled);
        assert!(!policies.resolve(worker("worker_10")).enabled);
    }

    #[test]
    fn a_rule_needs_all_that_it_names() {
        let rule = Rule {
            worker: Some("w*".into()),
            pool: Some("p".into()),
            node: Some("n".into()),
            enabled: Some(false),
            ..Rule::default()
        };
        let policies = policies(&PolicySettings { rules: vec![rule], ..PolicySettings::default() });
        let subject = Subject { worker: "w1", pool: Some("p"), node: "n" };

        assert!(!policies.resolve(subject).enabled);
        assert!(policies.resolve(Subject { worker: "x1", ..subject }).enabled);
        assert!(policies.resolve(Subject { pool: None, ..subject }).enabled);
        assert!(policies.resolve(Subject { node: "m", ..subject }).enabled);
    }

    #[test]
    fn a_rule_for_every_pool_is_for_workers_without_one() {
        let rule = Rule { pool: Some("*".into()), enabled: Some(false), ..Rule::default() };
        let policies = policies(&PolicySettings { rules: vec![rule], ..PolicySettings::default() });

        assert!(!policies.resolve(worker("worker_1")).enabled);
    }

    #[test]
    fn a_workers_own_rate_overrides_rule_and_default() {
        let settings = PolicySettings {
            per_worker_sampling: BTreeMap::from([("worker_1".to_owned(), rate(0.1))]),
            rules: vec![Rule {
                sampling_rate: Some(rate(0.5)),
                blocked_events: vec!["debug.*".into()],
                ..Rule::default()
            }],
            ..PolicySettings::default()
        };
        let policies = policies(&settings);

        let own = policies.resolve(worker("worker_1"));
        let other = policies.resolve(worker("worker_2"));

        assert_eq!((own.sampling_rate, own.allows("debug.x")), (rate(0.1), false));
        assert_eq!((other.sampling_rate, other.allows("debug.x")), (rate(0.5), false));
    }

    #[test]
    fn half_a_span_is_widened() {
        let rule = Rule { blocked_events: vec!["a.*".into(), "tool.stop".into()], ..Rule::default() };

        let settings = PolicySettings { rules: vec![rule], ..PolicySettings::default() };
        let blocked = &policies(&settings).resolve(worker("w")).blocked_events;
        assert_eq!(*blocked, ["a.*", "tool.start", "tool.stop", "tool.exception"]);
    }

    #[test]
    fn refusals_name_the_place() {
        let torn = Rule { allowed_events: vec!["*.exception".into()], ..Rule::default() };
        let thinned = Rule { event_patterns: vec!["tool.*".into()], ..Rule::default() };
        let long = Rule { blocked_events: vec!["a".into(); MAX_PATTERNS + 1], ..Rule::default() };

        for (rule, start) in [
            (torn, "control.rules[1].allowed_events[0]: `*.exception` would tear spans apart"),
            (thinned, "control.rules[1].event_patterns: a rate with event_patterns is not built yet"),
            (long, "control.rules[1].blocked_events: more than 100 patterns"),
        ] {
            let rules = vec![Rule::default(), rule];
            let error = Policies::new(&PolicySettings { rules, ..PolicySettings::default() }).unwrap_err();
            assert!(error.to_string().starts_with(start), "{error}");
        }
    }

    fn policies(settings: &PolicySettings) -> Policies {
        Policies::new(settings).unwrap()
    }

    fn worker(id: &str) -> Subject<'_> {
        Subject { worker: id, pool: None, node: "node" }
    }

    fn rate(value: f64) -> Rate {
        Rate::new(value).unwrap()
    }
}
