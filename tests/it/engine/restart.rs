//! What a restart keeps: each row is a test with the row's meaning as its name. That all of it together is exact is a law
//! in `restart_laws.rs`.

use std::sync::Arc;
use std::time::Duration;

use snakepit_otel_bridge::control::policy::Policy;
use snakepit_otel_bridge::drops::DropReason;
use snakepit_otel_bridge::engine::span::Status;
use snakepit_otel_bridge::engine::{Engine, Input, Output, RESTORED_GRACE, Settings, StreamId};
use snakepit_otel_bridge::store::ShardCheckpoint;
use snakepit_otel_bridge::worker::{Identity, WorkerKey};

use super::bench_worker::{Bench, EPOCH, MS, SECOND, STREAM, US, event, key, start, stop, text, times};

fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger().dropped[reason.index()]
}

#[test]
fn an_open_start_pairs_with_its_end() {
    let sent = [
        start("a", 0).meta("tool", "fetch").int("queue_depth", 3).corr("c"),
        stop("a", 0, 5 * MS).meta("result", "error").meta("error_message", "boom").corr("c"),
    ];
    let mut without = Bench::new();
    without.send(&sent[0]).send(&sent[1]);
    let mut bench = Bench::new();
    bench.send(&sent[0]).restart();
    assert_eq!(bench.ledger().pending, 1);
    bench.send(&sent[1]);
    assert_eq!(bench.only_span(), without.only_span());
    assert_eq!(bench.ledger(), without.ledger());
}

#[test]
fn twins_pair_as_exactly_as_without_a_restart() {
    let mut bench = Bench::new();
    for twin in 0..8 {
        bench.send(&start("a", twin * 100 * US).meta("start", &twin.to_string()));
    }
    bench.restart();
    for twin in (0..8).rev() {
        bench.send(&stop("a", twin * 100 * US, 5 * MS).meta("end", &twin.to_string()));
    }
    assert_eq!(bench.settled().len(), 8);
    assert!(bench.spans.iter().all(|span| text(span, "start") == text(span, "end")), "{:#?}", bench.spans);
}

#[test]
fn a_waiting_end_is_decided_when_its_window_is_over() {
    let mut bench = Bench::new();
    bench.send(&stop("a", 0, 5 * MS)).pass(Duration::from_millis(300));
    bench.restart();
    bench.pass(Duration::from_millis(199));
    assert_eq!(bench.ledger().rebuilt, 0);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.ledger().rebuilt, 1);
}

#[test]
fn a_waiting_end_takes_the_start_that_comes_after_the_restart() {
    let mut bench = Bench::new();
    bench.send(&stop("a", 0, 5 * MS)).restart();
    bench.pass(Duration::from_millis(1)).send(&start("a", 0));
    assert_eq!(times(&bench.only_span()), (0, 5 * MS));
    assert_eq!((bench.ledger().paired, bench.ledger().notes.reordered), (2, 1));
}

#[test]
fn a_duplicate_is_recognised() {
    let (from, to, open) = (start("a", 0), stop("a", 0, MS), start("b", MS));
    let mut bench = Bench::new();
    bench.send(&from).send(&to).send(&open).restart();
    bench.send(&from).send(&to).send(&open);
    assert_eq!(dropped(&bench, DropReason::DuplicateStart), 2);
    assert_eq!(dropped(&bench, DropReason::DuplicateEnd), 1);
    assert_eq!(bench.settled().len(), 1);
}

#[test]
fn an_identity_is_used_once() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).identity(1, 2, None)).restart();
    bench.send(&start("a", 3 * SECOND).identity(1, 2, None));
    assert_eq!(dropped(&bench, DropReason::DuplicateStart), 1);
    bench.send(&stop("a", 0, MS).identity(1, 2, None)).restart();
    bench.send(&stop("a", 0, 2 * MS).identity(1, 2, None));
    assert_eq!(dropped(&bench, DropReason::DuplicateEnd), 1);
    assert_eq!(bench.settled().len(), 1);
}

#[test]
fn a_late_end_is_linked_to_the_span_that_was_closed_without_it() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).corr("c")).pass(Duration::from_secs(601)).restart();
    let closed = bench.span("a").clone();
    bench.spans.clear();
    bench.send(&stop("a", 0, 700 * SECOND).corr("c"));
    let late = bench.only_span();
    assert_eq!(late.trace_id, closed.trace_id);
    assert_eq!(late.links[0].span_id, closed.span_id);
    assert_ne!(late.span_id, closed.span_id);
    assert_eq!(bench.ledger().notes.late_ends, 1);
}

