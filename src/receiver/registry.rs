//! The workers that the bridge knows, and who may claim which id.
//!
//! A *name* is a node and an id; its *incarnations* differ in their pid, and each is a worker key.
//!
//! | claim | outcome |
//! |---|---|
//! | a name that nobody has | a new worker |
//! | the same name and pid, from the same host | the same worker: a reconnect, or a second stream that feeds it too |
//! | another pid, from the same host | a new incarnation; the newest until then is superseded |
//! | a pid that this name had before | that incarnation again; nobody is superseded, so two live ones cannot oust each other in turns |
//! | a name with open streams, or the very key, from another host | the id gets a suffix (`worker_1#2`): nobody takes over another's state |
//! | a name without streams, with another pid, from another host | a new incarnation: the worker has moved |
//! | a new worker when `max_workers` are known | refused; known ones always return |
//!
//! A worker is known until the engine has forgotten it. It may forget a worker while a new stream of it is on its way,
//! so it says how many streams it had seen since it began to know it: each stream is settled once, and a worker is
//! forgotten when none is unsettled.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::identity::PeerHost;
use crate::engine::KnownWorker;
use crate::engine::StreamId;
use crate::worker::WorkerKey;

/// Hosts that may hold one name, by suffix; more are a configuration error or an attack.
const MAX_HOSTS_PER_NAME: usize = 8;

/// Pids of a name that are remembered as having been there before. More live processes under one id can oust each
/// other again.
const MAX_PIDS_PER_NAME: usize = 16;

/// Streams that one worker may have open: a worker needs one, or two around a reconnect.
pub const MAX_STREAMS_PER_WORKER: u32 = 4_096;

/// A stream's claim to be of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// By [`super::identity`].
    pub node: &'a Arc<str>,
    /// The id that it wants.
    pub id: &'a Arc<str>,
    /// Its pid.
    pub pid: Option<u32>,
    /// Where it comes from.
    pub host: PeerHost,
}

/// A claim that was granted.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    /// The key, its id with a suffix where the name is another host's.
    pub worker: WorkerKey,
    /// The incarnation that this one replaces.
    pub superseded: Option<WorkerKey>,
    /// The id has a suffix.
    pub suffixed: bool,
}

/// A worker that was known before a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returning {
    /// Its key, a suffix included.
    pub worker: WorkerKey,
    /// Where it came from.
    pub host: PeerHost,
    /// Streams that the engine had seen of it, and will report when it forgets it.
    pub streams: u64,
}

impl From<KnownWorker> for Returning {
    fn from(KnownWorker { key, identity, streams }: KnownWorker) -> Self {
        Self { worker: key, host: PeerHost::of(&identity), streams }
    }
}

/// Why a claim was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `max_workers` are known, and this is another.
    #[error("the bridge already knows {0} workers, its limit (limits.max_workers)")]
    TooManyWorkers(usize),
    /// One worker opens stream upon stream.
    #[error("this worker already has {MAX_STREAMS_PER_WORKER} streams open")]
    TooManyStreams,
    /// One name is claimed from everywhere.
    #[error("{MAX_HOSTS_PER_NAME} other hosts already have a worker of this id and node")]
    TooManyHosts,
}

/// The known workers.
#[derive(Debug)]
pub struct Registry {
    max_workers: usize,
    next_stream: AtomicU64,
    /// Guards the table; held for a few look-ups, never over an await.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    names: HashMap<(Arc<str>, Arc<str>), Name>,
    /// Incarnations of all names.
    known: usize,
}

#[derive(Debug)]
struct Name {
    host: PeerHost,
    /// The newest pid.
    current: Option<u32>,
    /// Pids that it has had, oldest first.
    pids: VecDeque<u32>,
    incarnations: SmallVec<[Incarnation; 1]>,
}

#[derive(Debug)]
struct Incarnation {
    pid: Option<u32>,
    open_streams: u32,
    /// Streams so far that the engine has not yet reported with a forgotten worker.
    unsettled_streams: u64,
}

impl Registry {
    /// A registry of at most `max_workers`.
    #[must_use]
    pub fn new(max_workers: usize) -> Self {
        Self { max_workers, next_stream: AtomicU64::new(1), table: Mutex::default() }
    }

    /// Knows again who was known before a restart, each with the streams that its engine had seen: none has a stream, and
    /// all may return. Numbers of streams go on from `next_stream`.
    pub fn restore(&self, workers: impl IntoIterator<Item = Returning>, next_stream: StreamId) {
        self.next_stream.fetch_max(next_stream.0, Ordering::Relaxed);
        let mut table = self.table();
        for Returning { worker, host, streams } in workers {
            let name = table.names.entry((worker.node, worker.id)).or_insert_with(|| Name::new(host));
            name.meet(worker.pid);
            name.incarnations.push(Incarnation {
                pid: worker.pid,
                open_streams: 0,
                unsettled_streams: streams,
            });
            table.known += 1;
        }
    }

