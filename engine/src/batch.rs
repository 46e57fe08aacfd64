//! Batches: many operations in one call ([`Engine::batch`]), and writes that happen all or not at
//! all ([`Engine::atomic`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use cenotaph_actors::{NamespacePermit, WriteReply};
use cenotaph_storage::decide::{Deleted, Mutation, Precondition, Written};
use cenotaph_storage::rows::Attributes;
use cenotaph_storage::{Error, ErrorKind, Head, Namespace, ObjectId, Result};
use futures::{Stream, StreamExt};

use crate::engine::{Engine, IntoObjectId};
use crate::get::{Get, Object};
use crate::observe::{observe, operation_span};
use crate::put::Put;
use crate::setters::{attributes_setters, precondition_setters};

/// Operations of one batch under way at once: they share syncs.
const BATCH_AT_ONCE: usize = 256;

/// A put or a delete as part of a batch. Its payload is at hand, and no longer than what stays in
/// the index.
///
/// ```
/// use cenotaph::Write;
///
/// let create = Write::put("accounts/7", "balance=10").if_absent().content_type("text/plain");
/// let remove = Write::delete("pending/7").if_version(3);
/// # drop((create, remove));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a write does nothing until its batch is run"]
pub struct Write {
    id: Result<ObjectId>,
    payload: Option<Bytes>,
    attributes: Attributes,
    precondition: Precondition,
}

impl Write {
    /// A put of this payload.
    pub fn put(id: impl IntoObjectId, payload: impl Into<Bytes>) -> Self {
        Self::new(id.into_object_id(), Some(payload.into()))
    }

    /// A delete.
    pub fn delete(id: impl IntoObjectId) -> Self {
        Self::new(id.into_object_id(), None)
    }

    fn new(id: Result<ObjectId>, payload: Option<Bytes>) -> Self {
        Self {
            id,
            payload,
            attributes: Attributes::default(),
            precondition: Precondition::None,
        }
    }

    attributes_setters!();
    precondition_setters!();

    fn payload_bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// Checks all that can be checked beforehand.
    fn check(self, engine: &Engine) -> Result<(ObjectId, Mutation, Precondition)> {
        let config = engine.config();
        let payload_max = usize::try_from(config.limits.payload_bytes_max).unwrap_or(usize::MAX);
        let (bytes, most) = (
            self.payload_bytes(),
            config.inline_bytes_max.min(payload_max),
        );
        let id = self.id?;
        if bytes > most {
            let message = format!(
                "a payload of a batch is longer than what stays in the index: bytes={bytes} max={most}"
            );
            return Err(Error::new(ErrorKind::Invalid, "batch", message).with_id(&id));
        }
        self.attributes
            .validate()
            .map_err(|error| error.with_id(&id))?;
        let mutation = match self.payload {
            Some(payload) => Mutation::Inline {
                payload,
                attributes: self.attributes,
            },
            None => Mutation::Delete,
        };
        Ok((id, mutation, self.precondition))
    }
}

/// One operation of a batch.
#[derive(Clone, Debug)]
#[must_use = "an operation does nothing until its batch is run"]
pub enum Operation {
    /// A put or a delete.
    Write(Write),
    /// A get of a whole object.
    Get(Result<ObjectId>),
    /// A head.
    Head(Result<ObjectId>),
}

impl Operation {
    /// A get of a whole object.
    pub fn get(id: impl IntoObjectId) -> Self {
        Self::Get(id.into_object_id())
    }

    /// A head.
    pub fn head(id: impl IntoObjectId) -> Self {
        Self::Head(id.into_object_id())
    }
}

impl From<Write> for Operation {
    fn from(write: Write) -> Self {
        Self::Write(write)
    }
}

/// What one operation of a batch came to.
#[derive(Debug)]
pub enum Reply {
    /// A put.
    Written(Written),
    /// A delete.
    Deleted(Deleted),
    /// A get.
    Object(Option<Object>),
    /// A head.
    Head(Option<Head>),
}

