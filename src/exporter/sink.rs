//! What sends a request: one of the ways there are, within the limit of a request.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::exporter::grpc::GrpcSink;
use crate::exporter::http::HttpSink;
use crate::exporter::lines::{Format, LineSink};
use crate::exporter::refusal::Refusal;
use crate::exporter::retry::Outcome;
use crate::exporter::settings::{Destination, ExporterSettings, FileTarget, Protocol};
use crate::exporter::signal::Signal;
use crate::exporter::{BuildError, Shared};

/// What sends a request.
pub(super) enum Sink {
    Grpc(Box<GrpcSink>),
    Http(HttpSink),
    Lines(LineSink),
    Nowhere,
}

impl Sink {
    /// What sends items of a signal to where the settings say, and a name for that.
    pub(super) fn to(settings: &ExporterSettings, signal: Signal) -> Result<(Self, String), BuildError> {
        Ok(match &settings.destination {
            Destination::Otlp(otlp) => {
                let sink = match otlp.protocol {
                    Protocol::Grpc => Self::Grpc(Box::new(GrpcSink::new(otlp, settings.request_timeout)?)),
                    Protocol::HttpProtobuf | Protocol::HttpJson => Self::Http(HttpSink::new(otlp)?),
                };
                (sink, format!("{} ({}, {})", otlp.endpoint, otlp.protocol, otlp.endpoint_origin))
            }
            Destination::Console => (
                Self::Lines(LineSink::new(Format::Console(signal), FileTarget::Stdout)),
                FileTarget::Stdout.to_string(),
            ),
            Destination::File(target) => {
                (Self::Lines(LineSink::new(Format::Json(signal), target.clone())), target.to_string())
            }
            Destination::None => (Self::Nowhere, "nowhere".to_owned()),
        })
    }

    /// How many requests it takes at a time, of so many that are wanted.
    pub(super) fn max_in_flight(&self, wanted: usize) -> usize {
        match self {
            // Lines would mix.
            Self::Lines(_) => 1,
            Self::Grpc(_) | Self::Http(_) | Self::Nowhere => wanted,
        }
    }

    pub(super) async fn send_within(&self, limit: Duration, body: Bytes, shared: &Shared) -> Outcome {
        if let Ok(outcome) = timeout(limit, self.send(body, shared)).await {
            return outcome;
        }
        match self {
            Self::Grpc(grpc) => grpc.reconnect(),
            Self::Http(http) => http.reconnect(),
            Self::Lines(_) | Self::Nowhere => {}
        }
        Outcome::Retry {
            delay: None,
            error: format!("no answer within {}", humantime::format_duration(limit)),
        }
    }

    async fn send(&self, body: Bytes, shared: &Shared) -> Outcome {
        match self {
            Self::Grpc(grpc) => grpc.send(body, shared.now().mono).await,
            Self::Http(http) => http.send(body, || shared.now()).await,
            Self::Lines(lines) => lines.send(&body).await,
            // Nothing is admitted, and nothing leaves the disk.
            Self::Nowhere => Outcome::Refused {
                refusal: Refusal::SignalDisabled,
                error: "there is nowhere to send to".to_owned(),
            },
        }
    }
}
