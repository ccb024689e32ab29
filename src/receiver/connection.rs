//! One accepted connection, plain or TLS, as tonic takes it; and who is at its other end.
//!
//! Whoever connects has to begin to speak HTTP/2 within [`PREFACE_LIMIT`], or silent peers would take every seat. After
//! that a connection may be idle as long as it likes: workers are.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::listen::{PREFACE_LIMIT, refuse};
use super::refusals::RefusedConnection;
use super::stats::Seat;
use super::tls::WorkerIds;

/// Bytes of the preface of HTTP/2.
const PREFACE_BYTES: usize = 24;

/// A connection that has been let in.
#[derive(Debug)]
pub(super) struct Connection {
    io: Io,
    peer: Peer,
    /// Nothing once the preface has come.
    preface: Option<Preface>,
    /// Given back when the connection is over.
    seat: Seat,
}

/// A preface that has not come.
#[derive(Debug)]
struct Preface {
    /// Bytes of it.
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// Who is at the other end; an extension of each request.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// The peer's address; `None` if it has reset the connection already.
    pub(super) address: Option<SocketAddr>,
    /// The bridge's.
    pub(super) local: Option<SocketAddr>,
    /// What its certificate lets it claim.
    pub(super) ids: WorkerIds,
}

#[derive(Debug)]
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Has to be called within a runtime.
    pub(super) fn new(io: Io, peer: Peer, seat: Seat) -> Self {
        let deadline = Box::pin(tokio::time::sleep(PREFACE_LIMIT));
        Self { io, peer, preface: Some(Preface { missing: PREFACE_BYTES, deadline }), seat }
    }

    /// Counts what has come of the preface, and gives up on a peer that is too slow with it.
    fn await_preface(&mut self, cx: &mut Context<'_>, read: usize, is_pending: bool) -> io::Result<()> {
        let Some(preface) = &mut self.preface else { return Ok(()) };
        preface.missing = preface.missing.saturating_sub(read);
        if preface.missing == 0 {
            self.preface = None;
        } else if is_pending && preface.deadline.as_mut().poll(cx).is_ready() {
            self.preface = None;
            refuse(self.seat.stats(), &self.peer, RefusedConnection::Silent);
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if self.preface.is_some() {
            let read = buffer.filled().len() - before;
            self.await_preface(cx, read, polled.is_pending())?;
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
