//! Values that make no sense: numbers that are none, times beyond all clocks, too many attributes, treacherous text.

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value as Json;
use snakepit_otel_bridge::diagnostics::is_treacherous;
use snakepit_otel_bridge::proto::TelemetryEvent;
use snakepit_otel_bridge::proto::telemetry_value::Value;

use super::{LIMIT, Scene, fates};
use crate::support::sink::text;
use crate::support::worker::{Connector, Says as _, event, pair, wall};

const DAY_NS: i64 = 24 * 3_600 * 1_000_000_000;
const WEEK_NS: u64 = 7 * DAY_NS.unsigned_abs();

#[tokio::test(flavor = "multi_thread")]
async fn measurements_that_are_not_finite_are_counted_and_break_nothing() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let [start, stop] = pair("model.inference", "a", wall(), 1_000);
    let nonsense = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Value::FloatValue);

    hostile.send(&start.value("loss", nonsense[0].clone())).await?;
    hostile.send(&stop.value("rate", nonsense[1].clone()).value("low", nonsense[2].clone())).await?;
    for value in &nonsense {
        hostile.send(&event("gpu.sampled", "", wall()).value("load", value.clone())).await?;
    }
    // A duration and a time that are none.
    let [start, stop] = pair("model.load", "b", wall(), 1_000);
    hostile.send(&start.value("system_time", nonsense[0].clone())).await?;
    hostile.send(&stop.value("duration", nonsense[0].clone())).await?;

    scene.ends_with(fates(4, 0, 0, &[("no_finite_value", 3)])).await?;
    let spans = scene.sink.spans_of("hostile", 2, LIMIT).await?;
    let span = spans.iter().find(|span| span.name.ends_with("inference")).context("no inference")?;
    let seen = ["loss", "rate", "low"].map(|key| text(&span.attributes, key));
    assert_eq!(seen, [Some("NaN"), Some("inf"), Some("-inf")]);
    assert!(scene.metric("snakepit_bridge_measurements_not_finite_total").await? >= 3);
    hostile.close().await
}

/// Every combination of times at the ends of their range, in both halves: each start and each end has a fate, and every
/// span that comes of them is valid and not far from now.
#[tokio::test(flavor = "multi_thread")]
async fn times_at_the_ends_of_their_range_make_valid_spans() -> Result<()> {
    const EXTREMES: [i64; 6] = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX];
    let mut scene = Scene::set_with(&["--reconnect-grace", "0s"]).await?;
    let hostile = Connector::named("hostile").pid(1).connect(&scene.bridge.grpc).await?;
    let mut sent = 0;
    for (id, time) in EXTREMES.into_iter().enumerate() {
        for other in EXTREMES {
            let id = id.to_string();
            let half = |phase: &str| {
                event(&format!("clock.nonsense.{phase}"), &id, time).measured("system_time", other)
            };
            let halves = [
                half("start"),
                half("start").measured("monotonic_time", other),
                half("stop"),
                half("stop").measured("duration", other),
                half("exception").measured("duration", other).measured("monotonic_time", time),
                event("clock.tick", &id, time),
            ];
            for half in halves {
                hostile.send(&half).await?;
                sent += 1;
            }
        }
    }
    hostile.close().await?;
    // A second incarnation ends the first without grace: nothing stays open.
    let next = Connector::named("hostile").pid(2).connect(&scene.bridge.grpc).await?;

    let ledger = crate::support::until("the end of everything that is open", LIMIT, async || {
        let ledger = scene.bridge.ledger().await?;
        let neighbours = super::NEIGHBOUR_EVENTS / 2;
        let is_over = ledger.events.received == sent + neighbours && ledger.events.pending == neighbours;
        Ok((is_over && ledger.spans.queued == 0).then_some(ledger))
    })
    .await?;
    let others = crate::support::bridge::Events { pending: 0, ..ledger.events.clone() };
    let made = usize::try_from(ledger.spans.made)?;
    let now = wall().unsigned_abs();
    for span in scene.sink.spans_of("hostile", made, LIMIT).await? {
        assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
        assert!(span.start_time_unix_nano.abs_diff(now) <= WEEK_NS + 60_000_000_000, "{span:?}");
        assert!(span.end_time_unix_nano.abs_diff(now) <= WEEK_NS + 60_000_000_000, "{span:?}");
        assert_eq!(text(&span.attributes, "snakepit.clock"), Some("adjusted"), "{span:?}");
    }
    let received = others.received - super::NEIGHBOUR_EVENTS / 2;
    scene.ends_with(crate::support::bridge::Events { received, ..others }).await?;
    next.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_or_absurd_duration_is_clamped() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let began = wall();
    for (number, duration) in [-1, -500, i64::MIN, i64::MAX, 40 * 365 * DAY_NS].into_iter().enumerate() {
        let stop = event("tool.execution.stop", &number.to_string(), began).measured("duration", duration);
        hostile.send(&stop).await?;
    }

    scene.ends_with(fates(0, 5, 0, &[])).await?;
    for span in scene.sink.spans_of("hostile", 5, LIMIT).await? {
        let length = span.end_time_unix_nano - span.start_time_unix_nano;
        assert_eq!((length, span.end_time_unix_nano), (1, began.unsigned_abs() + 1), "{span:?}");
        assert_eq!(text(&span.attributes, "snakepit.clock"), Some("adjusted"));
    }
    assert_eq!(scene.metric("snakepit_bridge_clock_adjusted_total").await?, 5);
    hostile.close().await
}

