//! The record of a store: the expected keyspaces, fjall's version marker and the id of the payload
//! log, in `record.json`.
//!
//! ```text
//! format 1   keyspaces, fjall_marker                 stores of builds without a payload log
//! format 2   also payload_log, and the keyspace of its segments
//! ```
//!
//! Guards that an opening detects a lost keyspace, which fjall would create again without its
//! contents.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::creation::{DATABASE, FJALL_MARKER, FJALL_META_KEYSPACE, corrupt, store, unavailable};
use super::database::SEGMENTS;
use crate::directory_sync::sync_directory_at;
use crate::index::Table;
use crate::modes::Modes;
use crate::types::{Error, ErrorKind, Result};

/// Name of the file.
pub(super) const RECORD: &str = "record.json";
/// Name of the file while it is replaced.
const NEW_RECORD: &str = "record.new";

/// Version of [`Record`] that this build writes: the store has a payload log.
const RECORD_FORMAT: u32 = 2;
/// Version of [`Record`] of stores without a payload log. An opening adds one.
const RECORD_FORMAT_WITHOUT_LOG: u32 = 1;

/// Name of each keyspace, and the number of its directory.
pub(super) type Keyspaces = BTreeMap<String, u64>;

/// Expected contents of a store, written once at its creation.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// Contents of fjall's version marker.
    fjall_marker: Vec<u8>,
    keyspaces: Keyspaces,
    /// Random id of the payload log, in hexadecimal digits. Its segments carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_log: Option<String>,
}

impl Record {
    /// Returns the directories of all keyspaces, including fjall's own keyspace.
    pub(super) fn directories(&self) -> Vec<u64> {
        std::iter::once(FJALL_META_KEYSPACE)
            .chain(self.keyspaces.values().copied())
            .collect()
    }

    /// Returns all keyspaces except fjall's own.
    pub(super) fn keyspaces(&self) -> &Keyspaces {
        &self.keyspaces
    }

    /// Returns the id of the payload log, or `None` if the store has none yet.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is missing or damaged.
    pub(super) fn log_id(&self) -> Result<Option<u128>> {
        if self.is_without_log() {
            return Ok(None);
        }
        let id = self.payload_log.as_deref();
        id.and_then(|id| u128::from_str_radix(id, 16).ok())
            .map(Some)
            .ok_or_else(|| corrupt("the record has no valid id of the payload log"))
    }

    /// Returns the expected contents of fjall's version marker.
    pub(super) fn fjall_marker(&self) -> &[u8] {
        &self.fjall_marker
    }

    /// Returns whether the store was created without a payload log.
    pub(super) fn is_without_log(&self) -> bool {
        self.format == RECORD_FORMAT_WITHOUT_LOG
    }

    fn expected_keyspaces(&self) -> impl Iterator<Item = &'static str> {
        let log = (!self.is_without_log()).then_some(SEGMENTS);
        Table::ALL.iter().map(|table| table.name()).chain(log)
    }
}

/// Field that every version of [`Record`] has.
#[derive(Debug, Deserialize)]
struct RecordFormat {
    format: u32,
}

/// Adds the payload log to the record of a store that was created without it. `keyspaces` are all
/// keyspaces of the database.
///
/// fjall creates the keyspace before. A crash in between leaves a keyspace that the record does not
/// name, which `check_database` accepts; the next opening uses it.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the file system fails.
pub(super) fn add_log(dir: &Path, keyspaces: Keyspaces, log_id: u128, modes: Modes) -> Result<()> {
    let store = store(dir);
    let path = store.join(NEW_RECORD);
    let json = encoded_record(&store, keyspaces, log_id)?;
    let write = || {
        let mut file = modes
            .file_options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        file.write_all(&json)?;
        file.sync_all()?;
        // The rename replaces the record in one step.
        fs::rename(&path, store.join(RECORD))?;
        sync_directory_at(&store)
    };
    write().map_err(|error| unavailable("write", &path, error))
}

/// Returns the name and number of each keyspace from the record, without a comparison.
///
/// # Errors
/// As [`create_or_check`](super::creation::create_or_check).
pub(super) fn recorded_keyspaces(dir: &Path) -> Result<Keyspaces> {
    read_record(&store(dir).join(RECORD)).map(|record| record.keyspaces)
}

/// Writes the record of a new store, without a sync.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the file system fails.
pub(super) fn write_record(store: &Path, keyspaces: Keyspaces, log_id: u128) -> Result<()> {
    let path = store.join(RECORD);
    fs::write(&path, encoded_record(store, keyspaces, log_id)?)
        .map_err(|error| unavailable("write", &path, error))
}

fn encoded_record(store: &Path, keyspaces: Keyspaces, log_id: u128) -> Result<Vec<u8>> {
    let marker = store.join(DATABASE).join(FJALL_MARKER);
    let fjall_marker = fs::read(&marker).map_err(|error| unavailable("read", &marker, error))?;
    let record = Record {
        format: RECORD_FORMAT,
        fjall_marker,
        keyspaces,
        payload_log: Some(format!("{log_id:032x}")),
    };
    serde_json::to_vec_pretty(&record).map_err(|error| {
        Error::new(ErrorKind::Invalid, "open", "the record can't be encoded").with_source(error)
    })
}

/// Reads the record at a path, without a check of its keyspaces.
///
/// # Errors
/// [`ErrorKind::UnknownFormat`] for a record of another version, [`ErrorKind::Corrupt`] if it is
/// damaged, [`ErrorKind::Unavailable`] if the file system fails.
pub(super) fn read_record(path: &Path) -> Result<Record> {
    let damaged = |error| {
        corrupt(format!("the record is damaged: path={}", path.display())).with_source(error)
    };
    let json = fs::read(path).map_err(|error| unavailable("read", path, error))?;
    // The format is read first, because a record of another version may have other fields.
    let RecordFormat { format } = serde_json::from_slice(&json).map_err(damaged)?;
    if !(RECORD_FORMAT_WITHOUT_LOG..=RECORD_FORMAT).contains(&format) {
        let message = format!(
            "this build knows formats up to {RECORD_FORMAT}: format={format} path={}",
            path.display()
        );
        return Err(Error::new(ErrorKind::UnknownFormat, "open", message));
    }
    serde_json::from_slice(&json).map_err(damaged)
}

/// Checks that the record has exactly the expected keyspaces.
pub(super) fn check_tables(record: &Record) -> Result<()> {
    let missing = record
        .expected_keyspaces()
        .find(|&name| !record.keyspaces.contains_key(name));
    match missing {
        Some(name) => Err(corrupt(format!(
            "the record lacks a keyspace: keyspace={name}"
        ))),
        // No keyspace is missing, so that any further keyspace is unknown.
        None if record.keyspaces.len() > record.expected_keyspaces().count() => {
            Err(corrupt("the record has an unknown keyspace"))
        }
        None => Ok(()),
    }
}
