//! Group commit: [`Committer`] merges submitted batches into one durable write, on one thread.
//!
//! ```text
//!  submit ─> queue ─gather─> in flight ─sink─> Ok    ─> completions: Ok
//!              │                 │   └───────> Err   ─> completions: Unknown ┐ poisoned: the queue
//!              │                 │   └───────> panic ─> completions: Unknown ├ and later batches
//!              │                 └── watch: overdue  ─> completions: Unknown ┘ are NotStarted
//!              └── closed: later batches are NotStarted(Closed), the queue still commits
//! ```
//!
//! Guards I9 (an `Ok` completion means durable) and I10 (each completion fires exactly once, with
//! the known outcome). Callers bound the queue: the committer itself admits everything.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Batch, CommitError, Completion, IndexStats, StallWatch};
use crate::env::Env;
use crate::types::{Error, ErrorKind, Result};

mod sink;

pub(crate) use sink::{Changes, GroupOutcome, GroupSink, Sink};

/// Interval at which [`Committer::wait`] checks whether the last commit is overdue.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Share of the duration of the last commit for which the next one waits for its batches: a quarter.
const LINGER_SHARE: u32 = 4;
/// Longest wait of a commit for more batches.
const LINGER_MAX: Duration = Duration::from_millis(2);
/// Duration of a commit from which the next one waits. A short commit with few batches costs less
/// than the wait.
const LINGER_FROM: Duration = Duration::from_millis(1);

/// Limits of a [`Committer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitterOptions {
    /// Longest duration of a commit. A longer commit is overdue: see [`StallWatch`].
    pub(crate) deadline: Duration,
    /// Maximal size of keys and values merged into one commit, in bytes. A larger batch commits
    /// alone.
    pub(crate) merge_bytes_max: usize,
    /// Maximal number of writes merged into one commit. A larger batch commits alone.
    pub(crate) merge_changes_max: usize,
}

impl Default for CommitterOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            merge_bytes_max: 8 * 1024 * 1024,
            merge_changes_max: 4096,
        }
    }
}

/// State of the thread after [`Committer::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadEnd {
    /// The thread has dropped the sink and ended.
    Joined,
    /// The thread hangs in an overdue commit, or is the calling thread. It drops the sink when it
    /// can.
    Detached,
}

/// Queue of submitted batches, and the thread that merges and commits them.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the operating system can't start a thread.
    pub(crate) fn start(
        env: &Env,
        options: CommitterOptions,
        sink: impl GroupSink,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            env: env.clone(),
            options,
            state: Mutex::new(State::new(options.deadline)),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        let thread = env.thread("cenotaph-commit", {
            let shared = shared.clone();
            move || {
                // `run` drops the sink before `end` reports the end: a caller that waits for the
                // end may reopen the store.
                if catch_unwind(AssertUnwindSafe(|| shared.run(sink))).is_err() {
                    shared.poison(CommitError::Unknown(panicked()));
                }
                shared.end();
            }
        });
        let thread = thread.map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "open",
                "the commit thread can't be started",
            )
            .with_source(error)
        })?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues a batch: see [`Index::submit`](super::Index::submit).
    pub(crate) fn submit(&self, batch: Batch, completion: Completion) {
        let mut state = self.shared.lock();
        if let Some(reason) = state.refusal() {
            // No lock is held while a completion runs: it may call the committer.
            drop(state);
            return fire(completion, Err(CommitError::not_started(&reason)));
        }
        state.queue.push_back((batch, completion));
        let wake = state.queue.len() >= state.wake_at;
        if wake {
            state.wake_at = usize::MAX;
        }
        drop(state);
        // A wake-up is a system call. `wake_at` is changed under the lock, so that only one caller
        // pays for it.
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Poisons the committer if the commit in flight is overdue at `now`: see
    /// [`Index::watch`](super::Index::watch).
    pub(crate) fn watch(&self, now: Duration) {
        self.shared.watch(now);
    }

    /// Returns the reason why the committer is poisoned, or `None` if it is not poisoned.
    pub(crate) fn poisoned(&self) -> Option<Error> {
        self.shared.lock().poison.clone()
    }

    /// Returns the counters of the committer.
    pub(crate) fn stats(&self) -> IndexStats {
        let state = self.shared.lock();
        let waiting = (state.queue.len() + state.in_flight.len()) as u64;
        IndexStats {
            batches: state.batches,
            syncs: state.syncs,
            waiting,
        }
    }

    /// Refuses later batches. Queued batches still commit. Does not wait.
    pub(crate) fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }

    /// Waits until the thread has ended, or hangs beyond its deadline. Blocks: call it after
    /// [`close`](Self::close), and not on an async worker.
    pub(crate) fn wait(&self) -> ThreadEnd {
        if self.is_current_thread() {
            return ThreadEnd::Detached;
        }
        let mut state = self.shared.lock();
        while !state.ended && !state.hung {
            let waited = self.shared.ended.wait_timeout(state, WATCH_INTERVAL);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            // The owner may have stopped calling `watch`. Without this check a hung commit would
            // block the caller forever.
            self.shared.watch(self.shared.env.monotonic());
            state = self.shared.lock();
        }
        if !state.ended {
            return ThreadEnd::Detached;
        }
        drop(state);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("commit thread panicked at its end");
        }
        ThreadEnd::Joined
    }

    fn is_current_thread(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread
            .as_ref()
            .is_some_and(|thread| thread.thread().id() == std::thread::current().id())
    }
}

