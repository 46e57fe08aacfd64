//! `sweep`: one thing going wrong at every step in turn.

use std::fs;
use std::io;
use std::path::Path;

use cenotaph_sim::{Options, Plan, Sweep, sweep as run_sweep};

use super::args::SweepKind;
use super::output::{Watch, bar, line};

/// Failures that are written down.
const SHOWN: usize = 20;

/// Whether all was well. A plan that failed is written to a file, for its seed alone does not show
/// it again.
pub(crate) fn sweep(kind: SweepKind, seed: u64, operations: usize, out: &Path) -> io::Result<bool> {
    let kind = match kind {
        SweepKind::Crash => Sweep::Crash,
        SweepKind::CrashAgain => Sweep::CrashAgain,
        SweepKind::Kill => Sweep::Kill,
        SweepKind::Panic => Sweep::Panic,
    };
    let (watch, progress) = (Watch::start(), bar(0, "runs"));
    let swept = run_sweep(
        kind,
        &Plan::generate(seed, operations),
        &Options::default(),
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
            "VIOLATED: {:?}: cenotaph-sim replay --plan {}",
            plan.acts,
            file.display()
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