#[test]
fn a_held_child_finds_its_parent() {
    let mut bench = Bench::new();
    bench.send(&start("outer", 0).corr("c")).send(&start("inner", MS).corr("c"));
    bench.send(&stop("inner", MS, 2 * MS).corr("c")).restart();
    bench.send(&stop("outer", 0, 9 * MS).corr("c"));
    bench.settled();
    assert_eq!(bench.span("inner").parent_span_id, Some(bench.span("outer").span_id));
}

#[test]
fn a_child_finds_the_parent_that_was_exported_before() {
    let mut bench = Bench::new();
    bench.send(&start("outer", 0).corr("c")).send(&stop("outer", 0, 9 * MS).corr("c"));
    bench.pass(Duration::from_millis(500)).restart();
    assert_eq!(bench.spans.len(), 1);
    bench.send(&stop("inner", MS, 2 * MS).corr("c"));
    bench.settled();
    assert_eq!(bench.span("inner").parent_span_id, Some(bench.span("outer").span_id));
}

/// A group of many intervals is searched in another way than one of few, and stays so while it shrinks; nobody can tell.
#[test]
fn a_group_that_was_large_nests_as_before() {
    let nested = |is_restarted: bool| {
        let mut bench = Bench::new();
        bench.send(&start("outer", 0).corr("c"));
        for number in 1..40 {
            let operation = format!("twin_{number}");
            bench.send(&start(&operation, number * MS).corr("c"));
            if number % 3 > 0 {
                bench.send(&stop(&operation, number * MS, 100 * US).corr("c"));
            }
        }
        bench.pass(Duration::from_secs(2));
        if is_restarted {
            bench.restart();
        }
        for number in 40..60 {
            bench.send(&start("inner", number * MS).corr("c"));
            bench.send(&stop("inner", number * MS, 10 * MS).corr("c"));
        }
        bench.handle(Input::Shutdown);
        bench.spans
    };
    assert_eq!(nested(true), nested(false));
}

#[test]
fn an_event_that_waits_joins_its_span() {
    let mut bench = Bench::new();
    bench.send(&event("progress", 2 * MS).int("done", 1).corr("c")).restart();
    bench.send(&start("a", 0).corr("c")).send(&stop("a", 0, 9 * MS).corr("c"));
    assert_eq!(bench.only_span().events.len(), 1);
    assert_eq!(bench.ledger().standalone, 1);
}

#[test]
fn an_open_span_keeps_its_events() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0).corr("c")).checkpoint();
    bench.send(&event("progress", 2 * MS).int("done", 1).corr("c")).pass(Duration::from_secs(1));
    bench.restart().send(&stop("a", 0, 2 * SECOND).corr("c"));
    assert_eq!(bench.only_span().events.len(), 1);
}

/// Residuals of 20 us are beyond what a match is made of at once until they are what the worker usually shows.
#[test]
fn a_learned_tolerance_is_still_there() {
    let pair = |bench: &mut Bench, number: i64| {
        let at = number * 10 * MS;
        let late = event("a.stop", at + MS + 20 * US).int("duration", MS);
        bench.arrive_at(at).send(&start("a", at)).send(&late);
    };
    let mut fresh = Bench::new();
    pair(&mut fresh, 0);
    assert_eq!(fresh.ledger().paired, 0, "not at once");
    let mut bench = Bench::new();
    (0..100).for_each(|number| pair(&mut bench, number));
    bench.pass(Duration::from_secs(2)).restart();
    let before = bench.ledger().paired;
    pair(&mut bench, 1_000);
    assert_eq!(bench.ledger().paired, before + 2, "at once");
}

#[test]
fn a_start_stays_uncertain() {
    let mut bench = Bench::sampling(0.5);
    bench.send(&start("a", 0)).restart();
    bench.pass(Duration::from_secs(601));
    assert_eq!(dropped(&bench, DropReason::SampledHalf), 1);
    assert!(bench.spans.is_empty());
}

