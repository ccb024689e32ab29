//! What waits to be written, and what may be told of it. No I/O, no clock, no thread.
//!
//! Laws:
//! - The disk holds a prefix of what was pushed. Where that cannot be kept up (more waits than may), there is a *gap*:
//!   from there on everything is dropped, until a push forgets the shards and so needs nothing of before.
//! - Sums, and that batches are settled, outlive a gap: they are carried over it.
//! - While a write failed or there is a gap, every commit counts as durable, so that nobody waits for the disk.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::disk::{Sums, add};
use super::op::{Commit, Op, ShardCheckpoint, SpoolId};
use super::{GROUP_COMMIT_DELAY, MAX_GROUP_BYTES, MAX_WAITING_LOADS};
use crate::exporter::signal::Signal;
use crate::time::{Monotonic, UnixNanos};

/// Bodies that somebody waits for.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) ids: Vec<SpoolId>,
    pub(super) answer: oneshot::Sender<Vec<(SpoolId, Option<Bytes>)>>,
}

/// What is written as one transaction.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) commit: Commit,
    pub(super) ops: Vec<Op>,
    pub(super) sums: Sums,
    pub(super) ids: Vec<SpoolId>,
}

/// A batch that was taken and is not settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spooled {
    pub(super) signal: Signal,
    pub(super) items: u64,
    pub(super) bytes: u64,
    pub(super) filled_at: UnixNanos,
    /// What holds it.
    pub(super) commit: Commit,
}

/// What the writer does next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Answers these.
    Load(Vec<Load>),
    /// Writes this.
    Write(Group),
    /// Tries what failed again.
    Retry,
    /// Asks for a full checkpoint.
    Want,
    /// Closes the database.
    Close,
}

/// When the writer does something.
#[derive(Debug)]
pub(super) enum Next {
    /// Now, and this.
    Do(Turn),
    /// After so long, or when it is woken; with nothing to come, only then.
    Wait(Option<Duration>),
}

/// What came of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) commit: Commit,
    /// It is the first that was dropped.
    pub(super) opened_gap: bool,
    /// The writer waits for something else so far.
    pub(super) is_for_writer: bool,
}

/// How the disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    Works,
    /// The last write failed, and is tried again at an instant.
    Failing {
        error: String,
        retry_at: Monotonic,
    },
}

/// A hole in what the disk knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    None,
    /// Everything is dropped since.
    Open {
        wants_at: Monotonic,
    },
    /// A push that ends it waits to be written.
    Closing {
        by: Commit,
    },
}

/// The buffer between those who push and the writer.
#[derive(Debug)]
pub(super) struct Pending {
    max_bytes: u64,
    retry_interval: Duration,
    ops: Vec<Op>,
    bytes: u64,
    since: Monotonic,
    /// The group that is being gathered.
    next: Commit,
    /// What is on the disk.
    written: Commit,
    /// The bytes that the writer has taken and not written yet.
    in_flight_bytes: u64,
    health: Health,
    gap: Gap,
    has_asked: bool,
    /// What the gathered group writes besides its ops.
    group_sums: Sums,
    group_ids: Vec<SpoolId>,
    /// What is dropped but for this, until the gap ends.
    carried_sums: Sums,
    carried_ids: Vec<SpoolId>,
    pub(super) spool: BTreeMap<SpoolId, Spooled>,
    loads: Vec<Load>,
    is_closing: bool,
    has_ended: bool,
    pub(super) commits: u64,
    pub(super) commit_time: Duration,
    pub(super) failures: u64,
    pub(super) dropped_ops: u64,
    pub(super) damaged: u64,
    pub(super) journal_bytes: u64,
}

impl Pending {
    pub(super) fn new(max_bytes: u64, retry_interval: Duration) -> Self {
        Self {
            max_bytes,
            retry_interval,
            ops: Vec::new(),
            bytes: 0,
            since: Monotonic(0),
            next: Commit(1),
            written: Commit(0),
            in_flight_bytes: 0,
            health: Health::Works,
            gap: Gap::None,
            has_asked: false,
            group_sums: Sums::new(),
            group_ids: Vec::new(),
            carried_sums: Sums::new(),
            carried_ids: Vec::new(),
            spool: BTreeMap::new(),
            loads: Vec::new(),
            is_closing: false,
            has_ended: false,
            commits: 0,
            commit_time: Duration::ZERO,
            failures: 0,
            dropped_ops: 0,
            damaged: 0,
            journal_bytes: 0,
        }
    }

