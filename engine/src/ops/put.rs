//! [`Engine::put`] and its builder [`Put`].

use std::future::IntoFuture;
use std::sync::atomic::Ordering;

use cenotaph_actors::WriteIntent;
use cenotaph_storage::decide::{FallbackAnswer, Precondition, PutResult};
use cenotaph_storage::records::Attributes;
use cenotaph_storage::{Error, ErrorKind, ObjectId, Result};
use futures::future::BoxFuture;

use crate::body::{Body, Peeked};
use crate::engine::{Engine, IntoObjectId};
use crate::observe::{Tier, counted, observed, operation_span};
use crate::ops::setters::{attributes_setters, precondition_setters};

impl Engine {
    /// Writes an object, and creates or replaces it. When the call returns, the write is durable
    /// and visible.
    ///
    /// A payload up to [`Config::inline_bytes_max`](crate::Config::inline_bytes_max) goes into the
    /// index, a longer payload goes to the blob tier. Readers see the old object until they see the
    /// new object; they never see a mixture.
    ///
    /// A small put whose precondition holds always replaces the current object. A large put may be
    /// *superseded*: its result is then
    /// [`WriteOutcome::Superseded`](crate::WriteOutcome::Superseded), which is not an error, and the
    /// put counts as overwritten at the moment it was made. A large put is superseded if, between
    /// its beginning and its commit,
    /// - the tombstone that existed at its beginning was replaced or deleted, or
    /// - another large put created a tombstone where none existed.
    ///
    /// Small puts in between, to an object without a tombstone, do not supersede a large put; the
    /// large put overwrites them.
    ///
    /// Dropping the future cancels a large put while its payload is streaming. After that, the
    /// write may still commit. A small put may commit from its first poll on.
    ///
    /// # Errors
    /// - [`Invalid`](ErrorKind::Invalid): the id or the metadata break a rule, the payload is over
    ///   the limit, or the engine is read-only.
    /// - [`Conflict`](ErrorKind::Conflict): a [precondition](Put::if_absent) does not hold. The
    ///   error contains the current version and etag. The precondition is checked before the first
    ///   byte is uploaded, and again when the write commits.
    /// - [`Corrupt`](ErrorKind::Corrupt): the put has a precondition, and the row can't be read. A
    ///   put without a precondition replaces the row, at a version far above all earlier versions
    ///   of the object.
    /// - [`Overloaded`](ErrorKind::Overloaded): too many writes or bytes are in flight, or a limit
    ///   of the namespace is reached. Nothing was committed. The stream of a large put may have
    ///   been read in part.
    /// - [`Disabled`](ErrorKind::Disabled): the namespace is switched off. Nothing was started.
    /// - [`Source`](ErrorKind::Source): the caller's stream failed, or its length differs from the
    ///   promised length. Nothing was stored.
    /// - [`Unavailable`](ErrorKind::Unavailable): a tier failed, or its disk is full, in which case
    ///   [`Error::reason`] is [`NoSpace`](crate::Reason::NoSpace). Nothing was committed.
    /// - [`Indeterminate`](ErrorKind::Indeterminate): the index failed while it committed. Read the
    ///   object to find out whether the write committed.
    /// - [`Closed`](ErrorKind::Closed).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// let report = vec![0u8; 3_000_000];
    /// let put = engine.put("report.pdf", report);
    /// let first = put.filename("Q3.pdf").custom("team", "finance").await?;
    /// assert!(first.created);
    /// let second = engine.put("report.pdf", "empty quarter").await?;
    /// assert_eq!(second.version.unwrap().get(), 2);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn put(&self, id: impl IntoObjectId, body: impl Into<Body>) -> Put {
        Put::new(self.clone(), id.into_object_id(), body.into())
    }
}

/// Builder of a put. `.await` it to run the put. See [`Engine::put`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// let put = engine.put("cats/tom.jpg", vec![0xff, 0xd8]);
/// let written = put.content_type("image/jpeg").custom("album", "pets").await?;
/// assert_eq!(written.outcome, cenotaph::WriteOutcome::Applied);
/// let head = engine.head("cats/tom.jpg").await?.expect("it was just put");
/// assert_eq!(head.metadata.attributes.custom["album"], "pets");
/// assert_eq!(head.etag, written.etag);
/// # engine.close().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a put does nothing until it is awaited"]
pub struct Put {
    engine: Engine,
    id: Result<ObjectId>,
    body: Body,
    attributes: Attributes,
    precondition: Precondition,
    answer: FallbackAnswer,
    is_bulk: bool,
}

