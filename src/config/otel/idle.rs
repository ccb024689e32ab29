//! Variables that are understood and have no effect because of what else is set.

use crate::config::env::{EnvSource, MASKED, Origin, Setting, Variables};
use crate::config::otel::names::{GENERIC_OTLP, Names, names};
use crate::config::otel::signal::{Exporter, SignalSettings};
use crate::config::otel::table::{Status, VARIABLES};
use crate::config::otel::{CONFIG_FILE, OLD_CONFIG_FILE, SDK_DISABLED, general, listed};
use crate::exporter::settings::Protocol;
use crate::exporter::signal::Signal;

/// What counts although nothing is exported.
const ALWAYS: [&str; 4] = [CONFIG_FILE, OLD_CONFIG_FILE, SDK_DISABLED, general::LOG_LEVEL];

/// Says once of all that is set that nothing is exported.
pub(super) fn under_disabled<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) {
    let set: Vec<_> = VARIABLES
        .iter()
        .filter(|variable| !matches!(variable.status, Status::NotApplicable(_)))
        .map(|variable| variable.name)
        .filter(|name| !ALWAYS.contains(name) && variables.text(name).is_some())
        .collect();
    if !set.is_empty() {
        let problem = format!("nothing is exported, so these have no effect: {}", set.join(", "));
        variables.warn(SDK_DISABLED, "true", &problem);
    }
}

/// Warns of what is said about peers, batches and items where the exporter asks for none of them.
pub(super) fn beside_exporters<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
    signals: [&SignalSettings; 3],
) {
    for settings in signals.iter().filter(|settings| settings.exporter.value != Exporter::Otlp) {
        let names = names(settings.signal);
        let problem = format!("no effect: {}", says(names, &settings.exporter));
        names.otlp().into_iter().for_each(|[own, _]| no_effect(variables, own, &problem));
        if settings.exporter.value == Exporter::None {
            names.batches().for_each(|name| no_effect(variables, name, &problem));
            names.making.iter().for_each(|name| no_effect(variables, name, &problem));
        }
    }
    if signals.iter().all(|settings| settings.exporter.value != Exporter::Otlp) {
        let reasons = signals.map(|settings| says(names(settings.signal), &settings.exporter));
        let problem = format!("no effect: {}", reasons.join(", "));
        GENERIC_OTLP.iter().for_each(|name| no_effect(variables, name, &problem));
    }
}

fn says(names: &Names, exporter: &Setting<Exporter>) -> String {
    format!("{} is {}", names.exporter, exporter.value)
}

fn no_effect<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>, name: &'static str, problem: &str) {
    if variables.text(name).is_some() {
        variables.warn(name, MASKED, problem);
    }
}

/// Warns of an `INSECURE` that means nothing, because the endpoint has said already whether there is TLS.
pub(super) fn insecure<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
    signals: [&SignalSettings; 3],
) {
    let mut said: Vec<(&'static str, String, Vec<Signal>)> = Vec::new();
    for settings in signals.iter().filter(|settings| settings.exporter.value == Exporter::Otlp) {
        let Some((variable, reason)) = idle_insecure(variables, settings) else { continue };
        match said.iter_mut().find(|(known, why, _)| *known == variable && *why == reason) {
            Some((_, _, signals)) => signals.push(settings.signal),
            None => said.push((variable, reason, vec![settings.signal])),
        }
    }
    for (variable, reason, signals) in said {
        variables.warn(variable, "true", &format!("no effect on {}: {reason}", listed(&signals)));
    }
}

/// The variable that says so for this signal in vain, and why.
fn idle_insecure<E: EnvSource + ?Sized>(
    variables: &mut Variables<'_, E>,
    settings: &SignalSettings,
) -> Option<(&'static str, String)> {
    let (insecure, protocol) = (&settings.otlp.insecure, settings.otlp.protocol.value);
    let (true, Origin::Variable(variable)) = (insecure.value, insecure.origin) else { return None };
    let endpoint = names(settings.signal).endpoint.iter().find_map(|name| variables.text(name));
    let reason = match (protocol, endpoint) {
        (Protocol::HttpProtobuf | Protocol::HttpJson, _) => {
            format!("for {protocol} the scheme of the endpoint decides")
        }
        (Protocol::Grpc, None) => "the default endpoint is without TLS".to_owned(),
        (Protocol::Grpc, Some(text)) if text.contains("://") || text.starts_with("unix:") => {
            "the scheme of the endpoint decides".to_owned()
        }
        (Protocol::Grpc, Some(_)) => return None,
    };
    Some((variable, reason))
}

/// Warns of a level that the log does not have.
pub(super) fn log_level<E: EnvSource + ?Sized>(variables: &mut Variables<'_, E>) {
    if variables.text("RUST_LOG").is_some()
        && let Some(text) = variables.text(general::LOG_LEVEL)
    {
        variables.warn(general::LOG_LEVEL, &text, "RUST_LOG is set as well, and beats it");
    }
}
