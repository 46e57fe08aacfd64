//! [`Engine`]: what an embedder holds, and all that it may ask.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cenotaph_actors::{ActorStats, Namespaces, Tiered};
use cenotaph_storage::index::{Index, IndexStats, SpaceStats};
use cenotaph_storage::{Env, Epoch, Error, ErrorKind, ObjectId, ReadStats, ReadUse, Reads, Result};

use crate::builder::Builder;
use crate::config::Config;
use crate::get::Object;
use crate::turns::Turns;

/// A tiered object store, embedded in your service.
///
/// A cheap clone of one handle on it; the actors behind it live until [`close`](Self::close), or
/// until the last clone is dropped.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let data = directory.path();
/// let engine = cenotaph::Engine::builder(data).open().await?;
/// engine.put("greetings/hello", "hello, world").content_type("text/plain").await?;
/// let object = engine.get("greetings/hello").await?.expect("it was just put");
/// assert_eq!(object.metadata().attributes.content_type.as_deref(), Some("text/plain"));
/// assert_eq!(object.bytes().await?, "hello, world");
/// engine.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    config: Config,
    env: Env,
    index: Arc<dyn Index>,
    reads: Reads,
    pub(crate) tiered: Tiered,
    namespaces: Namespaces,
    turns: Turns,
    epoch: Epoch,
}

/// What an engine is assembled of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) reads: Reads,
    pub(crate) tiered: Tiered,
    pub(crate) namespaces: Namespaces,
    pub(crate) epoch: Epoch,
}

/// What an engine tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Which incarnation on its index this is; of an engine that is read-only, the last one that
    /// wrote.
    pub epoch: Epoch,
    /// The index: batches, syncs, waiting.
    pub index: IndexStats,
    /// The disk of the index: what is free, what is needed, what is held in reserve; none if the
    /// index does not know.
    pub space: Option<SpaceStats>,
    /// The actors: what is unsettled, what was settled, what died.
    pub actors: ActorStats,
    /// The reads: blobs that were missing, blocks that were corrupt.
    pub reads: ReadStats,
    /// The reads under way: objects that are open, bytes that are held.
    pub reading: ReadUse,
}

impl Engine {
    /// An engine that keeps its data in this directory: the index under `index`, and, unless told
    /// otherwise, the blobs under `blobs`. The directory is created if it is not there.
    pub fn builder(data: impl Into<PathBuf>) -> Builder {
        Builder::new(data.into())
    }

    pub(crate) fn assemble(parts: Parts) -> Self {
        let Parts {
            config,
            env,
            index,
            reads,
            tiered,
            namespaces,
            epoch,
        } = parts;
        let turns = Turns::default();
        Self(Arc::new(Inner {
            config,
            env,
            index,
            reads,
            tiered,
            namespaces,
            turns,
            epoch,
        }))
    }

    /// Settles what can be settled now: changes of dead owners, and orphans that are due. Gives the
    /// number of orphans left, which wait for a reader, a grace time or a retry. The engine does
    /// all this by itself; this is for whoever wants to see it done.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if a tier fails or the engine has, or if the blob
    /// tier is not there or not this store's: nothing counts as deleted then.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("big", vec![7u8; 3_000_000]).await?;
    /// engine.delete("big").await?;
    /// assert_eq!(engine.settle().await?, 0);
    /// assert_eq!(engine.stats().await?.actors.orphans, 0);
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn settle(&self) -> Result<u64> {
        self.check_open("settle")?;
        self.check_writable("settle")?;
        self.0.tiered.settle().await
    }

    /// What the engine has done, and what is left to do. Its cost grows with the unsettled changes
    /// and orphans, which it counts.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if the index can't be read,
    /// [`Closed`](ErrorKind::Closed).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("a", "b").await?;
    /// let stats = engine.stats().await?;
    /// assert_eq!((stats.epoch.get(), stats.actors.changes, stats.index.waiting), (1, 0, 0));
    /// # engine.close().await
    /// # }
    /// ```
    pub async fn stats(&self) -> Result<Stats> {
        self.check_open("stats")?;
        Ok(Stats {
            epoch: self.0.epoch,
            index: self.0.index.stats(),
            space: self.0.index.space(),
            actors: self.0.tiered.stats().await?,
            reads: self.0.reads.stats(),
            reading: self.0.reads.usage(),
        })
    }

