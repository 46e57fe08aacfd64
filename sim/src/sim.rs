//! [`Sim`], a world that is a function of its seed; [`Controls`], what its owner can do to it from
//! within.
//!
//! A world has lives. Each runs in a runtime of its own, on one thread, under a virtual clock,
//! until its task ends or the world crashes; the next one finds on the disks what the last one left
//! there.

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

/// How long [`Sim::settle`] waits for everything to settle, in virtual time.
const SETTLE_PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// Most steps in the life of a world. More than that is a world that runs in circles.
const STEPS_MAX: u64 = 1_000_000;

/// A simulated world: an index, a blob tier, time, chance and failures, all of them functions of
/// one seed.
///
/// The index and the blobs outlive what [`run`](Self::run) runs in it, as disks outlive a process.
/// Whatever runs is on one thread, and asks the world for time, chance and tasks: the engine by
/// itself, your own service through [`Controls::env`], or through tokio, whose clock is virtual
/// here. What asks the real world (the system's time, threads, sockets, the order of a `HashMap`)
/// is not part of the simulation, and a run that depends on it can't be replayed.
///
/// Invariants of the store are checked all along: see [`violations`](Self::violations).
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

/// How a life went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life<T> {
    /// Its task came to its end.
    Ended(T),
    /// The world crashed, or has come to its last step: see [`Sim::is_exhausted`].
    Crashed,
}

impl<T> Life<T> {
    /// What its task gave, if it came to its end.
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

    /// Another configuration of the engine than the default one.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// What goes wrong by chance from the beginning on.
    #[must_use]
    pub fn faults(self, faults: Faults) -> Self {
        self.machine.state().faults = faults;
        self
    }

    /// How tasks are interleaved.
    #[must_use]
    pub fn schedule(self, schedule: Schedule) -> Self {
        self.machine.state().schedule = schedule;
        self
    }

    /// Does this at this step, counted from 1 over all lives.
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

    /// Keeps the index in a real fjall database in a temporary directory, instead of simulating it.
    /// A crash is then a killed process, and no power cut. Some thirty times slower.
    ///
    /// # Errors
    /// If there can't be a temporary directory.
    pub fn on_fjall(mut self) -> io::Result<Self> {
        self.real = Some(RealDirectory::new()?);
        Ok(self)
    }

    /// Runs one life: until `life` ends, or the world crashes.
    ///
    /// # Panics
    /// If `life` does.
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
            // From here on the world stands still: the order in which tasks are dropped can't
            // matter.
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

    /// One more life, without faults, in which everything must settle; then checks what must be
    /// true at rest: the blob tier holds exactly what the rows name (I5).
    ///
    /// # Errors
    /// Every violation found since the world began.
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
                .violated("liveness", format!("it does not settle: {error:?}")),
            Life::Crashed => {
                state.monitor.violated(
                    "liveness",
                    "it does not settle: the world has come to its last step",
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

    /// Nothing goes wrong any more, neither by chance nor at a chosen step.
    pub fn quieten(&self) {
        self.machine.state().quieten();
    }

    /// What the checkers have found so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.machine.state().monitor.violations().to_vec()
    }

    /// How often each thing has happened so far.
    pub fn coverage(&self) -> Coverage {
        self.machine.state().coverage.clone()
    }

    /// Whether the world has come to its last step, after a million of them: every further life
    /// crashes at once.
    pub fn is_exhausted(&self) -> bool {
        self.machine.state().is_exhausted()
    }

    /// Steps so far: the moments at which a crash can strike.
    pub fn steps(&self) -> u64 {
        self.machine.state().step
    }

    /// What happened so far, as a text that a person can read: who, what, when.
    pub fn timeline(&self) -> String {
        timeline::text(&self.machine.state().trace)
    }

    /// The same as a page for a browser, one lane for each actor.
    pub fn timeline_html(&self, title: &str) -> String {
        timeline::html(title, &self.machine.state().trace)
    }

    /// What happened so far, event by event.
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

/// What the owner of a world can do from within a life. Cheap to clone.
#[derive(Clone)]
pub struct Controls {
    gate: Arc<Gate>,
    config: Config,
    real: Option<Arc<Path>>,
}

impl Controls {
    /// Opens the engine on this world's disks.
    ///
    /// # Errors
    /// As [`Builder::open`](cenotaph::Builder::open): under faults this may fail, and may be tried
    /// again.
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

    /// Over an empty tier, or another store's, the engine does not open, and touches neither.
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
                .violated("I11", "a store opens over a tier that is not its own"),
            Err(error) if is_foreign && error.kind() == ErrorKind::Invalid => {}
            // Or a fault of the index, which was met first.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => state
                .monitor
                .violated("I11", format!("over another tier it says {error:?}")),
        }
        if decoy.bytes(MARKER_PATH) != before || !decoy.paths().is_empty() {
            state
                .monitor
                .violated("I11", "an opening writes to a tier that is not its own");
        }
        state.report_violations();
        Ok(())
    }

