//! The open store of an index: [`Store`] with all handles of fjall, and [`Slot`], the shared
//! reference to it.
//!
//! Guards that a close releases the directory: only a [`Slot`] outlives a close, and it is empty
//! then.

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Readable};

use super::database::Tables;
use super::failure::{caught, failed};
use super::gaps::Gaps;
use super::marker::{LastMark, Marker};
use super::published::{Published, State};
use super::space::Space;
use super::view::Held;
use super::walk::Walker;
use crate::env::Env;
use crate::index::{KEY_BYTES_MAX, Range, Table};
use crate::types::{Error, ErrorKind, Result};

/// Shared reference to the store, `None` after a close.
#[derive(Clone)]
pub(super) struct Slot(pub(super) Arc<RwLock<Option<Arc<Store>>>>);

impl Slot {
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
pub(super) struct Opened {
    pub(super) tables: Tables,
    pub(super) database: Database,
    pub(super) marker: Option<Arc<Marker>>,
    pub(super) held: Held,
    pub(super) space: Arc<Space>,
}

/// All handles of fjall, and the lock.
// The order of the fields is the order of their drops: snapshot, tables, database, last mark, lock.
pub(super) struct Store {
    pub(super) published: Published,
    pub(super) gaps: Gaps,
    /// A step of a scan that takes this long is remembered as a gap.
    pub(super) slow_step: Duration,
    pub(super) tables: Tables,
    pub(super) database: Database,
    pub(super) marker: Option<Arc<Marker>>,
    pub(super) _last_mark: LastMark,
    pub(super) _held: Held,
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
        let page = walker.scan(table, only).map_err(|_| error)?;
        tracing::warn!(
            table = table.name(),
            "damaged filter in the index: the key was read without it"
        );
        Ok(page.into_iter().next().map(|(_, value)| value))
    }
}
