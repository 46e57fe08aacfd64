//! [`Update`] and [`Updated`]: how an object is read, changed and written back without losing what
//! others write meanwhile.
//!
//! Optimistic: nothing is locked while the caller's function runs. What it gives is committed under
//! the precondition that the object still stands as it was read; if it does not, the object is read
//! afresh and the function asked again. Those who want the same object take turns where they can
//! (`turns.rs`), which decides nothing.

use std::time::Duration;

use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::Attributes;
use cenotaph_storage::swap::{Deleted, Precondition, Written};
use cenotaph_storage::{ByteRange, Error, ErrorKind, ObjectId, Result};

use crate::body::Body;
use crate::engine::{Engine, IntoObjectId};
use crate::get::Object;
use crate::observe::{observe, operation_span};
use crate::opened::Opened;
use crate::put::Put;
use crate::setters::attributes_setters;
use crate::turns::Place;

/// Delay after the first conflict, doubled for each further one, and as much again at random.
const BACKOFF_MIN: Duration = Duration::from_micros(500);
const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// Longest wait for a turn, and as much again at random.
const TURN_MAX: Duration = Duration::from_millis(100);

/// What becomes of the object that an [`Engine::update`] has read.
#[derive(Debug)]
pub enum Update {
    /// It is written anew.
    Put(Candidate),
    /// It is deleted.
    Delete,
    /// It stays as it is.
    Keep,
}

impl Update {
    /// It is written anew, with these bytes and nothing stated about them.
    pub fn put(body: impl Into<Body>) -> Self {
        Self::Put(Candidate::new(body))
    }
}

impl From<Candidate> for Update {
    fn from(candidate: Candidate) -> Self {
        Self::Put(candidate)
    }
}

/// What an [`Update`] writes. It is checked before anything of it is committed.
#[derive(Debug)]
#[must_use = "a candidate is nothing until an update gives it"]
pub struct Candidate {
    body: Body,
    attributes: Attributes,
}

impl Candidate {
    /// These bytes, with nothing stated about them.
    pub fn new(body: impl Into<Body>) -> Self {
        Self {
            body: body.into(),
            attributes: Attributes::default(),
        }
    }

    attributes_setters!();
}

/// What an update came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The object was written.
    Written(Written),
    /// It was deleted, or there was nothing to delete.
    Deleted(Deleted),
    /// It was left as it is.
    Kept,
}

