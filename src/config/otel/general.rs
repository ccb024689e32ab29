//! The variables that are no signal's alone: sampler, limits, propagators, the bridge's own log, how metrics are made.

use crate::config::env::{EnvSource, Origin, Setting, Variables, parse_choice, parse_number};
use crate::config::otel::{EffectiveValue, effective};
use crate::diagnostics::LogLevel;
use crate::engine::metrics::settings::{self, ExemplarFilter, HistogramAggregation, MetricSettings};
use crate::engine::sampler::{Ratio, SamplerSettings};
use crate::engine::settings::{ExceptionSignal, Limits, Propagators};

pub(super) const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
pub(super) const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
pub(super) const PROPAGATORS: &str = "OTEL_PROPAGATORS";
pub(super) const LOG_LEVEL: &str = "OTEL_LOG_LEVEL";
pub(super) const EXCEPTION_SIGNAL: &str = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN";
const VALUE_LENGTH: &str = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT";
const COUNT: &str = "OTEL_ATTRIBUTE_COUNT_LIMIT";
const SPAN_VALUE_LENGTH: &str = "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT";
const SPAN_COUNT: &str = "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT";
const EVENT_COUNT: &str = "OTEL_SPAN_EVENT_COUNT_LIMIT";
const LINK_COUNT: &str = "OTEL_SPAN_LINK_COUNT_LIMIT";
const EVENT_ATTRIBUTE_COUNT: &str = "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT";
const LINK_ATTRIBUTE_COUNT: &str = "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT";
const LOG_VALUE_LENGTH: &str = "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT";
const LOG_COUNT: &str = "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT";
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
const HISTOGRAM: &str = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
const EXEMPLAR_FILTER: &str = "OTEL_METRICS_EXEMPLAR_FILTER";

/// The specification's default of every limit on a number of things.
const DEFAULT_COUNT: usize = 128;

/// Limits on what a span or a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitVariables {
    /// Characters of a text.
    pub value_length: Setting<Option<usize>>,
    /// Attributes.
    pub count: Setting<usize>,
    /// Characters of a text of a span, its events and its links.
    pub span_value_length: Setting<Option<usize>>,
    /// Attributes of a span.
    pub span_count: Setting<usize>,
    /// Events of a span.
    pub event_count: Setting<usize>,
    /// Links of a span.
    pub link_count: Setting<usize>,
    /// Attributes of an event.
    pub event_attribute_count: Setting<usize>,
    /// Attributes of a link.
    pub link_attribute_count: Setting<usize>,
    /// Characters of a text of a log record.
    pub log_value_length: Setting<Option<usize>>,
    /// Attributes of a log record.
    pub log_count: Setting<usize>,
}

/// How metrics are made and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricVariables {
    /// Which points are differences.
    pub temporality: Setting<Temporality>,
    /// What histograms are without a rule.
    pub histogram: Setting<HistogramAggregation>,
    /// Which measurements may become exemplars.
    pub exemplar_filter: Setting<ExemplarFilter>,
}

/// Which points are differences to the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temporality {
    /// None.
    Cumulative,
    /// All but those of up-down counters.
    Delta,
    /// Those of synchronous counters and histograms.
    LowMemory,
}

/// As the variables spell them.
pub(super) const TEMPORALITIES: [(&str, Temporality); 3] = [
    ("cumulative", Temporality::Cumulative),
    ("delta", Temporality::Delta),
    ("lowmemory", Temporality::LowMemory),
];
/// As the variables and the file spell them.
pub(super) const HISTOGRAMS: [(&str, HistogramAggregation); 2] = [
    ("explicit_bucket_histogram", HistogramAggregation::Explicit),
    ("base2_exponential_bucket_histogram", HistogramAggregation::Exponential),
];
/// As the variables and the file spell them.
pub(super) const EXEMPLAR_FILTERS: [(&str, ExemplarFilter); 3] = [
    ("always_on", ExemplarFilter::AlwaysOn),
    ("always_off", ExemplarFilter::AlwaysOff),
    ("trace_based", ExemplarFilter::TraceBased),
];

/// As the variable spells them; without either, an exception is a span event.
const EXCEPTION_SIGNALS: [(&str, ExceptionSignal); 2] =
    [("logs", ExceptionSignal::Record), ("logs/dup", ExceptionSignal::Both)];

