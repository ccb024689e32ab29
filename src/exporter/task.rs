//! The task that waits: for requests in flight, for what is read from the disk, for whatever is due.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::sleep;

use crate::exporter::Shared;
use crate::exporter::pipeline::{ExportRequest, Notice};
use crate::exporter::queue::BatchId;
use crate::exporter::refusal::Refusal;
use crate::exporter::retry::Outcome;
use crate::exporter::sink::Sink;
use crate::exporter::spool::Loaded;
use crate::store::{Commit, SpoolId};
use crate::time::Now;

pub(super) struct Task {
    shared: Arc<Shared>,
    sink: Arc<Sink>,
    timeout: Duration,
    flights: JoinSet<Outcome>,
    /// Which batch a flight carries.
    carries: HashMap<task::Id, BatchId>,
    /// Tells what is on disk.
    durable: Option<watch::Receiver<Commit>>,
    loads: JoinSet<Loaded>,
    /// What each of them was asked for.
    asked: HashMap<task::Id, Vec<SpoolId>>,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>, sink: Sink, timeout: Duration) -> Self {
        Self {
            durable: shared.store.as_ref().map(|store| store.subscribe()),
            shared,
            sink: Arc::new(sink),
            timeout,
            flights: JoinSet::new(),
            carries: HashMap::new(),
            loads: JoinSet::new(),
            asked: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        while let Some(wait) = self.begin_requests() {
            tokio::select! {
                biased;
                Some(landed) = self.flights.join_next_with_id() => self.settle(landed),
                Some(read) = self.loads.join_next_with_id() => self.take_loaded(read),
                () = change(&mut self.durable) => {}
                () = self.shared.wake.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Reads and sends what may be. Returns how long nothing else is due, or nothing if it is all over.
    fn begin_requests(&mut self) -> Option<Duration> {
        let now = self.shared.now();
        let mut requests = Vec::new();
        let mut loads = Vec::new();
        let (next, notices) = self.shared.with(now, |pipeline| {
            if pipeline.is_drained(now.mono) {
                return None;
            }
            loads = pipeline.next_loads();
            while let Some(request) = pipeline.next_request(now) {
                requests.push(request);
            }
            Some((pipeline.poll_timeout(), pipeline.take_notices()))
        })?;
        self.say(notices, now);
        if let Some(store) = self.shared.store.as_ref().filter(|_| !loads.is_empty()) {
            let read = self.loads.spawn(store.load(loads.clone()));
            self.asked.insert(read.id(), loads);
        }
        for ExportRequest { id, body, items: _ } in requests {
            let sink = Arc::clone(&self.sink);
            let shared = Arc::clone(&self.shared);
            let limit = self.timeout;
            let flight = self.flights.spawn(async move { sink.send_within(limit, body, &shared).await });
            self.carries.insert(flight.id(), id);
        }
        Some(next.map_or(Duration::MAX, |at| Duration::from_nanos(at.since(now.mono))))
    }

    fn settle(&mut self, landed: Result<(task::Id, Outcome), JoinError>) {
        let (flight, outcome) = landed.unwrap_or_else(|error| {
            (error.id(), Outcome::Refused { refusal: Refusal::Internal, error: error.to_string() })
        });
        let Some(id) = self.carries.remove(&flight) else { return };
        let now = self.shared.now();
        let notices = self.shared.with(now, |pipeline| {
            pipeline.settle(id, outcome, now);
            pipeline.take_notices()
        });
        self.say(notices, now);
    }

    fn take_loaded(&mut self, read: Result<(task::Id, Loaded), JoinError>) {
        let (task, bodies) = read.unwrap_or_else(|error| {
            tracing::error!(%error, "reading from the state directory broke");
            (error.id(), Vec::new())
        });
        let asked = self.asked.remove(&task).unwrap_or_default();
        let now = self.shared.now();
        // A store may read some of what it is asked for, and the rest next time.
        let is_reading = !bodies.is_empty();
        let notices = self.shared.with(now, |pipeline| {
            bodies.into_iter().for_each(|(name, body)| pipeline.loaded(name, body, now.mono));
            asked.into_iter().for_each(|name| pipeline.not_loaded(name, is_reading, now.mono));
            pipeline.take_notices()
        });
        self.say(notices, now);
    }

    fn say(&self, notices: Vec<Notice>, now: Now) {
        if !notices.is_empty() {
            self.shared.complaints().about(notices, now.mono);
        }
    }
}

/// Waits until the store has news; for ever without one.
async fn change(durable: &mut Option<watch::Receiver<Commit>>) {
    if let Some(receiver) = durable
        && receiver.changed().await.is_ok()
    {
        return;
    }
    // The store is gone, or never was.
    *durable = None;
    std::future::pending::<()>().await;
}

/// However the task ends, what is left gets its fate, and whoever waits for the end hears of it.
impl Drop for Task {
    fn drop(&mut self) {
        let now = self.shared.now();
        let (left, notices) =
            self.shared.with(now, |pipeline| (pipeline.close(now), pipeline.take_notices()));
        self.say(notices, now);
        if left > 0 {
            tracing::warn!(items = left, "gave up what was not delivered before the shutdown's deadline");
        }
        self.shared.ended.send_replace(true);
    }
}
