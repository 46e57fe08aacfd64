//! Options of a run.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::contenders::Contender;

/// Measures durable puts, warm gets and swaps of one key, in interleaved rounds.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Directory on the disk to measure. Needs 4 GB. A temporary directory by default.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Number of rounds.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Duration of one run of puts, in seconds. Gets take half of it, swaps twice as much.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) seconds: f64,
    /// Bytes that one run of puts writes at most, in MiB.
    #[arg(long, default_value_t = 384)]
    pub(crate) run_mib_max: u64,
    /// Workloads to measure. All by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Workload>,
    /// Payload sizes, in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = SIZES)]
    pub(crate) sizes: Vec<usize>,
    /// Numbers of tasks that put.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    pub(crate) put_tasks: Vec<usize>,
    /// Numbers of tasks that get.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    pub(crate) get_tasks: Vec<usize>,
    /// Contenders to measure. All by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) contenders: Vec<Contender>,
    /// File that receives the results as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Keeps the cells of the JSON file that this run does not measure.
    #[arg(long, requires = "json")]
    pub(crate) merge: bool,
    /// Renders the results of this JSON file instead of measuring.
    #[arg(long)]
    pub(crate) from: Option<PathBuf>,
    /// Writes the tables into docs/benchmarks.md, and the plots into docs/plots.
    #[arg(long)]
    pub(crate) write_docs: bool,
}

const SIZES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// One kind of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Durable puts of new objects.
    Puts,
    /// Gets of objects in memory.
    Gets,
    /// Durable swaps of one key.
    Swaps,
}

impl Options {
    pub(crate) fn runs(&self, workload: Workload) -> bool {
        self.only.is_empty() || self.only.contains(&workload)
    }

    pub(crate) fn contenders(&self) -> Vec<Contender> {
        if self.contenders.is_empty() {
            Contender::value_variants().to_vec()
        } else {
            self.contenders.clone()
        }
    }
}
