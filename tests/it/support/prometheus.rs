//! The real Prometheus, with the very files in `collector-config/prometheus/`, at a pace for tests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::peers::{Programs, ready};
use super::process::Process;
use super::{free_addresses, repository};

/// The folder of the files.
pub(crate) const FOLDER: &str = "collector-config/prometheus";

/// How often it scrapes and evaluates rules here; in the file it is 15 s.
const INTERVAL: &str = "1s";

/// A Prometheus to ask. It ends with this.
#[derive(Debug)]
pub(crate) struct Prometheus {
    url: String,
    /// One for all that is asked: to make one takes longer than to ask.
    client: reqwest::Client,
    _process: Process,
    _directory: TempDir,
}

/// One series of an answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Sample {
    value: (f64, String),
}

impl Prometheus {
    /// Starts one that scrapes the Collector's page and the bridges' (each `host:port`), and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it is not there (the message says what to run), does not get ready, or the files cannot be adapted.
    pub(crate) async fn start(collector: &str, bridges: &[&str]) -> Result<Self> {
        let programs = Programs::find()?;
        let directory = TempDir::new()?;
        let path = |name: &str| directory.path().join(name);
        fs::copy(repository(FOLDER).join("alerts.yml"), path("alerts.yml"))?;
        fs::write(path("prometheus.yml"), adapted(collector, bridges)?)?;
        let [address] = free_addresses()?;
        let mut command = Command::new(&programs.prometheus);
        command
            .arg(format!("--config.file={}", path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=warn"]);
        let mut process = Process::spawn("prometheus", &mut command)?;
        ready(&mut process, "prometheus", &format!("http://{address}/-/ready")).await?;
        let url = format!("http://{address}");
        Ok(Self { url, client: reqwest::Client::new(), _process: process, _directory: directory })
    }

    /// What an expression finds now: series of an instant vector, or a scalar as a series without labels.
    ///
    /// # Errors
    ///
    /// When Prometheus does not understand it, or finds that it makes no sense.
    pub(crate) async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let answer = self.ask("query", &[("query", expression)]).await?;
        ensure!(answer["resultType"] == "vector", "{expression} gives a {}", answer["resultType"]);
        Ok(serde_json::from_value(answer["result"].clone())?)
    }

    /// The trace ids of the exemplars of the series that an expression selects.
    ///
    /// # Errors
    ///
    /// When Prometheus does not understand it.
    pub(crate) async fn exemplar_traces(&self, expression: &str) -> Result<Vec<String>> {
        let range = [("query", expression), ("start", "0"), ("end", "99999999999")];
        let answer = self.ask("query_exemplars", &range).await?;
        let series = answer.as_array().context("no list of series")?;
        let exemplars = series.iter().filter_map(|series| series["exemplars"].as_array()).flatten();
        Ok(exemplars.filter_map(|one| one["labels"]["trace_id"].as_str()).map(str::to_owned).collect())
    }

    /// Every rule of the files, as Prometheus has it.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(crate) async fn rules(&self) -> Result<Vec<Value>> {
        let answer = self.ask("rules", &[]).await?;
        let groups = answer["groups"].as_array().context("no list of groups")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }

    async fn ask(&self, what: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/{what}", self.url), parameters)?;
        let answer: Value = serde_json::from_slice(&self.client.get(url).send().await?.bytes().await?)?;
        ensure!(answer["status"] == "success", "{parameters:?}: {}", answer["error"]);
        Ok(answer["data"].clone())
    }
}

impl Sample {
    pub(crate) fn value(&self) -> f64 {
        // "NaN" and "+Inf" are numbers to the parser as well.
        self.value.1.parse().expect("Prometheus writes numbers")
    }
}

/// Runs `promtool` on files of the folder.
///
/// # Errors
///
/// When it finds fault with them, with its own words.
pub(crate) fn promtool(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(Programs::find()?.promtool);
    let output = command.args(arguments).current_dir(repository(FOLDER)).output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
    Ok(())
}

/// The configuration file with other addresses and shorter times. Each has to be in the file, or the test tests nothing.
fn adapted(collector: &str, bridges: &[&str]) -> Result<String> {
    let file: PathBuf = repository(FOLDER).join("prometheus.yml");
    let text = fs::read_to_string(&file)?;
    let quoted: Vec<_> = bridges.iter().map(|bridge| format!("\"{bridge}\"")).collect();
    [
        ("15s", INTERVAL.to_owned()),
        ("\"collector:8889\"", format!("\"{collector}\"")),
        ("\"bridge:9464\"", quoted.join(", ")),
    ]
    .into_iter()
    .try_fold(text, |text, (from, to)| {
        ensure!(text.contains(from), "{} does not say {from}", file.display());
        Ok(text.replace(from, &to))
    })
}
