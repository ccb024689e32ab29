//! What the simulated workers do: a few chapters, each a call with calls inside it, and what goes wrong with it.
//!
//! Pure: a chapter becomes a timeline of moments, and a moment becomes an event once somebody says what time it is. The
//! events are those that the design document's emitter sends: `system_time` and `duration` among the measurements, the
//! correlation id in a span's metadata, and in its own field of a standalone event.

use std::time::Duration;

use crate::proto::telemetry_value::Value;
use crate::proto::{TelemetryEvent, TelemetryValue};

/// One request, as its workers live through it.
#[derive(Debug)]
pub(super) struct Chapter {
    /// What there is to see, for the person who looks on.
    pub(super) caption: &'static str,
    /// What happens.
    pub(super) call: Call,
    /// In which order its events go out.
    pub(super) delivery: Delivery,
}

/// In which order the events of a chapter are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Each as it happens.
    AsTheyHappen,
    /// All together when the request is over, the last one first.
    Backwards,
}

/// A call: `<operation>.start`, what happens inside it, `<operation>.stop` or `.exception`.
#[derive(Debug)]
pub(super) struct Call {
    /// Without its phase: `tool.execution`.
    pub(super) operation: &'static str,
    /// Milliseconds after the chapter's begin.
    from_ms: u64,
    /// `None`: it never ends.
    until_ms: Option<u64>,
    metadata: &'static [(&'static str, &'static str)],
    /// Of its end.
    measurements: &'static [(&'static str, i64)],
    raises: Option<&'static Raised>,
    /// Standalone events that it emits just before it ends.
    emits: &'static [Emitted],
    /// How many times its start is sent.
    start_copies: u8,
    /// How many times its end is sent.
    end_copies: u8,
    inner: &'static [Self],
}

/// A standalone event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Emitted {
    name: &'static str,
    measurements: &'static [(&'static str, i64)],
    metadata: &'static [(&'static str, &'static str)],
    /// It says which request it belongs to.
    is_of_request: bool,
}

/// A Python exception.
#[derive(Debug)]
pub(super) struct Raised {
    error_type: &'static str,
    message: &'static str,
    traceback: &'static str,
}

/// Something that happens at one instant of a chapter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// After the chapter's begin.
    pub(super) at: Duration,
    /// The number of its call within the chapter.
    pub(super) call_number: usize,
    /// How many times its event is sent.
    pub(super) copies: u8,
    pub(super) kind: MomentKind,
    call: &'static Call,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MomentKind {
    /// The call begins.
    Start,
    /// The call emits a standalone event.
    Emit(&'static Emitted),
    /// The call ends, or raises.
    End,
}

/// The times of an event, as its worker reads them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamps {
    /// Read when it happens; goes into `system_time`.
    pub(super) system_time_ns: i64,
    /// Read when the event is built; goes into `timestamp_ns`.
    pub(super) timestamp_ns: i64,
    /// Since the call began, on the monotonic clock; only of an end.
    pub(super) duration_ns: i64,
}

// ---------------------------------------------------------------------------------------------------------------------

/// The first call that is shown, with its raw events.
pub(super) static NESTED: Chapter = Chapter {
    caption: "calls inside a call: nobody says which is inside which, the bridge infers it from the times",
    delivery: Delivery::AsTheyHappen,
    call: Call {
        metadata: &[("tool", "summarize")],
        emits: &[
            of_request("tool.result_size", &[("bytes", 1824)], &[("tool", "summarize")]),
            memory(&[("rss_bytes", 812 << 20)]),
        ],
        inner: &[
            Call { metadata: &[("cache", "prompts")], emits: &[CACHE_MISS], ..call("cache.lookup", 6, 21) },
            Call {
                metadata: &[("model", "pegasus-large")],
                emits: &[of_request(
                    "model.inference",
                    &[("tokens", 512), ("latency_ms", 274)],
                    &[("model", "pegasus-large")],
                )],
                inner: &[
                    Call { measurements: &[("tokens", 512)], ..call("tokenizer.encode", 30, 62) },
                    Call { metadata: &[("device", "cuda:0")], ..call("model.forward", 66, 291) },
                ],
                ..call("inference", 26, 306)
            },
        ],
        ..call("tool.execution", 0, 320)
    },
};

