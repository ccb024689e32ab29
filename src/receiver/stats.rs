//! What the receiver counts. Plain sums; whoever shows them takes a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::refusals::{RefusedConnection, Unauthenticated};

/// The receiver's counters.
#[derive(Debug, Default)]
pub struct ReceiverStats {
    streams_opened: AtomicU64,
    streams_closed: AtomicU64,
    streams_broken: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    oversized: AtomicU64,
    undelivered: AtomicU64,
    refused_workers: AtomicU64,
    refused_streams: AtomicU64,
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    /// By [`RefusedConnection::index`].
    refused_connections: [AtomicU64; RefusedConnection::ALL.len()],
    /// By [`Unauthenticated::index`].
    unauthenticated: [AtomicU64; Unauthenticated::ALL.len()],
}

/// The counters at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiverCounts {
    /// Streams that are open.
    pub streams_open: u64,
    /// Streams so far.
    pub streams_total: u64,
    /// Streams that ended by broken framing or a broken connection.
    pub streams_broken: u64,
    /// Messages so far, oversized ones included.
    pub messages: u64,
    /// Their bytes, without gRPC's framing and after decompression; oversized ones count nothing.
    pub bytes: u64,
    /// Messages beyond `max_message_bytes`.
    pub oversized: u64,
    /// Messages that no shard took, because it is gone. While the bridge serves, anything but 0 is a bug; a drain that
    /// gave streams up may leave some.
    pub undelivered: u64,
    /// Streams refused because too many workers are known.
    pub refused_workers: u64,
    /// Streams refused for other reasons: too many of one worker, or the bridge drains.
    pub refused_streams: u64,
    /// Connections that are open, those in their TLS handshake included.
    pub connections_open: u64,
    /// Connections so far that were let in or began a handshake.
    pub connections_total: u64,
    /// Connections that were closed before they could ask for anything, by [`RefusedConnection::index`].
    pub refused_connections: [u64; RefusedConnection::ALL.len()],
    /// Requests without valid credentials, by [`Unauthenticated::index`].
    pub unauthenticated: [u64; Unauthenticated::ALL.len()],
}

/// A connection among those that may be open. It ends with this.
#[derive(Debug)]
pub(super) struct Seat {
    stats: Arc<ReceiverStats>,
}

impl Seat {
    pub(super) fn stats(&self) -> &ReceiverStats {
        &self.stats
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stats.connections_closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl ReceiverStats {
    /// The counters now. Each is exact, but they are read one after the other.
    #[must_use]
    pub fn snapshot(&self) -> ReceiverCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Closed before opened, so that a stream that comes and goes in between is never counted as less than none.
        let closed = read(&self.streams_closed);
        let streams_total = read(&self.streams_opened);
        let connections_open = self.connections_open();
        ReceiverCounts {
            streams_open: streams_total.saturating_sub(closed),
            streams_total,
            streams_broken: read(&self.streams_broken),
            messages: read(&self.messages),
            bytes: read(&self.bytes),
            oversized: read(&self.oversized),
            undelivered: read(&self.undelivered),
            refused_workers: read(&self.refused_workers),
            refused_streams: read(&self.refused_streams),
            connections_open,
            connections_total: read(&self.connections_opened),
            refused_connections: self.refused_connections.each_ref().map(read),
            unauthenticated: self.unauthenticated.each_ref().map(read),
        }
    }

    fn connections_open(&self) -> u64 {
        let closed = self.connections_closed.load(Ordering::Relaxed);
        self.connections_opened.load(Ordering::Relaxed).saturating_sub(closed)
    }

    /// Takes one of `max` seats, if one is free. One task asks, so that nobody comes in between.
    pub(super) fn seat(self: &Arc<Self>, max: usize) -> Option<Seat> {
        if self.connections_open() >= max as u64 {
            return None;
        }
        self.connections_opened.fetch_add(1, Ordering::Relaxed);
        Some(Seat { stats: Arc::clone(self) })
    }

    /// Returns how many that makes for this reason.
    pub(super) fn refused_connection(&self, reason: RefusedConnection) -> u64 {
        self.refused_connections[reason.index()].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns how many that makes for this reason.
    pub(super) fn unauthenticated(&self, reason: Unauthenticated) -> u64 {
        self.unauthenticated[reason.index()].fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn opened(&self) {
        self.streams_opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.streams_closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn broken(&self) {
        self.streams_broken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, messages: usize, bytes: usize, oversized: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if oversized > 0 {
            self.oversized.fetch_add(oversized as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn undelivered(&self, messages: usize) {
        self.undelivered.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Returns how many that makes.
    pub(super) fn refused_worker(&self) -> u64 {
        self.refused_workers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns how many that makes.
    pub(super) fn refused_stream(&self) -> u64 {
        self.refused_streams.fetch_add(1, Ordering::Relaxed) + 1
    }
}
