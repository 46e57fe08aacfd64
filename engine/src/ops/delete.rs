//! [`Engine::delete`] and [`Engine::delete_prefix`] with their builders.

use std::future::IntoFuture;

use cenotaph_storage::decide::{Deleted, FallbackAnswer, Precondition};
use cenotaph_storage::index::UnreadableRange;
use cenotaph_storage::{Entry, Error, ErrorKind, Namespace, ObjectId, Result};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::engine::{Engine, IntoObjectId};
use crate::observe::{observed, operation_span};
use crate::ops::setters::precondition_setters;

/// Concurrent deletes of a [`DeletePrefix`]. Concurrent deletes share syncs of the index.
const DELETES_AT_ONCE: usize = 64;
/// Keys that a [`DeletePrefix`] holds in memory.
const PAGE: usize = 1000;

impl Engine {
    /// Deletes an object. When the call returns, the object is durably deleted; its blobs are
    /// deleted in the background.
    ///
    /// Deleting an absent object is not an error: the result says whether the object existed. A
    /// failing blob tier never fails a delete. An object whose row can't be read is deleted as
    /// well; its blobs remain until a [scrub](Self::scrub) with repairs finds that no row names
    /// them.
    ///
    /// # Errors
    /// As [`put`](Self::put), except that a delete also works on a full disk.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("a", "b").await?;
    /// assert!(engine.delete("a").await?.existed);
    /// assert!(!engine.delete("a").await?.existed);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn delete(&self, id: impl IntoObjectId) -> Delete {
        Delete::new(self.clone(), id.into_object_id())
    }

    /// Deletes every object whose key begins with `prefix`, page by page.
    ///
    /// Memory use is small and independent of the number of objects. The deletion is not atomic.
    /// Objects that are written below the prefix meanwhile may be deleted or not. After an error, a
    /// crash or a drop, call it again; to skip the keys that were already handled, pass the last
    /// key of the [progress](DeletePrefix::stream) to [`DeletePrefix::start_after`].
    ///
    /// # Errors
    /// As [`list`](Self::list) and [`delete`](Self::delete), except that an overloaded engine does
    /// not fail the deletion: the deletion waits and tries again. If some rows can't be read, it
    /// deletes all other objects first and then fails with [`Corrupt`](ErrorKind::Corrupt), which
    /// names the first unreadable range.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// for number in 0..30 {
    ///     engine.put(format!("tmp/{number}"), "x").await?;
    /// }
    /// engine.put("kept", "x").await?;
    /// assert_eq!(engine.delete_prefix("tmp/").await?.deleted, 30);
    /// assert_eq!(engine.list("").await?.entries.len(), 1);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn delete_prefix(&self, prefix: impl Into<String>) -> DeletePrefix {
        DeletePrefix::new(self.clone(), prefix.into())
    }
}

/// Builder of a delete. `.await` it to run the delete. See [`Engine::delete`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// let first = engine.put("a", "1").await?;
/// engine.put("a", "2").await?;
/// let error = engine.delete("a").if_version(first.version.unwrap()).await.unwrap_err();
/// let cenotaph::ErrorKind::Conflict { current: Some(current) } = error.kind() else {
///     panic!("{error}")
/// };
/// assert_eq!(current.version.get(), 2);
/// assert!(engine.delete("a").if_etag(current.etag).await?.existed);
/// # engine.close().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a delete does nothing until it is awaited"]
pub struct Delete {
    engine: Engine,
    id: Result<ObjectId>,
    precondition: Precondition,
    answer: FallbackAnswer,
}

impl Delete {
    pub(crate) fn new(engine: Engine, id: Result<ObjectId>) -> Self {
        Self {
            engine,
            id,
            precondition: Precondition::None,
            answer: FallbackAnswer::NotAsked,
        }
    }

    /// Sets the answer of the fallback, which is then not asked.
    pub(crate) fn answered(mut self, answer: FallbackAnswer) -> Self {
        self.answer = answer;
        self
    }

    precondition_setters!();
}

impl IntoFuture for Delete {
    type Output = Result<Deleted>;
    type IntoFuture = BoxFuture<'static, Result<Deleted>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = operation_span!(
            "delete",
            object = self.id.as_ref().ok().map(tracing::field::display)
        );
        let engine = self.engine.clone();
        observed(engine, "delete", span, async move {
            let id = self.id?;
            let within = self.engine.namespaces().begin_on(&id, "delete")?;
            let tiered = self.engine.tiered();
            within.end(tiered.delete(id, self.precondition, self.answer).await)
        })
    }
}

/// Builder of a deletion of all objects below a prefix. `.await` it to run the deletion, or
/// [`stream`](Self::stream) its progress. See [`Engine::delete_prefix`].
#[derive(Clone, Debug)]
#[must_use = "a deletion does nothing until it is awaited or streamed"]
pub struct DeletePrefix {
    engine: Engine,
    namespace: Namespace,
    prefix: String,
    start_after: Option<String>,
}

