//! Whether a glob of the configuration can be meant. What an event filter does to pairs is judged in
//! [`crate::control::pairs`].

use crate::control::glob::Glob;
use crate::control::pairs::{WholePattern, whole};

/// Checks a glob on worker ids, pools, nodes, operations or attribute keys.
///
/// # Errors
/// When it is empty, or would be read otherwise than it is most likely meant.
pub(super) fn check_glob(pattern: &str) -> Result<(), String> {
    Glob::meant(pattern)
        .map(|_| ())
        .map_err(|error| format!("`{}` is not a glob: {error}", pattern.escape_debug()))
}

/// Checks a glob on event names.
///
/// # Errors
/// When it is none, or would tear pairs apart.
pub(super) fn check_event_pattern(pattern: &str) -> Result<(), String> {
    check_glob(pattern)?;
    whole(pattern).map(|_| ()).map_err(|error| error.to_string())
}

/// The operation whose three names `pattern` stands for, if it names one phase of it.
pub(super) fn widened_operation(pattern: &str) -> Option<&str> {
    match whole(pattern) {
        Ok(WholePattern::Widened(_)) => pattern.rsplit_once('.').map(|(operation, _)| operation),
        Ok(WholePattern::Unchanged(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_operations_and_standalone_events_are_fine() {
        for pattern in [
            "*",
            "tool.*",
            "tool*",
            "cache.hit",
            "tool.execution.stop",
            "*.execution.*",
            "heartbeat",
            "tool.[a-z]*",
            "*metric",
            "worker.ready",
            "?ool.*",
        ] {
            assert_eq!(check_event_pattern(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn patterns_that_tear_pairs_are_refused() {
        for pattern in
            ["*.exception", "tool.*.stop", "tool.s*", "*p", "*.st*", "*start", "t?ol.stop", "tool.sto?"]
        {
            assert!(
                check_event_pattern(pattern).unwrap_err().contains("would tear spans apart"),
                "{pattern}"
            );
        }
    }

    #[test]
    fn what_is_no_glob_is_refused_by_name() {
        for pattern in ["", "a[", "a[z-a]", "{a"] {
            assert!(
                check_glob(pattern).unwrap_err().starts_with(&format!("`{pattern}` is not a glob: ")),
                "{pattern}"
            );
        }
    }

    #[test]
    fn what_workers_would_read_otherwise_is_refused() {
        assert!(check_event_pattern("{a,b}.*").unwrap_err().contains("only `*`, `?` and `[...]` are known"));
    }

    #[test]
    fn a_literal_phase_stands_for_its_operation() {
        assert_eq!(widened_operation("tool.execution.stop"), Some("tool.execution"));
        assert_eq!(widened_operation("*.stop"), None);
        assert_eq!(widened_operation("stop"), None);
    }
}
