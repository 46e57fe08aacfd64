//! The simulated index: [`SimIndex`], an [`Index`] over the simulated disk or over real fjall.
//!
//! ```text
//! submit ──> queue ──gather──> write ──> sync ──> commit observer ──> completions: Ok
//!                                │         ├─ fails ──> poisoned: in flight Unknown, queued NotStarted
//!                                │         └─ hangs ──> overdue: the same; durable later after all
//!                                └─ no space ───────> poisoned: the same
//! ```
//!
//! The committer is a task of the world and no actor. A commit outlives the actor that asked for
//! it, as a blocking call does. The index keeps the contract of every [`Index`], and the contract
//! tests run on it.

mod payload_log;
mod reads;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Completion, Index, IndexStats, Snapshot, Table, no_space};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;

pub(super) use self::reads::page;
use self::reads::{SimSnapshot, SnapshotState};
use crate::faults::Fault;
use crate::rng::Odds;
use crate::tiers::commit_queue::{CommitQueue, InFlight};
use crate::tiers::real::RealDisk;
use crate::world::scheduler::{Scheduler, sleep};

/// Age from which a commit under way is overdue.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest delay of a slow sync, in milliseconds.
const SLOW_MS_MAX: u64 = 2_000;

/// Longest time for which the disk stays low on space, in milliseconds.
const LOW_MS_MAX: u64 = 2_000;

/// Storage below an index.
pub(crate) enum Medium {
    /// The simulated disk of the durable state.
    Simulated,
    /// A real fjall database.
    Fjall(RealDisk),
}

/// An index in a simulated world. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SimIndex(Arc<Inner>);

/// State that the index shares with its snapshots and its committer.
struct Inner {
    scheduler: Arc<Scheduler>,
    medium: Medium,
    queue: CommitQueue,
    disk: Mutex<DiskUse>,
}

/// Use of the disk by an index.
#[derive(Default)]
struct DiskUse {
    /// End of the current shortage of space, in virtual time.
    low_until: Duration,
    /// True if `close` gave up a hanging commit. The end of that commit then unlocks the disk.
    abandoned: bool,
    released: bool,
}

impl SimIndex {
    /// Opens the index on the disk as the last incarnation left it.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`] while another index is open or hangs in its last commit.
    pub(crate) fn open(scheduler: Arc<Scheduler>, medium: Medium) -> Result<Self> {
        if let Medium::Simulated = medium {
            if !scheduler.durable_state().disk.lock() {
                return Err(Error::new(
                    ErrorKind::AlreadyOpen,
                    "open",
                    "the simulated index is open",
                ));
            }
            scheduler.durable_state().replay_disk();
        }
        Ok(Self(Arc::new(Inner {
            scheduler,
            medium,
            queue: CommitQueue::new(DEADLINE),
            disk: Mutex::default(),
        })))
    }
}

