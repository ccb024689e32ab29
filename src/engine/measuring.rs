//! What a worker's events and spans are measured as, and which measurements lead to their trace.
//!
//! A worker takes part in an instance of the metrics from its first measurement on, or from its first stream on where a process
//! before it has made one, under the id and the pool that are shown then, and until it is lost; whatever is still made of a worker that is lost is measured without it staying.
//!
//! | filter of exemplars | a measurement of an event | of a finished span |
//! |---|---|---|
//! | all | when it is known to which span it belongs, with its ids if its trace is kept, else without | with its ids if it is kept, else without |
//! | of sampled traces | when it has joined a span whose trace is kept | if the span is kept |
//! | none | never | never |

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::drops::DropReason;
use crate::engine::Engine;
use crate::engine::compose::Finished;
use crate::engine::ids::SpanContext;
use crate::engine::metrics::aggregation::{
    Aggregation, Described, InstanceId, InstanceKey, Recorded, SeriesId,
};
use crate::engine::metrics::instrument::{Kind, Number};
use crate::engine::metrics::mapping::{Fate, Mapping, Verdict, measures_something};
use crate::engine::metrics::measured::{Loss, Measured, Weight};
use crate::engine::metrics::settings::{ExemplarFilter, MetricSettings};
use crate::engine::naming::Name;
use crate::engine::report::Lost;
use crate::engine::sampler::{Question, Sampler};
use crate::engine::settings::Settings;
use crate::engine::span::{Span, SpanId, TraceId};
use crate::engine::state::{Presence, Shared, WorkerState};
use crate::event::{Event, Value};
use crate::time::UnixNanos;
use crate::worker::WorkerKey;

/// The metrics of a shard.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) mapping: Mapping,
    pub(crate) aggregation: Aggregation,
}

impl Metrics {
    pub(crate) fn new(metrics: &MetricSettings, settings: &Settings) -> Self {
        let mapping = Mapping::new(metrics, settings);
        Self { mapping, aggregation: Aggregation::new(metrics, settings.reorder_window) }
    }
}

/// A measurement that may be offered as one that stands for others, once its span is known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ticket {
    instance: InstanceId,
    series: SeriesId,
    value: Number,
    time: UnixNanos,
}

/// What an event's measurements made.
#[derive(Debug)]
pub(crate) struct Measurements {
    /// The event's fate if nothing else becomes of it; nothing where there is a point.
    pub(crate) otherwise: Option<DropReason>,
    /// It holds no number: a log record says what it says.
    pub(crate) is_happening: bool,
    pub(crate) tickets: Vec<Ticket>,
}

/// Where a worker's measurements go.
struct Taker<'a> {
    aggregation: &'a mut Aggregation,
    instance: &'a mut Option<InstanceId>,
    attach: Attach<'a>,
    weight: Weight,
    time: UnixNanos,
    now: crate::time::Now,
    /// Where those go that may be offered later.
    tickets: Option<&'a mut Vec<Ticket>>,
    made: u32,
    lost: Lost,
    overflowed: u64,
}

/// How a worker would take part.
struct Attach<'a> {
    key: &'a WorkerKey,
    identity: &'a crate::worker::Identity,
    shown: &'a crate::engine::state::Shown,
    next_source: &'a mut u64,
}

impl Taker<'_> {
    fn take(&mut self, measured: &Measured<'_>) -> Result<(), Loss> {
        let instance = match *self.instance {
            Some(instance) => instance,
            None => *self.instance.insert(self.attach.to(self.aggregation)),
        };
        let recorded = self.aggregation.record(instance, measured, self.weight, self.time, self.now);
        let series = match recorded {
            Recorded::Series(series) => series,
            Recorded::Overflowed(series) => {
                self.overflowed += 1;
                series
            }
            Recorded::Lost(loss) => {
                self.lost.note(loss);
                return Err(loss);
            }
        };
        self.made += 1;
        // Nobody shows exemplars of gauges.
        if let Some(tickets) = &mut self.tickets
            && measured.instrument.kind != Kind::Gauge
        {
            tickets.push(Ticket { instance, series, value: measured.value, time: self.time });
        }
        Ok(())
    }
}

