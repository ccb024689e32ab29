//! Everything that is decided about an event: naming, pairing, nesting, ids.
//!
//! The engine is a state machine without sockets, clocks, threads or OTLP. It is fed with `(input, now)` and returns
//! outputs; the same inputs in the same order give the same outputs, ids included. One engine owns the whole state of
//! the workers of one shard; workers share nothing.

pub mod attributes;
pub mod ledger;
pub mod report;
pub mod settings;
pub mod span;

use std::sync::Arc;

use crate::control::policy::Policy;
use crate::drops::DropReason;
use crate::event::Event;
use crate::time::{Monotonic, Now};
use crate::worker::{Identity, WorkerKey};

pub use ledger::EventLedger;
pub use settings::Settings;
pub use span::Span;

/// One open stream of a worker; unique within a run of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What happens to a worker.
#[derive(Debug)]
pub enum Input<'a> {
    /// A worker opened a stream: a new worker, or a known one that is back.
    StreamOpened {
        /// The new stream.
        stream: StreamId,
        /// Whose it is.
        worker: WorkerKey,
        /// What its headers say.
        identity: Arc<Identity>,
        /// What is enforced on its events.
        policy: Arc<Policy>,
    },
    /// An event arrived.
    Event {
        /// On this stream.
        stream: StreamId,
        /// The event.
        event: &'a Event<'a>,
    },
    /// A message that is not an event arrived.
    Unreadable {
        /// On this stream.
        stream: StreamId,
        /// [`DropReason::Malformed`] or [`DropReason::Oversized`].
        reason: DropReason,
    },
    /// The stream is over, in whatever way.
    StreamClosed {
        /// The stream.
        stream: StreamId,
    },
    /// Another incarnation of the worker's id has connected: no grace for this one.
    Superseded {
        /// The old incarnation.
        worker: WorkerKey,
    },
    /// The bridge's limit on open spans or their bytes is reached: this worker, which holds most, gives up its oldest.
    Evict {
        /// The worker.
        worker: WorkerKey,
    },
    /// The bridge shuts down: everything open is closed, everything held is judged.
    Shutdown,
}

/// What the engine wants done.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "spans are nearly all of the outputs; a box each would cost more"
)]
pub enum Output {
    /// Export this span.
    Span(Span),
    /// The worker's state is gone: its key may be forgotten.
    WorkerForgotten(WorkerKey),
    /// Tell the operator, once.
    Warning(Warning),
}

/// What an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A hashed correlation id stays in use: somebody sends a constant.
    ConstantCorrelationId {
        /// Whose.
        worker: WorkerKey,
        /// The id.
        correlation_id: String,
        /// How many spans so far.
        spans: u64,
    },
}

/// The state of the workers of one shard.
#[derive(Debug)]
pub struct Engine {
    settings: Arc<Settings>,
}

impl Engine {
    /// An engine without workers.
    ///
    /// `shard` makes the serials of its sources unique.
    #[must_use]
    pub fn new(settings: Arc<Settings>, _shard: u16) -> Self {
        Self { settings }
    }

    /// Takes one input. Work is bounded.
    pub fn handle(&mut self, _input: Input<'_>, _now: Now) {
        let _ = &self.settings;
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        None
    }

    /// Does what is due at `now`. Idempotent at one instant.
    pub fn handle_timeout(&mut self, _now: Now) {}

    /// The next thing that the engine wants done.
    pub fn next_output(&mut self) -> Option<Output> {
        None
    }

    /// The sums of all events so far; the identity holds in every answer.
    #[must_use]
    pub fn ledger(&self) -> EventLedger {
        EventLedger::default()
    }

    /// Every known worker.
    #[must_use]
    pub fn workers(&self, _now: Now) -> Vec<report::WorkerReport> {
        Vec::new()
    }

    /// Open spans that match, oldest first, and how many match in all.
    #[must_use]
    pub fn open_spans(
        &self,
        _query: &report::OpenSpanQuery,
        _now: Now,
    ) -> (Vec<report::OpenSpanReport>, u64) {
        (Vec::new(), 0)
    }

    /// Open spans and their bytes, of this shard and of the worker that holds most.
    #[must_use]
    pub fn occupancy(&self) -> report::Occupancy {
        report::Occupancy::default()
    }
}
