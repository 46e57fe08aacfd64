//! How an object is found and read: [`Reads`].
//!
//! ```text
//! open:  1  read the row                               absent: none
//!        2  inline: its payload, whole, verified       payload gone: row and payload in one snapshot; gone there too: the
//!                                                       row again; replaced: 1; unchanged: Corrupt
//!        3  tombstone: pin what the range touches
//!        4  one snapshot: the row again, and           replaced: unpin, 1
//!           the block checksums
//!        5  fetch the first unit                       blob gone, row replaced: 1; row still there: Corrupt, logged, counted
//! next:  6  the other units, some of them ahead        blob gone or wrong bytes: Corrupt
//! ```
//!
//! Guards I8 (3 and 4: what is pinned before the second look is never swept under a reader), I7 (it
//! reads the index, which shows only what is durable) and "never wrong bytes" (DESIGN §6).
//! Deliberately not here: which blocks hold a range (`read/plan.rs`), how bytes flow
//! (`read/fetch.rs`, `read/open.rs`), and listings (`list.rs`).

mod budget;
mod fetch;
mod limits;
mod open;
mod plan;
mod stats;
mod whole;

#[cfg(test)]
pub(crate) mod fixture;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blobs::BlobTier;
use crate::checksum::Checksum;
use crate::decide::revision_key;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Reason, Result};
use crate::id::ObjectId;
use crate::index::{Index, Snapshot, Table};
use crate::pins::Pins;
use crate::range::ByteRange;
use crate::rows::{BlockChecksums, Body, Manifest, Metadata, Row};
use crate::word::{Current, Etag, OperationId, RevisionId, Timestamp, Version};

use budget::ReadBudget;
use fetch::{Fetcher, Source};
use plan::Piece;
use stats::Counters;

pub use budget::ReadUse;
pub use limits::ReadLimits;
pub use open::OpenObject;
pub use stats::ReadStats;

/// What is known about an object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The object.
    pub id: ObjectId,
    /// Which committed write of it this is.
    pub version: Version,
    /// The public spelling of that write.
    pub etag: Etag,
    /// Everything else.
    pub metadata: Metadata,
}

impl Head {
    fn of(id: ObjectId, row: Row) -> Self {
        Self {
            id,
            version: row.version,
            etag: row.etag(),
            metadata: row.metadata,
        }
    }

    /// From an entry of the row table.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`].
    pub(crate) fn decode(key: &[u8], row: Row) -> Result<Self> {
        let id = ObjectId::decode(key).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "read", "a row's key is no object id").with_source(error)
        })?;
        Ok(Self::of(id, row))
    }
}

/// The read side of a store. Cheap to clone; clones share limits, pins and statistics.
#[derive(Clone)]
pub struct Reads(Arc<Inner>);

struct Inner {
    env: Env,
    index: Arc<dyn Index>,
    blobs: BlobTier,
    pins: Pins,
    budget: ReadBudget,
    fetcher: Fetcher,
    limits: ReadLimits,
    counters: Arc<Counters>,
}

/// What one attempt to open an object came to.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would cost every small read an allocation"
)]
enum Attempt {
    /// The object, or that there is none.
    Done(Option<OpenObject>),
    /// Another write replaced the row meanwhile: look afresh.
    Replaced,
}

impl Reads {
    /// Reads from these two tiers. `pins` is shared with whoever sweeps them.
    pub fn new(
        index: Arc<dyn Index>,
        blobs: BlobTier,
        pins: Pins,
        env: Env,
        limits: ReadLimits,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        let budget = ReadBudget::new(&limits);
        let fetcher = Fetcher::new(env.clone(), &limits, budget.clone(), counters.clone());
        Self(Arc::new(Inner {
            env,
            index,
            blobs,
            pins,
            budget,
            fetcher,
            limits,
            counters,
        }))
    }

    /// What is known about an object; none if it is absent. Never touches the blob tier.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`] if the row can't be decoded, and
    /// whatever the index says.
    pub async fn head(&self, id: &ObjectId) -> Result<Option<Head>> {
        let row = self.row(id).await.map_err(|error| error.with_id(id))?;
        Ok(row.map(|row| Head::of(id.clone(), row)))
    }

