//! What the engine tells about its state, for the admin API.

use std::sync::Arc;

use crate::control::policy::Policy;
use crate::drops::DropReason;
use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::ledger::EventLedger;
use crate::engine::metrics::instrument::Instrument;
use crate::engine::metrics::measured::Loss;
use crate::engine::naming::operation;
use crate::engine::observed::Observed;
use crate::engine::span::{SpanId, TraceId};
use crate::engine::state::WorkerState;
use crate::time::{Now, UnixNanos};
use crate::worker::{Identity, WorkerKey};

/// A worker, connected or within its grace period.
#[derive(Debug, Clone)]
pub struct WorkerReport {
    /// Its key.
    pub key: WorkerKey,
    /// What its headers said.
    pub identity: Arc<Identity>,
    /// As shown: by header, else by metadata.
    pub shown_worker_id: Arc<str>,
    /// As shown.
    pub shown_pool: Option<Arc<str>>,
    /// As shown.
    pub shown_pid: Option<u32>,
    /// What is enforced on its events, and was sent to it on connect.
    pub policy: Arc<Policy>,
    /// Open streams.
    pub streams: usize,
    /// Its own sums.
    pub ledger: EventLedger,
    /// Starts without an end.
    pub open_spans: usize,
    /// Whether it is seen to honour the policy's sampling rate.
    pub observed: Observed,
    /// The worker's clock minus the bridge's, in nanoseconds; unknown until a credible event came.
    pub clock_offset_ns: Option<i64>,
}

/// A span in flight.
#[derive(Debug, Clone)]
pub struct OpenSpanReport {
    /// Whose, as shown.
    pub worker_id: Arc<str>,
    /// The prefixed operation.
    pub name: Arc<str>,
    /// Empty where there is none.
    pub correlation_id: Arc<str>,
    /// As it stands now: a parent found later may change it.
    pub trace_id: TraceId,
    /// Final.
    pub span_id: SpanId,
    /// As far as it is known.
    pub parent_span_id: Option<SpanId>,
    /// On the worker's clock.
    pub start: UnixNanos,
    /// Since the start arrived, on the bridge's clock.
    pub age_ns: u64,
    /// Its end may have been sampled away in the worker.
    pub uncertain: bool,
    /// What the start said.
    pub attributes: Attributes,
}

/// Which open spans are asked for.
#[derive(Debug, Clone, Default)]
pub struct OpenSpanQuery {
    /// Exactly this worker id.
    pub worker: Option<String>,
    /// Exactly this operation, with or without the prefix.
    pub operation: Option<String>,
    /// At least this old.
    pub min_age_ns: u64,
    /// At most this many.
    pub limit: usize,
}

/// What the events of one name became, or the spans of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct EventReport {
    /// With the prefix.
    pub event: Arc<str>,
    /// As the worker sends it; of a span, without its phase.
    pub sent_as: Box<str>,
    /// It is about finished spans.
    pub is_span: bool,
    /// Events, or spans, so far.
    pub received: u64,
    /// Measurements that metrics were made of.
    pub points: u64,
    /// Spans that were closed without their end.
    pub incomplete: u64,
    /// Events that joined a span.
    pub span_events: u64,
    /// Events that became log records.
    pub records: u64,
    /// Events that made nothing, by [`DropReason::index`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// By name.
    pub becomes: Vec<MeasurementReport>,
    /// Metadata keys that are no point attributes: some of them.
    pub left_off: Vec<Box<str>>,
    /// There are others.
    pub has_more_left_off: bool,
}

/// Which events are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Exactly this name, with or without the prefix; with a phase it asks for the spans of its operation.
    pub event: Option<String>,
    /// At most this many names.
    pub limit: usize,
}

/// What tells one report from another: the name with the prefix, as it is sent, and whether it is about spans.
pub type EventName = (Arc<str>, Box<str>, bool);

/// What is said of the events that are asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventAnswer {
    /// Those that are first by name, as many as are asked for: of all shards together the first ones are among these.
    pub reports: Vec<EventReport>,
    /// The names of the others, in any order: several shards may know one, so that numbers could not be added up.
    pub others: Vec<EventName>,
}

/// How often a measurement was handed on and went into no series, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Negative increments of a counter.
    pub negative: u64,
    /// There was no room for another series.
    pub no_room: u64,
    /// Another instrument has its name.
    pub conflict: u64,
}

/// What a measurement of an event becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasurementReport {
    /// As it is sent.
    pub measurement: Box<str>,
    /// Absent where no metric is made of it.
    pub instrument: Option<Arc<Instrument>>,
    /// Why it is so.
    pub because: String,
    /// The metadata keys that become its point attributes where they are there.
    pub attributes: Vec<Box<str>>,
    /// How often it was measured.
    pub measured: u64,
    /// How often it was no finite number.
    pub not_finite: u64,
    /// How often it was no number at all.
    pub not_numbers: u64,
    /// How often a rule switched it off.
    pub ruled_out: u64,
    /// How often another measurement of the same event was one of this instrument already.
    pub repeated: u64,
    /// How often it went into no series.
    pub lost: Lost,
}

