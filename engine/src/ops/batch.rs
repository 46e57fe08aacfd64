//! [`Engine::batch`], which runs many independent operations, and [`Engine::atomic`], which commits
//! several writes atomically.

use std::collections::BTreeMap;

use bytes::Bytes;
use cenotaph_actors::{NamespacePermit, WriteReply};
use cenotaph_storage::decide::{Deleted, Mutation, Precondition, PutResult};
use cenotaph_storage::records::Attributes;
use cenotaph_storage::{Error, ErrorKind, Namespace, ObjectId, ObjectMeta, Result};
use futures::{Stream, StreamExt};

use crate::engine::{Engine, IntoObjectId};
use crate::observe::{observe, operation_span};
use crate::ops::get::{Get, Object};
use crate::ops::put::Put;
use crate::ops::setters::{attributes_setters, precondition_setters};

/// Concurrent operations of a batch. Concurrent operations share syncs of the index.
const BATCH_AT_ONCE: usize = 256;

/// A put or a delete of a batch. The payload is in memory and within the inline limit
/// ([`Config::inline_bytes_max`](crate::Config::inline_bytes_max)).
///
/// ```
/// use cenotaph::BatchWrite;
///
/// let create = BatchWrite::put("accounts/7", "balance=10").if_absent().content_type("text/plain");
/// let remove = BatchWrite::delete("pending/7").if_version(3);
/// # drop((create, remove));
/// ```
#[derive(Clone, Debug)]
#[must_use = "a write does nothing until its batch is run"]
pub struct BatchWrite {
    id: Result<ObjectId>,
    payload: Option<Bytes>,
    attributes: Attributes,
    precondition: Precondition,
}

impl BatchWrite {
    /// Creates a put of this payload.
    pub fn put(id: impl IntoObjectId, payload: impl Into<Bytes>) -> Self {
        Self::new(id.into_object_id(), Some(payload.into()))
    }

    /// Creates a delete.
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

