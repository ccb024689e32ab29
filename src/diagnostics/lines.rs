//! Writes the log's lines on a thread of its own: whoever does not read our standard error holds nobody up.
//!
//! A line that finds no room is dropped and counted, and the count becomes a line as soon as there is room again.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait: a second of a bridge that says everything.
pub const MAX_WAITING_LINES: usize = 8_192;

/// How long the end of the program waits for the last lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Lines that were dropped since the program began.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines of the log were dropped because nobody read them.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

thread_local! {
    /// A line that the writing thread makes itself: it is written at once, and finds no queue that is full.
    static ASIDE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The way to the writing thread. Clones lead to the same.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: SyncSender<Order>,
    dropped: &'static AtomicU64,
}

/// Waits for the last lines when it is dropped.
#[derive(Debug)]
pub(super) struct LastLines(Lines);

enum Order {
    Write(Vec<u8>),
    /// Everything before this has been written.
    Tell(Sender<()>),
}

impl Lines {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) fn start(target: impl Write + Send + 'static) -> io::Result<(Self, LastLines)> {
        Self::start_with(target, MAX_WAITING_LINES, &DROPPED)
    }

    fn start_with(
        target: impl Write + Send + 'static,
        room: usize,
        dropped: &'static AtomicU64,
    ) -> io::Result<(Self, LastLines)> {
        let (queue, orders) = mpsc::sync_channel(room);
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || write_all(target, &orders, dropped))?;
        let lines = Self { queue, dropped };
        Ok((lines.clone(), LastLines(lines)))
    }
}

fn write_all(mut target: impl Write, orders: &Receiver<Order>, dropped: &AtomicU64) {
    let mut said = 0;
    for order in orders {
        match order {
            // A closed standard error is not worth a word, and there would be nobody to hear it.
            Order::Write(line) => drop(target.write_all(&line)),
            // Whoever asked may have waited for long enough.
            Order::Tell(done) => drop(done.send(())),
        }
        let dropped = dropped.load(Ordering::Relaxed);
        if dropped > said {
            ASIDE.set(Some(Vec::new()));
            tracing::warn!(lines = dropped - said, "lines of this log were dropped, because nobody read it");
            // Nothing, where warnings are filtered out.
            let line = ASIDE.take().unwrap_or_default();
            drop(target.write_all(&line));
            said = dropped;
        }
    }
}

impl Write for Lines {
    /// Takes a whole line, and never waits.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_aside = ASIDE
            .with_borrow_mut(|aside| aside.as_mut().map(|aside| aside.extend_from_slice(line)).is_some());
        if !is_aside && self.queue.try_send(Order::Write(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        let (done, written) = mpsc::channel();
        // A queue that is full is not read; nobody would see the rest.
        if self.0.queue.try_send(Order::Tell(done)).is_ok() {
            // Too late is as good as never: the program ends.
            let _ = written.recv_timeout(FLUSH_LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a line each time that it is let.
    struct Gate {
        let_through: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.let_through.recv().map_err(io::Error::other)?;
            self.written.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up_and_loses_counted_lines() {
        let (let_one, let_through) = mpsc::channel();
        let (written, lines_written) = mpsc::channel();
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (mut lines, last) = Lines::start_with(Gate { let_through, written }, 4, &LOST).unwrap();

        for number in 0..10 {
            lines.write_all(format!("{number}").as_bytes()).unwrap();
        }
        // Four wait, and the thread may hold one more.
        let lost = LOST.load(Ordering::Relaxed);
        assert!((5..=6).contains(&lost), "{lost}");

        for _ in 0..10 {
            let_one.send(()).unwrap();
        }
        let kept: Vec<String> = (0..10 - lost).map(|_| lines_written.recv().unwrap()).collect();
        assert_eq!(kept.first().map(String::as_str), Some("0"));
        assert!(kept.is_sorted(), "{kept:?}");
        lines.write_all(b"last").unwrap();
        drop(last);
        assert_eq!(lines_written.try_recv().as_deref(), Ok("last"), "the end waits for it");
    }
}