    /// A number for a new stream.
    pub fn next_stream(&self) -> StreamId {
        StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// Opens a stream of a worker. Each granted claim is followed by one [`Registry::release`].
    ///
    /// # Errors
    /// When a limit is reached.
    pub fn claim(&self, claim: Claim<'_>) -> Result<Granted, Refusal> {
        let mut table = self.table();
        let (id, suffixed) = table.find_name(claim).ok_or(Refusal::TooManyHosts)?;
        let at_limit = table.known >= self.max_workers;
        let worker = WorkerKey { node: Arc::clone(claim.node), id: Arc::clone(&id), pid: claim.pid };
        let name = table.names.get(&(Arc::clone(claim.node), Arc::clone(&id)));
        let is_known = name.is_some_and(|name| name.incarnation(claim.pid).is_some());
        // A worker that restarts takes the place of its last incarnation.
        let replaces = name.is_some_and(|name| !name.has_streams() && name.incarnations.len() == 1);
        if at_limit && !is_known && !replaces {
            return Err(Refusal::TooManyWorkers(self.max_workers));
        }
        if name
            .and_then(|name| name.incarnation(claim.pid))
            .is_some_and(|known| known.open_streams >= MAX_STREAMS_PER_WORKER)
        {
            return Err(Refusal::TooManyStreams);
        }

        let name = table.names.entry((Arc::clone(claim.node), id)).or_insert_with(|| Name::new(claim.host));
        name.host = claim.host;
        let superseded = name.meet(claim.pid).map(|pid| WorkerKey { pid: Some(pid), ..worker.clone() });
        name.open(claim.pid);
        if !is_known {
            table.known += 1;
        }
        Ok(Granted { worker, superseded, suffixed })
    }

    /// A stream of this worker is over. It is not forgotten yet: its state outlives its streams.
    pub fn release(&self, worker: &WorkerKey) {
        self.table().with_incarnation(worker, |incarnation| {
            incarnation.open_streams = incarnation.open_streams.saturating_sub(1);
        });
    }

    /// The engine has forgotten this worker, of which it had seen `streams` open since it began to know it. So had
    /// a shard that never learnt of a stream.
    pub fn forget(&self, worker: &WorkerKey, streams: u64) {
        let mut table = self.table();
        let mut settled = false;
        table.with_incarnation(worker, |incarnation| {
            incarnation.unsettled_streams = incarnation.unsettled_streams.saturating_sub(streams);
            settled = incarnation.unsettled_streams == 0;
        });
        if settled {
            table.remove(worker);
        }
    }

    /// How many workers are known.
    #[must_use]
    pub fn known_workers(&self) -> usize {
        self.table().known
    }

    /// The table is only ever changed by code that does not panic half-way.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The id, with a suffix where needed, under which this claim is good: its own from before, else the first that is
    /// free.
    fn find_name(&self, claim: Claim<'_>) -> Option<(Arc<str>, bool)> {
        let name = |id: &Arc<str>| self.names.get(&(Arc::clone(claim.node), Arc::clone(id)));
        let ids: SmallVec<[(Arc<str>, bool); MAX_HOSTS_PER_NAME]> = (1..=MAX_HOSTS_PER_NAME)
            .map(|number| match number {
                1 => (Arc::clone(claim.id), false),
                _ => (Arc::from(format!("{}#{number}", claim.id)), true),
            })
            .collect();
        let returning = ids.iter().find(|(id, _)| {
            name(id).is_some_and(|name| name.host == claim.host && name.incarnation(claim.pid).is_some())
        });
        returning
            .or_else(|| ids.iter().find(|(id, _)| name(id).is_none_or(|name| name.is_open_to(claim))))
            .cloned()
    }

    fn with_incarnation(&mut self, worker: &WorkerKey, change: impl FnOnce(&mut Incarnation)) {
        let name = self.names.get_mut(&(Arc::clone(&worker.node), Arc::clone(&worker.id)));
        let incarnation =
            name.and_then(|name| name.incarnations.iter_mut().find(|known| known.pid == worker.pid));
        if let Some(incarnation) = incarnation {
            change(incarnation);
        }
    }

    fn remove(&mut self, worker: &WorkerKey) {
        let key = (Arc::clone(&worker.node), Arc::clone(&worker.id));
        let Some(name) = self.names.get_mut(&key) else { return };
        let before = name.incarnations.len();
        name.incarnations.retain(|known| known.pid != worker.pid);
        self.known -= before - name.incarnations.len();
        if name.incarnations.is_empty() {
            self.names.remove(&key);
        }
    }
}

impl Name {
    fn new(host: PeerHost) -> Self {
        Self { host, current: None, pids: VecDeque::new(), incarnations: SmallVec::new() }
    }