    /// An object, to read `range` of it; none if it is absent. When this returns, the first bytes
    /// are there and verified, and whatever is written, deleted or swept later, the read goes on
    /// with what it found (I8).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] and [`ErrorKind::RangeNotSatisfiable`] as [`ByteRange::resolve`];
    /// [`ErrorKind::Corrupt`] if what is stored does not match its checksums, or a blob is gone
    /// although the row names it ([`Reason::MissingBlob`]), which is logged and counted;
    /// [`ErrorKind::Unavailable`] if the object was replaced again and again while it was being
    /// opened; [`ErrorKind::Overloaded`] if [too many objects](ReadLimits::open_at_once) are open,
    /// or there was no room for its bytes for [`ReadLimits::budget_wait`]; and whatever the two
    /// tiers say.
    pub async fn open(&self, id: &ObjectId, range: ByteRange) -> Result<Option<OpenObject>> {
        let attempts = self.0.limits.attempts.max(1);
        let leave = self.0.budget.open().map_err(|error| error.with_id(id))?;
        for _ in 0..attempts {
            match self
                .attempt(id, range)
                .await
                .map_err(|error| error.with_id(id))?
            {
                Attempt::Done(found) => return Ok(found.map(|object| object.with_leave(leave))),
                Attempt::Replaced => {}
            }
        }
        let message =
            format!("the object was replaced each time it was looked at: attempts={attempts}");
        Err(Error::new(ErrorKind::Unavailable, "read", message).with_id(id))
    }

    /// What has been met so far.
    pub fn stats(&self) -> ReadStats {
        self.0.counters.snapshot()
    }

    /// The reads under way, and what they hold.
    pub fn usage(&self) -> ReadUse {
        self.0.budget.usage()
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &ReadLimits {
        &self.0.limits
    }

    pub(crate) fn index(&self) -> &dyn Index {
        &*self.0.index
    }

    /// The row of an object that exists: one that has expired does not.
    ///
    /// The moment is taken before the row is read: later, a deadline that was extended meanwhile
    /// would be missed, and the object be absent at a moment at which it never was. For the same
    /// reason a row that has expired is read again once all that was submitted is durable: a shard
    /// may have extended it in time, and the disk not have it yet.
    async fn row(&self, id: &ObjectId) -> Result<Option<Row>> {
        let now = self.now();
        match self.any_row(id).await? {
            Some(row) if !row.is_live(now) => {
                self.let_settle().await;
                Ok(self.any_row(id).await?.filter(|row| row.is_live(now)))
            }
            row => Ok(row),
        }
    }

    async fn any_row(&self, id: &ObjectId) -> Result<Option<Row>> {
        self.index()
            .get(Table::Rows, id.encoded())
            .await?
            .as_ref()
            .map(Row::decode)
            .transpose()
    }

    /// Waits until all that was submitted is durable. An index that has failed acknowledges nothing
    /// of it any more, so that what it shows is what counts.
    pub(crate) async fn let_settle(&self) {
        if let Err(error) = self.index().barrier().await {
            tracing::debug!(%error, "reads go on over an index that has failed");
        }
    }

    /// The moment at which an object must be live to be seen.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.env.steady_now()
    }

    async fn attempt(&self, id: &ObjectId, range: ByteRange) -> Result<Attempt> {
        let Some(mut row) = self.row(id).await? else {
            return Ok(Attempt::Done(None));
        };
        let within = range.resolve(row.metadata.size)?;
        let operation = row.operation;
        let body = std::mem::replace(&mut row.body, Body::Embedded(Bytes::new()));
        let head = Head::of(id.clone(), row);
        match body {
            Body::Embedded(payload) => self.inline(head, &payload, within),
            Body::Separate(payload) => match self
                .index()
                .get(Table::Payloads, payload.as_bytes())
                .await?
            {
                Some(payload) => self.inline(head, &payload, within),
                None => self.separate(id, range).await,
            },
            Body::Tombstone(manifest) => self.tombstone(head, operation, &manifest, within).await,
        }
    }