impl Inner {
    fn disk(&self) -> MutexGuard<'_, DiskUse> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn planted(&self, bug: Bug) -> bool {
        self.scheduler.durable_state().is_planted(bug)
    }

    /// Spawns the committer, which runs until the queue is empty or the index is poisoned.
    fn start(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.scheduler.spawn("the index", async move {
            inner.scheduler.name_lane("index", false);
            while let Some(batches) = inner.queue.gather(&inner.scheduler) {
                inner.commit(batches).await;
            }
            inner.end();
        });
    }

    /// Writes and syncs batches, and completes them. Each stage is a step, so a crash may strike
    /// before, between and after the stages.
    async fn commit(&self, batches: Vec<Batch>) {
        let changes: usize = batches.iter().map(|batch| batch.ops().len()).sum();
        // Empty batches only keep the order of completions. They need no write and no sync.
        if changes == 0 {
            return self.settle(0);
        }
        let durable_state = self.scheduler.durable_state();
        let size = || format!("{} batches, {changes} changes", batches.len());
        if self.has_payload_log(&batches) && !self.log_payloads(&batches, changes).await {
            return;
        }
        self.scheduler.pass("index write", size).await;
        if durable_state.strikes(Fault::IndexNoSpace, size) {
            return self.poison("no space left on the disk");
        }
        // From here on a crash may keep any prefix of these batches.
        self.write(&batches);
        // Planted bug: acknowledges a batch that a crash can still lose.
        if self.planted(Bug::AckBeforeSync) {
            self.settle(1);
        }
        self.scheduler.pass("index sync", size).await;
        if durable_state.strikes(Fault::IndexSyncSlow, size) {
            sleep(Duration::from_millis(durable_state.below(SLOW_MS_MAX))).await;
        }
        if durable_state.strikes(Fault::IndexSyncHangs, size) {
            sleep(DEADLINE.saturating_mul(2)).await;
        }
        // The sleeps above are no sync points. After a crash during a sleep nothing may become
        // durable.
        if self.scheduler.is_fenced() {
            return std::future::pending().await;
        }
        if durable_state.strikes(Fault::IndexSyncFails, size) {
            return self.poison("the sync failed");
        }
        self.sync(&batches);
        // The batches are durable and not yet acknowledged. A crash may strike in between.
        self.scheduler.pass("index synced", size).await;
        self.settle(1);
    }

    /// Appends batches to the simulated disk. They are not yet durable.
    fn write(&self, batches: &[Batch]) {
        if let Medium::Simulated = self.medium {
            batches
                .iter()
                .for_each(|batch| self.scheduler.durable_state().disk.append(batch));
        }
    }

    /// Makes batches durable and passes them to the commit observer in commit order.
    fn sync(&self, batches: &[Batch]) {
        let durable_state = self.scheduler.durable_state();
        // Real fjall writes and syncs in a single call, so `write` does nothing for it.
        let durable = match &self.medium {
            Medium::Simulated => durable_state.disk.sync(),
            Medium::Fjall(real) => {
                let durable = real.commit(batches).into_iter();
                durable.map(|batch| (batch, None)).collect()
            }
        };
        for (batch, unmet) in durable {
            let mut state = durable_state.state();
            if let Some((table, key)) = unmet {
                let message = format!("what a decision has read has changed: {table:?} {key:?}");
                state.model.violated("conditions", message);
            }
            state.commit(&batch, &durable_state.blobs, "durable");
        }
    }

    /// Completes the batches in flight.
    fn settle(&self, syncs: u64) {
        self.queue.settle(syncs, &BTreeSet::new());
    }

    /// Fails the index: a batch in flight may be durable.
    fn poison(&self, why: &str) {
        let reason = Error::new(ErrorKind::Unavailable, "commit", why);
        self.queue.fail(&self.scheduler, &reason, InFlight::Unknown);
    }

    /// Waits until no commit is under way, then unlocks the disk.
    async fn close(self: Arc<Self>) -> Result<()> {
        // A hanging commit is not awaited. It keeps the disk locked until it returns.
        if !self.queue.drained(&self.scheduler).await {
            self.disk().abandoned = true;
            return Err(self.queue.unknown_end());
        }
        // Close and drop may both come here. Only the first unlocks the disk.
        if self.release() {
            match &self.medium {
                Medium::Simulated => self.scheduler.durable_state().disk.unlock(),
                Medium::Fjall(real) => real.close().await?,
            }
        }
        if self.queue.poisoned().is_some() {
            Err(self.queue.unknown_end())
        } else {
            Ok(())
        }
    }

    /// Ends the committer. Unlocks a disk that an abandoned commit kept locked.
    fn end(&self) {
        self.queue.stopped();
        let is_held = self.disk().abandoned && self.release();
        if is_held && matches!(self.medium, Medium::Simulated) {
            self.scheduler.durable_state().disk.unlock();
        }
    }

    /// Marks the disk as released. Returns true if it was still held.
    fn release(&self) -> bool {
        !std::mem::replace(&mut self.disk().released, true)
    }
}

impl Drop for Inner {
    /// Unlocks the disk of an index that was dropped without a close, as the operating system does
    /// for a real disk.
    fn drop(&mut self) {
        let is_held = self.release();
        if is_held && matches!(self.medium, Medium::Simulated) && !self.scheduler.is_fenced() {
            self.scheduler.durable_state().disk.unlock();
        }
    }
}

impl Index for SimIndex {
    fn submit(&self, batch: Batch, completion: Completion) {
        if self.0.queue.submit(&self.0.scheduler, batch, completion) {
            self.0.start();
        }
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        async move {
            self.0.read("index get", table).await?;
            let value = match &self.0.medium {
                Medium::Simulated => self
                    .0
                    .arrived(table, self.0.scheduler.durable_state().disk.get(table, key)),
                Medium::Fjall(real) => real.index().get(table, key).await,
            };
            self.0.scheduler.linger().await;
            value
        }
        .boxed()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.0.open()?;
        let state = match &self.0.medium {
            Medium::Simulated => {
                SnapshotState::Simulated(self.0.scheduler.durable_state().disk.tables())
            }
            Medium::Fjall(real) => SnapshotState::Fjall(real.index().snapshot()?),
        };
        Ok(Box::new(SimSnapshot {
            inner: Arc::clone(&self.0),
            state,
        }))
    }

    /// Returns an error while the disk is low on space.
    fn room(&self, bytes: u64) -> Result<()> {
        let durable_state = self.0.scheduler.durable_state();
        // Without this fault, as after `quieten`, a shortage under way is over, too.
        if durable_state.state().faults.of(Fault::IndexLow) == Odds::NEVER {
            return Ok(());
        }
        let now = durable_state.elapsed();
        // A shortage lasts for a while, so that retries meet it, too.
        if self.0.disk().low_until <= now {
            if !durable_state.strikes(Fault::IndexLow, || format!("{bytes} bytes requested")) {
                return Ok(());
            }
            let low = Duration::from_millis(durable_state.below(LOW_MS_MAX));
            self.0.disk().low_until = now.saturating_add(low);
        }
        Err(no_space("commit", 0, bytes))
    }

    fn watch(&self, now: Duration) {
        self.0.queue.watch(&self.0.scheduler, now);
    }

    fn poisoned(&self) -> Option<Error> {
        self.0.queue.poisoned()
    }

    fn stats(&self) -> IndexStats {
        self.0.queue.stats()
    }

    /// Closes the index. An overdue commit is given up, and the disk stays locked until it returns.
    fn close(&self) -> BoxFuture<'static, Result<()>> {
        self.0.queue.close();
        Arc::clone(&self.0).close().boxed()
    }
}
