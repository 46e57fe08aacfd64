//! An index decorator that counts scanned and written entries per table and forwards every call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Error, Index, IndexStats, Result};
use cenotaph_storage::index::{Batch, Completion, Page, Range, Snapshot, Table};
use futures::future::BoxFuture;

/// Counters of a [`Counting`] index. Clones share the counters.
#[derive(Clone, Default)]
pub struct Counts(Arc<[[AtomicU64; 2]; Table::ALL.len()]>);

impl Counts {
    /// Returns the number of entries of this table that scans have returned so far.
    pub fn scanned(&self, table: Table) -> u64 {
        self.0[table as usize][0].load(Ordering::SeqCst)
    }

    /// Returns the number of entries of this table that submitted batches have written so far.
    pub fn put(&self, table: Table) -> u64 {
        self.0[table as usize][1].load(Ordering::SeqCst)
    }
}

/// Index decorator that counts scanned and written entries.
pub struct Counting {
    inner: Arc<dyn Index>,
    counts: Counts,
}

impl Counting {
    /// Wraps an index with counters at zero.
    pub fn new(inner: Arc<dyn Index>) -> Self {
        Self {
            inner,
            counts: Counts::default(),
        }
    }

    /// Returns a shared handle to the counters.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

struct CountingSnapshot {
    inner: Box<dyn Snapshot>,
    counts: Counts,
}

impl Snapshot for CountingSnapshot {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.inner.get(table, key)
    }

    fn get_many(
        &self,
        table: Table,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<Vec<Option<Bytes>>>> {
        self.inner.get_many(table, keys)
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            let page = self.inner.scan(table, range).await?;
            self.counts.0[table as usize][0].fetch_add(page.len() as u64, Ordering::SeqCst);
            Ok(page)
        })
    }
}

impl Index for Counting {
    fn submit(&self, batch: Batch, completion: Completion) {
        // Removals are not counted.
        for (table, _, _) in batch.ops().iter().filter(|(_, _, value)| value.is_some()) {
            self.counts.0[*table as usize][1].fetch_add(1, Ordering::SeqCst);
        }
        self.inner.submit(batch, completion);
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        self.inner.get(table, key)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(CountingSnapshot {
            inner: self.inner.snapshot()?,
            counts: self.counts.clone(),
        }))
    }

    fn watch(&self, now: Duration) {
        self.inner.watch(now);
    }

    fn poisoned(&self) -> Option<Error> {
        self.inner.poisoned()
    }

    fn stats(&self) -> IndexStats {
        self.inner.stats()
    }

    fn room(&self, bytes: u64) -> Result<()> {
        self.inner.room(bytes)
    }

    fn reclaim(&self) -> BoxFuture<'static, ()> {
        self.inner.reclaim()
    }

    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.inner.close()
    }
}
