//! The program: arguments, configuration, diagnostics, run, exit code.

use std::io::{IsTerminal as _, stderr, stdout};
use std::process::ExitCode;

use snakepit_otel_bridge::cli::{self, Console};
use snakepit_otel_bridge::config::env::{ProcessEnv, names_from};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let console = Console { out: &mut stdout(), err: &mut stderr(), terminal: stderr().is_terminal() };
    cli::run(std::env::args_os(), &ProcessEnv, &names_from(&ProcessEnv, "SNAKEPIT_BRIDGE_"), console).into()
}
