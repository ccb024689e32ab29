//! `GET /metrics`: the bridge's own figures. Names and meanings are promises; `docs/admin.md` lists them.

mod export;
mod measured;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::exposition::{Family, Format, Kind, Sample, Value};
use super::ledger::{self, BridgeLedger};
use super::problem::Problem;
use super::readiness;
use super::shards::ask;
use super::sources::{AdminState, CollectionFigures, ReceiverFigures};
use crate::diagnostics::lines;
use crate::drops::DropReason;
use crate::engine::metrics::MetricFigures;
use crate::shard::ShardMessage;

pub(super) async fn answer(State(state): State<AdminState>, headers: HeaderMap) -> Result<Response, Problem> {
    let families = collect(&state).await?;
    let format = Format::negotiate(&headers);
    let content_type = [(header::CONTENT_TYPE, format.content_type())];
    Ok((content_type, format.write(&families)).into_response())
}

/// All metrics as they are now.
///
/// # Errors
/// When a shard does not answer.
pub(super) async fn collect(state: &AdminState) -> Result<Vec<Family>, Problem> {
    let ledger = ledger::read(state).await?;
    let measured = ask(&state.shards, ShardMessage::Metrics).await?;
    let oldest = ask(&state.shards, ShardMessage::OldestOpenAge).await?;
    let held = state.capacity.held();
    let figures = Figures {
        ready: state.readiness.state() == readiness::State::Serving,
        ledger,
        open_spans: held.open_spans as u64,
        open_bytes: held.open_bytes as u64,
        measured,
        collections: (state.collections)(),
        oldest_open_age_ns: oldest.into_iter().max().unwrap_or(0),
        receiver: (state.receiver)(),
    };
    Ok(figures.families())
}

/// Everything that the metrics are made of.
#[derive(Debug)]
struct Figures {
    ready: bool,
    ledger: BridgeLedger,
    open_spans: u64,
    open_bytes: u64,
    /// Of each shard.
    measured: Vec<MetricFigures>,
    collections: Option<CollectionFigures>,
    oldest_open_age_ns: u64,
    receiver: ReceiverFigures,
}

impl Figures {
    fn families(&self) -> Vec<Family> {
        let mut families = vec![
            labelled(
                "snakepit_bridge_build_info",
                Kind::Gauge,
                "The version that runs; always 1.",
                "version",
                [(env!("CARGO_PKG_VERSION"), 1)],
            ),
            gauge(
                "snakepit_bridge_ready",
                "1 while workers are served, 0 while starting or draining.",
                self.ready.into(),
            ),
        ];
        families.extend(self.events());
        families.extend(self.notes());
        families.extend(self.spans());
        families.extend(self.measured());
        families.extend(self.collections());
        families.extend(self.export());
        families.extend(self.exporter());
        families.extend(self.exporter_sizes());
        families.extend(self.store());
        families.extend(self.receiver());
        families.push(counter(
            "snakepit_bridge_log_lines_dropped",
            "Lines of the log that were dropped, because nobody read it.",
            lines::dropped(),
        ));
        families
    }

    fn events(&self) -> [Family; 4] {
        let events = &self.ledger.events;
        [
            counter("snakepit_bridge_events_received", "Events that reached the engine.", events.received),
            labelled(
                "snakepit_bridge_events",
                Kind::Counter,
                "Events by what became of them; what was dropped has its own metric.",
                "fate",
                [
                    ("paired", events.paired),
                    ("rebuilt", events.rebuilt),
                    ("incomplete", events.incomplete),
                    ("standalone", events.standalone),
                ],
            ),
            gauge("snakepit_bridge_events_pending", "Events whose fate is open yet.", events.pending),
            labelled(
                "snakepit_bridge_events_dropped",
                Kind::Counter,
                "Events that made nothing, by reason.",
                "reason",
                DropReason::ALL.map(|reason| (reason.as_str(), events.dropped[reason.index()])),
            ),
        ]
    }

