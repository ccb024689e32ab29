//! What a shard's task does: wait, take what has come, and pass on what the engine makes of it.

mod writing;

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::drops::DropReason;
use crate::engine::{Engine, EventLedger, Input, Output, StreamId, Warning};
use crate::event::{Event, wire};
use crate::exporter::Exporters;
use crate::exporter::signal::Signal;
use crate::receiver::registry::Registry;
use crate::shard::journal::{Happened, Journal};
use crate::shard::made::Made;
use crate::shard::{Capacity, OVERSIZED_MARKER, ShardMessage};
use crate::store::{Commit, ShardCheckpoint};
use crate::time::{Monotonic, Now, UnixNanos};
use writing::AskedToWrite;

/// Messages of the channel that are taken in one turn, before time-outs and outputs have theirs.
const MESSAGES_PER_TURN: usize = 32;

/// How late an alarm may be, so that spans which are due a moment apart share one: a wake-up costs more than a span.
const ALARM_SLACK: Duration = Duration::from_millis(4);

/// What is finished waits here for whoever watches; what it does not take is left out there, not in the export.
pub type Tap = mpsc::Sender<Made>;

/// The owner of one engine.
pub struct ShardTask {
    /// The shard's number.
    pub number: u16,
    /// What it is told.
    pub messages: mpsc::Receiver<ShardMessage>,
    /// Where what is finished goes.
    pub exporters: Exporters,
    /// Where forgotten workers are reported.
    pub registry: Arc<Registry>,
    /// The bridge's own limit.
    pub capacity: Capacity,
    /// Sees everything that is finished as well.
    pub tap: Option<Tap>,
    /// Reads the clocks.
    pub clock: Arc<dyn Fn() -> Now + Send + Sync>,
    /// Where it writes down what happens, so that a restart can go on from there.
    pub journal: Option<Journal>,
}

/// What a message asks for that takes its time.
enum Asked {
    Collection(oneshot::Sender<()>),
    Checkpoint(oneshot::Sender<Option<Commit>>),
    Prepared(oneshot::Sender<()>),
    End { collect: Option<UnixNanos>, answer: oneshot::Sender<EventLedger> },
    Whole { state: oneshot::Sender<ShardCheckpoint>, written: watch::Receiver<Option<Commit>> },
}

impl std::fmt::Debug for ShardTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardTask").field("number", &self.number).finish_non_exhaustive()
    }
}

impl ShardTask {
    /// Runs until it is told to shut down, or nobody can tell it anything any more.
    pub async fn run(mut self, mut engine: Engine) {
        let mut batch = Vec::with_capacity(MESSAGES_PER_TURN);
        let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
        let mut armed_for = None;
        let mut asked_to_collect = None;
        let mut asked_to_write = AskedToWrite::default();
        loop {
            let due = engine.poll_timeout();
            if due != armed_for {
                armed_for = due;
                if let Some(at) = due {
                    let wait = self.until(at) + ALARM_SLACK;
                    alarm.as_mut().reset(crate::app::after(wait));
                }
            }
            let taken = tokio::select! {
                biased;
                taken = self.messages.recv_many(&mut batch, MESSAGES_PER_TURN) => taken,
                () = &mut alarm, if armed_for.is_some() => {
                    armed_for = None;
                    0
                }
                () = self.capacity.asked(self.number.into()) => 0,
                // The rest of a collection or of a checkpoint is made where nothing else is to be done, and other tasks have
                // their turn.
                () = tokio::task::yield_now(), if engine.is_collecting() || asked_to_write.is_asked() => 0,
            };
            if taken == 0 && self.messages.is_closed() && self.messages.is_empty() {
                return;
            }
            let mut asked_to_end = None;
            for message in batch.drain(..) {
                match self.take(&mut engine, message) {
                    Some(Asked::Collection(answer)) => asked_to_collect = Some(answer),
                    Some(Asked::Checkpoint(answer)) => asked_to_write.checkpoint(answer),
                    Some(Asked::Prepared(answer)) => {
                        self.begin_whole(&mut engine, &mut asked_to_write, answer);
                    }
                    Some(Asked::End { collect, answer }) => asked_to_end = Some((collect, answer)),
                    Some(Asked::Whole { state, written }) => {
                        self.write_whole(&mut engine, state, written).await;
                    }
                    None => {}
                }
            }
            if let Some((collect, answer)) = asked_to_end {
                return self.end(&mut engine, collect, answer).await;
            }
            let now = (self.clock)();
            if engine.poll_timeout().is_some_and(|at| at <= now.mono) {
                self.note(now, || Happened::Due);
                engine.handle_timeout(now);
            }
            let too_many = self.capacity.update(self.number.into(), engine.occupancy());
            if too_many > 0 {
                self.note(now, || Happened::Evict { spans: too_many as u64 });
                engine.handle(Input::Evict { spans: too_many }, now);
            }
            // One part a turn: whatever comes waits for no more than that.
            if engine.is_collecting() {
                self.collect_more(&mut engine, now);
            }
            self.pass_on(&mut engine);
            if !engine.is_collecting()
                && let Some(answer) = asked_to_collect.take()
            {
                // Whoever asked may have gone.
                let _ = answer.send(());
            }
            self.go_on_writing(&mut engine, &mut asked_to_write);
        }
    }

