//! OTLP over gRPC: one lazily made connection, requests that are already encoded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::codec::RawCodec;
use crate::exporter::BuildError;
use crate::exporter::answer::{Encoding, printable, read_success, with_causes};
use crate::exporter::connect::TlsConnector;
use crate::exporter::refusal::Refusal;
use crate::exporter::retry::{Outcome, Verdict, judge_grpc};
use crate::exporter::settings::{Compression, MAX_RESPONSE_BYTES, OtlpSettings, user_agent};
use crate::exporter::signal::Signal;
use crate::exporter::tls::PeerTls;
use crate::time::Monotonic;

/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request that is on its way this long makes the client ask whether the peer is still there. Not sooner: servers end
/// connections of clients that ask often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the peer may take to say that it is.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The deadline that the peer is told lies this long after our own, which decides: tonic enforces it on this side too.
const DEADLINE_SLACK: Duration = Duration::from_secs(1);

/// What the peer must speak above TLS.
pub(crate) const ALPN: &[u8] = b"h2";

/// A client of one peer.
#[derive(Debug)]
pub(crate) struct GrpcSink {
    signal: Signal,
    endpoint: Endpoint,
    /// Of an `https` endpoint.
    tls: Option<TlsConnector>,
    /// Replaced when a request takes too long: a connection whose other end is gone without a word would otherwise
    /// swallow every later one until TCP gives up.
    channel: Mutex<Channel>,
    headers: MetadataMap,
    compression: Compression,
    timeout: Duration,
}

impl GrpcSink {
    /// A client that connects when it first sends. Within a tokio runtime only.
    ///
    /// # Errors
    /// If the endpoint leads nowhere, or the files of TLS cannot be used.
    pub(crate) fn new(settings: &OtlpSettings, timeout: Duration) -> Result<Self, BuildError> {
        let refused = |reason: String| BuildError::Endpoint {
            endpoint: settings.endpoint.clone(),
            origin: settings.endpoint_origin.clone(),
            reason,
        };
        let (address, tls) = match settings.endpoint.strip_prefix("https:") {
            None => (settings.endpoint.clone(), None),
            Some(_) => {
                let tls = Arc::new(PeerTls::new(&settings.tls, &[ALPN])?);
                let uri: Uri = settings.endpoint.parse().map_err(|error| refused(with_causes(&error)))?;
                let connector = TlsConnector::new(&uri, tls).map_err(refused)?;
                (connector.plain_address(), Some(connector))
            }
        };
        let mut endpoint = Endpoint::from_shared(address)
            .and_then(|endpoint| endpoint.user_agent(user_agent()))
            .map_err(|error| refused(with_causes(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if let Some(tls) = &tls {
            // The connector makes TLS of what tonic takes for plaintext; the peer hears the truth.
            endpoint = endpoint.origin(tls.origin());
        }
        Ok(Self {
            signal: settings.signal,
            channel: Mutex::new(connect(&endpoint, tls.as_ref())),
            endpoint,
            tls,
            headers: MetadataMap::from_headers(settings.headers.as_map().clone()),
            compression: settings.compression,
            timeout,
        })
    }

    /// Sends one request.
    pub(crate) async fn send(&self, body: Bytes, now: Monotonic) -> Outcome {
        if let Some(tls) = &self.tls
            && tls.refresh(now).await
        {
            self.reconnect();
        }
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut client = tonic::client::Grpc::new(channel)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(MAX_RESPONSE_BYTES);
        client = match self.compression {
            Compression::None => client,
            Compression::Gzip => client.send_compressed(CompressionEncoding::Gzip),
            Compression::Zstd => client.send_compressed(CompressionEncoding::Zstd),
        };
        if let Err(error) = client.ready().await {
            return Outcome::Retry { delay: None, error: with_causes(&error) };
        }
        let mut request = Request::new(body);
        *request.metadata_mut() = self.headers.clone();
        request.set_timeout(self.timeout.saturating_add(DEADLINE_SLACK));
        let method = PathAndQuery::from_static(self.signal.grpc_method());
        match client.unary(request, method, RawCodec).await {
            Ok(response) => read_success(self.signal, Encoding::Protobuf, &response.into_inner()),
            Err(status) => judge(&status),
        }
    }

    /// Leaves the connection to the requests that are on it, and makes a new one for the next.
    pub(crate) fn reconnect(&self) {
        let channel = connect(&self.endpoint, self.tls.as_ref());
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel;
    }
}

fn connect(endpoint: &Endpoint, tls: Option<&TlsConnector>) -> Channel {
    match tls {
        None => endpoint.connect_lazy(),
        Some(tls) => endpoint.connect_with_connector_lazy(tls.clone()),
    }
}

fn judge(status: &Status) -> Outcome {
    let mut error = format!("{:?}: {}", status.code(), printable(status.message()));
    // Only a status that this client made has a source: no answer, or none that was whole.
    if let Some(source) = std::error::Error::source(status) {
        error.push_str(" (");
        error.push_str(&with_causes(source));
        error.push(')');
        return Outcome::Retry { delay: None, error };
    }
    if is_response_too_large(status) {
        return Outcome::Refused { refusal: Refusal::ResponseTooLarge, error };
    }
    let retry_info = status.get_details_retry_info();
    match judge_grpc(status.code(), retry_info.is_some()) {
        // A status that says so although it is an error: tonic makes none.
        Verdict::Accepted => Outcome::Accepted { rejected_items: 0, message: error },
        Verdict::Retry => Outcome::Retry {
            delay: retry_info.and_then(|info| info.retry_delay).filter(|delay| !delay.is_zero()),
            error,
        },
        Verdict::Refused(refusal) => Outcome::Refused { refusal, error },
    }
}

/// tonic says that an answer was too large with a code that a peer may use as well; only the words differ. (By the table
/// it would be retried for ever.)
fn is_response_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange
        && status.message().starts_with("Error, decoded message length too large")
}
