//! The file that `OTEL_CONFIG_FILE` names: OpenTelemetry's declarative configuration, as far as it concerns the bridge.
//!
//! It says everything: the variables are ignored, but for those that it asks for (`substitution`). A provider that is not
//! there does nothing. Keys that do not exist stop the start, but at the top, where others may stand beside ours; what
//! exists and has no effect here is warned of. A file that is missing or wrong stops the start: never do the variables
//! count in its place.

mod pipeline;
mod reader;
mod sampler;
mod substitution;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::config::env::{EnvSource, Origin, Setting, Warning, non_empty, parse_attributes};
use crate::config::file::{Node, Value};
use crate::config::otel::general::{LimitVariables, MetricVariables, propagators};
use crate::config::otel::{OtelSettings, SERVICE_NAME, SignalSettings, hints};
use crate::config::provenance::{Problem, Source};
use crate::config::{parse_file, read_text};
use crate::diagnostics::LogLevel;
use crate::engine::sampler::{Ratio, SamplerSettings};
use crate::engine::settings::{ExceptionSignal, Propagators};
use crate::exporter::signal::Signal;
use pipeline::{line, nothing, set};
use reader::{Reader, Section};
use substitution::Substitution;

/// The minor version of the schema that is known; the major one is 1.
const KNOWN_MINOR: u32 = 1;

/// What may stand at the top.
const TOP: [&str; 12] = [
    "file_format",
    "disabled",
    "log_level",
    "attribute_limits",
    "resource",
    "propagator",
    "tracer_provider",
    "meter_provider",
    "logger_provider",
    "instrumentation/development",
    "distribution",
    "id_generator",
];

/// As the file spells them; nothing here is between two levels.
const LEVELS: [(&str, LogLevel); 24] = [
    ("trace", LogLevel::Trace),
    ("trace2", LogLevel::Trace),
    ("trace3", LogLevel::Trace),
    ("trace4", LogLevel::Trace),
    ("debug", LogLevel::Debug),
    ("debug2", LogLevel::Debug),
    ("debug3", LogLevel::Debug),
    ("debug4", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("info2", LogLevel::Info),
    ("info3", LogLevel::Info),
    ("info4", LogLevel::Info),
    ("warn", LogLevel::Warn),
    ("warn2", LogLevel::Warn),
    ("warn3", LogLevel::Warn),
    ("warn4", LogLevel::Warn),
    ("error", LogLevel::Error),
    ("error2", LogLevel::Error),
    ("error3", LogLevel::Error),
    ("error4", LogLevel::Error),
    ("fatal", LogLevel::Error),
    ("fatal2", LogLevel::Error),
    ("fatal3", LogLevel::Error),
    ("fatal4", LogLevel::Error),
];

/// The service's name where a detector found it, and the attributes.
type Resource = (Setting<Option<String>>, Setting<Vec<(String, String)>>);

/// Reads the file that `variable` names.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn load<E: EnvSource + ?Sized>(
    path: &str,
    variable: &'static str,
    env: &E,
) -> Result<OtelSettings, Vec<Problem>> {
    let text = read_text(path, &Source::Variable(variable)).map_err(|problem| vec![problem])?;
    read(path, &text, env)
}

