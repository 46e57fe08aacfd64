//! An index with a planted bug, around the simulated index.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::blobs::path::path;
use cenotaph_storage::decide::revision_key;
use cenotaph_storage::index::{
    Batch, CommitError, Completion, Index, IndexStats, Page, PayloadLogStats, Range, SharedIndex,
    Snapshot, SpaceStats, Table,
};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::records::{BASE_VERSION_KEY, Orphan, last_versions_prefix};
use cenotaph_storage::{Error, Result, RevisionId};
use futures::future::BoxFuture;

use super::members::watch_by_wall_clocks;
use crate::check::PINS;
use crate::disks::blobs::tier_of;
use crate::world::scheduler::Scheduler;

/// Index that behaves wrongly, if the bug is a bug of indexes.
pub(crate) struct MutantIndex {
    pub(super) inner: Arc<dyn Index>,
    scheduler: Arc<Scheduler>,
    pub(super) bug: Bug,
    /// Changes that recovery has fenced in vain.
    spared: Mutex<BTreeSet<Bytes>>,
}

impl MutantIndex {
    /// Wraps an index.
    pub(crate) fn wrap(
        inner: Arc<dyn Index>,
        scheduler: Arc<Scheduler>,
        bug: Bug,
    ) -> Arc<dyn Index> {
        if bug == Bug::HeartbeatByOtherClock && inner.is_shared() {
            watch_by_wall_clocks(&inner, &scheduler);
        }
        Arc::new(Self {
            inner,
            scheduler,
            bug,
            spared: Mutex::default(),
        })
    }

    /// Submits a batch later, when its submitter may have died.
    fn submit_late(&self, batch: Batch, completion: Completion) {
        let inner = Arc::clone(&self.inner);
        let scheduler = Arc::clone(&self.scheduler);
        self.scheduler.spawn("a late batch", async move {
            scheduler.pass("a late batch", String::new).await;
            inner.submit(batch, completion);
        });
    }

    /// Deletes the blobs of the revisions that the swap of a large put replaces.
    fn delete_replaced(&self, batch: &Batch) {
        let mut settles = batch.ops().iter();
        if !settles.any(|(table, _, value)| *table == Table::Changes && value.is_none()) {
            return;
        }
        for (table, key, value) in batch.ops() {
            if let (Table::Orphans, Some(value)) = (table, value)
                && let Ok(orphan) = Orphan::decode(value)
                && let Some(revision) = RevisionId::from_slice(key)
            {
                let path = path(&revision_key(&orphan.object, revision));
                let tier = tier_of(revision.as_uuid());
                self.scheduler.durable_state().blob_goes(tier, &path);
            }
        }
    }

    /// Returns the batch without the removal of a change, the first time that recovery fences it.
    fn unfenced(&self, batch: Batch) -> Batch {
        let ops = batch.ops();
        let settles = ops.iter().any(|(table, ..)| *table == Table::Changes);
        let is_fence = settles
            && ops
                .iter()
                .all(|(table, ..)| matches!(table, Table::Changes | Table::Orphans));
        if !is_fence {
            return batch;
        }
        let mut spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unfenced = Batch::new();
        for (table, key, value) in batch.into_ops() {
            match value {
                Some(value) => unfenced.put(table, key, value),
                None if spared.insert(key.clone()) => {}
                None => unfenced.remove(table, key),
            }
        }
        unfenced
    }
}

/// Snapshot without the entries of a table for a reader that has scanned the rows in it. Only the
/// scrub of the blobs does so, and then scans the changes; and the end of a relocation, which then
/// scans the orphans.
struct MutantSnapshot {
    inner: Box<dyn Snapshot>,
    hides: Hidden,
    has_scanned_rows: AtomicBool,
}

/// Entries that a snapshot hides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    /// All entries of a table.
    Table(Table),
    /// The pins of readers.
    Pins,
}

impl Snapshot for MutantSnapshot {
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
        if table == Table::Rows {
            self.has_scanned_rows.store(true, Ordering::Relaxed);
        }
        if Hidden::Table(table) == self.hides && self.has_scanned_rows.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(Ok(Page::new())));
        }
        self.inner.scan(table, range)
    }

    fn keys(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        let is_of_pins = table == Table::Meta
            && matches!(&range.start, Bound::Included(key) if key.starts_with(PINS));
        if self.hides == Hidden::Pins && is_of_pins {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        self.inner.keys(table, range)
    }
}

