//! [`Engine`]: the handle on an open store, with its lifecycle, its statistics and its health.
//!
//! The method of each operation is in the file of that operation (`put.rs`, `get.rs`, ..).

use std::fmt;
use std::sync::Arc;

use cenotaph_actors::{ActorStats, Namespaces, Tiered};
use cenotaph_storage::index::{Index, IndexStats, PayloadLogStats, SpaceStats};
use cenotaph_storage::{Env, Epoch, Error, ErrorKind, ObjectId, ReadStats, ReadUse, Reads, Result};

use crate::config::Config;
use crate::update_queue::UpdateQueues;

/// A tiered object store, embedded in a service.
///
/// An `Engine` is a handle. Cloning it is cheap, and all clones refer to the same store. The actors
/// of the store run until [`close`](Self::close) is called or the last clone is dropped.
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
    pub(crate) parts: Parts,
    update_queues: UpdateQueues,
}

/// Components of an engine.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) reads: Reads,
    pub(crate) tiered: Tiered,
    pub(crate) namespaces: Namespaces,
    pub(crate) epoch: Epoch,
}

/// Statistics of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Epoch of this engine, which is its incarnation on the index. For a read-only engine: the
    /// epoch of the last engine that wrote.
    pub epoch: Epoch,
    /// Statistics of the index: batches, syncs, waiting commits.
    pub index: IndexStats,
    /// Disk space of the index: free, needed, and held in reserve, in bytes. `None` if the index
    /// does not report its space.
    pub space: Option<SpaceStats>,
    /// Payload log of the index, or `None` if the index has none.
    pub payload_log: Option<PayloadLogStats>,
    /// Statistics of the actors: unsettled changes, settled orphans, restarts.
    pub actors: ActorStats,
    /// Statistics of the reads: missing blobs, corrupt blocks.
    pub reads: ReadStats,
    /// Reads in progress: open objects, and bytes in memory.
    pub reading: ReadUse,
}

impl Engine {
    pub(crate) fn assemble(parts: Parts) -> Self {
        let update_queues = UpdateQueues::default();
        Self(Arc::new(Inner {
            parts,
            update_queues,
        }))
    }

    /// Settles the changes of dead owners, removes expired objects, deletes the orphans that are
    /// due, and returns the number of remaining orphans.
    ///
    /// A remaining orphan waits for a reader, for a grace time or for a retry. The engine settles
    /// in the background without this call. The call is useful in tests and before a shutdown, when
    /// the caller needs the result at once.
    ///
    /// # Errors
    /// - [`Unavailable`](ErrorKind::Unavailable): a tier failed, the engine has failed, or the blob
    ///   tier is missing or belongs to another store. In the latter two cases no orphan counts as
    ///   deleted.
    /// - [`Invalid`](ErrorKind::Invalid): the engine is read-only.
    /// - [`Closed`](ErrorKind::Closed).
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
        self.0.parts.tiered.settle().await
    }

    /// Returns the statistics of the engine.
    ///
    /// The call counts the unsettled changes and orphans, so its cost grows with their number.
    ///
    /// # Errors
    /// - [`Unavailable`](ErrorKind::Unavailable): the index can't be read.
    /// - [`Closed`](ErrorKind::Closed).
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
            epoch: self.0.parts.epoch,
            index: self.0.parts.index.stats(),
            space: self.0.parts.index.space(),
            payload_log: self.0.parts.index.payload_log(),
            actors: self.0.parts.tiered.stats().await?,
            reads: self.0.parts.reads.stats(),
            reading: self.0.parts.reads.usage(),
        })
    }

    /// Returns `Ok` if the engine accepts work. Suited as a readiness probe.
    ///
    /// On an error other than the blob tier's, close the engine and open it again. A full disk does
    /// not make the engine unhealthy; see [`Stats::space`].
    ///
    /// # Errors
    /// - [`Unavailable`](ErrorKind::Unavailable): the engine has failed, because a commit of the
    ///   index failed or its actors were restarted too often. Reads still work, writes do not.
    /// - [`Unavailable`](ErrorKind::Unavailable) with the reason
    ///   [`BlobTier`](crate::Reason::BlobTier): the blob tier was missing or belonged to another
    ///   store at the last check. Small objects still work, and the engine deletes nothing from the
    ///   tier. The error ends without a reopen once the tier is back.
    /// - [`Closed`](ErrorKind::Closed).
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
        self.0.parts.tiered.health()
    }

    /// Waits for the operations in progress, at most
    /// [`Limits::close_timeout`](crate::Limits::close_timeout), then stops the engine.
    ///
    /// The next open settles unfinished writes. Every clone of the engine is closed too, and reads
    /// that still stream from the index fail. Closing a closed engine does nothing.
    ///
    /// # Errors
    /// - [`Indeterminate`](ErrorKind::Indeterminate): the index could not make durable a submitted
    ///   batch that was not yet acknowledged.
    /// - [`Unavailable`](ErrorKind::Unavailable): the runtime in which the engine was opened has
    ///   ended.
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
        // The index closes last: the actors submit batches until they have stopped.
        self.0.parts.tiered.close().await;
        self.0.parts.index.close().await
    }

    /// Returns the configuration that the engine was opened with.
    pub fn config(&self) -> &Config {
        &self.0.parts.config
    }

    pub(crate) fn tiered(&self) -> &Tiered {
        &self.0.parts.tiered
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.0.parts.reads
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.0.parts.namespaces
    }

    pub(crate) fn update_queues(&self) -> &UpdateQueues {
        &self.0.update_queues
    }

    pub(crate) fn env(&self) -> &Env {
        &self.0.parts.env
    }

    pub(crate) fn index(&self) -> &Arc<dyn Index> {
        &self.0.parts.index
    }

    pub(crate) fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.0.parts.tiered.is_closed() {
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
            .field("epoch", &self.0.parts.epoch)
            .finish_non_exhaustive()
    }
}

/// A type that names an object: an [`ObjectId`], or a plain string key in the default namespace.
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
    /// Converts the value into an object id.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid): the key is empty or too long.
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
