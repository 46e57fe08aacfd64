//! The published snapshot: the state that all reads of the index see.
//!
//! Holds [`Published`]. Guards I3 and I7 on the read side: a read sees every batch whole or not at
//! all.
//!
//! `Database::snapshot` does not. A commit takes its sequence number first and applies its changes
//! to the memtables one by one after its sync; the end of a flush or of a compaction meanwhile
//! takes the next number and publishes it. A snapshot taken then has the batch below its number,
//! and sees each of its changes as soon as it is applied:
//!
//! ```text
//! committer    number 70 ── journal, sync ──────────────── rows ── payloads ── visible = 71
//! flush                        number 71, visible = 72
//! a reader's snapshot                              72: the old row ──────── the old row's payload is removed
//! ```
//!
//! A snapshot that the committing thread takes between two commits has no batch in flight below its
//! number, and none can come to lie there later, for the numbers only rise. It also keeps what it
//! saw: fjall keeps the state of a tree from before a flush or compaction for every snapshot with a
//! lower number. (So lsm-tree issue 321, in which a compaction drops a version that a snapshot
//! still needs, does not reach our reads.) `snapshots_keep_what_they_saw` of the contract suite
//! shows both.

use std::sync::{Arc, PoisonError, RwLock};

use fjall::{Database, Snapshot};

/// The state behind a commit.
pub(super) struct State {
    pub(super) snapshot: Snapshot,
    /// The number of commits since the opening.
    pub(super) commit: u64,
}

/// The snapshot taken behind the last commit.
pub(super) struct Published(RwLock<Arc<State>>);

impl Published {
    /// The state of a database that nobody writes to yet.
    pub(super) fn new(database: &Database) -> Self {
        Self(RwLock::new(Arc::new(State {
            snapshot: database.snapshot(),
            commit: 0,
        })))
    }

    /// The state behind the last commit.
    pub(super) fn latest(&self) -> Arc<State> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes the state of now, behind this commit. Only the thread that commits may call it,
    /// and only between two commits.
    pub(super) fn advance(&self, database: &Database, commit: u64) {
        let next = Arc::new(State {
            snapshot: database.snapshot(),
            commit,
        });
        let last = std::mem::replace(
            &mut *self.0.write().unwrap_or_else(PoisonError::into_inner),
            next,
        );
        // Dropped behind the lock: the last holder of a snapshot tells fjall so.
        drop(last);
    }
}
