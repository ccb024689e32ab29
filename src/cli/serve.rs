//! `serve`: the bridge itself.

use std::error::Error as _;

use super::{Console, Exit};
use crate::app;
use crate::config::env::EnvSource;
use crate::config::flags::Flags;
use crate::config::{Config, misspelt_variables};
use crate::diagnostics::{self, StartError};

pub(super) fn run(
    flags: &Flags,
    env: &impl EnvSource,
    own_variables: &[String],
    console: &mut Console<'_>,
) -> Exit {
    let mut config = match Config::load(flags, env, console.terminal) {
        Ok(config) => config,
        Err(error) => return console.refuse(&error),
    };
    let own = app::own_telemetry(&config);
    let diagnostics =
        match diagnostics::start(config.log_format, config.otel.log_level.value, env, own.as_ref()) {
            Ok(diagnostics) => diagnostics,
            Err(error) => {
                console.complain(format_args!("error: failed to {error}"));
                return match error {
                    StartError::Log(_) | StartError::Thread(_) => Exit::Internal,
                    StartError::Own(_) => Exit::Usage,
                };
            }
        };
    for warning in config.warnings.iter().chain(&misspelt_variables(own_variables)) {
        tracing::warn!("{warning}");
    }
    let reserve = diagnostics.reserve(config.shutdown_timeout);
    config.shutdown_timeout -= reserve;
    let exit = match app::run(config) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!(error = %error, cause = error.source().map(tracing::field::display), "the bridge ended");
            Exit::from(&error)
        }
    };
    diagnostics.end(reserve);
    exit
}
