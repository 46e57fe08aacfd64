//! A real environment in which a test can pause work at a [`SyncPoint`], kill its actor, and resume.
//!
//! The test can also control both clocks, the time of day and the monotonic time. Timers always
//! run in real time.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use cenotaph_storage::{Real, SyncPoint, Timestamp, WallTime, World};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// The real environment with sync points that a test can hold. Clones share the state.
#[derive(Clone)]
pub struct Stage(Arc<Inner>);

struct Inner {
    real: Real,
    armed: Mutex<BTreeMap<SyncPoint, Armed>>,
    clock: Mutex<Clock>,
    /// Set once work may no longer pass any sync point.
    fenced: AtomicBool,
}

/// Clock state under control of the test.
#[derive(Clone, Copy, Default)]
struct Clock {
    /// Time of day set by the test, or `None` for the real time.
    shows: Option<Timestamp>,
    /// Step by which the time of day moves on at each reading.
    step: Duration,
    /// Monotonic time while the time of day is stopped; only `advance` moves it.
    monotonic: Duration,
}

/// Sender that reports the arrival of work, and receiver that waits for its release.
type Armed = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// Work held at a sync point. Dropping this value releases the work.
pub struct Held {
    arrived: Option<oneshot::Receiver<()>>,
    _release: oneshot::Sender<()>,
}

impl Held {
    /// Resolves when work has arrived at the sync point.
    pub async fn arrived(&mut self) {
        if let Some(arrived) = self.arrived.take() {
            arrived.await.expect("the environment outlives held work");
        }
    }

    /// Releases the work.
    pub fn release(self) {}
}

impl Stage {
    /// Creates a test environment in the current tokio runtime.
    pub fn new() -> Self {
        let real = Real::current().expect("tests run within a runtime");
        Self(Arc::new(Inner {
            real,
            armed: Mutex::default(),
            clock: Mutex::default(),
            fenced: AtomicBool::new(false),
        }))
    }

    /// Returns whether another clone of this environment exists, such as that of an [`Env`].
    ///
    /// [`Env`]: cenotaph_storage::Env
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Holds the next work that reaches this sync point.
    pub fn hold(&self, sync_point: SyncPoint) -> Held {
        let (arrived, arrival) = oneshot::channel();
        let (release, released) = oneshot::channel();
        self.0
            .armed
            .lock()
            .unwrap()
            .insert(sync_point, (arrived, released));
        Held {
            arrived: Some(arrival),
            _release: release,
        }
    }

    /// Blocks all work that reaches a sync point from now on, as if the process had ended: no
    /// actor reacts to the death of another.
    pub fn fence(&self) {
        self.0.fenced.store(true, Ordering::SeqCst);
    }

    /// Stops both clocks: from now on only the test moves them.
    pub fn stop_clock(&self) -> Timestamp {
        // Read before the lock is taken: `wall_time` takes it, too.
        let now = Timestamp::from_millis(self.wall_time().as_millis());
        let mut clock = self.0.clock.lock().unwrap();
        // Only the first call: later ones keep the time to which the test has advanced.
        if clock.shows.is_none() {
            clock.monotonic = self.0.real.monotonic();
        }
        clock.shows = Some(now);
        now
    }

    /// Sets the time of day, forward or back, as an administrator does. The time of day stops
    /// there, and the monotonic time does not move.
    pub fn set_clock(&self, shows: Timestamp) {
        self.stop_clock();
        self.0.clock.lock().unwrap().shows = Some(shows);
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let shows = self.stop_clock();
        let mut clock = self.0.clock.lock().unwrap();
        clock.shows = Some(shows.after(by));
        clock.monotonic = clock.monotonic.saturating_add(by);
    }

    /// Lets the stopped time of day move on by `step` at each reading.
    pub fn tick(&self, step: Duration) {
        self.stop_clock();
        self.0.clock.lock().unwrap().step = step;
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl World for Stage {
    fn wall_time(&self) -> WallTime {
        let mut clock = self.0.clock.lock().unwrap();
        let Some(shows) = clock.shows else {
            return self.0.real.wall_time();
        };
        clock.shows = Some(shows.after(clock.step));
        WallTime::from_millis(shows.as_millis())
    }

    fn monotonic(&self) -> Duration {
        let clock = self.0.clock.lock().unwrap();
        if clock.shows.is_some() {
            clock.monotonic
        } else {
            self.0.real.monotonic()
        }
    }

    fn random_u64(&self) -> u64 {
        self.0.real.random_u64()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.real.sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.real.spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.real.blocking(work);
    }

    fn offload(&self, task: BoxFuture<'static, ()>) {
        self.0.real.offload(task);
    }

    fn thread(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        self.0.real.thread(name, body)
    }

    fn pass(&self, sync_point: SyncPoint) -> Option<BoxFuture<'static, ()>> {
        if self.0.fenced.load(Ordering::SeqCst) {
            // Never resolves: the task waits until its runtime drops it.
            return Some(Box::pin(std::future::pending()));
        }
        // Removed, so that a hold stops a single piece of work.
        let (arrived, mut released) = self.0.armed.lock().unwrap().remove(&sync_point)?;
        let mut arrived = Some(arrived);
        // Poll the release before the arrival is reported: `released` then has the waker of the
        // task. The release wakes the task, whose poll starts at its outermost future. A kill that
        // the test sent in between is therefore noticed before the work continues.
        Some(Box::pin(std::future::poll_fn(move |context| {
            // An error means that the test dropped its hold, which is the release.
            let released = released.poll_unpin(context).map(drop);
            if let Some(arrived) = arrived.take() {
                let _ = arrived.send(());
            }
            released
        })))
    }
}
