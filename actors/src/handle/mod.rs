//! [`Tiered`]: the handle on an engine's actors. No other type of this crate exposes an actor.

use cenotaph_storage::index::read_only;
use cenotaph_storage::{Error, ErrorKind, ObjectId, Reason, Result};
use ractor::ActorRef;
use tokio::sync::{OnceCell, oneshot};

use crate::context::SharedContext;
use crate::context::messages::{
    ExpirerMessage, ExpiryOutcome, PruneOutcome, PrunerMessage, RecoveryMessage, SweepOutcome,
    SweeperMessage,
};
use crate::context::registry::ActorKind;
use crate::handle::supervisor::SupervisorMessage;
use crate::runtime::reply::{ReplyCallback, reply};

pub(crate) mod adoption;
pub(crate) mod atomic;
pub(crate) mod membership;
pub(crate) mod migration;
pub(crate) mod multipart;
pub(crate) mod relocation;
pub(crate) mod scrub;
pub(crate) mod space;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod supervisor;
pub(crate) mod writes;

/// The write side of an engine: its actors, which run from [`start`](Self::start) to
/// [`close`](Self::close) or drop.
pub struct Tiered {
    context: SharedContext,
    /// `None` if the engine is read-only.
    supervisor: Option<ActorRef<SupervisorMessage>>,
    closed: OnceCell<()>,
    /// Dropped with this handle, which ends the housekeeping task.
    _housekeeping: Option<oneshot::Sender<()>>,
    /// The same for the task of a member of a shared index.
    _membership: Option<oneshot::Sender<()>>,
}

impl Tiered {
    /// Returns whether the engine was opened read-only.
    pub fn is_read_only(&self) -> bool {
        self.supervisor.is_none()
    }

    /// Checks that the engine may write, for calls that may end without writing anything.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with [`Reason::ReadOnly`] if the engine was opened read-only.
    pub fn check_writable(&self, operation: &'static str) -> Result<()> {
        if self.context.health.is_read_only() {
            Err(read_only(operation))
        } else {
            Ok(())
        }
    }

    pub(crate) fn context(&self) -> &SharedContext {
        &self.context
    }

    /// Returns whether the engine is closing or closed.
    pub fn is_closed(&self) -> bool {
        self.context.health.is_closed()
    }

    /// Checks that the engine accepts new work.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`]; [`ErrorKind::Unavailable`] if the engine has failed and must be
    /// reopened; [`ErrorKind::Unavailable`] with [`Reason::BlobTier`] if the blob tier was
    /// unavailable, or not this store's, when it was last checked.
    pub fn health(&self) -> Result<()> {
        self.context.health.check_reads("health")?;
        match self.context.blobs.trouble() {
            None => Ok(()),
            Some(trouble) => {
                let message = "the blob tier is not available, or not this store's";
                let error = Error::new(ErrorKind::Unavailable, "health", message);
                Err(error.with_reason(Reason::BlobTier).with_source(trouble))
            }
        }
    }

    /// Checks that the blob tier is available and belongs to this store.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if not, or if the tier can't be read now.
    pub async fn check_blobs(&self) -> Result<()> {
        let was_in_trouble = self.context.blobs.trouble().is_some();
        let checked = self.context.blobs.check_owner().await;
        if was_in_trouble || self.context.blobs.trouble().is_some() {
            // The sweeper checks the tier until it is available, and then continues.
            self.context.wake_sweeper();
        }
        checked
    }

    /// Settles the changes of dead owners.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if recovery does not answer; otherwise the error of its pass.
    pub async fn recover(&self) -> Result<()> {
        self.ask(|reply| {
            self.context
                .registry
                .recovery
                .send(RecoveryMessage::Pass(reply))
        })
        .await
        .map(drop)
    }