/// The other chapters of a round, in the order in which they are played.
pub(super) static ROUND: [Chapter; 4] = [
    Chapter {
        caption: "concurrency: three calls of one operation at once, and each stop finds its own start",
        delivery: Delivery::AsTheyHappen,
        call: Call {
            metadata: &[("tool", "embed_batch")],
            emits: &[
                of_request("tool.result_size", &[("bytes", 98_304)], &[("tool", "embed_batch")]),
                memory(&[("rss_bytes", 871 << 20)]),
            ],
            inner: &[Call {
                metadata: &[("model", "minilm")],
                emits: &[of_request(
                    "model.inference",
                    &[("tokens", 96), ("latency_ms", 205)],
                    &[("model", "minilm")],
                )],
                inner: &[
                    Call { metadata: &[("batch", "0")], ..call("model.forward", 14, 151) },
                    Call { metadata: &[("batch", "1")], ..call("model.forward", 17, 208) },
                    Call { metadata: &[("batch", "2")], ..call("model.forward", 20, 96) },
                ],
                ..call("inference", 9, 220)
            }],
            ..call("tool.execution", 0, 233)
        },
    },
    Chapter {
        caption: "an exception on its way up: status, type, message and traceback are on both spans",
        delivery: Delivery::AsTheyHappen,
        call: Call {
            metadata: &[("tool", "translate")],
            raises: Some(&TOO_LONG),
            inner: &[
                call("tokenizer.encode", 8, 47),
                Call {
                    metadata: &[("model", "opus-mt")],
                    raises: Some(&TOO_LONG),
                    ..call("inference", 52, 139)
                },
            ],
            ..call("tool.execution", 0, 143)
        },
    },
    Chapter {
        caption: "disorder: every event of this one arrived in reverse order, stops before their starts",
        delivery: Delivery::Backwards,
        call: Call {
            metadata: &[("tool", "classify")],
            emits: &[memory(&[("rss_bytes", 866 << 20)])],
            inner: &[
                Call { emits: &[CACHE_HIT], ..call("cache.lookup", 5, 19) },
                Call {
                    inner: &[call("tokenizer.encode", 27, 49), call("model.forward", 53, 168)],
                    ..call("inference", 24, 180)
                },
            ],
            ..call("tool.execution", 0, 190)
        },
    },
    Chapter {
        caption: "loss: the start of inference never arrived, and the stop of cache.lookup arrived twice",
        delivery: Delivery::AsTheyHappen,
        call: Call {
            metadata: &[("tool", "rerank")],
            inner: &[
                Call { end_copies: 2, ..call("cache.lookup", 5, 24) },
                Call { start_copies: 0, ..call("inference", 30, 148) },
            ],
            ..call("tool.execution", 0, 160)
        },
    },
];

/// Played on two workers at once, under one correlation id.
pub(super) static SHARED: [Chapter; 2] = [
    Chapter {
        caption: "one correlation id on two workers: the trace id follows from it, so it is one trace",
        delivery: Delivery::AsTheyHappen,
        call: Call {
            metadata: &[("tool", "search")],
            inner: &[call("model.forward", 9, 118)],
            ..call("tool.execution", 0, 131)
        },
    },
    Chapter {
        caption: "",
        delivery: Delivery::AsTheyHappen,
        call: Call {
            metadata: &[("tool", "search_images")],
            inner: &[call("model.forward", 52, 197)],
            ..call("tool.execution", 43, 204)
        },
    },
];

/// The worker that plays it dies before anything of it ends.
pub(super) static DEATH: Chapter = Chapter {
    caption: "its worker died in the middle: after a grace period the bridge closes what was open",
    delivery: Delivery::AsTheyHappen,
    call: Call {
        until_ms: None,
        metadata: &[("tool", "fine_tune")],
        inner: &[
            call("tokenizer.encode", 7, 68),
            Call { until_ms: None, metadata: &[("model", "llama-8b")], ..call("inference", 75, 0) },
        ],
        ..call("tool.execution", 0, 0)
    },
};

/// Begins, and hangs.
pub(super) static STUCK: Chapter = Chapter {
    caption: "the calls around these are stuck: they begin, and do not end",
    delivery: Delivery::AsTheyHappen,
    call: Call {
        until_ms: None,
        metadata: &[("tool", "fetch_page")],
        inner: &[
            call("cache.lookup", 4, 18),
            Call { until_ms: None, metadata: &[("host", "slow.example")], ..call("http.request", 25, 0) },
        ],
        ..call("tool.execution", 0, 0)
    },
};

