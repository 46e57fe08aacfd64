//! The binary `cenotaph-sim`: the simulator from a shell. Its exit code tells whether all is well.
//!
//! Deliberately not here: anything about the simulated world. The commands only run plans, many at
//! a time, and print.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    cli::Args::parse().run()
}
