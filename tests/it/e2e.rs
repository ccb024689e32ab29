//! Python workers, the bridge, the real Collector, the real Jaeger: what a user would see is what happened.
//!
//! Few and slow on purpose: they prove that the parts are joined. What each kind of event becomes is tested in the engine.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::support::bridge::{Bridge, Ledger, sum};
use crate::support::jaeger::Jaeger;
use crate::support::peers::Peers;
use crate::support::python::{Client, Foreign, Python};
use crate::support::truth::{Found, Truth};

const SERVICE: &str = "snakepit-python";

/// Longest wait for what takes a few seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

const WORKERS: usize = 8;
const SPANS_PER_WORKER: usize = 125;
const PROGRESS_PER_WORKER: usize = 5;

/// The bridge waits 5 s for late events here; they come up to 0.5 s late, and the rest is left to a busy machine, on which
/// a worker may not run at all for a second or two.
const REORDER_WINDOW: &str = "5s";
const DISORDER_MS: &str = "500";

/// 1,000 spans of 8 workers at once, each event up to half a second late, are in both backends exactly as they were:
/// names, times to the microsecond, parents, kinds, statuses, attributes, events; and the ledger adds up to the event.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_spans_of_eight_disordered_workers_arrive_exactly() -> Result<()> {
    let peers = Peers::start().await?;
    let python = Python::set_up()?;
    let bridge = start_bridge("grpc", &peers.otlp_grpc).await?;

    let mut workers = Vec::new();
    for number in 0..WORKERS {
        workers.push(start_worker(&python, &bridge, number)?);
    }
    // All begin at the same moment, when none is busy with starting.
    for worker in &mut workers {
        assert_eq!(worker.line(LIMIT).await?, "CONNECTED");
    }
    for worker in &mut workers {
        worker.go()?;
    }
    for worker in &mut workers {
        worker.succeeded(LIMIT).await?;
    }

    let truths =
        (0..WORKERS).map(|n| Truth::read(&python.file(&worker_id(n)))).collect::<Result<Vec<_>>>()?;
    let sent: u64 = truths.iter().map(|truth| truth.events_sent).sum();
    let ledger = bridge.settled(sent, LIMIT).await?;

    for (backend, name) in
        [(&peers.jaeger, "Jaeger"), (&peers.tempo_stand_in, "the backend in Tempo's place")]
    {
        let found = backend.spans(SERVICE, WORKERS * SPANS_PER_WORKER, LIMIT).await?;
        let differences = differences(&truths, found);
        assert!(differences.is_empty(), "in {name}:\n{}", differences.join("\n"));
    }
    every_worker_shares_one_trace(&peers.jaeger, &truths).await?;

    for truth in &truths {
        let policy = [
            json!({"toggle": {"enabled": true}}),
            json!({"sampling": {"sampling_rate": 1.0}}),
            json!({"filter": {}}),
        ];
        assert_eq!(truth.controls, policy);
    }
    let spans = u64::try_from(WORKERS * SPANS_PER_WORKER)?;
    let progress = u64::try_from(WORKERS * PROGRESS_PER_WORKER)?;
    assert_eq!(sent, 2 * spans + progress);
    assert_exact(&ledger, sent, spans, progress);

    let (status, log) = bridge.terminate(LIMIT).await?;
    assert!(status.success(), "the bridge ended with {status}");
    let last = log.lines().last().context("the bridge logged nothing")?;
    assert!(last.contains(&sent.to_string()), "the last log line is not the ledger: {last}");
    Ok(())
}

/// The design document's emitter, as it is written there, is a worker: its spans arrive as they were.
#[tokio::test(flavor = "multi_thread")]
async fn the_design_documents_emitter_works_unmodified() -> Result<()> {
    let Some((truth, ledger)) = foreign_worker_arrives("emitter_from_design.py", "grpc").await? else {
        return Ok(());
    };
    assert_eq!(truth.enabled, Some(true));
    // `worker.ready` is in no span, has no correlation id, and metrics are not built yet.
    let spans = u64::try_from(truth.spans.len())?;
    assert_eq!(ledger.events.paired, 2 * spans);
    assert_eq!(ledger.events.standalone + sum(&ledger.events.dropped), truth.events_sent - 2 * spans);
    Ok(())
}

