//! [`Builder`]: the options and the steps of opening an engine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenotaph_actors::{StartOptions, Tiered};
use cenotaph_storage::fallback::{Fallback, attach};
use cenotaph_storage::index::Index;
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_storage::ownership::{OnNewTier, TierClaim, TierPlace, TierPlaces};
use cenotaph_storage::records::begin_epoch;
use cenotaph_storage::{Env, Error, ErrorKind, Pins, Result};
use opendal::Operator;

use crate::config::Config;
use crate::engine::{Engine, Parts};
use crate::read_only;
use crate::startup::{
    FallbackChoice, check_members, env_of, fallback_options, lease_times, open_when_free,
    reads_and_namespaces, watched,
};

/// Builder of an engine. See [`Engine::builder`].
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
    blobs: Option<TierPlace>,
    older_blobs: Vec<TierPlace>,
    on_new_tier: OnNewTier,
    adopt: bool,
    index: IndexChoice,
    env: Option<Env>,
    is_read_only: bool,
    views: Option<PathBuf>,
    fallback: FallbackChoice,
}

#[cfg(feature = "postgres")]
mod shared;

/// Index that an opening names.
pub(crate) enum IndexChoice {
    /// An fjall index in the data directory.
    Embedded,
    /// An index of the caller.
    Given(Arc<dyn Index>),
    /// An index in PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(crate::shared::PostgresChoice),
}

impl Engine {
    /// Returns a builder of an engine that keeps its data in the directory `data`.
    ///
    /// The index is in `data/index`. The blobs are in `data/blobs`, unless the builder names
    /// another blob tier. Opening creates the directories if they are missing.
    pub fn builder(data: impl Into<PathBuf>) -> Builder {
        Builder::new(data.into())
    }
}

impl Builder {
    fn new(data: PathBuf) -> Self {
        Self {
            data,
            config: Config::default(),
            blobs: None,
            older_blobs: Vec::new(),
            on_new_tier: OnNewTier::Add,
            adopt: false,
            index: IndexChoice::Embedded,
            env: None,
            is_read_only: false,
            views: None,
            fallback: FallbackChoice::default(),
        }
    }

    /// Stores large objects in the blob tier `operator` instead of the directory `blobs` under the
    /// data directory.
    ///
    /// A blob tier belongs to exactly one store. A new store writes its mark into the empty tier,
    /// and later opens accept only the tier with this mark. The caller adds layers for retries,
    /// timeouts and tracing to the operator.
    ///
    /// OpenDAL creates the directory of an `fs` operator as soon as the operator is made. For a
    /// directory, use [`blobs_in`](Self::blobs_in) instead.
    pub fn blobs(mut self, operator: Operator) -> Self {
        self.blobs = Some(TierPlace::Operator(operator));
        self
    }

