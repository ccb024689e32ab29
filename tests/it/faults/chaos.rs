//! The bridge is killed with -9 at random instants under load, with a state directory, again and again.
//!
//! The workers are honest: they send halves of spans, count, take notes, reconnect as who they were, and send nothing twice. As nothing
//! acknowledges their events, they ask the bridge what it has received of them; what it had some commits to the disk before a
//! kill is *sure*, and so is everything before a termination. Of what is not sure each event may be lost, and nothing else.
//!
//! `SNAKEPIT_BRIDGE_TEST_KILLS=100` is the thorough run; `SNAKEPIT_BRIDGE_TEST_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

use super::points::{COUNT, hit, note, notes};
use super::{LIMIT, bridge_to};
use crate::support::bridge::{Bridge, COMMITS_UNTIL_DURABLE, Ledger};
use crate::support::faulty_peer::{FaultyPeer, Transport};
use crate::support::load::{Load, SentSpan};
use crate::support::worker::{Connector, Worker};
use crate::support::{free_addresses, now, until};

/// Kills without the variable.
const FEW_KILLS: usize = 8;

/// How long a bridge lives, from its first event on.
const LIVES: std::ops::Range<f64> = 0.4..2.4;

/// Every so many ends are by SIGTERM, and during every so many lives the peer is away.
const TERMINATION_EVERY: usize = 4;
const OUTAGE_EVERY: usize = 3;

const WORKERS: usize = 3;

/// Every span has another tool, and all series are collected again and again: without a limit a long run would be about
/// nothing else.
const CONFIG: &str = "metrics: {max_series: 50}\n";

/// Each worker starts a span this often.
const TICK: Duration = Duration::from_millis(5);

/// Between two looks at what the bridge has received.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Most spans are short; one in so many outlives a bridge or two.
const LONG_EVERY: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_killed_at_random_instants_loses_only_what_it_says() -> Result<()> {
    let kills = variable("SNAKEPIT_BRIDGE_TEST_KILLS")
        .map_or(FEW_KILLS, |kills| usize::try_from(kills).expect("few"));
    let seed = variable("SNAKEPIT_BRIDGE_TEST_SEED").unwrap_or_else(|| rand::rng().random());
    let state = TempDir::new()?;
    let directory = state.path().to_str().context("a path of letters")?;
    let arguments = ["--state-dir", directory, "--checkpoint-interval", "500ms"];
    let ran = Chaos::run(&arguments, kills, StdRng::seed_from_u64(seed)).await;
    ran.with_context(|| format!("with SNAKEPIT_BRIDGE_TEST_SEED={seed}"))
}

/// The same with terminations alone: nothing at all may be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_restarted_again_and_again_loses_nothing() -> Result<()> {
    let state = TempDir::new()?;
    let directory = state.path().to_str().context("a path of letters")?;
    let arguments = ["--state-dir", directory, "--checkpoint-interval", "500ms"];
    let mut chaos = Chaos::begin(&arguments, StdRng::seed_from_u64(1)).await?;
    for _ in 0..4 {
        chaos.live().await?;
        chaos.terminate().await?;
        chaos.start().await?;
    }
    chaos.end().await?;
    let unsure = chaos.senders.iter().flat_map(|sender| &sender.events).filter(|sent| !sent.is_sure).count();
    ensure!(unsure == 0, "{unsure} events are not sure");
    Ok(())
}

/// What goes on.
struct Chaos<'a> {
    arguments: Vec<&'a str>,
    random: StdRng,
    peer: FaultyPeer,
    bridge: Option<Bridge>,
    load: Load,
    notes: u64,
    senders: Vec<Sender>,
    _config: TempDir,
}

/// A worker across its connections.
struct Sender {
    name: String,
    stream: Option<Worker>,
    /// Started and not ended.
    open: Vec<(Instant, SentSpan)>,
    /// In order, over all connections.
    events: Vec<Sent>,
    /// Those before this connection.
    before: usize,
    /// What the bridge says it had received before this connection.
    base: u64,
    /// What the bridge had received over this connection when it had made no more than so many commits.
    received: Vec<(u64, usize)>,
}

/// An event.
#[derive(Debug)]
struct Sent {
    what: What,
    is_sure: bool,
}

#[derive(Debug)]
enum What {
    /// One half of the span with this correlation id.
    Half(String),
    /// One that is counted.
    Hit,
    /// One that becomes a record.
    Note(u64),
}

/// Between two collections: a few within the life of a bridge.
const INTERVAL: &str = "600";

