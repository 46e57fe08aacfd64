//! The handle on an engine's actors: how they start and stop, how they settle, what they tell.
//!
//! Nobody outside of this crate sees an actor. Deliberately not here: what may be written through
//! it (`writes.rs`, `atomic.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::blobs::BlobTier;
use cenotaph_storage::index::{Index, Range, Table, read_only};
use cenotaph_storage::rows::{Change, Orphan, Phase, Session, all_sessions_prefix};
use cenotaph_storage::{Env, Epoch, Error, ErrorKind, ObjectId, Pins, Reason, Result, Timestamp};
use ractor::{Actor, ActorRef};
use tokio::sync::{OnceCell, oneshot};

use crate::admission::permits::{Admission, BudgetUse};
use crate::background::expiry_cursor::ExpiryCursor;
use crate::background::idle_refresh::IdleRefreshes;
use crate::handle::supervisor::{Supervisor, SupervisorMessage};
use crate::limits::Limits;
use crate::runtime::backlog::{Backlog, Tally};
use crate::runtime::context::{Context, Counters, SharedContext, wake};
use crate::runtime::health::Health;
use crate::runtime::live_writes::LiveWrites;
use crate::runtime::messages::{ExpirerMessage, Left, RecoveryMessage, SweeperMessage};
use crate::runtime::registry::{ActorKind, ActorRegistry};
use crate::runtime::reply::reply;

pub(crate) mod atomic;
pub(crate) mod multipart;
pub(crate) mod scrub;
pub(crate) mod space;
pub(crate) mod supervisor;
pub(crate) mod writes;

/// How long the actors may take to stop, once there is nothing more for them to do.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Entries read at once to be counted.
const COUNT_PAGE: usize = 1024;

/// The write side of an engine: its actors, alive from [`start`](Self::start) to
/// [`close`](Self::close) or drop.
pub struct Tiered {
    context: SharedContext,
    /// None of an engine that is read-only.
    supervisor: Option<ActorRef<SupervisorMessage>>,
    closed: OnceCell<()>,
    /// Dropped with this handle, which ends its housekeeping.
    _housekeeping: Option<oneshot::Sender<()>>,
}

/// What the actors tell about themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActorStats {
    /// Small puts and deletes under way, also those whose caller is gone.
    pub writes_live: usize,
    /// Uploads under way, also those whose caller is gone.
    pub uploads_live: usize,
    /// Most small puts and deletes at once.
    pub writes_max: usize,
    /// Most uploads at once.
    pub uploads_max: usize,
    /// Payload bytes that small puts, and the beginnings of others, hold, and the most they may.
    pub write_bytes: BudgetUse,
    /// Payload bytes that uploads hold, and the most they may.
    pub upload_bytes: BudgetUse,
    /// Operations that wait for a share of a budget.
    pub budget_waits: usize,
    /// Actors brought back since the engine was opened.
    pub restarts: u64,
    /// Changes of dead owners settled since.
    pub fenced: u64,
    /// Orphans settled since.
    pub swept: u64,
    /// Failed attempts to delete an orphan since.
    pub sweep_failures: u64,
    /// True while sweeping pauses because the blob tier refuses deletions, or is not there.
    pub sweep_paused: bool,
    /// Writes that were superseded since.
    pub superseded: u64,
    /// Preconditions that did not hold since.
    pub conflicts: u64,
    /// Expired objects removed since.
    pub expired: u64,
    /// Reads since that asked to extend a deadline.
    pub touches: u64,
    /// Changes recorded and not yet settled, now.
    pub changes: u64,
    /// Orphans not yet settled, now.
    pub orphans: u64,
    /// When the oldest of these changes was recorded.
    pub oldest_change: Option<Timestamp>,
    /// Since when the oldest of these orphans is one.
    pub oldest_orphan: Option<Timestamp>,
    /// Open multipart uploads, now: each holds what its parts take in the blob tier.
    pub sessions: u64,
    /// When the oldest of these uploads was begun.
    pub oldest_session: Option<Timestamp>,
}

/// What an entry is to a count.
enum Counted {
    /// It is passed over.
    No,
    /// It counts from then on.
    Since(Timestamp),
    /// It counts, and can't be read.
    Broken,
}

impl<E> From<Result<Timestamp, E>> for Counted {
    fn from(since: Result<Timestamp, E>) -> Self {
        since.map_or(Self::Broken, Self::Since)
    }
}

