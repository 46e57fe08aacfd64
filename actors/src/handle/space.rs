//! Room on the disk: asked for in front of every write that stores something, and again by whoever
//! decides.
//!
//! ```text
//! caller   make_room ── low ──> sweep (blobs on the same disk), reclaim ──> still low: Unavailable, nothing was started
//! shard    decide (pure) ──> admit(batch) ── low, and the batch releases nothing ──> Unavailable, nothing is decided
//! ```
//!
//! A shard asks before it notes anything in its overlay: later decisions may rest on a submitted
//! batch, so that none may be refused any more. Deletes, fences, sweeps and the ends of uploads are
//! never refused. Deliberately not here: how much room is needed (`cenotaph_storage::index`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenotaph_storage::Result;
use cenotaph_storage::index::Batch;
use cenotaph_storage::planted::Bug;

use crate::handle::Tiered;
use crate::runtime::context::Context;

/// How long a refused write waits for blobs to be deleted. What takes longer helps a later one.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);

impl Context {
    /// Returns whether the disk of the index has room for this batch.
    ///
    /// # Errors
    /// [`Unavailable`](cenotaph_storage::ErrorKind::Unavailable) if not. A batch that releases
    /// space is always taken.
    pub(crate) fn admit(&self, batch: &Batch) -> Result<()> {
        let is_exempt = batch.releases() && !self.env.planted(Bug::DeletesNeedSpace);
        if is_exempt {
            Ok(())
        } else {
            self.index.room(batch.bytes() as u64)
        }
    }
}

impl Tiered {
    /// Leave to store this much in the index. On a full disk it first gives back what was deleted.
    ///
    /// # Errors
    /// [`Unavailable`](cenotaph_storage::ErrorKind::Unavailable) with
    /// [`Reason::NoSpace`](cenotaph_storage::Reason::NoSpace) if there is no room even so.
    pub(crate) async fn make_room(&self, bytes: u64) -> Result<()> {
        let context = self.context();
        let Err(refused) = context.index.room(bytes) else {
            return Ok(());
        };
        // One at a time: the others would wait for the same.
        let Some(_turn) = Turn::take(&context.making_room) else {
            return Err(refused);
        };
        if context.blobs.shares_disk() {
            drop(context.env.deadline(SWEEP_TIMEOUT, self.sweep()).await);
        }
        context.index.reclaim().await;
        context.index.room(bytes)
    }

    /// The same for a payload that goes to the blob tier.
    ///
    /// # Errors
    /// As [`make_room`](Self::make_room).
    pub(crate) async fn make_blob_room(&self, bytes: Option<u64>) -> Result<()> {
        // The index asks for twice as much as it is to store, for it writes everything twice.
        let shared_bytes = if self.context().blobs.shares_disk() {
            bytes.unwrap_or(0) / 2
        } else {
            0
        };
        self.make_room(shared_bytes).await
    }
}

/// A flag that is held; let go of when it is dropped.
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
