//! Whole streams, as emitters send them, in any order within the reorder window: what is made of them is the truth.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use snakepit_otel_bridge::engine::Span;

use super::bench_worker::{Bench, EPOCH, MS, Sent, event, start, stop, text, times};
use super::laws::config;

/// How much later than it was sent an event may arrive: less than the reorder window.
const MOST_DELAY_MS: i64 = 480;

/// How a span is laid out: what is before it, within it and after it in its parent.
#[derive(Debug, Clone)]
struct Layout {
    operation: usize,
    gap_ms: i64,
    has_note: bool,
    has_monotonic: bool,
    is_error: bool,
    children: Vec<Layout>,
}

/// A span as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct True {
    correlation_id: &'static str,
    operation: &'static str,
    began: i64,
    duration: i64,
    /// The operation and the beginning of its parent.
    parent: Option<(&'static str, i64)>,
    notes: Vec<i64>,
}

const OPERATIONS: [&str; 5] = ["request", "tool", "model", "tensor", "cache"];
const CORRELATION_IDS: [&str; 3] = ["c", "d", "4bf92f3577b34da6a3ce929d0e0e4736"];

fn layout() -> impl Strategy<Value = Layout> {
    let leaf = (0..OPERATIONS.len(), 0i64..40, any::<[bool; 3]>()).prop_map(|(operation, gap_ms, flags)| {
        let [has_note, has_monotonic, is_error] = flags;
        Layout { operation, gap_ms, has_note, has_monotonic, is_error, children: Vec::new() }
    });
    leaf.prop_recursive(4, 24, 4, |inner| {
        (0..OPERATIONS.len(), 0i64..40, any::<[bool; 3]>(), prop::collection::vec(inner, 0..4)).prop_map(
            |(operation, gap_ms, [has_note, has_monotonic, is_error], children)| Layout {
                operation,
                gap_ms,
                has_note,
                has_monotonic,
                is_error,
                children,
            },
        )
    })
}

/// The spans of one correlation id, and what its worker sends.
#[derive(Debug, Default)]
struct Stream {
    spans: Vec<True>,
    events: Vec<Sent>,
    /// Every time is used once, so that no two spans share one.
    clock: i64,
}

impl Stream {
    fn tick(&mut self, gap_ms: i64) -> i64 {
        self.clock += (1 + gap_ms) * MS;
        self.clock
    }

    fn lay_out(&mut self, correlation_id: &'static str, layout: &Layout) {
        let operation = OPERATIONS[layout.operation];
        let began = self.tick(layout.gap_ms);
        for child in &layout.children {
            self.lay_out(correlation_id, child);
        }
        let mut notes = Vec::new();
        if layout.has_note {
            let at = self.tick(0);
            notes.push(at);
            self.events.push(event("progress.note", at).corr(correlation_id).int("step", at));
        }
        let duration = self.tick(layout.gap_ms / 2) - began;
        let (mut from, mut to) = (start(operation, began), stop(operation, began, duration));
        if layout.is_error {
            let last = to.parts.len() - 1;
            "exception".clone_into(&mut to.parts[last]);
            to = to.meta("error_type", "ValueError");
        }
        if layout.has_monotonic {
            (from, to) = (from.int("monotonic_time", began), to.int("monotonic_time", began + duration));
        }
        self.events.extend([from.corr(correlation_id), to.corr(correlation_id)]);
        self.spans.push(True { correlation_id, operation, began, duration, parent: None, notes });
    }

    /// The parent of each span, by the rule: of the spans of another operation that contain it, the one that starts
    /// latest and has no twin among them, because twins count as siblings.
    fn find_parents(&mut self) {
        let all = self.spans.clone();
        for span in &mut self.spans {
            let contains = |other: &&True| {
                other.operation != span.operation
                    && other.began < span.began
                    && other.began + other.duration > span.began + span.duration
            };
            let around: Vec<_> = all.iter().filter(contains).collect();
            let has_twin =
                |one: &&&True| around.iter().filter(|other| other.operation == one.operation).count() > 1;
            let parent = around.iter().filter(|one| !has_twin(one)).max_by_key(|other| other.began);
            span.parent = parent.map(|parent| (parent.operation, parent.began));
        }
    }
}

/// Several correlation ids at the same time.
fn streams() -> impl Strategy<Value = (Vec<True>, Vec<Sent>)> {
    let roots = || prop::collection::vec(layout(), 1..4);
    prop::collection::vec(roots(), 1..=CORRELATION_IDS.len()).prop_map(|streams| {
        let (mut spans, mut events) = (Vec::new(), Vec::new());
        for (correlation_id, roots) in CORRELATION_IDS.into_iter().zip(&streams) {
            let mut stream = Stream::default();
            roots.iter().for_each(|root| stream.lay_out(correlation_id, root));
            stream.find_parents();
            spans.append(&mut stream.spans);
            events.append(&mut stream.events);
        }
        (spans, events)
    })
}

