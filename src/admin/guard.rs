//! Who may ask at all, judged before any route.
//!
//! | request | answer |
//! |---|---|
//! | no `Host`, or two | 400 |
//! | a `Host` that is neither the listen address, nor `localhost`, nor allowed by name | 421: a page whose name was rebound to this address reads nothing |
//! | a body larger than [`MAX_BODY_BYTES`] | 413 |
//! | a token is set, and the request does not have it; `/healthz` and `/readyz` never need one | 401 |
//!
//! Ports in `Host` are not compared: the admin port is often mapped or tunnelled to another one, and rebinding is about
//! names. Behind an unspecified listen address (`0.0.0.0`) the address that the connection came in on counts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::settings::AdminSettings;
use crate::token::{Token, bearer};

/// Bytes of a request's body; no route reads one yet.
pub(super) const MAX_BODY_BYTES: u64 = 64 << 10;

const WITHOUT_TOKEN: [&str; 2] = ["/healthz", "/readyz"];

/// The rules of one admin port.
#[derive(Debug)]
pub(super) struct Guard {
    listen: IpAddr,
    /// In lower case, IPv6 addresses without brackets.
    allowed_hosts: Vec<String>,
    token: Option<Token>,
}

/// The address that a connection came in on; put into each request by the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalAddress(pub(super) SocketAddr);

impl Guard {
    pub(super) fn new(settings: &AdminSettings) -> Self {
        Self {
            listen: settings.listen.ip(),
            allowed_hosts: settings.allowed_hosts.iter().map(|host| plain_host(host)).collect(),
            token: settings.token.clone(),
        }
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let local = request.extensions().get::<LocalAddress>().map(|local| local.0.ip());
        self.check_host(request.headers(), request.uri().authority(), local)?;
        check_body(request.headers())?;
        self.check_token(request.uri().path(), request.headers())
    }

    fn check_host(
        &self,
        headers: &HeaderMap,
        target: Option<&Authority>,
        local: Option<IpAddr>,
    ) -> Result<(), Problem> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "exactly one `Host` is needed"));
        };
        let named = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        // A request to a proxy names its target twice, and the two need not agree.
        let names_us = |authority: &Authority| self.is_us(authority, local);
        if named.as_ref().is_some_and(names_us) && target.is_none_or(names_us) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this is not a name of the bridge; --admin-allowed-hosts can make it one",
        ))
    }

    fn is_us(&self, authority: &Authority, local: Option<IpAddr>) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = plain_host(authority.host());
        if host == "localhost" || self.allowed_hosts.contains(&host) {
            return true;
        }
        host.parse::<IpAddr>().is_ok_and(|address| {
            address == self.listen
                || (self.listen.is_unspecified() && local.is_some_and(|local| same(local, address)))
        })
    }

    fn check_token(&self, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = &self.token else { return Ok(()) };
        if WITHOUT_TOKEN.contains(&path) || bearer(headers).is_some_and(|given| token.matches(given)) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "the admin token is needed as `Authorization: Bearer <token>`",
        ))
    }
}

/// The middleware around all routes.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn check_body(headers: &HeaderMap) -> Result<(), Problem> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.unwrap_or(0) > MAX_BODY_BYTES {
        let detail = format!("a body may have {MAX_BODY_BYTES} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    Ok(())
}

