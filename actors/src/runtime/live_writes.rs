//! Which changes have a living owner, in this epoch.
//!
//! An [`WriteGuard`] is held by everything that may still carry its change forward: the upload actor,
//! the commit that records the change, the swap on its way through a shard. When the last of them
//! is gone the change is dead, and recovery is woken. Guards I6 from the other side: nothing that
//! lives is fenced needlessly.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use cenotaph_storage::OperationId;

/// The living owners of an engine.
#[derive(Clone)]
pub(crate) struct LiveWrites(Arc<Inner>);

struct Inner {
    alive: Mutex<BTreeSet<OperationId>>,
    on_death: Box<dyn Fn(OperationId) + Send + Sync>,
}

/// Keeps a change alive. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WriteGuard {
    _claim: Arc<Claim>,
}

struct Claim {
    change: OperationId,
    owners: LiveWrites,
}

impl LiveWrites {
    /// No owners; `on_death` is called with the change of each owner that has died.
    pub(crate) fn new(on_death: impl Fn(OperationId) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            alive: Mutex::default(),
            on_death: Box::new(on_death),
        }))
    }

    /// Makes the caller the owner of a change that it is about to record.
    pub(crate) fn claim(&self, change: OperationId) -> WriteGuard {
        self.alive().insert(change);
        WriteGuard {
            _claim: Arc::new(Claim {
                change,
                owners: self.clone(),
            }),
        }
    }

    /// Whether somebody may still carry this change forward.
    pub(crate) fn is_alive(&self, change: OperationId) -> bool {
        self.alive().contains(&change)
    }

    fn alive(&self) -> std::sync::MutexGuard<'_, BTreeSet<OperationId>> {
        self.0.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.owners.alive().remove(&self.change);
        (self.owners.0.on_death)(self.change);
    }
}
