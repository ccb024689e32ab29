//! Lets happen again what happened since the last checkpoint.
//!
//! What the engine makes of it is the same as then, so each output is known by its ordinal, and what became of it may be
//! on disk already: as a batch that waits, or as one whose fate is known. Only the others are made anew.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::engine::{Engine, Input};
use crate::event::Event;
use crate::exporter::signal::Signal;
use crate::shard::journal::{Happened, Record, records};
use crate::shard::made::Finished;
use crate::shard::task::take_event;
use crate::store::{Ordinals, Origin};

/// The outputs whose fate is on disk.
#[derive(Debug, Default)]
pub struct Settled {
    /// By shard and signal; sorted, and none touches another.
    ranges: BTreeMap<(u16, Signal), Vec<Range<u64>>>,
}

impl Settled {
    /// Those of these origins, in whatever order.
    #[must_use]
    pub fn new<'a>(origins: impl IntoIterator<Item = (Signal, &'a Origin)>) -> Self {
        let mut ranges: BTreeMap<(u16, Signal), Vec<Range<u64>>> = BTreeMap::new();
        for (signal, Origin { shard, ordinals }) in origins {
            ranges.entry((*shard, signal)).or_default().push(ordinals.clone());
        }
        for ranges in ranges.values_mut() {
            ranges.sort_by_key(|range| range.start);
            let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
            for range in ranges.drain(..).filter(|range| !range.is_empty()) {
                match merged.last_mut() {
                    Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                    _ => merged.push(range),
                }
            }
            *ranges = merged;
        }
        Self { ranges }
    }

    /// Whether the fate of this output is on disk.
    #[must_use]
    pub fn contains(&self, shard: u16, signal: Signal, ordinal: u64) -> bool {
        let Some(ranges) = self.ranges.get(&(shard, signal)) else { return false };
        let after = ranges.partition_point(|range| range.start <= ordinal);
        after > 0 && ranges[after - 1].contains(&ordinal)
    }

    /// How many of them, of a shard, are none of the first `first`.
    #[must_use]
    pub fn count_from(&self, shard: u16, first: Ordinals) -> Ordinals {
        let mut count = Ordinals::default();
        for signal in Signal::ALL {
            let ranges = self.ranges.get(&(shard, signal)).into_iter().flatten();
            count[signal] =
                ranges.map(|range| range.end.saturating_sub(range.start.max(first[signal]))).sum();
        }
        count
    }

    /// One more than the last of them, of a shard.
    #[must_use]
    pub fn end_of(&self, shard: u16) -> Ordinals {
        let mut end = Ordinals::default();
        for signal in Signal::ALL {
            let last = self.ranges.get(&(shard, signal)).and_then(|ranges| ranges.last());
            end[signal] = last.map_or(0, |range| range.end);
        }
        end
    }
}

/// What came of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Inputs that were handled again.
    pub records: u64,
    /// Something could not be read. What came after is lost, as if it had not arrived.
    pub is_cut: bool,
}

/// Lets what these journals say happen to `engine`; `on_output` gets what it makes, in order.
pub fn replay<'a>(
    engine: &mut Engine,
    journals: impl IntoIterator<Item = &'a [u8]>,
    mut on_output: impl FnMut(Finished),
) -> Replayed {
    let mut replayed = Replayed::default();
    for journal in journals {
        for record in records(journal) {
            let Ok(record) = record else {
                replayed.is_cut = true;
                return replayed;
            };
            replayed.records += 1;
            apply(engine, record);
            while let Some(output) = engine.next_output() {
                // Of the others: who is known is asked once the replay is over, and whoever was warned has been.
                if let Some(finished) = Finished::of(output) {
                    on_output(finished);
                }
            }
        }
    }
    replayed
}

fn apply(engine: &mut Engine, Record { now, happened }: Record<'_>) {
    match happened {
        Happened::Opened { stream, worker, identity, policy } => {
            engine.handle(Input::StreamOpened { stream, worker, identity, policy }, now);
        }
        Happened::Messages { stream, messages } => {
            let mut event = Event::default();
            for message in messages.iter() {
                take_event(engine, stream, message, &mut event, now);
            }
        }
        Happened::Closed { stream } => engine.handle(Input::StreamClosed { stream }, now),
        Happened::Superseded { worker } => engine.handle(Input::Superseded { worker }, now),
        Happened::Evict { spans } => {
            engine.handle(Input::Evict { spans: usize::try_from(spans).unwrap_or(usize::MAX) }, now);
        }
        Happened::Due => engine.handle_timeout(now),
        Happened::Paused => engine.handle(Input::Pause, now),
        Happened::Collect { at } => engine.handle(Input::Collect { at }, now),
        Happened::CollectMore => engine.handle(Input::CollectMore, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(shard: u16, ordinals: Range<u64>) -> Origin {
        Origin { shard, ordinals }
    }

    #[test]
    fn settled_outputs_are_those_of_any_range() {
        let origins = [
            (Signal::Traces, origin(0, 10..12)),
            (Signal::Traces, origin(1, 0..1)),
            (Signal::Traces, origin(0, 3..5)),
            (Signal::Metrics, origin(0, 5..6)),
            (Signal::Traces, origin(0, 4..8)),
            (Signal::Traces, origin(0, 8..9)),
        ];
        let settled = Settled::new(origins.iter().map(|(signal, origin)| (*signal, origin)));
        let of = |shard, signal| {
            (0..14).filter(|ordinal| settled.contains(shard, signal, *ordinal)).collect::<Vec<_>>()
        };
        assert_eq!(of(0, Signal::Traces), [3, 4, 5, 6, 7, 8, 10, 11]);
        assert_eq!(of(0, Signal::Metrics), [5]);
        assert_eq!(of(0, Signal::Logs), [0_u64; 0]);
        assert_eq!(of(1, Signal::Traces), [0]);
        assert_eq!(of(2, Signal::Traces), [0_u64; 0]);
        assert_eq!(settled.end_of(0), Ordinals { spans: 12, metrics: 6, records: 0 });
        let from = |spans| settled.count_from(0, Ordinals { spans, ..Ordinals::default() });
        assert_eq!(from(0), Ordinals { spans: 8, metrics: 1, records: 0 });
        assert_eq!([from(5).spans, from(9).spans, from(11).spans, from(12).spans], [6, 2, 1, 0]);
    }
}
