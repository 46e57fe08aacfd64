//! [`Amend`] and [`ExtendExpiry`]: how an object changes while its bytes stay where they are.

use std::future::IntoFuture;
use std::time::Duration;

use cenotaph_storage::decide::{Precondition, Written};
use cenotaph_storage::rows::{Amendment, Deadline, EXPIRATION_MAX, Expiration, Extension};
use cenotaph_storage::{Error, ErrorKind, ObjectId, Result, Timestamp};
use futures::future::BoxFuture;

use crate::engine::Engine;
use crate::observe::{observed, operation_span};
use crate::setters::precondition_setters;

/// A change of metadata in preparation: `.await` it to run it. See [`Engine::amend`].
///
/// What is not named stays as it is.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// engine.put("photo", vec![7u8; 3_000_000]).filename("img1.jpg").custom("album", "pets").await?;
/// let amended = engine.amend("photo").content_type("image/jpeg").without_custom("album").if_version(1).await?;
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

    /// Another media type.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.amendment.content_type = Some(Some(content_type.into()));
        self
    }

    /// Another name to save it under.
    pub fn filename(mut self, filename: impl Into<String>) -> Self {
        self.amendment.filename = Some(Some(filename.into()));
        self
    }

    /// Another origin.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.amendment.origin = Some(Some(origin.into()));
        self
    }

    /// Another encoding. It is stored, not applied.
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

    /// Another expiration, which begins anew now.
    pub fn expiration(mut self, expiration: Expiration) -> Self {
        self.amendment.expiration = Some(expiration);
        self
    }

    /// All changes at once, replacing those named before; also the way to remove one of the fixed
    /// fields.
    pub fn amendment(mut self, amendment: Amendment) -> Self {
        self.amendment = amendment;
        self
    }

    precondition_setters!();
}

impl IntoFuture for Amend {
    type Output = Result<Option<Written>>;
    type IntoFuture = BoxFuture<'static, Result<Option<Written>>>;

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

/// Another deadline in preparation: name one, then `.await` it. See [`Engine::extend_expiry`].
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

    /// To this moment.
    pub fn at(self, moment: Timestamp) -> Self {
        self.deadline(Deadline::At(moment))
    }

    /// To so long from now.
    pub fn after_now(self, time: Duration) -> Self {
        self.deadline(Deadline::AfterNow(time))
    }

    /// To so long after the object was created.
    pub fn after_creation(self, time: Duration) -> Self {
        self.deadline(Deadline::AfterCreation(time))
    }

    /// To no deadline at all.
    pub fn never(self) -> Self {
        self.deadline(Deadline::Never)
    }

    /// To this deadline, replacing one named before.
    pub fn deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Takes the deadline even if it comes earlier than the object's. One that has passed removes
    /// the object at once.
    pub fn may_shorten(mut self) -> Self {
        self.may_shorten = true;
        self
    }

    precondition_setters!();

    fn extension(&self) -> Result<Extension> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, "extend_expiry", why));
        match self.deadline {
            None => invalid("name a deadline first"),
            Some(Deadline::AfterNow(time) | Deadline::AfterCreation(time))
                if time > EXPIRATION_MAX =>
            {
                invalid("the deadline lies more than a hundred years ahead")
            }
            Some(deadline) => Ok(Extension {
                deadline,
                may_shorten: self.may_shorten,
            }),
        }
    }
}

impl IntoFuture for ExtendExpiry {
    type Output = Result<Option<Written>>;
    type IntoFuture = BoxFuture<'static, Result<Option<Written>>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "extend_expiry",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "extend_expiry", span, async move {
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
    /// Changes what was stated about an object, without reading or writing its bytes. A write like
    /// any other: it has a version and an etag of its own. None if there is no object.
    ///
    /// # Errors
    /// As [`put`](Self::put); [`Invalid`](ErrorKind::Invalid) too if the metadata would grow over
    /// its limit.
    ///
    /// For an example see [`Amend`].
    pub fn amend(&self, id: impl crate::IntoObjectId) -> Amend {
        Amend::new(self.clone(), id.into_object_id())
    }

    /// Gives an object another deadline, by default only a later one, without reading or writing
    /// its bytes. A write like any other if it changes the deadline; otherwise nothing is written,
    /// and the answer tells the version that stands. None if there is no object. What never expires
    /// can't be extended, only shortened.
    ///
    /// # Errors
    /// As [`put`](Self::put); [`Invalid`](ErrorKind::Invalid) too if no deadline is named.
    ///
    /// For an example see [`ExtendExpiry`].
    pub fn extend_expiry(&self, id: impl crate::IntoObjectId) -> ExtendExpiry {
        ExtendExpiry::new(self.clone(), id.into_object_id())
    }
}
