//! What an exported span says about its worker: the OpenTelemetry resource and scope.
//!
//! Each worker is a resource of its own. What the worker says of itself always stands; the bridge's own
//! `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` come on top of the defaults, except for what describes the bridge's
//! own process or place, which would be false of a worker. With [`ResourceSettings::same_host`] the operator says that
//! bridge and workers share their place; then those pass too, where the worker itself says nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashMap;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use crate::worker::Source;

/// `service.name` of every worker unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` give another.
pub const DEFAULT_SERVICE_NAME: &str = "snakepit-python";
/// `service.namespace`.
pub const SERVICE_NAMESPACE: &str = "snakepit";
/// Name of the scope, and of the distribution.
pub const SCOPE_NAME: &str = "snakepit-otel-bridge";
/// Version of the scope, and of the distribution.
pub const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Resources kept encoded. Past this the cache starts anew: encoding one costs microseconds, and this many take about
/// 4 MB.
const MAX_CACHED_RESOURCES: usize = 10_000;

/// What is said of every worker.
#[derive(Debug, Clone, Default)]
pub struct ResourceSettings {
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub attributes: Vec<(String, String)>,
    /// `workers.same_host`: what describes the bridge's process and place is true of the workers too.
    pub same_host: bool,
}

/// Encoded resources, by [`Source::serial`].
#[derive(Debug)]
pub struct Resources {
    settings: ResourceSettings,
    encoded: HashMap<u64, Bytes>,
}

impl Resources {
    /// No resource is encoded yet.
    #[must_use]
    pub fn new(settings: ResourceSettings) -> Self {
        Self { settings, encoded: HashMap::new() }
    }

    /// The encoded `Resource` of `source`.
    pub fn encoded(&mut self, source: &Source) -> Bytes {
        if let Some(known) = self.encoded.get(&source.serial) {
            return known.clone();
        }
        if self.encoded.len() >= MAX_CACHED_RESOURCES {
            self.encoded.clear();
        }
        let bytes = Bytes::from(resource(source, &self.settings).encode_to_vec());
        self.encoded.insert(source.serial, bytes.clone());
        bytes
    }
}

/// The scope of every span.
#[must_use]
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE_NAME.to_owned(),
        version: SCOPE_VERSION.to_owned(),
        ..InstrumentationScope::default()
    }
}

/// The resource of `source`, its attributes in the order of their keys.
#[must_use]
pub fn resource(source: &Source, settings: &ResourceSettings) -> Resource {
    let text = |text: &str| Value::StringValue(text.to_owned());
    let mut attributes = BTreeMap::new();
    attributes.insert("service.name", text(DEFAULT_SERVICE_NAME));
    attributes.insert("service.namespace", text(SERVICE_NAMESPACE));
    if let Some(host) = &source.host {
        attributes.insert("host.name", text(host));
    }

    for (key, value) in &settings.attributes {
        if settings.same_host || !describes_the_bridge(key) {
            attributes.insert(key, text(value));
        }
    }
    if let Some(name) = &settings.service_name {
        attributes.insert("service.name", text(name));
    }

    attributes.insert("service.instance.id", text(&source.instance_id()));
    attributes.insert("snakepit.worker.id", text(&source.worker_id));
    attributes.insert("snakepit.node", text(&source.node));
    if let Some(pool) = &source.pool {
        attributes.insert("snakepit.pool", text(pool));
    }
    if let Some(pid) = source.pid {
        attributes.insert("process.pid", Value::IntValue(i64::from(pid)));
    }
    attributes.insert("telemetry.distro.name", text(SCOPE_NAME));
    attributes.insert("telemetry.distro.version", text(SCOPE_VERSION));

    let attributes = attributes
        .into_iter()
        .map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        })
        .collect();
    Resource { attributes, ..Resource::default() }
}

