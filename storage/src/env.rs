//! The world outside: time, chance, ids, tasks and blocking work.
//!
//! Holds [`Env`], the handle by which every other room asks for these, and [`World`], what answers.
//! Production uses [`Env::real`]; a simulator or a test brings its own world, and with it decides
//! time, chance and order. This is the only file that may call the system for them (`clippy.toml`
//! refuses it elsewhere). Deliberately not here: the two tiers, which stand behind traits of their
//! own.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::decide::{Plan, SessionSwap, SessionView, Swap, SwapReply, SwapView, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::multipart::UploadId;
use crate::word::{OperationId, RevisionId, StoreId, Timestamp};

/// What answers an [`Env`]: the real world, a simulated one, or a test's.
pub trait World: Send + Sync + 'static {
    /// The time of day. May jump either way.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;

    /// 64 random bits, unguessable in the real world.
    fn random_u64(&self) -> u64;

    /// Resolves when this much time has passed.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Runs a task to its end, beside the caller.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Runs blocking code where that stalls nobody else.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>);

    /// Runs work that blocks for the disk of the blob tier, which may be a share that hangs: it
    /// holds up none of the work of [`blocking`](Self::blocking).
    fn blocking_on_blobs(&self, work: Box<dyn FnOnce() + Send>) {
        self.blocking(work);
    }

    /// Runs a task that may block the thread that polls it, where that stalls nobody else. Never on
    /// a thread that blocking code needs: the task may itself wait for some.
    fn offload(&self, task: BoxFuture<'static, ()>);

    /// Starts a thread of the operating system.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

    /// Called at each [`Seam`] that work passes. The real world does nothing; a test holds the work
    /// there, to kill its actor at exactly this await boundary.
    fn pass(&self, seam: Seam) -> Option<BoxFuture<'static, ()>> {
        let _ = seam;
        None
    }

    /// Called by an actor on the task that will run it, once it has started. The real world does
    /// nothing; a simulated one then knows whose steps it sees. `number` tells actors of one kind
    /// apart.
    fn actor_started(&self, kind: &'static str, number: Option<usize>) {
        let _ = (kind, number);
    }

    /// Whether this world wants a [`Bug`] in it, to see that its checks find it.
    #[cfg(feature = "planted")]
    fn planted(&self, bug: crate::planted::Bug) -> bool {
        let _ = bug;
        false
    }

    /// Changes the plan of a swap, to plant a [`Bug`](crate::planted::Bug) in it.
    #[cfg(feature = "planted")]
    fn tamper_swap(&self, decided: crate::planted::DecidedSwap<'_>, plan: &mut Plan<SwapReply>) {
        let _ = (decided, plan);
    }

    /// Changes the plan of a step of an upload, to plant a [`Bug`](crate::planted::Bug) in it.
    #[cfg(feature = "planted")]
    fn tamper_step(
        &self,
        decided: crate::planted::DecidedStep<'_>,
        plan: &mut Plan<Option<Written>>,
    ) {
        let _ = (decided, plan);
    }
}

/// The await boundaries of the write, recovery and sweep paths, by name.
///
/// Between two of them an actor either runs or waits for one side effect; what a crash or a kill
/// can do to it is decided by the last seam it passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seam {
    /// Upload: nothing is recorded yet.
    UploadBeforeRecord,
    /// Upload: the change is durable, the blob tier untouched.
    UploadAfterRecord,
    /// Upload: some of the bytes are in the blob tier.
    UploadMidStream,
    /// Upload: all bytes are written, the blob is not closed.
    UploadBeforeClose,
    /// Upload: the blob is finished and durable, nothing names it.
    UploadAfterClose,
    /// Upload: the shard has answered, the caller has too.
    UploadAfterCommit,
    /// Upload: a blob is finished and durable; others of the same put may not be.
    UploadAfterBlob,
    /// Completion of an upload: the row has been read, the shard has not been asked.
    CompleteBeforeSwap,
    /// Shard: the request is taken from the mailbox, nothing is decided.
    ShardBeforeDecide,
    /// Shard: the batch is submitted and may be durable already.
    ShardAfterSubmit,
    /// Shard: it has lent some of its objects, and decides nothing until it has them back.
    ShardLent,
    /// Atomic batch: all shards have lent, nothing is decided.
    AtomicBeforeDecide,
    /// Atomic batch: the batch is submitted and may be durable already.
    AtomicAfterSubmit,
    /// Recovery: a dead change is found, nothing is done about it.
    RecoveryBeforeFence,
    /// Recovery: the change is fenced, its orphans are durable.
    RecoveryAfterFence,
    /// Sweeper: an orphan is due, its blob is untouched.
    SweeperBeforeDelete,
    /// Sweeper: the blob is gone, the orphan is still listed.
    SweeperAfterDelete,
    /// Expirer: an object may be due, its row is untouched.
    ExpirerBeforeRemove,
}

