//! Reclaims disk space and rebuilds the reserve while the index is open: [`Tidier`].
//!
//! ```text
//! open    journals were sealed: wait until fjall drops them ──┐
//! watch   space to reclaim, or a reserve to rebuild ──────────┼──> reclaim (`reclaim.rs`),
//! refused put (`Index::reclaim`) ─────────────────────────────┘    then rebuild the reserve
//! watch   many changed keys, or large journals (`upkeep.rs`) ────> flush, compact
//! ```
//!
//! At most one run at a time. Guards no invariant: work that fails is retried later. The required
//! space is computed in `space.rs`.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::failure::caught;
use super::space::Space;
use super::upkeep::DueWork;
use super::{Store, StoreSlot, journal_end, reclaim};
use crate::env::Env;
use crate::index::group_commit::Committer;
use crate::index::{Batch, CommitError, Table};
use crate::types::{Error, ErrorKind, Result};

/// Time limit for a commit. While the index opens, no other component detects a stuck commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Reclaims the disk space of removed keys, and rebuilds the reserve.
#[derive(Clone)]
pub(super) struct Tidier {
    pub(super) slot: StoreSlot,
    pub(super) committer: Arc<Committer>,
    pub(super) space: Arc<Space>,
}

impl Tidier {
    /// Reclaims space while the index opens. `is_sealed` is true if the journals were sealed
    /// before.
    pub(super) fn tidy_first(&self, is_sealed: bool) {
        if is_sealed
            && let Ok(store) = self.slot.store()
            && let Err(error) = caught("reclaim", || {
                reclaim::drop_journals(&store, &self.space, |batch| self.commit(batch))
            })
        {
            tracing::warn!(%error, "failed to drop the sealed journals");
        }
        self.tidy();
    }

    /// Measures the disk, and reclaims space on a separate thread if that is useful. Does not block
    /// on the disk.
    pub(super) fn watch(self, env: &Env) {
        let Ok(store) = self.slot.store() else { return };
        let buffered = store.database.write_buffer_size();
        self.space.refresh(buffered, reclaim::compacting(&store));
        let work = store.upkeep.due(&store, env.monotonic());
        // The thread takes the store again: an index that closes meanwhile is not kept open.
        drop(store);
        let is_wanted = self.space.has_garbage() || self.space.may_rebuild(buffered);
        if !(is_wanted || work.is_some()) || !self.space.begin_tidying() {
            return;
        }
        let space = self.space.clone();
        let thread_env = env.clone();
        let tidying = move || {
            if is_wanted {
                self.tidy();
            }
            if let Some(work) = work {
                self.keep_up(work, &thread_env);
            }
            self.space.end_tidying();
        };
        if let Err(error) = env.thread("cenotaph-tidy", tidying) {
            tracing::warn!(%error, "failed to start the thread that reclaims space");
            // The closure did not run, so the flag is reset here.
            space.end_tidying();
        }
    }

    /// Reclaims space, then rebuilds the reserve. Blocks on the disk, and keeps the store open
    /// until it returns.
    pub(super) fn tidy(&self) {
        let Ok(store) = self.slot.store() else { return };
        // A refused put may call this while the watch thread runs.
        let _alone = self.space.tidying();
        let buffered = || store.database.write_buffer_size();
        self.space.refresh(buffered(), reclaim::compacting(&store));
        if self.space.take_garbage() {
            if let Err(error) = self.free_segments(&store) {
                tracing::warn!(%error, "failed to free the dead segments");
            }
            let reclaimed = caught("reclaim", || {
                reclaim::reclaim(&store, &self.space, |batch| self.commit(batch))
            });
            if let Err(error) = reclaimed {
                tracing::warn!(%error, "failed to reclaim all freed space");
            }
            self.space.refresh(buffered(), reclaim::compacting(&store));
        }
        self.space.rebuild(buffered());
    }

    /// Flushes or compacts tables. Blocks on the disk, and keeps the store open until it returns.
    fn keep_up(&self, work: DueWork, env: &Env) {
        let Ok(store) = self.slot.store() else { return };
        let _alone = self.space.tidying();
        let began = env.monotonic();
        let dropped = store.upkeep.begin(work);
        let done = caught("keep up", || {
            if work == DueWork::EndJournal {
                journal_end::fill(&store, &self.space, |batch| self.commit(batch))?;
            }
            // No published snapshot keeps the entries removed before it.
            self.commit(reclaim::noop_batch())?;
            reclaim::flush(&store, &self.space)?;
            let compacted = match work {
                DueWork::Flush => return Ok(()),
                DueWork::Compact(table) => table,
                // The table with the filler.
                DueWork::EndJournal => Table::Changes,
            };
            reclaim::compact(&store, &self.space, compacted)?;
            // fjall deletes the files of older states when it rotates a memtable.
            self.commit(reclaim::noop_batch())?;
            reclaim::flush(&store, &self.space)
        });
        if let Err(error) = done {
            tracing::warn!(%error, ?work, "failed to maintain the tables of the index");
        }
        store.upkeep.end(work, dropped, began, env.monotonic());
    }

    /// Frees all dead segments of the payload log, heads included.
    fn free_segments(&self, store: &Store) -> Result<()> {
        store.log.seal_dead_heads();
        // Removes the sealed segments, and publishes a state that does not hold removed ones.
        self.commit(reclaim::noop_batch())?;
        store.log.delete_retired();
        Ok(())
    }

    /// Commits a batch, and waits for its outcome for at most [`COMMIT_TIMEOUT`].
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
                "the commit timed out",
            )),
        }
    }
}
