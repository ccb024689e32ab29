mod events;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::admin::sources::{
    CollectionFigures, ExportFigures, ReceiverFigures, SignalFigures, SpoolFigures, StoreFigures,
};
use crate::control::policy::{Policy, Rate};
use crate::drops::DropReason;
use crate::engine::EventLedger;
use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metrics::MetricFigures;
use crate::engine::report::{
    EventAnswer, EventQuery, EventReport, Occupancy, OpenSpanQuery, OpenSpanReport, WorkerReport,
};
use crate::engine::span::{SpanId, TraceId};
use crate::shard::{Capacity, ShardMessage, Shards};
use crate::time::UnixNanos;
use crate::token::Token;
use crate::worker::{Capabilities, Dialect, Identity, WorkerKey};

#[tokio::test]
async fn the_ledger_adds_up_over_shards_and_exporter() {
    let bridge = Bridge::start(vec![Shard::of_events(9), Shard::default()]);

    let (status, body) = bridge.get_json("/api/v1/ledger").await;

    assert_eq!(status, 200);
    assert_eq!(
        body,
        json!({
            "events": {"received": 9, "paired": 4, "rebuilt": 1, "incomplete": 1, "standalone": 1, "pending": 1,
                       "dropped": {"duplicate_end": 1}},
            "spans": {"made": 4, "made_again": 0, "inherited": 0, "exported": 2, "sampled_out": 0, "queued": 1, "spooled": 0, "refused": {"queue_full": 1}},
            "points": {"made": 9, "made_again": 0, "inherited": 0, "exported": 6, "sampled_out": 0, "queued": 2, "spooled": 1, "refused": {}},
            "records": {"made": 0, "made_again": 0, "inherited": 0, "exported": 0, "sampled_out": 0, "queued": 0, "spooled": 0, "refused": {}},
        })
    );
}

#[tokio::test]
async fn workers_are_shown_with_their_policies() {
    let bridge = Bridge::start(vec![
        Shard { workers: vec![worker("worker_2", 0)], ..Shard::default() },
        Shard { workers: vec![worker("worker_1", 1)], ..Shard::default() },
    ]);

    let (status, body) = bridge.get_json("/api/v1/workers").await;

    assert_eq!(status, 200);
    let first = json!({
        "key": "worker_1@node/4711", "worker_id": "worker_1", "pool": "default", "pid": 4711, "node": null,
        "host": "node", "connected": true, "streams": 1, "dialect": "design",
        "capabilities": ["consistent-sampling"],
        "events_received": 9, "events_pending": 1, "events_dropped": 1, "open_spans": 1, "clock_offset_ns": -5,
        "policy": {
            "desired": {"enabled": true, "sampling_rate": 0.5, "event_patterns": [], "allowed_events": [],
                        "blocked_events": ["debug.*"]},
            "desired_revision": 1, "sent_revision": 1, "observed": "no_evidence",
        },
    });
    assert_eq!(body["workers"][0], first);
    assert_eq!(body["workers"].as_array().unwrap().len(), 2);
    let second = &body["workers"][1];
    assert_eq!((&second["worker_id"], &second["connected"]), (&json!("worker_2"), &json!(false)));
}

#[tokio::test]
async fn open_spans_of_all_shards_come_oldest_first() {
    let bridge = Bridge::start(vec![
        Shard { open: vec![open_span(1, 10), open_span(2, 5)], ..Shard::default() },
        Shard { open: vec![open_span(3, 7)], ..Shard::default() },
    ]);

    let (status, body) = bridge.get_json("/api/v1/spans/open?limit=2").await;

    assert_eq!(status, 200);
    assert_eq!(body["total"], 3);
    let ages: Vec<_> = body["spans"].as_array().unwrap().iter().map(|span| span["age_ns"].clone()).collect();
    assert_eq!(ages, [10, 7]);
    assert_eq!(
        body["spans"][0],
        json!({
            "worker_id": "worker_1", "name": "snakepit.python.tool.execution", "correlation_id": "abc",
            "trace_id": "01010101010101010101010101010101", "span_id": "0101010101010101", "parent_span_id": null,
            "start_unix_nano": 1_700_000_000_000_000_001_i64, "age_ns": 10, "uncertain": false,
            "attributes": {"tool": "search", "retries": 2, "share": 0.5, "bad": "NaN", "cached": true},
        })
    );
}

