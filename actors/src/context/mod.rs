//! [`Context`]: the state that all actors of an engine share, and the requests they send each
//! other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cenotaph_storage::blobs::BlobTiers;
use cenotaph_storage::decide::{FallbackAnswer, Swap, SwapReply};
use cenotaph_storage::index::{Batch, CommitError, Index, UnreadableRange};
use cenotaph_storage::{Env, Epoch, Error, ErrorKind, ObjectId, Pins, Result, Timestamp};
use tokio::sync::oneshot;

use crate::admission::permits::{Admission, Permit};
use crate::context::backlog::{Backlog, BacklogUpdate};
use crate::context::claims::Claims;
use crate::context::conflict_queue::ConflictQueue;
use crate::context::expiry_cursor::ExpiryCursor;
use crate::context::fallback::FallbackOptions;
use crate::context::idle_refresh::IdleRefreshes;
use crate::context::leftovers::Leftovers;
use crate::context::messages::{
    ExpirerMessage, PrunerMessage, RecoveryMessage, ShardMessage, SweeperMessage,
};
use crate::context::registry::{ActorRegistry, ActorSlot};
use crate::context::stored_base::StoredBase;
use crate::limits::Limits;
use crate::runtime::health::Health;
use crate::runtime::live_writes::LiveWrites;
use crate::runtime::reply::{ReplyCallback, reply};
use crate::runtime::restart_policy::backoff;

pub(crate) mod backlog;
pub(crate) mod claims;
pub(crate) mod conflict_queue;
pub(crate) mod expiry_cursor;
pub(crate) mod fallback;
pub(crate) mod idle_refresh;
pub(crate) mod leftovers;
pub(crate) mod members;
pub(crate) mod messages;
pub(crate) mod post_commit;
pub(crate) mod registry;
pub(crate) mod stored_base;

/// Bytes that the longest key of an object has besides the encoded id: the deadline of an upload to it.
const KEY_OVERHEAD: usize = 64;

/// Context shared by all actors of an engine. Cheap to clone.
pub(crate) type SharedContext = Arc<Context>;

/// Shared state of an engine: its two tiers, its environment, its limits, and its actors.
pub(crate) struct Context {
    pub(crate) index: Arc<dyn Index>,
    pub(crate) blobs: BlobTiers,
    pub(crate) env: Env,
    pub(crate) pins: Pins,
    pub(crate) limits: Limits,
    pub(crate) epoch: Epoch,
    /// The base version of the store.
    pub(crate) base: StoredBase,
    pub(crate) registry: Arc<ActorRegistry>,
    pub(crate) live_writes: LiveWrites,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) admission: Admission,
    pub(crate) health: Health,
    pub(crate) counters: EventCounters,
    /// True if the sweeper has skipped a pinned orphan. The end of a read then wakes the sweeper.
    pub(crate) pinned_skipped: AtomicBool,
    /// True while a wake-up is on its way to the sweeper.
    pub(crate) sweep_requested: Arc<AtomicBool>,
    /// True while a wake-up is on its way to recovery.
    pub(crate) recovery_requested: Arc<AtomicBool>,
    /// True while a wake-up is on its way to the expirer.
    pub(crate) expiry_requested: Arc<AtomicBool>,
    pub(crate) expiry_cursor: ExpiryCursor,
    /// True while a wake-up is on its way to the pruner.
    pub(crate) prune_requested: Arc<AtomicBool>,
    /// Number of last versions stored since the pruner began its walk.
    pub(crate) last_versions_stored: AtomicU64,
    /// Number of last versions that the last walk of the pruner has left.
    pub(crate) last_versions_kept: AtomicU64,
    /// True while a refused write waits for space to be reclaimed.
    pub(crate) making_room: AtomicBool,
    pub(crate) idle_refreshes: IdleRefreshes,
    pub(crate) leftovers: Leftovers,
    pub(crate) conflict_queue: ConflictQueue,
    /// Background work that this member of a shared index does for all of them.
    pub(crate) claims: Claims,
    /// True while a migration from the fallback is running.
    pub(crate) is_migrating: AtomicBool,
    /// The fallback of the store.
    pub(crate) fallback: Option<FallbackOptions>,
}

