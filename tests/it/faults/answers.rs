//! Whatever a peer may answer: what is to be tried again is, what is not is counted under its reason, the log says so.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use jiff::fmt::rfc2822::DateTimePrinter;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    BATCH, LIMIT, RETRYABLE_CODES, RETRYABLE_STATUSES, SPANS, Scene, each, for_good, is_final, never,
};
use crate::support::faulty_peer::{ERROR_WORDS, ErrorBody, FaultyPeer, Play, Transport};
use crate::support::{now, until};

const BOTH: [Transport; 2] = [Transport::Grpc, Transport::Http];

/// Every gRPC code is a code once.
fn codes() -> impl Iterator<Item = Code> {
    (1..=16).map(Code::from_i32)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_now_by_either_protocol_arrives_once() -> Result<()> {
    let grpc = RETRYABLE_CODES.map(|code| (Transport::Grpc, Play::Grpc(Status::new(code, ERROR_WORDS))));
    let http = RETRYABLE_STATUSES.map(|status| (Transport::Http, Play::http(status)));
    each(grpc.into_iter().chain(http), |(transport, play)| async move {
        let mut scene = Scene::set(transport).await?;
        scene.peer.play([play]);
        scene.send(SPANS).await?;
        scene.ends(never, 1).await?;
        scene.ensure_said(ERROR_WORDS).await
    })
    .await
}

/// One after the other within one bridge: each code costs its own request alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_good_is_counted_under_its_own_reason() -> Result<()> {
    // RESOURCE_EXHAUSTED and 413 may mean the size, and have tests of their own.
    let finals = codes().filter(|code| is_final(*code) && *code != Code::ResourceExhausted);
    let grpc: Vec<_> = finals.map(|code| Play::Grpc(Status::new(code, ERROR_WORDS))).collect();
    let statuses = [400, 401, 402, 403, 404, 405, 408, 409, 415, 422, 431, 451, 500, 501, 505, 507, 304, 300];
    let http: Vec<_> = statuses.into_iter().map(Play::http).collect();
    each([(Transport::Grpc, grpc), (Transport::Http, http)], |(transport, plays)| async move {
        let mut scene = Scene::set(transport).await?;
        let spans = (plays.len() + 2) * BATCH;
        scene.peer.play(plays);
        scene.send(spans).await?;
        scene.ends(for_good, 1).await?;
        scene.ensure_said("a request was refused").await?;
        scene.ensure_said(ERROR_WORDS).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_may_have_any_body() -> Result<()> {
    let bodies = [
        ErrorBody::Empty,
        ErrorBody::Text,
        ErrorBody::StatusProtobuf,
        ErrorBody::StatusJson,
        ErrorBody::Huge,
    ];
    each(bodies, |body| async move {
        let mut scene = Scene::set(Transport::Http).await?;
        let error = |status| Play::Http { status, retry_after: None, body };
        scene.peer.play([error(400), error(503)]);
        scene.send(SPANS).await?;
        scene.ends(for_good, 1).await?;
        let words = if matches!(body, ErrorBody::Empty) { "400" } else { ERROR_WORDS };
        scene.ensure_said(words).await
    })
    .await
}

/// What cannot be read as a delay is none, and the bridge's own backoff holds.
#[tokio::test(flavor = "multi_thread")]
async fn junk_in_place_of_a_delay_is_no_delay() -> Result<()> {
    let junk = ["soon", "", "-1", "1.5", "0", "Thu, 01 Jan 1970 00:00:00 GMT"];
    let http = junk.map(|value| {
        let retry_after = Some(value.to_owned());
        (Transport::Http, Play::Http { status: 503, retry_after, body: ErrorBody::Text })
    });
    let garbage = Status::with_details(Code::Unavailable, ERROR_WORDS, b"\xff\xffgarbage".as_slice().into());
    let zero = ErrorDetails::with_retry_info(Some(Duration::ZERO));
    let zero = Status::with_error_details(Code::Unavailable, ERROR_WORDS, zero);
    let grpc = [garbage, zero].map(|status| (Transport::Grpc, Play::Grpc(status)));
    each(http.into_iter().chain(grpc), |(transport, play)| async move {
        let mut scene = Scene::set(transport).await?;
        scene.peer.play([play]);
        scene.send(BATCH).await?;
        scene.ends(never, 1).await?;
        scene.ensure_said(ERROR_WORDS).await
    })
    .await
}

/// In seconds, as a date, as `RetryInfo`; of an error that would otherwise be tried again after at most 1 s.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "peers have a clock")]
async fn a_delay_that_the_peer_asks_for_is_kept_by_all_requests() -> Result<()> {
    const PAUSE: Duration = Duration::from_secs(2);
    /// A date that is to come when the first request does, however slow the machine.
    const DATE: Duration = Duration::from_secs(6);
    let info = ErrorDetails::with_retry_info(Some(PAUSE));
    let grpc = Play::Grpc(Status::with_error_details(Code::Unavailable, ERROR_WORDS, info));
    let http =
        |retry_after| Play::Http { status: 503, retry_after: Some(retry_after), body: ErrorBody::Text };
    let cases = [
        (Transport::Grpc, Some(grpc)),
        (Transport::Http, Some(http("2".to_owned()))),
        // A date, which is of use as long as it is to come.
        (Transport::Http, None),
    ];
    each(cases, |(transport, play)| async move {
        let mut scene = Scene::set(transport).await?;
        // A date is cut to whole seconds; one more is asked for, so that the pause is longer than it need be and not shorter.
        let (begun, begun_at) = (now(), SystemTime::now());
        let date = jiff::Timestamp::try_from(begun_at + DATE + Duration::from_secs(1))?;
        let is_date = play.is_none();
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&date)?;
        scene.peer.play([play.unwrap_or_else(|| http(date))]);
        scene.send(BATCH).await?;
        scene.peer.requested(1, LIMIT).await?;
        until("the answer", LIMIT, async || Ok(scene.bridge.log().contains(ERROR_WORDS).then_some(())))
            .await?;
        scene.send(2 * BATCH).await?;
        scene.ends(never, 1).await?;
        let received = scene.peer.received();
        let (from, asked) = if is_date { (begun, DATE) } else { (received[0].at, PAUSE) };
        let asked = asked - Duration::from_millis(500);
        for later in &received[1..] {
            let pause = later.at - from;
            ensure!(pause >= asked || later.spans().is_empty(), "{pause:?}");
        }
        Ok(())
    })
    .await
}

/// Some, a hint alone, more than there are, and a number that cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn partial_successes_are_counted_and_never_sent_again() -> Result<()> {
    each(BOTH, |transport| async move {
        let mut scene = Scene::set(transport).await?;
        let plays =
            [(3, ERROR_WORDS), (0, "a hint of the peer"), (1_000, ERROR_WORDS), (-3, ""), (i64::MAX, "")];
        scene.peer.play(plays.map(|(rejected, message)| Play::Partial { rejected, message }));
        scene.send(plays.len() * BATCH + 7).await?;
        scene.ends(for_good, 1).await?;
        scene.ensure_said(ERROR_WORDS).await
    })
    .await
}

/// The peer said success: sending again would double the spans.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_cannot_be_read_is_a_success() -> Result<()> {
    each(BOTH, |transport| async move {
        let mut scene = Scene::set(transport).await?;
        scene.peer.play([Play::Garbage, Play::Garbage]);
        scene.send(SPANS).await?;
        scene.ends(never, 1).await?;
        scene.ensure_said("the answer is no").await
    })
    .await
}