impl Drop for Committer {
    /// Commits the queued batches and joins the thread. A completion may drop the last reference,
    /// on the commit thread itself. The thread then ends without a join.
    fn drop(&mut self) {
        self.close();
        self.wait();
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

struct Shared {
    env: Env,
    options: CommitterOptions,
    state: Mutex<State>,
    /// Signals the thread that the queue is not empty, or that the committer is closing.
    work: Condvar,
    /// Signals [`Committer::wait`] that the thread has ended or hangs.
    ended: Condvar,
}

struct State {
    queue: VecDeque<(Batch, Completion)>,
    // Part of the shared state and not of the thread, so that `watch` can fire these completions
    // while the thread hangs in the sink.
    in_flight: Vec<Completion>,
    /// Number of non-empty batches in flight.
    in_flight_batches: u64,
    stall: StallWatch,
    poison: Option<Error>,
    /// True if an overdue commit has poisoned the committer: the thread may never return.
    hung: bool,
    closing: bool,
    /// Length of the queue at which the sleeping thread is woken. `usize::MAX` if it is awake, or
    /// about to be.
    wake_at: usize,
    /// Start of the last commit.
    begun: Duration,
    /// Number of non-empty batches in the last commit.
    last_batches: u64,
    /// Duration of the last commit.
    last_commit: Duration,
    ended: bool,
    batches: u64,
    syncs: u64,
}

impl State {
    fn new(deadline: Duration) -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: Vec::new(),
            in_flight_batches: 0,
            stall: StallWatch::new(deadline),
            poison: None,
            hung: false,
            closing: false,
            wake_at: usize::MAX,
            begun: Duration::ZERO,
            last_batches: 0,
            last_commit: Duration::ZERO,
            ended: false,
            batches: 0,
            syncs: 0,
        }
    }

    fn refusal(&self) -> Option<Error> {
        if self.closing {
            return Some(Error::new(
                ErrorKind::Closed,
                "close",
                "the index was closed before",
            ));
        }
        self.poison.clone()
    }

    /// Returns the number of batches that the next commit should have, and how long it waits for
    /// them at most.
    ///
    /// After a long commit, all its callers submit their next batches within a short time. Without
    /// a wait the first batch would have a commit of its own, and all others would wait for it.
    fn patience(&self) -> (usize, Duration) {
        let wanted = usize::try_from(self.last_batches).unwrap_or(usize::MAX);
        let is_short = self.last_commit < LINGER_FROM;
        if is_short || self.closing || self.queue.len() >= wanted {
            return (wanted, Duration::ZERO);
        }
        (wanted, (self.last_commit / LINGER_SHARE).min(LINGER_MAX))
    }

