//! What somebody sees who tries the program for the first time.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// The demo needs nothing around it, says first where it listens, shows a tree, metrics, log records, what is in flight and
/// a ledger that adds up, and ends by itself.
#[test]
fn the_demo_shows_traces_and_ends_by_itself() {
    let output = Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge"))
        .args(["demo", "--seconds", "3"])
        .env_clear()
        // As on a machine without certificates.
        .envs([("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")])
        .output()
        .unwrap();
    let (shown, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{log}\n{shown}", output.status);
    assert_eq!(log, "", "nothing is wrong, so nothing is logged");
    assert!(shown.starts_with("READY grpc=127.0.0.1:"), "{shown}");
    assert!(!shown.contains('\x1b'), "no colours without a terminal");
    for line in [
        "  snakepit.python.tool.execution ",
        "  ├─ snakepit.python.cache.lookup ",
        "  └─ snakepit.python.inference ",
        "     ├─ snakepit.python.tokenizer.encode ",
        "     └─ snakepit.python.model.forward ",
        "  operation  ",
        "  snakepit.python.model.inference.tokens ",
        "  snakepit.python.cache.miss.count ",
        "  snakepit.python.memory.sampled.rss_bytes ",
        "  INFO   snakepit.python.worker.ready  worker_1",
        "  snakepit.python.http.request    worker_2  open for ",
    ] {
        assert!(shown.lines().any(|shown| shown.starts_with(line)), "no line begins with {line:?}:\n{shown}");
    }
    for part in ["incomplete: worker_lost", "parent still open", "  it adds up"] {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_demo_without_fuss() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge"))
        .args(["demo", "--forever"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.starts_with("READY "), "{ready}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success(), "{}", output.status);
}
