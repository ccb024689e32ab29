//! Walks the table of standard variables: each is set to something unusual, on the program as it is shipped, and its
//! effect is observed; those that have none must change nothing, and `check` must say why.
//!
//! A case answers with the variables whose effect it saw. The law at the end: every row of the table was seen.

mod certificates;
mod export;
mod files;
mod idle;
mod json;
mod points;
mod records;
mod spans;

use std::collections::BTreeSet;
use std::pin::Pin;

use anyhow::Result;
use snakepit_otel_bridge::config::otel::table::{Status, VARIABLES};
use tokio::task::{JoinSet, LocalSet};

/// The names of the variables whose effect a case saw.
type Seen = Vec<&'static str>;
type Case = Pin<Box<dyn Future<Output = Result<Seen>>>>;
/// A variable and its value.
type Pair<'a> = (&'static str, &'a str);

fn names(variables: &[Pair<'_>]) -> Seen {
    variables.iter().map(|(name, _)| *name).collect()
}

/// Law: whatever the table calls honoured has an effect that somebody outside can see.
#[tokio::test(flavor = "multi_thread")]
async fn every_variable_does_what_the_table_says() -> Result<()> {
    let cases: Vec<Case> = vec![
        Box::pin(export::generic_options_reach_the_peer()),
        Box::pin(export::the_options_of_traces_beat_the_generic_ones()),
        Box::pin(export::a_request_has_the_least_of_its_time_outs()),
        Box::pin(export::a_batch_waits_for_its_delay()),
        Box::pin(export::a_queue_has_its_size()),
        Box::pin(export::the_console_is_an_exporter()),
        Box::pin(export::a_disabled_bridge_drops_what_it_is_sent()),
        Box::pin(spans::a_ratio_keeps_the_traces_that_everybody_else_keeps()),
        Box::pin(spans::general_limits_hold_for_spans_and_events()),
        Box::pin(spans::limits_of_spans_beat_the_general_ones()),
        Box::pin(spans::propagators_say_whose_parent_counts()),
        Box::pin(spans::the_log_has_its_level()),
        Box::pin(files::a_file_says_everything()),
        Box::pin(idle::what_has_no_effect_changes_nothing()),
        Box::pin(points::the_options_of_metrics_beat_the_generic_ones()),
        Box::pin(points::a_request_of_metrics_has_the_least_of_its_time_outs()),
        Box::pin(points::metrics_are_collected_once_an_interval()),
        Box::pin(points::the_console_shows_points()),
        Box::pin(points::counters_and_histograms_may_be_differences()),
        Box::pin(points::histograms_may_be_exponential()),
        Box::pin(points::exemplars_may_be_switched_off()),
        Box::pin(records::the_options_of_logs_beat_the_generic_ones()),
        Box::pin(records::a_request_of_records_has_the_least_of_its_time_outs()),
        Box::pin(records::records_wait_for_their_delay()),
        Box::pin(records::records_have_their_batches()),
        Box::pin(records::records_have_their_queue()),
        Box::pin(records::the_console_shows_records()),
        Box::pin(records::records_have_their_limits()),
        Box::pin(records::exceptions_may_be_records()),
        Box::pin(certificates::protect_the_way()),
        Box::pin(certificates::protect_the_way_of_other_signals()),
        Box::pin(json::goes_over_http()),
        Box::pin(json::goes_to_standard_output()),
    ];
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let walk = async {
        let mut running = JoinSet::new();
        cases.into_iter().for_each(|case| {
            running.spawn_local(case);
        });
        while let Some(case) = running.join_next().await {
            seen.extend(case??);
        }
        Ok::<_, anyhow::Error>(())
    };
    LocalSet::new().run_until(walk).await?;
    let table: BTreeSet<_> = VARIABLES.iter().map(|variable| variable.name).collect();
    let unseen: Vec<_> = table.difference(&seen).collect();
    assert!(unseen.is_empty(), "nobody saw what these do: {unseen:?}");
    Ok(())
}

/// The rows of the table that have this kind of status.
fn rows(is_wanted: impl Fn(Status) -> bool) -> Seen {
    VARIABLES.iter().filter(|variable| is_wanted(variable.status)).map(|variable| variable.name).collect()
}