    /// Takes what belongs together, and names what will hold it.
    pub(super) fn push(&mut self, ops: Vec<Op>, now: Monotonic) -> Pushed {
        let mut pushed = Pushed { commit: self.next, opened_gap: false, is_for_writer: false };
        if ops.is_empty() {
            return pushed;
        }
        if self.is_closing {
            self.dropped_ops += ops.len() as u64;
            return pushed;
        }
        // A push is never too large by itself: a full checkpoint must fit whatever it is.
        let has_room = self.waiting_bytes() < self.max_bytes;
        match self.gap {
            Gap::Open { .. } => {
                if has_room && ops.iter().any(|op| matches!(op, Op::ForgetShards)) {
                    self.gap = Gap::Closing { by: self.next };
                    self.group_ids.append(&mut self.carried_ids);
                    for ((signal, reason), items) in std::mem::take(&mut self.carried_sums) {
                        *self.group_sums.entry((signal, reason)).or_default() += items;
                    }
                }
            }
            Gap::None | Gap::Closing { .. } => {
                pushed.opened_gap = !has_room;
                if !has_room {
                    self.gap = Gap::Open { wants_at: now.after(self.retry_interval) };
                }
            }
        }
        self.has_asked &= matches!(self.gap, Gap::Open { .. });
        let (was_empty, had_bytes) = (self.ops.is_empty(), self.bytes);
        match self.gap {
            Gap::Open { .. } => self.carry(ops),
            Gap::None | Gap::Closing { .. } => self.take(ops, now),
        }
        let is_large = had_bytes < MAX_GROUP_BYTES && self.bytes >= MAX_GROUP_BYTES;
        pushed.is_for_writer = was_empty || is_large || pushed.opened_gap;
        pushed
    }

    fn take(&mut self, ops: Vec<Op>, now: Monotonic) {
        if self.ops.is_empty() {
            self.since = now;
        }
        for op in ops {
            match &op {
                Op::Spool { id, signal, items, body, filled_at, .. } => {
                    // Full checkpoints spool again what is on the disk already.
                    if self.spool.contains_key(id) {
                        continue;
                    }
                    let bytes = body.len() as u64;
                    let spooled = Spooled {
                        signal: *signal,
                        items: *items,
                        bytes,
                        filled_at: *filled_at,
                        commit: self.next,
                    };
                    self.spool.insert(*id, spooled);
                }
                Op::Settled { spool: Some(id), .. } => {
                    self.spool.remove(id);
                }
                Op::Settled { spool: None, .. }
                | Op::Journal { .. }
                | Op::Checkpoint { .. }
                | Op::ForgetShards => {}
            }
            self.bytes += cost(&op);
            self.ops.push(op);
        }
    }

    /// Drops ops, but for what outlives a gap.
    fn carry(&mut self, ops: Vec<Op>) {
        for op in ops {
            let Op::Settled { signal, spool, exported, refused, .. } = op else {
                self.dropped_ops += 1;
                continue;
            };
            add(&mut self.carried_sums, signal, exported, &refused);
            // Others were never taken, so that there are never more than batches on the disk.
            let taken = spool.filter(|id| self.spool.remove(id).is_some());
            self.carried_ids.extend(taken);
        }
    }

    /// What the writer does now. It holds a group that failed until that is written.
    pub(super) fn next(&mut self, now: Monotonic) -> Next {
        if !self.loads.is_empty() {
            return Next::Do(Turn::Load(std::mem::take(&mut self.loads)));
        }
        let due = match &self.health {
            Health::Failing { retry_at, .. } => Some(*retry_at),
            Health::Works if !self.ops.is_empty() => Some(match self.bytes < MAX_GROUP_BYTES {
                true => self.since.after(GROUP_COMMIT_DELAY),
                false => now,
            }),
            Health::Works => match self.gap {
                Gap::Open { wants_at } if !self.has_asked => Some(wants_at),
                Gap::Open { .. } | Gap::None | Gap::Closing { .. } => None,
            },
        };
        match (&self.health, due) {
            (_, Some(due)) if now < due && !self.is_closing => {
                Next::Wait(Some(Duration::from_nanos(due.since(now))))
            }
            (Health::Failing { .. }, _) => Next::Do(Turn::Retry),
            (Health::Works, _) if !self.ops.is_empty() => Next::Do(Turn::Write(self.take_group())),
            (Health::Works, _) if self.is_closing => Next::Do(Turn::Close),
            (Health::Works, Some(_)) => {
                self.has_asked = true;
                Next::Do(Turn::Want)
            }
            (Health::Works, None) => Next::Wait(None),
        }
    }

    fn take_group(&mut self) -> Group {
        self.in_flight_bytes = std::mem::take(&mut self.bytes);
        let commit = self.next;
        self.next = Commit(commit.0 + 1);
        Group {
            commit,
            ops: std::mem::take(&mut self.ops),
            sums: std::mem::take(&mut self.group_sums),
            ids: std::mem::take(&mut self.group_ids),
        }
    }

