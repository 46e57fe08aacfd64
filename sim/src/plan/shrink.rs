//! Plans as proptest values: [`Plans`], a strategy, and [`PlanTree`], which makes a failing plan
//! smaller.
//!
//! Shrinking leaves out: whole clients, runs of operations (half of them, then quarters, down to
//! one), chosen faults, and kinds of faults. What is left out is put back if the failure goes with
//! it.

use proptest::prelude::Rng;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::Plan;
use crate::faults::Fault;
use crate::rng::Odds;

/// Every plan of about so many operations.
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
    /// Operations of all clients together, about.
    pub operations: usize,
}

impl Strategy for Plans {
    type Tree = PlanTree;
    type Value = Plan;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let seed = runner.rng().next_u64();
        Ok(PlanTree::new(Plan::generate(seed, self.operations)))
    }
}

/// A plan on its way to a smaller one.
#[derive(Clone, Debug)]
pub struct PlanTree {
    plan: Plan,
    /// The plan before the last thing was left out.
    before: Option<Plan>,
    cuts: Vec<Cut>,
    /// The plan when this round of cuts began.
    begun: Plan,
}

/// Something that can be left out.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Client(usize),
    /// So many operations of a client, ending before this one.
    Ops(usize, usize, usize),
    Act(usize),
    Fault(Fault),
    Delays,
}

impl PlanTree {
    /// All of this plan, to begin with.
    pub fn new(plan: Plan) -> Self {
        let mut tree = Self {
            begun: plan.clone(),
            plan,
            before: None,
            cuts: Vec::new(),
        };
        tree.cuts = tree.round();
        tree
    }

    /// Everything that could be left out of the plan as it is, in the reverse order of trying: the
    /// largest last.
    fn round(&self) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for (client, ops) in self.plan.clients.iter().enumerate() {
            let mut some = 1;
            while some <= ops.len() {
                cuts.extend(
                    (0..ops.len() / some).map(|piece| Cut::Ops(client, some, (piece + 1) * some)),
                );
                some *= 2;
            }
        }
        cuts.extend((0..self.plan.acts.len()).map(Cut::Act));
        cuts.push(Cut::Delays);
        let likely = Fault::ALL
            .iter()
            .filter(|&&fault| self.plan.faults.of(fault) > Odds::NEVER);
        cuts.extend(likely.map(|&fault| Cut::Fault(fault)));
        cuts.extend((0..self.plan.clients.len()).map(Cut::Client));
        cuts
    }

    fn without(&self, cut: Cut) -> Option<Plan> {
        let mut plan = self.plan.clone();
        match cut {
            Cut::Client(client) => drop(std::mem::take(plan.clients.get_mut(client)?)),
            Cut::Ops(client, some, end) => {
                let ops = plan
                    .clients
                    .get_mut(client)
                    .filter(|ops| end <= ops.len())?;
                drop(ops.drain(end - some..end));
            }
            Cut::Act(act) if act < plan.acts.len() => drop(plan.acts.remove(act)),
            Cut::Act(_) => return None,
            Cut::Fault(fault) => plan.faults.set(fault, Odds::NEVER),
            Cut::Delays => plan.schedule.delay = Odds::NEVER,
        }
        (plan != self.plan).then_some(plan)
    }
}

impl ValueTree for PlanTree {
    type Value = Plan;

    fn current(&self) -> Plan {
        self.plan.clone()
    }

    /// Leaves out one more thing.
    fn simplify(&mut self) -> bool {
        loop {
            while let Some(cut) = self.cuts.pop() {
                if let Some(smaller) = self.without(cut) {
                    self.before = Some(std::mem::replace(&mut self.plan, smaller));
                    return true;
                }
            }
            // What could not be left out before may be now.
            if self.plan == self.begun {
                return false;
            }
            self.begun = self.plan.clone();
            self.cuts = self.round();
        }
    }

    /// Puts back what was left out last, and leaves out the next thing instead.
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

    /// A failure that needs one put of 7 bytes and one delete shrinks to just these two.
    #[test]
    fn a_plan_shrinks_to_what_its_failure_needs() {
        let mut plan = Plan::generate(5, 200);
        plan.clients[0].insert(10, crate::plan::put(1, 777));
        plan.clients[0].insert(
            20,
            Op::Delete {
                object: 999,
                dropped_after_ms: None,
                when: crate::plan::When::Any,
            },
        );
        let fails = |plan: &Plan| {
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
