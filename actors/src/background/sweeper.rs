//! The sweeper: deletes orphans.
//!
//! ```text
//! 1 take an orphan that is due from the backlog       pinned: it waits for its reader (I8)
//! 2 read its entry                                    gone: forgotten; another moment than it should have: stored so
//! 3 delete its blob, some at once, in any order       late or failed: due again after a pause of its own
//! 4 make the deletions of a group durable             failed: as 3
//! 5 check that the blob tier is this store's (I11)    not: nothing is settled, for "not found" proves nothing there
//! 6 settle the group: one batch (I5)                  a blob that may still land is deleted twice, a grace time apart
//! ```
//!
//! The blob tier is checked before anything is deleted in it, too. One deletion that hangs holds up
//! no other: a group is settled when it is full, or when nothing more has ended for a while. Where
//! deletions fail one after the other, the whole tier gets a pause, longer each time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Range, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::{Orphan, OrphanDue};
use cenotaph_storage::{Error, ErrorKind, Result, RevisionId, RevisionKey, Seam, Timestamp};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::runtime::context::SharedContext;
use crate::runtime::messages::{Left, SweeperMessage};
use crate::runtime::restart_policy::backoff;
use crate::runtime::timer::Timer;

/// An orphan that is being swept.
type Sweeping = (RevisionKey, Orphan);

/// The sweeper actor.
pub(crate) struct Sweeper {
    pub(crate) context: SharedContext,
}

/// Longest time that a group of deletions waits for more of them to end.
const SETTLE_AFTER: Duration = Duration::from_millis(100);

/// State of the sweeper between passes.
#[derive(Default)]
pub(crate) struct WorkerState {
    alarm: Timer,
    /// Passes in a row that failed.
    failures: u32,
    /// No pass begins by itself before this moment.
    paused_until: Option<Timestamp>,
    /// True if the pause began because the blob tier was away.
    is_tier_away: bool,
    /// Deletions that failed since the last one that did not, in this pass or an earlier one.
    failed_in_a_row: usize,
}

/// The end of one attempt to delete an orphan.
enum Attempt {
    /// Its blob is deleted.
    Deleted(Sweeping),
    /// Its blob may be there.
    Failed(Sweeping, Error),
    /// Its entry gets another moment.
    Restated(Sweeping),
    /// There is nothing to be done about it now.
    Passed,
}

/// Deletions that have ended and are not settled.
#[derive(Default)]
struct Group {
    deleted: Vec<Sweeping>,
    failed: Vec<Sweeping>,
    restated: Vec<Sweeping>,
    /// The last failure.
    error: Option<Error>,
}

impl Group {
    fn len(&self) -> usize {
        self.deleted.len() + self.failed.len() + self.restated.len()
    }
}

/// The course of one pass.
#[derive(Default)]
struct Course {
    failed: u64,
    /// Failures since the last success.
    in_a_row: usize,
    error: Option<Error>,
    taken: u64,
    /// Most orphans that this pass takes: it ends, however many are added meanwhile.
    taken_max: u64,
    /// Orphans that were pinned when they were taken.
    pinned: Vec<RevisionId>,
    /// Monotonic time until which the pass goes on beside deletions that hang.
    until: Duration,
}

impl Actor for Sweeper {
    type Msg = SweeperMessage;
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
        self.context.env.actor_started("sweeper", None);
        // A wake-up that was lost with its predecessor is made good by the one that the supervisor
        // sends.
        self.context.sweep_wanted.store(false, Ordering::Release);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SweeperMessage,
        rhythm: &mut WorkerState,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match message {
            SweeperMessage::Wake if self.is_paused(rhythm).await => {
                self.context.sweep_wanted.store(false, Ordering::Release);
                return Ok(());
            }
            SweeperMessage::Wake => None,
            SweeperMessage::Due(setting) if !rhythm.alarm.is_current(setting) => return Ok(()),
            // It was set before the pause began.
            SweeperMessage::Due(_)
                if rhythm
                    .paused_until
                    .is_some_and(|until| self.context.env.steady_now() < until) =>
            {
                self.set_alarm(rhythm, rhythm.paused_until, myself);
                return Ok(());
            }
            SweeperMessage::Due(_) => None,
            SweeperMessage::Pass(reply) => Some(reply),
        };
        self.context.sweep_wanted.store(false, Ordering::Release);
        let left = self.pass(rhythm.failed_in_a_row).await;
        let due = self.next_pass(&left, rhythm);
        self.set_alarm(rhythm, due, myself);
        if let Some(reply) = reply {
            reply(left);
        }
        Ok(())
    }
}

