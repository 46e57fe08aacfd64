//! Several members on a shared index: no claim is violated, every expected event occurs, and a run is
//! a function of its seed.

use cenotaph_sim::{Options, RunPlan, Sweep, run, sweep, wanted};

use crate::seeds::{run_seeds, seeds};

const SHARED: Options = Options {
    on_fjall: false,
    bug: None,
    is_shared: true,
    without_timeline: false,
};

#[test]
fn no_seed_of_members_violates_a_claim_and_coverage_is_complete() {
    let seen = run_seeds(seeds(300), SHARED);
    println!("{seen}");
    assert_eq!(
        seen.missing(wanted(true)),
        [""; 0],
        "expected events that no seed has produced"
    );
}

#[test]
fn run_of_members_is_a_function_of_its_seed() {
    for seed in 0..6 {
        let plan = RunPlan::generate_shared(seed, 60);
        let timeline = || run(&plan, &SHARED).sim.timeline();
        assert!(timeline() == timeline(), "seed {seed}");
    }
}

/// The member of each step in turn crashes there, and the others go on.
#[test]
fn member_may_crash_at_any_step() {
    let plan = RunPlan::generate_shared(3, 8);
    let swept = sweep(Sweep::Crash, &plan, &SHARED, |_, _| {});
    assert_eq!(swept.failures, [], "runs={}", swept.runs);
    assert!(swept.runs > 100, "{}", swept.runs);
    assert!(
        swept.coverage.of("members: one declared dead") > 100,
        "{}",
        swept.coverage
    );
    assert!(
        swept.coverage.of("run: a member crashed") > 100,
        "{}",
        swept.coverage
    );
}