/// A client on the classes that Snakepit has released, whose controls are numbered otherwise, is told so by a header,
/// and is not muted by what the bridge sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_on_the_released_classes_works() -> Result<()> {
    let Some((truth, ledger)) = foreign_worker_arrives("worker_released.py", "http/protobuf").await? else {
        return Ok(());
    };
    assert_eq!(truth.enabled, Some(true));
    assert_eq!(truth.controls, [json!("toggle"), json!("sampling"), json!("filter")]);
    assert_exact(&ledger, truth.events_sent, u64::try_from(truth.spans.len())?, 0);
    Ok(())
}

/// Whatever other clients do meanwhile, all at once, a worker's spans arrive and every event is accounted for.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_clients_cost_the_others_nothing() -> Result<()> {
    let python = Python::set_up()?;
    // The worker that is asked for at the end is remembered however long the others take.
    let bridge = Bridge::start(&["--reconnect-grace", "10m"], &[("OTEL_TRACES_EXPORTER", "none")]).await?;
    let mut hostile = Vec::new();
    for (behaviour, arguments) in [
        ("never-reads", ["--count", "2000"].as_slice()),
        ("silent-streams", &["--count", "20"]),
        ("silent-sockets", &["--count", "50"]),
        ("not-http2", &["--count", "5"]),
        ("many-streams", &["--count", "1000"]),
        ("garbage", &["--count", "500"]),
        ("oversized", &["--bytes", "5000000"]),
        ("bad-values", &["--count", "1000"]),
        ("wrong-method", &[]),
    ] {
        let id = format!("hostile_{behaviour}");
        let client = python.hostile(behaviour, &bridge.grpc, &[arguments, &["--worker-id", &id]].concat())?;
        hostile.push((behaviour, client));
    }

    let truth = python.file("good");
    let arguments = ["--worker-id", "good", "--spans", "50", "--seed", "99"];
    let mut good = python.worker(&bridge.grpc, &truth, &arguments)?;
    good.succeeded(LIMIT).await?;

    let mut reports = BTreeMap::new();
    for (behaviour, client) in &mut hostile {
        let line = client.line(LIMIT).await.with_context(|| (*behaviour).to_owned())?;
        let report: Value = serde_json::from_str(&line)?;
        reports.insert(*behaviour, report);
    }
    // Streams with bad messages go on to their own end.
    for behaviour in ["garbage", "oversized", "bad-values"] {
        assert_eq!(reports[behaviour]["status"], "OK", "{behaviour}: {reports:?}");
    }
    assert_eq!(reports["many-streams"]["answered"], 1000);
    assert_eq!(reports["wrong-method"]["codes"]["/SnakepitBridge/StreamTelemetryBatches"], "UNIMPLEMENTED");

    bridge.admin("/readyz").await?;
    let ledger = bridge.ledger().await?;
    let dropped = &ledger.events.dropped;
    assert_eq!(dropped.get("oversized"), Some(&1), "{dropped:?}");
    assert!(dropped.get("malformed").is_some_and(|&n| n > 0), "{dropped:?}");
    assert!(dropped.get("empty_name").is_some_and(|&n| n > 0), "{dropped:?}");
    let workers: Value = serde_json::from_str(&bridge.admin("/api/v1/workers").await?)?;
    let workers = workers["workers"].as_array().context("no list of workers")?;
    let good =
        workers.iter().find(|worker| worker["worker_id"] == "good").context("the good worker is unknown")?;
    assert_eq!(good["events_received"], Truth::read(&truth)?.events_sent);
    Ok(())
}

async fn start_bridge(protocol: &str, endpoint: &str) -> Result<Bridge> {
    let variables = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)];
    Bridge::start(&["--reorder-window", REORDER_WINDOW], &variables).await
}

fn worker_id(number: usize) -> String {
    format!("worker_{number}")
}

