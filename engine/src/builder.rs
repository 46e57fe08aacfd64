//! [`Builder`]: how an engine is opened.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_actors::{Namespaces, Tiered};
use cenotaph_storage::blobs::BlobTier;
use cenotaph_storage::index::Index;
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_storage::ownership::{Claim, Place};
use cenotaph_storage::rows::begin_epoch;
use cenotaph_storage::{Env, Error, ErrorKind, Pins, Reads, Result};
use opendal::Operator;

use crate::config::Config;
use crate::engine::{Engine, Parts};
use crate::namespaces::configured;
use crate::read_only;

/// Pause before an index is opened again that this process may be closing, and how often that is
/// tried: 2 seconds in all.
const REOPEN_PAUSE: Duration = Duration::from_millis(20);
const REOPEN_ATTEMPTS: usize = 100;

/// An engine in preparation. See [`Engine::builder`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let operator = cenotaph::Operator::new(opendal::services::Memory::default()).unwrap();
/// # let data = directory.path();
/// let mut config = cenotaph::Config::default();
/// config.limits.uploads_at_once = 32;
/// let engine = cenotaph::Engine::builder(data).config(config).blobs(operator).open().await?;
/// # engine.close().await
/// # }
/// ```
#[must_use = "a builder does nothing until it opens"]
pub struct Builder {
    data: PathBuf,
    config: Config,
    blobs: Option<Place>,
    adopt: bool,
    index: Option<Arc<dyn Index>>,
    env: Option<Env>,
    is_read_only: bool,
    views: Option<PathBuf>,
}

impl Builder {
    pub(crate) fn new(data: PathBuf) -> Self {
        Self {
            data,
            config: Config::default(),
            blobs: None,
            adopt: false,
            index: None,
            env: None,
            is_read_only: false,
            views: None,
        }
    }

    /// Keeps large objects in this blob tier instead of `blobs` under the data directory. A blob
    /// tier belongs to one store: a new store marks an empty tier as its own, and only the tier
    /// with its mark is opened later. Retries, timeouts and tracing are yours to layer onto it.
    ///
    /// OpenDAL creates the directory of an operator on `fs` when the operator is made; use
    /// [`blobs_in`](Self::blobs_in) for a directory.
    pub fn blobs(mut self, operator: Operator) -> Self {
        self.blobs = Some(Place::Operator(operator));
        self
    }