    fn incarnation(&self, pid: Option<u32>) -> Option<&Incarnation> {
        self.incarnations.iter().find(|known| known.pid == pid)
    }

    fn has_streams(&self) -> bool {
        self.incarnations.iter().any(|known| known.open_streams > 0)
    }

    fn is_open_to(&self, claim: Claim<'_>) -> bool {
        self.host == claim.host || (!self.has_streams() && self.incarnation(claim.pid).is_none())
    }

    /// Takes note of a pid; returns the one that it supersedes.
    fn meet(&mut self, pid: Option<u32>) -> Option<u32> {
        let pid = pid?;
        if self.pids.contains(&pid) {
            return None;
        }
        if self.pids.len() == MAX_PIDS_PER_NAME {
            self.pids.pop_front();
        }
        self.pids.push_back(pid);
        let before = self.current.replace(pid);
        before.filter(|before| self.incarnation(Some(*before)).is_some())
    }

    fn open(&mut self, pid: Option<u32>) {
        match self.incarnations.iter_mut().find(|known| known.pid == pid) {
            Some(known) => {
                known.open_streams += 1;
                known.unsettled_streams += 1;
            }
            None => self.incarnations.push(Incarnation { pid, open_streams: 1, unsettled_streams: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: PeerHost = PeerHost::Own;

    #[test]
    fn a_new_name_is_a_new_worker() {
        let registry = Registry::new(10);

        let granted = claim(&registry, "w", Some(1), HERE).unwrap();

        assert_eq!(granted, Granted { worker: key("w", Some(1)), superseded: None, suffixed: false });
        assert_eq!(registry.known_workers(), 1);
    }

    #[test]
    fn a_reconnect_from_the_same_host_feeds_the_same_worker() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();

        let again = claim(&registry, "w", Some(1), HERE).unwrap();

        assert_eq!(again, Granted { worker: key("w", Some(1)), superseded: None, suffixed: false });
        assert_eq!(registry.known_workers(), 1);
    }

    #[test]
    fn another_pid_supersedes_the_newest_incarnation() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();

        let second = claim(&registry, "w", Some(2), HERE).unwrap();
        let third = claim(&registry, "w", Some(3), HERE).unwrap();

        assert_eq!(second.superseded, Some(key("w", Some(1))));
        assert_eq!(third.superseded, Some(key("w", Some(2))));
        assert_eq!(registry.known_workers(), 3);
    }

    #[test]
    fn two_live_processes_under_one_id_do_not_oust_each_other_in_turns() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();
        claim(&registry, "w", Some(2), HERE).unwrap();
        registry.release(&key("w", Some(1)));
        registry.forget(&key("w", Some(1)), 1);

        for pid in [1, 2, 1, 2] {
            let back = claim(&registry, "w", Some(pid), HERE).unwrap();
            assert_eq!(back, Granted { worker: key("w", Some(pid)), superseded: None, suffixed: false });
        }
    }

    #[test]
    fn a_forgotten_incarnation_is_not_superseded() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();
        claim(&registry, "w", None, HERE).unwrap();
        registry.forget(&key("w", Some(1)), 1);

        assert_eq!(claim(&registry, "w", Some(2), HERE).unwrap().superseded, None);
    }

    #[test]
    fn a_worker_without_pid_supersedes_nobody() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();

        assert_eq!(claim(&registry, "w", None, HERE).unwrap().superseded, None);
    }

    #[test]
    fn a_live_key_claimed_from_another_host_gets_a_suffix() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();

        let same_pid = claim(&registry, "w", Some(1), host(7)).unwrap();
        let other_pid = claim(&registry, "w", Some(2), host(8)).unwrap();

