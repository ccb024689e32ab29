//! `check`: what counts, who said so, and what has no effect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

use super::connect::Trials;
use super::{CheckArgs, Console, Exit, OutputFormat, probe};
use crate::config::env::EnvSource;
use crate::config::provenance::Effective;
use crate::config::{Config, ConfigError, misspelt_variables};

pub(super) fn run(
    args: &CheckArgs,
    env: &impl EnvSource,
    own_variables: &[String],
    console: &mut Console<'_>,
) -> Exit {
    if let Some(Some(url)) = &args.ready {
        return probe::run(url, console);
    }
    let loaded = Config::load(&args.flags, env, console.terminal).map(|mut config| {
        config.warnings.extend(misspelt_variables(own_variables));
        config
    });
    match (loaded, args.output) {
        (Ok(config), _) if args.ready.is_some() => {
            probe::run(&format!("http://{}", reachable(config.admin.listen)), console)
        }
        (Ok(config), output) => answer(&config, args.connect, output, console),
        (Err(error), OutputFormat::Text) => console.refuse(&error),
        (Err(error), OutputFormat::Json) => {
            console.answer(problems_as_json(&error));
            Exit::Usage
        }
    }
}

fn answer(config: &Config, connects: bool, output: OutputFormat, console: &mut Console<'_>) -> Exit {
    let trials = match connects.then(|| Trials::run(&config.otel)).transpose() {
        Ok(trials) => trials,
        Err(error) => {
            console.complain(format_args!("error: failed to start: {error}"));
            return Exit::Internal;
        }
    };
    match output {
        OutputFormat::Text => {
            console.answer(as_text(&config.effective));
            for warning in &config.warnings {
                console.answer(format_args!("warning: {warning}"));
            }
            if let Some(trials) = &trials {
                console.answer(format_args!("\n{}", trials.as_text()));
            }
        }
        OutputFormat::Json => {
            let mut values = as_json(config);
            if let Some(trials) = &trials {
                values["endpoints"] = trials.as_json();
            }
            console.answer(values);
        }
    }
    if trials.is_none_or(|trials| trials.are_well()) { Exit::Ok } else { Exit::Unavailable }
}

/// Values wider than this push their own source aside, and nobody else's.
const MAX_VALUE_COLUMN: usize = 32;

/// The file's keys, then the variables, each a table of three columns.
fn as_text(effective: &[Effective]) -> String {
    let is_key = |effective: &&Effective| !effective.key.starts_with("OTEL_");
    let (keys, variables): (Vec<_>, Vec<_>) = effective.iter().partition(is_key);
    format!("{}\n\n{}", table(&keys), table(&variables))
}

fn table(effective: &[&Effective]) -> String {
    let rows: Vec<[String; 3]> = effective
        .iter()
        .map(|Effective { key, value, source }| [key.clone(), plain(value), source.to_string()])
        .collect();
    let width = |column: usize, most: usize| {
        rows.iter().map(|row| row[column].chars().count()).filter(|width| *width <= most).max().unwrap_or(0)
    };
    let (keys, values) = (width(0, usize::MAX), width(1, MAX_VALUE_COLUMN));
    let lines: Vec<String> =
        rows.iter().map(|[key, value, source]| format!("{key:keys$}  {value:values$}  {source}")).collect();
    lines.join("\n")
}

/// A value as one would write it in the file.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.escape_debug().to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

fn as_json(config: &Config) -> Value {
    let values: Vec<Value> = config
        .effective
        .iter()
        .map(|Effective { key, value, source }| json!({"key": key, "value": value, "source": source.to_string()}))
        .collect();
    json!({"values": values, "warnings": config.warnings})
}

fn problems_as_json(error: &ConfigError) -> Value {
    let problems: Vec<Value> = error
        .problems
        .iter()
        .map(|problem| {
            json!({"source": problem.source.to_string(), "key": problem.key, "message": problem.message})
        })
        .collect();
    json!({"problems": problems})
}

/// Where a port that listens on every address can be reached from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}
