//! Writes of single objects on [`Tiered`].
//!
//! Guards I10 at this border: an answer is the commit's own, and no answer means that nothing was
//! committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cenotaph_storage::decide::{
    Deleted, FallbackAnswer, Mutation, Precondition, PutResult, Swap, SwapReply,
};
use cenotaph_storage::records::{Amendment, Attributes, Extension};
use cenotaph_storage::{Error, ErrorKind, ObjectId, OperationId, Result};
use tokio::sync::oneshot;

use crate::admission::payload::PayloadSource;
use crate::admission::permits::Permit;
use crate::context::messages::{Handover, Purpose, UploadJob, UploadsMessage};
use crate::handle::Tiered;
use crate::runtime::reply::{Caller, ReplyCallback};

/// Share of the limit on writes that idle refreshes may use: one part in this many.
const REFRESHES_SHARE: usize = 8;

/// A write without its payload.
#[derive(Clone, Debug)]
pub struct WriteIntent {
    /// The object.
    pub id: ObjectId,
    /// Attributes of the new object.
    pub attributes: Attributes,
    /// Required state of the object.
    pub precondition: Precondition,
    /// Answer of the fallback, if the caller has asked it. Otherwise it is asked if necessary.
    pub answer: FallbackAnswer,
}

/// The payload of an upload, and the permit for its bytes that are buffered already.
pub(crate) struct UploadPayload {
    pub(crate) source: PayloadSource,
    pub(crate) peeked: Permit,
    /// True if the upload is bulk work, which may use only a share of each budget.
    pub(crate) is_bulk: bool,
}

impl Tiered {
    /// Acquires a permit to buffer this many bytes of a payload.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] over the limits, [`ErrorKind::Closed`], [`ErrorKind::Unavailable`]
    /// if the engine has failed.
    pub async fn admit(&self, payload_bytes: usize, is_bulk: bool) -> Result<Permit> {
        self.context().health.check("put")?;
        self.context()
            .admission
            .payload(payload_bytes, is_bulk)
            .await
    }

    /// Waits for the turn of an operation of bulk work. The operation holds the permit to its end.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](crate::Limits::budget_wait).
    pub async fn bulk_turn(&self) -> Result<Permit> {
        self.context().admission.bulk().await
    }

    /// Returns a caller's stream limited to [`source_idle`](crate::Limits::source_idle).
    pub fn watched(&self, source: PayloadSource) -> PayloadSource {
        source.watched(&self.context().env, self.context().limits.source_idle)
    }

    /// Returns a swap with a fresh operation id.
    pub fn swap(&self, id: ObjectId, precondition: Precondition, mutation: Mutation) -> Swap {
        Swap {
            id,
            operation: self.context().env.operation_id(),
            precondition,
            mutation,
        }
    }

