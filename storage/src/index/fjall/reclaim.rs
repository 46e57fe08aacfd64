//! Reclaims the space of removed entries when the disk is almost full.
//!
//! ```text
//! 1 stop if nothing can be gained, or the writes of a compaction do not fit
//! 2 commit a no-op         no published snapshot keeps the entries removed before it
//! 3 flush every table      removed values are not written
//! 4 compact                drops removed entries, and blob files without live values
//! 5 steps 2 and 3 again    fjall deletes files of older states when it rotates a memtable
//!   again from 2           until nothing is left to gain, or several rounds gain nothing
//! ```
//!
//! Runs only when the disk is almost full: steady reclamation is a different task. Every step may
//! fail or be skipped without loss of data. `tidier.rs` decides when to reclaim.

use std::thread;
use std::time::Duration;

use fjall::{AbstractTree, AnyTree, PersistMode};

use super::Store;
use super::database::TableKeyspaces;
use super::failure::failed;
use super::space::Space;
use crate::index::{Batch, Table};
use crate::types::{Error, ErrorKind, Result};

/// Pause before the next check of fjall, or of a reader.
const PAUSE: Duration = Duration::from_millis(10);
/// Maximal number of pauses for a flush.
const FLUSH_PAUSES_MAX: u32 = 1_000;
/// Maximal number of rounds.
const ROUNDS_MAX: u32 = 40;
/// Maximal number of rounds in a row without gain. A compaction of fjall itself or a reader may
/// delay the gain of a round.
const ROUNDS_IN_VAIN_MAX: u32 = 10;
/// Minimal gain that is worth the work, in bytes.
const GAIN_BYTES_MIN: u64 = 64 * 1024;
/// Maximal size of a table that is compacted here, in bytes. A larger table takes too long.
const COMPACTED_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Approximate size of a removed entry in a table, including its key.
const ENTRY_BYTES: u64 = 128;
/// Maximal number of values that are counted.
const SCANNED_MAX: usize = 200_000;
/// Maximal expected size of the files that a compaction writes beyond those that it deletes.
const COMPACTING_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Carries out the steps above. `commit` makes a batch durable. Blocks on the disk.
///
/// # Errors
/// Errors of the disk. The completed steps remain in effect.
pub(super) fn reclaim(
    store: &Store,
    space: &Space,
    commit: impl Fn(Batch) -> Result<()>,
) -> Result<()> {
    let mut gain_before = gain(store)?;
    // Each flush first takes space, and brings fjall's own next compaction nearer. If that
    // compaction finds no space, fjall stops all writes.
    if gain_before.is_some_and(|gain| gain < GAIN_BYTES_MIN)
        || !fits(store, space, Table::Payloads)?
    {
        return Ok(());
    }
    let mut rounds_in_vain = 0;
    for round in 0..ROUNDS_MAX {
        commit(noop_batch())?;
        flush(store, space)?;
        // Other tables contain no blob files: the first compaction reclaims all their space.
        let tables = if round == 0 {
            &Table::ALL[..]
        } else {
            &[Table::Payloads]
        };
        tables
            .iter()
            .try_for_each(|&table| compact(store, space, table))?;
        commit(noop_batch())?;
        flush(store, space)?;
        let gain = gain(store)?;
        let payloads = store.tables.of(Table::Payloads);
        let older_states = payloads.tree.version_free_list_len();
        rounds_in_vain = if gain == gain_before {
            rounds_in_vain + 1
        } else {
            0
        };
        let is_done = gain.is_some_and(|gain| gain < GAIN_BYTES_MIN) && older_states == 0;
        if is_done || rounds_in_vain == ROUNDS_IN_VAIN_MAX {
            break;
        }
        gain_before = gain;
        thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Returns the maximal size of a flush of all memtables without concurrent readers, in bytes. A
/// flush does not write removed values.
///
/// # Errors
/// Errors of a read.
pub(super) fn unflushed(tables: &TableKeyspaces) -> Result<u64> {
    let mut sum = 0_u64;
    for table in Table::ALL {
        let memtable = tables.of(table).tree.active_memtable();
        let live = live_bytes(tables, table, memtable.size())?.unwrap_or(u64::MAX);
        let keys = (memtable.len() as u64).saturating_mul(ENTRY_BYTES);
        sum = sum.saturating_add(memtable.size().min(live.saturating_add(keys)));
    }
    Ok(sum)
}

/// Waits until fjall has dropped the journals that were sealed before the open.
///
/// # Errors
/// As [`reclaim`].
pub(super) fn drop_journals(
    store: &Store,
    space: &Space,
    commit: impl Fn(Batch) -> Result<()>,
) -> Result<()> {
    for _ in 0..FLUSH_PAUSES_MAX {
        if store.database.journal_count() == 1 {
            return Ok(());
        }
        if store.database.outstanding_flushes() == 0 {
            // fjall drops journals only after a flush, so that a write is needed.
            commit(noop_batch())?;
            flush(store, space)?;
        }
        thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Returns the approximate space of removed and replaced values, in bytes, or `None` if there are
/// too many values to count.
fn gain(store: &Store) -> Result<Option<u64>> {
    let mut sum = 0_u64;
    for table in [Table::Rows, Table::Payloads] {
        let keyspace = store.tables.of(table);
        let taken = keyspace
            .disk_space()
            .saturating_add(keyspace.tree.active_memtable().size());
        let Some(live) = live_bytes(&store.tables, table, taken)? else {
            return Ok(None);
        };
        sum = sum.saturating_add(taken.saturating_sub(live));
    }
    Ok(Some(sum))
}

/// Returns the number of bytes that a compaction may write before it deletes its input.
pub(super) fn compacting(store: &Store) -> u64 {
    let of_one = |table| {
        let Transient { tables, values } = transient(store, table);
        tables.saturating_add(values).min(COMPACTING_BYTES_MAX)
    };
    Table::ALL
        .into_iter()
        .map(of_one)
        .fold(0, u64::saturating_add)
}

/// Creates a batch without effect: it removes a key that never exists.
pub(super) fn noop_batch() -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table::Changes, vec![0]);
    batch
}

/// Flushes all memtables, and waits for the end of the flush.
pub(super) fn flush(store: &Store, space: &Space) -> Result<()> {
    space.make_way_for_flush(store.database.write_buffer_size())?;
    for keyspace in store.tables.all() {
        keyspace
            .rotate_memtable()
            .map_err(|error| failed("flush", error))?;
    }
    for _ in 0..FLUSH_PAUSES_MAX {
        if store
            .tables
            .all()
            .all(|keyspace| keyspace.sealed_memtable_count() == 0)
        {
            return Ok(());
        }
        // A failed flush poisons fjall and never ends. `persist` returns the error in that case.
        store
            .database
            .persist(PersistMode::Buffer)
            .map_err(|error| failed("flush", error))?;
        thread::park_timeout(PAUSE);
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "flush",
        "flush not finished in time",
    ))
}

/// Compacts a table into its last level, if the disk has room for the new files.
pub(super) fn compact(store: &Store, space: &Space, table: Table) -> Result<()> {
    let keyspace = store.tables.of(table);
    // A keyspace without tables may still have blob files that the last compaction found dead.
    let is_empty = keyspace.table_count() == 0 && keyspace.blob_file_count() == 0;
    if is_empty || !fits(store, space, table)? {
        return Ok(());
    }
    keyspace
        .major_compact()
        .map_err(|error| failed("compact", error))
}

/// Returns whether the disk has room for the files of a compaction of this table, and the table is
/// small enough for a short compaction.
fn fits(store: &Store, space: &Space, table: Table) -> Result<bool> {
    let room = space
        .free_now()
        .saturating_sub(space.share() / 4)
        .min(COMPACTED_BYTES_MAX);
    let Transient { tables, values } = transient(store, table);
    if tables.saturating_add(values) <= room {
        return Ok(true);
    }
    // `transient` counts removed values as live until they are compacted: count the live ones.
    let live = live_bytes(&store.tables, table, room)?.unwrap_or(u64::MAX);
    Ok(tables.saturating_add(values.min(live)) <= room)
}

/// Returns the size of all keys and values of a table, in bytes. Stops at the first size above
/// `most`. Returns `None` if there are too many values to count. Reads no value that is stored
/// apart from its key.
fn live_bytes(tables: &TableKeyspaces, table: Table, most: u64) -> Result<Option<u64>> {
    let mut bytes = 0_u64;
    for (scanned, entry) in tables.of(table).iter().enumerate() {
        if scanned == SCANNED_MAX {
            return Ok(None);
        }
        if bytes > most {
            break;
        }
        bytes += u64::from(entry.size().map_err(|error| failed("scan", error))?);
    }
    Ok(Some(bytes))
}

/// Bytes that a compaction may write before it deletes its input.
struct Transient {
    tables: u64,
    values: u64,
}

/// Returns the bytes that a compaction of a table may write.
// A compaction rewrites all tables. It rewrites a blob file when a fifth of its values is dead
// (`database.rs`): at most four live bytes for each dead byte.
fn transient(store: &Store, table: Table) -> Transient {
    let keyspace = store.tables.of(table);
    match &keyspace.tree {
        AnyTree::Standard(tree) => Transient {
            tables: tree.disk_space(),
            values: 0,
        },
        AnyTree::Blob(tree) => {
            let tables = tree.index.disk_space();
            let dead = keyspace.fragmented_blob_bytes();
            let live = keyspace
                .disk_space()
                .saturating_sub(tables)
                .saturating_sub(dead);
            Transient {
                tables,
                values: live.min(dead.saturating_mul(4)),
            }
        }
    }
}
