//! What people see of the workers' metrics: dashboards, alerts, and the way from a slow bucket to its trace.
//!
//! Python workers are measured by the bridge, the real Collector passes it on, the real Prometheus scrapes it, and every
//! query of every dashboard and alert is asked. One session serves all of that, because it takes seconds.

mod ends;
mod files;
mod session;
mod sums;

use anyhow::{Context as _, Result, ensure};

use self::files::{Query, dashboards, queries_from_spans, rules};
use self::session::{LIMIT, Session};
use crate::support::prometheus::{Prometheus, promtool};
use crate::support::{fetch_as, until};

/// What Grafana would put into queries: everything is shown, over the last minute, which is many scrapes on any machine.
const VARIABLES: [(&str, &str); 9] = [
    ("$__rate_interval", "60s"),
    ("$__range", "60s"),
    ("$job", ".*"),
    ("$instance", ".*"),
    ("$tool", ".*"),
    ("$model", ".*"),
    ("${operation}", "tool_execution"),
    ("$operation", "tool_execution"),
    ("${datasource}", "prometheus"),
];

/// Prometheus takes the files as they are, and each alert fires when it should and not when it should not.
#[test]
fn prometheus_accepts_the_files_and_alerts_fire_as_they_should() -> Result<()> {
    promtool(&["check", "config", "prometheus.yml"])?;
    promtool(&["test", "rules", "alerts_test.yml"])?;
    let tests =
        std::fs::read_to_string(crate::support::repository("collector-config/prometheus/alerts_test.yml"))?;
    for alert in rules()?.iter().filter_map(|rule| rule["alert"].as_str()) {
        let fires = tests.split("alertname: ").any(|test| {
            test.starts_with(&format!("{alert}\n"))
                && test.lines().nth(1).is_some_and(|line| line.ends_with("exp_alerts:"))
        });
        assert!(fires, "no test lets {alert} fire");
    }
    Ok(())
}

/// Of one session with real workers: every query finds something, both ways out of the Collector give the same sums, which
/// are those of the workers, and exemplars lead to traces that are there.
#[tokio::test(flavor = "multi_thread")]
async fn everything_that_people_look_at_shows_what_happened() -> Result<()> {
    let mut session = Session::begin().await?;
    // While the workers work: a quantile of what has not grown for the length of a rate is not a number.
    every_query_finds_data(&session).await?;
    every_rule_is_evaluated(&session.prometheus).await?;
    let truths = session.enough().await?;
    sums::agree(&session, &truths).await?;
    exemplars_lead_to_traces(&session).await
}

/// Asks all that dashboards, alerts and data sources ask, again and again while something is missing: what takes two scrapes
/// is there a moment later.
async fn every_query_finds_data(session: &Session) -> Result<()> {
    let mut missing: Vec<Query> = Vec::new();
    for dashboard in dashboards()? {
        missing.extend(dashboard.queries()?);
    }
    for rule in rules()? {
        // The condition of an alert gives nothing while all is well: with `bool` it says whether it is true.
        let expression = rule["expr"].as_str().context("a rule has an expression")?;
        let expression = [" == ", " > "]
            .iter()
            .fold(expression.to_owned(), |text, sign| text.replace(sign, &format!("{sign}bool ")));
        missing.push(Query { place: format!("alerts.yml: {}{}", rule["alert"], rule["record"]), expression });
    }
    missing.extend(queries_from_spans(r#"instance="worker_1@node-a", snakepit_tool="translate""#)?);
    ensure!(missing.len() > 100, "only {} queries were found", missing.len());

    let asked = until("an answer to every query", LIMIT, async || {
        let mut still_missing = Vec::new();
        // What is missing stays named while Prometheus is asked: the time may be up in the middle of it.
        for query in &missing {
            let expression = VARIABLES
                .iter()
                .fold(query.expression.clone(), |text, (name, value)| text.replace(name, value));
            ensure!(!expression.replace("\"$1\"", "").contains('$'), "{}: {expression}", query.place);
            let found = session.prometheus.query(&expression).await.with_context(|| query.place.clone())?;
            if !found.iter().any(|sample| sample.value().is_finite()) {
                still_missing.push(query.clone());
            }
        }
        missing = still_missing;
        Ok(missing.is_empty().then_some(()))
    })
    .await;
    let list = || missing.iter().map(|query| format!("{}: {}", query.place, query.expression));
    asked.with_context(|| format!("nothing finite came of:\n{}", list().collect::<Vec<_>>().join("\n")))
}

/// Prometheus has evaluated every rule, and none failed.
async fn every_rule_is_evaluated(prometheus: &Prometheus) -> Result<()> {
    let expected = rules()?.len();
    let rules = until("every rule's evaluation", LIMIT, async || {
        let rules = prometheus.rules().await?;
        Ok(rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules))
    })
    .await?;
    assert_eq!(rules.len(), expected);
    for rule in &rules {
        ensure!(rule["health"] == "ok", "{}: {}", rule["name"], rule["lastError"]);
    }
    Ok(())
}

/// The exemplars of the Collector's page, and those that Prometheus made of them, name traces that Jaeger has.
async fn exemplars_lead_to_traces(session: &Session) -> Result<()> {
    let page = format!("http://{}/metrics", session.peers.prometheus_page);
    let accept = "application/openmetrics-text; version=1.0.0";
    let named = until("exemplars on the page", LIMIT, async || {
        let text = fetch_as(&page, accept).await?;
        let named: Vec<String> = text.lines().filter_map(exemplar_trace).map(str::to_owned).collect();
        Ok((!named.is_empty()).then_some(named))
    })
    .await?;
    let duration = "snakepit_python_tool_execution_duration_seconds_bucket";
    let kept = until("exemplars in Prometheus", LIMIT, async || {
        let kept = session.prometheus.exemplar_traces(duration).await?;
        Ok((!kept.is_empty()).then_some(kept))
    })
    .await?;
    for id in named.iter().chain(&kept) {
        until("the exemplar's trace in Jaeger", LIMIT, async || {
            Ok(session.peers.jaeger.trace(id).await.ok())
        })
        .await?;
    }
    Ok(())
}

/// The trace id of a line's exemplar: `…_bucket{…} 3 # {trace_id="…",span_id="…"} 0.02 1.7e+09`.
fn exemplar_trace(line: &str) -> Option<&str> {
    let (_, exemplar) = line.split_once(" # {")?;
    let (_, id) = exemplar.split_once("trace_id=\"")?;
    id.split_once('"').map(|(id, _)| id)
}
