//! [`ConflictQueue`]: the order in which losers of a contended object receive their conflicts.
//!
//! Many callers that read a version and write under it all lose to the same commit. If all of them
//! received their conflicts at once, all would read and write again, and all but one would lose
//! again. So after a commit of an object a single loser receives its conflict at once. The others
//! wait: each further commit of the object releases the one that has waited longest.
//!
//! ```text
//! conflict of an object                       answer
//! ------------------------------------------- ----------------------------------
//! first since a commit, or since `WAIT_MAX`   at once
//! any other                                   at its turn, or after `WAIT_MAX`
//! ```
//!
//! Correctness does not depend on it: a conflict is decided before it waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cenotaph_storage::{Env, ObjectId};
use tokio::sync::oneshot;

/// Longest delay of a conflict. About 20 commits of a local disk.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(5);

/// Number of objects from which objects without recent conflicts are removed.
const OBJECTS_MANY: usize = 1024;

/// Conflicts of contended objects that wait for their turn.
#[derive(Default)]
pub(crate) struct ConflictQueue {
    objects: Mutex<BTreeMap<ObjectId, Line>>,
    /// Number of objects in the map, so that a commit without conflicts takes no lock.
    length: AtomicUsize,
}

/// Conflicts of one object.
struct Line {
    /// Time of the last answer, from [`Env::monotonic`]. `None` before the first.
    answered: Option<Duration>,
    waiting: VecDeque<oneshot::Sender<()>>,
}

impl Line {
    /// Removes waiters that have given up. All wait equally long, so those are in front.
    fn trim(&mut self) {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
    }

    fn is_recent(&self, now: Duration) -> bool {
        self.answered
            .is_some_and(|answered| now.saturating_sub(answered) <= WAIT_MAX)
    }
}

impl ConflictQueue {
    /// Releases the next conflict of an object, because a write of the object has committed.
    pub(crate) fn committed(&self, id: &ObjectId, now: Duration) {
        if self.length.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut objects = self.objects();
        let Some(line) = objects.get_mut(id) else {
            return;
        };
        // A waiter that has given up meanwhile does not take the turn of the next one.
        while let Some(next) = line.waiting.pop_front() {
            if next.send(()).is_ok() {
                line.answered = Some(now);
                return;
            }
        }
        objects.remove(id);
        self.length.store(objects.len(), Ordering::Relaxed);
    }

    /// Waits until a caller may receive the conflict of its write.
    pub(crate) async fn wait(&self, env: &Env, id: &ObjectId) {
        if let Some(turn) = self.join(id, env.monotonic()) {
            // Both a turn and the end of the wait release the caller.
            let _ = env.deadline(WAIT_MAX, turn).await;
        }
    }

    /// Joins the line of an object. Returns `None` if the conflict is due at once.
    fn join(&self, id: &ObjectId, now: Duration) -> Option<oneshot::Receiver<()>> {
        let mut objects = self.objects();
        if objects.len() >= OBJECTS_MANY {
            objects.retain(|_, line| {
                line.trim();
                line.is_recent(now) || !line.waiting.is_empty()
            });
        }
        let line = objects.entry(id.clone()).or_insert_with(|| Line {
            answered: None,
            waiting: VecDeque::new(),
        });
        line.trim();
        let turn = if line.waiting.is_empty() && !line.is_recent(now) {
            line.answered = Some(now);
            None
        } else {
            let (sender, turn) = oneshot::channel();
            line.waiting.push_back(sender);
            Some(turn)
        };
        self.length.store(objects.len(), Ordering::Relaxed);
        turn
    }

    /// A poisoned lock is used as it is: no code that can panic runs while the map is in an
    /// inconsistent state.
    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectId, Line>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time long after the start of the process.
    const NOW: Duration = Duration::from_secs(100);

    fn id(key: &str) -> ObjectId {
        ObjectId::try_from(key).unwrap()
    }

    #[test]
    fn each_commit_releases_the_oldest_conflict() {
        let queue = ConflictQueue::default();
        let object = id("a");
        queue.committed(&object, NOW);
        assert!(
            queue.join(&object, NOW).is_none(),
            "the first is due at once"
        );
        assert!(
            queue.join(&id("b"), NOW).is_none(),
            "so is that of another object"
        );
        let mut turns: Vec<_> = (0..3).map(|_| queue.join(&object, NOW).unwrap()).collect();
        for released in 1..=3 {
            queue.committed(&object, NOW);
            let mut open = 0;
            for turn in &mut turns {
                open += usize::from(turn.try_recv().is_ok());
            }
            assert_eq!(open, 1, "released={released}");
        }
        queue.committed(&object, NOW);
        assert!(queue.join(&object, NOW).is_none(), "the line has ended");
    }

    #[test]
    fn waiter_that_gave_up_takes_no_turn() {
        let queue = ConflictQueue::default();
        let object = id("a");
        assert!(queue.join(&object, NOW).is_none());
        drop(queue.join(&object, NOW));
        let mut second = queue.join(&object, NOW).unwrap();
        queue.committed(&object, NOW);
        assert!(second.try_recv().is_ok());
    }

    #[test]
    fn old_conflicts_delay_nobody_and_are_forgotten() {
        let queue = ConflictQueue::default();
        let later = NOW + WAIT_MAX + Duration::from_millis(1);
        for number in 0..OBJECTS_MANY {
            assert!(queue.join(&id(&number.to_string()), NOW).is_none());
        }
        assert!(queue.join(&id("0"), later).is_none(), "nobody is delayed");
        assert_eq!(queue.objects().len(), 1, "the other objects are forgotten");
    }

    #[tokio::test]
    async fn conflict_waits_no_longer_than_its_limit() {
        let queue = ConflictQueue::default();
        let env = Env::real().unwrap();
        let object = id("a");
        queue.wait(&env, &object).await;
        // Ends without a commit.
        queue.wait(&env, &object).await;
        queue.wait(&env, &object).await;
    }
}
