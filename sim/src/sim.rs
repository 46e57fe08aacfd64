//! Simulated worlds: [`Sim`] owns a world and [`Controls`] acts on it from within.
//!
//! A world has a sequence of incarnations. Each incarnation runs in a runtime of its own, on a
//! single thread, under a virtual clock, until its task ends or the world crashes. The next
//! incarnation finds the disks as the last incarnation left them.

mod controls;
mod env;

use std::fmt;
use std::io;
use std::sync::Arc;

use cenotaph::Config;

pub use self::controls::Controls;
use crate::check::{Violation, check_settled};
use crate::faults::{Faults, Schedule, ScriptedFault};
use crate::report::timeline;
use crate::tiers::network;
use crate::tiers::real::RealDirectory;
use crate::trace::TraceEvent;
use crate::trace::coverage::Coverage;
use crate::world::durable_state::DurableState;
use crate::world::scheduler::Scheduler;

/// Largest number of steps of a world. A world that exceeds it does not make progress.
const STEPS_MAX: u64 = 1_000_000;

/// A simulated world: an index, a blob tier, time, chance and failures, all functions of one seed.
///
/// The index and the blobs outlive the tasks that [`run`](Self::run) runs, as disks outlive a
/// process. All tasks run on one thread. The engine gets time, chance and tasks from the world.
/// Your own service gets them through [`Controls::env`] or through tokio, whose clock is virtual
/// here. Code that uses the real world (the system's time, threads, sockets, the order of a
/// `HashMap`) is not part of the simulation, and a run that depends on such code can't be replayed.
///
/// Invariants of the store are checked throughout: see [`violations`](Self::violations).
///
/// ```
/// use cenotaph_sim::{Incarnation, Sim};
///
/// let mut sim = Sim::new(42);
/// let life = sim.run(async |world| {
///     let engine = world.open().await.unwrap();
///     engine.put("a", "acknowledged").await.unwrap();
///     world.crash().await;
/// });
/// assert!(matches!(life, Incarnation::Crashed));
/// let life = sim.run(async |world| {
///     let engine = world.open().await.unwrap();
///     engine.get("a").await.unwrap().expect("it was acknowledged").bytes().await.unwrap()
/// });
/// assert_eq!(life.ended().unwrap(), "acknowledged");
/// sim.settle().unwrap();
/// ```
pub struct Sim {
    durable_state: Arc<DurableState>,
    config: Config,
    real: Option<RealDirectory>,
    is_shared: bool,
}

/// End of an incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incarnation<T> {
    /// The task of the incarnation returned this value.
    Ended(T),
    /// The world crashed or has used all its steps: see [`Sim::is_exhausted`].
    Crashed,
}

impl<T> Incarnation<T> {
    /// Returns the value of the task, or `None` after a crash.
    pub fn ended(self) -> Option<T> {
        match self {
            Self::Ended(value) => Some(value),
            Self::Crashed => None,
        }
    }
}

impl Sim {
    /// Creates the world of this seed, with random interleavings and no faults.
    pub fn new(seed: u64) -> Self {
        Self::of(DurableState::new(seed, None))
    }

    /// Creates the world of this seed with a planted bug that the checkers must find.
    #[cfg(feature = "planted")]
    pub fn with_bug(seed: u64, bug: Option<cenotaph_storage::planted::Bug>) -> Self {
        Self::of(DurableState::new(seed, bug))
    }

    fn of(durable_state: DurableState) -> Self {
        // Bounds every world, so that a livelock ends as a violation.
        durable_state.state().steps_max = STEPS_MAX;
        Self {
            durable_state: Arc::new(durable_state),
            config: Config::default(),
            real: None,
            is_shared: false,
        }
    }

    /// Sets the configuration of the engine.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets the faults that strike by chance from the beginning.
    #[must_use]
    pub fn faults(self, faults: Faults) -> Self {
        self.durable_state.state().faults = faults;
        self
    }

    /// Sets the interleaving of tasks.
    #[must_use]
    pub fn schedule(self, schedule: Schedule) -> Self {
        self.durable_state.state().schedule = schedule;
        self
    }

    /// Plans an act for this step. Steps are counted from 1 over all incarnations.
    #[must_use]
    pub fn at_step(self, step: u64, act: ScriptedFault) -> Self {
        self.durable_state
            .state()
            .script
            .entry(step)
            .or_default()
            .push(act);
        self
    }

    /// Keeps the index in a real fjall database in a temporary directory instead of simulating it.
    /// A crash is then a killed process, not a power cut. Runs take about thirty times longer.
    ///
    /// # Errors
    /// If the temporary directory can't be created.
    pub fn on_fjall(mut self) -> io::Result<Self> {
        self.real = Some(RealDirectory::new()?);
        Ok(self)
    }

