//! The fjall database: its keyspaces ([`TableKeyspaces`]), their tuning, its creation and its open.
//!
//! The figures behind the tuning were measured with the pinned version of fjall. `creation.rs`
//! manages the directory around the database.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};

use super::failure::failed;
use super::record::Keyspaces;
use super::{FjallOptions, MIB, Table};
use crate::types::{Error, ErrorKind, Result};

/// Minimal size of a payload that is stored apart from its key, so that a compaction does not
/// rewrite it, in bytes.
const PAYLOAD_SEPARATION_BYTES: u32 = 4 * 1024;
const PAYLOAD_FILE_BYTES: u64 = 32 * MIB;
const PAYLOAD_MEMTABLE_BYTES: u64 = 16 * MIB;

/// Keyspaces of all tables.
pub(super) struct TableKeyspaces {
    rows: Keyspace,
    payloads: Keyspace,
    changes: Keyspace,
    orphans: Keyspace,
    sessions: Keyspace,
    expiry: Keyspace,
    meta: Keyspace,
    segments: Keyspace,
}

/// Name of the keyspace with the records of the payload log.
pub(super) const SEGMENTS: &str = "segments";

impl TableKeyspaces {
    fn open(
        mut keyspace: impl FnMut(Table) -> Result<Keyspace>,
        segments: impl FnOnce() -> Result<Keyspace>,
    ) -> Result<Self> {
        Ok(Self {
            rows: keyspace(Table::Rows)?,
            payloads: keyspace(Table::Payloads)?,
            changes: keyspace(Table::Changes)?,
            orphans: keyspace(Table::Orphans)?,
            sessions: keyspace(Table::Uploads)?,
            expiry: keyspace(Table::Expiry)?,
            meta: keyspace(Table::Meta)?,
            // Last: the numbers of the other keyspaces are those of earlier builds.
            segments: segments()?,
        })
    }

    /// Returns the keyspace with the records of the payload log.
    pub(super) fn segments(&self) -> &Keyspace {
        &self.segments
    }

    /// Returns every keyspace.
    pub(super) fn all(&self) -> impl Iterator<Item = &Keyspace> {
        Table::ALL
            .into_iter()
            .map(|table| self.of(table))
            .chain([&self.segments])
    }

    /// Returns the name and the number of the directory of each keyspace.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if a directory has no number.
    pub(super) fn keyspaces(&self) -> Result<Keyspaces> {
        Table::ALL
            .iter()
            .map(|&table| (table.name(), self.of(table)))
            .chain([(SEGMENTS, &self.segments)])
            .map(|(name, keyspace)| Ok((name.to_owned(), directory_id(keyspace)?)))
            .collect()
    }

    pub(super) fn of(&self, table: Table) -> &Keyspace {
        match table {
            Table::Rows => &self.rows,
            Table::Payloads => &self.payloads,
            Table::Changes => &self.changes,
            Table::Orphans => &self.orphans,
            Table::Uploads => &self.sessions,
            Table::Expiry => &self.expiry,
            Table::Meta => &self.meta,
        }
    }
}

/// Creates a database with every keyspace, and closes it. Returns the number of each keyspace.
pub(super) fn build(path: &Path, options: &FjallOptions) -> Result<Keyspaces> {
    let database = open_database(path, options, options.worker_threads)?;
    let tables = TableKeyspaces::open(
        |table| keyspace(&database, table),
        || segments_keyspace(&database),
    );
    tables?.keyspaces()
}

/// Opens a database that has passed the check, and compares its keyspaces with the expected ones.
///
/// Without workers fjall neither flushes nor compacts, and the caller must not write.
pub(super) fn open(
    path: &Path,
    options: &FjallOptions,
    workers: usize,
    expected: &Keyspaces,
) -> Result<(TableKeyspaces, Database)> {
    let database = open_database(path, options, workers)?;
    let opened = |table: Table| {
        // `Database::keyspace` would create a lost keyspace as an empty one.
        if !database.keyspace_exists(table.name()) {
            let message = format!("keyspace missing in fjall: keyspace={}", table.name());
            return Err(Error::new(ErrorKind::Corrupt, "open", message));
        }
        let keyspace = keyspace(&database, table)?;
        if expected.get(table.name()) != Some(&directory_id(&keyspace)?) {
            let message = format!(
                "keyspace in another directory than in the record: keyspace={}",
                table.name()
            );
            return Err(Error::new(ErrorKind::Corrupt, "open", message));
        }
        Ok(keyspace)
    };
    let segments = || {
        // Created in a store of an earlier build. The caller adds it to the record.
        let segments = segments_keyspace(&database)?;
        match expected.get(SEGMENTS) {
            Some(expected) if *expected != directory_id(&segments)? => {
                let message = "the keyspace of the payload log is not the one in the record";
                Err(Error::new(ErrorKind::Corrupt, "open", message))
            }
            Some(_) | None => Ok(segments),
        }
    };
    let tables = TableKeyspaces::open(opened, segments)?;
    Ok((tables, database))
}

fn segments_keyspace(database: &Database) -> Result<Keyspace> {
    let options = || KeyspaceCreateOptions::default().manual_journal_persist(true);
    database
        .keyspace(SEGMENTS, options)
        .map_err(|error| failed("open", error))
}

pub(super) fn open_database(
    path: &Path,
    options: &FjallOptions,
    workers: usize,
) -> Result<Database> {
    let builder = Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes_max)
        .worker_threads_unchecked(workers)
        // Compression costs more time than it saves: a factor of up to five for large values.
        .journal_compression(CompressionType::None)
        // Every batch requests its own sync.
        .manual_journal_persist(true);
    // fjall panics at some kinds of damage.
    match catch_unwind(AssertUnwindSafe(|| builder.open())) {
        Ok(opened) => opened.map_err(|error| failed("open", error)),
        Err(_) => Err(Error::new(
            ErrorKind::Corrupt,
            "open",
            "fjall panicked at damaged files",
        )),
    }
}

fn keyspace(database: &Database, table: Table) -> Result<Keyspace> {
    let options = || {
        let plain = KeyspaceCreateOptions::default().manual_journal_persist(true);
        match table {
            Table::Payloads => plain
                .max_memtable_size(PAYLOAD_MEMTABLE_BYTES)
                .with_kv_separation(Some(payload_separation())),
            Table::Rows
            | Table::Changes
            | Table::Orphans
            | Table::Uploads
            | Table::Expiry
            | Table::Meta => plain,
        }
    };
    database
        .keyspace(table.name(), options)
        .map_err(|error| failed("open", error))
}

/// Returns the options for payloads that are stored apart from their keys.
// Measured: twice the throughput and half the space, compared with payloads next to their keys.
fn payload_separation() -> KvSeparationOptions {
    KvSeparationOptions::default()
        .separation_threshold(PAYLOAD_SEPARATION_BYTES)
        .file_target_size(PAYLOAD_FILE_BYTES)
        .staleness_threshold(0.2)
        .age_cutoff(1.0)
        .compression(CompressionType::None)
}

/// Returns the number by which fjall names the directory of a keyspace.
fn directory_id(keyspace: &Keyspace) -> Result<u64> {
    let id = keyspace
        .path()
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.parse().ok());
    id.ok_or_else(|| {
        let message = format!(
            "a keyspace directory has no number: path={}",
            keyspace.path().display()
        );
        Error::new(ErrorKind::Corrupt, "open", message)
    })
}
