//! What may be said on the command line.

use std::path::PathBuf;

#[cfg(feature = "planted")]
use cenotaph_sim::Bug;
use cenotaph_sim::Options;
use clap::{Parser, Subcommand, ValueEnum};

/// Cenotaph in a world that is a function of a seed.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the plans of many seeds. Fails if anything is violated, or if the set is blind.
    Run {
        #[command(flatten)]
        seeds: Seeds,
        #[command(flatten)]
        how: How,
    },
    /// Runs one plan and prints its timeline: who, what, when.
    Replay {
        /// The seed of the plan.
        #[arg(required_unless_present = "plan")]
        seed: Option<u64>,
        /// A plan from a file instead, as `hunt` writes it.
        #[arg(long, conflicts_with = "seed")]
        plan: Option<PathBuf>,
        /// Draws the timeline into this file, as a page with one lane for each actor, instead of
        /// printing it.
        #[arg(long)]
        html: Option<PathBuf>,
        /// Operations of the plan, about.
        #[arg(long, default_value_t = 100)]
        ops: usize,
        #[command(flatten)]
        how: How,
    },
    /// Runs one plan again and again, with one thing going wrong at every step in turn.
    Sweep {
        /// What goes wrong.
        kind: SweepKind,
        /// The seed of the plan.
        seed: u64,
        /// Operations of the plan, about.
        #[arg(long, default_value_t = 40)]
        ops: usize,
        /// Where plans that fail are written.
        #[arg(long, default_value = "sim-failures")]
        out: PathBuf,
    },
    /// Runs seed after seed until it is stopped, and writes every failure with its seed, its plan,
    /// shrunk, and a command that shows it again.
    Hunt {
        #[command(flatten)]
        jobs: Jobs,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Operations of each plan, about.
        #[arg(long, default_value_t = 100)]
        ops: usize,
        /// Where failures are written.
        #[arg(long, default_value = "sim-failures")]
        out: PathBuf,
        /// Stops after so many seconds.
        #[arg(long = "for")]
        seconds: Option<u64>,
        #[command(flatten)]
        how: How,
    },
    /// Runs each seed three times, twice in this process and once in another, and compares the
    /// whole traces.
    Meta {
        #[command(flatten)]
        seeds: Seeds,
        /// Only prints the traces: what the other process does.
        #[arg(long, hide = true)]
        print: bool,
    },
    /// Plants each bug in the engine and tells how many seeds it takes to find it.
    #[cfg(feature = "planted")]
    Bugs {
        #[command(flatten)]
        seeds: Seeds,
        /// Only this bug.
        #[arg(long, value_parser = bug)]
        bug: Option<Bug>,
    },
}

/// How plans are run.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct How {
    /// Real fjall instead of the simulated disk; some twenty times slower.
    #[arg(long)]
    fjall: bool,
    /// Plants this bug in the engine.
    #[cfg(feature = "planted")]
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
}

impl How {
    pub(crate) fn options(self) -> Options {
        #[cfg(feature = "planted")]
        let bug = self.bug;
        #[cfg(not(feature = "planted"))]
        let bug = None;
        Options {
            on_fjall: self.fjall,
            bug,
        }
    }

    /// As it would be said again.
    pub(crate) fn flags(self) -> String {
        let fjall = if self.fjall { " --fjall" } else { "" };
        #[cfg(feature = "planted")]
        let bug = self
            .bug
            .map(|bug| format!(" --bug {}", bug.name()))
            .unwrap_or_default();
        #[cfg(not(feature = "planted"))]
        let bug = "";
        format!("{fjall}{bug}")
    }
}

#[cfg(feature = "planted")]
fn bug(name: &str) -> Result<Bug, String> {
    let named = Bug::ALL.into_iter().find(|bug| bug.name() == name);
    named.ok_or_else(|| format!("there are {}", Bug::ALL.map(Bug::name).join(", ")))
}

/// Which seeds, and how they are run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Seeds {
    /// How many.
    #[arg(long, default_value_t = 1000)]
    pub(crate) seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 0)]
    pub(crate) from: u64,
    /// Operations of each plan, about.
    #[arg(long, default_value_t = 100)]
    pub(crate) ops: usize,
    #[command(flatten)]
    pub(crate) jobs: Jobs,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Jobs {
    /// Worlds at once, each on a thread of its own; as many as there are processors unless told.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl Jobs {
    pub(crate) fn count(self) -> usize {
        let processors =
            || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        self.jobs.map_or_else(processors, usize::from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SweepKind {
    /// The world crashes.
    Crash,
    /// The world crashes, and once more at every step of the opening that follows.
    CrashAgain,
    /// Each kind of actor is killed.
    Kill,
    /// The actor that takes the step panics.
    Panic,
}