impl Engine {
    /// Reads an object, has `f` say what becomes of it, and commits that if the object still stands
    /// as it was read. If not, it is read afresh and `f` is asked again:
    /// [`Limits::update_attempts`](crate::Limits::update_attempts) times in all, 5 unless
    /// configured. Updates that want the same object wait for each other before they try again, for
    /// a moment; where it is others who write, there is a pause that grows and is jittered.
    ///
    /// `f` sees the object, or none, and may read its bytes; nothing is locked while it runs. It
    /// may be called several times, so that what it does beside its result happens as often. What
    /// it gives may be of any size; metadata that breaks a limit is refused, and an object is never
    /// replaced by what is refused.
    ///
    /// Within the limits of a namespace it counts as a get, until the object is read or dropped,
    /// and then as what it commits.
    ///
    /// # Errors
    /// - [`Source`](ErrorKind::Source): `f` gave an error, which is the source of this one. Nothing
    ///   was committed.
    /// - [`Conflict`](ErrorKind::Conflict): others were faster each time. Nothing was committed.
    /// - Otherwise as [`get`](Self::get) and [`put`](Self::put).
    ///
    /// ```
    /// use cenotaph::{Error, Update};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// for _ in 0..3 {
    ///     engine
    ///         .update("counter", |current| async move {
    ///             let count = match current {
    ///                 Some(object) => u64::from_le_bytes(object.bytes().await?[..].try_into().expect("eight bytes")),
    ///                 None => 0,
    ///             };
    ///             Ok::<_, Error>(Update::put((count + 1).to_le_bytes().to_vec()))
    ///         })
    ///         .await?;
    /// }
    /// assert_eq!(engine.get("counter").await?.unwrap().bytes().await?[0], 3);
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn update<F, T, E>(&self, id: impl IntoObjectId, f: F) -> Result<Updated>
    where
        F: FnMut(Option<Object>) -> T,
        T: Future<Output = Result<Update, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let id = id.into_object_id();
        let span = operation_span!(
            "update",
            object = id.as_ref().ok().map(tracing::field::display)
        );
        observe(self, "update", span, async {
            self.run_update(id?, f).await
        })
        .await
    }

    async fn run_update<F, T, E>(&self, id: ObjectId, mut f: F) -> Result<Updated>
    where
        F: FnMut(Option<Object>) -> T,
        T: Future<Output = Result<Update, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let attempts = self.config().limits.update_attempts.max(1);
        let mut attempt = 0;
        let mut place = self.turns().join_line(&id);
        self.wait_for_turn(place.as_mut()).await;
        loop {
            let (current, precondition) = self.read_for_update(&id).await?;
            let update = f(current).await.map_err(|error| {
                Error::new(
                    ErrorKind::Source,
                    "update",
                    "the function failed; nothing was committed",
                )
                .with_id(&id)
                .with_source(error)
            })?;
            match self.commit_update(&id, update, precondition).await {
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    attempt += 1;
                    metrics::counter!("cenotaph_update_conflicts_total").increment(1);
                    if attempt == attempts {
                        return Err(error);
                    }
                    metrics::counter!("cenotaph_update_retries_total").increment(1);
                    match &place {
                        Some(place) if place.has_turn() => self.back_off(attempt).await,
                        Some(_) | None => {
                            let place = place.get_or_insert_with(|| self.turns().join(&id));
                            self.wait_for_turn(Some(place)).await;
                        }
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// The object, and what must still hold when it is written back.
    async fn read_for_update(&self, id: &ObjectId) -> Result<(Option<Object>, Precondition)> {
        self.check_open("update")?;
        self.check_writable("update")?;
        let permit = self.namespaces().begin_on(id, "update")?;
        let open = match self.open_object(id, ByteRange::Full).await? {
            Opened::Object(open) => open,
            Opened::Absent => return Ok((None, Precondition::Absent)),
            // Its row is there, whatever is read of it: what takes its place must replace exactly
            // that row.
            Opened::Dangling(current) => return Ok((None, Precondition::Version(current.version))),
        };
        let object = Object::new(open, permit)?;
        self.was_read(&object);
        let precondition = Precondition::Version(object.version());
        Ok((Some(object), precondition))
    }

    async fn commit_update(
        &self,
        id: &ObjectId,
        update: Update,
        precondition: Precondition,
    ) -> Result<Updated> {
        let precondition = if self.env().planted(Bug::UpdateWithoutPrecondition) {
            Precondition::None
        } else {
            precondition
        };
        match update {
            Update::Keep => Ok(Updated::Kept),
            Update::Delete => self
                .delete(id)
                .precondition(precondition)
                .await
                .map(Updated::Deleted),
            Update::Put(Candidate { body, attributes }) => {
                let put = Put::new(self.clone(), Ok(id.clone()), body).attributes(attributes);
                put.precondition(precondition).await.map(Updated::Written)
            }
        }
    }

    async fn wait_for_turn(&self, place: Option<&mut Place>) {
        if let Some(place) = place {
            place
                .wait(self.env(), TURN_MAX + self.env().jitter(TURN_MAX))
                .await;
        }
    }

    async fn back_off(&self, attempt: u32) {
        let delay = BACKOFF_MIN
            .saturating_mul(1 << attempt.min(16))
            .min(BACKOFF_MAX);
        self.env().sleep(delay + self.env().jitter(delay)).await;
    }

    /// A moment for others, before something that was refused is tried again.
    pub(crate) async fn pause(&self) {
        self.back_off(2).await;
    }
}
