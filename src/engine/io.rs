//! What goes into an engine, and what comes out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::control::policy::Policy;
use crate::drops::DropReason;
use crate::engine::metrics::point::Metric;
use crate::engine::record::LogRecord;
use crate::engine::span::Span;
use crate::event::Event;
use crate::time::UnixNanos;
use crate::worker::{Identity, WorkerKey};

/// Points that are made in one turn: a fraction of a millisecond's work.
pub const COLLECT_POINTS: usize = 256;

/// So far, in nanoseconds, the time of the last collection may be ahead of the wall clock: Prometheus takes no points that are
/// further ahead. Beyond, the clock was wrong once, and the times of collections go back to it.
pub const MAX_AHEAD_NS: i64 = 600 * 1_000_000_000;

/// One open stream of a worker; unique within a run of the bridge, and across runs with a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u64);

/// What happens to a worker.
#[derive(Debug)]
pub enum Input<'a, 'e> {
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
        event: &'a Event<'e>,
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
    /// The bridge's limit on open spans or their bytes is reached: the worker that holds most gives up its oldest.
    Evict {
        /// How many.
        spans: usize,
    },
    /// A collection of all metrics begins: every point of it has this time, or for a gauge one since the collection before.
    /// The points are made by [`Input::CollectMore`], a part at a time, so that events need not wait for all of them.
    Collect {
        /// The bridge's wall clock; later than that of the collection before, or earlier by more than [`MAX_AHEAD_NS`].
        at: UnixNanos,
    },
    /// Makes the next points of the collection that has begun, at most [`COLLECT_POINTS`].
    CollectMore,
    /// The bridge shuts down: everything open is closed, everything held is judged.
    Shutdown,
    /// The bridge shuts down, and its state is kept: everything held is judged, what is open stays open.
    Pause,
}

/// What the engine wants done.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Export this span.
    Span(Span),
    /// Export these points.
    Metric(Metric),
    /// Export this record.
    Record(LogRecord),
    /// The worker did not come back: its key may be forgotten.
    WorkerForgotten {
        /// Which.
        worker: WorkerKey,
        /// Its streams since it was first heard of, or last forgotten.
        streams: u64,
    },
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
    /// Two instruments have one name, or one in Prometheus, and only the first is exported.
    InstrumentConflict {
        /// The worker where it showed first, as shown.
        instance: String,
        /// The name of the one that stays.
        name: Arc<str>,
        /// Its kind and unit.
        kept: String,
        /// Those of the other, whose measurements are lost, and its name where that is another.
        refused: String,
    },
    /// An instrument of a worker has as many series as it may have: what is beyond is in one, and cannot be told apart.
    SeriesOverflow {
        /// The worker, as shown.
        instance: String,
        /// The instrument's name; of a worker's limit, that of the first beyond it.
        name: Arc<str>,
        /// It is the worker that has as many as it may have, in all of its instruments.
        is_of_worker: bool,
    },
    /// A worker has as many instruments as it may have: measurements of others are lost.
    TooManyInstruments {
        /// The worker, as shown.
        instance: String,
        /// The first that found no room.
        name: Arc<str>,
    },
}