impl Tiered {
    /// Starts the actors, and settles the changes of all earlier epochs. Deleting what that orphans
    /// goes on behind.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the actors can't start; otherwise whatever the first recovery
    /// pass meets.
    pub async fn start(
        index: Arc<dyn Index>,
        blobs: BlobTier,
        env: Env,
        pins: Pins,
        epoch: Epoch,
        limits: Limits,
    ) -> Result<Self> {
        let context = Arc::new(common(
            index,
            blobs,
            env,
            pins,
            epoch,
            limits,
            Health::default(),
        ));
        let supervisor = Supervisor {
            context: Arc::clone(&context),
        };
        let (supervisor, ended) = Actor::spawn(None, supervisor, ()).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "open", "the actors can't start")
                .with_source(error.to_string())
        })?;
        let watched = Watched(Arc::clone(&context));
        context.env.spawn(async move {
            let watched = watched;
            drop(ended.await);
            watched.0.health.fail("its supervisor has died");
        });
        let (housekeeping, supervisor) = (Some(keep_house(&context)), Some(supervisor));
        let tiered = Self {
            _housekeeping: housekeeping,
            context,
            supervisor,
            closed: OnceCell::new(),
        };
        tiered.recover().await?;
        Ok(tiered)
    }

    /// A handle without actors, over an index for reads only: every write is refused, and nothing
    /// is settled, swept or expired.
    pub fn read_only(
        index: Arc<dyn Index>,
        blobs: BlobTier,
        env: Env,
        pins: Pins,
        epoch: Epoch,
        limits: Limits,
    ) -> Self {
        let context = Arc::new(common(
            index,
            blobs,
            env,
            pins,
            epoch,
            limits,
            Health::read_only(),
        ));
        Self {
            context,
            supervisor: None,
            closed: OnceCell::new(),
            _housekeeping: None,
        }
    }

    /// Returns whether it was opened for reads only.
    pub fn is_read_only(&self) -> bool {
        self.supervisor.is_none()
    }

    /// Checks that the engine may write, where a call could end without anything to write.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with [`Reason::ReadOnly`] if it was opened for reads only.
    pub fn check_writable(&self, operation: &'static str) -> Result<()> {
        if self.context.health.is_read_only() {
            Err(read_only(operation))
        } else {
            Ok(())
        }
    }

    pub(crate) fn context(&self) -> &SharedContext {
        &self.context
    }

    /// Whether it has been closed, or is about to be.
    pub fn is_closed(&self) -> bool {
        self.context.health.is_closed()
    }

    /// Whether new work may begin.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`], or [`ErrorKind::Unavailable`] if the engine has failed and must be
    /// reopened, or its blob tier was not there, or not this store's, when it was last checked
    /// (reason [`Reason::BlobTier`]).
    pub fn health(&self) -> Result<()> {
        self.context.health.check_reads("health")?;
        match self.context.blobs.trouble() {
            None => Ok(()),
            Some(trouble) => {
                let message = "the blob tier is not there, or not this store's";
                let error = Error::new(ErrorKind::Unavailable, "health", message);
                Err(error.with_reason(Reason::BlobTier).with_source(trouble))
            }
        }
    }

    /// Checks that the blob tier is there and belongs to this store.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if not, or if it can't be read now.
    pub async fn check_blobs(&self) -> Result<()> {
        let was_in_trouble = self.context.blobs.trouble().is_some();
        let checked = self.context.blobs.check_owner().await;
        if was_in_trouble || self.context.blobs.trouble().is_some() {
            // It looks again, until the blob tier is there, and goes on once it is.
            self.context.wake_sweeper();
        }
        checked
    }

    /// Settles the changes of dead owners, now.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if recovery does not answer; otherwise what it meets.
    pub async fn recover(&self) -> Result<()> {
        self.ask(|reply| {
            self.context
                .routes
                .recovery
                .send(RecoveryMessage::Pass(reply))
        })
        .await
        .map(drop)
    }

    /// Removes the objects that have expired; how many those were.
    ///
    /// # Errors
    /// As [`recover`](Self::recover).
    pub async fn expire(&self) -> Result<u64> {
        self.ask(|reply| {
            self.context
                .routes
                .expirer
                .send(ExpirerMessage::Pass(reply))
        })
        .await
    }

    /// Settles the changes of dead owners, removes what has expired, then deletes the orphans that
    /// are due; how many are left that may not be deleted yet.
    ///
    /// # Errors
    /// As [`recover`](Self::recover).
    pub async fn settle(&self) -> Result<u64> {
        self.recover().await?;
        self.expire().await?;
        self.sweep().await
    }

    /// Deletes the orphans that are due; how many are left.
    pub(crate) async fn sweep(&self) -> Result<u64> {
        let left: Left = self
            .ask(|reply| {
                self.context
                    .routes
                    .sweeper
                    .send(SweeperMessage::Pass(reply))
            })
            .await?;
        Ok(left.waiting)
    }

    /// Asks an actor that may be away for a moment, and asks again if the request was lost.
    async fn ask<T: Send + 'static>(
        &self,
        send: impl Fn(crate::runtime::reply::Reply<T>) -> bool,
    ) -> Result<T> {
        for attempt in 0..=self.context.limits.deliveries_max {
            let (reply, answer) = reply();
            send(reply);
            if let Some(answer) = answer.await {
                return answer;
            }
            self.context.health.check_failed("settle")?;
            self.context.back_off(attempt).await;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "settle",
            "the actor is not there",
        ))
    }

    /// Returns counts of the work that the actors have done, and of the work that is left. Counts
    /// the sessions of uploads by reading them; changes and orphans are counted in memory, but
    /// right after the opening and where there are over 100,000 orphans.
    ///
    /// # Errors
    /// As reading the index.
    pub async fn stats(&self) -> Result<ActorStats> {
        let counters = &self.context.counters;
        let now = self.context.env.steady_now();
        let initiated = |value: &Bytes| match Session::decode(value) {
            Ok(session) if session.phase == Phase::Open && session.is_live(now) => {
                Counted::Since(session.initiated)
            }
            Ok(_) => Counted::No,
            Err(_) => Counted::Broken,
        };
        let changes = self.tally_changes().await?;
        let orphans = self.tally_orphans().await?;
        let of_sessions = Range::prefix(&all_sessions_prefix(), COUNT_PAGE);
        let sessions = self.count(Table::Sessions, of_sessions, initiated).await?;
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
            touches: counters.touches.load(Ordering::Relaxed),
            changes: changes.count,
            orphans: orphans.count,
            oldest_change: changes.oldest,
            oldest_orphan: orphans.oldest,
            sessions: sessions.count,
            oldest_session: sessions.oldest,
        })
    }

    async fn tally_changes(&self) -> Result<Tally> {
        let started = |value: &Bytes| Change::decode(value).map(|change| change.started).into();
        match self.context.backlog.tally_changes() {
            Some(tally) => Ok(tally),
            None => {
                self.count(Table::Changes, Range::all(COUNT_PAGE), started)
                    .await
            }
        }
    }

    async fn tally_orphans(&self) -> Result<Tally> {
        let since = |value: &Bytes| Orphan::decode(value).map(|orphan| orphan.since).into();
        match self.context.backlog.tally_orphans() {
            Some(tally) => Ok(tally),
            None => {
                self.count(Table::Orphans, Range::all(COUNT_PAGE), since)
                    .await
            }
        }
    }

    /// How many entries of the range count, and the earliest of their moments.
    async fn count(
        &self,
        table: Table,
        mut range: Range,
        counted: impl Fn(&Bytes) -> Counted,
    ) -> Result<Tally> {
        let (mut count, mut oldest) = (0, None);
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
                    Counted::No => {}
                    Counted::Since(moment) => {
                        count += 1;
                        oldest = oldest.into_iter().chain([moment]).min();
                    }
                    Counted::Broken => count += 1,
                }
            }
            match page.rest {
                Some(rest) => range = rest,
                None => return Ok(Tally { count, oldest }),
            }
        }
    }

    /// Kills actors of this kind, as a fault would; false if there was none to kill. For tests of
    /// what survives it.
    pub fn kill(&self, kind: ActorKind) -> bool {
        let routes = &self.context.routes;
        let cell = match kind {
            ActorKind::Supervisor => {
                routes.kill_all();
                self.supervisor
                    .as_ref()
                    .map(|supervisor| supervisor.get_cell())
            }
            ActorKind::Shard(number) => routes
                .shards
                .get(number)
                .and_then(|route| route.get())
                .map(|actor| actor.get_cell()),
            ActorKind::Uploads => {
                routes.kill_uploads();
                routes.uploads.get().map(|actor| actor.get_cell())
            }
            ActorKind::Recovery => routes.recovery.get().map(|actor| actor.get_cell()),
            ActorKind::Sweeper => routes.sweeper.get().map(|actor| actor.get_cell()),
            ActorKind::Expirer => routes.expirer.get().map(|actor| actor.get_cell()),
            ActorKind::EveryUpload => return routes.kill_uploads(),
        };
        cell.map(|cell| cell.kill()).is_some()
    }

    /// The number of the shard that decides for this object.
    pub fn shard_of(&self, id: &ObjectId) -> usize {
        self.context.routes.shard_number(id)
    }

    /// Stops taking on work, lets what has begun end, deletes what may be deleted, all within
    /// [`Limits::close_timeout`], and stops the actors, within a second more. What is unfinished
    /// then is left to the next open. Whoever calls it again waits for the first to be done.
    pub async fn close(&self) {
        let had_failed = self.context.health.close();
        self.closed.get_or_init(|| self.stop(had_failed)).await;
    }

    async fn stop(&self, had_failed: bool) {
        let Some(supervisor) = &self.supervisor else {
            return self.context.health.closed();
        };
        let finish = async {
            if had_failed {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "close",
                    "the engine had failed",
                ));
            }
            self.context.admission.work_ended().await;
            self.settle().await
        };
        match self
            .context
            .env
            .deadline(self.context.limits.close_timeout, finish)
            .await
        {
            Some(Ok(0)) => {}
            Some(Ok(waiting)) => {
                tracing::info!(waiting, "closed with orphans that may not be deleted yet");
            }
            Some(Err(error)) => tracing::warn!(%error, "closed without settling everything"),
            None => tracing::warn!("closed with work under way; the next open settles it"),
        }
        // Its children die with it. Whatever they have submitted is answered by the index.
        self.context.routes.kill_all();
        let stopping = supervisor.stop_and_wait(None, None);
        if !matches!(
            self.context.env.deadline(STOP_TIMEOUT, stopping).await,
            Some(Ok(()))
        ) {
            supervisor.kill();
        }
        self.context.health.closed();
    }
}

