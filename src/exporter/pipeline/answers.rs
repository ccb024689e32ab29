//! What an answer does: to its batch, to the peer's record, and to what is sent later.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{MAX_ERROR_BYTES, Notice, Pipeline, SMALL_ITEM_BYTES, split};
use crate::exporter::answer::start_of;
use crate::exporter::batch::Batch;
use crate::exporter::queue::{BatchId, Entry};
use crate::exporter::refusal::{GrpcRefusal, Refusal};
use crate::exporter::retry::{MAX_SERVER_DELAY, Outcome, backoff, speaks_of_request, speaks_of_size};
use crate::time::{Monotonic, Now};

impl Pipeline {
    /// Notes what came of a request. What is worth being said of it is in [`take_notices`](Self::take_notices).
    pub fn settle(&mut self, id: BatchId, outcome: Outcome, now: Now) {
        if let Some(entry) = self.queue.flying(id) {
            self.counts.request_duration_ns.record(now.mono.since(entry.begun_at));
            if !matches!(outcome, Outcome::Accepted { .. }) {
                self.counts.send_failed += entry.items;
            }
        }
        match outcome {
            Outcome::Accepted { rejected_items, message } => {
                self.settle_accepted(id, rejected_items, message, now);
            }
            Outcome::Retry { delay, error } => self.settle_failed(id, delay, error, now.mono),
            Outcome::Refused { refusal, error }
                if refusal.asks_for_less() || self.is_about_request(id, refusal, &error) =>
            {
                self.settle_too_large(id, refusal, error, now);
            }
            Outcome::Refused { refusal, error } => {
                self.note_error(&error);
                self.note_answer(now.mono);
                if let Some(entry) = self.queue.finish(id) {
                    self.notices.push(Notice::Refused { refusal, items: entry.items, error });
                    self.settle_refused(&entry, refusal);
                }
            }
        }
    }

    fn settle_accepted(&mut self, id: BatchId, rejected: u64, message: String, now: Now) {
        let has_recovered = self.note_answer(now.mono);
        let Some(entry) = self.queue.finish(id) else { return };
        if entry.failures > 0 && !has_recovered {
            self.notices.push(Notice::Retried { items: entry.items });
        }
        let rejected_items = rejected.min(entry.items);
        let exported = entry.items - rejected_items;
        self.counts.exported += exported;
        self.count_refused(rejected_items, Refusal::PartialSuccess);
        self.outbox.settled(&entry, exported, Some((Refusal::PartialSuccess, rejected_items)));
        if rejected_items > 0 || !message.is_empty() {
            self.notices.push(Notice::PartialSuccess { rejected_items, message });
        }
    }

    fn settle_failed(&mut self, id: BatchId, delay: Option<Duration>, error: String, now: Monotonic) {
        self.note_error(&error);
        self.peer.note_delay(delay, now);
        let answers = self.peer.answers();
        if let Some(entry) = self.queue.flying(id) {
            // Others were answered since it last failed: it is the batch, not the peer.
            let is_poisoned = entry.failures > 0 && answers > entry.answers_seen;
            if !is_poisoned {
                self.peer.note_failure(id, entry.begun_at, now, &self.settings.retry, &mut self.rng);
            }
        }
        self.queue.note_answers(id, answers);
        let (retry, rng) = (&self.settings.retry, &mut self.rng);
        self.queue.put_back(id, now, |failures| {
            backoff(retry, failures, rng).max(delay.unwrap_or_default().min(MAX_SERVER_DELAY))
        });
        // As long as it was on its way it may have taken more room than there is.
        self.make_disk_room(&mut BTreeSet::new());
        self.notices.push(Notice::WillRetry { error });
    }

    fn is_about_request(&self, id: BatchId, refusal: Refusal, error: &str) -> bool {
        let size_bytes = self.queue.flying(id).map_or(0, |entry| entry.size_bytes);
        refusal == Refusal::ResponseTooLarge && speaks_of_request(error, size_bytes)
    }

    /// A request that may have been too large is cut in halves, until it is one item.
    fn settle_too_large(&mut self, id: BatchId, refusal: Refusal, error: String, now: Now) {
        self.note_error(&error);
        let is_exhausted =
            refusal == Refusal::Grpc(GrpcRefusal::ResourceExhausted) && !speaks_of_size(&error);
        let Some(mut entry) = self.queue.finish(id) else { return };
        if is_exhausted {
            // It may be short of memory: whatever is sent next waits, so that cutting does not make a storm of it.
            let retry = &self.settings.retry;
            self.peer.note_failure(id, entry.begun_at, now.mono, retry, &mut self.rng);
            entry.wait(now.mono, |failures| backoff(retry, failures, &mut self.rng));
        } else {
            self.note_answer(now.mono);
        }
        let body = entry.body.clone().unwrap_or_default();
        let pieces = split::split(self.settings.signal, &body, body.len() / 2);
        if pieces.len() > 1 {
            self.limit.note_refused(body.len(), now.mono);
            self.batcher.set_max_bytes(self.limit.bytes());
            let pieces = self.replace(id, &entry, pieces, now.mono);
            self.notices.push(Notice::Split { size_bytes: body.len(), pieces, error });
        } else if is_exhausted && body.len() <= SMALL_ITEM_BYTES {
            self.notices.push(Notice::Refused { refusal, items: entry.items, error });
            self.settle_refused(&entry, refusal);
        } else {
            let name = split::first_name(self.settings.signal, &body);
            self.notices.push(Notice::ItemTooLarge { name, size_bytes: body.len(), error });
            self.settle_refused(&entry, Refusal::ItemTooLarge);
        }
    }

    /// A peer that answers, be it with a refusal, is there. Says whether it was down before.
    fn note_answer(&mut self, now: Monotonic) -> bool {
        let has_recovered = self.peer.note_answer();
        if has_recovered {
            self.queue.release(now);
            self.notices.push(Notice::Recovered);
        }
        has_recovered
    }

    fn note_error(&mut self, error: &str) {
        self.counts.requests_failed += 1;
        self.counts.last_error = Some(start_of(error, MAX_ERROR_BYTES).to_owned());
    }

    /// Cuts a batch that is in flight or about to be. Returns into how many.
    pub(super) fn split(&mut self, id: BatchId, max_bytes: usize, now: Now) -> usize {
        let Some(body) = self.queue.flying(id).and_then(|entry| entry.body.clone()) else { return 0 };
        let pieces = split::split(self.settings.signal, &body, max_bytes);
        if pieces.len() < 2 {
            return pieces.len();
        }
        let Some(whole) = self.queue.finish(id) else { return 0 };
        self.replace(id, &whole, pieces, now.mono)
    }

    fn replace(&mut self, id: BatchId, whole: &Entry, pieces: Vec<split::Piece>, now: Monotonic) -> usize {
        self.counts.requests_split += 1;
        // The sums are by what the batch was said to hold.
        let mut left = whole.items;
        let last = pieces.len() - 1;
        let pieces: Vec<_> = pieces
            .into_iter()
            .enumerate()
            .map(|(at, piece)| {
                let items = if at == last { left } else { piece.items.min(left) };
                left -= items;
                Batch { body: piece.body, items, needs: whole.needs(), origins: whole.origins.clone() }
            })
            .collect();
        let ids = self.queue.replace(id, whole, pieces, now);
        let count = ids.len();
        // All of them are on disk before the first is sent: they have the same origins, so that the fate of one would
        // otherwise pass for the fate of all.
        self.spool(ids.into_iter().collect(), true, now);
        if let Some(name) = whole.spool() {
            self.outbox.forget(name);
        }
        count
    }
}
