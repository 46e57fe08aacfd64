//! [`ActorRegistry`]: the living actors of an engine.
//!
//! The process-wide names of ractor are not used, because many engines live in one process. A slot
//! is empty while its actor is dead; a message sent to an empty slot is dropped with its reply.

use std::sync::{Mutex, PoisonError};

use cenotaph_storage::{Checksum, ObjectId};
use ractor::{ActorCell, ActorRef, Message};
use serde::{Deserialize, Serialize};

use crate::context::messages::{
    ExpirerMessage, PrunerMessage, RecoveryMessage, ShardRequest, SweeperMessage, UploadsMessage,
};

/// Kind of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ActorKind {
    /// The parent of all actors. It is not restarted: the engine fails with it.
    Supervisor,
    /// The shard with this number.
    Shard(usize),
    /// The parent of the uploads, which die with it.
    Uploads,
    /// All upload actors.
    EveryUpload,
    /// Recovery.
    Recovery,
    /// The sweeper.
    Sweeper,
    /// The expirer.
    Expirer,
    /// The pruner.
    Pruner,
}

/// The reference to an actor, or none while the actor is dead.
pub(crate) struct ActorSlot<M: Message>(Mutex<Option<ActorRef<M>>>);

impl<M: Message> Default for ActorSlot<M> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<M: Message> ActorSlot<M> {
    /// Replaces the reference.
    pub(crate) fn set(&self, actor: Option<ActorRef<M>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    /// Returns the reference, or `None` while the actor is dead.
    pub(crate) fn get(&self) -> Option<ActorRef<M>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends a message, and returns whether an actor has received it.
    ///
    /// An undeliverable message is dropped, and its reply with it: the sender sees the dropped
    /// reply. The same happens to a message whose actor dies before handling it.
    pub(crate) fn send(&self, message: M) -> bool {
        self.get()
            .is_some_and(|actor| actor.send_message(message).is_ok())
    }
}

/// The slots of all actors of an engine.
pub(crate) struct ActorRegistry {
    pub(crate) shards: Vec<ActorSlot<ShardRequest>>,
    pub(crate) uploads: ActorSlot<UploadsMessage>,
    pub(crate) recovery: ActorSlot<RecoveryMessage>,
    pub(crate) sweeper: ActorSlot<SweeperMessage>,
    pub(crate) expirer: ActorSlot<ExpirerMessage>,
    pub(crate) pruner: ActorSlot<PrunerMessage>,
}

impl ActorRegistry {
    /// Creates empty slots, at least one for shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| ActorSlot::default()).collect(),
            uploads: ActorSlot::default(),
            recovery: ActorSlot::default(),
            sweeper: ActorSlot::default(),
            expirer: ActorSlot::default(),
            pruner: ActorSlot::default(),
        }
    }

    /// Kills all upload actors, and returns whether there were any.
    pub(crate) fn kill_uploads(&self) -> bool {
        let mut uploads = self
            .uploads
            .get()
            .map(|actor| actor.get_children())
            .unwrap_or_default();
        // In the order of their start: ractor's own order is random, and a simulated run must be a
        // function of its seed.
        uploads.sort_by_key(ActorCell::get_id);
        uploads.iter().for_each(ActorCell::kill);
        !uploads.is_empty()
    }

    /// Kills every actor except the supervisor, in a fixed order for the same reason.
    pub(crate) fn kill_all(&self) {
        self.kill_uploads();
        let shards = self
            .shards
            .iter()
            .filter_map(|slot| slot.get().map(|actor| actor.get_cell()));
        let others = [
            self.uploads.get().map(|actor| actor.get_cell()),
            self.recovery.get().map(|actor| actor.get_cell()),
            self.sweeper.get().map(|actor| actor.get_cell()),
            self.expirer.get().map(|actor| actor.get_cell()),
            self.pruner.get().map(|actor| actor.get_cell()),
        ];
        shards
            .chain(others.into_iter().flatten())
            .for_each(|cell| cell.kill());
    }

    /// Returns the slot of the shard that decides for this object.
    pub(crate) fn shard(&self, id: &ObjectId) -> &ActorSlot<ShardRequest> {
        &self.shards[self.shard_number(id)]
    }

    /// Returns the number of the shard that decides for this object.
    pub(crate) fn shard_number(&self, id: &ObjectId) -> usize {
        let shards = self.shards.len() as u64;
        usize::try_from(Checksum::of(id.encoded()).get() % shards)
            .expect("below the number of shards")
    }
}
