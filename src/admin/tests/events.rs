//! What events became, asked of several shards.

use super::*;
use crate::engine::metrics::instrument::{Instrument, Kind};
use crate::engine::report::{Lost, MeasurementReport};

#[tokio::test]
async fn what_events_became_is_told_over_all_shards() {
    let bridge = Bridge::start(vec![
        Shard { events: vec![event_report("b", 1), event_report("tool.result", 3)], ..Shard::default() },
        Shard { events: vec![event_report("tool.result", 4)], ..Shard::default() },
    ]);

    for asked in ["tool.result", "snakepit.python.tool.result"] {
        let (status, body) = bridge.get_json(&format!("/api/v1/events?event={asked}&limit=")).await;

        assert_eq!(status, 200);
        assert_eq!(
            body,
            json!({"total": 1, "events": [{
                "event": "snakepit.python.tool.result", "sent_as": "tool.result", "span": false,
                "received": 11, "points": 7, "incomplete": 0, "span_events": 2, "records": 0,
                "dropped": {"filtered": 4}, "left_off": ["key_3", "key_4"], "more_left_off": false,
                "measurements": [
                    {"measurement": "bytes", "instrument": "snakepit.python.tool.result.bytes", "kind": "histogram",
                     "unit": "By", "boundaries": [64.0, 256.0], "attributes": ["tool"], "because": "bytes",
                     "measured": 7, "not_finite": 2, "not_numbers": 0, "ruled_out": 0, "repeated": 0, "lost": {"conflict": 6}},
                    {"measurement": "pid", "because": "never a metric: an identifier",
                     "measured": 0, "not_finite": 2, "not_numbers": 0, "ruled_out": 0, "repeated": 0, "lost": {}},
                ],
            }]})
        );
    }
    let (_, all) = bridge.get_json("/api/v1/events?limit=1").await;
    assert_eq!((&all["total"], &all["events"][0]["sent_as"]), (&json!(2), &json!("b")));
    assert_eq!(bridge.get_json("/api/v1/events?event=unknown").await.1, json!({"events": [], "total": 0}));
}

/// A shard hands over no more than is asked for, and the answer is the same as if it had handed over all.
#[tokio::test]
async fn a_limited_answer_about_events_is_the_beginning_of_the_whole() {
    let shard = |reports: &[(&str, u64)]| Shard {
        events: reports.iter().map(|(event, measured)| event_report(event, *measured)).collect(),
        ..Shard::default()
    };
    let bridge = Bridge::start(vec![
        shard(&[("a", 1), ("c", 1), ("d", 1)]),
        shard(&[("b", 1), ("c", 2), ("d", 4)]),
        shard(&[("d", 1), ("e", 1)]),
    ]);
    let (_, whole) = bridge.get_json("/api/v1/events").await;
    assert_eq!((&whole["total"], &whole["events"][2]["points"]), (&json!(5), &json!(3)));
    for limit in 1..=5 {
        let (_, answer) = bridge.get_json(&format!("/api/v1/events?limit={limit}")).await;
        assert_eq!(answer["total"], 5, "{limit}");
        assert_eq!(answer["events"].as_array().unwrap(), &whole["events"].as_array().unwrap()[..limit]);
    }
}

#[tokio::test]
async fn a_question_about_events_that_cannot_be_understood_names_the_parameter() {
    let bridge = Bridge::start(vec![Shard::default()]);
    for (query, named) in [("limit=0", "limit"), ("limit=many", "limit"), ("evnt=x", "`evnt`")] {
        let response = bridge.get(&format!("/api/v1/events?{query}")).await;
        let problem = problem(response, 400).await;
        assert!(problem.to_string().contains(named), "{query}: {problem}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------

fn event_report(event: &str, measured: u64) -> EventReport {
    let bytes = MeasurementReport {
        measurement: "bytes".into(),
        instrument: Some(Arc::new(Instrument {
            name: format!("snakepit.python.{event}.bytes").into(),
            unit: "By".into(),
            description: "".into(),
            kind: Kind::Histogram { boundaries: [64.0, 256.0].into() },
        })),
        because: "bytes".to_owned(),
        attributes: vec!["tool".into()],
        measured,
        not_finite: 1,
        not_numbers: 0,
        ruled_out: 0,
        repeated: 0,
        lost: Lost { conflict: 3, ..Lost::default() },
    };
    let pid = MeasurementReport {
        measurement: "pid".into(),
        instrument: None,
        because: "never a metric: an identifier".to_owned(),
        attributes: Vec::new(),
        measured: 0,
        lost: Lost::default(),
        ..bytes
    };
    let mut dropped = [0; DropReason::ALL.len()];
    dropped[DropReason::Filtered.index()] = 2;
    EventReport {
        event: format!("snakepit.python.{event}").into(),
        sent_as: event.into(),
        is_span: false,
        received: measured + 2,
        points: measured,
        incomplete: 0,
        span_events: 1,
        records: 0,
        dropped,
        becomes: vec![bytes, pid],
        left_off: vec![format!("key_{measured}").into()],
        has_more_left_off: false,
    }
}
