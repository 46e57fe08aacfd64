//! The supervisor: restarts dead actors, and fails the engine when actors die too often.
//!
//! ```text
//! child dies -> empty its slot -> restart policy: delay -> start a successor -> set its slot
//!                                   \-- too many restarts --> fail closed: reopen the engine
//! ```
//!
//! The supervisor holds no data and decides nothing, so that it has no reason to die. If it dies
//! all the same, its children die with it and the engine fails. Upload actors are never restarted,
//! only their parent is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenotaph_storage::Result;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

use crate::background::expirer::Expirer;
use crate::background::pruner::Pruner;
use crate::background::recovery::Recovery;
use crate::background::sweeper::Sweeper;
use crate::background::worker::{BackgroundWorker, Worker};
use crate::context::SharedContext;
use crate::context::messages::WorkerMessage;
use crate::context::registry::ActorSlot;
use crate::runtime::restart_policy::RestartPolicy;
use crate::shard::Shard;
use crate::upload::Uploads;

/// A child of the supervisor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Child {
    Shard(usize),
    Uploads,
    Recovery,
    Sweeper,
    Expirer,
    Pruner,
}

/// A message to the supervisor.
pub(crate) enum SupervisorMessage {
    /// Restarts a child: its delay is over.
    Restart(Child),
}

/// The root of an engine's actors.
pub(crate) struct Supervisor {
    pub(crate) context: SharedContext,
}

/// The living children, and their recent restarts.
#[derive(Default)]
pub(crate) struct Children {
    alive: BTreeMap<ActorId, Child>,
    policy: RestartPolicy,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Children;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Children, ActorProcessingErr> {
        let mut children = Children::default();
        // Shards first: all other actors send to them.
        for number in 0..self.context.registry.shards.len() {
            self.start(&myself, Child::Shard(number), &mut children)
                .await?;
        }
        for child in [
            Child::Recovery,
            Child::Uploads,
            Child::Sweeper,
            Child::Expirer,
            Child::Pruner,
        ] {
            self.start(&myself, child, &mut children).await?;
        }
        Ok(children)
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        _: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        self.context.env.actor_started("supervisor", None);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SupervisorMessage,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let SupervisorMessage::Restart(child) = message;
        if self.context.health.restarts_actors()
            && let Err(error) = self.start(&myself, child, children).await
        {
            tracing::error!(?child, %error, "an actor could not be started");
            // A failed start counts as a death: the restart policy bounds the attempts.
            self.restart_later(&myself, child, children);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        // The event may carry the dead actor's state, and with it permits and guards. It is dropped
        // at the end of this call, before the successor starts.
        let dead = match &event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                Some((cell, reason.clone().unwrap_or_default()))
            }
            SupervisionEvent::ActorFailed(cell, error) => Some((cell, error.to_string())),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => None,
        };
        if let Some((cell, why)) = dead
            && let Some(child) = children.alive.remove(&cell.get_id())
        {
            self.forget(child);
            if self.context.health.restarts_actors() {
                tracing::warn!(?child, why, "an actor died");
                self.restart_later(&myself, child, children);
            }
        }
        Ok(())
    }
}

impl Supervisor {
    /// Starts a child and sets its slot.
    async fn start(
        &self,
        myself: &ActorRef<SupervisorMessage>,
        child: Child,
        children: &mut Children,
    ) -> Result<(), SpawnErr> {
        let context = Arc::clone(&self.context);
        let registry = &self.context.registry;
        let parent = myself.get_cell();
        let cell: ActorCell = match child {
            Child::Shard(number) => {
                let (shard, _) =
                    Actor::spawn_linked(None, Shard { context, number }, (), parent).await?;
                registry.shards[number].set(Some(shard.clone()));
                shard.get_cell()
            }
            Child::Uploads => {
                let (uploads, _) =
                    Actor::spawn_linked(None, Uploads { context }, (), parent).await?;
                registry.uploads.set(Some(uploads.clone()));
                uploads.get_cell()
            }
            Child::Recovery => {
                start_worker(Recovery { context }, &registry.recovery, parent).await?
            }
            Child::Sweeper => start_worker(Sweeper { context }, &registry.sweeper, parent).await?,
            Child::Expirer => start_worker(Expirer { context }, &registry.expirer, parent).await?,
            Child::Pruner => start_worker(Pruner { context }, &registry.pruner, parent).await?,
        };
        children.alive.insert(cell.get_id(), child);
        Ok(())
    }

    /// Empties the slot of a dead child.
    fn forget(&self, child: Child) {
        let registry = &self.context.registry;
        match child {
            Child::Shard(number) => registry.shards[number].set(None),
            Child::Uploads => registry.uploads.set(None),
            Child::Recovery => registry.recovery.set(None),
            Child::Sweeper => registry.sweeper.set(None),
            Child::Expirer => registry.expirer.set(None),
            Child::Pruner => registry.pruner.set(None),
        }
    }

    /// Restarts a child after a delay, or fails the engine after too many restarts.
    fn restart_later(
        &self,
        myself: &ActorRef<SupervisorMessage>,
        child: Child,
        children: &mut Children,
    ) {
        let now = self.context.env.monotonic();
        let Some(delay) = children.policy.restart(now, &self.context.limits.restarts) else {
            self.context.health.fail("its actors die too often");
            // No actor may serve requests of a failed engine.
            self.context.registry.kill_all();
            myself.stop(None);
            return;
        };
        self.context
            .counters
            .restarts
            .fetch_add(1, Ordering::Relaxed);
        metrics::counter!("cenotaph_restarts_total").increment(1);
        let env = self.context.env.clone();
        let myself = myself.clone();
        self.context.env.spawn(async move {
            env.sleep(delay).await;
            drop(myself.send_message(SupervisorMessage::Restart(child)));
        });
    }
}

/// Starts a background worker, sets its slot, and wakes it.
async fn start_worker<W: BackgroundWorker>(
    worker: W,
    slot: &ActorSlot<WorkerMessage<W::Outcome>>,
    parent: ActorCell,
) -> Result<ActorCell, SpawnErr> {
    let (actor, _) = Actor::spawn_linked(None, Worker(worker), (), parent).await?;
    slot.set(Some(actor.clone()));
    // This pass replaces the wake-ups that were lost with the predecessor.
    slot.send(WorkerMessage::Wake);
    Ok(actor.get_cell())
}