/// When the events arrive, of as many as there may be.
fn delays() -> impl Strategy<Value = Vec<i64>> {
    let delay = prop_oneof![3 => 0..MOST_DELAY_MS, 1 => Just(0), 1 => Just(MOST_DELAY_MS)];
    prop::collection::vec(delay, 400)
}

fn play(events: &[Sent], delays: &[i64]) -> Bench {
    let delays = delays.iter().cycle();
    let mut arrivals: Vec<_> =
        events.iter().zip(delays).map(|(sent, delay)| (sent.timestamp - EPOCH + delay * MS, sent)).collect();
    arrivals.sort_by_key(|(at, _)| *at);
    let mut bench = Bench::new();
    for (at, sent) in arrivals {
        bench.arrive_at(at).send(sent);
    }
    bench.settled();
    bench
}

/// What was made, in the words of the truth.
fn made(spans: &[Span]) -> Vec<True> {
    let name = |span: &Span| {
        let own = span.name.trim_start_matches("snakepit.python.");
        OPERATIONS.into_iter().find(|operation| *operation == own).expect("an operation")
    };
    let mut made: Vec<_> = spans
        .iter()
        .map(|span| {
            let correlation_id = text(span, "snakepit.correlation_id").expect("a correlation id");
            let parent = span.parent_span_id.map(|id| {
                let parent = spans.iter().find(|other| other.span_id == id).expect("a parent");
                assert_eq!(parent.trace_id, span.trace_id);
                (name(parent), times(parent).0)
            });
            let own_notes = span.events.iter().filter(|event| &*event.name != "exception");
            True {
                correlation_id: CORRELATION_IDS
                    .into_iter()
                    .find(|id| *id == correlation_id)
                    .expect("one of ours"),
                operation: name(span),
                began: times(span).0,
                duration: times(span).1,
                parent,
                notes: own_notes.map(|event| event.time.0 - EPOCH).collect(),
            }
        })
        .collect();
    made.sort();
    made
}

proptest! {
    #![proptest_config(config())]

    /// A stream with each event once, in any order within the reorder window, gives exactly the true spans, parents and
    /// span events, and one trace for each correlation id.
    #[test]
    fn a_whole_stream_in_any_order_gives_the_truth((mut truth, events) in streams(), delays in delays()) {
        let bench = play(&events, &delays);
        truth.sort();
        prop_assert_eq!(made(&bench.spans), truth);
        let mut traces: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for span in &bench.spans {
            let correlation_id = text(span, "snakepit.correlation_id").expect("a correlation id");
            traces.entry(correlation_id).or_default().insert(span.trace_id);
        }
        prop_assert!(traces.values().all(|traces| traces.len() == 1));
        let ledger = bench.ledger();
        prop_assert_eq!((ledger.rebuilt, ledger.incomplete, ledger.dropped_total()), (0, 0, 0));
    }

    /// Events of different keys may change places: nothing changes but the order in which spans come.
    #[test]
    fn the_order_among_keys_changes_only_the_order_of_spans(
        (_, events) in streams(),
        delays in delays(),
        others in delays(),
    ) {
        let (mut first, mut second) = (play(&events, &delays), play(&events, &others));
        for bench in [&mut first, &mut second] {
            bench.spans.sort_by_key(|span| span.span_id);
        }
        prop_assert_eq!(first.spans, second.spans);
        let times_only = |mut ledger: snakepit_otel_bridge::engine::EventLedger| {
            ledger.notes.reordered = 0;
            ledger
        };
        prop_assert_eq!(times_only(first.engine.ledger()), times_only(second.engine.ledger()));
    }
}

/// The search for the truth finds what it should: a check of the check.
#[test]
fn the_truth_has_parents_and_notes() {
    let leaf = |operation, children| Layout {
        operation,
        gap_ms: 1,
        has_note: true,
        has_monotonic: false,
        is_error: false,
        children,
    };
    let mut stream = Stream::default();
    stream.lay_out("c", &leaf(0, vec![leaf(1, vec![leaf(1, Vec::new())]), leaf(2, Vec::new())]));
    stream.find_parents();
    let parents: Vec<_> =
        stream.spans.iter().map(|span| span.parent.map(|(operation, _)| operation)).collect();
    assert_eq!(parents, [Some("request"), Some("request"), Some("request"), None]);
    let bench = play(&stream.events, &[0]);
    stream.spans.sort();
    assert_eq!(made(&bench.spans), stream.spans);
}
