//! [`Worker`]: the actor of every [`BackgroundWorker`]: recovery, the sweeper and the expirer.
//!
//! ```text
//! message      Wake: ignored while the worker pauses    Due: ignored unless of the newest timer
//!              Pass: replies with the outcome
//!   └─> another member does the work: timer to look again
//!   └─> pass ──> succeeded: timer for the next pass, if any; failures start at zero again
//!           └──> failed, or to be slowed: timer after a backoff, longer each time
//!           └──> failed while the engine closes or has failed: no timer
//! ```
//!
//! A wake-up may be lost with the actor. The supervisor sends a wake-up to every new actor, so that
//! each begins with a pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenotaph_storage::{Result, Timestamp};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::context::SharedContext;
use crate::context::messages::WorkerMessage;
use crate::runtime::restart_policy::backoff;
use crate::runtime::timer::Timer;

/// Background work that is done in passes, each of which does all work that is due.
pub(crate) trait BackgroundWorker: Send + Sync + 'static {
    /// Name of the actor.
    const NAME: &'static str;
    /// Log message of a failed pass.
    const FAILED: &'static str;
    /// Outcome of a pass.
    type Outcome: Send + 'static;
    /// State of the worker between passes. A new actor begins with the default.
    type Memory: Default + Send + Sync + 'static;

    /// Returns the shared state of the engine.
    fn context(&self) -> &SharedContext;

    /// Returns the flag that is true while a wake-up is on its way to this worker.
    fn requested(&self) -> &AtomicBool;

    /// Returns the delay after the first failed pass, doubled for each further failure, and the
    /// maximum delay.
    fn backoff_limits(&self) -> (Duration, Duration);

    /// Does all work that is due.
    fn pass(&self, memory: &Self::Memory) -> impl Future<Output = Result<Self::Outcome>> + Send;

    /// Returns the time of the next pass after a pass that succeeded.
    fn next_pass(&self, outcome: &Self::Outcome, memory: &mut Self::Memory) -> NextPass;

    /// Returns the name under which a member of a shared index claims this work, if a single member does
    /// it for all of them, and the time after which a claim that nobody has renewed counts no more:
    /// at least twice the time between two passes.
    fn claim(&self) -> Option<(&'static str, Duration)> {
        None
    }

    /// Prepares a new actor, whose predecessor may have died during a pass.
    fn begin(&self) {}

    /// Prepares a pass that a caller has requested.
    fn begin_requested(&self) {}

    /// Returns whether a wake-up is ignored.
    fn ignores_wake_up(&self, _: &Self::Memory) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// Returns the end of a pause in which the timer starts no pass.
    fn paused_until(&self, _: &Self::Memory) -> Option<Timestamp> {
        None
    }

    /// Notes that the next pass is delayed by a backoff until this time.
    fn back_off(&self, _until: Timestamp, _: &mut Self::Memory) {}
}

/// Time of the pass after one that succeeded.
pub(crate) enum NextPass {
    /// At the next wake-up.
    OnWakeUp,
    /// At this time, or at an earlier wake-up.
    At(Timestamp),
    /// After a backoff, as after a failed pass.
    AfterBackoff,
}

/// The actor of a background worker.
pub(crate) struct Worker<W>(pub(crate) W);

/// State of a worker between passes.
pub(crate) struct WorkerState<M> {
    timer: Timer,
    /// Failed passes in a row.
    failures: u32,
    memory: M,
}

impl<W: BackgroundWorker> Actor for Worker<W> {
    type Msg = WorkerMessage<W::Outcome>;
    type State = WorkerState<W::Memory>;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(WorkerState {
            timer: Timer::default(),
            failures: 0,
            memory: W::Memory::default(),
        })
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let Self(worker) = self;
        worker.context().env.actor_started(W::NAME, None);
        // A wake-up that was lost with the predecessor must not suppress later ones.
        worker.requested().store(false, Ordering::Release);
        worker.begin();
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let Self(worker) = self;
        let reply = match message {
            WorkerMessage::Wake if worker.ignores_wake_up(&state.memory).await => {
                worker.requested().store(false, Ordering::Release);
                return Ok(());
            }
            WorkerMessage::Wake => None,
            WorkerMessage::Due(token) if !state.timer.is_current(token) => return Ok(()),
            WorkerMessage::Due(_) => match worker.paused_until(&state.memory) {
                // The timer was set before the pause began.
                Some(until) => {
                    self.set_timer(state, until, myself);
                    return Ok(());
                }
                None => None,
            },
            WorkerMessage::Pass(reply) => {
                worker.begin_requested();
                Some(reply)
            }
        };
        // Before the pass: work that arrives during the pass requests another one.
        worker.requested().store(false, Ordering::Release);
        // A caller that requests a pass waits for its outcome, whoever does the work otherwise.
        if reply.is_none() && !self.is_ours().await {
            let pause = worker.context().limits.members.lease / 4;
            let due = worker.context().env.steady_now().after(pause);
            self.set_timer(state, due, myself);
            return Ok(());
        }
        // In a box: the layers around a handler move its state, which is of several kilobytes.
        let outcome = Box::pin(worker.pass(&state.memory)).await;
        if let Some(due) = self.next_pass(&outcome, state) {
            self.set_timer(state, due, myself);
        }
        if let Some(reply) = reply {
            reply(outcome);
        }
        Ok(())
    }
}

impl<W: BackgroundWorker> Worker<W> {
    /// Returns whether this member does the work, and not another one.
    async fn is_ours(&self) -> bool {
        let Some((work, stale_after)) = self.0.claim() else {
            return true;
        };
        let claimed = self.0.context().claim(work, stale_after).await;
        claimed.unwrap_or_else(|error| {
            tracing::debug!(%error, work, "failed to claim background work");
            false
        })
    }

    fn set_timer(
        &self,
        state: &mut WorkerState<W::Memory>,
        due: Timestamp,
        myself: ActorRef<WorkerMessage<W::Outcome>>,
    ) {
        let fire = move |token| drop(myself.send_message(WorkerMessage::Due(token)));
        state.timer.set(&self.0.context().env, due, fire);
    }

    /// Returns the time of the next pass, or `None` if only a wake-up starts it.
    fn next_pass(
        &self,
        outcome: &Result<W::Outcome>,
        state: &mut WorkerState<W::Memory>,
    ) -> Option<Timestamp> {
        match outcome {
            Ok(outcome) => match self.0.next_pass(outcome, &mut state.memory) {
                NextPass::AfterBackoff => Some(self.back_off(state)),
                NextPass::At(due) => {
                    state.failures = 0;
                    Some(due)
                }
                NextPass::OnWakeUp => {
                    state.failures = 0;
                    None
                }
            },
            Err(error) if self.0.context().health.is_running() => {
                tracing::warn!(%error, "{}", W::FAILED);
                Some(self.back_off(state))
            }
            // The next open settles the rest.
            Err(_) => None,
        }
    }

    fn back_off(&self, state: &mut WorkerState<W::Memory>) -> Timestamp {
        let (min, max) = self.0.backoff_limits();
        let delay = backoff(min, max, state.failures);
        state.failures = state.failures.saturating_add(1);
        let until = self.0.context().env.steady_now().after(delay);
        self.0.back_off(until, &mut state.memory);
        until
    }
}
