//! Batches that wait for the peer, or are on their way to it, oldest first, within bounds.
//!
//! The bound holds for everything that the exporter keeps: the batch being filled, the waiting, and those in flight.
//! A batch is taken out only once its fate is known. This part does no input or output; it is told the time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::exporter::batch::Batch;
use crate::time::Monotonic;

/// Default of [`QueueSettings::max_bytes`]: minutes of an outage at a thousand spans a second.
pub const DEFAULT_MAX_QUEUE_BYTES: usize = 64 << 20;

/// What the exporter may keep.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Bytes of encoded spans.
    pub max_bytes: usize,
    /// Spans, where `OTEL_BSP_MAX_QUEUE_SIZE` is set. The specification's default, 2048, is for one process; a bridge
    /// carries hundreds of workers, so without the variable the bytes alone are bounded.
    pub max_spans: Option<u64>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self { max_bytes: DEFAULT_MAX_QUEUE_BYTES, max_spans: None }
    }
}

/// Names a batch; a larger one is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// A batch and its history.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The batch.
    pub batch: Batch,
    /// When it was filled.
    pub filled_at: Monotonic,
    /// When it was last sent.
    pub begun_at: Monotonic,
    /// How often it was sent in vain.
    pub failures: u32,
    /// It is not sent before.
    not_before: Monotonic,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    settings: QueueSettings,
    waiting: BTreeMap<BatchId, Queued>,
    in_flight: BTreeMap<BatchId, Queued>,
    next_id: u64,
    spans: u64,
    size_bytes: usize,
}

impl Queue {
    /// Nothing waits yet.
    #[must_use]
    pub fn new(settings: QueueSettings) -> Self {
        Self {
            settings,
            waiting: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_id: 0,
            spans: 0,
            size_bytes: 0,
        }
    }

    /// Whether one more span of `span_bytes` may be kept, beside `open_spans` of `open_bytes` in the batch being filled.
    #[must_use]
    pub fn has_room(&self, open_spans: u64, open_bytes: usize, span_bytes: usize) -> bool {
        self.size_bytes + open_bytes + span_bytes <= self.settings.max_bytes
            && self.settings.max_spans.is_none_or(|max| self.spans + open_spans < max)
    }

    /// Takes a batch. Whether there is room was asked for each of its spans.
    pub fn push(&mut self, batch: Batch, now: Monotonic) {
        self.spans += batch.spans;
        self.size_bytes += batch.body.len();
        let id = BatchId(self.next_id);
        self.next_id += 1;
        self.waiting.insert(
            id,
            Queued { batch, filled_at: now, begun_at: now, failures: 0, not_before: Monotonic::default() },
        );
    }

    /// The oldest batch that may be sent: it is in flight from now on.
    pub fn begin(&mut self, now: Monotonic) -> Option<(BatchId, Batch)> {
        let id = self.waiting.iter().find(|(_, queued)| queued.not_before <= now).map(|(id, _)| *id)?;
        let mut queued = self.waiting.remove(&id)?;
        queued.begun_at = now;
        let batch = queued.batch.clone();
        self.in_flight.insert(id, queued);
        Some((id, batch))
    }

