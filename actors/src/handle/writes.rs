//! The writes of single objects: what may be asked of [`Tiered`], and what the caller hears.
//!
//! Guards I10 at this border: an answer is the commit's own; no answer means that nothing was
//! committed. Deliberately not here: writes of several objects at once (`atomic.rs`), and how the
//! engine's actors start and stop (`tiered.rs`).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cenotaph_storage::decide::{Deleted, Mutation, Precondition, Swap, Written};
use cenotaph_storage::rows::{Amendment, Attributes, Extension};
use cenotaph_storage::{Error, ErrorKind, ObjectId, OperationId, Result};
use tokio::sync::oneshot;

use crate::admission::permits::Permit;
use crate::handle::Tiered;
use crate::runtime::messages::{Handover, Job, Purpose, Source, UploadsMessage};
use crate::runtime::reply::Caller;

/// Reads that extend a deadline take this part of the writes at once, and no more.
const TOUCHES_SHARE: usize = 8;

/// A write, but for its payload.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The object.
    pub id: ObjectId,
    /// What the caller states about it.
    pub attributes: Attributes,
    /// How it must stand.
    pub precondition: Precondition,
}

impl Tiered {
    /// Leave to buffer this much of a payload.
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

    /// Waits for the turn of one operation of bulk work, which holds the permit until it ends.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](crate::Limits::budget_wait).
    pub async fn bulk_turn(&self) -> Result<Permit> {
        self.context().admission.bulk().await
    }

    /// A caller's stream, held to [`source_idle`](crate::Limits::source_idle).
    pub fn watched(&self, source: Source) -> Source {
        source.watched(&self.context().env, self.context().limits.source_idle)
    }

    /// A swap of a fresh operation.
    pub fn swap(&self, id: ObjectId, precondition: Precondition, mutation: Mutation) -> Swap {
        Swap {
            id,
            operation: self.context().env.operation_id(),
            precondition,
            mutation,
        }
    }

    /// Puts a payload that stays in the index.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the precondition does not hold; [`ErrorKind::Overloaded`],
    /// [`ErrorKind::Unavailable`], [`ErrorKind::Closed`]: nothing was committed.
    /// [`ErrorKind::Indeterminate`]: the index failed while it committed.
    pub async fn put_inline(
        &self,
        intent: Intent,
        payload: Bytes,
        permit: Permit,
    ) -> Result<Written> {
        let Intent {
            id,
            attributes,
            precondition,
        } = intent;
        self.context().health.check("put")?;
        self.make_room(payload.len() as u64)
            .await
            .map_err(|error| error.with_id(&id))?;
        let permit = permit.and(
            self.context()
                .admission
                .write()
                .await
                .map_err(|error| error.with_id(&id))?,
        );
        let swap = self.swap(
            id.clone(),
            precondition,
            Mutation::Inline {
                payload,
                attributes,
            },
        );
        let reply = self
            .context()
            .compare_and_write(swap, &permit, |reply| reply)
            .await?;
        Ok(reply.written())
    }

    /// Puts a payload that goes to the blob tier. `peeked` is the leave for what of it is buffered
    /// already; bulk work waits for its turn. Dropping the future before all of the payload has
    /// been written there cancels the put; later the put goes on without its caller.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline); [`ErrorKind::Overloaded`] if there are too many
    /// uploads, [`ErrorKind::Source`] if the stream fails, [`ErrorKind::Invalid`] if the payload is
    /// too long.
    pub async fn put_stream(
        &self,
        intent: Intent,
        source: Source,
        peeked: Permit,
        is_bulk: bool,
    ) -> Result<Written> {
        let Intent {
            id,
            attributes,
            precondition,
        } = intent;
        self.context().health.check("put")?;
        self.context()
            .blobs
            .check_root()
            .map_err(|error| error.with_id(&id))?;
        self.make_blob_room(source.bytes)
            .await
            .map_err(|error| error.with_id(&id))?;
        let permit = self
            .context()
            .admission
            .upload(is_bulk)
            .await
            .map_err(|error| error.with_id(&id))?;
        let (caller, answer) = Caller::new();
        let (_present, caller_gone) = oneshot::channel();
        let operation = self.context().env.operation_id();
        let purpose = Purpose::Put {
            attributes,
            precondition,
            caller,
        };
        let job = Job {
            id: id.clone(),
            operation,
            purpose,
            source,
            caller_gone,
            permit,
            peeked,
            is_bulk,
        };
        self.upload(job, answer)
            .await
            .map_err(|error| error.with_id(&id))
    }

