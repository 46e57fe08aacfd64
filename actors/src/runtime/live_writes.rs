//! [`LiveWrites`]: the changes of this epoch that have a living owner.
//!
//! A [`WriteGuard`] is held by everything that may still carry its change forward: the upload
//! actor, the commit that records the change, the swap on its way through a shard. When the last
//! guard of a change is dropped, the change is dead and recovery is woken. Guards I6 from the other
//! side: no living write is fenced.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use cenotaph_storage::OperationId;

/// The changes with a living owner. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct LiveWrites(Arc<Inner>);

struct Inner {
    alive: Mutex<BTreeSet<OperationId>>,
    on_death: Box<dyn Fn(OperationId) + Send + Sync>,
}

/// Guard that keeps a change alive. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WriteGuard {
    _claim: Arc<Claim>,
}

struct Claim {
    change: OperationId,
    live_writes: LiveWrites,
}

impl LiveWrites {
    /// Creates an empty set. `on_death` is called with each change whose last guard is dropped.
    pub(crate) fn new(on_death: impl Fn(OperationId) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            alive: Mutex::default(),
            on_death: Box::new(on_death),
        }))
    }

    /// Returns the first guard of a change that the caller is about to record.
    pub(crate) fn claim(&self, change: OperationId) -> WriteGuard {
        self.alive().insert(change);
        WriteGuard {
            _claim: Arc::new(Claim {
                change,
                live_writes: self.clone(),
            }),
        }
    }

    /// Returns whether a living owner may still carry this change forward.
    pub(crate) fn is_alive(&self, change: OperationId) -> bool {
        self.alive().contains(&change)
    }

    fn alive(&self) -> std::sync::MutexGuard<'_, BTreeSet<OperationId>> {
        self.0.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Removed first: the recovery that this wakes must find the change dead.
        self.live_writes.alive().remove(&self.change);
        (self.live_writes.0.on_death)(self.change);
    }
}