/// Event counters since the engine was opened.
#[derive(Default)]
pub(crate) struct EventCounters {
    pub(crate) restarts: AtomicU64,
    pub(crate) fenced: AtomicU64,
    pub(crate) swept: AtomicU64,
    pub(crate) sweep_failures: AtomicU64,
    pub(crate) sweep_paused: AtomicBool,
    pub(crate) superseded: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) touches: AtomicU64,
    pub(crate) pruned: AtomicU64,
}

impl Context {
    /// Wakes the sweeper because orphans may exist.
    pub(crate) fn wake_sweeper(&self) {
        wake(
            &self.sweep_requested,
            &self.registry.sweeper,
            SweeperMessage::Wake,
        );
    }

    /// Wakes recovery because changes of dead owners may exist.
    pub(crate) fn wake_recovery(&self) {
        wake(
            &self.recovery_requested,
            &self.registry.recovery,
            RecoveryMessage::Wake,
        );
    }

    /// Wakes the expirer.
    pub(crate) fn wake_expirer(&self) {
        wake(
            &self.expiry_requested,
            &self.registry.expirer,
            ExpirerMessage::Wake,
        );
    }

    /// Notes a durable deadline, and wakes the expirer if its next pass would be too late for it.
    pub(crate) fn is_due(&self, deadline: Timestamp) {
        if self.expiry_cursor.is_due(deadline) {
            self.wake_expirer();
        }
    }

    /// Notes the last versions that a durable batch has stored, and wakes the pruner if there may be
    /// too many.
    pub(crate) fn note_last_versions(&self, stored: u64) {
        let before = self
            .last_versions_stored
            .fetch_add(stored, Ordering::Relaxed);
        let most = self.limits.last_versions.stored_max();
        // Once for each walk: the pruner starts over with the count.
        if before < most && before.saturating_add(stored) >= most {
            self.wake_pruner();
        }
    }

    /// Wakes the pruner.
    pub(crate) fn wake_pruner(&self) {
        wake(
            &self.prune_requested,
            &self.registry.pruner,
            PrunerMessage::Wake,
        );
    }

    /// Fails the engine if its index is poisoned. Only a reopen can resolve its last commits.
    pub(crate) fn fail_if_poisoned(&self) {
        if let Some(error) = self.index.poisoned() {
            // `{:?}` includes the cause: the damage behind a failed commit, and the way out.
            self.health.fail(&format!("{error:?}"));
        }
    }

    /// Logs and counts keys that could not be read. The caller's walk continues behind them, and a
    /// scrub reports them.
    pub(crate) fn note_unreadable(&self, unreadable: Option<UnreadableRange>) {
        if let Some(range) = unreadable {
            tracing::error!(
                %range,
                "a file of the index is damaged; salvage the store into a new one"
            );
            metrics::counter!("cenotaph_unreadable_ranges_total").increment(1);
        }
    }

    /// Commits a batch and waits until the batch is durable. Drops `keep_alive` after that.
    pub(crate) async fn commit(&self, batch: Batch, keep_alive: impl Send + 'static) -> Result<()> {
        self.commit_then(batch, || {}, keep_alive).await
    }

    /// As [`commit`](Self::commit), and calls `durable` once the batch is durable, even if the
    /// future is dropped before.
    pub(crate) async fn commit_then(
        &self,
        batch: Batch,
        durable: impl FnOnce() + Send + 'static,
        keep_alive: impl Send + 'static,
    ) -> Result<()> {
        let outcome = self.try_commit(batch, durable, keep_alive).await;
        outcome.map_err(CommitError::into_error)
    }

