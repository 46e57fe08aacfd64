//! Commits of a member: a transaction for each group, repeated until its outcome is known.
//!
//! ```text
//! 1 send the transaction ──answer──> committed, or refused before: again; or gone: fenced
//!     └─ connection lost: the transaction was executed, or will be, or never will
//! 2 ask for its token, on a new connection
//!     ├─ committed ──> its outcome
//!     └─ refused now: it can never commit ──> again, with a new token
//! ```
//!
//! Each line is a step of the world, so that other members, a pause or a crash may come between.
//! Guards I10 (the outcome of a lost commit is asked for and not guessed).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_storage::index::Batch;
use cenotaph_storage::planted::Bug;
use cenotaph_storage::{Error, ErrorKind};
use tokio::sync::oneshot;

use super::server::{Transaction, Verdict};
use super::{Inner, declared_dead};
use crate::disks::shared_store::Token;
use crate::faults::Fault;
use crate::tiers::commit_queue::InFlight;
use crate::world::process::Remote;
use crate::world::scheduler::sleep;

/// Time for which a commit waits for a store that does not answer.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
/// Longest wait before a failed step is repeated, in milliseconds.
const PAUSE_MS_MAX: u64 = 200;
/// Longest time for which a transaction goes on after its connection is lost, in milliseconds.
const LATE_MS_MAX: u64 = 20_000;

/// A commit under way.
struct Attempt {
    begun: Duration,
    token: u64,
    /// True if a transaction with this token was sent and has not been answered.
    is_sent: bool,
    /// True if the outcome of such a transaction was asked for.
    was_asked: bool,
}

/// Result of a step of a commit.
enum Step {
    Committed(BTreeSet<usize>),
    /// Not known, or not committed. To be continued.
    Again,
    Gone,
}

impl Inner {
    /// Commits the queued batches until the queue is empty or the handle is poisoned.
    pub(super) fn start(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.scheduler.spawn("the index", async move {
            inner.scheduler.name_lane("index", false);
            let mut known = Vec::new();
            while let Some(batches) = inner.queue.gather(&inner.scheduler) {
                inner.commit(batches, &mut known).await;
            }
            inner.queue.stopped();
        });
    }

