//! Connections of gRPC with TLS. tonic would make them itself, but of files that it reads once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower::{BoxError, Service};

use crate::exporter::tls::PeerTls;
use crate::time::Monotonic;

/// Of `https` where the endpoint names none.
const HTTPS_PORT: u16 = 443;
/// A connection that is idle so long is asked about by TCP: a peer that is gone without a word is noticed.
pub(crate) const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Makes TLS connections to one peer.
#[derive(Debug, Clone)]
pub(crate) struct TlsConnector {
    tcp: HttpConnector,
    tls: Arc<PeerTls>,
    name: ServerName<'static>,
    /// As the endpoint has it.
    origin: Uri,
}

impl TlsConnector {
    /// For `endpoint`, an `https` URI.
    ///
    /// # Errors
    /// If it names no host that a certificate could be for.
    pub(crate) fn new(endpoint: &Uri, tls: Arc<PeerTls>) -> Result<Self, String> {
        let name = server_name(endpoint)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        Ok(Self { tcp, tls, name, origin: endpoint.clone() })
    }

    /// The endpoint for a client that knows nothing of TLS.
    pub(crate) fn plain_address(&self) -> String {
        let host = self.origin.host().unwrap_or_default();
        format!("http://{host}:{}", self.origin.port_u16().unwrap_or(HTTPS_PORT))
    }

    /// The endpoint as it is.
    pub(crate) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    /// As [`PeerTls::refresh`].
    pub(crate) async fn refresh(&self, now: Monotonic) -> bool {
        self.tls.refresh(now).await
    }
}

/// Whom the certificate of an endpoint must be for.
///
/// # Errors
/// If the endpoint names no host, or none that a certificate could be for.
pub(crate) fn server_name(endpoint: &Uri) -> Result<ServerName<'static>, String> {
    let host = endpoint.host().ok_or("it names no host")?;
    // Certificates know addresses without URIs' brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))
}

impl Service<Uri> for TlsConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let tcp = self.tcp.call(address);
        let (config, name) = (self.tls.config(), self.name.clone());
        Box::pin(async move {
            let stream =
                tokio_rustls::TlsConnector::from(config).connect(name, tcp.await?.into_inner()).await?;
            let (_, session) = stream.get_ref();
            if session.alpn_protocol().is_none() {
                return Err("the peer does not say that it speaks HTTP/2 (no ALPN)".into());
            }
            Ok(TokioIo::new(stream))
        })
    }
}
