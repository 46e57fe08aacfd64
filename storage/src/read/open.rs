//! An object that is being read: [`OpenObject`].
//!
//! ```text
//! Inline ─────────────────────────────> Done
//! Streamed ──┬─ last unit, or dropped ─> Done      the pins are released
//!            └─ an error ──────────────> Failed    the pins are released; the same error from then on
//! ```
//!
//! Guards I8: it holds the pins of all it may still read. A stream that failed never looks like one
//! that ended. Deliberately not here: fetching (`read/fetch.rs`).

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};

use super::budget::Leave;
use super::fetch::{Blocks, Units};
use super::{Head, Reads};
use crate::error::{Error, ErrorKind, Result};
use crate::pins::Pin;
use crate::word::{OperationId, RevisionId};

/// An object, and the bytes of a range of it as they flow. It sees one revision to its end (I8).
pub struct OpenObject {
    head: Head,
    range: Range<u64>,
    content: Content,
    /// Given back at its end.
    leave: Option<Leave>,
}

enum Content {
    /// All of it is here.
    Inline(Bytes),
    /// Some is here, the rest comes from the blob tier.
    Streamed(Box<Streamed>),
    /// It could not be read to its end.
    Failed(Error),
    /// All of it has been handed over.
    Done,
}

/// Bytes as they flow.
struct Streamed {
    ready: Blocks,
    source: Source,
    /// A blob that was found missing, until it is known what that means: a call that asks may be
    /// dropped half-way.
    missing: Option<RevisionId>,
}

/// Where the bytes come from that are not here yet.
pub(super) struct Source {
    pub(super) reads: Reads,
    /// The write that the object's row was found to be.
    pub(super) seen: OperationId,
    pub(super) rest: Units,
    pub(super) pins: Vec<Pin>,
}

impl OpenObject {
    pub(super) fn inline(head: Head, range: Range<u64>, bytes: Bytes) -> Self {
        let content = if bytes.is_empty() {
            Content::Done
        } else {
            Content::Inline(bytes)
        };
        Self {
            head,
            range,
            content,
            leave: None,
        }
    }

    /// `first` is the first unit; none if the range is empty.
    pub(super) fn streamed(
        head: Head,
        range: Range<u64>,
        first: Option<Blocks>,
        source: Source,
    ) -> Self {
        let content = match first {
            Some(ready) => Content::Streamed(Box::new(Streamed {
                ready,
                source,
                missing: None,
            })),
            None => Content::Done,
        };
        Self {
            head,
            range,
            content,
            leave: None,
        }
    }

    #[cfg(test)]
    pub(super) fn bytes_at_hand(&self) -> usize {
        match &self.content {
            Content::Streamed(streamed) => streamed.ready.bytes_at_hand(),
            Content::Inline(bytes) => bytes.len(),
            Content::Failed(_) | Content::Done => 0,
        }
    }

    /// Counts it as open until its end.
    pub(super) fn with_leave(mut self, leave: Leave) -> Self {
        if !matches!(self.content, Content::Done) {
            self.leave = Some(leave);
        }
        self
    }

    /// Nothing more comes.
    fn end(&mut self, content: Content) {
        self.content = content;
        self.leave = None;
    }

    /// What is known about the object without its bytes. Its size is that of the whole object.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The bytes of the object that are read: what was asked for, within `0..size`.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Whether all that comes is here already, because it came from the index.
    pub fn is_inline(&self) -> bool {
        matches!(self.content, Content::Inline(_))
    }

    /// The next bytes of the range, never empty; none at its end. What it gives is verified.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if stored bytes do not match their checksum or a blob is gone that
    /// the row still names, [`ErrorKind::Unavailable`] if a blob can't be read now, or is gone and
    /// the object was replaced meanwhile, [`ErrorKind::Overloaded`] if there was no room for its
    /// bytes in time. Once it has failed, it fails the same way again.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let next = match &mut self.content {
            Content::Inline(bytes) => {
                let bytes = std::mem::take(bytes);
                self.end(Content::Done);
                return Ok(Some(bytes));
            }
            Content::Streamed(streamed) => streamed.next(&self.head).await,
            Content::Failed(error) => return Err(error.clone()),
            Content::Done => return Ok(None),
        };
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.end(Content::Done),
            Err(error) => self.end(Content::Failed(error.clone())),
        }
        next
    }

    /// The bytes as a stream, which ends after its first error.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        stream::try_unfold(self, |mut object| async move {
            Ok(object.next().await?.map(|bytes| (bytes, object)))
        })
        .boxed()
    }

    /// All bytes that are still to come, in one piece; without a copy if they are in one piece
    /// already.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the range has more than `bytes_max`, and as [`next`](Self::next).
    pub async fn bytes(mut self, bytes_max: usize) -> Result<Bytes> {
        let asked = self.range.end - self.range.start;
        let Some(asked) = usize::try_from(asked)
            .ok()
            .filter(|&bytes| bytes <= bytes_max)
        else {
            let message =
                format!("the range is too large to collect: bytes={asked} max={bytes_max}");
            return Err(Error::new(ErrorKind::Invalid, "read", message).with_id(&self.head.id));
        };
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.next().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::with_capacity(asked);
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        drop((first, second));
        while let Some(more) = self.next().await? {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }
}

impl Streamed {
    async fn next(&mut self, head: &Head) -> Result<Option<Bytes>> {
        let Self {
            ready,
            source,
            missing,
        } = self;
        loop {
            if let Some(revision) = *missing {
                source
                    .reads
                    .gone(head, source.seen, revision)
                    .await
                    .map_err(|error| error.with_id(&head.id))?;
                let message = "the blob disappeared while it was being read, and the object has been replaced";
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
            Content::Inline(_) => ("inline", 0),
            Content::Streamed(streamed) => ("streamed", streamed.source.pins.len()),
            Content::Failed(_) => ("failed", 0),
            Content::Done => ("done", 0),
        };
        f.debug_struct("OpenObject")
            .field("head", &self.head)
            .field("range", &self.range)
            .field("state", &state)
            .field("pins", &pins)
            .finish()
    }
}