#[test]
fn ordinals_go_on() {
    let twin = |note: &str| start("a", 0).meta("note", note);
    let mut bench = Bench::new();
    bench.send(&twin("first")).send(&twin("second")).restart();
    bench.send(&twin("third"));
    bench.handle(Input::Shutdown);
    let mut ids: Vec<_> = bench.spans.iter().map(|span| span.span_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn what_is_shown_of_a_worker_stays_as_it_was_exported() {
    let mut bench = Bench::with(|_| {}, |identity, _| identity.id_by_header = false);
    bench.send(&start("a", 0).meta("worker_id", "w7")).send(&stop("a", 0, MS));
    bench.pass(Duration::from_secs(2)).restart();
    bench.send(&start("b", SECOND).meta("worker_id", "another")).send(&stop("b", SECOND, MS));
    bench.settled();
    assert_eq!(&*bench.span("a").source.worker_id, "w7");
    assert_eq!(bench.span("a").source, bench.span("b").source);
}

#[test]
fn a_constant_correlation_id_is_warned_of_once() {
    let mut bench = Bench::new();
    for number in 0..10_001 {
        bench.send(&start("a", number).corr("constant")).send(&stop("a", number, 10 * US).corr("constant"));
        if number == 10_000 {
            assert!(matches!(bench.others[..], [Output::Warning(_)]), "{:?}", bench.others);
        }
    }
    bench.restart().send(&start("a", SECOND).corr("constant"));
    assert_eq!(bench.others.len(), 1);
}

#[test]
fn a_time_out_comes_after_the_time_that_was_left() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).pass(Duration::from_secs(400));
    bench.restart_after(Duration::from_secs(3600));
    bench.pass(Duration::from_secs(199));
    assert_eq!(bench.ledger().pending, 1, "the hour in which the bridge did not run does not count");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.ledger().notes.incomplete_timeout, 1);
}

#[test]
fn a_worker_that_does_not_come_back_loses_its_open_spans_at_its_latest_event() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).arrive_at(7 * SECOND).send(&start("b", 7 * SECOND));
    bench.pass(Duration::from_secs(3)).restart_after(Duration::from_secs(600));
    bench.streams_lost();
    bench.pass(RESTORED_GRACE - Duration::from_millis(1));
    assert_eq!(bench.ledger().pending, 2);
    bench.pass(Duration::from_millis(1));
    let span = bench.span("a");
    assert_eq!(text(span, "snakepit.span.incomplete"), Some("worker_lost"));
    assert_eq!(times(span), (0, 7 * SECOND + 500), "its latest event's stamp");
    assert!(matches!(span.status, Status::Error(_)));
    assert_eq!(bench.others, [Output::WorkerForgotten { worker: key(), streams: 1 }]);
    bench.pass(Duration::from_secs(2 * 3600));
    assert_eq!(bench.engine.residue(), 0);
    assert!(bench.checkpoint().rows.is_empty());
}

#[test]
fn a_worker_that_comes_back_loses_nothing() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).restart().streams_lost();
    bench.pass(Duration::from_secs(59));
    assert!(bench.engine.next_stream() > STREAM, "stream numbers are never used again");
    let stream = bench.engine.next_stream();
    bench.connect(stream);
    bench.pass(Duration::from_secs(60)).send_on(stream, &stop("a", 0, 100 * SECOND));
    assert_eq!(times(&bench.only_span()), (0, 100 * SECOND));
}

#[test]
fn a_worker_that_was_away_has_the_grace_of_a_restart_too() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).disconnect(STREAM);
    bench.pass(Duration::from_secs(4)).restart().streams_lost();
    bench.pass(Duration::from_secs(59));
    assert_eq!(bench.ledger().pending, 1);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.ledger().notes.incomplete_worker_lost, 1);
}

#[test]
fn a_superseded_worker_has_no_grace() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).handle(Input::Superseded { worker: key() });
    bench.restart().streams_lost();
    assert_eq!(bench.ledger().notes.incomplete_worker_lost, 1);
}

#[test]
fn workers_and_their_streams_are_known() {
    let mut bench = Bench::new();
    bench.connect(StreamId(7));
    bench.restart().streams_lost();
    let [known] = &bench.engine.known_workers()[..] else { panic!("one worker") };
    assert_eq!((&known.key, known.streams, known.identity.same_host), (&key(), 2, true));
    assert_eq!(bench.engine.next_stream(), StreamId(8));
    bench.pass(RESTORED_GRACE);
    assert!(bench.engine.known_workers().is_empty());
}

