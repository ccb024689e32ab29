//! `demo`: simulated workers that speak real gRPC to a running bridge, and what the bridge makes of them.
//!
//! The bridge is the real one: workers connect to its gRPC port, spans in flight and the ledger are asked of its admin
//! port, and what is finished comes through a channel beside its export. What workers do is in [`script`], how traces are
//! drawn in [`tree`], metrics and log records in [`measured`].

pub(super) mod command;
mod director;
mod measured;
mod raw;
mod report;
mod script;
mod setup;
mod style;
#[cfg(test)]
mod testing;
mod traces;
mod tree;
mod workers;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cli::demo::director::{Scene, Schedule};
use crate::cli::demo::measured::Measured;
use crate::cli::demo::report::{Ledger, OpenSpans};
use crate::cli::demo::setup::{RECONNECT_GRACE, REORDER_WINDOW};
use crate::cli::demo::style::{Style, Tone, escaped};
use crate::cli::demo::traces::{Gathered, Traces};
use crate::control::policy::Policy;
use crate::engine::Span;
use crate::engine::attributes::AttributeValue;
use crate::shard::Made;
use crate::time::{Monotonic, Now};

/// The delay of a batch in the demo, unless `OTEL_BSP_SCHEDULE_DELAY` says otherwise.
const SCHEDULE_DELAY: Duration = Duration::from_millis(200);

/// A trace is whole when no span of it came for so long: its last spans are judged a window after their end.
const QUIET: Duration = Duration::from_millis(400);
/// A trace without some of its parents is shown after so long: longer than a worker that died is waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// From the last chapter's end until everything that can be decided is decided, exported and shown.
const EPILOGUE: Duration = Duration::from_millis(1000);
/// How long a chapter takes at most, with the pause after it.
const CHAPTER: Duration = Duration::from_millis(800);
/// Captions that wait for their trace.
const MAX_CAPTIONS: usize = 1000;
/// How long the admin port may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Both of the bridge's clocks, read at once.
type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// The bridge that the demo is about.
#[derive(Debug, Clone, Copy)]
struct Bridge {
    /// Where workers connect.
    grpc: SocketAddr,
    /// Where the ledger is asked for.
    admin: SocketAddr,
}

/// How the demo is run.
struct DemoOptions {
    /// How long, about; `None` is until `stop`.
    length: Option<Duration>,
    /// Where spans are exported to as well, for saying so.
    exports_to: Option<String>,
    /// How lines look.
    style: Style,
    /// The bridge's clocks, for timestamps and for the end.
    clock: Clock,
    /// Ends the demo early, and orderly.
    stop: CancellationToken,
}

