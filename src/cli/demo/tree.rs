//! Draws a trace as a tree: a line for each span, with its full name, its place in the trace's time, how long it took,
//! and what is special about it.
//!
//! Law: each span is drawn exactly once, whatever the parents say; spans whose parents form a ring are drawn as roots.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::demo::style::{Style, Tone, duration, escaped};
use crate::cli::demo::traces::Gathered;
use crate::engine::Span;
use crate::engine::attributes::AttributeValue;
use crate::engine::span::{SpanId, Status};

/// Columns of a bar.
const MIN_BAR: usize = 16;
const MAX_BAR: usize = 40;
/// Columns of a duration: `999.9 ms`.
const DURATION_WIDTH: usize = 8;
/// Columns that are kept free for marks: `rebuilt from its exception` is the longest that every person should see.
const MARKS_WIDTH: usize = 26;
/// Characters of a message that a mark shows.
const MAX_MESSAGE: usize = 80;
/// Characters of any other text.
const MAX_TEXT: usize = 255;
/// Deeper spans are drawn at this depth.
const MAX_DEPTH: usize = 24;

/// A span and how it is connected to the line above.
struct Line<'a> {
    span: &'a Span,
    branches: String,
}

/// The part of the time that a trace takes.
struct Extent {
    from: i64,
    length: i64,
}

/// Draws the trace under a heading with its ids. `caption` is what there is to see.
pub(super) fn draw(trace: &Gathered, caption: Option<&str>, style: Style) -> String {
    let lines = lines(&trace.spans);
    let Some(first) = lines.first() else { return String::new() };
    let mut text = String::new();
    if let Some(caption) = caption {
        text.push_str(&style.paint(Tone::Caption, &format!("# {caption}")));
        text.push('\n');
    }
    let workers: BTreeSet<String> =
        trace.spans.iter().map(|span| escaped(&span.source.worker_id, MAX_TEXT)).collect();
    text.push_str(&heading(first.span, &trace.spans, &workers, style));
    let extent = Extent::of(&trace.spans);
    let names: Vec<_> =
        lines.iter().map(|line| format!("{}{}", line.branches, escaped(&line.span.name, MAX_TEXT))).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let worker_width =
        if workers.len() > 1 { workers.iter().map(|id| id.chars().count()).max().unwrap_or(0) } else { 0 };
    let taken = name_width + DURATION_WIDTH + MARKS_WIDTH + worker_width + 10;
    let bar_width = style.width.saturating_sub(taken).clamp(MIN_BAR, MAX_BAR);
    for (line, name) in lines.iter().zip(&names) {
        let tone = tone(line.span);
        let time = duration(u64::try_from(line.span.end.since(line.span.start)).unwrap_or(0));
        let mut used = 2 + name_width + 2 + bar_width + 2 + DURATION_WIDTH.max(time.chars().count());
        text.push_str(&format!(
            "  {name:name_width$}  {}  {time:>DURATION_WIDTH$}",
            style.paint(tone, &bar(line.span, &extent, bar_width))
        ));
        if worker_width > 0 {
            let id = escaped(&line.span.source.worker_id, MAX_TEXT);
            text.push_str(&style.paint(Tone::Faint, &format!("  {id:worker_width$}")));
            used += 2 + worker_width;
        }
        let marks = marks(line.span, trace);
        if !marks.is_empty() {
            text.push_str("  ");
            text.push_str(&style.paint(tone, &style.cut(&marks, used + 2)));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    if trace.left_out > 0 {
        text.push_str(&format!("  … and {} more spans\n", trace.left_out));
    }
    text
}

fn heading(root: &Span, spans: &[Span], workers: &BTreeSet<String>, style: Style) -> String {
    let correlation = spans.iter().chain([root]).find_map(|span| attribute(span, "snakepit.correlation_id"));
    let mut rest = String::new();
    if let Some(correlation) = correlation {
        rest.push_str("  correlation id ");
        rest.push_str(&escaped(correlation, MAX_TEXT));
    }
    let ids: Vec<_> = workers.iter().map(String::as_str).collect();
    rest.push_str("  ");
    rest.push_str(&ids.join(", "));
    format!("{}{rest}\n", style.paint(Tone::Heading, &format!("trace {}", root.trace_id)))
}

/// Every span once: roots by time, children under their parent by time.
fn lines(spans: &[Span]) -> Vec<Line<'_>> {
    let ids: BTreeSet<SpanId> = spans.iter().map(|span| span.span_id).collect();
    let mut children: BTreeMap<SpanId, Vec<&Span>> = BTreeMap::new();
    let mut roots = Vec::new();
    for span in spans {
        match span.parent_span_id {
            Some(parent) if ids.contains(&parent) && parent != span.span_id => {
                children.entry(parent).or_default().push(span);
            }
            Some(_) | None => roots.push(span),
        }
    }
    let mut lines = Vec::with_capacity(spans.len());
    roots.sort_by_key(|span| by_time(span));
    roots.into_iter().for_each(|root| descend(root, &mut children, &mut lines));
    // What no root leads to hangs in a ring: cut it open at its first span.
    let ring = |children: &BTreeMap<SpanId, Vec<&Span>>| children.first_key_value().map(|(id, _)| *id);
    while let Some(id) = ring(&children) {
        match children.values().flatten().find(|span| span.span_id == id).copied() {
            Some(span) => {
                for siblings in children.values_mut() {
                    siblings.retain(|other| !std::ptr::eq(*other, span));
                }
                descend(span, &mut children, &mut lines);
            }
            None => children.remove(&id).into_iter().flatten().for_each(|span| {
                lines.push(Line { span, branches: String::new() });
            }),
        }
    }
    lines
}

/// Draws a span and all below it, and takes these out of `children`.
fn descend<'a>(root: &'a Span, children: &mut BTreeMap<SpanId, Vec<&'a Span>>, lines: &mut Vec<Line<'a>>) {
    // The branches of a span itself, and those that its children begin with.
    let mut stack = vec![(root, String::new(), String::new(), 0)];
    while let Some((span, branches, below, depth)) = stack.pop() {
        lines.push(Line { span, branches });
        let mut inner = children.remove(&span.span_id).unwrap_or_default();
        inner.sort_by_key(|span| by_time(span));
        let last = inner.len().saturating_sub(1);
        for (number, child) in inner.into_iter().enumerate().rev() {
            let (branch, space) = if number == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let beneath = if depth < MAX_DEPTH { format!("{below}{space}") } else { below.clone() };
            stack.push((child, format!("{below}{branch}"), beneath, depth + 1));
        }
    }
}

