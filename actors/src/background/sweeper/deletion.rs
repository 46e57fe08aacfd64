//! Deletion of due orphans in groups: steps 1 to 6 of the sweeper.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, CommitError, Range, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::records::{Orphan, OrphanDue, read_reader_pin_key, reader_pins_of};
use cenotaph_storage::{Error, ErrorKind, Result, RevisionId, RevisionKey, SyncPoint};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::Sweeper;
use crate::runtime::restart_policy::backoff;

/// An orphan with the key of its blob.
struct DueOrphan {
    key: RevisionKey,
    orphan: Orphan,
    /// The entry as it was read.
    entry: Bytes,
}

/// Maximum time that a group of deletions waits for more deletions to end.
const SETTLE_AFTER: Duration = Duration::from_millis(100);
/// Pins of a revision that are read: more members than any store has.
const PINS_MAX: usize = 10_000;
/// Interval at which a pass that waits for deletions looks for orphans that were added meanwhile.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Outcome of an attempt to delete an orphan.
enum DeleteAttempt {
    /// The blob is deleted.
    Deleted(DueOrphan),
    /// The blob may exist.
    Failed(DueOrphan, Error),
    /// The entry gets a new due time.
    Restated(DueOrphan),
    /// A reader of another member holds the revision.
    Held(RevisionId),
    /// Nothing is to be done now.
    Passed,
}

/// Deletions that have ended and are not settled.
#[derive(Default)]
struct Group {
    deleted: Vec<DueOrphan>,
    failed: Vec<DueOrphan>,
    restated: Vec<DueOrphan>,
    /// The last failure.
    error: Option<Error>,
}

impl Group {
    fn len(&self) -> usize {
        self.deleted.len() + self.failed.len() + self.restated.len()
    }
}

/// Progress of a pass.
#[derive(Default)]
pub(super) struct PassProgress {
    pub(super) failed: u64,
    /// Failed deletions since the last successful deletion.
    pub(super) in_a_row: usize,
    pub(super) error: Option<Error>,
    pub(super) taken: u64,
    /// Maximum number of orphans that this pass takes: the pass ends, however many are added
    /// meanwhile.
    pub(super) taken_max: u64,
    /// Orphans that were pinned when they were taken.
    pub(super) pinned: Vec<RevisionId>,
    /// Monotonic time until which the pass continues beside deletions that hang.
    pub(super) until: Duration,
}

impl Sweeper {
    /// Deletes due orphans of the backlog, some at once, and settles them in groups. Returns
    /// whether any were due.
    pub(super) async fn delete_due(&self, progress: &mut PassProgress) -> Result<bool> {
        let mut under_way = FuturesUnordered::new();
        let mut group = Group::default();
        let mut is_checked = false;
        let mut was_due = false;
        loop {
            while under_way.len() < self.at_once() && progress.takes_more(self.at_once()) {
                let now = self.context.env.steady_now();
                let Some(revision) = self.context.backlog.take_due(now, self.longest_wait()) else {
                    break;
                };
                progress.taken += 1;
                if self.is_pinned(revision) {
                    // Stays taken until the pass ends, so that the loop does not take it again.
                    progress.pinned.push(revision);
                    continue;
                }
                was_due = true;
                // Only if there is something to delete: the check is a request to the blob tier.
                if !std::mem::replace(&mut is_checked, true) {
                    self.check_tier().await?;
                }
                under_way.push(self.attempt(revision));
            }
            if under_way.is_empty() {
                self.settle(std::mem::take(&mut group), progress).await?;
                return Ok(was_due);
            }
            let patience = if group.len() == 0 {
                LOOK_AFTER
            } else {
                SETTLE_AFTER
            };
            let is_full = match self.context.env.deadline(patience, under_way.next()).await {
                Some(ended) => {
                    if let Some(attempt) = ended.transpose()? {
                        if let DeleteAttempt::Held(revision) = attempt {
                            self.context.backlog.keep_orphan(revision);
                        }
                        progress.note(attempt, &mut group);
                    }
                    group.len() >= self.context.limits.sweep.page.max(1)
                }
                None => {
                    self.extend_pass(progress);
                    true
                }
            };
            if is_full {
                self.settle(std::mem::take(&mut group), progress).await?;
            }
        }
    }

    /// Extends the pass while a deletion hangs: the pass continues with orphans that were added, or
    /// unpinned, since it began. It does so for the time limit of a deletion, so that it ends.
    fn extend_pass(&self, progress: &mut PassProgress) {
        if self.context.env.monotonic() < progress.until {
            self.context
                .backlog
                .put_back(std::mem::take(&mut progress.pinned));
            progress.taken_max = progress.taken + self.context.backlog.known_orphans();
        }
    }

