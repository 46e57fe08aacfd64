//! Scheduler of an incarnation: every sync point and every tier request passes it before it has an
//! effect.
//!
//! ```text
//! fence ─> step + 1, trace ─> planned crash, kill or panic ─> yields, delay ─> fence ─> the effect
//! ```
//!
//! After a crash the fence is closed. A task that is still running waits for ever at its next step.
//! So a crash stops the world at a single step, in whatever order a runtime drops its tasks. Only
//! steps change durable state, so crashing at each step in turn is complete for a schedule.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cenotaph::ActorKind;
use futures::FutureExt;
use tokio::sync::Notify;

use crate::faults::{Fault, ScriptedFault};
use crate::rng::{Odds, Rng};
use crate::trace::EventKind;
use crate::world::durable_state::{DurableState, State};
use crate::world::process::{Process, Remote};

/// Largest jump of the time of day in either direction, in milliseconds.
const JUMP_MS_MAX: u64 = 10 * 60 * 1000;

/// Longest pause of a process, in milliseconds. Longer than the lease of a member.
const PAUSE_MS_MAX: u64 = 90 * 1000;

/// Longest separation of a process from the index or the blob tier, in milliseconds.
const CUT_OFF_MS_MAX: u64 = 60 * 1000;

/// Largest difference of the monotonic clocks of two processes, in milliseconds.
const MONOTONIC_START_MS_MAX: u64 = 3600 * 1000;

/// Scheduler and fence of an incarnation.
pub(crate) struct Scheduler {
    durable_state: Arc<DurableState>,
    fenced: AtomicBool,
    crash: Notify,
    /// Actors that can be killed. `None` before an engine has opened.
    victims: Mutex<Option<Victims>>,
    /// Process of this incarnation, if several share the world.
    process: Option<Process>,
}

/// Means to kill the actors of an engine.
#[derive(Clone)]
pub(crate) struct Victims {
    pub(crate) kill: Arc<dyn Fn(ActorKind) -> bool + Send + Sync>,
    pub(crate) shards: usize,
}

/// Decision about a step.
enum StepVerdict {
    Stop,
    Panic,
    Go {
        yields: u64,
        delay: Option<Duration>,
    },
}

impl Scheduler {
    pub(crate) fn new(durable_state: Arc<DurableState>) -> Arc<Self> {
        Self::create(durable_state, None)
    }

    /// Creates the scheduler of a process that shares the world of `network` with others.
    pub(crate) fn of_process(network: &Arc<Self>, name: String, skew_ms_max: u64) -> Arc<Self> {
        let durable_state = Arc::clone(&network.durable_state);
        let draw = |limit: u64| durable_state.state().scheduling.below(limit);
        let wall_ms = i64::try_from(draw(2 * skew_ms_max + 1)).unwrap_or(0)
            - i64::try_from(skew_ms_max).unwrap_or(0);
        let monotonic_start = Duration::from_millis(draw(MONOTONIC_START_MS_MAX));
        let process = Process::new(name, Arc::clone(network), wall_ms, monotonic_start);
        Self::create(durable_state, Some(process))
    }

