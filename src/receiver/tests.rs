//! The receiver over loopback: a real tonic client on one side, a test that plays the shards on the other.

#[path = "../../tests/it/support/authority.rs"]
mod authority;
mod credentials;
mod rig;

use std::collections::BTreeSet;
use std::io::Write;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Code;

use super::stats::ReceiverCounts;
use super::*;
use crate::shard::ShardMessage;
use crate::worker::{Dialect, WorkerKey};
use rig::{Options, PATIENCE, Rig, eventually, half_and_filtered, open, text};

#[tokio::test]
async fn controls_come_first_and_in_order_to_a_worker_that_says_nothing() {
    let rig = Rig::start(Options { policies: half_and_filtered(), ..Options::default() }).await;

    let mut worker = rig.worker(&[]).await;

    assert_eq!(worker.control().await, b"\x12\x02\x08\x01".as_slice());
    assert_eq!(worker.control().await, b"\x0a\x09\x09\x00\x00\x00\x00\x00\x00\xe0\x3f".as_slice());
    assert_eq!(worker.control().await, b"\x1a\x09\x12\x07debug.*".as_slice());
}

#[tokio::test]
async fn a_released_client_gets_the_released_numbering() {
    let rig = Rig::start(Options { policies: half_and_filtered(), ..Options::default() }).await;

    let mut worker = rig.worker(&[("x-snakepit-dialect", "released")]).await;

    assert_eq!(worker.control().await, b"\x0a\x02\x08\x01".as_slice());
    assert_eq!(worker.control().await, b"\x12\x09\x09\x00\x00\x00\x00\x00\x00\xe0\x3f".as_slice());
    assert_eq!(worker.control().await, b"\x1a\x09\x12\x07debug.*".as_slice());
}

#[tokio::test]
async fn a_client_of_an_unknown_dialect_is_heard_and_gets_no_controls() {
    let mut rig = Rig::start(Options::default()).await;

    let mut worker = rig.worker(&[("x-snakepit-dialect", "v7")]).await;
    worker.send(b"event").await;

    let stream = rig.opened().await.stream;
    assert_eq!(rig.messages(stream, 1).await, ["event"]);
    worker.half_close();
    assert!(worker.answer().await.unwrap().is_empty());
}

#[tokio::test]
async fn headers_say_who_a_worker_is_and_the_policy_follows() {
    let mut rig = Rig::start(Options { policies: half_and_filtered(), ..Options::default() }).await;

    let _worker = rig
        .worker(&[
            ("x-snakepit-worker-id", "worker_1"),
            ("x-snakepit-pool", "gpu"),
            ("x-snakepit-python-pid", "4711"),
            ("x-snakepit-node", "node-a"),
        ])
        .await;

    let opened = rig.opened().await;
    assert_eq!(opened.worker, WorkerKey { node: "node-a".into(), id: "worker_1".into(), pid: Some(4711) });
    assert_eq!(opened.identity.pool.as_deref(), Some("gpu"));
    assert_eq!(opened.identity.host.as_deref(), Some("bridge-host"));
    assert!(opened.identity.same_host);
    assert_eq!(opened.identity.dialect, Dialect::Design);
    assert_eq!(opened.policy.sampling_rate.value(), 0.5);
    assert!(!opened.policy.allows("debug.x"));
}

#[tokio::test]
async fn without_headers_each_stream_is_a_worker() {
    let mut rig = Rig::start(Options::default()).await;

    let _first = rig.worker(&[]).await;
    let _second = rig.worker(&[]).await;

    let first = rig.opened().await;
    let second = rig.opened().await;
    assert_eq!(&*first.worker.node, "bridge-host");
    assert!(first.worker.id.starts_with("127.0.0.1:"), "{}", first.worker.id);
    assert_ne!(first.worker.id, second.worker.id);
    assert_ne!(first.stream, second.stream);
}

#[tokio::test]
async fn a_new_incarnation_supersedes_the_old_one_before_it_opens() {
    let mut rig = Rig::start(Options::default()).await;
    let _old = rig.worker(&[("x-snakepit-worker-id", "w"), ("x-snakepit-python-pid", "1")]).await;
    let old = rig.opened().await.worker;

    let _new = rig.worker(&[("x-snakepit-worker-id", "w"), ("x-snakepit-python-pid", "2")]).await;

    let ShardMessage::Superseded { worker } = rig.next().await else { panic!("not superseded first") };
    assert_eq!(worker, old);
    assert_eq!(rig.opened().await.worker.pid, Some(2));
}

