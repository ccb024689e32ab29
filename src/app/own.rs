//! What the bridge tells of itself over OTLP: where to, and about which instance.

use std::sync::Arc;
use std::time::Duration;

use super::clock;
use crate::config::Config;
use crate::diagnostics::own::OwnTelemetry;
use crate::exporter::Destination;
use crate::exporter::settings::OtlpSettings;
use crate::exporter::signal::Signal;

/// What is asked for; `None` if nothing is, or if there is no OTLP peer.
pub(crate) fn own_telemetry(config: &Config) -> Option<OwnTelemetry> {
    let destinations: Vec<_> =
        config.own_telemetry.iter().filter_map(|signal| destination(config, *signal)).collect();
    if destinations.is_empty() {
        return None;
    }
    // What the users say of their workers' service is not said of the bridge.
    let attributes = config.otel.resource_attributes.value.iter();
    let attributes = attributes.filter(|(key, _)| !key.starts_with("service."));
    Some(OwnTelemetry {
        destinations,
        attributes: attributes.cloned().collect(),
        instance: format!("{}:{}", clock::host_name(), std::process::id()),
        clock: Arc::new(clock::start()),
    })
}

/// Where a signal goes, and how long a request may take: as the workers' own would.
fn destination(config: &Config, signal: Signal) -> Option<(OtlpSettings, Duration)> {
    let settings = config.otel.exporter_settings(signal, config.same_host, 0);
    let Destination::Otlp(otlp) = settings.destination else { return None };
    Some((otlp, settings.request_timeout))
}
