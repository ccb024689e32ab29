//! What engines make that leaves the bridge, apart by signal: each signal has its own exporter and its own ordinals.

use crate::engine::metrics::point::Metric;
use crate::engine::record::LogRecord;
use crate::engine::{Output, Span};
use crate::exporter::signal::Signal;
use crate::store::Ordinals;

/// One output that is exported. It has one ordinal, a metric with many points too.
#[derive(Debug, PartialEq)]
pub enum Finished {
    /// A span.
    Span(Span),
    /// Points of one instrument of one worker.
    Metric(Metric),
    /// A log record.
    Record(LogRecord),
}

/// Outputs of one shard, in the order in which it made those of each signal.
#[derive(Debug, Default, Clone)]
pub struct Made {
    /// Spans.
    pub spans: Vec<Span>,
    /// Metrics.
    pub metrics: Vec<Metric>,
    /// Log records.
    pub records: Vec<LogRecord>,
}

impl Finished {
    /// The output, if it is one that is exported.
    #[must_use]
    pub fn of(output: Output) -> Option<Self> {
        match output {
            Output::Span(span) => Some(Self::Span(span)),
            Output::Metric(metric) => Some(Self::Metric(metric)),
            Output::Record(record) => Some(Self::Record(record)),
            Output::WorkerForgotten { .. } | Output::Warning(_) => None,
        }
    }

    /// Whose exporter it is for, and among which outputs it is counted.
    #[must_use]
    pub const fn signal(&self) -> Signal {
        match self {
            Self::Span(_) => Signal::Traces,
            Self::Metric(_) => Signal::Metrics,
            Self::Record(_) => Signal::Logs,
        }
    }
}

impl Made {
    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.metrics.is_empty() && self.records.is_empty()
    }

    /// How many ordinals they take.
    #[must_use]
    pub fn count(&self) -> Ordinals {
        Ordinals {
            spans: self.spans.len() as u64,
            metrics: self.metrics.len() as u64,
            records: self.records.len() as u64,
        }
    }
}
