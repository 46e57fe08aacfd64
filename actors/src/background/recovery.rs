//! Recovery: settles the changes of dead owners.
//!
//! ```text
//! for each change whose owner is dead:
//!   its object's shard fences it: one batch removes the change and queues orphans (I6, I3)
//! ```
//!
//! A pass reads the changes that the backlog names. It scans the table at open, on request, and
//! after a commit of unknown outcome.
//!
//! A change of an older epoch is dead, because an epoch begins without owners. On a shared index, a
//! change of another epoch is dead once the member of that epoch is gone. A change of this epoch is
//! dead when its last [`WriteGuard`](crate::runtime::live_writes::WriteGuard) is dropped.
//! Recovery never redoes a write, trusts the row alone, and may be killed and restarted at any
//! point. The first pass of an engine ends before traffic starts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::records::Change;
use cenotaph_storage::{Epoch, ErrorKind, OperationId, Result, SyncPoint};
use futures::stream::{self, StreamExt};

use crate::background::worker::{BackgroundWorker, NextPass};
use crate::context::SharedContext;
use crate::context::messages::ShardMessage;

/// Number of fences at once, which share syncs.
const FENCES_AT_ONCE: usize = 64;

/// Recovery.
pub(crate) struct Recovery {
    pub(crate) context: SharedContext,
}

impl BackgroundWorker for Recovery {
    const NAME: &'static str = "recovery";
    const FAILED: &'static str = "recovery could not settle every dead change; trying again";
    /// Number of changes fenced.
    type Outcome = u64;
    type Memory = ();

    fn context(&self) -> &SharedContext {
        &self.context
    }

    fn requested(&self) -> &AtomicBool {
        &self.context.recovery_requested
    }

    fn backoff_limits(&self) -> (Duration, Duration) {
        let delay = self.context.limits.restarts.backoff_max;
        (delay, delay)
    }

    /// Fences every dead change.
    async fn pass(&self, (): &()) -> Result<u64> {
        let Some(scan) = self.context.backlog.scan_of_changes() else {
            return self.settle_known().await;
        };
        let (fenced, found) = self.scan().await?;
        // A change that was settled between the read of a page and its note is in the backlog for
        // good, if the actor that noted it died before its fence. A scan does not find it again.
        let unfound = self.context.backlog.changes().into_iter();
        let stale = unfound.filter(|id| !found.contains(id) && !self.has_owner(*id));
        let fenced = fenced + in_order(stale.map(|id| self.settle_by_id(id))).await?;
        // Only now: a scan whose actor dies is requested again.
        self.context.backlog.scanned_changes(scan);
        Ok(fenced)
    }

    fn next_pass(&self, _: &u64, (): &mut ()) -> NextPass {
        NextPass::OnWakeUp
    }

    fn begin_requested(&self) {
        // A caller that requests a pass expects all changes to be settled, known or not.
        self.context.backlog.request_scan_of_changes();
    }
}

impl Recovery {
    /// Fences the dead changes of the whole table. Returns their number, and all changes found.
    async fn scan(&self) -> Result<(u64, BTreeSet<OperationId>)> {
        let mut range = Range::all(self.context.limits.recovery_page.max(1));
        let mut fenced = 0;
        let mut all = BTreeSet::new();
        loop {
            let page = self
                .context
                .index
                .snapshot()?
                .scan_over(Table::Changes, range)
                .await?;
            // The orphans of unreadable changes remain: a scrub withholds their repair as long as a
            // change can't be read.
            self.context.note_unreadable(page.unreadable);
            let entries = page.entries.into_iter();
            let found: Vec<_> = entries
                .filter_map(|(key, value)| Some((OperationId::from_slice(&key)?, value)))
                .collect();
            // After the changes: the members that have recorded them are among them, if they live.
            let live = self.context.live_epochs().await?;
            let found = found.into_iter();
            let found: Vec<_> = found
                .filter(|(_, value)| !self.is_of_others(value, live.as_ref()))
                .collect();
            for (id, value) in &found {
                // Noted before the fences: a fence that fails leaves the change known.
                self.context.backlog.found_change(*id, value);
                all.insert(*id);
            }
            let fences = found.into_iter().map(|(id, value)| self.settle(id, value));
            fenced += in_order(fences).await?;
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok((fenced, all)),
            }
        }
    }

    /// Fences the dead changes that the backlog names.
    async fn settle_known(&self) -> Result<u64> {
        let changes = self.context.backlog.changes().into_iter();
        let dead = changes.filter(|id| !self.has_owner(*id));
        in_order(dead.map(|id| self.settle_by_id(id))).await
    }

    /// Returns whether a change belongs to another member that lives.
    fn is_of_others(&self, value: &Bytes, live: Option<&BTreeSet<Epoch>>) -> bool {
        live.is_some_and(|live| {
            // A change that can't be read is reported by its settlement.
            Change::decode(value).is_ok_and(|change| {
                change.epoch != self.context.epoch && live.contains(&change.epoch)
            })
        })
    }

    async fn settle_by_id(&self, id: OperationId) -> Result<bool> {
        match self.context.index.get(Table::Changes, id.as_bytes()).await {
            // The backlog names changes of this member and of members that were gone: none comes back.
            Ok(Some(value)) => self.settle(id, value).await,
            Ok(None) => {
                // The owner is dead, so no commit can still record the change.
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
        self.context.live_writes.is_alive(id)
            && !self.context.env.planted(Bug::RecoveryWithoutFence)
    }

    /// Fences a change if its owner is dead. Returns whether the change was fenced.
    async fn settle(&self, id: OperationId, value: Bytes) -> Result<bool> {
        // Checked again: a scan also lists changes of living owners.
        if self.has_owner(id) {
            return Ok(false);
        }
        let outcome = match Change::decode(&value) {
            Ok(change) => self.fence(id, &change).await,
            Err(error) => Err(error),
        };
        match outcome {
            // A scrub handles damaged changes: they must not hold up the others.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnknownFormat) => {
                tracing::error!(change = %id, %error, "a change can't be settled");
                Ok(false)
            }
            outcome => outcome,
        }
    }

    async fn fence(&self, id: OperationId, change: &Change) -> Result<bool> {
        self.context.env.pass(SyncPoint::RecoveryBeforeFence).await;
        let object = &change.object;
        let fence = |reply| ShardMessage::Fence {
            object: object.clone(),
            change: id,
            reply,
        };
        let fenced = self.context.deliver(object, fence).await?;
        self.context.env.pass(SyncPoint::RecoveryAfterFence).await;
        // False if the change was settled meanwhile, for example by its own swap.
        if fenced {
            tracing::info!(
                change = %id,
                object = %object,
                "recovery settled the change of a dead owner"
            );
            self.context.counters.fenced.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("cenotaph_fenced_changes_total").increment(1);
        }
        Ok(fenced)
    }
}

/// Runs fences, some at once. Returns the number of changes fenced, or the first error after all
/// fences have ended.
async fn in_order(fences: impl Iterator<Item = impl Future<Output = Result<bool>>>) -> Result<u64> {
    let outcomes: Vec<_> = stream::iter(fences)
        .buffered(FENCES_AT_ONCE)
        .collect()
        .await;
    outcomes
        .into_iter()
        .try_fold(0, |fenced, outcome| Ok(fenced + u64::from(outcome?)))
}
