//! Sends requests that somebody else has made: the bridge's own telemetry goes by the SDK's batches and the exporter's
//! connections, so that it knows the same transports, certificates and headers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::BuildError;
use super::grpc::GrpcSink;
use super::http::HttpSink;
use super::retry::Outcome;
use super::settings::{OtlpSettings, Protocol};
use crate::time::Now;

/// What tells the time.
pub(crate) type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// A client of one peer, for requests in OTLP's protobuf.
pub(crate) struct Courier {
    sink: Sink,
    limit: Duration,
    clock: Clock,
}

enum Sink {
    Grpc(Box<GrpcSink>),
    Http(Box<HttpSink>),
}

impl Courier {
    /// A client that connects when it first sends; a request may take `limit`. Within a tokio runtime only.
    ///
    /// # Errors
    /// If the endpoint makes no sense.
    pub(crate) fn new(settings: &OtlpSettings, limit: Duration, clock: Clock) -> Result<Self, BuildError> {
        let sink = match settings.protocol {
            Protocol::Grpc => Sink::Grpc(Box::new(GrpcSink::new(settings, limit)?)),
            Protocol::HttpProtobuf | Protocol::HttpJson => Sink::Http(Box::new(HttpSink::new(settings)?)),
        };
        Ok(Self { sink, limit, clock })
    }

    /// Sends one request.
    pub(crate) async fn send(&self, body: Bytes) -> Outcome {
        let sending = async {
            match &self.sink {
                Sink::Grpc(grpc) => grpc.send(body, (self.clock)().mono).await,
                Sink::Http(http) => http.send(body, || (self.clock)()).await,
            }
        };
        timeout(self.limit, sending).await.unwrap_or_else(|_| {
            match &self.sink {
                Sink::Grpc(grpc) => grpc.reconnect(),
                Sink::Http(http) => http.reconnect(),
            }
            let error = format!("no answer within {}", humantime::format_duration(self.limit));
            Outcome::Retry { delay: None, error }
        })
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").field("limit", &self.limit).finish_non_exhaustive()
    }
}