/// Progress of a deletion of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixDeleted {
    /// Number of objects deleted since the deletion began.
    pub deleted: u64,
    /// Last key that was handled; pass it to [`DeletePrefix::start_after`] to continue from there.
    /// `None` if there were no objects.
    pub last: Option<String>,
}

impl DeletePrefix {
    pub(crate) fn new(engine: Engine, prefix: String) -> Self {
        Self {
            engine,
            namespace: Namespace::default_namespace(),
            prefix,
            start_after: None,
        }
    }

    /// Deletes in `namespace` instead of the default namespace.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Begins after this key, which is the [`last`](PrefixDeleted::last) key of an interrupted
    /// deletion.
    pub fn start_after(mut self, key: impl Into<String>) -> Self {
        self.start_after = Some(key.into());
        self
    }

    /// Deletes page by page, and yields the progress after each page. Dropping the stream stops the
    /// deletion; deletes that have begun may still commit.
    pub fn stream(self) -> BoxStream<'static, Result<PrefixDeleted>> {
        let done = PrefixDeleted {
            deleted: 0,
            last: self.start_after.clone(),
        };
        let state = (Some(self), done, None);
        let pages =
            futures::stream::try_unfold(state, |(job, mut done, mut unreadable)| async move {
                // Unreadable rows do not stop the deletion. The first range is remembered, and
                // reported after the last page.
                let Some(job) = job else {
                    return unreadable.map_or(Ok(None), |range| Err(rows_unreadable(range)));
                };
                // Checked before the listing: without matching objects, a read-only engine must
                // fail as well.
                job.engine.check_writable("delete_prefix")?;
                // A listing refuses a larger page than the configuration allows.
                let limit = PAGE.min(job.engine.config().reads.list_page_max);
                let mut list = job
                    .engine
                    .list(job.prefix.clone())
                    .namespace(job.namespace.clone())
                    .limit(limit);
                if let Some(last) = &done.last {
                    list = list.start_after(last.clone());
                }
                let list = list.step_over_damage();
                let page =
                    retry_while_overloaded(&job.engine, || list.clone().into_future()).await?;
                unreadable = unreadable.or_else(|| page.unreadable.into_iter().next());
                let Some(last) = page.entries.last().map(|entry| entry.name().to_owned()) else {
                    return unreadable.map_or(Ok(None), |range| Err(rows_unreadable(range)));
                };
                // The position moves after the deletes, so that a resumed deletion skips only
                // deleted keys.
                done.deleted += job.delete(page.entries).await?;
                done.last = Some(last);
                let rest = page.next.is_some().then_some(job);
                Ok(Some((done.clone(), (rest, done, unreadable))))
            });
        pages.boxed()
    }

    /// Deletes the listed objects, some concurrently, and returns how many existed.
    async fn delete(&self, entries: Vec<Entry>) -> Result<u64> {
        let deletes = entries.into_iter().filter_map(|entry| match entry {
            Entry::Object(head) => Some(self.engine.delete(head.id)),
            Entry::Prefix(_) => None,
        });
        let deletes = deletes.map(|delete| async move {
            retry_while_overloaded(&self.engine, || {
                let engine = self.engine.clone();
                let delete = delete.again();
                Box::pin(async move {
                    // A deletion of a prefix is bulk work: it must not crowd out single requests.
                    let _turn = engine.tiered().bulk_turn().await?;
                    delete.await
                })
            })
            .await
        });
        let deleted = futures::stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE);
        deleted
            .try_fold(0, |deleted, answer| async move {
                Ok(deleted + u64::from(answer.existed))
            })
            .await
    }
}

/// Returns the error of a deletion that could not read all rows.
fn rows_unreadable(unreadable: UnreadableRange) -> Error {
    let message = "some rows can't be read; all other objects were deleted; a scrub names the rows";
    Error::new(ErrorKind::Corrupt, "delete", message).with_source(unreadable.into_error("list"))
}

/// Runs an operation, and repeats it after a pause for as long as it is `Overloaded`. An overloaded
/// operation was not started, so the repetition is safe.
async fn retry_while_overloaded<T>(
    engine: &Engine,
    ask: impl Fn() -> BoxFuture<'static, Result<T>>,
) -> Result<T> {
    loop {
        match ask().await {
            Err(error) if error.kind() == ErrorKind::Overloaded => engine.pause().await,
            outcome => return outcome,
        }
    }
}

impl Delete {
    /// Returns the same delete once more.
    fn again(&self) -> BoxFuture<'static, Result<Deleted>> {
        Self {
            engine: self.engine.clone(),
            id: self.id.clone(),
            precondition: self.precondition,
            answer: self.answer,
        }
        .into_future()
    }
}

impl IntoFuture for DeletePrefix {
    type Output = Result<PrefixDeleted>;
    type IntoFuture = BoxFuture<'static, Result<PrefixDeleted>>;

    fn into_future(self) -> Self::IntoFuture {
        let nothing = PrefixDeleted {
            deleted: 0,
            last: self.start_after.clone(),
        };
        self.stream()
            .try_fold(nothing, |_, progress| async move { Ok(progress) })
            .boxed()
    }
}
