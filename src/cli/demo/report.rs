//! What the bridge's admin port says at the end: spans in flight, and the ledger with its sum.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cli::demo::style::{Style, Tone, duration, escaped};

/// Characters of a name or an id.
const MAX_TEXT: usize = 255;

/// The answer of `/api/v1/spans/open`, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct OpenSpans {
    spans: Vec<OpenSpan>,
    total: u64,
}

#[derive(Debug, Deserialize)]
struct OpenSpan {
    worker_id: String,
    name: String,
    correlation_id: Option<String>,
    age_ns: u64,
}

/// The answer of `/api/v1/ledger`, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct Ledger {
    events: Events,
    spans: Spans,
}

#[derive(Debug, Deserialize)]
struct Events {
    received: u64,
    paired: u64,
    rebuilt: u64,
    incomplete: u64,
    standalone: u64,
    pending: u64,
    dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Spans {
    made: u64,
    exported: u64,
    queued: u64,
    refused: BTreeMap<String, u64>,
}

impl OpenSpans {
    /// A line for each.
    pub(super) fn draw(&self, style: Style) -> String {
        let width = |of: fn(&OpenSpan) -> &str| {
            self.spans.iter().map(|span| escaped(of(span), MAX_TEXT).chars().count()).max().unwrap_or(0)
        };
        let (name_width, worker_width) = (width(|span| &span.name), width(|span| &span.worker_id));
        let mut text = String::new();
        for span in &self.spans {
            let correlation = span
                .correlation_id
                .as_ref()
                .map_or_else(String::new, |id| format!("  correlation id {}", escaped(id, MAX_TEXT)));
            text.push_str(&format!(
                "  {}  {:worker_width$}  {}{correlation}\n",
                style.paint(Tone::Doubtful, &format!("{:name_width$}", escaped(&span.name, MAX_TEXT))),
                escaped(&span.worker_id, MAX_TEXT),
                style.paint(Tone::Doubtful, &format!("open for {:>8}", duration(span.age_ns))),
            ));
        }
        let shown = u64::try_from(self.spans.len()).unwrap_or(u64::MAX);
        match self.total.saturating_sub(shown) {
            0 if shown == 0 => text.push_str("  none\n"),
            0 => {}
            more => text.push_str(&format!("  … and {more} more\n")),
        }
        text
    }
}

impl Ledger {
    /// Whether every event is in exactly one place, and every span as well.
    pub(super) fn adds_up(&self) -> bool {
        let Events { received, paired, rebuilt, incomplete, standalone, pending, .. } = &self.events;
        let Spans { made, exported, queued, .. } = &self.spans;
        *received == paired + rebuilt + incomplete + standalone + pending + self.dropped()
            && *made == paired / 2 + rebuilt + incomplete
            && *made == exported + queued + self.refused()
    }

    fn dropped(&self) -> u64 {
        self.events.dropped.values().sum()
    }

    fn refused(&self) -> u64 {
        self.spans.refused.values().sum()
    }

    /// The table, and the sums below it. `exports_to` is where spans go, if anywhere.
    pub(super) fn draw(&self, exports_to: Option<&str>, style: Style) -> String {
        let events = &self.events;
        let halves = events.paired / 2;
        let rows = [
            ("", "received", events.received, "events that reached the bridge".to_owned()),
            ("=", "paired", events.paired, format!("a start and its end: {halves} whole spans")),
            ("+", "rebuilt", events.rebuilt, "ends without their start: spans all the same".to_owned()),
            ("+", "incomplete", events.incomplete, "starts whose worker died: spans that say so".to_owned()),
            (
                "+",
                "standalone",
                events.standalone,
                "other events: points, span events, log records".to_owned(),
            ),
            ("+", "pending", events.pending, "starts that wait for their end".to_owned()),
            ("+", "dropped", self.dropped(), listed(&events.dropped)),
        ];
        let width = events.received.to_string().len().max(3);
        let mut text = String::new();
        for (sign, name, count, meaning) in rows {
            let meaning = style.paint(Tone::Faint, &meaning);
            text.push_str(format!("  {sign:1} {name:10}  {count:>width$}  {meaning}").trim_end());
            text.push('\n');
        }
        let verdict = if self.adds_up() {
            style.paint(Tone::Good, "it adds up")
        } else {
            style.paint(Tone::Bad, "IT DOES NOT ADD UP")
        };
        text.push_str(&format!(
            "\n  events  {} = {} + {} + {} + {} + {} + {}\n",
            events.received,
            events.paired,
            events.rebuilt,
            events.incomplete,
            events.standalone,
            events.pending,
            self.dropped()
        ));
        text.push_str(&format!(
            "  spans   {} = {halves} + {} + {}\n  {verdict}\n\n",
            self.spans.made, events.rebuilt, events.incomplete
        ));
        text.push_str(&self.delivery(exports_to));
        text
    }

