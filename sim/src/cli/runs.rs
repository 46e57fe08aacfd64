//! `run`: runs many seeds and prints their coverage, rates and violations.

use cenotaph_sim::wanted;

use super::args::{How, Seeds};
use super::output::{Watch, bar, line};
use super::pool::{RunTotal, run_all};

/// Minimum number of runs for which the expected coverage is required. Fewer runs do not reach all
/// of it.
const COVERAGE_RUNS_MIN: u64 = 500;
/// Maximum number of printed failures.
const SHOWN: usize = 20;

/// Runs the seeds. Returns `true` if there is no violation and the coverage is complete.
pub(crate) fn run(seeds: &Seeds, how: How) -> bool {
    let watch = Watch::start();
    let progress = bar(seeds.seeds, "seeds");
    let jobs = seeds.jobs.count();
    let options = how.options();
    let total = run_all(
        seeds.from..seeds.from.saturating_add(seeds.seeds),
        seeds.ops,
        &options,
        jobs,
        |_, _| {
            progress.inc(1);
            true
        },
    );
    progress.finish_and_clear();
    line(&total.coverage);
    let seconds = watch.elapsed().as_secs_f64().max(0.001);
    summary(&total, seconds, jobs);
    failures(&total, how, seeds.ops);
    let missing = total.coverage.missing(wanted(options.is_shared));
    // Crashes on real fjall are process kills, which leave no torn journal.
    let blind = total.runs >= COVERAGE_RUNS_MIN && !options.on_fjall && !missing.is_empty();
    if blind {
        line(format_args!("BLIND: never happened: {missing:?}"));
    }
    total.failures.is_empty() && !blind
}

/// Prints totals and rates.
#[expect(clippy::cast_precision_loss, reason = "rates need not be exact")]
fn summary(total: &RunTotal, seconds: f64, jobs: usize) {
    let runs = total.runs as f64;
    let operations = total.operations as f64;
    let steps = total.steps as f64;
    line(format_args!(
        "{} runs, {} incarnations, {} operations, {} steps in {seconds:.1} s on {jobs} threads: \
         {:.0} runs/s, {:.0} operations/s, {:.0} steps/s",
        total.runs,
        total.lives,
        total.operations,
        total.steps,
        runs / seconds,
        operations / seconds,
        steps / seconds
    ));
}

/// Prints failures with the commands that reproduce them.
fn failures(total: &RunTotal, how: How, operations: usize) {
    let flags = how.flags();
    for (seed, violations) in total.failures.iter().take(SHOWN) {
        line(format_args!(
            "VIOLATED: seed {seed}: cenotaph-sim replay {seed} --ops {operations}{flags}"
        ));
        violations
            .iter()
            .take(3)
            .for_each(|violation| line(format_args!("  {violation}")));
    }
    line(format_args!(
        "{} of {} runs violated something",
        total.failures.len(),
        total.runs
    ));
}