impl Engine {
    /// Runs up to [`Limits::batch_operations_max`](crate::Limits::batch_operations_max) operations,
    /// 1,000 unless configured, as they come from a stream, up to 256 at once. Each is answered by
    /// itself, with its place in the batch, in the order in which they end. Nothing is polled from
    /// `operations` faster than answers are taken.
    ///
    /// What it guarantees is what each operation guarantees by itself: no order among them, and no
    /// atomicity. It saves round trips and shares syncs. See [`atomic`](Self::atomic) for writes
    /// that happen together.
    ///
    /// # Errors
    /// Each operation has its own. [`Invalid`](ErrorKind::Invalid) for a payload that does not stay
    /// in the index, and for the first operation too many, behind which no more are taken from
    /// `operations`.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use cenotaph::{Operation, Write};
    /// use futures::StreamExt;
    ///
    /// let writes = (0..100).map(|n| Write::put(format!("n/{n}"), n.to_string()));
    /// let mut answers = engine.batch(futures::stream::iter(writes));
    /// while let Some((place, outcome)) = answers.next().await {
    ///     outcome.unwrap_or_else(|error| panic!("operation {place}: {error}"));
    /// }
    /// let mixed = vec![Operation::head("n/7"), Write::delete("n/8").into(), Operation::get("n/9")];
    /// assert_eq!(engine.batch(futures::stream::iter(mixed)).count().await, 3);
    /// # drop(answers);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn batch<S>(
        &self,
        operations: S,
    ) -> impl Stream<Item = (usize, Result<Reply>)> + Send + Unpin + use<S>
    where
        S: Stream<Item: Into<Operation>> + Send + 'static,
    {
        let (engine, most) = (self.clone(), self.config().limits.batch_operations_max);
        let answers = operations
            .map(Into::into)
            .take(most.saturating_add(1))
            .enumerate()
            .map(move |(place, operation)| {
                let engine = engine.clone();
                async move {
                    if place >= most {
                        let message = format!("a batch has too many operations: max={most}");
                        return (place, Err(Error::new(ErrorKind::Invalid, "batch", message)));
                    }
                    (place, engine.run_operation(operation).await)
                }
            });
        answers.buffer_unordered(BATCH_AT_ONCE).boxed()
    }

    async fn run_operation(&self, operation: Operation) -> Result<Reply> {
        match operation {
            Operation::Get(id) => Get::new(self.clone(), id).await.map(Reply::Object),
            Operation::Head(id) => self.head(id?).await.map(Reply::Head),
            Operation::Write(write) => {
                let (id, mutation, precondition) = write.check(self)?;
                match mutation {
                    Mutation::Inline {
                        payload,
                        attributes,
                    } => {
                        let put =
                            Put::new(self.clone(), Ok(id), payload.into()).attributes(attributes);
                        put.precondition(precondition)
                            .bulk()
                            .await
                            .map(Reply::Written)
                    }
                    _ => {
                        let _turn = self
                            .tiered()
                            .bulk_turn()
                            .await
                            .map_err(|error| error.with_id(&id))?;
                        self.delete(id)
                            .precondition(precondition)
                            .await
                            .map(Reply::Deleted)
                    }
                }
            }
        }
    }

    /// Commits all of these writes, or none of them, whichever shards their objects belong to: one
    /// batch of the index. All preconditions are looked at first, at one moment, and if one does
    /// not hold nothing is written. When it returns, all of it is durable and visible; a crash
    /// leaves all or nothing; a listing shows all or nothing, as does any other read that looks
    /// once. Two gets one after the other are two looks. The answers are in the order of the
    /// writes.
    ///
    /// At most [`Limits::batch_operations_max`](crate::Limits::batch_operations_max) writes with
    /// [`Limits::atomic_bytes_max`](crate::Limits::atomic_bytes_max) of payload together, each
    /// object once. Shards that are concerned wait for each other for a moment: it costs more than
    /// as many puts by themselves, and is not for bulk.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict), whose [`id`](Error::id) tells which object stands
    /// otherwise; [`Invalid`](ErrorKind::Invalid) over the limits, or if an object occurs twice;
    /// otherwise as [`put`](Self::put). An error other than
    /// [`Indeterminate`](ErrorKind::Indeterminate) committed nothing of it.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use cenotaph::{ErrorKind, Write};
    ///
    /// engine.atomic([Write::put("from", "90").if_absent(), Write::put("to", "10").if_absent()]).await?;
    /// let stale = [Write::put("from", "80").if_version(1), Write::put("to", "20").if_version(7)];
    /// let error = engine.atomic(stale).await.unwrap_err();
    /// assert!(matches!(error.kind(), ErrorKind::Conflict { .. }));
    /// assert_eq!(error.id().unwrap().key(), "to");
    /// assert_eq!(engine.get("from").await?.unwrap().bytes().await?, "90", "nothing of it was written");
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn atomic(&self, writes: impl IntoIterator<Item = Write>) -> Result<Vec<WriteReply>> {
        let most = self.config().limits.batch_operations_max.saturating_add(1);
        let writes: Vec<Write> = writes.into_iter().take(most).collect();
        observe(
            self,
            "atomic",
            operation_span!("atomic", writes = writes.len()),
            self.run_atomic(writes),
        )
        .await
    }

    async fn run_atomic(&self, writes: Vec<Write>) -> Result<Vec<WriteReply>> {
        let limits = &self.config().limits;
        let bytes: usize = writes.iter().map(Write::payload_bytes).sum();
        if writes.len() > limits.batch_operations_max || bytes > limits.atomic_bytes_max {
            let (writes_max, bytes_max) = (limits.batch_operations_max, limits.atomic_bytes_max);
            let message = format!(
                "an atomic batch is too large: writes_max={writes_max} bytes_max={bytes_max}"
            );
            return Err(Error::new(ErrorKind::Invalid, "batch", message));
        }
        let mut bytes_within: BTreeMap<Namespace, u64> = BTreeMap::new();
        let mut swaps = Vec::with_capacity(writes.len());
        for write in writes {
            let payload_bytes = write.payload_bytes() as u64;
            let (id, mutation, precondition) = write.check(self)?;
            *bytes_within.entry(id.namespace()).or_default() += payload_bytes;
            swaps.push(self.tiered().swap(id, precondition, mutation));
        }
        let permit = self.tiered().admit(bytes, false).await?;
        let within = self
            .admit_together("batch", bytes_within)
            .map_err(|(_, error)| error)?;
        end_together(within, self.tiered().write_atomically(swaps, permit).await)
    }

    /// Within the limits of each namespace the operation counts once, with all its bytes there. If
    /// one namespace refuses it, no other is charged.
    pub(crate) fn admit_together(
        &self,
        operation: &'static str,
        bytes: BTreeMap<Namespace, u64>,
    ) -> Result<Vec<NamespacePermit>, (Namespace, Error)> {
        let mut admitted = Vec::with_capacity(bytes.len());
        for (namespace, bytes) in bytes {
            let permit = self
                .namespaces()
                .begin(&namespace, operation)
                .and_then(|permit| permit.charge(bytes));
            match permit {
                Ok(permit) => admitted.push(permit),
                Err(error) => {
                    admitted.into_iter().for_each(NamespacePermit::give_back);
                    return Err((namespace, error));
                }
            }
        }
        Ok(admitted)
    }
}

/// Ends an operation of several namespaces with its outcome.
pub(crate) fn end_together<T>(permits: Vec<NamespacePermit>, mut outcome: Result<T>) -> Result<T> {
    for permit in permits {
        outcome = permit.end(outcome);
    }
    outcome
}
