//! [`BlobMemory`]: the memory of a blob under way.
//!
//! ```text
//! peeked at           the permit for the bytes buffered before the upload began
//! first 2 MiB         a beginning, if available
//! more                the share of the whole blob, at once or after a bounded wait;
//!                     the caller's stream is not read meanwhile
//! finished, dropped   everything is returned
//! ```
//!
//! All memory except the peeked bytes is within the budget. A caller that has sent at most 2 MiB
//! holds no share, so that it blocks no other upload. A blob that waits for its share holds at most
//! a beginning, and beginnings leave space for the largest share (`admission/permits.rs`): no two
//! blobs wait for each other. A blob keeps its share to its end, because requests under way hold
//! memory and OpenDAL does not report when they release it.

use std::sync::Arc;

use cenotaph_storage::{Error, ErrorKind, Result};
use tokio::sync::OwnedSemaphorePermit;

use crate::admission::permits::{BEGINNING_BYTES, Beginning, Permit};
use crate::context::SharedContext;

/// Memory of a blob under way, taken from the budgets of uploads.
pub(super) struct BlobMemory {
    context: SharedContext,
    /// Maximum number of bytes that the blob holds.
    most_bytes: usize,
    /// True if its share counts against the budget of bulk work, too.
    is_bulk: bool,
    held: MemoryHold,
}

enum MemoryHold {
    Peeked {
        _permit: Permit,
    },
    Beginning(Beginning),
    Share {
        _permits: [Option<OwnedSemaphorePermit>; 3],
    },
}

impl BlobMemory {
    /// Creates the memory of a blob. `peeked` is the permit for bytes that are buffered already.
    pub(super) fn new(
        context: &SharedContext,
        most_bytes: usize,
        peeked: Permit,
        is_bulk: bool,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            most_bytes,
            is_bulk,
            held: MemoryHold::Peeked { _permit: peeked },
        }
    }

    /// Creates the memory of the next blob of the same payload.
    pub(super) fn next(&self, most_bytes: usize) -> Self {
        Self::new(&self.context, most_bytes, Permit::free(), self.is_bulk)
    }

    /// Waits for the share before more of the stream is read, if the blob is going to need its
    /// share and none is free. A free share is not taken yet, because the caller may send nothing
    /// more.
    ///
    /// # Errors
    /// As [`make_room`](Self::make_room).
    pub(super) async fn before_read(&mut self, bytes: usize) -> Result<()> {
        let admission = &self.context.admission;
        // Only a check. Taking the share here would let an idle caller hold it.
        let has_room = admission.upload_bytes().has_room(self.most_bytes)
            && (!self.is_bulk || admission.bulk_upload_bytes().has_room(self.most_bytes));
        if has_room {
            return Ok(());
        }
        self.make_room(bytes.saturating_add(1)).await
    }

    /// Waits until the blob may hold this many bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](crate::Limits::budget_wait).
    pub(super) async fn make_room(&mut self, bytes: usize) -> Result<()> {
        let admission = &self.context.admission;
        match &self.held {
            MemoryHold::Share { .. } => return Ok(()),
            MemoryHold::Beginning(_) if bytes <= BEGINNING_BYTES => return Ok(()),
            MemoryHold::Peeked { .. } if bytes <= BEGINNING_BYTES => {
                // Without a free beginning the blob waits for its share, as a longer blob would.
                if let Some(beginning) = admission.beginning() {
                    self.held = MemoryHold::Beginning(beginning);
                    return Ok(());
                }
            }
            MemoryHold::Peeked { .. } | MemoryHold::Beginning(_) => {}
        }
        // A beginning is part of the share, so only the rest is acquired.
        let begun = if matches!(self.held, MemoryHold::Beginning(_)) {
            BEGINNING_BYTES
        } else {
            0
        };
        let rest = async {
            let _waiting = admission.waiting();
            // The bulk budget first: bulk work that waits there holds no share of the common
            // budget.
            let of_bulk = match self.is_bulk {
                true => Some(admission.bulk_upload_bytes().acquire(self.most_bytes).await),
                false => None,
            };
            (
                admission
                    .upload_bytes()
                    .acquire(self.most_bytes.saturating_sub(begun))
                    .await,
                of_bulk,
            )
        };
        let wait = self.context.limits.budget_wait;
        // Bounded: a caller that never gets memory must not hold its connection forever.
        let Some((rest, of_bulk)) = self.context.env.deadline(wait, rest).await else {
            let message =
                format!("upload memory is exhausted; nothing was committed: waited={wait:?}");
            return Err(Error::new(ErrorKind::Overloaded, "put", message));
        };
        let begun = match std::mem::replace(
            &mut self.held,
            MemoryHold::Peeked {
                _permit: Permit::free(),
            },
        ) {
            MemoryHold::Beginning(beginning) => Some(beginning.into_bytes()),
            MemoryHold::Peeked { .. } | MemoryHold::Share { .. } => None,
        };
        self.held = MemoryHold::Share {
            _permits: [begun, Some(rest), of_bulk],
        };
        Ok(())
    }
}
