//! What the configuration says about the workers' policies. How a worker's policy follows from it is decided elsewhere.

use std::collections::BTreeMap;

use crate::control::policy::Rate;

/// The `telemetry` and `control` sections of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlSettings {
    /// `telemetry.enabled`.
    pub enabled: bool,
    /// `telemetry.default_sampling_rate`.
    pub default_sampling_rate: Rate,
    /// `telemetry.per_worker_sampling`: by exact worker id; beats the rules.
    pub per_worker_sampling: BTreeMap<String, Rate>,
    /// `control.rules`: the first that matches a worker counts.
    pub rules: Vec<Rule>,
}

/// A rule of `control.rules`. What it leaves out stays as the defaults have it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// Glob on the worker id; absent means all.
    pub worker: Option<String>,
    /// Glob on the pool; absent means all.
    pub pool: Option<String>,
    /// Glob on the node; absent means all.
    pub node: Option<String>,
    /// Switches the worker's telemetry.
    pub enabled: Option<bool>,
    /// The worker's sampling rate.
    pub sampling_rate: Option<Rate>,
    /// What the rate is for. Not built yet: the configuration refuses any.
    pub event_patterns: Vec<String>,
    /// Globs of names that pass; empty passes everything.
    pub allowed_events: Vec<String>,
    /// Globs of names that do not pass.
    pub blocked_events: Vec<String>,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            default_sampling_rate: Rate::ALL,
            per_worker_sampling: BTreeMap::new(),
            rules: Vec::new(),
        }
    }
}
