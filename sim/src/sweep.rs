//! Sweeps: the same plan again and again, with one thing going wrong at every step in turn. And
//! [`shrink`], which makes a plan that fails small.

use cenotaph::ActorKind;
use proptest::strategy::ValueTree;

use crate::check::Violation;
use crate::coverage::Coverage;
use crate::machine::Act;
use crate::plan::{Plan, PlanTree};
use crate::run::{Options, run};

/// What goes wrong at every step in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// The world crashes.
    Crash,
    /// The world crashes, and once more at every step of the opening that follows.
    CrashAgain,
    /// Each kind of actor is killed.
    Kill,
    /// The actor that takes the step panics.
    Panic,
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Runs.
    pub runs: u64,
    /// Plans that violated something, and what.
    pub failures: Vec<(Plan, Vec<Violation>)>,
    /// How often each thing happened, over all runs.
    pub coverage: Coverage,
}

/// Runs the sweep of a plan, whose own faults are left out so that its steps are the same each
/// time. `progress` hears of each run: how many there were, and how many there will be at least.
pub fn sweep(
    kind: Sweep,
    plan: &Plan,
    options: &Options,
    mut progress: impl FnMut(u64, u64),
) -> Swept {
    let plan = plan.clone().without_faults();
    let steps = run(&plan, options).steps_of_clients;
    let mut swept = Swept::default();
    for step in 1..=steps {
        for act in acts(kind, plan.setting.shards) {
            let (opened, crashed_at) = swept.run(&plan, &[(step, act)], options);
            if kind == Sweep::CrashAgain {
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

fn acts(kind: Sweep, shards: usize) -> Vec<Act> {
    match kind {
        Sweep::Crash | Sweep::CrashAgain => vec![Act::Crash],
        Sweep::Panic => vec![Act::Panic],
        Sweep::Kill => {
            let others = [
                ActorKind::EveryUpload,
                ActorKind::Uploads,
                ActorKind::Recovery,
                ActorKind::Sweeper,
                ActorKind::Expirer,
                ActorKind::Supervisor,
            ];
            (0..shards)
                .map(ActorKind::Shard)
                .chain(others)
                .map(Act::Kill)
                .collect()
        }
    }
}

impl Swept {
    /// Runs the plan with these acts; at which steps it opened, and the step of the first act.
    fn run(&mut self, plan: &Plan, acts: &[(u64, Act)], options: &Options) -> (Vec<u64>, u64) {
        let plan = Plan {
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

/// A smaller plan that still fails, found within so many attempts.
pub fn shrink(plan: Plan, attempts_max: usize, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    let mut tree = PlanTree::new(plan);
    let mut more = tree.simplify();
    for _ in 0..attempts_max {
        if !more {
            break;
        }
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