/// A clock that is set back or forward by a day in the middle of spans: no span is made of times that cannot be meant,
/// and what its own duration explains is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_is_survived() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let began = wall();
    // Set back: the end is before its start, with and without a duration.
    hostile.send(&event("set.back.start", "a", began)).await?;
    hostile.send(&event("set.back.stop", "a", began - DAY_NS)).await?;
    hostile.send(&event("set.back.start", "b", began)).await?;
    hostile.send(&event("set.back.stop", "b", began - DAY_NS).measured("duration", 1_000)).await?;
    // Set forward, by the same day: without a duration, a day is what was said.
    hostile.send(&event("set.forward.start", "c", began - DAY_NS)).await?;
    hostile.send(&event("set.forward.stop", "c", began)).await?;
    hostile.send(&event("set.forward.start", "d", began - DAY_NS)).await?;
    hostile.send(&event("set.forward.stop", "d", began).measured("duration", 1_000)).await?;
    // Set to what no clock shows.
    hostile.send_all(pair("set.wild", "e", began + 30 * DAY_NS, 1_000)).await?;

    scene.ends_with(fates(4, 3, 3, &[])).await?;
    let spans = scene.sink.spans_of("hostile", 5, LIMIT).await?;
    let lengths = |name: &str| {
        let mut lengths: Vec<u64> = spans
            .iter()
            .filter(|span| span.name.ends_with(name))
            .map(|span| span.end_time_unix_nano - span.start_time_unix_nano)
            .collect();
        lengths.sort_unstable();
        lengths
    };
    assert_eq!(lengths("set.back"), [1, 1_000]);
    assert_eq!(lengths("set.forward"), [1_000, DAY_NS.unsigned_abs()]);
    assert_eq!(lengths("set.wild"), [1_000]);
    hostile.close().await
}

