//! Batches of a simulated index that wait for their commit, and their completions:
//! [`CommitQueue`]. Both simulated indexes use it.
//!
//! ```text
//! submit ──> waiting ──gather──> in flight ──settle──> completions: Ok, or Changed
//!               │                    └──fail───> Unknown, or NotStarted
//!               └──fail───> NotStarted
//! ```
//!
//! Guards the half of I10 that each index needs: a completion fires exactly once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cenotaph_storage::index::{Batch, CommitError, Completion, IndexStats, StallWatch};
use cenotaph_storage::{Error, ErrorKind};
use tokio::sync::Notify;

use crate::world::scheduler::{Scheduler, sleep};

/// Interval at which a close checks whether the last commit is overdue.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Queue of an index.
pub(super) struct CommitQueue {
    state: Mutex<QueueState>,
    /// Notified when the committer stops.
    idle: Notify,
}

/// Batches under way, and the state of the index.
struct QueueState {
    waiting: VecDeque<(Batch, Completion)>,
    in_flight: Vec<(Batch, Completion)>,
    stall: StallWatch,
    /// True while the committer task exists. There is never a second one.
    running: bool,
    closed: bool,
    poison: Option<Error>,
    stats: IndexStats,
}

/// Outcome of the batches in flight when an index fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InFlight {
    /// They may be durable.
    Unknown,
    /// They never will be.
    NotStarted,
}

impl CommitQueue {
    /// Creates an empty queue, whose commits are overdue after `deadline`.
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            state: Mutex::new(QueueState {
                waiting: VecDeque::new(),
                in_flight: Vec::new(),
                stall: StallWatch::new(deadline),
                running: false,
                closed: false,
                poison: None,
                stats: IndexStats::default(),
            }),
            idle: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a batch, or refuses it. Returns true if the caller must start the committer.
    pub(super) fn submit(
        &self,
        scheduler: &Scheduler,
        batch: Batch,
        completion: Completion,
    ) -> bool {
        let mut queue = self.lock();
        let closed = || Error::new(ErrorKind::Closed, "close", "the index was closed before");
        // Checked under the lock of the queue: no batch is queued after a close.
        let refusal = queue.closed.then(closed).or_else(|| queue.poison.clone());
        if let Some(reason) = refusal {
            drop(queue);
            completion(Err(CommitError::not_started(&reason)));
            return false;
        }
        queue.waiting.push_back((batch, completion));
        let mut state = scheduler.durable_state().state();
        state.waiting(queue.waiting.iter().map(|(batch, _)| batch));
        !std::mem::replace(&mut queue.running, true)
    }

    /// Takes a random number of batches off the queue. Returns `None`, and marks the committer as
    /// stopped, if the queue is empty or the index is poisoned.
    pub(super) fn gather(&self, scheduler: &Scheduler) -> Option<Vec<Batch>> {
        let mut queue = self.lock();
        if queue.waiting.is_empty() || queue.poison.is_some() {
            queue.running = false;
            return None;
        }
        let waiting = queue.waiting.len() as u64;
        // A batch alone is not drawn: a draw would change the schedule of every single-batch
        // commit.
        let some = if waiting == 1 {
            1
        } else {
            scheduler.durable_state().state().scheduling.below(waiting) + 1
        };
        queue.stall.begin(scheduler.monotonic());
        let mut batches = Vec::new();
        for _ in 0..some {
            let Some((batch, completion)) = queue.waiting.pop_front() else {
                break;
            };
            // A clone remains in flight, for its completion or for the list of unknown outcomes.
            queue.in_flight.push((batch.clone(), completion));
            batches.push(batch);
        }
        Some(batches)
    }

