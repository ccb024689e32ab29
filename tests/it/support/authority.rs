//! A certificate authority of a test, and the certificates that it makes.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};

/// Signs certificates. Two of the same name are two.
pub(crate) struct Authority {
    /// Its own certificate, in PEM.
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Certified {
    pub(crate) pem: String,
    pub(crate) key: String,
}

/// What a certificate says.
#[derive(Debug, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) dns: &'a [&'a str],
    pub(crate) uris: &'a [&'a str],
    pub(crate) expired: bool,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for a server on this machine.
    pub(crate) fn server(&self) -> Certified {
        self.certify(&Subject { common_name: "bridge", dns: &["localhost"], ..Subject::default() })
    }

    pub(crate) fn certify(&self, subject: &Subject<'_>) -> Certified {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, subject.common_name);
        let dns = subject.dns.iter().map(|name| SanType::DnsName((*name).try_into().expect("a DNS name")));
        let uris = subject.uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("a URI")));
        params.subject_alt_names = dns.chain(uris).collect();
        if subject.expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2001, 2, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Certified { pem, key: key.serialize_pem() }
    }
}

impl Certified {
    /// Writes both into a directory: `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let files = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        std::fs::write(&files.0, &self.pem).expect("written");
        std::fs::write(&files.1, &self.key).expect("written");
        files
    }
}