    fn create(durable_state: Arc<DurableState>, process: Option<Process>) -> Arc<Self> {
        Arc::new(Self {
            durable_state,
            fenced: AtomicBool::new(false),
            crash: Notify::new(),
            victims: Mutex::new(None),
            process,
        })
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Returns the scheduler that carries what is under way when this incarnation ends.
    pub(crate) fn network(self: &Arc<Self>) -> Arc<Self> {
        let network = self.process().map(Process::network);
        Arc::clone(network.unwrap_or(self))
    }

    /// Returns the monotonic time of this process.
    pub(crate) fn monotonic(&self) -> Duration {
        let start = self
            .process()
            .map_or(Duration::ZERO, Process::monotonic_start);
        start + self.durable_state.elapsed()
    }

    /// Returns the time of day by the wall clock of this process, in milliseconds since 1970.
    pub(crate) fn time_of_day_ms(&self) -> u64 {
        let ahead_ms = self.process().map_or(0, Process::wall_ms);
        let world_ms = self.durable_state.time_of_day_ms();
        world_ms.saturating_add_signed(ahead_ms)
    }

    /// Names the timeline lane of the current task.
    pub(crate) fn name_lane(&self, name: &str, is_actor: bool) {
        let mut state = self.durable_state.state();
        match self.process() {
            Some(process) => {
                let name = format!("{} {name}", process.name());
                state.trace.name_lane(&name, is_actor);
            }
            None => state.trace.name_lane(name, is_actor),
        }
    }

    /// Returns true if this process is cut off from a remote, which may begin now.
    pub(crate) fn is_cut_off(&self, remote: Remote) -> bool {
        let Some(process) = self.process() else {
            return false;
        };
        let now = self.durable_state.elapsed();
        if now < process.away_until(remote) {
            return true;
        }
        let fault = match remote {
            Remote::Index => Fault::IndexAway,
            Remote::BlobTier => Fault::TierCutOff,
        };
        let is_struck = self
            .durable_state
            .strikes(fault, || process.name().to_owned());
        if is_struck {
            self.cut_off(process, remote);
        }
        is_struck
    }

    /// Cuts this process off from the index after a broken connection, in some of the worlds in
    /// which processes are cut off.
    pub(crate) fn connection_broke(&self) {
        let may_be_away = self.durable_state.state().faults.index_away != Odds::NEVER;
        if let Some(process) = self.process().filter(|_| may_be_away)
            && self.durable_state.below(3) == 0
        {
            let mut state = self.durable_state.state();
            state.struck(Fault::IndexAway, || process.name().to_owned());
            drop(state);
            self.cut_off(process, Remote::Index);
        }
    }

    fn cut_off(&self, process: &Process, remote: Remote) {
        let away = Duration::from_millis(1 + self.durable_state.below(CUT_OFF_MS_MAX));
        process.cut_off(remote, self.durable_state.elapsed() + away);
    }

    /// Waits while this process is paused.
    pub(crate) async fn resumed(&self) {
        let Some(process) = self.process() else {
            return;
        };
        loop {
            let rest = process
                .paused_until()
                .saturating_sub(self.durable_state.elapsed());
            if rest.is_zero() {
                return;
            }
            sleep(rest).await;
        }
    }

    /// Sleeps as a task of this process: longer if the process is paused, and for ever if it ends.
    pub(crate) async fn sleep(&self, duration: Duration) {
        sleep(duration).await;
        if self.process.is_some() {
            self.resumed().await;
            if self.is_fenced() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn durable_state(&self) -> &DurableState {
        &self.durable_state
    }

    pub(crate) fn shared_machine(&self) -> Arc<DurableState> {
        Arc::clone(&self.durable_state)
    }

    /// Takes a step. Returns when its effect may happen, which is never after a crash.
    pub(crate) async fn pass(&self, what: &'static str, detail: impl FnOnce() -> String) {
        match self.judge(what, detail) {
            StepVerdict::Stop => std::future::pending().await,
            // `panic!` would print a message and a backtrace for a planned event.
            StepVerdict::Panic => std::panic::resume_unwind(Box::new("a planned panic")),
            StepVerdict::Go { yields, delay } => self.idle(yields, delay).await,
        }
    }

    /// Delays a response between a read and its caller. Takes no step, because no durable state
    /// changes.
    pub(crate) async fn linger(&self) {
        let (yields, delay) = {
            let mut state = self.durable_state.state();
            (state.draw_yields(), state.draw_delay())
        };
        self.idle(yields, delay).await;
    }

    /// Yields and sleeps, then waits for ever if the world has crashed in the meantime.
    async fn idle(&self, yields: u64, delay: Option<Duration>) {
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        if let Some(delay) = delay {
            sleep(delay).await;
        }
        self.resumed().await;
        // The caller's effect follows. The world may have crashed while this task yielded or slept,
        // so the fence is checked a second time.
        if self.is_fenced() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts a step, carries out its acts, and returns the decision about its task.
    fn judge(&self, what: &'static str, detail: impl FnOnce() -> String) -> StepVerdict {
        if self.is_fenced() {
            return StepVerdict::Stop;
        }
        let mut state = self.durable_state.state();
        // The step is counted and traced before any act, so the trace names the step that crashed.
        state.step += 1;
        state.note(EventKind::Step, what, detail);
        if state.is_exhausted() {
            state
                .model
                .violated("liveness", "the world exceeds its step limit");
            state.report_violations();
            drop(state);
            self.crash("too many steps");
            return StepVerdict::Stop;
        }
        let acts = self.acts(&mut state);
        let yields = state.draw_yields();
        let delay = state.draw_delay();
        let is_actor = !acts.is_empty() && state.trace.is_actor();
        // The acts below lock the state themselves.
        drop(state);
        let mut forced = 0;
        for act in acts {
            match act {
                ScriptedFault::Crash => {
                    self.crash(what);
                    return StepVerdict::Stop;
                }
                ScriptedFault::Kill(kind) => {
                    self.kill(kind);
                    // A yield lets a killed actor die at this step, not at its next await.
                    forced = 1;
                }
                ScriptedFault::Panic if is_actor => {
                    let mut state = self.durable_state.state();
                    state.struck(Fault::Panic, || what.to_owned());
                    // `tick` is that of the next event. The death is the event before it.
                    let tick = state.trace.tick();
                    state.model.uploads_died(tick.saturating_sub(1));
                    drop(state);
                    return StepVerdict::Panic;
                }
                // No actor takes this step, so nothing panics.
                ScriptedFault::Panic => {}
            }
        }
        StepVerdict::Go {
            yields: yields.max(forced),
            delay,
        }
    }

    /// Returns the acts planned for this step and those drawn by chance.
    fn acts(&self, state: &mut State) -> Vec<ScriptedFault> {
        let step = state.step;
        let mut acts = state.script.remove(&step).unwrap_or_default();
        if state.faulting.hits(state.faults.crash) {
            acts.push(ScriptedFault::Crash);
        }
        if state.faulting.hits(state.faults.kill)
            && let Some(shards) = self.victims().map(|victims| victims.shards)
        {
            acts.push(ScriptedFault::Kill(some_actor(&mut state.faulting, shards)));
        }
        if state.faulting.hits(state.faults.panic) {
            acts.push(ScriptedFault::Panic);
        }
        if state.faulting.hits(state.faults.clock_jump) {
            let by_ms = i64::try_from(state.faulting.below(2 * JUMP_MS_MAX)).unwrap_or(0)
                - JUMP_MS_MAX as i64;
            state.struck(Fault::ClockJump, || format!("by {by_ms} ms"));
            match self.process() {
                Some(process) => process.jump_clock(by_ms),
                None => state.jump_clock(by_ms),
            }
        }
        if let Some(process) = self.process()
            && state.faulting.hits(state.faults.member_pause)
        {
            let pause = Duration::from_millis(1 + state.faulting.below(PAUSE_MS_MAX));
            state.struck(Fault::MemberPause, || {
                format!("{} for {pause:?}", process.name())
            });
            process.pause(state.elapsed() + pause);
        }
        acts
    }

    /// Spawns a task of the engine. A panic in the task is a violation, because no caller awaits
    /// the task.
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated world spawns what lives in it"
    )]
    pub(crate) fn spawn(
        self: &Arc<Self>,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let scheduler = Arc::clone(self);
        tokio::spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                let mut state = scheduler.durable_state.state();
                state.model.violated("panic", format!("{what} panicked"));
                state.report_violations();
            }
        });
    }

    /// Crashes the world at this step.
    pub(crate) fn crash(&self, at: &str) {
        // Only the first crash of an incarnation is recorded.
        if !self.fenced.swap(true, Ordering::SeqCst) {
            self.durable_state
                .state()
                .struck(Fault::Crash, || format!("at {at}"));
            // `notify_one` stores a permit, so a crash before `crashed` is polled is not lost.
            self.crash.notify_one();
        }
    }

    /// Closes the fence: no further step is taken.
    pub(crate) fn fence(&self) {
        self.fenced.store(true, Ordering::SeqCst);
    }

    /// Returns true after a crash or the end of the incarnation.
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    /// Resolves when the world has crashed.
    pub(crate) async fn crashed(&self) {
        self.crash.notified().await;
    }

    /// Kills the actors of this kind. Returns false if there are none.
    pub(crate) fn kill(&self, kind: ActorKind) -> bool {
        let killed = self.victims().is_some_and(|victims| (victims.kill)(kind));
        if killed {
            let mut state = self.durable_state.state();
            state.struck(Fault::Kill, || format!("{kind:?}"));
            state.coverage.count(kill_name(kind));
            if matches!(
                kind,
                ActorKind::Uploads | ActorKind::EveryUpload | ActorKind::Supervisor
            ) {
                // `tick` is that of the next event. The kill is the event before it.
                let tick = state.trace.tick();
                state.model.uploads_died(tick.saturating_sub(1));
            }
            if kind == ActorKind::Supervisor {
                let tick = state.trace.tick();
                state.model.beheaded(tick.saturating_sub(1));
            }
        }
        killed
    }

    /// Sets the actors that can be killed from now on.
    pub(crate) fn expose(&self, victims: Victims) {
        *self.victims.lock().unwrap_or_else(PoisonError::into_inner) = Some(victims);
    }

    fn victims(&self) -> Option<Victims> {
        self.victims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl State {
    /// Draws the number of yields before an effect.
    fn draw_yields(&mut self) -> u64 {
        let most = self.schedule.yields_max;
        if most == 0 {
            0
        } else {
            self.scheduling.below(most + 1)
        }
    }

    /// Draws the sleep before an effect.
    fn draw_delay(&mut self) -> Option<Duration> {
        let odds = self.schedule.delay;
        let most = self.schedule.delay_max;
        // The range is 1..=delay_max, because a delay of zero would be no delay.
        let most_ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        self.scheduling
            .hits(odds)
            .then(|| Duration::from_millis(self.scheduling.below(most_ms.max(1)) + 1))
    }
}

/// Draws an actor to kill. The supervisor is drawn rarely, because its death ends the engine.
fn some_actor(chance: &mut Rng, shards: usize) -> ActorKind {
    match chance.below(40) {
        0 => ActorKind::Supervisor,
        1..4 => ActorKind::Uploads,
        4..14 => ActorKind::EveryUpload,
        14..18 => ActorKind::Recovery,
        18..22 => ActorKind::Sweeper,
        22..24 => ActorKind::Expirer,
        24 => ActorKind::Pruner,
        _ => ActorKind::Shard(chance.index(shards)),
    }
}

/// Returns the coverage counter of a kill.
fn kill_name(kind: ActorKind) -> &'static str {
    match kind {
        ActorKind::Supervisor => "killed: supervisor",
        ActorKind::Shard(_) => "killed: shard",
        ActorKind::Uploads => "killed: uploads",
        ActorKind::EveryUpload => "killed: upload",
        ActorKind::Recovery => "killed: recovery",
        ActorKind::Sweeper => "killed: sweeper",
        ActorKind::Expirer => "killed: expirer",
        ActorKind::Pruner => "killed: pruner",
    }
}

/// Sleeps in virtual time.
#[expect(
    clippy::disallowed_methods,
    reason = "tokio's clock is paused: this is virtual time"
)]
pub(crate) fn sleep(duration: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(duration)
}