    /// Reads the entry of an orphan and deletes its blob (steps 2 and 3).
    async fn attempt(&self, revision: RevisionId) -> Result<DeleteAttempt> {
        // Read again: the backlog may be older than the entry.
        let value = match self
            .context
            .index
            .get(Table::Orphans, revision.as_bytes())
            .await
        {
            Ok(Some(value)) => value,
            Ok(None) => {
                // Another pass or a batch has removed it. The index decides.
                self.context.backlog.forget_orphan(revision);
                return Ok(DeleteAttempt::Passed);
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Ok(unreadable(revision, &error));
            }
            Err(error) => return Err(error),
        };
        let orphan = match Orphan::decode(&value) {
            Ok(orphan) => orphan,
            Err(error) => return Ok(unreadable(revision, &error)),
        };
        let key = RevisionKey {
            object: orphan.object.clone(),
            revision,
        };
        let due = orphan.due(self.context.env.steady_now(), self.longest_wait());
        let orphan = DueOrphan {
            key,
            orphan,
            entry: value.clone(),
        };
        match due {
            // After the grace time: a pin that is stored later is not needed.
            OrphanDue::Now if self.is_held(revision).await? => Ok(DeleteAttempt::Held(revision)),
            OrphanDue::Now => Ok(self.delete(orphan).await),
            OrphanDue::At(_) => {
                // The backlog had an older due time.
                self.context.backlog.found_orphan(revision, &value);
                Ok(DeleteAttempt::Passed)
            }
            OrphanDue::Restated(restated) => Ok(DeleteAttempt::Restated(DueOrphan {
                orphan: restated,
                ..orphan
            })),
        }
    }

    async fn delete(&self, due: DueOrphan) -> DeleteAttempt {
        self.context.env.pass(SyncPoint::SweeperBeforeDelete).await;
        let timeout = self.context.limits.sweep.timeout;
        let late = || {
            Err(Error::new(
                ErrorKind::Unavailable,
                "delete",
                "the blob tier did not answer in time",
            ))
        };
        let deleted = self
            .context
            .env
            // A deletion that exceeds the limit may still succeed: deleting twice is harmless.
            .deadline(timeout, self.context.blobs.delete(&due.key))
            .await;
        match deleted.unwrap_or_else(late) {
            Ok(()) => DeleteAttempt::Deleted(due),
            Err(error) => {
                tracing::debug!(
                    %error,
                    revision = %due.key,
                    attempts = due.orphan.attempts.saturating_add(1),
                    "deleting an orphan failed"
                );
                DeleteAttempt::Failed(due, error)
            }
        }
    }

    /// Returns whether a reader of a living member has stored a pin on the revision.
    async fn is_held(&self, revision: RevisionId) -> Result<bool> {
        if !self.context.index.is_shared() {
            return Ok(false);
        }
        let pins = Range::prefix(&reader_pins_of(revision), PINS_MAX);
        let pins = self
            .context
            .index
            .snapshot()?
            .keys(Table::Meta, pins)
            .await?;
        if pins.is_empty() {
            return Ok(false);
        }
        // After the pins: a member that has stored one of them is among them, if it lives.
        let live = self.context.live_epochs().await?.unwrap_or_default();
        let is_live = |key: &Bytes| {
            let pin = read_reader_pin_key(key);
            // A pin that can't be read holds: it may be of a later build.
            pin.map_or(true, |(_, epoch)| live.contains(&epoch))
        };
        Ok(pins.iter().any(is_live))
    }

    /// Returns whether a read holds the revision. If so, the end of a read wakes this actor.
    fn is_pinned(&self, revision: RevisionId) -> bool {
        if !self.context.pins.is_pinned(revision)
            || self.context.env.planted(Bug::SweeperIgnoresPins)
        {
            return false;
        }
        // The flag is set before the pin is checked again: a read that ends in between wakes the
        // sweeper.
        self.context.pinned_skipped.store(true, Ordering::SeqCst);
        self.context.pins.is_pinned(revision)
    }

    /// Makes deletions durable, together if possible, one by one otherwise. Those that can't be
    /// made durable count as failed.
    async fn make_durable(&self, deleted: Vec<DueOrphan>, group: &mut Group) -> Vec<DueOrphan> {
        let keys: Vec<RevisionKey> = deleted.iter().map(|due| due.key.clone()).collect();
        if self.context.blobs.settle_deletes(&keys).await.is_ok() {
            return deleted;
        }
        let mut durable = Vec::with_capacity(deleted.len());
        for due in deleted {
            match self
                .context
                .blobs
                .settle_deletes(std::slice::from_ref(&due.key))
                .await
            {
                Ok(()) => durable.push(due),
                Err(error) => {
                    tracing::debug!(%error, revision = %due.key, "making a deletion durable failed");
                    group.failed.push(due);
                    group.error = Some(error);
                }
            }
        }
        durable
    }

