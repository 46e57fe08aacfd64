//! `sweep`: one thing going wrong at every step in turn.

use cenotaph_sim::{Options, Plan, Sweep, sweep as run_sweep};

use super::args::SweepKind;
use super::output::{Watch, bar, line};

/// Whether all was well.
pub(crate) fn sweep(kind: SweepKind, seed: u64, operations: usize) -> bool {
    let kind = match kind {
        SweepKind::Crash => Sweep::Crash,
        SweepKind::CrashAgain => Sweep::CrashAgain,
        SweepKind::Kill => Sweep::Kill,
        SweepKind::Panic => Sweep::Panic,
    };
    let (watch, progress) = (Watch::start(), bar(0, "runs"));
    let swept = run_sweep(kind, &Plan::generate(seed, operations), &Options::default(), |done, expected| {
        progress.set_length(expected.max(done));
        progress.set_position(done);
    });
    progress.finish_and_clear();
    line(&swept.coverage);
    for (plan, violations) in swept.failures.iter().take(20) {
        line(format_args!("VIOLATED: {:?}", plan.acts));
        violations.iter().take(3).for_each(|violation| line(format_args!("  {violation}")));
    }
    line(format_args!(
        "{} runs in {:.1} s, {} of them violated something",
        swept.runs,
        watch.elapsed().as_secs_f64(),
        swept.failures.len()
    ));
    swept.failures.is_empty()
}
