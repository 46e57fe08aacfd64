//! Returns the bytes of an open object: [`OpenObject`].
//!
//! ```text
//! Inline ──── bytes returned ────────────────> Done
//! Foreign ─┬─ end of the fallback's stream ──> Done
//!          └─ error ─────────────────────────> Failed    repeats the error
//! Streamed ──┬── last unit, or dropped ──────> Done      releases the pins
//!            └── error ──────────────────────> Failed    releases the pins; repeats the error
//! ```
//!
//! Guards I8: an open object holds the pins of all revisions that it may still read. A failed read
//! never ends like a complete read.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::budget::Leave;
use super::fetch::{UnitBlocks, Units};
use super::{ObjectMeta, Reads};
use crate::fallback::FallbackObject;
use crate::read::pins::Pin;
use crate::types::{Error, ErrorKind, OperationId, Result, RevisionId};

/// An open object, and the bytes of a range of it as a stream. Reads the same revision until the
/// end (I8).
pub struct OpenObject {
    head: ObjectMeta,
    range: Range<u64>,
    content: UnreadBytes,
    /// Permit of an open object, released at the end of the bytes.
    permit: Option<Leave>,
}

/// Bytes that have not been returned yet.
enum UnreadBytes {
    /// All bytes are in memory.
    Inline(Bytes),
    /// A part of the bytes is in memory, the rest is in the blob tier.
    Streamed(Box<Streamed>),
    /// The bytes are in the fallback.
    Foreign(BoxStream<'static, Result<Bytes>>),
    /// The read failed with this error.
    Failed(Error),
    /// All bytes have been returned.
    Done,
}

/// Bytes of an object in the blob tier.
struct Streamed {
    /// Verified bytes in memory.
    ready: UnitBlocks,
    source: UnitSource,
    /// Revision whose blob is missing, until the row has been read again. Kept here because the
    /// future that reads the row may be dropped.
    missing: Option<RevisionId>,
}

/// Units that have not been fetched yet, and the pins of their revisions.
pub(super) struct UnitSource {
    pub(super) reads: Reads,
    /// Operation that committed the row of the object.
    pub(super) seen: OperationId,
    pub(super) rest: Units,
    pub(super) pins: Vec<Pin>,
}

impl OpenObject {
    pub(super) fn inline(head: ObjectMeta, range: Range<u64>, bytes: Bytes) -> Self {
        let content = if bytes.is_empty() {
            UnreadBytes::Done
        } else {
            UnreadBytes::Inline(bytes)
        };
        Self {
            head,
            range,
            content,
            permit: None,
        }
    }

    /// Opens an object in the blob tier. `first` is the first unit, or `None` if the range is
    /// empty.
    pub(super) fn streamed(
        head: ObjectMeta,
        range: Range<u64>,
        first: Option<UnitBlocks>,
        source: UnitSource,
    ) -> Self {
        let content = match first {
            Some(ready) => UnreadBytes::Streamed(Box::new(Streamed {
                ready,
                source,
                missing: None,
            })),
            None => UnreadBytes::Done,
        };
        Self {
            head,
            range,
            content,
            permit: None,
        }
    }

    /// Opens an object of the fallback.
    pub(super) fn foreign(head: ObjectMeta, object: FallbackObject) -> Self {
        let FallbackObject { range, bytes, .. } = object;
        let content = if range.is_empty() {
            UnreadBytes::Done
        } else {
            UnreadBytes::Foreign(bytes)
        };
        Self {
            head,
            range,
            content,
            permit: None,
        }
    }

    #[cfg(test)]
    pub(super) fn bytes_at_hand(&self) -> usize {
        match &self.content {
            UnreadBytes::Streamed(streamed) => streamed.ready.bytes_at_hand(),
            UnreadBytes::Inline(bytes) => bytes.len(),
            UnreadBytes::Foreign(_) | UnreadBytes::Failed(_) | UnreadBytes::Done => 0,
        }
    }

    /// Attaches the permit that counts the object as open. An object without bytes to return does
    /// not count.
    pub(super) fn with_permit(mut self, permit: Leave) -> Self {
        if !matches!(self.content, UnreadBytes::Done) {
            self.permit = Some(permit);
        }
        self
    }

    /// Ends the read with a final content, and releases the pins and the permit.
    fn end(&mut self, content: UnreadBytes) {
        self.content = content;
        self.permit = None;
    }

    /// Returns the head of the object. Its size is the size of the whole object, not of the range.
    pub fn head(&self) -> &ObjectMeta {
        &self.head
    }

