//! The tables of `docs/metrics.md` are true.

use super::*;
use crate::engine::metrics::prometheus::prometheus_name;

const DOCUMENT: &str = include_str!("../../../../../docs/metrics.md");

/// Law: every documented event becomes what its row says, under the name that the row says Prometheus gives it.
#[test]
fn every_documented_event_becomes_what_its_row_says() {
    let begin = DOCUMENT.find("<!-- begin of the events -->").expect("the tables begin");
    let end = DOCUMENT.find("<!-- end of the events -->").expect("the tables end");
    let mut rows = 0;
    for line in
        DOCUMENT[begin..end].lines().filter(|line| line.starts_with("| `") || line.starts_with("| span"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [event, measurement, instrument, kind, unit, prometheus] = cells[..] else { panic!("{line}") };
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let made = made(event, &plain(measurement));
        let found = (made.name.to_string(), kind_of(&made), made.unit.to_string(), translated(&made));
        assert_eq!(found, (plain(instrument), kind, plain(unit), plain(prometheus)), "{line}");
        assert_eq!(prometheus_name(&made), plain(prometheus), "what the engine takes for its name: {line}");
        rows += 1;
    }
    assert!(rows > 40, "{rows} rows were read");
}

/// The instrument of a measurement, `-` for none, of an event, or of a span whose name has `span ` before it.
fn made(event: &str, measurement: &str) -> Arc<Instrument> {
    let mut bench = Bench::new();
    let mut last = None;
    let take = |measured: &Measured<'_>| {
        last = Some(Arc::clone(measured.instrument));
        Ok(())
    };
    if let Some(operation) = event.strip_prefix("span ") {
        let name = bench.name(&format!("{}.stop", operation.trim_matches('`')));
        let mut attributes = Attributes::default();
        if measurement != DURATION {
            attributes.set(measurement, AttributeValue::Int(1));
        }
        bench.mapping.span(&name, &attributes, 1, take);
    } else {
        let name = bench.name(event.trim_matches('`'));
        let measurements = (measurement != "-").then_some((measurement, Int(1)));
        let event = Event { measurements: measurements.into_iter().collect(), ..Event::default() };
        bench.mapping.event(&name, &event, take);
    }
    last.expect("it is measured")
}

fn kind_of(instrument: &Instrument) -> &'static str {
    match instrument.kind {
        Kind::Counter => "counter",
        Kind::UpDownCounter => "updowncounter",
        Kind::Gauge => "gauge",
        Kind::Histogram { .. } | Kind::ExponentialHistogram => "histogram",
    }
}

/// Prometheus's default translation of a metric's name, as the Collector does it too.
fn translated(instrument: &Instrument) -> String {
    let is_kept = |character: char| character.is_ascii_alphanumeric() || character == ':';
    let mut parts: Vec<&str> =
        instrument.name.split(|character| !is_kept(character)).filter(|part| !part.is_empty()).collect();
    let unit = match &*instrument.unit {
        "s" => "seconds",
        "By" => "bytes",
        "%" => "percent",
        "1" if instrument.kind == Kind::Gauge => "ratio",
        "" | "1" => "",
        unit if unit.starts_with('{') => "",
        unit => panic!("no word for {unit}"),
    };
    if !unit.is_empty() && !parts.contains(&unit) {
        parts.push(unit);
    }
    if instrument.kind == Kind::Counter {
        parts.retain(|part| *part != "total");
        parts.push("total");
    }
    parts.join("_")
}
