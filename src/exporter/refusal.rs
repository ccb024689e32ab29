//! Why a finished span was not delivered: a closed set, so that the exporter's ledger can be added up.

use std::fmt;

/// The fate `refused`, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Traces are not exported: `OTEL_TRACES_EXPORTER=none`, or the SDK is disabled.
    SignalDisabled,
    /// The queue had no room.
    QueueFull,
    /// The span alone is larger than a request may be.
    SpanTooLarge,
    /// The peer was away for longer than a batch is kept.
    RetryExpired,
    /// An old batch that the peer did not take gave its room to new spans.
    GaveWay,
    /// Still undelivered at the shutdown's deadline, or finished after it.
    Shutdown,
    /// The peer took the request, but not this many of its spans.
    PartialSuccess,
    /// The exporter itself failed.
    Internal,
    /// The answer was larger than a client may read.
    ResponseTooLarge,
    /// The peer answered with this gRPC status, which is not to be retried.
    Grpc(GrpcRefusal),
    /// The peer answered with this HTTP status, which is not to be retried.
    Http(HttpRefusal),
}

/// The gRPC codes that refuse a request for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the gRPC specification documents its codes")]
pub enum GrpcRefusal {
    Unknown,
    InvalidArgument,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Unimplemented,
    Internal,
    Unauthenticated,
}

/// The HTTP statuses that refuse a request for good: the ones that tell an operator something, and the rest by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the numbers speak for themselves")]
pub enum HttpRefusal {
    BadRequest400,
    Unauthorized401,
    Forbidden403,
    NotFound404,
    MethodNotAllowed405,
    RequestTimeout408,
    PayloadTooLarge413,
    UnsupportedMediaType415,
    InternalServerError500,
    Redirect3xx,
    Client4xx,
    Server5xx,
    /// Neither success nor an error by HTTP.
    Other,
}

impl Refusal {
    /// The reason as ledger and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignalDisabled => "signal_disabled",
            Self::QueueFull => "queue_full",
            Self::SpanTooLarge => "span_too_large",
            Self::RetryExpired => "retry_expired",
            Self::GaveWay => "gave_way",
            Self::Shutdown => "shutdown",
            Self::PartialSuccess => "partial_success",
            Self::Internal => "internal",
            Self::ResponseTooLarge => "response_too_large",
            Self::Grpc(code) => code.as_str(),
            Self::Http(status) => status.as_str(),
        }
    }
}

impl GrpcRefusal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "rejected:unknown",
            Self::InvalidArgument => "rejected:invalid_argument",
            Self::NotFound => "rejected:not_found",
            Self::AlreadyExists => "rejected:already_exists",
            Self::PermissionDenied => "rejected:permission_denied",
            Self::ResourceExhausted => "rejected:resource_exhausted",
            Self::FailedPrecondition => "rejected:failed_precondition",
            Self::Unimplemented => "rejected:unimplemented",
            Self::Internal => "rejected:internal",
            Self::Unauthenticated => "rejected:unauthenticated",
        }
    }
}

impl HttpRefusal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest400 => "rejected:400",
            Self::Unauthorized401 => "rejected:401",
            Self::Forbidden403 => "rejected:403",
            Self::NotFound404 => "rejected:404",
            Self::MethodNotAllowed405 => "rejected:405",
            Self::RequestTimeout408 => "rejected:408",
            Self::PayloadTooLarge413 => "rejected:413",
            Self::UnsupportedMediaType415 => "rejected:415",
            Self::InternalServerError500 => "rejected:500",
            Self::Redirect3xx => "rejected:3xx",
            Self::Client4xx => "rejected:4xx",
            Self::Server5xx => "rejected:5xx",
            Self::Other => "rejected:other",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
