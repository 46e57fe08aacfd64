//! The sweeper: deletes orphans.
//!
//! ```text
//! scan orphans -> due and not pinned? -> the tier is ours? -> delete blobs, some at once -> make the removals durable
//!              -> the tier still is ours? -> one batch settles them
//! ```
//!
//! The blob tier is checked before anything is deleted in it, and again before "not found" is believed: a tier that is
//! away, or another one, has none of our blobs, and its orphans wait (I11).
//!
//! An orphan is settled only after its blob is durably gone (I5); one whose blob may still land is deleted twice. A
//! pinned revision is left alone until its last reader is done (I8). "Not found" counts as deleted, and one that can't
//! be deleted waits, longer each time, and holds up no other. Deliberately not here: what becomes an orphan
//! (`cenotaph_storage::swap`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Range, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::{Orphan, OrphanDue};
use cenotaph_storage::{Error, ErrorKind, Result, RevisionId, RevisionKey, Seam, Timestamp};
use futures::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::alarm::Alarm;
use crate::intensity::backoff;
use crate::messages::{Left, SweeperMessage};
use crate::shared::Shared;

/// An orphan that is being swept.
type Sweeping = (RevisionKey, Orphan);

/// The sweeper actor.
pub(crate) struct Sweeper {
    pub(crate) shared: Shared,
}

/// What the sweeper remembers between passes.
#[derive(Default)]
pub(crate) struct Rhythm {
    alarm: Alarm,
    failures: u32,
}

impl Actor for Sweeper {
    type Msg = SweeperMessage;
    type State = Rhythm;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Rhythm, ActorProcessingErr> {
        Ok(Rhythm::default())
    }

    async fn post_start(&self, _: ActorRef<Self::Msg>, _: &mut Rhythm) -> Result<(), ActorProcessingErr> {
        self.shared.env.actor_started("sweeper", None);
        // A wake-up that was lost with its predecessor is made good by the one that the supervisor sends.
        self.shared.sweep_wanted.store(false, Ordering::Release);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SweeperMessage,
        rhythm: &mut Rhythm,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match message {
            SweeperMessage::Wake => None,
            SweeperMessage::Due(setting) if rhythm.alarm.rings(setting) => None,
            SweeperMessage::Due(_) => return Ok(()),
            SweeperMessage::Pass(reply) => Some(reply),
        };
        self.shared.sweep_wanted.store(false, Ordering::Release);
        let left = self.pass().await;
        if let Some(due) = self.next_pass(&left, rhythm) {
            let ring = move |setting| drop(myself.send_message(SweeperMessage::Due(setting)));
            rhythm.alarm.set(&self.shared.env, due, ring);
        }
        if let Some(reply) = reply {
            reply(left);
        }
        Ok(())
    }
}

impl Sweeper {
    /// When the next pass is due by itself: with the next orphan, or a while after a failure.
    fn next_pass(&self, left: &Result<Left>, rhythm: &mut Rhythm) -> Option<Timestamp> {
        let limits = &self.shared.limits.sweep;
        match left {
            Ok(left) => {
                rhythm.failures = 0;
                left.next_due
            }
            Err(error) if self.shared.health.is_running() => {
                tracing::warn!(%error, "sweeping failed; trying again");
                let delay = backoff(limits.backoff_min, limits.backoff_max, rhythm.failures);
                rhythm.failures = rhythm.failures.saturating_add(1);
                Some(self.shared.env.steady_now().after(delay))
            }
            Err(_) => None,
        }
    }