    /// Settles a group (steps 4 to 6).
    async fn settle(&self, mut group: Group, progress: &mut PassProgress) -> Result<()> {
        if group.len() == 0 {
            return Ok(());
        }
        let ended = std::mem::take(&mut group.deleted);
        let attempts = ended.len();
        let deleted = self.make_durable(ended, &mut group).await;
        if deleted.is_empty() {
            // The tier accepts deletions and loses them: as bad as refusing each.
            progress.in_a_row += attempts;
        } else {
            // After the deletions: if the tier was replaced meanwhile, `not found` proves nothing
            // (I11).
            self.check_tier().await?;
        }
        if !group.restated.is_empty() {
            tracing::warn!(
                orphans = group.restated.len(),
                "the clock was set back: correcting the due times of orphans"
            );
        }
        self.context.env.pass(SyncPoint::SweeperAfterDelete).await;
        progress.failed += group.failed.len() as u64;
        progress.error = group.error.take().or_else(|| progress.error.take());
        self.commit(deleted, group).await
    }

    /// Makes a batch depend on the entry of an orphan as it was read if other members sweep, too.
    /// Returns the key of the entry. Without other members a batch may overlap with that of a dead
    /// predecessor, which does no harm.
    fn required(&self, batch: &mut Batch, key: &RevisionKey, entry: Bytes) -> Bytes {
        let row = Bytes::copy_from_slice(key.revision.as_bytes());
        if self.context.index.is_shared() {
            batch.require(Table::Orphans, row.clone(), Some(entry));
        }
        row
    }

    async fn commit(&self, deleted: Vec<DueOrphan>, group: Group) -> Result<()> {
        let limits = &self.context.limits.sweep;
        let now = self.context.env.steady_now();
        let mut batch = Batch::new();
        let mut settled = 0;
        let failures = group.failed.len() as u64;
        for DueOrphan { key, orphan, entry } in deleted {
            let row = self.required(&mut batch, &key, entry);
            match orphan.deleted(now, limits.grace) {
                // A late write may still create the blob: the entry stays for a second deletion.
                Some(again) => batch.put(Table::Orphans, row, again.encode()),
                None => {
                    settled += 1;
                    batch.remove(Table::Orphans, row);
                }
            }
        }
        for DueOrphan { key, orphan, entry } in group.failed {
            let row = self.required(&mut batch, &key, entry);
            let delay = backoff(limits.backoff_min, limits.backoff_max, orphan.attempts);
            let later = orphan.failed(
                now,
                // Jitter spreads the attempts of orphans that failed together.
                delay.saturating_add(self.context.env.jitter(delay / 4)),
            );
            batch.put(Table::Orphans, row, later.encode());
        }
        for DueOrphan { key, orphan, entry } in group.restated {
            let row = self.required(&mut batch, &key, entry);
            batch.put(Table::Orphans, row, orphan.encode());
        }
        match self.context.try_commit(batch, || {}, ()).await {
            Ok(()) => {}
            // Another member has settled one of them. The next pass reads all of them again.
            Err(CommitError::Changed) => {
                self.context.wake_sweeper();
                return Ok(());
            }
            Err(error) => return Err(error.into_error()),
        }
        self.context
            .counters
            .swept
            .fetch_add(settled, Ordering::Relaxed);
        self.context
            .counters
            .sweep_failures
            .fetch_add(failures, Ordering::Relaxed);
        metrics::counter!("cenotaph_swept_total").increment(settled);
        metrics::counter!("cenotaph_sweep_failures_total").increment(failures);
        Ok(())
    }
}

impl PassProgress {
    pub(super) fn is_refused(&self, at_once: usize) -> bool {
        self.in_a_row >= at_once
    }

    fn takes_more(&self, at_once: usize) -> bool {
        !self.is_refused(at_once) && self.taken < self.taken_max
    }

    /// Records the outcome of an attempt.
    fn note(&mut self, attempt: DeleteAttempt, group: &mut Group) {
        match attempt {
            DeleteAttempt::Deleted(orphan) => {
                self.in_a_row = 0;
                group.deleted.push(orphan);
            }
            DeleteAttempt::Failed(orphan, error) => {
                self.in_a_row += 1;
                group.failed.push(orphan);
                group.error = Some(error);
            }
            DeleteAttempt::Restated(orphan) => group.restated.push(orphan),
            DeleteAttempt::Held(_) | DeleteAttempt::Passed => {}
        }
    }
}

/// Reports a damaged entry, which a scrub handles: it must not hold up the others.
fn unreadable(revision: RevisionId, error: &Error) -> DeleteAttempt {
    tracing::error!(%revision, %error, "an orphan can't be read");
    DeleteAttempt::Passed
}
