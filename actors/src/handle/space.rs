//! Disk space: checked before every write that stores something, and again by the shard.
//!
//! ```text
//! caller   make_room ── low ──> sweep (blobs on the same disk), reclaim
//!                                 └─ still low ──> Unavailable, nothing was started
//! shard    decide (pure) ──> admit(batch) ── low, and the batch releases nothing
//!                                 └──────────────> Unavailable, nothing is decided
//! ```
//!
//! A shard checks the space before it records the plan as pending. Later decisions may rest on
//! pending writes, so that none of those may be refused any more. Deletes, fences, sweeps and the
//! ends of uploads are never refused. `cenotaph_storage::index` computes the space needed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenotaph_storage::Result;
use cenotaph_storage::index::Batch;

use crate::context::Context;
use crate::handle::Tiered;

/// Maximum wait of a refused write for the deletion of blobs. Longer deletions help later writes.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);

impl Context {
    /// Checks that the disk of the index has space for this batch.
    ///
    /// # Errors
    /// [`Unavailable`](cenotaph_storage::ErrorKind::Unavailable) if not. A batch that releases
    /// space is always admitted.
    pub(crate) fn admit(&self, batch: &Batch) -> Result<()> {
        // Deletes must succeed on a full disk, or it stays full.
        if batch.releases() {
            Ok(())
        } else {
            self.index.room(batch.bytes() as u64)
        }
    }
}

impl Tiered {
    /// Checks that the index can store this many bytes. Reclaims deleted space first if the disk is
    /// full.
    ///
    /// # Errors
    /// [`Unavailable`](cenotaph_storage::ErrorKind::Unavailable) with
    /// [`Reason::NoSpace`](cenotaph_storage::Reason::NoSpace) if the disk is still full.
    pub(crate) async fn make_room(&self, bytes: u64) -> Result<()> {
        let context = self.context();
        let Err(refused) = context.index.room(bytes) else {
            return Ok(());
        };
        // One write at a time reclaims space: the others would wait for the same result.
        let Some(_turn) = Turn::take(&context.making_room) else {
            return Err(refused);
        };
        // Deleting blobs frees space of the index only if both are on one disk.
        if context.blobs.may_share_disk() {
            drop(context.env.deadline(SWEEP_TIMEOUT, self.sweep()).await);
        }
        context.index.reclaim().await;
        context.index.room(bytes)
    }

    /// Checks that the blob tier and the index can store a payload.
    ///
    /// # Errors
    /// As [`make_room`](Self::make_room).
    pub(crate) async fn make_blob_room(&self, bytes: Option<u64>) -> Result<()> {
        // The index reserves twice the bytes that it stores, because it writes everything twice.
        let shared_bytes = if self.context().blobs.current().shares_disk() {
            bytes.unwrap_or(0) / 2
        } else {
            0
        };
        self.make_room(shared_bytes).await
    }
}

/// Guard of a flag. Dropping it clears the flag.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(flag: &'a AtomicBool) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(flag))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
