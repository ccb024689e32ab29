//! What the receiver counts. Plain sums; whoever shows them takes a snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl ReceiverStats {
    /// The counters now. Each is exact, but they are read one after the other.
    #[must_use]
    pub fn snapshot(&self) -> ReceiverCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Closed before opened, so that a stream that comes and goes in between is never counted as less than none.
        let closed = read(&self.streams_closed);
        let streams_total = read(&self.streams_opened);
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
        }
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
