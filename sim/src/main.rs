//! Entry point of the binary `cenotaph-sim`. The exit code reports whether a violation was found.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    cli::Args::parse().run()
}
