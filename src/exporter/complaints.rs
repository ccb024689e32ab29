//! What the log hears of the export: the first of its kind at once, then one line in a while with the number of those
//! that were kept back. A peer that refuses everything would otherwise fill the disk.

use std::sync::Arc;
use std::time::Duration;

use crate::diagnostics::gate::{Gate, QUIET_FOR};
use crate::exporter::pipeline::Notice;
use crate::exporter::signal::Signal;
use crate::time::Monotonic;

/// At most one line in this time about a peer that does not know metrics or log records: it may be meant so.
const UNKNOWN_SIGNAL_QUIET_FOR: Duration = Duration::from_secs(3600);

/// The log's memory, for one signal.
#[derive(Debug)]
pub(crate) struct Complaints {
    destination: String,
    signal: Signal,
    queue_full: Gate,
    too_large: Gate,
    will_retry: Gate,
    retried: Gate,
    /// Somebody was told that something failed, and not yet that it is over.
    owes_all_clear: bool,
    split: Gate,
    refused: Gate,
    unknown_signal: Gate,
    partial_success: Gate,
    remark: Gate,
    given_up: Gate,
    damaged: Gate,
}

impl Complaints {
    pub(crate) fn new(destination: String, signal: Signal) -> Self {
        Self {
            destination,
            signal,
            queue_full: Gate::default(),
            too_large: Gate::default(),
            will_retry: Gate::default(),
            retried: Gate::default(),
            owes_all_clear: false,
            split: Gate::default(),
            refused: Gate::default(),
            unknown_signal: Gate::default(),
            partial_success: Gate::default(),
            remark: Gate::default(),
            given_up: Gate::default(),
            damaged: Gate::default(),
        }
    }

    /// Items that were not taken: how many for want of room, and the name and size of those that are too large.
    pub(crate) fn about_admission(
        &mut self,
        queue_full: u64,
        too_large: &[(Arc<str>, usize)],
        now: Monotonic,
    ) {
        let signal = self.signal.as_str();
        if queue_full > 0
            && let Some(kept_back) = self.queue_full.open(now, QUIET_FOR)
        {
            tracing::warn!(
                signal,
                items = queue_full,
                kept_back,
                "the export queue is full: refused what is new"
            );
        }
        for (name, size_bytes) in too_large {
            if let Some(kept_back) = self.too_large.open(now, QUIET_FOR) {
                tracing::warn!(signal, name = ?name, size_bytes, kept_back, "refused an item that no request can hold");
            }
        }
    }

    /// What came of requests, and of what waits.
    pub(crate) fn about(&mut self, notices: Vec<Notice>, now: Monotonic) {
        for notice in notices {
            if matches!(notice, Notice::Recovered) {
                self.will_retry = Gate::default();
                self.owes_all_clear = false;
            }
            // Nobody was alarmed, or somebody has heard already that it is over.
            if matches!(notice, Notice::Retried { .. }) && !std::mem::take(&mut self.owes_all_clear) {
                continue;
            }
            let mut quiet_for = QUIET_FOR;
            let gate = match &notice {
                Notice::WillRetry { .. } => &mut self.will_retry,
                Notice::Retried { .. } => &mut self.retried,
                Notice::Split { .. } => &mut self.split,
                Notice::Refused { refusal, .. }
                    if refusal.knows_no_signal() && self.signal != Signal::Traces =>
                {
                    quiet_for = UNKNOWN_SIGNAL_QUIET_FOR;
                    &mut self.unknown_signal
                }
                Notice::Refused { .. } => &mut self.refused,
                Notice::ItemTooLarge { .. } => &mut self.too_large,
                Notice::PartialSuccess { rejected_items: 0, .. } => &mut self.remark,
                Notice::PartialSuccess { .. } => &mut self.partial_success,
                Notice::Expired { .. } | Notice::GaveWay { .. } => &mut self.given_up,
                Notice::SpoolDamaged { .. } => &mut self.damaged,
                Notice::Recovered => {
                    self.say(notice, 0);
                    continue;
                }
            };
            if let Some(kept_back) = gate.open(now, quiet_for) {
                self.owes_all_clear |= matches!(notice, Notice::WillRetry { .. });
                self.say(notice, kept_back);
            }
        }
    }

    fn say(&self, notice: Notice, kept_back: u64) {
        let (signal, destination) = (self.signal.as_str(), self.destination.as_str());
        match notice {
            Notice::WillRetry { error } => {
                tracing::warn!(signal, destination, error, kept_back, "failed to export; will try again");
            }
            Notice::Split { size_bytes, pieces, error } => {
                tracing::info!(
                    signal,
                    destination,
                    error,
                    size_bytes,
                    pieces,
                    kept_back,
                    "the peer found a request too large; sending it in pieces"
                );
            }
            Notice::Refused { refusal, items, error } if refusal.knows_no_signal() => {
                let hint = self.signal.without_pipeline();
                tracing::warn!(signal, destination, error, items, reason = %refusal, kept_back, hint, "a request was refused");
            }
            Notice::Refused { refusal, items, error } => {
                tracing::warn!(signal, destination, error, items, reason = %refusal, kept_back, "a request was refused");
            }
            Notice::ItemTooLarge { name, size_bytes, error } => {
                tracing::warn!(
                    signal,
                    destination,
                    error,
                    name = ?name.unwrap_or_default(),
                    size_bytes,
                    kept_back,
                    "the peer does not take an item of this size"
                );
            }
            Notice::PartialSuccess { rejected_items, message } if rejected_items > 0 => {
                tracing::warn!(
                    signal,
                    destination,
                    rejected_items,
                    error = message,
                    kept_back,
                    "some items were rejected"
                );
            }
            Notice::PartialSuccess { rejected_items: _, message } => {
                tracing::info!(
                    signal,
                    destination,
                    remark = message,
                    kept_back,
                    "the peer took a request with a remark"
                );
            }
            Notice::SpoolDamaged { items } => {
                tracing::error!(signal, items, kept_back, "a batch on disk is damaged, and lost");
            }
            Notice::Expired { items } => {
                tracing::warn!(signal, items, kept_back, "gave up what the peer did not take for too long");
            }
            Notice::GaveWay { items } => {
                tracing::warn!(signal, items, kept_back, "gave up the oldest to make room for what is new");
            }
            Notice::Retried { items } => {
                tracing::info!(signal, destination, items, kept_back, "exported what had failed before");
            }
            Notice::Recovered => tracing::info!(signal, destination, "exporting works again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::exporter::refusal::{HttpRefusal, Refusal};

    /// What a log is written to.
    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A Collector without a pipeline for metrics refuses each collection: a line a minute would be 1,440 a day.
    #[test]
    fn a_peer_that_does_not_know_metrics_is_complained_of_once_an_hour() {
        let lines = |signal, refusal| {
            let mut complaints = Complaints::new("a peer".to_owned(), signal);
            let written = Written::default();
            let writer = written.clone();
            let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            tracing::subscriber::with_default(log, || {
                for minute in 0..180 {
                    let notice = Notice::Refused { refusal, items: 7, error: "404".to_owned() };
                    complaints.about(vec![notice], Monotonic(0).after(Duration::from_secs(60 * minute)));
                }
            });
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let unknown = Refusal::Http(HttpRefusal::NotFound404);
        let said = lines(Signal::Metrics, unknown);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].contains("OTEL_METRICS_EXPORTER=none"), "{said:?}");
        assert_eq!(lines(Signal::Metrics, Refusal::Http(HttpRefusal::BadRequest400)).len(), 180);
        assert_eq!(lines(Signal::Traces, unknown).len(), 180);
    }
}
