//! The memory of one blob under way: [`BlobMemory`].
//!
//! ```text
//! peeked at           the permit of what was peeked at, until there is one of the two below
//! first 2 MiB         a beginning, if one is free: a caller that has sent no more holds up nobody
//! more                the share of the whole blob, at once, or a bounded wait for it; while there is none to be had, the
//!                     caller's stream is not read
//! finished, dropped   all is given back
//! ```
//!
//! All but what was peeked at is within the budget. A blob that waits for its share holds a
//! beginning at the most, and beginnings leave room for the largest share (`admission.rs`), so that
//! no two wait for each other. It keeps its share to its end, for what is in requests under way has
//! not left memory, and OpenDAL does not tell when it has.

use std::sync::Arc;

use cenotaph_storage::{Error, ErrorKind, Result};
use tokio::sync::OwnedSemaphorePermit;

use crate::admission::permits::{BEGINNING_BYTES, Beginning, Permit};
use crate::runtime::context::SharedContext;

/// See the head of this file.
pub(super) struct BlobMemory {
    context: SharedContext,
    /// Most bytes that the blob holds.
    most_bytes: usize,
    /// True if its share counts in the budget of bulk work as well.
    is_bulk: bool,
    held: Held,
}

enum Held {
    Peeked {
        _permit: Permit,
    },
    Beginning(Beginning),
    Share {
        _permits: [Option<OwnedSemaphorePermit>; 3],
    },
}

impl BlobMemory {
    /// `peeked` is the leave for what of its payload is in memory already.
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
            held: Held::Peeked { _permit: peeked },
        }
    }

    /// That of the next blob of the same payload.
    pub(super) fn next(&self, most_bytes: usize) -> Self {
        Self::new(&self.context, most_bytes, Permit::free(), self.is_bulk)
    }

    /// Waits for the share before more is read of the stream, if the blob holds so many bytes that
    /// it will need one, and none is free. What is free is not taken yet: the caller may send
    /// nothing more.
    ///
    /// # Errors
    /// As [`make_room`](Self::make_room).
    pub(super) async fn before_read(&mut self, bytes: usize) -> Result<()> {
        let admission = &self.context.admission;
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
            Held::Share { .. } => return Ok(()),
            Held::Beginning(_) if bytes <= BEGINNING_BYTES => return Ok(()),
            Held::Peeked { .. } if bytes <= BEGINNING_BYTES => {
                if let Some(beginning) = admission.beginning() {
                    self.held = Held::Beginning(beginning);
                    return Ok(());
                }
            }
            Held::Peeked { .. } | Held::Beginning(_) => {}
        }
        let begun = if matches!(self.held, Held::Beginning(_)) {
            BEGINNING_BYTES
        } else {
            0
        };
        let rest = async {
            let _waiting = admission.waiting();
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
        let Some((rest, of_bulk)) = self.context.env.deadline(wait, rest).await else {
            let message = format!(
                "the memory of all uploads is in use; nothing was committed: waited={wait:?}"
            );
            return Err(Error::new(ErrorKind::Overloaded, "put", message));
        };
        let begun = match std::mem::replace(
            &mut self.held,
            Held::Peeked {
                _permit: Permit::free(),
            },
        ) {
            Held::Beginning(beginning) => Some(beginning.into_bytes()),
            Held::Peeked { .. } | Held::Share { .. } => None,
        };
        self.held = Held::Share {
            _permits: [begun, Some(rest), of_bulk],
        };
        Ok(())
    }
}