    /// Has an upload done, and gives what its caller hears.
    pub(crate) async fn upload<T>(
        &self,
        job: Job,
        answer: oneshot::Receiver<Result<T>>,
    ) -> Result<T> {
        self.hand_over(Handover::new(job)).await?;
        let died = |_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "put",
                "the upload died; nothing was committed",
            ))
        };
        answer.await.unwrap_or_else(died)
    }

    /// Hands a job to the uploads, again if it gets lost on the way.
    async fn hand_over(&self, job: Handover) -> Result<()> {
        let context = self.context();
        for attempt in 0..=context.limits.deliveries_max {
            let (started, has_started) = oneshot::channel();
            context.routes.uploads.send(UploadsMessage::Start {
                job: job.clone(),
                started,
            });
            if has_started.await.is_ok() || job.is_taken() {
                return Ok(());
            }
            context.health.check_failed("put")?;
            context.back_off(attempt).await;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            "put",
            "the uploads are not there; nothing was committed",
        ))
    }

    /// Deletes an object. Its row is gone when this returns; its blobs follow.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline). A failing blob tier never fails a delete.
    pub async fn delete(&self, id: ObjectId, precondition: Precondition) -> Result<Deleted> {
        self.context().health.check("delete")?;
        let permit = self
            .context()
            .admission
            .write()
            .await
            .map_err(|error| error.with_id(&id))?;
        let swap = self.swap(id.clone(), precondition, Mutation::Delete);
        let reply = self
            .context()
            .compare_and_write(swap, &permit, |reply| reply)
            .await?;
        Ok(reply.deleted())
    }

    /// Changes what was stated about an object, and leaves its bytes where they are. None if there
    /// is no object.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline); [`ErrorKind::Invalid`] if the attributes then break a
    /// limit.
    pub async fn amend(
        &self,
        id: ObjectId,
        precondition: Precondition,
        amendment: Amendment,
    ) -> Result<Option<Written>> {
        self.change("amend", id, precondition, Mutation::Amend(amendment))
            .await
    }

    /// Gives an object another deadline. One that stands already commits nothing, and is answered
    /// with the version that stands. None if there is no object.
    ///
    /// # Errors
    /// As [`put_inline`](Self::put_inline).
    pub async fn extend_expiry(
        &self,
        id: ObjectId,
        precondition: Precondition,
        extension: Extension,
    ) -> Result<Option<Written>> {
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
    ) -> Result<Option<Written>> {
        self.context().health.check(operation)?;
        let permit = self
            .context()
            .admission
            .write()
            .await
            .map_err(|error| error.with_id(&id))?;
        let swap = self.swap(id.clone(), precondition, mutation);
        let reply = self
            .context()
            .compare_and_write(swap, &permit, |reply| reply)
            .await?;
        Ok(reply.amended())
    }

    /// Has the deadline of an object that was just read extended, if its time to idle says so.
    /// Nobody waits for it, and one that there is no room for is left out: the next read makes it
    /// good.
    pub fn touch(&self, id: &ObjectId, seen: OperationId) {
        let context = self.context();
        let most = context.limits.writes_at_once.div_ceil(TOUCHES_SHARE);
        let Some(touch) = context.touches.begin(id, most) else {
            return;
        };
        let Some(permit) = context.admission.try_write() else {
            return;
        };
        if !context.health.is_running() {
            return;
        }
        let swap = self.swap(id.clone(), Precondition::None, Mutation::Touch { seen });
        let context = std::sync::Arc::clone(context);
        context.env.clone().spawn(async move {
            let _touch = touch;
            match context
                .compare_and_write(swap, &permit, |reply| reply)
                .await
            {
                Ok(_) => drop(context.counters.touches.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    tracing::debug!(%error, "a read could not extend its object's deadline");
                }
            }
        });
    }
}
