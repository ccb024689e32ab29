//! The configuration: flags, `SNAKEPIT_BRIDGE_*` variables and a YAML file become one validated [`Config`].
//!
//! | place | beats |
//! |---|---|
//! | flag | everything |
//! | variable; an empty one is as good as none | file, default |
//! | file; an empty section or a `null` is as good as none | default |
//!
//! Laws: everything that is wrong is reported at once, with its place, its key, its value and what is expected there;
//! every value that counts is in [`Config::effective`] with its source. How export is configured (`OTEL_*`) is never in
//! this file.

mod credentials;
pub mod env;
pub mod file;
pub mod flags;
mod metrics;
pub mod otel;
mod patterns;
pub mod provenance;
mod resolve;
pub mod schema;
mod sections;
mod value;

use std::fmt;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::settings::AdminSettings;
use crate::config::otel::OtelSettings;
use crate::control::policies::PolicySettings;
use crate::diagnostics::LogFormat;
use crate::engine;
use crate::engine::metrics::settings::MetricSettings;
use crate::engine::sampler::Exceptions;
use crate::exporter::Destination;
use crate::exporter::signal::Signal;
use crate::receiver::credentials::Credentials;
use crate::token::Token;
use env::{EnvSource, non_empty};
use file::Node;
use flags::Flags;
use provenance::{Effective, Problem, Source};
use resolve::Resolver;
use sections::{any, between};

/// Default of [`Config::listen`].
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50_061);
/// Default of [`Config::shutdown_timeout`]: containers are killed after 10 s by default, and Kubernetes waits 30 s.
pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of [`StateSettings::checkpoint_interval`]: what a restart replays is a few seconds of events.
pub const DEFAULT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// Default of [`StateSettings::max_spool_bytes`]: some three million spans.
pub const DEFAULT_MAX_SPOOL_BYTES: usize = 1 << 30;
/// Default of [`Config::max_open_spans`].
pub const DEFAULT_MAX_OPEN_SPANS: usize = 1_000_000;
/// Default of [`Config::max_open_bytes`].
pub const DEFAULT_MAX_OPEN_BYTES: usize = 512 << 20;

/// Everything that the bridge is told, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where workers connect.
    pub listen: SocketAddr,
    /// The admin port.
    pub admin: AdminSettings,
    /// How the log is written.
    pub log_format: LogFormat,
    /// How long draining may take.
    pub shutdown_timeout: Duration,
    /// What outlives the bridge.
    pub state: StateSettings,
    /// What the bridge tells of itself over OTLP.
    pub own_telemetry: Vec<Signal>,
    /// What the engine is told.
    pub engine: engine::Settings,
    /// How metrics would be made, wherever they go; the engine is told only where they go somewhere.
    pub metrics: MetricSettings,
    /// What the policies follow from.
    pub control: PolicySettings,
    /// What the receiver is told.
    pub receiver: ReceiverSettings,
    /// What protects the worker port.
    pub credentials: Credentials,
    /// Open spans of all workers.
    pub max_open_spans: usize,
    /// Bytes of the open spans of all workers.
    pub max_open_bytes: usize,
    /// The workers run where the bridge runs, whatever their addresses say: they share its host's attributes.
    pub same_host: bool,
    /// Spans that are kept although the sampler says no.
    pub sampling: Exceptions,
    /// What the `OTEL_*` variables say.
    pub otel: OtelSettings,
    /// Every value that counts, with its source, in the order of the file; then those of the `OTEL_*` variables.
    pub effective: Vec<Effective>,
    /// What is accepted and does not do what one may think.
    pub warnings: Vec<String>,
}

/// What is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSettings {
    /// Where; without a directory nothing is.
    pub dir: Option<PathBuf>,
    /// How often the engines' state is written.
    pub checkpoint_interval: Duration,
    /// Bytes of batches that wait on disk.
    pub max_spool_bytes: u64,
}

/// The receiver's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverSettings {
    /// Workers connected or within their grace period.
    pub max_workers: usize,
    /// A larger message is skipped.
    pub max_message_bytes: usize,
    /// Connections to the worker port.
    pub max_connections: usize,
}

/// Everything that is wrong with a configuration; there is at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Those of flags and variables first, then those of the file by line.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

// ---------------------------------------------------------------------------------------------------------------------

