//! [`Builder`]: how an engine is opened.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_actors::{Namespaces, Tiered};
use cenotaph_storage::blobs::{self, BlobTier};
use cenotaph_storage::index::Index;
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_storage::rows::begin_epoch;
use cenotaph_storage::{Env, Pins, Reads, Result};
use opendal::Operator;

use crate::config::Config;
use crate::engine::{Engine, Parts};
use crate::namespaces::configured;

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
    blobs: Option<Operator>,
    index: Option<Arc<dyn Index>>,
    env: Option<Env>,
}

impl Builder {
    pub(crate) fn new(data: PathBuf) -> Self {
        Self { data, config: Config::default(), blobs: None, index: None, env: None }
    }

    /// Keeps large objects in this blob tier instead of `blobs` under the data directory. It must be used by this
    /// engine alone, and be the same at every open. Retries, timeouts and tracing are yours to layer onto it.
    pub fn blobs(mut self, operator: Operator) -> Self {
        self.blobs = Some(operator);
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

    /// Another world than the real one: for simulations and tests.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Opens the engine, creating what is not there yet. Settles what earlier incarnations left behind; deleting their
    /// orphans goes on afterwards. Takes time in proportion to unsettled changes, not to objects.
    ///
    /// # Errors
    /// - [`AlreadyOpen`](crate::ErrorKind::AlreadyOpen): another engine, in this process or another, has this index
    ///   open.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): the index is damaged. Nothing was touched.
    /// - [`UnknownFormat`](crate::ErrorKind::UnknownFormat): a later build wrote it.
    /// - [`Invalid`](crate::ErrorKind::Invalid): a setting is out of bounds, the directory holds something else, or
    ///   this is no tokio runtime.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): the disk can't be read or written.
    pub async fn open(self) -> Result<Engine> {
        self.config.check()?;
        let env = self.env.map_or_else(Env::real, Ok)?;
        let is_own_index = self.index.is_none();
        let index = match self.index {
            Some(index) => index,
            None => {
                let (path, opener, options) = (self.data.join("index"), env.clone(), self.config.index);
                Arc::new(env.blocking(move || FjallIndex::open(&path, opener, options)).await??)
            }
        };
        let index_path = self.data.join("index");
        let operator = match self.blobs {
            Some(operator) => operator,
            None => {
                let path = self.data.join("blobs");
                env.blocking(move || blobs::local(&path)).await??
            }
        };
        let shares_disk = is_own_index && blobs::is_on_disk_of(&operator, &index_path);
        match start(&self.config, Arc::clone(&index), (operator, shares_disk), env).await {
            Ok(engine) => Ok(engine),
            Err(error) => {
                // Whoever tries again must find the index free. Its own failure would hide the first one.
                drop(index.close().await);
                Err(error)
            }
        }
    }
}

/// What `work` gives, while somebody looks after overdue commits: nobody else does before there are actors.
async fn watched<T>(index: &Arc<dyn Index>, env: &Env, heartbeat: Duration, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        match env.deadline(heartbeat, work.as_mut()).await {
            Some(value) => return value,
            None => index.watch(env.monotonic()),
        }
    }
}

async fn start(
    config: &Config,
    index: Arc<dyn Index>,
    (operator, shares_disk): (Operator, bool),
    env: Env,
) -> Result<Engine> {
    let epoch = watched(&index, &env, config.limits.heartbeat, begin_epoch(&index)).await?;
    let mut blobs = BlobTier::new(operator, env.clone(), config.blobs.clone());
    if shares_disk {
        let index = Arc::clone(&index);
        // Blobs end before they take what the index still needs.
        // The index asks for twice as much as it is to store, for it writes everything twice; blobs are written once.
        blobs = blobs.with_room(Box::new(move |bytes| index.room(bytes / 2)));
    }
    let pins = Pins::new();
    let reads = Reads::new(Arc::clone(&index), blobs.clone(), pins.clone(), env.clone(), config.reads.clone());
    let namespaces = Namespaces::new(env.clone());
    for (namespace, limits) in configured(&config.namespaces)? {
        namespaces.set(&namespace, limits)?;
    }
    let tiered = Tiered::start(Arc::clone(&index), blobs, env.clone(), pins, epoch, config.limits.clone()).await?;
    Ok(Engine::assemble(Parts { config: config.clone(), env, index, reads, tiered, namespaces, epoch }))
}
