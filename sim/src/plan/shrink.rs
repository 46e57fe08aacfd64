//! Plans as proptest values: the strategy [`Plans`], and [`PlanTree`], which shrinks a failing
//! plan.
//!
//! Shrinking removes whole clients, kinds of faults, delays, chosen faults, and runs of operations
//! (long runs first, down to single operations). A removed part is restored if the plan without it
//! does not fail.

use proptest::prelude::Rng;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::RunPlan;
use crate::faults::Fault;
use crate::rng::Odds;

/// Strategy of all plans with about this many operations.
///
/// ```
/// use cenotaph_sim::{Options, Plans, run};
/// use proptest::prelude::*;
/// use proptest::test_runner::TestRunner;
///
/// let mut runner = TestRunner::new(ProptestConfig::with_cases(3));
/// runner.run(&Plans { operations: 20 }, |plan| {
///     prop_assert_eq!(run(&plan, &Options::default()).violations, []);
///     Ok(())
/// }).unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Plans {
    /// Approximate number of operations of all clients.
    pub operations: usize,
}

impl Strategy for Plans {
    type Tree = PlanTree;
    type Value = RunPlan;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let seed = runner.rng().next_u64();
        Ok(PlanTree::new(RunPlan::generate(seed, self.operations)))
    }
}

/// A plan that is being shrunk.
#[derive(Clone, Debug)]
pub struct PlanTree {
    plan: RunPlan,
    /// Plan before the last cut.
    before: Option<RunPlan>,
    /// Cuts of this round that have not been tried.
    cuts: Vec<PlanCut>,
    /// Plan at the start of this round.
    begun: RunPlan,
}

/// A removable part of a plan.
#[derive(Clone, Copy, Debug)]
enum PlanCut {
    Client(usize),
    /// Client, number of operations, and index after the last of them.
    Ops(usize, usize, usize),
    Act(usize),
    Fault(Fault),
    Delays,
}

impl PlanTree {
    /// Creates a tree with the whole plan.
    pub fn new(plan: RunPlan) -> Self {
        let mut tree = Self {
            begun: plan.clone(),
            plan,
            before: None,
            cuts: Vec::new(),
        };
        tree.cuts = tree.round();
        tree
    }

    /// Returns all cuts of the present plan in reverse order, so that `pop` returns the largest
    /// first.
    fn round(&self) -> Vec<PlanCut> {
        let mut cuts = Vec::new();
        for (client, ops) in self.plan.clients.iter().enumerate() {
            let mut some = 1;
            while some <= ops.len() {
                cuts.extend(
                    (0..ops.len() / some)
                        .map(|piece| PlanCut::Ops(client, some, (piece + 1) * some)),
                );
                some *= 2;
            }
        }
        cuts.extend((0..self.plan.acts.len()).map(PlanCut::Act));
        cuts.push(PlanCut::Delays);
        let likely = Fault::ALL
            .iter()
            .filter(|&&fault| self.plan.faults.of(fault) > Odds::NEVER);
        cuts.extend(likely.map(|&fault| PlanCut::Fault(fault)));
        cuts.extend((0..self.plan.clients.len()).map(PlanCut::Client));
        cuts
    }

    /// Returns the plan without this part, or `None` if the plan does not have it.
    fn without(&self, cut: PlanCut) -> Option<RunPlan> {
        let mut plan = self.plan.clone();
        match cut {
            // The client remains without operations, so that the numbers of others do not change.
            PlanCut::Client(client) => drop(std::mem::take(plan.clients.get_mut(client)?)),
            PlanCut::Ops(client, some, end) => {
                let ops = plan
                    .clients
                    .get_mut(client)
                    .filter(|ops| end <= ops.len())?;
                drop(ops.drain(end - some..end));
            }
            PlanCut::Act(act) if act < plan.acts.len() => drop(plan.acts.remove(act)),
            PlanCut::Act(_) => return None,
            PlanCut::Fault(fault) => plan.faults.set(fault, Odds::NEVER),
            PlanCut::Delays => plan.schedule.delay = Odds::NEVER,
        }
        // A cut without effect needs no run.
        (plan != self.plan).then_some(plan)
    }
}

impl ValueTree for PlanTree {
    type Value = RunPlan;

    fn current(&self) -> RunPlan {
        self.plan.clone()
    }

    /// Tries the next cut.
    fn simplify(&mut self) -> bool {
        loop {
            while let Some(cut) = self.cuts.pop() {
                if let Some(smaller) = self.without(cut) {
                    self.before = Some(std::mem::replace(&mut self.plan, smaller));
                    return true;
                }
            }
            // A cut that was rejected in this round may be possible in the smaller plan. The rounds
            // end with a round that removes nothing.
            if self.plan == self.begun {
                return false;
            }
            self.begun = self.plan.clone();
            self.cuts = self.round();
        }
    }

    /// Restores the last cut and tries the next cut.
    fn complicate(&mut self) -> bool {
        match self.before.take() {
            Some(before) => {
                self.plan = before;
                self.simplify()
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Faults;
    use crate::plan::Op;

    /// A failure that needs a put of 777 bytes and a delete shrinks to these two operations.
    #[test]
    fn a_plan_shrinks_to_the_operations_of_its_failure() {
        let mut plan = RunPlan::generate(5, 200);
        plan.clients[0].insert(10, crate::plan::put(1, 777));
        plan.clients[0].insert(
            20,
            Op::Delete {
                object: 999,
                dropped_after_ms: None,
                when: crate::plan::When::Any,
            },
        );
        let fails = |plan: &RunPlan| {
            let ops: Vec<_> = plan.clients.iter().flatten().collect();
            ops.iter()
                .any(|op| matches!(op, Op::Put { bytes: 777, .. }))
                && ops
                    .iter()
                    .any(|op| matches!(op, Op::Delete { object: 999, .. }))
        };
        let small = crate::sweep::shrink(plan, 10_000, |plan| fails(plan));
        assert!(fails(&small));
        assert_eq!((small.operations(), &small.faults), (2, &Faults::default()));
    }
}
