//! Group commit: many submitted batches, one durable write, one thread.
//!
//! Holds [`Committer`] and the [`Sink`] it feeds. Guards I9 (an `Ok` completion means durable) and
//! I10 (each completion is fired exactly once, with what is known). Deliberately not here: any
//! particular store (`fjall.rs` brings the sink) and admission (the queue is bounded by those who
//! submit).
//!
//! ```text
//!  submit ──> queue ──gather──> in flight ──sink──> Ok      ──> completions: Ok
//!               │                   │   └─────────> Err     ──> completions: Unknown     ┐
//!               │                   │   └─────────> panic   ──> completions: Unknown     ├ poisoned: the queue and
//!               │                   └── watch: overdue      ──> completions: Unknown     ┘ all later: NotStarted
//!               └── closed: later ones NotStarted(Closed), the queue is still committed
//! ```
//!
//! Completions in flight live in the shared state and not on the thread, so that whoever watches
//! can answer them while the thread hangs in the sink. No lock is held while a completion or the
//! sink runs.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::{Batch, CommitError, Completion, IndexStats, StallWatch, Table};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// How often one who waits for the end looks whether the last commit is overdue.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What one commit changes: a value to set, or none to remove the key. Each key once, for a store
/// may give all changes of one write the same sequence number and could then not tell which is the
/// last.
pub(crate) type Changes = BTreeMap<(Table, Bytes), Option<Bytes>>;

/// Where commits go.
pub(crate) trait Sink: Send + 'static {
    /// Applies all changes or none of them. They are durable and visible when it returns.
    ///
    /// # Errors
    /// Whatever the store says; the outcome then counts as unknown and the sink is never called
    /// again.
    fn commit(&mut self, changes: Changes) -> Result<()>;
}

/// The limits of a [`Committer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitterOptions {
    /// A commit under way for longer is overdue: see [`StallWatch`].
    pub(crate) deadline: Duration,
    /// Most bytes of keys and values merged into one commit. A larger single batch is a commit of
    /// its own.
    pub(crate) merge_bytes_max: usize,
    /// Most changes merged into one commit. A larger single batch is a commit of its own.
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

/// How a committer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its thread has let go of the sink and is gone.
    Joined,
    /// Its thread hangs in an overdue commit, or is the one that asks: it lets go of the sink when
    /// it can.
    Detached,
}

/// Merges what is submitted and commits it on a thread of its own.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the operating system gives no thread.
    pub(crate) fn start(env: &Env, options: CommitterOptions, sink: impl Sink) -> Result<Self> {
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
                // The sink is dropped before the end is announced: who waits for the end may want
                // to reopen the store.
                if catch_unwind(AssertUnwindSafe(|| shared.run(sink))).is_err() {
                    shared.poison(&panicked());
                }
                shared.end();
            }
        });
        let thread = thread.map_err(|error| {
            Error::new(
                ErrorKind::Unavailable,
                "open",
                "the commit thread could not be started",
            )
            .with_source(error)
        })?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues a batch; see [`Index::submit`](super::Index::submit).
    pub(crate) fn submit(&self, batch: Batch, completion: Completion) {
        let mut state = self.shared.lock();
        if let Some(reason) = state.refusal() {
            drop(state);
            return fire(completion, Err(CommitError::not_started(&reason)));
        }
        state.queue.push_back((batch, completion));
        let wake = mem::take(&mut state.idle);
        drop(state);
        // A wake-up is a system call: only the first of those who find the thread asleep pays for
        // it.
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Poisons if the commit in flight is overdue at `now`; see
    /// [`Index::watch`](super::Index::watch).
    pub(crate) fn watch(&self, now: Duration) {
        self.shared.watch(now);
    }

    /// Why it is poisoned; none if it is not.
    pub(crate) fn poisoned(&self) -> Option<Error> {
        self.shared.lock().poison.clone()
    }

    /// What has been done so far.
    pub(crate) fn stats(&self) -> IndexStats {
        let state = self.shared.lock();
        let waiting = (state.queue.len() + state.in_flight.len()) as u64;
        IndexStats {
            batches: state.batches,
            syncs: state.syncs,
            waiting,
        }
    }

    /// Refuses what is submitted from now on. What is queued is still committed. Does not wait.
    pub(crate) fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }

    /// Waits until the thread is gone, or hangs beyond its deadline. Blocks: call it off the async
    /// workers, after [`close`](Self::close).
    pub(crate) fn wait(&self) -> Ended {
        if self.is_current_thread() {
            return Ended::Detached;
        }
        let mut state = self.shared.lock();
        while !state.ended && !state.hung {
            let waited = self.shared.ended.wait_timeout(state, WATCH_INTERVAL);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            // Nobody else may be left to watch.
            self.shared.watch(self.shared.env.monotonic());
            state = self.shared.lock();
        }
        if !state.ended {
            return Ended::Detached;
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
            tracing::error!("the commit thread panicked at its end");
        }
        Ended::Joined
    }

    fn is_current_thread(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread
            .as_ref()
            .is_some_and(|thread| thread.thread().id() == std::thread::current().id())
    }
}

