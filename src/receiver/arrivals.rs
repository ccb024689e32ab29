//! How many lines the log has for workers that come and go. Thousands that come back after a restart would fill it, and
//! say less than their number does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Lines a minute about streams that open and end; the rest is said at the level `debug`, and counted in one line.
pub const ARRIVAL_LINES: u32 = 100;

const MINUTE: Duration = Duration::from_secs(60);

/// The lines of this minute.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    lines: AtomicU32,
    opened_unsaid: AtomicU64,
    ended_unsaid: AtomicU64,
}

impl Arrivals {
    /// Whether the log has a line for a stream that opens.
    pub(super) fn opened(&self) -> bool {
        self.has_line(&self.opened_unsaid)
    }

    /// Whether the log has a line for a stream that ends.
    pub(super) fn ended(&self) -> bool {
        self.has_line(&self.ended_unsaid)
    }

    fn has_line(&self, unsaid: &AtomicU64) -> bool {
        let has_line = self.lines.fetch_add(1, Ordering::Relaxed) < ARRIVAL_LINES;
        if !has_line {
            unsaid.fetch_add(1, Ordering::Relaxed);
        }
        has_line
    }

    /// Begins a new minute; answers how many streams opened and ended without a line in the last.
    fn next_minute(&self) -> (u64, u64) {
        self.lines.store(0, Ordering::Relaxed);
        (self.opened_unsaid.swap(0, Ordering::Relaxed), self.ended_unsaid.swap(0, Ordering::Relaxed))
    }

    /// Begins a new minute every minute, for ever, and says how many had no line.
    pub(super) async fn keep_counting(&self) {
        loop {
            tokio::time::sleep(MINUTE).await;
            let (opened, ended) = self.next_minute();
            if opened + ended > 0 {
                tracing::info!(opened, ended, "more streams of workers, without a line each");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_its_lines_and_counts_what_is_beyond() {
        let arrivals = Arrivals::default();
        let lines = (0..ARRIVAL_LINES + 5).filter(|_| arrivals.opened()).count();
        assert_eq!(lines, ARRIVAL_LINES as usize);
        assert!(!arrivals.ended());
        assert_eq!(arrivals.next_minute(), (5, 1));
        assert!(arrivals.ended());
        assert_eq!(arrivals.next_minute(), (0, 0));
    }
}