    fn inline(&self, head: Head, payload: &Bytes, range: Range<u64>) -> Result<Attempt> {
        let intact = head
            .metadata
            .checksum
            .is_none_or(|checksum| Checksum::of(payload) == checksum);
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end))
        else {
            return Err(corrupt("an inline payload is larger than memory"));
        };
        if !intact || payload.len() as u64 != head.metadata.size || end > payload.len() {
            self.0.counters.corrupt();
            return Err(corrupt("the inline payload does not match its checksum"));
        }
        Ok(Attempt::Done(Some(OpenObject::inline(
            head,
            range,
            payload.slice(start..end),
        ))))
    }

    /// Reads the row and its payload from one snapshot: the payload of the row that was read before
    /// is gone. However often the object is overwritten, the snapshot holds the payload of its own
    /// row.
    ///
    /// A payload that is missing there too counts as damage only if the newest row still names it.
    async fn separate(&self, id: &ObjectId, range: ByteRange) -> Result<Attempt> {
        let now = self.now();
        let snapshot = self.index().snapshot()?;
        let row = snapshot
            .get(Table::Rows, id.encoded())
            .await?
            .as_ref()
            .map(Row::decode)
            .transpose()?;
        let Some(row) = row.filter(|row| row.is_live(now)) else {
            return Ok(Attempt::Replaced);
        };
        let Body::Separate(payload) = row.body else {
            return Ok(Attempt::Replaced);
        };
        let found = snapshot.get(Table::Payloads, payload.as_bytes()).await?;
        drop(snapshot);
        match found {
            Some(bytes) => {
                let range = range.resolve(row.metadata.size)?;
                self.inline(Head::of(id.clone(), row), &bytes, range)
            }
            None if self.names_payload(id, payload).await? => {
                Err(corrupt("the row's payload is not in the index"))
            }
            None => Ok(Attempt::Replaced),
        }
    }

    /// Returns whether the newest row of an object names this payload.
    async fn names_payload(&self, id: &ObjectId, payload: OperationId) -> Result<bool> {
        Ok(self
            .any_row(id)
            .await?
            .is_some_and(|row| row.body == Body::Separate(payload)))
    }

    async fn tombstone(
        &self,
        head: Head,
        seen: OperationId,
        manifest: &Manifest,
        range: Range<u64>,
    ) -> Result<Attempt> {
        let pieces = plan::pieces(manifest, &range);
        let pins: Vec<_> = pieces
            .iter()
            .map(|piece| self.0.pins.pin(piece.extent.revision))
            .collect();
        let written_as = manifest.written_as().unwrap_or(&head.id);
        let Some(sources) = self.sources(&head.id, seen, written_as, pieces).await? else {
            return Ok(Attempt::Replaced);
        };
        let mut units = self.0.fetcher.units(sources);
        let first = match units.next().await.transpose()? {
            Some(Ok(first)) => Some(units.keep(first)),
            Some(Err(revision)) => {
                self.gone(&head, seen, revision).await?;
                return Ok(Attempt::Replaced);
            }
            None => None,
        };
        let source = open::Source {
            reads: self.clone(),
            seen,
            rest: units,
            pins,
        };
        Ok(Attempt::Done(Some(OpenObject::streamed(
            head, range, first, source,
        ))))
    }

    /// The second look: the blobs to read with their block checksums, or none if the row has been
    /// replaced.
    ///
    /// A write that replaces the row removes the checksums in the same batch, so that both are read
    /// from one snapshot, now and not when the bytes flow.
    async fn sources(
        &self,
        id: &ObjectId,
        seen: OperationId,
        written_as: &ObjectId,
        pieces: Vec<Piece>,
    ) -> Result<Option<Vec<Source>>> {
        let snapshot = self.index().snapshot()?;
        if !names_operation(&*snapshot, id, seen).await? {
            return Ok(None);
        }
        let key = |piece: &Piece| Bytes::copy_from_slice(piece.extent.revision.as_bytes());
        let values = snapshot
            .get_many(Table::Payloads, pieces.iter().map(key).collect())
            .await?;
        let mut sources = Vec::with_capacity(pieces.len());
        for (piece, value) in pieces.into_iter().zip(values) {
            let revision = piece.extent.revision;
            let Some(value) = value else {
                if self
                    .any_row(id)
                    .await?
                    .is_none_or(|row| row.operation != seen)
                {
                    return Ok(None);
                }
                return Err(corrupt(format!(
                    "the block checksums are not in the index: revision={revision}"
                )));
            };
            let BlockChecksums(checksums) = BlockChecksums::decode(&value)?;
            if checksums.len() as u64 != piece.extent.block_count() {
                return Err(corrupt(format!(
                    "the revision has another number of blocks: revision={revision}"
                )));
            }
            let reader = self.0.blobs.reader(&revision_key(written_as, revision));
            sources.push(Source {
                id: id.clone(),
                piece,
                reader,
                checksums: checksums.into(),
            });
        }
        Ok(Some(sources))
    }

    /// A blob that the row named, and that is pinned, is not there: fine if the row has been
    /// replaced since.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it has not: no sweep has deleted the blob, for it was pinned while
    /// the row named it.
    async fn gone(&self, head: &Head, seen: OperationId, revision: RevisionId) -> Result<()> {
        if self
            .row(&head.id)
            .await?
            .is_none_or(|row| row.operation != seen)
        {
            return Ok(());
        }
        self.0.counters.missing(&head.id);
        let message = format!(
            "missing blob: the row names it and the blob tier does not have it: revision={revision}"
        );
        let current = Current {
            version: head.version,
            etag: head.etag,
        };
        let error = corrupt(message).with_reason(Reason::MissingBlob { current });
        // Where no blob is there, that is worth knowing.
        Err(match self.0.blobs.find_owner().await {
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

/// Whether the object's row is still the one that this operation committed. No two commits share
/// one.
async fn names_operation(
    snapshot: &dyn Snapshot,
    id: &ObjectId,
    operation: OperationId,
) -> Result<bool> {
    let row = snapshot
        .get(Table::Rows, id.encoded())
        .await?
        .as_ref()
        .map(Row::decode)
        .transpose()?;
    Ok(row.is_some_and(|row| row.operation == operation))
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "read", message)
}

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod tests;