fn by_time(span: &Span) -> (i64, i64, SpanId) {
    (span.start.0, span.end.0.saturating_neg(), span.span_id)
}

impl Extent {
    fn of(spans: &[Span]) -> Self {
        let from = spans.iter().map(|span| span.start.0).min().unwrap_or(0);
        let to = spans.iter().map(|span| span.end.0).max().unwrap_or(0);
        Self { from, length: to.saturating_sub(from).max(1) }
    }

    /// The column of a time, in a bar of so many columns.
    fn column(&self, time: i64, width: usize, rounds_up: bool) -> usize {
        let width = i128::try_from(width).unwrap_or(0);
        let length = i128::from(self.length);
        let offset = i128::from(time.saturating_sub(self.from)).clamp(0, length) * width;
        let column = if rounds_up { (offset + length - 1) / length } else { offset / length };
        usize::try_from(column).unwrap_or(0)
    }
}

/// The span's place in the trace's time. Spans that were closed for want of an end are drawn thinner.
fn bar(span: &Span, extent: &Extent, width: usize) -> String {
    let from = extent.column(span.start.0, width, false).min(width - 1);
    let to = extent.column(span.end.0, width, true).max(from + 1);
    let block = if attribute(span, "snakepit.span.incomplete").is_some() { "▒" } else { "█" };
    format!("{}{}{}", " ".repeat(from), block.repeat(to - from), " ".repeat(width - to))
}

