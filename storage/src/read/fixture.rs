//! Test fixture of the read side: a [`Store`] over an index in memory. A test can apply a batch
//! between two reads of the index.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{ReadLimits, Reads};
use crate::blobs::{BlobOptions, BlobTier, FinishedBlob};
use crate::decide::{Mutation, Precondition, RowState, Swap, SwapView, revision_key};
use crate::env::Env;
use crate::fallback::AttachedFallback;
use crate::index::{Batch, Completion, Index, IndexStats, Page, Range, Snapshot, Table};
use crate::read::pins::Pins;
use crate::records::{Attributes, BlockChecksums, Extent, Manifest, Row};
use crate::types::{Error, ObjectId, Result, RevisionId, Version};

type Tables = BTreeMap<(Table, Bytes), Bytes>;
type Intruder = Box<dyn FnMut(u64) -> Option<Batch> + Send>;

/// An index in memory. A submitted batch is durable immediately.
#[derive(Default)]
pub(crate) struct MemoryIndex {
    tables: Mutex<Tables>,
    rows_scanned: Arc<AtomicU64>,
    reads: AtomicU64,
    intruder: Mutex<Option<Intruder>>,
    /// Submitted batch that becomes durable with the next batch.
    late: Mutex<Option<Batch>>,
}

impl MemoryIndex {
    pub(crate) fn apply(&self, batch: Batch) {
        let mut tables = self.tables.lock().unwrap();
        for (table, key, value) in batch.into_ops() {
            match value {
                Some(value) => tables.insert((table, key), value),
                None => tables.remove(&(table, key)),
            };
        }
    }

    /// Returns the number of rows that scans have returned so far.
    pub(crate) fn rows_scanned(&self) -> u64 {
        self.rows_scanned.load(Ordering::Relaxed)
    }

    /// Submits a batch that becomes durable with the next batch or barrier.
    pub(crate) fn delay(&self, batch: Batch) {
        *self.late.lock().unwrap() = Some(batch);
    }

    /// Calls `intruder` before each later read and snapshot, numbered from 0, and applies the batch
    /// that it returns.
    pub(crate) fn intrude(&self, intruder: impl FnMut(u64) -> Option<Batch> + Send + 'static) {
        self.reads.store(0, Ordering::Relaxed);
        *self.intruder.lock().unwrap() = Some(Box::new(intruder));
    }

    fn run_intruder(&self) {
        let nth = self.reads.fetch_add(1, Ordering::Relaxed);
        // Taken out of the mutex while it runs, so that it can read the store itself.
        let Some(mut intruder) = self.intruder.lock().unwrap().take() else {
            return;
        };
        if let Some(batch) = intruder(nth) {
            self.apply(batch);
        }
        *self.intruder.lock().unwrap() = Some(intruder);
    }

    fn value(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        self.tables
            .lock()
            .unwrap()
            .get(&(table, Bytes::copy_from_slice(key)))
            .cloned()
    }
}

impl Index for MemoryIndex {
    fn submit(&self, batch: Batch, completion: Completion) {
        let late = self.late.lock().unwrap().take();
        late.into_iter().for_each(|late| self.apply(late));
        self.apply(batch);
        completion(Ok(()));
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        async move {
            self.run_intruder();
            Ok(self.value(table, key))
        }
        .boxed()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.run_intruder();
        let tables = self.tables.lock().unwrap().clone();
        Ok(Box::new(MemorySnapshot {
            tables,
            rows_scanned: self.rows_scanned.clone(),
        }))
    }

    fn watch(&self, _now: Duration) {}

    fn poisoned(&self) -> Option<Error> {
        None
    }

    fn stats(&self) -> IndexStats {
        IndexStats::default()
    }

    fn close(&self) -> BoxFuture<'static, Result<()>> {
        async { Ok(()) }.boxed()
    }
}

struct MemorySnapshot {
    tables: Tables,
    rows_scanned: Arc<AtomicU64>,
}

impl Snapshot for MemorySnapshot {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        let value = self
            .tables
            .get(&(table, Bytes::copy_from_slice(key)))
            .cloned();
        async move { Ok(value) }.boxed()
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        let begins = |key: &Bytes| match &range.start {
            Bound::Included(start) => key >= start,
            Bound::Excluded(start) => key > start,
            Bound::Unbounded => true,
        };
        let ends = |key: &Bytes| match &range.end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        let of_table = self
            .tables
            .range((table, Bytes::new())..)
            .take_while(|((of, _), _)| *of == table);
        let within = of_table
            .filter(|((_, key), _)| begins(key) && ends(key))
            .take(range.limit);
        let page: Page = within
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        self.rows_scanned
            .fetch_add(page.len() as u64, Ordering::Relaxed);
        async move { Ok(page) }.boxed()
    }
}

