//! Why the worker port took a connection or a request not: closed sets, so that they can be counted.

use std::fmt;

/// Why a connection was closed before it could ask for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedConnection {
    /// As many are open as may be.
    TooMany,
    /// As many handshakes are under way as may be.
    TooManyHandshakes,
    /// The handshake was not done in time.
    HandshakeTimeout,
    /// The peer does not speak TLS.
    PlainText,
    /// The peer has no certificate, and one is asked for.
    NoCertificate,
    /// The peer's certificate is no longer, or not yet, valid.
    ExpiredCertificate,
    /// The peer's certificate is not of the CA that is asked for.
    UnknownCertificate,
    /// Something else is wrong with the peer's certificate.
    BadCertificate,
    /// The peer refused the bridge: most likely it does not trust the bridge's certificate.
    RefusedByPeer,
    /// The peer went away.
    HungUp,
    /// Anything else: no common version, broken messages.
    HandshakeFailed,
    /// The peer did not begin to speak HTTP/2 in time.
    Silent,
}

/// Why a request was answered with UNAUTHENTICATED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unauthenticated {
    /// It has no token.
    NoToken,
    /// Its token is another.
    WrongToken,
    /// The connection's certificate does not let it claim this worker id.
    WorkerId,
}

impl RefusedConnection {
    /// Every reason, in the order of [`RefusedConnection::index`].
    pub const ALL: [Self; 12] = [
        Self::TooMany,
        Self::TooManyHandshakes,
        Self::HandshakeTimeout,
        Self::PlainText,
        Self::NoCertificate,
        Self::ExpiredCertificate,
        Self::UnknownCertificate,
        Self::BadCertificate,
        Self::RefusedByPeer,
        Self::HungUp,
        Self::HandshakeFailed,
        Self::Silent,
    ];

    /// The reason's place in [`RefusedConnection::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason as the metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::PlainText => "plain_text",
            Self::NoCertificate => "certificate_missing",
            Self::ExpiredCertificate => "certificate_expired",
            Self::UnknownCertificate => "certificate_unknown",
            Self::BadCertificate => "certificate_bad",
            Self::RefusedByPeer => "refused_by_peer",
            Self::HungUp => "hung_up",
            Self::HandshakeFailed => "handshake_failed",
            Self::Silent => "silent",
        }
    }
}

impl fmt::Display for RefusedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => "as many are open as may be (limits.max_connections)",
            Self::TooManyHandshakes => "too many TLS handshakes are under way",
            Self::HandshakeTimeout => "the TLS handshake took too long",
            Self::PlainText => "it speaks plain text, and this port wants TLS",
            Self::NoCertificate => "it has no client certificate",
            Self::ExpiredCertificate => "its client certificate is not valid at this time",
            Self::UnknownCertificate => "its client certificate is not of the configured CA",
            Self::BadCertificate => "its client certificate cannot be taken",
            Self::RefusedByPeer => {
                "the peer refused the TLS handshake; it may not trust the bridge's certificate"
            }
            Self::HungUp => "the peer went away during the TLS handshake",
            Self::HandshakeFailed => "the TLS handshake failed",
            Self::Silent => "it did not begin to speak HTTP/2 in time",
        })
    }
}

impl Unauthenticated {
    /// Every reason, in the order of [`Unauthenticated::index`].
    pub const ALL: [Self; 3] = [Self::NoToken, Self::WrongToken, Self::WorkerId];

    /// The reason's place in [`Unauthenticated::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason as the metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "token_missing",
            Self::WrongToken => "token_wrong",
            Self::WorkerId => "worker_id",
        }
    }
}

impl fmt::Display for Unauthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoToken => "it has no token",
            Self::WrongToken => "its token is another",
            Self::WorkerId => "its client certificate does not cover the worker id that it claims",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index() {
        for (index, reason) in RefusedConnection::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason:?}");
        }
        for (index, reason) in Unauthenticated::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason:?}");
        }
    }
}