impl<'a> Chaos<'a> {
    async fn run(arguments: &[&'a str], kills: usize, random: StdRng) -> Result<()> {
        let mut chaos = Self::begin(arguments, random).await?;
        let mut killed = 0;
        for life in 1.. {
            if killed == kills {
                break;
            }
            if life % OUTAGE_EVERY == 0 {
                chaos.peer.close().await;
            }
            chaos.live().await.with_context(|| format!("in life {life}"))?;
            if life % TERMINATION_EVERY == 0 {
                chaos.terminate().await.with_context(|| format!("at the end of life {life}"))?;
            } else {
                chaos.kill().await?;
                killed += 1;
            }
            if life % OUTAGE_EVERY == 0 {
                chaos.peer.open().await?;
            }
            chaos.start().await.with_context(|| format!("after life {life}"))?;
        }
        chaos.end().await
    }

    async fn begin(arguments: &[&'a str], random: StdRng) -> Result<Self> {
        let [grpc, admin] = free_addresses()?;
        // Known for the whole test; a few bytes.
        let (grpc, admin): (&str, &str) = (grpc.leak(), admin.leak());
        let directory = TempDir::new()?;
        let config = directory.path().join("bridge.yaml").display().to_string();
        std::fs::write(&config, CONFIG)?;
        let mut chaos = Self {
            arguments: [&["--listen", grpc, "--admin-listen", admin, "--config", config.leak()], arguments]
                .concat(),
            random,
            peer: FaultyPeer::start(Transport::Grpc)?,
            bridge: None,
            load: Load::default(),
            notes: 0,
            senders: (0..WORKERS).map(|number| Sender::new(format!("worker_{number}"))).collect(),
            _config: directory,
        };
        chaos.start().await?;
        Ok(chaos)
    }

    fn bridge(&self) -> Result<&Bridge> {
        self.bridge.as_ref().context("no bridge is running")
    }

    /// Starts the bridge anew, and connects the workers.
    async fn start(&mut self) -> Result<()> {
        let url = self.peer.url();
        let variables = [
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL),
            ("OTEL_METRIC_EXPORT_TIMEOUT", INTERVAL),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ];
        let bridge = bridge_to(&url, Transport::Grpc, &self.arguments, &variables).await?;
        for (number, sender) in self.senders.iter_mut().enumerate() {
            let connector = Connector::named(&sender.name)
                .pid(4_000 + u32::try_from(number)?)
                .header("x-snakepit-node", b"n");
            sender.stream = Some(connector.connect(&bridge.grpc).await?);
            sender.before = sender.events.len();
            sender.received.clear();
            sender.base = until("the worker to be known", LIMIT, async || {
                Ok(received_of_workers(&bridge).await?.get(&sender.name).copied())
            })
            .await?;
        }
        self.bridge = Some(bridge);
        Ok(())
    }

    /// Sends for a random time.
    async fn live(&mut self) -> Result<()> {
        let end = now() + Duration::from_secs_f64(self.random.random_range(LIVES));
        let mut tick = tokio::time::interval(TICK);
        let mut looked = now();
        while now() < end {
            tick.tick().await;
            for sender in &mut self.senders {
                let lasts = if self.random.random_ratio(1, LONG_EVERY as u32) { 500..5_000 } else { 1..50 };
                let lasts = Duration::from_millis(self.random.random_range(lasts));
                let span = self.load.next(&sender.name, lasts);
                sender.begin(span, lasts).await?;
                sender.finish(Some(now())).await?;
                sender.send(What::Hit, hit()).await?;
                sender.send(What::Note(self.notes), note(self.notes)).await?;
                self.notes += 1;
            }
            if looked.elapsed() >= LOOK_INTERVAL {
                looked = now();
                self.look().await?;
            }
        }
        Ok(())
    }

    /// Asks the bridge what it has received.
    async fn look(&mut self) -> Result<()> {
        let bridge = self.bridge()?;
        let received = received_of_workers(bridge).await?;
        let commits = bridge.commits().await?;
        for sender in &mut self.senders {
            let total = received.get(&sender.name).copied().unwrap_or(sender.base);
            let of_connection = usize::try_from(total.saturating_sub(sender.base))?;
            ensure!(
                of_connection <= sender.events.len() - sender.before,
                "{total} received of {}",
                sender.name
            );
            sender.received.push((commits, of_connection));
        }
        Ok(())
    }

    async fn kill(&mut self) -> Result<()> {
        let bridge = self.bridge.take().context("no bridge is running")?;
        bridge.signal("KILL")?;
        bridge.ended(LIMIT).await?;
        for sender in &mut self.senders {
            sender.stream = None;
            let last = sender.received.last().map_or(0, |(commits, _)| *commits);
            let is_on_disk = |(commits, _): &&(u64, usize)| commits + COMMITS_UNTIL_DURABLE <= last;
            let sure = sender.received.iter().filter(is_on_disk).map(|(_, count)| *count).max().unwrap_or(0);
            sender.make_sure(sure);
        }
        Ok(())
    }

    /// Ends the bridge as an operator does: what is on the wire counts.
    async fn terminate(&mut self) -> Result<Ledger> {
        let bridge = self.bridge.take().context("no bridge is running")?;
        bridge.signal("TERM")?;
        for sender in &mut self.senders {
            let stream = sender.stream.take().context("no stream")?;
            let code = stream.ended_by_bridge().await?;
            ensure!(code == tonic::Code::Ok, "the stream of {} ended with {code:?}", sender.name);
            sender.make_sure(sender.events.len() - sender.before);
        }
        let (status, log) = bridge.ended(LIMIT).await?;
        ensure!(status.success(), "{status}: {log}");
        ensure!(!log.contains("panicked"), "{log}");
        let ledger = Ledger::of_log(&log)?;
        for items in [&ledger.spans, &ledger.points, &ledger.records] {
            ensure!(items.queued == 0, "left in memory: {ledger:?}");
            ensure!(items.refused.is_empty(), "{ledger:?}");
        }
        Ok(ledger)
    }

    /// Lets every span end, and compares both sides.
    async fn end(&mut self) -> Result<()> {
        for sender in &mut self.senders {
            sender.finish(None).await?;
        }
        let terminated = self.terminate().await?;
        // Once more, for what that one had no time to send; this one has all the time that it needs.
        self.arguments.extend(["--shutdown-timeout", "30s"]);
        self.start().await?;
        let mut last = None;
        let delivered = until("all to be delivered", LIMIT, async || {
            let ledger = self.bridge()?.ledger().await?;
            let done =
                [&ledger.spans, &ledger.points, &ledger.records].iter().all(|items| items.waiting() == 0);
            last = Some(ledger.clone());
            Ok(done.then_some(ledger))
        })
        .await;
        let ledger = delivered.with_context(|| format!("the last sums were {last:?}"))?;
        // What was undecided at the end may have become spans since, and nothing has arrived.
        ensure!(ledger.events.received == terminated.events.received, "{ledger:?} after {terminated:?}");
        ensure!(ledger.spans.made >= terminated.spans.made, "{ledger:?} after {terminated:?}");
        // Points are made as long as there is a bridge, and those of the last collection leave before it ends.
        let ledger = self.terminate().await?;
        for items in [&ledger.spans, &ledger.points, &ledger.records] {
            ensure!(items.waiting() == 0 && items.exported == items.made, "left on disk: {ledger:?}");
            ensure!(items.of_before() == 0, "every replay is exact: {ledger:?}");
        }
        let differences = self.differences(&ledger);
        ensure!(differences.is_empty(), "{}\n{ledger:?}", differences.join("\n"));
        Ok(())
    }

    fn differences(&self, ledger: &Ledger) -> Vec<String> {
        let taken = self.peer.taken();
        let mut differences = Vec::new();
        if let Err(error) = taken.ensure_at_most(2) {
            differences.push(format!("more than twice, or not the same: {error:#}"));
        }
        let mut sure: BTreeMap<&str, u32> = BTreeMap::new();
        let events = || self.senders.iter().flat_map(|sender| &sender.events);
        for sent in events().filter(|sent| sent.is_sure) {
            if let What::Half(correlation_id) = &sent.what {
                *sure.entry(correlation_id).or_default() += 1;
            }
        }
        let sure_events = events().filter(|sent| sent.is_sure).count();
        // Else the test would prove nothing.
        if (sure_events as f64) < 0.3 * events().count() as f64 {
            differences.push(format!("only {sure_events} of {} events are sure", events().count()));
        }
        let received = ledger.events.received;
        if received < sure_events as u64 || received > events().count() as u64 {
            differences.push(format!("{received} received; {sure_events} sure, {} sent", events().count()));
        }
        if taken.distinct() != ledger.spans.exported {
            differences.push(format!("{} different spans at the peer", taken.distinct()));
        }
        let mut missing = self.load.spans().clone();
        for arrived in taken.each() {
            match self.load.of(arrived) {
                None => differences.push(format!("never sent: {arrived:?}")),
                Some(span) if missing.remove(&span.correlation_id).is_none() => {
                    differences.push(format!("under two ids: {}", span.correlation_id));
                }
                // An end that has come makes the whole span, with or without its start; and no span times out here.
                Some(span) => differences.extend(span.differences(arrived)),
            }
        }
        let lost = missing.into_keys().filter(|id| sure.get(id.as_str()) == Some(&2));
        differences.extend(lost.map(|id| format!("lost: {id}")));
        differences.extend(self.differences_of_points(ledger));
        differences.extend(self.differences_of_records(ledger));
        differences
    }

    fn differences_of_points(&self, ledger: &Ledger) -> Vec<String> {
        let points = self.peer.points();
        let mut differences = Vec::new();
        if let Err(error) = points.ensure_sound() {
            differences.push(format!("{error:#}"));
        }
        if points.distinct() != ledger.points.made {
            differences.push(format!("{} different points at the peer", points.distinct()));
        }
        for sender in &self.senders {
            let hits = || sender.events.iter().filter(|sent| matches!(sent.what, What::Hit));
            let sure = hits().filter(|sent| sent.is_sure).count();
            let counted = points.sum(COUNT, Some(&sender.name));
            if counted < sure as f64 || counted > hits().count() as f64 {
                differences.push(format!("{counted} hits of {}; {sure} sure", sender.name));
            }
        }
        let measured = |worker| -> f64 {
            let durations = points.metrics().into_iter().filter(|name| name.ends_with(".duration"));
            durations.map(|name| points.sum(name, worker)).sum()
        };
        if measured(None) != ledger.spans.made as f64 {
            differences.push(format!("{} durations of spans", measured(None)));
        }
        // Every span is exported, so each series has to hold just the spans of its worker and operation.
        let mut spans: BTreeMap<(String, String), u64> = BTreeMap::new();
        for arrived in self.peer.taken().each() {
            let of = (arrived.worker.clone(), format!("{}.duration", arrived.span.name));
            *spans.entry(of).or_default() += 1;
        }
        for ((worker, metric), spans) in spans {
            let measured = points.sum(&metric, Some(&worker));
            if measured != spans as f64 {
                differences.push(format!("{measured} in {metric} of {worker}, of {spans} spans"));
            }
        }
        differences
    }

    fn differences_of_records(&self, ledger: &Ledger) -> Vec<String> {
        let mut differences = Vec::new();
        let arrived: BTreeSet<u64> = match notes(&self.peer.records()) {
            Ok(arrived) => arrived.into_iter().collect(),
            Err(error) => return vec![format!("{error:#}")],
        };
        let count = arrived.len() as u64;
        if (ledger.records.made, ledger.records.exported) != (count, count) {
            differences.push(format!("{count} different records at the peer"));
        }
        let counted = self.peer.points().sum(COUNT, None);
        if ledger.events.standalone as f64 != count as f64 + counted {
            differences.push(format!("{counted} hits and {count} notes"));
        }
        for sent in self.senders.iter().flat_map(|sender| &sender.events).filter(|sent| sent.is_sure) {
            if let What::Note(number) = sent.what
                && !arrived.contains(&number)
            {
                differences.push(format!("lost: note {number}"));
            }
        }
        differences
    }
}

impl Sender {
    fn new(name: String) -> Self {
        Self {
            name,
            stream: None,
            open: Vec::new(),
            events: Vec::new(),
            before: 0,
            base: 0,
            received: Vec::new(),
        }
    }

