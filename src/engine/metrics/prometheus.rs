//! The name that Prometheus gives to an instrument, so that two which are one there are not taken for two.
//!
//! As its OTLP endpoint and the Collector's exporters translate by default, in this order:
//!
//! | part of the name | what becomes of it |
//! |---|---|
//! | characters that are no letters or digits | cut the name into parts, joined by `_` |
//! | the unit's word, or `<word>_per_<word>` | comes last, unless the name has it already |
//! | `total`, of a counter | moves to the end, or comes there |
//! | `ratio`, of a gauge in `1` | the same |
//!
//! Letters' case does not tell names apart, for OpenTelemetry's sake.
//!
//! A histogram's series are called `<name>_bucket`, `<name>_count` and `<name>_sum`. Beside it nothing may have these names: of
//! two such instruments the Collector's exporter serves one, with an error for the other at each scrape, and which of the two
//! goes by their order. So it is with buckets of base 2, which stand there as a classic histogram of one bucket.

use smallvec::SmallVec;

use crate::engine::metrics::instrument::{Instrument, Kind};

/// What the series of a histogram have behind its name.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// A name in Prometheus that an instrument leaves to no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// In small letters.
    pub(crate) name: String,
    /// Only a histogram of this name is in the way: it has series that are called as the instrument is.
    pub(crate) of_histograms: bool,
}

/// Words of units; of any other, the unit itself is the word.
const WORDS: [(&str, &str); 26] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("%", "percent"),
    ("1", ""),
];

