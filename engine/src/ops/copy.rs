//! [`Engine::copy`] and [`Engine::rename`] with their builders [`CopyRequest`] and [`RenameRequest`].
//!
//! A copy of a large object copies its bytes through the blob tier, so that every blob belongs to
//! exactly one object. A rename moves the row and copies no byte. docs/adr/0008 gives the reasons.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::IntoFuture;

use cenotaph_storage::decide::{self, Precondition, PutResult};
use cenotaph_storage::{ByteRange, Error, ErrorKind, ObjectId, Result, Version};
use futures::future::BoxFuture;

use crate::body::Body;
use crate::engine::{Engine, IntoObjectId};
use crate::observe::{observed, operation_span};
use crate::ops::batch::end_together;
use crate::ops::get::Object;
use crate::ops::put::Put;
use crate::ops::setters::precondition_setters;

/// Builder of a copy. `.await` it to run the copy. See [`Engine::copy`]. The preconditions apply to
/// the target.
#[derive(Debug)]
#[must_use = "nothing is copied until it is awaited"]
pub struct CopyRequest {
    engine: Engine,
    from: Result<ObjectId>,
    to: Result<ObjectId>,
    source: Option<Version>,
    precondition: Precondition,
}

impl CopyRequest {
    /// Copies only if the source has this version. Otherwise the copy fails with
    /// [`Conflict`](crate::ErrorKind::Conflict).
    pub fn if_source_version(mut self, version: impl Into<Version>) -> Self {
        self.source = Some(version.into());
        self
    }

    precondition_setters!();

    async fn run(self) -> Result<Option<PutResult>> {
        let from = self.from?;
        let to = self.to?;
        self.engine.check_open("copy")?;
        // Checked before the read: on a read-only engine, a copy of an absent object must fail as
        // well.
        self.engine.check_writable("copy")?;
        let permit = self.engine.namespaces().begin_on(&from, "copy")?;
        let open = self
            .engine
            .open_object(&from, ByteRange::Full)
            .await?
            .object();
        let object = open.map(|open| Object::new(open, permit)).transpose()?;
        let current = object.as_ref().and_then(Object::current);
        if self
            .source
            .is_some_and(|version| current.map(|current| current.version) != Some(version))
        {
            let message = "the source does not have the required version; nothing was committed";
            return Err(Error::new(ErrorKind::Conflict { current }, "copy", message).with_id(&from));
        }
        let Some(object) = object else {
            return Ok(None);
        };
        let metadata = object.metadata();
        let attributes = metadata.attributes.clone();
        let size = metadata.size;
        // Inline bytes are already in memory. A large object streams, and is never in memory whole.
        let body = match object.is_in_memory() {
            true => Body::from(object.bytes().await?),
            false => Body::of_read(object.stream(), size),
        };
        let put = Put::new(self.engine, Ok(to), body)
            .attributes(attributes)
            .precondition(self.precondition);
        put.await.map(Some).map_err(read_error_of)
    }
}

/// Returns the read error behind a failed put of a copy. The put reports its stream as failed
/// (`Source`), but here the stream is a read of this engine, and its error is the cause.
pub(crate) fn read_error_of(error: Error) -> Error {
    let read = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Error>())
        .cloned();
    match (error.kind(), read) {
        (ErrorKind::Source, Some(read)) => read,
        _ => error,
    }
}

impl IntoFuture for CopyRequest {
    type Output = Result<Option<PutResult>>;
    type IntoFuture = BoxFuture<'static, Result<Option<PutResult>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "copy",
            object = self.from.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "copy", span, self.run())
    }
}

/// Builder of a rename. `.await` it to run the rename. See [`Engine::rename`]. The preconditions
/// apply to the target.
#[derive(Debug)]
#[must_use = "nothing is renamed until it is awaited"]
pub struct RenameRequest {
    engine: Engine,
    from: Result<ObjectId>,
    to: Result<ObjectId>,
    source: Precondition,
    precondition: Precondition,
}

