//! The commands of `cenotaph-sim`, one file for each, and their dispatch.

use std::process::ExitCode;

mod args;
#[cfg(feature = "planted")]
mod bugs;
mod hunt;
mod meta;
mod output;
mod pool;
mod replay;
mod runs;
mod sweeps;

pub(crate) use args::Args;
use args::Command;

impl Args {
    /// Runs the selected command. The exit code is a failure if the command found a violation.
    pub(crate) fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Run { seeds, how } => Ok(runs::run(&seeds, how)),
            Command::Replay {
                seed,
                plan,
                html,
                ops,
                how,
            } => replay::replay(seed, plan.as_deref(), html.as_deref(), ops, how),
            Command::Sweep {
                kind,
                seed,
                ops,
                out,
                how,
            } => sweeps::sweep(kind, (seed, ops), &out, how),
            Command::Hunt {
                jobs,
                from,
                ops,
                out,
                seconds,
                failures,
                how,
            } => hunt::Hunt {
                jobs,
                from,
                operations: ops,
                out,
                seconds,
                failures,
                how,
            }
            .run(),
            Command::Meta {
                seeds,
                print: true,
                how,
            } => Ok(meta::print(&seeds, how)),
            Command::Meta {
                seeds,
                print: false,
                how,
            } => meta::meta(&seeds, how),
            #[cfg(feature = "planted")]
            Command::Bugs { seeds, bug } => Ok(bugs::bugs(&seeds, bug)),
        };
        match outcome {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                output::line(format_args!("error: {error}"));
                ExitCode::FAILURE
            }
        }
    }
}