        assert_eq!(same_pid, Granted { worker: key("w#2", Some(1)), superseded: None, suffixed: true });
        assert_eq!(other_pid, Granted { worker: key("w#3", Some(2)), superseded: None, suffixed: true });
    }

    #[test]
    fn a_key_in_its_grace_is_not_taken_over_from_another_host() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();
        registry.release(&key("w", Some(1)));

        assert_eq!(claim(&registry, "w", Some(1), host(7)).unwrap().worker, key("w#2", Some(1)));
    }

    #[test]
    fn a_host_finds_its_suffix_again() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), HERE).unwrap();
        claim(&registry, "w", Some(1), host(7)).unwrap();
        claim(&registry, "w", Some(1), host(8)).unwrap();
        for id in ["w", "w#2", "w#3"] {
            registry.release(&key(id, Some(1)));
        }
        registry.forget(&key("w", Some(1)), 1);
        registry.forget(&key("w#2", Some(1)), 1);

        assert_eq!(claim(&registry, "w", Some(1), host(8)).unwrap().worker, key("w#3", Some(1)));
    }

    #[test]
    fn a_worker_that_moved_keeps_its_name() {
        let registry = Registry::new(10);
        claim(&registry, "w", Some(1), host(7)).unwrap();
        registry.release(&key("w", Some(1)));

        let moved = claim(&registry, "w", Some(2), host(8)).unwrap();

        let expected =
            Granted { worker: key("w", Some(2)), superseded: Some(key("w", Some(1))), suffixed: false };
        assert_eq!(moved, expected);
    }

    #[test]
    fn a_name_claimed_from_everywhere_is_refused_in_the_end() {
        let registry = Registry::new(100);
        for number in 1..=8 {
            claim(&registry, "w", Some(1), host(number)).unwrap();
        }
        assert_eq!(claim(&registry, "w", Some(1), host(9)), Err(Refusal::TooManyHosts));
    }

    #[test]
    fn who_was_known_before_a_restart_may_return() {
        let registry = Registry::new(2);
        let returning = |id, pid, host| Returning { worker: key(id, Some(pid)), host, streams: 3 };
        registry.restore([returning("a", 1, HERE), returning("b", 2, host(7))], StreamId(42));

        assert_eq!(registry.next_stream(), StreamId(42));
        assert_eq!(registry.known_workers(), 2);
        assert_eq!(claim(&registry, "c", None, HERE), Err(Refusal::TooManyWorkers(2)));
        assert_eq!(claim(&registry, "b", Some(2), host(7)).unwrap().worker, key("b", Some(2)));
        let restarted = claim(&registry, "a", Some(9), HERE).unwrap();
        assert_eq!(restarted.superseded, Some(key("a", Some(1))));
        registry.forget(&key("a", Some(1)), 3);
        registry.release(&key("a", Some(9)));
        registry.forget(&key("a", Some(9)), 1);
        assert_eq!(registry.known_workers(), 1);
    }

    #[test]
    fn one_worker_too_many_is_refused_and_known_ones_return() {
        let registry = Registry::new(2);
        claim(&registry, "a", None, HERE).unwrap();
        claim(&registry, "b", Some(1), HERE).unwrap();
        registry.release(&key("a", None));
        registry.release(&key("b", Some(1)));

        assert_eq!(claim(&registry, "c", None, HERE), Err(Refusal::TooManyWorkers(2)));
        assert!(claim(&registry, "a", None, HERE).is_ok());
        assert!(claim(&registry, "b", Some(2), HERE).is_ok(), "a restart takes its last incarnation's place");
        assert_eq!(claim(&registry, "b", Some(3), HERE), Err(Refusal::TooManyWorkers(2)));

        registry.release(&key("a", None));
        registry.forget(&key("a", None), 2);
        registry.forget(&key("b", Some(1)), 1);
        assert!(claim(&registry, "c", None, HERE).is_ok());
    }

    #[test]
    fn one_stream_too_many_is_refused() {
        let registry = Registry::new(1);
        for _ in 0..MAX_STREAMS_PER_WORKER {
            claim(&registry, "w", None, HERE).unwrap();
        }
        assert_eq!(claim(&registry, "w", None, HERE), Err(Refusal::TooManyStreams));
        registry.release(&key("w", None));
        assert!(claim(&registry, "w", None, HERE).is_ok());
    }

    /// The engine forgets a worker just as it reconnects: what it says is about the streams that it had seen.
    #[test]
    fn a_reconnect_survives_being_forgotten_just_then() {
        let registry = Registry::new(10);
        claim(&registry, "w", None, HERE).unwrap();
        registry.release(&key("w", None));
        claim(&registry, "w", None, HERE).unwrap();
        registry.release(&key("w", None));

        registry.forget(&key("w", None), 1);
        assert_eq!(registry.known_workers(), 1, "the second stream is still on its way to the engine");

        registry.forget(&key("w", None), 1);
        assert_eq!(registry.known_workers(), 0);
    }

    #[test]
    fn forgetting_nobody_does_nothing() {
        let registry = Registry::new(10);
        registry.forget(&key("w", None), 1);
        registry.release(&key("w", None));
        assert_eq!(registry.known_workers(), 0);
    }

    fn claim(registry: &Registry, id: &str, pid: Option<u32>, host: PeerHost) -> Result<Granted, Refusal> {
        registry.claim(Claim { node: &"node".into(), id: &id.into(), pid, host })
    }

    fn key(id: &str, pid: Option<u32>) -> WorkerKey {
        WorkerKey { node: "node".into(), id: id.into(), pid }
    }

    fn host(number: u8) -> PeerHost {
        PeerHost::Other([10, 0, 0, number].into())
    }
}
