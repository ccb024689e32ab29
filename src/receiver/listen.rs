//! The listening socket, with what tonic leaves out: options for accepted sockets, and a pause after a failed accept.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;

/// A dead host is noticed after [`KEEPALIVE_IDLE`] and then [`KEEPALIVE_PROBES`] unanswered probes, two minutes in all. A
/// stopped process is not dead: its kernel answers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// After an accept that failed, most likely for want of file descriptors: trying again at once would take a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections as they come.
#[derive(Debug)]
pub(super) struct Connections {
    incoming: TcpIncoming,
    local_addr: SocketAddr,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let incoming = TcpIncoming::bind(address)?
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEPALIVE_IDLE))
            .with_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .with_keepalive_retries(Some(KEEPALIVE_PROBES));
        let local_addr = incoming.local_addr()?;
        Ok(Self { incoming, local_addr, pause: None })
    }

    pub(super) const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Stream for Connections {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Err(error)) => {
                    tracing::warn!(%error, "failed to accept a connection; trying again shortly");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
                accepted => return Poll::Ready(accepted),
            }
        }
    }
}