    async fn begin(&mut self, span: SentSpan, lasts: Duration) -> Result<()> {
        let [start, _] = span.events("");
        self.send(What::Half(span.correlation_id.clone()), start).await?;
        self.open.push((now() + lasts, span));
        Ok(())
    }

    /// Ends the spans whose time has come, or all.
    async fn finish(&mut self, by: Option<Instant>) -> Result<()> {
        let is_due = |(due, _): &mut (Instant, SentSpan)| by.is_none_or(|now| *due <= now);
        let due: Vec<_> = self.open.extract_if(.., is_due).collect();
        for (_, span) in due {
            let [_, stop] = span.events("");
            self.send(What::Half(span.correlation_id), stop).await?;
        }
        Ok(())
    }

    async fn send(&mut self, what: What, event: snakepit_otel_bridge::proto::TelemetryEvent) -> Result<()> {
        self.events.push(Sent { what, is_sure: false });
        let Some(stream) = &self.stream else { bail!("{} is not connected", self.name) };
        stream.send(&event).await
    }

    /// Notes that the first `count` events of this connection cannot be lost any more.
    fn make_sure(&mut self, count: usize) {
        for sent in self.events.iter_mut().skip(self.before).take(count) {
            sent.is_sure = true;
        }
    }
}

/// What the bridge says it has received of each worker.
async fn received_of_workers(bridge: &Bridge) -> Result<BTreeMap<String, u64>> {
    let answer: serde_json::Value = serde_json::from_str(&bridge.admin("/api/v1/workers").await?)?;
    let workers = answer["workers"].as_array().context("no workers")?;
    let of_worker = |worker: &serde_json::Value| {
        let name = worker["worker_id"].as_str().context("no id")?;
        Ok((name.to_owned(), worker["events_received"].as_u64().context("no sum")?))
    };
    workers.iter().map(of_worker).collect()
}

#[expect(clippy::disallowed_methods, reason = "tests are told by their environment how thorough to be")]
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