/// A host in lower case, without the brackets of IPv6 and without the dot of the root.
fn plain_host(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// `[::]` takes IPv4 connections under mapped addresses.
fn same(local: IpAddr, named: IpAddr) -> bool {
    local.to_canonical() == named.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(settings: &AdminSettings, request: &Request) -> u16 {
        Guard::new(settings)
            .check(request)
            .map_or_else(|problem| problem.into_response().status().as_u16(), |()| 200)
    }

    fn asking(host: &str) -> Request {
        Request::builder().uri("/metrics").header("host", host).body(axum::body::Body::empty()).unwrap()
    }

    #[test]
    fn the_listen_address_localhost_and_allowed_names_are_us() {
        let settings = AdminSettings {
            listen: "127.0.0.1:9464".parse().unwrap(),
            allowed_hosts: vec!["Bridge.internal".to_owned(), "[fd00::1]".to_owned()],
            ..AdminSettings::default()
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "127.0.0.1:80",
            "localhost",
            "LOCALHOST:1",
            "localhost.:9464",
            "bridge.internal:9464",
            "BRIDGE.INTERNAL.",
            "[fd00::1]:9464",
            "[fd00:0::1]",
        ] {
            let expected = if host == "[fd00:0::1]" { 421 } else { 200 };
            assert_eq!(status(&settings, &asking(host)), expected, "{host}");
        }
    }

    #[test]
    fn every_other_host_is_misdirected() {
        let settings = AdminSettings::default();
        for host in [
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::1]",
            "127.0.0.2",
            "user@localhost",
            "localhost@evil.example",
            "",
            "local host",
            "[::1",
            "localhost:port:1",
        ] {
            assert_eq!(status(&settings, &asking(host)), 421, "{host}");
        }
    }

    #[test]
    fn a_missing_or_doubled_host_is_a_bad_request() {
        let none = Request::builder().uri("/").body(axum::body::Body::empty()).unwrap();
        assert_eq!(status(&AdminSettings::default(), &none), 400);
        let mut two = asking("localhost");
        two.headers_mut().append("host", HeaderValue::from_static("localhost"));
        assert_eq!(status(&AdminSettings::default(), &two), 400);
    }

    #[test]
    fn a_target_with_another_name_is_misdirected_whatever_host_says() {
        let mut request = asking("localhost");
        *request.uri_mut() = "http://evil.example/metrics".parse().unwrap();
        assert_eq!(status(&AdminSettings::default(), &request), 421);
    }

    #[test]
    fn behind_an_unspecified_address_the_connections_own_counts() {
        let settings = AdminSettings { listen: "[::]:9464".parse().unwrap(), ..AdminSettings::default() };
        for (local, host, expected) in [
            ("10.0.0.5:9464", "10.0.0.5:9464", 200),
            ("[::ffff:10.0.0.5]:9464", "10.0.0.5", 200),
            ("[fd00::2]:9464", "[fd00::2]:9464", 200),
            ("10.0.0.5:9464", "10.0.0.6:9464", 421),
            ("10.0.0.5:9464", "evil.example", 421),
        ] {
            let mut request = asking(host);
            request.extensions_mut().insert(LocalAddress(local.parse().unwrap()));
            assert_eq!(status(&settings, &request), expected, "{host}");
        }
    }

    #[test]
    fn the_token_is_needed_everywhere_but_for_health() {
        let settings =
            AdminSettings { token: Some(Token::new("s3cret").unwrap()), ..AdminSettings::default() };
        let with = |path: &str, authorization: Option<&str>| {
            let mut request = asking("localhost");
            *request.uri_mut() = path.parse().unwrap();
            if let Some(value) = authorization {
                request.headers_mut().insert("authorization", value.parse().unwrap());
            }
            status(&settings, &request)
        };
        for (path, authorization, expected) in [
            ("/healthz", None, 200),
            ("/readyz", None, 200),
            ("/metrics", None, 401),
            ("/api/v1/ledger", None, 401),
            ("/nowhere", None, 401),
            ("/healthz/", None, 401),
            ("/metrics", Some("Bearer s3cret"), 200),
            ("/metrics", Some("bearer s3cret"), 200),
            ("/metrics", Some("Bearer s3cre"), 401),
            ("/metrics", Some("Bearer s3crets"), 401),
            ("/metrics", Some("Bearer "), 401),
            ("/metrics", Some("Basic s3cret"), 401),
            ("/metrics", Some("s3cret"), 401),
        ] {
            assert_eq!(with(path, authorization), expected, "{path} {authorization:?}");
        }
    }

    #[test]
    fn a_large_body_is_refused_unread() {
        let mut request = asking("localhost");
        request.headers_mut().insert("content-length", HeaderValue::from(MAX_BODY_BYTES + 1));
        assert_eq!(status(&AdminSettings::default(), &request), 413);
    }
}
