//! Clients that connect and do not behave: silent, deaf, too many, under another's name, with broken framing.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;

use super::{LIMIT, Scene, fates};
use crate::support::until;
use crate::support::worker::{Connector, Worker, channel, event, pair, wall};

/// How soon a bridge ends whose clients do not care.
const TERMINATION_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_nothing_hold_nothing_up() -> Result<()> {
    let mut scene = Scene::set().await?;
    let mut silent = Vec::new();
    for number in 0..50 {
        let mut socket = TcpStream::connect(&scene.bridge.grpc).await?;
        if number % 2 == 0 {
            socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        }
        silent.push(socket);
    }
    // A stream that says who it is and nothing else.
    let mut quiet = scene.hostile().await?;

    scene.ends_with(fates(0, 0, 0, &[])).await?;
    quiet.ensure_open().await?;
    let Scene { bridge, neighbour, .. } = scene;
    neighbour.close().await?;
    let (status, _) = bridge.terminate(TERMINATION_LIMIT).await?;
    assert!(status.success(), "{status}");
    drop(silent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http2_is_closed() -> Result<()> {
    let mut scene = Scene::set().await?;
    for greeting in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}",
        "PRI * HTTP/2.0\r\nrubbish\r\n\r\n\0",
    ] {
        let mut socket = TcpStream::connect(&scene.bridge.grpc).await?;
        socket.write_all(greeting.as_bytes()).await?;
        // A longer silence of an attacker is its own affair; here the rest never comes.
        socket.shutdown().await?;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, socket.read_to_end(&mut answer)).await;
        // Reset or closed: it is over.
        let _ = read.with_context(|| format!("{greeting:?} is kept waiting"))?;
    }
    scene.ends_with(fates(0, 0, 0, &[])).await
}

/// A client whose flow control lets nothing through never gets its controls; its events count all the same, and it does
/// not keep the bridge from ending.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_its_controls_is_heard() -> Result<()> {
    let mut scene = Scene::set().await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", scene.bridge.grpc))?;
    let deaf_channel = endpoint.initial_stream_window_size(0).connect().await?;
    let deaf = Connector::named("hostile").open(&deaf_channel).await?;
    for number in 0..1_000 {
        deaf.send_all(pair("tool.execution", &number.to_string(), wall(), 1_000)).await?;
    }

    scene.ends_with(fates(2_000, 0, 0, &[])).await?;
    let Scene { bridge, neighbour, .. } = scene;
    neighbour.close().await?;
    let (status, _) = bridge.terminate(TERMINATION_LIMIT).await?;
    assert!(status.success(), "{status}");
    drop(deaf);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_at_once_are_a_thousand_workers() -> Result<()> {
    let mut scene = Scene::set().await?;
    let channel = channel(&scene.bridge.grpc).await?;
    let mut opening = JoinSet::new();
    for number in 0..1_000 {
        let channel = channel.clone();
        opening.spawn(async move { Connector::named(&format!("worker_{number}")).open(&channel).await });
    }
    let mut workers: Vec<Worker> = Vec::new();
    while let Some(opened) = opening.join_next().await {
        workers.push(opened??);
    }
    let began = wall();
    for worker in &workers {
        worker.send_all(pair("tool.execution", "a", began, 1_000)).await?;
    }

    scene.ends_with(fates(2_000, 0, 0, &[])).await?;
    let mut seen: Vec<String> = scene.sink.spans().into_iter().map(|arrived| arrived.worker).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1_001);
    for worker in workers {
        worker.close().await?;
    }
    Ok(())
}

/// One name, one host: a second stream of the same process feeds it; another process is another incarnation, and the
/// old one's spans are closed as soon as its own streams end, however long the grace.
#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_live_worker_is_shared_by_its_process_and_taken_over_by_another() -> Result<()> {
    let mut scene = Scene::set_with(&["--reconnect-grace", "1h"]).await?;
    let address = scene.bridge.grpc.clone();
    let began = wall();
    let [start, stop] = pair("tool.execution", "a", began, 1_000);
    let first = Connector::named("worker_1").pid(1).connect(&address).await?;
    let second = Connector::named("worker_1").pid(1).connect(&address).await?;
    first.send(&start).await?;
    first.send(&event("tool.stuck.start", "a", began)).await?;
    scene.sink.spans_of("worker_1", 0, LIMIT).await?;
    second.send(&stop).await?;
    scene.sink.spans_of("worker_1", 1, LIMIT).await?;

    let other = Connector::named("worker_1").pid(2).connect(&address).await?;
    // The old incarnation's start is not the new one's.
    other.send(&event("tool.stuck.stop", "a", began + 1_000)).await?;
    scene.sink.spans_of("worker_1", 2, LIMIT).await?;
    let workers: Json = serde_json::from_str(&scene.bridge.admin("/api/v1/workers").await?)?;
    let mut pids: Vec<_> = workers["workers"]
        .as_array()
        .context("no workers")?
        .iter()
        .filter(|worker| worker["worker_id"] == "worker_1")
        .map(|worker| (worker["pid"].as_u64(), worker["streams"].as_u64()))
        .collect();
    pids.sort();
    assert_eq!(pids, [(Some(1), Some(2)), (Some(2), Some(1))]);
    first.close().await?;
    second.close().await?;

    let mut expected = fates(2, 1, 0, &[]);
    (expected.received, expected.incomplete) = (4, 1);
    scene.ends_with(expected).await?;
    other.close().await
}

