//! Flush at a close, so that the next opening need not replay large journals.
//!
//! ```text
//! 1 every commit has ended: flush every table
//! 2 fjall is closed: create the next journal, which is empty; sync it and the directory
//! 3 write and sync a mark that claims no batch of a journal
//! 4 remove the other journals
//! ```
//!
//! Guards I9: journals are removed only after tables with all of their batches are durable (1), and
//! only after the mark no longer claims their batches (3). A crash between the steps leaves more
//! journals than necessary. Small journals are kept, because their replay costs less than a flush.

use std::fs;
use std::io;
use std::path::Path;

use fjall::AbstractTree;

use super::journals;
use super::reclaim;
use super::seal;
use super::space::Space;
use super::store::Store;
use crate::directory_sync::sync_directory_at;
use crate::modes::Modes;
use crate::types::Result;

/// Minimal size of the journals for a flush at a close, in bytes: a replay of about 0.3 s.
const JOURNAL_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// Carries out step 1, if the journals are large. Every commit must have ended. Returns whether the
/// journals are no longer needed.
///
/// # Errors
/// Errors of the flush. The journals are still needed.
pub(super) fn flush(store: &Store, space: &Space, database: &Path) -> Result<bool> {
    // The size only decides about an optimization.
    let bytes = seal::journals(database).map_or(0, |(_, bytes)| bytes);
    if bytes < JOURNAL_BYTES_MIN {
        return Ok(false);
    }
    reclaim::flush(store, space)?;
    Ok(store.tables.all().all(|keyspace| {
        keyspace.sealed_memtable_count() == 0 && keyspace.tree.active_memtable().is_empty()
    }))
}

/// Carries out step 2. Returns the number of the new journal.
///
/// # Errors
/// Errors of the file system. No journal is removed.
pub(super) fn begin_journal(database: &Path, modes: Modes) -> io::Result<u64> {
    let newest = journals::list(database)?.last().copied().unwrap_or(0);
    // `list` returns no journal that another could not follow.
    let next = newest + 1;
    seal::begin(database, next, modes)?;
    Ok(next)
}

/// Carries out step 4: removes all journals before `next`, the oldest first.
///
/// # Errors
/// Errors of the file system.
pub(super) fn remove_journals(database: &Path, next: u64) -> io::Result<()> {
    for id in journals::list(database)? {
        if id < next {
            fs::remove_file(journals::path(database, id))?;
        }
    }
    sync_directory_at(database)
}
