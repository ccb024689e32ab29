//! What is counted on both ways out of the Collector, its page for Prometheus and OTLP, is the same, and is what was sent.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;

use super::session::{LIMIT, Session, Truth};
use crate::support::sink::ArrivedMetric;
use crate::support::{fetch, until};

/// By metric as Prometheus names it, over all series and workers.
type Sums = BTreeMap<String, f64>;

/// Waits until the page says what was sent, then until OTLP says the same as the page, metric by metric.
pub(crate) async fn agree(session: &Session, truths: &[Truth]) -> Result<()> {
    let expected = expected(truths);
    let mut page = Sums::new();
    let sent = until("the page's sums", LIMIT, async || {
        page = on_page(&fetch(&format!("http://{}/metrics", session.peers.prometheus_page)).await?)?;
        Ok(expected.iter().all(|(name, sum)| page.get(name) == Some(sum)).then_some(()))
    })
    .await;
    sent.with_context(|| format!("the page has {page:#?}\nand should have {expected:#?}"))?;

    let mut otlp = Sums::new();
    let same = until("OTLP's sums", LIMIT, async || {
        page = on_page(&fetch(&format!("http://{}/metrics", session.peers.prometheus_page)).await?)?;
        otlp = in_otlp(&session.sink.metrics())?;
        let is_near = |(name, sum): (&String, &f64)| {
            page.get(name).is_some_and(|other| (sum - other).abs() <= 1e-9 * sum.abs())
        };
        Ok((page.len() == otlp.len() && otlp.iter().all(is_near)).then_some(()))
    })
    .await;
    same.with_context(|| format!("the page has {page:#?}\nand OTLP has {otlp:#?}"))
}

/// What the workers have sent, as far as it is counted in whole numbers.
fn expected(truths: &[Truth]) -> Sums {
    let all = |count: fn(&Truth) -> u64| truths.iter().map(count).sum::<u64>() as f64;
    assert!(all(|truth| truth.errors) > 0.0);
    [
        ("tool_execution_duration_seconds_count", all(|truth| truth.executions)),
        ("call_duration_seconds_count", all(|truth| truth.calls)),
        ("model_inference_tokens_count", all(|truth| truth.executions)),
        ("model_inference_tokens_sum", all(|truth| truth.tokens)),
        ("tool_result_size_bytes_sum", all(|truth| truth.bytes)),
        ("cache_hit_count_total", all(|truth| truth.hits)),
        ("cache_miss_count_total", all(|truth| truth.misses)),
    ]
    .map(|(name, sum)| (format!("snakepit_python_{name}"), sum))
    .into()
}

/// The counts, sums and counters of a page; gauges and buckets are left out.
fn on_page(text: &str) -> Result<Sums> {
    let mut sums = Sums::new();
    for line in text.lines().filter(|line| line.starts_with("snakepit_")) {
        // Label values of these workers hold no space and no brace.
        let (series, value) = line.rsplit_once(' ').context("a value")?;
        let name = series.split('{').next().unwrap_or(series);
        if ["_count", "_sum", "_total"].iter().any(|suffix| name.ends_with(suffix)) {
            *sums.entry(name.to_owned()).or_default() += value.parse::<f64>()?;
        }
    }
    Ok(sums)
}

/// The same of the latest point of every series.
fn in_otlp(metrics: &[ArrivedMetric]) -> Result<Sums> {
    let mut latest: BTreeMap<(String, String, String), f64> = BTreeMap::new();
    for arrived in metrics {
        let metric = &arrived.metric;
        let base = prometheus_name(&metric.name, &metric.unit);
        let mut keep = |suffix: &str, attributes: &[_], value: f64| {
            let series = (format!("{base}{suffix}"), arrived.worker.clone(), format!("{attributes:?}"));
            latest.insert(series, value);
        };
        match metric.data.as_ref().context("a metric has data")? {
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    keep("_count", &point.attributes, point.count as f64);
                    keep("_sum", &point.attributes, point.sum.context("durations and sizes have sums")?);
                }
            }
            Data::Sum(sum) => {
                for point in &sum.data_points {
                    let value = match point.value.context("a value")? {
                        number_data_point::Value::AsInt(int) => int as f64,
                        number_data_point::Value::AsDouble(double) => double,
                    };
                    keep("_total", &point.attributes, value);
                }
            }
            Data::Gauge(_) => {}
            other @ (Data::ExponentialHistogram(_) | Data::Summary(_)) => {
                panic!("nobody asked for {other:?}")
            }
        }
    }
    let mut sums = Sums::new();
    for ((name, _, _), value) in latest {
        *sums.entry(name).or_default() += value;
    }
    Ok(sums)
}

/// What Prometheus calls an instrument, without the suffix of its kind.
fn prometheus_name(name: &str, unit: &str) -> String {
    let name = name.replace('.', "_");
    let word = match unit {
        "s" => "seconds",
        "By" => "bytes",
        "%" => "percent",
        _ => return name,
    };
    if name.split('_').any(|part| part == word) { name } else { format!("{name}_{word}") }
}