    /// Stores large objects in `directory` instead of the directory `blobs` under the data
    /// directory. Otherwise as [`blobs`](Self::blobs).
    ///
    /// Only a new store creates the directory. An existing store does not open if the directory is
    /// missing, for example because its disk is not mounted.
    pub fn blobs_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.blobs = Some(TierPlace::Directory(directory.into()));
        self
    }

    /// Opens the store over a blob tier that was its current one before, besides the current one.
    ///
    /// This is how a store moves to another blob tier while it serves: its present tier is given
    /// as an older one, and the new, empty tier to [`blobs`](Self::blobs) or
    /// [`blobs_in`](Self::blobs_in). From then on large objects are written to the new tier, and
    /// those of the older one stay readable. [`Engine::relocate`] moves them. The older tier is
    /// needed at each opening until it is [released](crate::RelocationReport::released); it is
    /// ignored afterwards. A store may have several older tiers. A [read-only](Self::read_only)
    /// engine opens as if the store had moved, and moves nothing.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let data = directory.path().join("data");
    /// let engine = cenotaph::Engine::builder(&data).open().await?;
    /// engine.put("film", vec![7; 3_000_000]).await?;
    /// engine.close().await?;
    ///
    /// let new = cenotaph::Operator::new(opendal::services::Memory::default()).unwrap();
    /// let builder = cenotaph::Engine::builder(&data).blobs(new);
    /// let engine = builder.older_blobs_in(data.join("blobs")).open().await?;
    /// assert_eq!(engine.get("film").await?.unwrap().bytes().await?.len(), 3_000_000);
    /// let report = engine.relocate().await?;
    /// assert_eq!((report.relocated, report.released.len()), (1, 1));
    /// engine.close().await
    /// # }
    /// ```
    pub fn older_blobs(mut self, operator: Operator) -> Self {
        self.older_blobs.push(TierPlace::Operator(operator));
        self
    }

    /// As [`older_blobs`](Self::older_blobs), for a tier in a directory.
    pub fn older_blobs_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.older_blobs
            .push(TierPlace::Directory(directory.into()));
        self
    }

    /// Calls `step` before the opening moves the store to another tier, which
    /// [`older_blobs`](Self::older_blobs) describes.
    ///
    /// The step is for a program that remembers the locations of the tiers: without the step, a
    /// crash could leave a store that needs locations which are remembered nowhere. The new tier is
    /// accepted and has its mark by then, so that the store opens with these locations whether the
    /// opening ends before the move or after it. The index is locked. An error of the step fails
    /// the opening, and the store has not moved.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let (data, new) = (directory.path().join("data"), directory.path().join("new"));
    /// # let locations = directory.path().join("locations");
    /// # cenotaph::Engine::builder(&data).open().await?.close().await?;
    /// let builder = cenotaph::Engine::builder(&data).blobs_in(&new);
    /// let builder = builder.older_blobs_in(data.join("blobs"));
    /// let (file, text) = (locations.clone(), format!("{}", new.display()));
    /// let engine = builder.before_move(move || std::fs::write(&file, &text)).open().await?;
    /// assert!(locations.exists() && engine.blob_tiers().len() == 2);
    /// # engine.close().await
    /// # }
    /// ```
    pub fn before_move(
        mut self,
        step: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_new_tier = OnNewTier::AddAfter(Arc::new(move || {
            step().map_err(|error| {
                let message = "the step before the move to another blob tier failed";
                Error::new(ErrorKind::Unavailable, "open", message).with_source(error)
            })
        }));
        self
    }

    /// Refuses to open the store if that would move it to another tier, as
    /// [`older_blobs`](Self::older_blobs) does.
    pub fn refuse_move(mut self) -> Self {
        self.on_new_tier = OnNewTier::Refuse;
        self
    }

    /// Accepts the blob tier as this store's, regardless of its mark and its contents, and writes a
    /// new mark.
    ///
    /// This is for a tier that was restored or copied without its mark, and for a store whose index
    /// was rebuilt. A store that owned the tier before can no longer open it.
    ///
    /// Objects whose blobs are not in the tier are [`Corrupt`](crate::ErrorKind::Corrupt) from then
    /// on. A [repairing scrub](crate::Scrub::repair) deletes the blobs that the index does not
    /// know.
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

    /// Sets the configuration. The default is [`Config::default`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Stores the rows in `index` instead of an fjall index under the data directory.
    ///
    /// If the index is [shared](Index::shared), other engines may have the store open at the same
    /// time, and the blob tier must be the same for all of them.
    pub fn index(mut self, index: Arc<dyn Index>) -> Self {
        self.index = IndexChoice::Given(index);
        self
    }

    /// Opens the store for reads only.
    ///
    /// A read-only engine changes no byte, name or time in the data directory or in the blob tier,
    /// and it needs no permission to write there. It can open a store on a read-only mount, of
    /// another user, or in a backup.
    ///
    /// `get`, `head`, `list`, `usage`, `list_uploads`, `resume` with `parts`, `stats`, `health` and
    /// a `scrub` without repairs work as usual. Every operation that would write, including
    /// [`settle`](Engine::settle), fails with [`Invalid`](crate::ErrorKind::Invalid) and the reason
    /// [`ReadOnly`](crate::Reason::ReadOnly). The engine does no background work: it does not
    /// settle the changes of a crashed engine, it does not remove expired objects, and a read
    /// extends no deadline. Reads are correct nevertheless, because they depend on the row only: an
    /// expired object is absent.
    ///
    /// The engine reads the store as of its last close or crash. While it is open, no engine that
    /// writes can open the store; other read-only engines can. Opening copies the journals of the
    /// index, about 200 MiB at most, into a [private directory](Self::view_in). Closing or dropping
    /// the engine removes the directory; a crash leaves it.
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

    /// Creates the private directory of a [read-only](Self::read_only) engine below `directory`
    /// instead of the system's directory for temporary files. The name of the private directory
    /// begins with `cenotaph-view-`.
    pub fn view_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.views = Some(directory.into());
        self
    }

    /// Opens the store over a fallback: a read-only source of objects that are not in the store yet,
    /// such as existing files ([`OperatorFallback`](crate::OperatorFallback)) or another store
    /// ([`EngineFallback`](crate::EngineFallback)).
    ///
    /// Every object of the fallback is readable at once, and every write goes to this store. The
    /// version and the etag of an object that only the fallback has are `None`. docs/fallback.md
    /// describes all operations.
    ///
    /// The store records its fallback. From then on it opens only with a fallback of the same
    /// [description](crate::Fallback::describe), until the adoption is sealed or the fallback is
    /// declared [lost](Self::fallback_lost).
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let data = directory.path();
    /// use cenotaph::{Engine, Operator, OperatorFallback};
    ///
    /// let old = Operator::new(opendal::services::Memory::default())?;
    /// old.write("reports/1", "from the old store").await?;
    /// let engine = Engine::builder(data).fallback(OperatorFallback::new(old)).open().await?;
    /// let head = engine.head("reports/1").await?.expect("the fallback has it");
    /// assert_eq!((head.version, head.metadata.size), (None, 18));
    ///
    /// engine.put("reports/1", "from the new store").await?;
    /// let head = engine.head("reports/1").await?.expect("the store has it");
    /// assert!(head.version.is_some());
    /// engine.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn fallback(self, fallback: impl Fallback) -> Self {
        self.fallback_shared(Arc::new(fallback))
    }

    /// As [`fallback`](Self::fallback), for a source that the caller also uses.
    pub fn fallback_shared(mut self, fallback: Arc<dyn Fallback>) -> Self {
        self.fallback.source = Some(fallback);
        self
    }

    /// Declares that the recorded fallback of the store is lost for good. The objects that only the
    /// fallback had are absent from then on. The declaration is recorded, and the store then opens
    /// without a fallback. Without an open fallback it has no effect.
    pub fn fallback_lost(mut self) -> Self {
        self.fallback.is_lost = true;
        self
    }

    /// Replaces the real environment (clocks, randomness, threads). For simulations and tests.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Opens the engine, and creates the store if it does not exist.
    ///
    /// Opening settles the changes of earlier incarnations; the engine deletes their orphans
    /// afterwards in the background. The time is proportional to the number of unsettled changes,
    /// not to the number of objects.
    ///
    /// # Errors
    /// - [`AlreadyOpen`](crate::ErrorKind::AlreadyOpen): another engine, in this or another
    ///   process, has this index open. Several [read-only](Self::read_only) engines may have it
    ///   open at once, and several engines a shared index, unless the store has a fallback or moves
    ///   to another blob tier.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): the index, or the mark of the blob tier, is
    ///   damaged. Opening changed nothing.
    /// - [`UnknownFormat`](crate::ErrorKind::UnknownFormat): a later build wrote the store.
    /// - [`Invalid`](crate::ErrorKind::Invalid): a setting is out of bounds; the directory contains
    ///   something else; the blob tier belongs to another store, or contains blobs that the index
    ///   does not know; the store has another [fallback](Self::fallback), or was opened without its
    ///   fallback; there is no tokio runtime; or a read-only engine was to open a store that
    ///   does not exist.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): the disk can't be read or written, or the
    ///   blob tier is missing: it is not mounted, or another tier without a mark is in its place.
    ///   Opening created nothing in its place.
    ///
    /// An error about the blob tier contains the expected and the found store id. Mount or name the
    /// right tier. If the tier is the right one, open with [`adopt_blobs`](Self::adopt_blobs).
    pub async fn open(self) -> Result<Engine> {
        // An invalid configuration fails before anything on disk is touched.
        self.config.check()?;
        let env = self.env.map_or_else(Env::real, Ok)?;
        let is_embedded = matches!(self.index, IndexChoice::Embedded);
        let index: Arc<dyn Index> = match self.index {
            IndexChoice::Given(index) => index,
            // Before the index is opened: that would join it as a member, and create its tables.
            #[cfg(feature = "postgres")]
            IndexChoice::Postgres(_) if self.is_read_only => return Err(read_only::not_shared()),
            #[cfg(feature = "postgres")]
            IndexChoice::Postgres(shared) => Arc::new(shared.open(&env, &self.config).await?),
            IndexChoice::Embedded if self.is_read_only => {
                let views = self.views.unwrap_or_else(std::env::temp_dir);
                Arc::new(
                    read_only::open_view(&self.data.join("index"), &views, &env, &self.config)
                        .await?,
                )
            }
            IndexChoice::Embedded => {
                Arc::new(open_index(&self.data.join("index"), &env, &self.config).await?)
            }
        };
        let current = self
            .blobs
            .unwrap_or_else(|| TierPlace::Directory(self.data.join("blobs")));
        let places = TierPlaces {
            current,
            older: self.older_blobs,
            on_new: self.on_new_tier,
        };
        let claim = TierClaim {
            index: Arc::clone(&index),
            env,
            options: self.config.blobs.clone(),
            timeout: self.config.limits.sweep.timeout,
            adopt: self.adopt,
            lease: lease_times(&self.config),
            has_begun: Arc::default(),
        };
        // The location of a caller's own index is unknown, so blobs can't share a disk with it.
        let index_path = is_embedded.then(|| self.data.join("index"));
        let started = if self.is_read_only {
            read_only::start(&self.config, claim, places, self.fallback).await
        } else {
            let index_path = index_path.as_deref();
            start(&self.config, claim, places, index_path, self.fallback).await
        };
        match started {
            Ok(engine) => Ok(engine),
            Err(error) => {
                // A failed open must release the index, so that the next attempt can open it. The
                // error of this close is dropped, because it would hide the first error.
                drop(index.close().await);
                Err(error)
            }
        }
    }
}