    /// Puts a payload into the index.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the precondition does not hold; [`ErrorKind::Overloaded`],
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::Closed`]: nothing was committed.
    /// [`ErrorKind::Indeterminate`]: the index failed during the commit.
    pub async fn put_inline(
        &self,
        intent: WriteIntent,
        payload: Bytes,
        permit: Permit,
    ) -> Result<PutResult> {
        let WriteIntent {
            id,
            attributes,
            precondition,
            answer,
        } = intent;
        self.context().health.check("put")?;
        // Before the permit: a write that waits for space must not hold a place of others.
        self.make_room(payload.len() as u64)
            .await
            .map_err(|error| error.with_id(&id))?;
        let mutation = Mutation::Inline {
            payload,
            attributes,
        };
        let reply = self
            .write(id, (precondition, answer), mutation, permit)
            .await?;
        Ok(reply.written())
    }

    /// Puts a payload into the blob tier.
    ///
    /// `peeked` is the permit for the bytes that are buffered already. Bulk work waits for its
    /// turn. Dropping the future before the whole payload has been written cancels the put; after
    /// that the put goes on without its caller.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline); [`ErrorKind::Overloaded`] if there are too many
    /// uploads, [`ErrorKind::Source`] if the stream fails, [`ErrorKind::Invalid`] if the payload is
    /// too long.
    pub async fn put_stream(
        &self,
        intent: WriteIntent,
        source: PayloadSource,
        peeked: Permit,
        is_bulk: bool,
    ) -> Result<PutResult> {
        let WriteIntent {
            id,
            attributes,
            precondition,
            answer,
        } = intent;
        self.context().health.check("put")?;
        self.context()
            .blobs
            .current()
            .check_root()
            .map_err(|error| error.with_id(&id))?;
        let answer = self.context().answer(&id, precondition, answer).await?;
        let payload = UploadPayload {
            source,
            peeked,
            is_bulk,
        };
        let purpose = |caller| Purpose::Put {
            attributes,
            precondition,
            answer,
            caller,
        };
        let operation = operation_of(self.context().env.operation_id(), answer);
        self.upload((&id, operation), payload, purpose)
            .await
            .map_err(|error| error.with_id(&id))
    }

    /// Uploads a payload to the blob tier by an upload actor, and returns the answer of the upload.
    pub(crate) async fn upload<T>(
        &self,
        (id, operation): (&ObjectId, OperationId),
        payload: UploadPayload,
        purpose: impl FnOnce(Caller<T>) -> Purpose,
    ) -> Result<T> {
        let UploadPayload {
            source,
            peeked,
            is_bulk,
        } = payload;
        self.make_blob_room(source.bytes).await?;
        let permit = self.context().admission.upload(is_bulk).await?;
        // Checked under the permit: `close` first stops the engine, then waits for all permits.
        self.context().health.check("put")?;
        let (caller, answer) = Caller::new();
        // Dropped with this future: the upload then sees that the caller is gone.
        let (_present, caller_gone) = oneshot::channel();
        let job = UploadJob {
            id: id.clone(),
            operation,
            purpose: purpose(caller),
            source,
            caller_gone,
            permit,
            peeked,
            is_bulk,
        };
        self.hand_over(Handover::new(job)).await?;
        let died = |_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "put",
                "the upload died; nothing was committed",
            ))
        };
        // No holder of the `Caller` is left, so no batch was submitted (`runtime/reply.rs`).
        answer.await.unwrap_or_else(died)
    }

    /// Hands a job to the parent of the uploads, again if the message is lost.
    async fn hand_over(&self, job: Handover) -> Result<()> {
        let context = self.context();
        for attempt in 0..=context.limits.deliveries_max {
            let (started, has_started) = oneshot::channel();
            context.registry.uploads.send(UploadsMessage::Start {
                job: job.clone(),
                started,
            });
            // A taken job whose `started` is lost: the parent died after it took the job.
            if has_started.await.is_ok() || job.is_taken() {
                return Ok(());
            }
            context.health.check_failed("put")?;
            context.back_off(attempt).await;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "put",
            "the uploads are not running; nothing was committed",
        ))
    }

    /// Deletes an object. Its row is removed when this returns; its blobs are deleted later.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline). A failing blob tier never fails a delete, but a failing
    /// fallback fails the delete of an object that the store never had.
    pub async fn delete(
        &self,
        id: ObjectId,
        precondition: Precondition,
        answer: FallbackAnswer,
    ) -> Result<Deleted> {
        self.context().health.check("delete")?;
        let answer = match (precondition, answer) {
            (Precondition::None, FallbackAnswer::NotAsked) => {
                self.context().ask_fallback(&id).await?
            }
            (_, answer) => answer,
        };
        let free = Permit::free();
        let reply = self
            .write(id, (precondition, answer), Mutation::Delete, free)
            .await?;
        Ok(reply.deleted())
    }

    /// Changes attributes of an object, but not its bytes. Returns `None` if there is no object.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline); [`ErrorKind::Invalid`] if the changed attributes exceed
    /// a limit.
    pub async fn amend(
        &self,
        id: ObjectId,
        precondition: Precondition,
        amendment: Amendment,
    ) -> Result<Option<PutResult>> {
        self.change("amend", id, precondition, Mutation::Amend(amendment))
            .await
    }

    /// Changes the deadline of an object. An equal deadline commits nothing and returns the current
    /// version. Returns `None` if there is no object.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline).
    pub async fn extend_expiry(
        &self,
        id: ObjectId,
        precondition: Precondition,
        extension: Extension,
    ) -> Result<Option<PutResult>> {
        self.change(
            "extend_expiry",
            id,
            precondition,
            Mutation::Extend(extension),
        )
        .await
    }

    async fn change(
        &self,
        operation: &'static str,
        id: ObjectId,
        precondition: Precondition,
        mutation: Mutation,
    ) -> Result<Option<PutResult>> {
        self.context().health.check(operation)?;
        let precondition = self.adopt_for(operation, &id, precondition).await?;
        let free = Permit::free();
        let condition = (precondition, FallbackAnswer::NotAsked);
        let reply = self.write(id, condition, mutation, free).await?;
        Ok(reply.amended())
    }

    /// Commits a mutation under a permit for a write. `permit` is held, too, until the end of the
    /// commit.
    async fn write(
        &self,
        id: ObjectId,
        (precondition, answer): (Precondition, FallbackAnswer),
        mutation: Mutation,
        permit: Permit,
    ) -> Result<SwapReply> {
        let context = self.context();
        // Before the permit: a slow fallback must not hold the places of other writes.
        let answer = context.answer(&id, precondition, answer).await?;
        let write = context.admission.write().await;
        let permit = permit.and(write.map_err(|error| error.with_id(&id))?);
        let mut swap = self.swap(id.clone(), precondition, mutation);
        swap.operation = operation_of(swap.operation, answer);
        // The oldest conflict is released before the winner is answered: it is the next to write.
        let release_first = |reply: ReplyCallback<SwapReply>| -> ReplyCallback<SwapReply> {
            let context = Arc::clone(context);
            let id = id.clone();
            Box::new(move |outcome| {
                if outcome.is_ok() {
                    context
                        .conflict_queue
                        .committed(&id, context.env.monotonic());
                }
                reply(outcome);
            })
        };
        let written = context
            .compare_and_write(swap, answer, &permit, release_first)
            .await;
        // A conflict that waits for its turn takes no place of other writes.
        drop(permit);
        if let Err(error) = &written
            && may_retry(error, precondition)
        {
            context.conflict_queue.wait(&context.env, &id).await;
        }
        written
    }

    /// Extends the deadline of an object that was just read, if its idle time requires it.
    ///
    /// Runs in the background. A refresh over the limits is skipped, and the next read makes up for
    /// it.
    pub fn touch(&self, id: &ObjectId, seen: OperationId) {
        let context = self.context();
        let most = context.limits.writes_at_once.div_ceil(REFRESHES_SHARE);
        let Some(refresh) = context.idle_refreshes.begin(id, most) else {
            return;
        };
        // Without waiting: reads never take a place from writes.
        let Some(permit) = context.admission.try_write() else {
            return;
        };
        // Checked under the permit: `close` first stops the engine, then waits for all permits.
        if !context.health.is_running() {
            return;
        }
        let swap = self.swap(id.clone(), Precondition::None, Mutation::Touch { seen });
        let context = Arc::clone(context);
        context.env.clone().spawn(async move {
            let _refresh = refresh;
            match context
                .compare_and_write(swap, FallbackAnswer::NotAsked, &permit, |reply| reply)
                .await
            {
                Ok(_) => drop(context.counters.touches.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    tracing::debug!(%error, "extending the deadline of a read object failed");
                }
            }
        });
    }
}

/// Returns whether a caller that receives this error may read the object and write again. A loser
/// under `Absent` has no reason to.
fn may_retry(error: &Error, precondition: Precondition) -> bool {
    let has_read = match precondition {
        Precondition::Version(_) | Precondition::Etag(_) => true,
        Precondition::None | Precondition::Absent | Precondition::InFallback => false,
    };
    has_read && matches!(error.kind(), ErrorKind::Conflict { .. })
}

/// Returns the operation id of a write with this answer. That of a move is marked.
fn operation_of(operation: OperationId, answer: FallbackAnswer) -> OperationId {
    match answer {
        FallbackAnswer::Moved(_) => operation.of_move(),
        FallbackAnswer::NotAsked | FallbackAnswer::Missing | FallbackAnswer::Present(_) => {
            operation
        }
    }
}
