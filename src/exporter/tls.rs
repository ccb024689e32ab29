//! TLS towards peers: whom to trust, who we are, and what is wrong in words.
//!
//! One `PeerTls` serves one destination, whatever its protocol. A CA file replaces the machine's roots. The files are
//! read again when their contents change, looked at no more often than `RECHECK_INTERVAL`; new ones that cannot be used
//! leave those in force that were read before, with one warning for each thing that is wrong.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, InvalidMessage, RootCertStore,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::exporter::settings::{ClientFiles, TlsFiles};
use crate::time::Monotonic;

/// Files are looked at again after this time at the soonest: rotated certificates overlap for much longer.
pub(crate) const RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The most that is read of a file: the bundles of all public authorities have a quarter of a megabyte.
const MAX_PEM_BYTES: u64 = 4 << 20;

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read the {what} {path:?}: {source}")]
    Unreadable {
        /// What should be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has not what it should.
    #[error("use the {what} {path:?}: {reason}")]
    Unusable {
        /// What should be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key are not a pair.
    #[error("use the client certificate {certificate:?}: the key {key:?} does not belong to it")]
    NotAPair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The machine trusts nobody.
    #[error(
        "find whom to trust: this machine has no root certificates{reason}; OTEL_EXPORTER_OTLP_CERTIFICATE names a file"
    )]
    NoRoots {
        /// What was wrong with those that were found.
        reason: String,
    },
}

impl TlsError {
    /// The file that cannot be used, if it is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::Unusable { path, .. }
            | Self::NotAPair { key: path, .. } => Some(path),
            Self::NoRoots { .. } => None,
        }
    }
}

const CA: &str = "CA certificates";
const CERTIFICATE: &str = "client certificate";
const KEY: &str = "client key";

/// TLS to one destination.
#[derive(Debug)]
pub(crate) struct PeerTls {
    files: TlsFiles,
    alpn: Vec<Vec<u8>>,
    /// Guards what was read last; held to look at it or to replace it, never while reading.
    state: Mutex<State>,
    /// A file on a disk that is away may hold its reader for ever; others must not follow it.
    is_reading: AtomicBool,
}

/// A look at the files under way; over when this is dropped.
struct Reading(Arc<PeerTls>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.is_reading.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct State {
    config: Arc<ClientConfig>,
    /// Of the files' contents.
    fingerprint: u128,
    looked_at: Monotonic,
    /// What the log has heard of files that cannot be used.
    complaint: Option<String>,
}

/// The files' contents.
struct Pems {
    ca: Option<Vec<u8>>,
    /// Chain and key.
    client: Option<(Vec<u8>, Vec<u8>)>,
}

// === impl PeerTls ===

impl PeerTls {
    /// Reads the files. `alpn` is what is spoken above TLS, in the registry's words; nothing leaves it to the peer.
    ///
    /// # Errors
    /// If a file cannot be read or used, or if there is nobody to trust.
    pub(crate) fn new(files: &TlsFiles, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.to_vec()).collect();
        let pems = Pems::read(files)?;
        let state = State {
            config: Arc::new(client_config(files, &pems, &alpn)?),
            fingerprint: pems.fingerprint(),
            looked_at: Monotonic(0),
            complaint: None,
        };
        Ok(Self { files: files.clone(), alpn, state: Mutex::new(state), is_reading: AtomicBool::new(false) })
    }

    /// For the next connection.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.state().config)
    }

    /// Looks at the files, if it is time. Answers whether there is something new in force.
    pub(crate) async fn refresh(self: &Arc<Self>, now: Monotonic) -> bool {
        if !self.is_due(now) {
            return false;
        }
        if self.is_reading.swap(true, Ordering::AcqRel) {
            return false;
        }
        let reading = Reading(Arc::clone(self));
        tokio::task::spawn_blocking(move || reading.0.read_again()).await.unwrap_or(false)
    }

    /// Whom this trusts, for people.
    pub(crate) fn trusts(&self) -> String {
        match &self.files.ca {
            Some(path) => format!("the certificates in {}", path.display()),
            None => "the machine's root certificates".to_owned(),
        }
    }

    fn is_due(&self, now: Monotonic) -> bool {
        if self.files == TlsFiles::default() {
            return false;
        }
        let mut state = self.state();
        let is_due = now >= state.looked_at.after(RECHECK_INTERVAL);
        if is_due {
            state.looked_at = now;
        }
        is_due
    }

    fn read_again(&self) -> bool {
        let read = Pems::read(&self.files).and_then(|pems| {
            let fingerprint = pems.fingerprint();
            if fingerprint == self.state().fingerprint {
                return Ok(None);
            }
            Ok(Some((client_config(&self.files, &pems, &self.alpn)?, fingerprint)))
        });
        let mut state = self.state();
        match read {
            Ok(None) => {
                state.complaint = None;
                false
            }
            Ok(Some((config, fingerprint))) => {
                (state.config, state.fingerprint, state.complaint) = (Arc::new(config), fingerprint, None);
                tracing::info!("read the changed TLS files of an export destination");
                true
            }
            Err(error) => {
                let error = error.to_string();
                if state.complaint.as_ref() != Some(&error) {
                    tracing::warn!("failed to {error}; what was read before stays in force");
                    state.complaint = Some(error);
                }
                false
            }
        }
    }

    /// The state is replaced whole, so a panic elsewhere leaves it as it was.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Pems ===

