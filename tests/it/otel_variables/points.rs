//! What is said of metrics: where to, how often, and what the points are.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, Metric};
use tokio::net::TcpListener;

use super::export::{LIMIT, NOWHERE, header, send_spans, start};
use super::{Pair, Seen, names};
use crate::support::sink::Sink;
use crate::support::until;

/// What the spans that are sent become.
const DURATION: &str = "snakepit.python.operation_0.duration";
/// Spans and records stay at home.
pub(super) const ONLY_METRICS: [Pair<'_>; 2] =
    [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none")];

/// What the sink has of the metric once a bridge with these variables has collected it.
async fn collected(variables: &[Pair<'_>]) -> Result<Vec<Metric>> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let to = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_METRIC_EXPORT_INTERVAL", "200")];
    let (_bridge, worker) = start(&[&to[..], variables].concat()).await?;
    send_spans(&worker, 1).await?;
    sink.metric_of("worker_1", DURATION, LIMIT).await
}

pub(super) async fn the_options_of_metrics_beat_the_generic_ones() -> Result<Seen> {
    let sink = Sink::grpc().await?;
    let address = sink.address.to_string();
    let own = [
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &*address),
        ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-own=1"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
    ];
    let generic = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-generic=1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ];
    let (_bridge, worker) = start(&[&own[..], &generic[..]].concat()).await?;
    send_spans(&worker, 1).await?;
    let received = until("a request", LIMIT, async || Ok(sink.received_metrics().first().cloned())).await?;
    assert_eq!(header(&received, "x-own").as_deref(), Some("1"));
    assert_eq!(header(&received, "x-generic"), None, "nothing is merged");
    assert_eq!(header(&received, "grpc-encoding").as_deref(), Some("gzip"));
    Ok(names(&own))
}

pub(super) async fn a_request_of_metrics_has_the_least_of_its_time_outs() -> Result<Seen> {
    let mut seen = Vec::new();
    for (name, millis) in
        [("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "340"), ("OTEL_METRIC_EXPORT_TIMEOUT", "350")]
    {
        // It takes connections, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", silent.local_addr()?);
        let to = [
            (name, millis),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            // Not shorter than what it bounds.
            ("OTEL_METRIC_EXPORT_INTERVAL", "400"),
        ];
        let (bridge, worker) = start(&[&to[..], &ONLY_METRICS[..]].concat()).await?;
        send_spans(&worker, 1).await?;
        let expected = format!("no answer within {millis}ms");
        until(&expected, LIMIT, async || Ok(bridge.log().contains(&expected).then_some(()))).await?;
        seen.push(name);
    }
    Ok(seen)
}

pub(super) async fn metrics_are_collected_once_an_interval() -> Result<Seen> {
    let sink = Sink::http().await?;
    let url = sink.url();
    let interval = ("OTEL_METRIC_EXPORT_INTERVAL", "700");
    let (_bridge, worker) = start(&[interval, ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url)]).await?;
    send_spans(&worker, 1).await?;
    // A cumulative series comes with every collection, and all shards collect at one time.
    let times = until("five collections", LIMIT, async || {
        let metrics = sink.metrics().into_iter().filter(|arrived| arrived.metric.name == DURATION);
        let times: BTreeSet<_> =
            metrics.filter_map(|arrived| Some(histogram(&arrived.metric)?.time_unix_nano)).collect();
        Ok((times.len() >= 5).then(|| times.into_iter().collect::<Vec<_>>()))
    })
    .await?;
    // A collection may be late, and the next is not for that: single gaps say nothing.
    let [first, .., last] = times[..] else { bail!("one time: {times:?}") };
    let apart = Duration::from_nanos((last - first) / (times.len() as u64 - 1));
    ensure!(
        apart > Duration::from_millis(350) && apart < Duration::from_secs(20),
        "{apart:?} on average, by default it is a minute"
    );
    Ok(names(&[interval]))
}

pub(super) async fn the_console_shows_points() -> Result<Seen> {
    let console = ("OTEL_METRICS_EXPORTER", "console");
    let others = [("OTEL_METRIC_EXPORT_INTERVAL", "200"), ("OTEL_TRACES_EXPORTER", "none")];
    let (bridge, worker) = start(&[&[console][..], &others[..]].concat()).await?;
    send_spans(&worker, 1).await?;
    until("a point's line", LIMIT, async || {
        let lines = bridge.output();
        let is_shown = |line: &String| line.contains(DURATION) && line.contains(r#""kind":"histogram""#);
        Ok(lines.iter().any(is_shown).then_some(()))
    })
    .await?;
    Ok(names(&[console]))
}

pub(super) async fn counters_and_histograms_may_be_differences() -> Result<Seen> {
    let delta = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
    for (variables, expected) in [(&[delta][..], 1), (&[][..], 2)] {
        let metrics = collected(variables).await?;
        let Some(Data::Histogram(histogram)) = &metrics[0].data else { anyhow::bail!("{metrics:?}") };
        assert_eq!(histogram.aggregation_temporality, expected);
    }
    Ok(names(&[delta]))
}

pub(super) async fn histograms_may_be_exponential() -> Result<Seen> {
    let name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
    let exponential = (name, "base2_exponential_bucket_histogram");
    let metrics = collected(&[exponential]).await?;
    ensure!(matches!(metrics[0].data, Some(Data::ExponentialHistogram(_))), "{metrics:?}");
    Ok(names(&[exponential]))
}

pub(super) async fn exemplars_may_be_switched_off() -> Result<Seen> {
    let off = ("OTEL_METRICS_EXEMPLAR_FILTER", "always_off");
    for (variables, are_there) in [(&[][..], true), (&[off][..], false)] {
        let sink = Sink::http().await?;
        let url = sink.url();
        let to = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ];
        let (_bridge, worker) = start(&[&to[..], variables].concat()).await?;
        // A span's exemplar is there as soon as the span is certain to be exported.
        let mut spans = 0;
        until("points with and without exemplars", LIMIT, async || {
            send_spans(&worker, 1).await?;
            spans += 1;
            let metrics = sink.metrics().into_iter().filter(|arrived| arrived.metric.name == DURATION);
            let points: Vec<_> = metrics.filter_map(|arrived| histogram(&arrived.metric).cloned()).collect();
            let exemplars = points.iter().flat_map(|point| &point.exemplars).count();
            ensure!(are_there || exemplars == 0, "{points:?}");
            Ok((points.len() >= 3 && (exemplars > 0) == are_there).then_some(()))
        })
        .await
        .with_context(|| format!("{spans} spans"))?;
    }
    Ok(names(&[off]))
}

/// The first point of a histogram.
fn histogram(metric: &Metric) -> Option<&HistogramDataPoint> {
    match metric.data.as_ref()? {
        Data::Histogram(histogram) => histogram.data_points.first(),
        Data::Gauge(_) | Data::Sum(_) | Data::ExponentialHistogram(_) | Data::Summary(_) => None,
    }
}