/// Headers are as hostile as the rest: what cannot be a name is made into one, what is too large is refused, and a
/// dialect that nobody speaks is sent nothing, because a control in the wrong numbering would mute its worker.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_headers_harm_nobody() -> Result<()> {
    let mut scene = Scene::set().await?;
    let address = scene.bridge.grpc.clone();
    let mut odd = Connector::named("w\u{fc}rker")
        .header("x-snakepit-pool", b"\xff\xfe")
        .header("x-snakepit-python-pid", b"-1")
        .header("x-snakepit-node", &[b'n'; 4_000])
        .header("x-snakepit-dialect", b"klingon")
        .header("x-snakepit-capabilities", b"telepathy,,\xff")
        .connect(&address)
        .await?;
    odd.send_all(pair("tool.execution", "a", wall(), 1_000)).await?;
    odd.ensure_open().await?;
    let enormous = Connector::named(&"x".repeat(1 << 20)).connect(&address).await;
    assert!(enormous.is_err());

    scene.ends_with(fates(2, 0, 0, &[])).await?;
    assert_eq!(scene.sink.spans_of("w\u{fc}rker", 1, LIMIT).await?.len(), 1);
    odd.close().await
}

/// A compressed message that is no gzip, or that expands beyond the limit, and a frame that is none: the transport ends
/// such a stream, and that is counted.
#[tokio::test(flavor = "multi_thread")]
async fn broken_framing_ends_its_stream_only() -> Result<()> {
    let mut scene = Scene::set().await?;
    let channel = channel(&scene.bridge.grpc).await?;
    let [start, _] = pair("tool.execution", "a", wall(), 1_000);
    let whole = frame(0, &prost::Message::encode_to_vec(&start));
    let bomb = zipped(&vec![0; 128 << 20])?;
    let hostile = [
        frame(1, b"this is no gzip"),
        frame(1, &zipped(b"half of it")?[..12]),
        frame(1, &bomb),
        frame(7, b"no such flag"),
        Bytes::from_static(b"\0\0\0\x01\0only the beginning of what was promised"),
    ];
    let count = hostile.len() as u64;
    for bytes in hostile {
        let code = raw_stream(&channel, [whole.clone(), bytes]).await?;
        assert_ne!(code, Some(Code::Unknown), "the bridge knows what happened");
    }

    // The start before each came whole; the first four are equal to the first.
    scene.ends_with(fates(0, 0, 1, &[("duplicate_start", count - 1)])).await?;
    assert_eq!(scene.metric("snakepit_bridge_streams_broken_total").await?, count);
    let peak = scene.bridge.peak_memory_mib()?;
    assert!(peak < 160, "{peak} MiB");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_counts_what_it_had_sent() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    for number in 0..500 {
        hostile.send_all(pair("tool.execution", &number.to_string(), wall(), 1_000)).await?;
    }
    until("the events", LIMIT, async || {
        Ok((scene.bridge.ledger().await?.events.received >= 1_000).then_some(()))
    })
    .await?;
    drop(hostile);
    scene.ends_with(fates(1_000, 0, 0, &[])).await
}

fn frame(flag: u8, message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[flag], &length[..], message].concat().into()
}

fn zipped(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Sends these bytes as the body of a stream, and half-closes; answers with what status it ended.
async fn raw_stream(channel: &Channel, chunks: impl IntoIterator<Item = Bytes>) -> Result<Option<Code>> {
    let chunks: Vec<Bytes> = chunks.into_iter().collect();
    let body = StreamBody::new(tokio_stream::iter(
        chunks.into_iter().map(|chunk| Ok::<_, tonic::Status>(hyper::body::Frame::data(chunk))),
    ));
    let request = http::Request::post("/SnakepitBridge/StreamTelemetry")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", "gzip")
        .header("x-snakepit-worker-id", "hostile")
        .body(Body::new(body))?;
    let response = tokio::time::timeout(LIMIT, channel.clone().oneshot(request)).await??;
    let collected = tokio::time::timeout(LIMIT, response.into_body().collect()).await?;
    let trailers = collected.ok().and_then(|collected| collected.trailers().cloned());
    Ok(trailers.and_then(|trailers| Some(tonic::Status::from_header_map(&trailers)?.code())))
}