fn start_worker(python: &Python, bridge: &Bridge, number: usize) -> Result<Client> {
    let (id, seed) = (worker_id(number), (1000 + number).to_string());
    let (spans, progress) = (SPANS_PER_WORKER.to_string(), PROGRESS_PER_WORKER.to_string());
    python.worker(
        &bridge.grpc,
        &python.file(&id),
        &[
            ["--worker-id", &id],
            ["--pool", if number.is_multiple_of(2) { "default" } else { "gpu" }],
            ["--node", "node-a"],
            ["--seed", &seed],
            ["--spans", &spans],
            ["--progress", &progress],
            ["--disorder-ms", DISORDER_MS],
        ]
        .concat()
        .into_iter()
        .chain(["--wait"])
        .collect::<Vec<_>>(),
    )
}

/// Each worker's spans against its own truth, and its resource; spans of no known worker are differences too.
fn differences(truths: &[Truth], found: Vec<Found>) -> Vec<String> {
    let mut by_worker: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    for span in found {
        let worker = span.resource.get("snakepit.worker.id").and_then(Value::as_str).unwrap_or("nobody");
        by_worker.entry(worker.to_owned()).or_default().push(span);
    }
    let mut differences = Vec::new();
    for truth in truths {
        let id = truth.worker_id.as_deref().unwrap_or_default();
        let found = by_worker.remove(id).unwrap_or_default();
        differences
            .extend(truth.differences(&found).into_iter().map(|difference| format!("{id}: {difference}")));
        for (key, value) in [
            ("service.name", json!(SERVICE)),
            ("service.namespace", json!("snakepit")),
            ("service.instance.id", json!(format!("{id}@node-a"))),
            ("snakepit.node", json!("node-a")),
            ("process.pid", json!(truth.pid)),
        ] {
            if let Some(span) = found.iter().find(|span| span.resource.get(key) != Some(&value)) {
                differences.push(format!("{id}: resource {key} is not {value}: {:?}", span.resource));
            }
        }
    }
    differences.extend(by_worker.keys().map(|id| format!("spans of {id}, who never was")));
    differences
}

/// The correlation id that all workers used makes one trace with spans of all of them.
async fn every_worker_shares_one_trace(jaeger: &Jaeger, truths: &[Truth]) -> Result<()> {
    let shared = truths[0].spans[0].trace_id.as_deref().context("the first tree is the shared one")?;
    let expected: usize = truths.iter().map(|truth| truth.spans_of_trace(shared)).sum();
    assert_eq!(jaeger.trace(shared).await?.spans.len(), expected);
    Ok(())
}

/// Runs a program with foreign code to its end, and compares what arrives with its truth; none if the code is not at hand.
async fn foreign_worker_arrives(program: &str, protocol: &str) -> Result<Option<(Truth, Ledger)>> {
    let python = Python::set_up()?;
    let peers = Peers::start().await?;
    let endpoint = if protocol == "grpc" { &peers.otlp_grpc } else { &peers.otlp_http };
    let bridge = start_bridge(protocol, endpoint).await?;
    let truth = python.file("truth");
    if let Foreign::Skipped(why) = python.foreign(program, &bridge.grpc, &truth)?.foreign(LIMIT).await? {
        // Past the test harness, which would keep it to itself.
        writeln!(std::io::stderr(), "{why}")?;
        return Ok(None);
    }

    let truth = Truth::read(&truth)?;
    assert_eq!(truth.sampling_rate, Some(1.0));
    let ledger = bridge.settled(truth.events_sent, LIMIT).await?;
    let found = peers.jaeger.spans(SERVICE, truth.spans.len(), LIMIT).await?;
    let differences = truth.differences(&found);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(Some((truth, ledger)))
}

/// Every event is half of a span or a standalone one, every span has been exported, nothing else has happened.
fn assert_exact(ledger: &Ledger, received: u64, spans: u64, standalone: u64) {
    let events = &ledger.events;
    assert_eq!(events.received, received);
    assert_eq!(events.paired, 2 * spans);
    assert_eq!(events.standalone, standalone);
    assert_eq!(
        (events.rebuilt, events.incomplete, events.pending, sum(&events.dropped)),
        (0, 0, 0, 0),
        "{ledger:?}"
    );
    let made = &ledger.spans;
    assert_eq!((made.made, made.exported), (spans, spans));
    assert_eq!((made.sampled_out, made.queued, made.spooled, sum(&made.refused)), (0, 0, 0, 0), "{ledger:?}");
}
