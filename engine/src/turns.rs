//! [`Turns`]: who tries next, where several want to update one object.
//!
//! ```text
//! nobody waits for the object     try at once
//! somebody does, or a try failed  join the line, wait for the turn; at most for a while, then try all the same
//! a try failed in its turn        others write without asking for a turn: wait a while, keeping it
//! ```
//!
//! It is no lock and nothing depends on it: the precondition of each commit alone decides (I3), and
//! who waits too long tries without a turn, so that a slow function of one caller holds up the
//! others for a moment only. It saves tries that would fail: without it, of many who begin with the
//! same version one wins and the others have worked in vain.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cenotaph_storage::{Env, ObjectId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The lines of all objects that somebody waits for. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<BTreeMap<ObjectId, Line>>>);

struct Line {
    turn: Arc<Semaphore>,
    /// Who waits, and who has the turn.
    places: usize,
}

/// A place in a line. Dropping it lets the next one have its turn.
pub(crate) struct Place {
    turns: Turns,
    id: ObjectId,
    line: Arc<Semaphore>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// A place in the line of an object.
    pub(crate) fn join(&self, id: &ObjectId) -> Place {
        let mut lines = self.lines();
        let line = lines.entry(id.clone()).or_insert_with(|| Line {
            turn: Arc::new(Semaphore::new(1)),
            places: 0,
        });
        line.places += 1;
        Place {
            turns: self.clone(),
            id: id.clone(),
            line: Arc::clone(&line.turn),
            turn: None,
        }
    }

    /// A place in the line of an object, if there is one.
    pub(crate) fn join_line(&self, id: &ObjectId) -> Option<Place> {
        let stands = self.lines().contains_key(id);
        stands.then(|| self.join(id))
    }

    /// No code that can panic leaves it half changed, so that it is whole even if the lock says
    /// otherwise.
    fn lines(&self) -> MutexGuard<'_, BTreeMap<ObjectId, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits for the turn, first come first served, but no longer than this.
    pub(crate) async fn wait(&mut self, env: &Env, limit: Duration) {
        if self.turn.is_none() {
            self.turn = env
                .deadline(limit, Arc::clone(&self.line).acquire_owned())
                .await
                .and_then(Result::ok);
        }
    }

    /// Whether it has its turn.
    pub(crate) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.turns.lines();
        if let Some(line) = lines.get_mut(&self.id) {
            line.places -= 1;
            if line.places == 0 {
                lines.remove(&self.id);
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
    async fn turns_go_round_in_order_and_a_line_ends_with_its_last_place() {
        let (env, turns, id) = (
            Env::real().unwrap(),
            Turns::default(),
            ObjectId::try_from("k").unwrap(),
        );
        assert!(turns.join_line(&id).is_none(), "nobody waits");
        let [mut first, mut second, mut third] = [(); 3].map(|()| turns.join(&id));
        first.wait(&env, PATIENCE).await;
        assert!(first.has_turn());
        second.wait(&env, MOMENT).await;
        assert!(!second.has_turn(), "it tries without");
        let (waits, goes) = (third.wait(&env, PATIENCE), async { drop(first) });
        futures::join!(waits, goes);
        assert!(third.has_turn());
        assert!(
            turns
                .join_line(&ObjectId::try_from("other").unwrap())
                .is_none()
        );
        drop((second, third));
        assert!(turns.lines().is_empty());
    }
}
