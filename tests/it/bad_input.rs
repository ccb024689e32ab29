//! What the bridge makes of what no proper client sends: every message has its counted outcome, and the spans of a
//! worker that does its work meanwhile arrive as they were.

mod connections;
mod credentials;
mod messages;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::support::bridge::{Bridge, Events, Ledger};
use crate::support::sink::{Sink, text};
use crate::support::until;
use crate::support::worker::{Connector, Says as _, Worker, pair, wall};

/// Longest wait for what takes a moment on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Spans of the neighbour.
const NEIGHBOUR_SPANS: usize = 20;
const NEIGHBOUR_EVENTS: u64 = 2 * NEIGHBOUR_SPANS as u64;

/// How long each of them lasts, on the neighbour's clock.
const NEIGHBOUR_SPAN_NS: i64 = 1_234_567;

/// A bridge, its sink, and a worker in the middle of its work.
struct Scene {
    bridge: Bridge,
    sink: Sink,
    neighbour: Worker,
    began: i64,
}

impl Scene {
    async fn set() -> Result<Self> {
        Self::set_with(&[]).await
    }

    /// A scene whose bridge has further arguments.
    async fn set_with(arguments: &[&str]) -> Result<Self> {
        let sink = Sink::grpc().await?;
        let window: &[&str] =
            if arguments.contains(&"--reorder-window") { &[] } else { &["--reorder-window", "200ms"] };
        let arguments = [&["--log-format", "json"], window, arguments].concat();
        let bridge = Bridge::start(
            &arguments,
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.url()),
                ("OTEL_BSP_SCHEDULE_DELAY", "50"),
                ("OTEL_LOG_LEVEL", "debug"),
            ],
        )
        .await?;
        let neighbour = Connector::named("neighbour").pid(4711).connect(&bridge.grpc).await?;
        let scene = Self { bridge, sink, neighbour, began: wall() };
        for [start, _] in scene.neighbours_work() {
            scene.neighbour.send(&start).await?;
        }
        Ok(scene)
    }

    /// A hostile worker.
    async fn hostile(&self) -> Result<Worker> {
        Connector::named("hostile").connect(&self.bridge.grpc).await
    }

    fn neighbours_work(&self) -> Vec<[snakepit_otel_bridge::proto::TelemetryEvent; 2]> {
        (0..NEIGHBOUR_SPANS)
            .map(|number| {
                let from = self.began + i64::try_from(number).expect("few") * 1_000;
                let [start, stop] =
                    pair("neighbour.work", &format!("request-{number}"), from, NEIGHBOUR_SPAN_NS);
                [start.meta("tool", &format!("tool-{number}")), stop]
            })
            .collect()
    }

    /// Lets the neighbour finish, and compares what it did with what arrived. Then waits until the events of all others
    /// have these fates, and nothing is on its way.
    async fn ends_with(&mut self, others: Events) -> Result<()> {
        for [_, stop] in self.neighbours_work() {
            self.neighbour.send(&stop).await?;
        }
        self.neighbour.ensure_open().await?;
        let spans = self.sink.spans_of("neighbour", NEIGHBOUR_SPANS, LIMIT).await?;
        let mut arrived: Vec<_> = spans
            .iter()
            .map(|span| {
                let tool = text(&span.attributes, "snakepit.tool").unwrap_or_default();
                (span.start_time_unix_nano, span.end_time_unix_nano, span.name.as_str(), tool.to_owned())
            })
            .collect();
        arrived.sort();
        let expected: Vec<_> = (0..NEIGHBOUR_SPANS)
            .map(|number| {
                let from = u64::try_from(self.began).expect("now") + 1_000 * number as u64;
                let to = from + NEIGHBOUR_SPAN_NS.unsigned_abs();
                (from, to, "snakepit.python.neighbour.work", format!("tool-{number}"))
            })
            .collect();
        assert_eq!(arrived, expected);

        let expected = Events {
            received: others.received + NEIGHBOUR_EVENTS,
            paired: others.paired + NEIGHBOUR_EVENTS,
            ..others
        };
        let mut last: Option<Ledger> = None;
        let settled = until("every event's fate", LIMIT, async || {
            let ledger = self.bridge.ledger().await?;
            let is_settled = ledger.events == expected && ledger.spans.queued == 0;
            last = Some(ledger);
            Ok(is_settled.then_some(()))
        })
        .await;
        settled.with_context(|| format!("expected {expected:?}, the last sums are {last:?}"))?;
        let log = self.bridge.log();
        assert!(!log.contains("panicked"), "{log}");
        Ok(())
    }

    /// A value of `/metrics`.
    async fn metric(&self, name: &str) -> Result<u64> {
        self.bridge.metric(name).await
    }
}

/// What became of some events; `received` is their sum.
fn fates(paired: u64, rebuilt: u64, pending: u64, dropped: &[(&str, u64)]) -> Events {
    let dropped: BTreeMap<_, _> =
        dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    let received = paired + rebuilt + pending + dropped.values().sum::<u64>();
    Events { received, paired, rebuilt, pending, dropped, ..Events::default() }
}
