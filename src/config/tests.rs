mod credentials;
mod limits;
mod metrics;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::config::file::Value;
use crate::control::policies::{MAX_PATTERNS, Policies, PolicySettings, Rule};
use crate::control::policy::Rate;
use crate::engine::settings::{RedactAction, RedactRule};

/// A file, variables and flags, on a log that is no terminal.
struct Given {
    directory: tempfile::TempDir,
    flags: Flags,
    env: BTreeMap<String, String>,
}

impl Given {
    fn nothing() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), flags: Flags::default(), env: BTreeMap::new() }
    }

    fn file(text: &str) -> Self {
        let mut given = Self::nothing();
        given.flags.config = Some(given.write("bridge.yaml", text));
        given
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.flags, &self.env, false)
    }

    /// The problems, with the file's folder cut off.
    fn problems(&self) -> Vec<String> {
        let folder = format!("{}/", self.directory.path().display());
        let error = self.load().expect_err("there are problems");
        error.problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }
}

fn source_of(config: &Config, key: &str) -> String {
    let found = config.effective.iter().find(|effective| effective.key == key);
    found.map(|effective| effective.source.to_string()).unwrap_or_else(|| panic!("{key}: {config:#?}"))
}

#[test]
fn without_anything_the_defaults_count() {
    let config = Given::nothing().load().unwrap();

    assert_eq!(config.listen.to_string(), "127.0.0.1:50061");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9464");
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.engine.span_timeout, Duration::from_secs(600));
    assert_eq!(config.control, PolicySettings::default());
    assert!(config.effective.iter().all(|effective| effective.source == Source::Default));
    assert_eq!(config.warnings, [""; 0]);
    let on_a_terminal = Config::load(&Flags::default(), &BTreeMap::new(), true).unwrap();
    assert_eq!(on_a_terminal.log_format, LogFormat::Text);
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_and_each_says_so() {
    let mut given = Given::file("bridge:\n  span_timeout: 1m\n  reconnect_grace: 1s\n  reorder_window: 1s\n")
        .variable("SNAKEPIT_BRIDGE_SPAN_TIMEOUT", "2m")
        .variable("SNAKEPIT_BRIDGE_RECONNECT_GRACE", " 2s ");
    given.flags.span_timeout = Some("3m".to_owned());

    let config = given.load().unwrap();

    assert_eq!(config.engine.span_timeout, Duration::from_secs(180));
    assert_eq!(config.engine.reconnect_grace, Duration::from_secs(2));
    assert_eq!(config.engine.reorder_window, Duration::from_secs(1));
    assert_eq!(source_of(&config, "bridge.span_timeout"), "--span-timeout");
    assert_eq!(source_of(&config, "bridge.reconnect_grace"), "SNAKEPIT_BRIDGE_RECONNECT_GRACE");
    assert!(source_of(&config, "bridge.reorder_window").ends_with("bridge.yaml:4"));
    assert_eq!(source_of(&config, "bridge.shutdown_timeout"), "default");
}

#[test]
fn a_wrong_value_in_the_file_is_wrong_even_if_a_flag_beats_it() {
    let mut given = Given::file("bridge: {span_timeout: soon}\n");
    given.flags.span_timeout = Some("1m".to_owned());
    assert_eq!(given.problems().len(), 1);
    assert!(given.problems()[0].starts_with("bridge.yaml:1: bridge.span_timeout: `soon` is not a duration"));
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let given = Given::nothing()
        .variable("SNAKEPIT_BRIDGE_LISTEN", "")
        .variable("SNAKEPIT_BRIDGE_CONFIG", " ")
        .variable("SNAKEPIT_BRIDGE_STATE_DIR", "");
    assert_eq!(given.load().unwrap().listen, DEFAULT_LISTEN);
}

