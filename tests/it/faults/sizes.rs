//! Peers that take smaller requests than the bridge sends: the request is split, and only an item that is too large alone
//! is refused, by its name.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tonic::Status;

use super::{SPANS, Scene, WORKER, each};
use crate::support::bridge::sum;
use crate::support::faulty_peer::{Play, Received, Transport};
use crate::support::until;
use crate::support::worker::{Says as _, pair, wall};

/// What the peer takes at most, uncompressed; a batch of spans of 1 KiB is more, and one such span is less.
const MOST_BYTES: usize = 8 << 10;

/// The three ways in which peers say so.
#[derive(Debug, Clone, Copy)]
enum TooLarge {
    Http413,
    ResourceExhausted,
    OutOfRange,
}

impl TooLarge {
    const fn transport(self) -> Transport {
        match self {
            Self::Http413 => Transport::Http,
            Self::ResourceExhausted | Self::OutOfRange => Transport::Grpc,
        }
    }

    fn judge(self, request: &Received) -> Option<Play> {
        let size = request.bytes;
        // In the words of grpc-go and of tonic.
        let answer = || match self {
            Self::Http413 => Play::http(413),
            Self::ResourceExhausted => Play::Grpc(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({size} vs. {MOST_BYTES})"
            ))),
            Self::OutOfRange => Play::Grpc(Status::out_of_range(format!(
                "Error, decoded message length too large: found {size} bytes, the limit is: {MOST_BYTES} bytes"
            ))),
        };
        (size > MOST_BYTES).then(answer)
    }
}

const CASES: [TooLarge; 3] = [TooLarge::Http413, TooLarge::ResourceExhausted, TooLarge::OutOfRange];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_split_until_it_is_taken() -> Result<()> {
    each(CASES, |case| async move {
        let mut scene = Scene::set(case.transport()).await?;
        scene.peer.rule(move |request| case.judge(request));
        scene.load.send(&scene.worker, WORKER, SPANS, &"x".repeat(1_000)).await?;
        let ledger = scene.settled().await?;
        ensure!((ledger.spans.exported, ledger.spans.refused.len()) == (SPANS as u64, 0), "{ledger:?}");
        let taken = scene.peer.taken();
        taken.ensure_at_most(1)?;
        let differences = scene.load.differences(&taken, &[]);
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        let received = scene.peer.received();
        let (whole, split): (Vec<_>, Vec<_>) = received.iter().partition(|received| received.rejected > 0);
        ensure!(!whole.is_empty(), "nothing was too large");
        // Halving 20 spans gets below the limit in two steps or three.
        ensure!(split.len() <= 8 * SPANS / 20, "{} requests", split.len());
        // A bridge that has heard once what is too large need not ask again and again.
        ensure!(whole.len() <= SPANS, "{} requests in vain", whole.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_is_too_large_alone_is_refused_by_its_name() -> Result<()> {
    each(CASES, |case| async move {
        let mut scene = Scene::set(case.transport()).await?;
        scene.peer.rule(move |request| case.judge(request));
        scene.load.send(&scene.worker, WORKER, 7, "").await?;
        let [start, stop] = pair("tool.giant", "giant", wall(), 1_000_000);
        scene.worker.send_all([start, stop.meta("ballast", &"x".repeat(10_000))]).await?;
        scene.load.send(&scene.worker, WORKER, 12, "").await?;
        let ledger = scene.bridge.settled(2 * (scene.load.len() + 1), super::LIMIT).await?;
        ensure!(ledger.spans.exported == scene.load.len(), "{ledger:?}");
        ensure!(sum(&ledger.spans.refused) == 1, "{ledger:?}");
        let taken = scene.peer.taken();
        taken.ensure_at_most(1)?;
        let differences = scene.load.differences(&taken, &[]);
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        scene.ensure_said("tool.giant").await?;
        // The lone span is tried alone, and then no more.
        let alone = scene.peer.received().iter().filter(|received| received.spans().len() == 1).count();
        ensure!((1..=12).contains(&alone), "{alone}");
        Ok(())
    })
    .await
}

/// What says nothing of a size may still be about it; but a peer that refuses whatever comes, however small, gets each
/// span a bounded number of times, and all are counted as refused.
#[tokio::test(flavor = "multi_thread")]
async fn splitting_has_an_end() -> Result<()> {
    each([Transport::Http, Transport::Grpc], |transport| async move {
        let mut scene = Scene::set(transport).await?;
        scene.peer.rule(move |_| {
            Some(match transport {
                Transport::Grpc => {
                    Play::Grpc(Status::resource_exhausted("grpc: received message larger than max"))
                }
                Transport::Http => Play::http(413),
            })
        });
        scene.send(SPANS).await?;
        let ledger = scene.settled().await?;
        ensure!((ledger.spans.exported, sum(&ledger.spans.refused)) == (0, SPANS as u64), "{ledger:?}");
        let mut tries: BTreeMap<String, u32> = BTreeMap::new();
        for span in scene.peer.received().iter().flat_map(Received::spans) {
            let id = span.text("snakepit.correlation_id").context("no correlation id")?;
            *tries.entry(id.to_owned()).or_default() += 1;
        }
        // A batch of 20 is halved five times.
        ensure!(tries.values().all(|tries| *tries <= 7), "{tries:?}");
        ensure!(tries.values().any(|tries| *tries > 1), "nothing was split: {tries:?}");
        scene.peer.relent();
        scene.send(1).await?;
        until("the next span", super::LIMIT, async || {
            Ok((scene.bridge.ledger().await?.spans.exported == 1).then_some(()))
        })
        .await
    })
    .await
}
