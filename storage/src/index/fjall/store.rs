//! The open store of an index: [`Store`] with all handles of fjall, and [`StoreSlot`], the shared
//! reference to it.
//!
//! Guards that a close releases the directory: only a [`StoreSlot`] outlives a close, and it is
//! empty then.

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Readable};

use super::database::TableKeyspaces;
use super::failure::{caught, failed};
use super::gaps::Gaps;
use super::marker::{LastMark, MarkWriter};
use super::published::{Published, State};
use super::space::Space;
use super::upkeep::Upkeep;
use super::view::HeldLock;
use super::walk::Walker;
use crate::env::Env;
use crate::index::payload_log::{POINTER_BYTES, PayloadLog, Pointer};
use crate::index::{KEY_BYTES_MAX, Range, Table};
use crate::types::{Checksum, Error, ErrorKind, Result};

/// Shared reference to the store, `None` after a close.
#[derive(Clone)]
pub(super) struct StoreSlot(pub(super) Arc<RwLock<Option<Arc<Store>>>>);

impl StoreSlot {
    pub(super) fn store(&self) -> Result<Arc<Store>> {
        let store = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        store.ok_or_else(|| Error::new(ErrorKind::Closed, "read", "the index is closed"))
    }

    pub(super) fn clear(&self) {
        // The guard is released before the store drops, because closing fjall takes time.
        let store = self
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(store);
    }
}

/// An opened database with its marker, lock and space monitor.
pub(super) struct OpenedStore {
    pub(super) tables: TableKeyspaces,
    pub(super) database: Database,
    pub(super) marker: Option<Arc<MarkWriter>>,
    pub(super) log: Arc<PayloadLog>,
    pub(super) held: HeldLock,
    pub(super) space: Arc<Space>,
}

/// Value that was read without a wait for the disk.
pub(super) enum Resident {
    /// The value, or `None` if the key is absent.
    Value(Option<Bytes>),
    /// Part of the value is not in memory.
    OnDisk,
}

/// All handles of fjall, and the lock.
// The order of the fields is the order of their drops: snapshot, tables, database, last mark, lock.
pub(super) struct Store {
    pub(super) published: Published,
    pub(super) gaps: Gaps,
    pub(super) upkeep: Upkeep,
    /// A step of a scan that takes this long is remembered as a gap.
    pub(super) slow_step: Duration,
    pub(super) tables: TableKeyspaces,
    pub(super) database: Database,
    pub(super) log: Arc<PayloadLog>,
    pub(super) marker: Option<Arc<MarkWriter>>,
    pub(super) _last_mark: LastMark,
    pub(super) _held: HeldLock,
    /// Dropped last. The drop ends [`Gone::wait`].
    pub(super) _gone: mpsc::Sender<()>,
}

/// Signal that the last reference to the store is dropped.
pub(super) struct Gone(pub(super) Mutex<mpsc::Receiver<()>>);

impl Gone {
    pub(super) fn wait(&self) {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: `recv` fails when the store drops its sender.
        let _ = receiver.recv();
    }
}

