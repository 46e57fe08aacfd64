//! Control of a world from within an incarnation: [`Controls`] opens engines, injects faults and
//! moves the clock.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{
    ActorKind, Builder, Config, Engine, Env, Error, ErrorKind, Index, MARKER_PATH, Reason, Result,
};
use cenotaph_storage::StoreId;
use cenotaph_storage::blobs::marker;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::env::env;
use crate::disks::blobs::StoredBlobs;
use crate::faults::{Fault, Faults};
#[cfg(feature = "planted")]
use crate::mutants::index::MutantIndex;
use crate::tiers::fallback::SimFallback;
use crate::tiers::index::{Medium, SimIndex};
use crate::tiers::network;
use crate::tiers::real::RealDisk;
use crate::tiers::shared_index::SharedSimIndex;
use crate::trace::EventKind;
use crate::world::durable_state::DurableState;
use crate::world::process::Process;
use crate::world::scheduler::{Scheduler, Victims, sleep};

/// Longest wait for quiescence, in virtual time.
const SETTLE_PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Control of a world from within an incarnation. Cheap to clone.
#[derive(Clone)]
pub struct Controls {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) config: Config,
    pub(super) real: Option<Arc<Path>>,
    /// True if engines open a shared index.
    pub(super) is_shared: bool,
}

impl Controls {
    /// Opens the engine on the disks of this world.
    ///
    /// # Errors
    /// As [`Builder::open`](cenotaph::Builder::open). Under faults the call may fail and may be
    /// repeated.
    pub async fn open(&self) -> Result<Engine> {
        let durable_state = self.scheduler.durable_state();
        // Before the tier is claimed, an opening over an empty tier is legitimate.
        if durable_state.state().model.is_claimed()
            && durable_state.strikes(Fault::TierSwapped, String::new)
        {
            self.open_over_another_tier().await?;
        }
        let index = self.open_index().await?;
        let tier = durable_state.state().tier;
        let operator = |tier| network::operator(&self.scheduler, tier);
        let builder = self.builder().index(index).blobs(operator(tier));
        // Released tiers are given, too: they are ignored.
        let builder = (0..tier).fold(builder, |builder, older| {
            builder.older_blobs(operator(older))
        });
        let engine = builder.open().await?;
        {
            let mut state = self.scheduler.durable_state().state();
            // The engine is checked before a client can use it.
            state.model.opened();
            state.report_violations();
        }
        let kill = Arc::new(engine.killer());
        self.scheduler.expose(Victims {
            kill,
            shards: self.config.limits.shards,
        });
        Ok(engine)
    }

    /// Returns a builder of the engine, over the fallback of this world if it has one.
    fn builder(&self) -> Builder {
        let builder = Engine::builder("simulated")
            .config(self.config.clone())
            .env(self.env());
        if self.scheduler.durable_state().state().source.is_none() {
            return builder;
        }
        builder.fallback(SimFallback(Arc::clone(&self.scheduler)))
    }

