//! What every actor of an engine holds: the two tiers, the world, and the ways to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cenotaph_storage::blobs::BlobTier;
use cenotaph_storage::decide::{Standing, Swap, SwapReply};
use cenotaph_storage::index::{Batch, CommitError, Index, UnreadableRange};
use cenotaph_storage::{Env, Epoch, Error, ErrorKind, ObjectId, Pins, Result, Timestamp};

use crate::admission::permits::{Admission, Permit};
use crate::background::expiry_cursor::ExpiryCursor;
use crate::background::idle_refresh::IdleRefreshes;
use crate::limits::Limits;
use crate::runtime::backlog::{Backlog, BacklogUpdate};
use crate::runtime::health::Health;
use crate::runtime::live_writes::LiveWrites;
use crate::runtime::messages::{ExpirerMessage, ShardMessage, SweeperMessage};
use crate::runtime::registry::{ActorRegistry, ActorSlot};
use crate::runtime::reply::{Reply, reply};
use crate::runtime::restart_policy::backoff;
use crate::shard::Reader;

/// SharedContext by all actors of one engine, cheap to clone.
pub(crate) type SharedContext = Arc<Context>;

/// See the head of this file.
pub(crate) struct Context {
    pub(crate) index: Arc<dyn Index>,
    pub(crate) blobs: BlobTier,
    pub(crate) env: Env,
    pub(crate) pins: Pins,
    pub(crate) limits: Limits,
    pub(crate) epoch: Epoch,
    pub(crate) routes: Arc<ActorRegistry>,
    pub(crate) owners: LiveWrites,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) admission: Admission,
    pub(crate) health: Health,
    pub(crate) counters: Counters,
    /// The sweeper has left an orphan to its reader.
    pub(crate) pinned_left: AtomicBool,
    /// A wake-up is on its way to the sweeper.
    pub(crate) sweep_wanted: Arc<AtomicBool>,
    /// A wake-up is on its way to recovery.
    pub(crate) recovery_wanted: Arc<AtomicBool>,
    /// A wake-up is on its way to the expirer.
    pub(crate) expiry_wanted: Arc<AtomicBool>,
    pub(crate) expiry_cursor: ExpiryCursor,
    /// A refused write is waiting for space to come back.
    pub(crate) making_room: AtomicBool,
    pub(crate) touches: IdleRefreshes,
}

/// What has happened since the engine was opened.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) restarts: AtomicU64,
    pub(crate) fenced: AtomicU64,
    pub(crate) swept: AtomicU64,
    pub(crate) sweep_failures: AtomicU64,
    pub(crate) sweep_paused: AtomicBool,
    pub(crate) superseded: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) touches: AtomicU64,
}

impl Context {
    /// Wakes the sweeper: there may be orphans.
    pub(crate) fn wake_sweeper(&self) {
        wake(
            &self.sweep_wanted,
            &self.routes.sweeper,
            SweeperMessage::Wake,
        );
    }

    /// An object is due then: wakes the expirer if it would look too late.
    pub(crate) fn is_due(&self, deadline: Timestamp) {
        if self.expiry_cursor.is_due(deadline) {
            wake(
                &self.expiry_wanted,
                &self.routes.expirer,
                ExpirerMessage::Wake,
            );
        }
    }

    /// Gives up if the index has: only a reopen can tell what became of its last commits.
    pub(crate) fn fail_if_poisoned(&self) {
        if let Some(error) = self.index.poisoned() {
            // With what caused it: the damage behind a failed commit, and the way out.
            self.health.fail(&format!("{error:?}"));
        }
    }

    /// Tells of keys that could not be read: whoever walks goes on behind them, and a scrub names
    /// them.
    pub(crate) fn note_unreadable(&self, unreadable: Option<UnreadableRange>) {
        if let Some(range) = unreadable {
            tracing::error!(%range, "a file of the index is damaged; salvage the store into a new one");
            metrics::counter!("cenotaph_unreadable_ranges_total").increment(1);
        }
    }

