//! Runs a plan in a world of its own, from its first incarnation to the last check: [`run`].
//!
//! ```text
//! incarnation 1 ──crash──> incarnation 2 ──crash──> .. ──> every client is done
//!   ──> faults cease ──> the same engine settles, takes on work, closes at once (liveness)
//!   ──> a new incarnation settles the rest ──> both tiers at rest (I5)
//!   ──> a last incarnation reads every object (I9) ──> the history is checked
//! ```

mod config;
mod liveness;
mod members;
mod work;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cenotaph::MissingBlob;
use cenotaph_storage::planted::Bug;

use self::config::config;
use self::liveness::{end_uploads, read_everything};
use self::members::live_together;
use self::work::{RemainingWork, live};
use crate::check::{Violation, check_history};
use crate::plan::RunPlan;
use crate::rng::Odds;
use crate::sim::{Incarnation, Sim};
use crate::trace::coverage::Coverage;

/// Heartbeat of members, which store the pins of their readers with it.
const MEMBER_HEARTBEAT: Duration = Duration::from_secs(2);

/// Options of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// True to use real fjall instead of the simulated disk.
    pub on_fjall: bool,
    /// Planted bug that the checkers must find. Has an effect only with the feature `planted`.
    pub bug: Option<Bug>,
    /// True for plans of several members that share an index.
    pub is_shared: bool,
    /// True to record no events. The run is the same and takes less time, but has no timeline.
    pub without_timeline: bool,
}

impl Options {
    /// Generates the plan of this seed with about this many operations.
    pub fn plan(&self, seed: u64, operations: usize) -> RunPlan {
        if self.is_shared {
            RunPlan::generate_shared(seed, operations)
        } else {
            RunPlan::generate(seed, operations)
        }
    }
}

/// Result of a run.
#[derive(Debug)]
pub struct RunReport {
    /// The world, for its timeline.
    pub sim: Sim,
    /// Violations of invariants. Empty if the run is correct.
    pub violations: Vec<Violation>,
    /// Number of occurrences of each event.
    pub coverage: Coverage,
    /// Number of steps. A crash could have struck at each of them.
    pub steps: u64,
    /// Number of steps until the last client was done.
    pub steps_of_clients: u64,
    /// Step at which each opening of the engine ended.
    pub opened_at: Vec<u64>,
    /// Number of calls by clients.
    pub operations: u64,
    /// Number of incarnations.
    pub lives: u64,
    /// Virtual time of the run.
    pub elapsed: Duration,
}

/// Runs a plan. The result is a function of the arguments.
///
/// ```
/// use cenotaph_sim::{Options, RunPlan, run};
///
/// let report = run(&RunPlan::generate(42, 100), &Options::default());
/// assert!(report.violations.is_empty(), "{}", report.sim.timeline());
/// assert!(report.coverage.of("heard: applied") > 0);
/// ```
///
/// # Panics
/// If the temporary directory for real fjall can't be created.
pub fn run(plan: &RunPlan, options: &Options) -> RunReport {
    let mut sim = world(plan, options);
    let work = Arc::new(RemainingWork::new(plan));
    let mut crashes = 0;
    loop {
        // The plan bounds the crashes, or a run with a high rate would never end.
        if crashes >= plan.crashes_max {
            sim.durable_state().state().faults.crash = Odds::NEVER;
        }
        let work = Arc::clone(&work);
        let opened = work.opened();
        let life = async |world| match plan.members {
            Some(_) => live_together(world, plan, Arc::clone(&work)).await,
            None => live(world, Arc::clone(&work)).await,
        };
        match sim.run(life) {
            Incarnation::Ended(()) => break,
            Incarnation::Crashed if sim.durable_state().state().is_exhausted() => break,
            Incarnation::Crashed => {
                crashes += 1;
                let mut state = sim.durable_state().state();
                if work.opened() == opened {
                    state.coverage.count("run: crashed while it opened");
                }
                if crashes == 3 {
                    state.coverage.count("run: several crashes");
                }
            }
        }
    }
    // The model keeps the violations, and `report` reads them there.
    drop(sim.settle());
    end_uploads(&mut sim, plan.setting.multipart);
    read_everything(&mut sim);
    if sim.durable_state().state().tier > 0 {
        // Once more: both the copies and what they replaced are accounted for.
        drop(sim.settle());
    }
    report(sim, &work)
}

/// Creates the world of a plan.
fn world(plan: &RunPlan, options: &Options) -> Sim {
    #[cfg(feature = "planted")]
    let sim = Sim::with_bug(plan.seed, options.bug);
    #[cfg(not(feature = "planted"))]
    let sim = Sim::new(plan.seed);
    {
        let mut state = sim.durable_state().state();
        state.model.inline_bytes_max = Some(plan.setting.inline_bytes_max);
        state.model.rules = Some(plan.setting.multipart);
        state.writes_max = Some(plan.setting.writes_at_once);
        state.strict_deletes = plan.setting.strict_deletes;
        state.has_payload_log = plan.setting.payload_log;
        if options.without_timeline {
            state.trace.stop_recording();
        }
        // After the choice above: the objects of the source are events of the timeline.
        if let Some(objects) = &plan.fallback {
            state.fill_source(objects);
        }
    }
    let mut config = config(&plan.setting);
    if options.bug == Some(Bug::MissingBlobIsAbsent) {
        // The checks do not know of this setting: they expect an error for a missing blob.
        config.missing_blob = MissingBlob::Absent;
    }
    let sim = match &plan.members {
        Some(members) => {
            config.limits.members = members.limits();
            config.limits.heartbeat = MEMBER_HEARTBEAT;
            let sim = sim.shared();
            let mut state = sim.durable_state().state();
            state.model.set_lease(config.limits.members.lease);
            // Each member has its own.
            state.writes_max = None;
            drop(state);
            sim
        }
        None => sim,
    };
    let sim = sim
        .config(config)
        .faults(plan.faults.clone())
        .schedule(plan.schedule.clone());
    // Acts of a sweep are part of the plan, so a failing sweep is replayed as a plan.
    let sim = plan
        .acts
        .iter()
        .fold(sim, |sim, &(step, act)| sim.at_step(step, act));
    if options.on_fjall {
        sim.on_fjall().expect("there is a temporary directory")
    } else {
        sim
    }
}

/// Checks the history of a finished run and collects its results.
fn report(sim: Sim, work: &RemainingWork) -> RunReport {
    let durable_state = Arc::clone(sim.durable_state());
    let mut state = durable_state.state();
    check_history(&mut state.model);
    state.report_violations();
    let report = RunReport {
        violations: state.model.violations().to_vec(),
        coverage: state.coverage.clone(),
        steps: state.step,
        steps_of_clients: work.steps.load(Ordering::SeqCst),
        opened_at: work
            .opened_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
        operations: state.model.calls_made(),
        lives: u64::from(state.trace.life()),
        elapsed: state.elapsed(),
        sim,
    };
    drop(state);
    report
}
