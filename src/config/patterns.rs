//! Whether a glob of the configuration can be meant: that it compiles, and that an event filter tears no pairs apart.
//!
//! | pattern | |
//! |---|---|
//! | `tool.*`, `debug*`, `cache.hit` | fine |
//! | `tool.execution.stop` | fine: it stands for the three names of `tool.execution` |
//! | `*.exception`, `tool.*.stop` | refused: widened to whole operations it would mute the worker |
//! | `tool.s*`, `*p` | refused: it catches some phases of an operation only |

use globset::{GlobBuilder, GlobMatcher};

const PHASES: [&str; 3] = ["start", "stop", "exception"];

/// Checks a glob on worker ids, pools, nodes, operations or attribute keys.
///
/// # Errors
/// When it is empty or does not compile.
pub(super) fn check_glob(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("`` is not a glob: it is empty, and matches nothing".to_owned());
    }
    if pattern.contains(['{', '}', '\\']) {
        return Err(format!(
            "`{}` is not a glob: only `*`, `?` and `[...]` are known",
            pattern.escape_debug()
        ));
    }
    compile(pattern).map(|_| ())
}

/// Checks a glob on event names.
///
/// # Errors
/// When it does not compile, or would tear pairs apart.
pub(super) fn check_event_pattern(pattern: &str) -> Result<(), String> {
    check_glob(pattern)?;
    let (operation, last) = pattern.rsplit_once('.').map_or((None, pattern), |(op, last)| (Some(op), last));
    if PHASES.contains(&last) && operation.is_some_and(|operation| !has_wildcard(operation)) {
        return Ok(());
    }
    // What stands after the last star decides which phases it catches; without one, the whole last segment does.
    let tail = last.rsplit_once('*').map_or(last, |(_, tail)| tail);
    let caught: Vec<&str> = match operation {
        Some(_) => {
            let matcher = compile(last)?;
            PHASES.into_iter().filter(|phase| matcher.is_match(phase)).collect()
        }
        None if tail.is_empty() || !last.contains('*') => return Ok(()),
        None => {
            let matcher = compile(&format!("*{tail}"))?;
            PHASES.into_iter().filter(|phase| matcher.is_match(phase)).collect()
        }
    };
    if caught.is_empty() || caught.len() == PHASES.len() {
        return Ok(());
    }
    Err(format!(
        "`{}` catches only {} of the operations that it matches, and would tear their spans apart; name whole \
         operations instead, as in `tool.*`",
        pattern.escape_debug(),
        caught.iter().map(|phase| format!("`.{phase}`")).collect::<Vec<_>>().join(" and "),
    ))
}

/// The operation whose three names `pattern` stands for, if it names one phase of it.
pub(super) fn widened_operation(pattern: &str) -> Option<&str> {
    let (operation, last) = pattern.rsplit_once('.')?;
    (PHASES.contains(&last) && !has_wildcard(operation)).then_some(operation)
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn compile(pattern: &str) -> Result<GlobMatcher, String> {
    GlobBuilder::new(pattern)
        .backslash_escape(false)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| format!("`{}` is not a glob: {}", pattern.escape_debug(), error.kind()))
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
                check_event_pattern(pattern).unwrap_err().contains("tear their spans apart"),
                "{pattern}"
            );
        }
    }

    #[test]
    fn what_does_not_compile_is_refused_by_name() {
        for pattern in ["", "a[", "a[z-a]", "{a"] {
            assert!(
                check_glob(pattern).unwrap_err().starts_with(&format!("`{pattern}` is not a glob")),
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
