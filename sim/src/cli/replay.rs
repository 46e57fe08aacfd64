//! `replay`: runs a plan and shows its timeline.

use std::fs;
use std::io;
use std::path::Path;

use cenotaph_sim::{RunPlan, run};

use super::args::How;
use super::output::{line, text};

/// Runs the plan of a file or of a seed and prints its timeline, or writes it as an HTML page.
/// Returns `true` if there is no violation.
///
/// # Errors
/// Any error of reading the plan or of writing the page.
pub(crate) fn replay(
    seed: Option<u64>,
    file: Option<&Path>,
    html: Option<&Path>,
    operations: usize,
    how: How,
) -> io::Result<bool> {
    let options = how.options();
    let plan: RunPlan = match file {
        Some(path) => serde_json::from_slice(&fs::read(path)?)?,
        // The argument parser requires a seed if there is no plan.
        None => options.plan(seed.unwrap_or_default(), operations),
    };
    let report = run(&plan, &options);
    match html {
        Some(path) => {
            fs::write(
                path,
                report
                    .sim
                    .timeline_html(&format!("cenotaph-sim, seed {}", plan.seed)),
            )?;
            line(format_args!("{}", path.display()));
        }
        None => text(&report.sim.timeline()),
    }
    line(format_args!(
        "{} incarnations, {} steps, {:?} of virtual time",
        report.lives, report.steps, report.elapsed
    ));
    report
        .violations
        .iter()
        .for_each(|violation| line(format_args!("VIOLATED: {violation}")));
    Ok(report.violations.is_empty())
}
