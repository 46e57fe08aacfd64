//! Recovery: settles the changes of dead owners.
//!
//! ```text
//! for each change whose owner is dead:
//!   ask its object's shard to fence it: one batch removes the change and queues what the row does not name (I6, I3)
//! ```
//!
//! A change of an older epoch is dead, for an epoch begins with no owners; one of this epoch is dead when nothing holds
//! its owner any more. It never redoes a write, trusts the row alone, and may die and begin again at any point. The
//! first pass of an engine ends before traffic starts. Deliberately not here: deleting (the sweeper's).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Range, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::Change;
use cenotaph_storage::swap;
use cenotaph_storage::{ErrorKind, OperationId, Result, Seam};
use futures::stream::{self, StreamExt};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::alarm::Alarm;
use crate::messages::{RecoveryMessage, ShardMessage};
use crate::shared::Shared;

/// Fences at once: they share syncs.
const FENCES_AT_ONCE: usize = 64;

/// The recovery actor.
pub(crate) struct Recovery {
    pub(crate) shared: Shared,
}

impl Actor for Recovery {
    type Msg = RecoveryMessage;
    type State = Alarm;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Alarm, ActorProcessingErr> {
        Ok(Alarm::default())
    }

    async fn post_start(&self, _: ActorRef<Self::Msg>, _: &mut Alarm) -> Result<(), ActorProcessingErr> {
        self.shared.env.actor_started("recovery", None);
        // A wake-up that was lost with its predecessor is made good by the one that the supervisor sends.
        self.shared.recovery_wanted.store(false, Ordering::Release);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: RecoveryMessage,
        alarm: &mut Alarm,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match message {
            RecoveryMessage::Wake => None,
            RecoveryMessage::Again(setting) if alarm.rings(setting) => None,
            RecoveryMessage::Again(_) => return Ok(()),
            RecoveryMessage::Pass(reply) => Some(reply),
        };
        self.shared.recovery_wanted.store(false, Ordering::Release);
        let outcome = self.pass().await;
        if let Err(error) = &outcome
            && self.shared.health.is_running()
        {
            tracing::warn!(%error, "recovery could not settle every dead change; trying again");
            let due = self.shared.env.steady_now().after(self.shared.limits.restarts.backoff_max);
            alarm.set(&self.shared.env, due, move |setting| drop(myself.send_message(RecoveryMessage::Again(setting))));
        }
        if let Some(reply) = reply {
            reply(outcome);
        }
        Ok(())
    }
}

impl Recovery {
    /// Fences every dead change; how many there were.
    async fn pass(&self) -> Result<u64> {
        let mut range = Range::all(self.shared.limits.recovery_page.max(1));
        let mut fenced = 0;
        loop {
            let page = self.shared.index.snapshot()?.scan_over(Table::Changes, range).await?;
            // What unreadable changes name stays: a scrub withholds its repair while a change can't be read.
            self.shared.note_unreadable(page.unreadable);
            let fences = page.entries.into_iter().map(|(key, value)| self.settle(key, value));
            let outcomes: Vec<_> = stream::iter(fences).buffered(FENCES_AT_ONCE).collect().await;
            for outcome in outcomes {
                fenced += u64::from(outcome?);
            }
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok(fenced),
            }
        }
    }

    /// Fences one change, if its owner is dead; whether it was. A damaged entry is left for a scrub: it must not hold
    /// up the others.
    async fn settle(&self, key: Bytes, value: Bytes) -> Result<bool> {
        let Some(id) = OperationId::from_slice(&key) else { return Ok(false) };
        let planted = self.shared.env.planted(Bug::RecoveryWithoutFence);
        if self.shared.owners.is_alive(id) && !planted {
            return Ok(false);
        }
        let outcome = match Change::decode(&value) {
            Ok(change) if planted => self.give_up_unfenced(id, &change).await,
            Ok(change) => self.fence(id, &change).await,
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnknownFormat) => {
                tracing::error!(change = %id, %error, "a change can't be settled");
                Ok(false)
            }
            outcome => outcome,
        }
    }

    /// [`Bug::RecoveryWithoutFence`]: what the row does not name now is given up, and the change stays live meanwhile.
    async fn give_up_unfenced(&self, id: OperationId, change: &Change) -> Result<bool> {
        let standing = self.shared.standing(&change.object).await?;
        let queued = swap::fence(id, change, &standing, self.shared.env.steady_now());
        let mut batch = Batch::new();
        for (table, key, value) in queued.into_changes() {
            match value {
                Some(value) => batch.put(table, key, value),
                None if self.shared.owners.is_alive(id) => {}
                None => batch.remove(table, key),
            }
        }
        self.shared.commit(batch, ()).await?;
        self.shared.wake_sweeper();
        Ok(true)
    }

    async fn fence(&self, id: OperationId, change: &Change) -> Result<bool> {
        self.shared.env.pass(Seam::RecoveryBeforeFence).await;
        let object = &change.object;
        let fence = |reply| ShardMessage::Fence { object: object.clone(), change: id, reply };
        let fenced = self.shared.deliver(object, fence).await?;
        self.shared.env.pass(Seam::RecoveryAfterFence).await;
        if fenced {
            tracing::info!(change = %id, object = %object, "recovery settled the change of a dead owner");
            self.shared.counters.fenced.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("cenotaph_fenced_changes_total").increment(1);
        }
        Ok(fenced)
    }
}
