//! The environment of the store: time, randomness, ids, tasks and blocking work.
//!
//! All other code uses the handle [`Env`], which calls a [`World`]. Production uses [`Env::real`]
//! (`env/real.rs`). A simulator or a test implements `World`, and thereby controls time, randomness
//! and order.

#[cfg(feature = "planted")]
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::planted::Bug;
use crate::types::{
    Error, ErrorKind, OperationId, Result, RevisionId, StoreId, TierId, Timestamp, UploadId,
    WallTime,
};

mod real;

pub use real::Real;
pub(crate) use real::is_system_clock_set;

/// Implementation of an [`Env`]: the real world, a simulated world, or that of a test.
pub trait World: Send + Sync + 'static {
    /// Returns the wall time. It may jump in both directions.
    fn wall_time(&self) -> WallTime;

    /// Returns the time since a fixed point. It never decreases.
    fn monotonic(&self) -> Duration;

    /// Returns 64 random bits. They are unguessable in the real world.
    fn random_u64(&self) -> u64;

    /// Resolves after this time.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Runs a task concurrently with the caller.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Runs blocking code on a thread where it does not delay other tasks.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>);

    /// Runs code that blocks on the disk of the blob tier. That disk may be a network share that
    /// hangs, which must not delay the work of [`blocking`](Self::blocking).
    fn blocking_on_blobs(&self, work: Box<dyn FnOnce() + Send>) {
        self.blocking(work);
    }

    /// Runs a task that may block its thread, where it does not delay other tasks.
    ///
    /// An implementation must not use a thread of [`blocking`](Self::blocking): the task may itself
    /// wait for blocking work.
    fn offload(&self, task: BoxFuture<'static, ()>);

    /// Starts a thread of the operating system.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

    /// Called at each sync point that an actor passes. The real world does nothing. A test holds
    /// the actor there, to kill it at exactly this await boundary.
    fn pass(&self, sync_point: SyncPoint) -> Option<BoxFuture<'static, ()>> {
        let _ = sync_point;
        None
    }

    /// Called by an actor on its own task after its start. The real world does nothing. A simulated
    /// world can then attribute steps to the actor. `number` distinguishes actors of the same kind.
    fn actor_started(&self, kind: &'static str, number: Option<usize>) {
        let _ = (kind, number);
    }

    /// Returns `true` if this world plants a [`Bug`], to test its checks.
    #[cfg(feature = "planted")]
    fn planted(&self, bug: Bug) -> bool {
        let _ = bug;
        false
    }

    /// Changes a decision, to plant a [`Bug`] in it. The types of `decided` are in
    /// [`tamper`](crate::tamper).
    #[cfg(feature = "planted")]
    fn tamper(&self, decided: &mut dyn Any) {
        let _ = decided;
    }
}

/// Sync point: a named await boundary of the write, recovery, sweep and expiry paths.
///
/// Between two sync points, an actor runs or waits for a single side effect. The last sync point
/// that it passed therefore determines the possible states after a crash or kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncPoint {
    /// Upload: the change is not recorded yet.
    UploadBeforeRecord,
    /// Upload: the change is durable, and the blob tier is unchanged.
    UploadAfterRecord,
    /// Upload: some of the bytes are in the blob tier.
    UploadMidStream,
    /// Upload: all bytes are written, and the blob is not closed.
    UploadBeforeClose,
    /// Upload: the blob is finished and durable, and no row names it.
    UploadAfterClose,
    /// Upload: the shard has replied, and the caller has received its result.
    UploadAfterCommit,
    /// Upload: a blob of a put is finished and durable. Other blobs of the put may not be.
    UploadAfterBlob,
    /// Completion of an upload: the row is read, and the request is not sent to the shard.
    CompleteBeforeSwap,
    /// Shard: the request is taken from the mailbox, and there is no decision.
    ShardBeforeDecide,
    /// Shard: the batch is submitted and may be durable.
    ShardAfterSubmit,
    /// Shard: some of its objects are locked, and it decides nothing until the lock is released.
    ShardLent,
    /// Atomic batch: all shards are locked, and there is no decision.
    AtomicBeforeDecide,
    /// Atomic batch: the batch is submitted and may be durable.
    AtomicAfterSubmit,
    /// Recovery: a dead change is found and not fenced.
    RecoveryBeforeFence,
    /// Recovery: the change is fenced, and its orphans are durable.
    RecoveryAfterFence,
    /// Sweeper: an orphan is due, and its blob is not deleted.
    SweeperBeforeDelete,
    /// Sweeper: the blob is deleted, and the orphan entry still exists.
    SweeperAfterDelete,
    /// Expirer: an object may be due, and its row is unchanged.
    ExpirerBeforeRemove,
    /// Pruner: last versions may be old, and their entries still exist.
    PrunerBeforeDrop,
}

