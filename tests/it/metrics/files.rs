//! The files that people look at metrics with, read as Grafana and Prometheus read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::repository;

/// The folder of the dashboards.
const DASHBOARDS: &str = "collector-config/grafana/dashboards";
/// The folder of Grafana's provisioning.
const PROVISIONING: &str = "collector-config/grafana/provisioning";

/// A dashboard.
pub(crate) struct Dashboard {
    /// The file's name.
    pub(crate) file: String,
    pub(crate) json: Value,
}

/// A query, and where it stands.
#[derive(Clone)]
pub(crate) struct Query {
    pub(crate) place: String,
    pub(crate) expression: String,
}

/// All dashboards.
pub(crate) fn dashboards() -> Result<Vec<Dashboard>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(repository(DASHBOARDS))? {
        files.push(entry?.path());
    }
    files.sort();
    let read = |path: PathBuf| {
        let file = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        let json = serde_json::from_slice(&fs::read(&path)?).with_context(|| file.clone())?;
        Ok(Dashboard { file, json })
    };
    files.into_iter().map(read).collect()
}

/// A YAML file of the repository.
pub(crate) fn yaml(path: &str) -> Result<Value> {
    let text = fs::read_to_string(repository(path))?;
    serde_saphyr::from_str(&text).with_context(|| format!("failed to read {path}"))
}

/// The data sources that are provisioned.
pub(crate) fn datasources() -> Result<Vec<Value>> {
    let file = yaml(&format!("{PROVISIONING}/datasources/datasources.yaml"))?;
    Ok(file["datasources"].as_array().context("no list of data sources")?.clone())
}

/// The rules of `alerts.yml`.
pub(crate) fn rules() -> Result<Vec<Value>> {
    let file = yaml("collector-config/prometheus/alerts.yml")?;
    let groups = file["groups"].as_array().context("no list of groups")?;
    Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
}

impl Dashboard {
    pub(crate) fn panels(&self) -> &[Value] {
        self.json["panels"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The queries of all panels, and of variables whose values are asked for.
    pub(crate) fn queries(&self) -> Result<Vec<Query>> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().context("a target has an expression")?.to_owned();
                let place = format!("{}: {} {}", self.file, panel["title"], target["refId"]);
                queries.push(Query { place, expression });
            }
        }
        for variable in self.variables().iter().filter(|variable| variable["type"] == "query") {
            let asked = variable["query"]["query"].as_str().context("a variable has a query")?;
            let place = format!("{}: ${}", self.file, variable["name"]);
            queries.push(Query { place, expression: as_expression(asked)? });
        }
        Ok(queries)
    }
}

/// Grafana's `label_values(series, label)` and `metrics(pattern)`, as expressions that find as many series as there are values.
fn as_expression(asked: &str) -> Result<String> {
    let inside = |function: &str| asked.strip_prefix(function)?.strip_suffix(')');
    if let Some(arguments) = inside("label_values(") {
        let (series, label) = arguments.rsplit_once(", ").context("a series and a label")?;
        return Ok(format!("count by ({label}) ({series})"));
    }
    let pattern = inside("metrics(").with_context(|| format!("{asked} is unknown here"))?;
    Ok(format!("count by (__name__) ({{__name__=~\"{pattern}\"}})"))
}

/// Each dashboard is known by an id of its own, its panels lie side by side, and whatever asks asks the data source that
/// is chosen in it, with variables that it has.
#[test]
fn dashboards_are_whole() -> Result<()> {
    let mut ids = BTreeSet::new();
    for dashboard in dashboards()? {
        let file = &dashboard.file;
        ensure!(
            ids.insert(dashboard.json["uid"].as_str().context("no uid")?.to_owned()),
            "{file}: uid twice"
        );
        ensure!(dashboard.json["schemaVersion"].as_u64() >= Some(39), "{file}: older than Grafana 11");
        let names: Vec<_> =
            dashboard.variables().iter().filter_map(|variable| variable["name"].as_str()).collect();
        ensure!(names.first() == Some(&"datasource"), "{file}: no choice of data source");
        for query in dashboard.queries()? {
            for used in variables_in(&query.expression) {
                let is_grafanas_own = used.starts_with("__");
                ensure!(is_grafanas_own || names.contains(&used.as_str()), "{}: ${used}", query.place);
            }
        }
        let mut taken = BTreeMap::new();
        for panel in dashboard.panels() {
            ensure!(taken.insert(panel["id"].as_u64(), area(panel)).is_none(), "{file}: panel id twice");
            if panel["type"] != "row" {
                ensure!(
                    panel["targets"].as_array().is_some_and(|all| !all.is_empty()),
                    "{file}: {}",
                    panel["title"]
                );
            }
            let targets = panel["targets"].as_array().into_iter().flatten();
            for asks in targets.chain((panel["type"] != "row").then_some(panel)) {
                ensure!(asks["datasource"]["uid"] == "${datasource}", "{file}: {}", panel["title"]);
            }
        }
        let areas: Vec<_> = taken.into_values().collect();
        for (number, one) in areas.iter().enumerate() {
            ensure!(one.x + one.w <= 24, "{file}: {one:?} is too wide");
            ensure!(!areas[number + 1..].iter().any(|other| one.overlaps(other)), "{file}: {one:?}");
        }
    }
    assert_eq!(ids.len(), 6);
    Ok(())
}

