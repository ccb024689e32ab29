//! What an exporter is told. Values are already validated; where they come from is the configuration's business.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::exporter::batch::BatchSettings;
use crate::exporter::pipeline::DEFAULT_MAX_IN_FLIGHT;
use crate::exporter::queue::QueueSettings;
use crate::exporter::resource::{ResourceSettings, SCOPE_VERSION};
use crate::exporter::retry::RetrySettings;
use crate::exporter::signal::Signal;

/// Default of [`ExporterSettings::request_timeout`], from the OpenTelemetry specification.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that a client reads of an answer, after decompression: from the OTLP specification.
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Everything that an exporter is told.
#[derive(Debug, Clone)]
pub struct ExporterSettings {
    /// Where to.
    pub destination: Destination,
    /// When a batch is full.
    pub batch: BatchSettings,
    /// What may be kept.
    pub queue: QueueSettings,
    /// What is sent again.
    pub retry: RetrySettings,
    /// Requests in flight at a time.
    pub max_in_flight: usize,
    /// The limit of one attempt. What takes longer goes back to the queue.
    pub request_timeout: Duration,
    /// What is said of every worker.
    pub resource: ResourceSettings,
    /// Of the backoff's jitter. Bridges that start together should differ in it.
    pub seed: u64,
}

/// Where finished spans go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// An OTLP peer.
    Otlp(OtlpSettings),
    /// Standard output, for people.
    Console,
    /// OTLP/JSON lines (`otlp/stdout`): the specification's file exporter.
    File(FileTarget),
    /// Nowhere.
    None,
}

/// Where OTLP/JSON lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileTarget {
    /// Standard output.
    Stdout,
    /// This file, appended to.
    Path(PathBuf),
}

impl fmt::Display for FileTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// PEM files of a TLS connection to a peer; they are read again when they change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Whom to trust, instead of the system's roots.
    pub ca: Option<PathBuf>,
    /// The client's own chain and key: both or none.
    pub client: Option<ClientFiles>,
}

/// A client certificate's chain and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// How an OTLP peer is reached.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// What is sent.
    pub signal: Signal,
    /// The protocol.
    pub protocol: Protocol,
    /// For gRPC scheme, host and port (`unix:` with a path for a socket); for HTTP the whole URL.
    pub endpoint: String,
    /// What said so, for the log: a variable, or that it is the default.
    pub endpoint_origin: String,
    /// Sent along.
    pub headers: SecretHeaders,
    /// Of requests.
    pub compression: Compression,
    /// Of `https` endpoints.
    pub tls: TlsFiles,
}

/// OTLP's transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    HttpProtobuf,
    /// `http/json`.
    HttpJson,
}

impl Protocol {
    /// As the specification spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            Self::HttpJson => "http/json",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Compression of request bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// zstd, which the specification does not name and the Collector takes.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Request headers whose values are secrets: they are sent, and never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretHeaders(HeaderMap);

impl SecretHeaders {
    /// Sets a header, replacing a value that it may have.
    pub fn insert(&mut self, name: HeaderName, mut value: HeaderValue) {
        value.set_sensitive(true);
        self.0.insert(name, value);
    }

    /// For sending.
    #[must_use]
    pub fn as_map(&self) -> &HeaderMap {
        &self.0
    }
}

impl fmt::Display for SecretHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, name) in self.0.keys().enumerate() {
            write!(f, "{}{name}=***", if number > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for SecretHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who sends, by the specification's rule: the product before the exporter.
#[must_use]
pub(crate) fn user_agent() -> String {
    format!("snakepit-otel-bridge/{SCOPE_VERSION} OTel-OTLP-Exporter-Rust/{SCOPE_VERSION}")
}

impl ExporterSettings {
    /// The defaults for `destination`.
    #[must_use]
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            batch: BatchSettings::default(),
            queue: QueueSettings::default(),
            retry: RetrySettings::default(),
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            resource: ResourceSettings::default(),
            seed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_never_shown() {
        let mut headers = SecretHeaders::default();
        headers.insert(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer hidden"));
        headers.insert(HeaderName::from_static("x-team"), HeaderValue::from_static("hidden"));
        assert_eq!(headers.to_string(), "authorization=***,x-team=***");
        let settings = ExporterSettings::new(Destination::Otlp(OtlpSettings {
            signal: Signal::Traces,
            tls: TlsFiles::default(),
            protocol: Protocol::Grpc,
            endpoint: String::new(),
            endpoint_origin: String::new(),
            headers,
            compression: Compression::None,
        }));
        assert!(!format!("{settings:?}").contains("hidden"));
    }
}