impl Attach<'_> {
    fn to(&mut self, aggregation: &mut Aggregation) -> InstanceId {
        let (key, described) = self.who();
        aggregation.attach(key, described, self.next_source)
    }

    fn who(&self) -> (InstanceKey, Described) {
        let key = InstanceKey { node: self.key.node.clone(), worker_id: self.shown.worker_id.clone() };
        let described = Described {
            pool: self.shown.pool.clone(),
            host: self.identity.host.clone(),
            same_host: self.identity.same_host,
        };
        (key, described)
    }
}

/// What the ids of instances have become in another engine.
pub(crate) type Moved = BTreeMap<InstanceId, InstanceId>;

/// Divides what an engine has measured among others: each instance goes where the first of its workers goes, or where a
/// worker of that name would. Returns for each of the others what the ids of before have become there.
pub(crate) fn divide<'a>(
    from: &mut Engine,
    workers: impl Iterator<Item = &'a WorkerState>,
    engines: &mut [Engine],
    place: impl Fn(&WorkerKey) -> usize,
) -> Vec<Moved> {
    let mut moved: Vec<Moved> = engines.iter().map(|_| Moved::default()).collect();
    let Some(Metrics { aggregation: old, .. }) = &mut from.metrics else { return moved };
    let mut places: BTreeMap<InstanceId, usize> = BTreeMap::new();
    for worker in workers {
        if let Some(instance) = worker.instance {
            places.entry(instance).or_insert_with(|| place(&worker.key));
        }
    }
    if let Some(Metrics { aggregation, .. }) = engines.first_mut().and_then(|first| first.metrics.as_mut()) {
        aggregation.take_counters(old);
    }
    for id in old.instance_ids() {
        let Some(InstanceKey { node, worker_id }) = old.key_of(id) else { continue };
        let named = WorkerKey { node: Arc::clone(node), id: Arc::clone(worker_id), pid: None };
        let place = places.get(&id).copied().unwrap_or_else(|| place(&named));
        if let (Some(engine), Some(moved)) = (engines.get_mut(place), moved.get_mut(place))
            && let Some(metrics) = &mut engine.metrics
        {
            moved.extend(old.move_instance(id, &mut metrics.aggregation).map(|now| (id, now)));
        }
    }
    moved
}

impl Engine {
    /// Gives no number and no time that one of the others has given.
    pub(crate) fn measure_after(&mut self, others: &[Self]) {
        let Some(own) = &mut self.metrics else { return };
        for metrics in others.iter().filter_map(|other| other.metrics.as_ref()) {
            own.aggregation.go_on_after(&metrics.aggregation);
        }
    }
}

impl WorkerState {
    /// It has come to another engine, where instances have these ids; without one it begins anew.
    pub(crate) fn measure_as(&mut self, moved: &Moved, metrics: Option<&mut Metrics>) {
        let instance = self.instance.and_then(|instance| moved.get(&instance).copied());
        self.instance =
            instance.filter(|instance| metrics.is_some_and(|metrics| metrics.aggregation.rejoin(*instance)));
    }

    /// It has a stream: the series of a process before it wait for its first measurement, however late that is.
    pub(crate) fn join_again(&mut self, cx: &mut Shared<'_>) {
        let Some(metrics) = cx.metrics.as_deref_mut().filter(|_| self.instance.is_none()) else { return };
        let attach = Attach {
            key: &self.key,
            identity: &self.identity,
            shown: &self.shown,
            next_source: cx.next_source,
        };
        let (key, described) = attach.who();
        self.instance = metrics.aggregation.attach_again(key, described, attach.next_source);
    }

