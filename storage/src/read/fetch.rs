//! Fetches planned pieces from the blob tier as verified units, some of them ahead of the reader:
//! [`Fetcher`].
//!
//! ```text
//! the reader calls `next`    memory permit of the task that fetches and verifies
//! a unit is under way        a held permit, taken before the task starts; released when the
//!                            reader has taken the bytes
//! no unit is under way       a demand permit for a single block, for which the task waits;
//!                            released when the fetch ends
//! ```
//!
//! Each unit is fetched by a task of its own, which progresses while its reader is busy elsewhere.
//! A task that waits for a permit holds no other permit, so two streams never wait for each other.
//! A task ends when its reader is dropped. Guards "never wrong bytes" and the memory limit
//! (`budget.rs`). The callers handle missing blobs (`read.rs`, `read/open.rs`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::budget::{Leave, ReadBudget};
use super::limits::ReadLimits;
use super::plan::{ExtentPiece, Unit};
use super::stats::ReadCounters;
use crate::blobs::BlobReader;
use crate::env::Env;
use crate::types::{Checksum, Error, ErrorKind, ObjectId, Result, RevisionId};

/// Longest time for which a block fetched on demand waits for its reader, if no held permit is
/// available.
pub(super) const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// The requested bytes of a unit, block by block. The blocks are verified and not empty.
#[derive(Default)]
pub(crate) struct UnitBlocks {
    blocks: vec::IntoIter<Bytes>,
    /// Held permit of the bytes, released when the reader has taken the last block.
    permit: Option<Leave>,
    /// The unit itself, set if the blocks have no held permit. It is fetched again if they have to
    /// be dropped.
    origin: Option<Wanted>,
}

#[cfg(test)]
impl UnitBlocks {
    pub(super) fn bytes_at_hand(&self) -> usize {
        self.blocks.as_slice().iter().map(Bytes::len).sum()
    }
}

impl Iterator for UnitBlocks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let block = self.blocks.next();
        if self.blocks.as_slice().is_empty() {
            self.permit = None;
        }
        block
    }
}

/// Outcome of fetching a unit: its blocks, or the revision whose blob is missing.
pub(crate) type Fetched = Result<UnitBlocks, RevisionId>;

/// A unit to fetch, and its source.
type Wanted = (Arc<BlobSource>, Unit);

/// A piece to read, with the reader and the checksums of its blob.
pub(super) struct BlobSource {
    /// Object to which the bytes belong.
    pub(super) id: ObjectId,
    /// Part of an extent to read.
    pub(super) piece: ExtentPiece,
    /// Reader of the blob of the extent.
    pub(super) reader: BlobReader,
    /// Checksums of all blocks of the extent.
    pub(super) checksums: Arc<[Checksum]>,
}

/// Creator of fetch tasks. Cheap to clone; clones share the byte budget.
#[derive(Clone)]
pub(super) struct Fetcher {
    env: Env,
    read_ahead: usize,
    unit_blocks: u64,
    budget: ReadBudget,
    counters: Arc<ReadCounters>,
}

/// The units of a stream in order. Fetching begins with the first call of [`next`](Self::next).
pub(crate) struct Units {
    fetcher: Fetcher,
    sources: VecDeque<Arc<BlobSource>>,
    /// Next block to plan of the first source; `None` before its first block.
    block: Option<u64>,
    /// Unit whose bytes were dropped. It precedes all units under way.
    again: Option<Wanted>,
    under_way: VecDeque<Fetching>,
}

/// A unit that a task is fetching or has fetched.
struct Fetching {
    wanted: Wanted,
    done: oneshot::Receiver<()>,
    /// The fetched unit; `None` before the fetch ends, and after the bytes were dropped.
    slot: Slot,
    /// Ends the task when it is dropped: the unit was taken, or its reader was dropped.
    _reader: oneshot::Sender<()>,
}

type Slot = Arc<Mutex<Option<Result<Fetched>>>>;

/// A fetched unit, and its demand permit if it has no held permit.
type FetchResult = (Result<Fetched>, Option<Leave>);

