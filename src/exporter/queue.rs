//! Batches whose fate is open, oldest first, within bounds: in memory, on disk or both; waiting or on their way.
//!
//! | where a waiting batch is | until |
//! |---|---|
//! | held | what it was made of is durable |
//! | delayed | its time to be sent again has come |
//! | absent | its bytes are being read from disk |
//! | in a [lane](Lane) | its turn comes |
//!
//! The bounds hold for everything that the exporter keeps: the batch being filled, the waiting, and those in flight. With
//! a disk, memory is left to what is new: whatever is past half of the bound leaves for the disk, oldest first.
//! A batch is taken out only once its fate is known. This part does no input or output; it is told the time.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::exporter::batch::Batch;
use crate::store::{Commit, Origins, SpoolId};
use crate::time::{Monotonic, Now, UnixNanos};

mod disk;
mod in_order;
mod lanes;
#[cfg(test)]
mod tests;

pub use disk::{DiskCopy, MAX_SPOOLED_BATCHES, READ_AHEAD_BYTES};
pub use lanes::{BACKLOG_WAYS, LIVE_FOR, LIVE_WAYS, Lane, SUSPECT_WAYS};

use lanes::Lanes;

/// Default of [`QueueSettings::max_bytes`]: minutes of an outage at a thousand spans a second.
pub const DEFAULT_MAX_QUEUE_BYTES: usize = 64 << 20;
/// Default of [`QueueSettings::max_spool_bytes`].
pub const DEFAULT_MAX_SPOOL_BYTES: u64 = 1 << 30;

/// Numbers from one batch to the next, for the pieces that it may be cut into: more than it has items.
const NUMBERS_A_BATCH: u64 = 1 << 24;

/// What the exporter may keep.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Bytes of encoded items in memory.
    pub max_bytes: usize,
    /// Items in memory, where `OTEL_BSP_MAX_QUEUE_SIZE` or `OTEL_BLRP_MAX_QUEUE_SIZE` is set. The specification's default, 2048, is for one process; a
    /// bridge carries hundreds of workers, so without the variable the bytes alone are bounded. With a state directory,
    /// what is beyond goes to disk.
    pub max_items: Option<u64>,
    /// Bytes on disk, where there is a state directory. The oldest give way beyond it; a checkpoint writes what is in memory,
    /// so it bounds that too.
    pub max_spool_bytes: u64,
    /// Batches go one by one, the oldest first, for a peer that refuses what is older than what it has: Prometheus takes no
    /// point before the last one of its series, and throws away the whole request.
    pub in_order: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_QUEUE_BYTES,
            max_items: None,
            max_spool_bytes: DEFAULT_MAX_SPOOL_BYTES,
            in_order: false,
        }
    }
}

/// Names a batch; a larger one is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

impl BatchId {
    #[cfg(test)]
    pub(crate) fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// A batch and its history.
#[derive(Debug)]
pub struct Entry {
    /// How many items.
    pub items: u64,
    /// Their encoded request, unless it is only on disk.
    pub body: Option<Bytes>,
    /// Its size, wherever it is.
    pub size_bytes: usize,
    /// Where it is on disk.
    pub copy: Option<DiskCopy>,
    /// Whose outputs.
    pub origins: Origins,
    /// When it was filled.
    pub filled_at: UnixNanos,
    /// When it was last sent.
    pub begun_at: Monotonic,
    /// How often it was sent in vain.
    pub failures: u32,
    /// How often the peer had answered when it last failed.
    pub answers_seen: u64,
    /// Not sent before this is durable.
    needs: Commit,
    age: Age,
    not_before: Monotonic,
    /// The [`Queue::era`] in which it last failed: while that lasts the peer may be well, and the fault the batch's.
    failed_in: Option<u64>,
    /// Its bytes were read back from disk.
    is_loaded: bool,
    /// It leaves memory as soon as its copy is durable.
    is_leaving: bool,
    place: Place,
    /// Numbers that its pieces may have, from its own on.
    numbers: u64,
    /// Where order counts: a newer one was answered before it.
    was_passed: bool,
}

/// How old something is: what it was when it was taken over, and since when that is.
#[derive(Debug, Clone, Copy)]
struct Age {
    before: Duration,
    since: Monotonic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Held(Commit),
    Delayed(Monotonic),
    Absent,
    Loading,
    Lane(Lane),
    Flying(Lane),
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    settings: QueueSettings,
    entries: std::collections::BTreeMap<BatchId, Entry>,
    held: BTreeSet<(Commit, BatchId)>,
    delayed: BTreeSet<(Monotonic, BatchId)>,
    absent: BTreeSet<BatchId>,
    loading: BTreeSet<BatchId>,
    lanes: Lanes,
    disk: disk::Disk,
    next_id: u64,
    /// When the last one was filled.
    last_filled_at: UnixNanos,
    /// Times that everything was released.
    era: u64,
    /// In memory.
    items: u64,
    size_bytes: usize,
}

impl Queue {
    /// Nothing waits yet.
    #[must_use]
    pub fn new(settings: QueueSettings) -> Self {
        Self {
            settings,
            entries: std::collections::BTreeMap::new(),
            held: BTreeSet::new(),
            delayed: BTreeSet::new(),
            absent: BTreeSet::new(),
            loading: BTreeSet::new(),
            lanes: Lanes::default(),
            disk: disk::Disk::default(),
            next_id: 0,
            last_filled_at: UnixNanos(i64::MIN),
            era: 0,
            items: 0,
            size_bytes: 0,
        }
    }