    /// Keeps large objects in this directory instead of `blobs` under the data directory, otherwise
    /// as [`blobs`](Self::blobs). The directory is created for a new store only: where it should be
    /// and is not, because its disk is not mounted for instance, the store does not open.
    pub fn blobs_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.blobs = Some(Place::Directory(directory.into()));
        self
    }

    /// Takes the blob tier as this store's, whatever mark it has and whatever it holds, and writes
    /// the mark anew. For a tier that was restored or copied without its mark, or whose index was
    /// rebuilt. A store that the tier belonged to until then does not open over it any more.
    ///
    /// Objects whose blobs are not in the tier are [`Corrupt`](crate::ErrorKind::Corrupt) from then
    /// on, and blobs that the index does not know are deleted by a [repairing
    /// scrub](crate::Scrub::repair).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let (data, other) = (directory.path().join("data"), directory.path().join("other"));
    /// let engine = cenotaph::Engine::builder(&data).open().await?;
    /// engine.close().await?;
    ///
    /// // The files of the blob tier are copied elsewhere, without the mark.
    /// std::fs::create_dir(&other).unwrap();
    /// let refused = cenotaph::Engine::builder(&data).blobs_in(&other).open().await.unwrap_err();
    /// assert_eq!(refused.kind(), cenotaph::ErrorKind::Unavailable);
    /// let engine = cenotaph::Engine::builder(&data).blobs_in(&other).adopt_blobs().open().await?;
    /// engine.close().await
    /// # }
    /// ```
    pub fn adopt_blobs(mut self) -> Self {
        self.adopt = true;
        self
    }

    /// Another configuration than the default one.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Keeps rows in this index instead of fjall under the data directory.
    pub fn index(mut self, index: Arc<dyn Index>) -> Self {
        self.index = Some(index);
        self
    }

    /// Opens the store for reads only. Not a byte, name or time of it changes, in the data
    /// directory and in the blob tier, and no right to write there is needed: a store on a disk
    /// that is mounted read-only, of another user, or in a backup.
    ///
    /// `get`, `head`, `list`, `usage`, `list_uploads`, `resume` with its `parts`, `stats`, `health`
    /// and a `scrub` without repairs work as ever. Whatever would write is
    /// [`Invalid`](crate::ErrorKind::Invalid) with the reason
    /// [`ReadOnly`](crate::Reason::ReadOnly), [`settle`](Engine::settle) included. Nothing happens
    /// by itself either: what a crash left is not settled, what is due is not removed, and a read
    /// extends no deadline. Reads are right all the same, for the row alone decides: what has
    /// expired is absent.
    ///
    /// It reads the store as it was last closed, or as a crash left it, and keeps engines that
    /// write from opening it until it is closed; other engines that only read are welcome. Opening
    /// copies the journals of the index, some 200 MiB at most, into a [private
    /// directory](Self::view_in), which closing or dropping the engine removes, and a crash leaves.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let data = directory.path();
    /// let engine = cenotaph::Engine::builder(data).open().await?;
    /// engine.put("a", "four").await?;
    /// engine.close().await?;
    ///
    /// let reader = cenotaph::Engine::builder(data).read_only().open().await?;
    /// assert_eq!(reader.get("a").await?.unwrap().bytes().await?, "four");
    /// let refused = reader.delete("a").await.unwrap_err();
    /// assert_eq!(refused.reason(), Some(cenotaph::Reason::ReadOnly));
    /// reader.close().await
    /// # }
    /// ```
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// Makes the private directory of an engine that is [read-only](Self::read_only) below this one
    /// instead of the system's directory for temporary files. Its name begins with
    /// `cenotaph-view-`.
    pub fn view_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.views = Some(directory.into());
        self
    }

    /// Another world than the real one: for simulations and tests.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Opens the engine, creating what is not there yet. Settles what earlier incarnations left
    /// behind; deleting their orphans goes on afterwards. Takes time in proportion to unsettled
    /// changes, not to objects.
    ///
    /// # Errors
    /// - [`AlreadyOpen`](crate::ErrorKind::AlreadyOpen): another engine, in this process or
    ///   another, has this index open; several engines may if all of them are
    ///   [read-only](Self::read_only).
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): the index, or the mark of the blob tier, is
    ///   damaged. Nothing was touched.
    /// - [`UnknownFormat`](crate::ErrorKind::UnknownFormat): a later build wrote it.
    /// - [`Invalid`](crate::ErrorKind::Invalid): a setting is out of bounds, the directory holds
    ///   something else, the blob tier belongs to another store or holds what the index does not
    ///   know, this is no tokio runtime, or an engine that is read-only was to open a store that is
    ///   not there.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): the disk can't be read or written, or the
    ///   blob tier is not there: it is not mounted, or is another one without a mark. Nothing was
    ///   created in its place.
    ///
    /// An error about the blob tier tells the expected id and the found one. Mount or name the
    /// right tier; if this is the right one, [`adopt_blobs`](Self::adopt_blobs).
    pub async fn open(self) -> Result<Engine> {
        self.config.check()?;
        let env = self.env.map_or_else(Env::real, Ok)?;
        let is_own_index = self.index.is_none();
        let index: Arc<dyn Index> = match self.index {
            Some(index) => index,
            None if self.is_read_only => {
                let views = self.views.unwrap_or_else(std::env::temp_dir);
                Arc::new(
                    read_only::open_view(&self.data.join("index"), &views, &env, &self.config)
                        .await?,
                )
            }
            None => Arc::new(open_index(&self.data.join("index"), &env, &self.config).await?),
        };
        let place = self
            .blobs
            .unwrap_or_else(|| Place::Directory(self.data.join("blobs")));
        let (options, timeout) = (self.config.blobs.clone(), self.config.limits.sweep.timeout);
        let claim = Claim {
            index: Arc::clone(&index),
            env,
            options,
            timeout,
            adopt: self.adopt,
        };
        // Of another index nobody knows where it is.
        let index_path = is_own_index.then(|| self.data.join("index"));
        let started = if self.is_read_only {
            read_only::start(&self.config, claim, place).await
        } else {
            start(&self.config, claim, place, index_path.as_deref()).await
        };
        match started {
            Ok(engine) => Ok(engine),
            Err(error) => {
                // Whoever tries again must find the index free. Its own failure would hide the
                // first one.
                drop(index.close().await);
                Err(error)
            }
        }
    }
}