/// A cheap handle on a [`World`]. Clones share the latest time of day that
/// [`steady_now`](Self::steady_now) gave.
#[derive(Clone)]
pub struct Env {
    world: Arc<dyn World>,
    steady: Arc<Steady>,
}

/// What [`Env::steady_now`] remembers.
#[derive(Debug)]
struct Steady {
    /// The latest moment given, in milliseconds.
    latest_ms: AtomicU64,
    /// The furthest that the time of day has been ahead of [`World::monotonic`], in milliseconds.
    ahead_ms: AtomicI64,
}

impl Default for Steady {
    fn default() -> Self {
        Self {
            latest_ms: AtomicU64::new(0),
            ahead_ms: AtomicI64::new(i64::MIN),
        }
    }
}

impl Env {
    /// The real world. Must be called within a tokio runtime, which its tasks and timers then use.
    ///
    /// # Errors
    /// As [`Real::current`].
    pub fn real() -> Result<Self> {
        Real::current().map(Self::new)
    }

    /// A world of your own.
    pub fn new(world: impl World) -> Self {
        Self {
            world: Arc::new(world),
            steady: Arc::default(),
        }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.world.now()
    }

    /// The time of day, but never earlier than it was before: what has expired stays expired
    /// although the clock is set back. From then on it goes on from where it was, as fast as
    /// [`monotonic`](Self::monotonic), so that nothing waits for the time of day to catch up.
    pub fn steady_now(&self) -> Timestamp {
        // In this order: a pause between both makes the difference too small, which the largest one
        // so far makes good. The other way round it would be too large, and the steady time ahead
        // by the pause for ever.
        let now_ms = self.world.now().as_millis();
        let monotonic = self.world.monotonic();
        let whole_ms = i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX);
        // Rounded so that the difference never comes out too large: no moment is given before its
        // time.
        let ahead_ms = i64::try_from(now_ms)
            .unwrap_or(i64::MAX)
            .saturating_sub(whole_ms.saturating_add(1));
        let ahead_ms = self
            .steady
            .ahead_ms
            .fetch_max(ahead_ms, Ordering::AcqRel)
            .max(ahead_ms);
        let steady_ms = u64::try_from(whole_ms.saturating_add(ahead_ms))
            .unwrap_or(0)
            .max(now_ms);
        Timestamp::from_millis(
            self.steady
                .latest_ms
                .fetch_max(steady_ms, Ordering::AcqRel)
                .max(steady_ms),
        )
    }

    /// Time since some fixed moment.
    pub fn monotonic(&self) -> Duration {
        self.world.monotonic()
    }

    /// 64 random bits.
    pub fn random_u64(&self) -> u64 {
        self.world.random_u64()
    }

    /// A random duration below `limit`, for jitter.
    pub fn jitter(&self, limit: Duration) -> Duration {
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.random_u64() % limit_ns)
    }

    /// A fresh operation id.
    pub fn operation_id(&self) -> OperationId {
        OperationId::from_uuid(self.uuid_v7())
    }

    /// The id of an upload that begins now: unguessable in the real world.
    pub fn upload_id(&self) -> UploadId {
        UploadId::new(self.steady_now(), [self.random_u64(), self.random_u64()])
    }

    /// A fresh revision id.
    pub fn revision_id(&self) -> RevisionId {
        RevisionId::from_uuid(self.uuid_v7())
    }

    /// The id of a store that is created now.
    pub fn store_id(&self) -> StoreId {
        StoreId::from_uuid(Uuid::from_u64_pair(self.random_u64(), self.random_u64()))
    }

    fn uuid_v7(&self) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.random_u64().to_le_bytes());
        random[8..].copy_from_slice(&self.random_u64().to_le_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(self.steady_now().as_millis(), &random)
            .into_uuid()
    }

    /// Resolves when this much time has passed.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.world.sleep(duration)
    }

    /// What `task` gives, or none if `limit` passes first; the task is then dropped.
    pub async fn deadline<T>(&self, limit: Duration, task: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = task => Some(value),
            () = self.sleep(limit) => None,
        }
    }

    /// Runs a task to its end, beside the caller.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.world.spawn(Box::pin(task));
    }

    /// Runs a task that may block its thread, and gives its value. It goes on even if the returned
    /// future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the task panicked or its runtime is shutting down.
    pub async fn offload<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.world.offload(Box::pin(async move {
            let _ = sender.send(task.await);
        }));
        receiver.await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                "offload",
                "the blocking task did not finish",
            )
        })
    }

    /// Runs blocking code off the async workers, and gives its value. It goes on even if the
    /// returned future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the code panicked or its runtime is shutting down.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
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

    /// As [`blocking`](Self::blocking), for the disk of the blob tier: see
    /// [`World::blocking_on_blobs`].
    ///
    /// # Errors
    /// As [`blocking`](Self::blocking).
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
    /// Whatever the operating system says.
    pub fn thread(
        &self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        self.world.thread(name, Box::new(body))
    }

    /// Tells the world which actor the current task is; see [`World::actor_started`].
    pub fn actor_started(&self, kind: &'static str, number: Option<usize>) {
        self.world.actor_started(kind, number);
    }

    /// Whether this bug is planted. Never, unless the crate is built for tests of tests.
    #[cfg(feature = "planted")]
    pub fn planted(&self, bug: crate::planted::Bug) -> bool {
        self.world.planted(bug)
    }

    /// Whether this bug is planted. Never, unless the crate is built for tests of tests.
    #[cfg(not(feature = "planted"))]
    pub const fn planted(&self, _: crate::planted::Bug) -> bool {
        false
    }

    /// Lets the world change the plan of a swap. Does nothing, unless the crate is built for tests of
    /// tests.
    pub fn tamper_swap(
        &self,
        swap: &Swap,
        view: &SwapView,
        now: Timestamp,
        plan: &mut Plan<SwapReply>,
    ) {
        #[cfg(feature = "planted")]
        self.world
            .tamper_swap(crate::planted::DecidedSwap { swap, view, now }, plan);
        #[cfg(not(feature = "planted"))]
        let _ = (swap, view, now, plan);
    }

    /// Lets the world change the plan of a step of an upload. Does nothing, unless the crate is
    /// built for tests of tests.
    pub fn tamper_step(
        &self,
        step: &SessionSwap,
        view: &SessionView,
        plan: &mut Plan<Option<Written>>,
    ) {
        #[cfg(feature = "planted")]
        self.world
            .tamper_step(crate::planted::DecidedStep { step, view }, plan);
        #[cfg(not(feature = "planted"))]
        let _ = (step, view, plan);
    }

    /// Passes a seam; see [`World::pass`].
    pub async fn pass(&self, seam: Seam) {
        if let Some(held) = self.world.pass(seam) {
            held.await;
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// Returns whether the system's own clock is set: it reads 1970 or later. Asked for the sake of
/// libraries that panic otherwise.
pub(crate) fn is_system_clock_set() -> bool {
    real::since_1970().is_some()
}

/// Most threads of one world for reads of the index, which are short: one disk gains nothing from
/// more.
const BLOCKING_THREADS_MAX: usize = 16;
/// Most threads of one world for the disk of the blob tier: its directories are synced at the same
/// time.
const BLOB_THREADS_MAX: usize = 64;
/// A thread that has had no blocking work for so long ends.
const BLOCKING_IDLE: Duration = Duration::from_secs(10);

/// The real world: the system clock, the system's randomness, tokio and threads.
///
/// Blocking work has threads of its own: on tokio's, it would wait for callers that block there
/// until it is done.
#[derive(Debug)]
pub struct Real {
    runtime: tokio::runtime::Handle,
    blocking: BlockingThreads,
    blocking_on_blobs: BlockingThreads,
    /// False once the runtime has shut down.
    has_runtime: Arc<AtomicBool>,
    /// Dropped with this world, which ends the task that watches the runtime.
    _watch: oneshot::Sender<()>,
    started: std::time::Instant,
}

impl Real {
    /// The real world of the current tokio runtime, for a test's own [`World`] to lean on.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] outside of a tokio runtime, or in one without timers;
    /// [`ErrorKind::Unavailable`] if the operating system gives no threads.
    pub fn current() -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Invalid, "open", "not within a tokio runtime").with_source(error)
        })?;
        // tokio has no other way to ask.
        if std::panic::catch_unwind(|| drop(real::sleep(Duration::ZERO))).is_err() {
            let message =
                "the tokio runtime has no timers: build it with enable_time or enable_all";
            return Err(Error::new(ErrorKind::Invalid, "open", message));
        }
        let threads = |name, most| {
            BlockingThreads::new(name, most).map_err(|error| {
                Error::new(
                    ErrorKind::Unavailable,
                    "open",
                    "no threads for blocking work",
                )
                .with_source(error)
            })
        };
        let blocking = threads("cenotaph-blocking", BLOCKING_THREADS_MAX)?;
        let blocking_on_blobs = threads("cenotaph-blobs", BLOB_THREADS_MAX)?;
        let has_runtime = Arc::new(AtomicBool::new(true));
        let (watch, ended) = oneshot::channel();
        let shutdown = Shutdown(Arc::clone(&has_runtime));
        runtime.spawn(async move {
            let _shutdown = shutdown;
            drop(ended.await);
        });
        let started = real::instant();
        Ok(Self {
            runtime,
            blocking,
            blocking_on_blobs,
            has_runtime,
            _watch: watch,
            started,
        })
    }
}

