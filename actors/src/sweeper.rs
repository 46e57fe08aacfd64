//! The sweeper: deletes orphans.
//!
//! ```text
//! scan orphans -> due and not pinned? -> delete blobs, some at once -> make the removals durable -> one batch settles them
//! ```
//!
//! An orphan is settled only after its blob is durably gone (I5); one whose blob may still land is deleted twice. A pinned
//! revision is left alone until its last reader is done (I8). "Not found" counts as deleted, and one that can't be
//! deleted waits, longer each time, and holds up no other. Deliberately not here: what becomes an orphan (`cenotaph_storage::swap`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Range, Table};
use cenotaph_storage::rows::Orphan;
use cenotaph_storage::{Result, RevisionId, RevisionKey, Seam, Timestamp};
use futures::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::intensity::backoff;
use crate::reply::Reply;
use crate::shared::Shared;

/// What the sweeper is told.
pub(crate) enum SweeperMessage {
    /// There may be orphans, or fewer pins.
    Wake,
    /// A timer of its own has run out.
    Due,
    /// Delete what is due, then answer with what is left.
    Pass(Reply<Left>),
}

/// What a pass has left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Orphans that wait for a reader, a grace time or a backoff.
    pub(crate) waiting: u64,
    /// When the next of them is due.
    next_due: Option<Timestamp>,
}

/// The sweeper actor.
pub(crate) struct Sweeper {
    pub(crate) shared: Shared,
}

/// When the sweeper will wake itself next.
#[derive(Default)]
pub(crate) struct Alarm(Option<Timestamp>);

impl Actor for Sweeper {
    type Msg = SweeperMessage;
    type State = Alarm;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Alarm, ActorProcessingErr> {
        Ok(Alarm::default())
    }

    async fn post_start(&self, myself: ActorRef<Self::Msg>, _: &mut Alarm) -> Result<(), ActorProcessingErr> {
        self.shared.sweep_wanted.store(false, Ordering::Release);
        drop(myself.send_message(SweeperMessage::Due));
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SweeperMessage,
        alarm: &mut Alarm,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match message {
            SweeperMessage::Wake => None,
            SweeperMessage::Due => {
                *alarm = Alarm::default();
                None
            }
            SweeperMessage::Pass(reply) => Some(reply),
        };
        self.shared.sweep_wanted.store(false, Ordering::Release);
        let left = self.pass().await;
        let now = self.shared.env.now();
        match &left {
            Ok(left) => left.next_due.into_iter().for_each(|due| self.wake_at(&myself, alarm, due)),
            Err(error) => {
                tracing::warn!(%error, "sweeping failed; trying again");
                self.wake_at(&myself, alarm, now.after(self.shared.limits.sweep.backoff_min));
            }
        }
        if let Some(reply) = reply {
            reply(left);
        }
        Ok(())
    }
}

impl Sweeper {
    fn wake_at(&self, myself: &ActorRef<SweeperMessage>, alarm: &mut Alarm, due: Timestamp) {
        if alarm.0.is_some_and(|set| set <= due) {
            return;
        }
        alarm.0 = Some(due);
        let (env, myself) = (self.shared.env.clone(), myself.clone());
        // One millisecond more, so that it is due when we look.
        let delay = due.since(env.now()) + Duration::from_millis(1);
        self.shared.env.spawn(async move {
            env.sleep(delay).await;
            drop(myself.send_message(SweeperMessage::Due));
        });
    }

    /// Looks at every orphan once, a page at a time.
    async fn pass(&self) -> Result<Left> {
        let mut range = Range::all(self.shared.limits.sweep.page.max(1));
        let mut left = Left::default();
        loop {
            let page = self.shared.index.snapshot()?.scan(Table::Orphans, range.clone()).await?;
            let last = page.last().map(|(key, _)| key.clone());
            let full = page.len() == range.limit;
            self.sweep(page, &mut left).await?;
            match last {
                Some(last) if full => range = range.after(last),
                _ => return Ok(left),
            }
        }
    }

