//! `doctor`: explains the state of a store's index without opening it.

use std::path::{Path, PathBuf};

use cenotaph::Env;
use cenotaph::doctor::{self, Condition};

use crate::args::DoctorArgs;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `doctor` on the given directory, or else on `data`.
pub(crate) async fn run(
    report: &Report,
    env: &Env,
    data: &Path,
    options: &DoctorArgs,
) -> Result<(), Failure> {
    let dir: PathBuf = options.dir.clone().unwrap_or_else(|| data.to_owned());
    let diagnosis = env.blocking(move || doctor::examine(dir)).await??;
    if report.is_json() {
        report.json(&serde_json::to_value(&diagnosis).unwrap_or_default())?;
    } else {
        report.text(&format!("{diagnosis}\n"))?;
    }
    match diagnosis.condition {
        Condition::Healthy => Ok(()),
        Condition::Damaged => Err(Failure::Failed(format!(
            "the store is damaged: problems={}",
            diagnosis.problems.len()
        ))),
        Condition::Open => Err(Failure::Failed(
            "the store is open and was not examined".to_owned(),
        )),
    }
}
