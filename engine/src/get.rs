//! [`Get`] and [`Object`]: how an object is read.

use std::future::IntoFuture;
use std::ops::Range;

use bytes::Bytes;
use cenotaph_actors::NamespacePermit;
use cenotaph_storage::rows::Metadata;
use cenotaph_storage::{ByteRange, Current, Etag, Head, ObjectId, OpenObject, Result, Version};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::engine::{Engine, IntoObjectId};
use crate::namespaces::Paced;
use crate::observe::{observe, observed, operation_span};

impl Engine {
    /// Reads an object, or a range of it; none if it is absent.
    ///
    /// # Errors
    /// - [`Invalid`](ErrorKind::Invalid): the id or the range break a rule.
    /// - [`RangeNotSatisfiable`](ErrorKind::RangeNotSatisfiable): the range begins beyond the
    ///   object; tells its size.
    /// - [`Corrupt`](ErrorKind::Corrupt): stored bytes do not match their checksum, or the object's
    ///   blob is not in the blob tier (reason [`MissingBlob`](crate::Reason::MissingBlob)).
    ///   [`Config::missing_blob`] makes the latter read as absent.
    /// - [`Overloaded`](ErrorKind::Overloaded): a limit of the namespace is reached, [too many
    ///   objects](crate::ReadLimits::open_at_once) are open, or there was [no
    ///   room](crate::ReadLimits::bytes_in_flight) for its bytes in time. The object's stream, too,
    ///   may end so.
    /// - [`Disabled`](ErrorKind::Disabled): the namespace is switched off.
    /// - [`Unavailable`](ErrorKind::Unavailable): a tier failed.
    /// - [`Closed`](ErrorKind::Closed).
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

    /// What is known about an object without its bytes; none if it is absent. Never touches the
    /// blob tier.
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
    pub async fn head(&self, id: impl IntoObjectId) -> Result<Option<Head>> {
        let id = id.into_object_id();
        let span = operation_span!(
            "head",
            object = id.as_ref().ok().map(tracing::field::display)
        );
        let head = async {
            let id = id?;
            self.check_open("head")?;
            let _permit = self.namespaces().begin_on(&id, "head")?;
            self.reads().head(&id).await
        };
        observe(self, "head", span, head).await
    }
}

/// A get in preparation: `.await` it to run it. See [`Engine::get`].
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

    /// Only these bytes: `a..b`, `a..=b`, `a..`, `..b` or [`ByteRange::Last`]. An end beyond the
    /// object is clamped; a beginning beyond it is
    /// [`RangeNotSatisfiable`](crate::ErrorKind::RangeNotSatisfiable), which tells the size.
    pub fn range(mut self, range: impl Into<ByteRange>) -> Self {
        self.range = range.into();
        self
    }

    async fn run(self) -> Result<Option<Object>> {
        let id = self.id?;
        self.engine.check_open("get")?;
        let permit = self.engine.namespaces().begin_on(&id, "get")?;
        let Some(open) = self.engine.open_object(&id, self.range).await?.object() else {
            return Ok(None);
        };
        let object = Object::new(open, permit)?;
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

/// An object that is being read: what is known about it, and its bytes as they come.
///
/// It sees the version that it found to its end, whatever is overwritten or deleted meanwhile (I8):
/// until it is dropped or read to its end it keeps that version's blobs from being deleted.
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
    /// What is read within the limits of its namespace.
    pub(crate) fn new(open: OpenObject, permit: NamespacePermit) -> Result<Self> {
        Paced::new(open, permit).map(Self)
    }

    /// Whether all of its bytes are here already.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.0.is_inline()
    }

    pub(crate) fn current(&self) -> Current {
        Current {
            version: self.version(),
            etag: self.etag(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &ObjectId {
        &self.0.head().id
    }

    /// Which committed write of the object this is.
    pub fn version(&self) -> Version {
        self.0.head().version
    }

    /// The etag of that write.
    pub fn etag(&self) -> Etag {
        self.0.head().etag
    }

    /// Everything else that is known about it.
    pub fn metadata(&self) -> &Metadata {
        &self.0.head().metadata
    }

    /// Which bytes of the object come, after clamping.
    pub fn range(&self) -> Range<u64> {
        self.0.range()
    }

    /// The next bytes; none at the end. Waits its turn if the namespace has a limit of bytes a
    /// second. Nothing is lost with a future that is dropped meanwhile.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if they do not match their checksum or are gone,
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the blob tier can't give them,
    /// [`Overloaded`](crate::ErrorKind::Overloaded) if there was no room for them in time.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.0.next().await
    }

    /// All bytes as a stream of chunks. Read-ahead is bounded; nothing is read that nobody polls
    /// for.
    pub fn stream(self) -> BoxStream<'static, Result<Bytes>> {
        self.0.into_stream()
    }

    /// All bytes in one piece: as much memory as there are.
    ///
    /// # Errors
    /// As [`chunk`](Self::chunk).
    pub async fn bytes(self) -> Result<Bytes> {
        self.0.bytes().await
    }
}
