//! The listening socket, with what tonic leaves out: options for accepted sockets, a pause after a failed accept, a limit
//! on connections, and TLS handshakes that hold nobody up.
//!
//! A handshake is a task of its own, with a limit on its time, so that a peer that says nothing costs a place among the
//! handshakes and no more; one that says nothing afterwards, or on a port without TLS, has until [`PREFACE_LIMIT`]. What is
//! refused is closed and counted; the peer learns at most what TLS tells it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;

use super::connection::{Connection, Io, Peer};
use super::credentials::Credentials;
use super::refusals::RefusedConnection;
use super::stats::{ReceiverStats, Seat};
use super::tls::{self, ClientId, WorkerIds};

/// A dead host is noticed after [`KEEPALIVE_IDLE`] and then [`KEEPALIVE_PROBES`] unanswered probes, two minutes in all. A
/// stopped process is not dead: its kernel answers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// After an accept that failed, most likely for want of file descriptors: trying again at once would take a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a TLS handshake may take: the slowest worker on the slowest network needs a second.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long a peer that has been let in may take until it has sent the preface of HTTP/2. Clients send it at once.
pub const PREFACE_LIMIT: Duration = Duration::from_secs(10);

/// TLS handshakes under way at a time, each some 30 KiB. As many workers that come back at once, after a restart of the
/// bridge, are served within its first seconds.
pub const MAX_HANDSHAKES: usize = 2_048;

/// Connections as they come, done with their handshakes.
#[derive(Debug)]
pub(super) struct Connections {
    incoming: TcpIncoming,
    local_addr: SocketAddr,
    pause: Option<Pin<Box<Sleep>>>,
    failed_accepts: u64,
    door: Door,
    /// Each counts its own failure.
    handshakes: JoinSet<Option<Connection>>,
}

/// What a connection has to pass.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) credentials: Credentials,
    pub(super) max_connections: usize,
    pub(super) max_handshakes: usize,
    pub(super) stats: Arc<ReceiverStats>,
}

impl Connections {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(super) fn bind(address: SocketAddr, door: Door) -> io::Result<Self> {
        let incoming = TcpIncoming::bind(address)?
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEPALIVE_IDLE))
            .with_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .with_keepalive_retries(Some(KEEPALIVE_PROBES));
        let local_addr = incoming.local_addr()?;
        Ok(Self { incoming, local_addr, pause: None, failed_accepts: 0, door, handshakes: JoinSet::new() })
    }

    pub(super) const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Lets a connection in at once, or begins its handshake, or closes it.
    fn admit(&mut self, stream: TcpStream) -> Option<Connection> {
        let peer =
            Peer { address: stream.peer_addr().ok(), local: stream.local_addr().ok(), ids: WorkerIds::Any };
        let stats = &self.door.stats;
        let Some(seat) = stats.seat(self.door.max_connections) else {
            refuse(stats, &peer, RefusedConnection::TooMany);
            return None;
        };
        let Some((config, client_id)) = self.door.credentials.tls() else {
            return Some(Connection::new(Io::Plain(stream), peer, seat));
        };
        if self.handshakes.len() >= self.door.max_handshakes {
            refuse(stats, &peer, RefusedConnection::TooManyHandshakes);
            return None;
        }
        let handshake = Handshake { stream, config, client_id, peer, seat };
        self.handshakes.spawn(handshake.run(Arc::clone(stats)));
        None
    }

    /// The next connection that is done with its handshake.
    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        while let Some(ended) = ready_some(self.handshakes.poll_join_next(cx)) {
            match ended {
                Ok(Some(connection)) => return Poll::Ready(connection),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "a TLS handshake panicked"),
            }
        }
        Poll::Pending
    }
}

/// `None` also if there is nothing to wait for.
fn ready_some<T>(poll: Poll<Option<T>>) -> Option<T> {
    match poll {
        Poll::Ready(some) => some,
        Poll::Pending => None,
    }
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(connection) = self.poll_handshakes(cx) {
                return Poll::Ready(Some(Ok(connection)));
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(stream)) => {
                    if let Some(connection) = self.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Some(Err(error)) => {
                    self.failed_accepts += 1;
                    // Without descriptors this goes on ten times a second.
                    let failed_so_far = self.failed_accepts;
                    if failed_so_far.is_power_of_two() {
                        tracing::warn!(%error, failed_so_far, "failed to accept a connection; trying again shortly");
                    }
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// A handshake under way.
struct Handshake {
    stream: TcpStream,
    config: Arc<ServerConfig>,
    client_id: ClientId,
    peer: Peer,
    seat: Seat,
}

impl Handshake {
    async fn run(self, stats: Arc<ReceiverStats>) -> Option<Connection> {
        let Self { stream, config, client_id, mut peer, seat } = self;
        let accepting = TlsAcceptor::from(config).accept(stream);
        let accepted = match tokio::time::timeout(HANDSHAKE_LIMIT, accepting).await {
            Ok(accepted) => accepted.map_err(|error| tls::refusal(&error)),
            Err(_) => Err(RefusedConnection::HandshakeTimeout),
        };
        match accepted {
            Ok(stream) => {
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                peer.ids = WorkerIds::of(certificates.first(), client_id);
                Some(Connection::new(Io::Tls(Box::new(stream)), peer, seat))
            }
            Err(reason) => {
                refuse(&stats, &peer, reason);
                None
            }
        }
    }
}

/// Counts a connection that is closed, and tells the operator why; not at every one, or whoever knocks for ever fills the
/// log.
pub(super) fn refuse(stats: &ReceiverStats, peer: &Peer, reason: RefusedConnection) {
    let refused_so_far = stats.refused_connection(reason);
    if refused_so_far.is_power_of_two() {
        let peer = peer.address.map(tracing::field::display);
        tracing::warn!(peer, reason = reason.as_str(), refused_so_far, "refused a connection: {reason}");
    }
}