    fn until(&self, at: Monotonic) -> Duration {
        Duration::from_nanos(at.since((self.clock)().mono))
    }

    /// Takes what is in the channel, so that nothing of it goes uncounted, and closes it, so that whoever still sends
    /// hears that it is too late; then closes what is open, and makes the last points.
    async fn end(
        &mut self,
        engine: &mut Engine,
        collect: Option<UnixNanos>,
        answer: oneshot::Sender<EventLedger>,
    ) {
        self.messages.close();
        while let Some(message) = self.messages.recv().await {
            // Who asks for a checkpoint or a collection now gets none, and the last ones are made below.
            self.take(engine, message);
        }
        let now = (self.clock)();
        if self.journal.is_some() {
            self.note(now, || Happened::Paused);
            engine.handle(Input::Pause, now);
        } else {
            engine.handle(Input::Shutdown, now);
        }
        self.complete_collection(engine);
        if let Some(at) = collect {
            self.collect(engine, at, now);
            self.complete_collection(engine);
        }
        self.pass_on(engine);
        self.checkpoint(engine);
        // Whoever asked may have given up.
        let _ = answer.send(engine.ledger());
    }

    /// Takes one message; returns what it asks for, if that takes its time.
    fn take(&mut self, engine: &mut Engine, message: ShardMessage) -> Option<Asked> {
        let now = (self.clock)();
        match message {
            ShardMessage::Opened { stream, worker, identity, policy } => {
                self.note(now, || Happened::Opened {
                    stream,
                    worker: worker.clone(),
                    identity: Arc::clone(&identity),
                    policy: Arc::clone(&policy),
                });
                engine.handle(Input::StreamOpened { stream, worker, identity, policy }, now);
            }
            ShardMessage::Messages { stream, messages } => {
                self.note(now, || Happened::Messages { stream, messages: Cow::Borrowed(&messages) });
                let mut event = Event::default();
                for message in &messages {
                    take_event(engine, stream, message, &mut event, now);
                }
            }
            ShardMessage::Closed { stream } => {
                self.note(now, || Happened::Closed { stream });
                engine.handle(Input::StreamClosed { stream }, now);
            }
            ShardMessage::Superseded { worker } => {
                self.note(now, || Happened::Superseded { worker: worker.clone() });
                engine.handle(Input::Superseded { worker }, now);
            }
            // Whoever asked may have gone in the meantime.
            ShardMessage::Ledger(answer) => {
                let _ = answer.send(engine.ledger());
            }
            ShardMessage::Workers(answer) => {
                let _ = answer.send(engine.workers(now));
            }
            ShardMessage::OpenSpans(query, answer) => {
                let _ = answer.send(engine.open_spans(&query, now));
            }
            ShardMessage::Events(query, answer) => {
                let _ = answer.send(engine.events(&query));
            }
            ShardMessage::OldestOpenAge(answer) => {
                let _ = answer.send(engine.oldest_open_age_ns(now));
            }
            ShardMessage::Checkpoint(answer) => return Some(Asked::Checkpoint(answer)),
            ShardMessage::PrepareWhole(answer) => return Some(Asked::Prepared(answer)),
            ShardMessage::WriteWhole { state, written } => return Some(Asked::Whole { state, written }),
            ShardMessage::Metrics(answer) => {
                let _ = answer.send(engine.metric_figures());
            }
            ShardMessage::Collect { at, answer } => {
                if !engine.is_collecting() {
                    self.collect(engine, at, now);
                    return Some(Asked::Collection(answer));
                }
            }
            ShardMessage::Shutdown { collect, answer } => return Some(Asked::End { collect, answer }),
        }
        None
    }

