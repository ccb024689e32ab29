//! What waits for its export, of all signals together and of each, in memory and on disk, and what became of the rest.

use super::{Figures, counter, gauge};
use crate::admin::exposition::{Family, Kind, Sample, Value};
use crate::admin::sources::{SignalFigures, SpoolFigures, StoreFigures};

impl Figures {
    pub(super) fn export(&self) -> [Family; 7] {
        let export = &self.ledger.export;
        [
            gauge(
                "snakepit_bridge_export_queue_bytes",
                "What waits for its export, encoded.",
                export.queued_bytes,
            ),
            gauge(
                "snakepit_bridge_export_queue_capacity_bytes",
                "The bound of it.",
                export.queue_capacity_bytes,
            ),
            counter("snakepit_bridge_export_requests", "Export requests begun.", export.requests_sent),
            counter(
                "snakepit_bridge_export_requests_failed",
                "Export requests that failed, for now or for good.",
                export.requests_failed,
            ),
            counter(
                "snakepit_bridge_export_requests_repeated",
                "Export requests for what had failed before.",
                export.retries,
            ),
            gauge(
                "snakepit_bridge_export_requests_in_flight",
                "Export requests under way.",
                export.requests_in_flight,
            ),
            gauge(
                "snakepit_bridge_export_peer_down",
                "1 while export fails again and again.",
                export.peer_is_down.into(),
            ),
        ]
    }

    pub(super) fn exporter(&self) -> [Family; 12] {
        [
            self.by_signal(
                "snakepit_bridge_exporter_items_accepted",
                Kind::Counter,
                "Spans, data points or log records that the exporter took in.",
                |figures| Some(Value::Number(figures.accepted)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_items_made_again",
                Kind::Counter,
                "Of the items accepted, those that an earlier run had made of events that then happened again.",
                |figures| Some(Value::Number(figures.made_again)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_items_inherited",
                Kind::Counter,
                "Of the items accepted, those of earlier runs that no engine counts any more.",
                |figures| Some(Value::Number(figures.inherited)),
            ),
            self.refused_by_signal(),
            self.by_signal(
                "snakepit_bridge_exporter_items_sent",
                Kind::Counter,
                "Items that the peer took.",
                |figures| Some(Value::Number(figures.sent)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_items_send_failed",
                Kind::Counter,
                "Items in requests that failed, for now or for good, counted at every attempt.",
                |figures| Some(Value::Number(figures.send_failed)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_queue_items",
                Kind::Gauge,
                "Items that wait in memory or are on their way.",
                |figures| Some(Value::Number(figures.queue_items)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_queue_limit_items",
                Kind::Gauge,
                "The bound of it, where there is one.",
                |figures| figures.queue_limit_items.map(Value::Number),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_queue_bytes",
                Kind::Gauge,
                "What they take, encoded.",
                |figures| Some(Value::Number(figures.queue_bytes)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_queue_limit_bytes",
                Kind::Gauge,
                "The bound of it.",
                |figures| Some(Value::Number(figures.queue_limit_bytes)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_retries",
                Kind::Counter,
                "Requests for what had failed before.",
                |figures| Some(Value::Number(figures.retries)),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_peer_down",
                Kind::Gauge,
                "1 while export fails again and again.",
                |figures| Some(Value::Number(figures.peer_is_down.into())),
            ),
        ]
    }

    pub(super) fn exporter_sizes(&self) -> [Family; 3] {
        [
            self.by_signal(
                "snakepit_bridge_exporter_request_duration_seconds",
                Kind::Histogram,
                "From the beginning of a request to its answer.",
                |figures| Some(Value::NanoSizes(figures.request_duration_ns.clone())),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_batch_items",
                Kind::Histogram,
                "Items of a request.",
                |figures| Some(Value::Sizes(figures.batch_items.clone())),
            ),
            self.by_signal(
                "snakepit_bridge_exporter_batch_bytes",
                Kind::Histogram,
                "Bytes of a request, before compression.",
                |figures| Some(Value::Sizes(figures.batch_bytes.clone())),
            ),
        ]
    }

    pub(super) fn store(&self) -> [Family; 10] {
        let spool = |name, help, value: fn(SpoolFigures) -> Value| {
            self.by_signal(name, Kind::Gauge, help, |figures| figures.spool.map(value))
        };
        let store = |name, kind, help, value: fn(StoreFigures) -> u64| {
            let figures = self.ledger.export.store.map(value);
            let samples = figures.map(|value| Sample { labels: Vec::new(), value: Value::Number(value) });
            Family { name, kind, help, samples: samples.into_iter().collect() }
        };
        [
            spool("snakepit_bridge_spool_batches", "Export requests that wait on disk.", |spool| {
                Value::Number(spool.batches)
            }),
            spool("snakepit_bridge_spool_items", "Their items.", |spool| Value::Number(spool.items)),
            spool("snakepit_bridge_spool_bytes", "Their bytes.", |spool| Value::Number(spool.bytes)),
            spool("snakepit_bridge_spool_oldest_age_seconds", "How long the oldest has waited.", |spool| {
                Value::Nanos(spool.oldest_age_ns)
            }),
            spool(
                "snakepit_bridge_spool_signal_limit_bytes",
                "The bound of their bytes, which each signal has for itself.",
                |spool| Value::Number(spool.limit_bytes),
            ),
            store(
                "snakepit_bridge_spool_limit_bytes",
                Kind::Gauge,
                "The bound of what waits on disk, all signals together.",
                |store| store.spool_limit_bytes,
            ),
            store(
                "snakepit_bridge_store_working",
                Kind::Gauge,
                "1 while what is given to the state directory gets there.",
                |store| store.is_working.into(),
            ),
            store(
                "snakepit_bridge_store_commits",
                Kind::Counter,
                "Commits to the state directory.",
                |store| store.commits,
            ),
            store(
                "snakepit_bridge_store_commits_failed",
                Kind::Counter,
                "Commits to the state directory that failed.",
                |store| store.commits_failed,
            ),
            store("snakepit_bridge_store_bytes", Kind::Gauge, "Its size on disk.", |store| store.bytes),
        ]
    }

    fn by_signal(
        &self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        value: impl Fn(&SignalFigures) -> Option<Value>,
    ) -> Family {
        let signals = self.ledger.export.signals().into_iter();
        let samples = signals.filter_map(|(signal, figures)| {
            Some(Sample { labels: vec![("signal", signal.to_string())], value: value(figures)? })
        });
        Family { name, kind, help, samples: samples.collect() }
    }

    fn refused_by_signal(&self) -> Family {
        let signals = self.ledger.export.signals().into_iter();
        let samples = signals.flat_map(|(signal, figures)| {
            figures.refused.iter().map(move |(reason, count)| Sample {
                labels: vec![("signal", signal.to_string()), ("reason", (*reason).to_owned())],
                value: Value::Number(*count),
            })
        });
        Family {
            name: "snakepit_bridge_exporter_items_refused",
            kind: Kind::Counter,
            help: "Items that were not delivered and never will be, by reason.",
            samples: samples.collect(),
        }
    }
}
