//! Recovery: settles the changes of dead owners.
//!
//! ```text
//! for each change whose owner is dead:
//!   ask its object's shard to fence it: one batch removes the change and queues what the row does not name (I6, I3)
//! ```
//!
//! A change of an older epoch is dead, for an epoch begins with no owners; one of this epoch is dead when nothing holds its owner any more.
//! It never redoes a write, trusts the row alone, and may die and begin again at any point. The first pass of an engine ends
//! before traffic starts. Deliberately not here: deleting (the sweeper's).

use std::sync::atomic::Ordering;

use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::rows::{Change, Landing};
use cenotaph_storage::{OperationId, Result, Seam};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::reply::Reply;
use crate::shard::ShardMessage;
use crate::shared::Shared;

/// Changes looked at per read of the index.
const PAGE: usize = 256;

/// What recovery is told.
pub(crate) enum RecoveryMessage {
    /// A change may have lost its owner.
    Wake,
    /// Settle what is dead, then answer with how many changes were fenced.
    Pass(Reply<u64>),
}

/// The recovery actor.
pub(crate) struct Recovery {
    pub(crate) shared: Shared,
}

impl Actor for Recovery {
    type Msg = RecoveryMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Self::Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.shared.recovery_wanted.store(false, Ordering::Release);
        // Whatever woke its predecessor and was lost with it is found by a pass of its own.
        self.pass_or_retry(&myself).await;
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: RecoveryMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RecoveryMessage::Wake => {
                self.shared.recovery_wanted.store(false, Ordering::Release);
                self.pass_or_retry(&myself).await;
            }
            RecoveryMessage::Pass(reply) => reply(self.pass().await),
        }
        Ok(())
    }
}

impl Recovery {
    /// A pass; if it fails, another one later.
    async fn pass_or_retry(&self, myself: &ActorRef<RecoveryMessage>) {
        if let Err(error) = self.pass().await {
            tracing::warn!(%error, "recovery could not settle every dead change; trying again");
            let (env, myself) = (self.shared.env.clone(), myself.clone());
            let delay = self.shared.limits.restarts.backoff_max;
            self.shared.env.spawn(async move {
                env.sleep(delay).await;
                drop(myself.send_message(RecoveryMessage::Wake));
            });
        }
    }

    /// Fences every dead change; how many there were.
    async fn pass(&self) -> Result<u64> {
        let mut range = Range::all(PAGE);
        let mut fenced = 0;
        loop {
            let page = self.shared.index.snapshot()?.scan(Table::Changes, range.clone()).await?;
            for (key, value) in &page {
                let Some(id) = OperationId::from_slice(key) else { continue };
                if !self.shared.owners.is_alive(id) && self.fence(id, &Change::decode(value)?).await? {
                    fenced += 1;
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => range = range.after(last.clone()),
                _ => return Ok(fenced),
            }
        }
    }

    async fn fence(&self, id: OperationId, change: &Change) -> Result<bool> {
        self.shared.env.pass(Seam::RecoveryBeforeFence).await;
        let object = &change.object;
        let landing = self.landing(change);
        let fence = |reply| ShardMessage::Fence { object: object.clone(), change: id, landing, reply };
        let fenced = self.shared.deliver(object, fence).await?;
        self.shared.env.pass(Seam::RecoveryAfterFence).await;
        if fenced {
            tracing::info!(change = %id, object = %object, "recovery settled the change of a dead owner");
            self.shared.counters.fenced.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("cenotaph_fenced_changes_total").increment(1);
        }
        Ok(fenced)
    }

    /// Writes to a local file system end with their process. Any other write may still be on its way.
    fn landing(&self, change: &Change) -> Landing {
        if self.shared.blobs.is_local() && change.epoch < self.shared.epoch {
            Landing::Landed
        } else {
            Landing::MayLand
        }
    }
}