    /// When the next waiting batch may be sent.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        // Those that may be sent at once are found at once, and only probes of a failing peer wait for their turn.
        let mut earliest = None;
        for queued in self.waiting.values() {
            if queued.not_before == Monotonic::default() {
                return Some(queued.not_before);
            }
            earliest = Some(earliest.map_or(queued.not_before, |at: Monotonic| at.min(queued.not_before)));
        }
        earliest
    }

    /// Takes a batch out of the flight, its fate being known.
    pub fn finish(&mut self, id: BatchId) -> Option<Queued> {
        let queued = self.in_flight.remove(&id)?;
        self.forget(&queued);
        Some(queued)
    }

    /// Notes that a batch was sent in vain, and lets it wait: for `wait(failures)`.
    pub fn put_back(&mut self, id: BatchId, now: Monotonic, wait: impl FnOnce(u32) -> Duration) {
        let Some(mut queued) = self.in_flight.remove(&id) else { return };
        queued.failures = queued.failures.saturating_add(1);
        queued.not_before = now.after(wait(queued.failures));
        self.waiting.insert(id, queued);
    }

    /// When a batch in flight was sent.
    #[must_use]
    pub fn begun_at(&self, id: BatchId) -> Option<Monotonic> {
        self.in_flight.get(&id).map(|queued| queued.begun_at)
    }

    /// Whether a batch in flight was sent in vain before.
    #[must_use]
    pub fn has_failed(&self, id: BatchId) -> bool {
        self.in_flight.get(&id).is_some_and(|queued| queued.failures > 0)
    }

    /// Lets every waiting batch be sent at once.
    pub fn release(&mut self) {
        for queued in self.waiting.values_mut() {
            queued.not_before = Monotonic::default();
        }
    }

    /// Takes out the oldest waiting batch if it was filled `age` ago or earlier. Returns its spans.
    pub fn drop_older_than(&mut self, age: Duration, now: Monotonic) -> Option<u64> {
        let (&id, oldest) = self.waiting.first_key_value()?;
        if oldest.filled_at.after(age) > now {
            return None;
        }
        let queued = self.waiting.remove(&id)?;
        self.forget(&queued);
        Some(queued.batch.spans)
    }

    /// Takes everything out, in flight or not. Returns the spans.
    pub fn clear(&mut self) -> u64 {
        self.waiting.clear();
        self.in_flight.clear();
        self.size_bytes = 0;
        std::mem::take(&mut self.spans)
    }

    /// Spans waiting and in flight.
    #[must_use]
    pub fn spans(&self) -> u64 {
        self.spans
    }

    /// Bytes waiting and in flight.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Batches waiting and in flight.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Batches in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes that may be kept.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.settings.max_bytes
    }

    /// Spans that may be kept.
    #[must_use]
    pub fn capacity_spans(&self) -> Option<u64> {
        self.settings.max_spans
    }

    fn forget(&mut self, queued: &Queued) {
        self.spans -= queued.batch.spans;
        self.size_bytes -= queued.batch.body.len();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn queue(max_bytes: usize, max_spans: Option<u64>) -> Queue {
        Queue::new(QueueSettings { max_bytes, max_spans })
    }

    fn batch(bytes: usize) -> Batch {
        Batch { body: Bytes::from(vec![0; bytes]), spans: 1 }
    }

    #[test]
    fn room_is_bounded_by_bytes_and_by_spans() {
        let mut queue = queue(100, Some(3));
        queue.push(batch(50), Monotonic(0));
        assert!(queue.has_room(1, 20, 30));
        assert!(!queue.has_room(1, 20, 31));
        assert!(!queue.has_room(2, 0, 1));
        let (id, _) = queue.begin(Monotonic(0)).unwrap();
        assert!(!queue.has_room(0, 0, 51), "a batch in flight still takes its room");
        queue.finish(id).unwrap();
        assert!(queue.has_room(0, 0, 100));
        assert_eq!((queue.spans(), queue.size_bytes(), queue.batches()), (0, 0, 0));
    }

    #[test]
    fn the_oldest_that_may_be_sent_goes_first() {
        let mut queue = queue(1000, None);
        for bytes in [1, 2, 3] {
            queue.push(batch(bytes), Monotonic(0));
        }
        let (first, _) = queue.begin(Monotonic(0)).unwrap();
        queue.put_back(first, Monotonic(0), |failures| Duration::from_nanos(u64::from(failures) * 100));
        let (second, taken) = queue.begin(Monotonic(99)).unwrap();
        assert_eq!(taken.body.len(), 2);
        let (again, taken) = queue.begin(Monotonic(100)).unwrap();
        assert_eq!((again, taken.body.len()), (first, 1));
        queue.put_back(again, Monotonic(100), |failures| Duration::from_nanos(u64::from(failures) * 100));
        queue.put_back(second, Monotonic(100), |_| Duration::from_nanos(50));
        let (third, _) = queue.begin(Monotonic(100)).unwrap();
        assert!(third > second);
        assert_eq!(queue.begin(Monotonic(149)), None);
        assert_eq!(queue.poll_timeout(), Some(Monotonic(150)));
        queue.release();
        assert_eq!(queue.begin(Monotonic(100)).map(|(id, _)| id), Some(first));
    }

    #[test]
    fn only_the_waiting_grow_old() {
        let mut queue = queue(1000, None);
        queue.push(batch(1), Monotonic(0));
        queue.push(batch(2), Monotonic(10));
        let age = Duration::from_nanos(100);
        assert_eq!(queue.drop_older_than(age, Monotonic(99)), None);
        let (first, _) = queue.begin(Monotonic(0)).unwrap();
        assert_eq!(queue.drop_older_than(age, Monotonic(100)), None);
        assert_eq!(queue.drop_older_than(age, Monotonic(110)), Some(1));
        assert_eq!(queue.size_bytes(), 1);
        assert!(queue.finish(first).is_some());
        assert!(queue.finish(first).is_none());
    }
}
