//! The program: arguments, configuration, diagnostics, run, exit code.

fn main() {}
