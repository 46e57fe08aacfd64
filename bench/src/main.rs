//! Measures Cenotaph beside an append log, fjall, SQLite and files.
//!
//! ```text
//! round 1: cell 1: contender A, B, C, D, E     rounds are outermost, and the order of the
//!          cell 2: contender B, C, D, E, A     contenders rotates, so that a drift of the
//!          ..                                  machine's speed affects all of them alike
//! round 2: ..
//! ```
//!
//! Figures are medians of the rounds. Ratios are medians of the ratios within each round.

use std::path::Path;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

mod contenders;
mod disk;
mod docs;
mod drive;
mod gets;
mod options;
mod payloads;
mod plot;
mod puts;
mod results;
mod swaps;
mod table;

use disk::Scratch;
use options::{Options, Workload};
use results::Report;

fn main() {
    let options = Options::parse();
    let mut report = match &options.from {
        Some(path) => Report::load(path),
        None => measure(&options),
    };
    if let Some(path) = &options.json {
        if options.merge && path.exists() {
            report = Report::load(path).merged(report);
        }
        report.save(path);
    }
    println!("{}", table::render(&report));
    if options.write_docs {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        docs::write(&repository, &report);
    }
}

fn measure(options: &Options) -> Report {
    let scratch = Scratch::new(options.dir.as_deref());
    let runtime = runtime();
    let mut report = Report::new(options);
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for &bytes in &options.sizes {
            if options.runs(Workload::Puts) {
                puts::measure(options, &runtime, &scratch, bytes, round, &mut report);
            }
            if options.runs(Workload::Gets) {
                gets::measure(options, &runtime, &scratch, bytes, round, &mut report);
            }
        }
        if options.runs(Workload::Swaps) {
            swaps::measure(options, &runtime, &scratch, round, &mut report);
        }
    }
    report
}

fn runtime() -> Runtime {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores)
        .enable_all()
        .build()
        .expect("the runtime starts")
}

/// Returns the items in an order that starts with another item in each turn.
fn rotated<T: Copy>(items: &[T], turn: usize) -> Vec<T> {
    let start = turn % items.len().max(1);
    items[start..]
        .iter()
        .chain(&items[..start])
        .copied()
        .collect()
}