/// Nor does a client read on for ever: 4 MiB at most.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_costs_its_own_request_alone() -> Result<()> {
    let cases =
        [(Transport::Grpc, Play::Huge), (Transport::Http, Play::Huge), (Transport::Http, Play::Endless)];
    each(cases, |(transport, play)| async move {
        let mut scene = Scene::set(transport).await?;
        scene.peer.play([play]);
        scene.send(SPANS).await?;
        scene.ends(for_good, 1).await?;
        ensure!(scene.bridge.peak_memory_mib()? < 100, "{} MiB", scene.bridge.peak_memory_mib()?);
        scene.ensure_said("response_too_large").await
    })
    .await
}

/// Answers come in any order, and each finds its own batch.
#[tokio::test(flavor = "multi_thread")]
async fn answers_out_of_order_settle_their_own_batches() -> Result<()> {
    each(BOTH, |transport| async move {
        let mut scene = Scene::set(transport).await?;
        let no = match transport {
            Transport::Grpc => Play::Grpc(Status::invalid_argument(ERROR_WORDS)),
            Transport::Http => Play::http(400),
        };
        let late = |play: Play, ms| play.after(Duration::from_millis(ms));
        let some = Play::Partial { rejected: 7, message: ERROR_WORDS };
        scene.peer.play([late(some, 700), late(no, 400), late(Play::Take, 100), Play::Take]);
        scene.send(2 * SPANS).await?;
        scene.ends(for_good, 1).await?;
        scene.ensure_said(ERROR_WORDS).await
    })
    .await
}