static TOO_LONG: Raised = Raised {
    error_type: "ValueError",
    message: "9216 tokens, the limit is 8192",
    traceback: "Traceback (most recent call last):\n  File \"tools/translate.py\", line 41, in translate\n    \
                output = model.generate(**inputs)\nValueError: 9216 tokens, the limit is 8192",
};

const CACHE_HIT: Emitted = of_request("cache.hit", &[], &[]);
const CACHE_MISS: Emitted = of_request("cache.miss", &[], &[]);

/// An event within the request of its call.
const fn of_request(
    name: &'static str,
    measurements: &'static [(&'static str, i64)],
    metadata: &'static [(&'static str, &'static str)],
) -> Emitted {
    Emitted { name, measurements, metadata, is_of_request: true }
}

/// What a worker samples of itself, whatever request it is at.
const fn memory(measurements: &'static [(&'static str, i64)]) -> Emitted {
    Emitted { name: "memory.sampled", measurements, metadata: &[], is_of_request: false }
}

/// A call that begins and ends, and nothing else.
const fn call(operation: &'static str, from_ms: u64, until_ms: u64) -> Call {
    Call {
        operation,
        from_ms,
        until_ms: Some(until_ms),
        metadata: &[],
        measurements: &[],
        raises: None,
        emits: &[],
        start_copies: 1,
        end_copies: 1,
        inner: &[],
    }
}

// ---------------------------------------------------------------------------------------------------------------------

impl Chapter {
    /// Everything that happens, in order.
    pub(super) fn timeline(&'static self) -> Vec<Moment> {
        let mut moments = Vec::new();
        let mut calls = vec![&self.call];
        let mut call_number = 0;
        while let Some(call) = calls.pop() {
            let moment = |at_ms, copies, kind| {
                let at = Duration::from_millis(at_ms);
                Moment { at, call_number, copies, kind, call }
            };
            moments.push(moment(call.from_ms, call.start_copies, MomentKind::Start));
            if let Some(until_ms) = call.until_ms {
                let emitted = call.emits.iter();
                moments.extend(emitted.map(|emitted| moment(until_ms, 1, MomentKind::Emit(emitted))));
                moments.push(moment(until_ms, call.end_copies, MomentKind::End));
            }
            calls.extend(call.inner);
            call_number += 1;
        }
        // Stable: a call emits before it ends.
        moments.sort_by_key(|moment| moment.at);
        moments
    }
}

impl Moment {
    /// The dotted name of its event, without the prefix.
    pub(super) fn name(&self) -> String {
        match (self.kind, self.call.raises) {
            (MomentKind::Start, _) => format!("{}.start", self.call.operation),
            (MomentKind::End, None) => format!("{}.stop", self.call.operation),
            (MomentKind::End, Some(_)) => format!("{}.exception", self.call.operation),
            (MomentKind::Emit(emitted), _) => emitted.name.to_owned(),
        }
    }

    /// The event that is sent.
    pub(super) fn event(&self, correlation_id: &str, stamps: Stamps) -> TelemetryEvent {
        let mut event = event(&self.name(), stamps.timestamp_ns);
        if let MomentKind::Emit(emitted) = self.kind {
            emitted.measurements.iter().for_each(|(key, value)| measure(&mut event, key, *value));
            emitted.metadata.iter().for_each(|(key, value)| tell(&mut event, key, value));
            if emitted.is_of_request {
                event.correlation_id = correlation_id.to_owned();
            }
            return event;
        }
        measure(&mut event, "system_time", stamps.system_time_ns);
        if self.kind == MomentKind::End {
            measure(&mut event, "duration", stamps.duration_ns);
            self.call.measurements.iter().for_each(|(key, value)| measure(&mut event, key, *value));
        }
        tell(&mut event, "correlation_id", correlation_id);
        self.call.metadata.iter().for_each(|(key, value)| tell(&mut event, key, value));
        match (self.kind, self.call.raises) {
            (MomentKind::Start | MomentKind::Emit(_), _) => {}
            (MomentKind::End, None) => tell(&mut event, "result", "success"),
            (MomentKind::End, Some(raised)) => {
                tell(&mut event, "result", "error");
                tell(&mut event, "error_type", raised.error_type);
                tell(&mut event, "error_message", raised.message);
                tell(&mut event, "traceback", raised.traceback);
            }
        }
        event
    }
}

/// What the design document's worker sends first.
pub(super) fn ready(pid: u32, now_ns: i64) -> TelemetryEvent {
    let mut event = event("worker.ready", now_ns);
    measure(&mut event, "system_time", now_ns);
    tell(&mut event, "pid", &pid.to_string());
    event
}