impl Units {
    /// Returns the next unit, or `None` after the last unit. Cancel safe: dropping the future loses
    /// no unit.
    pub(crate) async fn next(&mut self) -> Option<Result<Fetched>> {
        loop {
            self.fetch_ahead();
            if let Some(wanted) = self.again.take() {
                self.under_way.push_front(self.fetcher.on_demand(wanted));
            } else if self.under_way.is_empty() {
                let wanted = self.take(1)?;
                self.under_way.push_back(self.fetcher.on_demand(wanted));
            }
            // The entry is removed after the await, so that a dropped future loses no unit.
            let is_done = (&mut self.under_way.front_mut()?.done).await.is_ok();
            let Fetching { wanted, slot, .. } = self.under_way.pop_front()?;
            let fetched = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            let fetched = match fetched {
                Some(fetched) => fetched,
                None if is_done => {
                    // The bytes were dropped, because the reader did not take them in time.
                    self.again = Some(wanted);
                    continue;
                }
                None => {
                    let message = "the task that fetches the bytes ended without a result";
                    Err(Error::new(ErrorKind::Unavailable, "read", message))
                }
            };
            return Some(fetched.map_err(|error| {
                if error.kind() == ErrorKind::Corrupt {
                    self.fetcher.counters.corrupt();
                }
                error.with_id(&wanted.0.id)
            }));
        }
    }

    /// Keeps blocks that their reader may take much later. Blocks for which no held permit is
    /// available are dropped, and fetched again when the reader requests them.
    pub(super) fn keep(&mut self, mut blocks: UnitBlocks) -> UnitBlocks {
        let Some(wanted) = blocks.origin.take() else {
            return blocks;
        };
        blocks.permit = self.fetcher.budget.hold(wanted.1.bytes);
        if blocks.permit.is_some() {
            return blocks;
        }
        self.again = Some(wanted);
        UnitBlocks::default()
    }

    /// Starts fetching units ahead, up to `read_ahead` units and as many as have a held permit.
    fn fetch_ahead(&mut self) {
        while self.under_way.len() < self.fetcher.read_ahead {
            let Some((source, unit)) = self.take(self.fetcher.unit_blocks) else {
                return;
            };
            let Some(permit) = self.fetcher.budget.hold(unit.bytes) else {
                // Undoes `take`: the unit remains the next unit to plan.
                self.block = Some(unit.blocks.start);
                return;
            };
            self.under_way
                .push_back(self.fetcher.ahead((source, unit), permit));
        }
    }

    /// Returns the next unit to fetch, of at most this many blocks, or `None` after the last unit.
    fn take(&mut self, blocks: u64) -> Option<Wanted> {
        loop {
            let source = self.sources.front()?;
            if let Some(unit) = source.piece.unit(self.block, blocks) {
                self.block = Some(unit.blocks.end);
                return Some((Arc::clone(source), unit));
            }
            self.sources.pop_front();
            self.block = None;
        }
    }
}

impl Fetcher {
    pub(super) fn new(
        env: Env,
        limits: &ReadLimits,
        budget: ReadBudget,
        counters: Arc<ReadCounters>,
    ) -> Self {
        let unit_blocks = u64::from(limits.unit_blocks.max(1));
        Self {
            env,
            read_ahead: limits.read_ahead,
            unit_blocks,
            budget,
            counters,
        }
    }

    /// Returns all units of these sources, in order.
    pub(super) fn units(&self, sources: Vec<BlobSource>) -> Units {
        let sources = sources.into_iter().map(Arc::new).collect();
        Units {
            fetcher: self.clone(),
            sources,
            block: None,
            again: None,
            under_way: VecDeque::new(),
        }
    }

    /// Starts fetching a unit that the reader has not requested yet.
    fn ahead(&self, wanted: Wanted, permit: Leave) -> Fetching {
        self.spawn(wanted, async move |(source, unit)| {
            let fetched = fetch(&source, &unit).await;
            let held = |blocks: Vec<Bytes>| UnitBlocks {
                blocks: blocks.into_iter(),
                permit: Some(permit),
                origin: None,
            };
            (fetched.map(|fetched| fetched.map(held)), None)
        })
    }