    /// Looks at every orphan once, a page at a time.
    async fn pass(&self) -> Result<Left> {
        if self.shared.blobs.trouble().is_some() {
            self.check_tier().await?;
        }
        let mut range = Range::all(self.shared.limits.sweep.page.max(1));
        let mut left = Left::default();
        loop {
            let page = self.shared.index.snapshot()?.scan_over(Table::Orphans, range).await?;
            self.shared.note_unreadable(page.unreadable);
            self.sweep(page.entries, &mut left).await?;
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok(left),
            }
        }
    }

    /// Deletes what is due of one page, and settles it with one batch.
    async fn sweep(&self, page: Vec<(Bytes, Bytes)>, left: &mut Left) -> Result<()> {
        let now = self.shared.env.steady_now();
        let longest = self.longest_wait();
        let mut due = Vec::new();
        let mut restated = Vec::new();
        for (key, value) in page {
            let Some(revision) = RevisionId::from_slice(&key) else { continue };
            let orphan = match Orphan::decode(&value) {
                Ok(orphan) => orphan,
                Err(error) => {
                    tracing::error!(%revision, %error, "an orphan can't be read");
                    left.waiting += 1;
                    continue;
                }
            };
            if self.is_pinned(revision) {
                left.waiting += 1;
                continue;
            }
            match orphan.due(now, longest) {
                OrphanDue::Now => due.push((RevisionKey { object: orphan.object.clone(), revision }, orphan)),
                OrphanDue::At(moment) => left.wait_until(moment),
                OrphanDue::Restated(orphan) => {
                    left.wait_until(orphan.not_before);
                    restated.push((key, orphan.encode()));
                }
            }
        }
        self.restate(restated).await?;
        if due.is_empty() {
            return Ok(());
        }
        self.check_tier().await?;
        let (deleted, mut failed) = self.delete(due).await;
        let deleted = self.make_durable(deleted, &mut failed).await;
        if !deleted.is_empty() {
            self.check_tier().await?;
        }
        self.shared.env.pass(Seam::SweeperAfterDelete).await;
        self.settle(deleted, failed, left).await
    }

    /// The longest time that an orphan waits for its next attempt: the grace time, or the longest pause between two
    /// attempts with its jitter.
    fn longest_wait(&self) -> Duration {
        let limits = &self.shared.limits.sweep;
        limits.grace.max(limits.backoff_max.saturating_add(limits.backoff_max / 4))
    }

    /// Stores orphans whose moment has changed.
    async fn restate(&self, restated: Vec<(Bytes, Bytes)>) -> Result<()> {
        if restated.is_empty() {
            return Ok(());
        }
        tracing::warn!(orphans = restated.len(), "the clock was set back: orphans get a new moment");
        let mut batch = Batch::new();
        for (key, value) in restated {
            batch.put(Table::Orphans, key, value);
        }
        self.shared.commit(batch, ()).await
    }

    /// Returns whether the blob tier is there and this store's.
    async fn check_tier(&self) -> Result<()> {
        let checked = self.shared.env.deadline(self.shared.limits.sweep.timeout, self.shared.blobs.check_owner()).await;
        checked.unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "sweep", "the blob tier does not answer")))
    }

    /// Whether somebody reads it. If so, the end of a read wakes this actor: that is said before the pin is looked at
    /// for the last time, so that no end is missed.
    fn is_pinned(&self, revision: RevisionId) -> bool {
        if !self.shared.pins.is_pinned(revision) || self.shared.env.planted(Bug::SweeperIgnoresPins) {
            return false;
        }
        self.shared.pinned_left.store(true, Ordering::SeqCst);
        self.shared.pins.is_pinned(revision)
    }

    /// Makes deletions durable, together if that works, one by one if not; what can't be made durable counts as failed.
    async fn make_durable(&self, deleted: Vec<Sweeping>, failed: &mut Vec<Sweeping>) -> Vec<Sweeping> {
        let keys: Vec<RevisionKey> = deleted.iter().map(|(key, _)| key.clone()).collect();
        if self.shared.blobs.settle_deletes(&keys).await.is_ok() {
            return deleted;
        }
        let mut durable = Vec::with_capacity(deleted.len());
        for (key, orphan) in deleted {
            match self.shared.blobs.settle_deletes(std::slice::from_ref(&key)).await {
                Ok(()) => durable.push((key, orphan)),
                Err(error) => {
                    tracing::warn!(%error, revision = %key, "a deletion could not be made durable");
                    failed.push((key, orphan));
                }
            }
        }
        durable
    }

    /// Deletes blobs, some at once: which are gone, and which are not.
    async fn delete(&self, due: Vec<Sweeping>) -> (Vec<Sweeping>, Vec<Sweeping>) {
        let timeout = self.shared.limits.sweep.timeout;
        let deletions = futures::stream::iter(due.into_iter().map(|(key, orphan)| async move {
            self.shared.env.pass(Seam::SweeperBeforeDelete).await;
            let deleted = self.shared.env.deadline(timeout, self.shared.blobs.delete(&key)).await;
            let late = || Err(Error::new(ErrorKind::Unavailable, "delete", "the blob tier does not answer"));
            (deleted.unwrap_or_else(late), key, orphan)
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

    async fn settle(&self, deleted: Vec<Sweeping>, failed: Vec<Sweeping>, left: &mut Left) -> Result<()> {
        let (limits, now) = (&self.shared.limits.sweep, self.shared.env.steady_now());
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
