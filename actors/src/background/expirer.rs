//! The expirer: removes what is due.
//!
//! ```text
//! scan the expiry index up to now -> ask each object's shard to remove it, or to end the upload to it, some at once
//!                                 -> sleep until the next is due
//! ```
//!
//! It decides nothing: the shard looks at the row and removes it only if it has expired, as a
//! delete would, with its revisions queued in the same batch. An object is absent from its deadline
//! on, whether this actor has come by or not; it only gives the space back. It reads what is due
//! and one entry more, whatever else there is. Deliberately not here: what has expired
//! (`cenotaph_storage::rows::is_live`), and where it looks (`horizon.rs`).

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::decide::{
    Deleted, Mutation, Precondition, SessionMutation, SessionSwap, Swap,
};
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::rows::{Due, expiry_end, read_expiry_key};
use cenotaph_storage::{ErrorKind, ObjectId, Result, Seam, Timestamp, UploadId};
use futures::stream::{self, StreamExt};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::admission::permits::Permit;
use crate::runtime::context::SharedContext;
use crate::runtime::messages::ExpirerMessage;
use crate::runtime::restart_policy::backoff;
use crate::runtime::timer::Timer;

/// The expirer actor.
pub(crate) struct Expirer {
    pub(crate) context: SharedContext,
}

/// What the expirer remembers between passes.
#[derive(Default)]
pub(crate) struct WorkerState {
    alarm: Timer,
    failures: u32,
}

/// What a pass has done and seen.
struct Passed {
    removed: u64,
    next_due: Option<Timestamp>,
}

impl Actor for Expirer {
    type Msg = ExpirerMessage;
    type State = WorkerState;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<WorkerState, ActorProcessingErr> {
        Ok(WorkerState::default())
    }

    async fn post_start(
        &self,
        _: ActorRef<Self::Msg>,
        _: &mut WorkerState,
    ) -> Result<(), ActorProcessingErr> {
        self.context.env.actor_started("expirer", None);
        // A wake-up that was lost with its predecessor is made good by the one that the supervisor
        // sends.
        self.context.expiry_wanted.store(false, Ordering::Release);
        self.context.expiry_cursor.begin_anew();
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: ExpirerMessage,
        rhythm: &mut WorkerState,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match message {
            ExpirerMessage::Wake => None,
            ExpirerMessage::Due(setting) if rhythm.alarm.is_current(setting) => None,
            ExpirerMessage::Due(_) => return Ok(()),
            ExpirerMessage::Pass(reply) => Some(reply),
        };
        self.context.expiry_wanted.store(false, Ordering::Release);
        let passed = self.pass().await;
        if let Some(due) = self.next_pass(&passed, rhythm) {
            let ring = move |setting| drop(myself.send_message(ExpirerMessage::Due(setting)));
            rhythm.alarm.set(&self.context.env, due, ring);
        }
        if let Some(reply) = reply {
            reply(passed.map(|passed| passed.removed));
        }
        Ok(())
    }
}

impl Expirer {
    /// When the next pass is due by itself: with the next object, or a while after a failure.
    fn next_pass(&self, passed: &Result<Passed>, rhythm: &mut WorkerState) -> Option<Timestamp> {
        let (now, limits) = (self.context.env.steady_now(), &self.context.limits);
        match passed {
            Ok(passed) => {
                rhythm.failures = 0;
                passed
                    .next_due
                    .map(|due| due.min(now.after(limits.expiry.interval_max)))
            }
            Err(error) if self.context.health.is_running() => {
                tracing::warn!(%error, "removing what has expired failed; trying again");
                let delay = backoff(
                    limits.sweep.backoff_min,
                    limits.sweep.backoff_max,
                    rhythm.failures,
                );
                rhythm.failures = rhythm.failures.saturating_add(1);
                Some(now.after(delay))
            }
            Err(_) => None,
        }
    }

    /// Removes all that is due now, a page at a time.
    async fn pass(&self) -> Result<Passed> {
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
        Ok(Passed { removed, next_due })
    }

    /// Tells for how long the first entry that is still there has been due.
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

    /// When the first object behind this key is due.
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
                (None, Some(rest)) => behind = rest,
                (first, _) => {
                    return Ok(first
                        .and_then(|(key, _)| read_expiry_key(key).ok())
                        .map(|(due, _)| due));
                }
            }
        }
    }

    /// Has the shards remove these objects, some at once: how many were removed.
    async fn remove(&self, entries: Vec<Bytes>) -> Result<u64> {
        let removals = entries.into_iter().map(|key| self.remove_one(key));
        let at_once = self.context.limits.expiry.removals_at_once.max(1);
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

    /// Removes one object or session, if it has expired; whether it had. What can't be read is left
    /// for a scrub: it must not hold up the others.
    async fn remove_one(&self, key: Bytes) -> Result<bool> {
        let due = match read_expiry_key(&key) {
            Ok((_, due)) => due,
            Err(error) => {
                tracing::error!(%error, "an expiry entry can't be read");
                return Ok(false);
            }
        };
        self.context.env.pass(Seam::ExpirerBeforeRemove).await;
        let removed = match due {
            Due::Object(object) => self.expire(object).await.map(|removed| removed.existed),
            Due::Session(object, upload) => self.end_session(object, upload).await.map(|()| false),
        };
        match removed {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnknownFormat) => {
                tracing::error!(%error, "what may have expired can't be read");
                Ok(false)
            }
            removed => removed,
        }
    }

    /// Ends an upload, if its time has come.
    async fn end_session(&self, id: ObjectId, upload: UploadId) -> Result<()> {
        let operation = self.context.env.operation_id();
        let swap = SessionSwap {
            id,
            upload,
            operation,
            mutation: SessionMutation::Expire,
        };
        self.context.end(swap, Permit::free(), None).await.map(drop)
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
            .compare_and_write(swap, &Permit::free(), |reply| reply)
            .await?;
        Ok(reply.deleted())
    }
}
