//! Tries an OTLP peer step by step, for `check --connect`: name, connection, TLS, and a request with nothing in it.
//!
//! The request goes the exporter's own way, so what it hears is what spans would hear. The steps before it are made again
//! beside that, on a connection of their own, because only so there is something to tell of them. Where no request can be
//! made, the peer is asked what it speaks instead: mistaken ports are the usual mistake.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::exporter::answer::{printable, with_causes};
use crate::exporter::connect::server_name;
use crate::exporter::grpc::{self, GrpcSink};
use crate::exporter::http::HttpSink;
use crate::exporter::retry::Outcome;
use crate::exporter::settings::{OtlpSettings, Protocol};
use crate::exporter::tls::PeerTls;
use crate::time::Now;

mod hints;
#[cfg(test)]
mod tests;

/// The longest that one step may take: whoever runs a check waits for it.
pub(crate) const STEP_LIMIT: Duration = Duration::from_secs(5);
/// How long the peer may take to show what it speaks.
const SPEECH_LIMIT: Duration = Duration::from_secs(1);
/// How a client of HTTP/2 begins, with empty settings.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What came of a trial, as far as it went.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    /// What the name stands for.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Which of them took the connection.
    pub(crate) connected: Option<(SocketAddr, Duration)>,
    /// Of an `https` endpoint.
    pub(crate) tls: Option<TlsSession>,
    /// What was wrong before a request could be made.
    pub(crate) trouble: Option<Trouble>,
    /// The request's answer, and how long it took, its connection included.
    pub(crate) answer: Option<(Answer, Duration)>,
    /// What the peer speaks, where no request could be made.
    pub(crate) speaks: Option<Speech>,
    /// What may be done about it.
    pub(crate) hints: Vec<String>,
}

/// Why there was no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// At which step.
    pub(crate) step: Step,
    /// In words.
    pub(crate) error: String,
    /// Nobody listens there.
    pub(crate) is_refusal: bool,
}

/// The steps before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The endpoint and its files make sense.
    Settings,
    /// The name has addresses.
    Dns,
    /// One of them takes connections.
    Tcp,
    /// Both sides prove who they are.
    Tls,
}

/// A TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsSession {
    /// The protocol's version.
    pub(crate) version: String,
    /// Whom we trust.
    pub(crate) trusts: String,
    /// Of the peer's certificate.
    pub(crate) subject: String,
    /// Who issued it.
    pub(crate) issuer: String,
    /// Until when it is valid.
    pub(crate) expires: String,
}

/// What was said to a request with nothing in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was taken, perhaps with a remark.
    Taken(String),
    /// It was answered with an error, or not at all.
    Failed(String),
}

/// What somebody speaks who was spoken to in HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// TLS.
    Tls,
    /// Nothing within its time.
    Nothing,
    /// Something else.
    Other,
}

// === impl Trial ===

impl Trial {
    /// Tries the peer. Within a tokio runtime only.
    pub(crate) async fn run(settings: &OtlpSettings, clock: &(impl Fn() -> Now + Sync)) -> Self {
        let mut trial = Self::default();
        trial.trouble = trial.connect(settings, clock).await.err();
        // A proxy may know the way where there is none from here; gRPC has none.
        let may_answer = trial.trouble.is_none() || settings.protocol != Protocol::Grpc;
        if may_answer && trial.trouble.as_ref().is_none_or(|trouble| trouble.step != Step::Settings) {
            let began = clock().mono;
            let answer = ask(settings, clock).await;
            trial.answer = Some((answer, Duration::from_nanos(clock().mono.since(began))));
        }
        if !trial.is_well()
            && let Some((address, _)) = trial.connected
            && !settings.endpoint.starts_with("https:")
        {
            trial.speaks = speech_of(address).await.ok();
        }
        trial.hints = hints::hints(&trial, settings);
        trial
    }

    /// Whether spans would arrive.
    pub(crate) fn is_well(&self) -> bool {
        matches!(self.answer, Some((Answer::Taken(_), _)))
    }