    /// Completes the batches in flight, those at the positions `changed` with
    /// [`CommitError::Changed`]. Does nothing if the commit was overdue and has been answered.
    pub(super) fn settle(&self, syncs: u64, changed: &BTreeSet<usize>) {
        let mut queue = self.lock();
        if queue.poison.is_some() {
            return;
        }
        queue.stall.end();
        queue.stats.syncs += syncs;
        let ended = std::mem::take(&mut queue.in_flight);
        let is_durable = |(position, (batch, _)): &(usize, &(Batch, Completion))| {
            !batch.is_empty() && !changed.contains(position)
        };
        queue.stats.batches += ended.iter().enumerate().filter(is_durable).count() as u64;
        // A completion may submit the next batch, so the queue is unlocked first.
        drop(queue);
        for (position, (_, completion)) in ended.into_iter().enumerate() {
            completion(if changed.contains(&position) {
                Err(CommitError::Changed)
            } else {
                Ok(())
            });
        }
    }

    /// Fails the index: batches in flight have this outcome, queued batches were not started, and
    /// every later batch is refused. The first reason counts.
    pub(super) fn fail(&self, scheduler: &Scheduler, reason: &Error, outcome: InFlight) {
        let mut queue = self.lock();
        if queue.poison.is_some() {
            return;
        }
        queue.stall.end();
        queue.poison = Some(reason.clone());
        let in_flight = std::mem::take(&mut queue.in_flight);
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        {
            let mut state = scheduler.durable_state().state();
            state.coverage.count("index: poisoned");
            if outcome == InFlight::Unknown {
                state
                    .model
                    .unknown(in_flight.iter().map(|(batch, _)| batch));
            }
        }
        for (_, completion) in in_flight {
            completion(Err(match outcome {
                InFlight::Unknown => CommitError::unknown(reason),
                InFlight::NotStarted => CommitError::not_started(reason),
            }));
        }
        // A queued batch was never written.
        for (_, completion) in waiting {
            completion(Err(CommitError::not_started(reason)));
        }
    }

    /// Fails the index if its commit is overdue.
    pub(super) fn watch(&self, scheduler: &Scheduler, now: Duration) {
        let overdue = self.lock().stall.look(now);
        if overdue.is_some() {
            let mut state = scheduler.durable_state().state();
            state.coverage.count("index: a commit was overdue");
            drop(state);
            let reason = Error::new(ErrorKind::Unavailable, "commit", "a commit is overdue");
            self.fail(scheduler, &reason, InFlight::Unknown);
        }
    }

    /// Refuses every later batch. Queued batches still commit.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Returns true after a close.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Records that the committer has stopped.
    pub(super) fn stopped(&self) {
        self.idle.notify_waiters();
    }

    /// Waits until no commit is under way. Returns false if a commit hangs: it is not awaited.
    pub(super) async fn drained(&self, scheduler: &Scheduler) -> bool {
        loop {
            // The waiter registers before the check, so a notification in between is not lost.
            let idle = self.idle.notified();
            let (running, is_failed) = {
                let queue = self.lock();
                (queue.running, queue.poison.is_some())
            };
            if !running {
                return true;
            }
            if is_failed {
                return false;
            }
            // No actor watches the commits any more while the engine closes.
            self.watch(scheduler, scheduler.monotonic());
            tokio::select! {
                biased;
                () = idle => {}
                () = sleep(WATCH_INTERVAL) => {}
            }
        }
    }

    /// Returns the reason why the index is poisoned.
    pub(super) fn poisoned(&self) -> Option<Error> {
        self.lock().poison.clone()
    }

    /// Returns the counters of the index.
    pub(super) fn stats(&self) -> IndexStats {
        let queue = self.lock();
        IndexStats {
            waiting: (queue.waiting.len() + queue.in_flight.len()) as u64,
            ..queue.stats
        }
    }

    /// Returns the error of a close after a failed commit.
    pub(super) fn unknown_end(&self) -> Error {
        let message = "a commit failed, so some submitted batches may not be durable";
        let error = Error::new(ErrorKind::Indeterminate, "close", message);
        match self.poisoned() {
            Some(reason) => error.with_source(reason),
            None => error,
        }
    }
}