impl Put {
    pub(crate) fn new(engine: Engine, id: Result<ObjectId>, body: Body) -> Self {
        Self {
            engine,
            id,
            body,
            attributes: Attributes::default(),
            precondition: Precondition::None,
            answer: FallbackAnswer::NotAsked,
            is_bulk: false,
        }
    }

    attributes_setters!();
    precondition_setters!();

    /// Marks the put as bulk work, such as a part of an import or a migration.
    ///
    /// Bulk work uses only [a share](crate::Limits::bulk_percent) of the concurrent writes and
    /// bytes, so that single requests find room beside it. A bulk put waits for its turn, at most
    /// [`Limits::budget_wait`](crate::Limits::budget_wait).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use futures::{StreamExt, TryStreamExt};
    ///
    /// let put = |n| engine.put(format!("imported/{n}"), vec![0; 1000]).bulk().into_future();
    /// let puts = (0..100).map(put);
    /// futures::stream::iter(puts).buffer_unordered(16).try_collect::<Vec<_>>().await?;
    /// # engine.close().await
    /// # }
    /// ```
    pub fn bulk(mut self) -> Self {
        self.is_bulk = true;
        self
    }

    /// Sets the answer of the fallback, which is then not asked.
    pub(crate) fn answered(mut self, answer: FallbackAnswer) -> Self {
        self.answer = answer;
        self
    }

    async fn run(self) -> Result<PutResult> {
        let id = self.id?;
        self.attributes
            .validate()
            .map_err(|error| error.with_id(&id))?;
        let tiered = self.engine.tiered();
        let limit = self.engine.config().inline_bytes_max;
        // Bulk work waits for its share before it takes permits, so that it holds none that a
        // single request could use.
        let _turn = if self.is_bulk {
            Some(
                tiered
                    .bulk_turn()
                    .await
                    .map_err(|error| error.with_id(&id))?,
            )
        } else {
            None
        };
        // Admission comes before the stream is read: the bytes that `peek` buffers are reserved.
        let permit = tiered
            .admit(self.body.peek_bytes(limit), self.is_bulk)
            .await
            .map_err(|error| error.with_id(&id))?;
        let within = self.engine.namespaces().begin_on(&id, "put")?;
        let peeked = self
            .body
            .watched(tiered)
            .peek(limit)
            .await
            .map_err(|error| error.with_id(&id))?;
        let intent = WriteIntent {
            id: id.clone(),
            attributes: self.attributes,
            precondition: self.precondition,
            answer: self.answer,
        };
        match peeked {
            Peeked::Inline(payload) => {
                // A stream checks this limit while it is uploaded; an inline payload is checked
                // here.
                let bytes_max = self.engine.config().limits.payload_bytes_max;
                if payload.len() as u64 > bytes_max {
                    let message = format!("the payload is too long: bytes_max={bytes_max}");
                    return within.end(Err(
                        Error::new(ErrorKind::Invalid, "put", message).with_id(&id)
                    ));
                }
                // Charged only now, because the length of a stream is known at its end.
                let within = within
                    .charge(payload.len() as u64)
                    .map_err(|error| error.with_id(&id))?;
                let bytes = payload.len() as u64;
                // A refused put counts too: its bytes were received.
                Tier::Inline.taken(bytes);
                let written = within.end(tiered.put_inline(intent, payload, permit).await)?;
                Tier::Inline.put(bytes);
                Ok(written)
            }
            Peeked::Large(source) => {
                // The stream is slowed down to the rate of its namespace while it is uploaded.
                let (source, bytes) = counted(within.paced(source));
                let written = within.end(
                    tiered
                        .put_stream(intent, source, permit, self.is_bulk)
                        .await,
                )?;
                Tier::Blob.put(bytes.load(Ordering::Relaxed));
                Ok(written)
            }
        }
    }
}

impl IntoFuture for Put {
    type Output = Result<PutResult>;
    type IntoFuture = BoxFuture<'static, Result<PutResult>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "put",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "put", span, self.run())
    }
}
