//! The supervisor: brings dead actors back, and gives up when they die too often.
//!
//! ```text
//! child dies -> its route is emptied -> intensity: wait a little -> a new one -> its route is set
//!                                             \-- too many of late --> fail closed: the engine must be reopened
//! ```
//!
//! It holds no data and decides nothing, so that it has no reason to die. Should it die all the
//! same its children die with it, and the engine has failed. Deliberately not here: uploads, which
//! are never restarted (their parent is).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenotaph_storage::Result;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

use crate::background::expirer::Expirer;
use crate::background::recovery::Recovery;
use crate::background::sweeper::Sweeper;
use crate::runtime::context::SharedContext;
use crate::runtime::messages::{ExpirerMessage, RecoveryMessage, SweeperMessage};
use crate::runtime::restart_policy::RestartPolicy;
use crate::shard::Shard;
use crate::upload::Uploads;

/// A child, by its part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Child {
    Shard(usize),
    Uploads,
    Recovery,
    Sweeper,
    Expirer,
}

/// What the supervisor is told.
pub(crate) enum SupervisorMessage {
    /// The delay before this restart is over.
    Restart(Child),
}

/// The root of an engine's actors.
pub(crate) struct Supervisor {
    pub(crate) context: SharedContext,
}

/// Who lives, and how often they died of late.
#[derive(Default)]
pub(crate) struct Children {
    alive: BTreeMap<ActorId, Child>,
    intensity: RestartPolicy,
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
        for number in 0..self.context.routes.shards.len() {
            self.start(&myself, Child::Shard(number), &mut children)
                .await?;
        }
        for child in [
            Child::Recovery,
            Child::Uploads,
            Child::Sweeper,
            Child::Expirer,
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
        if self.context.health.wants_actors()
            && let Err(error) = self.start(&myself, child, children).await
        {
            tracing::error!(?child, %error, "an actor could not be started");
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
        // The event may carry the dead actor's state, and with it permits and owners: it is dropped
        // at the end of this, before the successor starts.
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
            if self.context.health.wants_actors() {
                tracing::warn!(?child, why, "an actor died");
                self.restart_later(&myself, child, children);
            }
        }
        Ok(())
    }
}

impl Supervisor {
    async fn start(
        &self,
        myself: &ActorRef<SupervisorMessage>,
        child: Child,
        children: &mut Children,
    ) -> Result<(), SpawnErr> {
        let (context, routes, parent) = (
            Arc::clone(&self.context),
            &self.context.routes,
            myself.get_cell(),
        );
        let cell: ActorCell = match child {
            Child::Shard(number) => {
                let (shard, _) =
                    Actor::spawn_linked(None, Shard { context, number }, (), parent).await?;
                routes.shards[number].set(Some(shard.clone()));
                shard.get_cell()
            }
            Child::Uploads => {
                let (uploads, _) =
                    Actor::spawn_linked(None, Uploads { context }, (), parent).await?;
                routes.uploads.set(Some(uploads.clone()));
                uploads.get_cell()
            }
            Child::Recovery => {
                let (recovery, _) =
                    Actor::spawn_linked(None, Recovery { context }, (), parent).await?;
                routes.recovery.set(Some(recovery.clone()));
                // Whatever woke its predecessor, or nobody, is found by a pass of its own.
                routes.recovery.send(RecoveryMessage::Wake);
                recovery.get_cell()
            }
            Child::Sweeper => {
                let (sweeper, _) =
                    Actor::spawn_linked(None, Sweeper { context }, (), parent).await?;
                routes.sweeper.set(Some(sweeper.clone()));
                routes.sweeper.send(SweeperMessage::Wake);
                sweeper.get_cell()
            }
            Child::Expirer => {
                let (expirer, _) =
                    Actor::spawn_linked(None, Expirer { context }, (), parent).await?;
                routes.expirer.set(Some(expirer.clone()));
                routes.expirer.send(ExpirerMessage::Wake);
                expirer.get_cell()
            }
        };
        children.alive.insert(cell.get_id(), child);
        Ok(())
    }

    fn forget(&self, child: Child) {
        let routes = &self.context.routes;
        match child {
            Child::Shard(number) => routes.shards[number].set(None),
            Child::Uploads => routes.uploads.set(None),
            Child::Recovery => routes.recovery.set(None),
            Child::Sweeper => routes.sweeper.set(None),
            Child::Expirer => routes.expirer.set(None),
        }
    }

    fn restart_later(
        &self,
        myself: &ActorRef<SupervisorMessage>,
        child: Child,
        children: &mut Children,
    ) {
        let now = self.context.env.monotonic();
        let Some(delay) = children
            .intensity
            .restart(now, &self.context.limits.restarts)
        else {
            self.context.health.fail("its actors die too often");
            self.context.routes.kill_all();
            myself.stop(None);
            return;
        };
        self.context
            .counters
            .restarts
            .fetch_add(1, Ordering::Relaxed);
        metrics::counter!("cenotaph_restarts_total").increment(1);
        let (env, myself) = (self.context.env.clone(), myself.clone());
        self.context.env.spawn(async move {
            env.sleep(delay).await;
            drop(myself.send_message(SupervisorMessage::Restart(child)));
        });
    }
}