fn read<E: EnvSource + ?Sized>(path: &str, text: &str, env: &E) -> Result<OtelSettings, Vec<Problem>> {
    let mut root = parse_file(path, text).map_err(|problem| vec![problem])?;
    let mut reader = Reader { path: path.into(), problems: Vec::new(), warnings: Vec::new() };
    let mut substitution = Substitution { env, text, asked: BTreeSet::new(), wrong: Vec::new() };
    substitution.apply(&mut root);
    let Substitution { asked, wrong, .. } = substitution;
    if !wrong.is_empty() {
        // There is no partial result, and what was left out would be wrong as well.
        let problem = |(line, message)| Problem {
            source: Source::File { path: path.into(), line },
            key: None,
            message,
        };
        return Err(wrong.into_iter().map(problem).collect());
    }
    let settings = reader.root(&root, env);
    if !reader.problems.is_empty() {
        reader.problems.sort_by_key(|problem| problem.source.line());
        return Err(reader.problems);
    }
    let ignored: Vec<_> = hints::ignored(env).into_iter().filter(|name| !asked.contains(*name)).collect();
    if !ignored.is_empty() {
        reader.warnings.push(Warning {
            variable: ignored.join(", ").into(),
            value: None,
            problem: format!("ignored, because {path} says everything"),
        });
    }
    Ok(OtelSettings { warnings: reader.warnings, ..settings })
}

impl Reader {
    fn root<E: EnvSource + ?Sized>(&mut self, root: &Node, env: &E) -> OtelSettings {
        let top = match &root.value {
            Value::Map(entries) => {
                for (key, _) in entries.iter().filter(|(key, _)| !TOP.contains(&key.name.as_str())) {
                    self.warn(key.line, &key.name, "unknown key; ignored");
                }
                let names: Vec<_> = entries.iter().map(|(key, _)| key.name.as_str()).collect();
                self.section(root, "", &names)
            }
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => self.section(root, "", &TOP),
        };
        self.file_format(&top);
        for key in ["instrumentation/development", "distribution", "id_generator"] {
            self.without_effect(&top, key);
        }
        let (service_name, resource_attributes) = self.resource(&top, env);
        let mut limits = self.attribute_limits(&top);
        let (traces, sampler) = self.tracer_provider(&top, &mut limits);
        let mut metric_options = MetricVariables::default();
        let metrics = self.meter_provider(&top, &mut metric_options);
        let logs = self.logger_provider(&top, &mut limits);
        let none = Propagators { tracecontext: false, b3: false };
        OtelSettings {
            config_file: Setting::default(None),
            sdk_disabled: self.boolean(&top, "disabled").unwrap_or(Setting::default(false)),
            service_name,
            resource_attributes,
            log_level: self.choice(&top, "log_level", &LEVELS).unwrap_or(Setting::default(LogLevel::Info)),
            propagators: self.propagator(&top).unwrap_or(Setting::default(none)),
            exception_signal: Setting::default(ExceptionSignal::default()),
            sampler_ratio: Setting { value: root_ratio(&sampler.value), origin: sampler.origin },
            sampler,
            limits,
            traces,
            metrics,
            logs,
            metric_options,
            warnings: Vec::new(),
        }
    }

