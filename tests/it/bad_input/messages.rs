//! Messages that cannot be read, are too large, too many, or the same again and again.

use anyhow::Result;
use bytes::Bytes;
use prost::Message as _;

use super::{LIMIT, Scene, fates};
use crate::support::until;
use crate::support::worker::{Connector, Says as _, event, pair, wall};

/// Memory that a bridge may have held at most, in MiB: what it begins with, what its channels and windows may hold, and
/// room for a debug build.
const MOST_MEMORY_MIB: u64 = 160;

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_message_costs_only_itself() -> Result<()> {
    let mut scene = Scene::set().await?;
    let mut hostile = scene.hostile().await?;
    let [start, stop] = pair("tool.execution", "a", wall(), 1_000);
    let whole = stop.encode_to_vec();
    // Two hundred levels of an unknown group, well closed.
    let deep = [[0x9b, 0x06].repeat(200), [0x9c, 0x06].repeat(200)].concat();
    let malformed: [&[u8]; 7] = [
        b"\xff",
        // Ends in the middle of a field.
        &whole[..whole.len() - 1],
        // A name that is not UTF-8.
        b"\x0a\x02\xc3\x28",
        // A time that is a string.
        b"\x22\x01x",
        // A varint of eleven bytes.
        b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        // A length beyond the end of the world.
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        &deep,
    ];

    hostile.send(&start).await?;
    for bytes in malformed {
        hostile.send_raw(Bytes::copy_from_slice(bytes)).await?;
    }
    hostile.send(&stop).await?;
    hostile.ensure_open().await?;

    scene.ends_with(fates(2, 0, 0, &[("malformed", 7)])).await?;
    assert_eq!(scene.sink.spans_of("hostile", 1, LIMIT).await?.len(), 1);
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_5_mb_is_skipped_and_the_stream_goes_on() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let [start, stop] = pair("tool.execution", "a", wall(), 1_000);

    hostile.send(&start).await?;
    for _ in 0..3 {
        let large = event("tool.execution", "a", wall()).meta("blob", &"x".repeat(5_000_000));
        hostile.send(&large).await?;
    }
    hostile.send(&stop).await?;

    scene.ends_with(fates(2, 0, 0, &[("oversized", 3)])).await?;
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_ten_thousand_times_is_one_event() -> Result<()> {
    // Duplicates are known for one window.
    let mut scene = Scene::set_with(&["--reorder-window", "5s"]).await?;
    let hostile = scene.hostile().await?;
    let [start, stop] = pair("tool.execution", "a", wall(), 1_000);
    let same: [Bytes; 2] = [start, stop].map(|half| half.encode_to_vec().into());

    for half in &same {
        for _ in 0..10_000 {
            hostile.send_raw(half.clone()).await?;
        }
    }

    scene.ends_with(fates(2, 0, 0, &[("duplicate_start", 9_999), ("duplicate_end", 9_999)])).await?;
    assert_eq!(scene.sink.spans_of("hostile", 1, LIMIT).await?.len(), 1);
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_standalone_events_fills_one_span_and_no_more() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let began = wall();
    let [start, stop] = pair("tool.execution", "a", began, 1_000_000);

    hostile.send(&start).await?;
    for number in 0..1_000 {
        hostile.send(&event("tool.progress", "a", began + 1 + number)).await?;
    }
    hostile.send(&stop).await?;

    // Those that found no room on their span are log records all the same.
    let mut expected = fates(2, 0, 0, &[]);
    (expected.received, expected.standalone) = (1_002, 1_000);
    scene.ends_with(expected).await?;
    let span = scene.sink.spans_of("hostile", 1, LIMIT).await?.remove(0);
    assert_eq!((span.events.len(), span.dropped_events_count), (128, 872));
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_phase_is_a_standalone_event() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let began = wall();
    let [start, stop] = pair("tool.execution", "a", began, 1_000);

    hostile.send(&start).await?;
    // Within the span, beside it, and without a correlation id: all are log records.
    hostile.send(&event("tool.execution.begin", "a", began + 500)).await?;
    hostile.send(&event("tool.execution.begin", "b", began + 500)).await?;
    hostile.send(&event("tool.execution.STOP", "", began + 500)).await?;
    hostile.send(&event("stop", "", began + 500)).await?;
    hostile.send(&stop).await?;

    let mut expected = fates(2, 0, 0, &[]);
    (expected.received, expected.standalone) = (6, 4);
    scene.ends_with(expected).await?;
    let span = scene.sink.spans_of("hostile", 1, LIMIT).await?.remove(0);
    let names: Vec<_> = span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["snakepit.python.tool.execution.begin"]);
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_name_is_counted() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;

    hostile.send_raw(Bytes::new()).await?;
    for parts in [vec![], vec![""], vec![""; 10_000]] {
        let mut nameless = event("", "a", wall());
        nameless.event_parts = parts.into_iter().map(str::to_owned).collect();
        hostile.send(&nameless).await?;
    }

    scene.ends_with(fates(0, 0, 0, &[("empty_name", 4)])).await?;
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_10_kb_is_cut() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;

    hostile.send_all(pair(&"n".repeat(10_000), "a", wall(), 1_000)).await?;
    // As many parts as characters.
    hostile.send_all(pair(&["p"; 5_000].join("."), "a", wall(), 1_000)).await?;

    scene.ends_with(fates(4, 0, 0, &[])).await?;
    for span in scene.sink.spans_of("hostile", 2, LIMIT).await? {
        assert_eq!(span.name.len(), 255, "{}", span.name);
        let longest = span.attributes.iter().map(|attribute| attribute.encoded_len()).max();
        assert!(longest < Some(2_000), "{span:?}");
    }
    hostile.close().await
}

