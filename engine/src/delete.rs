//! [`Delete`] and [`DeletePrefix`]: how objects are deleted.

use std::future::IntoFuture;

use cenotaph_storage::index::UnreadableRange;
use cenotaph_storage::swap::{Deleted, Precondition};
use cenotaph_storage::{Entry, Error, ErrorKind, Namespace, ObjectId, Result};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::engine::{Engine, IntoObjectId};
use crate::observe::{observed, operation_span};
use crate::setters::precondition_setters;

/// Deletes at once of [`DeletePrefix`]: they share syncs.
const DELETES_AT_ONCE: usize = 64;
/// Keys that [`DeletePrefix`] holds in memory at once.
const PAGE: usize = 1000;

impl Engine {
    /// Deletes an object. When it returns, the object is durably gone; its blobs are deleted
    /// behind. Deleting what is absent is not an error, and a failing blob tier never fails a
    /// delete. An object whose row can't be read is deleted too; its blobs then stay until a
    /// [scrub](Self::scrub) finds that nothing names them.
    ///
    /// # Errors
    /// As [`put`](Self::put), but for a full disk, which takes deletes.
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

    /// Deletes every object whose key begins with `prefix`, page by page: with little memory,
    /// however many there are. It is not atomic. Interrupted by an error, a crash or a drop, it is
    /// simply begun again; or, where many were deleted already, gone on with behind the last key of
    /// its [progress](DeletePrefix::stream). Objects written below the prefix meanwhile may be
    /// deleted or not.
    ///
    /// # Errors
    /// As [`list`](Self::list) and [`delete`](Self::delete). Being overloaded it waits. Where rows
    /// can't be read it deletes all others first, then fails as [`Corrupt`](ErrorKind::Corrupt) and
    /// names the first range of them.
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

/// A delete in preparation: `.await` it to run it. See [`Engine::delete`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// let first = engine.put("a", "1").await?;
/// engine.put("a", "2").await?;
/// let error = engine.delete("a").if_version(first.version.unwrap()).await.unwrap_err();
/// let cenotaph::ErrorKind::Conflict { current: Some(current) } = error.kind() else { panic!("{error}") };
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
}

impl Delete {
    pub(crate) fn new(engine: Engine, id: Result<ObjectId>) -> Self {
        Self {
            engine,
            id,
            precondition: Precondition::None,
        }
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
            within.end(self.engine.tiered().delete(id, self.precondition).await)
        })
    }
}

/// A deletion of all objects below a prefix, in preparation: `.await` it, or
/// [`stream`](Self::stream) its progress. See [`Engine::delete_prefix`].
#[derive(Clone, Debug)]
#[must_use = "a deletion does nothing until it is awaited or streamed"]
pub struct DeletePrefix {
    engine: Engine,
    namespace: Namespace,
    prefix: String,
    start_after: Option<String>,
}

/// How far a deletion of a prefix has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixDeleted {
    /// Objects deleted since it began.
    pub deleted: u64,
    /// All objects up to this key have been looked at: pass it to [`DeletePrefix::start_after`] to
    /// go on from here. None if there were none.
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

    /// Another namespace than the default one.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Begins behind this key: the [`last`](PrefixDeleted::last) of a deletion that was
    /// interrupted.
    pub fn start_after(mut self, key: impl Into<String>) -> Self {
        self.start_after = Some(key.into());
        self
    }

    /// Deletes page by page, and tells after each how far it has come. Dropping the stream stops
    /// after what has begun.
    pub fn stream(self) -> BoxStream<'static, Result<PrefixDeleted>> {
        let done = PrefixDeleted {
            deleted: 0,
            last: self.start_after.clone(),
        };
        let state = (Some(self), done, None);
        let pages =
            futures::stream::try_unfold(state, |(job, mut done, mut unreadable)| async move {
                let Some(job) = job else {
                    return unreadable.map_or(Ok(None), |range| Err(left(range)));
                };
                job.engine.check_writable("delete_prefix")?;
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
                let page = patiently(&job.engine, || list.clone().into_future()).await?;
                unreadable = unreadable.or_else(|| page.unreadable.into_iter().next());
                let Some(last) = page.entries.last().map(|entry| entry.name().to_owned()) else {
                    return unreadable.map_or(Ok(None), |range| Err(left(range)));
                };
                done.deleted += job.delete(page.entries).await?;
                done.last = Some(last);
                let rest = page.next.is_some().then_some(job);
                Ok(Some((done.clone(), (rest, done, unreadable))))
            });
        pages.boxed()
    }

    /// Deletes these objects, some at once: how many were there.
    async fn delete(&self, entries: Vec<Entry>) -> Result<u64> {
        let deletes = entries.into_iter().filter_map(|entry| match entry {
            Entry::Object(head) => Some(self.engine.delete(head.id)),
            Entry::Prefix(_) => None,
        });
        let deletes = deletes.map(|delete| async move {
            patiently(&self.engine, || {
                let (engine, delete) = (self.engine.clone(), delete.again());
                Box::pin(async move {
                    let _turn = engine.tiered().bulk_turn().await?;
                    delete.await
                })
            })
            .await
        });
        let deleted = futures::stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE);
        deleted
            .try_fold(0, |deleted, one| async move {
                Ok(deleted + u64::from(one.existed))
            })
            .await
    }
}

/// The error of a deletion that could not read all there is to be deleted.
fn left(unreadable: UnreadableRange) -> Error {
    let message = "all objects were deleted but for those whose rows can't be read";
    Error::new(ErrorKind::Corrupt, "delete", message).with_source(unreadable.into_error("list"))
}

/// What is refused because there is too much to do was not started: it waits for its turn.
async fn patiently<T>(
    engine: &Engine,
    ask: impl Fn() -> BoxFuture<'static, Result<T>>,
) -> Result<T> {
    loop {
        match ask().await {
            Err(error) if error.kind() == ErrorKind::Overloaded => engine.breathe().await,
            outcome => return outcome,
        }
    }
}

impl Delete {
    fn again(&self) -> BoxFuture<'static, Result<Deleted>> {
        Self {
            engine: self.engine.clone(),
            id: self.id.clone(),
            precondition: self.precondition,
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