impl Config {
    /// Reads and checks everything.
    ///
    /// `terminal` says whether the log goes to a terminal, which decides the default of its format.
    ///
    /// # Errors
    /// When anything is wrong: all of it, at once.
    pub fn load(flags: &Flags, env: &dyn EnvSource, terminal: bool) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let path = config_path(flags, env);
        let root = match &path {
            None => Node::NOTHING,
            Some((path, source)) => read_file(path, source).unwrap_or_else(|problem| {
                problems.push(problem);
                Node::NOTHING
            }),
        };
        let path: Arc<str> = path.map(|(path, _)| path).unwrap_or_default().into();
        for misfit in schema::misfits(&root) {
            let source = Source::File { path: Arc::clone(&path), line: misfit.line };
            problems.push(Problem { source, key: Some(misfit.key), message: misfit.message });
        }
        let mut resolver =
            Resolver { flags, env, path, root, problems, effective: Vec::new(), warnings: Vec::new() };
        let config = resolve(&mut resolver, terminal);
        let Resolver { mut problems, mut effective, mut warnings, .. } = resolver;
        effective.sort_by_key(|effective| schema::position(&effective.key));
        let otel = OtelSettings::load(env).unwrap_or_else(|errors| {
            problems.extend(errors);
            config.otel.clone()
        });
        let otel_file: Arc<str> = otel.config_file.value.as_deref().unwrap_or_default().into();
        let source_of = |origin| match origin {
            env::Origin::Default => Source::Default,
            env::Origin::Variable(name) => Source::Variable(name),
            env::Origin::File(line) => Source::File { path: Arc::clone(&otel_file), line },
        };
        for otel::BrokenTls { origin, error, signals } in otel.broken_tls() {
            let message = format!("failed to {error} (for {})", otel::listed(&signals));
            problems.push(Problem { source: source_of(origin), key: None, message });
        }
        warnings.extend(otel.warnings.iter().map(ToString::to_string));
        for (signal, destination) in otel.destinations() {
            if config.own_telemetry.contains(&signal) && !matches!(destination, Destination::Otlp(_)) {
                warnings.push(format!(
                    "bridge.own_telemetry: {signal} has no effect: {signal} are not exported over OTLP"
                ));
            }
        }
        effective.extend(otel.effective().into_iter().map(|effective| Effective {
            key: effective.variable.to_owned(),
            value: effective.value.map_or(serde_json::Value::Null, Into::into),
            source: source_of(effective.origin),
        }));
        problems.sort_by_key(|problem| problem.source.line());
        if problems.is_empty() {
            let mut config = Self { otel, effective, warnings, ..config };
            config.obey_otel();
            Ok(config)
        } else {
            Err(ConfigError { problems })
        }
    }
}

impl Config {
    /// Tells the other parts what the standard configuration says about them.
    fn obey_otel(&mut self) {
        self.otel.limits.apply(&mut self.engine.limits);
        self.engine.propagators = self.otel.propagators.value;
        self.engine.exception_signal = self.otel.exception_signal.value;
        let destinations = self.otel.destinations();
        let goes_somewhere =
            |signal| destinations.iter().any(|(one, to)| *one == signal && !matches!(to, Destination::None));
        self.otel.metric_options.apply(&mut self.metrics);
        self.engine.metrics = goes_somewhere(Signal::Metrics).then(|| self.metrics.clone());
        self.engine.records = goes_somewhere(Signal::Logs);
        self.engine.sampler = goes_somewhere(Signal::Traces).then(|| self.otel.sampler(self.sampling));
        if self.otel.sdk_disabled.value {
            // Whatever rules say: workers are told so, and what arrives all the same is dropped.
            self.control.enabled = false;
            self.control.rules.iter_mut().for_each(|rule| rule.enabled = None);
        }
    }
}

/// The names among `names` that look like a slip in one of our variables, as warnings.
///
/// Others are let be: Kubernetes sets `SNAKEPIT_BRIDGE_PORT` and its like for a service of that name.
#[must_use]
pub fn misspelt_variables(names: &[String]) -> Vec<String> {
    let known = || schema::KEYS.into_iter().map(|key| key.variable);
    names
        .iter()
        .filter(|name| !known().any(|variable| variable == *name))
        .filter_map(|name| {
            let short = |name: &str| name.strip_prefix("SNAKEPIT_BRIDGE_").map(str::to_lowercase);
            let near = known().find(|variable| {
                let (Some(name), Some(variable)) = (short(name), short(variable)) else { return false };
                strsim::damerau_levenshtein(&name, &variable) <= 2
            })?;
            Some(format!("{}: unknown variable; did you mean `{near}`?", name.escape_debug()))
        })
        .collect()
}

fn config_path(flags: &Flags, env: &dyn EnvSource) -> Option<(String, Source)> {
    let key = &schema::CONFIG;
    flags
        .value(key)
        .map(|path| (path.to_owned(), Source::Flag(key.flag)))
        .or_else(|| Some((non_empty(env, key.variable)?, Source::Variable(key.variable))))
}

