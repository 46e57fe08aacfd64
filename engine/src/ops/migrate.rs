//! [`Engine::migrate`]: moves everything from the fallback into the store, then seals it.
//!
//! ```text
//! pass ──> namespace by namespace, page by page
//!            list a page ──> move its objects, several at once ──> record cursor and counts, durable
//!      ──> end of the source: nothing failed   verify, seal
//!                             otherwise        the next pass, from the beginning
//! ```
//!
//! The future may be dropped at any time. The next migration continues at the recorded cursor, and
//! finds that the objects of a page that was not recorded are in the store already.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use cenotaph_storage::fallback::RemovableSource;
use cenotaph_storage::records::{FallbackRecord, FallbackState, MigrationProgress};
use cenotaph_storage::{Error, ErrorKind, Result};
use futures::future::BoxFuture;

use crate::engine::Engine;
use crate::observe::{observed, operation_span};

mod object;
mod pass;

use pass::Migration;

/// Settings of a migration.
#[derive(Clone)]
pub(crate) struct MigrationOptions {
    pub(crate) objects_at_once: usize,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) passes_max: u64,
    pub(crate) verify: bool,
    pub(crate) dry_run: bool,
    pub(crate) may_be_empty: bool,
    pub(crate) may_skip_names: bool,
    pub(crate) removal: Option<Arc<dyn RemovableSource>>,
}

impl Default for MigrationOptions {
    fn default() -> Self {
        Self {
            objects_at_once: 8,
            bytes_per_second: None,
            passes_max: 3,
            verify: false,
            dry_run: false,
            may_be_empty: false,
            may_skip_names: false,
            removal: None,
        }
    }
}

/// Object that could not be moved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MigrationFailure {
    /// Key of the object in the source, with its namespace.
    pub object: String,
    /// Error of the move.
    pub error: Error,
}

/// Result of a [`Migrate`], or its progress so far.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MigrationReport {
    /// Passes over the source that this migration has begun or continued.
    pub passes: u64,
    /// Objects that this migration moved. In a dry run, the objects that it would move.
    pub moved: u64,
    /// Objects of the last pass that needed no move: the store has or had them, or they have
    /// expired.
    pub kept: u64,
    /// Objects of the last pass that could not be moved.
    pub failed: u64,
    /// Payload bytes of the moved objects.
    pub bytes: u64,
    /// Names of the source in the last pass that can't be objects, at most 100 per page.
    pub skipped: u64,
    /// The first 100 failures of the last pass.
    pub failures: Vec<MigrationFailure>,
    /// True if the fallback is sealed: everything is in the store, and the fallback is never read
    /// again.
    pub is_sealed: bool,
}

/// Receiver of the progress of a migration.
type Listener = Arc<dyn Fn(&MigrationReport) + Send + Sync>;

/// Builder of a migration. `.await` it to run the migration. See [`Engine::migrate`].
#[must_use = "a migration does nothing until it is awaited"]
pub struct Migrate {
    engine: Engine,
    options: MigrationOptions,
    listener: Option<Listener>,
}

impl Migrate {
    /// Sets the number of objects that are moved concurrently. 8 by default. The share of bulk work
    /// in the budgets of the engine bounds it, too.
    pub fn objects_at_once(mut self, objects: usize) -> Self {
        self.options.objects_at_once = objects.max(1);
        self
    }