    /// Opens the index alone, without an engine: for tests of what lies below one.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`] while another one is open on this world's disk.
    pub fn open_index(&self) -> Result<Arc<dyn Index>> {
        let medium = match &self.real {
            Some(path) => {
                let real = RealDisk::open(path, self.env())?;
                self.gate.machine().state().replayed();
                Medium::Fjall(real)
            }
            None => Medium::Simulated,
        };
        let index = SimIndex::open(Arc::clone(&self.gate), medium)?;
        #[cfg(feature = "planted")]
        if let Some(bug) = self.gate.machine().planted() {
            let gate = Arc::clone(&self.gate);
            return Ok(crate::mutants::index::MutantIndex::wrap(
                Arc::new(index),
                gate,
                bug,
            ));
        }
        Ok(Arc::new(index))
    }

    /// Opens the engine, again and again while that fails.
    ///
    /// # Errors
    /// The last one, after some minutes.
    pub async fn open_patiently(&self) -> Result<Engine> {
        for _ in 0..600 {
            match self.open().await {
                Err(error) if error.kind() != ErrorKind::Invalid => {
                    // Not its message: that of a real index holds the path of a temporary
                    // directory.
                    self.note(format!("it does not open: {}", error.kind()));
                    sleep(Duration::from_secs(1)).await;
                }
                outcome => return outcome,
            }
        }
        self.open().await
    }

    /// Waits until the engine has nothing left to do or to settle, and asks it to settle all the
    /// while.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if that takes hours of virtual time, and whatever
    /// [`Engine::health`] says.
    pub async fn settle(&self, engine: &Engine) -> Result<()> {
        self.rest(engine, async || drop(engine.settle().await))
            .await
    }

    /// The same, but only waits: the engine must settle by itself.
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
            // A tier that is away comes back.
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
                    format!("not settled: {stats:?}"),
                ));
            }
            sleep(Duration::from_secs(10)).await;
        }
    }

    /// The whole world crashes: nothing after this happens.
    pub async fn crash(&self) -> ! {
        self.gate.crash("its owner's wish");
        std::future::pending().await
    }

    /// Kills actors of this kind; whether there were any.
    pub fn kill(&self, kind: ActorKind) -> bool {
        self.gate.kill(kind)
    }

    /// What goes wrong by chance from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.gate.machine().state().faults = faults;
    }

    /// Nothing goes wrong any more, neither by chance nor at a chosen step.
    pub fn quieten(&self) {
        self.gate.machine().state().quieten();
    }

    /// Lets virtual time pass. It takes no real time.
    pub async fn advance(&self, by: Duration) {
        sleep(by).await;
    }

    /// The time of day jumps by so many milliseconds, either way. Sleeps are not affected.
    pub fn jump_clock(&self, by_ms: i64) {
        let mut state = self.gate.machine().state();
        state.struck(Fault::ClockJump, format!("by {by_ms} ms"));
        state.jump_clock(by_ms);
    }

    /// Every blob is gone, as if somebody had deleted it behind the engine's back.
    pub fn lose_blobs(&self) {
        self.gate.machine().lose_blobs();
    }

    /// Virtual time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.gate.machine().elapsed()
    }

    /// Time, ids, chance and tasks of this world, for your own service to ask.
    pub fn env(&self) -> Env {
        world::env(&self.gate)
    }

    /// Runs a task beside the caller, on a lane of this name.
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated world spawns what lives in it"
    )]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let (gate, name) = (Arc::clone(&self.gate), name.into());
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