/// Cheap handle on a [`World`]. Clones share the state of [`steady_now`](Self::steady_now).
#[derive(Clone)]
pub struct Env {
    world: Arc<dyn World>,
    steady: Arc<Steady>,
}

/// State of [`Env::steady_now`].
#[derive(Debug)]
struct Steady {
    /// Latest returned time in milliseconds.
    latest_ms: AtomicU64,
    /// Difference of the time of the source and [`World::monotonic`], in milliseconds.
    ahead_ms: AtomicI64,
    source: TimeSource,
}

/// Source of the steady time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TimeSource {
    /// The wall time. The difference is the maximum so far.
    #[default]
    WallTime,
    /// The clock of a shared index. The difference is the last measured one.
    Index,
}

impl Default for Steady {
    fn default() -> Self {
        Self {
            latest_ms: AtomicU64::new(0),
            ahead_ms: AtomicI64::new(i64::MIN),
            source: TimeSource::WallTime,
        }
    }
}

impl Env {
    /// Creates a handle on the real world. Must be called within a tokio runtime, which runs its
    /// tasks and timers.
    ///
    /// # Errors
    /// Those of [`Real::current`].
    pub fn real() -> Result<Self> {
        Real::current().map(Self::new)
    }

    /// Creates a handle on a custom world.
    pub fn new(world: impl World) -> Self {
        Self {
            world: Arc::new(world),
            steady: Arc::default(),
        }
    }

    /// Returns the wall time.
    pub fn wall_time(&self) -> WallTime {
        self.world.wall_time()
    }

    /// Returns the steady time: the wall time without steps back, or that of a
    /// [shared index](Self::by_index_clock).
    ///
    /// An expired object stays expired if the clock is set back. The steady time then advances at
    /// the rate of [`monotonic`](Self::monotonic), so that deadlines do not wait for the wall time
    /// to catch up.
    pub fn steady_now(&self) -> Timestamp {
        let steady_ms = match self.steady.source {
            TimeSource::WallTime => self.steady_by_wall_time(),
            TimeSource::Index => self.steady_by_index_clock(),
        };
        // Two callers may compute their times in either order. The maximum keeps the returned times
        // from decreasing.
        Timestamp::from_millis(
            self.steady
                .latest_ms
                .fetch_max(steady_ms, Ordering::AcqRel)
                .max(steady_ms),
        )
    }

