//! [`ActorStats`]: counts of the work that the actors have done, and of the work that remains.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::{Change, Orphan, UploadPhase, UploadRecord, all_sessions_prefix};
use cenotaph_storage::{Result, Timestamp};

use crate::admission::permits::BudgetUse;
use crate::context::backlog::Tally;
use crate::context::stored_base::StoredBase;
use crate::handle::Tiered;

/// Number of entries read at once to be counted.
const COUNT_PAGE: usize = 1024;

/// State and counters of the actors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActorStats {
    /// Small puts and deletes under way, including those whose caller is gone.
    pub writes_live: usize,
    /// Uploads under way, including those whose caller is gone.
    pub uploads_live: usize,
    /// Limit of small puts and deletes at once.
    pub writes_max: usize,
    /// Limit of uploads at once.
    pub uploads_max: usize,
    /// Payload bytes that small puts and the beginnings of other puts hold, and their limit.
    pub write_bytes: BudgetUse,
    /// Payload bytes that uploads hold, and their limit.
    pub upload_bytes: BudgetUse,
    /// Operations that wait for a share of a budget.
    pub budget_waits: usize,
    /// Actors restarted since the engine was opened.
    pub restarts: u64,
    /// Changes of dead owners settled since the engine was opened.
    pub fenced: u64,
    /// Orphans settled since the engine was opened.
    pub swept: u64,
    /// Failed attempts to delete an orphan since the engine was opened.
    pub sweep_failures: u64,
    /// True while the sweeper pauses because the blob tier refuses deletions or is unavailable.
    pub sweep_paused: bool,
    /// Superseded writes since the engine was opened.
    pub superseded: u64,
    /// Preconditions that did not hold since the engine was opened.
    pub conflicts: u64,
    /// Expired objects removed since the engine was opened.
    pub expired: u64,
    /// Last versions of deleted objects dropped since the engine was opened.
    pub pruned: u64,
    /// Last versions of deleted objects that the index held after the last walk over them.
    pub last_versions: u64,
    /// Base version: new objects start at the next version.
    pub base_version: u64,
    /// Idle refreshes since the engine was opened: reads that extended a deadline.
    pub touches: u64,
    /// Changes that are recorded and not settled. On a shared index, of all members, as the next
    /// five figures.
    pub changes: u64,
    /// Orphans that are not settled.
    pub orphans: u64,
    /// Time at which the oldest of these changes was recorded.
    pub oldest_change: Option<Timestamp>,
    /// Time since which the oldest of these orphans is an orphan.
    pub oldest_orphan: Option<Timestamp>,
    /// Open multipart uploads. Each holds the space of its parts in the blob tier.
    pub open_uploads: u64,
    /// Time at which the oldest of these uploads was initiated.
    pub oldest_upload: Option<Timestamp>,
}

/// Contribution of an entry to a count.
enum CountedEntry {
    /// The entry does not count.
    No,
    /// The entry counts since this time.
    Since(Timestamp),
    /// The entry counts, and can't be read.
    Broken,
}

impl<E> From<Result<Timestamp, E>> for CountedEntry {
    fn from(since: Result<Timestamp, E>) -> Self {
        since.map_or(Self::Broken, Self::Since)
    }
}

