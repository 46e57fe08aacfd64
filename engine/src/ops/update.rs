//! [`Engine::update`]: reads an object, changes it and writes it back, without losing concurrent
//! writes.
//!
//! Updates are optimistic. Nothing is locked while the caller's function runs:
//! 1. Read the object, and derive the precondition from the version that was read. If only the
//!    fallback has the object, the precondition is that this is still so.
//! 2. Call the function.
//! 3. Commit its result under the precondition.
//! 4. On `Conflict`, wait for a turn (`update_queue.rs`) or back off, then start again.
//!
//! Invariant: the precondition alone prevents lost updates (I3). The turns only save failing
//! attempts.

use std::time::Duration;

use cenotaph_storage::decide::{Deleted, FallbackAnswer, Precondition, PutResult};
use cenotaph_storage::fallback::FallbackTimes;
use cenotaph_storage::records::Attributes;
use cenotaph_storage::{ByteRange, Error, ErrorKind, ObjectId, Result};

use crate::body::Body;
use crate::engine::{Engine, IntoObjectId};
use crate::observe::{observe, operation_span};
use crate::opened::OpenedObject;
use crate::ops::get::Object;
use crate::ops::put::Put;
use crate::ops::setters::attributes_setters;
use crate::update_queue::Waiter;

/// Delay after the first conflict. Each further conflict doubles the delay, and a random delay of
/// up to the same length is added.
const BACKOFF_MIN: Duration = Duration::from_micros(500);
const BACKOFF_MAX: Duration = Duration::from_millis(100);
/// Maximum wait for a turn. A random wait of up to the same length is added.
const TURN_MAX: Duration = Duration::from_millis(100);

/// Result of the function of an [`Engine::update`]: the change to make.
#[derive(Debug)]
pub enum Update {
    /// Replace the object, or create it.
    Put(NewContent),
    /// Delete the object.
    Delete,
    /// Keep the object unchanged.
    Keep,
}

impl Update {
    /// Returns an update that writes these bytes, without attributes.
    pub fn put(body: impl Into<Body>) -> Self {
        Self::Put(NewContent::new(body))
    }
}

impl From<NewContent> for Update {
    fn from(candidate: NewContent) -> Self {
        Self::Put(candidate)
    }
}

/// New content and attributes of an object, to be written by an [`Update`]. They are validated
/// before the write commits.
#[derive(Debug)]
#[must_use = "a candidate does nothing until an update returns it"]
pub struct NewContent {
    body: Body,
    attributes: Attributes,
}

impl NewContent {
    /// Creates a candidate with these bytes and without attributes.
    pub fn new(body: impl Into<Body>) -> Self {
        Self {
            body: body.into(),
            attributes: Attributes::default(),
        }
    }

    attributes_setters!();
}

/// Result of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The object was written.
    Written(PutResult),
    /// The object was deleted, or was already absent.
    Deleted(Deleted),
    /// The object was kept unchanged.
    Kept,
}

/// State of the object that an update has read, as the condition of its write.
#[derive(Clone, Copy, Debug)]
struct UpdateBasis {
    precondition: Precondition,
    answer: FallbackAnswer,
}

impl UpdateBasis {
    fn ours(precondition: Precondition) -> Self {
        Self {
            precondition,
            answer: FallbackAnswer::NotAsked,
        }
    }

    /// Returns the condition of a write over an object that only the fallback has: it must not have
    /// been written, moved or deleted since.
    fn in_fallback(object: &Object) -> Self {
        let metadata = object.metadata();
        Self {
            precondition: Precondition::InFallback,
            answer: FallbackAnswer::Present(FallbackTimes {
                created: metadata.created,
                modified: metadata.modified,
                expires_at: metadata.expires_at,
            }),
        }
    }
}