fn spelt<T: PartialEq>(choices: &[(&'static str, T)], value: &T) -> String {
    choices.iter().find(|(_, choice)| choice == value).map_or("", |(name, _)| *name).to_owned()
}

impl Default for LimitVariables {
    fn default() -> Self {
        Self {
            value_length: Setting::default(None),
            count: Setting::default(DEFAULT_COUNT),
            span_value_length: Setting::default(None),
            span_count: Setting::default(DEFAULT_COUNT),
            event_count: Setting::default(DEFAULT_COUNT),
            link_count: Setting::default(DEFAULT_COUNT),
            event_attribute_count: Setting::default(DEFAULT_COUNT),
            link_attribute_count: Setting::default(DEFAULT_COUNT),
            log_value_length: Setting::default(None),
            log_count: Setting::default(DEFAULT_COUNT),
        }
    }
}

impl LimitVariables {
    /// The more specific variable first, then the general one, then the default.
    pub(super) fn read<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) -> Self {
        let number = |text: &str| {
            let number = parse_number(text, 0)?;
            usize::try_from(number).map_err(|_| "too large".to_owned())
        };
        let length = |text: &str| number(text).map(Some);
        Self {
            value_length: variables.first_or(&[VALUE_LENGTH], None, length),
            count: variables.first_or(&[COUNT], DEFAULT_COUNT, number),
            span_value_length: variables.first_or(&[SPAN_VALUE_LENGTH, VALUE_LENGTH], None, length),
            span_count: variables.first_or(&[SPAN_COUNT, COUNT], DEFAULT_COUNT, number),
            event_count: variables.first_or(&[EVENT_COUNT], DEFAULT_COUNT, number),
            link_count: variables.first_or(&[LINK_COUNT], DEFAULT_COUNT, number),
            event_attribute_count: variables.first_or(&[EVENT_ATTRIBUTE_COUNT, COUNT], DEFAULT_COUNT, number),
            link_attribute_count: variables.first_or(&[LINK_ATTRIBUTE_COUNT, COUNT], DEFAULT_COUNT, number),
            log_value_length: variables.first_or(&[LOG_VALUE_LENGTH, VALUE_LENGTH], None, length),
            log_count: variables.first_or(&[LOG_COUNT, COUNT], DEFAULT_COUNT, number),
        }
    }

    /// Tells the engine.
    pub fn apply(&self, limits: &mut Limits) {
        limits.max_attribute_value_chars = self.span_value_length.value;
        limits.max_attributes = self.span_count.value;
        limits.max_span_events = self.event_count.value;
        limits.max_span_links = self.link_count.value;
        limits.max_event_attributes = self.event_attribute_count.value;
        limits.max_link_attributes = self.link_attribute_count.value;
        limits.max_record_attributes = self.log_count.value;
        limits.max_record_attribute_chars = self.log_value_length.value;
    }

    pub(super) fn effective(&self) -> Vec<EffectiveValue> {
        let bytes = Limits::default().max_attribute_value_bytes;
        let span_length = |length: &Option<usize>| {
            length.map_or_else(|| format!("none, but {bytes} bytes"), |length| length.to_string())
        };
        let length = |length: &Option<usize>| length.map_or("none".to_owned(), |length| length.to_string());
        vec![
            effective(VALUE_LENGTH, &self.value_length, length),
            effective(COUNT, &self.count, ToString::to_string),
            effective(SPAN_VALUE_LENGTH, &self.span_value_length, span_length),
            effective(SPAN_COUNT, &self.span_count, ToString::to_string),
            effective(EVENT_COUNT, &self.event_count, ToString::to_string),
            effective(LINK_COUNT, &self.link_count, ToString::to_string),
            effective(EVENT_ATTRIBUTE_COUNT, &self.event_attribute_count, ToString::to_string),
            effective(LOG_VALUE_LENGTH, &self.log_value_length, length),
            effective(LOG_COUNT, &self.log_count, ToString::to_string),
        ]
    }
}

impl Default for MetricVariables {
    fn default() -> Self {
        Self {
            temporality: Setting::default(Temporality::Cumulative),
            histogram: Setting::default(HistogramAggregation::Explicit),
            exemplar_filter: Setting::default(ExemplarFilter::TraceBased),
        }
    }
}

impl MetricVariables {
    /// Tells the engine how metrics are made.
    pub fn apply(&self, settings: &mut MetricSettings) {
        settings.temporality = match self.temporality.value {
            Temporality::Cumulative => settings::Temporality::Cumulative,
            // Everything here is counted as it happens: there are no asynchronous counters to keep cumulative.
            Temporality::Delta | Temporality::LowMemory => settings::Temporality::Delta,
        };
        settings.histogram = self.histogram.value;
        settings.exemplars = self.exemplar_filter.value;
    }

    pub(super) fn read<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) -> Self {
        let defaults = Self::default();
        Self {
            temporality: variables.first_or(&[TEMPORALITY], defaults.temporality.value, |text| {
                parse_choice(text, &TEMPORALITIES)
            }),
            histogram: variables
                .first_or(&[HISTOGRAM], defaults.histogram.value, |text| parse_choice(text, &HISTOGRAMS)),
            exemplar_filter: variables.first_or(&[EXEMPLAR_FILTER], defaults.exemplar_filter.value, |text| {
                parse_choice(text, &EXEMPLAR_FILTERS)
            }),
        }
    }

    pub(super) fn effective(&self) -> Vec<EffectiveValue> {
        vec![
            effective(TEMPORALITY, &self.temporality, |value| spelt(&TEMPORALITIES, value)),
            effective(HISTOGRAM, &self.histogram, |value| spelt(&HISTOGRAMS, value)),
            effective(EXEMPLAR_FILTER, &self.exemplar_filter, |value| spelt(&EXEMPLAR_FILTERS, value)),
        ]
    }
}