impl Sweeper {
    fn set_alarm(
        &self,
        rhythm: &mut WorkerState,
        due: Option<Timestamp>,
        myself: ActorRef<SweeperMessage>,
    ) {
        if let Some(due) = due {
            let ring = move |setting| drop(myself.send_message(SweeperMessage::Due(setting)));
            rhythm.alarm.set(&self.context.env, due, ring);
        }
    }

    /// Returns whether a wake-up changes nothing. A blob tier that was away ends the pause as soon
    /// as it is back.
    async fn is_paused(&self, rhythm: &WorkerState) -> bool {
        let now = self.context.env.steady_now();
        rhythm.paused_until.is_some_and(|until| now < until)
            && (!rhythm.is_tier_away || self.check_tier().await.is_err())
    }

    /// When the next pass is due by itself: with the next orphan, or a while after a failure.
    fn next_pass(&self, left: &Result<Left>, rhythm: &mut WorkerState) -> Option<Timestamp> {
        let limits = &self.context.limits.sweep;
        let has_failed = match left {
            Ok(left) => {
                // After a pause one failure more is enough for the next one.
                rhythm.failed_in_a_row = left.failed_in_a_row.min(self.at_once() - 1);
                left.is_refused
            }
            Err(error) => {
                if !self.context.health.is_running() {
                    return None;
                }
                tracing::warn!(%error, "sweeping failed; trying again");
                true
            }
        };
        self.context
            .counters
            .sweep_paused
            .store(has_failed, Ordering::Relaxed);
        metrics::gauge!("cenotaph_sweep_paused").set(f64::from(u8::from(has_failed)));
        if !has_failed {
            (rhythm.failures, rhythm.paused_until) = (0, None);
            return left.as_ref().ok().and_then(|left| left.next_due);
        }
        let delay = backoff(limits.backoff_min, limits.backoff_max, rhythm.failures);
        rhythm.failures = rhythm.failures.saturating_add(1);
        rhythm.is_tier_away = self.context.blobs.trouble().is_some();
        rhythm.paused_until = Some(self.context.env.steady_now().after(delay));
        rhythm.paused_until
    }

    /// Deletes every orphan that is due.
    async fn pass(&self, failed_in_a_row: usize) -> Result<Left> {
        if self.context.blobs.trouble().is_some() {
            self.check_tier().await?;
        }
        let until = self
            .context
            .env
            .monotonic()
            .saturating_add(self.context.limits.sweep.timeout);
        let mut course = Course {
            in_a_row: failed_in_a_row,
            until,
            ..Course::default()
        };
        self.context.backlog.put_back_all();
        while !course.is_refused(self.at_once()) {
            let scan = self.context.backlog.scan_of_orphans();
            if let Some(scan) = scan {
                self.scan().await?;
                self.context.backlog.scanned_orphans(scan);
            }
            let is_scanned = scan.is_some();
            if is_scanned || course.taken_max == 0 {
                course.taken_max = course.taken + self.context.backlog.known_orphans();
            }
            if !self.delete_due(&mut course).await? && !is_scanned {
                break;
            }
        }
        self.left(&course).await
    }

    fn at_once(&self) -> usize {
        self.context.limits.sweep.deletes_at_once.max(1)
    }

    async fn left(&self, course: &Course) -> Result<Left> {
        if let Some(error) = &course.error {
            tracing::warn!(%error, failed = course.failed, "blobs could not be deleted; trying again");
        }
        let is_refused = course.is_refused(self.at_once());
        let waiting = match self.context.backlog.tally_orphans() {
            Some(tally) => tally.count,
            // More of them than are in memory.
            None => self.context.backlog.known_orphans().saturating_add(1),
        };
        let next_due = self.context.backlog.next_due();
        Ok(Left {
            waiting,
            next_due,
            is_refused,
            failed_in_a_row: course.in_a_row,
        })
    }

