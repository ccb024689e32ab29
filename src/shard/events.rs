//! Which events the admin port asks a shard about, and what the shard hands over: what is shown, and of the rest the names.

use std::sync::Arc;

use crate::engine::report::EventReport;

/// Which events are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Exactly this name, with or without the prefix.
    pub event: Option<String>,
    /// At most this many names.
    pub limit: usize,
}

/// What tells one report from another: the name with the prefix, as it is sent, and whether it is about spans.
pub type EventName = (Arc<str>, Box<str>, bool);

/// What a shard says of the events that are asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventAnswer {
    /// Those that are first by name, as many as are asked for: of all shards together the first ones are among these.
    pub reports: Vec<EventReport>,
    /// The names of the others: several shards may know one, so that numbers could not be added up.
    pub others: Vec<EventName>,
}

impl EventQuery {
    /// What is asked for of these, which come by name.
    #[must_use]
    pub fn select(&self, reports: Vec<EventReport>) -> EventAnswer {
        let mut answer = EventAnswer::default();
        for report in reports.into_iter().filter(|report| self.asks_for(report)) {
            if answer.reports.len() < self.limit {
                answer.reports.push(report);
            } else {
                answer.others.push((report.event, report.sent_as, report.is_span));
            }
        }
        answer
    }

    fn asks_for(&self, report: &EventReport) -> bool {
        self.event.as_ref().is_none_or(|event| *report.event == **event || *report.sent_as == **event)
    }
}
