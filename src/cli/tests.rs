use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;

use super::*;

/// What the program said, and how it ended.
struct Said {
    exit: Exit,
    out: String,
    err: String,
}

fn run_with(args: &[&str], variables: &[(&str, &str)]) -> Said {
    let args = std::iter::once("snakepit-otel-bridge").chain(args.iter().copied()).map(OsString::from);
    let env: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let names: Vec<String> = env.keys().cloned().collect();
    let exit = run(args, &env, &names, Console { out: &mut out, err: &mut err, terminal: false });
    Said { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

#[test]
fn exit_codes_are_those_of_sysexits() {
    let code = |exit: Exit| format!("{:?}", ExitCode::from(exit));
    for (exit, expected) in [(Exit::Ok, 0), (Exit::Usage, 64), (Exit::Unavailable, 69), (Exit::Internal, 70)]
    {
        assert_eq!(code(exit), format!("{:?}", ExitCode::from(expected)));
    }
}

#[test]
fn help_and_version_are_answers() {
    for args in [["--help"], ["--version"], ["help"]] {
        let said = run_with(&args, &[]);
        assert_eq!((said.exit, said.err.as_str()), (Exit::Ok, ""), "{args:?}");
        assert!(said.out.contains("snakepit-otel-bridge"), "{args:?}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for args in [
        &["--nonsense"][..],
        &["frobnicate"],
        &["check", "--output", "xml"],
        &["demo", "--seconds", "0"],
        &["demo", "--seconds", "3", "--forever"],
        &["--listen", "127.0.0.1:0", "check"],
    ] {
        let said = run_with(args, &[]);
        assert_eq!((said.exit, said.out.as_str()), (Exit::Usage, ""), "{args:?}");
        assert!(said.err.starts_with("error: "), "{args:?}: {}", said.err);
    }
}

#[test]
fn a_wrong_configuration_stops_every_command_that_needs_one() {
    for args in [
        &["--span-timeout", "10"][..],
        &["serve", "--span-timeout", "10"],
        &["check", "--span-timeout", "10"],
        &["check", "--ready", "--span-timeout=10"],
    ] {
        let said = run_with(args, &[("SNAKEPIT_BRIDGE_CHECKPOINT_INTERVAL", "0s")]);
        assert_eq!((said.exit, said.out.as_str()), (Exit::Usage, ""), "{args:?}");
        assert_eq!(
            said.err,
            "error: SNAKEPIT_BRIDGE_CHECKPOINT_INTERVAL: bridge.checkpoint_interval: `0s` is not between 100ms and 1h\n\
             error: --span-timeout: bridge.span_timeout: `10` is not a duration with its unit (for example `500ms`, `5s`, \
             `10m`, `1h 30m`)\n"
        );
    }
}

#[test]
fn check_prints_every_value_with_its_source() {
    let said = run_with(
        &["check", "--listen", "127.0.0.1:0"],
        &[
            ("SNAKEPIT_BRIDGE_REORDER_WINDOW", "1s"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector.observability.internal:4318/v1/traces"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer hidden"),
        ],
    );

    assert_eq!((said.exit, said.err.as_str()), (Exit::Ok, ""));
    insta::assert_snapshot!(said.out);
}

#[test]
fn check_tells_tools_the_same() {
    let said = run_with(&["check", "--output", "json", "--listen", "127.0.0.1:0"], &[]);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        answer["values"][0],
        serde_json::json!({"key": "bridge.listen", "value": "127.0.0.1:0", "source": "--listen"})
    );
    assert_eq!(answer["warnings"], serde_json::json!([]));

    let said = run_with(&["check", "--output", "json", "--listen", "here"], &[]);
    assert_eq!(said.exit, Exit::Usage);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["problems"][0]["key"], "bridge.listen");
}

#[test]
fn check_warns_of_what_has_no_effect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    std::fs::write(&path, "telemetry: {grpc_stream: true}\n").unwrap();
    let said = run_with(&["check", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(said.exit, Exit::Ok);
    let last = said.out.lines().last().unwrap();
    assert!(
        last.starts_with("warning: ") && last.contains("telemetry.grpc_stream has no effect here"),
        "{last}"
    );
}

#[test]
fn check_warns_of_a_slip_in_a_variable() {
    let said = run_with(&["check"], &[("SNAKEPIT_BRIDGE_LISTN", "127.0.0.1:1")]);
    assert_eq!(said.exit, Exit::Ok);
    let last = said.out.lines().last().unwrap();
    assert_eq!(
        last,
        "warning: SNAKEPIT_BRIDGE_LISTN: unknown variable; did you mean `SNAKEPIT_BRIDGE_LISTEN`?"
    );
}

#[test]
fn check_ready_asks_a_running_bridge() {
    for (answer, exit) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Exit::Ok),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reasons\":[\"draining\"]}", Exit::Unavailable),
        ("nonsense", Exit::Unavailable),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            loop {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            stream.write_all(answer.as_bytes()).unwrap();
            head
        });

        let said = run_with(&["check", "--ready", &format!("http://{address}")], &[]);

        assert_eq!(said.exit, exit, "{answer}: {}", said.err);
        let head = peer.join().unwrap();
        assert_eq!(
            head,
            ["GET /readyz HTTP/1.1".to_owned(), format!("Host: {address}"), "Connection: close".to_owned()]
        );
    }
}