/// Words of what is behind a `/`.
const PER: [(&str, &str); 7] = [
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

/// The name in Prometheus, without what a histogram's series have behind it; in small letters.
pub(crate) fn prometheus_name(instrument: &Instrument) -> String {
    let name = instrument.name.to_ascii_lowercase();
    let (unit, per) = instrument.unit.split_once('/').unwrap_or((&instrument.unit, ""));
    let (unit, per) = (word(&WORDS, unit), word(&PER, per));
    let mut parts: Vec<&str> = parts(&name).collect();
    let has_unit = unit.is_empty() || parts.contains(&&*unit);
    let has_per = per.is_empty() || parts.contains(&&*per);
    if !has_unit {
        parts.push(&unit);
    }
    if !has_per {
        parts.extend(["per", &per]);
    }
    let last = match instrument.kind {
        Kind::Counter => Some("total"),
        Kind::Gauge if *instrument.unit == *"1" => Some("ratio"),
        Kind::UpDownCounter | Kind::Gauge | Kind::Histogram { .. } | Kind::ExponentialHistogram => None,
    };
    if let Some(last) = last {
        parts.retain(|part| *part != last);
        parts.push(last);
    }
    parts.join("_")
}

/// Names that no other instrument may have beside this one: its own, those of its series, and that of a histogram which would
/// have series of its own name.
pub(crate) fn claims(instrument: &Instrument) -> SmallVec<[Claim; 4]> {
    let name = prometheus_name(instrument);
    let mut claims = SmallVec::new();
    if is_histogram(&instrument.kind) {
        claims.extend(OF_HISTOGRAMS.map(|end| Claim { name: format!("{name}{end}"), of_histograms: false }));
    }
    if let Some(base) = OF_HISTOGRAMS.iter().find_map(|end| name.strip_suffix(end)) {
        claims.push(Claim { name: base.to_owned(), of_histograms: true });
    }
    claims.insert(0, Claim { name, of_histograms: false });
    claims
}

impl Claim {
    /// Whether an instrument of this name in Prometheus is in the way.
    pub(crate) fn is_against(&self, other: &Instrument) -> bool {
        (!self.of_histograms || is_histogram(&other.kind)) && prometheus_name(other) == self.name
    }
}

const fn is_histogram(kind: &Kind) -> bool {
    match kind {
        Kind::Histogram { .. } | Kind::ExponentialHistogram => true,
        Kind::Counter | Kind::UpDownCounter | Kind::Gauge => false,
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric()).filter(|part| !part.is_empty())
}

/// The word of a unit; none of an annotation.
fn word(words: &[(&str, &str)], unit: &str) -> String {
    let unit = unit.trim();
    if unit.contains(['{', '}']) {
        return String::new();
    }
    match words.iter().find(|(known, _)| *known == unit) {
        Some((_, word)) => (*word).to_owned(),
        None => parts(&unit.to_ascii_lowercase()).collect::<Vec<_>>().join("_"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(name: &str, unit: &str, kind: Kind, translated: &str) {
        let instrument = Instrument { name: name.into(), unit: unit.into(), description: "".into(), kind };
        assert_eq!(prometheus_name(&instrument), translated, "{name} in {unit}");
    }

    #[test]
    fn characters_are_replaced_and_their_runs_are_one() {
        is("a.b-c/d__e_", "", Kind::UpDownCounter, "a_b_c_d_e");
        is("A.bC", "", Kind::UpDownCounter, "a_bc");
    }

    #[test]
    fn a_units_word_is_added_where_the_name_does_not_have_it() {
        let histogram = || Kind::Histogram { boundaries: [].into() };
        for (name, unit, translated) in [
            ("x.duration", "s", "x_duration_seconds"),
            ("x.duration_seconds", "s", "x_duration_seconds"),
            ("x.seconds.y", "s", "x_seconds_y"),
            ("x.rss", "By", "x_rss_bytes"),
            ("x.wait", "min", "x_wait_minutes"),
            ("x.tokens", "{token}", "x_tokens"),
            ("x.share", "1", "x_share"),
            ("x.cpu", "%", "x_cpu_percent"),
            ("x.load", "By/s", "x_load_bytes_per_second"),
            ("x.load", "{request}/s", "x_load_per_second"),
            ("x.load", "widgets", "x_load_widgets"),
            ("x.load", "My Unit", "x_load_my_unit"),
        ] {
            is(name, unit, histogram(), translated);
            is(name, unit, Kind::ExponentialHistogram, translated);
        }
    }

    #[test]
    fn counters_have_total_and_fractions_ratio_at_their_end() {
        is("x.hits", "{hit}", Kind::Counter, "x_hits_total");
        is("x.total.hits", "{hit}", Kind::Counter, "x_hits_total");
        is("x.sent", "By", Kind::Counter, "x_sent_bytes_total");
        is("x.total", "", Kind::Gauge, "x_total");
        is("x.utilization", "1", Kind::Gauge, "x_utilization_ratio");
        is("x.ratio.used", "1", Kind::Gauge, "x_used_ratio");
        is("x.used", "1", Kind::UpDownCounter, "x_used");
    }

    #[test]
    fn histograms_claim_the_names_of_their_series() {
        let made = |name: &str, kind: Kind| Instrument {
            name: name.into(),
            unit: "".into(),
            description: "".into(),
            kind,
        };
        let claimed = |name: &str, kind: Kind| {
            let claims = claims(&made(name, kind));
            claims.into_iter().map(|claim| (claim.name, claim.of_histograms)).collect::<Vec<_>>()
        };
        let any = |name: &str| (name.to_owned(), false);
        let histograms = |name: &str| (name.to_owned(), true);
        let fixed = || Kind::Histogram { boundaries: [].into() };
        assert_eq!(claimed("x.y", Kind::Gauge), [any("x_y")]);
        assert_eq!(claimed("x.count", Kind::Counter), [any("x_count_total")]);
        assert_eq!(claimed("x.sum", Kind::Gauge), [any("x_sum"), histograms("x")]);
        let all = [any("x"), any("x_bucket"), any("x_count"), any("x_sum")];
        assert_eq!(claimed("x", fixed()), all);
        assert_eq!(claimed("x", Kind::ExponentialHistogram), all);
        let [own, bucket, count, sum] =
            ["x_count", "x_count_bucket", "x_count_count", "x_count_sum"].map(any);
        assert_eq!(claimed("x.count", fixed()), [own, bucket, count, sum, histograms("x")]);
    }

    #[test]
    fn whoever_claims_a_name_of_another_is_claimed_against() {
        let kinds = [Kind::Counter, Kind::UpDownCounter, Kind::Gauge, Kind::ExponentialHistogram];
        let names = ["x", "x.bucket", "x.count", "x.sum", "x.count.sum", "x.sums", "x.total", "y"];
        let all: Vec<Instrument> = kinds
            .iter()
            .flat_map(|kind| {
                names.map(|name| Instrument {
                    name: name.into(),
                    unit: "".into(),
                    description: "".into(),
                    kind: kind.clone(),
                })
            })
            .collect();
        let is_against =
            |one: &Instrument, other: &Instrument| claims(one).iter().any(|claim| claim.is_against(other));
        let mut against = 0;
        for (one, other) in all.iter().flat_map(|one| all.iter().map(move |other| (one, other))) {
            assert_eq!(is_against(one, other), is_against(other, one), "{one:?} and {other:?}");
            against += usize::from(is_against(one, other));
        }
        assert!(against > all.len(), "not only against themselves");
    }
}
