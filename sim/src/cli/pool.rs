//! Many worlds at once, each on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cenotaph_sim::{Coverage, Options, Plan, Report, Violation, run};

/// What many runs have seen together.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) runs: u64,
    pub(crate) operations: u64,
    pub(crate) steps: u64,
    pub(crate) lives: u64,
    pub(crate) coverage: Coverage,
    /// Seeds that violated something, in no particular order.
    pub(crate) failures: Vec<(u64, Vec<Violation>)>,
}

impl Total {
    pub(crate) fn add(&mut self, seed: u64, report: &Report) {
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

/// Runs the plans of these seeds. `after` hears of each run, and says whether to go on.
pub(crate) fn run_all(
    seeds: std::ops::Range<u64>,
    operations: usize,
    options: &Options,
    jobs: usize,
    after: impl Fn(u64, &Report) -> bool + Sync,
) -> Total {
    let (next, enough, total) = (
        AtomicU64::new(seeds.start),
        AtomicBool::new(false),
        Mutex::new(Total::default()),
    );
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    // A panic must not take its seed with it.
                    let report = catch_unwind(AssertUnwindSafe(|| {
                        run(&Plan::generate(seed, operations), options)
                    }));
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    let Ok(report) = report else {
                        let message = "the run itself panicked".to_owned();
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
                    drop(total);
                    if !after(seed, &report) {
                        enough.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.failures.sort_by_key(|(seed, _)| *seed);
    total
}
