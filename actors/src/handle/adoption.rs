//! The move of an object from the fallback into the store, on [`Tiered`].
//!
//! ```text
//! 1 durable state: a row or a last version        ours: nothing to do
//! 2 open the object in the fallback               missing or expired: nothing to do
//! 3 put it under `InFallback`, with its times     inline, or streamed by an upload actor
//! 4 the shard commits it only in the state New    conflict: ours, a write or delete came first
//! ```
//!
//! Guards "a deleted object never returns" (docs/adr/0029): step 4 decides, so that any write of
//! the object between steps 1 and 4 wins. A checksum of the fallback is verified before step 4.

use std::error::Error as _;

use bytes::{Bytes, BytesMut};
use cenotaph_storage::decide::{FallbackAnswer, Precondition, PutResult, conflict};
use cenotaph_storage::fallback::{FallbackMeta, FallbackObject};
use cenotaph_storage::{ByteRange, Checksum, Error, ErrorKind, Hasher, ObjectId, Result};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::handle::Tiered;
use crate::handle::writes::WriteIntent;

/// Outcome of the move of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptionOutcome {
    /// The object was moved into the store.
    Moved {
        /// The write that stored the object.
        written: PutResult,
        /// Size of the object in bytes.
        bytes: u64,
    },
    /// The store has the object or has deleted it, or there is no fallback. Nothing was changed.
    Ours,
    /// The fallback does not have the object. Nothing was changed.
    Missing,
    /// The object in the fallback has expired. Nothing was changed.
    Expired,
}

impl Tiered {
    /// Moves an object from the fallback into the store, with its attributes, times and deadline.
    /// An object that the store has, or that was deleted in the store, is not changed.
    ///
    /// A caller of bulk work holds its [turn](Self::bulk_turn).
    ///
    /// # Errors
    /// The error of the fallback, [`ErrorKind::Corrupt`] if the bytes do not match the checksum of
    /// the fallback, [`ErrorKind::Invalid`] if the object exceeds a limit of the store, and those
    /// of [`put_inline`](Self::put_inline) and [`put_stream`](Self::put_stream). Nothing was
    /// committed, except after [`ErrorKind::Indeterminate`].
    pub async fn adopt(&self, id: &ObjectId, is_bulk: bool) -> Result<AdoptionOutcome> {
        let context = self.context();
        context.health.check("adopt")?;
        let Some(fallback) = context.open_fallback() else {
            return Ok(AdoptionOutcome::Ours);
        };
        if !context
            .is_new(id)
            .await
            .map_err(|error| error.with_id(id))?
        {
            return Ok(AdoptionOutcome::Ours);
        }
        let Some(object) = fallback.attached.open(id, ByteRange::Full).await? else {
            return Ok(AdoptionOutcome::Missing);
        };
        if !object.meta.is_live(context.env.steady_now()) {
            return Ok(AdoptionOutcome::Expired);
        }
        let bytes = object.meta.size;
        let is_inline = usize::try_from(bytes).is_ok_and(|size| size <= fallback.inline_bytes_max);
        let written = if is_inline {
            self.adopt_inline(id, object, is_bulk).await
        } else {
            self.adopt_stream(id, object, is_bulk).await
        };
        match written {
            Ok(written) => Ok(AdoptionOutcome::Moved { written, bytes }),
            Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                Ok(AdoptionOutcome::Ours)
            }
            Err(error) => Err(error.with_id(id)),
        }
    }

    /// Returns the size of an object that [`adopt`](Self::adopt) would move, in bytes. Returns
    /// `None` if it would move nothing.
    ///
    /// # Errors
    /// The error of the fallback or of the index.
    pub async fn adoptable(&self, id: &ObjectId) -> Result<Option<u64>> {
        let context = self.context();
        let Some(fallback) = context.open_fallback() else {
            return Ok(None);
        };
        if !context.is_new(id).await? {
            return Ok(None);
        }
        let found = fallback.attached.head(id).await?;
        let live = found.filter(|meta| meta.is_live(context.env.steady_now()));
        Ok(live.map(|meta| meta.size))
    }

    /// Moves the object of a change of metadata into the store, if only the fallback has it.
    /// Returns the precondition of the change.
    ///
    /// # Errors
    /// Those of [`adopt`](Self::adopt), and [`ErrorKind::Conflict`] if the precondition requires an
    /// object in the fallback and there is none.
    pub(crate) async fn adopt_for(
        &self,
        operation: &'static str,
        id: &ObjectId,
        precondition: Precondition,
    ) -> Result<Precondition> {
        match precondition {
            Precondition::None => {
                self.adopt(id, false).await?;
                Ok(Precondition::None)
            }
            Precondition::InFallback => match self.adopt(id, false).await? {
                // Exactly the object that was moved.
                AdoptionOutcome::Moved { written, .. } => {
                    Ok(written.etag.map_or(precondition, Precondition::Etag))
                }
                AdoptionOutcome::Ours | AdoptionOutcome::Missing | AdoptionOutcome::Expired => {
                    let now = self.context().env.steady_now();
                    let ours = self.context().row_state_at(id, now).await?;
                    let current = ours.live(now).map(|row| row.current());
                    Err(conflict(operation, current).with_id(id))
                }
            },
            // Never true for an object of the fallback, or asked for by the write itself.
            Precondition::Absent | Precondition::Version(_) | Precondition::Etag(_) => {
                Ok(precondition)
            }
        }
    }

    async fn adopt_inline(
        &self,
        id: &ObjectId,
        object: FallbackObject,
        is_bulk: bool,
    ) -> Result<PutResult> {
        let size = usize::try_from(object.meta.size).unwrap_or(usize::MAX);
        let permit = self.admit(size, is_bulk).await?;
        let intent = intent(id, &object.meta)?;
        let payload = collected(object.bytes, size).await?;
        if let Some(expected) = object.meta.checksum
            && expected != Checksum::of(&payload)
        {
            return Err(damaged());
        }
        self.put_inline(intent, payload, permit).await
    }

    async fn adopt_stream(
        &self,
        id: &ObjectId,
        object: FallbackObject,
        is_bulk: bool,
    ) -> Result<PutResult> {
        let intent = intent(id, &object.meta)?;
        let stream = verified(object.bytes, object.meta.checksum);
        let source = PayloadSource {
            stream: stream.map_err(Into::into).boxed(),
            bytes: Some(object.meta.size),
        };
        let put = self.put_stream(intent, source, Permit::free(), is_bulk);
        put.await.map_err(fallback_error)
    }
}

