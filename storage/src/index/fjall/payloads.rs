//! The payload log within fjall: the pointers of a commit, and the records of the segments.
//!
//! Guards that the records always agree with the pointers: both are written in one batch, and a
//! collection replaces a pointer only if no batch has changed it (a delete in between wins).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Keyspace, OwnedWriteBatch};

use super::Store;
use super::database::TableKeyspaces;
use super::failure::failed;
use super::published::State;
use crate::env::Env;
use crate::index::Table;
use crate::index::group_commit::Changes;
use crate::index::payload_log::{
    LOG_KEY, LogRecord, LogWriter, Move, Opening, PayloadLog, Pointer, SegmentId, SegmentRecord,
    TableChanges, is_logged, segment_key, segment_of, unavailable,
};
use crate::types::Result;

/// Opens the payload log with the records in fjall.
///
/// # Errors
/// Errors of fjall and of the file system, [`Corrupt`](crate::ErrorKind::Corrupt) and
/// [`UnknownFormat`](crate::ErrorKind::UnknownFormat) for records.
pub(super) fn open_log(tables: &TableKeyspaces, opening: Opening) -> Result<Arc<PayloadLog>> {
    let mut log = LogRecord::default();
    let mut records = BTreeMap::new();
    for entry in tables.segments().iter() {
        let (key, value) = entry.into_inner().map_err(|error| failed("open", error))?;
        if &*key == LOG_KEY {
            log = LogRecord::decode(&value)?;
        } else if let Some(id) = segment_of(&key) {
            records.insert(id, SegmentRecord::decode(&value)?);
        }
    }
    let dir = opening.dir.clone();
    let opened = PayloadLog::open(opening, log, records);
    opened
        .map(Arc::new)
        .map_err(|error| unavailable("open", &dir, error))
}

/// Appends the large payloads of a commit to the log, and returns their pointers.
///
/// # Errors
/// Errors of the file system. Nothing of the commit is visible then.
pub(super) fn append(
    writer: &mut LogWriter,
    changes: &Changes,
) -> Result<BTreeMap<Bytes, Pointer>> {
    let logged: Vec<_> = changes
        .iter()
        .filter_map(|((table, key), value)| Some((table, key, value.as_ref()?)))
        .filter(|(table, key, value)| **table == Table::Payloads && is_logged(key, value))
        .map(|(_, key, value)| (key, value))
        .collect();
    if logged.is_empty() {
        return Ok(BTreeMap::new());
    }
    let pointers = writer
        .append(&logged)
        .map_err(|error| unavailable("commit", writer.dir(), error))?;
    let keys = logged.into_iter().map(|(key, _)| key.clone());
    Ok(keys.zip(pointers).collect())
}

/// Pointers that a commit writes, and their effect on the records of the segments.
pub(super) struct Pointers<'a> {
    store: &'a Store,
    env: &'a Env,
    /// State before the commit.
    before: &'a State,
    written: BTreeMap<Bytes, Pointer>,
}

impl<'a> Pointers<'a> {
    pub(super) fn new(store: &'a Store, env: &'a Env, before: &'a State) -> Self {
        Self {
            store,
            env,
            before,
            written: BTreeMap::new(),
        }
    }

    /// Replaces the pointers of all changed payloads. `logged` are the pointers of the new values
    /// in the log.
    ///
    /// # Errors
    /// Errors of a read of fjall.
    pub(super) fn change(
        &mut self,
        changes: &Changes,
        logged: BTreeMap<Bytes, Pointer>,
    ) -> Result<()> {
        let payloads = changes
            .keys()
            .filter(|(table, _)| *table == Table::Payloads)
            .map(|(_, key)| key);
        for key in payloads {
            let old = self.store.pointer(self.env, self.before, key)?;
            let new = logged.get(key);
            self.store.log.lock().table.replace(key, old.as_ref(), new);
        }
        self.written = logged;
        Ok(())
    }

    /// Carries out the moves whose keys still have the old pointer.
    ///
    /// # Errors
    /// Errors of a read of fjall.
    pub(super) fn move_all(&mut self, moves: VecDeque<Move>, changes: &Changes) -> Result<()> {
        for Move { key, old, new } in moves {
            let entry = (Table::Payloads, key);
            if changes.contains_key(&entry)
                || self.store.pointer(self.env, self.before, &entry.1)? != Some(old)
            {
                continue;
            }
            let (_, key) = entry;
            self.store
                .log
                .lock()
                .table
                .replace(&key, Some(&old), Some(&new));
            self.written.insert(key, new);
        }
        Ok(())
    }

    /// Returns the pointers to write, and the changed records.
    pub(super) fn finish(self) -> (BTreeMap<Bytes, Pointer>, TableChanges) {
        let records = self.store.log.lock().table.take_changes();
        (self.written, records)
    }
}

/// Inserts changed records into a batch. Returns the segments that are dead once the batch is
/// durable.
pub(super) fn insert_records(
    batch: &mut OwnedWriteBatch,
    keyspace: &Keyspace,
    records: TableChanges,
) -> Vec<SegmentId> {
    if let Some(log) = records.log {
        batch.insert(keyspace, LOG_KEY, log.encode());
    }
    let mut dead = Vec::new();
    for (id, record) in records.segments {
        match record {
            Some(record) => batch.insert(keyspace, segment_key(id), record.encode()),
            None => {
                batch.remove(keyspace, segment_key(id));
                dead.push(id);
            }
        }
    }
    dead
}