    fn collect(&mut self, engine: &mut Engine, at: UnixNanos, now: Now) {
        self.note(now, || Happened::Collect { at });
        engine.handle(Input::Collect { at }, now);
    }

    fn collect_more(&mut self, engine: &mut Engine, now: Now) {
        self.note(now, || Happened::CollectMore);
        engine.handle(Input::CollectMore, now);
    }

    /// Nobody waits for anything else any more.
    fn complete_collection(&mut self, engine: &mut Engine) {
        while engine.is_collecting() {
            self.collect_more(engine, (self.clock)());
            self.pass_on(engine);
        }
    }

    fn note<'a>(&mut self, now: Now, happened: impl FnOnce() -> Happened<'a>) {
        if let Some(journal) = &mut self.journal {
            journal.note(now, happened());
        }
    }

    fn pass_on(&mut self, engine: &mut Engine) {
        let mut made = Made::default();
        while let Some(output) = engine.next_output() {
            match output {
                Output::Span(span) => made.spans.push(span),
                Output::Metric(metric) => made.metrics.push(metric),
                Output::Record(record) => made.records.push(record),
                Output::WorkerForgotten { worker, streams } => self.registry.forget(&worker, streams),
                Output::Warning(warning) => say(&warning),
            }
        }
        let numbered = self.journal.as_mut().map(|journal| journal.push(made.count()));
        if let Some(tap) = self.tap.as_ref().filter(|_| !made.is_empty()) {
            // A watcher that does not keep up misses some of it; the export does not.
            let _ = tap.try_send(made.clone());
        }
        let needs = numbered.map(|(_, needs)| needs).unwrap_or_default();
        let first = |signal| numbered.map(|(first, _)| (self.number, first[signal]));
        let Made { spans, metrics, records } = made;
        if !spans.is_empty() {
            self.exporters.traces.export_from(spans, first(Signal::Traces), needs);
        }
        if !metrics.is_empty() {
            self.exporters.metrics.export_metrics(metrics, first(Signal::Metrics), needs);
        }
        if !records.is_empty() {
            self.exporters.logs.export_records(records, first(Signal::Logs), needs);
        }
    }
}

fn say(warning: &Warning) {
    match warning {
        Warning::ConstantCorrelationId { worker, correlation_id, spans } => {
            tracing::warn!(
                worker.id = %worker,
                correlation_id = ?correlation_id,
                spans,
                "a correlation id stays in use, and all of its spans are one trace: does the worker send a constant?"
            );
        }
        Warning::InstrumentConflict { instance, name, kept, refused } => {
            tracing::warn!(
                instance = ?instance,
                instrument = %name,
                kept = %kept,
                refused = %refused,
                "two instruments have one name, or one in Prometheus, and measurements of the second are lost: a rule of metrics.rules can name it otherwise"
            );
        }
        Warning::SeriesOverflow { instance, name, is_of_worker: false } => {
            tracing::warn!(
                instance = ?instance,
                instrument = %name,
                limit = "instrument",
                "an instrument has no room for more series, and further ones are counted together as otel.metric.overflow: is an attribute an identifier?"
            );
        }
        Warning::SeriesOverflow { instance, name, is_of_worker: true } => {
            tracing::warn!(
                instance = ?instance,
                instrument = %name,
                limit = "worker",
                "a worker has no room for more series, and further ones of this and any other instrument are counted together as otel.metric.overflow: is an attribute an identifier?"
            );
        }
        Warning::TooManyInstruments { instance, name } => {
            tracing::warn!(
                instance = ?instance,
                instrument = %name,
                "a worker has as many instruments as it may have, and measurements of others are lost: are its event names identifiers?"
            );
        }
    }
}

/// Lets an engine take one message. Whoever replays a journal does the same.
pub(super) fn take_event<'a>(
    engine: &mut Engine,
    stream: StreamId,
    message: &'a Bytes,
    event: &mut Event<'a>,
    now: Now,
) {
    if message == OVERSIZED_MARKER {
        return engine.handle(Input::Unreadable { stream, reason: DropReason::Oversized }, now);
    }
    match wire::decode_into(message, event) {
        Ok(()) => engine.handle(Input::Event { stream, event }, now),
        Err(error) => {
            tracing::debug!(stream = stream.0, %error, "a message is no TelemetryEvent");
            engine.handle(Input::Unreadable { stream, reason: DropReason::Malformed }, now);
        }
    }
}

#[cfg(test)]
mod tests;
