//! What the workers' points are made of, and when they are made.

use super::{Figures, counter, gauge};
use crate::admin::exposition::{Family, Kind, Sample, Value};
use crate::admin::sources::CollectionFigures;
use crate::engine::metrics::MetricFigures;

impl Figures {
    pub(super) fn measured(&self) -> [Family; 4] {
        let sum = |figure: fn(&MetricFigures) -> u64| self.measured.iter().map(figure).sum();
        [
            gauge(
                "snakepit_bridge_metric_instances",
                "Workers that have series.",
                sum(|one| one.instances as u64),
            ),
            gauge(
                "snakepit_bridge_metric_instruments",
                "Their instruments.",
                sum(|one| one.instruments as u64),
            ),
            gauge("snakepit_bridge_metric_series", "Their series.", sum(|one| one.series as u64)),
            counter(
                "snakepit_bridge_metric_series_expired",
                "Series that have ended, because nothing was measured any more or their worker was gone.",
                sum(|one| one.expired),
            ),
        ]
    }

    pub(super) fn collections(&self) -> [Family; 3] {
        let family = |name, kind, help, value: fn(CollectionFigures) -> Value| {
            let sample = self.collections.map(|figures| Sample { labels: Vec::new(), value: value(figures) });
            Family { name, kind, help, samples: sample.into_iter().collect() }
        };
        [
            family(
                "snakepit_bridge_collections",
                Kind::Counter,
                "Times that all points were made.",
                |collections| Value::Number(collections.complete),
            ),
            family(
                "snakepit_bridge_collections_skipped",
                Kind::Counter,
                "Collections left out, because the one before was still under way.",
                |collections| Value::Number(collections.skipped),
            ),
            family(
                "snakepit_bridge_collection_duration_seconds",
                Kind::Gauge,
                "What the last one took, over all shards.",
                |collections| Value::Nanos(collections.last_duration_ns),
            ),
        ]
    }
}