    /// Returns whether the engine takes on work. A readiness probe: where it says no, close the
    /// engine and open it again. A full disk is no reason for that: see [`Stats::space`].
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if the engine has failed (a commit of the index
    /// failed, or its actors died too often): reads still work, no write does; or if its blob tier
    /// was not there, or not this store's, when it was last looked at (reason
    /// [`BlobTier`](crate::Reason::BlobTier)): small objects still work, nothing is deleted from
    /// the tier, and the error ceases by itself once the tier is back.
    /// [`Closed`](ErrorKind::Closed) once closed.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// assert!(engine.health().is_ok());
    /// engine.close().await?;
    /// assert_eq!(engine.health().unwrap_err().kind(), cenotaph::ErrorKind::Closed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn health(&self) -> Result<()> {
        self.0.tiered.health()
    }

    /// Lets what has begun end, within the configured time, then stops. What is unfinished is
    /// settled at the next open. Every clone of the engine is closed with it, and reads that are
    /// still streaming from the index fail. Closing again does nothing.
    ///
    /// # Errors
    /// [`Indeterminate`](ErrorKind::Indeterminate) if the index could not make durable what was
    /// submitted, which had not been acknowledged; [`Unavailable`](ErrorKind::Unavailable) if the
    /// runtime it was opened in is gone.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// let clone = engine.clone();
    /// engine.close().await?;
    /// assert_eq!(clone.put("a", "b").await.unwrap_err().kind(), cenotaph::ErrorKind::Closed);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) -> Result<()> {
        self.0.tiered.close().await;
        self.0.index.close().await
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn tiered(&self) -> &Tiered {
        &self.0.tiered
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.0.reads
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.0.namespaces
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    pub(crate) fn env(&self) -> &Env {
        &self.0.env
    }

    pub(crate) fn index(&self) -> &Arc<dyn Index> {
        &self.0.index
    }

    /// An object was read: its deadline is extended if its time to idle says so. Nobody waits for
    /// it.
    pub(crate) fn was_read(&self, object: &Object) {
        let metadata = object.metadata();
        let policy = metadata.attributes.expiration;
        if policy
            .extended_by_read(metadata.expires_at, self.0.env.steady_now())
            .is_some()
        {
            self.0.tiered.touch(object.id(), object.etag().operation());
        }
    }

    pub(crate) fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.0.tiered.is_closed() {
            return Err(Error::new(
                ErrorKind::Closed,
                operation,
                "the engine is closed",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("epoch", &self.0.epoch)
            .finish_non_exhaustive()
    }
}

/// What can name an object: an [`ObjectId`], or a plain key in the default namespace.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// use cenotaph::{Namespace, ObjectId};
///
/// let thumbnails = Namespace::new("thumbnails")?.with_scope("org", "17")?;
/// engine.put(ObjectId::new(&thumbnails, "cat")?, "small").await?;
/// engine.put("cat", "large").await?;
/// assert_eq!(engine.list("").namespace(thumbnails).await?.entries.len(), 1);
/// # engine.close().await
/// # }
/// ```
pub trait IntoObjectId {
    /// The id.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) if the key is empty or too long.
    fn into_object_id(self) -> Result<ObjectId>;
}

impl IntoObjectId for ObjectId {
    fn into_object_id(self) -> Result<ObjectId> {
        Ok(self)
    }
}

impl IntoObjectId for &ObjectId {
    fn into_object_id(self) -> Result<ObjectId> {
        Ok(self.clone())
    }
}

impl IntoObjectId for &str {
    fn into_object_id(self) -> Result<ObjectId> {
        ObjectId::try_from(self)
    }
}

impl IntoObjectId for String {
    fn into_object_id(self) -> Result<ObjectId> {
        ObjectId::try_from(self.as_str())
    }
}

impl IntoObjectId for &String {
    fn into_object_id(self) -> Result<ObjectId> {
        ObjectId::try_from(self.as_str())
    }
}
