//! [`Engine::amend`] and [`Engine::extend_expiry`]: changes of metadata and deadlines that leave
//! the bytes unchanged.

use std::future::IntoFuture;
use std::time::Duration;

use cenotaph_storage::decide::{Precondition, PutResult};
use cenotaph_storage::records::{Amendment, Deadline, EXPIRATION_MAX, Expiration, Extension};
use cenotaph_storage::{Error, ErrorKind, ObjectId, Result, Timestamp};
use futures::future::BoxFuture;

use crate::engine::Engine;
use crate::observe::{observed, operation_span};
use crate::ops::setters::precondition_setters;

/// Builder of a change of metadata. `.await` it to run the change. See [`Engine::amend`].
///
/// Attributes that the builder does not name are unchanged.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// engine.put("photo", vec![7u8; 3_000_000]).filename("img1.jpg").custom("album", "pets").await?;
/// let amend = engine.amend("photo").content_type("image/jpeg").without_custom("album");
/// let amended = amend.if_version(1).await?;
/// assert_eq!(amended.expect("it is there").version.unwrap().get(), 2);
/// let attributes = engine.head("photo").await?.unwrap().metadata.attributes;
/// assert_eq!(attributes.filename.as_deref(), Some("img1.jpg"));
/// assert!(attributes.custom.is_empty());
/// assert!(engine.amend("no such object").filename("x").await?.is_none());
/// # engine.close().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is amended until it is awaited"]
pub struct Amend {
    engine: Engine,
    id: Result<ObjectId>,
    amendment: Amendment,
    precondition: Precondition,
}

impl Amend {
    pub(crate) fn new(engine: Engine, id: Result<ObjectId>) -> Self {
        Self {
            engine,
            id,
            amendment: Amendment::default(),
            precondition: Precondition::None,
        }
    }

    /// Sets the media type.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.amendment.content_type = Some(Some(content_type.into()));
        self
    }

    /// Sets the file name.
    pub fn filename(mut self, filename: impl Into<String>) -> Self {
        self.amendment.filename = Some(Some(filename.into()));
        self
    }

    /// Sets the origin.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.amendment.origin = Some(Some(origin.into()));
        self
    }

    /// Sets the encoding. The engine stores the value and does not apply it.
    pub fn compression(mut self, compression: impl Into<String>) -> Self {
        self.amendment.compression = Some(Some(compression.into()));
        self
    }

    /// Sets a custom entry.
    pub fn custom(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.amendment
            .custom
            .insert(name.into(), Some(value.into()));
        self
    }

    /// Removes a custom entry.
    pub fn without_custom(mut self, name: impl Into<String>) -> Self {
        self.amendment.custom.insert(name.into(), None);
        self
    }

    /// Sets the expiration. Its time starts now.
    pub fn expiration(mut self, expiration: Expiration) -> Self {
        self.amendment.expiration = Some(expiration);
        self
    }

    /// Sets all changes at once, and replaces the changes named before. This is also the way to
    /// remove a fixed attribute such as the file name.
    pub fn amendment(mut self, amendment: Amendment) -> Self {
        self.amendment = amendment;
        self
    }

    precondition_setters!();
}

impl IntoFuture for Amend {
    type Output = Result<Option<PutResult>>;
    type IntoFuture = BoxFuture<'static, Result<Option<PutResult>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "amend",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "amend", span, async move {
            let id = self.id?;
            let within = self.engine.namespaces().begin_on(&id, "amend")?;
            within.end(
                self.engine
                    .tiered()
                    .amend(id, self.precondition, self.amendment)
                    .await,
            )
        })
    }
}

/// Builder of a change of deadline. Name a deadline, then `.await` it. See
/// [`Engine::extend_expiry`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// use std::time::Duration;
///
/// let hour = Duration::from_secs(3600);
/// engine.put("session", "token").time_to_live(hour).await?;
/// let longer = engine.extend_expiry("session").after_now(2 * hour).await?.expect("it is there");
/// assert_eq!(longer.version.unwrap().get(), 2);
/// let shorter = engine.extend_expiry("session").after_now(hour).await?.expect("it is there");
/// assert_eq!(shorter.version, longer.version, "an extension never shortens: nothing was written");
/// # engine.close().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is extended until it is awaited"]
pub struct ExtendExpiry {
    engine: Engine,
    id: Result<ObjectId>,
    deadline: Option<Deadline>,
    may_shorten: bool,
    precondition: Precondition,
}

