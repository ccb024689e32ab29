//! What the admin port is told.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sha2::{Digest as _, Sha256};

/// Default of [`AdminSettings::listen`].
pub const DEFAULT_ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Where the admin port is, and who may speak to it.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Port 0 picks one.
    pub listen: SocketAddr,
    /// Beyond loopback without a token.
    pub insecure: bool,
    /// Asked for by every route but health.
    pub token: Option<Token>,
    /// Host names it answers to besides its address and `localhost`.
    pub allowed_hosts: Vec<String>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { listen: DEFAULT_ADMIN_LISTEN, insecure: false, token: None, allowed_hosts: Vec::new() }
    }
}

/// A bearer token. Only its hash is kept, so that nothing can print it.
#[derive(Clone)]
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
