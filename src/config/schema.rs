//! Which keys the configuration file has, which flags and variables beat them, and which known key is nearest to an
//! unknown one.

use super::file::{Node, Value};

/// A setting that a flag or a variable can give as well.
#[derive(Debug)]
pub struct Key {
    /// In the file.
    pub path: &'static str,
    /// On the command line.
    pub flag: &'static str,
    /// In the environment.
    pub variable: &'static str,
}

/// The file itself.
pub const CONFIG: Key = key("", "--config", "SNAKEPIT_BRIDGE_CONFIG");
/// Where workers connect.
pub const LISTEN: Key = key("bridge.listen", "--listen", "SNAKEPIT_BRIDGE_LISTEN");
/// Where people and Prometheus connect.
pub const ADMIN_LISTEN: Key = key("bridge.admin_listen", "--admin-listen", "SNAKEPIT_BRIDGE_ADMIN_LISTEN");
/// The file with the admin token.
pub const ADMIN_TOKEN_FILE: Key =
    key("bridge.admin_token_file", "--admin-token-file", "SNAKEPIT_BRIDGE_ADMIN_TOKEN_FILE");
/// Beyond loopback without a token.
pub const ADMIN_INSECURE: Key =
    key("bridge.admin_insecure", "--admin-insecure", "SNAKEPIT_BRIDGE_ADMIN_INSECURE");
/// Further names that the admin port goes by.
pub const ADMIN_ALLOWED_HOSTS: Key =
    key("bridge.admin_allowed_hosts", "--admin-allowed-hosts", "SNAKEPIT_BRIDGE_ADMIN_ALLOWED_HOSTS");
/// The certificate of the worker port.
pub const TLS_CERT: Key = key("bridge.tls_cert", "--tls-cert", "SNAKEPIT_BRIDGE_TLS_CERT");
/// Its key.
pub const TLS_KEY: Key = key("bridge.tls_key", "--tls-key", "SNAKEPIT_BRIDGE_TLS_KEY");
/// The CA of the workers' certificates.
pub const TLS_CLIENT_CA: Key =
    key("bridge.tls_client_ca", "--tls-client-ca", "SNAKEPIT_BRIDGE_TLS_CLIENT_CA");
/// Which field of theirs binds worker ids.
pub const TLS_CLIENT_ID: Key =
    key("bridge.tls_client_id", "--tls-client-id", "SNAKEPIT_BRIDGE_TLS_CLIENT_ID");
/// The file with the workers' token.
pub const WORKER_TOKEN_FILE: Key =
    key("bridge.worker_token_file", "--worker-token-file", "SNAKEPIT_BRIDGE_WORKER_TOKEN_FILE");
/// What the bridge tells of itself over OTLP.
pub const OWN_TELEMETRY: Key =
    key("bridge.own_telemetry", "--own-telemetry", "SNAKEPIT_BRIDGE_OWN_TELEMETRY");
/// Where on disk it keeps what must outlive it.
pub const STATE_DIR: Key = key("bridge.state_dir", "--state-dir", "SNAKEPIT_BRIDGE_STATE_DIR");
/// How often the engines' state is written there.
pub const CHECKPOINT_INTERVAL: Key =
    key("bridge.checkpoint_interval", "--checkpoint-interval", "SNAKEPIT_BRIDGE_CHECKPOINT_INTERVAL");
/// How long a start waits for its end.
pub const SPAN_TIMEOUT: Key = key("bridge.span_timeout", "--span-timeout", "SNAKEPIT_BRIDGE_SPAN_TIMEOUT");
/// How long a lost worker may take to come back.
pub const RECONNECT_GRACE: Key =
    key("bridge.reconnect_grace", "--reconnect-grace", "SNAKEPIT_BRIDGE_RECONNECT_GRACE");
/// How far events may be out of order.
pub const REORDER_WINDOW: Key =
    key("bridge.reorder_window", "--reorder-window", "SNAKEPIT_BRIDGE_REORDER_WINDOW");
