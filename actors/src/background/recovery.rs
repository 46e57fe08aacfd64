//! Recovery: settles the changes of dead owners.
//!
//! ```text
//! for each change whose owner is dead:
//!   ask its object's shard to fence it: one batch removes the change and queues what the row does not name (I6, I3)
//! ```
//!
//! A pass looks at the changes that the backlog names. It scans the table at open, on request, and
//! after a commit of unknown outcome.
//!
//! A change of an older epoch is dead, for an epoch begins with no owners; one of this epoch is
//! dead when nothing holds its owner any more. It never redoes a write, trusts the row alone, and
//! may die and begin again at any point. The first pass of an engine ends before traffic starts.
//! Deliberately not here: deleting (the sweeper's).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::Change;
use cenotaph_storage::{ErrorKind, OperationId, Result, Seam};
use futures::stream::{self, StreamExt};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::runtime::context::SharedContext;
use crate::runtime::messages::{RecoveryMessage, ShardMessage};
use crate::runtime::timer::Timer;

/// Fences at once: they share syncs.
const FENCES_AT_ONCE: usize = 64;

/// The recovery actor.
pub(crate) struct Recovery {
    pub(crate) context: SharedContext,
}

impl Actor for Recovery {
    type Msg = RecoveryMessage;
    type State = Timer;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Timer, ActorProcessingErr> {
        Ok(Timer::default())
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        _: &mut Timer,
    ) -> Result<(), ActorProcessingErr> {
        self.context.env.actor_started("recovery", None);
        // A wake-up that was lost with its predecessor is made good by the one that the supervisor
        // sends.
        self.context.recovery_wanted.store(false, Ordering::Release);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: RecoveryMessage,
        alarm: &mut Timer,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match message {
            RecoveryMessage::Wake => None,
            RecoveryMessage::Again(setting) if alarm.is_current(setting) => None,
            RecoveryMessage::Again(_) => return Ok(()),
            RecoveryMessage::Pass(reply) => {
                self.context.backlog.want_scan_of_changes();
                Some(reply)
            }
        };
        self.context.recovery_wanted.store(false, Ordering::Release);
        let outcome = self.pass().await;
        if let Err(error) = &outcome
            && self.context.health.is_running()
        {
            tracing::warn!(%error, "recovery could not settle every dead change; trying again");
            let due = self
                .context
                .env
                .steady_now()
                .after(self.context.limits.restarts.backoff_max);
            alarm.set(&self.context.env, due, move |setting| {
                drop(myself.send_message(RecoveryMessage::Again(setting)));
            });
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
        let Some(scan) = self.context.backlog.scan_of_changes() else {
            return self.settle_known().await;
        };
        let fenced = self.scan().await?;
        self.context.backlog.scanned_changes(scan);
        Ok(fenced)
    }

    /// Looks at every change in the index.
    async fn scan(&self) -> Result<u64> {
        let mut range = Range::all(self.context.limits.recovery_page.max(1));
        let mut fenced = 0;
        loop {
            let page = self
                .context
                .index
                .snapshot()?
                .scan_over(Table::Changes, range)
                .await?;
            // What unreadable changes name stays: a scrub withholds its repair while a change can't
            // be read.
            self.context.note_unreadable(page.unreadable);
            let entries = page.entries.into_iter();
            let found: Vec<_> = entries
                .filter_map(|(key, value)| Some((OperationId::from_slice(&key)?, value)))
                .collect();
            for (id, value) in &found {
                self.context.backlog.found_change(*id, value);
            }
            let fences = found.into_iter().map(|(id, value)| self.settle(id, value));
            fenced += in_order(fences).await?;
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok(fenced),
            }
        }
    }

    /// Looks at the changes of dead owners that the backlog names.
    async fn settle_known(&self) -> Result<u64> {
        let changes = self.context.backlog.changes().into_iter();
        let dead = changes.filter(|id| !self.has_owner(*id));
        in_order(dead.map(|id| self.settle_by_id(id))).await
    }

    async fn settle_by_id(&self, id: OperationId) -> Result<bool> {
        match self.context.index.get(Table::Changes, id.as_bytes()).await {
            Ok(Some(value)) => self.settle(id, value).await,
            Ok(None) => {
                // Its owner is dead, so that no commit can still record it.
                self.context.backlog.forget_change(id);
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(change = %id, %error, "a change can't be read");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn has_owner(&self, id: OperationId) -> bool {
        self.context.owners.is_alive(id) && !self.context.env.planted(Bug::RecoveryWithoutFence)
    }

    /// Fences one change, if its owner is dead; whether it was. A damaged entry is left for a
    /// scrub: it must not hold up the others.
    async fn settle(&self, id: OperationId, value: Bytes) -> Result<bool> {
        if self.has_owner(id) {
            return Ok(false);
        }
        let outcome = match Change::decode(&value) {
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

    async fn fence(&self, id: OperationId, change: &Change) -> Result<bool> {
        self.context.env.pass(Seam::RecoveryBeforeFence).await;
        let object = &change.object;
        let fence = |reply| ShardMessage::Fence {
            object: object.clone(),
            change: id,
            reply,
        };
        let fenced = self.context.deliver(object, fence).await?;
        self.context.env.pass(Seam::RecoveryAfterFence).await;
        if fenced {
            tracing::info!(change = %id, object = %object, "recovery settled the change of a dead owner");
            self.context.counters.fenced.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("cenotaph_fenced_changes_total").increment(1);
        }
        Ok(fenced)
    }
}

/// Runs fences, some at once; how many fenced a change, or the first error when all have ended.
async fn in_order(fences: impl Iterator<Item = impl Future<Output = Result<bool>>>) -> Result<u64> {
    let outcomes: Vec<_> = stream::iter(fences)
        .buffered(FENCES_AT_ONCE)
        .collect()
        .await;
    outcomes
        .into_iter()
        .try_fold(0, |fenced, outcome| Ok(fenced + u64::from(outcome?)))
}
