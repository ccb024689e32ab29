//! Shows events as they stand on the wire, a line each.

use crate::cli::demo::style::{Style, Tone, escaped};
use crate::proto::telemetry_value::Value;
use crate::proto::{TelemetryEvent, TelemetryValue};

/// Characters of a value: a traceback is not read here.
const MAX_VALUE: usize = 60;

/// The events, in the order in which they were sent, with the time of each since the first one's.
pub(super) fn draw(events: &[TelemetryEvent], style: Style) -> String {
    let begin = events.iter().map(|event| event.timestamp_ns).min().unwrap_or(0);
    let names: Vec<_> = events.iter().map(|event| escaped(&event.event_parts.join("."), MAX_VALUE)).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (event, name) in events.iter().zip(&names) {
        let offset_ms = event.timestamp_ns.saturating_sub(begin) as f64 / 1e6;
        let line = format!("  +{offset_ms:5.1} ms  {name:name_width$}");
        let fields = style.cut(&format!("  {}", fields(event)), line.chars().count());
        text.push_str(&format!("{line}{}\n", style.paint(Tone::Faint, &fields)));
    }
    text
}

/// What the event carries beside its name and its time.
fn fields(event: &TelemetryEvent) -> String {
    let measurements = event
        .measurements
        .iter()
        .filter(|(key, _)| *key != "system_time")
        .map(|(key, value)| format!("{}={}", escaped(key, MAX_VALUE), shown(value)));
    let correlation = Some(&event.correlation_id)
        .filter(|id| !id.is_empty())
        .map(|id| format!("correlation_id={}", escaped(id, MAX_VALUE)));
    let metadata = event
        .metadata
        .iter()
        .map(|(key, value)| format!("{}={}", escaped(key, MAX_VALUE), escaped(value, MAX_VALUE)));
    correlation.into_iter().chain(measurements).chain(metadata).collect::<Vec<_>>().join(" ")
}

fn shown(value: &TelemetryValue) -> String {
    match &value.value {
        None => String::new(),
        Some(Value::IntValue(int)) => int.to_string(),
        Some(Value::FloatValue(float)) => float.to_string(),
        Some(Value::StringValue(text)) => escaped(text, MAX_VALUE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::script::{MomentKind, NESTED, Stamps};

    #[test]
    fn events_are_shown_with_what_they_carry() {
        let events: Vec<_> = NESTED
            .timeline()
            .iter()
            .map(|moment| {
                let time = i64::try_from(moment.at.as_nanos()).unwrap();
                let duration_ns = if moment.kind == MomentKind::End { 15_000_000 } else { 0 };
                moment.event("demo-1", Stamps { system_time_ns: time, timestamp_ns: time, duration_ns })
            })
            .collect();
        let drawing = draw(&events, Style::PLAIN);
        let shown: Vec<_> = drawing.lines().collect();
        assert_eq!(
            shown[..4],
            [
                "  +  0.0 ms  tool.execution.start    correlation_id=demo-1 tool=summarize",
                "  +  6.0 ms  cache.lookup.start      cache=prompts correlation_id=demo-1",
                "  + 21.0 ms  cache.miss              correlation_id=demo-1",
                "  + 21.0 ms  cache.lookup.stop       duration=15000000 cache=prompts correlation_id=demo-1 \
                 result=success",
            ]
        );
        let size = "  +320.0 ms  tool.result_size        correlation_id=demo-1 bytes=1824 tool=summarize";
        assert_eq!(shown[11], size);
    }
}