    /// Returns the range that is read: the requested range, limited to `0..size`.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Returns whether all bytes are in memory because the object is inline.
    pub fn is_inline(&self) -> bool {
        matches!(self.content, UnreadBytes::Inline(_))
    }

    /// Returns the next bytes of the range, verified and never empty, or `None` at the end.
    ///
    /// # Errors
    /// - [`ErrorKind::Corrupt`] if stored bytes do not match their checksum, or a blob that the row
    ///   still names is missing.
    /// - [`ErrorKind::Unavailable`] if a blob cannot be read now, or is missing and the object was
    ///   replaced in the meantime.
    /// - [`ErrorKind::Overloaded`] if the memory budget had no room for the bytes in time.
    ///
    /// After an error, every further call returns the same error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let next = match &mut self.content {
            UnreadBytes::Inline(bytes) => {
                let bytes = std::mem::take(bytes);
                self.end(UnreadBytes::Done);
                return Ok(Some(bytes));
            }
            UnreadBytes::Streamed(streamed) => streamed.next(&self.head).await,
            UnreadBytes::Foreign(bytes) => next_chunk(bytes).await,
            UnreadBytes::Failed(error) => return Err(error.clone()),
            UnreadBytes::Done => return Ok(None),
        };
        // The content changes after the await only, so a dropped future repeats the same step.
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.end(UnreadBytes::Done),
            Err(error) => self.end(UnreadBytes::Failed(error.clone())),
        }
        next
    }

    /// Converts the object into a stream of its bytes, which ends after the first error.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        stream::try_unfold(self, |mut object| async move {
            Ok(object.next().await?.map(|bytes| (bytes, object)))
        })
        .boxed()
    }

    /// Returns all remaining bytes in a single buffer. Does not copy them if a single block
    /// contains them.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the range has more than `bytes_max` bytes, and as
    /// [`next`](Self::next).
    pub async fn bytes(mut self, bytes_max: usize) -> Result<Bytes> {
        let range_bytes = self.range.end - self.range.start;
        let Some(capacity) = usize::try_from(range_bytes)
            .ok()
            .filter(|&bytes| bytes <= bytes_max)
        else {
            let message =
                format!("the range is too large to collect: bytes={range_bytes} max={bytes_max}");
            return Err(Error::new(ErrorKind::Invalid, "read", message).with_id(&self.head.id));
        };
        // The first block is returned as it is unless a second block follows.
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.next().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::with_capacity(capacity);
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        // Both are copied: their memory is released before more is fetched.
        drop((first, second));
        while let Some(more) = self.next().await? {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }
}

/// Returns the next chunk of a fallback that is not empty.
async fn next_chunk(bytes: &mut BoxStream<'static, Result<Bytes>>) -> Result<Option<Bytes>> {
    while let Some(chunk) = bytes.try_next().await? {
        if !chunk.is_empty() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

impl Streamed {
    async fn next(&mut self, head: &ObjectMeta) -> Result<Option<Bytes>> {
        let Self {
            ready,
            source,
            missing,
        } = self;
        loop {
            // Checked first and not cleared: if the future is dropped while the row is read, the
            // next call does it again instead of skipping the missing unit.
            if let Some(revision) = *missing {
                source
                    .reads
                    .check_missing_blob(head, source.seen, revision)
                    .await
                    .map_err(|error| error.with_id(&head.id))?;
                let message =
                    "the object was replaced and its blob deleted during the read; read it again";
                return Err(Error::new(ErrorKind::Unavailable, "read", message).with_id(&head.id));
            }
            if let Some(bytes) = ready.next() {
                return Ok(Some(bytes));
            }
            match source.rest.next().await.transpose()? {
                Some(Ok(blocks)) => *ready = blocks,
                Some(Err(revision)) => *missing = Some(revision),
                None => return Ok(None),
            }
        }
    }
}

impl fmt::Debug for OpenObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, pins) = match &self.content {
            UnreadBytes::Inline(_) => ("inline", 0),
            UnreadBytes::Streamed(streamed) => ("streamed", streamed.source.pins.len()),
            UnreadBytes::Foreign(_) => ("foreign", 0),
            UnreadBytes::Failed(_) => ("failed", 0),
            UnreadBytes::Done => ("done", 0),
        };
        f.debug_struct("OpenObject")
            .field("head", &self.head)
            .field("range", &self.range)
            .field("state", &state)
            .field("pins", &pins)
            .finish()
    }
}
