//! The sums: every event and every span in exactly one place, at every instant a reader can look.
//!
//! The exporter is read before the engines, so that a span that is made in between counts as queued, and never as
//! exported before it was made. Spans that an engine holds for their parent are queued as well.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::shards::ask;
use super::sources::{AdminState, ExportFigures};
use crate::drops::DropReason;
use crate::engine::EventLedger;
use crate::engine::ledger::Notes;
use crate::shard::ShardMessage;

/// The sums of all shards and of the exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeLedger {
    /// All shards together.
    pub events: EventLedger,
    /// The exporter, read just before.
    pub export: ExportFigures,
}

impl BridgeLedger {
    /// Spans made, by this bridge and, where its disk had fallen behind, by the one before that left them there.
    #[must_use]
    pub fn spans_made(&self) -> u64 {
        self.events.spans_made + self.export.inherited
    }

    /// Spans made that are neither delivered nor given up: `made = exported + sampled_out + queued + spooled +
    /// sum(refused)`.
    #[must_use]
    pub fn spans_queued(&self) -> u64 {
        let refused: u64 = self.export.refused.values().sum();
        let settled = self.export.exported + self.export.sampled_out + self.export.spooled + refused;
        // More are settled than were made only where a broken shard took its sums with it.
        self.spans_made().saturating_sub(settled)
    }

    /// As `/api/v1/ledger` answers it, and as the last line of the log has it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let events = &self.events;
        let dropped = DropReason::ALL
            .into_iter()
            .map(|reason| (reason, events.dropped[reason.index()]))
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.as_str().to_owned(), json!(count)));
        let nothing = json!(
            {"made": 0, "exported": 0, "sampled_out": 0, "queued": 0, "spooled": 0, "refused": {}}
        );
        json!({
            "events": {
                "received": events.received,
                "paired": events.paired,
                "rebuilt": events.rebuilt,
                "incomplete": events.incomplete,
                "standalone": events.standalone,
                "pending": events.pending,
                "dropped": dropped.collect::<Map<_, _>>(),
            },
            "spans": {
                "made": self.spans_made(),
                "exported": self.export.exported,
                "sampled_out": self.export.sampled_out,
                "queued": self.spans_queued(),
                "spooled": self.export.spooled,
                "refused": self.export.refused,
            },
            "points": nothing,
            "records": nothing,
        })
    }
}

/// `GET /api/v1/ledger`
pub(super) async fn answer(State(state): State<AdminState>) -> Result<Response, Problem> {
    Ok(axum::Json(read(&state).await?.to_json()).into_response())
}

/// Adds up what the exporter and every shard say.
///
/// # Errors
/// When a shard does not answer.
pub(super) async fn read(state: &AdminState) -> Result<BridgeLedger, Problem> {
    let export = (state.export)();
    let ledgers = ask(&state.shards, ShardMessage::Ledger).await?;
    Ok(BridgeLedger { events: sum(&ledgers), export })
}

/// The sums of several ledgers. The laws of each hold for the whole.
#[must_use]
pub fn sum(ledgers: &[EventLedger]) -> EventLedger {
    ledgers.iter().fold(EventLedger::default(), |sum, ledger| EventLedger {
        received: sum.received + ledger.received,
        paired: sum.paired + ledger.paired,
        rebuilt: sum.rebuilt + ledger.rebuilt,
        incomplete: sum.incomplete + ledger.incomplete,
        standalone: sum.standalone + ledger.standalone,
        pending: sum.pending + ledger.pending,
        dropped: std::array::from_fn(|index| sum.dropped[index] + ledger.dropped[index]),
        spans_made: sum.spans_made + ledger.spans_made,
        points_made: sum.points_made + ledger.points_made,
        records_made: sum.records_made + ledger.records_made,
        notes: sum_notes(&sum.notes, &ledger.notes),
    })
}

fn sum_notes(left: &Notes, right: &Notes) -> Notes {
    Notes {
        reordered: left.reordered + right.reordered,
        late_ends: left.late_ends + right.late_ends,
        clock_adjusted: left.clock_adjusted + right.clock_adjusted,
        malformed_identity: left.malformed_identity + right.malformed_identity,
        nesting_gave_up: left.nesting_gave_up + right.nesting_gave_up,
        measurements_not_finite: left.measurements_not_finite + right.measurements_not_finite,
        measurements_negative: left.measurements_negative + right.measurements_negative,
        measurements_no_room: left.measurements_no_room + right.measurements_no_room,
        measurements_conflict: left.measurements_conflict + right.measurements_conflict,
        measurements_overflowed: left.measurements_overflowed + right.measurements_overflowed,
        attributes_cut: left.attributes_cut + right.attributes_cut,
        judged_early: left.judged_early + right.judged_early,
        incomplete_timeout: left.incomplete_timeout + right.incomplete_timeout,
        incomplete_worker_lost: left.incomplete_worker_lost + right.incomplete_worker_lost,
        incomplete_evicted: left.incomplete_evicted + right.incomplete_evicted,
        incomplete_bridge_shutdown: left.incomplete_bridge_shutdown + right.incomplete_bridge_shutdown,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn ledger()(
            pairs in 0u64..1000, rebuilt in 0u64..1000, incomplete in 0u64..1000, standalone in 0u64..1000,
            pending in 0u64..1000, dropped in proptest::array::uniform12(0u64..1000),
        ) -> EventLedger {
            let mut ledger = EventLedger {
                paired: pairs * 2, rebuilt, incomplete, standalone, pending, dropped,
                spans_made: pairs + rebuilt + incomplete,
                ..EventLedger::default()
            };
            ledger.received = ledger.paired + rebuilt + incomplete + standalone + pending + ledger.dropped_total();
            ledger
        }
    }

    proptest! {
        /// Where each shard's ledger adds up, the sum adds up.
        #[test]
        fn the_laws_of_shards_hold_for_the_bridge(ledgers in proptest::collection::vec(ledger(), 0..5)) {
            prop_assert!(ledgers.iter().all(EventLedger::adds_up));
            prop_assert!(sum(&ledgers).adds_up());
        }

        /// `made = exported + sampled_out + queued + spooled + sum(refused)`, whatever is made after the exporter was read.
        #[test]
        fn every_span_is_in_one_place(
            exported in 0u64..1000, sampled_out in 0u64..1000, spooled in 0u64..1000, refused in 0u64..1000, later in 0u64..1000,
        ) {
            let made = exported + sampled_out + spooled + refused + later;
            let ledger = BridgeLedger {
                events: EventLedger { spans_made: made, ..EventLedger::default() },
                export: ExportFigures {
                    exported, sampled_out, spooled, refused: BTreeMap::from([("queue_full", refused)]),
                    ..ExportFigures::default()
                },
            };
            prop_assert_eq!(ledger.spans_queued(), later);
        }
    }
}