impl Store {
    pub(super) fn get(
        &self,
        env: &Env,
        state: &State,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Bytes>> {
        let stored = self.get_stored(env, state, table, key)?;
        stored
            .map(|stored| self.resolve(state, table, key, stored, None))
            .transpose()
    }

    /// Reads a payload. `expected` is its checksum, if the caller knows it.
    pub(super) fn payload(
        &self,
        env: &Env,
        state: &State,
        key: &[u8],
        expected: Option<Checksum>,
    ) -> Result<Option<Bytes>> {
        let stored = self.get_stored(env, state, Table::Payloads, key)?;
        stored
            .map(|stored| self.resolve(state, Table::Payloads, key, stored, expected))
            .transpose()
    }

    /// Reads a payload unless it is on the disk. `expected` is its checksum, if the caller knows it.
    pub(super) fn get_resident(
        &self,
        env: &Env,
        state: &State,
        key: &[u8],
        expected: Option<Checksum>,
    ) -> Result<Resident> {
        // Stores of earlier builds hold large values in blob files, which only the disk has.
        if self.tables.of(Table::Payloads).blob_file_count() > 0 {
            return Ok(Resident::OnDisk);
        }
        let Some(stored) = self.get_stored(env, state, Table::Payloads, key)? else {
            return Ok(Resident::Value(None));
        };
        let Some(pointer) = Pointer::decode(&stored) else {
            return verified(stored, expected).map(|value| Resident::Value(Some(value)));
        };
        let segment = self.log.segment(&state.segments, &pointer)?;
        let value = segment.read_resident(&pointer, key, expected)?;
        Ok(value.map_or(Resident::OnDisk, |value| Resident::Value(Some(value))))
    }

    /// Returns the value of a key that has this value in fjall. `expected` is the checksum of the
    /// value, if the caller knows it.
    pub(super) fn resolve(
        &self,
        state: &State,
        table: Table,
        key: &[u8],
        stored: Bytes,
        expected: Option<Checksum>,
    ) -> Result<Bytes> {
        match Pointer::decode(&stored) {
            Some(pointer) if table == Table::Payloads => self
                .log
                .segment(&state.segments, &pointer)?
                .read(&pointer, key, expected),
            Some(_) | None => verified(stored, expected),
        }
    }

    /// Returns the pointer of a payload, or `None` if the key is absent or its value is in fjall.
    pub(super) fn pointer(&self, env: &Env, state: &State, key: &[u8]) -> Result<Option<Pointer>> {
        // A value of an earlier build is not read: it may have a megabyte.
        let is_pointer_sized = caught("get", || {
            let bytes = state
                .snapshot
                .size_of(self.tables.of(Table::Payloads), key)
                .map_err(|error| failed("get", error))?;
            Ok(bytes.is_some_and(|bytes| bytes as usize == POINTER_BYTES))
        })?;
        if !is_pointer_sized {
            return Ok(None);
        }
        let stored = self.get_stored(env, state, Table::Payloads, key)?;
        Ok(stored.and_then(|stored| Pointer::decode(&stored)))
    }

    /// Returns the value that a key has in fjall.
    fn get_stored(
        &self,
        env: &Env,
        state: &State,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Bytes>> {
        // fjall panics at an empty or too long key. No batch contains such a key, so it is absent.
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
            return Ok(None);
        }
        let got = caught("get", || {
            let value = state
                .snapshot
                .get(self.tables.of(table), key)
                .map_err(|error| failed("get", error))?;
            Ok(value.map(Bytes::from))
        });
        got.or_else(|error| {
            self.get_by_range(
                &Walker {
                    store: self,
                    state,
                    env,
                },
                table,
                key,
                error,
            )
        })
    }

    /// Reads a key by a scan of one entry, after a `get` has failed with this error. A scan reads
    /// no filter, so that it also finds an entry behind a damaged filter.
    fn get_by_range(
        &self,
        walker: &Walker<'_>,
        table: Table,
        key: &[u8],
        error: Error,
    ) -> Result<Option<Bytes>> {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error);
        }
        let key = Bytes::copy_from_slice(key);
        let only = Range {
            start: Bound::Included(key.clone()),
            end: Bound::Included(key),
            limit: 1,
        };
        let page = walker.scan_stored(table, only).map_err(|_| error)?;
        tracing::warn!(
            table = table.name(),
            "damaged filter in the index: the key was read without it"
        );
        Ok(page.into_iter().next().map(|(_, value)| value))
    }
}

/// Returns a value if it has the expected checksum.
fn verified(value: Bytes, expected: Option<Checksum>) -> Result<Bytes> {
    match expected {
        Some(expected) => expected.verified(value),
        None => Ok(value),
    }
}
