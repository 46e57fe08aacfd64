//! [`Copy`] and [`Rename`]: one object made of another.
//!
//! A copy copies: through the blob tier if the object is large, so that every blob belongs to one
//! object. A rename moves the row and no byte. docs/adr/0008 tells why.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::IntoFuture;

use cenotaph_storage::swap::{self, Precondition, Written};
use cenotaph_storage::{ByteRange, Error, ErrorKind, ObjectId, Result, Version};
use futures::future::BoxFuture;

use crate::batch::end_together;
use crate::body::Body;
use crate::engine::{Engine, IntoObjectId};
use crate::get::Object;
use crate::observe::{observed, operation_span};
use crate::put::Put;
use crate::setters::precondition_setters;

/// A copy in preparation: `.await` it to run it. See [`Engine::copy`]. Preconditions are demands on
/// the target.
#[derive(Debug)]
#[must_use = "nothing is copied until it is awaited"]
pub struct Copy {
    engine: Engine,
    from: Result<ObjectId>,
    to: Result<ObjectId>,
    source: Option<Version>,
    precondition: Precondition,
}

impl Copy {
    /// Only if the object that is copied has this version.
    pub fn if_source_version(mut self, version: impl Into<Version>) -> Self {
        self.source = Some(version.into());
        self
    }

    precondition_setters!();

    async fn run(self) -> Result<Option<Written>> {
        let (from, to) = (self.from?, self.to?);
        self.engine.check_open("copy")?;
        self.engine.check_writable("copy")?;
        let permit = self.engine.namespaces().begin_on(&from, "copy")?;
        let open = self
            .engine
            .open_object(&from, ByteRange::Full)
            .await?
            .object();
        let object = open.map(|open| Object::new(open, permit)).transpose()?;
        let current = object.as_ref().map(Object::current);
        if self
            .source
            .is_some_and(|version| current.map(|current| current.version) != Some(version))
        {
            let message = "the object to be copied stands otherwise; nothing was committed";
            return Err(Error::new(ErrorKind::Conflict { current }, "copy", message).with_id(&from));
        }
        let Some(object) = object else {
            return Ok(None);
        };
        let metadata = object.metadata();
        let (attributes, size) = (metadata.attributes.clone(), metadata.size);
        let body = match object.is_at_hand() {
            true => Body::from(object.bytes().await?),
            false => Body::of_read(object.stream(), size),
        };
        let put = Put::new(self.engine, Ok(to), body)
            .attributes(attributes)
            .precondition(self.precondition);
        put.await.map(Some).map_err(read_error_of)
    }
}

/// What a put says of a stream that failed is, for a copy, why the object could not be read.
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

impl IntoFuture for Copy {
    type Output = Result<Option<Written>>;
    type IntoFuture = BoxFuture<'static, Result<Option<Written>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "copy",
            object = self.from.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "copy", span, self.run())
    }
}

/// A rename in preparation: `.await` it to run it. See [`Engine::rename`]. Preconditions are
/// demands on the target.
#[derive(Debug)]
#[must_use = "nothing is renamed until it is awaited"]
pub struct Rename {
    engine: Engine,
    from: Result<ObjectId>,
    to: Result<ObjectId>,
    source: Precondition,
    precondition: Precondition,
}

impl Rename {
    /// Only if the object that is renamed has this version.
    pub fn if_source_version(mut self, version: impl Into<Version>) -> Self {
        self.source = Precondition::Version(version.into());
        self
    }

    precondition_setters!();

    async fn run(self) -> Result<Option<Written>> {
        let (from, to) = (self.from?, self.to?);
        let operation = self.engine.env().operation_id();
        let namespaces = BTreeMap::from([(from.namespace(), 0), (to.namespace(), 0)]);
        let within = self.engine.admit_together("rename", namespaces);
        let within = within.map_err(|(namespace, error)| {
            error.with_id(if namespace == from.namespace() {
                &from
            } else {
                &to
            })
        })?;
        let rename = swap::Rename {
            from,
            to,
            operation,
            source: self.source,
            target: self.precondition,
        };
        end_together(within, self.engine.tiered().rename(rename).await)
    }
}

impl IntoFuture for Rename {
    type Output = Result<Option<Written>>;
    type IntoFuture = BoxFuture<'static, Result<Option<Written>>>;

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
    /// Copies an object, as one read of it finds it, with all that was stated about it. A time to
    /// live or idle begins anew, and a deadline set by hand stays behind. A small object costs one
    /// commit; a large one is copied through the blob tier, as a put of its bytes. An object that
    /// is there is replaced. None if there is nothing to copy. Within the limits of a namespace it
    /// counts as a get and a put.
    ///
    /// # Errors
    /// As [`get`](Self::get) of the one and [`put`](Self::put) of the other.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("draft", vec![7u8; 3_000_000]).content_type("text/plain").await?;
    /// engine.copy("draft", "backup").if_absent().await?.expect("it was there");
    /// assert_eq!(engine.head("backup").await?.unwrap().metadata.attributes.content_type.as_deref(), Some("text/plain"));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn copy(&self, from: impl IntoObjectId, to: impl IntoObjectId) -> Copy {
        let (from, to) = (from.into_object_id(), to.into_object_id());
        Copy {
            engine: self.clone(),
            from,
            to,
            source: None,
            precondition: Precondition::None,
        }
    }

    /// Renames an object, with all that was stated about it and its deadline, in one commit; it
    /// counts as created now, or when the object was that it replaces: at no moment are there two
    /// of it, or none. Costs the same for any size, for no byte is copied. An object that is there
    /// is replaced. None if there is nothing to rename.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if both names are the same;
    /// [`Conflict`](ErrorKind::Conflict), whose [`id`](Error::id) tells which of the two stands
    /// otherwise; otherwise as [`put`](Self::put).
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
    pub fn rename(&self, from: impl IntoObjectId, to: impl IntoObjectId) -> Rename {
        let (from, to) = (from.into_object_id(), to.into_object_id());
        Rename {
            engine: self.clone(),
            from,
            to,
            source: Precondition::None,
            precondition: Precondition::None,
        }
    }
}
