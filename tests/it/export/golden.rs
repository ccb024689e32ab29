//! A known session, and the request that comes of it, to be read by people: every kind of span that the bridge makes.
//!
//! Trace ids follow from correlation ids, so they stay. Span ids follow from times, which must be near now to be
//! credible: parents are named instead, and times are microseconds from the session's beginning.

use std::fmt::Write as _;

use anyhow::Result;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use snakepit_otel_bridge::proto::{SpanIdentity, TelemetryEvent};

use super::{LIMIT, bridge_to};
use crate::support::sink::Sink;
use crate::support::until;
use crate::support::worker::{Connector, Says as _, event, pair, wall};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread")]
async fn a_known_session_becomes_this_request() -> Result<()> {
    let sink = Sink::grpc().await?;
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", "60000")];
    let bridge = bridge_to(&sink, &variables).await?;
    let worker = Connector::named("worker_1")
        .pid(4711)
        .header("x-snakepit-node", b"node-a")
        .header("x-snakepit-pool", b"default")
        .connect(&bridge.grpc)
        .await?;
    // Whole microseconds, as the snapshot has them.
    let base = wall() / 1_000 * 1_000;
    let session = session(base);
    let sent = u64::try_from(session.len())?;
    worker.send_all(session).await?;
    until("all but the open start", LIMIT, async || {
        let events = bridge.ledger().await?.events;
        Ok((events.received == sent && events.pending == 1).then_some(()))
    })
    .await?;
    bridge.terminate(LIMIT).await?;

    let received = sink.received();
    assert_eq!(received.len(), 1);
    let mut text = String::new();
    for resource in &received[0].request.resource_spans {
        show_resource(&mut text, resource, base)?;
    }
    insta::assert_snapshot!(text);
    Ok(())
}

fn session(base: i64) -> Vec<TelemetryEvent> {
    let at = |micros: i64| base + micros * 1_000;
    let mut events = Vec::new();

    // A request with two calls in it, one of which says what it does meanwhile.
    let [start, stop] = pair("tool.execution", "request-1", at(0), 900_000);
    events.push(start.meta("tool", "search").meta("session_id", "session-1").meta("custom", "kept"));
    let [inner, inner_stop] = pair("model.inference", "request-1", at(100), 300_000);
    events.push(inner.meta("model", "tiny").measured("batch", 4));
    events.push(event("tool.progress", "request-1", at(200)).meta("stage", "half"));
    events.push(inner_stop.measured("tokens", 128).meta("status", "ok"));
    let [failing, _] = pair("tool.lookup", "request-1", at(500), 0);
    events.push(failing);
    events.push(
        event("tool.lookup.exception", "request-1", at(600))
            .measured("duration", 100_000)
            .meta("error_type", "KeyError")
            .meta("error_message", "'x'")
            .meta("traceback", "Traceback ..."),
    );
    events.push(stop.meta("result", "success"));

    // Of another process's trace.
    let [remote, remote_stop] = pair("rpc.call", "", at(2_000), 50_000);
    events.push(remote.meta("traceparent", TRACEPARENT).meta("tracestate", "vendor=1"));
    events.push(remote_stop.meta("traceparent", TRACEPARENT));

    // With an identity of its own.
    let identity = |event: TelemetryEvent| TelemetryEvent {
        span: Some(SpanIdentity {
            trace_id: vec![0xaa; 16],
            span_id: vec![0xbb; 8],
            parent_span_id: vec![0xcc; 8],
            ..SpanIdentity::default()
        }),
        ..event
    };
    events.extend(pair("explicit.call", "request-2", at(3_000), 10_000).map(identity));

    // An end without its start, with and without a duration; one that failed; one whose times make no sense.
    events.push(event("lost.start", "request-3", at(4_000)).measured("ignored", 0).meta("error", "none"));
    events.push(event("rebuilt.call.stop", "request-3", at(4_500)).measured("duration", 200_000));
    events.push(
        event("rebuilt.point.stop", "request-3", at(4_600)).meta("error", "timeout").meta("status", "error"),
    );
    events.push(event("odd.call.stop", "request-4", at(5_000)).measured("duration", -1));
    events
}

fn show_resource(text: &mut String, resource: &ResourceSpans, base: i64) -> Result<()> {
    let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
    writeln!(text, "resource")?;
    // Host names differ from machine to machine, versions from release to release.
    for attribute in attributes {
        match attribute.key.as_str() {
            "host.name" | "telemetry.distro.version" => writeln!(text, "  {}: *", attribute.key)?,
            _ => show_attribute(text, "  ", attribute)?,
        }
    }
    for scope in &resource.scope_spans {
        writeln!(text, "scope {}", scope.scope.clone().unwrap_or_default().name)?;
        let mut spans: Vec<&Span> = scope.spans.iter().collect();
        spans.sort_by_key(|span| (span.start_time_unix_nano, span.name.clone()));
        for span in spans {
            show_span(text, span, &scope.spans, base)?;
        }
    }
    Ok(())
}

fn show_span(text: &mut String, span: &Span, all: &[Span], base: i64) -> Result<()> {
    let micros = |time: u64| (i64::try_from(time).unwrap_or(i64::MAX) - base) / 1_000;
    writeln!(text, "span {} ({:?})", span.name, span.kind())?;
    let incomplete = span.attributes.iter().any(|attribute| attribute.key == "snakepit.span.incomplete");
    let end = match (incomplete, span.end_time_unix_nano - span.start_time_unix_nano) {
        (_, 1) => "its start".to_owned(),
        // When the bridge ended is no part of the session.
        (true, _) => "the end".to_owned(),
        (false, _) => format!("{} us", micros(span.end_time_unix_nano)),
    };
    writeln!(text, "  from {} us to {end}", micros(span.start_time_unix_nano))?;
    writeln!(text, "  trace {}, flags {:#x}, state {:?}", trace(span), span.flags, span.trace_state)?;
    let parent = all.iter().find(|other| other.span_id == span.parent_span_id);
    match parent {
        Some(parent) => writeln!(text, "  parent {}", parent.name)?,
        None => writeln!(text, "  parent {:?}", hex::encode(&span.parent_span_id))?,
    }
    let status = span.status.clone().unwrap_or_default();
    writeln!(text, "  status {:?} {:?}", status.code(), status.message)?;
    for attribute in &span.attributes {
        show_attribute(text, "  ", attribute)?;
    }
    for event in &span.events {
        writeln!(text, "  event {} at {} us", event.name, micros(event.time_unix_nano))?;
        for attribute in &event.attributes {
            show_attribute(text, "    ", attribute)?;
        }
    }
    Ok(())
}

/// The trace's id, which follows from the correlation id or was given.
fn trace(span: &Span) -> String {
    hex::encode(&span.trace_id)
}

fn show_attribute(text: &mut String, indent: &str, attribute: &KeyValue) -> Result<()> {
    let value = match &attribute.value {
        Some(AnyValue { value: Some(Value::StringValue(value)) }) => format!("{value:?}"),
        Some(AnyValue { value: Some(value) }) => format!("{value:?}"),
        Some(AnyValue { value: None }) | None => "nothing".to_owned(),
    };
    writeln!(text, "{indent}{}: {value}", attribute.key)?;
    Ok(())
}
