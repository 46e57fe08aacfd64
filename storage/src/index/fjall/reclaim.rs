//! Giving space back to the disk, where it is low and something was removed.
//!
//! ```text
//! 1 is there anything to gain, and does what is written for it fit?
//! 2 commit a tiny batch     so that no snapshot of ours holds back what was removed before it
//! 3 flush every table       values that were removed meanwhile are not written
//! 4 compact                 entries that were removed go, and blob files that an earlier compaction found dead
//! 5 steps 2 and 3 again     fjall deletes the files of older states as it rotates
//!   again from 2            until nothing is left to gain, or nothing is gained any more
//! ```
//!
//! Only where the disk is low: steady reclamation is another matter. Every step may fail or be left
//! out, and nothing is lost by it. Deliberately not here: when this is done (`../fjall.rs`).

use std::thread;
use std::time::Duration;

use fjall::{AbstractTree, AnyTree, PersistMode};

use super::Store;
use super::database::Tables;
use super::space::Space;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{Batch, Table};

/// How long fjall, or a reader, is waited for at a time.
const PAUSE: Duration = Duration::from_millis(10);
/// How many times a flush is waited for.
const FLUSH_PAUSES_MAX: u32 = 1_000;
/// Rounds at the most, and rounds in a row that gained nothing: a compaction of fjall's own, or a
/// reader, may be in the way.
const ROUNDS_MAX: u32 = 40;
const ROUNDS_IN_VAIN_MAX: u32 = 10;
/// Less is not worth it.
const GAIN_BYTES_MIN: u64 = 64 * 1024;
/// Tables beyond this size are left to fjall: compacting them takes too long.
const COMPACTED_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes that a removed entry takes in a table, key and all, about.
const ENTRY_BYTES: u64 = 128;
/// Values are counted up to this many.
const SCANNED_MAX: usize = 200_000;
/// A compaction is not expected to write more than this beyond what it deletes.
const COMPACTING_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Carries out the steps above. `commit` makes a batch durable. Blocks for the disk.
///
/// # Errors
/// Whatever the disk says. What has been done stays done.
pub(super) fn reclaim(
    store: &Store,
    space: &Space,
    commit: impl Fn(Batch) -> Result<()>,
) -> Result<()> {
    let mut gain_before = gain(store)?;
    // Each flush takes space at first, and brings fjall's own compactions nearer: one that finds
    // none ends all writing.
    if gain_before.is_some_and(|gain| gain < GAIN_BYTES_MIN)
        || !fits(store, space, Table::Payloads)?
    {
        return Ok(());
    }
    let mut rounds_in_vain = 0;
    for round in 0..ROUNDS_MAX {
        commit(tiny())?;
        flush(store, space)?;
        let tables = if round == 0 {
            &Table::ALL[..]
        } else {
            &[Table::Payloads]
        };
        tables
            .iter()
            .try_for_each(|&table| compact(store, space, table))?;
        commit(tiny())?;
        flush(store, space)?;
        let (gain, older_states) = (
            gain(store)?,
            store
                .tables
                .of(Table::Payloads)
                .tree
                .version_free_list_len(),
        );
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

/// Most bytes that a flush of everything in memory writes, while nobody reads: values that were
/// removed are not written.
///
/// # Errors
/// As reading.
pub(super) fn unflushed(tables: &Tables) -> Result<u64> {
    let mut sum = 0_u64;
    for table in Table::ALL {
        let memtable = tables.of(table).tree.active_memtable();
        let live = live_bytes(tables, table, memtable.size())?.unwrap_or(u64::MAX);
        let keys = (memtable.len() as u64).saturating_mul(ENTRY_BYTES);
        sum = sum.saturating_add(memtable.size().min(live.saturating_add(keys)));
    }
    Ok(sum)
}

/// Waits for fjall to drop the journals that were sealed before it opened.
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
            // fjall looks at its journals when it flushes something.
            commit(tiny())?;
            flush(store, space)?;
        }
        thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Bytes that removed and replaced values take, about; none if there are too many to count.
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

/// Bytes that a compaction may write before it deletes its input.
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

/// A batch that changes nothing: no key is empty but for this byte.
fn tiny() -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table::Changes, vec![0]);
    batch
}

/// Has fjall write everything that lies in memory, and waits for it.
fn flush(store: &Store, space: &Space) -> Result<()> {
    space.make_way_for_flush(store.database.write_buffer_size())?;
    for table in Table::ALL {
        let keyspace = store.tables.of(table);
        keyspace
            .rotate_memtable()
            .map_err(|error| super::failed("flush", error))?;
    }
    for _ in 0..FLUSH_PAUSES_MAX {
        if Table::ALL
            .into_iter()
            .all(|table| store.tables.of(table).sealed_memtable_count() == 0)
        {
            return Ok(());
        }
        // A flush that failed has poisoned fjall, and would be waited for in vain.
        store
            .database
            .persist(PersistMode::Buffer)
            .map_err(|error| super::failed("flush", error))?;
        thread::park_timeout(PAUSE);
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        "flush",
        "the tables were not written in time",
    ))
}

/// Compacts a table into its last level, if what that writes fits.
fn compact(store: &Store, space: &Space, table: Table) -> Result<()> {
    let keyspace = store.tables.of(table);
    // Without a table there may still be blob files that the last compaction found dead.
    let is_empty = keyspace.table_count() == 0 && keyspace.blob_file_count() == 0;
    if is_empty || !fits(store, space, table)? {
        return Ok(());
    }
    keyspace
        .major_compact()
        .map_err(|error| super::failed("compact", error))
}

/// Returns whether there is room for what a compaction of this table writes, and it takes no long
/// time.
fn fits(store: &Store, space: &Space, table: Table) -> Result<bool> {
    let room = space
        .free_now()
        .saturating_sub(space.share() / 4)
        .min(COMPACTED_BYTES_MAX);
    let Transient { tables, values } = transient(store, table);
    if tables.saturating_add(values) <= room {
        return Ok(true);
    }
    // What was removed and is not yet compacted still counts there as live.
    let live = live_bytes(&store.tables, table, room)?.unwrap_or(u64::MAX);
    Ok(tables.saturating_add(values.min(live)) <= room)
}

/// Bytes of the keys and values of a table, or a little more than `most`; none if there are too
/// many to count. Reads no value that lies apart from its key.
fn live_bytes(tables: &Tables, table: Table, most: u64) -> Result<Option<u64>> {
    let mut bytes = 0_u64;
    for (scanned, entry) in tables.of(table).iter().enumerate() {
        if scanned == SCANNED_MAX {
            return Ok(None);
        }
        if bytes > most {
            break;
        }
        bytes += u64::from(entry.size().map_err(|error| super::failed("scan", error))?);
    }
    Ok(Some(bytes))
}

/// What a compaction may write before it deletes its input, in bytes.
struct Transient {
    tables: u64,
    values: u64,
}

/// The tables themselves are written anew. Blob files are too, from a fifth of dead values on
/// (`database.rs`): so four live bytes go with each dead one at the most.
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
