//! Whatever may become of a connection: nothing is lost, and what arrives twice has the same ids.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{BATCH, LIMIT, SPANS, Scene, each, never};
use crate::support::faulty_peer::{FaultyPeer, OnConnect, Play, Transport};
use crate::support::until;

const BOTH: [Transport; 2] = [Transport::Grpc, Transport::Http];

/// The peer has not heard of the request, or of its end: it arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_get_through_arrives_once() -> Result<()> {
    let plays = [Play::Silent, Play::CutRequest];
    let cases = BOTH.into_iter().flat_map(|transport| plays.clone().map(|play| (transport, play)));
    each(cases, |(transport, play)| async move {
        let mut scene = Scene::set_impatient(transport).await?;
        // A reset takes with it what was answered to other requests on that connection, and not heard.
        let is_shared = transport == Transport::Grpc && matches!(play, Play::CutRequest);
        scene.peer.play([play]);
        scene.send(SPANS).await?;
        scene.ends(never, if is_shared { 2 } else { 1 }).await?;
        scene.ensure_said("failed to export; will try again").await
    })
    .await
}

/// Nobody can know whether the peer has taken the request: it is sent again, with the same ids, and counted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_doubles_spans_and_never_changes_them() -> Result<()> {
    let plays = [Play::LoseAnswer, Play::CutAnswer, Play::Drip];
    let cases = BOTH.into_iter().flat_map(|transport| plays.clone().map(|play| (transport, play)));
    each(cases, |(transport, play)| async move {
        let mut scene = Scene::set_impatient(transport).await?;
        let is_success_by_its_head = transport == Transport::Http && matches!(play, Play::CutAnswer);
        scene.peer.play([play]);
        scene.send(SPANS).await?;
        scene.ends(never, 2).await?;
        let taken = scene.peer.taken();
        if is_success_by_its_head {
            ensure!(taken.arrivals() == taken.distinct(), "a success was sent again");
        } else {
            ensure!(taken.arrivals() > taken.distinct(), "nothing was sent again");
        }
        ensure!(taken.arrivals() <= 2 * taken.distinct());
        Ok(())
    })
    .await
}

/// Connections that are no use: the next one is.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_no_use_is_given_up() -> Result<()> {
    let plays = [OnConnect::NeverRead, OnConnect::Reset, OnConnect::Babble];
    let cases = BOTH.into_iter().flat_map(|transport| plays.map(|play| (transport, play)));
    each(cases, |(transport, play)| async move {
        let mut scene = Scene::set_impatient(transport).await?;
        scene.peer.on_connect([play]);
        scene.send(SPANS).await?;
        scene.ends(never, 1).await?;
        ensure!(scene.peer.connections() > 1);
        scene.ensure_said("failed to export; will try again").await
    })
    .await
}

/// A peer that reads 16 KiB every 20 ms gets requests of 100 KiB whole: slow is not broken.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_everything() -> Result<()> {
    each(BOTH, |transport| async move {
        let peer = FaultyPeer::start(transport)?;
        peer.on_connect([OnConnect::ReadSlowly(16 << 10, Duration::from_millis(20)); 16]);
        let mut scene = Scene::set_with(peer, transport, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "30000")]).await?;
        scene.load.send(&scene.worker, super::WORKER, SPANS, &"x".repeat(5_000)).await?;
        scene.ends(never, 1).await?;
        let largest = scene.peer.received().iter().map(|received| received.wire_bytes).max();
        ensure!(largest > Some(50_000), "{largest:?}");
        Ok(())
    })
    .await
}

/// The Collector is restarted: connections end, then are refused for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_away_for_a_while_gets_everything_once_it_is_back() -> Result<()> {
    each(BOTH, |transport| async move {
        let mut scene = Scene::set(transport).await?;
        scene.send(BATCH).await?;
        scene.ends(never, 1).await?;
        scene.peer.close().await;
        scene.send(SPANS).await?;
        until("the bridge to see it", LIMIT, async || {
            Ok((scene.bridge.metric("snakepit_bridge_export_peer_down").await? == 1).then_some(()))
        })
        .await?;
        let ledger = scene.bridge.ledger().await?;
        ensure!(ledger.spans.exported == BATCH as u64, "{ledger:?}");
        scene.send(SPANS).await?;
        scene.peer.open().await?;
        scene.ends(never, 1).await?;
        scene.ensure_said("exporting works again").await
    })
    .await
}

/// A peer that ends the connection after each request, in order, costs connections and no spans.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_each_request_loses_nothing() -> Result<()> {
    each(BOTH, |transport| async move {
        let mut scene = Scene::set(transport).await?;
        scene.peer.rule(|_| Some(Play::Take.then_go_away()));
        for _ in 0..5 {
            scene.send(BATCH).await?;
            scene.settled().await?;
        }
        // A request that meets a connection in its end may be taken and not answered.
        scene.ends(never, 2).await?;
        let connections: BTreeSet<_> =
            scene.peer.received().iter().map(|received| received.connection).collect();
        ensure!(connections.len() >= 5, "{connections:?}");
        Ok(())
    })
    .await
}