/// The state that all actors of an engine share.
fn common(
    index: Arc<dyn Index>,
    blobs: BlobTier,
    env: Env,
    pins: Pins,
    epoch: Epoch,
    limits: Limits,
    health: Health,
) -> Context {
    let routes = Arc::new(ActorRegistry::new(limits.shards));
    let recovery_wanted = Arc::new(AtomicBool::new(false));
    let backlog = Arc::new(Backlog::default());
    let owners = {
        let (routes, wanted) = (Arc::clone(&routes), Arc::clone(&recovery_wanted));
        let backlog = Arc::clone(&backlog);
        LiveWrites::new(move |change| {
            if backlog.may_hold(change) {
                wake(&wanted, &routes.recovery, RecoveryMessage::Wake);
            }
        })
    };
    Context {
        admission: Admission::new(&limits, blobs.upload_buffer_bytes(None), env.clone()),
        index,
        blobs,
        env,
        pins,
        limits,
        epoch,
        routes,
        owners,
        backlog,
        health,
        counters: Counters::default(),
        pinned_left: AtomicBool::new(false),
        sweep_wanted: Arc::default(),
        recovery_wanted,
        expiry_wanted: Arc::default(),
        expiry_cursor: ExpiryCursor::default(),
        making_room: AtomicBool::new(false),
        touches: IdleRefreshes::default(),
    }
}