#[tokio::test]
async fn the_query_reaches_the_shards() {
    let bridge = Bridge::start(vec![Shard::default()]);
    let path = "/api/v1/spans/open?worker=worker_1&operation=tool.execution&min_age=1m%2030s&limit=7";

    let (status, body) = bridge.get_json(path).await;

    assert_eq!((status, body), (200, json!({"spans": [], "total": 0})));
    let mut queries = bridge.queries;
    let query = queries.recv().await.unwrap();
    assert_eq!(query.worker.as_deref(), Some("worker_1"));
    assert_eq!(query.operation.as_deref(), Some("tool.execution"));
    assert_eq!((query.min_age_ns, query.limit), (90_000_000_000, 7));
}

#[tokio::test]
async fn a_bad_query_is_answered_with_its_parameter() {
    let bridge = Bridge::start(vec![Shard::default()]);
    for (query, parameter) in [
        ("min_age=soon", json!("min_age")),
        ("min_age=10", json!("min_age")),
        ("limit=0", json!("limit")),
        ("limit=1001", json!("limit")),
        ("limit=-1", json!("limit")),
        ("wrker=a", Value::Null),
    ] {
        let response = bridge.get(&format!("/api/v1/spans/open?{query}")).await;
        let problem = problem(response, 400).await;
        assert_eq!(problem["parameter"], parameter, "{query}");
        let name = query.split('=').next().unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
    }
    assert_eq!(bridge.get("/api/v1/spans/open?worker=&limit=").await.status(), 200);
}

/// An answer to a question that was not understood looks like one that was.
#[tokio::test]
async fn every_route_of_the_api_refuses_parameters_that_it_has_not_or_has_twice() {
    let bridge = Bridge::start(vec![Shard::default()]);
    for (path, parameter, detail) in [
        ("ledger?x=1", Value::Null, "unknown parameter `x`; there are none"),
        ("ledger?limit=", Value::Null, "unknown parameter `limit`; there are none"),
        ("workers?worker=a", Value::Null, "unknown parameter `worker`; there are none"),
        ("events?foo=1", Value::Null, "unknown parameter `foo`; known are `event`, `limit`"),
        ("events?event=a&event=b", json!("event"), "`event` is given more than once"),
        ("events?limit=5&limit=6", json!("limit"), "`limit` is given more than once"),
        ("spans/open?limit=5&worker=w&limit=5", json!("limit"), "`limit` is given more than once"),
        ("spans/open?worker=&worker=w", json!("worker"), "`worker` is given more than once"),
    ] {
        let problem = problem(bridge.get(&format!("/api/v1/{path}")).await, 400).await;
        assert_eq!((&problem["parameter"], &problem["detail"]), (&parameter, &json!(detail)), "{path}");
    }
    // Programs that probe and scrape add parameters of their own.
    for path in ["/healthz?probe=1", "/metrics?a=1&a=2"] {
        assert_eq!(bridge.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn other_routes_and_methods_are_problems() {
    let bridge = Bridge::start(vec![Shard::default()]);

    let missing = problem(bridge.get("/api/v1/nowhere").await, 404).await;
    assert_eq!(
        missing,
        json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": "nothing is at `/api/v1/nowhere`"})
    );
    for path in ["/healthz", "/metrics", "/api/v1/ledger"] {
        let post = Request::post(path).header("host", "localhost").body(Body::empty()).unwrap();
        let response = bridge.router.clone().oneshot(post).await.unwrap();
        assert_eq!(response.headers()[header::ALLOW], "GET,HEAD", "{path}");
        problem(response, 405).await;
    }
}

#[tokio::test]
async fn the_guard_stands_before_every_route() {
    let bridge = Bridge::start(vec![Shard::default()]);
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/ledger", "/nowhere"] {
        let rebound = Request::get(path).header("host", "evil.example:9464").body(Body::empty()).unwrap();
        let response = bridge.router.clone().oneshot(rebound).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        problem(response, 421).await;
    }
}

#[tokio::test]
async fn without_the_token_only_health_answers() {
    let settings = AdminSettings { token: Some(Token::new("s3cret").unwrap()), ..AdminSettings::default() };
    let bridge = Bridge::start_with(&settings, vec![Shard::of_events(9)]);

    assert_eq!(bridge.get("/healthz").await.status(), 200);
    assert_eq!(bridge.get("/readyz").await.status(), 503);
    let refused = bridge.get("/api/v1/ledger").await;
    assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], "Bearer");
    problem(refused, 401).await;
    let with_token = Request::get("/api/v1/ledger")
        .header("host", "localhost")
        .header("authorization", "Bearer s3cret")
        .body(Body::empty())
        .unwrap();
    assert_eq!(bridge.router.clone().oneshot(with_token).await.unwrap().status(), 200);
}

