//! Starting, and ending by signals: what was sent before counts, and the log's last line says what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tonic::Code;

use super::{LIMIT, bridge_to, bridge_to_url};
use crate::support::bridge::{Bridge, Ledger};
use crate::support::sink::{Sink, text};
use crate::support::worker::{Connector, event, pair, wall};
use crate::support::{now, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_ready_line_is_exact_and_alone() -> Result<()> {
    let bridge = Bridge::start(&[], &[("OTEL_TRACES_EXPORTER", "none")]).await?;
    let expected = format!("READY grpc={} admin={}", bridge.grpc, bridge.admin);
    assert!(bridge.grpc.starts_with("127.0.0.1:") && !bridge.grpc.ends_with(":0"), "{expected}");
    // What it says is true at once.
    bridge.admin("/readyz").await?;
    Connector::anonymous().connect(&bridge.grpc).await?.close().await?;
    assert_eq!(bridge.output(), [expected]);
    Ok(())
}

/// SIGTERM: what is on the wire is read, what is open is closed, everything is exported, and the log's last line is the
/// ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_termination_loses_nothing_that_was_sent() -> Result<()> {
    for signal in ["TERM", "INT"] {
        let sink = Sink::grpc().await?;
        let bridge = bridge_to(&sink, &[]).await?;
        let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
        let began = wall();
        worker.send(&event("tool.stuck.start", "stuck", began)).await?;
        for number in 0..500 {
            worker.send_all(pair("tool.execution", &number.to_string(), wall(), 1_000)).await?;
        }
        bridge.signal(signal)?;

        // The stream is ended by the bridge, not broken.
        assert_eq!(worker.ended_by_bridge().await?, Code::Ok);
        let (status, log) = bridge.ended(LIMIT).await?;
        assert_eq!(status.code(), Some(0), "{log}");
        let Ledger { events, spans, .. } = Ledger::of_log(&log)?;
        assert_eq!((events.received, events.paired, events.incomplete, events.pending), (1_001, 1_000, 1, 0));
        assert_eq!((spans.made, spans.exported, spans.queued), (501, 501, 0));
        let arrived = sink.spans_of("worker_1", 501, LIMIT).await?;
        assert_eq!(arrived.len(), 501);
        let stuck = arrived.iter().find(|span| span.name.ends_with("stuck")).context("no open span")?;
        assert_eq!(text(&stuck.attributes, "snakepit.span.incomplete"), Some("bridge_shutdown"));
        assert_eq!(stuck.start_time_unix_nano, began.unsigned_abs());
        assert_eq!(stuck.status.clone().unwrap_or_default().code, 0);
    }
    Ok(())
}

/// A worker that goes on sending does not keep the bridge from ending, and gets no further stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_stops_does_not_hold_the_end_up() -> Result<()> {
    let sink = Sink::grpc().await?;
    let bridge = bridge_to(&sink, &[]).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    let sending = async {
        let mut sent = 0_u64;
        while worker.send_all(pair("tool.execution", &sent.to_string(), wall(), 1_000)).await.is_ok() {
            sent += 1;
        }
        sent
    };
    let ending =
        async {
            until("some events", LIMIT, async || {
                Ok((bridge.ledger().await?.events.received > 100).then_some(()))
            })
            .await?;
            bridge.terminate(LIMIT).await
        };
    let (sent, ended) = tokio::join!(sending, ending);
    let (status, log) = ended?;
    assert_eq!(status.code(), Some(0), "{log}");
    let ledger = Ledger::of_log(&log)?;
    // What came after the drain had ended was never read.
    assert!(ledger.events.received <= 2 * sent + 2, "{ledger:?}, {sent} pairs sent");
    assert_eq!((ledger.events.pending, ledger.spans.queued), (0, 0));
    let arrived = sink.spans_of("worker_1", usize::try_from(ledger.spans.made)?, LIMIT).await?;
    assert_eq!(u64::try_from(arrived.len())?, ledger.spans.exported);
    Ok(())
}