impl Engine {
    /// Reads an object, calls `f` to decide its change, and commits the change if nobody else wrote
    /// the object meanwhile.
    ///
    /// If the object was written meanwhile, the update reads it again and calls `f` again, up to
    /// [`Limits::update_attempts`](crate::Limits::update_attempts) attempts in total (5 by
    /// default). Concurrent updates of an object take turns for a short time before they retry. If
    /// other writes cause the conflicts, the update backs off with growing, jittered pauses.
    ///
    /// `f` receives the object, or `None` if it is absent, and may read its bytes. No lock is held
    /// while `f` runs. `f` may be called several times, so its side effects may be repeated. The
    /// new payload may have any size. Metadata over a limit is refused, and the object is then not
    /// replaced.
    ///
    /// Within the limits of a namespace, an update counts as a get until the object is read to its
    /// end or dropped, and then as the write that it commits.
    ///
    /// # Errors
    /// - [`Source`](ErrorKind::Source): `f` returned an error, which is the source of this error.
    ///   Nothing was committed.
    /// - [`Conflict`](ErrorKind::Conflict): other writes caused a conflict at every attempt.
    ///   Nothing was committed.
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
    ///             let count: u64 = match current {
    ///                 Some(object) => {
    ///                     let bytes = object.bytes().await?;
    ///                     u64::from_le_bytes(bytes[..].try_into().expect("eight bytes"))
    ///                 }
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
        // An update without competitors takes no turn: only an existing queue is joined.
        let mut place = self.update_queues().join_existing(&id);
        self.wait_for_turn(place.as_mut()).await;
        loop {
            let (current, basis) = self.read_for_update(&id).await?;
            let update = f(current).await.map_err(|error| {
                Error::new(
                    ErrorKind::Source,
                    "update",
                    "the update function failed; nothing was committed",
                )
                .with_id(&id)
                .with_source(error)
            })?;
            match self.commit_update(&id, update, basis).await {
                Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    attempt += 1;
                    metrics::counter!("cenotaph_update_conflicts_total").increment(1);
                    if attempt == attempts {
                        return Err(error);
                    }
                    metrics::counter!("cenotaph_update_retries_total").increment(1);
                    // A conflict within the turn comes from a write that takes no turns, so only
                    // waiting helps. The turn is kept meanwhile.
                    match &place {
                        Some(place) if place.has_turn() => self.back_off(attempt).await,
                        Some(_) | None => {
                            let place = place.get_or_insert_with(|| self.update_queues().join(&id));
                            self.wait_for_turn(Some(place)).await;
                        }
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Returns the object, and the condition for writing it back.
    async fn read_for_update(&self, id: &ObjectId) -> Result<(Option<Object>, UpdateBasis)> {
        self.check_open("update")?;
        // Checked before the read: on a read-only engine, an update that keeps the object must fail
        // as well.
        self.check_writable("update")?;
        let permit = self.namespaces().begin_on(id, "update")?;
        let open = match self.open_object(id, ByteRange::Full).await? {
            OpenedObject::Object(open) => open,
            OpenedObject::Absent => return Ok((None, UpdateBasis::ours(Precondition::Absent))),
            // The row exists although its blob is missing. The write must replace exactly that row,
            // so its precondition is the version and not absence.
            OpenedObject::Dangling(current) => {
                return Ok((
                    None,
                    UpdateBasis::ours(Precondition::Version(current.version)),
                ));
            }
        };
        let object = Object::new(open, permit)?;
        // An update counts as a read, even if it keeps the object.
        self.was_read(&object);
        let basis = match object.version() {
            Some(version) => UpdateBasis::ours(Precondition::Version(version)),
            None => UpdateBasis::in_fallback(&object),
        };
        Ok((Some(object), basis))
    }

    async fn commit_update(
        &self,
        id: &ObjectId,
        update: Update,
        UpdateBasis {
            precondition,
            answer,
        }: UpdateBasis,
    ) -> Result<Updated> {
        match update {
            Update::Keep => Ok(Updated::Kept),
            Update::Delete => self
                .delete(id)
                .precondition(precondition)
                .answered(answer)
                .await
                .map(Updated::Deleted),
            Update::Put(NewContent { body, attributes }) => {
                let put = Put::new(self.clone(), Ok(id.clone()), body).attributes(attributes);
                put.precondition(precondition)
                    .answered(answer)
                    .await
                    .map(Updated::Written)
            }
        }
    }

    /// Waits for the turn of a waiter, if there is one.
    async fn wait_for_turn(&self, place: Option<&mut Waiter>) {
        if let Some(place) = place {
            place
                .wait(self.env(), TURN_MAX + self.env().jitter(TURN_MAX))
                .await;
        }
    }

    /// Waits before the next attempt, longer after each attempt.
    async fn back_off(&self, attempt: u32) {
        // 16 bounds the shift; 500 µs doubled 8 times already exceeds `BACKOFF_MAX`.
        let delay = BACKOFF_MIN
            .saturating_mul(1 << attempt.min(16))
            .min(BACKOFF_MAX);
        self.env().sleep(delay + self.env().jitter(delay)).await;
    }

    /// Waits a short, jittered time before a refused operation is tried again.
    pub(crate) async fn pause(&self) {
        self.back_off(2).await;
    }
}