/// Plays, and tells on `out` what the bridge makes of it. A reader of `out` that goes away ends the demo without fuss.
///
/// # Errors
/// When a worker cannot speak to the bridge, when `out` cannot be written to, or when the ledger does not add up.
async fn perform(
    bridge: Bridge,
    made: mpsc::Receiver<Made>,
    options: DemoOptions,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    match show(bridge, made, options, out).await {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn show(
    bridge: Bridge,
    mut made: mpsc::Receiver<Made>,
    options: DemoOptions,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let DemoOptions { length, exports_to, style, clock, stop } = options;
    let began = clock().mono;
    let mut stage = Stage {
        out,
        style,
        traces: Traces::new(QUIET, PATIENCE),
        measured: Measured::default(),
        captions: BTreeMap::new(),
        has_shown_one: false,
    };
    stage.say(&introduction(bridge, exports_to.as_deref(), length, style))?;

    let (teller, mut scenes) = mpsc::channel(16);
    let schedule = Schedule {
        last_begin: length.map(|length| began.after(length.saturating_sub(EPILOGUE + CHAPTER))),
        absence: RECONNECT_GRACE + REORDER_WINDOW + SCHEDULE_DELAY,
    };
    let play = director::play(bridge.grpc, clock.clone(), teller, schedule, stop);
    tokio::pin!(play);
    let mut cast = None;
    let mut end = None;
    loop {
        let until = |due: Option<Monotonic>| {
            sleep(due.map_or(Duration::MAX, |due| Duration::from_nanos(due.since(clock().mono))))
        };
        tokio::select! {
            Some(finished) = made.recv() => stage.gather(finished, clock().mono)?,
            Some(scene) = scenes.recv() => stage.tell(scene)?,
            () = until(stage.traces.next_due()) => stage.show_due(clock().mono)?,
            result = &mut play, if cast.is_none() => {
                cast = Some(result?);
                end = Some(clock().mono.after(EPILOGUE));
            }
            () = until(end) => break,
        }
    }
    while let Ok(finished) = made.try_recv() {
        stage.gather(finished, clock().mono)?;
    }
    stage.show_rest()?;
    stage.section(
        "Measured: the metrics that the bridge makes of the same events, all workers together",
        "",
    )?;
    stage.say(&stage.measured.draw_metrics(style))?;
    stage.section("Told: the log records that it makes of events without a number", "")?;
    stage.say(&stage.measured.draw_records(style))?;

    let in_flight: OpenSpans = ask(bridge.admin, "/api/v1/spans/open").await?;
    let ledger: Ledger = ask(bridge.admin, "/api/v1/ledger").await?;
    stage.section("Still in flight", &format!("GET http://{}/api/v1/spans/open", bridge.admin))?;
    stage.say(&in_flight.draw(style))?;
    stage.section(
        "Ledger: every event in exactly one place",
        &format!("GET http://{}/api/v1/ledger", bridge.admin),
    )?;
    stage.say(&ledger.draw(exports_to.as_deref(), style))?;
    // Until here the workers stayed connected, or what they have in flight would count as lost.
    drop(cast);
    if !ledger.adds_up() {
        bail!("the ledger does not add up");
    }
    Ok(())
}

fn introduction(bridge: Bridge, exports_to: Option<&str>, length: Option<Duration>, style: Style) -> String {
    let ends = length.map_or_else(
        || "It runs until Ctrl-C.".to_owned(),
        |length| format!("It ends after about {} s.", length.as_secs()),
    );
    let exports = exports_to.map_or_else(String::new, |endpoint| {
        format!("Finished spans go to {} as well.\n", escaped(endpoint, 255))
    });
    format!(
        "\n{}\n\
         3 simulated Python workers stream start and stop events to the bridge over gRPC (at {}).\n\
         The bridge finds out which stop belongs to which start and which call ran inside which, and makes\n\
         OpenTelemetry spans of them, and metrics. This is what it makes. {ends}\n{exports}",
        style.paint(Tone::Heading, "snakepit-otel-bridge: what it does, by example"),
        bridge.grpc,
    )
}

async fn ask<T: DeserializeOwned>(admin: SocketAddr, path: &str) -> anyhow::Result<T> {
    let url = format!("http://{admin}{path}");
    // Without TLS no certificates are needed, and some machines have none.
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_TIMEOUT).build()?;
    let answer = client.get(&url).send().await?.error_for_status()?.bytes().await?;
    serde_json::from_slice(&answer).with_context(|| format!("failed to understand the answer of {url}"))
}

// ---------------------------------------------------------------------------------------------------------------------

/// What is on show.
struct Stage<'a, W> {
    out: &'a mut W,
    style: Style,
    traces: Traces,
    measured: Measured,
    /// By correlation id.
    captions: BTreeMap<String, &'static str>,
    has_shown_one: bool,
}