    /// Returns the durable state of an object.
    pub(crate) async fn standing(&self, id: &ObjectId) -> Result<Standing> {
        Reader::of_index(self).standing(id).await
    }

    /// The same, for whoever asks whether the object exists at `now`: one that has expired may have
    /// been extended in time, and the disk not have it yet.
    pub(crate) async fn standing_at(&self, id: &ObjectId, now: Timestamp) -> Result<Standing> {
        let standing = self.standing(id).await?;
        if standing.row().is_none_or(|row| row.is_live(now)) {
            return Ok(standing);
        }
        self.index.barrier().await?;
        self.standing(id).await
    }

    /// Makes a batch durable.
    pub(crate) async fn commit(&self, batch: Batch, keep_alive: impl Send + 'static) -> Result<()> {
        let (reply, answer) = reply();
        let (backlog, update) = (Arc::clone(&self.backlog), BacklogUpdate::of(&batch));
        self.index.submit(
            batch,
            Box::new(move |outcome| {
                // Before `keep_alive` is dropped: a dead owner is looked up in the backlog.
                match &outcome {
                    Ok(()) => backlog.note(&update),
                    Err(CommitError::Unknown(_)) => backlog.doubt(&update),
                    Err(CommitError::NotStarted(_)) => {}
                }
                reply(outcome.map_err(CommitError::into_error));
                drop(keep_alive);
            }),
        );
        let outcome = answer.await.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Indeterminate,
                "commit",
                "the index dropped a completion",
            ))
        });
        if outcome.is_err() {
            self.fail_if_poisoned();
        }
        outcome
    }

    /// Compare-and-write: has the object's shard decide a swap, and waits for its answer.
    /// Idempotent.
    ///
    /// A request that is lost with a dead shard has not been submitted, so it is delivered again.
    /// `listen` makes the reply of each delivery, so that somebody else can hear the answer too.
    pub(crate) async fn compare_and_write(
        &self,
        swap: Swap,
        permit: &Permit,
        listen: impl Fn(Reply<SwapReply>) -> Reply<SwapReply>,
    ) -> Result<SwapReply> {
        let id = swap.id.clone();
        self.deliver(&id, |reply| ShardMessage::Swap {
            swap: Box::new(swap.clone()),
            permit: permit.clone(),
            reply: listen(reply),
        })
        .await
    }

    /// Delivers a request to the shard of `id`, again if it is lost, and gives the answer.
    pub(crate) async fn deliver<T: Send + 'static>(
        &self,
        id: &ObjectId,
        message: impl Fn(Reply<T>) -> ShardMessage,
    ) -> Result<T> {
        for attempt in 0..=self.limits.deliveries_max {
            let (reply, answer) = reply();
            self.routes.shard(id).send(message(reply));
            if let Some(answer) = answer.await {
                return answer.map_err(|error| error.with_id(id));
            }
            self.health.check_failed("commit")?;
            self.back_off(attempt).await;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "commit",
            "the shard is not there; nothing was committed",
        )
        .with_id(id))
    }

    /// Waits for a dead actor to come back, longer each time.
    pub(crate) async fn back_off(&self, attempt: u32) {
        let delay = backoff(
            self.limits.restarts.backoff_min,
            self.limits.restarts.backoff_max,
            attempt,
        );
        self.env
            .sleep(delay.saturating_add(self.env.jitter(delay)))
            .await;
    }
}

/// Sends a wake-up, unless one is on its way. One that is lost with its actor is made good by its
/// successor, which begins with a pass of its own.
pub(crate) fn wake<M: ractor::Message>(wanted: &AtomicBool, route: &ActorSlot<M>, message: M) {
    if !wanted.swap(true, Ordering::AcqRel) && !route.send(message) {
        wanted.store(false, Ordering::Release);
    }
}