/// Text is passed on as it is, and reaches neither the log nor the API's readers as something that their terminals obey.
#[tokio::test(flavor = "multi_thread")]
async fn control_characters_stay_text() -> Result<()> {
    const NASTY: &str = "a\u{1b}[2J\r\nb\0c\u{7f}d\u{9b}31me\u{202e}f\u{2028}g\"\\";
    let mut scene = Scene::set().await?;
    let mut hostile = Connector::named("hostile\u{9b}31m").header("x-snakepit-pool", b"gpu\t1");
    hostile = hostile.header("x-snakepit-dialect", "\u{202e}design".as_bytes());
    let hostile = hostile.connect(&scene.bridge.grpc).await?;
    let nasty = |event: TelemetryEvent| event.meta(NASTY, NASTY).meta("tool", NASTY).meta("worker_id", NASTY);
    let [start, stop] = pair("tool.execution", NASTY, wall(), 1_000);
    let mut named = event("", NASTY, wall());
    named.event_parts = vec![NASTY.to_owned(), "start".to_owned()];

    hostile.send(&nasty(start)).await?;
    hostile.send(&nasty(stop)).await?;
    hostile.send(&nasty(named)).await?;
    hostile.send_raw("\x07\u{9b}".into()).await?;

    scene.ends_with(fates(2, 0, 1, &[("malformed", 1)])).await?;
    let id = "hostile_31m";
    let span = scene.sink.spans_of(id, 1, LIMIT).await?.remove(0);
    for key in [NASTY, "snakepit.tool", "snakepit.correlation_id"] {
        assert_eq!(text(&span.attributes, key), Some(NASTY));
    }
    for route in ["/api/v1/spans/open", "/api/v1/workers", "/metrics"] {
        let answer = scene.bridge.admin(route).await?;
        let found = answer.chars().find(|&character| is_treacherous(character) && character != '\n');
        assert_eq!(found, None, "{route}: {answer}");
    }
    let open: Json = serde_json::from_str(&scene.bridge.admin("/api/v1/spans/open").await?)?;
    assert_eq!(open["spans"][0]["correlation_id"], NASTY);
    let log = scene.bridge.log();
    let found = log.lines().find(|line| line.contains(is_treacherous));
    assert_eq!(found, None);
    assert!(log.lines().all(|line| serde_json::from_str::<Json>(line).is_ok()), "{log}");
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_beyond_the_limit_are_counted_on_their_span() -> Result<()> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let [start, stop] = pair("tool.execution", "", wall(), 1_000);
    let with = |mut event: TelemetryEvent, half: &str| {
        for number in 0..100 {
            event = event.meta(&format!("{half}_{number:03}"), "x");
        }
        event
    };
    hostile.send(&with(start, "start")).await?;
    hostile.send(&with(stop, "stop")).await?;

    scene.ends_with(fates(2, 0, 0, &[])).await?;
    let span = scene.sink.spans_of("hostile", 1, LIMIT).await?.remove(0);
    // `snakepit.event` is among them: what the bridge says of a span does not give way to what the worker says.
    let own = span.attributes.iter().filter(|attribute| attribute.key.starts_with("snakepit.")).count();
    let theirs = span.attributes.len() - own;
    assert_eq!((theirs, own), (127, 1));
    assert_eq!(theirs + usize::try_from(span.dropped_attributes_count)?, 200);
    assert!(scene.metric("snakepit_bridge_attributes_cut_total").await? > 0);
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_metadata_entries_cost_their_span_only() -> Result<()> {
    const ENTRIES: u32 = 100_000;
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let [mut start, stop] = pair("tool.execution", "a", wall(), 1_000);
    start.metadata = (0..ENTRIES).map(|number| (format!("{number:x}"), String::new())).collect();
    hostile.send(&start).await?;
    hostile.send(&stop).await?;
    // Many of them open at a time take no more than what they keep.
    for number in 0..40 {
        start.correlation_id = format!("other-{number}");
        hostile.send(&start).await?;
    }

    scene.ends_with(fates(2, 0, 40, &[])).await?;
    let span = scene.sink.spans_of("hostile", 1, LIMIT).await?.remove(0);
    assert_eq!(span.attributes.len(), 128);
    assert!(text(&span.attributes, "snakepit.event").is_some(), "it is the last to go");
    assert_eq!(text(&span.attributes, "snakepit.correlation_id"), Some("a"));
    assert_eq!(span.dropped_attributes_count, ENTRIES + 2 - 128);
    let peak = scene.bridge.peak_memory_mib()?;
    assert!(peak < 160, "{peak} MiB");
    hostile.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_levels_nest() -> Result<()> {
    let (spans, gave_up) = nested(60).await?;
    for pair in spans.windows(2) {
        assert_eq!(pair[1].parent_span_id, pair[0].span_id, "{}", pair[1].name);
    }
    assert_eq!(gave_up, 0);
    Ok(())
}

/// More levels than a parent is sought among: the spans are all there, in one trace, and each that lacks its parent is
/// counted.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_levels_are_too_many_to_nest_and_are_counted() -> Result<()> {
    let (spans, gave_up) = nested(200).await?;
    let roots = spans.iter().filter(|span| span.parent_span_id.is_empty()).count();
    assert!(u64::try_from(roots)? <= gave_up + 1, "{roots} roots, gave up {gave_up} times");
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id));
    for pair in spans.windows(2).filter(|pair| !pair[1].parent_span_id.is_empty()) {
        assert_eq!(pair[1].parent_span_id, pair[0].span_id, "{}", pair[1].name);
    }
    Ok(())
}

/// Spans in one another, each of its own operation; from the outermost inwards, and how often no parent was found.
async fn nested(levels: usize) -> Result<(Vec<Span>, u64)> {
    let mut scene = Scene::set().await?;
    let hostile = scene.hostile().await?;
    let began = wall();
    let level = |number: usize| {
        let inset = i64::try_from(number).expect("few") * 1_000;
        pair(&format!("level_{number}"), "a", began + inset, 1_000_000 - 2 * inset)
    };
    for number in 0..levels {
        hostile.send(&level(number)[0]).await?;
    }
    for number in (0..levels).rev() {
        hostile.send(&level(number)[1]).await?;
    }

    scene.ends_with(fates(2 * levels as u64, 0, 0, &[])).await?;
    let mut spans = scene.sink.spans_of("hostile", levels, LIMIT).await?;
    spans.sort_by_key(|span| span.start_time_unix_nano);
    let gave_up = scene.metric("snakepit_bridge_nesting_gave_up_total").await?;
    hostile.close().await?;
    Ok((spans, gave_up))
}
