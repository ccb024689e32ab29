//! Bearer tokens: what the admin port and the worker port ask for.

use std::fmt;

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

/// A bearer token. Only its hash is kept, so that nothing can print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    sha256: [u8; 32],
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing is there.
    #[error("the token is empty")]
    Empty,
    /// It could not be sent in a header.
    #[error("the token may hold visible ASCII characters only, and no blanks")]
    Unsendable,
}

impl Token {
    /// The token `text`.
    ///
    /// # Errors
    /// When `text` is empty, or could not stand in an `Authorization` header.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Unsendable);
        }
        Ok(Self { sha256: Sha256::digest(text).into() })
    }

    /// Whether `text` is this token. The time that it takes tells nothing about the token: hashes are compared, in full.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(text).into();
        let difference = self.sha256.iter().zip(given).fold(0, |sum, (own, other)| sum | (own ^ other));
        difference == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// The token that a request gives as `Authorization: Bearer <token>`, in HTTP and in gRPC's metadata alike.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}
