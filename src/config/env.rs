//! The environment, read in one place.

use std::collections::BTreeMap;

/// Where variables come from: the process, or a test's table.
pub trait Env {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<String>;
}

/// The variables of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl ProcessEnv {
    /// The names that begin with `prefix`, in order.
    #[must_use]
    pub fn names(self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort_unstable();
        names
    }
}

impl Env for ProcessEnv {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    fn get(&self, name: &str) -> Option<String> {
        // What is not UTF-8 is shown with replacement characters, so that it is refused by name and not overlooked.
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
}

/// The value of `name`, where an empty one is as good as none: the rule of the `OTEL_*` variables, kept for our own.
#[must_use]
pub fn non_empty(env: &(impl Env + ?Sized), name: &str) -> Option<String> {
    env.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