impl Drop for Committer {
    /// Commits what is queued and joins the thread. The last owner may be a completion, which runs
    /// on that very thread: then the thread ends by itself.
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
    /// Signals the thread: there is something to do.
    work: Condvar,
    /// Signals who waits for the end.
    ended: Condvar,
}

struct State {
    queue: VecDeque<(Batch, Completion)>,
    in_flight: Vec<Completion>,
    /// How many of those in flight change anything.
    in_flight_batches: u64,
    stall: StallWatch,
    poison: Option<Error>,
    /// Poisoned because a commit is overdue: the thread may never return.
    hung: bool,
    closing: bool,
    /// The thread sleeps and nobody has woken it yet.
    idle: bool,
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
            idle: false,
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

    /// Moves as many queued batches in flight as fit into one merge, but always the first.
    fn gather(&mut self, options: &CommitterOptions, now: Duration) -> Vec<Batch> {
        let (mut bytes, mut changes) = (0, 0);
        let mut batches = Vec::new();
        while let Some((batch, _)) = self.queue.front() {
            bytes += batch.bytes();
            changes += batch.changes().len();
            if !batches.is_empty()
                && (bytes > options.merge_bytes_max || changes > options.merge_changes_max)
            {
                break;
            }
            let (batch, completion) = self.queue.pop_front().expect("it has a front");
            self.in_flight_batches += u64::from(!batch.is_empty());
            self.in_flight.push(completion);
            batches.push(batch);
        }
        self.stall.begin(now);
        batches
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of the thread.
    fn run(&self, mut sink: impl Sink) {
        while let Some(batches) = self.next() {
            match commit(&mut sink, batches) {
                Ok(syncs) => self.settle(syncs),
                Err(reason) => self.poison(&reason),
            }
        }
    }

    /// Waits for something to commit; none when poisoned, or closed and done.
    fn next(&self) -> Option<Vec<Batch>> {
        let mut state = self.lock();
        loop {
            if state.poison.is_some() {
                return None;
            }
            if !state.queue.is_empty() {
                return Some(state.gather(&self.options, self.env.monotonic()));
            }
            if state.closing {
                return None;
            }
            state.idle = true;
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
        }
    }

    /// The commit in flight is durable: answers it, unless it was overdue and has been answered.
    fn settle(&self, syncs: u64) {
        let mut state = self.lock();
        if state.poison.is_some() {
            return;
        }
        state.stall.end();
        state.syncs += syncs;
        state.batches += mem::take(&mut state.in_flight_batches);
        let completions = mem::take(&mut state.in_flight);
        drop(state);
        for completion in completions {
            fire(completion, Ok(()));
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
        let message = format!(
            "a commit is overdue: under_way_ms={}",
            under_way.as_millis()
        );
        self.poison_locked(
            state,
            &Error::new(ErrorKind::Unavailable, "commit", message),
        );
    }

    fn poison(&self, reason: &Error) {
        let state = self.lock();
        if state.poison.is_none() {
            self.poison_locked(state, reason);
        }
    }

    /// Nothing is handed to the sink any more. Answers everything.
    fn poison_locked(&self, mut state: MutexGuard<'_, State>, reason: &Error) {
        state.stall.end();
        state.poison = Some(reason.clone());
        let unknown = mem::take(&mut state.in_flight);
        let not_started = mem::take(&mut state.queue);
        drop(state);
        tracing::error!(error = ?reason, "a commit failed: the index is poisoned and must be reopened");
        for completion in unknown {
            fire(completion, Err(CommitError::unknown(reason)));
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

/// Merges and commits; gives the number of syncs it took.
fn commit(sink: &mut impl Sink, batches: Vec<Batch>) -> Result<u64> {
    let changes = merge(batches);
    if changes.is_empty() {
        return Ok(0);
    }
    // The sink is not called again after a panic, so that whatever it left half done is seen by
    // nobody.
    match catch_unwind(AssertUnwindSafe(|| sink.commit(changes))) {
        Ok(outcome) => outcome.map(|()| 1),
        Err(_) => Err(panicked()),
    }
}

/// The last change of each key wins, across all batches.
fn merge(batches: Vec<Batch>) -> Changes {
    let changes = batches.into_iter().flat_map(Batch::into_changes);
    changes
        .map(|(table, key, value)| ((table, key), value))
        .collect()
}

/// A completion that panics is its owner's bug: it must not take the other completions, or the
/// thread, with it.
fn fire(completion: Completion, outcome: Result<(), CommitError>) {
    if catch_unwind(AssertUnwindSafe(|| completion(outcome))).is_err() {
        tracing::error!("a completion panicked");
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Unavailable, "commit", "the commit panicked")
}

#[cfg(test)]
mod tests;