    /// A group is on the disk. Whether that ended trouble comes back.
    pub(super) fn written(&mut self, group: &Group, took: Duration) -> bool {
        let was_in_trouble = self.is_in_trouble();
        self.health = Health::Works;
        self.written = group.commit;
        self.in_flight_bytes = 0;
        self.commits += 1;
        self.commit_time += took;
        if let Gap::Closing { by } = self.gap
            && by <= group.commit
        {
            self.gap = Gap::None;
        }
        was_in_trouble && !self.is_in_trouble()
    }

    /// A group could not be written. Whether this is news comes back.
    pub(super) fn failed(&mut self, error: String, now: Monotonic) -> bool {
        self.failures += 1;
        let is_news = self.health == Health::Works;
        self.health = Health::Failing { error, retry_at: now.after(self.retry_interval) };
        is_news
    }

    /// The last try failed too, and the program ends.
    pub(super) fn abandon(&mut self, group: Option<&Group>) -> u64 {
        let lost = group.map_or(0, |group| group.ops.len()) + self.ops.len();
        self.ops.clear();
        self.dropped_ops += lost as u64;
        lost as u64
    }

    /// Whether a load is taken. One that is not is answered at once, with nothing.
    pub(super) fn load(&mut self, load: Load) -> bool {
        let is_taken = !self.has_ended && self.loads.len() < MAX_WAITING_LOADS;
        if is_taken {
            self.loads.push(load);
        }
        is_taken
    }

    pub(super) const fn close(&mut self) {
        self.is_closing = true;
    }

