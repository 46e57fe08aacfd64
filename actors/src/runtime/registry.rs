//! Who is where: the living actors of one engine.
//!
//! The process-wide names of ractor are not used, for many engines live in one process. A route is
//! empty while its actor is dead; what is sent there is given back, undelivered.

use std::sync::{Mutex, PoisonError};

use cenotaph_storage::{Checksum, ObjectId};
use ractor::{ActorCell, ActorRef, Message};
use serde::{Deserialize, Serialize};

use crate::runtime::messages::{
    ExpirerMessage, RecoveryMessage, ShardMessage, SweeperMessage, UploadsMessage,
};

/// An actor, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ActorKind {
    /// The root of them all. It is not restarted: without it the engine has failed.
    Supervisor,
    /// The shard with this number.
    Shard(usize),
    /// The parent of the uploads; they die with it.
    Uploads,
    /// Every upload under way.
    EveryUpload,
    /// Recovery.
    Recovery,
    /// The sweeper.
    Sweeper,
    /// The expirer.
    Expirer,
}

/// The way to one actor.
pub(crate) struct ActorSlot<M: Message>(Mutex<Option<ActorRef<M>>>);

impl<M: Message> Default for ActorSlot<M> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<M: Message> ActorSlot<M> {
    /// From now on it leads here.
    pub(crate) fn set(&self, actor: Option<ActorRef<M>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    /// Where it leads.
    pub(crate) fn get(&self) -> Option<ActorRef<M>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends; whether there was somebody to send to. A message that can't be delivered is dropped,
    /// and its reply with it: that tells the sender. One that was sent to an actor about to die is
    /// dropped likewise.
    pub(crate) fn send(&self, message: M) -> bool {
        self.get()
            .is_some_and(|actor| actor.send_message(message).is_ok())
    }
}

/// The ways to all actors of an engine.
pub(crate) struct ActorRegistry {
    pub(crate) shards: Vec<ActorSlot<ShardMessage>>,
    pub(crate) uploads: ActorSlot<UploadsMessage>,
    pub(crate) recovery: ActorSlot<RecoveryMessage>,
    pub(crate) sweeper: ActorSlot<SweeperMessage>,
    pub(crate) expirer: ActorSlot<ExpirerMessage>,
}

impl ActorRegistry {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| ActorSlot::default()).collect(),
            uploads: ActorSlot::default(),
            recovery: ActorSlot::default(),
            sweeper: ActorSlot::default(),
            expirer: ActorSlot::default(),
        }
    }

    /// Kills every upload under way; whether there was one. In the order of their birth: ractor
    /// would take them down in a random one, and a simulated run is a function of its seed.
    pub(crate) fn kill_uploads(&self) -> bool {
        let mut uploads = self
            .uploads
            .get()
            .map(|actor| actor.get_children())
            .unwrap_or_default();
        uploads.sort_by_key(ActorCell::get_id);
        uploads.iter().for_each(ActorCell::kill);
        !uploads.is_empty()
    }

    /// Kills every actor but the supervisor, in a fixed order for the same reason.
    pub(crate) fn kill_all(&self) {
        self.kill_uploads();
        let shards = self
            .shards
            .iter()
            .filter_map(|route| route.get().map(|actor| actor.get_cell()));
        let others = [
            self.uploads.get().map(|actor| actor.get_cell()),
            self.recovery.get().map(|actor| actor.get_cell()),
            self.sweeper.get().map(|actor| actor.get_cell()),
            self.expirer.get().map(|actor| actor.get_cell()),
        ];
        shards
            .chain(others.into_iter().flatten())
            .for_each(|cell| cell.kill());
    }

    /// The shard that decides for this object.
    pub(crate) fn shard(&self, id: &ObjectId) -> &ActorSlot<ShardMessage> {
        &self.shards[self.shard_number(id)]
    }

    /// Its number.
    pub(crate) fn shard_number(&self, id: &ObjectId) -> usize {
        let shards = self.shards.len() as u64;
        usize::try_from(Checksum::of(id.encoded()).get() % shards)
            .expect("below the number of shards")
    }
}