fn event(name: &str, timestamp_ns: i64) -> TelemetryEvent {
    let event_parts = name.split('.').map(str::to_owned).collect();
    TelemetryEvent { event_parts, timestamp_ns, ..TelemetryEvent::default() }
}

fn measure(event: &mut TelemetryEvent, key: &str, value: i64) {
    let value = TelemetryValue { value: Some(Value::IntValue(value)) };
    event.measurements.insert(key.to_owned(), value);
}

fn tell(event: &mut TelemetryEvent, key: &str, value: &str) {
    event.metadata.insert(key.to_owned(), value.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chapters() -> impl Iterator<Item = &'static Chapter> {
        [&NESTED, &DEATH, &STUCK].into_iter().chain(&ROUND).chain(&SHARED)
    }

    fn names(chapter: &'static Chapter) -> Vec<String> {
        chapter.timeline().iter().map(Moment::name).collect()
    }

    #[test]
    fn a_timeline_tells_what_happens_in_order() {
        assert_eq!(
            names(&NESTED),
            [
                "tool.execution.start",
                "cache.lookup.start",
                "cache.miss",
                "cache.lookup.stop",
                "inference.start",
                "tokenizer.encode.start",
                "tokenizer.encode.stop",
                "model.forward.start",
                "model.forward.stop",
                "model.inference",
                "inference.stop",
                "tool.result_size",
                "memory.sampled",
                "tool.execution.stop",
            ]
        );
        assert_eq!(
            names(&STUCK),
            ["tool.execution.start", "cache.lookup.start", "cache.lookup.stop", "http.request.start"]
        );
    }

    #[test]
    fn captions_fit_a_narrow_terminal() {
        for chapter in chapters() {
            assert!(chapter.caption.chars().count() <= 92, "{}", chapter.caption);
        }
    }

    /// Law: within a chapter every call lies within the one around it, so that the tree that is shown is the one that
    /// was meant.
    #[test]
    fn calls_lie_within_the_call_around_them() {
        fn check(outer: &Call) {
            for inner in outer.inner {
                assert!(outer.from_ms < inner.from_ms, "{} in {}", inner.operation, outer.operation);
                if let Some(outer_until) = outer.until_ms {
                    let until = inner.until_ms.expect("a call that ends has no endless call in it");
                    assert!(until < outer_until, "{} in {}", inner.operation, outer.operation);
                    assert!(inner.from_ms < until, "{}", inner.operation);
                }
                check(inner);
            }
        }
        chapters().for_each(|chapter| check(&chapter.call));
    }

    #[test]
    fn events_are_those_of_the_design_documents_emitter() {
        let stamps = Stamps { system_time_ns: 1_000, timestamp_ns: 1_200, duration_ns: 700 };
        let failing = &ROUND[1];
        let moment = failing.timeline().into_iter().next_back().expect("a chapter has moments");
        let event = moment.event("request-1", stamps);
        assert_eq!(event.event_parts, ["tool", "execution", "exception"]);
        assert_eq!(event.timestamp_ns, 1_200);
        assert_eq!(event.correlation_id, "");
        let metadata: Vec<_> =
            event.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).take(4).collect();
        assert_eq!(
            metadata,
            [
                ("correlation_id", "request-1"),
                ("error_message", "9216 tokens, the limit is 8192"),
                ("error_type", "ValueError"),
                ("result", "error"),
            ]
        );
        let measurements: Vec<_> = event.measurements.into_iter().collect();
        let int = |value| TelemetryValue { value: Some(Value::IntValue(value)) };
        assert_eq!(measurements, [("duration".to_owned(), int(700)), ("system_time".to_owned(), int(1_000))]);
    }

    #[test]
    fn a_standalone_event_has_its_correlation_id_in_its_own_field() {
        let stamps = Stamps { system_time_ns: 1_000, timestamp_ns: 1_200, duration_ns: 0 };
        let moments = NESTED.timeline();
        let event = |name: &str| {
            let moment = moments.iter().find(|moment| moment.name() == name).expect("it is emitted");
            moment.event("request-1", stamps)
        };
        let size = event("tool.result_size");
        assert_eq!((size.correlation_id.as_str(), size.metadata.len()), ("request-1", 1));
        assert_eq!(event("memory.sampled").correlation_id, "", "it is of the worker");
    }
}