    fn delivery(&self, exports_to: Option<&str>) -> String {
        let Spans { made, exported, queued, refused } = &self.spans;
        match exports_to {
            None => format!(
                "  None of the {made} spans left this program: set OTEL_EXPORTER_OTLP_ENDPOINT, and they go there as well.\n"
            ),
            Some(endpoint) => {
                let refused = if refused.is_empty() {
                    String::new()
                } else {
                    format!(", {} refused ({})", self.refused(), listed(refused))
                };
                format!(
                    "  Of {made} spans {exported} were exported to {}, {queued} are queued{refused}.\n",
                    escaped(endpoint, MAX_TEXT)
                )
            }
        }
    }
}

fn listed(reasons: &BTreeMap<String, u64>) -> String {
    let shown: Vec<_> =
        reasons.iter().map(|(reason, count)| format!("{} {count}", escaped(reason, MAX_TEXT))).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEDGER: &str = r#"{
        "events": {"received": 112, "paired": 100, "rebuilt": 2, "incomplete": 3, "standalone": 4, "pending": 2,
                   "dropped": {"duplicate_end": 1}},
        "spans": {"made": 55, "exported": 50, "sampled_out": 0, "queued": 1, "spooled": 0, "refused": {"http_400": 4}},
        "points": {}, "records": {}}"#;

    fn ledger() -> Ledger {
        serde_json::from_str(LEDGER).unwrap()
    }

    #[test]
    fn the_ledger_is_shown_with_its_sum() {
        assert_eq!(
            ledger().draw(None, Style::PLAIN),
            "    received    112  events that reached the bridge
  = paired      100  a start and its end: 50 whole spans
  + rebuilt       2  ends without their start: spans all the same
  + incomplete    3  starts whose worker died: spans that say so
  + standalone    4  other events: points, span events, log records
  + pending       2  starts that wait for their end
  + dropped       1  duplicate_end 1

  events  112 = 100 + 2 + 3 + 4 + 2 + 1
  spans   55 = 50 + 2 + 3
  it adds up

  None of the 55 spans left this program: set OTEL_EXPORTER_OTLP_ENDPOINT, and they go there as well.
"
        );
    }

    #[test]
    fn where_the_spans_went_is_said() {
        let text = ledger().draw(Some("http://localhost:4318"), Style::PLAIN);
        let last =
            "  Of 55 spans 50 were exported to http://localhost:4318, 1 are queued, 4 refused (http_400 4).";
        assert_eq!(text.lines().last(), Some(last));
    }

    #[test]
    fn a_ledger_that_does_not_add_up_says_so() {
        let mut wrong = ledger();
        wrong.events.received += 1;
        assert!(!wrong.adds_up() && wrong.draw(None, Style::PLAIN).contains("IT DOES NOT ADD UP"));
        let mut wrong = ledger();
        wrong.spans.exported += 1;
        assert!(!wrong.adds_up());
    }

    #[test]
    fn spans_in_flight_are_listed() {
        let answer = r#"{"total": 3, "spans": [
            {"worker_id": "worker_2", "name": "snakepit.python.tool.execution", "correlation_id": "demo-1",
             "trace_id": "", "span_id": "", "parent_span_id": null, "start_unix_nano": 0, "age_ns": 8123456789,
             "uncertain": false, "attributes": {}},
            {"worker_id": "worker_2", "name": "snakepit.python.http.request", "correlation_id": null, "age_ns": 900}]}"#;
        let open: OpenSpans = serde_json::from_str(answer).unwrap();
        assert_eq!(
            open.draw(Style::PLAIN),
            "  snakepit.python.tool.execution  worker_2  open for   8.12 s  correlation id demo-1
  snakepit.python.http.request    worker_2  open for   900 ns
  … and 1 more
"
        );
        let none: OpenSpans = serde_json::from_str(r#"{"total": 0, "spans": []}"#).unwrap();
        assert_eq!(none.draw(Style::PLAIN), "  none\n");
    }
}