impl Pems {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let client = |ClientFiles { certificate, key }: &ClientFiles| {
            Ok((read_file(CERTIFICATE, certificate)?, read_file(KEY, key)?))
        };
        Ok(Self {
            ca: files.ca.as_deref().map(|path| read_file(CA, path)).transpose()?,
            client: files.client.as_ref().map(client).transpose()?,
        })
    }

    /// Of what is read, not of its time: a file that was written anew with the same contents is no change.
    fn fingerprint(&self) -> u128 {
        let (certificate, key) = self.client.as_ref().map_or((&[][..], &[][..]), |(a, b)| (a, b));
        let parts = [self.ca.as_deref().unwrap_or_default(), certificate, key];
        let hashes: Vec<u8> = parts.iter().flat_map(|part| xxh3_128(part).to_le_bytes()).collect();
        xxh3_128(&hashes)
    }
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { what, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    // Half of a bundle would be taken for the whole.
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(unusable(what, path, format!("it is larger than {MAX_PEM_BYTES} bytes")));
    }
    Ok(bytes)
}

// === Configuration ===

fn client_config(files: &TlsFiles, pems: &Pems, alpn: &[Vec<u8>]) -> Result<ClientConfig, TlsError> {
    let roots = match (&files.ca, &pems.ca) {
        (Some(path), Some(pem)) => roots_of(path, pem)?,
        (Some(_) | None, Some(_) | None) => machine_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots);
    let mut config = match (&files.client, &pems.client) {
        (Some(files), Some((chain, key))) => with_client(builder, files, chain, key)?,
        (Some(_) | None, Some(_) | None) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

fn roots_of(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in certificates(CA, path, pem)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|error| unusable(CA, path, format!("certificate {}: {error}", number + 1)))?;
    }
    Ok(roots)
}

fn machine_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A machine may have roots of kinds that are not supported.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reason = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError::NoRoots { reason });
    }
    Ok(roots)
}

fn with_client(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    files: &ClientFiles,
    chain: &[u8],
    key: &[u8],
) -> Result<ClientConfig, TlsError> {
    let chain = certificates(CERTIFICATE, &files.certificate, chain)?;
    let key = private_key(&files.key, key)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            return TlsError::NotAPair { certificate: files.certificate.clone(), key: files.key.clone() };
        }
        unusable(KEY, &files.key, error.to_string())
    })
}

fn certificates(
    what: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, pem::Error>>()
        .map_err(|error| unusable(what, path, error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable(what, path, "there is no PEM certificate in it".to_owned()));
    }
    Ok(certificates)
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = String::from_utf8_lossy(pem);
    if text.contains("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(unusable(KEY, path, "it is encrypted; a key without passphrase is needed".to_owned()));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let is_absent = matches!(error, pem::Error::NoItemsFound);
        let reason =
            if is_absent { "there is no PEM private key in it".to_owned() } else { error.to_string() };
        unusable(KEY, path, reason)
    })
}

fn unusable(what: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::Unusable { what, path: path.to_owned(), reason }
}

// === Handshakes ===

/// What a failed handshake means, if one is among the causes of `error` and its meaning is not plain.
pub(crate) fn handshake_words(error: &(dyn Error + 'static)) -> Option<String> {
    words(handshake_error(error)?)
}

/// The same of an error of which HTTP/2 has left only the text: a peer judges a client's certificate when the client
/// already thinks the handshake done.
pub(crate) fn alert_words_of(text: &str) -> Option<&'static str> {
    let is_said = |alert: &AlertDescription| text.contains(&format!("received fatal alert: {alert:?}"));
    ALERTS.iter().find(|(alert, _)| is_said(alert)).map(|(_, words)| *words)
}

/// The handshake's failure among the causes of `error`.
pub(crate) fn handshake_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An input error hides what it was made of from its causes.
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| handshake_error(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn words(error: &rustls::Error) -> Option<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are plain in rustls' own words")]
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_words(error),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("the peer does not speak TLS there".to_owned())
        }
        rustls::Error::NoApplicationProtocol => Some("the peer does not speak HTTP/2 there".to_owned()),
        rustls::Error::AlertReceived(alert) => alert_words(*alert).map(str::to_owned),
        _ => None,
    }
}

fn certificate_words(error: &CertificateError) -> Option<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are plain in rustls' own words")]
    match error {
        CertificateError::Expired => Some("the peer's certificate has expired".to_owned()),
        CertificateError::ExpiredContext { not_after, .. } => {
            Some(format!("the peer's certificate expired at {}", timestamp(*not_after)))
        }
        CertificateError::NotValidYet => Some("the peer's certificate is not valid yet".to_owned()),
        CertificateError::NotValidYetContext { not_before, .. } => {
            Some(format!("the peer's certificate is valid from {} on", timestamp(*not_before)))
        }
        CertificateError::UnknownIssuer => {
            Some("the peer's certificate comes from an authority that is not trusted here".to_owned())
        }
        CertificateError::NotValidForName => Some("the peer's certificate is for another name".to_owned()),
        CertificateError::NotValidForNameContext { expected, presented } => Some(format!(
            "the peer's certificate is not for {}, but for {}",
            expected.to_str(),
            presented.join(", ")
        )),
        _ => None,
    }
}

/// What a peer has against a client, by the alert with which it hangs up.
const ALERTS: [(AlertDescription, &str); 6] = [
    (AlertDescription::CertificateRequired, "the peer wants a client certificate"),
    (AlertDescription::UnknownCA, "the peer does not trust who issued the client certificate"),
    (AlertDescription::CertificateExpired, "the client certificate has expired"),
    (AlertDescription::BadCertificate, "the peer does not take the client certificate"),
    (AlertDescription::CertificateUnknown, "the peer does not take the client certificate"),
    (AlertDescription::NoApplicationProtocol, "the peer does not speak HTTP/2 there"),
];

fn alert_words(alert: AlertDescription) -> Option<&'static str> {
    ALERTS.iter().find(|(known, _)| *known == alert).map(|(_, words)| *words)
}

fn timestamp(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