/// With the Collector away, a drain lasts as long as it may and no longer, and says what it gave up; a second signal
/// ends it at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_without_a_collector_has_an_end() -> Result<()> {
    for (seconds, is_hurried) in [("1s", false), ("1h", true)] {
        let bridge = bridge_to_url("http://127.0.0.1:9", &["--shutdown-timeout", seconds]).await?;
        let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
        worker.send_all(pair("tool.execution", "", wall(), 1_000)).await?;
        worker.close().await?;
        until("the span", LIMIT, async || Ok((bridge.ledger().await?.spans.queued == 1).then_some(())))
            .await?;
        let begun = now();
        bridge.signal("TERM")?;
        until("the drain", LIMIT, async || Ok(bridge.log().contains("draining").then_some(()))).await?;
        if is_hurried {
            bridge.signal("TERM")?;
        }
        let (status, log) = bridge.ended(LIMIT).await?;
        if is_hurried {
            assert_eq!(status.code(), Some(70), "{log}");
        } else {
            assert_eq!(status.code(), Some(0), "{log}");
            let ledger = Ledger::of_log(&log)?;
            assert_eq!(ledger.spans.refused, BTreeMap::from([("shutdown".to_owned(), 1)]));
            assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_and_a_flag_that_is_wrong_stop_the_start() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let address = taken.local_addr()?.to_string();
    for (arguments, code, named) in [
        (["--listen", &address], 69, address.as_str()),
        (["--admin-listen", &address], 69, &address),
        (["--checkpoint-interval", "1ms"], 64, "--checkpoint-interval"),
        (["--span-timeout", "soon"], 64, "soon"),
        (["--no-such-flag", "x"], 64, "--no-such-flag"),
        (["--admin-listen", "0.0.0.0:0"], 64, "--admin-token-file"),
    ] {
        let (status, output, log) = Bridge::refused(&arguments, &[("OTEL_TRACES_EXPORTER", "none")]).await?;
        assert_eq!(status.code(), Some(code), "{arguments:?}: {log}");
        assert!(log.contains(named), "{arguments:?}: {log}");
        assert_eq!(output, [""; 0], "{arguments:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_is_harmless() -> Result<()> {
    let sink = Sink::grpc().await?;
    let bridge = bridge_to(&sink, &[]).await?;
    let mut worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    let [start, stop] = pair("tool.execution", "a", wall(), 1_000);
    worker.send(&start).await?;
    for _ in 0..3 {
        bridge.signal("HUP")?;
    }
    until("a word about it", LIMIT, async || Ok(bridge.log().contains("not read again").then_some(())))
        .await?;
    worker.ensure_open().await?;
    worker.send(&stop).await?;
    sink.spans_of("worker_1", 1, LIMIT).await?;
    worker.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_exporter_spans_are_counted_as_refused() -> Result<()> {
    let bridge = Bridge::start(&["--reorder-window", "50ms"], &[("OTEL_TRACES_EXPORTER", "none")]).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    worker.send_all(pair("tool.execution", "a", wall(), 1_000)).await?;
    worker.close().await?;
    let ledger = bridge.settled(2, LIMIT).await?;
    assert_eq!(ledger.spans.refused, BTreeMap::from([("signal_disabled".to_owned(), 1)]));
    assert_eq!(bridge.output().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_a_line_a_span_after_the_ready_line() -> Result<()> {
    let bridge = Bridge::start(&["--reorder-window", "50ms"], &[("OTEL_TRACES_EXPORTER", "console")]).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    worker.send_all(pair("tool.execution", "a\u{9b}b", wall(), 1_000)).await?;
    worker.close().await?;
    bridge.settled(2, LIMIT).await?;
    let output =
        until("a line", LIMIT, async || Ok(Some(bridge.output()).filter(|lines| lines.len() > 1))).await?;
    let line: serde_json::Value = serde_json::from_str(&output[1])?;
    assert_eq!(line["name"], "snakepit.python.tool.execution");
    assert!(!output[1].contains(char::is_control), "{}", output[1]);
    Ok(())
}