/// The sampler and its argument, which counts only with a sampler that takes one.
pub(super) fn read_sampler<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
) -> (Setting<SamplerSettings>, Setting<Ratio>) {
    #[derive(Clone, Copy)]
    enum Named {
        On,
        Off,
        Ratio,
        Remote,
    }
    const CHOICES: [(&str, (bool, Named)); 9] = [
        ("always_on", (false, Named::On)),
        ("always_off", (false, Named::Off)),
        ("traceidratio", (false, Named::Ratio)),
        ("parentbased_always_on", (true, Named::On)),
        ("parentbased_always_off", (true, Named::Off)),
        ("parentbased_traceidratio", (true, Named::Ratio)),
        ("jaeger_remote", (false, Named::Remote)),
        ("parentbased_jaeger_remote", (true, Named::Remote)),
        ("xray", (false, Named::Remote)),
    ];
    let all = Ratio::new(1.0).expect("1 is from 0 to 1");
    let named = variables.first(&[SAMPLER], |text| match parse_choice(text, &CHOICES)? {
        (_, Named::Remote) => Err("its rules come from elsewhere, which is not supported".to_owned()),
        named => Ok(named),
    });
    let takes_ratio = matches!(&named, Some(Setting { value: (_, Named::Ratio), .. }));
    let ratio = if takes_ratio {
        variables.first_or(&[SAMPLER_ARG], all, |text| {
            text.parse().map_err(|_| "not a number from 0 to 1".to_owned()).and_then(Ratio::new)
        })
    } else {
        if let Some(text) = variables.text(SAMPLER_ARG) {
            let problem = match named {
                None if variables.text(SAMPLER).is_some() => {
                    format!("no effect: what {SAMPLER} says is ignored")
                }
                None => format!("no effect: {SAMPLER} is not set"),
                Some(_) => format!("no effect: {SAMPLER} takes no ratio"),
            };
            variables.warn(SAMPLER_ARG, &text, &problem);
        }
        Setting::default(all)
    };
    let Some(Setting { value: (is_parent_based, named), origin }) = named else {
        return (Setting::default(SamplerSettings::default()), ratio);
    };
    let root = match named {
        Named::On | Named::Remote => SamplerSettings::AlwaysOn,
        Named::Off => SamplerSettings::AlwaysOff,
        Named::Ratio => SamplerSettings::Ratio(ratio.value),
    };
    if takes_ratio && !is_parent_based {
        let problem =
            "it ignores what callers decided, and so tears traces; parentbased_traceidratio does not";
        variables.warn(SAMPLER, "traceidratio", problem);
    }
    let value = if is_parent_based { SamplerSettings::parent_based(root) } else { root };
    (Setting { value, origin }, ratio)
}