    /// Starts fetching a unit for which the reader waits.
    fn on_demand(&self, wanted: Wanted) -> Fetching {
        let budget = self.budget.clone();
        let env = self.env.clone();
        self.spawn(wanted, async move |wanted| {
            let demand = match budget.demand(&env, wanted.1.bytes).await {
                Ok(permit) => permit,
                Err(error) => return (Err(error), None),
            };
            match fetch(&wanted.0, &wanted.1).await {
                Ok(Ok(blocks)) => {
                    let blocks = blocks.into_iter();
                    // The demand permit is exchanged for a held permit if possible, so that a slow
                    // reader does not block the demand of others.
                    match budget.hold(wanted.1.bytes) {
                        Some(permit) => (
                            Ok(Ok(UnitBlocks {
                                blocks,
                                permit: Some(permit),
                                origin: None,
                            })),
                            None,
                        ),
                        None => (
                            Ok(Ok(UnitBlocks {
                                blocks,
                                permit: None,
                                origin: Some(wanted),
                            })),
                            Some(demand),
                        ),
                    }
                }
                Ok(Err(revision)) => (Ok(Err(revision)), None),
                Err(error) => (Err(error), None),
            }
        })
    }

    /// Spawns a task that fetches a unit. The task ends when its reader is dropped.
    fn spawn<W>(&self, wanted: Wanted, work: impl FnOnce(Wanted) -> W) -> Fetching
    where
        W: Future<Output = FetchResult> + Send + 'static,
    {
        let (done_sender, done) = oneshot::channel();
        let (reader, mut taken) = oneshot::channel::<()>();
        let slot = Slot::default();
        let work = work(wanted.clone());
        let env = self.env.clone();
        let filled = Arc::clone(&slot);
        self.env.spawn(async move {
            let (fetched, demand) = tokio::select! {
                biased;
                _ = &mut taken => return,
                work = work => work,
            };
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
            // Without a held permit, the bytes keep the demand permit for a limited time only.
            // After that the reader has to fetch the unit again.
            if done_sender.send(()).is_ok()
                && demand.is_some()
                && env.deadline(TAKEN_WITHIN, taken).await.is_none()
            {
                drop(filled.lock().unwrap_or_else(PoisonError::into_inner).take());
            }
        });
        Fetching {
            wanted,
            done,
            slot,
            _reader: reader,
        }
    }
}

/// Fetches the requested bytes of a unit, or returns the revision whose blob is missing.
async fn fetch(source: &BlobSource, unit: &Unit) -> Result<Result<Vec<Bytes>, RevisionId>> {
    let extent = &source.piece.extent;
    // Never saturates: the creator of the source has checked that each block has a checksum in
    // memory, so block numbers fit into a usize.
    let [first, end] = [unit.blocks.start, unit.blocks.end]
        .map(|block| usize::try_from(block).unwrap_or(usize::MAX));
    let fetched = source
        .reader
        .blocks(first, end - first, extent.bytes, &source.checksums)
        .await?;
    let Some(blocks) = fetched else {
        return Ok(Err(extent.revision));
    };
    let bytes: usize = blocks.iter().map(Bytes::len).sum();
    if bytes as u64 != unit.bytes {
        let message = format!(
            "the blob is too short: revision={} expected={} found={bytes}",
            extent.revision, unit.bytes
        );
        return Err(Error::new(ErrorKind::Corrupt, "read", message));
    }
    Ok(Ok(trimmed(blocks, &unit.trim)))
}

/// Returns the bytes within `trim`, counted from the beginning of the first block. Does not copy.
fn trimmed(blocks: Vec<Bytes>, trim: &Range<usize>) -> Vec<Bytes> {
    let mut begins = 0;
    let within = |block: Bytes| {
        let ends = begins + block.len();
        let from = trim.start.max(begins);
        let to = trim.end.min(ends);
        let part = (from < to).then(|| block.slice(from - begins..to - begins));
        begins = ends;
        part
    };
    blocks.into_iter().filter_map(within).collect()
}
