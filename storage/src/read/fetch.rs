//! Bytes come out of the blob tier here: [`Fetcher`] turns planned pieces into verified units, some
//! of them ahead.
//!
//! ```text
//! reader ──next──> a unit ahead is under way   its task reads and verifies it under leave to hold it, which travels with it
//!                  none is                     a task waits for leave on demand, for one block; the leave ends with the fetch
//! ```
//!
//! Each unit is fetched by a task of its own, so that it goes on while its reader does something
//! else: whoever waits for leave holds none, so that no two streams wait for each other. A task
//! whose reader is gone ends at once. Guards "never wrong bytes" and the bound on memory (DESIGN
//! §6, §16; `budget.rs`). Deliberately not here: what a missing blob means (`read.rs`,
//! `read/open.rs`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::budget::{Leave, ReadBudget};
use super::limits::ReadLimits;
use super::plan::{Piece, Unit};
use super::stats::Counters;
use crate::blobs::BlobReader;
use crate::checksum::Checksum;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::word::RevisionId;

/// The time that a block on demand waits for its reader where there is no leave to hold it.
pub(super) const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// The asked bytes of a unit's blocks, each verified and never empty, until their reader has taken
/// them.
#[derive(Default)]
pub(crate) struct Blocks {
    blocks: vec::IntoIter<Bytes>,
    leave: Option<Leave>,
    /// The unit to fetch again, if there is no leave to hold its blocks.
    origin: Option<Wanted>,
}

#[cfg(test)]
impl Blocks {
    pub(super) fn bytes_at_hand(&self) -> usize {
        self.blocks.as_slice().iter().map(Bytes::len).sum()
    }
}

impl Iterator for Blocks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let block = self.blocks.next();
        if self.blocks.as_slice().is_empty() {
            self.leave = None;
        }
        block
    }
}

/// What became of one unit: its blocks, or the revision whose blob is gone.
pub(crate) type Fetched = Result<Blocks, RevisionId>;

/// A unit of a source.
type Wanted = (Arc<Source>, Unit);

/// A piece to read, with all that reading it takes.
pub(super) struct Source {
    /// The object whose bytes these are.
    pub(super) id: ObjectId,
    /// The part of an extent.
    pub(super) piece: Piece,
    /// The extent's blob.
    pub(super) reader: BlobReader,
    /// The checksums of all its blocks.
    pub(super) checksums: Arc<[Checksum]>,
}

/// Fetches units. Cheap to clone; clones share the byte budget.
#[derive(Clone)]
pub(super) struct Fetcher {
    env: Env,
    read_ahead: usize,
    unit_blocks: u64,
    budget: ReadBudget,
    counters: Arc<Counters>,
}

/// The units of a stream in order. Nothing is fetched before the first one is asked for.
pub(crate) struct Units {
    fetcher: Fetcher,
    sources: VecDeque<Arc<Source>>,
    /// The next block of the first source; none is its first one.
    block: Option<u64>,
    /// Comes before all that is under way.
    again: Option<Wanted>,
    under_way: VecDeque<Fetching>,
}

/// A unit that is being fetched, or is fetched ahead.
struct Fetching {
    wanted: Wanted,
    done: oneshot::Receiver<()>,
    /// The unit once it is fetched; none before, and once it was dropped.
    slot: Slot,
    /// Dropped when it is taken, or its reader is gone.
    _reader: oneshot::Sender<()>,
}

type Slot = Arc<Mutex<Option<Result<Fetched>>>>;

/// A unit that a task has fetched, and the leave on demand if there is no other.
type Work = (Result<Fetched>, Option<Leave>);

