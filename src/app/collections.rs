//! Has all shards make their points, every so often.
//!
//! | when | what |
//! |---|---|
//! | an interval is over | a collection begins, with one time for all shards |
//! | the one before is still under way | this one is left out, and counted; the log hears of it now and then |
//! | no shard makes points any more | it is no collection, and not counted |
//! | the bridge ends | the shards make a last one, with the last time of all |
//!
//! Law: times rise, by a millisecond at least, whatever the wall clock does, and across restarts: a backend takes no second
//! point of a series for the same time, nor an older one. Except where the last time is so far ahead of the clock that a backend
//! took no point of it: then a wrong clock was put right, and times go on from there.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock;
use crate::admin::sources::CollectionFigures;
use crate::diagnostics::gate::{Gate, QUIET_FOR};
use crate::engine::MAX_AHEAD_NS;
use crate::shard::{ShardMessage, Shards};
use crate::time::{Now, UnixNanos};

/// How far apart two collections are, at least: backends keep milliseconds.
const LEAST_STEP_NS: i64 = 1_000_000;

/// The collections of one bridge. Clones are the same.
#[derive(Clone)]
pub(super) struct Collections(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Fn() -> Now + Send + Sync>,
    /// The time of the last one. Guarded for one comparison.
    last: Mutex<UnixNanos>,
    complete: AtomicU64,
    skipped: AtomicU64,
    last_duration_ns: AtomicU64,
}

impl fmt::Debug for Collections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collections").field("figures", &self.figures()).finish_non_exhaustive()
    }
}

impl Collections {
    /// None was ever later than `last`.
    pub(super) fn new(clock: Arc<dyn Fn() -> Now + Send + Sync>, last: UnixNanos) -> Self {
        Self(Arc::new(Shared {
            clock,
            last: Mutex::new(last),
            complete: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            last_duration_ns: AtomicU64::new(0),
        }))
    }

    /// The time of the next collection: now, or just after the last one where the clock was set back a little.
    pub(super) fn next_time(&self) -> UnixNanos {
        let now = (self.0.clock)().wall;
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.since(now) > MAX_AHEAD_NS {
            let ahead_seconds = last.since(now) / 1_000_000_000;
            tracing::warn!(
                ahead_seconds,
                "the clock was far ahead when metrics were collected last: their times go back to what it shows now"
            );
            *last = now;
        } else {
            *last = now.max(last.saturating_add(LEAST_STEP_NS));
        }
        *last
    }

    /// Collects every `interval`, from one beginning to the next, until `stop`.
    pub(super) async fn run(self, shards: Shards, interval: Duration, stop: CancellationToken) {
        let mut due = clock::after(interval);
        let mut gate = Gate::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.collect(&shards) => {}
            }
            let (next, skipped) = next_due(due, interval, clock::tokio_now());
            due = next;
            if skipped > 0 {
                self.0.skipped.fetch_add(skipped, Ordering::Relaxed);
                self.complain(&mut gate, skipped);
            }
        }
    }

    /// What is told of them.
    pub(super) fn figures(&self) -> CollectionFigures {
        CollectionFigures {
            complete: self.0.complete.load(Ordering::Relaxed),
            skipped: self.0.skipped.load(Ordering::Relaxed),
            last_duration_ns: self.0.last_duration_ns.load(Ordering::Relaxed),
        }
    }

    /// Of an interval of a millisecond every collection may leave some out.
    fn complain(&self, gate: &mut Gate, skipped: u64) {
        if let Some(kept_back) = gate.open((self.0.clock)().mono, QUIET_FOR) {
            tracing::warn!(
                skipped,
                kept_back,
                "collecting all metrics took longer than the interval between two collections"
            );
        }
    }

    async fn collect(&self, shards: &Shards) {
        let begun = (self.0.clock)().mono;
        let at = self.next_time();
        // A shard that has ended makes no points any more; that it ended is told elsewhere.
        let made = shards.ask(|answer| ShardMessage::Collect { at, answer }).await;
        if made.iter().all(Option::is_none) {
            return;
        }
        let took = (self.0.clock)().mono.since(begun);
        self.0.last_duration_ns.store(took, Ordering::Relaxed);
        self.0.complete.fetch_add(1, Ordering::Relaxed);
    }
}

