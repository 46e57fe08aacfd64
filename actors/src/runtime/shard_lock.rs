//! Shard locks: several shards lock objects for a commit.
//!
//! ```text
//! shard    Lock ──> reads the states ──granted──> waits, decides nothing ─────> pending writes
//! task                                   │ holds all locks: decides, submits ─┘
//!                                        └ dropped, or void: nothing is committed
//!
//! state    Held ──commit──> Committed (new states)        Held ──the shard dies──> Void
//! ```
//!
//! Guards I3 for commits that touch objects of several shards. While a lock is held its shard
//! decides nothing. A lock whose shard has died cannot commit, because both sides share one state
//! under a mutex. So a shard's successor, which first passes the index's barrier, finds either the
//! batch submitted before its barrier, or no batch at all. The task that holds locks never waits
//! for a caller, and waits for the disk only where a shard has just been restarted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cenotaph_storage::ObjectId;
use cenotaph_storage::decide::{ReadSet, RowState};
use tokio::sync::oneshot;

use crate::runtime::ticket::{Durable, Ticket};

/// Lock on some objects of a shard, for a commit. Dropping it releases the objects unchanged.
pub(crate) struct ShardLock {
    /// States of the objects, in the order of the request.
    pub(crate) row_states: Vec<RowState>,
    /// Entries from which these states were read.
    pub(crate) reads: ReadSet,
    /// Ticket of the commit among the shard's batches.
    pub(crate) ticket: Ticket,
    /// Progress of the shard, to be updated when the commit is durable.
    pub(crate) durable: Durable,
    state: Arc<Mutex<State>>,
    _ended: oneshot::Sender<()>,
}

/// The shard's side of a lock. Dropping it voids the lock, unless the lock has committed.
pub(crate) struct LockedShard {
    state: Arc<Mutex<State>>,
    ended: oneshot::Receiver<()>,
}

enum State {
    Held,
    /// New states of the objects once the commit is durable.
    Committed(Vec<(ObjectId, RowState)>),
    /// The shard has died, or the lock has ended.
    Void,
}

impl ShardLock {
    /// Creates a lock and the shard's side of it.
    pub(crate) fn new(
        row_states: Vec<RowState>,
        reads: ReadSet,
        ticket: Ticket,
        durable: Durable,
    ) -> (Self, LockedShard) {
        let state = Arc::new(Mutex::new(State::Held));
        let (sender, ended) = oneshot::channel();
        let held = LockedShard {
            state: Arc::clone(&state),
            ended,
        };
        (
            Self {
                row_states,
                reads,
                ticket,
                durable,
                state,
                _ended: sender,
            },
            held,
        )
    }
}

impl LockedShard {
    /// Waits until the lock has ended. Returns the new states of the objects if it has committed.
    pub(crate) async fn ended(mut self) -> Option<Vec<(ObjectId, RowState)>> {
        let _ = (&mut self.ended).await;
        match std::mem::replace(&mut *locked(&self.state), State::Void) {
            State::Committed(next) => Some(next),
            State::Held | State::Void => None,
        }
    }
}

impl Drop for LockedShard {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        if matches!(*state, State::Held) {
            *state = State::Void;
        }
    }
}

/// Commits under all these locks, or not at all.
///
/// Calls `submit` while no shard of the locks can die unnoticed. `next` contains the new states of
/// the objects of each lock. Returns whether `submit` was called: it is not if a shard has died
/// since it granted its lock.
pub(crate) fn commit(
    locks: &[ShardLock],
    next: Vec<Vec<(ObjectId, RowState)>>,
    submit: impl FnOnce(),
) -> bool {
    // In the order of the shards, as every other commit does: no deadlock.
    let mut states: Vec<MutexGuard<'_, State>> =
        locks.iter().map(|lock| locked(&lock.state)).collect();
    // All or none: checked under all mutexes before any state changes.
    if !states.iter().all(|state| matches!(**state, State::Held)) {
        return false;
    }
    for (state, next) in states.iter_mut().zip(next) {
        **state = State::Committed(next);
    }
    // The states stay locked until the batch is submitted. A shard that dies now blocks in the drop
    // of its side, so its successor's barrier comes after the batch.
    submit();
    true
}

// A poisoned mutex is not an error: no code that can panic leaves a state half changed.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ticket::Tickets;
    use cenotaph_storage::Version;
    use futures::FutureExt;

    fn lock() -> (ShardLock, LockedShard) {
        let mut tickets = Tickets::default();
        let ticket = tickets.next();
        ShardLock::new(
            vec![RowState::New(Version::NONE)],
            ReadSet::default(),
            ticket,
            tickets.durable().clone(),
        )
    }

    fn next_states() -> Vec<(ObjectId, RowState)> {
        vec![(
            ObjectId::try_from("k").unwrap(),
            RowState::New(Version::new(7)),
        )]
    }

    #[test]
    fn shard_waits_for_end_of_lock_and_receives_states() {
        let (lock, held) = lock();
        let mut ended = Box::pin(held.ended());
        assert!(ended.as_mut().now_or_never().is_none());
        let mut submitted = 0;
        let locks = [lock];
        assert!(commit(&locks, vec![next_states()], || submitted += 1));
        drop(locks);
        assert_eq!(
            (ended.now_or_never().unwrap(), submitted),
            (Some(next_states()), 1)
        );
    }

    #[test]
    fn dropped_lock_changes_nothing() {
        let (lock, held) = lock();
        drop(lock);
        assert_eq!(held.ended().now_or_never().unwrap(), None);
    }

    #[test]
    fn one_dead_shard_voids_the_whole_commit() {
        let (first, kept) = lock();
        let (second, died) = lock();
        drop(died);
        let locks = [first, second];
        assert!(!commit(
            &locks,
            vec![next_states(), next_states()],
            || panic!("nothing is submitted")
        ));
        drop(locks);
        assert_eq!(kept.ended().now_or_never().unwrap(), None);
    }
}
