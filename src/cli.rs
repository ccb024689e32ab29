//! The command line: what can be asked of the program, and its exit codes.
//!
//! Standard output is for answers, standard error for the log and for what went wrong.

mod check;
mod connect;
mod demo;
mod probe;
mod serve;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::app::RunError;
use crate::config::ConfigError;
use crate::config::env::EnvSource;
use crate::config::flags::Flags;

/// Longest demo that ends by itself: a day.
const MAX_DEMO_SECONDS: u64 = 86_400;

/// Turns the telemetry of Snakepit's Python workers into OpenTelemetry traces over OTLP.
///
/// Where the traces go is said by the standard OTEL_EXPORTER_OTLP_* variables; by default to http://localhost:4318.
#[derive(Debug, Parser)]
#[command(name = "snakepit-otel-bridge", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Without one, the bridge serves.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge (the default)
    Serve(ServeArgs),
    /// Check the configuration and print every value with its source, try the endpoints, or ask a running bridge whether it is ready
    Check(CheckArgs),
    /// Run the bridge with simulated workers and print the traces that it rebuilds
    Demo(DemoArgs),
}

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
struct ServeArgs {
    #[command(flatten)]
    flags: Flags,
}

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// How the values are printed
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    /// Ask the running bridge at this address (default: the configured admin address) whether it is ready: exit code 0 or 69
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    ready: Option<Option<String>>,
    /// Try each OTLP endpoint with an empty request, and say what came back: exit code 0 if all took it, else 69
    #[arg(long, conflicts_with = "ready")]
    connect: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Arguments of `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How long it runs
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MAX_DEMO_SECONDS))]
    pub seconds: u64,
    /// Run until it is interrupted
    #[arg(long, conflicts_with = "seconds")]
    pub forever: bool,
    /// As for `serve`.
    #[command(flatten)]
    pub flags: Flags,
}

/// How `check` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// Aligned, for people.
    Text,
    /// One object, for tools.
    Json,
}

/// How the program ends: the codes of sysexits.h that apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As it was asked to.
    Ok,
    /// The command line or the configuration is wrong.
    Usage,
    /// A port or an endpoint cannot be had.
    Unavailable,
    /// The program is wrong.
    Internal,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Ok => Self::SUCCESS,
            Exit::Usage => Self::from(64),
            Exit::Unavailable => Self::from(69),
            Exit::Internal => Self::from(70),
        }
    }
}

impl From<&RunError> for Exit {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::Unavailable { .. } => Self::Unavailable,
            RunError::Usage(_) => Self::Usage,
            RunError::Internal(_) => Self::Internal,
        }
    }
}

/// Where the program speaks.
#[expect(missing_debug_implementations, reason = "it holds two writers and a flag")]
pub struct Console<'a> {
    /// Answers.
    pub out: &'a mut dyn Write,
    /// Log and errors.
    pub err: &'a mut dyn Write,
    /// Standard error is a terminal.
    pub terminal: bool,
}

impl Console<'_> {
    fn answer(&mut self, text: impl fmt::Display) {
        // Who closed our standard output does not want to hear the rest.
        let _ = writeln!(self.out, "{text}");
    }

    fn complain(&mut self, text: impl fmt::Display) {
        // There is nobody left to tell that standard error is closed.
        let _ = writeln!(self.err, "{text}");
    }

    fn refuse(&mut self, error: &ConfigError) -> Exit {
        for problem in &error.problems {
            self.complain(format_args!("error: {problem}"));
        }
        Exit::Usage
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// Does what the arguments ask for.
///
/// `own_variables` are the names of all `SNAKEPIT_BRIDGE_*` variables that are set, so that a slip in one is noticed.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    env: &impl EnvSource,
    own_variables: &[String],
    mut console: Console<'_>,
) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            console.complain(error.render().to_string().trim_end());
            return Exit::Usage;
        }
        Err(help) => {
            console.answer(help.render().to_string().trim_end());
            return Exit::Ok;
        }
    };
    match cli.command {
        None => serve::run(&cli.flags, env, own_variables, &mut console),
        Some(Command::Serve(args)) => serve::run(&args.flags, env, own_variables, &mut console),
        Some(Command::Check(args)) => check::run(&args, env, own_variables, &mut console),
        Some(Command::Demo(args)) => demo::command::run(&args, env, own_variables, &mut console),
    }
}

#[cfg(test)]
mod tests;
