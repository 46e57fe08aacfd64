//! Faults for tests of services that must survive them: the feature `chaos`.

use std::sync::Arc;

use cenotaph_actors::ActorKind;
use cenotaph_storage::Result;

use crate::engine::{Engine, IntoObjectId};

impl Engine {
    /// Kills actors of this kind as a fault would; whether there was one. For tests of services
    /// that must survive it.
    pub fn kill(&self, kind: ActorKind) -> bool {
        self.tiered().kill(kind)
    }

    /// The same as [`kill`](Self::kill), without keeping the engine alive.
    pub fn killer(&self) -> impl Fn(ActorKind) -> bool + Send + Sync + 'static {
        let engine = Arc::downgrade(&self.0);
        move |kind| {
            engine
                .upgrade()
                .is_some_and(|engine| engine.tiered.kill(kind))
        }
    }

    /// The number of the shard that decides for an object.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the id breaks a rule.
    pub fn shard_of(&self, id: impl IntoObjectId) -> Result<usize> {
        Ok(self.tiered().shard_of(&id.into_object_id()?))
    }
}
