//! What protects the worker port: which files, and whether they fit together.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::provenance::Source;
use super::resolve::Resolver;
use super::schema::{self, Key};
use super::sections::any;
use crate::receiver::credentials::{CredentialFiles, Credentials, Role, TlsFiles};
use crate::receiver::tls::ClientId;

/// Reads the files as well, so that a start with one that cannot be used never happens.
pub(super) fn credentials(resolver: &mut Resolver<'_>, listen: SocketAddr) -> Credentials {
    let (certificate, certificate_source) = resolver.keyed(&schema::TLS_CERT, None::<PathBuf>, any);
    let (key, key_source) = resolver.keyed(&schema::TLS_KEY, None::<PathBuf>, any);
    let (client_ca, client_ca_source) = resolver.keyed(&schema::TLS_CLIENT_CA, None::<PathBuf>, any);
    let (client_id, client_id_source) = resolver.keyed(&schema::TLS_CLIENT_ID, ClientId::None, any);
    let (token, token_source) = resolver.keyed(&schema::WORKER_TOKEN_FILE, None::<PathBuf>, any);

    let mut lacks = |source: &Source, key: &Key, without: &str, needed: &Key| {
        let message = format!("{without}: give {} ({}) as well", needed.path, needed.flag);
        resolver.problem(source.clone(), key.path, message);
    };
    if certificate.is_some() && key.is_none() {
        lacks(
            &certificate_source,
            &schema::TLS_CERT,
            "a certificate is nothing without its key",
            &schema::TLS_KEY,
        );
    }
    if key.is_some() && certificate.is_none() {
        lacks(&key_source, &schema::TLS_KEY, "a key is nothing without its certificate", &schema::TLS_CERT);
    }
    if client_ca.is_some() && certificate.is_none() {
        let without = "workers show their certificates to a port that has one itself";
        lacks(&client_ca_source, &schema::TLS_CLIENT_CA, without, &schema::TLS_CERT);
    }
    if client_id != ClientId::None && client_ca.is_none() {
        let without = "worker ids are bound by certificates, and none is asked for";
        lacks(&client_id_source, &schema::TLS_CLIENT_ID, without, &schema::TLS_CLIENT_CA);
    }
    warn_beyond_loopback(resolver, listen, certificate.is_some(), client_ca.is_some(), token.is_some());

    let tls =
        certificate.zip(key).map(|(certificate, key)| TlsFiles { certificate, key, client_ca, client_id });
    Credentials::load(CredentialFiles { tls, token }).unwrap_or_else(|errors| {
        for error in errors {
            let (key, source) = match error.role {
                Role::Certificate => (&schema::TLS_CERT, &certificate_source),
                Role::Key => (&schema::TLS_KEY, &key_source),
                Role::ClientCa => (&schema::TLS_CLIENT_CA, &client_ca_source),
                Role::Token => (&schema::WORKER_TOKEN_FILE, &token_source),
            };
            resolver.problem(source.clone(), key.path, error.to_string());
        }
        Credentials::default()
    })
}

/// It may be meant so, on a network where every peer may send; but not by mistake.
fn warn_beyond_loopback(
    resolver: &mut Resolver<'_>,
    listen: SocketAddr,
    tls: bool,
    client_certificates: bool,
    token: bool,
) {
    if listen.ip().is_loopback() || client_certificates {
        return;
    }
    let message = match (tls, token) {
        (_, false) => {
            "anybody who reaches it may send telemetry: give bridge.worker_token_file (--worker-token-file) or \
             bridge.tls_client_ca (--tls-client-ca)"
        }
        (false, true) => "the token travels in clear text: give bridge.tls_cert (--tls-cert)",
        (true, true) => return,
    };
    resolver.warnings.push(format!("bridge.listen: `{listen}` is beyond loopback, and {message}"));
}
