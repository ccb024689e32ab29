//! `serve`: the bridge itself.

use std::error::Error as _;

use super::{Console, Exit};
use crate::app;
use crate::config::env::EnvSource;
use crate::config::flags::Flags;
use crate::config::{Config, misspelt_variables};
use crate::diagnostics;

pub(super) fn run(
    flags: &Flags,
    env: &impl EnvSource,
    own_variables: &[String],
    console: &mut Console<'_>,
) -> Exit {
    let config = match Config::load(flags, env, console.terminal) {
        Ok(config) => config,
        Err(error) => return console.refuse(&error),
    };
    if let Err(error) = diagnostics::start(config.log_format, config.otel.log_level.value, env) {
        console.complain(format_args!("error: failed to start the log: {error}"));
        return Exit::Internal;
    }
    for warning in config.warnings.iter().chain(&misspelt_variables(own_variables)) {
        tracing::warn!("{warning}");
    }
    match app::run(config) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!(error = %error, cause = error.source().map(tracing::field::display), "the bridge ended");
            Exit::from(&error)
        }
    }
}
