//! Makes fjall end its journal early, because the journal takes more space than the data.
//!
//! ```text
//! 1 remove long keys that never exist, until the journal has 64 MB
//! 2 flush every table: fjall ends the journal and begins another
//! 3 flush again: fjall deletes the ended journal
//! ```
//!
//! fjall ends a journal at a flush after 64 MB, and at no other time. An index that is no longer
//! written would keep a journal of up to 64 MB, whatever it contains. Guards I12 together with
//! `upkeep.rs`; [`Tidier`](super::tidier::Tidier) carries out the flushes.

use super::options::MIB;
use super::seal;
use super::space::Space;
use super::store::Store;
use crate::index::{Batch, KEY_BYTES_MAX, Table};
use crate::types::Result;

/// Size after which fjall ends a journal, in bytes. fjall has no option for it.
const JOURNAL_BYTES: u64 = 64_000_000;
/// Size from which a journal is ended early, in bytes. At most [`JOURNAL_BYTES`] less this are
/// written to free it.
const JOURNAL_BYTES_MIN: u64 = 40 * MIB;
/// Size of a batch of removed keys, in bytes. fjall keeps one such batch in its tables, because all
/// remove the same keys.
const FILLER_BYTES: usize = 1024 * 1024;

/// Returns whether the journal is worth ending early: it is large, and takes more space than all
/// tables and the payload log.
pub(super) fn is_due(store: &Store) -> bool {
    let journal = journal_bytes(store);
    let tables = store.tables.all().map(|table| table.disk_space());
    let data = store.log.stats().total_bytes().saturating_add(tables.sum());
    journal >= JOURNAL_BYTES_MIN && journal > data
}

/// Carries out step 1. `commit` makes a batch durable. Does nothing if the disk lacks the space.
///
/// # Errors
/// Errors of the commits. The keys that were removed do no harm.
pub(super) fn fill(
    store: &Store,
    space: &Space,
    commit: impl Fn(Batch) -> Result<()>,
) -> Result<()> {
    let missing = (JOURNAL_BYTES + MIB).saturating_sub(journal_bytes(store));
    if space
        .room(2 * missing, store.database.write_buffer_size())
        .is_err()
    {
        return Ok(());
    }
    let batches = missing.div_ceil(FILLER_BYTES as u64);
    (0..batches).try_for_each(|_| commit(filler()))
}

/// Returns the allocated bytes of the journals, or 0 if they can't be measured.
fn journal_bytes(store: &Store) -> u64 {
    let measured = store
        .marker
        .as_ref()
        .and_then(|marker| seal::journals(marker.database()).ok());
    measured.map_or(0, |(_, bytes)| bytes)
}

/// Creates a large batch without effect: it removes keys that never exist.
fn filler() -> Batch {
    let mut batch = Batch::new();
    for number in 0..FILLER_BYTES / KEY_BYTES_MAX {
        let mut key = vec![0; KEY_BYTES_MAX];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        batch.remove(Table::Changes, key);
    }
    batch
}

#[cfg(test)]
mod tests;
