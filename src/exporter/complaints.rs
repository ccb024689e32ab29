//! What the log hears of the export: the first of its kind at once, then one line in a while with the number of those
//! that were kept back. A peer that refuses everything would otherwise fill the disk.

use std::sync::Arc;
use std::time::Duration;

use crate::exporter::pipeline::Notice;
use crate::time::Monotonic;

/// At most one line of a kind in this time.
const QUIET_FOR: Duration = Duration::from_secs(10);

/// The log's memory.
#[derive(Debug)]
pub(crate) struct Complaints {
    destination: String,
    queue_full: Gate,
    too_large: Gate,
    will_retry: Gate,
    refused: Gate,
    partial_success: Gate,
}

impl Complaints {
    pub(crate) fn new(destination: String) -> Self {
        Self {
            destination,
            queue_full: Gate::default(),
            too_large: Gate::default(),
            will_retry: Gate::default(),
            refused: Gate::default(),
            partial_success: Gate::default(),
        }
    }

    /// Spans that were not taken: how many for want of room, and the name and size of those that are too large.
    pub(crate) fn about_admission(
        &mut self,
        queue_full: u64,
        too_large: &[(Arc<str>, usize)],
        now: Monotonic,
    ) {
        if queue_full > 0
            && let Some(kept_back) = self.queue_full.open(now)
        {
            tracing::warn!(spans = queue_full, kept_back, "the export queue is full: refused new spans");
        }
        for (name, size_bytes) in too_large {
            if let Some(kept_back) = self.too_large.open(now) {
                tracing::warn!(span.name = ?name, size_bytes, kept_back, "refused a span that no request can hold");
            }
        }
    }

    /// What came of requests.
    pub(crate) fn about_requests(&mut self, notices: Vec<Notice>, now: Monotonic) {
        let destination = self.destination.as_str();
        for notice in notices {
            match notice {
                Notice::WillRetry { error } => {
                    if let Some(kept_back) = self.will_retry.open(now) {
                        tracing::warn!(destination, error, kept_back, "failed to export; will try again");
                    }
                }
                Notice::Refused { refusal, spans, error } => {
                    if let Some(kept_back) = self.refused.open(now) {
                        tracing::warn!(destination, error, spans, reason = %refusal, kept_back, "spans were refused");
                    }
                }
                Notice::PartialSuccess { rejected_spans, message } => {
                    let Some(kept_back) = self.partial_success.open(now) else { continue };
                    if rejected_spans > 0 {
                        tracing::warn!(
                            destination,
                            rejected_spans,
                            message,
                            kept_back,
                            "some spans were rejected"
                        );
                    } else {
                        tracing::info!(
                            destination,
                            message,
                            kept_back,
                            "the peer took the spans with a remark"
                        );
                    }
                }
                Notice::Recovered => {
                    self.will_retry = Gate::default();
                    tracing::info!(destination, "exporting works again");
                }
            }
        }
    }
}

/// Lets one through in a while, and counts the others.
#[derive(Debug, Default)]
struct Gate {
    closed_until: Option<Monotonic>,
    kept_back: u64,
}

impl Gate {
    /// How many were kept back since the last that went through, if this one goes through.
    fn open(&mut self, now: Monotonic) -> Option<u64> {
        if self.closed_until.is_some_and(|until| now < until) {
            self.kept_back += 1;
            return None;
        }
        self.closed_until = Some(now.after(QUIET_FOR));
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_one_through_in_a_while_and_counts_the_others() {
        let mut gate = Gate::default();
        let at = |seconds| Monotonic(0).after(Duration::from_secs(seconds));
        assert_eq!(gate.open(at(0)), Some(0));
        assert_eq!(gate.open(at(1)), None);
        assert_eq!(gate.open(at(9)), None);
        assert_eq!(gate.open(at(10)), Some(2));
        assert_eq!(gate.open(at(11)), None);
    }
}