    /// Limits the payload bytes that are moved per second. Unlimited by default.
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.options.bytes_per_second = Some(bytes.max(1));
        self
    }

    /// Sets the number of passes after which the migration gives up, if objects fail in each. 3 by
    /// default.
    pub fn passes_max(mut self, passes: u64) -> Self {
        self.options.passes_max = passes.max(1);
        self
    }

    /// Reads every moved object back from the store and verifies its checksums before it counts as
    /// moved.
    pub fn verify(mut self) -> Self {
        self.options.verify = true;
        self
    }

    /// Counts the objects that would be moved, moves none, records nothing and does not seal.
    pub fn dry_run(mut self) -> Self {
        self.options.dry_run = true;
        self
    }

    /// Permits to seal a source in which no object was found. Without this a directory whose mount
    /// is missing could be taken for a source that is moved completely.
    pub fn allow_empty(mut self) -> Self {
        self.options.may_be_empty = true;
        self
    }

    /// Permits to seal although the source has names that can't be objects, such as names that are
    /// not UTF-8. They stay in the source.
    pub fn skip_unnameable(mut self) -> Self {
        self.options.may_skip_names = true;
        self
    }

    /// Deletes each moved object from the source, once its copy is durable and was
    /// [verified](Self::verify). `source` must be the source of the fallback.
    ///
    /// **A deleted source can't be served again without this store.**
    pub fn delete_moved_from(self, source: impl RemovableSource) -> Self {
        self.delete_moved_from_shared(Arc::new(source))
    }

    /// As [`delete_moved_from`](Self::delete_moved_from), for a source that the caller also uses.
    pub fn delete_moved_from_shared(mut self, source: Arc<dyn RemovableSource>) -> Self {
        self.options.removal = Some(source);
        self
    }

    /// Calls `listener` after each page with the progress so far. The listener must not block.
    pub fn on_progress(
        mut self,
        listener: impl Fn(&MigrationReport) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    async fn run(self) -> Result<MigrationReport> {
        let Self {
            engine,
            options,
            listener,
        } = self;
        engine.check_open("migrate")?;
        let is_dry_run = options.dry_run;
        // A dry run writes nothing, and works on a read-only engine, too.
        let running = match is_dry_run {
            true => None,
            false => Some(engine.tiered().begin_migration()?),
        };
        let fallback = engine.reads().fallback().cloned();
        let record = match FallbackRecord::read(&**engine.index()).await? {
            Some(record) => record,
            // The first opening of a read-only engine over a fallback records nothing.
            None => match &fallback {
                Some(fallback) => FallbackRecord::open(fallback.describe()),
                None => return Err(invalid("the store was never opened over a fallback")),
            },
        };
        match record.state {
            FallbackState::Open => {}
            FallbackState::Sealed => {
                return Ok(MigrationReport {
                    is_sealed: true,
                    ..MigrationReport::default()
                });
            }
            FallbackState::Lost => return Err(invalid("the fallback was declared lost")),
        }
        let fallback = engine.reads().fallback().cloned();
        let fallback =
            fallback.ok_or_else(|| invalid("the engine is open without the fallback"))?;
        let mut migration = Migration {
            engine,
            running,
            fallback,
            record,
            options,
            listener,
            report: MigrationReport::default(),
        };
        migration.run().await?;
        Ok(migration.report)
    }
}

impl fmt::Debug for Migrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrate").finish_non_exhaustive()
    }
}

impl IntoFuture for Migrate {
    type Output = Result<MigrationReport>;
    type IntoFuture = BoxFuture<'static, Result<MigrationReport>>;

    fn into_future(self) -> Self::IntoFuture {
        let engine = self.engine.clone();
        let span = operation_span!("migrate");
        observed(engine, "migrate", span, self.run())
    }
}

impl Engine {
    /// Moves every object that only the fallback has into the store, with its attributes, times and
    /// deadline, then seals the fallback: from then on it is never read.
    ///
    /// Reads and writes continue meanwhile, and objects of the store always win. The migration is
    /// bulk work and uses only a share of each budget. Its progress is durable: if the future is
    /// dropped or the process dies, the next migration continues. A pass in which an object failed
    /// is followed by another one, and only a complete pass without failures seals.
    ///
    /// Returns a report with `is_sealed == false` if objects failed in the last pass.
    ///
    /// # Errors
    /// - [`Invalid`](ErrorKind::Invalid): the store has no open fallback, the engine is read-only,
    ///   or another migration is running.
    /// - The errors of listing the fallback. Nothing is sealed.
    /// - The errors of [`put`](Self::put) if the engine can't write.
    ///
    /// ```
    /// use cenotaph::{Engine, Operator, OperatorFallback};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let old_files = directory.path().join("old");
    /// # std::fs::create_dir(&old_files)?;
    /// # std::fs::write(old_files.join("a.txt"), "hello")?;
    /// let root = old_files.to_str().ok_or("the path is not UTF-8")?;
    /// let old = Operator::new(opendal::services::Fs::default().root(root))?;
    /// let engine = Engine::builder(directory.path().join("store"))
    ///     .fallback(OperatorFallback::new(old))
    ///     .open()
    ///     .await?;
    /// let report = engine.migrate().await?;
    /// assert!(report.is_sealed && report.moved == 1);
    /// # engine.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn migrate(&self) -> Migrate {
        Migrate {
            engine: self.clone(),
            options: MigrationOptions::default(),
            listener: None,
        }
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, "migrate", message)
}

/// State of the fallback of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FallbackStatus {
    /// Description of the source, without secrets.
    pub description: String,
    /// State of the adoption.
    pub state: FallbackState,
    /// Recorded progress of the migration.
    pub migration: MigrationProgress,
}

impl Engine {
    /// Returns the recorded state of the fallback, or `None` if the store was never opened over
    /// one.
    ///
    /// # Errors
    /// Those of reading the index.
    pub async fn fallback_status(&self) -> Result<Option<FallbackStatus>> {
        self.check_open("stats")?;
        let record = FallbackRecord::read(&**self.index()).await?;
        Ok(record.map(|record| FallbackStatus {
            description: record.description,
            state: record.state,
            migration: record.migration,
        }))
    }
}
