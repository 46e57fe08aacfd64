//! The stage: a real world in which a test may stop work at a [`Seam`], look, kill its actor, and
//! let go. Its time of day may be taken over by the test, too, and with it the time since the
//! beginning; timers go on as they do.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use cenotaph_storage::{Real, Seam, Timestamp, World};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// The real world with seams that can be held. Cheap to clone.
#[derive(Clone)]
pub struct Stage(Arc<Inner>);

struct Inner {
    real: Real,
    armed: Mutex<BTreeMap<Seam, Armed>>,
    clock: Mutex<Clock>,
    /// Nothing passes a seam any more.
    fenced: AtomicBool,
}

/// The time of day, as the test wants it.
#[derive(Clone, Copy, Default)]
struct Clock {
    /// What it shows; none if it is the real one.
    shows: Option<Timestamp>,
    /// How far it moves each time somebody looks at it.
    step: Duration,
    /// The time since the beginning while the time of day is the test's: only `advance` moves it.
    monotonic: Duration,
}

/// What tells that work has arrived, and what lets it go on.
type Armed = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// One piece of work held at a seam. Dropping it lets the work go on.
pub struct Held {
    arrived: Option<oneshot::Receiver<()>>,
    _release: oneshot::Sender<()>,
}

impl Held {
    /// Resolves when work has arrived at the seam.
    pub async fn arrived(&mut self) {
        if let Some(arrived) = self.arrived.take() {
            arrived.await.expect("the stage outlives its seams");
        }
    }

    /// Lets the work go on.
    pub fn release(self) {}
}

impl Stage {
    /// A stage in the current tokio runtime.
    pub fn new() -> Self {
        let real = Real::current().expect("tests run within a runtime");
        Self(Arc::new(Inner {
            real,
            armed: Mutex::default(),
            clock: Mutex::default(),
            fenced: AtomicBool::new(false),
        }))
    }

    /// Holds the next work that passes this seam.
    pub fn hold(&self, seam: Seam) -> Held {
        let (arrived, arrival) = oneshot::channel();
        let (release, released) = oneshot::channel();
        self.0
            .armed
            .lock()
            .unwrap()
            .insert(seam, (arrived, released));
        Held {
            arrived: Some(arrival),
            _release: release,
        }
    }

    /// From now on work that comes to a seam waits there for ever, as if the process had ended: no
    /// actor acts on the death of another.
    pub fn fence(&self) {
        self.0.fenced.store(true, Ordering::SeqCst);
    }

    /// Stops the time of day and the time since the beginning: from now on only the test moves
    /// them.
    pub fn stop_clock(&self) -> Timestamp {
        let now = self.now();
        let mut clock = self.0.clock.lock().unwrap();
        if clock.shows.is_none() {
            clock.monotonic = self.0.real.monotonic();
        }
        clock.shows = Some(now);
        now
    }

    /// Sets the time of day, either way, as an administrator does: it stops there, and no time has
    /// passed.
    pub fn set_clock(&self, shows: Timestamp) {
        self.stop_clock();
        self.0.clock.lock().unwrap().shows = Some(shows);
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        let shows = self.stop_clock();
        let mut clock = self.0.clock.lock().unwrap();
        clock.shows = Some(shows.after(by));
        clock.monotonic = clock.monotonic.saturating_add(by);
    }

    /// From now on the stopped time of day moves on by this each time somebody looks at it.
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
    fn now(&self) -> Timestamp {
        let mut clock = self.0.clock.lock().unwrap();
        let Some(shows) = clock.shows else {
            return self.0.real.now();
        };
        clock.shows = Some(shows.after(clock.step));
        shows
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

    fn pass(&self, seam: Seam) -> Option<BoxFuture<'static, ()>> {
        if self.0.fenced.load(Ordering::SeqCst) {
            return Some(Box::pin(std::future::pending()));
        }
        let (arrived, mut released) = self.0.armed.lock().unwrap().remove(&seam)?;
        let mut arrived = Some(arrived);
        // It waits before it says so: whatever the test does then, the work is polled from its
        // beginning again, and sees it before it goes on.
        Some(Box::pin(std::future::poll_fn(move |context| {
            let released = released.poll_unpin(context).map(drop);
            if let Some(arrived) = arrived.take() {
                let _ = arrived.send(());
            }
            released
        })))
    }
}