/// Both tiers in memory, and the read side over them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) index: Arc<MemoryIndex>,
    blobs: BlobTier,
    pub(crate) pins: Pins,
    pub(crate) env: Env,
    pub(crate) reads: Reads,
}

impl Store {
    /// Creates an empty store with blobs in memory. Must be called within a runtime.
    pub(crate) fn new(limits: ReadLimits) -> Self {
        Self::on(
            opendal::Operator::new(opendal::services::Memory::default()).unwrap(),
            limits,
        )
    }

    /// Creates an empty store with the blob tier of this operator.
    pub(crate) fn on(operator: opendal::Operator, limits: ReadLimits) -> Self {
        let index = Arc::new(MemoryIndex::default());
        let pins = Pins::new();
        let env = Env::real().unwrap();
        let blobs = BlobTier::new(operator, env.clone(), BlobOptions::default());
        let reads = Reads::new(
            index.clone(),
            blobs.clone(),
            pins.clone(),
            env.clone(),
            limits,
        );
        Self {
            index,
            blobs,
            pins,
            env,
            reads,
        }
    }

    /// Returns the same store over a fallback.
    pub(crate) fn over(self, fallback: AttachedFallback) -> Self {
        let reads = Reads::over(
            self.index.clone(),
            self.blobs.clone(),
            self.pins.clone(),
            self.env.clone(),
            self.reads.limits().clone(),
            Some(fallback),
        );
        Self { reads, ..self }
    }

    pub(crate) fn row(&self, id: &ObjectId) -> Option<Row> {
        self.index
            .value(Table::Rows, id.encoded())
            .map(|value| Row::decode(&value).unwrap())
    }

    /// Returns the batch of a mutation, decided against the present row.
    pub(crate) fn batch(&self, id: &ObjectId, mutation: Mutation) -> Batch {
        let swap = Swap {
            id: id.clone(),
            operation: self.env.operation_id(),
            precondition: Precondition::None,
            mutation,
        };
        let row_state = self.row(id).map_or(RowState::New(Version::NONE), |row| {
            RowState::Present(Box::new(row))
        });
        let view = SwapView {
            row_state,
            is_unreadable: false,
            change_is_live: true,
        };
        swap.decide(&view, self.env.steady_now()).batch
    }

    pub(crate) fn apply(&self, id: &ObjectId, mutation: Mutation) {
        self.index.apply(self.batch(id, mutation));
    }

    /// Puts an object of these parts into the blob tier, a revision per part. Returns the
    /// revisions.
    pub(crate) async fn put_parts(&self, id: &ObjectId, parts: &[Bytes]) -> Vec<RevisionId> {
        let mutation = self.parts(id, parts).await;
        self.apply(id, mutation);
        self.row(id).unwrap().revisions()
    }

    /// Writes these parts to the blob tier, and returns the mutation that commits their tombstone.
    pub(crate) async fn parts(&self, id: &ObjectId, parts: &[Bytes]) -> Mutation {
        let mut extents = Vec::new();
        let mut blocks = Vec::new();
        for part in parts {
            let revision = self.env.revision_id();
            let blob = self.write_blob(id, revision, part.clone()).await;
            extents.push(Extent {
                revision,
                bytes: blob.bytes,
                checksum: blob.checksum,
            });
            blocks.push(BlockChecksums(blob.blocks));
        }
        let expected = self.row(id).map_or(RowState::New(Version::NONE), |row| {
            RowState::Present(Box::new(row))
        });
        Mutation::Tombstone {
            manifest: Manifest::of_parts(extents),
            checksum: None,
            blocks,
            attributes: Attributes::default(),
            expected: expected.expectation(self.env.steady_now()),
        }
    }

    pub(crate) async fn write_blob(
        &self,
        id: &ObjectId,
        revision: RevisionId,
        bytes: Bytes,
    ) -> FinishedBlob {
        let mut writer = self.blobs.writer(&revision_key(id, revision));
        writer.write(bytes).await.unwrap();
        writer.finish().await.unwrap()
    }

    pub(crate) async fn lose_blob(&self, id: &ObjectId, revision: RevisionId) {
        self.blobs
            .delete(&revision_key(id, revision))
            .await
            .unwrap();
    }
}

pub(crate) fn id(key: &str) -> ObjectId {
    ObjectId::try_from(key).unwrap()
}

pub(crate) fn inline(payload: impl Into<Bytes>) -> Mutation {
    Mutation::Inline {
        payload: payload.into(),
        attributes: Attributes::default(),
    }
}

/// Returns bytes that differ between positions and between seeds.
pub(crate) fn payload(bytes: usize, seed: u64) -> Bytes {
    let words = (0..).map(|n: u64| {
        (n ^ seed << 40)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}