/// When the next collection is due after one that was due at `due` and is complete by `now`, and how many are left out.
fn next_due(due: Instant, interval: Duration, now: Instant) -> (Instant, u64) {
    let (mut next, mut skipped) = (due + interval, 0);
    if let Some(late) = now.checked_duration_since(next) {
        skipped = u64::try_from(late.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u64::MAX) + 1;
        next += interval * u32::try_from(skipped).unwrap_or(u32::MAX);
    }
    (next, skipped)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;
    use crate::time::Monotonic;

    const INTERVAL: Duration = Duration::from_secs(60);

    /// Collections by clocks that the test sets: both show the same.
    fn collections(last: i64) -> (Collections, Arc<AtomicI64>) {
        let wall = Arc::new(AtomicI64::new(0));
        let clock = {
            let wall = Arc::clone(&wall);
            move || {
                let wall = wall.load(Ordering::Relaxed);
                Now { mono: Monotonic(wall.max(0).unsigned_abs()), wall: UnixNanos(wall) }
            }
        };
        (Collections::new(Arc::new(clock), UnixNanos(last)), wall)
    }

    #[test]
    fn times_rise_though_the_clock_is_set_back() {
        let (collections, wall) = collections(7_000_000);
        let at = |now| {
            wall.store(now, Ordering::Relaxed);
            collections.next_time().0
        };
        // A run before this one was later.
        assert_eq!(at(5_000_000), 8_000_000);
        assert_eq!(at(20_000_000), 20_000_000);
        assert_eq!(at(20_000_001), 21_000_000);
        assert_eq!(at(-1), 22_000_000);
        assert_eq!(at(22_500_000), 23_000_000);
        assert_eq!(at(24_000_000), 24_000_000);
    }

    #[test]
    fn times_go_back_to_the_clock_where_it_was_far_ahead() {
        let (collections, wall) = collections(2 * MAX_AHEAD_NS);
        let at = |now| {
            wall.store(now, Ordering::Relaxed);
            collections.next_time().0
        };
        assert_eq!(at(MAX_AHEAD_NS), 2 * MAX_AHEAD_NS + LEAST_STEP_NS, "so much is no wrong clock");
        assert_eq!(at(MAX_AHEAD_NS), MAX_AHEAD_NS);
        assert_eq!(at(MAX_AHEAD_NS), MAX_AHEAD_NS + LEAST_STEP_NS);
    }

    #[tokio::test(start_paused = true)]
    async fn intervals_go_from_beginning_to_beginning_and_what_is_missed_is_counted() {
        let due = clock::tokio_now();
        let after = |seconds| next_due(due, INTERVAL, due + Duration::from_secs(seconds));
        let at = |intervals| due + INTERVAL * intervals;
        assert_eq!(after(0), (at(1), 0));
        assert_eq!(after(59), (at(1), 0));
        assert_eq!(after(60), (at(2), 1));
        assert_eq!(after(119), (at(2), 1));
        assert_eq!(after(125), (at(3), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn all_shards_get_the_same_time_and_none_a_second_one_before_all_are_done() {
        let (collections, wall) = collections(0);
        let (senders, mut shards): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(4)).unzip();
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(collections.clone().run(Shards::new(senders), INTERVAL, stop.clone()));
        wall.store(1_000_000_000, Ordering::Relaxed);
        let begun = clock::tokio_now();

        let (first, first_answer) = asked(shards[0].recv().await);
        let (second, second_answer) = asked(shards[1].recv().await);
        assert_eq!((first, second), (1_000_000_000, 1_000_000_000));
        assert_eq!(clock::tokio_now() - begun, INTERVAL);
        first_answer.send(()).unwrap();
        tokio::time::sleep(INTERVAL + INTERVAL / 2).await;
        assert!(shards.iter_mut().all(|shard| shard.try_recv().is_err()));
        assert_eq!(collections.figures().complete, 0);

        second_answer.send(()).unwrap();
        let (third, _answer) = asked(shards[0].recv().await);
        assert_eq!(third, 1_001_000_000, "the clock stood still");
        assert_eq!(clock::tokio_now() - begun, INTERVAL * 3);
        assert_eq!((collections.figures().complete, collections.figures().skipped), (1, 1));

        stop.cancel();
        running.join_next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_collection_that_no_shard_made_is_none() {
        let (collections, wall) = collections(0);
        let (senders, mut shards): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel(4)).unzip();
        let all = Shards::new(senders);
        // One is gone, and the other is at a collection yet.
        shards.pop();
        tokio::join!(async { drop(asked(shards[0].recv().await)) }, collections.collect(&all));
        assert_eq!(collections.figures(), CollectionFigures::default());

        wall.store(1_000_000_000, Ordering::Relaxed);
        tokio::join!(
            async {
                let (_, answer) = asked(shards[0].recv().await);
                wall.store(1_000_000_007, Ordering::Relaxed);
                answer.send(()).unwrap();
            },
            collections.collect(&all)
        );
        assert_eq!(collections.figures().complete, 1, "one made its points");
        assert_eq!(collections.figures().last_duration_ns, 7);
    }

    /// An interval of a millisecond that is missed again and again is one line in a while.
    #[test]
    fn the_log_hears_now_and_then_of_collections_that_are_left_out() {
        let (collections, wall) = collections(0);
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            let mut gate = Gate::default();
            for millis in 0..20_001 {
                wall.store(millis * 1_000_000, Ordering::Relaxed);
                collections.complain(&mut gate, 3);
            }
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("skipped=3 kept_back=0"), "{text}");
        assert!(lines[1].contains("kept_back=9999"), "{text}");
    }

    /// The log, for the test to read.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn asked(message: Option<ShardMessage>) -> (i64, tokio::sync::oneshot::Sender<()>) {
        let Some(ShardMessage::Collect { at, answer }) = message else { panic!("{message:?}") };
        (at.0, answer)
    }
}