impl Units {
    /// The next unit; none after the last one. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Result<Fetched>> {
        loop {
            self.fetch_ahead();
            if let Some(wanted) = self.again.take() {
                self.under_way.push_front(self.fetcher.on_demand(wanted));
            } else if self.under_way.is_empty() {
                let wanted = self.take(1)?;
                self.under_way.push_back(self.fetcher.on_demand(wanted));
            }
            let is_done = (&mut self.under_way.front_mut()?.done).await.is_ok();
            let Fetching { wanted, slot, .. } = self.under_way.pop_front()?;
            let fetched = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            let fetched = match fetched {
                Some(fetched) => fetched,
                None if is_done => {
                    // It was not taken for too long.
                    self.again = Some(wanted);
                    continue;
                }
                None => {
                    let message = "the task that fetched the bytes did not finish";
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

    /// Blocks that their reader may not take soon. Where there is no leave to hold them they are
    /// fetched again, when they are asked for.
    pub(super) fn keep(&mut self, mut blocks: Blocks) -> Blocks {
        let Some(wanted) = blocks.origin.take() else {
            return blocks;
        };
        blocks.leave = self.fetcher.budget.hold(wanted.1.bytes);
        if blocks.leave.is_some() {
            return blocks;
        }
        self.again = Some(wanted);
        Blocks::default()
    }

    /// Fetches ahead as much as there is leave to hold.
    fn fetch_ahead(&mut self) {
        while self.under_way.len() < self.fetcher.read_ahead {
            let Some((source, unit)) = self.take(self.fetcher.unit_blocks) else {
                return;
            };
            let Some(leave) = self.fetcher.budget.hold(unit.bytes) else {
                // It stays the next one.
                self.block = Some(unit.blocks.start);
                return;
            };
            self.under_way
                .push_back(self.fetcher.ahead((source, unit), leave));
        }
    }

    /// The next unit that is planned, of so many blocks at the most.
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
        counters: Arc<Counters>,
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

    /// All units of these sources, in order.
    pub(super) fn units(&self, sources: Vec<Source>) -> Units {
        let sources = sources.into_iter().map(Arc::new).collect();
        Units {
            fetcher: self.clone(),
            sources,
            block: None,
            again: None,
            under_way: VecDeque::new(),
        }
    }

    /// Fetches a unit that nobody has asked for yet.
    fn ahead(&self, wanted: Wanted, leave: Leave) -> Fetching {
        self.spawn(wanted, async move |(source, unit)| {
            let fetched = fetch(&source, &unit).await;
            let held = |blocks: Vec<Bytes>| Blocks {
                blocks: blocks.into_iter(),
                leave: Some(leave),
                origin: None,
            };
            (fetched.map(|fetched| fetched.map(held)), None)
        })
    }

    /// Fetches a unit that its reader waits for.
    fn on_demand(&self, wanted: Wanted) -> Fetching {
        let (budget, env) = (self.budget.clone(), self.env.clone());
        self.spawn(wanted, async move |wanted| {
            let demand = match budget.demand(&env, wanted.1.bytes).await {
                Ok(leave) => leave,
                Err(error) => return (Err(error), None),
            };
            match fetch(&wanted.0, &wanted.1).await {
                Ok(Ok(blocks)) => {
                    let blocks = blocks.into_iter();
                    match budget.hold(wanted.1.bytes) {
                        Some(leave) => (
                            Ok(Ok(Blocks {
                                blocks,
                                leave: Some(leave),
                                origin: None,
                            })),
                            None,
                        ),
                        None => (
                            Ok(Ok(Blocks {
                                blocks,
                                leave: None,
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

    /// In a task of its own, which ends once its reader is gone.
    fn spawn<W>(&self, wanted: Wanted, work: impl FnOnce(Wanted) -> W) -> Fetching
    where
        W: Future<Output = Work> + Send + 'static,
    {
        let (done_sender, done) = oneshot::channel();
        let (reader, mut taken) = oneshot::channel::<()>();
        let slot = Slot::default();
        let (work, env, filled) = (work(wanted.clone()), self.env.clone(), Arc::clone(&slot));
        self.env.spawn(async move {
            let (fetched, demand) = tokio::select! {
                biased;
                _ = &mut taken => return,
                work = work => work,
            };
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
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

/// The asked bytes of a unit, or the revision whose blob is gone.
async fn fetch(source: &Source, unit: &Unit) -> Result<Result<Vec<Bytes>, RevisionId>> {
    let extent = &source.piece.extent;
    // Whoever made the source has checked that there is a checksum in memory for each block, so
    // that this fits.
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
            "a blob is too short: revision={} bytes={bytes}",
            extent.revision
        );
        return Err(Error::new(ErrorKind::Corrupt, "read", message));
    }
    Ok(Ok(trimmed(blocks, &unit.trim)))
}

/// What lies within `trim`, counted from the first block's beginning, without a copy.
fn trimmed(blocks: Vec<Bytes>, trim: &Range<usize>) -> Vec<Bytes> {
    let mut begins = 0;
    let within = |block: Bytes| {
        let ends = begins + block.len();
        let (from, to) = (trim.start.max(begins), trim.end.min(ends));
        let part = (from < to).then(|| block.slice(from - begins..to - begins));
        begins = ends;
        part
    };
    blocks.into_iter().filter_map(within).collect()
}