fn tone(span: &Span) -> Tone {
    let is_doubtful = attribute(span, "snakepit.span.incomplete").is_some()
        || attribute(span, "snakepit.span.rebuilt_from").is_some();
    match span.status {
        Status::Error(_) => Tone::Bad,
        Status::Unset | Status::Ok if is_doubtful => Tone::Doubtful,
        Status::Unset | Status::Ok => Tone::Good,
    }
}

/// What is special about a span.
fn marks(span: &Span, trace: &Gathered) -> String {
    let mut marks = Vec::new();
    let incomplete = attribute(span, "snakepit.span.incomplete");
    match (&span.status, incomplete) {
        (_, Some(reason)) => marks.push(format!("incomplete: {}", escaped(reason, MAX_TEXT))),
        (Status::Error(message), None) => {
            let error_type = attribute(span, "error.type").unwrap_or_default();
            let message = escaped(message, MAX_MESSAGE);
            let separator = if message.is_empty() { "" } else { ": " };
            marks.push(format!("error {}{separator}{message}", escaped(error_type, MAX_MESSAGE)));
        }
        (Status::Unset | Status::Ok, None) => {}
    }
    match attribute(span, "snakepit.span.rebuilt_from") {
        None => {}
        Some("late_end") => marks.push("rebuilt: its end came late".to_owned()),
        Some(end) => marks.push(format!("rebuilt from its {}", escaped(end, MAX_TEXT))),
    }
    if attribute(span, "snakepit.clock").is_some() {
        marks.push("clock adjusted".to_owned());
    }
    if span.parent_is_remote {
        marks.push("parent in another process".to_owned());
    } else if trace.lacks_parent(span) {
        marks.push("parent still open".to_owned());
    }
    let events = span.events.iter().filter(|event| &*event.name != "exception");
    marks.extend(events.map(|event| format!("event {}", escaped(&event.name, MAX_TEXT))));
    marks.join(", ")
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match span.attributes.value(key)? {
        AttributeValue::Text(text) => Some(text),
        AttributeValue::Int(_) | AttributeValue::Float(_) | AttributeValue::Bool(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cli::demo::testing::{child, named, root, timed};
    use crate::engine::span::SpanEvent;
    use crate::time::UnixNanos;

    const MILLISECOND: i64 = 1_000_000;

    fn with(mut span: Span, attributes: &[(&str, &str)]) -> Span {
        for (key, value) in attributes {
            span.attributes.set(key, AttributeValue::Text(value));
        }
        span
    }

    fn drawn(spans: Vec<Span>) -> String {
        draw(&Gathered::of(spans), None, Style::PLAIN)
    }

    #[test]
    fn a_trace_is_drawn_as_a_tree_with_bars() {
        let whole = timed(named(root(7, 1), "snakepit.python.tool.execution"), 0, 320);
        let whole = with(whole, &[("snakepit.correlation_id", "request-1")]);
        let lookup = timed(named(child(7, 2, 1), "snakepit.python.cache.lookup"), 6, 21);
        let inference = timed(named(child(7, 3, 1), "snakepit.python.inference"), 26, 306);
        let encode = timed(named(child(7, 4, 3), "snakepit.python.tokenizer.encode"), 30, 62);
        let forward = timed(named(child(7, 5, 3), "snakepit.python.model.forward"), 66, 291);
        let drawing = draw(
            &Gathered::of(vec![encode, forward, lookup, inference, whole]),
            Some("calls inside calls"),
            Style::PLAIN,
        );
        assert_eq!(
            drawing,
            "\
# calls inside calls
trace 00000000000000000000000000000007  correlation id request-1  worker_1
  snakepit.python.tool.execution          ████████████████████████████  320.0 ms
  ├─ snakepit.python.cache.lookup         ██                             15.0 ms
  └─ snakepit.python.inference              █████████████████████████   280.0 ms
     ├─ snakepit.python.tokenizer.encode    ████                         32.0 ms
     └─ snakepit.python.model.forward          █████████████████████    225.0 ms
"
        );
    }

    #[test]
    fn what_is_special_about_a_span_is_said() {
        let mut failed = timed(named(root(1, 1), "a.call"), 0, 100);
        failed.status = Status::Error(Arc::from("bad\ninput"));
        let failed = with(failed, &[("error.type", "ValueError")]);
        let mut lost = timed(named(child(1, 2, 1), "b.call"), 10, 60);
        lost.status = Status::Error(Arc::from("the worker was lost"));
        let lost = with(lost, &[("error.type", "worker_lost"), ("snakepit.span.incomplete", "worker_lost")]);
        let rebuilt = timed(named(child(1, 3, 1), "c.call"), 20, 30);
        let rebuilt =
            with(rebuilt, &[("snakepit.span.rebuilt_from", "stop"), ("snakepit.clock", "adjusted")]);
        let mut orphan = timed(named(child(1, 4, 99), "d.call"), 40, 50);
        let name = Arc::from("d.result_size");
        let attributes = orphan.attributes.clone();
        orphan.events.push(SpanEvent { name, time: UnixNanos(45 * MILLISECOND), attributes });
        let mut remote = timed(named(child(1, 5, 98), "e.call"), 70, 80);
        remote.parent_is_remote = true;
        assert_eq!(
            drawn(vec![failed, lost, rebuilt, orphan, remote]),
            "\
trace 00000000000000000000000000000001  worker_1
  a.call     ████████████████████████████████████████  100.0 ms  error ValueError: bad\\ninput
  ├─ b.call      ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒                   50.0 ms  incomplete: worker_lost
  └─ c.call          ████                               10.0 ms  rebuilt from its stop, clock adjusted
  d.call                     ████                       10.0 ms  parent still open, event d.result_size
  e.call                                 ████           10.0 ms  parent in another process
"
        );
    }

    #[test]
    fn workers_are_told_apart_where_there_are_several() {
        let here = timed(named(root(1, 1), "a"), 0, 10);
        let mut there = timed(named(root(1, 2), "b"), 5, 10);
        there.source =
            Arc::new(crate::worker::Source { worker_id: Arc::from("gpu_12"), ..(*there.source).clone() });
        assert_eq!(
            drawn(vec![there, here]),
            "\
trace 00000000000000000000000000000001  gpu_12, worker_1
  a  ████████████████████████████████████████   10.0 ms  worker_1
  b                      ████████████████████    5.0 ms  gpu_12
"
        );
    }

    #[test]
    fn a_terminals_lines_end_at_its_width() {
        let mut failed = timed(named(root(1, 1), "snakepit.python.tool.execution"), 0, 100);
        failed.status = Status::Error(Arc::from("a long message that goes on and on"));
        let failed = with(failed, &[("error.type", "ValueError")]);
        let drawing = draw(&Gathered::of(vec![failed]), None, Style::terminal(Some(80), false));
        let last = drawing.lines().last().expect("there is a line");
        assert_eq!(last, "  snakepit.python.tool.execution  ████████████████  100.0 ms  error ValueError:…");
        assert_eq!(last.chars().count(), 80);
    }

    #[test]
    fn colours_say_what_went_well() {
        let drawing = draw(
            &Gathered::of(vec![timed(named(root(1, 1), "a"), 0, 10)]),
            None,
            Style::terminal(Some(80), true),
        );
        assert_eq!(
            drawing.lines().last(),
            Some("  a  \x1b[32m███████████████████████████████████\x1b[0m   10.0 ms")
        );
    }

    #[test]
    fn a_ring_of_parents_is_drawn_once_and_ends() {
        let names = |text: &str| {
            let mut names: Vec<_> = text
                .lines()
                .skip(1)
                .map(|line| line.trim_start_matches([' ', '└', '├', '─', '│']).chars().take(1).collect())
                .collect::<Vec<String>>();
            names.sort();
            names.concat()
        };
        let ring = vec![
            timed(named(child(1, 1, 3), "a"), 0, 10),
            timed(named(child(1, 2, 1), "b"), 0, 10),
            timed(named(child(1, 3, 2), "c"), 0, 10),
            timed(named(child(1, 4, 4), "d"), 0, 10),
            timed(named(root(1, 5), "e"), 0, 10),
            timed(named(root(1, 5), "f"), 0, 10),
        ];
        assert_eq!(names(&drawn(ring)), "abcdef");
    }
}