/// How long draining may take.
pub const SHUTDOWN_TIMEOUT: Key =
    key("bridge.shutdown_timeout", "--shutdown-timeout", "SNAKEPIT_BRIDGE_SHUTDOWN_TIMEOUT");
/// Text or JSON.
pub const LOG_FORMAT: Key = key("bridge.log_format", "--log-format", "SNAKEPIT_BRIDGE_LOG_FORMAT");

/// Every one of them.
pub const KEYS: [&Key; 19] = [
    &CONFIG,
    &LISTEN,
    &ADMIN_LISTEN,
    &ADMIN_TOKEN_FILE,
    &ADMIN_INSECURE,
    &ADMIN_ALLOWED_HOSTS,
    &TLS_CERT,
    &TLS_KEY,
    &TLS_CLIENT_CA,
    &TLS_CLIENT_ID,
    &WORKER_TOKEN_FILE,
    &STATE_DIR,
    &CHECKPOINT_INTERVAL,
    &SPAN_TIMEOUT,
    &RECONNECT_GRACE,
    &REORDER_WINDOW,
    &SHUTDOWN_TIMEOUT,
    &LOG_FORMAT,
    &OWN_TELEMETRY,
];

const fn key(path: &'static str, flag: &'static str, variable: &'static str) -> Key {
    Key { path, flag, variable }
}

/// What stands under a key.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A value, whose type its reader knows.
    Leaf,
    /// A value for each name that the user chooses.
    Table,
    /// Known keys.
    Section(&'static [(&'static str, Shape)]),
    /// A list of mappings with known keys.
    Items(&'static [(&'static str, Shape)]),
}

/// The whole file.
pub const FILE: &[(&str, Shape)] = &[
    (
        "bridge",
        Shape::Section(&[
            ("listen", Shape::Leaf),
            ("admin_listen", Shape::Leaf),
            ("admin_token_file", Shape::Leaf),
            ("admin_insecure", Shape::Leaf),
            ("admin_allowed_hosts", Shape::Leaf),
            ("tls_cert", Shape::Leaf),
            ("tls_key", Shape::Leaf),
            ("tls_client_ca", Shape::Leaf),
            ("tls_client_id", Shape::Leaf),
            ("worker_token_file", Shape::Leaf),
            ("state_dir", Shape::Leaf),
            ("checkpoint_interval", Shape::Leaf),
            ("span_timeout", Shape::Leaf),
            ("span_timeouts", Shape::Table),
            ("reconnect_grace", Shape::Leaf),
            ("reorder_window", Shape::Leaf),
            ("shutdown_timeout", Shape::Leaf),
            ("log_format", Shape::Leaf),
            ("own_telemetry", Shape::Leaf),
        ]),
    ),
    ("naming", Shape::Section(&[("prefix", Shape::Leaf), ("trace_epoch", Shape::Leaf)])),
    ("nesting", Shape::Section(&[("one_at_a_time", Shape::Leaf)])),
    (
        "telemetry",
        Shape::Section(&[
            ("enabled", Shape::Leaf),
            ("default_sampling_rate", Shape::Leaf),
            ("per_worker_sampling", Shape::Table),
            ("grpc_stream", Shape::Leaf),
        ]),
    ),
    ("sampling", Shape::Section(&[("keep_errors", Shape::Leaf), ("keep_slower_than", Shape::Leaf)])),
    (
        "control",
        Shape::Section(&[(
            "rules",
            Shape::Items(&[
                ("worker", Shape::Leaf),
                ("pool", Shape::Leaf),
                ("node", Shape::Leaf),
                ("enabled", Shape::Leaf),
                ("sampling_rate", Shape::Leaf),
                ("event_patterns", Shape::Leaf),
                ("allowed_events", Shape::Leaf),
                ("blocked_events", Shape::Leaf),
            ]),
        )]),
    ),
    (
        "metrics",
        Shape::Section(&[
            (
                "rules",
                Shape::Items(&[
                    ("event", Shape::Leaf),
                    ("measurement", Shape::Leaf),
                    ("instrument", Shape::Leaf),
                    ("unit", Shape::Leaf),
                    ("sent_unit", Shape::Leaf),
                    ("attributes", Shape::Leaf),
                    ("boundaries", Shape::Leaf),
                    ("name", Shape::Leaf),
                    ("description", Shape::Leaf),
                    ("keep", Shape::Table),
                    ("drop", Shape::Table),
                ]),
            ),
            ("attributes", Shape::Section(&[("allow", Shape::Leaf), ("deny", Shape::Leaf)])),
            ("max_series", Shape::Leaf),
            ("max_series_per_worker", Shape::Leaf),
            ("series_idle", Shape::Leaf),
        ]),
    ),
    (
        "workers",
        Shape::Section(&[
            ("same_host", Shape::Leaf),
            (
                "dial",
                Shape::Items(&[("endpoint", Shape::Leaf), ("worker_id", Shape::Leaf), ("pool", Shape::Leaf)]),
            ),
        ]),
    ),
    (
        "attributes",
        Shape::Section(&[("redact", Shape::Items(&[("key", Shape::Leaf), ("action", Shape::Leaf)]))]),
    ),
    (
        "limits",
        Shape::Section(&[
            ("max_workers", Shape::Leaf),
            ("max_open_spans", Shape::Leaf),
            ("max_open_spans_per_worker", Shape::Leaf),
            ("max_open_bytes", Shape::Leaf),
            ("max_message_bytes", Shape::Leaf),
            ("max_connections", Shape::Leaf),
            ("max_spool_bytes", Shape::Leaf),
        ]),
    ),
];

