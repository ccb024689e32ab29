//! What is kept of spans, and what of each.

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::export::{LIMIT, send_spans, start};
use super::{Pair, Seen, names};
use crate::support::bridge::Bridge;
use crate::support::sink::Sink;
use crate::support::until;
use crate::support::worker::{Connector, Says as _, Worker, event, pair, wall};

/// A bridge that exports at once to the sink, with further variables.
async fn exporting(sink: &Sink, variables: &[Pair<'_>]) -> Result<(Bridge, Worker)> {
    let url = sink.url();
    let to = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    start(&[&to[..], variables].concat()).await
}

pub(super) async fn a_ratio_keeps_the_traces_that_everybody_else_keeps() -> Result<Seen> {
    let sink = Sink::http().await?;
    let variables =
        [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.25")];
    let (bridge, worker) = exporting(&sink, &variables).await?;
    let at = wall();
    // Their trace ids are their SHA-256; R of the first two is above .96, of the others below .6.
    for correlation in ["req-5", "req-10", "req-1", "req-3"] {
        let [start, stop] = pair("request", correlation, at, 1_000_000);
        let [inner, inner_stop] = pair("tool", correlation, at + 10_000, 500_000);
        worker.send_all([start, inner, inner_stop, stop]).await?;
    }
    let unsampled = "00-70a6686b614a947c9af6995fa87c5727-00f067aa0ba902b7-00";
    worker.send_all(pair("remote", "", at, 1_000).map(|event| event.meta("traceparent", unsampled))).await?;
    let ledger = bridge.settled(18, LIMIT).await?;
    assert_eq!((ledger.spans.made, ledger.spans.exported, ledger.spans.sampled_out), (9, 4, 5));
    let spans = sink.spans_of("worker_1", 4, LIMIT).await?;
    let mut traces: Vec<_> = spans.iter().map(|span| hex::encode(&span.trace_id)).collect();
    traces.sort_unstable();
    let [first, second] = ["70a6686b614a947c9af6995fa87c5727", "749e7e1c63a152e701f9ae4d52d9dc8f"];
    assert_eq!(traces, [first, first, second, second], "a trace is whole or absent");
    for span in &spans {
        assert_eq!((span.trace_state.as_str(), span.flags), ("ot=th:c", 0x103));
    }
    Ok(names(&variables))
}

/// A span with five attributes of its own that fails, and the event of another kind within.
async fn one_span(worker: &Worker) -> Result<()> {
    let at = wall();
    let [start, stop] = pair("tool.execution", "c-1", at, 1_000_000);
    let start = ["a", "b", "c", "d", "e"].iter().fold(start, |start, key| start.meta(key, "grüße, ü🦀ber"));
    let progress = event("tool.progress", "c-1", at + 1_000).meta("stage", "half").meta("more", "x");
    let failed = event("tool.execution.exception", "c-1", at + 1_000_000)
        .measured("duration", 1_000_000)
        .meta("error_type", "KeyError")
        .meta("error_message", "a long message")
        .meta("traceback", "Traceback ...");
    drop(stop);
    worker.send_all([start, progress, failed]).await
}

fn longest(attributes: &[KeyValue]) -> usize {
    let chars = |attribute: &KeyValue| {
        let Some(Value::StringValue(text)) = attribute.value.as_ref()?.value.as_ref() else { return None };
        Some(text.chars().count())
    };
    attributes.iter().filter_map(chars).max().unwrap_or(0)
}

fn the_span(spans: Vec<Span>) -> Result<Span> {
    spans.into_iter().next().context("no span")
}

pub(super) async fn general_limits_hold_for_spans_and_events() -> Result<Seen> {
    let sink = Sink::http().await?;
    let variables = [("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "6"), ("OTEL_ATTRIBUTE_COUNT_LIMIT", "2")];
    let (_bridge, worker) = exporting(&sink, &variables).await?;
    one_span(&worker).await?;
    let span = the_span(sink.spans_of("worker_1", 1, LIMIT).await?)?;
    assert_eq!(span.attributes.len(), 2, "{span:?}");
    ensure!(span.dropped_attributes_count >= 4, "{span:?}");
    ensure!(longest(&span.attributes) <= 6, "{span:?}");
    assert_eq!(span.status.clone().context("no status")?.message, "a long message", "it is no attribute");
    let exception = span.events.iter().find(|event| event.name == "exception").context("no exception")?;
    assert_eq!((exception.attributes.len(), exception.dropped_attributes_count), (2, 1));
    assert_eq!(longest(&exception.attributes), 6);
    Ok(names(&variables))
}

pub(super) async fn limits_of_spans_beat_the_general_ones() -> Result<Seen> {
    let sink = Sink::http().await?;
    let variables = [
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "5"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
    ];
    let general = [("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "1"), ("OTEL_ATTRIBUTE_COUNT_LIMIT", "2")];
    let url = sink.url();
    let to = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let all = [&to[..], &variables[..], &general[..]].concat();
    let arguments = ["--reorder-window", "50ms", "--span-timeout", "500ms", "--log-format", "json"];
    let bridge = Bridge::start(&arguments, &all).await?;
    let worker = Connector::named("worker_1").connect(&bridge.grpc).await?;
    one_span(&worker).await?;
    let span = the_span(sink.spans_of("worker_1", 1, LIMIT).await?)?;
    assert_eq!((span.attributes.len(), longest(&span.attributes)), (5, 4), "{span:?}");
    assert_eq!((span.events.len(), span.dropped_events_count), (1, 1), "{span:?}");
    let event = &span.events[0];
    assert_eq!((event.attributes.len(), longest(&event.attributes)), (1, 4));
    ensure!(event.dropped_attributes_count >= 1, "{event:?}");

    // A late end is linked to the span that was closed without it.
    let worker = Connector::named("worker_2").connect(&bridge.grpc).await?;
    let [late, late_stop] = pair("slow.call", "c-2", wall(), 1_000_000);
    worker.send(&late).await?;
    sink.spans_of("worker_2", 1, LIMIT).await?;
    worker.send(&late_stop).await?;
    let spans = sink.spans_of("worker_2", 2, LIMIT).await?;
    assert_eq!((spans[1].links.len(), spans[1].dropped_links_count), (0, 1), "{spans:?}");
    Ok(names(&variables))
}

pub(super) async fn propagators_say_whose_parent_counts() -> Result<Seen> {
    let sink = Sink::http().await?;
    let variables = [("OTEL_PROPAGATORS", "b3,baggage")];
    let (_bridge, worker) = exporting(&sink, &variables).await?;
    let (trace, parent) = ("70a6686b614a947c9af6995fa87c5727", "00f067aa0ba902b7");
    let b3 = format!("{trace}-{parent}-1");
    worker.send_all(pair("by_b3", "", wall(), 1_000).map(|event| event.meta("b3", &b3))).await?;
    let traceparent = format!("00-{trace}-{parent}-01");
    let ignored = pair("by_w3c", "", wall(), 1_000).map(|event| event.meta("traceparent", &traceparent));
    worker.send_all(ignored).await?;
    let spans = sink.spans_of("worker_1", 2, LIMIT).await?;
    let named = |name: &str| spans.iter().find(|span| span.name.ends_with(name)).context("no span");
    let span = named("by_b3")?;
    assert_eq!(
        (hex::encode(&span.trace_id).as_str(), hex::encode(&span.parent_span_id).as_str()),
        (trace, parent)
    );
    assert_eq!(span.flags, 0x301);
    ensure!(named("by_w3c")?.parent_span_id.is_empty(), "{spans:?}");
    Ok(names(&variables))
}

pub(super) async fn the_log_has_its_level() -> Result<Seen> {
    let lines = |bridge: &Bridge, level: &str| bridge.log().contains(&format!("\"level\":\"{level}\""));
    let none = ("OTEL_TRACES_EXPORTER", "none");
    let (quiet, worker) = start(&[("OTEL_LOG_LEVEL", "error"), none]).await?;
    let (loud, other) = start(&[("OTEL_LOG_LEVEL", "debug"), none]).await?;
    for (bridge, worker) in [(&quiet, worker), (&loud, other)] {
        worker.send_raw(bytes::Bytes::from_static(b"\xff")).await?;
        send_spans(&worker, 1).await?;
        bridge.settled(3, LIMIT).await?;
        worker.close().await?;
    }
    until("a line", LIMIT, async || Ok(lines(&loud, "DEBUG").then_some(()))).await?;
    assert_eq!(quiet.log(), "");
    Ok(vec!["OTEL_LOG_LEVEL"])
}