/// As the variable spells it; what only a file can say, in its words.
pub(super) fn shown_sampler(sampler: &SamplerSettings) -> String {
    match sampler {
        SamplerSettings::AlwaysOn => "always_on".to_owned(),
        SamplerSettings::AlwaysOff => "always_off".to_owned(),
        SamplerSettings::Ratio(_) => "traceidratio".to_owned(),
        SamplerSettings::ParentBased(branches) => {
            if *sampler == SamplerSettings::parent_based(branches.root.clone()) {
                return format!("parentbased_{}", shown_sampler(&branches.root));
            }
            format!(
                "parentbased(root: {}, remote: {}, {}, local: {}, {})",
                shown_sampler(&branches.root),
                shown_sampler(&branches.remote_sampled),
                shown_sampler(&branches.remote_not_sampled),
                shown_sampler(&branches.local_sampled),
                shown_sampler(&branches.local_not_sampled),
            )
        }
    }
}

/// What a list of propagators names, and what in it is unknown.
pub(super) fn propagators<'a>(names: impl Iterator<Item = &'a str>) -> (Propagators, Vec<String>) {
    let mut propagators = Propagators { tracecontext: false, b3: false };
    let mut unknown = Vec::new();
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "tracecontext" => propagators.tracecontext = true,
            "b3" | "b3multi" => propagators.b3 = true,
            // Nothing here depends on baggage.
            "baggage" | "none" => {}
            _ => unknown.push(name.to_owned()),
        }
    }
    (propagators, unknown)
}

pub(super) fn read_propagators<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
) -> Setting<Propagators> {
    let default = Setting::default(Propagators::default());
    let Some(text) = variables.text(PROPAGATORS) else { return default };
    let names: Vec<_> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let (value, unknown) = propagators(names.iter().copied());
    for name in &unknown {
        let problem = format!("{name}: not one of tracecontext, baggage, b3, b3multi, none; ignored");
        variables.warn(PROPAGATORS, &text, &problem);
    }
    if names.len() > 1 && names.iter().any(|name| name.eq_ignore_ascii_case("none")) {
        variables.warn(PROPAGATORS, &text, "`none` beside others is ignored");
    }
    if unknown.len() == names.len() {
        return default;
    }
    Setting { value, origin: Origin::Variable(PROPAGATORS) }
}

pub(super) fn shown_propagators(propagators: &Propagators) -> String {
    let names: Vec<_> = [("tracecontext", propagators.tracecontext), ("b3", propagators.b3)]
        .into_iter()
        .filter(|(_, counts)| *counts)
        .map(|(name, _)| name)
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

/// A list, as all opt-ins of the semantic conventions are; of `logs` and `logs/dup` the latter counts.
pub(super) fn read_exception_signal<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
) -> Setting<ExceptionSignal> {
    let default = Setting::default(ExceptionSignal::default());
    let Some(text) = variables.text(EXCEPTION_SIGNAL) else { return default };
    let mut chosen = None;
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match parse_choice(name, &EXCEPTION_SIGNALS) {
            Ok(signal) if chosen != Some(ExceptionSignal::Both) => chosen = Some(signal),
            Ok(_) => {}
            Err(_) => {
                let problem = format!("{name}: not one of logs, logs/dup; ignored");
                variables.warn(EXCEPTION_SIGNAL, &text, &problem);
            }
        }
    }
    chosen.map_or(default, |value| Setting { value, origin: Origin::Variable(EXCEPTION_SIGNAL) })
}

pub(super) fn shown_exception_signal(signal: &ExceptionSignal) -> String {
    spelt(&EXCEPTION_SIGNALS, signal)
}

pub(super) fn read_log_level<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) -> Setting<LogLevel> {
    variables.first_or(&[LOG_LEVEL], LogLevel::Info, |text| {
        parse_choice(
            text,
            &[
                ("trace", LogLevel::Trace),
                ("debug", LogLevel::Debug),
                ("info", LogLevel::Info),
                ("warn", LogLevel::Warn),
                ("error", LogLevel::Error),
                // Nothing here is worse than an error.
                ("fatal", LogLevel::Error),
                ("none", LogLevel::Off),
                ("off", LogLevel::Off),
            ],
        )
    })
}
