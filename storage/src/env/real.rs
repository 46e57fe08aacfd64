//! The real [`World`]: system clock, system randomness, tokio, and threads of the operating system.
//!
//! The module `system` at the end is the only place that calls the system for time, randomness,
//! timers and threads; `clippy.toml` refuses these calls elsewhere.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::World;
use crate::types::{Error, ErrorKind, Result, WallTime};

/// Returns `true` if the system clock reads 1970 or later. Some libraries panic otherwise.
pub(crate) fn is_system_clock_set() -> bool {
    system::since_1970().is_some()
}

/// Maximum number of threads of a world for reads of the index. These reads are short, and a disk
/// gains nothing from more threads.
const BLOCKING_THREADS_MAX: usize = 16;
/// Maximum number of threads of a world for the disk of the blob tier. They are more, because syncs
/// of its directories wait in parallel.
pub(super) const BLOB_THREADS_MAX: usize = 64;
/// Idle time after which a thread for blocking work ends.
pub(super) const BLOCKING_IDLE: Duration = Duration::from_secs(10);

/// The real world: system clock, system randomness, tokio and threads.
///
/// Blocking work runs on separate threads. The blocking threads of tokio may all be occupied by
/// callers that block until this work is done.
#[derive(Debug)]
pub struct Real {
    runtime: tokio::runtime::Handle,
    blocking: BlockingThreads,
    blocking_on_blobs: BlockingThreads,
    /// `false` after the runtime has shut down.
    has_runtime: Arc<AtomicBool>,
    /// Ends the task that watches the runtime when this world is dropped.
    _watch: oneshot::Sender<()>,
    started: std::time::Instant,
}

impl Real {
    /// Creates the real world of the current tokio runtime. A test may wrap it in its own
    /// [`World`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] outside of a tokio runtime, or in a runtime without timers;
    /// [`ErrorKind::Unavailable`] if the operating system provides no threads.
    pub fn current() -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Invalid, "open", "not within a tokio runtime").with_source(error)
        })?;
        // A runtime without timers panics when a timer is created. tokio has no other way to check.
        if std::panic::catch_unwind(|| drop(system::sleep(Duration::ZERO))).is_err() {
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
        // The runtime drops this task when it shuts down, and `shutdown` with it.
        runtime.spawn(async move {
            let _shutdown = shutdown;
            drop(ended.await);
        });
        let started = system::instant();
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

/// Guard that clears [`Real::has_runtime`] when the watching task is dropped: the runtime has shut
/// down, or the world itself was dropped and no longer needs the flag.
struct Shutdown(Arc<AtomicBool>);

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Threads for blocking work: the blocking pool of a runtime without other tasks.
#[derive(Debug)]
struct BlockingThreads(Option<tokio::runtime::Runtime>);

impl BlockingThreads {
    fn new(name: &str, most: usize) -> io::Result<Self> {
        // This kind of runtime has no worker threads. Only its blocking pool is used.
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
        // Dropping a runtime waits for its threads, which panics in async code.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl World for Real {
    fn wall_time(&self) -> WallTime {
        WallTime::from_millis(system::unix_millis())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn random_u64(&self) -> u64 {
        system::random_u64()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if !self.has_runtime.load(Ordering::Acquire) {
            // There are no timers without the runtime. The sleep ends at its second poll: it
            // yields, so that a loop of sleeps does not occupy its thread.
            return Box::pin(tokio::task::yield_now());
        }
        let _within = self.runtime.enter();
        // A timer panics if the runtime shuts down during the sleep. The sleep then ends early
        // instead.
        Box::pin(
            AssertUnwindSafe(system::sleep(duration))
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
        // A new thread, not a thread of the pool: the task may wait for blocking work. If such
        // tasks occupied the whole pool, all of them would wait forever.
        let runtime = self.runtime.clone();
        if let Err(error) =
            system::thread("cenotaph-offload", Box::new(move || runtime.block_on(task)))
        {
            // The task is dropped. Its caller receives an error, because the reply channel closes.
            tracing::error!(%error, "no thread for blocking work");
        }
    }

    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        system::thread(name, body)
    }
}

/// Calls to the operating system and to tokio.
#[expect(
    clippy::disallowed_methods,
    reason = "the only place that calls the system"
)]
mod system {
    use super::*;

    pub(super) fn instant() -> std::time::Instant {
        std::time::Instant::now()
    }

    /// Returns the wall time since 1970, or `None` if the clock reads an earlier time.
    pub(super) fn since_1970() -> Option<Duration> {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .ok()
    }

    /// Returns the wall time in milliseconds since 1970. A clock before 1970 reads as 1970.
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
