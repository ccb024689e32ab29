//! What the demo changes in a bridge's configuration, and how its lines look on this terminal.

use std::io::{IsTerminal as _, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::admin::settings::AdminSettings;
use crate::cli::demo::style::Style;
use crate::config::Config;
use crate::config::env::{EnvSource, Origin, non_empty};
use crate::config::provenance::Source;
use crate::config::schema::{self, Key};

/// The bridge's reorder window in the demo: a person who looks on should not wait.
pub(super) const REORDER_WINDOW: Duration = Duration::from_millis(300);
/// How long a worker that died is waited for in the demo.
pub(super) const RECONNECT_GRACE: Duration = Duration::from_secs(1);
/// How long draining may take in the demo: a Collector that is away should not keep the prompt away.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// From one collection of metrics to the next in the demo: points are shown at the end, so they have to be made before it.
const COLLECTION_INTERVAL: Duration = Duration::from_millis(400);
/// Any free port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Puts in what suits a demo wherever nobody said otherwise: free ports, short waits.
///
/// The demo asks its own admin port, so that one is reached from loopback, without a token.
pub(super) fn prepare(config: &mut Config) {
    let is_default = |config: &Config, key: &Key| {
        let decided = config.effective.iter().find(|effective| effective.key == key.path);
        decided.is_none_or(|effective| effective.source == Source::Default)
    };
    if is_default(config, &schema::LISTEN) {
        config.listen = ANY_PORT;
    }
    if is_default(config, &schema::REORDER_WINDOW) {
        config.engine.reorder_window = REORDER_WINDOW;
    }
    if is_default(config, &schema::RECONNECT_GRACE) {
        config.engine.reconnect_grace = RECONNECT_GRACE;
    }
    if is_default(config, &schema::SHUTDOWN_TIMEOUT) {
        config.shutdown_timeout = SHUTDOWN_TIMEOUT;
    }
    // Points and records are shown, wherever they go beside.
    config.engine.metrics.get_or_insert_with(|| config.metrics.clone());
    config.engine.records = true;
    let interval = &mut config.otel.metrics.batches.schedule_delay;
    if interval.origin == Origin::Default {
        interval.value = COLLECTION_INTERVAL;
    }
    let keeps_admin = !is_default(config, &schema::ADMIN_LISTEN)
        && config.admin.token.is_none()
        && config.admin.listen.ip().is_loopback();
    if !keeps_admin {
        config.admin = AdminSettings { listen: ANY_PORT, ..AdminSettings::default() };
    }
}

/// How lines look on standard output: as wide as the terminal, with colours unless `NO_COLOR` or `TERM` say otherwise.
pub(super) fn style(env: &(impl EnvSource + ?Sized)) -> Style {
    if !stdout().is_terminal() {
        return Style::PLAIN;
    }
    let columns = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    Style::terminal(columns, wants_colours(env))
}

fn wants_colours(env: &(impl EnvSource + ?Sized)) -> bool {
    non_empty(env, "NO_COLOR").is_none() && non_empty(env, "TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::flags::Flags;
    use crate::engine::metrics::settings::Temporality;

    fn prepared(variables: &[(&str, &str)]) -> Config {
        let env: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut config = Config::load(&Flags::default(), &env, false).unwrap();
        prepare(&mut config);
        config
    }

    #[test]
    fn a_demo_takes_free_ports_and_waits_little() {
        let config = prepared(&[]);
        assert_eq!((config.listen, config.admin.listen), (ANY_PORT, ANY_PORT));
        assert_eq!(config.engine.reorder_window, REORDER_WINDOW);
        assert_eq!(config.engine.reconnect_grace, RECONNECT_GRACE);
        assert_eq!(config.shutdown_timeout, SHUTDOWN_TIMEOUT);
        assert_eq!(config.otel.metrics.batches.schedule_delay.value, COLLECTION_INTERVAL);
        assert!(config.engine.metrics.is_some() && config.engine.records);
    }

    #[test]
    fn what_somebody_said_stands() {
        let config = prepared(&[
            ("SNAKEPIT_BRIDGE_LISTEN", "127.0.0.1:50061"),
            ("SNAKEPIT_BRIDGE_ADMIN_LISTEN", "127.0.0.1:9464"),
            ("SNAKEPIT_BRIDGE_REORDER_WINDOW", "500ms"),
            ("SNAKEPIT_BRIDGE_RECONNECT_GRACE", "5s"),
            ("SNAKEPIT_BRIDGE_SHUTDOWN_TIMEOUT", "10s"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "7000"),
        ]);
        assert_eq!((config.listen.port(), config.admin.listen.port()), (50_061, 9464));
        assert_eq!(config.engine.reorder_window, Duration::from_millis(500));
        assert_eq!(config.engine.reconnect_grace, Duration::from_secs(5));
        assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
        assert_eq!(config.otel.metrics.batches.schedule_delay.value, Duration::from_secs(7));
    }

    #[test]
    fn metrics_are_made_as_somebody_said_though_they_go_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bridge.yaml");
        std::fs::write(&file, "metrics:\n  max_series: 77\n  rules: [{event: cache.*, instrument: none}]\n")
            .unwrap();
        let config = prepared(&[
            ("SNAKEPIT_BRIDGE_CONFIG", file.to_str().unwrap()),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ]);
        let metrics = config.engine.metrics.unwrap();
        assert_eq!((metrics.max_series, metrics.rules.len()), (77, 1));
        assert_eq!(metrics.temporality, Temporality::Delta);
    }

    #[test]
    fn the_admin_port_can_be_asked_by_the_demo() {
        let config = prepared(&[
            ("SNAKEPIT_BRIDGE_ADMIN_LISTEN", "0.0.0.0:9464"),
            ("SNAKEPIT_BRIDGE_ADMIN_INSECURE", "true"),
        ]);
        assert_eq!((config.admin.listen, config.admin.insecure), (ANY_PORT, false));
    }

    #[test]
    fn colours_can_be_declined() {
        let wants =
            |name: &str, value: &str| wants_colours(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert!(wants("TERM", "xterm-256color") && wants("NO_COLOR", ""));
        assert!(!wants("TERM", "dumb") && !wants("NO_COLOR", "1"));
    }
}
