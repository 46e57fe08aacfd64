//! Finds and reads objects: [`Reads`].
//!
//! ```text
//! step                                            other outcomes
//! open:  1  read the row                          absent -> None, or the fallback decides
//!                                                 (`read/fallback.rs`)
//!        2  inline: read and verify the payload   payload missing -> 2a; wrong bytes -> Corrupt
//!        2a read row and payload from a           row replaced -> 1
//!           single snapshot                       payload missing, and the newest row names
//!                                                 it -> Corrupt; otherwise -> 1
//!        3  tombstone: pin the revisions
//!           that the range touches
//!        4  single snapshot: read the row again   row replaced -> unpin, 1
//!           and the block checksums               checksums missing, row unchanged -> Corrupt
//!        5  fetch the first unit                  blob missing, row replaced -> 1
//!                                                 blob missing, row unchanged -> Corrupt,
//!                                                 logged and counted
//! next:  6  fetch the other units,                blob missing, row replaced -> Unavailable
//!           some of them ahead                    blob missing, row unchanged, or wrong
//!                                                 bytes -> Corrupt
//! ```
//!
//! Guards I8 (steps 3 and 4: a revision that is pinned before the row is read again is not swept
//! during the read), I7 (the index returns durable rows only) and "never wrong bytes". The blocks
//! of a range are computed in `read/plan.rs`, fetched in `read/fetch.rs` and returned in
//! `read/open.rs`. Step 2 is in `read/inline.rs`.

mod budget;
mod fallback;
mod fetch;
mod head;
mod inline;
mod limits;
pub(crate) mod list;
pub(crate) mod list_uploads;
mod open;
pub(crate) mod pins;
mod plan;
mod stats;
mod whole;

#[cfg(test)]
pub(crate) mod fixture;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blobs::BlobTiers;
use crate::decide::revision_key;
use crate::env::Env;
use crate::fallback::AttachedFallback;
use crate::index::{Index, Snapshot, Table};
use crate::read::pins::Pins;
use crate::records::{BlockChecksums, Manifest, Row, RowBody};
use crate::types::{
    ByteRange, Error, ErrorKind, Etag, ObjectId, ObjectVersion, OperationId, Reason, Result,
    RevisionId, Timestamp, Version,
};

use budget::ReadBudget;
use fetch::{BlobSource, Fetcher};
use plan::ExtentPiece;
use stats::ReadCounters;

pub use budget::ReadUse;
pub use head::ObjectMeta;
pub use limits::ReadLimits;
pub use open::OpenObject;
pub use stats::ReadStats;

/// Reader of the objects of a store. Cheap to clone; clones share limits, pins and statistics.
#[derive(Clone)]
pub struct Reads(Arc<Inner>);

struct Inner {
    env: Env,
    index: Arc<dyn Index>,
    blobs: BlobTiers,
    pins: Pins,
    budget: ReadBudget,
    fetcher: Fetcher,
    limits: ReadLimits,
    counters: Arc<ReadCounters>,
    fallback: Option<AttachedFallback>,
}

/// Outcome of an attempt to open an object.
#[expect(
    clippy::large_enum_variant,
    reason = "short-lived value; a box would cost every small read an allocation"
)]
enum OpenAttempt {
    /// The object, or `None` if it is absent.
    Done(Option<OpenObject>),
    /// A write replaced the row during the attempt. The caller tries again.
    Replaced,
}

impl Reads {
    /// Creates a reader of these two tiers. `pins` must be the pins that the sweeper checks.
    pub fn new(
        index: Arc<dyn Index>,
        blobs: impl Into<BlobTiers>,
        pins: Pins,
        env: Env,
        limits: ReadLimits,
    ) -> Self {
        Self::over(index, blobs, pins, env, limits, None)
    }

    /// Creates a reader of these two tiers, over a fallback if there is one. `pins` must be the pins
    /// that the sweeper checks.
    pub fn over(
        index: Arc<dyn Index>,
        blobs: impl Into<BlobTiers>,
        pins: Pins,
        env: Env,
        limits: ReadLimits,
        fallback: Option<AttachedFallback>,
    ) -> Self {
        let counters = Arc::new(ReadCounters::default());
        let budget = ReadBudget::new(&limits);
        let fetcher = Fetcher::new(env.clone(), &limits, budget.clone(), counters.clone());
        Self(Arc::new(Inner {
            env,
            index,
            blobs: blobs.into(),
            pins,
            budget,
            fetcher,
            limits,
            counters,
            fallback,
        }))
    }

    /// Returns the head of an object, or `None` if it is absent. Never accesses the blob tier.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`] if the row cannot be decoded, and the
    /// errors of the index.
    pub async fn head(&self, id: &ObjectId) -> Result<Option<ObjectMeta>> {
        let row = self.row(id).await.map_err(|error| error.with_id(id))?;
        match (row, self.fallback()) {
            (Some(row), _) => Ok(Some(ObjectMeta::of(id.clone(), row))),
            (None, None) => Ok(None),
            (None, Some(fallback)) => Box::pin(self.head_in_fallback(id, fallback))
                .await
                .map_err(|error| error.with_id(id)),
        }
    }

