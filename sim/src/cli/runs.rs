//! `run`: many seeds, and what they have seen together.

use cenotaph_sim::wanted;

use super::args::{How, Seeds};
use super::output::{Watch, bar, line};
use super::pool::{Total, run_all};

/// Fewer runs than this can't be expected to see everything.
const SEEING_SEEDS: u64 = 500;
/// Failures that are printed.
const SHOWN: usize = 20;

/// Whether all is well.
pub(crate) fn run(seeds: &Seeds, how: How) -> bool {
    let (watch, progress, jobs) = (
        Watch::start(),
        bar(seeds.seeds, "seeds"),
        seeds.jobs.count(),
    );
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
    // On real fjall there are no torn tails to be seen, and a few seeds can't see everything.
    let missing = total.coverage.missing(wanted());
    let blind = total.runs >= SEEING_SEEDS && !options.on_fjall && !missing.is_empty();
    if blind {
        line(format_args!("BLIND: never seen: {missing:?}"));
    }
    total.failures.is_empty() && !blind
}

#[expect(clippy::cast_precision_loss, reason = "rates need not be exact")]
fn summary(total: &Total, seconds: f64, jobs: usize) {
    let (runs, operations, steps) = (
        total.runs as f64,
        total.operations as f64,
        total.steps as f64,
    );
    line(format_args!(
        "{} runs, {} lives, {} operations, {} steps in {seconds:.1} s on {jobs} threads: {:.0} runs/s, {:.0} operations/s, {:.0} steps/s",
        total.runs,
        total.lives,
        total.operations,
        total.steps,
        runs / seconds,
        operations / seconds,
        steps / seconds
    ));
}

fn failures(total: &Total, how: How, operations: usize) {
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
