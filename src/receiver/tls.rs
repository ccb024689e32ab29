//! TLS of the worker port: what its files become, what a client certificate says, and what a failed handshake means.
//!
//! | `client_id` | a worker may claim an id that matches, as a glob, |
//! |---|---|
//! | `none` | anything |
//! | `cn` | a common name of its certificate's subject |
//! | `dns` | a DNS name among the certificate's alternative names |
//! | `uri` | a URI among them, as a whole |
//!
//! A certificate without such a value lets its owner claim nothing.

use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, Error, InvalidMessage, RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::credentials::Role;
use super::refusals::RefusedConnection;
use crate::control::glob::{Glob, MAX_PATTERN_CHARS};

/// Values of a certificate that are looked at; more than any certificate that was made for workers has.
const MAX_IDS_PER_CERTIFICATE: usize = 256;

/// The field of a client certificate that binds worker ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientId {
    /// None: a worker may claim any id.
    #[default]
    None,
    /// The subject's common name.
    CommonName,
    /// DNS names.
    Dns,
    /// URIs.
    Uri,
}

impl ClientId {
    /// The field as flags and `check` spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CommonName => "cn",
            Self::Dns => "dns",
            Self::Uri => "uri",
        }
    }
}

/// The worker ids that a connection may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WorkerIds {
    /// All.
    Any,
    /// Those that one of these matches.
    Matching(Arc<[Glob]>),
}

impl WorkerIds {
    pub(super) fn allow(&self, id: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Matching(globs) => globs.iter().any(|glob| glob.matches(id)),
        }
    }

    /// Those that the peer's certificate, which has been verified, lets it claim.
    pub(super) fn of(certificate: Option<&CertificateDer<'_>>, field: ClientId) -> Self {
        if field == ClientId::None {
            return Self::Any;
        }
        let parsed = certificate.and_then(|der| X509Certificate::from_der(der).ok());
        let values = parsed.map(|(_, certificate)| values(&certificate, field)).unwrap_or_default();
        let fits = |value: &String| value.chars().count() <= MAX_PATTERN_CHARS;
        Self::Matching(
            values
                .iter()
                .filter(|value| fits(value))
                .take(MAX_IDS_PER_CERTIFICATE)
                .map(|v| Glob::new(v))
                .collect(),
        )
    }
}

fn values(certificate: &X509Certificate<'_>, field: ClientId) -> Vec<String> {
    if field == ClientId::CommonName {
        let names = certificate.subject().iter_common_name();
        return names.filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let value = |name: &GeneralName<'_>| match (field, name) {
        (ClientId::Dns, GeneralName::DNSName(value)) | (ClientId::Uri, GeneralName::URI(value)) => {
            Some((*value).to_owned())
        }
        (ClientId::None | ClientId::CommonName | ClientId::Dns | ClientId::Uri, _) => None,
    };
    names.iter().filter_map(value).collect()
}

/// The server's side of TLS. Sessions are not resumed: a worker opens one connection, and a resumed session would not
/// look at the client's certificate again.
///
/// # Errors
/// When one of the files, all in PEM, is not what it should be: names which, and why.
pub(super) fn server_config(
    certificate: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
) -> Result<ServerConfig, (Role, String)> {
    let chain = certificates(certificate).map_err(|reason| (Role::Certificate, reason))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        (Role::Key, "it holds no private key in PEM (an encrypted one cannot be read)".to_owned())
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| (Role::Certificate, error.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = Arc::new(roots(pem).map_err(|reason| (Role::ClientCa, reason))?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| (Role::ClientCa, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        if matches!(error, Error::InconsistentKeys(_)) {
            return (Role::Key, "it is not the key of the certificate".to_owned());
        }
        (Role::Certificate, format!("it cannot be used with its key: {error}"))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|_| "its PEM is broken".to_owned())?;
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(pem)?.into_iter().enumerate() {
        let added = roots.add(certificate);
        added.map_err(|error| format!("certificate {} cannot be taken as a CA: {error}", index + 1))?;
    }
    Ok(roots)
}

/// What a failed handshake was about.
pub(super) fn refusal(error: &io::Error) -> RefusedConnection {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return RefusedConnection::HungUp;
    };
    if let Error::InvalidCertificate(error) = tls {
        certificate_refusal(error)
    } else if matches!(tls, Error::InvalidMessage(InvalidMessage::InvalidContentType)) {
        RefusedConnection::PlainText
    } else if matches!(tls, Error::NoCertificatesPresented) {
        RefusedConnection::NoCertificate
    } else if matches!(tls, Error::AlertReceived(_)) {
        RefusedConnection::RefusedByPeer
    } else {
        RefusedConnection::HandshakeFailed
    }
}

fn certificate_refusal(error: &CertificateError) -> RefusedConnection {
    use CertificateError as Bad;
    if matches!(
        error,
        Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. }
    ) {
        RefusedConnection::ExpiredCertificate
    } else if matches!(error, Bad::UnknownIssuer | Bad::BadSignature) {
        RefusedConnection::UnknownCertificate
    } else {
        RefusedConnection::BadCertificate
    }
}
