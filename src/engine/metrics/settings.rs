//! How metrics are made. Values are validated; where they come from is the configuration's business.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::metrics::instrument::Kind;

/// Default of [`MetricSettings::max_series`], from the OpenTelemetry specification.
pub const DEFAULT_MAX_SERIES: usize = 2000;
/// Default of [`MetricSettings::max_series_per_worker`]: a worker beyond it has an attribute that is an identifier.
pub const DEFAULT_MAX_SERIES_PER_WORKER: usize = 10_000;
/// Default of [`MetricSettings::max_instruments_per_worker`].
pub const DEFAULT_MAX_INSTRUMENTS_PER_WORKER: usize = 1000;
/// Default of [`MetricSettings::series_idle`]: what is measured once a quarter of an hour stays.
pub const DEFAULT_SERIES_IDLE: Duration = Duration::from_secs(3600);

/// Everything that decides how metrics are made.
#[derive(Debug, Clone)]
pub struct MetricSettings {
    /// The first that matches counts.
    pub rules: Vec<MetricRule>,
    /// Keys of point attributes beside the established ones, as the worker sends them.
    pub allow: Vec<String>,
    /// Globs of keys that are no point attributes, whatever allows them, a rule's own list apart.
    pub deny: Vec<String>,
    /// Series of one instrument of one worker; what is beyond goes to its overflow series.
    pub max_series: usize,
    /// Series of one worker in all.
    pub max_series_per_worker: usize,
    /// Instruments of one worker.
    pub max_instruments_per_worker: usize,
    /// A series without a measurement for this long expires.
    pub series_idle: Duration,
    /// Of counters and histograms; up-down counters are always cumulative, gauges have none.
    pub temporality: Temporality,
    /// What a histogram is where no rule gives bounds.
    pub histogram: HistogramAggregation,
    /// Which measurements may become exemplars.
    pub exemplars: ExemplarFilter,
}

/// A rule of `metrics.rules`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRule {
    /// Glob on the event's name as the worker sends it; of a span, on its operation.
    pub event: String,
    /// This measurement, `duration` of a span included, or `count` for an event that has none. Every one where absent.
    pub measurement: Option<String>,
    /// What it becomes; [`RuleInstrument::None`] makes no metric of it.
    pub instrument: Option<RuleInstrument>,
    /// UCUM, instead of the one that follows from the measurement; it is converted to where the two are known.
    pub unit: Option<String>,
    /// UCUM: the unit in which the measurement is sent, where that is not the one that follows from its name. A span's own
    /// duration is not sent as it is measured, and has none.
    pub sent_unit: Option<String>,
    /// Exactly these metadata keys become point attributes, instead of those that are allowed generally.
    pub attributes: Option<Vec<String>>,
    /// Of an explicit-bucket histogram; finite, ascending.
    pub boundaries: Option<Arc<[f64]>>,
    /// The instrument's whole name.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Only events whose metadata match all of these globs are measured.
    pub keep: Vec<(String, String)>,
    /// Events whose metadata match any of these globs are not measured.
    pub drop: Vec<(String, String)>,
}

/// What a rule makes of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleInstrument {
    /// A monotonic sum.
    Counter,
    /// A sum that goes up and down.
    UpDownCounter,
    /// The last value.
    Gauge,
    /// A distribution.
    Histogram,
    /// Nothing.
    None,
}

/// Which points are differences to the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// None.
    Cumulative,
    /// Those of counters and histograms.
    Delta,
}

/// What histograms are without a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistogramAggregation {
    /// With fixed bounds.
    Explicit,
    /// With bounds that follow the values.
    Exponential,
}

/// Which measurements may become exemplars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExemplarFilter {
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// Those of sampled traces.
    TraceBased,
}

/// The specification's defaults.
impl Default for MetricSettings {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            max_series: DEFAULT_MAX_SERIES,
            max_series_per_worker: DEFAULT_MAX_SERIES_PER_WORKER,
            max_instruments_per_worker: DEFAULT_MAX_INSTRUMENTS_PER_WORKER,
            series_idle: DEFAULT_SERIES_IDLE,
            temporality: Temporality::Cumulative,
            histogram: HistogramAggregation::Explicit,
            exemplars: ExemplarFilter::TraceBased,
        }
    }
}

impl MetricRule {
    /// A rule for every measurement of the events that this glob matches, which changes nothing yet.
    #[must_use]
    pub fn of(event: &str) -> Self {
        Self {
            event: event.to_owned(),
            measurement: None,
            instrument: None,
            unit: None,
            sent_unit: None,
            attributes: None,
            boundaries: None,
            name: None,
            description: None,
            keep: Vec::new(),
            drop: Vec::new(),
        }
    }
}

impl MetricSettings {
    /// The kind of a histogram with these bounds where it has bounds at all.
    #[must_use]
    pub fn histogram_kind(&self, boundaries: Arc<[f64]>) -> Kind {
        match self.histogram {
            HistogramAggregation::Explicit => Kind::Histogram { boundaries },
            HistogramAggregation::Exponential => Kind::ExponentialHistogram,
        }
    }
}