impl RenameRequest {
    /// Renames only if the source has this version. Otherwise the rename fails with
    /// [`Conflict`](crate::ErrorKind::Conflict).
    pub fn if_source_version(mut self, version: impl Into<Version>) -> Self {
        self.source = Precondition::Version(version.into());
        self
    }

    precondition_setters!();

    async fn run(self) -> Result<Option<PutResult>> {
        let from = self.from?;
        let to = self.to?;
        let operation = self.engine.env().operation_id();
        // Zero bytes: a rename moves no payload. A shared namespace counts the rename once.
        let namespaces = BTreeMap::from([(from.namespace(), 0), (to.namespace(), 0)]);
        let within = self.engine.admit_together("rename", namespaces);
        let within = within.map_err(|(namespace, error)| {
            error.with_id(if namespace == from.namespace() {
                &from
            } else {
                &to
            })
        })?;
        let rename = decide::Rename {
            from,
            to,
            operation,
            source: self.source,
            target: self.precondition,
        };
        end_together(within, self.engine.tiered().rename(rename).await)
    }
}

impl IntoFuture for RenameRequest {
    type Output = Result<Option<PutResult>>;
    type IntoFuture = BoxFuture<'static, Result<Option<PutResult>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "rename",
            object = self.from.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "rename", span, self.run())
    }
}

impl Engine {
    /// Copies the object `from`, with its attributes, to `to`. Replaces `to` if it exists. Returns
    /// `None` if `from` is absent.
    ///
    /// A time to live or time to idle starts anew with the copy. A deadline that was set with
    /// [`extend_expiry`](Self::extend_expiry) is not copied. The copy sees a single version of
    /// `from`. A small object costs a single commit. A large object is copied through the blob
    /// tier, at the cost of a put of its bytes. Within the limits of a namespace, a copy counts as
    /// a get and a put.
    ///
    /// # Errors
    /// As [`get`](Self::get) for the source and as [`put`](Self::put) for the target.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("draft", vec![7u8; 3_000_000]).content_type("text/plain").await?;
    /// engine.copy("draft", "backup").if_absent().await?.expect("it was there");
    /// let attributes = engine.head("backup").await?.unwrap().metadata.attributes;
    /// assert_eq!(attributes.content_type.as_deref(), Some("text/plain"));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn copy(&self, from: impl IntoObjectId, to: impl IntoObjectId) -> CopyRequest {
        CopyRequest {
            engine: self.clone(),
            from: from.into_object_id(),
            to: to.into_object_id(),
            source: None,
            precondition: Precondition::None,
        }
    }

    /// Renames the object `from`, with its attributes and its deadline, to `to` in a single commit.
    /// Replaces `to` if it exists. Returns `None` if `from` is absent.
    ///
    /// The rename is atomic: a reader sees the object under exactly one of the two names. The cost
    /// is independent of the size, because no byte is copied. The time of creation of the renamed
    /// object is the time of the rename, or that of the object that it replaces.
    ///
    /// # Errors
    /// - [`Invalid`](ErrorKind::Invalid): both names are equal.
    /// - [`Conflict`](ErrorKind::Conflict): a precondition does not hold. [`Error::id`] is the
    ///   object that failed it.
    /// - Otherwise as [`put`](Self::put).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("uploads/17", vec![7u8; 3_000_000]).await?;
    /// engine.rename("uploads/17", "videos/cat").await?.expect("it was there");
    /// assert!(engine.head("uploads/17").await?.is_none());
    /// assert_eq!(engine.head("videos/cat").await?.unwrap().metadata.size, 3_000_000);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn rename(&self, from: impl IntoObjectId, to: impl IntoObjectId) -> RenameRequest {
        RenameRequest {
            engine: self.clone(),
            from: from.into_object_id(),
            to: to.into_object_id(),
            source: Precondition::None,
            precondition: Precondition::None,
        }
    }
}