    /// Measures a standalone event. `waits` says that it may belong to a span.
    pub(crate) fn measure_event(
        &mut self,
        cx: &mut Shared<'_>,
        event: &Event<'_>,
        name: &Name,
        waits: bool,
    ) -> Measurements {
        let wants_tickets = match cx.exemplars() {
            Some(ExemplarFilter::AlwaysOn) => true,
            Some(ExemplarFilter::TraceBased) => waits,
            Some(ExemplarFilter::AlwaysOff) | None => false,
        };
        let time = cx.credible(event.timestamp_ns);
        let mut tickets = Vec::new();
        let kept = wants_tickets.then_some(&mut tickets);
        let measured = self
            .measure(cx, &name.emitted, [time; 2], kept, |mapping, take| mapping.event(name, event, take));
        let Some((verdict, made)) = measured else {
            let is_happening = cx.record_reader.is_some() && !measures_something(event);
            return Measurements { otherwise: Some(without_metrics(event)), is_happening, tickets };
        };
        let otherwise = if made.points > 0 {
            self.ledger.standalone += 1;
            None
        } else if verdict.is_not_finite {
            Some(DropReason::NoFiniteValue)
        } else if made.lost.no_room > 0 || verdict.no_room > 0 {
            Some(DropReason::Overload)
        } else if made.lost != Lost::default() {
            Some(DropReason::Malformed)
        } else if verdict.not_finite > 0 {
            Some(DropReason::NoFiniteValue)
        } else {
            Some(DropReason::SignalDisabled)
        };
        let is_happening = !verdict.has_eligible && !verdict.is_not_finite;
        Measurements { otherwise, is_happening, tickets }
    }

