//! `hunt`: runs seed after seed until it is stopped, and writes a file for every failure.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenotaph_sim::{RunPlan, Violation, run, shrink};

use super::args::{How, Jobs};
use super::output::{Watch, line, spinner};
use super::pool::run_all;

/// Maximum number of runs for shrinking a failure.
const SHRINK_ATTEMPTS: usize = 2000;

/// Arguments of `hunt`.
pub(crate) struct Hunt {
    pub(crate) jobs: Jobs,
    pub(crate) from: u64,
    pub(crate) operations: usize,
    pub(crate) out: PathBuf,
    pub(crate) seconds: Option<u64>,
    pub(crate) failures: Option<usize>,
    pub(crate) how: How,
}

impl Hunt {
    /// Runs the hunt. Returns `true` if no run has violated anything.
    ///
    /// # Errors
    /// Any error of writing a failure, which stops the hunt.
    pub(crate) fn run(&self) -> io::Result<bool> {
        let watch = Watch::start();
        let progress = spinner();
        let first_error = Mutex::new(None);
        let options = self.how.options();
        let found = AtomicUsize::new(0);
        let total = run_all(
            self.from..u64::MAX,
            self.operations,
            &options,
            self.jobs.count(),
            |seed, report| {
                progress.inc(1);
                if let Some(first) = report.violations.first() {
                    match self.write(&options.plan(seed, self.operations), &report.violations) {
                        Ok(name) => {
                            progress.suspend(|| {
                                line(format_args!("seed {seed}: {first} -> {name}"));
                            });
                            let found = found.fetch_add(1, Ordering::Relaxed) + 1;
                            if self.failures.is_some_and(|failures| found >= failures) {
                                return false;
                            }
                        }
                        // Without its file a failure is lost, so that there is no point in going
                        // on.
                        Err(error) => {
                            first_error
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .get_or_insert(error);
                            return false;
                        }
                    }
                }
                self.seconds
                    .is_none_or(|seconds| watch.elapsed() < Duration::from_secs(seconds))
            },
        );
        progress.finish_and_clear();
        line(format_args!(
            "{} runs, {} of them violated something",
            total.runs,
            total.failures.len()
        ));
        match first_error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(error) => Err(error),
            None => Ok(total.failures.is_empty()),
        }
    }

    /// Shrinks a failing plan and writes it with its violations, its timeline and the commands that
    /// reproduce it. Returns the path of the text file.
    fn write(&self, plan: &RunPlan, violations: &[Violation]) -> io::Result<String> {
        let options = self.how.options();
        let flags = self.how.flags();
        let checker = violations.first().map(|violation| violation.checker);
        // A smaller plan counts only if the same check fails first. Otherwise, shrinking may drift
        // to another failure.
        let small = shrink(plan.clone(), SHRINK_ATTEMPTS, |plan| {
            run(plan, &options)
                .violations
                .first()
                .map(|violation| violation.checker)
                == checker
        });
        let report = run(&small, &options);
        fs::create_dir_all(&self.out)?;
        let json = self.out.join(format!("{}.json", plan.seed));
        let text = self.out.join(format!("{}.txt", plan.seed));
        fs::write(&json, serde_json::to_vec_pretty(&small)?)?;
        let found: Vec<String> = violations.iter().map(ToString::to_string).collect();
        let head = format!(
            "seed {seed}\n{found}\n\n\
             again:  cenotaph-sim replay {seed} --ops {operations}{flags}\n\
             shrunk: cenotaph-sim replay --plan {json}{flags}\n\n",
            seed = plan.seed,
            found = found.join("\n"),
            operations = self.operations,
            json = json.display(),
        );
        fs::write(&text, head + &report.sim.timeline())?;
        Ok(text.display().to_string())
    }
}
