//! Fault injection and background work on request, for tests of services. Requires the feature `chaos`.

use std::sync::Arc;

use cenotaph_actors::ActorKind;
use cenotaph_storage::Result;

use crate::engine::{Engine, IntoObjectId};

impl Engine {
    /// Kills all actors of this kind, as a fault would. Returns `true` if there was at least one.
    /// For tests of services that must survive such a fault.
    pub fn kill(&self, kind: ActorKind) -> bool {
        self.tiered().kill(kind)
    }

    /// Returns a function like [`kill`](Self::kill) that does not keep the engine alive.
    pub fn killer(&self) -> impl Fn(ActorKind) -> bool + Send + Sync + 'static {
        // A strong reference would keep the store open for as long as the function exists.
        let engine = Arc::downgrade(&self.0);
        move |kind| {
            engine
                .upgrade()
                .is_some_and(|engine| engine.parts.tiered.kill(kind))
        }
    }

    /// Drops all last versions that are over a limit, as the pruner does in the background. Returns
    /// their number.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub async fn prune(&self) -> Result<u64> {
        self.tiered().prune().await
    }

    /// Returns the number of the shard that decides for an object.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): the id breaks a rule.
    pub fn shard_of(&self, id: impl IntoObjectId) -> Result<usize> {
        Ok(self.tiered().shard_of(&id.into_object_id()?))
    }
}