    fn steady_by_wall_time(&self) -> u64 {
        // The wall time is read first. A pause between the two reads then makes the difference too
        // small, and the maximum so far replaces it. In the other order, the difference would be
        // too large, and the steady time would be ahead by the pause forever.
        let now_ms = self.world.wall_time().as_millis();
        let monotonic = self.world.monotonic();
        let whole_ms = i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX);
        // The monotonic time is rounded up, so that the difference is never too large and the
        // steady time is never early.
        let ahead_ms = i64::try_from(now_ms)
            .unwrap_or(i64::MAX)
            .saturating_sub(whole_ms.saturating_add(1));
        let ahead_ms = self
            .steady
            .ahead_ms
            .fetch_max(ahead_ms, Ordering::AcqRel)
            .max(ahead_ms);
        u64::try_from(whole_ms.saturating_add(ahead_ms))
            .unwrap_or(0)
            .max(now_ms)
    }

    fn steady_by_index_clock(&self) -> u64 {
        let ahead_ms = self.steady.ahead_ms.load(Ordering::Acquire);
        let whole_ms = i64::try_from(self.monotonic().as_millis()).unwrap_or(i64::MAX);
        u64::try_from(whole_ms.saturating_add(ahead_ms)).unwrap_or(0)
    }

    /// Returns a handle on the same world whose steady time follows the clock of a shared index,
    /// which has just shown `now`. The wall time of this machine does not matter to it.
    #[must_use]
    pub fn by_index_clock(&self, now: WallTime) -> Self {
        let env = Self {
            world: Arc::clone(&self.world),
            steady: Arc::new(Steady {
                source: TimeSource::Index,
                ..Steady::default()
            }),
        };
        env.set_index_clock(now);
        env
    }

    /// Corrects the steady time of a handle [that follows](Self::by_index_clock) the clock of a
    /// shared index, which has just shown `now`. The steady time does not step back.
    pub fn set_index_clock(&self, now: WallTime) {
        if self.steady.source != TimeSource::Index {
            return;
        }
        // The index has read its clock before this moment, so that the steady time is not early.
        // The monotonic time is rounded up for the same reason.
        let whole_ms = i64::try_from(self.monotonic().as_millis()).unwrap_or(i64::MAX);
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let ahead_ms = now_ms.saturating_sub(whole_ms.saturating_add(1));
        self.steady.ahead_ms.store(ahead_ms, Ordering::Release);
    }

    /// Returns the time since a fixed point. It never decreases.
    pub fn monotonic(&self) -> Duration {
        self.world.monotonic()
    }

    /// Returns 64 random bits.
    pub fn random_u64(&self) -> u64 {
        self.world.random_u64()
    }

    /// Returns a random duration below `limit`.
    pub fn jitter(&self, limit: Duration) -> Duration {
        // The remainder is slightly biased, which does not matter for jitter.
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.random_u64() % limit_ns)
    }

    /// Generates an operation id.
    pub fn operation_id(&self) -> OperationId {
        OperationId::from_uuid(self.uuid_v7())
    }

    /// Generates the id of an upload that starts now. It is unguessable in the real world.
    pub fn upload_id(&self) -> UploadId {
        UploadId::new(self.steady_now(), [self.random_u64(), self.random_u64()])
    }

    /// Generates a revision id.
    pub fn revision_id(&self) -> RevisionId {
        RevisionId::from_uuid(self.uuid_v7())
    }

    /// Generates a store id.
    pub fn store_id(&self) -> StoreId {
        StoreId::from_uuid(Uuid::from_u64_pair(self.random_u64(), self.random_u64()))
    }

    /// Generates the id of a blob tier.
    pub fn tier_id(&self) -> TierId {
        TierId::from_uuid(Uuid::from_u64_pair(self.random_u64(), self.random_u64()))
    }

    fn uuid_v7(&self) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.random_u64().to_le_bytes());
        random[8..].copy_from_slice(&self.random_u64().to_le_bytes()[..2]);
        // The steady time keeps later ids above earlier ids when the clock is set back.
        uuid::Builder::from_unix_timestamp_millis(self.steady_now().as_millis(), &random)
            .into_uuid()
    }

    /// Resolves after this time.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.world.sleep(duration)
    }

    /// Returns the result of `task`, or `None` if `limit` passes first. The task is then dropped.
    pub async fn deadline<T>(&self, limit: Duration, task: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            // A task that finishes at its limit has finished.
            biased;
            value = task => Some(value),
            () = self.sleep(limit) => None,
        }
    }

    /// Runs a task concurrently with the caller.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.world.spawn(Box::pin(task));
    }

    /// Runs a task that may block its thread and returns its result. The task continues if the
    /// returned future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the task panicked or its runtime is shutting down.
    pub async fn offload<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.world.offload(Box::pin(async move {
            // The send fails if the caller is gone. The task was still carried out.
            let _ = sender.send(task.await);
        }));
        // The sender is dropped without a value if the task panics or never runs.
        receiver.await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                "offload",
                "the blocking task did not finish",
            )
        })
    }

    /// Runs blocking code outside of the async workers and returns its result. The code continues
    /// if the returned future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the code panicked or its runtime is shutting down.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        // The send fails if the caller is gone. The work was still carried out.
        self.world
            .blocking(Box::new(move || drop(sender.send(work()))));
        receiver.await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                "blocking",
                "the blocking work did not finish",
            )
        })
    }

    /// Runs code that blocks on the disk of the blob tier and returns its result. The code
    /// continues if the returned future is dropped. See [`World::blocking_on_blobs`].
    ///
    /// # Errors
    /// Those of [`blocking`](Self::blocking).
    pub async fn blocking_on_blobs<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.world
            .blocking_on_blobs(Box::new(move || drop(sender.send(work()))));
        receiver.await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                "blocking",
                "the blocking work did not finish",
            )
        })
    }

    /// Starts a thread of the operating system.
    ///
    /// # Errors
    /// Any error of the operating system.
    pub fn thread(
        &self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        self.world.thread(name, Box::new(body))
    }

    /// Announces the actor that runs on the current task. See [`World::actor_started`].
    pub fn actor_started(&self, kind: &'static str, number: Option<usize>) {
        self.world.actor_started(kind, number);
    }

    /// Returns `true` if this bug is planted. Always `false` without the feature `planted`.
    #[cfg(feature = "planted")]
    pub fn planted(&self, bug: Bug) -> bool {
        self.world.planted(bug)
    }

    /// Returns `true` if this bug is planted. Always `false` without the feature `planted`.
    #[cfg(not(feature = "planted"))]
    pub const fn planted(&self, _: Bug) -> bool {
        false
    }

    /// Lets the world change a decision. See [`World::tamper`].
    #[cfg(feature = "planted")]
    pub(crate) fn tamper(&self, decided: &mut dyn Any) {
        self.world.tamper(decided);
    }

    /// Passes a sync point. See [`World::pass`].
    pub async fn pass(&self, sync_point: SyncPoint) {
        // The real world returns `None`, so that a sync point costs no poll.
        if let Some(held) = self.world.pass(sync_point) {
            held.await;
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

#[cfg(test)]
mod tests;