/// The text of a configuration file.
fn read_text(path: &str, source: &Source) -> Result<String, Problem> {
    let unreadable = |message: String| Problem { source: source.clone(), key: None, message };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(file::MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(format!("`{path}` cannot be read: {error}")))?;
    if u64::try_from(bytes.len()).is_ok_and(|bytes| bytes > file::MAX_FILE_BYTES) {
        return Err(unreadable(format!("`{path}` is larger than {} bytes", file::MAX_FILE_BYTES)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let newlines = before.iter().filter(|byte| **byte == b'\n').count();
        Problem {
            source: Source::File { path: path.into(), line: newlines as u64 + 1 },
            key: None,
            message: "this line is not UTF-8".to_owned(),
        }
    })
}

fn read_file(path: &str, source: &Source) -> Result<Node, Problem> {
    let text = read_text(path, source)?;
    parse_file(path, &text)
}

fn parse_file(path: &str, text: &str) -> Result<Node, Problem> {
    file::parse(text).map_err(|error| Problem {
        source: Source::File { path: path.into(), line: error.line.unwrap_or(0) },
        key: None,
        message: error.message,
    })
}

fn resolve(resolver: &mut Resolver<'_>, terminal: bool) -> Config {
    let (listen, _) = resolver.keyed(&schema::LISTEN, DEFAULT_LISTEN, any);
    let credentials = credentials::credentials(resolver, listen);
    let admin = admin(resolver, listen);
    let (state_dir, _) = resolver.keyed(&schema::STATE_DIR, None::<PathBuf>, any);
    let (checkpoint_interval, _) = resolver.keyed(
        &schema::CHECKPOINT_INTERVAL,
        DEFAULT_CHECKPOINT_INTERVAL,
        between(Duration::from_millis(100), Duration::from_secs(3600)),
    );
    let default_format = if terminal { LogFormat::Text } else { LogFormat::Json };
    let (log_format, _) = resolver.keyed(&schema::LOG_FORMAT, default_format, any);
    let (shutdown_timeout, _) = resolver.keyed(
        &schema::SHUTDOWN_TIMEOUT,
        DEFAULT_SHUTDOWN_TIMEOUT,
        between(Duration::ZERO, Duration::from_secs(3600)),
    );
    let (own_telemetry, _) = resolver.keyed(&schema::OWN_TELEMETRY, Vec::new(), any);
    let mut engine = sections::engine(resolver);
    let control = sections::control(resolver, &engine.prefix);
    let metrics = metrics::metrics(resolver, &engine.prefix);
    let sampling = sections::sampling(resolver);
    let same_host = sections::same_host(resolver);
    let limits = sections::limits(resolver);
    // A worker's share is never more than the whole.
    engine.limits.max_open_bytes_per_worker =
        engine.limits.max_open_bytes_per_worker.min(limits.max_open_bytes);
    Config {
        listen,
        admin,
        log_format,
        shutdown_timeout,
        state: StateSettings {
            dir: state_dir,
            checkpoint_interval,
            max_spool_bytes: limits.max_spool_bytes as u64,
        },
        own_telemetry,
        engine,
        metrics,
        control,
        receiver: ReceiverSettings {
            max_workers: limits.max_workers,
            max_message_bytes: limits.max_message_bytes,
            max_connections: limits.max_connections,
        },
        credentials,
        max_open_spans: limits.max_open_spans,
        max_open_bytes: limits.max_open_bytes,
        same_host,
        sampling,
        otel: OtelSettings::default(),
        effective: Vec::new(),
        warnings: Vec::new(),
    }
}

fn admin(resolver: &mut Resolver<'_>, workers: SocketAddr) -> AdminSettings {
    let defaults = AdminSettings::default();
    let (listen, listen_source) = resolver.keyed(&schema::ADMIN_LISTEN, defaults.listen, any);
    let (insecure, _) = resolver.keyed(&schema::ADMIN_INSECURE, defaults.insecure, any);
    let (allowed_hosts, _) =
        resolver.keyed(&schema::ADMIN_ALLOWED_HOSTS, defaults.allowed_hosts, |hosts: &Vec<String>| {
            hosts.iter().try_for_each(|host| check_host(host))
        });
    let (token_file, token_source) = resolver.keyed(&schema::ADMIN_TOKEN_FILE, None::<PathBuf>, any);
    let token = token_file.as_ref().and_then(|path| {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        match read.and_then(|text| Token::new(text.trim()).map_err(|error| error.to_string())) {
            Ok(token) => Some(token),
            Err(error) => {
                let message = format!("`{}`: {error}", path.display());
                resolver.problem(token_source, schema::ADMIN_TOKEN_FILE.path, message);
                None
            }
        }
    });
    if !listen.ip().is_loopback() && token_file.is_none() && !insecure {
        let message = format!(
            "`{listen}` is beyond loopback, and no token protects it: give --admin-token-file, or --admin-insecure if \
             something else does"
        );
        resolver.problem(listen_source, schema::ADMIN_LISTEN.path, message);
    } else if listen == workers && listen.port() != 0 {
        let message = format!("`{listen}` is where workers connect: the admin port is another one");
        resolver.problem(listen_source, schema::ADMIN_LISTEN.path, message);
    }
    AdminSettings { listen, insecure, token, allowed_hosts }
}

/// A host as it may stand in `Host`, without a port.
fn check_host(host: &str) -> Result<(), String> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_address = bare.parse::<std::net::IpAddr>().is_ok();
    let is_name =
        host.chars().all(|character| character.is_ascii_alphanumeric() || ".-_".contains(character));
    if (is_address || is_name) && !host.is_empty() {
        return Ok(());
    }
    Err(format!("`{}` is not a host name (without scheme and port)", host.escape_debug()))
}

#[cfg(test)]
mod tests;
