//! A world of one seed: [`Sim`] owns the world and [`Controls`] acts on it from within.
//!
//! A world has a sequence of incarnations. Each one runs in a runtime of its own, on one thread,
//! under a virtual clock, until its task ends or the world crashes. The next incarnation finds the
//! disks in the state in which the last one ended.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{
    ActorKind, Config, Engine, Env, Error, ErrorKind, Index, MARKER_PATH, Reason, Result,
};
use cenotaph_storage::StoreId;
use cenotaph_storage::blobs::marker;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::blobs::Blobs;
use crate::check::{Violation, check_settled};
use crate::coverage::Coverage;
use crate::faults::{Fault, Faults, Schedule};
use crate::gate::{Gate, Victims, sleep};
use crate::index::{Medium, SimIndex};
use crate::machine::{Act, Machine};
use crate::network;
use crate::real::{RealDirectory, RealDisk};
use crate::timeline;
use crate::trace::{Event, Kind};
use crate::world;

/// Longest wait of [`Sim::settle`] for quiescence, in virtual time.
const SETTLE_PATIENCE: Duration = Duration::from_secs(4 * 3600);
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
/// use cenotaph_sim::{Life, Sim};
///
/// let mut sim = Sim::new(42);
/// let life = sim.run(async |world| {
///     let engine = world.open().await.unwrap();
///     engine.put("a", "acknowledged").await.unwrap();
///     world.crash().await;
/// });
/// assert!(matches!(life, Life::Crashed));
/// let life = sim.run(async |world| {
///     let engine = world.open().await.unwrap();
///     engine.get("a").await.unwrap().expect("it was acknowledged").bytes().await.unwrap()
/// });
/// assert_eq!(life.ended().unwrap(), "acknowledged");
/// sim.settle().unwrap();
/// ```
pub struct Sim {
    machine: Arc<Machine>,
    config: Config,
    real: Option<RealDirectory>,
}

/// End of an incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life<T> {
    /// The task of the incarnation returned this value.
    Ended(T),
    /// The world crashed or has used all its steps: see [`Sim::is_exhausted`].
    Crashed,
}

impl<T> Life<T> {
    /// Returns the value of the task, or `None` after a crash.
    pub fn ended(self) -> Option<T> {
        match self {
            Self::Ended(value) => Some(value),
            Self::Crashed => None,
        }
    }
}

impl Sim {
    /// The world of this seed, with random interleavings and no faults.
    pub fn new(seed: u64) -> Self {
        Self::of(Machine::new(seed, None))
    }

    /// The same, with a bug in the engine that its checkers must find.
    #[cfg(feature = "planted")]
    pub fn with_bug(seed: u64, bug: Option<cenotaph_storage::planted::Bug>) -> Self {
        Self::of(Machine::new(seed, bug))
    }

    fn of(machine: Machine) -> Self {
        machine.state().steps_max = STEPS_MAX;
        Self {
            machine: Arc::new(machine),
            config: Config::default(),
            real: None,
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
        self.machine.state().faults = faults;
        self
    }

    /// Sets the interleaving of tasks.
    #[must_use]
    pub fn schedule(self, schedule: Schedule) -> Self {
        self.machine.state().schedule = schedule;
        self
    }

    /// Plans an act for this step. Steps are counted from 1 over all incarnations.
    #[must_use]
    pub fn at_step(self, step: u64, act: Act) -> Self {
        self.machine
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

    /// Runs one incarnation until `life` ends or the world crashes.
    ///
    /// # Panics
    /// If `life` panics.
    pub fn run<T>(&mut self, life: impl AsyncFnOnce(Controls) -> T) -> Life<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let runtime =
            runtime.expect("a runtime on the current thread needs nothing from the system");
        let gate = Gate::new(Arc::clone(&self.machine));
        let controls = Controls {
            gate: Arc::clone(&gate),
            config: self.config.clone(),
            real: self
                .real
                .as_ref()
                .map(|directory| Arc::from(directory.path())),
        };
        let ended = runtime.block_on(async {
            self.machine.begin_life();
            network::resume_flights(&gate);
            let ended = tokio::select! {
                biased;
                () = gate.crashed() => Life::Crashed,
                value = life(controls) => Life::Ended(value),
            };
            // After the fence no task has an effect, so the order in which the runtime drops its
            // tasks below can't matter.
            gate.fence();
            self.machine.end_life(if matches!(ended, Life::Crashed) {
                "crashed"
            } else {
                "ended"
            });
            ended
        });
        if let Some(directory) = &mut self.real {
            directory.kill().expect("a directory can be copied");
        }
        drop(runtime);
        if let Some(directory) = &self.real {
            directory.forget_old().expect("a directory can be removed");
        }
        self.machine.disk.unlock();
        ended
    }

    /// Runs one more incarnation without faults, waits for quiescence, and checks the state at
    /// rest. The blob tier must contain exactly the blobs that rows name (I5).
    ///
    /// # Errors
    /// Returns every violation found since the world began.
    pub fn settle(&mut self) -> Result<(), Vec<Violation>> {
        self.quieten();
        let machine = Arc::clone(&self.machine);
        let settled = self.run(async |world: Controls| {
            let engine = world.open_patiently().await?;
            world.settle(&engine).await?;
            engine.close().await
        });
        let mut state = machine.state();
        match settled {
            Life::Ended(Ok(())) => {}
            Life::Ended(Err(error)) => state
                .monitor
                .violated("liveness", format!("no quiescence: error={error:?}")),
            Life::Crashed => {
                state.monitor.violated(
                    "liveness",
                    "no quiescence: the world has used all its steps",
                );
            }
        }
        let tables = self.real.is_none().then(|| machine.disk.tables());
        check_settled(&mut state.monitor, tables.as_ref(), &machine.blobs);
        state.report_violations();
        match state.monitor.violations() {
            [] => Ok(()),
            violations => Err(violations.to_vec()),
        }
    }

    /// Stops all faults, those by chance and those planned for a step.
    pub fn quieten(&self) {
        self.machine.state().quieten();
    }

    /// Returns the violations that the checkers have found so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.machine.state().monitor.violations().to_vec()
    }