#[tokio::test]
async fn ready_is_who_neither_starts_nor_drains() {
    let bridge = Bridge::start(vec![Shard::default()]);
    for (state, status, expected) in [
        (readiness::State::Starting, 503, json!({"status": "not_ready", "reasons": ["starting"]})),
        (readiness::State::Serving, 200, json!({"status": "ready", "reasons": []})),
        (readiness::State::Draining, 503, json!({"status": "not_ready", "reasons": ["draining"]})),
    ] {
        bridge.readiness.set(state);
        assert_eq!(bridge.get_json("/readyz").await, (status, expected));
        assert_eq!(bridge.get_json("/healthz").await, (200, json!({"status": "ok", "reasons": []})));
    }
}

#[tokio::test]
async fn a_dead_shard_is_not_health() {
    let mut bridge = Bridge::start(vec![Shard::default(), Shard::default()]);
    bridge.readiness.set(readiness::State::Serving);
    bridge.shards.shutdown().await;

    let broken = json!({"status": "broken", "reasons": ["2 shards have ended"]});
    assert_eq!(bridge.get_json("/healthz").await, (503, broken));
    problem(bridge.get("/api/v1/ledger").await, 503).await;
    bridge.readiness.set(readiness::State::Draining);
    assert_eq!(bridge.get("/healthz").await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_does_not_answer_is_no_hang() {
    let bridge = Bridge::start(vec![Shard { silent: true, ..Shard::default() }]);
    for path in ["/api/v1/ledger", "/api/v1/workers", "/api/v1/spans/open", "/api/v1/events", "/metrics"] {
        let problem = problem(bridge.get(path).await, 503).await;
        assert_eq!(problem["detail"], "a shard did not answer within 2 s", "{path}");
    }
}

#[tokio::test]
async fn metrics_say_the_same_as_the_ledger() {
    let older = Shard { open: vec![open_span(1, 1_500_000_000)], ..Shard::of_events(9) };
    let younger = Shard { open: vec![open_span(2, 7)], ..Shard::default() };
    let bridge = Bridge::start(vec![older, younger]);

    let response = bridge.get("/metrics").await;

    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[tokio::test]
async fn a_real_client_is_served_and_let_go() {
    let bridge = Bridge::start(vec![Shard::default()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut served = JoinSet::new();
    served.spawn(server::serve(listener, bridge.router.clone(), stop.clone()));

    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
    // Twice on one connection, which then lies idle.
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    let mut without_host = TcpStream::connect(address).await.unwrap();
    without_host.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    without_host.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400"), "{answer}");

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.join_next())
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_let_go() {
    let bridge = Bridge::start(vec![Shard::default()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut served = JoinSet::new();
    served.spawn(server::serve(listener, bridge.router.clone(), CancellationToken::new()));

    #[expect(clippy::disallowed_methods, reason = "the paused clock of the test")]
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: local").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();

    assert!(begun.elapsed() >= server::HEADER_READ_TIMEOUT);
    assert!(begun.elapsed() < server::MAX_CONNECTION_AGE);
}

// ---------------------------------------------------------------------------------------------------------------------

/// An admin port over shards that answer what they are told to.
struct Bridge {
    router: Router,
    readiness: Readiness,
    queries: mpsc::UnboundedReceiver<OpenSpanQuery>,
    shards: JoinSet<()>,
}

/// What a shard answers.
#[derive(Debug, Default)]
struct Shard {
    ledger: EventLedger,
    workers: Vec<WorkerReport>,
    open: Vec<OpenSpanReport>,
    events: Vec<EventReport>,
    silent: bool,
}

impl Bridge {
    fn start(shards: Vec<Shard>) -> Self {
        Self::start_with(&AdminSettings::default(), shards)
    }

    fn start_with(settings: &AdminSettings, shards: Vec<Shard>) -> Self {
        let readiness = Readiness::new();
        let (asked, queries) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let senders = shards
            .into_iter()
            .map(|shard| {
                let (sender, messages) = mpsc::channel(4);
                tasks.spawn(shard.answer(messages, asked.clone()));
                sender
            })
            .collect();
        let state = AdminState {
            shards: Shards::new(senders),
            readiness: readiness.clone(),
            export: Arc::new(|| ExportFigures {
                traces: busy(),
                metrics: SignalFigures {
                    accepted: 9,
                    sent: 6,
                    queue_items: 2,
                    spooled: 1,
                    ..SignalFigures::default()
                },
                store: Some(StoreFigures { is_working: true, commits: 4, ..StoreFigures::default() }),
                ..ExportFigures::default()
            }),
            collections: Arc::new(|| {
                Some(CollectionFigures { last_duration_ns: 2_500_000, ..Default::default() })
            }),
            receiver: Arc::new(ReceiverFigures::default),
            capacity: {
                let capacity = Capacity::new(1, 100, 10_000);
                capacity.update(0, Occupancy { open_spans: 3, open_bytes: 700 });
                capacity
            },
        };
        Self { router: router(settings, state), readiness, queries, shards: tasks }
    }

    async fn get(&self, path: &str) -> Response<Body> {
        let request = Request::get(path).header("host", "localhost:9464").body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get_json(&self, path: &str) -> (u16, Value) {
        let response = self.get(path).await;
        let status = response.status().as_u16();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        (status, json_of(response).await)
    }
}

/// What a shard with these reports, which are by name, says.
fn selected(reports: &[EventReport], query: &EventQuery) -> EventAnswer {
    let asked = reports.iter().filter(|one| query.asks_for(&one.event, &one.sent_as, one.is_span));
    let others = asked.clone().skip(query.limit);
    EventAnswer {
        reports: asked.take(query.limit).cloned().collect(),
        others: others.map(|one| (Arc::clone(&one.event), one.sent_as.clone(), one.is_span)).collect(),
    }
}

impl Shard {
    /// Nine events, one of each fate but for two pairs; the exporter's figures fit.
    fn of_events(received: u64) -> Self {
        let mut ledger = EventLedger {
            received,
            paired: 4,
            rebuilt: 1,
            incomplete: 1,
            standalone: 1,
            pending: 1,
            spans_made: 4,
            ..EventLedger::default()
        };
        ledger.dropped[DropReason::DuplicateEnd.index()] = 1;
        ledger.notes.incomplete_timeout = 1;
        assert!(ledger.adds_up());
        Self { ledger, ..Self::default() }
    }

    async fn answer(
        self,
        mut messages: mpsc::Receiver<ShardMessage>,
        asked: mpsc::UnboundedSender<OpenSpanQuery>,
    ) {
        let mut kept = Vec::new();
        while let Some(message) = messages.recv().await {
            if self.silent {
                kept.push(message);
                continue;
            }
            match message {
                ShardMessage::Ledger(sender) => sender.send(self.ledger).unwrap(),
                ShardMessage::Workers(sender) => sender.send(self.workers.clone()).unwrap(),
                ShardMessage::Metrics(sender) => {
                    sender.send(MetricFigures { series: 21, ..MetricFigures::default() }).unwrap();
                }
                ShardMessage::OpenSpans(query, sender) => {
                    asked.send(query).unwrap();
                    sender.send((self.open.clone(), self.open.len() as u64)).unwrap();
                }
                ShardMessage::Events(query, sender) => {
                    sender.send(selected(&self.events, &query)).unwrap();
                }
                ShardMessage::OldestOpenAge(sender) => {
                    let oldest = self.open.iter().map(|span| span.age_ns).max();
                    sender.send(oldest.unwrap_or(0)).unwrap();
                }
                other @ (ShardMessage::Opened { .. }
                | ShardMessage::Messages { .. }
                | ShardMessage::Closed { .. }
                | ShardMessage::Superseded { .. }
                | ShardMessage::Collect { .. }
                | ShardMessage::Checkpoint(_)
                | ShardMessage::PrepareWhole(_)
                | ShardMessage::WriteWhole { .. }
                | ShardMessage::Shutdown { .. }) => panic!("the admin port only reads: {other:?}"),
            }
        }
    }
}

/// An exporter that has sent, and waits on disk.
fn busy() -> SignalFigures {
    let mut figures = SignalFigures {
        accepted: 3,
        refused: BTreeMap::from([("queue_full", 1)]),
        sent: 2,
        queue_limit_items: Some(2_048),
        spool: Some(SpoolFigures {
            batches: 1,
            items: 5,
            bytes: 700,
            limit_bytes: 9_000,
            oldest_age_ns: 1_500_000_000,
        }),
        ..SignalFigures::default()
    };
    figures.request_duration_ns.record(3_000_000);
    figures.batch_items.record(2);
    figures.batch_bytes.record(600);
    figures
}

fn worker(id: &str, streams: usize) -> WorkerReport {
    let policy = Policy {
        sampling_rate: Rate::new(0.5).unwrap(),
        blocked_events: vec!["debug.*".to_owned()],
        ..Policy::default()
    };
    WorkerReport {
        key: WorkerKey { node: "node".into(), id: id.into(), pid: Some(4711) },
        identity: Arc::new(Identity {
            id_by_header: true,
            pool: Some("default".into()),
            host: Some("node".into()),
            same_host: true,
            node_header: None,
            dialect: Dialect::Design,
            capabilities: Capabilities { consistent_sampling: true, ..Capabilities::default() },
        }),
        shown_worker_id: id.into(),
        shown_pool: Some("default".into()),
        shown_pid: Some(4711),
        policy: Arc::new(policy),
        streams,
        ledger: Shard::of_events(9).ledger,
        open_spans: 1,
        observed: crate::engine::observed::Observed::NoEvidence,
        clock_offset_ns: Some(-5),
    }
}

fn open_span(id: u8, age_ns: u64) -> OpenSpanReport {
    let mut attributes = Attributes::default();
    attributes.set("tool", AttributeValue::Text("search"));
    attributes.set("retries", AttributeValue::Int(2));
    attributes.set("share", AttributeValue::Float(0.5));
    attributes.set("bad", AttributeValue::Float(f64::NAN));
    attributes.set("cached", AttributeValue::Bool(true));
    OpenSpanReport {
        worker_id: "worker_1".into(),
        name: "snakepit.python.tool.execution".into(),
        correlation_id: "abc".into(),
        trace_id: TraceId([id; 16]),
        span_id: SpanId([id; 8]),
        parent_span_id: None,
        start: UnixNanos(1_700_000_000_000_000_001),
        age_ns,
        uncertain: false,
        attributes,
    }
}

async fn json_of(response: Response<Body>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

async fn problem(response: Response<Body>, status: u16) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let problem = json_of(response).await;
    assert_eq!(problem["status"], status);
    problem
}