    fn notes(&self) -> [Family; 12] {
        let notes = &self.ledger.events.notes;
        [
            labelled(
                "snakepit_bridge_spans_incomplete",
                Kind::Counter,
                "Spans closed without their end, by reason.",
                "reason",
                [
                    ("timeout", notes.incomplete_timeout),
                    ("worker_lost", notes.incomplete_worker_lost),
                    ("evicted", notes.incomplete_evicted),
                    ("bridge_shutdown", notes.incomplete_bridge_shutdown),
                ],
            ),
            counter(
                "snakepit_bridge_pairs_reordered",
                "Pairs whose end arrived before their start.",
                notes.reordered,
            ),
            counter(
                "snakepit_bridge_late_ends",
                "Ends of spans that were closed as incomplete.",
                notes.late_ends,
            ),
            counter(
                "snakepit_bridge_clock_adjusted",
                "Spans whose times were moved to make sense.",
                notes.clock_adjusted,
            ),
            counter(
                "snakepit_bridge_malformed_identities",
                "Span identities that were ignored.",
                notes.malformed_identity,
            ),
            counter(
                "snakepit_bridge_nesting_gave_up",
                "Spans without parent because too many stood in question.",
                notes.nesting_gave_up,
            ),
            counter(
                "snakepit_bridge_measurements_not_finite",
                "Measurements that were no finite number.",
                notes.measurements_not_finite,
            ),
            labelled(
                "snakepit_bridge_measurements_lost",
                Kind::Counter,
                "Finite measurements that went into no series, by reason.",
                "reason",
                [
                    ("negative", notes.measurements_negative),
                    ("no_room", notes.measurements_no_room),
                    ("conflict", notes.measurements_conflict),
                ],
            ),
            counter(
                "snakepit_bridge_measurements_repeated",
                "Measurements left out because another of the same event says the same.",
                notes.measurements_repeated,
            ),
            counter(
                "snakepit_bridge_measurements_overflowed",
                "Measurements that went into a series of what is beyond the limits.",
                notes.measurements_overflowed,
            ),
            counter(
                "snakepit_bridge_attributes_cut",
                "Attributes that a limit cut or left out.",
                notes.attributes_cut,
            ),
            counter(
                "snakepit_bridge_judged_early",
                "Spans and ends that a limit had decided early.",
                notes.judged_early,
            ),
        ]
    }

    fn spans(&self) -> [Family; 9] {
        let export = &self.ledger.export;
        [
            counter("snakepit_bridge_spans_made", "Finished spans.", self.ledger.spans_made()),
            counter("snakepit_bridge_spans_exported", "Spans that the Collector took.", export.traces.sent),
            counter(
                "snakepit_bridge_spans_sampled_out",
                "Spans that the sampler left out.",
                export.traces.sampled_out,
            ),
            reasons(
                "snakepit_bridge_spans_refused",
                "Spans that were not delivered and never will be, by reason.",
                &export.traces.refused,
            ),
            gauge(
                "snakepit_bridge_spans_queued",
                "Spans that wait for their parent or their export.",
                self.ledger.spans_queued(),
            ),
            gauge("snakepit_bridge_spans_spooled", "Spans that wait on disk.", export.traces.spooled),
            gauge("snakepit_bridge_open_spans", "Starts without an end.", self.open_spans),
            gauge("snakepit_bridge_open_span_bytes", "What they take in memory.", self.open_bytes),
            Family {
                name: "snakepit_bridge_open_spans_oldest_age_seconds",
                kind: Kind::Gauge,
                help: "How long the oldest has been open; 0 if none is.",
                samples: vec![Sample { labels: Vec::new(), value: Value::Nanos(self.oldest_open_age_ns) }],
            },
        ]
    }

