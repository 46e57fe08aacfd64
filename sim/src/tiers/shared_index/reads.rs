//! Reads of the shared index: single reads, and snapshots whose state is fixed at their first read.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cenotaph_storage::index::{Page, Range, Snapshot, Table};
use cenotaph_storage::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Inner, unavailable};
use crate::disks::disk::DiskTables;
use crate::faults::Fault;
use crate::tiers::index::page;
use crate::world::process::Remote;

/// Snapshot of a shared index.
pub(super) struct SharedSnapshot {
    inner: Arc<Inner>,
    state: Mutex<SnapshotState>,
}

/// State of a snapshot.
enum SnapshotState {
    NotBegun,
    Open(DiskTables),
    /// A read has failed: a new transaction would see another state.
    Lost,
}

impl Inner {
    /// Sends a request. It reaches the store at the end of this call, or fails.
    pub(super) async fn request(&self, what: &'static str) -> Result<()> {
        self.check_open()?;
        self.scheduler.pass(what, String::new).await;
        // The index may have been closed while the request waited for its step.
        self.check_open()?;
        if self.scheduler.is_cut_off(Remote::Index) {
            return Err(unavailable("this member is cut off from the index"));
        }
        Ok(())
    }

    /// Sends a request that reads.
    async fn read(&self, what: &'static str, table: Table) -> Result<()> {
        self.request(what).await?;
        let durable_state = self.scheduler.durable_state();
        if durable_state.strikes(Fault::IndexReadFails, || table.name().to_owned()) {
            return Err(unavailable("a planned failure of a read"));
        }
        Ok(())
    }

    /// Reads a key.
    pub(super) async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.read("index get", table).await?;
        let value = self.scheduler.durable_state().disk.get(table, key);
        self.scheduler.linger().await;
        Ok(value)
    }

    fn check_open(&self) -> Result<()> {
        if self.queue.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "read", "the index is closed"));
        }
        Ok(())
    }
}

impl SharedSnapshot {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            state: Mutex::new(SnapshotState::NotBegun),
        }
    }

    /// Returns the state of the snapshot, which the first call fixes.
    async fn tables(&self, what: &'static str, table: Table) -> Result<DiskTables> {
        let sent = self.inner.read(what, table).await;
        let tables = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match (&*state, sent) {
                (SnapshotState::Lost, Ok(())) => {
                    return Err(unavailable("a read of this snapshot has failed before"));
                }
                (SnapshotState::Open(tables), Ok(())) => tables.clone(),
                (SnapshotState::NotBegun, Ok(())) => {
                    let tables = self.inner.scheduler.durable_state().disk.tables();
                    *state = SnapshotState::Open(tables.clone());
                    tables
                }
                (SnapshotState::NotBegun, Err(error)) => return Err(error),
                (SnapshotState::Open(_) | SnapshotState::Lost, Err(error)) => {
                    *state = SnapshotState::Lost;
                    return Err(error);
                }
            }
        };
        self.inner.scheduler.linger().await;
        Ok(tables)
    }
}

impl Snapshot for SharedSnapshot {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        async move {
            let tables = self.tables("index snapshot get", table).await?;
            Ok(tables.of(table).get(key).cloned())
        }
        .boxed()
    }

    fn get_many(
        &self,
        table: Table,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>>> {
        async move {
            let tables = self.tables("index snapshot get many", table).await?;
            let values = keys.iter().map(|key| tables.of(table).get(key).cloned());
            Ok(values.collect())
        }
        .boxed()
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        async move {
            let tables = self.tables("index scan", table).await?;
            Ok(page(&tables, table, range))
        }
        .boxed()
    }
}