    /// The writer is no more; whoever waits for it is let go.
    pub(super) fn end(&mut self) {
        self.is_closing = true;
        self.has_ended = true;
        self.loads.clear();
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// The body of a batch that waits to be written.
    pub(super) fn body(&self, id: SpoolId) -> Option<Bytes> {
        body_in(&self.ops, id)
    }

    /// Whether a batch is on the disk.
    pub(super) fn holds(&self, id: SpoolId) -> bool {
        self.spool.get(&id).is_some_and(|spooled| spooled.commit <= self.written)
    }

    /// Everything up to here is on the disk, or is not to be waited for.
    pub(super) fn durable(&self) -> Commit {
        if self.is_in_trouble() || self.has_ended {
            return Commit(u64::MAX);
        }
        self.written
    }

    pub(super) const fn is_in_trouble(&self) -> bool {
        !matches!(self.health, Health::Works) || !matches!(self.gap, Gap::None)
    }

    /// Whether something was dropped.
    pub(super) const fn is_behind(&self) -> bool {
        matches!(self.gap, Gap::Open { .. })
    }

    /// Whether only a full checkpoint helps, and may be tried.
    pub(super) const fn wants_full_checkpoint(&self) -> bool {
        self.has_asked
    }

    /// Why the last write failed, while it is not made good.
    pub(super) fn error(&self) -> Option<&str> {
        match &self.health {
            Health::Works => None,
            Health::Failing { error, .. } => Some(error),
        }
    }

    pub(super) const fn waiting_bytes(&self) -> u64 {
        self.bytes + self.in_flight_bytes
    }
}

/// The body of a batch among ops.
pub(super) fn body_in(ops: &[Op], wanted: SpoolId) -> Option<Bytes> {
    ops.iter().find_map(|op| match op {
        Op::Spool { id, body, .. } if *id == wanted => Some(body.clone()),
        Op::Spool { .. }
        | Op::Journal { .. }
        | Op::Settled { .. }
        | Op::Checkpoint { .. }
        | Op::ForgetShards => None,
    })
}

/// What an op holds in memory, roughly.
fn cost(op: &Op) -> u64 {
    let held = match op {
        Op::Journal { records, .. } => records.len(),
        Op::Spool { body, .. } => body.len(),
        Op::Settled { .. } | Op::ForgetShards => 0,
        Op::Checkpoint { state: ShardCheckpoint { head, puts, deletes, .. }, .. } => {
            let rows: usize = puts.iter().map(|row| size_of_val(row) + row.1.len()).sum();
            head.len() + rows + size_of_val(&deletes[..])
        }
    };
    (size_of::<Op>() + held) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(10);

    fn pending() -> Pending {
        Pending::new(10_000, RETRY)
    }

    fn at(millis: u64) -> Monotonic {
        Monotonic(0).after(Duration::from_millis(millis))
    }

    fn journal(length: usize) -> Vec<Op> {
        vec![Op::Journal { shard: 0, records: vec![0; length].into() }]
    }

    /// The group that is due now.
    fn group(pending: &mut Pending, now: Monotonic) -> Group {
        let Next::Do(Turn::Write(group)) = pending.next(now) else { panic!("no group is due") };
        group
    }

    fn waits(pending: &mut Pending, now: Monotonic) -> Option<Duration> {
        let Next::Wait(wait) = pending.next(now) else { panic!("there is something to do") };
        wait
    }

    #[test]
    fn an_idle_store_waits_without_end() {
        let mut pending = pending();
        assert_eq!(waits(&mut pending, at(0)), None);
        pending.push(journal(1), at(0));
        let group = group(&mut pending, at(50));
        pending.written(&group, Duration::ZERO);
        assert_eq!(waits(&mut pending, at(50)), None);
        assert!(pending.push(vec![], at(60)).commit == Commit(2) && waits(&mut pending, at(60)).is_none());
    }

    #[test]
    fn a_push_waits_for_others_for_the_delay_and_the_writer_is_woken_once() {
        let mut pending = pending();
        let pushed = |is_for_writer| Pushed { commit: Commit(1), opened_gap: false, is_for_writer };
        assert_eq!(pending.push(journal(1), at(100)), pushed(true));
        assert_eq!(pending.push(journal(1), at(120)), pushed(false));
        assert_eq!(waits(&mut pending, at(120)), Some(Duration::from_millis(30)));
        let group = group(&mut pending, at(150));
        assert_eq!((group.commit, group.ops.len()), (Commit(1), 2));
        assert_eq!((pending.durable(), pending.push(journal(1), at(150)).commit), (Commit(0), Commit(2)));
        assert!(!pending.written(&group, Duration::from_millis(3)));
        assert_eq!((pending.durable(), pending.commit_time), (Commit(1), Duration::from_millis(3)));
    }

    #[test]
    fn much_is_written_without_waiting() {
        let mut pending = Pending::new(u64::MAX, RETRY);
        pending.push(journal(1), at(0));
        assert!(pending.push(journal(MAX_GROUP_BYTES as usize), at(0)).is_for_writer);
        assert_eq!(group(&mut pending, at(0)).ops.len(), 2);
    }

    #[test]
    fn a_write_that_failed_is_tried_again_and_nobody_waits_meanwhile() {
        let mut pending = pending();
        pending.push(journal(1), at(0));
        let group = group(&mut pending, at(50));
        assert!(pending.failed("no room".to_owned(), at(60)));
        assert_eq!((pending.durable(), pending.error()), (Commit(u64::MAX), Some("no room")));
        assert!(!pending.push(journal(1), at(70)).opened_gap);
        assert_eq!(waits(&mut pending, at(70)), Some(Duration::from_millis(9_990)));
        assert!(matches!(pending.next(at(10_060)), Next::Do(Turn::Retry)));
        assert!(!pending.failed("no room".to_owned(), at(10_060)));
        assert!(pending.written(&group, Duration::ZERO));
        assert_eq!((pending.durable(), pending.failures, pending.dropped_ops), (Commit(1), 2, 0));
    }

    /// A second gap opens while the push that closes the first is on its way to the disk.
    #[test]
    fn only_the_push_that_closes_the_last_gap_makes_things_durable() {
        let mut pending = pending();
        let forget = || vec![Op::ForgetShards];
        pending.push(journal(20_000), at(0));
        assert!(pending.push(journal(1), at(1)).opened_gap);
        assert!(!pending.push(forget(), at(2)).opened_gap);
        let first = group(&mut pending, at(50));
        assert!(!pending.written(&first, Duration::ZERO));
        assert!(matches!(pending.next(at(10_001)), Next::Do(Turn::Want)));
        assert!(pending.wants_full_checkpoint());
        assert_eq!(waits(&mut pending, at(10_002)), None);

        assert_eq!(pending.push(forget(), at(10_003)).commit, Commit(2));
        assert!(!pending.wants_full_checkpoint());
        let closing = group(&mut pending, at(10_053));
        pending.push(journal(20_000), at(10_054));
        assert!(pending.push(journal(1), at(10_055)).opened_gap);
        let in_between = {
            assert!(!pending.written(&closing, Duration::ZERO));
            group(&mut pending, at(10_104))
        };
        assert!(!pending.written(&in_between, Duration::ZERO));
        assert_eq!(pending.durable(), Commit(u64::MAX));
        pending.push(forget(), at(10_105));
        let last = group(&mut pending, at(10_155));
        assert!(pending.written(&last, Duration::ZERO));
        assert_eq!((pending.durable(), pending.dropped_ops), (Commit(4), 3));
    }

    #[test]
    fn the_end_writes_what_waits_and_tries_what_failed_once_more() {
        let mut pending = pending();
        pending.push(journal(1), at(0));
        pending.close();
        let taken = group(&mut pending, at(0));
        pending.failed("no room".to_owned(), at(0));
        assert!(matches!(pending.next(at(1)), Next::Do(Turn::Retry)));
        pending.written(&taken, Duration::ZERO);
        assert!(matches!(pending.next(at(1)), Next::Do(Turn::Close)));
    }
}