    /// Validates the write as far as possible before it reaches a shard.
    fn check(self, engine: &Engine) -> Result<(ObjectId, Mutation, Precondition)> {
        let config = engine.config();
        let payload_max = usize::try_from(config.limits.payload_bytes_max).unwrap_or(usize::MAX);
        let bytes = self.payload_bytes();
        let bytes_max = config.inline_bytes_max.min(payload_max);
        let id = self.id?;
        if bytes > bytes_max {
            let message = format!(
                "payload over the limit of a batch, use put: bytes={bytes} bytes_max={bytes_max}"
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

/// An operation of a batch.
#[derive(Clone, Debug)]
#[must_use = "an operation does nothing until its batch is run"]
pub enum Operation {
    /// A put or a delete.
    BatchWrite(BatchWrite),
    /// A get of a whole object.
    Get(Result<ObjectId>),
    /// A head.
    Head(Result<ObjectId>),
}

impl Operation {
    /// Creates a get of a whole object.
    pub fn get(id: impl IntoObjectId) -> Self {
        Self::Get(id.into_object_id())
    }

    /// Creates a head.
    pub fn head(id: impl IntoObjectId) -> Self {
        Self::Head(id.into_object_id())
    }
}

impl From<BatchWrite> for Operation {
    fn from(write: BatchWrite) -> Self {
        Self::BatchWrite(write)
    }
}

/// Result of an operation of a batch.
#[derive(Debug)]
pub enum Reply {
    /// Result of a put.
    Written(PutResult),
    /// Result of a delete.
    Deleted(Deleted),
    /// Result of a get.
    Object(Option<Object>),
    /// Result of a head.
    Head(Option<ObjectMeta>),
}

impl Engine {
    /// Runs the operations of a stream, up to 256 concurrently, and yields the result of each with
    /// its position in the batch.
    ///
    /// A batch has at most [`Limits::batch_operations_max`](crate::Limits::batch_operations_max)
    /// operations, 1,000 by default. The results are yielded in the order in which the operations
    /// end. `operations` is polled only as fast as the caller takes results. Writes are bulk work,
    /// as by [`Put::bulk`](crate::Put::bulk).
    ///
    /// The operations are independent: a batch guarantees neither an order nor atomicity. It saves
    /// round trips and shares syncs. For atomic writes, see [`atomic`](Self::atomic).
    ///
    /// # Errors
    /// Each operation has its own result, with the errors of that operation. In addition,
    /// [`Invalid`](ErrorKind::Invalid) is the result of
    /// - a put whose payload is over the inline limit, and
    /// - the first operation over the maximum number; the batch then takes no further operations.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use cenotaph::{Operation, BatchWrite};
    /// use futures::StreamExt;
    ///
    /// let writes = (0..100).map(|n| BatchWrite::put(format!("n/{n}"), n.to_string()));
    /// let mut answers = engine.batch(futures::stream::iter(writes));
    /// while let Some((place, outcome)) = answers.next().await {
    ///     outcome.unwrap_or_else(|error| panic!("operation {place}: {error}"));
    /// }
    /// let delete = BatchWrite::delete("n/8").into();
    /// let mixed = vec![Operation::head("n/7"), delete, Operation::get("n/9")];
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
        let engine = self.clone();
        let most = self.config().limits.batch_operations_max;
        // An operation over the limit is taken to report the error, and the rest is never polled.
        let answers = operations
            .map(Into::into)
            .take(most.saturating_add(1))
            .enumerate()
            .map(move |(place, operation)| {
                let engine = engine.clone();
                async move {
                    if place >= most {
                        let message = format!("too many operations in a batch: max={most}");
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
            Operation::BatchWrite(write) => {
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
                        // Bulk, like the puts of the batch. `Delete` itself has no bulk mode.
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

    /// Commits all writes or none of them, in a single batch of the index, also across shards. When
    /// the call returns, all writes are durable and visible.
    ///
    /// All preconditions are checked first, at the same point in time. If any of them does not
    /// hold, nothing is written. After a crash, either all writes are present or none. A listing,
    /// like any other read that looks at the index once, sees either all writes or none; two
    /// consecutive gets are two separate reads. The results are in the order of the writes.
    ///
    /// The batch has at most [`Limits::batch_operations_max`](crate::Limits::batch_operations_max)
    /// writes with at most [`Limits::atomic_bytes_max`](crate::Limits::atomic_bytes_max) of payload
    /// in total, and names each object at most once. The shards involved wait for each other
    /// briefly. An atomic batch therefore costs more than the same number of separate puts, and
    /// does not suit bulk work.
    ///
    /// # Errors
    /// - [`Conflict`](ErrorKind::Conflict): a precondition does not hold. [`Error::id`] is the
    ///   object that failed it.
    /// - [`Invalid`](ErrorKind::Invalid): the batch is over a limit, or names an object twice.
    /// - Otherwise as [`put`](Self::put).
    ///
    /// After an error other than [`Indeterminate`](ErrorKind::Indeterminate), nothing was
    /// committed.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use cenotaph::{ErrorKind, BatchWrite};
    ///
    /// let accounts = [BatchWrite::put("from", "90").if_absent(), BatchWrite::put("to", "10").if_absent()];
    /// engine.atomic(accounts).await?;
    /// let stale = [BatchWrite::put("from", "80").if_version(1), BatchWrite::put("to", "20").if_version(7)];
    /// let error = engine.atomic(stale).await.unwrap_err();
    /// assert!(matches!(error.kind(), ErrorKind::Conflict { .. }));
    /// assert_eq!(error.id().unwrap().key(), "to");
    /// let from = engine.get("from").await?.unwrap();
    /// assert_eq!(from.bytes().await?, "90", "nothing was written");
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn atomic(
        &self,
        writes: impl IntoIterator<Item = BatchWrite>,
    ) -> Result<Vec<WriteReply>> {
        // Taking a write over the limit is enough to detect the excess, and bounds the memory for
        // an endless iterator.
        let most = self.config().limits.batch_operations_max.saturating_add(1);
        let writes: Vec<BatchWrite> = writes.into_iter().take(most).collect();
        observe(
            self,
            "atomic",
            operation_span!("atomic", writes = writes.len()),
            self.run_atomic(writes),
        )
        .await
    }

    async fn run_atomic(&self, writes: Vec<BatchWrite>) -> Result<Vec<WriteReply>> {
        let limits = &self.config().limits;
        let bytes: usize = writes.iter().map(BatchWrite::payload_bytes).sum();
        if writes.len() > limits.batch_operations_max || bytes > limits.atomic_bytes_max {
            let writes_max = limits.batch_operations_max;
            let bytes_max = limits.atomic_bytes_max;
            let message =
                format!("atomic batch too large: writes_max={writes_max} bytes_max={bytes_max}");
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

    /// Begins an operation in several namespaces, with the payload bytes of each. The operation
    /// counts once in each namespace. If a namespace refuses the operation, the other namespaces
    /// are not charged.
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
                    // Namespaces admitted so far get their operation and bytes back.
                    admitted.into_iter().for_each(NamespacePermit::give_back);
                    return Err((namespace, error));
                }
            }
        }
        Ok(admitted)
    }
}

/// Ends an operation in several namespaces with its outcome.
pub(crate) fn end_together<T>(permits: Vec<NamespacePermit>, mut outcome: Result<T>) -> Result<T> {
    for permit in permits {
        outcome = permit.end(outcome);
    }
    outcome
}
