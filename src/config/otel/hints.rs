//! What is said about variables that are set and do nothing here.

use crate::config::env::{EnvSource, Variables};
use crate::config::otel::table::{Status, VARIABLES};

/// After `OTEL_`: what belongs to an SDK or an agent of another language, and is no business of the bridge.
const OTHERS: [&str; 17] = [
    "CPP_",
    "DOTNET_",
    "ELIXIR_",
    "ERLANG_",
    "GO_",
    "INSTRUMENTATION_",
    "JAVA_",
    "JAVAAGENT_",
    "JS_",
    "JMX_",
    "KOTLIN_",
    "NODE_",
    "PHP_",
    "PYTHON_",
    "RUBY_",
    "RUST_",
    "SWIFT_",
];

/// Warns of variables that are set and have no effect, and of names that nobody knows.
pub(super) fn about_effects<E: EnvSource + ?Sized>(env: &E, variables: &mut Variables<'_, E>) {
    for variable in VARIABLES {
        let problem = match variable.status {
            Status::Honoured => continue,
            Status::ToCome(signal) => format!("no effect yet: no {signal} are made"),
            Status::NotApplicable(why) => format!("no effect: {why}"),
        };
        let Some(text) = variables.text(variable.name) else { continue };
        // Whoever switches something off that is not there has what they want.
        if variable.name.ends_with("_EXPORTER") && text.eq_ignore_ascii_case("none") {
            continue;
        }
        let shown = if variable.name.ends_with("_HEADERS") { crate::config::env::MASKED } else { &text };
        variables.warn(variable.name, shown, &problem);
    }
    for name in env.names() {
        let Some(rest) = name.strip_prefix("OTEL_") else { continue };
        let is_known = VARIABLES.iter().any(|variable| variable.name == name);
        let is_others = OTHERS.iter().any(|prefix| rest.starts_with(prefix));
        let is_set = env.value(&name).is_some_and(|value| !value.is_empty());
        if is_known || is_others || !is_set {
            continue;
        }
        let shown = name.escape_debug().to_string();
        let problem = match nearest(&name) {
            _ if rest.starts_with("EXPORTER_JAEGER_") => {
                "no longer part of the specification: Jaeger takes OTLP".to_owned()
            }
            Some(near) => format!("unknown variable; did you mean {near}?"),
            None => "unknown variable".to_owned(),
        };
        // Its value may be a secret, whatever the name was meant to be.
        variables.warn_of_name(shown, &problem);
    }
}

/// The variables that are set although a configuration file is, and all that they say is ignored.
pub(super) fn ignored<E: EnvSource + ?Sized>(env: &E) -> Vec<&'static str> {
    let set = env.names();
    let is_set = |name: &str| {
        set.iter().any(|set| set == name) && env.value(name).is_some_and(|value| !value.is_empty())
    };
    let others = ["OTEL_CONFIG_FILE", "TRACEPARENT", "TRACESTATE", "BAGGAGE"];
    VARIABLES
        .iter()
        .map(|variable| variable.name)
        .filter(|name| !others.contains(name) && is_set(name))
        .collect()
}

/// The variable that was probably meant: at most a third of the name is something else.
fn nearest(name: &str) -> Option<&'static str> {
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    let near = VARIABLES.iter().map(|variable| variable.name).min_by_key(|known| distance(known))?;
    (distance(near) * 3 <= name.len()).then_some(near)
}
