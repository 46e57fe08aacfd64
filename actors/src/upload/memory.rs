//! The memory of one blob under way: [`BlobMemory`].
//!
//! ```text
//! first 2 MiB         beside the budget: a caller that has sent no more holds up nobody
//! more                the share of the whole blob, at once, or a bounded wait for it; while there is none to be had, the
//!                     caller's stream is not read
//! finished, dropped   the share is given back
//! ```
//!
//! A blob that waits for its share holds none, so that no two wait for each other. It keeps its share to its end, for what is
//! in requests under way has not left memory, and OpenDAL does not tell when it has.

use std::sync::Arc;

use cenotaph_storage::{Error, ErrorKind, Result};
use tokio::sync::OwnedSemaphorePermit;

use crate::shared::Shared;

/// Bytes of a blob that are held beside the budget: what was peeked at of it, and a chunk.
pub(super) const GUARANTEED_BYTES: usize = 2 * 1024 * 1024;

/// See the head of this file.
pub(super) struct BlobMemory {
    shared: Shared,
    /// Most bytes that the blob holds.
    most_bytes: usize,
    share: Option<OwnedSemaphorePermit>,
}

impl BlobMemory {
    pub(super) fn new(shared: &Shared, most_bytes: usize) -> Self {
        Self { shared: Arc::clone(shared), most_bytes, share: None }
    }

    /// Waits for the share before more is read of the stream, if the blob holds so many bytes that it will need one, and none
    /// is free. What is free is not taken yet: the caller may send nothing more.
    ///
    /// # Errors
    /// As [`make_room`](Self::make_room).
    pub(super) async fn before_read(&mut self, bytes: usize) -> Result<()> {
        if self.shared.admission.upload_bytes().has_room(self.most_bytes) {
            return Ok(());
        }
        self.make_room(bytes.saturating_add(1)).await
    }

    /// Waits until the blob may hold this many bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](crate::Limits::budget_wait).
    pub(super) async fn make_room(&mut self, bytes: usize) -> Result<()> {
        if bytes <= GUARANTEED_BYTES || self.share.is_some() {
            return Ok(());
        }
        let admission = &self.shared.admission;
        let share = async {
            let _waiting = admission.waiting();
            admission.upload_bytes().acquire(self.most_bytes).await
        };
        let wait = self.shared.limits.budget_wait;
        let Some(share) = self.shared.env.deadline(wait, share).await else {
            let message = format!("the memory of all uploads is in use; nothing was committed: waited={wait:?}");
            return Err(Error::new(ErrorKind::Overloaded, "put", message));
        };
        self.share = Some(share);
        Ok(())
    }
}