impl<W: Write> Stage<'_, W> {
    fn tell(&mut self, scene: Scene) -> io::Result<()> {
        match scene {
            Scene::Connected { workers, policy } => self.say(&format!(
                "On connecting, {} were told: {}.\n",
                workers.join(", "),
                controls(&policy)
            )),
            Scene::Begins { correlation_id, caption } => {
                if self.captions.len() >= MAX_CAPTIONS {
                    self.captions.pop_first();
                }
                if !caption.is_empty() {
                    self.captions.insert(correlation_id, caption);
                }
                Ok(())
            }
            Scene::Sent(events) if events.is_empty() => Ok(()),
            Scene::Sent(events) => {
                let heading = format!("In: the {} events that worker_1 sends for one call", events.len());
                self.section(&heading, "")?;
                self.say(&raw::draw(&events, self.style))
            }
        }
    }

    fn gather(&mut self, made: Made, now: Monotonic) -> io::Result<()> {
        made.metrics.iter().for_each(|metric| self.measured.measure(metric));
        made.records.into_iter().for_each(|record| self.measured.tell(record));
        for span in made.spans {
            if let Some(pushed_out) = self.traces.add(span, now) {
                self.show(&pushed_out)?;
            }
        }
        Ok(())
    }

    fn show_due(&mut self, now: Monotonic) -> io::Result<()> {
        self.traces.take_due(now).iter().try_for_each(|trace| self.show(trace))
    }

    fn show_rest(&mut self) -> io::Result<()> {
        self.traces.take_rest().iter().try_for_each(|trace| self.show(trace))
    }

    fn show(&mut self, trace: &Gathered) -> io::Result<()> {
        if !self.has_shown_one {
            self.has_shown_one = true;
            self.section("Out: the traces that the bridge makes, as they come", "")?;
        } else {
            self.say("\n")?;
        }
        let caption = trace.spans.iter().find_map(|span| self.caption(span));
        self.say(&tree::draw(trace, caption, self.style))
    }

    fn caption(&self, span: &Span) -> Option<&'static str> {
        match span.attributes.value("snakepit.correlation_id")? {
            AttributeValue::Text(id) => self.captions.get(id).copied(),
            AttributeValue::Int(_) | AttributeValue::Float(_) | AttributeValue::Bool(_) => None,
        }
    }

    fn section(&mut self, heading: &str, source: &str) -> io::Result<()> {
        let source = if source.is_empty() { String::new() } else { format!("  ({source})") };
        let line = format!(
            "\n{}{}\n\n",
            self.style.paint(Tone::Heading, heading),
            self.style.paint(Tone::Faint, &source)
        );
        self.say(&line)
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

/// What a policy tells a worker, in words.
fn controls(policy: &Policy) -> String {
    let telemetry = if policy.enabled { "on" } else { "off" };
    let filter = if policy.allowed_events.is_empty() && policy.blocked_events.is_empty() {
        "no filter".to_owned()
    } else {
        let patterns = policy.allowed_events.len() + policy.blocked_events.len();
        format!("a filter of {patterns} patterns")
    };
    format!("telemetry {telemetry}, sampling rate {}, {filter}", policy.sampling_rate.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::testing::{named, root, timed};

    #[test]
    fn a_trace_is_shown_with_its_caption_when_it_is_whole() {
        let mut out = Vec::new();
        let mut stage = Stage {
            out: &mut out,
            style: Style::PLAIN,
            traces: Traces::new(QUIET, PATIENCE),
            measured: Measured::default(),
            captions: BTreeMap::new(),
            has_shown_one: false,
        };
        let begins = Scene::Begins { correlation_id: "demo-1".to_owned(), caption: "one call" };
        stage.tell(begins).unwrap();
        let mut span = timed(named(root(1, 1), "a"), 0, 10);
        span.attributes.set("snakepit.correlation_id", AttributeValue::Text("demo-1"));
        stage.gather(Made { spans: vec![span], ..Made::default() }, Monotonic(0)).unwrap();
        stage.show_due(Monotonic(0)).unwrap();
        stage.show_due(Monotonic(0).after(QUIET)).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "
Out: the traces that the bridge makes, as they come

# one call
trace 00000000000000000000000000000001  correlation id demo-1  worker_1
  a  ████████████████████████████████████████   10.0 ms
"
        );
    }

    #[test]
    fn controls_are_told_in_words() {
        assert_eq!(controls(&Policy::default()), "telemetry on, sampling rate 1, no filter");
        let blocked_events = vec!["debug.*".to_owned()];
        let policy = Policy { enabled: false, blocked_events, ..Policy::default() };
        assert_eq!(controls(&policy), "telemetry off, sampling rate 1, a filter of 1 patterns");
    }
}
