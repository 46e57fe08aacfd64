//! Looks after the space of the disk while the index is open: [`Tidier`].
//!
//! ```text
//! open    journals were sealed: wait for fjall to drop them ──┐
//! watch   something to reclaim, or a reserve to build ────────┼──> reclaim (`reclaim.rs`), then build the reserve
//! refused put (`Index::reclaim`) ─────────────────────────────┘
//! ```
//!
//! One at a time. Guards no invariant: whatever fails here is left for later. Deliberately not
//! here: how much space is needed (`space.rs`).

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::failure::caught;
use super::space::Space;
use super::{Slot, reclaim};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::index::committer::Committer;
use crate::index::{Batch, CommitError};

/// How long a commit is waited for. While the index opens, nobody else watches it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks after the space of the disk: gives back what was removed, and builds the reserve again.
pub(super) struct Tidier {
    pub(super) slot: Slot,
    pub(super) committer: Arc<Committer>,
    pub(super) space: Arc<Space>,
}

impl Tidier {
    /// Tidies up as part of opening. `is_sealed`: journals were sealed for it.
    pub(super) fn tidy_first(&self, is_sealed: bool) {
        if is_sealed
            && let Ok(store) = self.slot.store()
            && let Err(error) = caught("reclaim", || {
                reclaim::drop_journals(&store, &self.space, |batch| self.commit(batch))
            })
        {
            tracing::warn!(%error, "the sealed journals could not be dropped");
        }
        self.tidy();
    }

    /// Looks at the disk, and tidies up on a thread of its own if that is of use. Does not block
    /// for the disk.
    pub(super) fn watch(self, env: &Env) {
        let Ok(store) = self.slot.store() else { return };
        let buffered = store.database.write_buffer_size();
        self.space.refresh(buffered, reclaim::compacting(&store));
        drop(store);
        let is_wanted = self.space.has_garbage() || self.space.may_rebuild(buffered);
        if !is_wanted || !self.space.begin_tidying() {
            return;
        }
        let space = self.space.clone();
        let tidying = move || {
            self.tidy();
            self.space.end_tidying();
        };
        if let Err(error) = env.thread("cenotaph-tidy", tidying) {
            tracing::warn!(%error, "no thread to tidy up the index");
            space.end_tidying();
        }
    }

    /// Blocks for the disk. The store stays open until it is done.
    pub(super) fn tidy(&self) {
        let Ok(store) = self.slot.store() else { return };
        let _alone = self.space.tidying();
        let buffered = || store.database.write_buffer_size();
        self.space.refresh(buffered(), reclaim::compacting(&store));
        if self.space.take_garbage() {
            let reclaimed = caught("reclaim", || {
                reclaim::reclaim(&store, &self.space, |batch| self.commit(batch))
            });
            if let Err(error) = reclaimed {
                tracing::warn!(%error, "not all space that was freed could be given back to the disk");
            }
            self.space.refresh(buffered(), reclaim::compacting(&store));
        }
        self.space.rebuild(buffered());
    }

    pub(super) fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, outcome) = mpsc::channel();
        self.space.queue(batch.bytes() as u64);
        self.committer
            .submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
        match outcome.recv_timeout(COMMIT_TIMEOUT) {
            Ok(outcome) => outcome.map_err(CommitError::into_error),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                "commit",
                "the commit is not done in time",
            )),
        }
    }
}