/// Dots in durations lead to traces, and the page that shows how long operations take is the first that people see.
#[test]
fn durations_of_operations_and_tools_show_exemplars() -> Result<()> {
    for dashboard in
        dashboards()?.iter().filter(|one| ["operations.json", "tools.json"].contains(&&*one.file))
    {
        let targets = dashboard.panels().iter().filter_map(|panel| panel["targets"].as_array()).flatten();
        let shown = targets.filter(|target| target["exemplar"] == true).count();
        assert!(shown >= 2, "{}", dashboard.file);
    }
    let home = "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: /etc/grafana/dashboards/operations.json";
    assert!(fs::read_to_string(repository("docker-compose.yml"))?.contains(home));
    Ok(())
}

/// Every data source that another leads to is there, and whatever leads from a span to metrics names the label that the
/// span's attribute becomes in Prometheus.
#[test]
fn data_sources_lead_to_each_other() -> Result<()> {
    let all = datasources()?;
    let ids: BTreeSet<_> = all.iter().filter_map(|source| source["uid"].as_str()).collect();
    let mut led_to = Vec::new();
    for source in &all {
        let settings = &source["jsonData"];
        for exemplars in settings["exemplarTraceIdDestinations"].as_array().into_iter().flatten() {
            assert_eq!(exemplars["name"], "trace_id", "the label that exemplars have");
            led_to.push(exemplars["datasourceUid"].clone());
        }
        led_to.extend(settings["serviceMap"].get("datasourceUid").cloned());
        led_to.extend(settings["tracesToMetrics"].get("datasourceUid").cloned());
        for tag in settings["tracesToMetrics"]["tags"].as_array().into_iter().flatten() {
            let key = tag["key"].as_str().context("a tag has a key")?;
            // Of the resource the instance alone becomes a label, and that under a name of Prometheus' own.
            let label =
                if key == "service.instance.id" { "instance".to_owned() } else { key.replace('.', "_") };
            assert_eq!(tag["value"], label);
        }
    }
    assert_eq!(led_to.len(), 5, "two ways to traces, one to the service map, two to metrics: {led_to:?}");
    assert!(led_to.iter().all(|uid| ids.contains(uid.as_str().unwrap_or_default())), "{led_to:?}");
    Ok(())
}

/// What Tempo and Jaeger ask Prometheus for on the way from a span, with labels as Grafana puts them in.
pub(crate) fn queries_from_spans(labels: &str) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for source in datasources()? {
        for query in source["jsonData"]["tracesToMetrics"]["queries"].as_array().into_iter().flatten() {
            let expression = query["query"].as_str().context("a query")?.replace("$$__tags", labels);
            queries.push(Query { place: format!("from {}: {}", source["name"], query["name"]), expression });
        }
    }
    Ok(queries)
}

#[derive(Debug)]
struct Area {
    x: u64,
    y: u64,
    w: u64,
    h: u64,
}

fn area(panel: &Value) -> Area {
    let of = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_default();
    Area { x: of("x"), y: of("y"), w: of("w"), h: of("h") }
}

impl Area {
    fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x + other.w
            && other.x < self.x + self.w
            && self.y < other.y + other.h
            && other.y < self.y + self.h
    }
}

/// The names of Grafana's variables in a text; `$1` of `label_replace` is none.
fn variables_in(text: &str) -> Vec<String> {
    let after_dollars = text.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    let names = after_dollars
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>());
    names.filter(|name| !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).collect()
}
