//! Why an item (a span, a metric point, a log record) was not delivered: a closed set, so that the exporter's ledger can be added up.

use std::fmt;

/// The fate `refused`, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The signal is not exported: `OTEL_TRACES_EXPORTER=none`, or the SDK is disabled.
    SignalDisabled,
    /// The queue had no room, nor had the disk.
    QueueFull,
    /// The item alone is larger than a request may be, or than the peer takes.
    ItemTooLarge,
    /// The peer was away for longer than a batch is kept.
    RetryExpired,
    /// An old batch that the peer did not take gave its room to new items.
    GaveWay,
    /// What was on disk could not be read back whole.
    SpoolDamaged,
    /// An earlier run made it, and its state directory does not say what became of it: it was damaged, or that run's end was cut
    /// short.
    FateUnknown,
    /// Still undelivered at the shutdown's deadline, or finished after it.
    Shutdown,
    /// The peer took the request, but not this many of its items.
    PartialSuccess,
    /// The exporter itself failed.
    Internal,
    /// The answer was larger than a client may read.
    ResponseTooLarge,
    /// The peer answered with this gRPC status, which is not to be retried.
    Grpc(GrpcRefusal),
    /// The peer answered with this HTTP status, which is not to be retried.
    Http(HttpRefusal),
    /// An earlier run with the same state directory had a reason that this version does not know.
    Earlier,
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
            Self::ItemTooLarge => "item_too_large",
            Self::RetryExpired => "retry_expired",
            Self::GaveWay => "gave_way",
            Self::SpoolDamaged => "spool_damaged",
            Self::FateUnknown => "fate_unknown",
            Self::Shutdown => "shutdown",
            Self::PartialSuccess => "partial_success",
            Self::Internal => "internal",
            Self::ResponseTooLarge => "response_too_large",
            Self::Grpc(code) => code.as_str(),
            Self::Http(status) => status.as_str(),
            Self::Earlier => "earlier_version",
        }
    }

    /// The reason that is spelled so, or [`Refusal::Earlier`].
    #[must_use]
    pub fn parse(reason: &str) -> Self {
        Self::all().find(|refusal| refusal.as_str() == reason).unwrap_or(Self::Earlier)
    }

    /// Whether the peer does not know the signal at all, which lasts until somebody configures one of the two.
    #[must_use]
    pub const fn knows_no_signal(self) -> bool {
        matches!(self, Self::Http(HttpRefusal::NotFound404) | Self::Grpc(GrpcRefusal::Unimplemented))
    }

    /// Whether the request may have been too large for the peer, so that halves of it may be taken.
    #[must_use]
    pub const fn asks_for_less(self) -> bool {
        match self {
            Self::ItemTooLarge
            | Self::Http(HttpRefusal::PayloadTooLarge413)
            | Self::Grpc(GrpcRefusal::ResourceExhausted) => true,
            Self::SignalDisabled
            | Self::QueueFull
            | Self::RetryExpired
            | Self::GaveWay
            | Self::SpoolDamaged
            | Self::FateUnknown
            | Self::Shutdown
            | Self::PartialSuccess
            | Self::Internal
            | Self::ResponseTooLarge
            | Self::Grpc(_)
            | Self::Http(_)
            | Self::Earlier => false,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let ours = [
            Self::SignalDisabled,
            Self::QueueFull,
            Self::ItemTooLarge,
            Self::RetryExpired,
            Self::GaveWay,
            Self::SpoolDamaged,
            Self::FateUnknown,
            Self::Shutdown,
            Self::PartialSuccess,
            Self::Internal,
            Self::ResponseTooLarge,
        ];
        ours.into_iter()
            .chain(GrpcRefusal::ALL.into_iter().map(Self::Grpc))
            .chain(HttpRefusal::ALL.into_iter().map(Self::Http))
    }
}

impl GrpcRefusal {
    const ALL: [Self; 10] = [
        Self::Unknown,
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Unimplemented,
        Self::Internal,
        Self::Unauthenticated,
    ];

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
    const ALL: [Self; 13] = [
        Self::BadRequest400,
        Self::Unauthorized401,
        Self::Forbidden403,
        Self::NotFound404,
        Self::MethodNotAllowed405,
        Self::RequestTimeout408,
        Self::PayloadTooLarge413,
        Self::UnsupportedMediaType415,
        Self::InternalServerError500,
        Self::Redirect3xx,
        Self::Client4xx,
        Self::Server5xx,
        Self::Other,
    ];

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_is_read_as_it_is_written() {
        let spelled: BTreeSet<_> = Refusal::all().map(Refusal::as_str).collect();
        assert_eq!(spelled.len(), Refusal::all().count());
        for refusal in Refusal::all() {
            assert_eq!(Refusal::parse(refusal.as_str()), refusal);
        }
        assert_eq!(Refusal::parse("no_such_reason"), Refusal::Earlier);
    }
}