#[test]
fn empty_sections_mean_defaults() {
    let given = Given::file("bridge:\ntelemetry:\nlimits: {}\nmetrics:\n  rules:\nnaming: {prefix: }\n");
    let config = given.load().unwrap();
    assert_eq!(config.engine.prefix, "snakepit.python");
    assert_eq!(config.control, PolicySettings::default());
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn the_file_says_everything_that_it_can_say() {
    let given = Given::file(
        r#"
bridge:
  listen: "0.0.0.0:0"
  admin_allowed_hosts: [bridge.internal, "::1"]
  span_timeouts: {"tool.*": 1h, "model.load": 30m}
naming: {prefix: acme.py, trace_epoch: 1h}
nesting: {one_at_a_time: ["gpu_*"]}
telemetry:
  enabled: false
  default_sampling_rate: 0.5
  per_worker_sampling: {worker_1: 0.1}
control:
  rules:
    - {worker: "w*", pool: "gpu*", node: n1, enabled: true, sampling_rate: 1, allowed_events: ["tool.*"], blocked_events: [debug.*]}
workers: {same_host: true}
attributes: {redact: [{key: "*password*", action: drop}, {key: user_id, action: hash}]}
limits: {max_workers: 1, max_open_spans: 2, max_open_spans_per_worker: 3, max_open_bytes: 4, max_message_bytes: 5000, max_connections: 6}
"#,
    );

    let config = given.load().unwrap();

    assert_eq!(config.admin.allowed_hosts, ["bridge.internal", "::1"]);
    let timeouts: Vec<_> =
        config.engine.span_timeouts.iter().map(|(glob, wait)| (glob.as_str(), wait.as_secs())).collect();
    assert_eq!(timeouts, [("tool.*", 3600), ("model.load", 1800)]);
    assert_eq!(config.engine.prefix, "acme.py");
    assert_eq!(config.engine.trace_epoch, Some(Duration::from_secs(3600)));
    assert_eq!(config.engine.one_at_a_time, ["gpu_*"]);
    assert_eq!(
        config.control,
        PolicySettings {
            enabled: false,
            default_sampling_rate: Rate::new(0.5).unwrap(),
            per_worker_sampling: BTreeMap::from([("worker_1".to_owned(), Rate::new(0.1).unwrap())]),
            rules: vec![Rule {
                worker: Some("w*".to_owned()),
                pool: Some("gpu*".to_owned()),
                node: Some("n1".to_owned()),
                enabled: Some(true),
                sampling_rate: Some(Rate::ALL),
                event_patterns: Vec::new(),
                allowed_events: vec!["tool.*".to_owned()],
                blocked_events: vec!["debug.*".to_owned()],
            }],
        }
    );
    assert!(config.same_host);
    let rule = |key: &str, action| RedactRule { key: key.to_owned(), action };
    assert_eq!(
        config.engine.redact,
        [rule("*password*", RedactAction::Drop), rule("user_id", RedactAction::Hash)]
    );
    assert_eq!(
        config.receiver,
        ReceiverSettings { max_workers: 1, max_message_bytes: 5000, max_connections: 6 }
    );
    assert_eq!((config.max_open_spans, config.max_open_bytes), (2, 4));
    assert_eq!(config.engine.limits.max_open_spans_per_worker, 3);
    assert_eq!(config.engine.limits.max_open_bytes_per_worker, 4);
}

#[test]
fn everything_wrong_is_named_at_once_with_line_key_value_and_nearest_key() {
    let mut given = Given::file(
        r#"bridge:
  listn: x
  span_timeout: 10
  reorder_window: 2h
  admin_allowed_hosts: ["http://a"]
  span_timeouts: {"a[": 1s}
naming: {prefix: "9.."}
telemetry:
  enabled: yes
  default_sampling_rate: 1.5
  per_worker_sampling: {w: -0.1}
control:
  rules:
    - {worker: "a[", blocked_events: ["*.exception"], sampling_rate: lots}
limits: {max_workers: 0, max_message_bytes: 12, max_open_spans: many}
attributes: {redact: [{key: a}, {key: b, action: burn}]}
workers: {dial: [{endpoint: "http://127.0.0.1:1"}]}
"#,
    )
    .variable("SNAKEPIT_BRIDGE_RECONNECT_GRACE", "soon");
    given.flags.listen = Some("here".to_owned());
    given.flags.log_format = Some("xml".to_owned());

    insta::assert_snapshot!(given.problems().join("\n"));
}

#[test]
fn a_rate_with_patterns_is_refused_with_the_reason() {
    let given =
        Given::file("control:\n  rules:\n    - sampling_rate: 0.5\n      event_patterns: [\"tool.*\"]\n");
    assert_eq!(
        given.problems(),
        [
            "bridge.yaml:4: control.rules[0].event_patterns: a rate with event_patterns is not built yet: the known \
          workers ignore the patterns and would sample every event at that rate. Leave event_patterns out to thin all \
          events, or use blocked_events"
        ]
    );
}

#[test]
fn a_list_of_patterns_has_an_end() {
    let patterns = vec!["a"; MAX_PATTERNS + 1].join(", ");
    let given = Given::file(&format!("control:\n  rules:\n    - allowed_events: [{patterns}]\n"));
    assert_eq!(
        given.problems(),
        [
            "bridge.yaml:3: control.rules[0].allowed_events: 101 patterns are too many: at most 100 are matched"
        ]
    );
}

#[test]
fn variables_of_export_and_the_file_are_wrong_together() {
    let given = Given::file("limits: {max_workers: 0}\n").variable("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c");
    assert_eq!(
        given.problems(),
        [
            "OTEL_EXPORTER_OTLP_ENDPOINT: `ftp://c`: not an http or https URL (for traces by http/protobuf)",
            "bridge.yaml:1: limits.max_workers: `0` is too few: at least 1 is needed",
        ]
    );
}

#[test]
fn files_of_tls_towards_the_peer_are_read() {
    const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
    let to = |endpoint: &str| Given::nothing().variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    let missing = to("https://c:4318").variable(CERTIFICATE, "/nonexistent/ca.pem");
    assert_eq!(
        missing.problems(),
        [
            "OTEL_EXPORTER_OTLP_CERTIFICATE: failed to read the CA certificates \"/nonexistent/ca.pem\": No such file or \
             directory (os error 2) (for traces)"
        ]
    );
    let broken = to("https://c:4318");
    let path = broken.write("ca.pem", "no PEM");
    let broken = broken.variable(CERTIFICATE, &path);
    assert_eq!(
        broken.problems(),
        [
            "OTEL_EXPORTER_OTLP_CERTIFICATE: failed to use the CA certificates \"ca.pem\": there is no PEM certificate in \
             it (for traces)"
        ]
    );
    for unused in [to("http://c:4318"), to("https://c:4318").variable("OTEL_TRACES_EXPORTER", "console")] {
        assert!(unused.variable(CERTIFICATE, "/nonexistent/ca.pem").load().is_ok());
    }
    let file = Given::nothing();
    let text = "file_format: \"1.1\"\ntracer_provider: {processors: [{simple: {exporter: {otlp_http: {\n  \
        endpoint: \"https://c:4318/v1/traces\",\n  tls: {ca_file: /nonexistent/ca.pem}}}}}]}\n";
    let path = file.write("otel.yaml", text);
    let problems = file.variable("OTEL_CONFIG_FILE", &path).problems();
    assert!(problems[0].starts_with("otel.yaml:4: failed to read the CA certificates"), "{problems:?}");
}

/// The keys that are promised, with values of every kind; only what is not built yet is refused.
#[test]
fn the_promised_schema_is_understood() {
    let given = Given::file(
        r#"
bridge: {listen: "127.0.0.1:50061", admin_listen: "127.0.0.1:9464", state_dir: null, span_timeout: 10m, reconnect_grace: 5s, reorder_window: 500ms}
naming: {prefix: snakepit.python}
nesting: {one_at_a_time: []}
telemetry:
  enabled: true
  default_sampling_rate: 1.0
  per_worker_sampling: {worker_1: 0.1}
  grpc_stream: true
control:
  rules:
    - {pool: "gpu*", enabled: true, sampling_rate: 0.5, event_patterns: ["tool.*"], blocked_events: ["debug.*"]}
metrics:
  rules:
    - {event: "model.inference", measurement: tokens, instrument: histogram, unit: "{token}", attributes: [model], boundaries: [1, 10, 100]}
  attributes: {allow: [tool, model], deny: []}
  max_series: 2000
workers:
  dial: [{endpoint: "http://127.0.0.1:50051", worker_id: worker_1, pool: default}]
attributes: {redact: [{key: "*password*", action: drop}, {key: user_id, action: hash}]}
limits: {max_workers: 10000, max_open_spans: 1000000, max_open_spans_per_worker: 100000, max_open_bytes: 536870912, max_message_bytes: 1048576}
"#,
    );
    let keys: Vec<String> =
        given.load().unwrap_err().problems.into_iter().filter_map(|problem| problem.key).collect();
    assert_eq!(keys, ["control.rules[0].event_patterns", "workers.dial"]);
}

#[test]
fn a_state_directory_may_be_said_anywhere() {
    let dir = |given: &Given| given.load().unwrap().state.dir;
    assert_eq!(dir(&Given::nothing()), None);
    assert_eq!(dir(&Given::file("bridge: {state_dir: /var/lib/x}\n")), Some("/var/lib/x".into()));
    let variable = Given::nothing().variable("SNAKEPIT_BRIDGE_STATE_DIR", "/y");
    assert_eq!(dir(&variable), Some("/y".into()));
    let mut flag = variable;
    flag.flags.state_dir = Some("/z".to_owned());
    assert_eq!(dir(&flag), Some("/z".into()));
}

#[test]
fn a_checkpoint_interval_of_nothing_is_refused() {
    let given = Given::file("bridge: {checkpoint_interval: 10ms}\n");
    assert_eq!(
        given.problems(),
        ["bridge.yaml:1: bridge.checkpoint_interval: `10ms` is not between 100ms and 1h"]
    );
}

#[test]
fn a_file_that_cannot_be_read_stops_the_start() {
    let mut given = Given::nothing();
    given.flags.config = Some("/nowhere/bridge.yaml".to_owned());
    assert!(given.problems()[0].starts_with("--config: `/nowhere/bridge.yaml` cannot be read: "));
    let given = Given::nothing();
    let latin = given.directory.path().join("latin.yaml");
    std::fs::write(&latin, b"bridge:\n  listen: \xe9\n").unwrap();
    let given = Given {
        flags: Flags { config: Some(latin.to_str().unwrap().to_owned()), ..Flags::default() },
        ..given
    };
    assert_eq!(given.problems(), ["latin.yaml:2: this line is not UTF-8"]);
    let given = Given::file("bridge: [\n");
    assert!(given.problems()[0].starts_with("bridge.yaml:"), "{:?}", given.problems());
}

#[test]
fn an_admin_port_beyond_loopback_wants_a_token_or_a_word() {
    let mut given = Given::nothing();
    given.flags.admin_listen = Some("0.0.0.0:9464".to_owned());
    assert_eq!(
        given.problems(),
        [
            "--admin-listen: bridge.admin_listen: `0.0.0.0:9464` is beyond loopback, and no token protects it: give \
          --admin-token-file, or --admin-insecure if something else does"
        ]
    );
    given.flags.admin_insecure = Some("true".to_owned());
    assert!(given.load().unwrap().admin.insecure);

    given.flags.admin_insecure = None;
    given.flags.admin_token_file = Some(given.write("token", "s3cret\n"));
    let config = given.load().unwrap();
    assert!(config.admin.token.as_ref().unwrap().matches(b"s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn a_token_file_without_a_token_is_refused() {
    for (text, reason) in [
        ("", "the token is empty"),
        ("a b", "the token may hold visible ASCII characters only, and no blanks"),
    ] {
        let mut given = Given::nothing();
        given.flags.admin_token_file = Some(given.write("token", text));
        assert_eq!(
            given.problems(),
            [format!("--admin-token-file: bridge.admin_token_file: `token`: {reason}")]
        );
    }
}

#[test]
fn one_port_cannot_serve_both() {
    let given = Given::file("bridge: {listen: \"127.0.0.1:9464\"}\n");
    assert_eq!(
        given.problems(),
        ["bridge.admin_listen: `127.0.0.1:9464` is where workers connect: the admin port is another one"]
    );
}

#[test]
fn what_has_no_effect_is_said() {
    let given = Given::file(
        "telemetry: {grpc_stream: true}\nmetrics: {max_series: 5}\ncontrol: {rules: [{pool: a}, {blocked_events: \
         [tool.run.stop, snakepit.python.x]}]}\n",
    );
    let config = given.load().unwrap();
    let folder = format!("{}/", given.directory.path().display());
    let warnings: Vec<_> = config.warnings.iter().map(|warning| warning.replace(&folder, "")).collect();
    assert_eq!(
        warnings,
        [
            "bridge.yaml:1: telemetry.grpc_stream has no effect here: workers always stream over gRPC",
            "bridge.yaml:3: control.rules[0] changes nothing, and hides the rules after it",
            "bridge.yaml:3: control.rules[1]: `tool.run.stop` stands for the start, stop and exception of `tool.run`, \
             so that no span is torn apart",
            "bridge.yaml:3: control.rules[1]: `snakepit.python.x` matches nothing: patterns are on the name that the \
             worker sends, without `snakepit.python.`",
        ]
    );
}

#[test]
fn misspelt_variables_are_noticed_and_those_of_kubernetes_are_not() {
    let names = [
        "SNAKEPIT_BRIDGE_LISTN",
        "SNAKEPIT_BRIDGE_LISTEN",
        "SNAKEPIT_BRIDGE_PORT_50061_TCP",
        "SNAKEPIT_BRIDGE_SERVICE_HOST",
    ];
    assert_eq!(
        misspelt_variables(&names.map(str::to_owned)),
        ["SNAKEPIT_BRIDGE_LISTN: unknown variable; did you mean `SNAKEPIT_BRIDGE_LISTEN`?"]
    );
}

proptest::proptest! {
    /// Law: whatever stands in the file, loading it ends with a configuration or with problems that say where.
    #[test]
    fn any_file_is_taken_or_refused(
        section in "bridge|telemetry|control|metrics|limits|attributes|workers|naming|nesting|x",
        key in "listen|rules|redact|max_series|per_worker_sampling|span_timeouts|prefix|dial|enabled|[a-z]{0,3}",
        value in r#"[\[\]{}:,"'*&!|>#%@ \n\ta-c0-9.-]{0,40}"#,
    ) {
        let given = Given::file(&format!("{section}:\n  {key}: {value}\n"));
        if let Err(error) = given.load() {
            proptest::prop_assert!(!error.problems.is_empty());
            for problem in error.problems {
                proptest::prop_assert!(matches!(problem.source, Source::File { .. }), "{problem:?}");
            }
        }
    }

    /// Law: what the configuration lets through, the policies take.
    #[test]
    fn a_pattern_that_is_accepted_makes_a_policy(pattern in "[abst*?.\\[\\]!{}-]{1,8}|tool.(start|stop)") {
        let given = Given::file(&format!("control:\n  rules:\n    - blocked_events: ['{pattern}']\n"));
        if let Ok(config) = given.load() {
            proptest::prop_assert!(Policies::new(&config.control).is_ok());
        }
    }
}

/// Law: the example file has every key of the schema, and loading it changes no value.
#[test]
fn the_example_file_holds_every_key_at_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.example.yaml");
    let flags = Flags { config: Some(path.to_str().unwrap().to_owned()), ..Flags::default() };
    let example = Config::load(&flags, &BTreeMap::new(), false).unwrap_or_else(|error| panic!("{error}"));
    let default = Given::nothing().load().unwrap();

    let values = |config: &Config| -> BTreeMap<String, serde_json::Value> {
        config.effective.iter().map(|effective| (effective.key.clone(), effective.value.clone())).collect()
    };
    assert_eq!(values(&example), values(&default));
    let root = file::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(keys_of(&root, ""), schema::leaf_paths().into_iter().collect());
}

/// The dotted paths of all values that stand in a file.
fn keys_of(node: &Node, path: &str) -> BTreeSet<String> {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            entries.iter().flat_map(|(key, node)| keys_of(node, &format!("{path}.{}", key.name))).collect()
        }
        Value::Map(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::List(_) => BTreeSet::from([path.trim_start_matches('.').to_owned()]),
    }
}
