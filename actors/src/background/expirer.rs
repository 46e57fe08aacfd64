//! The expirer: removes expired objects and uploads.
//!
//! ```text
//! read the expiry index up to now -> request removal from each object's shard, some at once
//!                                 -> sleep until the next entry is due
//! ```
//!
//! The expirer decides nothing. The shard reads the row and removes the object only if it has
//! expired, as a delete would, with its orphans in the same batch. An object is absent from its
//! deadline on, removed or not: the expirer only frees space. A pass reads the due entries and one
//! more.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::decide::{
    Deleted, FallbackAnswer, Mutation, Precondition, Swap, UploadMutation, UploadStep,
};
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::{Due, expiry_end, read_expiry_key};
use cenotaph_storage::{ErrorKind, ObjectId, Result, SyncPoint, Timestamp, UploadId};
use futures::stream::{self, StreamExt};

use crate::admission::permits::Permit;
use crate::background::worker::{BackgroundWorker, NextPass};
use crate::context::SharedContext;
use crate::context::messages::ExpiryOutcome;

/// The expirer.
pub(crate) struct Expirer {
    pub(crate) context: SharedContext,
}

impl BackgroundWorker for Expirer {
    const NAME: &'static str = "expirer";
    const FAILED: &'static str = "removing expired objects failed; trying again";
    type Outcome = ExpiryOutcome;
    type Memory = ();

    fn context(&self) -> &SharedContext {
        &self.context
    }

    fn requested(&self) -> &AtomicBool {
        &self.context.expiry_requested
    }

    fn claim(&self) -> Option<(&'static str, Duration)> {
        Some(("expiry", self.context.limits.members.lease))
    }

    fn backoff_limits(&self) -> (Duration, Duration) {
        let limits = &self.context.limits.sweep;
        (limits.backoff_min, limits.backoff_max)
    }

    /// Removes everything that is due now, page by page.
    async fn pass(&self, (): &()) -> Result<ExpiryOutcome> {
        // The cursor first: deadlines that become durable from here on belong to the next pass.
        if self.context.index.is_shared() {
            // Other members store deadlines, too, and this one does not learn of them.
            self.context.expiry_cursor.begin_anew();
        }
        let begin = self.context.expiry_cursor.begin();
        let now = self.context.env.steady_now();
        let start = Bound::Included(Bytes::copy_from_slice(&begin.as_millis().to_be_bytes()));
        let end = expiry_end(now);
        let limit = self.context.limits.expiry.page.max(1);
        let mut range = Range {
            start,
            end: Bound::Excluded(end.clone()),
            limit,
        };
        let mut removed = 0;
        loop {
            let page = self
                .context
                .index
                .snapshot()?
                .scan_over(Table::Expiry, range)
                .await?;
            self.context.note_unreadable(page.unreadable);
            self.gauge_lag(page.entries.first());
            removed += self
                .remove(page.entries.into_iter().map(|(key, _)| key).collect())
                .await?;
            match page.rest {
                Some(rest) => range = rest,
                None => break,
            }
        }
        self.gauge_lag(None);
        let next_due = self
            .context
            .expiry_cursor
            .end(now, self.next_due(end).await?);
        Ok(ExpiryOutcome { removed, next_due })
    }

    fn next_pass(&self, outcome: &ExpiryOutcome, (): &mut ()) -> NextPass {
        let now = self.context.env.steady_now();
        // Entries are due by the time of day: a clock that is set forward must be noticed.
        let limits = &self.context.limits;
        if self.context.index.is_shared() {
            let latest = now.after(limits.expiry.interval_max.min(limits.members.lease / 4));
            return NextPass::At(outcome.next_due.map_or(latest, |due| due.min(latest)));
        }
        let latest = now.after(limits.expiry.interval_max);
        match outcome.next_due {
            Some(due) => NextPass::At(due.min(latest)),
            None => NextPass::OnWakeUp,
        }
    }

