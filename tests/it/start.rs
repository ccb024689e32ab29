//! How the program starts, and how it ends when it cannot.

use std::net::TcpListener;
use std::process::{Command, Output};

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

#[test]
fn a_port_that_is_taken_is_exit_code_69_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        ["--listen", &address, "--admin-listen", "127.0.0.1:0"],
        ["--listen", "127.0.0.1:0", "--admin-listen", &address],
    ] {
        let Output { status, stdout, stderr } = run(&arguments);
        assert_eq!(status.code(), Some(69), "{arguments:?}");
        assert_eq!(stdout, b"", "it is not ready");
        let log = String::from_utf8_lossy(&stderr);
        assert!(log.contains(&format!("failed to listen on {address}")), "{log}");
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snakepit-otel-bridge")).args(arguments).env_clear().output().unwrap()
}