    /// Whether `more_items` of `more_bytes` may be kept, beside `open_items` of `open_bytes` in the batch being filled.
    #[must_use]
    pub fn has_room(&self, open_items: u64, open_bytes: usize, more_items: u64, more_bytes: usize) -> bool {
        let (items, bytes) = self.disk.staying(self.items, self.size_bytes);
        bytes + open_bytes + more_bytes <= self.settings.max_bytes
            // What is on its way to disk may be as much again: in bytes, for a small number of items is no reason to refuse
            // what the disk would hold.
            && self.size_bytes + open_bytes + more_bytes <= 2 * self.settings.max_bytes
            && self.settings.max_items.is_none_or(|max| items + open_items + more_items <= max)
    }

    /// Takes a batch. Whether there is room was asked for each of its items.
    pub fn push(&mut self, batch: Batch, now: Now) -> BatchId {
        let id = BatchId(self.next_id);
        self.next_id += NUMBERS_A_BATCH;
        let age = Age { before: Duration::ZERO, since: now.mono };
        let filled_at = self.filled_at(now.wall);
        self.insert(id, Entry::new(batch, filled_at, age, NUMBERS_A_BATCH), now.mono);
        id
    }

    /// Puts the pieces of a batch that is taken out in its place. They are as old as it is.
    pub fn replace(
        &mut self,
        id: BatchId,
        whole: &Entry,
        pieces: Vec<Batch>,
        now: Monotonic,
    ) -> Vec<BatchId> {
        let numbers = whole.numbers / (pieces.len().max(1) as u64);
        let mut ids = Vec::with_capacity(pieces.len());
        for (at, batch) in pieces.into_iter().enumerate() {
            let mut piece_id = BatchId(id.0 + at as u64 * numbers);
            if numbers == 0 {
                // Cut more often than there are numbers: it counts as new.
                piece_id = BatchId(self.next_id);
                self.next_id += NUMBERS_A_BATCH;
            }
            let mut entry = Entry::new(batch, whole.filled_at, whole.age, numbers.max(1));
            entry.needs = entry.needs.max(whole.needs);
            entry.failures = whole.failures;
            entry.not_before = whole.not_before;
            entry.is_loaded = whole.is_loaded;
            self.insert(piece_id, entry, now);
            ids.push(piece_id);
        }
        ids
    }

    /// The batch whose turn it is, with `ways` in all; it is in flight from now on. `reserves`: a way is kept for what is
    /// filled next.
    pub fn begin(&mut self, ways: usize, reserves: bool, now: Monotonic) -> Option<(BatchId, &Entry)> {
        let (id, lane) = self.next(ways, reserves)?;
        self.displace(id);
        self.lanes.took_off(lane);
        let entry = self.entries.get_mut(&id)?;
        entry.place = Place::Flying(lane);
        entry.begun_at = now;
        self.disk.resident.remove(&id);
        // Its bytes stay as long as it flies.
        self.disk.stop_leaving(id, entry);
        Some((id, entry))
    }

    /// When [`begin`](Self::begin) may have something, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self, ways: usize, reserves: bool) -> Option<Monotonic> {
        if self.next(ways, reserves).is_some() {
            return Some(Monotonic::default());
        }
        // With every way taken, an answer is what happens next.
        self.delayed.first().map(|(at, _)| *at).filter(|_| self.lanes.in_flight() < ways)
    }