    fn receiver(&self) -> [Family; 13] {
        let receiver = &self.receiver;
        [
            gauge(
                "snakepit_bridge_connections_open",
                "Open connections to the worker port.",
                receiver.connections_open,
            ),
            gauge("snakepit_bridge_connections_limit", "The bound of it.", receiver.max_connections),
            reasons(
                "snakepit_bridge_connections_refused",
                "Connections to the worker port that were closed before they could ask for anything, by reason.",
                &receiver.connections_refused,
            ),
            reasons(
                "snakepit_bridge_requests_unauthenticated",
                "Requests on the worker port without valid credentials, by what was wrong with them.",
                &receiver.requests_unauthenticated,
            ),
            gauge("snakepit_bridge_streams_open", "Open streams of workers.", receiver.streams_open),
            counter("snakepit_bridge_streams_opened", "Streams of workers so far.", receiver.streams_opened),
            counter(
                "snakepit_bridge_streams_broken",
                "Streams that ended by broken framing or a broken connection.",
                receiver.streams_broken,
            ),
            reasons(
                "snakepit_bridge_streams_refused",
                "Streams of workers that were refused, by reason.",
                &receiver.streams_refused,
            ),
            counter(
                "snakepit_bridge_messages",
                "Messages of workers, skipped ones included.",
                receiver.messages,
            ),
            counter(
                "snakepit_bridge_message_bytes",
                "Their bytes, skipped ones left out.",
                receiver.message_bytes,
            ),
            counter(
                "snakepit_bridge_messages_undelivered",
                "Messages that reached no engine, because the bridge was ending.",
                receiver.messages_undelivered,
            ),
            gauge(
                "snakepit_bridge_workers",
                "Workers connected or within their grace period.",
                receiver.workers,
            ),
            gauge("snakepit_bridge_workers_limit", "The bound of it.", receiver.max_workers),
        ]
    }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    Family { name, kind: Kind::Counter, help, samples: vec![alone(value)] }
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    Family { name, kind: Kind::Gauge, help, samples: vec![alone(value)] }
}

const fn alone(value: u64) -> Sample {
    Sample { labels: Vec::new(), value: Value::Number(value) }
}

fn reasons(name: &'static str, help: &'static str, counts: &BTreeMap<&'static str, u64>) -> Family {
    labelled(name, Kind::Counter, help, "reason", counts.iter().map(|(reason, count)| (*reason, *count)))
}

fn labelled(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) -> Family {
    let samples = values
        .into_iter()
        .map(|(value, count)| Sample { labels: vec![(label, value.to_owned())], value: Value::Number(count) })
        .collect();
    Family { name, kind, help, samples }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::admin::sources::ExportFigures;
    use crate::engine::EventLedger;

    fn figures() -> Figures {
        Figures {
            ready: true,
            ledger: BridgeLedger { events: EventLedger::default(), export: ExportFigures::default() },
            open_spans: 0,
            open_bytes: 0,
            measured: Vec::new(),
            collections: None,
            oldest_open_age_ns: 0,
            receiver: ReceiverFigures::default(),
        }
    }

    #[test]
    fn names_are_unique_prefixed_and_documented() {
        let documented =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.md")).unwrap();
        let mut seen = BTreeSet::new();
        for family in figures().families() {
            let suffix = match family.kind {
                Kind::Counter => "_total",
                Kind::Gauge | Kind::Histogram => "",
            };
            let name = format!("{}{suffix}", family.name);
            assert!(name.starts_with("snakepit_bridge_"), "{name}");
            assert!(!family.name.ends_with("_total"), "{name}");
            assert!(documented.contains(&format!("| `{name}")), "{name} is missing in docs/admin.md");
            assert!(seen.insert(name), "{} stands twice", family.name);
        }
        let rows = documented.lines().filter(|line| line.starts_with("| `snakepit_bridge_")).count();
        assert_eq!(rows, seen.len(), "docs/admin.md has a metric that does not exist");
    }
}