impl Tiered {
    /// Returns counts of the work that the actors have done, and of the work that remains.
    ///
    /// Multipart uploads are counted by reading them. Changes and orphans are counted in memory,
    /// except right after the open, where there are over 100,000 orphans, and on a shared index, where
    /// the memory of a member has not those of the others.
    ///
    /// # Errors
    /// The errors of reading the index.
    pub async fn stats(&self) -> Result<ActorStats> {
        let counters = &self.context.counters;
        let now = self.context.env.steady_now();
        let initiated = |value: &Bytes| match UploadRecord::decode(value) {
            Ok(session) if session.phase == UploadPhase::Open && session.is_live(now) => {
                CountedEntry::Since(session.initiated)
            }
            Ok(_) => CountedEntry::No,
            Err(_) => CountedEntry::Broken,
        };
        // From memory if possible: counting by a scan is slow where many entries were removed.
        let changes = self.tally_changes().await?;
        let orphans = self.tally_orphans().await?;
        let records = Range::prefix(&all_sessions_prefix(), COUNT_PAGE);
        let uploads = self.count(Table::Uploads, records, initiated).await?;
        Ok(ActorStats {
            writes_live: self.context.admission.writes_live(),
            uploads_live: self.context.admission.uploads_live(),
            writes_max: self.context.limits.writes_at_once,
            uploads_max: self.context.limits.uploads_at_once,
            write_bytes: self.context.admission.write_bytes().usage(),
            upload_bytes: self.context.admission.upload_bytes().usage(),
            budget_waits: self.context.admission.waits(),
            restarts: counters.restarts.load(Ordering::Relaxed),
            fenced: counters.fenced.load(Ordering::Relaxed),
            swept: counters.swept.load(Ordering::Relaxed),
            sweep_failures: counters.sweep_failures.load(Ordering::Relaxed),
            sweep_paused: counters.sweep_paused.load(Ordering::Relaxed),
            superseded: counters.superseded.load(Ordering::Relaxed),
            conflicts: counters.conflicts.load(Ordering::Relaxed),
            expired: counters.expired.load(Ordering::Relaxed),
            pruned: counters.pruned.load(Ordering::Relaxed),
            last_versions: self.context.last_versions_kept.load(Ordering::Relaxed),
            base_version: self.base_version().await?,
            touches: counters.touches.load(Ordering::Relaxed),
            changes: changes.count,
            orphans: orphans.count,
            oldest_change: changes.oldest,
            oldest_orphan: orphans.oldest,
            open_uploads: uploads.count,
            oldest_upload: uploads.oldest,
        })
    }

    async fn base_version(&self) -> Result<u64> {
        if self.is_read_only() {
            // A read-only engine makes no decision, so that it keeps no base version in memory.
            let now = self.context.env.steady_now();
            let stored = StoredBase::load(&*self.context.index, now).await?;
            return Ok(stored.read().0.get());
        }
        Ok(self.context.base.read().0.get())
    }

    async fn tally_changes(&self) -> Result<Tally> {
        let started = |value: &Bytes| Change::decode(value).map(|change| change.started).into();
        let known = self.context.backlog.tally_changes();
        match known.filter(|_| !self.context.index.is_shared()) {
            Some(tally) => Ok(tally),
            None => {
                self.count(Table::Changes, Range::all(COUNT_PAGE), started)
                    .await
            }
        }
    }

    async fn tally_orphans(&self) -> Result<Tally> {
        let since = |value: &Bytes| Orphan::decode(value).map(|orphan| orphan.since).into();
        let known = self.context.backlog.tally_orphans();
        match known.filter(|_| !self.context.index.is_shared()) {
            Some(tally) => Ok(tally),
            None => {
                self.count(Table::Orphans, Range::all(COUNT_PAGE), since)
                    .await
            }
        }
    }

    /// Counts the entries of the range, and finds the earliest of their times.
    async fn count(
        &self,
        table: Table,
        mut range: Range,
        counted: impl Fn(&Bytes) -> CountedEntry,
    ) -> Result<Tally> {
        let mut count = 0;
        let mut oldest = None;
        loop {
            let page = self
                .context
                .index
                .snapshot()?
                .scan_over(table, range)
                .await?;
            self.context.note_unreadable(page.unreadable);
            for (_, value) in &page.entries {
                match counted(value) {
                    CountedEntry::No => {}
                    CountedEntry::Since(moment) => {
                        count += 1;
                        oldest = oldest.into_iter().chain([moment]).min();
                    }
                    // A damaged entry is work left to do, of unknown age.
                    CountedEntry::Broken => count += 1,
                }
            }
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok(Tally { count, oldest }),
            }
        }
    }
}