    /// As [`commit_then`](Self::commit_then), and returns the outcome as the index reports it.
    pub(crate) async fn try_commit(
        &self,
        batch: Batch,
        durable: impl FnOnce() + Send + 'static,
        keep_alive: impl Send + 'static,
    ) -> Result<(), CommitError> {
        let (sender, answer) = oneshot::channel();
        let backlog = Arc::clone(&self.backlog);
        let update = BacklogUpdate::of(&batch);
        self.index.submit(
            batch,
            Box::new(move |outcome| {
                // Before `keep_alive` is dropped: the death of an owner consults the backlog.
                match &outcome {
                    Ok(()) => {
                        backlog.note(&update);
                        durable();
                    }
                    Err(CommitError::Unknown(_)) => backlog.doubt(&update),
                    // Nothing was written, so the backlog is still exact.
                    Err(CommitError::NotStarted(_) | CommitError::Changed) => {}
                }
                // The send fails if the caller has dropped the future.
                drop(sender.send(outcome));
                drop(keep_alive);
            }),
        );
        let outcome = answer.await.unwrap_or_else(|_| {
            let message = "the index dropped a completion";
            Err(CommitError::Unknown(Error::new(
                ErrorKind::Indeterminate,
                "commit",
                message,
            )))
        });
        if outcome.is_err() {
            self.fail_if_poisoned();
        }
        outcome
    }

    /// Delivers a swap to the object's shard, and returns the reply. Idempotent.
    ///
    /// A request that is lost with a dead shard has not been submitted, so it is delivered again.
    /// `wrap` wraps the reply of each delivery, so that the reply can serve another receiver too.
    pub(crate) async fn compare_and_write(
        &self,
        swap: Swap,
        answer: FallbackAnswer,
        permit: &Permit,
        wrap: impl Fn(ReplyCallback<SwapReply>) -> ReplyCallback<SwapReply>,
    ) -> Result<SwapReply> {
        let id = swap.id.clone();
        self.deliver(&id, |reply| ShardMessage::Swap {
            swap: Box::new(swap.clone()),
            answer,
            permit: permit.clone(),
            reply: wrap(reply),
        })
        .await
    }

    /// Delivers a request to the shard of `id`, again if the request is lost, and returns the
    /// reply.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] after [`deliveries_max`](Limits::deliveries_max) repeated
    /// deliveries; [`ErrorKind::Invalid`] as [`check_id`](Self::check_id); otherwise the error of the
    /// reply.
    pub(crate) async fn deliver<T: Send + 'static>(
        &self,
        id: &ObjectId,
        message: impl Fn(ReplyCallback<T>) -> ShardMessage,
    ) -> Result<T> {
        self.check_id(id)?;
        for attempt in 0..=self.limits.deliveries_max {
            let (reply, answer) = reply();
            self.registry.shard(id).send(message(reply).into());
            if let Some(answer) = answer.await {
                return answer.map_err(|error| error.with_id(id));
            }
            // A failed engine does not restart its shards: delivering again is useless.
            self.health.check_failed("commit")?;
            self.back_off(attempt).await;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "commit",
            "the shard is not running; nothing was committed",
        )
        .with_id(id))
    }

    /// Checks that the index can store all keys of an object.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if its id is too long for a shared index.
    pub(crate) fn check_id(&self, id: &ObjectId) -> Result<()> {
        let most = self.index.key_bytes_max().saturating_sub(KEY_OVERHEAD);
        let bytes = id.encoded().len();
        if bytes <= most {
            return Ok(());
        }
        let message =
            format!("the object id is too long for this index: encoded bytes={bytes} most={most}");
        Err(Error::new(ErrorKind::Invalid, "write", message).with_id(id))
    }

    /// Waits for the restart of a dead actor, longer with each attempt.
    pub(crate) async fn back_off(&self, attempt: u32) {
        let delay = backoff(
            self.limits.restarts.backoff_min,
            self.limits.restarts.backoff_max,
            attempt,
        );
        // With jitter: requests that were lost together are not delivered again together.
        self.env
            .sleep(delay.saturating_add(self.env.jitter(delay)))
            .await;
    }
}

/// Sends a wake-up, unless a wake-up is on its way already.
///
/// A wake-up may be lost with its actor. The successor begins with a pass of its own.
pub(crate) fn wake<M: ractor::Message>(requested: &AtomicBool, slot: &ActorSlot<M>, message: M) {
    if !requested.swap(true, Ordering::AcqRel) && !slot.send(message) {
        // Not delivered: the next caller must try again.
        requested.store(false, Ordering::Release);
    }
}