/// What `work` gives, while somebody looks after overdue commits: nobody else does before there are
/// actors.
async fn watched<T>(
    index: &Arc<dyn Index>,
    env: &Env,
    heartbeat: Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        match env.deadline(heartbeat, work.as_mut()).await {
            Some(value) => return value,
            None => index.watch(env.monotonic()),
        }
    }
}

async fn open_index(path: &Path, env: &Env, config: &Config) -> Result<FjallIndex> {
    let (dir, options) = (path.to_owned(), config.index);
    open_when_free(path, env, move |env| FjallIndex::open(&dir, env, options)).await
}

/// Opens the index in `path`. One that this process has just dropped is free in a moment: its
/// threads end behind it.
pub(crate) async fn open_when_free(
    path: &Path,
    env: &Env,
    open: impl Fn(Env) -> Result<FjallIndex> + Clone + Send + 'static,
) -> Result<FjallIndex> {
    let mut attempts = 0;
    loop {
        let (dir, opener, open) = (path.to_owned(), env.clone(), open.clone());
        let opened = env.blocking(move || {
            let opened = open(opener);
            let is_held = |error: &Error| error.kind() == ErrorKind::AlreadyOpen;
            let may_be_closing =
                opened.as_ref().err().is_some_and(is_held) && FjallIndex::is_held_here(&dir);
            (opened, may_be_closing)
        });
        let (opened, may_be_closing) = opened.await?;
        attempts += 1;
        if !may_be_closing || attempts > REOPEN_ATTEMPTS {
            return opened;
        }
        env.sleep(REOPEN_PAUSE).await;
    }
}

async fn start(
    config: &Config,
    claim: Claim,
    place: Place,
    index_path: Option<&Path>,
) -> Result<Engine> {
    let Claim { index, env, .. } = claim.clone();
    let begin = async { Ok((claim.take(place).await?, begin_epoch(&index).await?)) };
    let (blobs, epoch) = watched(&index, &env, config.limits.heartbeat, begin).await?;
    if index_path.is_some_and(|path| blobs.is_on_disk_of(path)) {
        let index = Arc::clone(&index);
        // Blobs end before they take what the index still needs. It asks for twice as much as it is
        // to store, for it writes everything twice; blobs are written once.
        blobs.share_disk(Box::new(move |bytes| index.room(bytes / 2)));
    }
    let pins = Pins::new();
    let (reads, namespaces) = reads_and_namespaces(config, &index, &blobs, &pins, &env)?;
    let tiered = Tiered::start(
        Arc::clone(&index),
        blobs,
        env.clone(),
        pins,
        epoch,
        config.limits.clone(),
    )
    .await?;
    Ok(Engine::assemble(Parts {
        config: config.clone(),
        env,
        index,
        reads,
        tiered,
        namespaces,
        epoch,
    }))
}

/// The parts of an engine beside its actors.
pub(crate) fn reads_and_namespaces(
    config: &Config,
    index: &Arc<dyn Index>,
    blobs: &BlobTier,
    pins: &Pins,
    env: &Env,
) -> Result<(Reads, Namespaces)> {
    let reads = Reads::new(
        Arc::clone(index),
        blobs.clone(),
        pins.clone(),
        env.clone(),
        config.reads.clone(),
    );
    let namespaces = Namespaces::new(env.clone());
    for (namespace, limits) in configured(&config.namespaces)? {
        namespaces.set(&namespace, limits)?;
    }
    Ok((reads, namespaces))
}
