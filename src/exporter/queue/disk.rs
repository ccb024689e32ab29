//! Which batches have a copy on disk, which leave memory for it, and which are read back.

use super::*;
use crate::store::SpoolEntry;

/// Bytes that are read from disk ahead of their turn: some requests in flight, and as many again. Where the queue's bound is
/// small, an eighth of that. One batch always, even if memory is full: else a small bound would keep what is on disk there
/// for ever.
pub const READ_AHEAD_BYTES: usize = 8 << 20;

/// Batches on disk, however small: each is known to memory by some 300 bytes. At one every five
/// seconds, these are days.
pub const MAX_SPOOLED_BATCHES: usize = 100_000;

/// A copy of a batch on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskCopy {
    /// Its name.
    pub id: SpoolId,
    /// What it was written with; larger than any until that is known.
    pub commit: Commit,
}

/// Later than any commit.
pub(super) const UNPUSHED: Commit = Commit(u64::MAX);

/// What concerns the disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// There is one, and it takes what is written.
    works: bool,
    durable: Commit,
    /// Batches in memory that wait, and did not come from disk.
    pub(super) resident: BTreeSet<BatchId>,
    /// Without a copy.
    pub(super) uncopied: BTreeSet<BatchId>,
    /// In memory until their copy is durable.
    leaving: BTreeSet<BatchId>,
    leaving_bytes: usize,
    leaving_items: u64,
    copies: HashMap<SpoolId, BatchId>,
    /// Whose copy is not known to be durable, by what writes it.
    undurable: BTreeSet<(Commit, BatchId)>,
    copies_bytes: u64,
    /// Items that are nowhere else.
    pub(super) items: u64,
    /// Bytes being read, or read and not settled.
    read_ahead_bytes: usize,
    /// The part of it that was read.
    loaded_bytes: usize,
    loaded_items: u64,
}

impl Disk {
    /// Whether `needs` is durable, or nothing ever will be.
    pub(super) fn has(&self, needs: Commit) -> bool {
        needs <= self.durable || !self.works
    }

    /// What is left of `items` and `bytes` in memory without those that leave it: they have been handed to the store, which
    /// bounds what waits there to be written.
    pub(super) fn staying(&self, items: u64, bytes: usize) -> (u64, usize) {
        (items.saturating_sub(self.leaving_items), bytes.saturating_sub(self.leaving_bytes))
    }

    pub(super) fn count_copy(&mut self, id: BatchId, copy: SpoolId, size_bytes: usize) {
        self.copies.insert(copy, id);
        self.copies_bytes += size_bytes as u64;
    }

    /// Counts a piece of what was read.
    pub(super) fn count_ahead(&mut self, size_bytes: usize, items: u64) {
        self.loaded_bytes += size_bytes;
        self.loaded_items += items;
        self.read_ahead_bytes += size_bytes;
    }

    fn uncount_copy(&mut self, copy: DiskCopy, id: BatchId, size_bytes: usize) {
        self.copies.remove(&copy.id);
        self.undurable.remove(&(copy.commit, id));
        self.copies_bytes -= size_bytes as u64;
    }

    pub(super) fn stop_leaving(&mut self, id: BatchId, entry: &mut Entry) {
        if std::mem::take(&mut entry.is_leaving) {
            self.leaving.remove(&id);
            self.leaving_bytes -= entry.size_bytes;
            self.leaving_items -= entry.items;
        }
    }

    pub(super) fn forget(&mut self, id: BatchId, entry: &mut Entry) {
        self.resident.remove(&id);
        self.uncopied.remove(&id);
        self.stop_leaving(id, entry);
        if let Some(copy) = entry.copy {
            self.uncount_copy(copy, id, entry.size_bytes);
        }
        if entry.is_loaded || entry.place == Place::Loading {
            self.read_ahead_bytes -= entry.size_bytes;
        }
        if entry.is_loaded {
            self.uncount_loaded(entry.size_bytes, entry.items);
        }
    }

    fn uncount_loaded(&mut self, size_bytes: usize, items: u64) {
        self.loaded_bytes -= size_bytes;
        self.loaded_items -= items;
    }
}

impl Queue {
    /// Takes over what an earlier run left on disk. Older ones first.
    pub fn recover(&mut self, left: &SpoolEntry, now: Now) {
        let id = BatchId(self.next_id);
        self.next_id += NUMBERS_A_BATCH;
        let before = u64::try_from(now.wall.since(left.filled_at)).unwrap_or(0);
        let age = Age { before: Duration::from_nanos(before), since: now.mono };
        let batch =
            Batch { body: Bytes::new(), items: left.items, needs: Commit(0), origins: left.origins.clone() };
        let mut entry = Entry::new(batch, left.filled_at, age, NUMBERS_A_BATCH);
        entry.body = None;
        entry.size_bytes = usize::try_from(left.bytes).unwrap_or(usize::MAX);
        entry.copy = Some(DiskCopy { id: left.id, commit: Commit(0) });
        self.insert(id, entry, now.mono);
    }