/// Every signal is tried, each with a request of its own.
#[test]
fn check_connect_says_what_came_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || {
        let mut asked = Vec::new();
        while asked.len() < 3 {
            // The trial's own connection, which asks nothing; then the exporter's.
            let _ = listener.accept().unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while lines.read_line(&mut head).unwrap() > 2 {}
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            asked.push(head.lines().next().unwrap_or_default().to_owned());
        }
        asked
    });
    let url = format!("http://{address}");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str());
    let said = run_with(&["check", "--connect"], &[endpoint]);
    assert_eq!(said.exit, Exit::Ok, "{}", said.out);
    let paths = ["/v1/traces", "/v1/metrics", "/v1/logs"];
    assert_eq!(peer.join().unwrap(), paths.map(|path| format!("POST {path} HTTP/1.1")));
    let by = "http/protobuf, by OTEL_EXPORTER_OTLP_ENDPOINT";
    for (signal, path) in ["traces", "metrics", "logs"].into_iter().zip(paths) {
        let beginning = format!("{signal} to {url}{path} ({by})\n  DNS        127.0.0.1\n");
        let trial = said.out.split("\n\n").find(|paragraph| paragraph.starts_with(&beginning));
        let trial = trial.unwrap_or_else(|| panic!("{}", said.out));
        assert!(trial.contains("\n  answer     taken in "), "{trial}");
    }

    // Nobody listens any more.
    let arguments = ["check", "--connect", "--output", "json"];
    let said = run_with(&arguments, &[endpoint, ("OTEL_METRICS_EXPORTER", "none")]);
    assert_eq!(said.exit, Exit::Unavailable);
    let answer: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let endpoints = answer["endpoints"].as_array().unwrap();
    let signals: Vec<_> = endpoints.iter().map(|endpoint| endpoint["signal"].as_str().unwrap()).collect();
    assert_eq!(signals, ["traces", "logs"]);
    for endpoint in endpoints {
        assert_eq!((&endpoint["ok"], &endpoint["trouble"]["step"]), (&false.into(), &"TCP".into()));
        assert_eq!(endpoint["hints"].as_array().unwrap().len(), 1, "{endpoint}");
    }

    let elsewhere = [
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "otlp/stdout"),
    ];
    let said = run_with(&["check", "--connect"], &elsewhere);
    assert_eq!(said.exit, Exit::Ok);
    assert!(
        said.out.ends_with("no signal goes to an OTLP endpoint: there is nothing to try\n"),
        "{}",
        said.out
    );
    assert_eq!(run_with(&["check", "--connect", "--ready"], &[]).exit, Exit::Usage);
}

#[test]
fn check_ready_without_a_bridge_is_unavailable() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let configured = run_with(&["check", "--ready", "--admin-listen", &address.to_string()], &[]);
    assert_eq!(configured.exit, Exit::Unavailable);
    assert!(
        configured.err.starts_with(&format!("not ready: failed to ask {address}: ")),
        "{}",
        configured.err
    );
    assert_eq!(run_with(&["check", "--ready", "ftp://x"], &[]).exit, Exit::Usage);
}