#[test]
fn other_settings_hold_for_what_is_left() {
    let mut bench = Bench::new();
    bench.send(&start("outer", 0).corr("c")).pass(Duration::from_secs(1));
    bench.send(&stop("late", 0, MS).corr("c"));
    bench.settings(|settings| {
        settings.reorder_window = Duration::from_millis(20);
        settings.span_timeout = Duration::from_secs(10);
    });
    bench.restart();
    bench.pass(Duration::from_millis(5)).send(&stop("inner", 500 * MS, MS).corr("c"));
    bench.send(&start("quick", 2 * SECOND).corr("c")).pass(Duration::from_secs(11));
    let closed = |bench: &Bench| bench.spans.iter().map(|span| span.name.to_string()).collect::<Vec<_>>();
    let quick = "snakepit.python.quick".to_owned();
    assert!(closed(&bench).contains(&quick), "{:?}", closed(&bench));
    assert_eq!(bench.ledger().pending, 1, "the first keeps its own deadline");
}

// What a checkpoint writes.

#[test]
fn only_what_changed_is_written() {
    let mut bench = Bench::new();
    for number in 0..100_000 {
        bench.send(&start("a", number * US).corr(&number.to_string()));
    }
    let disk = bench.checkpoint();
    assert_eq!(disk.rows.len(), 100_000 + 1 + 32, "spans, worker, watched ids");
    for number in 0..5 {
        bench.send(&stop("a", number * US, SECOND).corr(&number.to_string()));
        bench.send(&start("b", SECOND + number * US));
    }
    let written = bench.engine.checkpoint();
    assert_eq!((written.puts.len(), written.deletes.len()), (5 + 1, 5));
    let bytes: usize = written.puts.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes < 10_000, "{bytes} bytes");
}

#[test]
fn a_worker_that_nothing_happened_to_writes_nothing() {
    let mut bench = Bench::new();
    bench.send(&start("a", 0)).checkpoint();
    let another = WorkerKey { node: Arc::from("host"), id: Arc::from("worker_2"), pid: None };
    bench.handle(Input::StreamOpened {
        stream: StreamId(2),
        worker: another,
        identity: Arc::default(),
        policy: Arc::default(),
    });
    let written = bench.engine.checkpoint();
    assert_eq!((written.puts.len(), written.deletes.len(), written.replaces_all), (1, 0, false));
    let written = bench.engine.checkpoint();
    assert!(written.puts.is_empty() && written.deletes.is_empty());
    assert_eq!(bench.engine.checkpoint_all().puts.len(), 3, "everything again");
}

#[test]
fn what_came_and_went_in_between_is_never_written() {
    let mut bench = Bench::new();
    bench.checkpoint();
    for number in 0..1_000 {
        bench.send(&start("a", number * MS)).send(&stop("a", number * MS, 100 * US));
    }
    bench.pass(Duration::from_secs(5));
    let written = bench.engine.checkpoint();
    assert_eq!((written.puts.len(), written.deletes.len()), (1, 0));
    assert!(written.puts[0].1.len() < 1_000, "{} bytes", written.puts[0].1.len());
}

/// Prepares until little is left, with a note for each of the open spans `c0`, `c1`... after each part, which changes all of
/// them. How many parts, and the checkpoint.
fn prepared_while_all_change(bench: &mut Bench, spans: usize, bytes: usize) -> (usize, ShardCheckpoint) {
    let mut parts = 1;
    while !bench.engine.prepare_checkpoint(bytes) {
        let at = i64::try_from(bench.now().mono.0).expect("a test is short");
        for number in 0..spans {
            bench.send(&event("note", at).corr(&format!("c{number}")));
        }
        bench.pass(Duration::from_secs(1));
        parts += 1;
    }
    (parts, bench.engine.checkpoint())
}

#[test]
fn what_changes_as_fast_as_it_is_written_does_not_put_a_checkpoint_off() {
    let mut bench = Bench::new();
    let mut disk = bench.checkpoint();
    for number in 0..20 {
        bench.send(&start("a", 0).corr(&format!("c{number}")));
    }
    let (parts, written) = prepared_while_all_change(&mut bench, 20, 1);
    assert_eq!(parts, 3 * 20, "of a row each");
    disk.apply(written);
    bench.restart_from(&disk);
    bench.handle(Input::Shutdown);
    let events = bench.spans.iter().map(|span| span.events.len()).collect::<Vec<_>>();
    assert_eq!(events, [parts - 1; 20]);
}