impl ExtendExpiry {
    pub(crate) fn new(engine: Engine, id: Result<ObjectId>) -> Self {
        Self {
            engine,
            id,
            deadline: None,
            may_shorten: false,
            precondition: Precondition::None,
        }
    }

    /// Sets the deadline to a point in time.
    pub fn at(self, moment: Timestamp) -> Self {
        self.deadline(Deadline::At(moment))
    }

    /// Sets the deadline to `time` from now, at most a hundred years.
    pub fn after_now(self, time: Duration) -> Self {
        self.deadline(Deadline::AfterNow(time))
    }

    /// Sets the deadline to `time` after the creation of the object, at most a hundred years.
    pub fn after_creation(self, time: Duration) -> Self {
        self.deadline(Deadline::AfterCreation(time))
    }

    /// Removes the deadline: the object never expires.
    pub fn never(self) -> Self {
        self.deadline(Deadline::Never)
    }

    /// Sets the deadline, and replaces a deadline named before.
    pub fn deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Also applies a deadline that is earlier than the present deadline of the object. A deadline
    /// in the past removes the object at once.
    pub fn may_shorten(mut self) -> Self {
        self.may_shorten = true;
        self
    }

    precondition_setters!();

    fn extension(&self) -> Result<Extension> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, "extend_expiry", why));
        match self.deadline {
            None => invalid("no deadline named: call at, after_now, after_creation or never"),
            Some(Deadline::AfterNow(time) | Deadline::AfterCreation(time))
                if time > EXPIRATION_MAX =>
            {
                invalid("the deadline is more than a hundred years ahead")
            }
            Some(deadline) => Ok(Extension {
                deadline,
                may_shorten: self.may_shorten,
            }),
        }
    }
}

impl IntoFuture for ExtendExpiry {
    type Output = Result<Option<PutResult>>;
    type IntoFuture = BoxFuture<'static, Result<Option<PutResult>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "extend_expiry",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "extend_expiry", span, async move {
            // An invalid id is reported before an invalid deadline, which needs the id.
            let extension = self.extension();
            let id = self.id?;
            let extension = extension.map_err(|error| error.with_id(&id))?;
            let within = self.engine.namespaces().begin_on(&id, "extend_expiry")?;
            within.end(
                self.engine
                    .tiered()
                    .extend_expiry(id, self.precondition, extension)
                    .await,
            )
        })
    }
}

impl Engine {
    /// Changes the attributes of an object without reading or writing its bytes. Returns `None` if
    /// the object is absent.
    ///
    /// An amendment is a write: the object receives a new version and a new etag.
    ///
    /// # Errors
    /// As [`put`](Self::put). Also [`Invalid`](ErrorKind::Invalid) if the metadata would exceed its
    /// limit.
    ///
    /// [`Amend`] contains an example.
    pub fn amend(&self, id: impl crate::IntoObjectId) -> Amend {
        Amend::new(self.clone(), id.into_object_id())
    }

    /// Changes the deadline of an object without reading or writing its bytes. Returns `None` if
    /// the object is absent.
    ///
    /// By default only a later deadline is applied. If the deadline changes, the change is a write
    /// with a new version and etag; otherwise nothing is written, and the result contains the
    /// present version. An object that never expires can't be extended, only
    /// [shortened](ExtendExpiry::may_shorten).
    ///
    /// # Errors
    /// As [`put`](Self::put). Also [`Invalid`](ErrorKind::Invalid) if no deadline was named, or if
    /// it is more than a hundred years ahead.
    ///
    /// [`ExtendExpiry`] contains an example.
    pub fn extend_expiry(&self, id: impl crate::IntoObjectId) -> ExtendExpiry {
        ExtendExpiry::new(self.clone(), id.into_object_id())
    }
}