    /// Name, connection and TLS.
    async fn connect(&mut self, settings: &OtlpSettings, clock: &impl Fn() -> Now) -> Result<(), Trouble> {
        if settings.endpoint.starts_with("unix:") {
            // The request says whether somebody listens there.
            return Ok(());
        }
        let trouble = |step| move |error: String| Trouble { step, error, is_refusal: false };
        let uri: Uri =
            settings.endpoint.parse().map_err(|error| trouble(Step::Settings)(with_causes(&error)))?;
        let is_https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let tls = match is_https {
            true => Some((
                PeerTls::new(&settings.tls, alpn(settings.protocol))
                    .map_err(|error| trouble(Step::Settings)(format!("failed to {error}")))?,
                server_name(&uri).map_err(trouble(Step::Settings))?,
            )),
            false => None,
        };

        let found = within(STEP_LIMIT, lookup_host((host.as_str(), port))).await;
        self.addresses = found.map_err(|error| trouble(Step::Dns)(with_causes(&error)))?.collect();

        let stream = self.first_that_connects(clock).await?;
        let Some((tls, name)) = tls else { return Ok(()) };
        let connector = tokio_rustls::TlsConnector::from(tls.config());
        let stream = within(STEP_LIMIT, connector.connect(name, stream)).await;
        let stream = stream.map_err(|error| trouble(Step::Tls)(with_causes(&error)))?;
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().map_or_else(String::new, |version| format!("{version:?}"));
        let certificate = session.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
        self.tls = certificate.map(|certificate| TlsSession::new(version, tls.trusts(), certificate));
        Ok(())
    }

    async fn first_that_connects(&mut self, clock: &impl Fn() -> Now) -> Result<TcpStream, Trouble> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in &self.addresses {
            let began = clock().mono;
            match within(STEP_LIMIT, TcpStream::connect(address)).await {
                Ok(stream) => {
                    self.connected = Some((*address, Duration::from_nanos(clock().mono.since(began))));
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        let is_refusal = last.kind() == io::ErrorKind::ConnectionRefused;
        Err(Trouble { step: Step::Tcp, error: with_causes(&last), is_refusal })
    }
}

impl Step {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

impl TlsSession {
    fn new(version: String, trusts: String, certificate: &CertificateDer<'_>) -> Self {
        let unreadable = || "unreadable".to_owned();
        let (subject, issuer, expires) = match X509Certificate::from_der(certificate) {
            Ok((_, read)) => (
                printable(&read.subject().to_string()),
                printable(&read.issuer().to_string()),
                jiff::Timestamp::from_second(read.validity().not_after.timestamp())
                    .map_or_else(|_| unreadable(), |time| time.to_string()),
            ),
            Err(_) => (unreadable(), unreadable(), unreadable()),
        };
        Self { version, trusts, subject, issuer, expires }
    }
}

fn alpn(protocol: Protocol) -> &'static [&'static [u8]] {
    match protocol {
        Protocol::Grpc => &[grpc::ALPN],
        Protocol::HttpProtobuf | Protocol::HttpJson => &[],
    }
}

/// A request with nothing in it, the exporter's way.
async fn ask(settings: &OtlpSettings, clock: &(impl Fn() -> Now + Sync)) -> Answer {
    let outcome = timeout(STEP_LIMIT, async {
        match settings.protocol {
            Protocol::Grpc => Ok(GrpcSink::new(settings, STEP_LIMIT)?.send(Bytes::new(), clock().mono).await),
            Protocol::HttpProtobuf | Protocol::HttpJson => {
                Ok(HttpSink::new(settings)?.send(Bytes::new(), clock).await)
            }
        }
    });
    match outcome.await {
        Err(_) => Answer::Failed(format!("no answer within {}", humantime::format_duration(STEP_LIMIT))),
        Ok(Err::<_, crate::exporter::BuildError>(error)) => Answer::Failed(format!("failed to {error}")),
        Ok(Ok(Outcome::Accepted { message, .. })) => Answer::Taken(message),
        Ok(Ok(Outcome::Retry { error, .. } | Outcome::Refused { error, .. })) => Answer::Failed(error),
    }
}

async fn speech_of(address: SocketAddr) -> io::Result<Speech> {
    let mut stream = within(SPEECH_LIMIT, TcpStream::connect(address)).await?;
    stream.write_all(HTTP2_PREFACE).await?;
    let mut said = [0; 9];
    let mut length = 0;
    while length < said.len() {
        match timeout(SPEECH_LIMIT, stream.read(&mut said[length..])).await {
            Ok(Ok(more)) if more > 0 => length += more,
            Ok(Ok(_) | Err(_)) | Err(_) => break,
        }
    }
    Ok(match &said[..length] {
        [] => Speech::Nothing,
        [b'H', b'T', b'T', b'P', ..] => Speech::Http1,
        // An alert, or something of a handshake; then the version.
        [0x15 | 0x16, 3, ..] => Speech::Tls,
        // The first frame has settings.
        [0, _, _, 4, ..] => Speech::Http2,
        _ => Speech::Other,
    })
}

async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, step).await.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {limit}")))
    })
}