    /// Commits a group and completes its batches.
    async fn commit(&self, batches: Vec<Batch>, known: &mut Vec<u64>) {
        let is_barrier = |batch: &Batch| {
            batch.is_empty() && batch.conditions().is_empty() && batch.range_conditions().is_empty()
        };
        if batches.iter().all(is_barrier) {
            return self.queue.settle(0, &BTreeSet::new());
        }
        let mut attempt = Attempt {
            begun: self.scheduler.monotonic(),
            token: self.scheduler.durable_state().random_id(),
            is_sent: false,
            was_asked: false,
        };
        loop {
            if let Some(outcome) = self.given_up(&attempt) {
                let message = "the shared index did not answer in time";
                let reason = Error::new(ErrorKind::Unavailable, "commit", message);
                return self.queue.fail(&self.scheduler, &reason, outcome);
            }
            let step = if attempt.is_sent {
                self.ask(&mut attempt).await
            } else {
                self.send(&batches, known, &mut attempt).await
            };
            match step {
                Step::Committed(changed) => {
                    *known = vec![attempt.token];
                    let syncs = u64::from(changed.len() < batches.len());
                    // The batches are durable and not acknowledged. A crash may come in between.
                    self.scheduler.pass("index committed", String::new).await;
                    return self.queue.settle(syncs, &changed);
                }
                Step::Gone => {
                    self.fence();
                    return self.queue.fail(
                        &self.scheduler,
                        &declared_dead(),
                        InFlight::NotStarted,
                    );
                }
                Step::Again => {
                    let pause = self.scheduler.durable_state().below(PAUSE_MS_MAX);
                    self.scheduler.sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }

    /// Returns the outcome of the batches in flight if the store has not answered for too long.
    fn given_up(&self, attempt: &Attempt) -> Option<InFlight> {
        let waited = self.scheduler.monotonic().saturating_sub(attempt.begun);
        // A process that was paused for the whole time still asks once.
        let is_over = waited >= OUTAGE_MAX && (!attempt.is_sent || attempt.was_asked);
        is_over.then_some(if attempt.is_sent {
            InFlight::Unknown
        } else {
            InFlight::NotStarted
        })
    }

    /// Sends the transaction and waits for its answer.
    async fn send(&self, batches: &[Batch], known: &[u64], attempt: &mut Attempt) -> Step {
        let size = || format!("{} batches", batches.len());
        self.scheduler.pass("index commit", size).await;
        if self.scheduler.is_cut_off(Remote::Index) {
            return Step::Again;
        }
        let durable_state = self.scheduler.durable_state();
        attempt.is_sent = true;
        attempt.was_asked = false;
        if durable_state.strikes(Fault::IndexCutBefore, size) {
            return self.lost(attempt);
        }
        let is_cut = durable_state.strikes(Fault::IndexCutDuring, size);
        let late = Duration::from_millis(if is_cut {
            durable_state.below(LATE_MS_MAX)
        } else {
            0
        });
        let transaction = Transaction {
            epoch: self.epoch,
            token: attempt.token,
            batches: batches.to_vec(),
            forget: known.to_vec(),
        };
        let answer = self.execute(transaction, late);
        if is_cut {
            return self.lost(attempt);
        }
        let Ok(verdict) = answer.await else {
            return self.lost(attempt);
        };
        if durable_state.strikes(Fault::IndexCutAfter, size) {
            return self.lost(attempt);
        }
        self.scheduler.linger().await;
        attempt.is_sent = false;
        match verdict {
            Verdict::Committed(changed) => Step::Committed(changed),
            Verdict::RolledBack => {
                attempt.token = durable_state.random_id();
                Step::Again
            }
            Verdict::Gone => Step::Gone,
        }
    }

    /// Executes a transaction on the server, where it goes on although its process ends.
    fn execute(&self, transaction: Transaction, late: Duration) -> oneshot::Receiver<Verdict> {
        let (sender, receiver) = oneshot::channel();
        let server = self.scheduler.network();
        server.clone().spawn("the server", async move {
            server.name_lane("index server", false);
            if !late.is_zero() {
                sleep(late).await;
            }
            server.linger().await;
            // The send fails if the connection is cut.
            let verdict = server.durable_state().transact(&transaction);
            drop(sender.send(verdict));
        });
        receiver
    }

    /// Records that the connection of a commit was lost.
    fn lost(&self, attempt: &mut Attempt) -> Step {
        let durable_state = self.scheduler.durable_state();
        durable_state
            .state()
            .coverage
            .count("index: a commit lost its connection");
        self.scheduler.connection_broke();
        if durable_state.is_planted(Bug::LostReplyIsFailure) {
            // Planted bug: the transaction counts as not committed.
            attempt.is_sent = false;
            attempt.token = durable_state.random_id();
        }
        Step::Again
    }

    /// Asks for the outcome of a transaction, and refuses it if it has not committed.
    async fn ask(&self, attempt: &mut Attempt) -> Step {
        self.scheduler
            .pass("index asks for a commit", String::new)
            .await;
        attempt.was_asked = true;
        if self.scheduler.is_cut_off(Remote::Index) {
            return Step::Again;
        }
        let durable_state = self.scheduler.durable_state();
        let token = durable_state.refuse(attempt.token);
        self.scheduler.linger().await;
        if durable_state.strikes(Fault::IndexCutAfter, String::new) {
            return Step::Again;
        }
        let mut state = durable_state.state();
        match token {
            Token::Committed(changed) => {
                state.coverage.count("index: a lost commit was found");
                Step::Committed(changed)
            }
            Token::Refused => {
                state.coverage.count("index: a lost commit was refused");
                drop(state);
                attempt.is_sent = false;
                attempt.token = durable_state.random_id();
                Step::Again
            }
        }
    }
}