    /// Removes the objects that have expired, and returns their number.
    ///
    /// # Errors
    /// As [`recover`](Self::recover).
    pub async fn expire(&self) -> Result<u64> {
        let expirer = &self.context.registry.expirer;
        let outcome: ExpiryOutcome = self
            .ask(|reply| expirer.send(ExpirerMessage::Pass(reply)))
            .await?;
        Ok(outcome.removed)
    }

    /// Walks over all last versions and drops the old ones, as the pruner does in the background.
    /// Returns their number. For tests.
    ///
    /// # Errors
    /// As [`recover`](Self::recover).
    pub async fn prune(&self) -> Result<u64> {
        let pruner = &self.context.registry.pruner;
        let mut pruned = 0;
        // The end of a walk that is under way, a walk that counts, and one that drops over the limit.
        for _ in 0..3 {
            loop {
                let outcome: PruneOutcome = self
                    .ask(|reply| pruner.send(PrunerMessage::Pass(reply)))
                    .await?;
                pruned += outcome.pruned;
                if outcome.rest.is_none() {
                    break;
                }
            }
        }
        Ok(pruned)
    }

    /// Settles the changes of dead owners, removes expired objects, then deletes the orphans that
    /// are due. Returns the number of orphans that may not be deleted yet.
    ///
    /// # Errors
    /// As [`recover`](Self::recover).
    pub async fn settle(&self) -> Result<u64> {
        // In this order: recovery and expiry create orphans that the sweep then deletes.
        self.recover().await?;
        self.expire().await?;
        self.sweep().await
    }

    /// Deletes the orphans that are due, and returns the number of remaining orphans.
    pub(crate) async fn sweep(&self) -> Result<u64> {
        let sweeper = &self.context.registry.sweeper;
        let outcome: SweepOutcome = self
            .ask(|reply| sweeper.send(SweeperMessage::Pass(reply)))
            .await?;
        Ok(outcome.waiting)
    }

    /// Sends a request to an actor that may be restarting, again if the request is lost.
    async fn ask<T: Send + 'static>(&self, send: impl Fn(ReplyCallback<T>) -> bool) -> Result<T> {
        for attempt in 0..=self.context.limits.deliveries_max {
            let (reply, answer) = reply();
            send(reply);
            if let Some(answer) = answer.await {
                return answer;
            }
            self.context.health.check_failed("settle")?;
            self.context.back_off(attempt).await;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "settle",
            "the actor is not running",
        ))
    }

    /// Kills the actors of this kind, as a fault would. Returns false if there were none. For tests
    /// of restarts.
    pub fn kill(&self, kind: ActorKind) -> bool {
        let registry = &self.context.registry;
        let cell = match kind {
            ActorKind::Supervisor => {
                // Children first, in a fixed order: ractor would kill them in a random one.
                registry.kill_all();
                self.supervisor
                    .as_ref()
                    .map(|supervisor| supervisor.get_cell())
            }
            ActorKind::Shard(number) => registry
                .shards
                .get(number)
                .and_then(|slot| slot.get())
                .map(|actor| actor.get_cell()),
            ActorKind::Uploads => {
                registry.kill_uploads();
                registry.uploads.get().map(|actor| actor.get_cell())
            }
            ActorKind::Recovery => registry.recovery.get().map(|actor| actor.get_cell()),
            ActorKind::Sweeper => registry.sweeper.get().map(|actor| actor.get_cell()),
            ActorKind::Expirer => registry.expirer.get().map(|actor| actor.get_cell()),
            ActorKind::Pruner => registry.pruner.get().map(|actor| actor.get_cell()),
            ActorKind::EveryUpload => return registry.kill_uploads(),
        };
        cell.map(|cell| cell.kill()).is_some()
    }

    /// Returns the number of the shard that decides for this object.
    pub fn shard_of(&self, id: &ObjectId) -> usize {
        self.context.registry.shard_number(id)
    }
}

impl Drop for Tiered {
    fn drop(&mut self) {
        self.context.health.close();
        self.context.registry.kill_all();
        if let Some(supervisor) = &self.supervisor {
            supervisor.kill();
        }
    }
}
