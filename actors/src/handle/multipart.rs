//! Multipart uploads on [`Tiered`].
//!
//! ```text
//! initiate       one commit: the upload record                            (through the shard)
//! upload_part    change, blob, one commit: the part; parts in any order   (upload, then the shard)
//! complete       1 read the row that this write means to replace
//!                2 rules, then one commit: row, upload record, orphans    (through the shard)
//! abort          one commit: upload record, orphans                       (through the shard)
//! ```
//!
//! A completion moves no byte, and nothing is assembled in the blob tier. So no reply of the blob
//! tier can be lost. Guards I10: an answer is the commit's own. Listings are in `cenotaph_storage`,
//! because they need no actor.

use cenotaph_storage::decide::{
    FallbackAnswer, PartRules, Precondition, PutResult, Selection, UploadMutation, UploadStep,
};
use cenotaph_storage::index::Table;
use cenotaph_storage::records::{UploadPhase, UploadRecord, upload_record_key};
use cenotaph_storage::{
    Digest, Error, ErrorKind, ObjectId, PartNumber, Result, SyncPoint, UploadId, no_such_upload,
};

use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::context::Context;
use crate::context::messages::{Purpose, UploadedPart};
use crate::handle::Tiered;
use crate::handle::writes::{UploadPayload, WriteIntent};

/// A part without its payload.
#[derive(Clone, Debug)]
pub struct PartIntent {
    /// The object.
    pub id: ObjectId,
    /// The upload.
    pub upload: UploadId,
    /// Number of the part.
    pub number: PartNumber,
    /// Checksums that the bytes must have.
    pub declared: Vec<Digest>,
}

impl Tiered {
    /// Initiates an upload.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline); [`Invalid`](cenotaph_storage::ErrorKind::Invalid) also
    /// if the root of the blob tier is too long.
    pub async fn initiate(&self, intent: WriteIntent) -> Result<UploadId> {
        let WriteIntent {
            id,
            attributes,
            precondition,
            answer,
        } = intent;
        self.context()
            .blobs
            .current()
            .check_root()
            .map_err(|error| error.with_id(&id))?;
        self.make_room(0)
            .await
            .map_err(|error| error.with_id(&id))?;
        let initiated = self.context().env.steady_now();
        let expires_at = initiated.after(self.context().limits.multipart.lifetime);
        let session = UploadRecord {
            initiated,
            expires_at,
            attributes,
            precondition,
            phase: UploadPhase::Open,
        };
        let upload = self.context().env.upload_id();
        let answer = self.context().answer(&id, precondition, answer).await?;
        self.step(&id, upload, answer, UploadMutation::Initiate(session))
            .await
            .map(|_| upload)
    }

    /// Uploads a part. It replaces an older part with its number at the commit. Dropping the future
    /// has the same effect as with [`put_stream`](Self::put_stream).
    ///
    /// # Errors
    /// [`Invalid`](cenotaph_storage::ErrorKind::Invalid) if the object has no such upload, the
    /// upload has ended, or the part is too large; [`Source`](cenotaph_storage::ErrorKind::Source)
    /// if the payload fails or differs from its declaration; otherwise as
    /// [`put_stream`](Self::put_stream).
    pub async fn upload_part(
        &self,
        part: PartIntent,
        source: PayloadSource,
    ) -> Result<UploadedPart> {
        let PartIntent {
            id,
            upload,
            number,
            declared,
        } = part;
        self.context().health.check("multipart")?;
        let payload = UploadPayload {
            source,
            peeked: Permit::free(),
            is_bulk: false,
        };
        let purpose = |caller| Purpose::Part {
            upload,
            number,
            declared,
            caller,
        };
        let operation = self.context().env.operation_id();
        self.upload((&id, operation), payload, purpose)
            .await
            .map_err(|error| error.with_id(&id))
    }