/// Notes that a runtime has shut down: it drops the task that holds this. So does the end of the
/// world, which nobody sees.
struct Shutdown(Arc<AtomicBool>);

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Threads for blocking work: those of a runtime that does nothing else.
#[derive(Debug)]
struct BlockingThreads(Option<tokio::runtime::Runtime>);

impl BlockingThreads {
    fn new(name: &str, most: usize) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder
            .thread_name(name)
            .max_blocking_threads(most)
            .thread_keep_alive(BLOCKING_IDLE);
        builder.build().map(|runtime| Self(Some(runtime)))
    }

    fn run(&self, work: Box<dyn FnOnce() + Send>) {
        if let Some(runtime) = &self.0 {
            runtime.spawn_blocking(work);
        }
    }
}

impl Drop for BlockingThreads {
    fn drop(&mut self) {
        // A runtime that is dropped waits for its threads, which panics in async code.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl World for Real {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(real::unix_millis())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn random_u64(&self) -> u64 {
        real::random_u64()
    }

    /// Without the runtime there are no timers: it ends at its next poll, so that no loop of sleeps
    /// keeps a thread.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if !self.has_runtime.load(Ordering::Acquire) {
            return Box::pin(tokio::task::yield_now());
        }
        let _within = self.runtime.enter();
        // The runtime may shut down while it sleeps.
        Box::pin(
            AssertUnwindSafe(real::sleep(duration))
                .catch_unwind()
                .map(drop),
        )
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.blocking.run(work);
    }

    fn blocking_on_blobs(&self, work: Box<dyn FnOnce() + Send>) {
        self.blocking_on_blobs.run(work);
    }

    fn offload(&self, task: BoxFuture<'static, ()>) {
        // A thread of its own: on a blocking thread it would wait for others of that pool, and as
        // many as the pool has would wait for ever.
        let runtime = self.runtime.clone();
        if let Err(error) =
            real::thread("cenotaph-offload", Box::new(move || runtime.block_on(task)))
        {
            // The task is dropped, which tells who waits for it that it did not finish.
            tracing::error!(%error, "no thread for blocking work");
        }
    }

    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        real::thread(name, body)
    }
}

/// The calls into the system themselves.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that asks the system"
)]
mod real {
    use super::*;

    pub(super) fn instant() -> std::time::Instant {
        std::time::Instant::now()
    }

    pub(super) fn since_1970() -> Option<Duration> {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .ok()
    }

    /// A clock before 1970 reads as 1970.
    pub(super) fn unix_millis() -> u64 {
        u64::try_from(since_1970().unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn random_u64() -> u64 {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system has a source of randomness");
        u64::from_le_bytes(bytes)
    }

    pub(super) fn sleep(duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    pub(super) fn thread(name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
    }
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