/// Returns whether the batch drops last versions.
fn is_prune(batch: &Batch) -> bool {
    let mut ops = batch.ops().iter();
    ops.any(|(table, key, _)| *table == Table::Meta && key == BASE_VERSION_KEY)
}

/// Returns the batch without the base version.
fn without_base(batch: Batch) -> Batch {
    let mut rest = Batch::new();
    for (table, key, value) in batch.into_ops() {
        match value {
            Some(_) if table == Table::Meta && key == BASE_VERSION_KEY => {}
            Some(value) => rest.put(table, key, value),
            None => rest.remove(table, key),
        }
    }
    rest
}

impl Index for MutantIndex {
    fn submit(&self, batch: Batch, completion: Completion) {
        let count = |wanted| {
            let ops = batch.ops().iter();
            ops.filter(|(table, ..)| *table == wanted).count()
        };
        match self.bug {
            Bug::ZombieCommit if !batch.is_empty() => self.submit_late(batch, completion),
            Bug::UploadWithoutChange if count(Table::Changes) == 1 && batch.ops().len() == 1 => {
                // Removals are late, too, and stay behind their own record.
                self.submit_late(batch, Box::new(drop));
                completion(Ok(()));
            }
            Bug::AtomicInTwoBatches if count(Table::Rows) > 1 => {
                let ops = batch.into_ops();
                let half = ops.len() / 2;
                let mut first = Batch::new();
                let mut second = Batch::new();
                for (at, (table, key, value)) in ops.into_iter().enumerate() {
                    let into = if at < half { &mut first } else { &mut second };
                    match value {
                        Some(value) => into.put(table, key, value),
                        None => into.remove(table, key),
                    }
                }
                self.inner.submit(first, Box::new(drop));
                self.inner.submit(second, completion);
            }
            Bug::PruneWithoutBase if is_prune(&batch) => {
                self.inner.submit(without_base(batch), completion);
            }
            Bug::BlobDeletedBeforeSwap if count(Table::Rows) > 0 => {
                self.delete_replaced(&batch);
                self.inner.submit(batch, completion);
            }
            Bug::DeletesNeedSpace if count(Table::Rows) > 0 && batch.releases() => {
                match self.inner.room(batch.bytes() as u64) {
                    Ok(()) => self.inner.submit(batch, completion),
                    Err(error) => completion(Err(CommitError::NotStarted(error))),
                }
            }
            Bug::PruneLate if is_prune(&batch) => self.submit_late(batch, completion),
            Bug::RecoveryWithoutFence => self.inner.submit(self.unfenced(batch), completion),
            Bug::UnknownTreatedAsFailed => self.inner.submit(
                batch,
                Box::new(move |outcome| {
                    completion(match outcome {
                        Err(CommitError::Unknown(error)) => Err(CommitError::not_started(&error)),
                        outcome => outcome,
                    });
                }),
            ),
            _ => self.inner.submit(batch, completion),
        }
    }

    fn barrier(&self) -> BoxFuture<'static, Result<()>> {
        if self.bug == Bug::NoBarrier {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.inner.barrier()
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        if self.bug == Bug::VersionReuse
            && table == Table::Meta
            && key.starts_with(&last_versions_prefix())
        {
            return Box::pin(std::future::ready(Ok(None)));
        }
        self.inner.get(table, key)
    }

    fn shared(&self) -> Option<&dyn SharedIndex> {
        self.inner
            .shared()
            .is_some()
            .then_some(self as &dyn SharedIndex)
    }

    fn key_bytes_max(&self) -> usize {
        self.inner.key_bytes_max()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let snapshot = self.inner.snapshot()?;
        let hides = match self.bug {
            Bug::ScrubForgetsChanges => Hidden::Table(Table::Changes),
            Bug::TierReleasedEarly => Hidden::Table(Table::Orphans),
            Bug::PinsOfOthersIgnored => Hidden::Pins,
            _ => return Ok(snapshot),
        };
        Ok(Box::new(MutantSnapshot {
            inner: snapshot,
            hides,
            has_scanned_rows: AtomicBool::new(false),
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

    fn space(&self) -> Option<SpaceStats> {
        self.inner.space()
    }

    fn payload_log(&self) -> Option<PayloadLogStats> {
        self.inner.payload_log()
    }

    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.inner.close()
    }
}