    /// Returns the number of occurrences of each event so far.
    pub fn coverage(&self) -> Coverage {
        self.machine.state().coverage.clone()
    }

    /// Returns true if the world has used its million steps. Every further incarnation crashes at
    /// once.
    pub fn is_exhausted(&self) -> bool {
        self.machine.state().is_exhausted()
    }

    /// Returns the number of steps so far. A crash can strike at each of them.
    pub fn steps(&self) -> u64 {
        self.machine.state().step
    }

    /// Returns the events so far as readable text: time, lane and event.
    pub fn timeline(&self) -> String {
        timeline::text(&self.machine.state().trace)
    }

    /// Returns the events so far as an HTML page with one lane for each actor.
    pub fn timeline_html(&self, title: &str) -> String {
        timeline::html(title, &self.machine.state().trace)
    }

    /// Returns the events so far.
    pub fn events(&self) -> Vec<Event> {
        self.machine.state().trace.events().to_vec()
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("steps", &self.steps())
            .finish_non_exhaustive()
    }
}

/// Control of a world from within an incarnation. Cheap to clone.
#[derive(Clone)]
pub struct Controls {
    gate: Arc<Gate>,
    config: Config,
    real: Option<Arc<Path>>,
}

impl Controls {
    /// Opens the engine on the disks of this world.
    ///
    /// # Errors
    /// As [`Builder::open`](cenotaph::Builder::open). Under faults the call may fail and may be
    /// repeated.
    pub async fn open(&self) -> Result<Engine> {
        let machine = self.gate.machine();
        if machine.state().monitor.is_claimed() && machine.strikes(Fault::TierSwapped, String::new)
        {
            self.open_over_another_tier().await?;
        }
        let index = self.open_index()?;
        let engine = Engine::builder("simulated")
            .config(self.config.clone())
            .env(self.env())
            .index(index)
            .blobs(network::operator(&self.gate))
            .open()
            .await?;
        {
            let mut state = self.gate.machine().state();
            state.monitor.opened();
            state.report_violations();
        }
        let kill = Arc::new(engine.killer());
        self.gate.expose(Victims {
            kill,
            shards: self.config.limits.shards,
        });
        Ok(engine)
    }

    /// Opens the engine over an empty tier or over the tier of another store. The opening must fail
    /// and must not write to that tier (I11).
    async fn open_over_another_tier(&self) -> Result<()> {
        let is_foreign = self.gate.machine().below(2) == 0;
        let decoy = Blobs::new();
        if is_foreign {
            let other =
                StoreId::from_uuid(Uuid::from_u128(self.gate.machine().below(u64::MAX).into()));
            decoy.put(MARKER_PATH, marker::encode(other).into());
        }
        let before = decoy.bytes(MARKER_PATH);
        let builder = Engine::builder("simulated")
            .config(self.config.clone())
            .env(self.env());
        let opened = builder
            .index(self.open_index()?)
            .blobs(decoy.operator())
            .open()
            .await;
        let machine = self.gate.machine();
        let mut state = machine.state();
        state.coverage.count(if is_foreign {
            "open: another store's tier"
        } else {
            "open: an empty tier"
        });
        match opened {
            Ok(_) => state
                .monitor
                .violated("I11", "an engine opens over a foreign blob tier"),
            Err(error) if is_foreign && error.kind() == ErrorKind::Invalid => {}
            // A fault of the index may strike before the tier is checked.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => state
                .monitor
                .violated("I11", format!("unexpected error over a foreign blob tier: {error:?}")),
        }
        if decoy.bytes(MARKER_PATH) != before || !decoy.paths().is_empty() {
            state
                .monitor
                .violated("I11", "an opening writes to a foreign blob tier");
        }
        state.report_violations();
        Ok(())
    }