impl EventQuery {
    /// Whether it is about the events, or the spans, of this name with the prefix, and as it is sent.
    #[must_use]
    pub fn asks_for(&self, title: &str, sent_as: &str, is_span: bool) -> bool {
        let Some(event) = &self.event else { return true };
        let is_it = |asked: &str| asked == title || asked == sent_as;
        is_it(event) || (is_span && operation(event).is_some_and(is_it))
    }
}

impl EventReport {
    /// Reports come by name.
    pub(crate) fn order(&self) -> (&str, &str, bool) {
        (&self.event, &self.sent_as, self.is_span)
    }

    /// Adds what another shard says about the same name.
    pub(crate) fn absorb(&mut self, other: Self) {
        debug_assert_eq!(self.order(), other.order(), "they are about one name");
        self.received += other.received;
        self.points += other.points;
        self.incomplete += other.incomplete;
        self.span_events += other.span_events;
        self.records += other.records;
        for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += more;
        }
        for more in other.becomes {
            match self.becomes.iter_mut().find(|known| known.measurement == more.measurement) {
                Some(known) => {
                    // A shard that has measured it knows better than one that has only seen texts.
                    if known.measured == 0 && more.measured > 0 {
                        known.because.clone_from(&more.because);
                    }
                    known.measured += more.measured;
                    known.not_finite += more.not_finite;
                    known.not_numbers += more.not_numbers;
                    known.ruled_out += more.ruled_out;
                    known.repeated += more.repeated;
                    known.lost.add(more.lost);
                }
                None => self.becomes.push(more),
            }
        }
        self.becomes.sort_by(|left, right| left.measurement.cmp(&right.measurement));
        let more = other.left_off.into_iter().filter(|key| !self.left_off.contains(key)).collect::<Vec<_>>();
        self.left_off.extend(more);
        self.has_more_left_off |= other.has_more_left_off;
    }
}

impl Lost {
    pub(crate) fn note(&mut self, loss: Loss) {
        match loss {
            Loss::Negative => self.negative += 1,
            Loss::NoRoom => self.no_room += 1,
            Loss::Conflict => self.conflict += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.negative += other.negative;
        self.no_room += other.no_room;
        self.conflict += other.conflict;
    }
}

/// How full a shard is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Open spans.
    pub open_spans: usize,
    /// What these and all that waits for something cost.
    pub open_bytes: usize,
}

pub(crate) fn worker(state: &WorkerState) -> WorkerReport {
    WorkerReport {
        key: state.key.clone(),
        identity: Arc::clone(&state.identity),
        policy: Arc::clone(&state.policy),
        shown_worker_id: Arc::clone(&state.shown.worker_id),
        shown_pool: state.shown.pool.clone(),
        shown_pid: state.shown.pid,
        streams: state.streams.len(),
        ledger: state.ledger(),
        open_spans: state.open.len(),
        observed: state.observation.verdict(),
        clock_offset_ns: state.clock.offset_ns(),
    }
}

/// How long the worker's oldest open span has been open; 0 if there is none.
pub(crate) fn oldest_open_age_ns(state: &WorkerState, now: Now) -> u64 {
    state.open.iter().next().map_or(0, |(_, span)| now.mono.since(span.arrived))
}

pub(crate) fn open_spans(
    state: &WorkerState,
    query: &OpenSpanQuery,
    now: Now,
    found: &mut Vec<OpenSpanReport>,
    total: &mut u64,
) {
    if query.worker.as_ref().is_some_and(|worker| **worker != *state.shown.worker_id) {
        return;
    }
    for (_, span) in state.open.iter() {
        let age_ns = now.mono.since(span.arrived);
        if age_ns < query.min_age_ns {
            // Later spans are younger still.
            return;
        }
        let is_asked_for = query.operation.as_ref().is_none_or(|operation| {
            *span.name.title == **operation
                || span.name.emitted.rsplit_once('.').is_some_and(|(own, _)| own == operation)
        });
        if !is_asked_for {
            continue;
        }
        *total += 1;
        if found.len() < query.limit {
            let correlation_id = match span.attributes.value("snakepit.correlation_id") {
                Some(AttributeValue::Text(text)) => Arc::from(text),
                _ => Arc::from(""),
            };
            found.push(OpenSpanReport {
                worker_id: Arc::clone(&state.shown.worker_id),
                name: Arc::clone(&span.name.title),
                correlation_id,
                trace_id: span.context.trace_id,
                span_id: span.context.span_id,
                parent_span_id: span.parent.span_id(),
                start: UnixNanos(span.start),
                age_ns,
                uncertain: span.is_uncertain,
                attributes: span.attributes.clone(),
            });
        }
    }
}
