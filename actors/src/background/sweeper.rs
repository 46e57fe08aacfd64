//! The sweeper: deletes the blobs of orphans.
//!
//! ```text
//! 1 take a due orphan from the backlog              pinned: it waits for the end of the read (I8)
//! 2 read its entry                                  gone: forgotten; another due time: corrected;
//!                                                   pinned by another member: kept for longer
//! 3 delete its blob, some at once, in any order     late or failed: due again after a backoff
//! 4 make the deletions of a group durable           failed: as 3
//! 5 check that the blob tier is this store's (I11)  if not, nothing is settled: "not found" in
//!                                                   another tier proves nothing
//! 6 settle the group: one batch (I5)                a blob that a late write may still create is
//!                                                   deleted twice, a grace time apart; another
//!                                                   member has settled one of them: all begin again
//! ```
//!
//! The blob tier is also checked before the first deletion. A deletion that hangs blocks no other
//! deletion: a group is settled when it is full, or when nothing more has ended for a while. If
//! deletions fail one after the other, the sweeper pauses, longer each time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::{Error, ErrorKind, Result, RevisionId, Timestamp};

use crate::background::worker::{BackgroundWorker, NextPass};
use crate::context::SharedContext;
use crate::context::messages::SweepOutcome;

mod deletion;

use deletion::PassProgress;

/// The sweeper.
pub(crate) struct Sweeper {
    pub(crate) context: SharedContext,
}

/// State of the sweeper between passes.
#[derive(Default)]
pub(crate) struct SweeperMemory {
    /// End of the pause, before which no pass begins by itself.
    paused_until: Option<Timestamp>,
    /// True if the pause began because the blob tier was unavailable.
    is_tier_away: bool,
    /// Failed deletions since the last successful deletion, over all passes.
    failed_in_a_row: usize,
}

impl BackgroundWorker for Sweeper {
    const NAME: &'static str = "sweeper";
    const FAILED: &'static str = "sweeping failed; trying again";
    type Outcome = SweepOutcome;
    type Memory = SweeperMemory;

    fn context(&self) -> &SharedContext {
        &self.context
    }

    fn requested(&self) -> &AtomicBool {
        &self.context.sweep_requested
    }

    fn backoff_limits(&self) -> (Duration, Duration) {
        let limits = &self.context.limits.sweep;
        (limits.backoff_min, limits.backoff_max)
    }

    /// Deletes every orphan that is due.
    async fn pass(&self, memory: &SweeperMemory) -> Result<SweepOutcome> {
        // Without this check every orphan would be attempted against a tier known to be away.
        if self.context.blobs.trouble().is_some() {
            self.check_tier().await?;
        }
        let until = self
            .context
            .env
            .monotonic()
            .saturating_add(self.context.limits.sweep.timeout);
        let mut progress = PassProgress {
            in_a_row: memory.failed_in_a_row,
            until,
            ..PassProgress::default()
        };
        // Orphans that a dead predecessor, or a failed pass, has taken.
        self.context.backlog.put_back_all();
        while !progress.is_refused(self.at_once()) {
            let scan = self.context.backlog.scan_of_orphans();
            if let Some(scan) = scan {
                self.scan().await?;
                self.context.backlog.scanned_orphans(scan);
            }
            let is_scanned = scan.is_some();
            // A scan may have found more orphans than the backlog held at the beginning.
            if is_scanned || progress.taken_max == 0 {
                progress.taken_max = progress.taken + self.context.backlog.known_orphans();
            }
            if !self.delete_due(&mut progress).await? && !is_scanned {
                break;
            }
        }
        self.outcome(&progress)
    }

    fn next_pass(&self, outcome: &SweepOutcome, memory: &mut SweeperMemory) -> NextPass {
        // After a pause, one more failed deletion is enough for the next pause.
        memory.failed_in_a_row = outcome.failed_in_a_row.min(self.at_once() - 1);
        if outcome.is_refused {
            return NextPass::AfterBackoff;
        }
        self.set_paused(false);
        memory.paused_until = None;
        outcome.next_due.map_or(NextPass::OnWakeUp, NextPass::At)
    }

    /// Returns whether a wake-up comes during a pause. A blob tier that is available again ends the
    /// pause.
    async fn ignores_wake_up(&self, memory: &SweeperMemory) -> bool {
        let now = self.context.env.steady_now();
        memory.paused_until.is_some_and(|until| now < until)
            && (!memory.is_tier_away || self.check_tier().await.is_err())
    }

    fn paused_until(&self, memory: &SweeperMemory) -> Option<Timestamp> {
        let is_ahead = |until: &Timestamp| self.context.env.steady_now() < *until;
        memory.paused_until.filter(is_ahead)
    }

    fn back_off(&self, until: Timestamp, memory: &mut SweeperMemory) {
        self.set_paused(true);
        memory.is_tier_away = self.context.blobs.trouble().is_some();
        memory.paused_until = Some(until);
    }
}

impl Sweeper {
    fn set_paused(&self, is_paused: bool) {
        self.context
            .counters
            .sweep_paused
            .store(is_paused, Ordering::Relaxed);
        metrics::gauge!("cenotaph_sweep_paused").set(f64::from(u8::from(is_paused)));
    }

    fn at_once(&self) -> usize {
        self.context.limits.sweep.deletes_at_once.max(1)
    }

    fn outcome(&self, progress: &PassProgress) -> Result<SweepOutcome> {
        if let Some(error) = &progress.error {
            tracing::warn!(%error, failed = progress.failed, "deleting blobs failed; trying again");
        }
        let is_refused = progress.is_refused(self.at_once());
        let waiting = match self.context.backlog.tally_orphans() {
            Some(tally) => tally.count,
            // More orphans exist than are in memory.
            None => self.context.backlog.known_orphans().saturating_add(1),
        };
        let next_due = self.context.backlog.next_due();
        Ok(SweepOutcome {
            waiting,
            next_due,
            is_refused,
            failed_in_a_row: progress.in_a_row,
        })
    }

    /// Fills the backlog with the orphans of the index, as many as fit.
    async fn scan(&self) -> Result<()> {
        let mut range = Range::all(self.context.limits.sweep.page.max(1));
        loop {
            let page = self
                .context
                .index
                .snapshot()?
                .scan_over(Table::Orphans, range)
                .await?;
            self.context.note_unreadable(page.unreadable);
            for (key, value) in &page.entries {
                if let Some(revision) = RevisionId::from_slice(key) {
                    self.context.backlog.found_orphan(revision, value);
                }
            }
            // More would not fit: a later scan finds the rest.
            match page.rest.filter(|_| !self.context.backlog.has_overflowed()) {
                Some(rest) => range = rest,
                None => return Ok(()),
            }
        }
    }

    /// Returns the maximum time that an orphan waits for its next attempt: the grace time, or the
    /// maximum backoff with its jitter.
    fn longest_wait(&self) -> Duration {
        let limits = &self.context.limits.sweep;
        limits
            .grace
            .max(limits.backoff_max.saturating_add(limits.backoff_max / 4))
    }

    /// Checks that the blob tier is available and belongs to this store.
    async fn check_tier(&self) -> Result<()> {
        let checked = self
            .context
            .env
            .deadline(
                self.context.limits.sweep.timeout,
                self.context.blobs.check_owner(),
            )
            .await;
        checked.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "sweep",
                "the blob tier did not answer in time",
            ))
        })
    }
}