/// A place in the file where its structure is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) line: u64,
    pub(super) key: String,
    pub(super) message: String,
}

/// Everything in `root` that does not fit [`FILE`]: unknown keys, and values where sections should be.
pub(super) fn misfits(root: &Node) -> Vec<Misfit> {
    let mut found = Vec::new();
    visit_section(root, "", FILE, &mut found);
    found
}

fn visit(node: &Node, path: &str, shape: Shape, found: &mut Vec<Misfit>) {
    match shape {
        Shape::Leaf => {}
        Shape::Table => {
            if !matches!(node.value, Value::Map(_) | Value::Null) {
                found.push(not_a("mapping", node, path));
            }
        }
        Shape::Section(keys) => visit_section(node, path, keys, found),
        Shape::Items(keys) => match &node.value {
            Value::Null => {}
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    visit_section(item, &format!("{path}[{index}]"), keys, found);
                }
            }
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Map(_) => {
                found.push(not_a("list", node, path));
            }
        },
    }
}

fn visit_section(node: &Node, path: &str, keys: &[(&str, Shape)], found: &mut Vec<Misfit>) {
    let entries = match &node.value {
        Value::Null => return,
        Value::Map(entries) => entries,
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => {
            found.push(not_a("mapping", node, path));
            return;
        }
    };
    for (key, value) in entries {
        let full = join(path, &key.name);
        match keys.iter().find(|(name, _)| *name == key.name) {
            Some((_, shape)) => visit(value, &full, *shape, found),
            None => {
                let message = format!("unknown key; {}", nearest_key(&key.name, keys));
                found.push(Misfit { line: key.line, key: full.escape_debug().to_string(), message });
            }
        }
    }
}