/// Names are remembered, but neither many nor long ones for ever.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_names_take_little_memory() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    for number in 0..10_000 {
        hostile.send_all(pair(&format!("operation_{number}"), "", wall(), 1_000)).await?;
    }
    scene.ends_with(fates(20_000, 0, 0, &[])).await?;
    let peak = scene.bridge.peak_memory_mib()?;
    assert!(peak < MOST_MEMORY_MIB, "{peak} MiB");
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_take_little_memory() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    for number in 0..200 {
        let operation = format!("{number}_{}", "n".repeat(1_000_000));
        hostile.send(&event(&format!("{operation}.start"), "", wall())).await?;
    }
    scene.ends_with(fates(0, 0, 200, &[])).await?;
    let peak = scene.bridge.peak_memory_mib()?;
    assert!(peak < MOST_MEMORY_MIB, "{peak} MiB");
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correlation_id_of_1_mb_pairs_and_is_cut() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let id = |number: u32| format!("{number}{}", "c".repeat(1_000_000));
    for number in 0..30 {
        hostile.send(&event("tool.execution.start", &id(number), wall())).await?;
    }
    let began = wall();
    hostile.send_all(pair("tool.other", &id(0), began, 1_000)).await?;

    scene.ends_with(fates(2, 0, 30, &[])).await?;
    let span = scene.sink.spans_of("hostile", 1, LIMIT).await?.remove(0);
    let cut = crate::support::sink::text(&span.attributes, "snakepit.correlation_id").map(str::len);
    assert_eq!(cut, Some(16 << 10));
    let peak = scene.bridge.peak_memory_mib()?;
    assert!(peak < MOST_MEMORY_MIB, "{peak} MiB");
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_is_read() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = Connector::named("hostile").gzip().connect(&scene.bridge.grpc).await?;
    hostile.send_all(pair("tool.execution", "a", wall(), 1_000)).await?;
    scene.ends_with(fates(2, 0, 0, &[])).await?;
    hostile.close().await
}

/// A worker that begins to send when the bridge has no room for its spans loses its oldest, not those of others.
#[tokio::test(flavor = "multi_thread")]
async fn open_spans_beyond_the_limit_push_out_the_oldest_of_their_own() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bridge.yaml");
    std::fs::write(&file, "limits: {max_open_spans_per_worker: 1000}\n")?;
    let mut scene = Scene::set_with(&["--config", &file.display().to_string()]).await?;
    let hostile = scene.hostile().await?;
    for number in 0..3_000 {
        hostile.send(&event("tool.execution.start", &number.to_string(), wall())).await?;
    }
    let mut expected = fates(0, 0, 1_000, &[]);
    (expected.received, expected.incomplete) = (3_000, 2_000);
    scene.ends_with(expected).await?;
    let shown = until("the open spans", LIMIT, async || {
        let open: serde_json::Value = serde_json::from_str(&scene.bridge.admin("/api/v1/spans/open").await?)?;
        Ok(open["total"].as_u64())
    });
    assert_eq!(shown.await?, 1_000);
    hostile.close().await
}