/// A batch that is never taken holds up nothing but itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_batch_does_not_delay_newer_ones() -> Result<()> {
    each(BOTH, |transport| async move {
        let mut scene = Scene::set(transport).await?;
        scene.send(BATCH).await?;
        let poisoned: Vec<_> = scene.load.spans().keys().cloned().collect();
        scene.peer.rule(move |request| {
            let has_poison = request
                .spans()
                .iter()
                .any(|span| poisoned.iter().any(|id| span.text("snakepit.correlation_id") == Some(id)));
            let no = match transport {
                Transport::Grpc => Play::Grpc(Status::unavailable(ERROR_WORDS)),
                Transport::Http => Play::http(503),
            };
            has_poison.then_some(no)
        });
        // Batches may be cut by time, so there may be more than one that has poison, but none that has other spans.
        until("the poison", LIMIT, async || {
            let poison: usize = scene.peer.received().iter().map(|received| received.spans().len()).sum();
            Ok((poison >= BATCH).then_some(()))
        })
        .await?;
        let before = scene.peer.requests();
        let taken_before = scene.peer.taken().distinct();
        for round in 1..=5 {
            scene.send(2 * BATCH).await?;
            let healthy = taken_before + round * 2 * BATCH as u64;
            until("healthy batches", LIMIT, async || {
                Ok((scene.peer.taken().distinct() >= healthy).then_some(()))
            })
            .await?;
        }
        let failed = scene.peer.received()[before..].iter().filter(|received| received.rejected > 0).count();
        // The healthy took their time or not: a retry of the poison comes between half a second and a second apart.
        ensure!(failed <= 20, "the poison was tried {failed} times meanwhile");
        scene.peer.relent();
        scene.ends(never, 1).await?;
        scene.ensure_said(ERROR_WORDS).await
    })
    .await
}

/// JSON is answered in JSON, partial successes in its spelling.
#[tokio::test(flavor = "multi_thread")]
async fn json_fares_as_protobuf_does() -> Result<()> {
    let cases = [
        vec![Play::Take],
        vec![Play::http(503)],
        vec![Play::Http { status: 400, retry_after: None, body: ErrorBody::StatusJson }],
        vec![
            Play::Partial { rejected: 3, message: ERROR_WORDS },
            Play::Partial { rejected: 0, message: ERROR_WORDS },
        ],
        vec![Play::Garbage],
        vec![Play::Huge],
        vec![Play::Silent],
    ];
    each(cases, |plays| async move {
        let peer = FaultyPeer::start(Transport::Http)?;
        let patience = if matches!(plays[0], Play::Silent) { "1500" } else { "10000" };
        let variables =
            [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_EXPORTER_OTLP_TIMEOUT", patience)];
        let mut scene = Scene::set_with(peer, Transport::Http, &variables).await?;
        let has_words = plays.iter().any(|play| matches!(play, Play::Partial { .. } | Play::Http { .. }));
        scene.peer.play(plays);
        scene.send(SPANS).await?;
        scene.ends(for_good, 1).await?;
        for received in scene.peer.received() {
            ensure!(received.headers["content-type"] == "application/json", "{received:?}");
        }
        if has_words {
            scene.ensure_said(ERROR_WORDS).await?;
        }
        Ok(())
    })
    .await
}
