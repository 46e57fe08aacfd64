//! Reads of the simulated index: their steps, their faults, and snapshots ([`SimSnapshot`]). A
//! snapshot never changes after it was taken.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use cenotaph_storage::index::{Page, Range, Snapshot, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Inner;
use crate::disks::disk::DiskTables;
use crate::faults::Fault;

impl Inner {
    /// Takes the step of a read, which may fail.
    pub(super) async fn read(&self, what: &'static str, table: Table) -> Result<()> {
        self.open()?;
        self.scheduler.pass(what, || table.name().to_owned()).await;
        // The index may have been closed while the read waited for its step.
        self.open()?;
        if self
            .scheduler
            .durable_state()
            .strikes(Fault::IndexReadFails, || table.name().to_owned())
        {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "read",
                "a planned failure of the index",
            ));
        }
        Ok(())
    }

    /// Returns a value as a read delivers it, perhaps with a flipped bit. Only payloads have a
    /// checksum above the index, so only payloads are damaged. In half of the cases the index
    /// detects the damage itself, as fjall does.
    pub(super) fn arrived(&self, table: Table, value: Option<Bytes>) -> Result<Option<Bytes>> {
        let durable_state = self.scheduler.durable_state();
        let Some(value) = value else { return Ok(None) };
        if table != Table::Payloads
            || value.len() < 2
            || !durable_state.strikes(Fault::IndexBitRot, || table.name().to_owned())
        {
            return Ok(Some(value));
        }
        let mut bytes = value.to_vec();
        // The first byte is the format version. The position of the flipped bit decides who detects
        // it.
        let at = 1 + usize::try_from(durable_state.below(bytes.len() as u64 - 1)).unwrap_or(0);
        if at.is_multiple_of(2) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "get",
                "a checksum does not match",
            ));
        }
        bytes[at] ^= 1;
        Ok(Some(bytes.into()))
    }

    /// Returns an error if the index is closed.
    pub(super) fn open(&self) -> Result<()> {
        if self.queue.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "read", "the index is closed"));
        }
        Ok(())
    }
}

/// Snapshot of a simulated index.
pub(super) struct SimSnapshot {
    pub(super) inner: Arc<Inner>,
    pub(super) state: SnapshotState,
}

/// Source of the entries of a snapshot.
pub(super) enum SnapshotState {
    Simulated(DiskTables),
    Fjall(Box<dyn Snapshot>),
}

impl SimSnapshot {
    /// Returns the tables as of the snapshot. Differs from them only under a planted bug.
    fn seen<'a>(&self, frozen: &'a DiskTables) -> Cow<'a, DiskTables> {
        if self.inner.planted(Bug::SnapshotDropsOverwritten) {
            // Planted bug: the snapshot drops entries that were overwritten after it was taken.
            let newest = self.inner.scheduler.durable_state().disk.tables();
            return Cow::Owned(frozen.without_overwritten(&newest));
        }
        Cow::Borrowed(frozen)
    }
}

impl Snapshot for SimSnapshot {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        async move {
            self.inner.read("index snapshot get", table).await?;
            match &self.state {
                SnapshotState::Simulated(tables) => {
                    let value = self.seen(tables).of(table).get(key).cloned();
                    self.inner.arrived(table, value)
                }
                SnapshotState::Fjall(snapshot) => snapshot.get(table, key).await,
            }
        }
        .boxed()
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        async move {
            self.inner.read("index scan", table).await?;
            let page = match &self.state {
                SnapshotState::Simulated(tables) => Ok(page(&self.seen(tables), table, range)),
                SnapshotState::Fjall(snapshot) => snapshot.scan(table, range).await,
            };
            self.inner.scheduler.linger().await;
            page
        }
        .boxed()
    }
}

/// Returns the entries of a range, up to its limit.
pub(in crate::tiers) fn page(tables: &DiskTables, table: Table, range: Range) -> Page {
    // `BTreeMap::range` panics on a reversed or empty range.
    let inhabited = match (&range.start, &range.end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Included(low), Bound::Included(high)) => low <= high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low < high,
    };
    if !inhabited {
        return Page::new();
    }
    let entries = tables
        .of(table)
        .range((range.start, range.end))
        .take(range.limit);
    entries
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
