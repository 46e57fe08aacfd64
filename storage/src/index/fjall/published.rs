//! The published snapshot, [`Published`]: the state that all reads of the index use.
//!
//! Guards I3 and I7 for reads: a read sees each batch completely or not at all.
//!
//! `Database::snapshot` does not guarantee this. A commit first takes its sequence number, and
//! applies its writes to the memtables one by one after its sync. Meanwhile the end of a flush or
//! compaction takes the next number and publishes it. A snapshot taken then has a number above the
//! batch, and sees each of its writes as soon as it is applied:
//!
//! ```text
//! committer    number 70 ── journal, sync ─────────── rows ── payloads ── visible = 71
//! flush                 number 71, visible = 72
//! reader's snapshot                        72: the old row ──── the old payload is removed
//! ```
//!
//! When the commit thread takes a snapshot between two commits, no batch with a lower number is in
//! flight, and later batches have higher numbers. The snapshot also never changes: for each
//! snapshot with a lower number, fjall keeps the state of a tree from before a flush or compaction.
//! (lsm-tree issue 321, in which a compaction drops a version that a snapshot still needs,
//! therefore does not affect these reads.) `snapshots_keep_what_they_saw` of the contract suite
//! tests both.

use std::sync::{Arc, PoisonError, RwLock};

use fjall::{Database, Snapshot};

use crate::index::payload_log::Segments;

/// State of the index after a commit.
pub(super) struct State {
    pub(super) snapshot: Snapshot,
    /// Segments that the pointers of the snapshot name. Their files exist as long as the state.
    pub(super) segments: Arc<Segments>,
    /// Number of commits since the open.
    pub(super) commit: u64,
}

/// Snapshot after the last commit.
pub(super) struct Published(RwLock<Arc<State>>);

impl Published {
    /// Publishes the state of a new database, before its first commit.
    pub(super) fn new(database: &Database, segments: Arc<Segments>) -> Self {
        Self(RwLock::new(Arc::new(State {
            snapshot: database.snapshot(),
            segments,
            commit: 0,
        })))
    }

    /// Returns the state after the last commit.
    pub(super) fn latest(&self) -> Arc<State> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes the current state, after this commit. Only the commit thread may call this method,
    /// and only between two commits.
    pub(super) fn advance(&self, database: &Database, commit: u64, segments: Arc<Segments>) {
        let next = Arc::new(State {
            snapshot: database.snapshot(),
            segments,
            commit,
        });
        let last = std::mem::replace(
            &mut *self.0.write().unwrap_or_else(PoisonError::into_inner),
            next,
        );
        // Dropped after the lock is released: the drop of a snapshot calls fjall.
        drop(last);
    }
}
