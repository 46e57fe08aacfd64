//! [`UpdateQueues`]: queues of concurrent updates of the same object.
//!
//! ```text
//! state of the object's queue     action
//! ------------------------------- -------------------------------------------------------------
//! no queue                        try at once
//! a queue, or an attempt failed   join it; wait for the turn up to a limit, then try regardless
//! an attempt failed in its turn   other writes take no queues: back off, and keep the turn
//! ```
//!
//! UpdateQueues are not a lock, and correctness does not depend on them: the precondition of each commit
//! decides (I3). A caller whose wait times out tries without a turn, so a slow function delays
//! other callers only briefly. UpdateQueues save attempts that would fail: without them, of many updates
//! that read the same version a single one commits and the work of the others is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cenotaph_storage::{Env, ObjectId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Queues of all objects for which an update waits. Cheap to clone; clones share the queues.
#[derive(Clone, Default)]
pub(crate) struct UpdateQueues(Arc<Mutex<BTreeMap<ObjectId, Queue>>>);

struct Queue {
    turn: Arc<Semaphore>,
    /// Number of waiters, including the holder of the turn.
    waiters: usize,
}

/// Membership in a queue. Dropping it passes the turn to the next waiter.
pub(crate) struct Waiter {
    queues: UpdateQueues,
    id: ObjectId,
    queue: Arc<Semaphore>,
    turn: Option<OwnedSemaphorePermit>,
}

impl UpdateQueues {
    /// Joins the queue of an object, and creates the queue if necessary.
    pub(crate) fn join(&self, id: &ObjectId) -> Waiter {
        let mut queues = self.queues();
        let queue = queues.entry(id.clone()).or_insert_with(|| Queue {
            turn: Arc::new(Semaphore::new(1)),
            waiters: 0,
        });
        queue.waiters += 1;
        Waiter {
            queues: self.clone(),
            id: id.clone(),
            queue: Arc::clone(&queue.turn),
            turn: None,
        }
    }

    /// Joins the queue of an object, if it has one.
    pub(crate) fn join_existing(&self, id: &ObjectId) -> Option<Waiter> {
        // The queue may end between the check and the join; `join` then creates it anew.
        let exists = self.queues().contains_key(id);
        exists.then(|| self.join(id))
    }

    /// A poisoned lock is used as it is: no code that can panic runs while the map is in an
    /// inconsistent state.
    fn queues(&self) -> MutexGuard<'_, BTreeMap<ObjectId, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Waits for the turn, in the order of arrival, at most for `limit`.
    pub(crate) async fn wait(&mut self, env: &Env, limit: Duration) {
        if self.turn.is_none() {
            // tokio's semaphore is fair, so the queues go round in the order of arrival.
            self.turn = env
                .deadline(limit, Arc::clone(&self.queue).acquire_owned())
                .await
                .and_then(Result::ok);
        }
    }

    /// Returns `true` if the waiter has its turn.
    pub(crate) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut queues = self.queues.queues();
        if let Some(queue) = queues.get_mut(&self.id) {
            queue.waiters -= 1;
            // Without this the map would grow with every object ever updated.
            if queue.waiters == 0 {
                queues.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(5);
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn turns_go_round_in_order_and_an_empty_queue_ends() {
        let env = Env::real().unwrap();
        let queues = UpdateQueues::default();
        let id = ObjectId::try_from("k").unwrap();
        assert!(queues.join_existing(&id).is_none(), "there is no queue yet");
        let [mut first, mut second, mut third] = [(); 3].map(|()| queues.join(&id));
        first.wait(&env, PATIENCE).await;
        assert!(first.has_turn());
        second.wait(&env, MOMENT).await;
        assert!(!second.has_turn(), "the wait timed out");
        let waits = third.wait(&env, PATIENCE);
        let ends = async { drop(first) };
        futures::join!(waits, ends);
        assert!(third.has_turn());
        let other = ObjectId::try_from("other").unwrap();
        assert!(queues.join_existing(&other).is_none());
        drop((second, third));
        assert!(queues.queues().is_empty());
    }
}