/// Returns the write that moves an object with this head.
fn intent(id: &ObjectId, meta: &FallbackMeta) -> Result<WriteIntent> {
    meta.attributes.validate()?;
    Ok(WriteIntent {
        id: id.clone(),
        attributes: meta.attributes.clone(),
        precondition: Precondition::InFallback,
        answer: FallbackAnswer::Moved(meta.times()),
    })
}

/// Returns all bytes of a stream, which must be `size` bytes.
async fn collected(mut bytes: BoxStream<'static, Result<Bytes>>, size: usize) -> Result<Bytes> {
    let mut whole = BytesMut::with_capacity(size);
    while let Some(chunk) = bytes.try_next().await? {
        // Checked before the copy: a longer stream must not take more memory than was admitted.
        if chunk.len() > size - whole.len() {
            return Err(wrong_length());
        }
        whole.extend_from_slice(&chunk);
    }
    if whole.len() != size {
        return Err(wrong_length());
    }
    Ok(whole.freeze())
}

/// Returns the same chunks, with an error at the end if they do not match the checksum.
fn verified(
    bytes: BoxStream<'static, Result<Bytes>>,
    expected: Option<Checksum>,
) -> BoxStream<'static, Result<Bytes>> {
    let Some(expected) = expected else {
        return bytes;
    };
    let state = (bytes, Hasher::default());
    let verified = stream::try_unfold(state, move |(mut bytes, mut hasher)| async move {
        match bytes.try_next().await? {
            Some(chunk) => {
                hasher.update(&chunk);
                Ok(Some((chunk, (bytes, hasher))))
            }
            None if hasher.finish() == expected => Ok(None),
            None => Err(damaged()),
        }
    });
    verified.boxed()
}

/// Returns the error of the fallback behind a failed put. The put reports its stream as failed
/// ([`ErrorKind::Source`]), but the stream is a read of the fallback.
fn fallback_error(error: Error) -> Error {
    let read = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Error>());
    match (error.kind(), read) {
        (ErrorKind::Source, Some(read)) => read.clone(),
        (ErrorKind::Source, None) => wrong_length().with_source(error),
        _ => error,
    }
}

fn damaged() -> Error {
    let message = "the bytes of the fallback do not match its checksum; nothing was committed";
    Error::new(ErrorKind::Corrupt, "adopt", message)
}

fn wrong_length() -> Error {
    let message = "the fallback returned another length than promised; nothing was committed";
    Error::new(ErrorKind::Unavailable, "adopt", message)
}