    fn next(&self, ways: usize, reserves: bool) -> Option<(BatchId, Lane)> {
        if self.settings.in_order {
            return self.next_in_order();
        }
        self.lanes.choose(ways, reserves, self.loading.first().copied())
    }

    /// Lets those go on whose time has come.
    pub fn advance(&mut self, now: Monotonic) {
        while let Some((_, id)) = self.held.first().copied().filter(|(needs, _)| self.disk.has(*needs)) {
            self.place(id, now);
        }
        while let Some((_, id)) = self.delayed.first().copied().filter(|(at, _)| *at <= now) {
            self.place(id, now);
        }
        while let Some(&id) = self.lanes.of(Lane::Live).first() {
            if self.entries[&id].age.at(now) < LIVE_FOR {
                break;
            }
            self.place(id, now);
        }
    }

    /// Takes a batch out, its fate being known. Nothing if it is not in flight.
    pub fn finish(&mut self, id: BatchId) -> Option<Entry> {
        self.note_passed(id);
        matches!(self.entries.get(&id)?.place, Place::Flying(_)).then(|| self.take(id)).flatten()
    }

    /// Notes that a batch was sent in vain, and lets it wait: for `wait(failures)`.
    pub fn put_back(&mut self, id: BatchId, now: Monotonic, wait: impl FnOnce(u32) -> Duration) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Place::Flying(lane) = entry.place else { return };
        entry.wait(now, wait);
        entry.failed_in = Some(self.era);
        self.lanes.landed(lane);
        entry.place = Place::Delayed(entry.not_before);
        self.delayed.insert((entry.not_before, id));
        // What came from the disk waits there: it would take the room of those that are read next. Where order counts these
        // wait for it.
        if entry.is_loaded && !self.settings.in_order {
            self.leave(id);
        } else {
            self.disk.resident.insert(id);
        }
    }

    /// A batch that is in flight.
    #[must_use]
    pub fn flying(&self, id: BatchId) -> Option<&Entry> {
        self.entries.get(&id).filter(|entry| matches!(entry.place, Place::Flying(_)))
    }

    /// Notes how often the peer has answered so far.
    pub fn note_answers(&mut self, id: BatchId, answers: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.answers_seen = answers;
        }
    }

    /// Lets every waiting batch be sent at once, and forgets whose fault a failure seemed to be.
    pub fn release(&mut self, now: Monotonic) {
        self.era += 1;
        let delayed = self.delayed.iter().map(|(_, id)| *id);
        let ids: Vec<_> = delayed.chain(self.lanes.of(Lane::Suspect).iter().copied()).collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.not_before = Monotonic::default();
            self.place(id, now);
        }
    }

    /// Takes out the oldest waiting batch if it is of `age` or older.
    pub fn drop_older_than(&mut self, age: Duration, now: Monotonic) -> Option<Entry> {
        let (&id, _) = self.entries.iter().find(|(_, entry)| !matches!(entry.place, Place::Flying(_)))?;
        if self.entries[&id].age.at(now) < age {
            return None;
        }
        self.take(id)
    }

    /// Takes out the oldest waiting batch if it is of `age` or older, and was sent in vain by this run: a clock that was set
    /// wrong, or a long time off, must not cost what nobody tried to send.
    pub fn drop_expired(&mut self, age: Duration, now: Monotonic) -> Option<Entry> {
        let (_, oldest) = self.entries.iter().find(|(_, entry)| !matches!(entry.place, Place::Flying(_)))?;
        if oldest.failures > 0 { self.drop_older_than(age, now) } else { None }
    }

    /// Takes out the oldest waiting batch in memory if it is of `age` or older.
    pub fn drop_resident_older_than(&mut self, age: Duration, now: Monotonic) -> Option<Entry> {
        let (id, entry) = self.next_to_leave()?;
        if entry.age.at(now) >= age { self.take(id) } else { None }
    }

    /// Takes out what is only in memory, in flight or not.
    pub fn clear_uncopied(&mut self) -> Vec<Entry> {
        let ids: Vec<_> = self.uncopied().collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Items in memory.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Bytes in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Batches waiting and in flight, on disk or not.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.entries.len()
    }

    /// Batches in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lanes.in_flight()
    }

    /// How old the oldest is.
    #[must_use]
    pub fn oldest_age(&self, now: Monotonic) -> Option<Duration> {
        self.entries.first_key_value().map(|(_, entry)| entry.age.at(now))
    }

    /// What may be kept.
    #[must_use]
    pub fn settings(&self) -> &QueueSettings {
        &self.settings
    }

    fn insert(&mut self, id: BatchId, entry: Entry, now: Monotonic) {
        self.count_in(&entry);
        if entry.is_loaded {
            self.disk.count_ahead(entry.size_bytes, entry.items);
        } else if entry.body.is_some() {
            self.disk.resident.insert(id);
        }
        match &entry.copy {
            None => drop(self.disk.uncopied.insert(id)),
            Some(copy) => self.disk.count_copy(id, copy.id, entry.size_bytes),
        }
        self.entries.insert(id, entry);
        self.place(id, now);
    }

    /// Takes a batch out of everything.
    fn take(&mut self, id: BatchId) -> Option<Entry> {
        self.displace(id);
        let mut entry = self.entries.remove(&id)?;
        if let Place::Flying(lane) = entry.place {
            self.lanes.landed(lane);
        }
        self.count_out(&entry);
        self.disk.forget(id, &mut entry);
        Some(entry)
    }

    /// Puts a batch that waits, or is new, where it belongs.
    fn place(&mut self, id: BatchId, now: Monotonic) {
        self.displace(id);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.place = if !self.disk.has(entry.needs) {
            self.held.insert((entry.needs, id));
            Place::Held(entry.needs)
        } else if entry.not_before > now {
            self.delayed.insert((entry.not_before, id));
            Place::Delayed(entry.not_before)
        } else if entry.body.is_none() {
            self.absent.insert(id);
            Place::Absent
        } else {
            let lane = entry.lane(self.era, now);
            self.lanes.insert(lane, id);
            Place::Lane(lane)
        };
    }

    /// Takes a batch from the place where it waits.
    fn displace(&mut self, id: BatchId) {
        let Some(entry) = self.entries.get(&id) else { return };
        match entry.place {
            Place::Held(needs) => drop(self.held.remove(&(needs, id))),
            Place::Delayed(at) => drop(self.delayed.remove(&(at, id))),
            Place::Absent => drop(self.absent.remove(&id)),
            Place::Loading => drop(self.loading.remove(&id)),
            Place::Lane(lane) => self.lanes.remove(lane, id),
            Place::Flying(_) => {}
        }
    }

    fn count_in(&mut self, entry: &Entry) {
        if entry.body.is_some() {
            self.items += entry.items;
            self.size_bytes += entry.size_bytes;
        } else {
            self.disk.items += entry.items;
        }
    }

    fn count_out(&mut self, entry: &Entry) {
        if entry.body.is_some() {
            self.items -= entry.items;
            self.size_bytes -= entry.size_bytes;
        } else {
            self.disk.items -= entry.items;
        }
    }
}