    /// Makes the index one that several engines share: each opening of the engine or the index is a
    /// new member. [`Controls::member`] creates further processes in the world.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.is_shared = true;
        self.durable_state.state().model.share();
        self
    }

    /// Runs an incarnation until `life` ends or the world crashes.
    ///
    /// # Panics
    /// If `life` panics.
    pub fn run<T>(&mut self, life: impl AsyncFnOnce(Controls) -> T) -> Incarnation<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let runtime =
            runtime.expect("a runtime on the current thread needs nothing from the system");
        let scheduler = Scheduler::new(Arc::clone(&self.durable_state));
        let controls = Controls {
            scheduler: Arc::clone(&scheduler),
            config: self.config.clone(),
            real: self
                .real
                .as_ref()
                .map(|directory| Arc::from(directory.path())),
            is_shared: self.is_shared,
        };
        let ended = runtime.block_on(async {
            self.durable_state.begin_life();
            network::resume_flights(&scheduler);
            let ended = tokio::select! {
                // The order of the branches is fixed: a crash in the last step counts as a crash.
                biased;
                () = scheduler.crashed() => Incarnation::Crashed,
                value = life(controls) => Incarnation::Ended(value),
            };
            // After the fence no task has an effect, so the order in which the runtime drops its
            // tasks below can't matter.
            scheduler.fence();
            self.durable_state
                .end_life(if matches!(ended, Incarnation::Crashed) {
                    "crashed"
                } else {
                    "ended"
                });
            ended
        });
        if let Some(directory) = &mut self.real {
            // The directory is copied before the runtime is dropped: drops must not change the
            // copy.
            directory.kill().expect("a directory can be copied");
        }
        drop(runtime);
        if let Some(directory) = &self.real {
            directory.forget_old().expect("a directory can be removed");
        }
        // A crashed process holds no lock.
        self.durable_state.disk.unlock();
        ended
    }

    /// Runs a further incarnation without faults, waits for quiescence, and checks the state at
    /// rest. The blob tier must contain exactly the blobs that rows name (I5).
    ///
    /// # Errors
    /// Returns every violation found since the world began.
    pub fn settle(&mut self) -> Result<(), Vec<Violation>> {
        self.quieten();
        let durable_state = Arc::clone(&self.durable_state);
        let settled = self.run(async |world: Controls| {
            let engine = world.open_patiently().await?;
            world.settle(&engine).await?;
            engine.close().await
        });
        let mut state = durable_state.state();
        match settled {
            Incarnation::Ended(Ok(())) => {}
            Incarnation::Ended(Err(error)) => state
                .model
                .violated("liveness", format!("no quiescence: error={error:?}")),
            Incarnation::Crashed => {
                state.model.violated(
                    "liveness",
                    "no quiescence: the world has used all its steps",
                );
            }
        }
        // Only the simulated disk shows its tables. Real fjall does not.
        let tables = self.real.is_none().then(|| durable_state.disk.tables());
        check_settled(&mut state.model, tables.as_ref(), &durable_state.blobs);
        state.report_violations();
        match state.model.violations() {
            [] => Ok(()),
            violations => Err(violations.to_vec()),
        }
    }

    /// Stops all faults, those by chance and those planned for a step.
    pub fn quieten(&self) {
        self.durable_state.state().quieten();
    }

    /// Returns the violations that the checkers have found so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.durable_state.state().model.violations().to_vec()
    }

    /// Returns the number of occurrences of each event so far.
    pub fn coverage(&self) -> Coverage {
        self.durable_state.state().coverage.clone()
    }

    /// Returns true if the world has used its million steps. Every further incarnation crashes at
    /// once.
    pub fn is_exhausted(&self) -> bool {
        self.durable_state.state().is_exhausted()
    }

    /// Returns the number of steps so far. A crash can strike at each of them.
    pub fn steps(&self) -> u64 {
        self.durable_state.state().step
    }

    /// Returns the events so far as readable text: time, lane and event.
    pub fn timeline(&self) -> String {
        timeline::text(&self.durable_state.state().trace)
    }

    /// Returns the events so far as an HTML page with a lane for each actor.
    pub fn timeline_html(&self, title: &str) -> String {
        timeline::html(title, &self.durable_state.state().trace)
    }

    /// Returns the events so far.
    pub fn events(&self) -> Vec<TraceEvent> {
        self.durable_state.state().trace.events().to_vec()
    }

    pub(crate) fn durable_state(&self) -> &Arc<DurableState> {
        &self.durable_state
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("steps", &self.steps())
            .finish_non_exhaustive()
    }
}
