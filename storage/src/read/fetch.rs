//! How bytes come out of the blob tier: [`Fetcher`] turns planned pieces into a stream of verified units, some of them
//! ahead.
//!
//! ```text
//! stream ──asks──> task per unit: wait for permits ─> read and verify blocks ─> permits back ─> hand over
//! ```
//!
//! Each unit is fetched by a task of its own, so that it goes on while its reader does something else. That is what
//! makes the byte budget safe: whoever holds permits is running, never waiting for a reader, so that slow readers hold
//! none and no two streams can wait for each other. A task whose reader is gone ends at once. Guards "never wrong
//! bytes" and the bound on memory (DESIGN §6, §16). Deliberately not here: what a missing blob means (`read.rs`,
//! `read/open.rs`).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{Semaphore, oneshot};

use super::limits::ReadLimits;
use super::plan::{Piece, Unit};
use super::stats::Counters;
use crate::blobs::BlobReader;
use crate::checksum::Checksum;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::word::RevisionId;

/// Bytes that one permit stands for; tokio counts permits of one acquisition in 32 bits.
const PERMIT_BYTES: u64 = 1024;

/// What a unit brings: the asked bytes of its blocks, each verified and never empty.
pub(super) type Blocks = Vec<Bytes>;

/// What became of one unit: its blocks, or the revision whose blob is gone.
pub(super) type Fetched = Result<Blocks, RevisionId>;

/// The units of a stream in order.
pub(super) type Units = BoxStream<'static, Result<Fetched>>;

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
    permits: Arc<Semaphore>,
    permits_max: u32,
    counters: Arc<Counters>,
}

impl Fetcher {
    pub(super) fn new(env: Env, limits: &ReadLimits, counters: Arc<Counters>) -> Self {
        let affordable = u32::try_from(limits.bytes_in_flight / PERMIT_BYTES).unwrap_or(u32::MAX).max(1);
        let permits_max = affordable.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self {
            env,
            read_ahead: limits.read_ahead.max(1),
            unit_blocks: u64::from(limits.unit_blocks.max(1)),
            permits: Arc::new(Semaphore::new(permits_max as usize)),
            permits_max,
            counters,
        }
    }

    /// All units of these sources, in order. Nothing is fetched before the stream is polled.
    pub(super) fn units(&self, sources: Vec<Source>) -> Units {
        let fetcher = self.clone();
        let unit_blocks = self.unit_blocks;
        let units = sources.into_iter().map(Arc::new).flat_map(move |source| {
            let units = source.piece.units(unit_blocks);
            units.map(move |unit| (source.clone(), unit))
        });
        stream::iter(units)
            .map(move |(source, unit)| fetcher.clone().fetch(source, unit))
            .buffered(self.read_ahead)
            .boxed()
    }

    /// One unit, fetched by a task of its own.
    async fn fetch(self, source: Arc<Source>, unit: Unit) -> Result<Fetched> {
        let (mut sender, receiver) = oneshot::channel();
        let counters = self.counters.clone();
        let env = self.env.clone();
        let id = source.id.clone();
        env.spawn(async move {
            tokio::select! {
                biased;
                () = sender.closed() => {}
                fetched = self.fetch_within_budget(&source, &unit) => drop(sender.send(fetched)),
            }
        });
        let fetched = receiver.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "read", "the task that fetched the bytes did not finish"))
        });
        fetched.map_err(|error| {
            if error.kind() == ErrorKind::Corrupt {
                counters.corrupt();
            }
            error.with_id(&id)
        })
    }

    async fn fetch_within_budget(&self, source: &Source, unit: &Unit) -> Result<Fetched> {
        let permits = u32::try_from(unit.bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).min(self.permits_max);
        let _permits = self
            .permits
            .acquire_many(permits)
            .await
            .map_err(|error| Error::new(ErrorKind::Closed, "read", "the read side is closed").with_source(error))?;
        let extent = &source.piece.extent;
        // Whoever made the source has checked that there is a checksum in memory for each block, so that this fits.
        let [first, end] =
            [unit.blocks.start, unit.blocks.end].map(|block| usize::try_from(block).unwrap_or(usize::MAX));
        let fetched = source.reader.blocks(first, end - first, extent.bytes, &source.checksums).await?;
        let Some(blocks) = fetched else { return Ok(Err(extent.revision)) };
        let bytes: usize = blocks.iter().map(Bytes::len).sum();
        if bytes as u64 != unit.bytes {
            let message = format!("a blob is too short: revision={} bytes={bytes}", extent.revision);
            return Err(Error::new(ErrorKind::Corrupt, "read", message));
        }
        Ok(Ok(trimmed(blocks, &unit.trim)))
    }
}

/// What lies within `trim`, counted from the first block's beginning, without a copy.
fn trimmed(blocks: Vec<Bytes>, trim: &Range<usize>) -> Blocks {
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