    /// Measures a finished span, of which `incomplete` says why it lacks a half. Returns what may be offered if it is kept.
    pub(crate) fn measure_span(
        &mut self,
        cx: &mut Shared<'_>,
        finished: &Finished,
        incomplete: Option<&str>,
    ) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        let (name, end) = (&finished.name, finished.end);
        if let Some(reason) = incomplete {
            // The bridge counts what it did itself, for which no other stands.
            let count = |mapping: &mut Mapping, take: &mut dyn FnMut(&Measured<'_>) -> Result<(), Loss>| {
                mapping.incomplete(reason, name, take);
                Verdict::default()
            };
            self.measure(cx, "", [end; 2], None, count);
            return tickets;
        }
        let kept = cx.exemplars().is_some_and(|filter| filter != ExemplarFilter::AlwaysOff);
        let kept = kept.then_some(&mut tickets);
        let duration = end.since(finished.start);
        // Whether it is sampled was decided at its start.
        self.measure(cx, &name.emitted, [finished.start, end], kept, |mapping, take| {
            mapping.span(name, &finished.attributes, duration, take)
        });
        tickets
    }

    /// Records what the mapping makes at the second time, weighted by the share of events of this dotted name that the worker
    /// sent at the first; of none, as it is. `None` where no metrics are made.
    fn measure(
        &mut self,
        cx: &mut Shared<'_>,
        emitted: &str,
        [sampled_at, time]: [UnixNanos; 2],
        tickets: Option<&mut Vec<Ticket>>,
        map: impl FnOnce(&mut Mapping, &mut dyn FnMut(&Measured<'_>) -> Result<(), Loss>) -> Verdict,
    ) -> Option<(Verdict, Made)> {
        let Metrics { mapping, aggregation } = cx.metrics.as_deref_mut()?;
        let weight = match emitted {
            "" => Weight::ONE,
            _ => self.weight(emitted, sampled_at, cx.settings.reorder_window),
        };
        let mut taker = Taker {
            aggregation,
            instance: &mut self.instance,
            attach: Attach {
                key: &self.key,
                identity: &self.identity,
                shown: &self.shown,
                next_source: cx.next_source,
            },
            weight,
            time,
            now: cx.now,
            tickets,
            made: 0,
            lost: Lost::default(),
            overflowed: 0,
        };
        let verdict = map(mapping, &mut |measured| taker.take(measured));
        let made = Made { points: taker.made, lost: taker.lost };
        let notes = &mut self.ledger.notes;
        notes.measurements_not_finite += u64::from(verdict.not_finite);
        notes.measurements_negative += made.lost.negative;
        notes.measurements_no_room += made.lost.no_room + u64::from(verdict.no_room);
        notes.measurements_conflict += made.lost.conflict;
        notes.measurements_repeated += u64::from(verdict.repeated);
        notes.measurements_overflowed += taker.overflowed;
        if self.presence == Presence::Lost {
            self.detach(cx);
        }
        Some((verdict, made))
    }

    /// The worker takes part in its instance no longer: it is lost, or shown otherwise from now on.
    pub(crate) fn detach(&mut self, cx: &mut Shared<'_>) {
        if let (Some(instance), Some(metrics)) = (self.instance.take(), cx.metrics.as_deref_mut()) {
            metrics.aggregation.detach(instance);
        }
    }
}

/// What came of the measurements that the mapping made.
struct Made {
    points: u32,
    lost: Lost,
}

impl Shared<'_> {
    /// Which measurements may become exemplars; nothing where none can.
    pub(crate) fn exemplars(&self) -> Option<ExemplarFilter> {
        let filter = self.settings.metrics.as_ref().map(|metrics| metrics.exemplars)?;
        // Without an exporter of spans no trace is there to lead to.
        (filter != ExemplarFilter::TraceBased || self.settings.sampler.is_some()).then_some(filter)
    }

    /// Offers the measurements of an event that belongs to a span with this context, of which it is known or not whether its
    /// parent is remote; or that belongs to none.
    pub(crate) fn offer_event(&mut self, tickets: &[Ticket], span: Option<(&SpanContext, Option<bool>)>) {
        if tickets.is_empty() {
            return;
        }
        let is_kept = match span {
            Some((context, is_remote)) => {
                let question = |is_remote| Question {
                    trace_id: context.trace_id,
                    is_decided: context.flags.is_decided(),
                    is_sampled: context.flags.is_sampled(),
                    is_remote,
                    trace_state: context.state.as_deref(),
                };
                let keeps = |sampler: &Sampler| match is_remote {
                    Some(is_remote) => sampler.keeps_trace(&question(is_remote)),
                    None => [false, true].into_iter().all(|remote| sampler.keeps_trace(&question(remote))),
                };
                self.settings.sampler.as_ref().is_some_and(keeps)
            }
            None => false,
        };
        let ids = span.map(|(context, _)| (context.trace_id, context.span_id));
        self.offer(tickets, ids.filter(|_| is_kept));
    }

    /// Offers the measurements of a finished span.
    pub(crate) fn offer_span(&mut self, tickets: &[Ticket], span: &Span) {
        if tickets.is_empty() {
            return;
        }
        let is_kept = self.settings.sampler.as_ref().is_some_and(|sampler| sampler.keeps(span));
        self.offer(tickets, is_kept.then_some((span.trace_id, span.span_id)));
    }

    /// Offers measurements with the ids of their span, if that is kept: other ids would lead to nothing.
    fn offer(&mut self, tickets: &[Ticket], kept: Option<(TraceId, SpanId)>) {
        let is_wanted = match self.exemplars() {
            Some(ExemplarFilter::AlwaysOn) => true,
            Some(ExemplarFilter::TraceBased) => kept.is_some(),
            Some(ExemplarFilter::AlwaysOff) | None => false,
        };
        let Some(metrics) = self.metrics.as_deref_mut().filter(|_| is_wanted) else { return };
        for Ticket { instance, series, value, time } in tickets {
            metrics.aggregation.offer(*instance, *series, *value, *time, kept);
        }
    }

    /// Counts what became of an event beside its metrics, for whoever asks.
    pub(crate) fn note_fate(&mut self, name: &Name, is_span: bool, fate: Fate) {
        if let Some(metrics) = self.metrics.as_deref_mut() {
            metrics.mapping.note(name, is_span, fate);
        }
    }
}

/// The fate of a standalone event that joins no span and is no record, where no metrics are made.
fn without_metrics(event: &Event<'_>) -> DropReason {
    let is_not_finite = |value: &Value<'_>| match value {
        Value::Float(float) => !float.is_finite(),
        Value::Text(text) => text.parse::<f64>().is_ok_and(|float| !float.is_finite()),
        Value::Int(_) => false,
    };
    if !event.measurements.is_empty() && event.measurements.iter().all(|(_, value)| is_not_finite(value)) {
        DropReason::NoFiniteValue
    } else {
        DropReason::SignalDisabled
    }
}
