//! Command line arguments of `cenotaph-sim`.

use std::path::PathBuf;

#[cfg(feature = "planted")]
use cenotaph_sim::Bug;
use cenotaph_sim::Options;
use clap::{Parser, Subcommand, ValueEnum};

/// Runs Cenotaph in a simulated world that is a function of a seed.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the plans of many seeds. Fails if a check finds a violation, or if an expected event
    /// never happens.
    Run {
        #[command(flatten)]
        seeds: Seeds,
        #[command(flatten)]
        how: How,
    },
    /// Runs a plan and prints its timeline: time, actor and event.
    Replay {
        /// Seed of the plan.
        #[arg(required_unless_present = "plan")]
        seed: Option<u64>,
        /// File of a plan, as written by `hunt`, instead of a seed.
        #[arg(long, conflicts_with = "seed")]
        plan: Option<PathBuf>,
        /// Writes the timeline to this file as an HTML page with a lane for each actor, instead of
        /// printing it.
        #[arg(long)]
        html: Option<PathBuf>,
        /// Approximate number of operations of the plan.
        #[arg(long, default_value_t = 100)]
        ops: usize,
        #[command(flatten)]
        how: How,
    },
    /// Runs a plan once for each of its steps, with a fault at that step.
    Sweep {
        /// Kind of the fault.
        kind: SweepKind,
        /// Seed of the plan.
        seed: u64,
        /// Approximate number of operations of the plan.
        #[arg(long, default_value_t = 40)]
        ops: usize,
        /// Directory for plans that fail.
        #[arg(long, default_value = "sim-failures")]
        out: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Runs seed after seed until it is stopped. Writes every failure with its seed, its shrunk
    /// plan and a command that reproduces it.
    Hunt {
        #[command(flatten)]
        jobs: Jobs,
        /// First seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Approximate number of operations of each plan.
        #[arg(long, default_value_t = 100)]
        ops: usize,
        /// Directory for failures.
        #[arg(long, default_value = "sim-failures")]
        out: PathBuf,
        /// Stops after this many seconds.
        #[arg(long = "for")]
        seconds: Option<u64>,
        /// Stops after this many failures.
        #[arg(long)]
        failures: Option<usize>,
        #[command(flatten)]
        how: How,
    },
    /// Runs each seed three times, twice in this process and once in another process, and compares
    /// the complete traces.
    Meta {
        #[command(flatten)]
        seeds: Seeds,
        /// Only prints the traces. Used for the other process.
        #[arg(long, hide = true)]
        print: bool,
        #[command(flatten)]
        how: How,
    },
    /// Plants each bug in the engine and prints the number of seeds that find it.
    #[cfg(feature = "planted")]
    Bugs {
        #[command(flatten)]
        seeds: Seeds,
        /// Plants only this bug.
        #[arg(long, value_parser = bug)]
        bug: Option<Bug>,
    },
}

/// Options of all commands that run plans.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct How {
    /// Uses real fjall instead of the simulated disk. About twenty times slower.
    #[arg(long)]
    fjall: bool,
    /// Runs several members on a simulated shared index.
    #[arg(long, conflicts_with = "fjall")]
    shared: bool,
    /// Plants this bug in the engine.
    #[cfg(feature = "planted")]
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
}

impl How {
    /// Returns the options of a run.
    pub(crate) fn options(self) -> Options {
        #[cfg(feature = "planted")]
        let bug = self.bug;
        #[cfg(not(feature = "planted"))]
        let bug = None;
        Options {
            on_fjall: self.fjall,
            is_shared: self.shared,
            bug,
            ..Options::default()
        }
    }

    /// Returns the command line flags that select these options.
    pub(crate) fn flags(self) -> String {
        let fjall = if self.fjall { " --fjall" } else { "" };
        let shared = if self.shared { " --shared" } else { "" };
        #[cfg(feature = "planted")]
        let bug = self
            .bug
            .map(|bug| format!(" --bug {}", bug.name()))
            .unwrap_or_default();
        #[cfg(not(feature = "planted"))]
        let bug = "";
        format!("{fjall}{shared}{bug}")
    }
}

#[cfg(feature = "planted")]
fn bug(name: &str) -> Result<Bug, String> {
    let named = Bug::ALL.into_iter().find(|bug| bug.name() == name);
    named.ok_or_else(|| format!("unknown bug: known={}", Bug::ALL.map(Bug::name).join(", ")))
}

/// Range of seeds and the size of their plans.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Seeds {
    /// Number of seeds.
    #[arg(long, default_value_t = 1000)]
    pub(crate) seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    pub(crate) from: u64,
    /// Approximate number of operations of each plan.
    #[arg(long, default_value_t = 100)]
    pub(crate) ops: usize,
    #[command(flatten)]
    pub(crate) jobs: Jobs,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Jobs {
    /// Number of worlds that run in parallel, each on its own thread. Defaults to the number of
    /// processors.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl Jobs {
    /// Returns the number of threads.
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
    /// The world crashes, and crashes again at every step of the reopening.
    CrashAgain,
    /// An actor of each kind is killed.
    Kill,
    /// The actor that runs the step panics.
    Panic,
}
