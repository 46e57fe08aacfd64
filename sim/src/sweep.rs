//! Fault sweeps over a plan, and [`shrink`], which reduces a failing plan.
//!
//! A sweep runs the plan once for every step and injects a fault at that step.

use cenotaph::ActorKind;
use proptest::strategy::ValueTree;

use crate::check::Violation;
use crate::faults::ScriptedFault;
use crate::plan::{PlanTree, RunPlan};
use crate::run::{Options, run};
use crate::trace::coverage::Coverage;

/// Kind of fault that a sweep injects at every step in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// The world crashes.
    Crash,
    /// The world crashes, and crashes once more at every step of the opening that follows.
    CrashAgain,
    /// Each kind of actor is killed, in a run of its own.
    Kill,
    /// The actor that takes the step panics.
    Panic,
}

/// Result of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Number of runs.
    pub runs: u64,
    /// Plans with violations, and the violations of each.
    pub failures: Vec<(RunPlan, Vec<Violation>)>,
    /// Number of occurrences of each event over all runs.
    pub coverage: Coverage,
}

/// Runs a sweep of a plan. The faults of the plan itself are removed, so that its steps are the
/// same in each run. `progress` is called after each run with the number of runs so far and the
/// least total number of runs.
pub fn sweep(
    kind: Sweep,
    plan: &RunPlan,
    options: &Options,
    mut progress: impl FnMut(u64, u64),
) -> Swept {
    // Random faults would draw differently after the injected fault and shift the steps.
    let plan = plan.clone().without_faults();
    // Steps after the last client belong to the checks of the run, which are the same everywhere.
    let options = &Options {
        without_timeline: true,
        ..*options
    };
    let steps = run(&plan, options).steps_of_clients;
    let mut swept = Swept::default();
    for step in 1..=steps {
        for act in acts(kind, plan.setting.shards) {
            let (opened, crashed_at) = swept.run(&plan, &[(step, act)], options);
            if kind == Sweep::CrashAgain {
                // The second crash is swept up to the first opening after the first crash. If no
                // engine opened again, there is no step to sweep.
                let end = opened
                    .into_iter()
                    .find(|&opened| opened > crashed_at)
                    .unwrap_or(step);
                for again in step + 1..=end {
                    swept.run(&plan, &[(step, act), (again, act)], options);
                }
            }
            progress(
                swept.runs,
                steps * acts(kind, plan.setting.shards).len() as u64,
            );
        }
    }
    swept
}

/// Returns the acts that a sweep injects at each step, each in a run of its own.
fn acts(kind: Sweep, shards: usize) -> Vec<ScriptedFault> {
    match kind {
        Sweep::Crash | Sweep::CrashAgain => vec![ScriptedFault::Crash],
        Sweep::Panic => vec![ScriptedFault::Panic],
        Sweep::Kill => {
            let others = [
                ActorKind::EveryUpload,
                ActorKind::Uploads,
                ActorKind::Recovery,
                ActorKind::Sweeper,
                ActorKind::Expirer,
                ActorKind::Pruner,
                ActorKind::Supervisor,
            ];
            (0..shards)
                .map(ActorKind::Shard)
                .chain(others)
                .map(ScriptedFault::Kill)
                .collect()
        }
    }
}

impl Swept {
    /// Runs the plan with these acts. Returns the steps at which an engine opened, and the step of
    /// the first act.
    fn run(
        &mut self,
        plan: &RunPlan,
        acts: &[(u64, ScriptedFault)],
        options: &Options,
    ) -> (Vec<u64>, u64) {
        let plan = RunPlan {
            acts: acts.to_vec(),
            ..plan.clone()
        };
        let report = run(&plan, options);
        self.runs += 1;
        self.coverage.merge(&report.coverage);
        if !report.violations.is_empty() {
            self.failures.push((plan, report.violations));
        }
        (report.opened_at, acts.first().map_or(0, |&(step, _)| step))
    }
}

/// Returns a smaller plan that still fails, found within this number of attempts.
pub fn shrink(
    plan: RunPlan,
    attempts_max: usize,
    mut fails: impl FnMut(&RunPlan) -> bool,
) -> RunPlan {
    let mut best = plan.clone();
    let mut tree = PlanTree::new(plan);
    let mut more = tree.simplify();
    for _ in 0..attempts_max {
        if !more {
            break;
        }
        // As in proptest: simplify while the plan fails, complicate when it no longer does.
        let candidate = tree.current();
        if fails(&candidate) {
            best = candidate;
            more = tree.simplify();
        } else {
            more = tree.complicate();
        }
    }
    best
}
