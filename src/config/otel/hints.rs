//! What is said about variables that are set and do nothing here.

use crate::config::env::{EnvSource, MASKED, Variables};
use crate::config::otel::endpoint::without_secrets;
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

/// The ends of names whose values are numbers, words or names of hosts and files, and may be shown.
const HARMLESS: [&str; 17] = [
    "_AGGREGATION",
    "_CERTIFICATE",
    "_CLIENT_KEY",
    "_COMPRESSION",
    "_DELAY",
    "_EXPORTER",
    "_FILTER",
    "_HOST",
    "_INSECURE",
    "_INTERVAL",
    "_LIMIT",
    "_OPT_IN",
    "_PORT",
    "_PREFERENCE",
    "_PROTOCOL",
    "_SIZE",
    "_TIMEOUT",
];

/// Warns of variables that are set and have no effect, and of names that nobody knows.
pub(super) fn about_effects<E: EnvSource + ?Sized>(env: &E, variables: &mut Variables<'_, E>) {
    for variable in VARIABLES {
        let problem = match variable.status {
            Status::Honoured => continue,
            Status::NotApplicable(why) => format!("no effect: {why}"),
        };
        let Some(text) = variables.text(variable.name) else { continue };
        if variable.name.ends_with("_ENDPOINT") {
            variables.warn(variable.name, &without_secrets(&text), &problem);
        } else if HARMLESS.iter().any(|end| variable.name.ends_with(end)) {
            variables.warn(variable.name, &text, &problem);
        } else {
            variables.warn(variable.name, MASKED, &problem);
        }
    }
    for name in env.names() {
        let Some(rest) = name.strip_prefix("OTEL_") else { continue };
        let is_known = VARIABLES.iter().any(|variable| variable.name == name);
        let is_others = OTHERS.iter().any(|prefix| rest.starts_with(prefix));
        let Some(value) = env.value(&name).filter(|value| !value.is_empty()) else { continue };
        if is_known || is_others || is_of_a_service(&name, &value.to_string_lossy()) {
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

/// Kubernetes and Docker tell a container of each service beside it: of `otel-collector` in `OTEL_COLLECTOR_SERVICE_HOST`,
/// `…_SERVICE_PORT`, `…_SERVICE_PORT_<name>`, `…_PORT`, `…_PORT_<n>_TCP` and `…_PORT_<n>_TCP_{PROTO,PORT,ADDR}`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let is_address = || {
        let scheme = value.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(scheme)))
    };
    let is_numbered = |rest: &str| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
            && parts.next().is_some_and(|protocol| PROTOCOLS.contains(&protocol))
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && is_address()
        || name.match_indices("_PORT_").any(|(at, found)| is_numbered(&name[at + found.len()..]))
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
