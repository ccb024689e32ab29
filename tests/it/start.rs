//! How the program starts, and how it ends when it cannot.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc;

use anyhow::Result;

use crate::support::START_LIMIT;
use crate::support::bridge::Bridge;

/// A small image has no certificates, and export without TLS needs none.
#[tokio::test]
async fn without_certificates_it_exports_over_plain_http_all_the_same() -> Result<()> {
    for protocol in ["http/protobuf", "grpc"] {
        let variables = [
            ("SSL_CERT_FILE", "/nonexistent"),
            ("SSL_CERT_DIR", "/nonexistent"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let bridge = Bridge::start(&[], &variables).await?;
        let (status, log) = bridge.terminate(START_LIMIT).await?;
        assert!(status.success(), "{protocol}: {status}\n{log}");
    }
    Ok(())
}

/// A proxy for the world outside has no part in the way to a Collector on the same machine.
#[test]
fn a_collector_on_this_machine_is_reached_past_the_proxy() {
    let (endpoint, requests) = collector().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge"))
        .args(["demo", "--seconds", "1"])
        .env_clear()
        .envs([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("HTTP_PROXY", "http://127.0.0.1:9")])
        .envs([("http_proxy", "http://127.0.0.1:9")])
        .output()
        .unwrap();
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
    let requests: Vec<_> = requests.try_iter().collect();
    for path in ["/v1/traces", "/v1/metrics", "/v1/logs"] {
        let wanted = format!("post {path} http/1.1");
        assert!(requests.contains(&wanted), "{path}: {requests:?}");
    }
}

/// Takes every request; answers where it is, and the first lines of what came.
fn collector() -> std::io::Result<(String, mpsc::Receiver<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let (send, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever breaks off is of no interest, and a test that is over hears nothing.
            let _ = stream.and_then(take_request).map(|line| send.send(line));
        }
    });
    Ok((endpoint, requests))
}

fn take_request(mut stream: TcpStream) -> std::io::Result<String> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_ascii_lowercase()),
        }
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    reader.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(head.swap_remove(0))
}

#[test]
fn a_port_that_is_taken_is_exit_code_69_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        ["--listen", &address, "--admin-listen", "127.0.0.1:0"],
        ["--listen", "127.0.0.1:0", "--admin-listen", &address],
    ] {
        let Output { status, stdout, stderr } = run(&arguments).unwrap();
        assert_eq!(status.code(), Some(69), "{arguments:?}");
        assert_eq!(stdout, b"", "it is not ready");
        let log = String::from_utf8_lossy(&stderr);
        assert!(log.contains(&format!("failed to listen on {address}")), "{log}");
    }
}

fn run(arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge")).args(arguments).env_clear().output()
}