    /// Deletes what is due of one page, and settles it with one batch.
    async fn sweep(&self, page: Vec<(Bytes, Bytes)>, left: &mut Left) -> Result<()> {
        let now = self.shared.env.now();
        let mut due = Vec::new();
        for (key, value) in page {
            let Some(revision) = RevisionId::from_slice(&key) else { continue };
            let orphan = Orphan::decode(&value)?;
            if self.shared.pins.is_pinned(revision) {
                left.waiting += 1;
            } else if orphan.not_before > now {
                left.wait_until(orphan.not_before);
            } else {
                due.push((RevisionKey { object: orphan.object.clone(), revision }, orphan));
            }
        }
        let (deleted, failed) = self.delete(due).await;
        if deleted.is_empty() && failed.is_empty() {
            return Ok(());
        }
        let keys: Vec<RevisionKey> = deleted.iter().map(|(key, _)| key.clone()).collect();
        self.shared.blobs.settle_deletes(&keys).await?;
        self.shared.env.pass(Seam::SweeperAfterDelete).await;
        self.settle(deleted, failed, left).await
    }

    /// Deletes blobs, some at once: which are gone, and which are not.
    async fn delete(
        &self,
        due: Vec<(RevisionKey, Orphan)>,
    ) -> (Vec<(RevisionKey, Orphan)>, Vec<(RevisionKey, Orphan)>) {
        let deletions = futures::stream::iter(due.into_iter().map(|(key, orphan)| async move {
            self.shared.env.pass(Seam::SweeperBeforeDelete).await;
            (self.shared.blobs.delete(&key).await, key, orphan)
        }));
        let mut done = deletions.buffered(self.shared.limits.sweep.deletes_at_once.max(1));
        let (mut deleted, mut failed) = (Vec::new(), Vec::new());
        while let Some((outcome, key, orphan)) = done.next().await {
            match outcome {
                Ok(()) => deleted.push((key, orphan)),
                Err(error) => {
                    tracing::warn!(%error, revision = %key, attempts = orphan.attempts + 1, "an orphan could not be deleted");
                    failed.push((key, orphan));
                }
            }
        }
        (deleted, failed)
    }

    async fn settle(
        &self,
        deleted: Vec<(RevisionKey, Orphan)>,
        failed: Vec<(RevisionKey, Orphan)>,
        left: &mut Left,
    ) -> Result<()> {
        let (limits, now) = (&self.shared.limits.sweep, self.shared.env.now());
        let (mut batch, mut settled, failures) = (Batch::new(), 0, failed.len() as u64);
        for (key, orphan) in deleted {
            let row = Bytes::copy_from_slice(key.revision.as_bytes());
            match orphan.deleted(now, limits.grace) {
                Some(again) => {
                    left.wait_until(again.not_before);
                    batch.put(Table::Orphans, row, again.encode());
                }
                None => {
                    settled += 1;
                    batch.remove(Table::Orphans, row);
                }
            }
        }
        for (key, orphan) in failed {
            let delay = backoff(limits.backoff_min, limits.backoff_max, orphan.attempts);
            let later = orphan.failed(now, delay.saturating_add(self.shared.env.jitter(delay / 4)));
            left.wait_until(later.not_before);
            batch.put(Table::Orphans, Bytes::copy_from_slice(key.revision.as_bytes()), later.encode());
        }
        self.shared.commit(batch, ()).await?;
        self.shared.counters.swept.fetch_add(settled, Ordering::Relaxed);
        self.shared.counters.sweep_failures.fetch_add(failures, Ordering::Relaxed);
        metrics::counter!("cenotaph_swept_total").increment(settled);
        metrics::counter!("cenotaph_sweep_failures_total").increment(failures);
        Ok(())
    }
}

impl Left {
    fn wait_until(&mut self, due: Timestamp) {
        self.waiting += 1;
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }
}
