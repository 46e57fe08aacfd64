//! `sweep`: runs a plan once for each of its steps, with a fault at that step.

use std::fs;
use std::io;
use std::path::Path;

use cenotaph_sim::{Sweep, sweep as run_sweep};

use super::args::{How, SweepKind};
use super::output::{Watch, bar, line};

/// Maximum number of failures that are written.
const SHOWN: usize = 20;

/// Runs the sweep. Returns `true` if there is no violation.
///
/// A failing plan is written to a file, because its seed alone does not reproduce the failure.
///
/// # Errors
/// Any error of writing a plan.
pub(crate) fn sweep(
    kind: SweepKind,
    (seed, operations): (u64, usize),
    out: &Path,
    how: How,
) -> io::Result<bool> {
    let options = how.options();
    let kind = match kind {
        SweepKind::Crash => Sweep::Crash,
        SweepKind::CrashAgain => Sweep::CrashAgain,
        SweepKind::Kill => Sweep::Kill,
        SweepKind::Panic => Sweep::Panic,
    };
    let watch = Watch::start();
    // The number of steps is known only after the first run.
    let progress = bar(0, "runs");
    let swept = run_sweep(
        kind,
        &options.plan(seed, operations),
        &options,
        |done, expected| {
            progress.set_length(expected.max(done));
            progress.set_position(done);
        },
    );
    progress.finish_and_clear();
    line(&swept.coverage);
    for (number, (plan, violations)) in swept.failures.iter().take(SHOWN).enumerate() {
        let file = out.join(format!("sweep-{seed}-{number}.json"));
        fs::create_dir_all(out)?;
        fs::write(&file, serde_json::to_vec(plan)?)?;
        line(format_args!(
            "VIOLATED: {:?}: cenotaph-sim replay --plan {}{}",
            plan.acts,
            file.display(),
            how.flags()
        ));
        violations
            .iter()
            .take(3)
            .for_each(|violation| line(format_args!("  {violation}")));
    }
    line(format_args!(
        "{} runs in {:.1} s, {} of them violated something",
        swept.runs,
        watch.elapsed().as_secs_f64(),
        swept.failures.len()
    ));
    Ok(swept.failures.is_empty())
}