#[tokio::test]
async fn a_reconnect_before_the_end_of_the_old_stream_feeds_the_same_worker() {
    let mut rig = Rig::start(Options::default()).await;
    let _first = rig.worker(&[("x-snakepit-worker-id", "w")]).await;
    let _second = rig.worker(&[("x-snakepit-worker-id", "w")]).await;

    let first = rig.opened().await;
    let second = rig.opened().await;

    assert_eq!(first.worker, second.worker);
    assert_eq!(rig.parts.registry.known_workers(), 1);
}

#[tokio::test]
async fn an_oversized_message_becomes_a_marker_and_the_stream_goes_on() {
    let mut rig = Rig::start(Options { max_message_bytes: 1000, ..Options::default() }).await;
    let worker = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;

    worker.send(b"before").await;
    worker.send(&[b'x'; 1001]).await;
    worker.send(&vec![b'y'; 5 << 20]).await;
    worker.send(&[b'z'; 1000]).await;

    let marker = std::str::from_utf8(OVERSIZED_MARKER).unwrap();
    assert_eq!(rig.messages(stream, 4).await, ["before", marker, marker, &"z".repeat(1000)]);
    let counts = rig.parts.stats.snapshot();
    assert_eq!((counts.messages, counts.oversized, counts.bytes), (4, 2, 1006));
}

#[tokio::test]
async fn a_message_that_is_no_event_reaches_the_shard_as_it_is() {
    let mut rig = Rig::start(Options::default()).await;
    let worker = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;

    worker.send(b"\x00garbage").await;
    worker.send(b"").await;
    worker.send(b"after").await;

    assert_eq!(rig.messages(stream, 3).await, ["\0garbage", "", "after"]);
}

#[tokio::test]
async fn a_thousand_streams_on_one_connection_are_all_served() {
    let mut rig = Rig::start(Options::default()).await;
    let client = rig.client();
    let mut workers = Vec::new();
    let mut opened = BTreeSet::new();
    for number in 0..1000 {
        workers.push(open(&client, &[("x-snakepit-worker-id", &format!("w{number}"))]).await.unwrap());
        opened.insert(rig.opened().await.stream);
    }

    for (number, worker) in workers.iter().enumerate() {
        worker.send(number.to_string().as_bytes()).await;
    }

    let mut heard = BTreeSet::new();
    while heard.len() < 1000 {
        let ShardMessage::Messages { stream, messages } = rig.next().await else { panic!("not messages") };
        assert!(opened.contains(&stream));
        heard.extend(messages);
    }
    assert_eq!(rig.parts.stats.snapshot().streams_open, 1000);
    assert_eq!(rig.parts.registry.known_workers(), 1000);
}

#[tokio::test]
async fn a_stalled_shard_does_not_starve_a_worker_of_another_on_the_same_connection() {
    let mut rig = Rig::start(Options { shards: 2, ..Options::default() }).await;
    let client = rig.client();
    let message = [b'x'; 10_000];
    let mut stalled = Vec::new();
    for _ in 0..16 {
        stalled.push(open(&client, &[("x-snakepit-worker-id", rig.worker_of_shard(1))]).await.unwrap());
    }
    // Nobody reads shard 1: its channel and then the windows fill up, until no stream can send any more.
    let mut refused_in_a_row = 0;
    eventually(|| {
        for worker in &stalled {
            let sent = worker.events.try_send(Bytes::copy_from_slice(&message)).is_ok();
            refused_in_a_row = if sent { 0 } else { refused_in_a_row + 1 };
        }
        refused_in_a_row > 100_000
    })
    .await;
    assert_eq!(rig.shards[1].len(), 256);

    let worker = open(&client, &[("x-snakepit-worker-id", rig.worker_of_shard(0))]).await.unwrap();
    let stream = rig.opened().await.stream;
    for _ in 0..100 {
        worker.send(&message).await;
    }

    assert_eq!(rig.messages(stream, 100).await.len(), 100);
}