    /// Opens the engine over an empty tier or over the tier of another store. The opening must fail
    /// and must not write to that tier (I11).
    async fn open_over_another_tier(&self) -> Result<()> {
        // Half of the decoys are empty, half carry the marker of another store.
        let is_foreign = self.scheduler.durable_state().below(2) == 0;
        let decoy = StoredBlobs::new();
        if is_foreign {
            let other = StoreId::from_uuid(Uuid::from_u128(
                self.scheduler.durable_state().below(u64::MAX).into(),
            ));
            decoy.put(0, MARKER_PATH, marker::encode(other).into());
        }
        // The decoy is compared with its state before the opening, which may hold a marker.
        let before = decoy.bytes(MARKER_PATH);
        let opened = self
            .builder()
            .index(self.open_index().await?)
            .blobs(decoy.operator(0))
            .open()
            .await;
        let durable_state = self.scheduler.durable_state();
        let mut state = durable_state.state();
        state.coverage.count(if is_foreign {
            "open: another store's tier"
        } else {
            "open: an empty tier"
        });
        match opened {
            Ok(_) => state
                .model
                .violated("I11", "an engine opens over a foreign blob tier"),
            Err(error) if is_foreign && error.kind() == ErrorKind::Invalid => {}
            // An empty tier is `Unavailable`. So is a foreign tier if a fault of the index strikes
            // before the tier is checked.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => state.model.violated(
                "I11",
                format!("unexpected error over a foreign blob tier: {error:?}"),
            ),
        }
        if decoy.bytes(MARKER_PATH) != before || !decoy.paths().is_empty() {
            state
                .model
                .violated("I11", "an opening writes to a foreign blob tier");
        }
        state.report_violations();
        Ok(())
    }

    /// Opens the index alone, for tests of the layers below the engine.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`] while another index is open on the disk of this world, unless the
    /// index is [shared](crate::Sim::shared); a shared index is
    /// [`Unavailable`](ErrorKind::Unavailable) while it does not answer.
    pub async fn open_index(&self) -> Result<Arc<dyn Index>> {
        let index = self.open_unchanged().await?;
        #[cfg(feature = "planted")]
        if let Some(bug) = self.scheduler.durable_state().planted() {
            return Ok(MutantIndex::wrap(index, Arc::clone(&self.scheduler), bug));
        }
        Ok(index)
    }

    /// Opens the index without a planted bug.
    async fn open_unchanged(&self) -> Result<Arc<dyn Index>> {
        if self.is_shared {
            let index = SharedSimIndex::open(Arc::clone(&self.scheduler)).await?;
            return Ok(Arc::new(index));
        }
        let medium = match &self.real {
            Some(path) => {
                let real = RealDisk::open(path, self.env())?;
                self.scheduler.durable_state().state().replayed();
                Medium::Fjall(real)
            }
            None => Medium::Simulated,
        };
        let index = SimIndex::open(Arc::clone(&self.scheduler), medium)?;
        Ok(Arc::new(index))
    }

    /// Opens the engine and retries while that fails.
    ///
    /// # Errors
    /// The last error, after ten minutes of virtual time.
    pub async fn open_patiently(&self) -> Result<Engine> {
        for _ in 0..600 {
            match self.open().await {
                // An invalid argument does not become valid by a retry.
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

    /// Returns the controls of another process in this world, as a member of its
    /// [shared](crate::Sim::shared) index. Its wall clock differs from that of the world by up to
    /// `skew_ms_max` milliseconds.
    ///
    /// A crash of the process ends all its tasks and nothing else: see [`ended`](Self::ended).
    #[must_use]
    pub fn member(&self, name: impl Into<String>, skew_ms_max: u64) -> Self {
        let network = self.scheduler.network();
        Self {
            scheduler: Scheduler::of_process(&network, name.into(), skew_ms_max),
            ..self.clone()
        }
    }

    /// Runs a task until it ends or this process crashes, and then ends the process: no task of it
    /// has any further effect. Returns `None` after a crash.
    pub async fn ended<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        let ended = tokio::select! {
            biased;
            () = self.scheduler.crashed() => None,
            value = task => Some(value),
        };
        self.scheduler.fence();
        ended
    }

    /// Waits for quiescence: no live write, no upload, no unsettled change, no orphan. Asks the
    /// engine to settle in each round.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] after four hours of virtual time, and any error of
    /// [`Engine::health`] except an outage of the blob tier.
    pub async fn settle(&self, engine: &Engine) -> Result<()> {
        self.wait_for_quiescence(engine, async || drop(engine.settle().await))
            .await
    }

    /// Waits for quiescence without asking the engine to settle.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub async fn settles_by_itself(&self, engine: &Engine) -> Result<()> {
        self.wait_for_quiescence(engine, async || ()).await
    }

    /// Waits for quiescence and calls `ask` in each round.
    async fn wait_for_quiescence(&self, engine: &Engine, ask: impl AsyncFn()) -> Result<()> {
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
                // A delayed request may still add or delete a blob.
                && self.scheduler.durable_state().blobs.in_flight() == 0
                && self.are_others_settled()
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

    /// Returns true unless this is the only process of a shared store, and others have left something
    /// behind that it has to settle: changes, orphans, or their entries.
    fn are_others_settled(&self) -> bool {
        let state = self.scheduler.durable_state().state();
        let is_alone = state.model.is_at_rest() && state.model.live_members() <= 1;
        !self.is_shared || self.scheduler.process().is_some() || is_alone
    }

    /// Crashes the world. The call never returns.
    pub async fn crash(&self) -> ! {
        self.scheduler.crash("a crash on request");
        std::future::pending().await
    }

    /// Kills the actors of this kind. Returns false if there are none.
    pub fn kill(&self, kind: ActorKind) -> bool {
        self.scheduler.kill(kind)
    }

    /// Sets the faults that strike by chance from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.scheduler.durable_state().state().faults = faults;
    }

    /// Stops all faults, those by chance and those planned for a step.
    pub fn quieten(&self) {
        self.scheduler.durable_state().state().quieten();
        if let Some(process) = self.scheduler.process() {
            process.quieten();
        }
    }

    /// Advances virtual time. Takes no real time.
    pub async fn advance(&self, by: Duration) {
        sleep(by).await;
    }

    /// Moves the time of day by this number of milliseconds, in either direction. Sleeps are not
    /// affected.
    pub fn jump_clock(&self, by_ms: i64) {
        let mut state = self.scheduler.durable_state().state();
        state.struck(Fault::ClockJump, || format!("by {by_ms} ms"));
        state.jump_clock(by_ms);
    }

    /// Deletes every blob without the engine's knowledge.
    pub fn lose_blobs(&self) {
        self.scheduler.durable_state().lose_blobs();
    }

    /// Returns the virtual time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.scheduler.durable_state().elapsed()
    }

    /// Returns the [`Env`] of this world, for use by your own service.
    pub fn env(&self) -> Env {
        env(&self.scheduler)
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
        tokio::spawn(self.on_lane(name.into(), task))
    }

    /// Names the timeline lane of a task that is about to be spawned.
    pub(crate) fn on_lane<T, F: Future<Output = T>>(
        &self,
        name: String,
        task: F,
    ) -> impl Future<Output = T> + use<T, F> {
        let scheduler = Arc::clone(&self.scheduler);
        async move {
            scheduler.name_lane(&name, false);
            // The first step lets the scheduler decide when the task begins.
            scheduler.pass("task begins", String::new).await;
            task.await
        }
    }

    /// Returns the epoch of this process, if it is a member of a shared index.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.scheduler.process().and_then(Process::epoch)
    }

    /// Writes a line into the timeline.
    pub fn note(&self, text: impl Into<String>) {
        self.scheduler
            .durable_state()
            .note(EventKind::World, "note", || text.into());
    }

    pub(crate) fn durable_state(&self) -> Arc<DurableState> {
        self.scheduler.shared_machine()
    }
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls")
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}