async fn open_index(path: &Path, env: &Env, config: &Config) -> Result<FjallIndex> {
    let dir = path.to_owned();
    let options = config.index;
    open_when_free(path, env, move |env| FjallIndex::open(&dir, env, options)).await
}

async fn start(
    config: &Config,
    claim: TierClaim,
    places: TierPlaces,
    index_path: Option<&Path>,
    fallback: FallbackChoice,
) -> Result<Engine> {
    check_members(&*claim.index, config)?;
    let env = env_of(&*claim.index, claim.env.clone()).await?;
    let claim = TierClaim { env, ..claim };
    let TierClaim { index, env, .. } = claim.clone();
    // The blob tier is claimed before the epoch begins: a refused tier must leave no trace.
    let begin = async {
        let blobs = claim.take_all(places).await?;
        let lease = (&env, claim.lease);
        let fallback = attach(&index, fallback.source, fallback.is_lost, lease).await?;
        let epoch = match index.shared() {
            Some(shared) => shared.epoch(),
            None => begin_epoch(&index).await?,
        };
        Ok((blobs, fallback, epoch))
    };
    let (blobs, fallback, epoch) = watched(&index, &env, config.limits.heartbeat, begin).await?;
    if let Some(path) = index_path {
        // Blobs stop growing before they use the space that the index still needs. `room` is asked
        // with half of the bytes, because it reserves twice its argument: the index writes
        // everything twice, but a blob is written once.
        blobs.share_disk(path, || {
            let index = Arc::clone(&index);
            Box::new(move |bytes| index.room(bytes / 2))
        });
    }
    // Reads and actors share the pins: the sweeper must not delete a blob that a read has open.
    let pins = Pins::new();
    let tiers = (&index, &blobs);
    let (reads, namespaces) = reads_and_namespaces(config, tiers, &pins, &env, fallback.as_ref())?;
    let options = StartOptions {
        index: Arc::clone(&index),
        blobs,
        env: env.clone(),
        pins,
        epoch,
        limits: config.limits.clone(),
        fallback: fallback_options(config, fallback),
    };
    let tiered = Tiered::start(options).await?;
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
