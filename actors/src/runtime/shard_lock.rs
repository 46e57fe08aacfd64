//! The lock: how several shards lend their objects to one commit.
//!
//! ```text
//! shard      Lend ──> how do the objects stand? ──granted──> waits, decides nothing ──────────> overlay ──> next message
//! borrower                                         │ holds all locks: decides, locks, submits ┘
//!                                                  └ dropped, or lost the race: nothing happened
//! state      Held ──commit──> Committed (what stands now)        Held ──the shard dies──> Void
//! ```
//!
//! Guards I3 for commits that touch objects of several shards: while a lock is held its shard
//! decides nothing, and a lock whose shard has died can't commit, for both look at one state under
//! one lock. So a shard's successor, which passes the index's barrier first, finds either the
//! submitted batch before its barrier or no batch at all. The borrower is a task of its own and
//! never waits for a caller while it holds a lock; for the disk only where a shard has just been
//! restarted. Deliberately not here: in which order locks are taken, and what is decided
//! (`atomic.rs`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cenotaph_storage::ObjectId;
use cenotaph_storage::decide::{ReadSet, Standing};
use tokio::sync::oneshot;

use crate::shard::pending_writes::{Durable, Ticket};

/// Some objects of one shard, for one commit. Dropping it gives them back as they were.
pub(crate) struct ShardLock {
    /// How they stand, in the order in which they were asked for.
    pub(crate) standings: Vec<Standing>,
    /// Entries that these states were read from.
    pub(crate) reads: ReadSet,
    /// The place of the commit among the shard's batches.
    pub(crate) ticket: Ticket,
    /// Where to say that it is durable.
    pub(crate) durable: Durable,
    state: Arc<Mutex<State>>,
    _ended: oneshot::Sender<()>,
}

/// The shard's side of a lock. Dropping it voids the lock, unless it has committed.
pub(crate) struct LockedShard {
    state: Arc<Mutex<State>>,
    ended: oneshot::Receiver<()>,
}

enum State {
    Held,
    /// Its objects stand so once the commit is durable.
    Committed(Vec<(ObjectId, Standing)>),
    /// Its shard has died, or has taken its objects back.
    Void,
}

impl ShardLock {
    /// A lock, and the side of it that the shard keeps.
    pub(crate) fn new(
        standings: Vec<Standing>,
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
                standings,
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
    /// Waits until the lock has ended: how the objects stand now, if it has committed.
    pub(crate) async fn ended(mut self) -> Option<Vec<(ObjectId, Standing)>> {
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

/// Commits on all these locks, or on none: `submit` is called while no shard of theirs can die
/// unnoticed. `next` says for each lock how its objects stand afterwards. Whether it was called:
/// not if a shard has died since it held.
pub(crate) fn commit(
    locks: &[ShardLock],
    next: Vec<Vec<(ObjectId, Standing)>>,
    submit: impl FnOnce(),
) -> bool {
    // In the order of the shards, as every other borrower does.
    let mut states: Vec<MutexGuard<'_, State>> =
        locks.iter().map(|lock| locked(&lock.state)).collect();
    if !states.iter().all(|state| matches!(**state, State::Held)) {
        return false;
    }
    for (state, next) in states.iter_mut().zip(next) {
        **state = State::Committed(next);
    }
    submit();
    true
}

/// No code that can panic leaves a state half changed, so that it is whole even if the lock says
/// otherwise.
fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::pending_writes::PendingWrites;
    use cenotaph_storage::Version;
    use futures::FutureExt;

    fn lock() -> (ShardLock, LockedShard) {
        let mut pending = PendingWrites::default();
        let ticket = pending.next_ticket();
        ShardLock::new(
            vec![Standing::Absent(Version::NONE)],
            ReadSet::default(),
            ticket,
            pending.durable(),
        )
    }

    fn stands() -> Vec<(ObjectId, Standing)> {
        vec![(
            ObjectId::try_from("k").unwrap(),
            Standing::Absent(Version::new(7)),
        )]
    }

    #[test]
    fn a_shard_waits_until_the_lease_has_ended_and_learns_what_was_committed() {
        let (lock, held) = lock();
        let mut ended = Box::pin(held.ended());
        assert!(ended.as_mut().now_or_never().is_none());
        let mut submitted = 0;
        let locks = [lock];
        assert!(commit(&locks, vec![stands()], || submitted += 1));
        drop(locks);
        assert_eq!(
            (ended.now_or_never().unwrap(), submitted),
            (Some(stands()), 1)
        );
    }

    #[test]
    fn a_lease_that_is_dropped_changes_nothing() {
        let (lock, held) = lock();
        drop(lock);
        assert_eq!(held.ended().now_or_never().unwrap(), None);
    }

    #[test]
    fn one_dead_shard_voids_the_whole_commit() {
        let ((first, kept), (second, died)) = (lock(), lock());
        drop(died);
        let locks = [first, second];
        assert!(!commit(&locks, vec![stands(), stands()], || panic!(
            "nothing is submitted"
        )));
        drop(locks);
        assert_eq!(kept.ended().now_or_never().unwrap(), None);
    }
}