    /// Fills the backlog with the orphans of the index, as many as fit in.
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
            match page.rest.filter(|_| !self.context.backlog.has_overflowed()) {
                Some(rest) => range = rest,
                None => return Ok(()),
            }
        }
    }

    /// Deletes what is due of the backlog, some at once, and settles it in groups; whether anything
    /// was due.
    async fn delete_due(&self, course: &mut Course) -> Result<bool> {
        let (mut under_way, mut group) = (FuturesUnordered::new(), Group::default());
        let (mut is_checked, mut was_due) = (false, false);
        loop {
            while under_way.len() < self.at_once() && course.goes_on(self.at_once()) {
                let now = self.context.env.steady_now();
                let Some(revision) = self.context.backlog.take_due(now, self.longest_wait()) else {
                    break;
                };
                course.taken += 1;
                if self.is_pinned(revision) {
                    course.pinned.push(revision);
                    continue;
                }
                was_due = true;
                if !std::mem::replace(&mut is_checked, true) {
                    self.check_tier().await?;
                }
                under_way.push(self.attempt(revision));
            }
            if under_way.is_empty() {
                self.settle(std::mem::take(&mut group), course).await?;
                return Ok(was_due);
            }
            let is_full = match self
                .context
                .env
                .deadline(SETTLE_AFTER, under_way.next())
                .await
            {
                Some(ended) => {
                    if let Some(attempt) = ended.transpose()? {
                        course.note(attempt, &mut group);
                    }
                    group.len() >= self.context.limits.sweep.page.max(1)
                }
                None => {
                    self.go_on_beside(course);
                    true
                }
            };
            if is_full {
                self.settle(std::mem::take(&mut group), course).await?;
            }
        }
    }

    /// A deletion that hangs keeps the pass from its end: the pass goes on with orphans that were
    /// added, or released by their readers, since it began. It does so for as long as a deletion
    /// may take, so that it ends.
    fn go_on_beside(&self, course: &mut Course) {
        if self.context.env.monotonic() < course.until {
            self.context
                .backlog
                .put_back(std::mem::take(&mut course.pinned));
            course.taken_max = course.taken + self.context.backlog.known_orphans();
        }
    }

    /// Steps 2 and 3.
    async fn attempt(&self, revision: RevisionId) -> Result<Attempt> {
        let value = match self
            .context
            .index
            .get(Table::Orphans, revision.as_bytes())
            .await
        {
            Ok(Some(value)) => value,
            Ok(None) => {
                self.context.backlog.forget_orphan(revision);
                return Ok(Attempt::Passed);
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
        match orphan.due(self.context.env.steady_now(), self.longest_wait()) {
            OrphanDue::Now => Ok(self.delete(key, orphan).await),
            OrphanDue::At(_) => {
                // The backlog had an older moment.
                self.context.backlog.found_orphan(revision, &value);
                Ok(Attempt::Passed)
            }
            OrphanDue::Restated(orphan) => Ok(Attempt::Restated((key, orphan))),
        }
    }

    async fn delete(&self, key: RevisionKey, orphan: Orphan) -> Attempt {
        self.context.env.pass(Seam::SweeperBeforeDelete).await;
        let timeout = self.context.limits.sweep.timeout;
        let late = || {
            Err(Error::new(
                ErrorKind::Unavailable,
                "delete",
                "the blob tier does not answer",
            ))
        };
        let deleted = self
            .context
            .env
            .deadline(timeout, self.context.blobs.delete(&key))
            .await;
        match deleted.unwrap_or_else(late) {
            Ok(()) => Attempt::Deleted((key, orphan)),
            Err(error) => {
                tracing::debug!(%error, revision = %key, attempts = orphan.attempts.saturating_add(1), "an orphan could not be deleted");
                Attempt::Failed((key, orphan), error)
            }
        }
    }

    /// The longest time that an orphan waits for its next attempt: the grace time, or the longest
    /// pause between two attempts with its jitter.
    fn longest_wait(&self) -> Duration {
        let limits = &self.context.limits.sweep;
        limits
            .grace
            .max(limits.backoff_max.saturating_add(limits.backoff_max / 4))
    }

    /// Returns whether the blob tier is there and this store's.
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
                "the blob tier does not answer",
            ))
        })
    }

    /// Whether somebody reads it. If so, the end of a read wakes this actor: that is said before
    /// the pin is looked at for the last time, so that no end is missed.
    fn is_pinned(&self, revision: RevisionId) -> bool {
        if !self.context.pins.is_pinned(revision)
            || self.context.env.planted(Bug::SweeperIgnoresPins)
        {
            return false;
        }
        self.context.pinned_left.store(true, Ordering::SeqCst);
        self.context.pins.is_pinned(revision)
    }

    /// Makes deletions durable, together if that works, one by one if not; what can't be made
    /// durable counts as failed.
    async fn make_durable(&self, deleted: Vec<Sweeping>, group: &mut Group) -> Vec<Sweeping> {
        let keys: Vec<RevisionKey> = deleted.iter().map(|(key, _)| key.clone()).collect();
        if self.context.blobs.settle_deletes(&keys).await.is_ok() {
            return deleted;
        }
        let mut durable = Vec::with_capacity(deleted.len());
        for (key, orphan) in deleted {
            match self
                .context
                .blobs
                .settle_deletes(std::slice::from_ref(&key))
                .await
            {
                Ok(()) => durable.push((key, orphan)),
                Err(error) => {
                    tracing::debug!(%error, revision = %key, "a deletion could not be made durable");
                    group.failed.push((key, orphan));
                    group.error = Some(error);
                }
            }
        }
        durable
    }

    /// Steps 4 to 6.
    async fn settle(&self, mut group: Group, course: &mut Course) -> Result<()> {
        if group.len() == 0 {
            return Ok(());
        }
        let ended = std::mem::take(&mut group.deleted);
        let attempts = ended.len();
        let deleted = self.make_durable(ended, &mut group).await;
        if deleted.is_empty() {
            course.in_a_row += attempts;
        } else {
            self.check_tier().await?;
        }
        if !group.restated.is_empty() {
            tracing::warn!(
                orphans = group.restated.len(),
                "the clock was set back: orphans get a new moment"
            );
        }
        self.context.env.pass(Seam::SweeperAfterDelete).await;
        course.failed += group.failed.len() as u64;
        course.error = group.error.take().or_else(|| course.error.take());
        self.commit(deleted, group).await
    }

    async fn commit(&self, deleted: Vec<Sweeping>, group: Group) -> Result<()> {
        let (limits, now) = (&self.context.limits.sweep, self.context.env.steady_now());
        let (mut batch, mut settled, failures) = (Batch::new(), 0, group.failed.len() as u64);
        let row = |key: &RevisionKey| Bytes::copy_from_slice(key.revision.as_bytes());
        for (key, orphan) in deleted {
            match orphan.deleted(now, limits.grace) {
                Some(again) => batch.put(Table::Orphans, row(&key), again.encode()),
                None => {
                    settled += 1;
                    batch.remove(Table::Orphans, row(&key));
                }
            }
        }
        for (key, orphan) in group.failed {
            let delay = backoff(limits.backoff_min, limits.backoff_max, orphan.attempts);
            let later = orphan.failed(
                now,
                delay.saturating_add(self.context.env.jitter(delay / 4)),
            );
            batch.put(Table::Orphans, row(&key), later.encode());
        }
        for (key, orphan) in group.restated {
            batch.put(Table::Orphans, row(&key), orphan.encode());
        }
        self.context.commit(batch, ()).await?;
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

impl Course {
    fn is_refused(&self, at_once: usize) -> bool {
        self.in_a_row >= at_once
    }

    fn goes_on(&self, at_once: usize) -> bool {
        !self.is_refused(at_once) && self.taken < self.taken_max
    }

    /// Files the end of an attempt.
    fn note(&mut self, attempt: Attempt, group: &mut Group) {
        match attempt {
            Attempt::Deleted(sweeping) => {
                self.in_a_row = 0;
                group.deleted.push(sweeping);
            }
            Attempt::Failed(sweeping, error) => {
                self.in_a_row += 1;
                group.failed.push(sweeping);
                group.error = Some(error);
            }
            Attempt::Restated(sweeping) => group.restated.push(sweeping),
            Attempt::Passed => {}
        }
    }
}

/// A damaged entry is left for a scrub: it holds up no other.
fn unreadable(revision: RevisionId, error: &Error) -> Attempt {
    tracing::error!(%revision, %error, "an orphan can't be read");
    Attempt::Passed
}
