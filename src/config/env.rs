//! The environment, read in one place.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Where variables come from: the process, or a map in tests.
pub trait EnvSource {
    /// The variable's value, if it is set.
    fn value(&self, name: &str) -> Option<OsString>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnv;

impl EnvSource for ProcessEnv {
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
    fn value(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

impl EnvSource for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}

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

/// The value of `name` without blanks around it, where an empty one is as good as none: the rule of the `OTEL_*`
/// variables, kept for our own. What is not UTF-8 gets replacement characters, so that it is refused by name and not
/// overlooked.
#[must_use]
pub fn non_empty(env: &(impl EnvSource + ?Sized), name: &str) -> Option<String> {
    let value = env.value(name)?;
    Some(value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
}
