//! [`Leftovers`]: the deletions of blobs that a member of a shared index has finished too late, and that
//! no other member can find. A close waits for them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More deletions than are ever under way at once: each belongs to an upload.
const DELETIONS_MAX: u32 = 1_000_000;

/// Counter of these deletions.
pub(crate) struct Leftovers(Arc<Semaphore>);

impl Default for Leftovers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DELETIONS_MAX as usize)))
    }
}

impl Leftovers {
    /// Counts a deletion until the result is dropped.
    pub(crate) fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }

    /// Resolves when no deletion is under way.
    pub(crate) async fn ended(&self) {
        let _all = self.0.acquire_many(DELETIONS_MAX).await;
    }
}