    /// Opens an object to read `range` of it. Returns `None` if the object is absent. When this
    /// returns, the first bytes are fetched and verified. Later writes, deletions and sweeps do not
    /// affect the open object (I8).
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] and [`ErrorKind::RangeNotSatisfiable`] as [`ByteRange::resolve`].
    /// - [`ErrorKind::Corrupt`] if stored bytes do not match their checksums, or a blob that the
    ///   row names is missing ([`Reason::MissingBlob`]). A missing blob is logged and counted.
    /// - [`ErrorKind::Unavailable`] if the object was replaced during each of
    ///   [`ReadLimits::attempts`] attempts.
    /// - [`ErrorKind::Overloaded`] if [too many objects](ReadLimits::open_at_once) are open, or the
    ///   memory budget had no room for the first bytes for [`ReadLimits::budget_wait`].
    /// - The errors of the index and of the blob tier.
    pub async fn open(&self, id: &ObjectId, range: ByteRange) -> Result<Option<OpenObject>> {
        let attempts = self.0.limits.attempts.max(1);
        let permit = self.0.budget.open().map_err(|error| error.with_id(id))?;
        for _ in 0..attempts {
            match self
                .attempt(id, range)
                .await
                .map_err(|error| error.with_id(id))?
            {
                OpenAttempt::Done(found) => {
                    return Ok(found.map(|object| object.with_permit(permit)));
                }
                OpenAttempt::Replaced => {}
            }
        }
        let message =
            format!("the object was replaced during every attempt to read it: attempts={attempts}");
        Err(Error::new(ErrorKind::Unavailable, "read", message).with_id(id))
    }

    /// Returns counters of the damage that reads have found so far.
    pub fn stats(&self) -> ReadStats {
        self.0.counters.snapshot()
    }

    /// Returns the number of open objects and the memory that they hold.
    pub fn usage(&self) -> ReadUse {
        self.0.budget.usage()
    }

    /// Returns the limits of the reader.
    pub fn limits(&self) -> &ReadLimits {
        &self.0.limits
    }

    pub(crate) fn index(&self) -> &dyn Index {
        &*self.0.index
    }

    /// Returns the row of an object, or `None` if the object is absent or has expired.
    async fn row(&self, id: &ObjectId) -> Result<Option<Row>> {
        // The time is taken before the row is read. If it were taken later, an extension of the
        // deadline in between could be missed, and an object that never expired would be absent.
        let now = self.now();
        match self.any_row(id).await? {
            Some(row) if !row.is_live(now) => {
                // A shard may have extended the deadline in time in a batch that is not durable
                // yet. So the row is read again after all submitted batches are durable.
                self.let_settle().await;
                Ok(self.any_row(id).await?.filter(|row| row.is_live(now)))
            }
            row => Ok(row),
        }
    }

    /// Returns the row of an object, even if it has expired.
    async fn any_row(&self, id: &ObjectId) -> Result<Option<Row>> {
        self.index()
            .get(Table::Rows, id.encoded())
            .await?
            .as_ref()
            .map(Row::decode)
            .transpose()
    }

    /// Waits until all submitted batches are durable.
    pub(crate) async fn let_settle(&self) {
        // A failed index acknowledges none of the pending batches, so its present rows count.
        if let Err(error) = self.index().barrier().await {
            tracing::debug!(%error, "reads continue although the index has failed");
        }
    }

    /// Returns the time at which an object must be live to be visible.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.env.steady_now()
    }

    /// Runs steps 1 to 5 of the file head once.
    // The rare and the long paths are boxed, so that the future of a small read stays small.
    async fn attempt(&self, id: &ObjectId, range: ByteRange) -> Result<OpenAttempt> {
        let Some(mut row) = self.row(id).await? else {
            return match self.fallback() {
                None => Ok(OpenAttempt::Done(None)),
                Some(fallback) => Box::pin(self.open_in_fallback(id, range, fallback)).await,
            };
        };
        let within = range.resolve(row.metadata.size)?;
        let operation = row.operation;
        let body = std::mem::replace(&mut row.body, RowBody::Embedded(Bytes::new()));
        let head = ObjectMeta::of(id.clone(), row);
        match body {
            RowBody::Embedded(payload) => {
                let payload = self.verified(&head, payload)?;
                self.inline(head, &payload, within)
            }
            RowBody::Separate(payload) => match self.payload(&head, payload).await? {
                Some(payload) => self.inline(head, &payload, within),
                None => Box::pin(self.separate(id, range)).await,
            },
            RowBody::Tombstone(manifest) => {
                Box::pin(self.tombstone(head, operation, &manifest, within)).await
            }
        }
    }

    async fn tombstone(
        &self,
        head: ObjectMeta,
        seen: OperationId,
        manifest: &Manifest,
        range: Range<u64>,
    ) -> Result<OpenAttempt> {
        let pieces = plan::pieces(manifest, &range);
        // Pinned before the row is read again in `sources` (I8): the sweeper deletes a revision
        // only if the row no longer names it and it is not pinned.
        let pins: Vec<_> = pieces
            .iter()
            .map(|piece| self.0.pins.pin(piece.extent.revision))
            .collect();
        let written_as = manifest.written_as().unwrap_or(&head.id);
        let Some(sources) = self.sources(&head.id, seen, written_as, pieces).await? else {
            return Ok(OpenAttempt::Replaced);
        };
        let mut units = self.0.fetcher.units(sources);
        let first = match units.next().await.transpose()? {
            Some(Ok(first)) => Some(units.keep(first)),
            Some(Err(revision)) => {
                self.check_missing_blob(&head, seen, revision).await?;
                return Ok(OpenAttempt::Replaced);
            }
            None => None,
        };
        let source = open::UnitSource {
            reads: self.clone(),
            seen,
            rest: units,
            pins,
        };
        Ok(OpenAttempt::Done(Some(OpenObject::streamed(
            head, range, first, source,
        ))))
    }

    /// Reads the row again (step 4) and returns the blobs to read with their block checksums, or
    /// `None` if the row has been replaced.
    async fn sources(
        &self,
        id: &ObjectId,
        seen: OperationId,
        written_as: &ObjectId,
        pieces: Vec<ExtentPiece>,
    ) -> Result<Option<Vec<BlobSource>>> {
        // A write that replaces the row removes the checksums in the same batch. So both are read
        // from a single snapshot, and all checksums now rather than with the bytes.
        let snapshot = self.index().snapshot()?;
        let first = pieces.first().map(|piece| piece.extent.revision);
        if !is_unchanged_in(&*snapshot, id, seen, first).await? {
            return Ok(None);
        }
        let key = |piece: &ExtentPiece| Bytes::copy_from_slice(piece.extent.revision.as_bytes());
        let values = snapshot
            .get_many(Table::Payloads, pieces.iter().map(key).collect())
            .await?;
        let mut sources = Vec::with_capacity(pieces.len());
        for (piece, value) in pieces.into_iter().zip(values) {
            let revision = piece.extent.revision;
            let Some(value) = value else {
                // Only checksums that the newest row still needs are damage.
                let newest = self.any_row(id).await?;
                if !newest.is_some_and(|row| is_unchanged(&row, seen, Some(revision))) {
                    return Ok(None);
                }
                return Err(corrupt(format!(
                    "the block checksums are missing in the index: revision={revision}"
                )));
            };
            let BlockChecksums(checksums) = BlockChecksums::decode(&value)?;
            if checksums.len() as u64 != piece.extent.block_count() {
                return Err(corrupt(format!(
                    "wrong number of block checksums: revision={revision} expected={} found={}",
                    piece.extent.block_count(),
                    checksums.len()
                )));
            }
            let reader = self.0.blobs.reader(&revision_key(written_as, revision));
            sources.push(BlobSource {
                id: id.clone(),
                piece,
                reader,
                checksums: checksums.into(),
            });
        }
        Ok(Some(sources))
    }

    /// Handles a missing blob that is pinned. Returns `Ok` if the row has been replaced in the
    /// meantime.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the row still names the blob. The sweeper has not deleted the
    /// blob, which was pinned while the row named it.
    async fn check_missing_blob(
        &self,
        head: &ObjectMeta,
        seen: OperationId,
        revision: RevisionId,
    ) -> Result<()> {
        let newest = self.row(&head.id).await?;
        if !newest.is_some_and(|row| is_unchanged(&row, seen, Some(revision))) {
            return Ok(());
        }
        self.0.counters.missing(&head.id);
        let message = format!(
            "missing blob: the row names it, but it is not in the blob tier: revision={revision}"
        );
        let current = ObjectVersion {
            version: head.version.unwrap_or(Version::NONE),
            etag: Etag::of(&seen),
        };
        let error = corrupt(message).with_reason(Reason::MissingBlob { current });
        // If the whole tier is missing or foreign, that is the cause of the missing blob.
        Err(match self.0.blobs.of(revision).find_owner().await {
            Ok(()) => error,
            Err(cause) => error.with_source(cause),
        })
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads")
            .field("limits", &self.0.limits)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Returns whether the row in the snapshot is the row that was read.
async fn is_unchanged_in(
    snapshot: &dyn Snapshot,
    id: &ObjectId,
    operation: OperationId,
    revision: Option<RevisionId>,
) -> Result<bool> {
    let row = snapshot.get(Table::Rows, id.encoded()).await?;
    let row = row.as_ref().map(Row::decode).transpose()?;
    Ok(row.is_some_and(|row| is_unchanged(&row, operation, revision)))
}

/// Returns whether a row is the row that was read: it has the operation, and names the revision.
/// Operation ids are unique per commit, but a relocated row keeps its operation. All revisions of a
/// relocated row are new, so that one is enough.
fn is_unchanged(row: &Row, operation: OperationId, revision: Option<RevisionId>) -> bool {
    row.operation == operation && revision.is_none_or(|revision| row.names(revision))
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read", message)
}

#[cfg(test)]
mod tests;
