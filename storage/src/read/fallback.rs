//! Reads of objects that are not in the store: the fallback decides, unless the store had them.
//!
//! ```text
//! 1 one snapshot of ours: a live row           read ours again
//!                         another row, a mask  absent
//!                         neither              2
//! 2 ask the fallback                           3
//! 3 one snapshot of ours: something            1
//!                         neither              the answer: the object; absent if there is none or
//!                                              it has expired; the error
//! ```
//!
//! "Neither" counts only if the fallback is not sealed after the snapshot: a seal ends the masks.
//!
//! Guards "no false not-found": between steps 1 and 2 a migration may move the object and delete the
//! source. The object is durable in the store before it is deleted from the source, so that step 3
//! finds it. Guards "an outside write never shows once the store has the object": a slow answer may
//! be an object that was written to the source after the store had one.

use super::{ObjectMeta, OpenAttempt, OpenObject, Reads};
use crate::fallback::AttachedFallback;
use crate::index::Table;
use crate::records::{Row, last_version_key};
use crate::types::{ByteRange, Error, ErrorKind, ObjectId, Result};

/// State of an object in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnState {
    /// The object has a live row.
    Live,
    /// The object has an expired row or a last version, which masks the fallback.
    Masked,
    /// The object has neither.
    New,
}

impl Reads {
    /// Returns the fallback of the store, unless there is none or it is sealed.
    pub fn fallback(&self) -> Option<&AttachedFallback> {
        self.0
            .fallback
            .as_ref()
            .filter(|fallback| fallback.is_open())
    }

    /// Returns the head of an object that has no live row.
    pub(super) async fn head_in_fallback(
        &self,
        id: &ObjectId,
        fallback: &AttachedFallback,
    ) -> Result<Option<ObjectMeta>> {
        let attempts = self.0.limits.attempts.max(1);
        for _ in 0..attempts {
            match self.state_of_ours(id).await? {
                OwnState::Masked => return Ok(None),
                OwnState::Live => {
                    if let Some(row) = self.row(id).await? {
                        return Ok(Some(ObjectMeta::of(id.clone(), row)));
                    }
                }
                // Sealed since: a mask may have been dropped before the snapshot was taken.
                OwnState::New if !fallback.is_open() => {
                    let row = self.row(id).await?;
                    return Ok(row.map(|row| ObjectMeta::of(id.clone(), row)));
                }
                OwnState::New => {
                    let answer = fallback.head(id).await;
                    if self.is_still_new(id, fallback).await? {
                        let live = answer?.filter(|meta| meta.is_live(self.now()));
                        return Ok(live.map(|meta| ObjectMeta::of_fallback(id.clone(), meta)));
                    }
                }
            }
        }
        let message =
            format!("the object was replaced during every attempt to read it: attempts={attempts}");
        Err(Error::new(ErrorKind::Unavailable, "read", message))
    }

    /// Opens an object that has no live row.
    pub(super) async fn open_in_fallback(
        &self,
        id: &ObjectId,
        range: ByteRange,
        fallback: &AttachedFallback,
    ) -> Result<OpenAttempt> {
        match self.state_of_ours(id).await? {
            OwnState::Masked => return Ok(OpenAttempt::Done(None)),
            OwnState::Live => return Ok(OpenAttempt::Replaced),
            // Sealed since: a mask may have been dropped before the snapshot was taken.
            OwnState::New if !fallback.is_open() => return Ok(OpenAttempt::Replaced),
            OwnState::New => {}
        }
        let answer = fallback.open(id, range).await;
        if !self.is_still_new(id, fallback).await? {
            return Ok(OpenAttempt::Replaced);
        }
        let live = answer?.filter(|object| object.meta.is_live(self.now()));
        Ok(OpenAttempt::Done(live.map(|object| {
            let head = ObjectMeta::of_fallback(id.clone(), object.meta.clone());
            OpenObject::foreign(head, object)
        })))
    }

    /// Returns whether an answer of the fallback counts, errors included: the store still has
    /// neither a row nor a mask of the object.
    async fn is_still_new(&self, id: &ObjectId, fallback: &AttachedFallback) -> Result<bool> {
        let is_new = self.state_of_ours(id).await? == OwnState::New;
        // After the snapshot: a seal ends the masks.
        Ok(is_new && fallback.is_open())
    }

    /// Returns the durable state of an object.
    async fn state_of_ours(&self, id: &ObjectId) -> Result<OwnState> {
        let now = self.now();
        // One snapshot: a write removes the last version in the batch that stores the row.
        let snapshot = self.index().snapshot()?;
        if let Some(value) = snapshot.get(Table::Rows, id.encoded()).await? {
            return Ok(match Row::decode(&value)?.is_live(now) {
                true => OwnState::Live,
                false => OwnState::Masked,
            });
        }
        let last = snapshot.get(Table::Meta, &last_version_key(id)).await?;
        Ok(match last {
            Some(_) => OwnState::Masked,
            None => OwnState::New,
        })
    }
}