/// Held by the task that watches the supervisor: only a runtime that shuts down drops it before the
/// supervisor ends.
struct Watched(SharedContext);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0
            .health
            .fail("the tokio runtime that opened it is gone");
    }
}

impl Drop for Tiered {
    fn drop(&mut self) {
        self.context.health.close();
        self.context.routes.kill_all();
        if let Some(supervisor) = &self.supervisor {
            supervisor.kill();
        }
    }
}

/// Wakes the sweeper when a reader is done, and looks after overdue commits, until the handle is
/// dropped.
fn keep_house(context: &SharedContext) -> oneshot::Sender<()> {
    let (handle, mut dropped) = oneshot::channel();
    let common = Arc::clone(context);
    context.env.spawn(async move {
        let mut beat = common.env.sleep(common.limits.heartbeat);
        loop {
            tokio::select! {
                biased;
                _ = &mut dropped => return,
                () = &mut beat => {
                    common.index.watch(common.env.monotonic());
                    common.fail_if_poisoned();
                    common.admission.gauge();
                    common.backlog.gauge();
                    beat = common.env.sleep(common.limits.heartbeat);
                }
                () = common.pins.released() => {
                    if common.pinned_left.swap(false, Ordering::SeqCst) {
                        common.wake_sweeper();
                    }
                }
            }
        }
    });
    handle
}
