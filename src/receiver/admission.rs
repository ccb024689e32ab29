//! Asks every request for the token, before anything else is known of it.
//!
//! `grpc.health.v1.Health` needs none: probes have no secrets, and it says nothing about workers. Reflection needs it,
//! and so does what does not exist. What a request without it hears is always the same.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::credentials::Credentials;
use super::refusals::Unauthenticated;
use super::stats::ReceiverStats;
use crate::token::bearer;

/// Requests below this path need no token.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// What every request without valid credentials hears, whatever was wrong with them.
pub(super) fn unauthenticated() -> Status {
    Status::unauthenticated("valid credentials are needed")
}

/// Counts a refused request, and tells the operator why; not at every one, or whoever knocks for ever fills the log.
pub(super) fn refuse(stats: &ReceiverStats, reason: Unauthenticated) {
    let refused_so_far = stats.unauthenticated(reason);
    if refused_so_far.is_power_of_two() {
        tracing::warn!(reason = reason.as_str(), refused_so_far, "refused a request: {reason}");
    }
}

/// Puts the question before a service.
#[derive(Debug, Clone)]
pub(super) struct AskForToken {
    pub(super) credentials: Credentials,
    pub(super) stats: Arc<ReceiverStats>,
}

/// A service behind the question.
#[derive(Debug, Clone)]
pub(super) struct BehindToken<S> {
    ask: AskForToken,
    inner: S,
}

impl AskForToken {
    fn judge(&self, path: &str, headers: &HeaderMap) -> Result<(), Unauthenticated> {
        let Some(token) = self.credentials.token() else { return Ok(()) };
        if path.starts_with(HEALTH) {
            return Ok(());
        }
        let given = bearer(headers).ok_or(Unauthenticated::NoToken)?;
        if token.matches(given) { Ok(()) } else { Err(Unauthenticated::WrongToken) }
    }
}

impl<S> Layer<S> for AskForToken {
    type Service = BehindToken<S>;

    fn layer(&self, inner: S) -> BehindToken<S> {
        BehindToken { ask: self.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for BehindToken<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.ask.judge(request.uri().path(), request.headers()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(reason) => {
                refuse(&self.ask.stats, reason);
                Box::pin(async { Ok(unauthenticated().into_http()) })
            }
        }
    }
}