    /// Makes an object of the parts of an upload. Idempotent: a repeated completion with the same
    /// parts returns the same result for as long as the result is retained.
    ///
    /// # Errors
    /// [`Invalid`](cenotaph_storage::ErrorKind::Invalid) if the object has no such upload, if the
    /// upload was aborted or was completed with other parts, or if a part breaks a rule;
    /// [`Conflict`](cenotaph_storage::ErrorKind::Conflict) if a precondition does not hold. The
    /// upload stays open after a broken rule or a conflict. Otherwise as
    /// [`put_inline`](Self::put_inline).
    pub async fn complete(
        &self,
        id: &ObjectId,
        upload: UploadId,
        parts: Selection,
        precondition: Precondition,
    ) -> Result<PutResult> {
        let context = self.context();
        context.health.check("multipart")?;
        parts.check().map_err(|error| error.with_id(id))?;
        let answer = context.answer_completion(id, &upload, precondition).await?;
        let now = context.env.steady_now();
        // Read before the swap: a write that commits in between supersedes the completion.
        let expected = context
            .row_state_at(id, now)
            .await
            .map_err(|error| error.with_id(id))?
            .expectation(now);
        context.env.pass(SyncPoint::CompleteBeforeSwap).await;
        let limits = &context.limits;
        let rules = PartRules {
            bytes_min: limits.multipart.part_bytes_min,
            total_bytes_max: limits.payload_bytes_max,
        };
        let kept_for = limits.multipart.kept_for;
        let completion = UploadMutation::Complete {
            parts,
            expected,
            precondition,
            rules,
            kept_for,
        };
        // Not tied to this future: a completion that is submitted commits without its caller.
        let written = self.step(id, upload, answer, completion).await?;
        written.ok_or_else(|| {
            let message = "the completion has no result; complete the upload again";
            Error::new(ErrorKind::Unavailable, "multipart", message).with_id(id)
        })
    }

    /// Aborts an upload and deletes its parts. A repeated abort does nothing.
    ///
    /// # Errors
    /// [`Invalid`](cenotaph_storage::ErrorKind::Invalid) if the object has no such upload, or the
    /// upload has been completed; otherwise as [`put_inline`](Self::put_inline).
    pub async fn abort(&self, id: &ObjectId, upload: UploadId) -> Result<()> {
        let kept_for = self.context().limits.multipart.kept_for;
        let abort = UploadMutation::Abort { kept_for };
        self.step(id, upload, FallbackAnswer::NotAsked, abort)
            .await
            .map(drop)
    }

    async fn step(
        &self,
        id: &ObjectId,
        upload: UploadId,
        answer: FallbackAnswer,
        mutation: UploadMutation,
    ) -> Result<Option<PutResult>> {
        let context = self.context();
        context.health.check("multipart")?;
        let permit = context
            .admission
            .write()
            .await
            .map_err(|error| error.with_id(id))?;
        let swap = UploadStep {
            id: id.clone(),
            upload,
            operation: context.env.operation_id(),
            mutation,
        };
        let answer = match swap.mutation {
            UploadMutation::Complete { .. }
            | UploadMutation::Abort { .. }
            | UploadMutation::Expire => {
                context
                    .end(swap, answer, permit, Some(context.limits.budget_wait))
                    .await
            }
            UploadMutation::Initiate(_) | UploadMutation::Part { .. } => {
                context.step(swap, answer, &permit, |reply| reply).await
            }
        };
        answer.map_err(|error| error.with_id(id))
    }
}

impl Context {
    /// Asks the fallback about the object of a completion, if a precondition of its beginning or of
    /// its end depends on that.
    async fn answer_completion(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        precondition: Precondition,
    ) -> Result<FallbackAnswer> {
        if !self.is_fallback_open() {
            return Ok(FallbackAnswer::NotAsked);
        }
        let answer = self
            .answer(id, precondition, FallbackAnswer::NotAsked)
            .await?;
        let value = self
            .index
            .get(Table::Uploads, &upload_record_key(id, upload))
            .await?;
        // The shard reports a missing record.
        let Some(value) = value else {
            return Ok(answer);
        };
        let record = UploadRecord::decode(&value)?;
        self.answer(id, record.precondition, answer).await
    }

    /// Checks that an upload is open, before the first byte of a part is uploaded.
    pub(crate) async fn check_upload(&self, id: &ObjectId, upload: &UploadId) -> Result<()> {
        let value = self
            .index
            .get(Table::Uploads, &upload_record_key(id, upload))
            .await?;
        let session = value
            .map(|value| UploadRecord::decode(&value))
            .transpose()?;
        let now = self.env.steady_now();
        session
            .filter(|session| session.is_live(now))
            .ok_or_else(no_such_upload)?
            .check_open()
    }
}