#[test]
fn what_is_large_is_not_prepared_again_and_again() {
    let mut bench = Bench::new();
    bench.checkpoint();
    let text = "x".repeat(16 << 10);
    for number in 0..70 {
        let large = (0..64).fold(start("a", 0).corr(&format!("c{number}")), |sent, key| {
            sent.meta(&format!("k{key}"), &text)
        });
        bench.send(&large);
    }
    let (parts, written) = prepared_while_all_change(&mut bench, 70, 256 << 10);
    let spans = written.puts.iter().filter(|(_, value)| value.len() > 1 << 20).count();
    assert_eq!(
        (parts, spans),
        (70, 70),
        "once before the checkpoint, and what changed with it, in its place"
    );
}

// Another number of shards.

fn worker(number: u64) -> WorkerKey {
    WorkerKey { node: Arc::from("host"), id: Arc::from(format!("worker_{number}")), pid: Some(1) }
}

#[test]
fn workers_are_divided_anew_among_another_number_of_shards() {
    let settings = Arc::new(Settings::default());
    let now = Bench::new().now();
    let mut engines: Vec<Engine> = (0..2).map(|shard| Engine::new(Arc::clone(&settings), shard)).collect();
    let send = |engine: &mut Engine, stream: u64, sent: &super::bench_worker::Sent| {
        sent.with(|event| engine.handle(Input::Event { stream: StreamId(stream), event }, now));
    };
    for number in 0..6 {
        let engine = &mut engines[usize::try_from(number % 2).expect("small")];
        engine.handle(
            Input::StreamOpened {
                stream: StreamId(number),
                worker: worker(number),
                identity: Arc::new(Identity::default()),
                policy: Arc::new(Policy::default()),
            },
            now,
        );
        send(engine, number, &start("made", 0).identity(1, 1, None));
        send(engine, number, &stop("made", 0, MS).identity(1, 1, None));
        send(engine, number, &start("a", 0));
        send(engine, 99, &start("nobodys", 0));
    }
    let mut serials = Vec::new();
    let mut drain = |engine: &mut Engine| {
        let mut found = Vec::new();
        while let Some(output) = engine.next_output() {
            if let Output::Span(span) = output {
                serials.push((span.source.serial, span.source.worker_id.to_string()));
                found.push(span);
            }
        }
        found
    };
    engines.iter_mut().for_each(|engine| assert_eq!(drain(engine).len(), 3));
    let sum = |engines: &[Engine]| {
        let mut sum = engines[0].ledger();
        engines[1..].iter().for_each(|engine| sum.add(&engine.ledger()));
        sum
    };
    let before = sum(&engines);
    let shard_of = |key: &WorkerKey| u16::from(key.id.as_bytes()[key.id.len() - 1] % 3);
    let mut engines = Engine::regrouped(&settings, engines, 3, shard_of);
    assert_eq!(sum(&engines), before);
    for (shard, engine) in engines.iter_mut().enumerate() {
        assert_eq!(engine.occupancy().open_spans, 2);
        assert_eq!(engine.next_stream(), StreamId(6));
        assert!(engine.poll_timeout().is_some());
        for known in engine.known_workers() {
            assert_eq!(usize::from(shard_of(&known.key)), shard);
        }
        // Its open start, and a worker that none of them knows.
        for number in (0..6).filter(|number| usize::from(shard_of(&worker(*number))) == shard) {
            send(engine, number, &stop("a", 0, MS));
        }
        let stream = StreamId(100);
        engine.handle(
            Input::StreamOpened {
                stream,
                worker: worker(100 + shard as u64),
                identity: Arc::new(Identity::default()),
                policy: Arc::new(Policy::default()),
            },
            now,
        );
        send(engine, 100, &start("new", 0));
        engine.handle(Input::Shutdown, now);
        assert_eq!(drain(engine).len(), 3);
        assert_eq!(engine.ledger().pending, 0);
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 9, "one serial a worker, one worker a serial: {serials:?}");
    serials.dedup_by_key(|(serial, _)| *serial);
    assert_eq!(serials.len(), 9, "{serials:?}");
    assert_eq!(EPOCH, now.wall.0);
}