    /// Notes what is durable, and whether there is a disk that takes what is written.
    pub fn note_store(&mut self, durable: Commit, works: bool, now: Monotonic) {
        if works {
            self.disk.durable = self.disk.durable.max(durable);
        }
        let broke = self.disk.works && !works;
        self.disk.works = works;
        while let Some((_, id)) =
            self.disk.undurable.first().copied().filter(|(commit, _)| *commit <= self.disk.durable)
        {
            self.disk.undurable.pop_first();
            if self.entries.get(&id).is_some_and(|entry| entry.is_leaving) {
                self.leave(id);
            }
        }
        if broke {
            // Whatever is not known to be on disk stays in memory.
            for id in self.disk.leaving.clone() {
                if let Some(entry) = self.entries.get_mut(&id) {
                    self.disk.stop_leaving(id, entry);
                    self.disk.resident.insert(id);
                }
            }
        }
        self.advance(now);
    }

    /// Whether there is a disk that takes what is written.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.disk.works
    }

    /// Forgets the copies that are not known to be durable. Returns their names.
    pub fn forget_doubtful_copies(&mut self) -> Vec<SpoolId> {
        let doubtful = std::mem::take(&mut self.disk.undurable);
        let mut names = Vec::with_capacity(doubtful.len());
        for (_, id) in doubtful {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let Some(copy) = entry.copy.take() else { continue };
            if entry.needs == UNPUSHED {
                entry.needs = Commit(0);
            }
            self.disk.uncount_copy(copy, id, entry.size_bytes);
            self.disk.uncopied.insert(id);
            names.push(copy.id);
        }
        names
    }

    /// Whether memory is so full, by half, that something should leave it, with what is in the batch being filled. The other
    /// half is for what comes while the disk writes.
    #[must_use]
    pub fn is_memory_low(&self, open_items: u64, open_bytes: usize) -> bool {
        self.holds_more_than(2, open_items, open_bytes)
    }

    /// Whether three quarters of memory are taken.
    #[must_use]
    pub fn is_memory_scarce(&self, open_items: u64, open_bytes: usize) -> bool {
        self.holds_more_than(3, open_items, open_bytes)
    }

    fn holds_more_than(&self, quarters: usize, open_items: u64, open_bytes: usize) -> bool {
        let (items, bytes) = self.disk.staying(self.items, self.size_bytes);
        // What was read is on disk already: it pushes nothing there.
        let items = (items + open_items).saturating_sub(self.disk.loaded_items);
        let bytes = (bytes + open_bytes).saturating_sub(self.disk.loaded_bytes);
        bytes > self.settings.max_bytes / 4 * quarters
            || self.settings.max_items.is_some_and(|max| items > max * quarters as u64 / 4)
    }

    /// The batch that leaves memory next, oldest first.
    #[must_use]
    pub fn next_to_leave(&self) -> Option<(BatchId, &Entry)> {
        let id = *self.disk.resident.first()?;
        Some((id, self.entries.get(&id)?))
    }

    /// Lets a batch that waits leave memory: now if its copy is durable, else as soon as it is. Without a copy it stays.
    pub fn leave(&mut self, id: BatchId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(copy) = entry.copy else { return };
        self.disk.resident.remove(&id);
        if copy.commit > self.disk.durable {
            if !entry.is_leaving && !entry.is_loaded {
                entry.is_leaving = true;
                self.disk.leaving.insert(id);
                self.disk.leaving_bytes += entry.size_bytes;
                self.disk.leaving_items += entry.items;
            }
            return;
        }
        if entry.body.take().is_none() {
            return;
        }
        self.disk.stop_leaving(id, entry);
        if std::mem::take(&mut entry.is_loaded) {
            self.disk.read_ahead_bytes -= entry.size_bytes;
            self.disk.uncount_loaded(entry.size_bytes, entry.items);
        }
        self.items -= entry.items;
        self.size_bytes -= entry.size_bytes;
        self.disk.items += entry.items;
        if let Place::Lane(lane) = entry.place {
            entry.place = Place::Absent;
            self.lanes.remove(lane, id);
            self.absent.insert(id);
        }
    }

    /// Whether the disk's bounds let `batches` more of `bytes` in all be written.
    #[must_use]
    pub fn has_disk_room(&self, batches: usize, bytes: u64) -> bool {
        self.disk.copies_bytes + bytes <= self.settings.max_spool_bytes
            && self.disk.copies.len() + batches <= MAX_SPOOLED_BATCHES
    }

    /// Takes out a batch that waits, if it is larger than all the room on disk.
    pub fn drop_larger_than_disk(&mut self, id: BatchId) -> Option<Entry> {
        let entry = self.entries.get(&id)?;
        let is_larger = entry.size_bytes as u64 > self.settings.max_spool_bytes;
        if is_larger && !matches!(entry.place, Place::Flying(_)) { self.take(id) } else { None }
    }

    /// Takes out the oldest batch that waits and has room on disk, or is one of `coming`, which are to be written.
    pub fn drop_oldest_on_disk(&mut self, coming: &BTreeSet<BatchId>) -> Option<(BatchId, Entry)> {
        let (&id, _) = self.entries.iter().find(|(id, entry)| {
            let waits = !matches!(entry.place, Place::Flying(_));
            waits && (entry.copy.is_some() || coming.contains(*id))
        })?;
        Some((id, self.take(id)?))
    }

    /// How large a batch is, wherever it is.
    #[must_use]
    pub fn batch_bytes(&self, id: BatchId) -> u64 {
        self.entries.get(&id).map_or(0, |entry| entry.size_bytes as u64)
    }

    /// Batches without a copy, oldest first.
    pub fn uncopied(&self) -> impl Iterator<Item = BatchId> {
        self.disk.uncopied.iter().copied()
    }

    /// Notes that a copy is going to be written under the name `copy`. `first`: the batch is not sent before.
    pub fn copy(&mut self, id: BatchId, copy: SpoolId, first: bool, now: Monotonic) -> Option<&Entry> {
        let entry = self.entries.get_mut(&id)?;
        entry.copy = Some(DiskCopy { id: copy, commit: UNPUSHED });
        let size_bytes = entry.size_bytes;
        if first {
            entry.needs = UNPUSHED;
        }
        self.disk.uncopied.remove(&id);
        self.disk.undurable.insert((UNPUSHED, id));
        self.disk.count_copy(id, copy, size_bytes);
        if first {
            self.place(id, now);
        }
        self.entries.get(&id)
    }

    /// Notes that every copy that was going to be written is, with `commit`.
    pub fn pushed(&mut self, commit: Commit, now: Monotonic) {
        while let Some((_, id)) = self.disk.undurable.last().copied().filter(|(of, _)| *of == UNPUSHED) {
            self.disk.undurable.pop_last();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let Some(copy) = &mut entry.copy else { continue };
            copy.commit = commit;
            self.disk.undurable.insert((commit, id));
            if entry.needs == UNPUSHED {
                entry.needs = commit;
                self.place(id, now);
            }
        }
    }

    /// The batches to be read next, as far as there is room for them beside `open_items` in the batch being filled; the other
    /// half of the room is for what comes.
    pub fn next_loads(&mut self, open_items: u64) -> Vec<SpoolId> {
        let room = READ_AHEAD_BYTES.min(self.settings.max_bytes / 8);
        let mut items = open_items + self.items;
        items += self.loading.iter().map(|id| self.entries[id].items).sum::<u64>();
        let mut names = Vec::new();
        let awaited = self.awaited();
        while let Some(&id) = self.absent.first() {
            let Some(entry) = self.entries.get_mut(&id) else { break };
            items += entry.items;
            let ahead = self.disk.read_ahead_bytes;
            let fits = ahead + entry.size_bytes <= room
                && self.settings.max_items.is_none_or(|max| items <= max / 2);
            let is_awaited = awaited == Some(id);
            let Some(copy) = entry.copy.filter(|_| ahead == 0 || fits || is_awaited) else { break };
            self.disk.read_ahead_bytes += entry.size_bytes;
            entry.place = Place::Loading;
            self.absent.remove(&id);
            self.loading.insert(id);
            names.push(copy.id);
        }
        names
    }

    /// Takes the bytes of a batch that was read. Without bytes the batch is lost, and returned.
    pub fn loaded(&mut self, name: SpoolId, body: Option<Bytes>, now: Monotonic) -> Option<Entry> {
        let id = *self.disk.copies.get(&name)?;
        let entry = self.entries.get_mut(&id).filter(|entry| entry.place == Place::Loading)?;
        let Some(body) = body.filter(|body| body.len() == entry.size_bytes) else { return self.take(id) };
        entry.body = Some(body);
        entry.is_loaded = true;
        self.disk.loaded_bytes += entry.size_bytes;
        self.disk.loaded_items += entry.items;
        self.disk.items -= entry.items;
        self.items += entry.items;
        self.size_bytes += entry.size_bytes;
        // `place` takes it out of those that are being read; what that takes is counted until it is settled.
        self.place(id, now);
        None
    }

    /// Notes that a batch that was to be read was not, and lets it wait until `not_before`.
    pub fn not_loaded(&mut self, name: SpoolId, not_before: Monotonic, now: Monotonic) {
        let Some(&id) = self.disk.copies.get(&name) else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.place == Place::Loading {
            self.disk.read_ahead_bytes -= entry.size_bytes;
            entry.not_before = not_before;
            self.place(id, now);
        }
    }

    /// Takes every body out of memory: whatever has no copy by now is lost with it.
    pub fn abandon_memory(&mut self) {
        for entry in self.entries.values_mut() {
            if entry.body.take().is_some() {
                self.items -= entry.items;
                self.size_bytes -= entry.size_bytes;
                self.disk.items += entry.items;
            }
        }
    }

    /// Items that are only on disk.
    #[must_use]
    pub fn spooled_items(&self) -> u64 {
        self.disk.items
    }

    /// Batches on disk.
    #[must_use]
    pub fn spooled_batches(&self) -> u64 {
        self.disk.copies.len() as u64
    }

    /// Bytes on disk.
    #[must_use]
    pub fn spooled_bytes(&self) -> u64 {
        self.disk.copies_bytes
    }
}