fn not_a(expected: &str, node: &Node, path: &str) -> Misfit {
    let key = if path.is_empty() { "the file" } else { path }.to_owned();
    Misfit { line: node.line, key, message: format!("a {expected} is expected here, found {}", node.value) }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Names the nearest key: among its neighbours, else anywhere, else all that could stand there.
fn nearest_key(name: &str, neighbours: &[(&str, Shape)]) -> String {
    if let Some(near) = nearest(name, neighbours.iter().map(|(key, _)| *key)) {
        return format!("did you mean `{near}`?");
    }
    let paths = leaf_paths();
    let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let leaves: Vec<String> = paths.iter().map(|path| leaf(path)).collect();
    if let Some(near) = nearest(name, leaves.iter().map(String::as_str)) {
        let elsewhere = paths.iter().find(|path| leaf(path) == near).map_or(near, String::as_str);
        return format!("did you mean `{elsewhere}`?");
    }
    let known: Vec<String> = neighbours.iter().map(|(key, _)| format!("`{key}`")).collect();
    format!("known here: {}", known.join(", "))
}

/// The candidate that `name` was probably meant to be.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Jaro-Winkler similarity; below this, suggestions are more confusing than none.
    const SIMILAR: f64 = 0.84;
    candidates
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

/// The path of every key that is not within a list.
pub(super) fn leaf_paths() -> Vec<String> {
    fn collect(path: &str, keys: &[(&str, Shape)], paths: &mut Vec<String>) {
        for (name, shape) in keys {
            let full = join(path, name);
            match shape {
                Shape::Leaf | Shape::Table | Shape::Items(_) => paths.push(full),
                Shape::Section(keys) => collect(&full, keys, paths),
            }
        }
    }
    let mut paths = Vec::new();
    collect("", FILE, &mut paths);
    paths
}

/// Where a key stands in the order of the file; entries of tables and lists stand where their list does.
pub(super) fn position(key: &str) -> usize {
    let is_at = |path: &String| {
        key.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    leaf_paths().iter().position(is_at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    fn misfits_of(text: &str) -> Vec<String> {
        misfits(&file::parse(text).unwrap())
            .into_iter()
            .map(|misfit| format!("{}: {}: {}", misfit.line, misfit.key, misfit.message))
            .collect()
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        assert_eq!(
            misfits_of(
                "bridge:\n  listn: x\n  sampling: 1\nspan_timeout: 3\ntelemtry: {}\ncontrol: {rules: [{wrker: a}]}\n"
            ),
            [
                "2: bridge.listn: unknown key; did you mean `listen`?",
                "3: bridge.sampling: unknown key; known here: `listen`, `admin_listen`, `admin_token_file`, \
                 `admin_insecure`, `admin_allowed_hosts`, `tls_cert`, `tls_key`, `tls_client_ca`, `tls_client_id`, \
                 `worker_token_file`, `state_dir`, `checkpoint_interval`, `span_timeout`, `span_timeouts`, \
                 `reconnect_grace`, `reorder_window`, `shutdown_timeout`, `log_format`, `own_telemetry`",
                "4: span_timeout: unknown key; did you mean `bridge.span_timeout`?",
                "5: telemtry: unknown key; did you mean `telemetry`?",
                "6: control.rules[0].wrker: unknown key; did you mean `worker`?",
            ]
        );
    }

    #[test]
    fn empty_sections_fit_and_values_in_their_place_do_not() {
        assert_eq!(misfits_of("bridge:\ncontrol: {rules: }\nmetrics: ~\n"), [""; 0]);
        assert_eq!(
            misfits_of("bridge: 3\ncontrol: {rules: {}}\ntelemetry: {per_worker_sampling: [1]}\n"),
            [
                "1: bridge: a mapping is expected here, found `3`",
                "2: control.rules: a list is expected here, found a mapping",
                "3: telemetry.per_worker_sampling: a mapping is expected here, found a list",
            ]
        );
    }

    #[test]
    fn every_key_with_a_flag_is_a_key_of_the_file() {
        let paths = leaf_paths();
        for key in KEYS.into_iter().filter(|key| !key.path.is_empty()) {
            assert!(paths.iter().any(|path| path == key.path), "{}", key.path);
        }
    }
}