    fn begin(&self) {
        self.context.expiry_cursor.begin_anew();
    }
}

impl Expirer {
    /// Sets the gauge of how long the first remaining entry has been due.
    fn gauge_lag(&self, first: Option<&(Bytes, Bytes)>) {
        let due = first
            .and_then(|(key, _)| read_expiry_key(key).ok())
            .map(|(due, _)| due);
        let now = self.context.env.steady_now();
        let lag = due.map_or(Duration::ZERO, |due| {
            Duration::from_millis(now.as_millis().saturating_sub(due.as_millis()))
        });
        metrics::gauge!("cenotaph_expiry_lag_seconds").set(lag.as_secs_f64());
    }

    /// Returns the due time of the first entry from this key on.
    async fn next_due(&self, end: Bytes) -> Result<Option<Timestamp>> {
        let mut behind = Range {
            start: Bound::Included(end),
            end: Bound::Unbounded,
            limit: 1,
        };
        loop {
            let page = self
                .context
                .index
                .snapshot()?
                .scan_over(Table::Expiry, behind)
                .await?;
            match (page.entries.first(), page.rest) {
                // An unreadable range without readable entries: continue behind it.
                (None, Some(rest)) => behind = rest,
                (first, _) => {
                    return Ok(first
                        .and_then(|(key, _)| read_expiry_key(key).ok())
                        .map(|(due, _)| due));
                }
            }
        }
    }

    /// Requests the removal of these entries, some at once. Returns the number of objects removed.
    async fn remove(&self, entries: Vec<Bytes>) -> Result<u64> {
        let removals = entries.into_iter().map(|key| self.remove_one(key));
        let at_once = self.context.limits.expiry.removals_at_once.max(1);
        // All removals end before the first error is returned: none is cut short.
        let outcomes: Vec<_> = stream::iter(removals).buffered(at_once).collect().await;
        let mut removed = 0;
        for outcome in outcomes {
            removed += u64::from(outcome?);
        }
        self.context
            .counters
            .expired
            .fetch_add(removed, Ordering::Relaxed);
        metrics::counter!("cenotaph_expired_total").increment(removed);
        Ok(removed)
    }

    /// Removes an object or ends an upload, if it has expired. Returns whether an object was
    /// removed.
    async fn remove_one(&self, key: Bytes) -> Result<bool> {
        let due = match read_expiry_key(&key) {
            Ok((_, due)) => due,
            Err(error) => {
                tracing::error!(%error, "an expiry entry can't be read");
                return Ok(false);
            }
        };
        self.context.env.pass(SyncPoint::ExpirerBeforeRemove).await;
        let removed = match due {
            Due::Object(object) => self.expire(object).await.map(|removed| removed.existed),
            // Uploads are not objects: they do not count.
            Due::Upload(object, upload) => self.end_session(object, upload).await.map(|()| false),
        };
        match removed {
            // A scrub handles unreadable rows: they must not hold up the others.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnknownFormat) => {
                tracing::error!(%error, "an object or upload that may have expired can't be read");
                Ok(false)
            }
            removed => removed,
        }
    }

    /// Ends an upload, if it has expired.
    async fn end_session(&self, id: ObjectId, upload: UploadId) -> Result<()> {
        let operation = self.context.env.operation_id();
        let swap = UploadStep {
            id,
            upload,
            operation,
            mutation: UploadMutation::Expire,
        };
        let free = Permit::free();
        let ended = self.context.end(swap, FallbackAnswer::NotAsked, free, None);
        ended.await.map(drop)
    }

    async fn expire(&self, id: ObjectId) -> Result<Deleted> {
        let swap = Swap {
            id,
            operation: self.context.env.operation_id(),
            precondition: Precondition::None,
            mutation: Mutation::Expire,
        };
        let reply = self
            .context
            .compare_and_write(swap, FallbackAnswer::NotAsked, &Permit::free(), |reply| {
                reply
            })
            .await?;
        Ok(reply.deleted())
    }
}
