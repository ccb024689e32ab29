//! What protects the worker port: halves that belong together, files that cannot be used, and what is said of none.

use super::*;

#[test]
fn credentials_of_the_worker_port_that_lack_their_other_half_are_refused() {
    let mut given = Given::nothing().variable("SNAKEPIT_BRIDGE_TLS_KEY", "/key.pem");
    given.flags.tls_client_ca = Some("/ca.pem".to_owned());
    assert_eq!(
        given.problems(),
        [
            "SNAKEPIT_BRIDGE_TLS_KEY: bridge.tls_key: a key is nothing without its certificate: give bridge.tls_cert \
             (--tls-cert) as well",
            "--tls-client-ca: bridge.tls_client_ca: workers show their certificates to a port that has one itself: give \
             bridge.tls_cert (--tls-cert) as well",
        ]
    );

    let given = Given::file("bridge: {tls_cert: /cert.pem, tls_client_id: cn}\n");
    assert_eq!(
        given.problems(),
        [
            "bridge.yaml:1: bridge.tls_cert: a certificate is nothing without its key: give bridge.tls_key (--tls-key) \
             as well",
            "bridge.yaml:1: bridge.tls_client_id: worker ids are bound by certificates, and none is asked for: give \
             bridge.tls_client_ca (--tls-client-ca) as well",
        ]
    );

    let given = Given::file("bridge: {tls_client_id: email}\n");
    assert_eq!(
        given.problems(),
        [
            "bridge.yaml:1: bridge.tls_client_id: `email` is not a field of a certificate (`none`, `cn`, `dns` or `uri`)"
        ]
    );
}

#[test]
fn files_of_the_worker_port_that_cannot_be_used_stop_the_start() {
    let mut given = Given::nothing();
    given.flags.tls_cert = Some(given.write("cert.pem", "nothing"));
    given.flags.tls_key = Some(given.write("key.pem", "nothing"));
    given.flags.worker_token_file = Some(given.write("token", " "));
    assert_eq!(
        given.problems(),
        [
            "--tls-cert: bridge.tls_cert: `cert.pem`: it holds no certificate in PEM",
            "--worker-token-file: bridge.worker_token_file: `token`: the token is empty",
        ]
    );
}

#[test]
fn a_worker_port_beyond_loopback_without_protection_is_warned_of() {
    let mut given = Given::nothing();
    given.flags.listen = Some("0.0.0.0:50061".to_owned());
    let warnings = given.load().unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("anybody who reaches it may send telemetry"), "{warnings:?}");

    given.flags.worker_token_file = Some(given.write("token", "s3cret"));
    let config = given.load().unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("clear text"), "{:?}", config.warnings);
    assert!(!format!("{config:?}").contains("s3cret"));

    given.flags.listen = Some("[::1]:50061".to_owned());
    assert_eq!(given.load().unwrap().warnings, [""; 0]);
}
