//! What the admin port is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::token::Token;

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
