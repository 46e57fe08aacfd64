//! Parallel runs of many worlds, each on its own thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cenotaph_sim::{Coverage, Options, RunReport, Violation, run};

/// Sum of many runs.
#[derive(Default)]
pub(crate) struct RunTotal {
    pub(crate) runs: u64,
    pub(crate) operations: u64,
    pub(crate) steps: u64,
    pub(crate) lives: u64,
    pub(crate) coverage: Coverage,
    /// Seeds with violations, ordered by seed after all runs.
    pub(crate) failures: Vec<(u64, Vec<Violation>)>,
}

impl RunTotal {
    /// Adds a run.
    pub(crate) fn add(&mut self, seed: u64, report: &RunReport) {
        self.runs += 1;
        self.operations += report.operations;
        self.steps += report.steps;
        self.lives += report.lives;
        self.coverage.merge(&report.coverage);
        if !report.violations.is_empty() {
            self.failures.push((seed, report.violations.clone()));
        }
    }
}

/// Runs the plans of these seeds without timelines. Calls `after` with each report and stops if it
/// returns `false`.
pub(crate) fn run_all(
    seeds: std::ops::Range<u64>,
    operations: usize,
    options: &Options,
    jobs: usize,
    after: impl Fn(u64, &RunReport) -> bool + Sync,
) -> RunTotal {
    let options = &Options {
        without_timeline: true,
        ..*options
    };
    let next = AtomicU64::new(seeds.start);
    let enough = AtomicBool::new(false);
    let total = Mutex::new(RunTotal::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    // Relaxed order suffices: the counter protects no other memory.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    // A panic is reported as a failure of its seed instead of ending all runs.
                    let report = catch_unwind(AssertUnwindSafe(|| {
                        run(&options.plan(seed, operations), options)
                    }));
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    let Ok(report) = report else {
                        let message = "the simulated run panicked".to_owned();
                        total.failures.push((
                            seed,
                            vec![Violation {
                                checker: "panic",
                                message,
                            }],
                        ));
                        continue;
                    };
                    total.add(seed, &report);
                    // `after` may shrink a failing plan, which takes many runs. Other threads must
                    // not wait for it.
                    drop(total);
                    if !after(seed, &report) {
                        enough.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    // The threads finish in any order.
    total.failures.sort_by_key(|(seed, _)| *seed);
    total
}