    /// A text; a number is forgiven, because the standard itself writes one.
    fn file_format(&mut self, top: &Section<'_>) {
        let Some(node) = top.node("file_format") else {
            return self.problem(1, "file_format", "it is missing: \"1.1\" is known here".to_owned());
        };
        let version = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Float(float) => float.to_string(),
            Value::Int(int) => int.to_string(),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => String::new(),
        };
        let (major, minor) = version.split_once('.').unwrap_or((&version, "0"));
        // `1.0-rc.3`: what comes after the number is of no consequence.
        let digits = minor.split(|digit: char| !digit.is_ascii_digit()).next().unwrap_or_default();
        match (major, digits.parse::<u32>()) {
            ("1", Ok(minor)) if minor > KNOWN_MINOR => {
                let problem = format!("{version} is newer than what is known here, 1.{KNOWN_MINOR}");
                self.warn(node.line, "file_format", &problem);
            }
            ("1", Ok(_)) => {}
            _ => {
                let message =
                    format!("`{}` is no version that is known here: \"1.1\" is", version.escape_debug());
                self.problem(node.line, "file_format", message);
            }
        }
    }

    fn resource<E: EnvSource + ?Sized>(&mut self, top: &Section<'_>, env: &E) -> Resource {
        let known = ["attributes", "attributes_list", "schema_url", "detection/development"];
        let resource = self.subsection(top, "resource", &known);
        let mut attributes = Setting::default(Vec::new());
        if let Some(Setting { value, origin }) = self.text(&resource, "attributes_list") {
            match parse_attributes(&value) {
                Ok(list) => attributes = Setting { value: list, origin },
                Err(problem) => {
                    self.warn(line(origin), "resource.attributes_list", &format!("{problem}; ignored"));
                }
            }
        }
        for (index, node) in self.list(&resource, "attributes").iter().enumerate() {
            let at = format!("resource.attributes[{index}]");
            let pair = self.section(node, &at, &["name", "value", "type"]);
            let Some(name) = self.text(&pair, "name") else {
                self.problem(node.line, &at, "an attribute has a name".to_owned());
                continue;
            };
            let Some(value) = self.attribute_value(&pair, node.line, &at) else { continue };
            attributes.value.retain(|(known, _)| *known != name.value);
            attributes.value.push((name.value, value));
            attributes.origin = Origin::File(node.line);
        }
        self.without_effect(&resource, "schema_url");
        let mut service_name = Setting::default(None);
        let detection = self.subsection(&resource, "detection/development", &["attributes", "detectors"]);
        for node in self.list(&detection, "detectors") {
            let Some(detector) = self.plugin(node, &detection.at) else { continue };
            if detector.name == "service" {
                let name = non_empty(env, SERVICE_NAME);
                let is_given = attributes.value.iter().any(|(key, _)| key == "service.name");
                service_name = match name.filter(|_| !is_given) {
                    Some(name) => Setting { value: Some(name), origin: Origin::Variable(SERVICE_NAME) },
                    None => service_name,
                };
            } else {
                self.warn(
                    detector.line,
                    &detector.at,
                    "no effect: it would describe the bridge, not a worker",
                );
            }
        }
        (service_name, attributes)
    }

    /// Resource attributes are texts here.
    fn attribute_value(&mut self, pair: &Section<'_>, line: u64, at: &str) -> Option<String> {
        match pair.node("value").map(|node| &node.value) {
            Some(Value::Text(text)) => Some(text.clone()),
            Some(Value::Bool(boolean)) => Some(boolean.to_string()),
            Some(Value::Int(int)) => Some(int.to_string()),
            Some(Value::Float(float)) => Some(float.to_string()),
            Some(Value::List(_) | Value::Map(_)) => {
                self.warn(line, at, "lists are not supported here; ignored");
                None
            }
            Some(Value::Null) | None => {
                self.problem(line, at, "an attribute has a value".to_owned());
                None
            }
        }
    }

    fn propagator(&mut self, top: &Section<'_>) -> Option<Setting<Propagators>> {
        let node = top.node("propagator")?;
        let section = self.subsection(top, "propagator", &["composite", "composite_list"]);
        let mut names = Vec::new();
        for entry in self.list(&section, "composite") {
            names.extend(self.plugin(entry, "propagator.composite").map(|plugin| plugin.name.to_owned()));
        }
        if let Some(Setting { value, .. }) = self.text(&section, "composite_list") {
            names.extend(value.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
        }
        let (value, unknown) = propagators(names.iter().map(String::as_str));
        for name in unknown {
            let known = "`tracecontext`, `baggage`, `b3`, `b3multi` and `none` are";
            self.problem(
                node.line,
                "propagator",
                format!("`{}` is not known here: {known}", name.escape_debug()),
            );
        }
        Some(Setting { value, origin: Origin::File(node.line) })
    }

    fn attribute_limits(&mut self, top: &Section<'_>) -> LimitVariables {
        let known = ["attribute_count_limit", "attribute_value_length_limit", "attribute_value_depth_limit"];
        let section = self.subsection(top, "attribute_limits", &known);
        let mut limits = LimitVariables::default();
        // No value is deeper than 1 here.
        self.without_effect(&section, "attribute_value_depth_limit");
        set(&mut limits.count, self.number(&section, "attribute_count_limit", 0));
        set(&mut limits.value_length, self.length(&section));
        let (count, length) = (limits.count.clone(), limits.value_length.clone());
        (limits.span_count, limits.event_attribute_count) = (count.clone(), count.clone());
        (limits.link_attribute_count, limits.log_count) = (count.clone(), count);
        (limits.span_value_length, limits.log_value_length) = (length.clone(), length);
        limits
    }

    fn length(&mut self, section: &Section<'_>) -> Option<Setting<Option<usize>>> {
        let Setting { value, origin } = self.number(section, "attribute_value_length_limit", 0)?;
        Some(Setting { value: Some(value), origin })
    }

    fn tracer_provider(
        &mut self,
        top: &Section<'_>,
        limits: &mut LimitVariables,
    ) -> (SignalSettings, Setting<SamplerSettings>) {
        if top.entry("tracer_provider").is_none() {
            return (nothing(Signal::Traces), Setting::default(SamplerSettings::default()));
        }
        let known = ["processors", "limits", "sampler", "id_generator", "tracer_configurator/development"];
        let provider = self.subsection(top, "tracer_provider", &known);
        let traces = self.processors(&provider, Signal::Traces);
        for key in ["id_generator", "tracer_configurator/development"] {
            self.without_effect(&provider, key);
        }
        let known = [
            "attribute_count_limit",
            "attribute_value_length_limit",
            "event_count_limit",
            "link_count_limit",
            "event_attribute_count_limit",
            "link_attribute_count_limit",
        ];
        let section = self.subsection(&provider, "limits", &known);
        set(&mut limits.span_value_length, self.length(&section));
        for (limit, key) in [
            (&mut limits.span_count, "attribute_count_limit"),
            (&mut limits.event_count, "event_count_limit"),
            (&mut limits.link_count, "link_count_limit"),
            (&mut limits.event_attribute_count, "event_attribute_count_limit"),
            (&mut limits.link_attribute_count, "link_attribute_count_limit"),
        ] {
            set(limit, self.number(&section, key, 0));
        }
        let sampler = self.sampler(&provider);
        (traces, sampler)
    }

    fn meter_provider(&mut self, top: &Section<'_>, options: &mut MetricVariables) -> SignalSettings {
        if top.entry("meter_provider").is_none() {
            return nothing(Signal::Metrics);
        }
        let known = ["readers", "views", "exemplar_filter", "meter_configurator/development"];
        let provider = self.subsection(top, "meter_provider", &known);
        self.exemplar_filter(&provider, options);
        for key in ["views", "meter_configurator/development"] {
            self.without_effect(&provider, key);
        }
        self.readers(&provider, options)
    }

    fn logger_provider(&mut self, top: &Section<'_>, limits: &mut LimitVariables) -> SignalSettings {
        if top.entry("logger_provider").is_none() {
            return nothing(Signal::Logs);
        }
        let provider = self.subsection(
            top,
            "logger_provider",
            &["processors", "limits", "logger_configurator/development"],
        );
        self.without_effect(&provider, "logger_configurator/development");
        let known = ["attribute_count_limit", "attribute_value_length_limit"];
        let section = self.subsection(&provider, "limits", &known);
        set(&mut limits.log_count, self.number(&section, "attribute_count_limit", 0));
        set(&mut limits.log_value_length, self.length(&section));
        self.processors(&provider, Signal::Logs)
    }
}

/// What `OTEL_TRACES_SAMPLER_ARG` would be.
fn root_ratio(sampler: &SamplerSettings) -> Ratio {
    match sampler {
        SamplerSettings::Ratio(ratio) => *ratio,
        SamplerSettings::ParentBased(branches) => root_ratio(&branches.root),
        SamplerSettings::AlwaysOn | SamplerSettings::AlwaysOff => Ratio::new(1.0).expect("1 is from 0 to 1"),
    }
}