/// A shard that is slow holds no more than its budget of large messages, and loses none of them.
#[tokio::test]
async fn large_messages_before_a_slow_shard_are_bounded_by_bytes() {
    let mut rig = Rig::start(Options::default()).await;
    let worker = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;
    let message = Bytes::from(vec![b'x'; 1 << 20]);
    let mut accepted = 0;
    let mut refused_in_a_row = 0;
    eventually(|| {
        let sent = worker.events.try_send(message.clone()).is_ok();
        accepted += usize::from(sent);
        refused_in_a_row = if sent { 0 } else { refused_in_a_row + 1 };
        refused_in_a_row == 10_000
    })
    .await;

    assert_eq!(rig.shards[0].len(), 16, "of the channel's 256 places");

    for _ in 0..accepted {
        assert_eq!(rig.messages(stream, 1).await.len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_never_reads_its_controls_is_heard() {
    let mut rig = Rig::start(Options::default()).await;
    let worker = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;

    for _ in 0..5_000 {
        worker.send(b"event").await;
        if worker.events.capacity() == 0 {
            rig.drain_ready();
        }
    }

    eventually(|| {
        rig.drain_ready();
        rig.parts.stats.snapshot().messages == 5_000
    })
    .await;
    worker.half_close_only();
    loop {
        if let ShardMessage::Closed { stream: closed } = rig.next().await {
            assert_eq!(closed, stream);
            break;
        }
    }
}

#[tokio::test]
async fn a_half_close_is_answered_ok_at_once_after_the_controls() {
    let mut rig = Rig::start(Options::default()).await;
    let mut worker = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;
    worker.send(b"last").await;

    worker.half_close();

    assert_eq!(worker.answer().await.unwrap().len(), 3);
    assert_eq!(rig.messages(stream, 1).await, ["last"]);
    rig.closed(stream).await;
    eventually(|| rig.parts.stats.snapshot().streams_open == 0).await;
    assert_eq!(rig.parts.registry.known_workers(), 1, "its state outlives its stream");
}

#[tokio::test]
async fn a_half_close_is_answered_even_if_the_shard_takes_no_more() {
    let rig = Rig::start(Options { shard_capacity: 2, ..Options::default() }).await;
    let mut worker = rig.worker(&[]).await;
    worker.send(b"last").await;
    eventually(|| rig.parts.stats.snapshot().messages == 1).await;

    worker.half_close();

    assert_eq!(worker.answer().await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_was_sent_before_a_cancel_comes_before_the_end() {
    let mut rig = Rig::start(Options { shard_capacity: 4, ..Options::default() }).await;
    let worker = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;
    for number in 0..2_000 {
        worker.send(number.to_string().as_bytes()).await;
    }
    // Everything has left the client; the shard has read nothing, so most of it waits in the bridge's buffers.
    eventually(|| worker.events.capacity() == worker.events.max_capacity()).await;
    let heard_before = rig.messages(stream, 1).await;

    drop(worker);

    let mut heard = heard_before;
    let end = loop {
        let message = rig.next().await;
        let ShardMessage::Messages { messages, .. } = message else { break message };
        heard.extend(messages.iter().map(text));
    };
    assert!(matches!(end, ShardMessage::Closed { stream: closed } if closed == stream), "{end:?}");
    let expected: Vec<String> = (0..heard.len()).map(|number| number.to_string()).collect();
    assert_eq!(heard, expected, "in order, without a gap");
    assert_eq!(rig.parts.stats.snapshot().messages, heard.len() as u64);
}

#[tokio::test]
async fn a_connection_that_breaks_closes_its_streams_and_no_others() {
    let mut rig = Rig::start(Options::default()).await;
    let client = rig.client();
    let doomed = open(&client, &[("x-snakepit-worker-id", "doomed")]).await.unwrap();
    let doomed_stream = rig.opened().await.stream;
    let survivor = rig.worker(&[("x-snakepit-worker-id", "survivor")]).await;
    let survivor_stream = rig.opened().await.stream;

    drop(doomed);
    drop(client);

    rig.closed(doomed_stream).await;
    survivor.send(b"still here").await;
    assert_eq!(rig.messages(survivor_stream, 1).await, ["still here"]);
}

#[tokio::test]
async fn a_gzip_client_is_understood() {
    let mut rig = Rig::start(Options::default()).await;
    let client = rig.client().send_compressed(CompressionEncoding::Gzip);
    let worker = open(&client, &[]).await.unwrap();
    let stream = rig.opened().await.stream;

    worker.send(&[b'a'; 100_000]).await;

    assert_eq!(rig.messages(stream, 1).await, ["a".repeat(100_000)]);
}

/// The stated exception: what expands past the limit ends the stream, and no other.
#[tokio::test]
async fn a_compressed_message_that_expands_past_the_limit_ends_its_stream_alone() {
    let mut rig = Rig::start(Options { max_message_bytes: 10_000, ..Options::default() }).await;
    let client = rig.client();
    let survivor = open(&client, &[]).await.unwrap();
    let survivor_stream = rig.opened().await.stream;
    let mut bomber = open(&client.clone().send_compressed(CompressionEncoding::Gzip), &[]).await.unwrap();
    let bomber_stream = rig.opened().await.stream;

    bomber.send(&[b'a'; 100_000]).await;

    assert_eq!(bomber.answer().await.unwrap_err().code(), Code::ResourceExhausted);
    rig.closed(bomber_stream).await;
    survivor.send(b"unharmed").await;
    assert_eq!(rig.messages(survivor_stream, 1).await, ["unharmed"]);
    assert_eq!(rig.parts.stats.snapshot().streams_broken, 1);
}

#[tokio::test]
async fn one_worker_too_many_is_refused_and_the_others_are_not_disturbed() {
    let mut rig = Rig::start(Options { max_workers: 2, ..Options::default() }).await;
    let first = rig.worker(&[("x-snakepit-worker-id", "a")]).await;
    let first_stream = rig.opened().await.stream;
    let _second = rig.worker(&[("x-snakepit-worker-id", "b")]).await;

    let refusal = open(&rig.client(), &[("x-snakepit-worker-id", "c")]).await.map(|_| ()).unwrap_err();

    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.message().contains("2 workers"), "{}", refusal.message());
    rig.opened().await;
    first.send(b"event").await;
    assert_eq!(rig.messages(first_stream, 1).await, ["event"]);
    let counts = rig.parts.stats.snapshot();
    assert_eq!((counts.refused_workers, counts.streams_open, counts.streams_total), (1, 2, 2));
}

#[tokio::test]
async fn a_shard_that_is_gone_costs_its_own_workers_events_and_no_stream() {
    let mut rig = Rig::start(Options { shards: 2, ..Options::default() }).await;
    let client = rig.client();
    let lost = open(&client, &[("x-snakepit-worker-id", rig.worker_of_shard(1))]).await.unwrap();
    let worker = open(&client, &[("x-snakepit-worker-id", rig.worker_of_shard(0))]).await.unwrap();
    let stream = rig.opened().await.stream;

    rig.shards.pop();
    lost.send(b"lost").await;
    worker.send(b"heard").await;

    assert_eq!(rig.messages(stream, 1).await, ["heard"]);
    eventually(|| rig.parts.stats.snapshot().undelivered == 1).await;
    assert_eq!(rig.parts.stats.snapshot().streams_open, 2);
}

#[tokio::test]
async fn a_client_that_connects_and_says_nothing_disturbs_nobody() {
    let mut rig = Rig::start(Options::default()).await;
    let mut silent = std::net::TcpStream::connect(rig.address).unwrap();
    let mut rude = std::net::TcpStream::connect(rig.address).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();

    let worker = rig.worker(&[]).await;
    worker.send(b"event").await;

    let stream = rig.opened().await.stream;
    assert_eq!(rig.messages(stream, 1).await, ["event"]);
    silent.write_all(b"P").unwrap();
}

#[tokio::test]
async fn batches_are_unimplemented_so_far() {
    let rig = Rig::start(Options::default()).await;
    let answer = rig.client().stream_telemetry_batches(tokio_stream::empty()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    let rig = Rig::start(Options::default()).await;

    for service in ["", "SnakepitBridge"] {
        let mut health = tonic_health::pb::health_client::HealthClient::new(rig.channel());
        let status = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
        assert_eq!(status.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }

    use tonic_reflection::pb::{v1, v1alpha};
    let v1 = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = v1::server_reflection_client::ServerReflectionClient::new(rig.channel())
        .server_reflection_info(tokio_stream::once(v1))
        .await
        .unwrap()
        .into_inner();
    let answer = format!("{:?}", answers.next().await.unwrap().unwrap());
    assert!(answer.contains("\"SnakepitBridge\"") && !answer.contains("BridgeService"), "{answer}");

    let v1alpha = v1alpha::ServerReflectionRequest {
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "SnakepitBridge".to_owned(),
        )),
        ..Default::default()
    };
    let mut answers = v1alpha::server_reflection_client::ServerReflectionClient::new(rig.channel())
        .server_reflection_info(tokio_stream::once(v1alpha))
        .await
        .unwrap()
        .into_inner();
    let answer = format!("{:?}", answers.next().await.unwrap().unwrap());
    assert!(answer.contains("FileDescriptorResponse"), "{answer}");
}

#[tokio::test]
async fn draining_reads_what_was_sent_ends_the_responses_and_hangs_on_nobody() {
    let mut rig = Rig::start(Options::default()).await;
    let _silent = std::net::TcpStream::connect(rig.address).unwrap();
    let client = rig.client();
    let mut worker = open(&client, &[("x-snakepit-worker-id", "w")]).await.unwrap();
    let stream = rig.opened().await.stream;
    for _ in 0..100 {
        worker.send(b"event").await;
    }
    eventually(|| worker.events.capacity() == worker.events.max_capacity()).await;

    let left = rig.drain.run(PATIENCE).await;

    assert_eq!(left, 0);
    assert_eq!(rig.messages(stream, 100).await.len(), 100);
    rig.closed(stream).await;
    assert_eq!(worker.answer().await.unwrap().len(), 3);
    let served = tokio::time::timeout(PATIENCE, rig.server.join_next()).await.unwrap().unwrap().unwrap();
    assert!(served.is_ok());
}

#[tokio::test]
async fn a_draining_bridge_takes_no_new_streams_and_gives_up_on_stalled_ones() {
    let rig = Rig::start(Options { shards: 1, shard_capacity: 1, ..Options::default() }).await;
    let client = rig.client();
    let worker = open(&client, &[]).await.unwrap();
    worker.send(b"stuck").await;
    eventually(|| rig.parts.stats.snapshot().messages == 1).await;

    let drain = rig.drain.clone();
    let mut draining = JoinSet::new();
    draining.spawn(async move { drain.run(Duration::from_millis(500)).await });
    eventually(|| rig.drain.draining.is_cancelled()).await;
    let refusal = open(&client, &[]).await.map(|_| ()).unwrap_err();

    assert_eq!(refusal.code(), Code::Unavailable);
    assert_eq!(draining.join_next().await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_worker_that_goes_on_sending_does_not_hold_a_drain_up() {
    let mut rig = Rig::start(Options::default()).await;
    let worker = rig.worker(&[]).await;
    let stream = rig.opened().await.stream;
    let mut endless = JoinSet::new();
    endless.spawn(async move { while worker.events.send(Bytes::from_static(b"event")).await.is_ok() {} });
    rig.messages(stream, 1).await;
    let mut shard = rig.shards.remove(0);
    let mut reading = JoinSet::new();
    reading.spawn(async move { while shard.recv().await.is_some() {} });

    assert_eq!(rig.drain.run(Duration::from_millis(200)).await, 0);
    assert!(rig.drain.enough.is_cancelled(), "the stream was quiet, and this test tests nothing");
}

#[tokio::test]
async fn a_taken_address_is_said() {
    let rig = Rig::start(Options::default()).await;
    let settings = Settings {
        listen: rig.address,
        max_message_bytes: 1,
        host_name: "bridge-host".into(),
        credentials: Credentials::default(),
        max_connections: 1,
    };

    let error = build(settings, rig.parts.clone()).await.unwrap_err();

    assert!(error.to_string().starts_with(&format!("listen on {}: ", rig.address)), "{error}");
}

#[test]
fn counts_start_at_nothing() {
    assert_eq!(ReceiverStats::default().snapshot(), ReceiverCounts::default());
}