/// Whether an attribute is about the bridge's own process or place, and so not about a worker's.
fn describes_the_bridge(key: &str) -> bool {
    key == "service.instance.id"
        || ["host.", "process.", "container.", "k8s.pod.", "telemetry."]
            .iter()
            .any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exporter::testing::source;

    fn attributes(source: &Source, settings: &ResourceSettings) -> Vec<(String, String)> {
        resource(source, settings)
            .attributes
            .into_iter()
            .map(|attribute| {
                let value = attribute.value.and_then(|value| value.value).unwrap();
                if let Value::StringValue(text) = value {
                    return (attribute.key, text);
                }
                let Value::IntValue(int) = value else { panic!("{value:?}") };
                (attribute.key, format!("{int} (int)"))
            })
            .collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_worker_is_a_resource() {
        assert_eq!(
            attributes(&source(1), &ResourceSettings::default()),
            owned(&[
                ("host.name", "host_a"),
                ("process.pid", "4711 (int)"),
                ("service.instance.id", "worker_1@node_a"),
                ("service.name", "snakepit-python"),
                ("service.namespace", "snakepit"),
                ("snakepit.node", "node_a"),
                ("snakepit.pool", "default"),
                ("snakepit.worker.id", "worker_1"),
                ("telemetry.distro.name", "snakepit-otel-bridge"),
                ("telemetry.distro.version", SCOPE_VERSION),
            ])
        );
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let source = Source { pool: None, pid: None, host: None, ..Source::clone(&source(1)) };
        let keys: Vec<_> =
            attributes(&source, &ResourceSettings::default()).into_iter().map(|(key, _)| key).collect();
        assert!(!keys.iter().any(|key| key == "snakepit.pool" || key == "process.pid" || key == "host.name"));
    }

    #[test]
    fn the_bridges_environment_comes_on_top_except_for_its_own_process_and_place() {
        let mut settings = ResourceSettings {
            service_name: Some("named".to_owned()),
            attributes: owned(&[
                ("service.name", "beaten"),
                ("deployment.environment.name", "test"),
                ("k8s.namespace.name", "ns"),
                ("service.instance.id", "bridge"),
                ("host.name", "bridge-host"),
                ("process.pid", "1"),
                ("container.id", "c"),
                ("k8s.pod.name", "p"),
                ("telemetry.sdk.name", "t"),
                ("snakepit.worker.id", "other"),
            ]),
            same_host: false,
        };
        let source = source(1);
        let of = |settings: &ResourceSettings, key: &str| {
            attributes(&source, settings).into_iter().find(|(k, _)| k == key).map(|(_, value)| value)
        };
        assert_eq!(of(&settings, "service.name").as_deref(), Some("named"));
        assert_eq!(of(&settings, "deployment.environment.name").as_deref(), Some("test"));
        assert_eq!(of(&settings, "k8s.namespace.name").as_deref(), Some("ns"));
        assert_eq!(of(&settings, "host.name").as_deref(), Some("host_a"));
        assert_eq!(of(&settings, "snakepit.worker.id").as_deref(), Some("worker_1"));
        for absent in ["container.id", "k8s.pod.name", "telemetry.sdk.name"] {
            assert_eq!(of(&settings, absent), None, "{absent}");
        }

        settings.same_host = true;
        assert_eq!(of(&settings, "host.name").as_deref(), Some("bridge-host"));
        assert_eq!(of(&settings, "k8s.pod.name").as_deref(), Some("p"));
        assert_eq!(of(&settings, "service.instance.id").as_deref(), Some("worker_1@node_a"));
        assert_eq!(of(&settings, "process.pid").as_deref(), Some("4711 (int)"));
    }

    #[test]
    fn the_cache_is_bounded_and_right() {
        let mut resources = Resources::new(ResourceSettings::default());
        for serial in 0..=MAX_CACHED_RESOURCES as u64 {
            resources.encoded(&source(serial));
        }
        assert!(resources.encoded.len() <= MAX_CACHED_RESOURCES);
        let decoded = Resource::decode(resources.encoded(&source(3))).unwrap();
        assert_eq!(decoded, resource(&source(3), &ResourceSettings::default()));
    }
}