    /// Moves queued batches in flight, as many as fit into one merge, but at least one.
    fn gather(&mut self, options: &CommitterOptions, now: Duration) -> Vec<Batch> {
        let mut bytes = 0;
        let mut changes = 0;
        let mut batches = Vec::new();
        while let Some((batch, _)) = self.queue.front() {
            bytes += batch.bytes();
            changes += batch.ops().len();
            if !batches.is_empty()
                && (bytes > options.merge_bytes_max || changes > options.merge_changes_max)
            {
                break;
            }
            let (batch, completion) = self
                .queue
                .pop_front()
                .expect("front() has returned an entry, and the lock is held");
            self.in_flight_batches += u64::from(!batch.is_empty());
            self.in_flight.push(completion);
            batches.push(batch);
        }
        self.stall.begin(now);
        self.begun = now;
        batches
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the commit thread until the committer is poisoned, or closed and its queue empty.
    fn run(&self, mut sink: impl GroupSink) {
        while let Some(batches) = self.next() {
            // Unwind safe: the sink is not called again after a panic, so that nothing reads its
            // broken state.
            match catch_unwind(AssertUnwindSafe(|| sink.commit_group(batches))) {
                Ok(Ok(outcome)) => self.settle(&outcome),
                Ok(Err(error)) => self.poison(error),
                Err(_) => self.poison(CommitError::Unknown(panicked())),
            }
        }
    }

    /// Waits for batches to commit. Returns `None` if the committer is poisoned, or closed with an
    /// empty queue.
    fn next(&self) -> Option<Vec<Batch>> {
        let mut state = self.lock();
        loop {
            if state.poison.is_some() {
                return None;
            }
            if !state.queue.is_empty() {
                state = self.linger(state);
                return Some(state.gather(&self.options, self.env.monotonic()));
            }
            if state.closing {
                return None;
            }
            state.wake_at = 1;
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.wake_at = usize::MAX;
        }
    }

    /// Waits for more batches, as long as [`State::patience`] tells.
    fn linger<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (wanted, patience) = state.patience();
        if patience.is_zero() {
            return state;
        }
        state.wake_at = wanted;
        let waited = self.work.wait_timeout_while(state, patience, |state| {
            state.queue.len() < wanted && !state.closing && state.poison.is_none()
        });
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.wake_at = usize::MAX;
        state
    }

    /// Completes the commit in flight, unless it was overdue and has completed before.
    fn settle(&self, outcome: &GroupOutcome) {
        let mut state = self.lock();
        // `watch` has already fired these completions with `Unknown`. A late success is not
        // reported.
        if state.poison.is_some() {
            return;
        }
        state.stall.end();
        state.syncs += outcome.syncs;
        state.last_batches = state.in_flight_batches;
        state.last_commit = self.env.monotonic().saturating_sub(state.begun);
        state.batches += mem::take(&mut state.in_flight_batches).saturating_sub(outcome.unwritten);
        let completions = mem::take(&mut state.in_flight);
        // Completions run without the lock, because they may submit the next batch.
        drop(state);
        for (position, completion) in completions.into_iter().enumerate() {
            if outcome.changed.contains(&position) {
                fire(completion, Err(CommitError::Changed));
            } else {
                fire(completion, Ok(()));
            }
        }
    }

    fn watch(&self, now: Duration) {
        let mut state = self.lock();
        if state.poison.is_some() {
            return;
        }
        let Some(under_way) = state.stall.look(now) else {
            return;
        };
        state.hung = true;
        let message = format!("commit overdue: under_way_ms={}", under_way.as_millis());
        let reason = Error::new(ErrorKind::Unavailable, "commit", message);
        self.poison_locked(state, CommitError::Unknown(reason));
    }

    fn poison(&self, error: CommitError) {
        let state = self.lock();
        if state.poison.is_none() {
            self.poison_locked(state, error);
        }
    }

    /// Poisons the committer and fires all completions. The sink is not called again.
    fn poison_locked(&self, mut state: MutexGuard<'_, State>, error: CommitError) {
        let is_unknown = matches!(error, CommitError::Unknown(_));
        let reason = &error.into_error();
        state.stall.end();
        state.poison = Some(reason.clone());
        let in_flight = mem::take(&mut state.in_flight);
        let not_started = mem::take(&mut state.queue);
        drop(state);
        tracing::error!(error = ?reason, "commit failed: index is poisoned and must be reopened");
        for completion in in_flight {
            let error = if is_unknown {
                CommitError::unknown(reason)
            } else {
                CommitError::not_started(reason)
            };
            fire(completion, Err(error));
        }
        for (_, completion) in not_started {
            fire(completion, Err(CommitError::not_started(reason)));
        }
        self.ended.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.ended.notify_all();
    }
}

/// Fires a completion and catches its panic, so that the thread and the other completions continue.
fn fire(completion: Completion, outcome: Result<(), CommitError>) {
    if catch_unwind(AssertUnwindSafe(|| completion(outcome))).is_err() {
        tracing::error!("completion panicked");
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "commit", "the commit panicked")
}

#[cfg(test)]
mod tests;