    /// Opens the index alone, for tests of the layers below the engine.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`] while another index is open on the disk of this world.
    pub fn open_index(&self) -> Result<Arc<dyn Index>> {
        let medium = match &self.real {
            Some(path) => {
                let real = RealDisk::open(path, self.env())?;
                self.gate.machine().state().replayed();
                Medium::Fjall(real)
            }
            None => Medium::Simulated,
        };
        Ok(Arc::new(SimIndex::open(Arc::clone(&self.gate), medium)?))
    }

    /// Opens the engine and retries while that fails.
    ///
    /// # Errors
    /// The last error, after ten minutes of virtual time.
    pub async fn open_patiently(&self) -> Result<Engine> {
        for _ in 0..600 {
            match self.open().await {
                Err(error) if error.kind() != ErrorKind::Invalid => {
                    // The message of a real index contains the path of a temporary directory, which
                    // would make traces of the same seed differ.
                    self.note(format!("opening failed: {}", error.kind()));
                    sleep(Duration::from_secs(1)).await;
                }
                outcome => return outcome,
            }
        }
        self.open().await
    }

    /// Waits for quiescence: no live write, no upload, no unsettled change, no orphan. Asks the
    /// engine to settle in each round.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] after four hours of virtual time, and any error of
    /// [`Engine::health`] except an outage of the blob tier.
    pub async fn settle(&self, engine: &Engine) -> Result<()> {
        self.rest(engine, async || drop(engine.settle().await))
            .await
    }

    /// Waits for quiescence without asking the engine to settle.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub async fn settles_by_itself(&self, engine: &Engine) -> Result<()> {
        self.rest(engine, async || ()).await
    }

    async fn rest(&self, engine: &Engine, ask: impl AsyncFn()) -> Result<()> {
        let begun = self.elapsed();
        loop {
            ask().await;
            let stats = engine.stats().await?;
            // An outage of the blob tier is temporary, so it does not end the wait.
            let is_away = match engine.health() {
                Err(error) if error.reason() != Some(Reason::BlobTier) => return Err(error),
                health => health.is_err(),
            };
            let actors = &stats.actors;
            let at_work =
                stats.index.waiting + actors.writes_live as u64 + actors.uploads_live as u64;
            if !is_away
                && (at_work, actors.changes, actors.orphans) == (0, 0, 0)
                && self.gate.machine().blobs.in_flight() == 0
            {
                return Ok(());
            }
            if self.elapsed() - begun > SETTLE_PATIENCE {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "settle",
                    format!("no quiescence: {stats:?}"),
                ));
            }
            sleep(Duration::from_secs(10)).await;
        }
    }

    /// Crashes the world. The call never returns.
    pub async fn crash(&self) -> ! {
        self.gate.crash("a crash on request");
        std::future::pending().await
    }

    /// Kills the actors of this kind. Returns false if there are none.
    pub fn kill(&self, kind: ActorKind) -> bool {
        self.gate.kill(kind)
    }

    /// Sets the faults that strike by chance from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.gate.machine().state().faults = faults;
    }

    /// Stops all faults, those by chance and those planned for a step.
    pub fn quieten(&self) {
        self.gate.machine().state().quieten();
    }

    /// Advances virtual time. Takes no real time.
    pub async fn advance(&self, by: Duration) {
        sleep(by).await;
    }

    /// Moves the time of day by this number of milliseconds, in either direction. Sleeps are not
    /// affected.
    pub fn jump_clock(&self, by_ms: i64) {
        let mut state = self.gate.machine().state();
        state.struck(Fault::ClockJump, format!("by {by_ms} ms"));
        state.jump_clock(by_ms);
    }

    /// Deletes every blob without the engine's knowledge.
    pub fn lose_blobs(&self) {
        self.gate.machine().lose_blobs();
    }

    /// Returns the virtual time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.gate.machine().elapsed()
    }

    /// Returns the [`Env`] of this world, for use by your own service.
    pub fn env(&self) -> Env {
        world::env(&self.gate)
    }

    /// Spawns a task on a timeline lane of this name.
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated world spawns what lives in it"
    )]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let gate = Arc::clone(&self.gate);
        let name = name.into();
        tokio::spawn(async move {
            gate.machine().state().trace.name_lane(name, false);
            gate.pass("task begins", String::new).await;
            task.await
        })
    }

    /// Writes a line into the timeline.
    pub fn note(&self, text: impl Into<String>) {
        self.gate.machine().note(Kind::World, "note", text.into());
    }

    pub(crate) fn machine(&self) -> Arc<Machine> {
        self.gate.shared_machine()
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls")
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}
