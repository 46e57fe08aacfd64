//! [`Engine::get`] with its builder [`Get`] and its result [`Object`], and [`Engine::head`].

use std::future::IntoFuture;
use std::ops::Range;

use bytes::Bytes;
use cenotaph_actors::NamespacePermit;
use cenotaph_storage::records::Metadata;
use cenotaph_storage::{
    ByteRange, Etag, ObjectId, ObjectMeta, ObjectVersion, OpenObject, Result, Version,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::engine::{Engine, IntoObjectId};
use crate::namespaces::Paced;
use crate::observe::{observe, observed, operation_span};

impl Engine {
    /// Reads an object, or a range of it. Returns `None` if the object is absent.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): the id or the range break a rule.
    /// - [`RangeNotSatisfiable`](crate::ErrorKind::RangeNotSatisfiable): the range begins beyond
    ///   the object. The error contains the size of the object.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): stored bytes do not match their checksum, or the
    ///   object's blob is not in the blob tier (reason
    ///   [`MissingBlob`](crate::Reason::MissingBlob)). With
    ///   [`Config::missing_blob`](crate::Config::missing_blob) set accordingly, an object with a
    ///   missing blob reads as absent instead.
    /// - [`Overloaded`](crate::ErrorKind::Overloaded): a limit of the namespace is reached, [too
    ///   many objects](crate::ReadLimits::open_at_once) are open, or the [memory
    ///   budget](crate::ReadLimits::bytes_in_flight) had no room for the bytes in time. The stream
    ///   of the object may end with this error too.
    /// - [`Disabled`](crate::ErrorKind::Disabled): the namespace is switched off.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): a tier failed.
    /// - [`Closed`](crate::ErrorKind::Closed).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("alphabet", "abcdefghijklmnopqrstuvwxyz").await?;
    /// let some = engine.get("alphabet").range(2..5).await?.expect("present");
    /// assert_eq!(some.bytes().await?, "cde");
    /// let error = engine.get("alphabet").range(26..).await.unwrap_err();
    /// assert_eq!(error.kind(), cenotaph::ErrorKind::RangeNotSatisfiable { total: 26 });
    /// assert!(engine.get("no such object").await?.is_none());
    /// # engine.close().await
    /// # }
    /// ```
    pub fn get(&self, id: impl IntoObjectId) -> Get {
        Get::new(self.clone(), id.into_object_id())
    }

    /// Returns the version, etag and metadata of an object without its bytes, or `None` if the
    /// object is absent. The call never reads the blob tier.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("a", "four").await?;
    /// assert_eq!(engine.head("a").await?.unwrap().metadata.size, 4);
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn head(&self, id: impl IntoObjectId) -> Result<Option<ObjectMeta>> {
        let id = id.into_object_id();
        let span = operation_span!(
            "head",
            object = id.as_ref().ok().map(tracing::field::display)
        );
        let head = async {
            let id = id?;
            self.check_open("head")?;
            // The permit counts the head among the operations at once of its namespace.
            let _permit = self.namespaces().begin_on(&id, "head")?;
            self.reads().head(&id).await
        };
        observe(self, "head", span, head).await
    }

    /// Extends the deadline of an object that was read, if its time to idle requires that. The read
    /// does not wait for the extension.
    pub(crate) fn was_read(&self, object: &Object) {
        // An object of the fallback has no row whose deadline could be extended.
        let Some(etag) = object.etag() else {
            return;
        };
        let metadata = object.metadata();
        let policy = metadata.attributes.expiration;
        if policy
            .extended_by_read(metadata.expires_at, self.env().steady_now())
            .is_some()
        {
            // The operation id names the write that was read. A write in between is not refreshed.
            self.tiered().touch(object.id(), etag.operation());
        }
    }
}

/// Builder of a get. `.await` it to run the get. See [`Engine::get`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// use cenotaph::ByteRange;
///
/// engine.put("log", "first\nsecond\nlast\n").await?;
/// let tail = engine.get("log").range(ByteRange::Last(5)).await?.expect("present");
/// assert_eq!(tail.range(), 13..18);
/// assert_eq!(tail.bytes().await?, "last\n");
/// # engine.close().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a get does nothing until it is awaited"]
pub struct Get {
    engine: Engine,
    id: Result<ObjectId>,
    range: ByteRange,
}

impl Get {
    pub(crate) fn new(engine: Engine, id: Result<ObjectId>) -> Self {
        Self {
            engine,
            id,
            range: ByteRange::Full,
        }
    }

    /// Restricts the get to a range of bytes: `a..b`, `a..=b`, `a..`, `..b` or [`ByteRange::Last`].
    ///
    /// An end beyond the object is clamped. A start beyond the object is the error
    /// [`RangeNotSatisfiable`](crate::ErrorKind::RangeNotSatisfiable), which contains the size.
    pub fn range(mut self, range: impl Into<ByteRange>) -> Self {
        self.range = range.into();
        self
    }

    async fn run(self) -> Result<Option<Object>> {
        let id = self.id?;
        // First, so that a closed engine is not reported as a limit of the namespace.
        self.engine.check_open("get")?;
        let permit = self.engine.namespaces().begin_on(&id, "get")?;
        let Some(open) = self.engine.open_object(&id, self.range).await?.object() else {
            return Ok(None);
        };
        let object = Object::new(open, permit)?;
        // After the check of the limits: a refused read extends no deadline.
        self.engine.was_read(&object);
        Ok(Some(object))
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Object>>;
    type IntoFuture = BoxFuture<'static, Result<Option<Object>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "get",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "get", span, self.run())
    }
}

/// An object that is open for reading: its metadata, and its bytes as a stream.
///
/// The reader sees one version from beginning to end, even if the object is overwritten or deleted
/// meanwhile (I8). The blobs of that version are not deleted until the `Object` is dropped or read
/// to its end.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// engine.put("big", vec![7u8; 3_000_000]).await?;
/// let mut object = engine.get("big").await?.expect("present");
/// engine.delete("big").await?;
/// let mut bytes = 0;
/// while let Some(chunk) = object.chunk().await? {
///     bytes += chunk.len();
/// }
/// assert_eq!(bytes, 3_000_000);
/// # engine.close().await
/// # }
/// ```
#[derive(Debug)]
pub struct Object(Paced);

impl Object {
    /// Wraps an open object whose bytes are read within the limits of its namespace.
    pub(crate) fn new(open: OpenObject, permit: NamespacePermit) -> Result<Self> {
        Paced::new(open, permit).map(Self)
    }

    /// Returns `true` if all bytes of the object are already in memory.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.0.is_inline()
    }

    pub(crate) fn current(&self) -> Option<ObjectVersion> {
        self.0.head().current()
    }

    /// Returns the id of the object.
    pub fn id(&self) -> &ObjectId {
        &self.0.head().id
    }

    /// Returns the version of the object, which counts its committed writes. `None` if only the
    /// [fallback](crate::Builder::fallback) has the object.
    pub fn version(&self) -> Option<Version> {
        self.0.head().version
    }

    /// Returns the etag of the write that created this version. `None` if only the
    /// [fallback](crate::Builder::fallback) has the object.
    pub fn etag(&self) -> Option<Etag> {
        self.0.head().etag
    }

    /// Returns the metadata: size, times, attributes.
    pub fn metadata(&self) -> &Metadata {
        &self.0.head().metadata
    }

    /// Returns the byte range of the object that this read delivers, after clamping.
    pub fn range(&self) -> Range<u64> {
        self.0.range()
    }

    /// Returns the next chunk of bytes, or `None` at the end.
    ///
    /// The call waits if the namespace has a limit of bytes per second. Dropping the future loses
    /// no bytes; the next call returns the same chunk.
    ///
    /// # Errors
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): the bytes do not match their checksum, or are
    ///   missing.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): the blob tier can't deliver the bytes.
    /// - [`Overloaded`](crate::ErrorKind::Overloaded): the memory budget had no room for the bytes
    ///   in time.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.0.next().await
    }

    /// Returns all bytes as a stream of chunks. Read-ahead is bounded, and the stream reads nothing
    /// unless it is polled.
    pub fn stream(self) -> BoxStream<'static, Result<Bytes>> {
        self.0.into_stream()
    }

    /// Returns all bytes in a single buffer, which needs as much memory as the range is long.
    ///
    /// # Errors
    /// As [`chunk`](Self::chunk).
    pub async fn bytes(self) -> Result<Bytes> {
        self.0.bytes().await
    }
}