// === impl Entry ===

impl Entry {
    fn new(batch: Batch, filled_at: UnixNanos, age: Age, numbers: u64) -> Self {
        Self {
            items: batch.items,
            size_bytes: batch.body.len(),
            body: Some(batch.body),
            copy: None,
            origins: batch.origins,
            filled_at,
            begun_at: Monotonic::default(),
            failures: 0,
            answers_seen: 0,
            needs: batch.needs,
            age,
            not_before: Monotonic::default(),
            failed_in: None,
            is_loaded: false,
            is_leaving: false,
            place: Place::Absent,
            numbers,
            was_passed: false,
        }
    }

    /// The name of its copy on disk.
    #[must_use]
    pub fn spool(&self) -> Option<SpoolId> {
        self.copy.as_ref().map(|copy| copy.id)
    }

    /// Notes that it was sent in vain, and is not sent again for `wait(failures)`.
    pub fn wait(&mut self, now: Monotonic, wait: impl FnOnce(u32) -> Duration) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.after(wait(self.failures));
    }

    /// Not sent before this is durable.
    #[must_use]
    pub fn needs(&self) -> Commit {
        self.needs
    }

    /// New, and neither tried nor read from disk.
    pub fn is_live(&self, now: Monotonic) -> bool {
        self.failures == 0 && !self.is_loaded && self.age.at(now) < LIVE_FOR
    }

    fn lane(&self, era: u64, now: Monotonic) -> Lane {
        if self.failed_in == Some(era) {
            Lane::Suspect
        } else if self.is_live(now) {
            Lane::Live
        } else {
            Lane::Backlog
        }
    }
}

impl Age {
    fn at(self, now: Monotonic) -> Duration {
        self.before.saturating_add(Duration::from_nanos(now.since(self.since)))
    }
}
