//! What an exporter takes: each signal's own, as far as they are treated alike.

use std::sync::Arc;

use crate::engine::metrics::point::Metric;
use crate::engine::record::LogRecord;
use crate::engine::span::Span;
use crate::exporter::encode::{write_metric, write_record, write_span};
use crate::worker::Source;

/// One of an engine's outputs.
pub(super) trait Output {
    /// What one takes, encoded, on the usual side: room is made for so much at first.
    const USUAL_BYTES: usize;

    /// Its resource.
    fn source(&self) -> &Source;
    /// How many the ledger counts; at least 1.
    fn items(&self) -> u64;
    /// What it calls itself, for the log.
    fn name(&self) -> &Arc<str>;
    /// Appends it as element of its scope, key and length included.
    fn write(&self, out: &mut Vec<u8>);
}

impl Output for Span {
    const USUAL_BYTES: usize = 512;

    fn source(&self) -> &Source {
        &self.source
    }

    fn items(&self) -> u64 {
        1
    }

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_span(out, self);
    }
}

impl Output for Metric {
    const USUAL_BYTES: usize = 2048;

    fn source(&self) -> &Source {
        &self.source
    }

    fn items(&self) -> u64 {
        debug_assert!(!self.is_empty(), "an engine makes no metric without points");
        self.len() as u64
    }

    fn name(&self) -> &Arc<str> {
        &self.instrument.name
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_metric(out, self);
    }
}

impl Output for LogRecord {
    const USUAL_BYTES: usize = 512;

    fn source(&self) -> &Source {
        &self.source
    }

    fn items(&self) -> u64 {
        1
    }

    fn name(&self) -> &Arc<str> {
        &self.event_name
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_record(out, self);
    }
}
