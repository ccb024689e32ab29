//! The sums: every event, span, point and record in exactly one place, at every instant a reader can look.
//!
//! The exporters are read before the engines, so that a span that is made in between counts as queued, and never as
//! exported before it was made. Spans that an engine holds for their parent are queued as well. Points and records are
//! made when their exporter is given them.
//!
//! Laws: `made = exported + sampled_out + queued + spooled + sum(refused)` for each signal. Of spans, `made - made_again -
//! inherited` is what the events made: `paired / 2 + rebuilt + incomplete`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::query::{Asked, Parameters};
use super::shards::ask;
use super::sources::{AdminState, ExportFigures, SignalFigures};
use crate::drops::DropReason;
use crate::engine::EventLedger;
use crate::shard::ShardMessage;

/// The sums of all shards and of the exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeLedger {
    /// All shards together.
    pub events: EventLedger,
    /// The exporters, read just before.
    pub export: ExportFigures,
}

impl BridgeLedger {
    /// Spans made: of the events, and by earlier runs of events that are not counted for them.
    #[must_use]
    pub fn spans_made(&self) -> u64 {
        let SignalFigures { accepted, made_again, inherited, .. } = self.export.traces;
        // The exporter was given more than that only where a broken shard took its sums with it.
        (self.events.spans_made + made_again + inherited).max(accepted)
    }

    /// Spans made that are neither delivered nor given up: `made = exported + sampled_out + queued + spooled +
    /// sum(refused)`.
    #[must_use]
    pub fn spans_queued(&self) -> u64 {
        let SignalFigures { sent, sampled_out, spooled, refused, .. } = &self.export.traces;
        let settled = sent + sampled_out + spooled + refused.values().sum::<u64>();
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
            "spans": items(self.spans_made(), self.spans_queued(), &self.export.traces),
            "points": given(&self.export.metrics),
            "records": given(&self.export.logs),
        })
    }
}

/// What became of the items of a signal that are made when the exporter gets them.
fn given(figures: &SignalFigures) -> Value {
    items(figures.accepted, figures.queue_items, figures)
}

fn items(made: u64, queued: u64, figures: &SignalFigures) -> Value {
    json!({
        "made": made,
        "made_again": figures.made_again,
        "inherited": figures.inherited,
        "exported": figures.sent,
        "sampled_out": figures.sampled_out,
        "queued": queued,
        "spooled": figures.spooled,
        "refused": figures.refused,
    })
}

/// `GET /api/v1/ledger`
pub(super) async fn answer(State(state): State<AdminState>, asked: Asked) -> Result<Response, Problem> {
    Parameters::read(asked, &[])?;
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
    let mut sum = EventLedger::default();
    ledgers.iter().for_each(|ledger| sum.add(ledger));
    sum
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
                    traces: SignalFigures {
                        sent: exported, sampled_out, spooled, refused: BTreeMap::from([("queue_full", refused)]),
                        ..SignalFigures::default()
                    },
                    ..ExportFigures::default()
                },
            };
            prop_assert_eq!(ledger.spans_queued(), later);
        }
    }
}
